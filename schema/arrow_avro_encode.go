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

func (r *ArrowRows) encodeFields(dst []byte, fields []source, i int) ([]byte, bool) {
	for k := range fields {
		var ok bool
		if dst, ok = r.encode(dst, &fields[k], i); !ok {
			r.err = r.err.in(fields[k].target.Name)
			return dst, false
		}
	}
	return dst, true
}

// encode appends value i of s.
func (r *ArrowRows) encode(dst []byte, s *source, i int) ([]byte, bool) {
	if s.kind == 0 {
		return append(dst, s.datum...), true
	}
	s, i, ok := r.dereference(s, i)
	if !ok {
		return dst, false
	}
	if s.null(i) {
		if !s.target.Nullable {
			return dst, r.fail(s, CodeNull, "null")
		}
		return append(dst, 0), true
	}
	if s.target.Nullable {
		dst = append(dst, 2)
	}
	switch s.kind {
	case Byte, Short, Integer, Long:
		v, ok := s.integer(i)
		if !ok || v < s.least || v > s.most {
			return dst, r.fail(s, CodeOutOfRange, s.number(i))
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
	case Date, Timestamp:
		v, fault := s.time(i)
		if fault == fits && (v < s.least || v > s.most) {
			fault = outOfRange
		}
		if fault != fits {
			return dst, r.fail(s, faultCode(fault), s.number(i)+" "+s.timeUnit()+" since 1970")
		}
		return appendLong(dst, v), true
	case Decimal:
		n, fault := s.decimal(i)
		if fault != fits {
			return dst, r.fail(s, faultCode(fault), s.decimalText(i))
		}
		return appendDecimal(dst, n.HighBits(), n.LowBits()), true
	case Struct:
		return r.encodeFields(dst, s.parts, i)
	}
	return r.encodeList(dst, s, i) // Array, Map
}

// dereference follows dictionaries to where value i really is. A null on the
// way stays a null.
func (r *ArrowRows) dereference(s *source, i int) (*source, int, bool) {
	for s.id == arrow.DICTIONARY && !s.null(i) {
		j, ok := s.integer(i)
		if !ok || j < 0 || len(s.parts) == 0 || j >= int64(s.parts[0].n) {
			return s, i, r.fail(s, CodeWrongType, "a dictionary index out of bounds")
		}
		s, i = &s.parts[0], int(j)
	}
	return s, i, true
}

// encodeList appends an array or map as one block.
func (r *ArrowRows) encodeList(dst []byte, s *source, i int) ([]byte, bool) {
	from, to := s.lists.ValueOffsets(i)
	if from < 0 || to < from || to > int64(s.lists.ListValues().Len()) {
		return dst, r.fail(s, CodeWrongType, "offsets that point outside the data")
	}
	if from == to {
		return append(dst, 0), true
	}
	if s.kind == Map && !r.distinctKeys(s, int(from), int(to)) {
		return dst, false
	}
	dst = appendLong(dst, to-from)
	for j := int(from); j < int(to); j++ {
		for k := range s.parts {
			var ok bool
			if dst, ok = r.encode(dst, &s.parts[k], j); !ok {
				r.err = r.err.in(r.step(s, j-int(from), j))
				return dst, false
			}
		}
		// Lists and dictionaries can name the same data again and again:
		// small batches could make rows of any size.
		if len(dst) > r.max {
			return dst, r.tooLarge()
		}
	}
	return append(dst, 0), true
}

// step names an element or entry in a path: [3], ["key"].
func (r *ArrowRows) step(s *source, index, at int) string {
	if s.kind == Map {
		failed := r.err
		k, ok := r.key(s, at)
		r.err = failed
		if ok {
			return "[" + strconv.Quote(excerpt(k)) + "]"
		}
	}
	return "[" + strconv.Itoa(index) + "]"
}

func (r *ArrowRows) encodeBytes(dst []byte, s *source, i int) ([]byte, bool) {
	v, ok := s.bytesAt(i)
	if !ok {
		return dst, r.fail(s, CodeWrongType, "offsets that point outside the data")
	}
	if s.kind == String && !utf8.Valid(v) {
		return dst, r.fail(s, CodeWrongType, "invalid UTF-8: "+strconv.Quote(excerpt(v)))
	}
	if len(v) > r.max-len(dst) {
		return dst, r.tooLarge()
	}
	return append(appendLong(dst, int64(len(v))), v...), true
}

func (r *ArrowRows) encodeFloat(dst []byte, s *source, i int) ([]byte, bool) {
	var v float64
	if arrow.IsInteger(s.value) {
		n, ok := s.integer(i)
		// Up to 2^53 every integer is a double; of those beyond, some are.
		if !ok || n > 1<<53 || n < -1<<53 {
			return dst, r.fail(s, CodeLossy, s.number(i))
		}
		v = float64(n)
	} else {
		v = s.float(i)
	}
	f := float32(v)
	infinite := math.IsInf(v, 0) || math.IsNaN(v)
	code := ""
	switch {
	case infinite && !s.stored, !infinite && s.kind == Float && math.IsInf(float64(f), 0):
		code = CodeOutOfRange
	case s.kind == Double:
		return binary.LittleEndian.AppendUint64(dst, math.Float64bits(v)), true
	case !infinite && float64(f) != v:
		code = CodeLossy
	default:
		return binary.LittleEndian.AppendUint32(dst, math.Float32bits(f)), true
	}
	return dst, r.fail(s, code, strconv.FormatFloat(v, 'g', -1, 64))
}

// fewKeys is the size up to which comparing all pairs is cheaper than a set.
const fewKeys = 16

// distinctKeys tells whether the keys of a map's entries [from, to) differ.
func (r *ArrowRows) distinctKeys(s *source, from, to int) bool {
	if to-from > fewKeys {
		if r.keys == nil {
			r.keys = map[string]struct{}{}
		}
		clear(r.keys)
	}
	for i := from; i < to; i++ {
		v, ok := r.key(s, i)
		if !ok {
			return false
		}
		twice := false
		if to-from > fewKeys {
			_, twice = r.keys[string(v)]
			r.keys[string(v)] = struct{}{}
		} else {
			for j := from; j < i && !twice; j++ {
				o, _ := r.key(s, j)
				twice = string(o) == string(v)
			}
		}
		if twice {
			return r.fail(s, CodeDuplicateField, "the key "+strconv.Quote(excerpt(v))+" twice")
		}
	}
	return true
}

// key is the key of entry i of a map.
func (r *ArrowRows) key(m *source, i int) ([]byte, bool) {
	s, i, ok := r.dereference(&m.parts[0], i)
	if !ok {
		return nil, false
	}
	if s.null(i) {
		return nil, r.fail(m, CodeNull, "a null key")
	}
	v, ok := s.bytesAt(i)
	if !ok {
		return nil, r.fail(m, CodeWrongType, "offsets that point outside the data")
	}
	return v, true
}

// fail notes why the row is refused, and returns false.
func (r *ArrowRows) fail(s *source, code, got string) bool {
	t := &s.target.Type
	want := t.String()
	switch t.Kind {
	case Byte, Short, Integer, Long:
		want = fmt.Sprintf("%s (an integer from %d to %d)", want, s.least, s.most)
	case Float, Double:
		want += " (a finite number)"
	case Date:
		want += " (whole days of the years 1 to 9999)"
	case Timestamp:
		want += " (whole microseconds of the years 1 to 9999)"
	}
	r.err = &RowError{Code: code, Expected: want, Got: got}
	return false
}

func (r *ArrowRows) tooLarge() bool {
	r.err = &RowError{Code: CodeTooLarge, Expected: fmt.Sprintf("a row of at most %d bytes", r.limit), Got: "a longer one"}
	return false
}

func faultCode(f numberFault) string {
	if f == lossy {
		return CodeLossy
	}
	return CodeOutOfRange
}
