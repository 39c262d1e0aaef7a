package schema

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/bitutil"
)

// encode appends value i of s.
func (r *ArrowRows) encode(dst []byte, s *source, i int) ([]byte, bool) {
	if s.kind == 0 {
		return append(dst, s.datum...), true
	}
	null := s.null(i)
	for !null && s.id == arrow.DICTIONARY {
		j, ok := s.integer(i)
		if !ok || j < 0 || len(s.parts) == 0 || j >= int64(s.parts[0].n) {
			return r.damaged(dst, s, "a dictionary index out of bounds")
		}
		s, i = &s.parts[0], int(j)
		null = s.null(i)
	}
	if null {
		if !s.nullable {
			return r.reject(dst, s, "null")
		}
		return append(dst, 0), true
	}
	if s.nullable {
		dst = append(dst, 2)
	}
	switch s.kind {
	case Byte, Short, Integer, Long:
		v, ok := s.integer(i)
		if !ok || v < s.limits.least || v > s.limits.most {
			return r.reject(dst, s, s.number(i))
		}
		return appendLong(dst, v), true
	case String, Binary:
		return r.encodeBytes(dst, s, i)
	case Float, Double:
		return r.encodeFloat(dst, s, i)
	case Boolean:
		if bitutil.BitIsSet(s.raw, s.shift+i) {
			return append(dst, 1), true
		}
		return append(dst, 0), true
	case Timestamp:
		v, ok := s.micros(i)
		if !ok {
			return r.reject(dst, s, s.number(i)+" "+s.unit.String())
		}
		return appendLong(dst, v), true
	case Date:
		v, ok := s.integer(i)
		if s.value == arrow.DATE64 {
			ok = v%86_400_000 == 0
			v /= 86_400_000
		}
		if !ok || v < s.limits.least || v > s.limits.most {
			return r.reject(dst, s, s.number(i)+" ms")
		}
		return appendLong(dst, v), true
	case Decimal:
		n, ok := s.decimal(i)
		if !ok {
			return r.reject(dst, s, "a number that does not fit it")
		}
		return appendDecimal(dst, n.HighBits(), n.LowBits()), true
	case Struct:
		for k := range s.parts {
			var ok bool
			if dst, ok = r.encode(dst, &s.parts[k], i); !ok {
				return dst, false
			}
		}
		return dst, true
	}
	return r.encodeList(dst, s, i) // Array, Map
}

// encodeList appends an array or map as one block.
func (r *ArrowRows) encodeList(dst []byte, s *source, i int) ([]byte, bool) {
	from, to := s.lists.ValueOffsets(i)
	if from < 0 || to < from || to > int64(s.lists.ListValues().Len()) {
		return r.damaged(dst, s, "offsets out of bounds")
	}
	if from == to {
		return append(dst, 0), true
	}
	if s.kind == Map && !r.distinctKeys(s, from, to) {
		return dst, false
	}
	dst = appendLong(dst, to-from)
	for j := int(from); j < int(to); j++ {
		for k := range s.parts {
			var ok bool
			if dst, ok = r.encode(dst, &s.parts[k], j); !ok {
				return dst, false
			}
		}
		// Lists and dictionaries can name the same data again and again:
		// small batches make rows of any size.
		if len(dst) > r.max {
			return r.tooLarge(dst, s)
		}
	}
	return append(dst, 0), true
}

func (r *ArrowRows) encodeBytes(dst []byte, s *source, i int) ([]byte, bool) {
	v, ok := s.bytesAt(i)
	if !ok {
		return r.damaged(dst, s, "offsets out of bounds")
	}
	if s.kind == String && !utf8.Valid(v) {
		return r.reject(dst, s, "invalid UTF-8: "+strconv.Quote(excerpt(v)))
	}
	if len(dst)+len(v) > r.max {
		return r.tooLarge(dst, s)
	}
	return append(appendLong(dst, int64(len(v))), v...), true
}

