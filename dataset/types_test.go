package dataset_test

import (
	"encoding/hex"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/schema"
)

// allTypes has every type, nullable and not, and nested ones.
func allTypes() *schema.Schema {
	s := &schema.Schema{}
	for k := schema.Boolean; k <= schema.Timestamp; k++ {
		if k == schema.Decimal {
			for _, p := range []int{5, 9, 12, 18, 24, 38} {
				s.Fields = append(s.Fields, schema.Field{Name: fmt.Sprintf("decimal%d", p), Nullable: true, Type: schema.Type{Kind: k, Precision: p, Scale: 3}})
			}
			continue
		}
		s.Fields = append(s.Fields,
			schema.Field{Name: strings.ToLower(k.String()), Nullable: true, Type: schema.Type{Kind: k}},
			schema.Field{Name: strings.ToLower(k.String()) + "_required", Type: schema.Type{Kind: k}})
	}
	element := func(t schema.Type) *schema.Field { return &schema.Field{Name: "element", Nullable: true, Type: t} }
	value := func(t schema.Type) *schema.Field { return &schema.Field{Name: "value", Nullable: true, Type: t} }
	s.Fields = append(s.Fields,
		schema.Field{Name: "list", Nullable: true, Type: schema.Type{Kind: schema.Array, Element: element(schema.Type{Kind: schema.String})}},
		schema.Field{Name: "map", Nullable: true, Type: schema.Type{Kind: schema.Map, Value: value(schema.Type{Kind: schema.Decimal, Precision: 20, Scale: 2})}},
		schema.Field{Name: "struct", Nullable: true, Type: schema.Type{Kind: schema.Struct, Fields: []schema.Field{
			{Name: "a", Nullable: true, Type: schema.Type{Kind: schema.Integer}},
			{Name: "deep", Nullable: true, Type: schema.Type{Kind: schema.Struct, Fields: []schema.Field{
				{Name: "s", Nullable: true, Type: schema.Type{Kind: schema.String}},
				{Name: "list", Nullable: true, Type: schema.Type{Kind: schema.Array, Element: element(schema.Type{Kind: schema.Struct, Fields: []schema.Field{
					{Name: "x", Nullable: true, Type: schema.Type{Kind: schema.Double}},
					{Name: "when", Nullable: true, Type: schema.Type{Kind: schema.Timestamp}},
				}})}},
			}}},
		}}},
	)
	out, _ := s.AssignIDs(schema.FirstUserID)
	return out
}

// randomBatch has n rows of s, with offsets from first.
func randomBatch(r *rand.Rand, s *schema.Schema, first, n int) arrow.RecordBatch {
	b := array.NewRecordBuilder(memory.DefaultAllocator, s.WithSystem().Arrow())
	defer b.Release()
	for i := range n {
		for c := range s.Fields {
			appendRandom(r, b.Field(c), &s.Fields[c])
		}
		appendSystemAt(b, len(s.Fields), first+i)
	}
	return b.NewRecordBatch()
}

func appendSystemAt(b *array.RecordBuilder, column, offset int) {
	b.Field(column).(*array.Int32Builder).Append(2)
	b.Field(column + 1).(*array.Int32Builder).Append(0)
	b.Field(column + 2).(*array.Int64Builder).Append(int64(offset))
	b.Field(column + 3).(*array.TimestampBuilder).Append(arrow.Timestamp(offset))
}

func appendRandom(r *rand.Rand, b array.Builder, f *schema.Field) {
	if f.Nullable && r.IntN(4) == 0 {
		b.AppendNull()
		return
	}
	switch f.Type.Kind {
	case schema.Boolean:
		b.(*array.BooleanBuilder).Append(r.IntN(2) == 0)
	case schema.Byte:
		b.(*array.Int32Builder).Append(int32(int8(randomInt(r))))
	case schema.Short:
		b.(*array.Int32Builder).Append(int32(int16(randomInt(r))))
	case schema.Integer:
		b.(*array.Int32Builder).Append(int32(randomInt(r)))
	case schema.Long:
		b.(*array.Int64Builder).Append(randomInt(r))
	case schema.Float:
		b.(*array.Float32Builder).Append(float32(randomFloat(r)))
	case schema.Double:
		b.(*array.Float64Builder).Append(randomFloat(r))
	case schema.Decimal:
		b.(*array.Decimal128Builder).Append(randomDecimal(r, f.Type.Precision))
	case schema.String:
		b.(*array.StringBuilder).Append(randomString(r))
	case schema.Binary:
		b.(*array.BinaryBuilder).Append(randomBinary(r))
	case schema.Date:
		b.(*array.Date32Builder).Append(arrow.Date32(r.IntN(80_000) - 40_000))
	case schema.Timestamp:
		b.(*array.TimestampBuilder).Append(arrow.Timestamp(r.Int64N(4e15) - 2e15))
	case schema.Array:
		l := b.(*array.ListBuilder)
		l.Append(true)
		for range r.IntN(4) {
			appendRandom(r, l.ValueBuilder(), f.Type.Element)
		}
	case schema.Map:
		m := b.(*array.MapBuilder)
		m.Append(true)
		for i := range r.IntN(4) {
			m.KeyBuilder().(*array.StringBuilder).Append(fmt.Sprint("k", i))
			appendRandom(r, m.ItemBuilder(), f.Type.Value)
		}
	case schema.Struct:
		st := b.(*array.StructBuilder)
		st.Append(true)
		for i := range f.Type.Fields {
			appendRandom(r, st.FieldBuilder(i), &f.Type.Fields[i])
		}
	}
}

