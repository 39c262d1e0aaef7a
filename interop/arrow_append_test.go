package interop

import (
	"fmt"
	"math/big"
	"reflect"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/decimal128"
)

// appendValue appends a field of row, or what it points to; nil is null.
func appendValue(b array.Builder, v any) {
	if p := reflect.ValueOf(v); p.Kind() == reflect.Pointer && p.IsNil() {
		b.AppendNull()
		return
	}
	switch v := v.(type) {
	case *bool:
		b.(*array.BooleanBuilder).Append(*v)
	case *int8:
		b.(*array.Int8Builder).Append(*v)
	case *int16:
		b.(*array.Int16Builder).Append(*v)
	case *int32:
		b.(*array.Int32Builder).Append(*v)
	case int64:
		b.(*array.Int64Builder).Append(v)
	case *int64:
		b.(*array.Int64Builder).Append(*v)
	case *float32:
		b.(*array.Float32Builder).Append(*v)
	case float64:
		b.(*array.Float64Builder).Append(v)
	case *float64:
		b.(*array.Float64Builder).Append(*v)
	case **big.Rat:
		b.(*array.Decimal128Builder).Append(decimal128.FromBigInt(unscaled(*v)))
	case string:
		b.(*array.StringBuilder).Append(v)
	case *string:
		b.(*array.StringBuilder).Append(*v)
	case *[]byte:
		b.(*array.BinaryBuilder).Append(*v)
	case *time.Time:
		if days, ok := b.(*array.Date32Builder); ok {
			days.Append(arrow.Date32FromTime(*v))
			return
		}
		b.(*array.TimestampBuilder).Append(arrow.Timestamp(v.UnixMicro()))
	case *[]*string:
		l := b.(*array.ListBuilder)
		l.Append(true)
		for _, word := range *v {
			appendValue(l.ValueBuilder(), word)
		}
	case *map[string]*int64:
		m := b.(*array.MapBuilder)
		m.Append(true)
		for k, count := range *v {
			appendValue(m.KeyBuilder(), k)
			appendValue(m.ItemBuilder(), count)
		}
	case *nest:
		s := b.(*array.StructBuilder)
		s.Append(true)
		appendValue(s.FieldBuilder(0), v.Label)
		l := s.FieldBuilder(1).(*array.ListBuilder)
		l.Append(true)
		for _, p := range v.Points {
			item := l.ValueBuilder().(*array.StructBuilder)
			item.Append(true)
			appendValue(item.FieldBuilder(0), p.X)
			appendValue(item.FieldBuilder(1), p.Day)
		}
	default:
		panic(fmt.Sprintf("no Arrow builder for %T", v))
	}
}

func decimalAt(a arrow.Array, i int) **big.Rat {
	if scale := a.DataType().(*arrow.Decimal128Type).Scale; scale != decimalScale {
		panic(fmt.Sprintf("the scale is %d, not %d", scale, decimalScale))
	}
	if v := value[decimal128.Num](a, i); v != nil {
		return new(scaled(v.BigInt()))
	}
	return nil
}
