package dataset

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/iceberg-go"
	"github.com/twmb/murmur3"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// rowKey turns rows into bytes that compare like the rows should: columns one
// after the other, values of a column so that bytes.Compare gives their order.
//
//	null          1 byte: 0 where nulls come first, 2 where they come last; else 1
//	numbers       8 bytes, big-endian, sign flipped; decimals 16
//	text, binary  00 as 00 FF, then 00 01
//
// In descending order the bytes behind the first are inverted.
type rowKey struct{ fields []keyField }

// keyField is a column of a key, perhaps transformed.
type keyField struct {
	path      []int // in a batch
	kind      schema.Kind
	transform schema.Transform
	width     int
	desc      bool
	nullsLast bool
}

// identityKey orders rows as their view does.
func identityKey(s *schema.Schema) (rowKey, error) {
	var k rowKey
	for _, name := range []string{schema.ViewColumn, schema.TimestampColumn, schema.PartitionColumn, schema.OffsetColumn} {
		f, at, ok := s.Lookup(name)
		if !ok {
			return k, fmt.Errorf("dataset: rows without the column %s have no order: %w", name, record.ErrInvalid)
		}
		k.fields = append(k.fields, keyField{path: at, kind: f.Type.Kind, transform: schema.Identity})
	}
	return k, nil
}

// fieldPath finds a field by its id: its indexes through structs.
func fieldPath(fields []schema.Field, id int) (*schema.Field, []int) {
	for i := range fields {
		f := &fields[i]
		if f.ID == id {
			return f, []int{i}
		}
		if f.Type.Kind == schema.Struct {
			if in, at := fieldPath(f.Type.Fields, id); in != nil {
				return in, append([]int{i}, at...)
			}
		}
	}
	return nil, nil
}

// partitionKey is the key of a layout's partitions in rows of s.
func partitionKey(s *schema.Schema, l *schema.Layout) (rowKey, error) {
	var k rowKey
	for _, p := range l.Partitioning {
		f, at := fieldPath(s.Fields, p.ID)
		if f == nil {
			return k, fmt.Errorf("dataset: the rows have no column %q (id %d), by which they are partitioned: %w", p.Path, p.ID, record.ErrInvalid)
		}
		k.fields = append(k.fields, keyField{path: at, kind: f.Type.Kind, transform: p.Transform, width: p.Width})
	}
	return k, nil
}

// sortKey is the key of a sort order in rows of s; ties are for the caller.
func sortKey(s *schema.Schema, order []schema.SortField) (rowKey, error) {
	var k rowKey
	for _, o := range order {
		f, at := fieldPath(s.Fields, o.ID)
		if f == nil {
			return k, fmt.Errorf("dataset: the rows have no column %q (id %d), by which they are sorted: %w", o.Path, o.ID, record.ErrInvalid)
		}
		k.fields = append(k.fields, keyField{path: at, kind: f.Type.Kind, transform: schema.Identity, desc: o.Descending, nullsLast: o.NullsLast})
	}
	return k, nil
}

// boundKey is a key bound to a batch.
type boundKey []boundField

type boundField struct {
	keyField
	parents []arrow.Array // structs around the column
	column  arrow.Array
	ints    []int64 // if the column is of LONG or TIMESTAMP
	small   []int32 // of INTEGER or DATE
	scratch []byte
}

// bind finds the key's columns in a batch. The bound key lives as long.
func (k rowKey) bind(b arrow.RecordBatch) (boundKey, error) {
	out := make(boundKey, len(k.fields))
	for i, f := range k.fields {
		bf := &out[i]
		bf.keyField = f
		bf.column = b.Column(f.path[0])
		for _, at := range f.path[1:] {
			s, ok := bf.column.(*array.Struct)
			if !ok {
				return nil, fmt.Errorf("dataset: column %d is %s, not a struct: %w", f.path[0], bf.column.DataType(), record.ErrInvalid)
			}
			bf.parents = append(bf.parents, s)
			bf.column = s.Field(at)
		}
		ok := true
		switch c := bf.column.(type) {
		case *array.Int32:
			bf.small = c.Int32Values()
		case *array.Date32:
			bf.small = arrow.GetData[int32](c.Data().Buffers()[1].Bytes())[c.Data().Offset() : c.Data().Offset()+c.Len()]
		case *array.Int64:
			bf.ints = c.Int64Values()
		case *array.Timestamp:
			bf.ints = arrow.GetData[int64](c.Data().Buffers()[1].Bytes())[c.Data().Offset() : c.Data().Offset()+c.Len()]
		case *array.Boolean, *array.Float32, *array.Float64, *array.Decimal128, *array.String, *array.Binary:
		default:
			ok = false
		}
		if !ok {
			return nil, fmt.Errorf("dataset: rows cannot be ordered by a column of type %s: %w", bf.column.DataType(), record.ErrInvalid)
		}
	}
	return out, nil
}

// append appends the key of a row.
func (k boundKey) append(dst []byte, row int) []byte {
	for i := range k {
		dst = k[i].append(dst, row)
	}
	return dst
}

func (f *boundField) null(row int) bool {
	for _, p := range f.parents {
		if p.IsNull(row) {
			return true
		}
	}
	return f.column.IsNull(row)
}

func (f *boundField) append(dst []byte, row int) []byte {
	if f.null(row) {
		if f.nullsLast {
			return append(dst, 2)
		}
		return append(dst, 0)
	}
	dst = append(dst, 1)
	at := len(dst)
	switch {
	case f.transform == schema.Bucket:
		dst = appendInt(dst, int64(f.bucket(row)))
	case f.kind == schema.String || f.kind == schema.Binary:
		dst = appendText(dst, f.text(row))
	case f.kind == schema.Decimal:
		d := f.decimal(row)
		dst = binary.BigEndian.AppendUint64(dst, uint64(d.HighBits())^1<<63)
		dst = binary.BigEndian.AppendUint64(dst, d.LowBits())
	case f.kind == schema.Float || f.kind == schema.Double:
		dst = appendFloat(dst, f.float(row))
	default:
		dst = appendInt(dst, f.whole(row))
	}
	if f.desc {
		for i := at; i < len(dst); i++ {
			dst[i] = ^dst[i]
		}
	}
	return dst
}