// randomInt prefers the ends.
func randomInt(r *rand.Rand) int64 {
	switch r.IntN(6) {
	case 0:
		return []int64{math.MinInt64, math.MaxInt64, math.MinInt32, math.MaxInt32, -1, 0}[r.IntN(6)]
	case 1:
		return r.Int64()
	}
	return r.Int64N(200) - 100
}

func randomFloat(r *rand.Rand) float64 {
	if r.IntN(5) == 0 {
		return []float64{math.Copysign(0, -1), 0, math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32}[r.IntN(5)]
	}
	return math.Trunc(r.NormFloat64()*1000) / 8
}

func randomDecimal(r *rand.Rand, precision int) decimal128.Num {
	limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(precision)), nil)
	v := new(big.Int)
	switch r.IntN(4) {
	case 0:
		v.Sub(limit, big.NewInt(1))
	case 1:
		v.SetInt64(r.Int64N(1000))
	default:
		for range precision {
			v.Add(v.Mul(v, big.NewInt(10)), big.NewInt(r.Int64N(10)))
		}
	}
	if r.IntN(2) == 0 {
		v.Neg(v)
	}
	return decimal128.FromBigInt(v)
}

// randomString shares long beginnings and has characters where counting up
// is hard.
func randomString(r *rand.Rand) string {
	hard := []rune{'a', 'z', 0x7f, 'é', 0xd7ff, 0xe000, 0xffff, 0x10ffff, '\'', '語'}
	var b strings.Builder
	if r.IntN(2) == 0 {
		b.WriteString(strings.Repeat(string(hard[r.IntN(len(hard))]), 15))
	}
	for range r.IntN(6) {
		b.WriteRune(hard[r.IntN(len(hard))])
	}
	if r.IntN(30) == 0 {
		b.WriteString(strings.Repeat("long", 400)) // above what footers hold
	}
	return b.String()
}

func randomBinary(r *rand.Rand) []byte {
	b := []byte{}
	if r.IntN(2) == 0 {
		fill := []byte{0xff, 0x00, 0x7f, 0x80}[r.IntN(4)]
		for range 16 {
			b = append(b, fill)
		}
	}
	for range r.IntN(5) {
		b = append(b, byte(r.Uint32()))
	}
	return b
}

// literal writes the value of a column as the where language does; ok is false
// for nulls.
func literal(k schema.Kind, a arrow.Array, i int) (string, bool) {
	if a.IsNull(i) {
		return "", false
	}
	switch a := a.(type) {
	case *array.Boolean:
		return strings.ToUpper(strconv.FormatBool(a.Value(i))), true
	case *array.Int32:
		return strconv.FormatInt(int64(a.Value(i)), 10), true
	case *array.Int64:
		return strconv.FormatInt(a.Value(i), 10), true
	case *array.Float32:
		return strconv.FormatFloat(float64(a.Value(i)), 'g', -1, 64), true
	case *array.Float64:
		return strconv.FormatFloat(a.Value(i), 'g', -1, 64), true
	case *array.Decimal128:
		return a.Value(i).ToString(a.DataType().(*arrow.Decimal128Type).Scale), true
	case *array.String:
		return "'" + strings.ReplaceAll(a.Value(i), "'", "''") + "'", true
	case *array.Binary:
		return "X'" + hex.EncodeToString(a.Value(i)) + "'", true
	case *array.Date32:
		return "'" + a.Value(i).FormattedString() + "'", true
	case *array.Timestamp:
		return "'" + a.Value(i).ToTime(arrow.Microsecond).Format(time.RFC3339Nano) + "'", true
	}
	panic(fmt.Sprintf("%s in %T", k, a))
}
