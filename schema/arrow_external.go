package schema

import (
	"fmt"
	"math"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/record"
)

// External turns batches in storage form (Schema.Arrow) into the form that
// clients see (Schema.ArrowExternal). Only BYTE and SHORT columns are
// rebuilt; all others are shared. It is immutable and safe for concurrent use.
type External struct {
	fields []Field
	schema *arrow.Schema
	types  []arrow.DataType // nil: the column is shared
}

// NewExternal prepares the conversion of batches of s.
func NewExternal(s *Schema) *External {
	x := &External{fields: s.Fields, schema: s.ArrowExternal(), types: make([]arrow.DataType, len(s.Fields))}
	for i := range s.Fields {
		if hasNarrow(&s.Fields[i].Type) {
			x.types[i] = x.schema.Field(i).Type
		}
	}
	return x
}

// Schema is the schema of the batches that Convert returns.
func (x *External) Schema() *arrow.Schema { return x.schema }

func hasNarrow(t *Type) bool {
	switch t.Kind {
	case Byte, Short:
		return true
	case Array:
		return hasNarrow(&t.Element.Type)
	case Map:
		return hasNarrow(&t.Value.Type)
	case Struct:
		for i := range t.Fields {
			if hasNarrow(&t.Fields[i].Type) {
				return true
			}
		}
	}
	return false
}

// Convert returns rec, which must be in storage form, in external form. The
// caller releases both. A stored value that its type cannot hold is ErrCorrupt.
func (x *External) Convert(rec arrow.RecordBatch) (arrow.RecordBatch, error) {
	if int(rec.NumCols()) != len(x.types) {
		return nil, fmt.Errorf("schema: batch of %d columns does not fit a schema of %d: %w", rec.NumCols(), len(x.types), record.ErrInvalid)
	}
	cols := make([]arrow.Array, 0, len(x.types))
	defer func() {
		for _, c := range cols {
			c.Release()
		}
	}()
	for i, t := range x.types {
		c := rec.Column(i)
		if want := x.storageType(i, c); want != nil {
			return nil, fmt.Errorf("schema: column %q of the batch is %s, not %s: %w", x.fields[i].Name, c.DataType(), want, record.ErrInvalid)
		}
		if t == nil {
			c.Retain()
			cols = append(cols, c)
			continue
		}
		d, err := narrowed(x.fields[i].Name, c.Data(), t)
		if err != nil {
			return nil, err
		}
		cols = append(cols, array.MakeFromData(d))
		d.Release()
	}
	return array.NewRecordBatch(x.schema, cols, rec.NumRows()), nil
}

// storageType is nil when c has the storage type of column i, which otherwise
// it returns.
func (x *External) storageType(i int, c arrow.Array) arrow.DataType {
	if x.types[i] == nil && arrow.TypeEqual(c.DataType(), x.schema.Field(i).Type) {
		return nil
	}
	if want := arrowType(&x.fields[i].Type, false); !arrow.TypeEqual(c.DataType(), want) {
		return want
	}
	return nil
}

// narrowed copies d with every int32 that want has as int8 or int16 converted.
func narrowed(path string, d arrow.ArrayData, want arrow.DataType) (arrow.ArrayData, error) {
	switch want.ID() {
	case arrow.INT8:
		return narrowInts[int8](path, d, want, math.MinInt8, math.MaxInt8)
	case arrow.INT16:
		return narrowInts[int16](path, d, want, math.MinInt16, math.MaxInt16)
	}
	nested, ok := want.(arrow.NestedType)
	if !ok {
		d.Retain()
		return d, nil
	}
	fields := nested.Fields()
	children := make([]arrow.ArrayData, 0, len(fields))
	defer func() {
		for _, c := range children {
			c.Release()
		}
	}()
	for i, c := range d.Children() {
		n, err := narrowed(join(path, fields[i].Name), c, fields[i].Type)
		if err != nil {
			return nil, err
		}
		children = append(children, n)
	}
	return array.NewData(want, d.Len(), d.Buffers(), children, d.NullN(), d.Offset()), nil
}

func narrowInts[T int8 | int16](path string, d arrow.ArrayData, want arrow.DataType, least, most int32) (arrow.ArrayData, error) {
	src := array.NewInt32Data(d)
	defer src.Release()
	out := make([]T, d.Len())
	for i, v := range src.Int32Values() {
		if (v < least || v > most) && src.IsValid(i) {
			return nil, fmt.Errorf("schema: stored value %d of column %q does not fit %s: %w", v, path, want, record.ErrCorrupt)
		}
		out[i] = T(v)
	}
	var valid *memory.Buffer
	if src.NullN() > 0 {
		bits := make([]byte, bitutil.BytesForBits(int64(d.Len())))
		bitutil.CopyBitmap(src.NullBitmapBytes(), d.Offset(), d.Len(), bits, 0)
		valid = memory.NewBufferBytes(bits)
	}
	values := memory.NewBufferBytes(arrow.GetBytes(out))
	return array.NewData(want, d.Len(), []*memory.Buffer{valid, values}, nil, src.NullN(), 0), nil
}