func appendInt(dst []byte, v int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(v)^1<<63)
}

// appendFloat orders -0 with 0, as predicates do.
func appendFloat(dst []byte, v float64) []byte {
	if v == 0 {
		v = 0 // not -0
	}
	b := math.Float64bits(v)
	if b>>63 == 1 {
		b = ^b
	} else {
		b |= 1 << 63
	}
	return binary.BigEndian.AppendUint64(dst, b)
}

func appendText(dst, v []byte) []byte {
	for _, c := range v {
		if dst = append(dst, c); c == 0 {
			dst = append(dst, 0xFF)
		}
	}
	return append(dst, 0, 1)
}

// raw is the untransformed value of an integer, date, timestamp or boolean.
func (f *boundField) raw(row int) int64 {
	switch {
	case f.small != nil:
		return int64(f.small[row])
	case f.ints != nil:
		return f.ints[row]
	}
	if c, ok := f.column.(*array.Boolean); ok && c.Value(row) {
		return 1
	}
	return 0
}

// whole is the transformed value where that is a whole number.
func (f *boundField) whole(row int) int64 {
	v := f.raw(row)
	switch f.transform {
	case schema.Truncate:
		return floorTo(v, int64(f.width))
	case schema.Hour:
		return floorDiv(v, 3_600_000_000)
	case schema.Day:
		return f.days(v)
	case schema.Month, schema.Year:
		y, m, _ := time.Unix(f.days(v)*86_400, 0).UTC().Date()
		if f.transform == schema.Year {
			return int64(y) - 1970
		}
		return (int64(y)-1970)*12 + int64(m) - 1
	}
	return v
}

func (f *boundField) days(v int64) int64 {
	if f.kind == schema.Date {
		return v
	}
	return floorDiv(v, 86_400_000_000)
}

func floorDiv(v, by int64) int64 {
	q := v / by
	if v%by < 0 {
		q--
	}
	return q
}

// floorTo is Iceberg's truncation, which overflows like theirs.
func floorTo(v, width int64) int64 { return v - (((v % width) + width) % width) }

func (f *boundField) float(row int) float64 {
	if c, ok := f.column.(*array.Float32); ok {
		return float64(c.Value(row))
	}
	return f.column.(*array.Float64).Value(row)
}

func (f *boundField) rawText(row int) []byte {
	if c, ok := f.column.(*array.Binary); ok {
		return c.Value(row)
	}
	f.scratch = append(f.scratch[:0], f.column.(*array.String).Value(row)...)
	return f.scratch
}

// text is the transformed value of a STRING or BINARY; it lives until the next call.
func (f *boundField) text(row int) []byte {
	v := f.rawText(row)
	if f.transform != schema.Truncate {
		return v
	}
	return truncated(f.kind, v, f.width)
}

// truncated is the beginning of a text, in characters, or of a binary, in bytes.
func truncated[T string | []byte](k schema.Kind, v T, width int) T {
	if k == schema.Binary {
		return v[:min(len(v), width)]
	}
	end := 0
	for n := 0; n < width && end < len(v); n++ {
		for end++; end < len(v) && v[end]&0xC0 == 0x80; end++ {
		}
	}
	return v[:end]
}

func (f *boundField) decimal(row int) decimal128.Num {
	d := f.column.(*array.Decimal128).Value(row)
	if f.transform != schema.Truncate {
		return d
	}
	w := decimal128.FromI64(int64(f.width))
	_, r := d.Div(w)
	if r.Sign() < 0 {
		r = r.Add(w)
	}
	return d.Sub(r)
}

// bucket is Iceberg's: the lower 31 bits of Murmur3 of the value in its
// single-value form, integers as 8 bytes, modulo the buckets.
func (f *boundField) bucket(row int) int32 {
	var h uint32
	switch f.kind {
	case schema.String, schema.Binary:
		h = murmur3.Sum32(f.rawText(row))
	case schema.Decimal:
		h = murmur3.Sum32(decimalBytes(f.column.(*array.Decimal128).Value(row)))
	default:
		h = hashInt(f.raw(row))
	}
	return bucketOf(h, f.width)
}

func bucketOf(h uint32, width int) int32 { return int32(h&math.MaxInt32) % int32(width) }

func hashInt(v int64) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(v))
	return murmur3.Sum32(b[:])
}

func decimalBytes(d decimal128.Num) []byte { return twosComplement(d.BigInt()) }

// partitionValue is the value of a partition field as manifests hold it; nil for
// null.
func (f *boundField) partitionValue(row int, result iceberg.Type) any {
	if f.null(row) {
		return nil
	}
	if f.transform == schema.Bucket {
		return f.bucket(row)
	}
	switch t := result.(type) {
	case iceberg.BooleanType:
		return f.raw(row) != 0
	case iceberg.Int32Type:
		return int32(f.whole(row))
	case iceberg.Int64Type:
		return f.whole(row)
	case iceberg.DateType:
		return iceberg.Date(f.whole(row))
	case iceberg.TimestampTzType:
		return iceberg.Timestamp(f.whole(row))
	case iceberg.DecimalType:
		return iceberg.Decimal{Val: f.decimal(row), Scale: t.Scale()}
	case iceberg.StringType:
		return string(f.text(row))
	default:
		return append([]byte{}, f.text(row)...)
	}
}