func (r *ArrowRows) encodeFloat(dst []byte, s *source, i int) ([]byte, bool) {
	var v float64
	if arrow.IsInteger(s.value) {
		n, ok := s.integer(i)
		v = float64(n)
		// Up to 2^53 every integer is a double; those beyond may be one.
		if !ok || n > 1<<53 || n < -1<<53 {
			return r.reject(dst, s, s.number(i))
		}
	} else {
		v = s.float(i)
	}
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return r.reject(dst, s, strconv.FormatFloat(v, 'g', -1, 64))
	}
	if s.kind == Double {
		return binary.LittleEndian.AppendUint64(dst, math.Float64bits(v)), true
	}
	f := float32(v)
	if float64(f) != v {
		return r.reject(dst, s, strconv.FormatFloat(v, 'g', -1, 64))
	}
	return binary.LittleEndian.AppendUint32(dst, math.Float32bits(f)), true
}

// micros is value i of a timestamp column in microseconds; ok is false if
// that loses digits or overflows.
func (s *source) micros(i int) (v int64, ok bool) {
	v, _ = s.integer(i)
	factor := int64(1)
	switch s.unit {
	case arrow.Nanosecond:
		return v / 1000, v%1000 == 0
	case arrow.Millisecond:
		factor = 1000
	case arrow.Second:
		factor = 1_000_000
	}
	return v * factor, v <= math.MaxInt64/factor && v >= math.MinInt64/factor
}

// number prints value i of an integer column.
func (s *source) number(i int) string {
	v, ok := s.integer(i)
	if !ok {
		return strconv.FormatUint(uint64(v), 10)
	}
	return strconv.FormatInt(v, 10)
}

// fewKeys is the size up to which comparing all pairs is cheaper than a set.
const fewKeys = 16

// distinctKeys tells whether the keys of a map's entries [from, to) differ.
func (r *ArrowRows) distinctKeys(s *source, from, to int64) bool {
	key := &s.parts[0]
	if to-from > fewKeys {
		if r.keys == nil {
			r.keys = map[string]struct{}{}
		}
		clear(r.keys)
	}
	for i := int(from); i < int(to); i++ {
		v, ok := r.key(key, i)
		if !ok {
			return false
		}
		twice := false
		if to-from > fewKeys {
			_, twice = r.keys[string(v)]
			r.keys[string(v)] = struct{}{}
		} else {
			for j := int(from); j < i && !twice; j++ {
				o, _ := r.key(key, j)
				twice = string(o) == string(v)
			}
		}
		if twice {
			_, ok = r.reject(nil, s, "the key "+strconv.Quote(excerpt(v))+" twice")
			return ok
		}
	}
	return true
}

// key is key i of a map, through its dictionary if it has one.
func (r *ArrowRows) key(s *source, i int) ([]byte, bool) {
	for s.id == arrow.DICTIONARY && !s.null(i) {
		j, ok := s.integer(i)
		if !ok || j < 0 || len(s.parts) == 0 || j >= int64(s.parts[0].n) {
			_, ok = r.damaged(nil, s, "a dictionary index out of bounds")
			return nil, ok
		}
		s, i = &s.parts[0], int(j)
	}
	if s.null(i) {
		_, ok := r.reject(nil, s, "null")
		return nil, ok
	}
	v, ok := s.bytesAt(i)
	if !ok {
		r.damaged(nil, s, "offsets out of bounds")
	}
	return v, ok
}

// The ways in which a row fails. Each notes the error and returns false.

func (r *ArrowRows) reject(dst []byte, s *source, got string) ([]byte, bool) {
	return r.fail(dst, s, "", got)
}

func (r *ArrowRows) damaged(dst []byte, s *source, what string) ([]byte, bool) {
	return r.fail(dst, s, "", what)
}

func (r *ArrowRows) tooLarge(dst []byte, s *source) ([]byte, bool) {
	return r.fail(dst, s, "", fmt.Sprintf("more than %d bytes", r.max))
}

func (r *ArrowRows) fail(dst []byte, s *source, code, got string) ([]byte, bool) {
	r.err = fmt.Errorf("row %d field %q: expected %s, got %s", r.row, s.path, s.kind, got)
	return dst, false
}
