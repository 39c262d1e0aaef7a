package schema

import (
	"encoding/binary"
	"math"
	"unsafe"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"
	"github.com/apache/arrow-go/v18/arrow/float16"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// source is one bound column, or a part of one: where its values lie and what
// they become. Indexes count from the array's first value; callers keep them
// below n.
type source struct {
	kind   Kind // of the target; 0: absent, datum stands for every value
	target *Field
	stored bool // ArrowOptions.ByID
	datum  []byte
	least  int64 // integers, dates, timestamps
	most   int64
	scale  decimalScale

	id      arrow.Type // of the array
	value   arrow.Type // of its values; a dictionary's indexes
	n       int
	allNull bool
	valid   []byte // validity bits; nil: every value is valid
	shift   int    // bits before the first value's in valid, and of booleans in raw
	raw     []byte // fixed width values or bits
	width   int
	unit    arrow.TimeUnit // timestamps
	start   []int32        // offsets of strings and binaries into raw,
	start64 []int64        // or of the large ones
	view    func(i int) string
	lists   array.ListLike
	parts   []source // element; key and value; fields; a dictionary's values
}

func absentSource(p *plan) source { return source{target: p.target, datum: p.datum} }

func bindSource(p *plan, a arrow.Array) (source, error) {
	if e, ok := a.(array.ExtensionArray); ok {
		return bindSource(p, e.Storage())
	}
	d := a.Data()
	s := source{
		kind: p.target.Type.Kind, target: p.target,
		id: a.DataType().ID(), n: a.Len(), shift: d.Offset(),
	}
	s.least, s.most = intRange(s.kind)
	if p.stored {
		s.stored = true
		s.least, s.most = intBounds(s.kind)
	}
	if b := d.Buffers(); len(b) > 0 && b[0] != nil && b[0].Len() > 0 {
		s.valid = b[0].Bytes()
	}
	var err error
	switch t := a.(type) {
	case *array.Null:
		s.allNull = true
	case *array.Dictionary:
		s.fixed(d, t.DataType().(*arrow.DictionaryType).IndexType)
		if t.Dictionary() != nil {
			s.parts = make([]source, 1)
			s.parts[0], err = bindSource(p, t.Dictionary())
		}
	case *array.String, *array.Binary:
		if b := d.Buffers(); s.n > 0 {
			s.start = arrow.Int32Traits.CastFromBytes(b[1].Bytes())[d.Offset() : d.Offset()+s.n+1]
			s.raw = bufferBytes(b[2])
		}
	case *array.LargeString, *array.LargeBinary:
		if b := d.Buffers(); s.n > 0 {
			s.start64 = arrow.Int64Traits.CastFromBytes(b[1].Bytes())[d.Offset() : d.Offset()+s.n+1]
			s.raw = bufferBytes(b[2])
		}
	case *array.StringView:
		s.view = t.Value
		err = t.ValidateFull()
	case *array.BinaryView:
		s.view = t.ValueString
		err = t.ValidateFull()
	case *array.Map:
		s.lists = t
		pair := t.ListValues().(*array.Struct)
		s.parts = make([]source, 2)
		if s.parts[0], err = bindSource(&p.parts[0], pair.Field(0)); err == nil {
			s.parts[1], err = bindSource(&p.parts[1], pair.Field(1))
		}
	case array.ListLike:
		s.lists = t
		s.parts = make([]source, 1)
		s.parts[0], err = bindSource(&p.parts[0], t.ListValues())
	case *array.Struct:
		err = s.bindFields(p, t)
	case *array.Boolean:
		s.raw = bufferBytes(d.Buffers()[1])
	default:
		s.fixed(d, t.DataType())
		if s.kind == Decimal {
			s.scale = newDecimalScale(t.DataType(), &p.target.Type)
		}
	}
	if err != nil {
		return s, arrowInvalid(p.path, "is malformed: %v", err)
	}
	return s, nil
}

func (s *source) bindFields(p *plan, a *array.Struct) error {
	s.parts = make([]source, len(p.parts))
	for i := range p.parts {
		part := &p.parts[i]
		if part.column < 0 {
			s.parts[i] = absentSource(part)
			continue
		}
		var err error
		if s.parts[i], err = bindSource(part, a.Field(part.column)); err != nil {
			return err
		}
	}
	return nil
}

func bufferBytes(b *memory.Buffer) []byte {
	if b == nil {
		return nil
	}
	return b.Bytes()
}

// fixed takes the values of a fixed width type.
func (s *source) fixed(d arrow.ArrayData, t arrow.DataType) {
	s.value, s.width = t.ID(), t.(arrow.FixedWidthDataType).Bytes()
	if ts, ok := t.(*arrow.TimestampType); ok {
		s.unit = ts.Unit
	}
	if b := d.Buffers()[1]; b != nil {
		s.raw = b.Bytes()[d.Offset()*s.width : (d.Offset()+s.n)*s.width]
	}
}

func (s *source) null(i int) bool {
	return s.allNull || s.valid != nil && !bitutil.BitIsSet(s.valid, s.shift+i)
}

// integer is value i of an integer column, date or timestamp, or index i of a
// dictionary; ok is false for a uint64 beyond int64.
func (s *source) integer(i int) (v int64, ok bool) {
	b := s.raw[i*s.width:]
	switch s.value {
	case arrow.INT8:
		return int64(int8(b[0])), true
	case arrow.UINT8:
		return int64(b[0]), true
	case arrow.INT16:
		return int64(int16(binary.NativeEndian.Uint16(b))), true
	case arrow.UINT16:
		return int64(binary.NativeEndian.Uint16(b)), true
	case arrow.INT32, arrow.DATE32:
		return int64(int32(binary.NativeEndian.Uint32(b))), true
	case arrow.UINT32:
		return int64(binary.NativeEndian.Uint32(b)), true
	case arrow.UINT64:
		u := binary.NativeEndian.Uint64(b)
		return int64(u), u <= math.MaxInt64
	}
	return int64(binary.NativeEndian.Uint64(b)), true // INT64, DATE64, TIMESTAMP
}

// float is value i of a float column.
func (s *source) float(i int) float64 {
	b := s.raw[i*s.width:]
	switch s.value {
	case arrow.FLOAT16:
		return float64(float16.FromBits(binary.NativeEndian.Uint16(b)).Float32())
	case arrow.FLOAT32:
		return float64(math.Float32frombits(binary.NativeEndian.Uint32(b)))
	}
	return math.Float64frombits(binary.NativeEndian.Uint64(b))
}

// bytesAt is value i of a string or binary column; ok is false when offsets
// point outside the data.
func (s *source) bytesAt(i int) (v []byte, ok bool) {
	var from, to int64
	switch {
	case s.start != nil:
		from, to = int64(s.start[i]), int64(s.start[i+1])
	case s.start64 != nil:
		from, to = s.start64[i], s.start64[i+1]
	case s.view != nil:
		v := s.view(i)
		return unsafe.Slice(unsafe.StringData(v), len(v)), true
	default: // FIXED_SIZE_BINARY
		from, to = int64(i*s.width), int64((i+1)*s.width)
	}
	if from < 0 || to < from || to > int64(len(s.raw)) {
		return nil, false
	}
	return s.raw[from:to], true
}
