package verify

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/big"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/schema"
)

// columnBounds are the bounds that a manifest gives of the user's columns. Readers
// skip a file whose bounds exclude what they look for: a row outside of them is a
// row that such reads lose.
type columnBounds []columnBound

// columnBound is one column's.
type columnBound struct {
	name string
	path []int // of the column, and of the fields of structs below it
	// misses tells whether a value that is not null lies outside.
	misses func(a arrow.Array, i int) bool
}

func newColumnBounds(f dataset.FileInfo, s *schema.Schema) columnBounds {
	var b columnBounds
	b.add(f, s.Fields, "", nil)
	return b
}

func (b *columnBounds) add(f dataset.FileInfo, fields []schema.Field, prefix string, path []int) {
	for i := range fields {
		field := &fields[i]
		if path == nil && schema.IsSystemID(field.ID) {
			continue // rowBounds has them
		}
		at := append(append([]int{}, path...), i)
		if field.Type.Kind == schema.Struct {
			b.add(f, field.Type.Fields, prefix+field.Name+".", at)
			continue
		}
		if misses := outsideOf(field.Type.Kind, f.Lower[field.ID], f.Upper[field.ID]); misses != nil {
			*b = append(*b, columnBound{prefix + field.Name, at, misses})
		}
	}
}

// outsideOf compares with bounds in Iceberg's single-value form; nil where there are
// none. A column that was widened since has bounds of the narrower type.
func outsideOf(k schema.Kind, lower, upper []byte) func(arrow.Array, int) bool {
	if lower == nil || upper == nil {
		return nil
	}
	switch k {
	case schema.Byte, schema.Short, schema.Integer, schema.Long, schema.Date, schema.Timestamp:
		lo, ok1 := wholeBound(lower)
		hi, ok2 := wholeBound(upper)
		if !ok1 || !ok2 {
			return nil
		}
		return func(a arrow.Array, i int) bool {
			x, ok := whole(a, i)
			return ok && (x < lo || x > hi)
		}
	case schema.Float, schema.Double:
		lo, ok1 := floatBound(lower)
		hi, ok2 := floatBound(upper)
		if !ok1 || !ok2 {
			return nil
		}
		return func(a arrow.Array, i int) bool {
			switch a := a.(type) {
			case *array.Float32:
				return float64(a.Value(i)) < lo || float64(a.Value(i)) > hi
			case *array.Float64:
				return a.Value(i) < lo || a.Value(i) > hi
			}
			return false
		}
	case schema.Decimal:
		lo, hi := decimalBound(lower), decimalBound(upper)
		return func(a arrow.Array, i int) bool {
			d, ok := a.(*array.Decimal128)
			return ok && (d.Value(i).Cmp(lo) < 0 || d.Value(i).Cmp(hi) > 0)
		}
	case schema.String, schema.Binary:
		return func(a arrow.Array, i int) bool {
			var v []byte
			switch a := a.(type) {
			case array.StringLike:
				v = []byte(a.Value(i))
			case *array.Binary:
				v = a.Value(i)
			case *array.LargeBinary:
				v = a.Value(i)
			default:
				return false
			}
			return bytes.Compare(v, lower) < 0 || bytes.Compare(v, upper) > 0
		}
	}
	return nil
}

func wholeBound(b []byte) (int64, bool) {
	switch len(b) {
	case 4:
		return int64(int32(binary.LittleEndian.Uint32(b))), true
	case 8:
		return int64(binary.LittleEndian.Uint64(b)), true
	}
	return 0, false
}

func floatBound(b []byte) (float64, bool) {
	switch len(b) {
	case 4:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), true
	case 8:
		return math.Float64frombits(binary.LittleEndian.Uint64(b)), true
	}
	return 0, false
}

// decimalBound reads two's complement, big-endian.
func decimalBound(b []byte) decimal128.Num {
	n := new(big.Int).SetBytes(b)
	if len(b) > 0 && b[0]&0x80 != 0 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	if n.BitLen() > 127 {
		return decimal128.Num{}
	}
	return decimal128.FromBigInt(n)
}

// whole is the value of an integer, date or timestamp column.
func whole(a arrow.Array, i int) (int64, bool) {
	switch a := a.(type) {
	case *array.Int8:
		return int64(a.Value(i)), true
	case *array.Int16:
		return int64(a.Value(i)), true
	case *array.Int32:
		return int64(a.Value(i)), true
	case *array.Int64:
		return a.Value(i), true
	case *array.Date32:
		return int64(a.Value(i)), true
	case *array.Timestamp:
		return int64(a.Value(i)), true
	}
	return 0, false
}

// check tells the rows of a batch that lie outside.
func (b columnBounds) check(rows arrow.RecordBatch, tell func(row int, why string)) {
	for _, c := range b {
		var parents []arrow.Array
		a := rows.Column(c.path[0])
		for _, i := range c.path[1:] {
			s, ok := a.(*array.Struct)
			if !ok {
				a = nil
				break
			}
			parents = append(parents, a)
			a = s.Field(i)
		}
		if a == nil {
			continue
		}
	next:
		for i := range int(rows.NumRows()) {
			if a.IsNull(i) {
				continue
			}
			for _, p := range parents {
				if p.IsNull(i) {
					continue next
				}
			}
			if c.misses(a, i) {
				tell(i, fmt.Sprintf("its %s, %s, is outside of the manifest's bounds, so that reads with a predicate skip it", c.name, clip(a.ValueStr(i))))
			}
		}
	}
}
