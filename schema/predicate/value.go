package predicate

import (
	"cmp"
	"encoding/binary"
	"math"
	"strings"

	"github.com/apache/arrow-go/v18/arrow/decimal128"

	"github.com/thermocline/thermocline/schema"
)

// Value is a value of a leaf type: a literal that was bound to a column, or a
// bound from statistics. The zero Value is no value.
type Value struct {
	class class
	i     int64
	f     float64
	d     decimal128.Num
	s     string
}

// class is what values are compared as.
type class uint8

const (
	none     class = iota
	boolean        // i is 0 or 1
	integer        // BYTE to LONG, DATE (days), TIMESTAMP (microseconds)
	floating       // FLOAT, DOUBLE
	decimal        // unscaled
	bytes          // STRING, BINARY
)

// BoolValue is a value of a BOOLEAN.
func BoolValue(v bool) Value {
	if v {
		return Value{class: boolean, i: 1}
	}
	return Value{class: boolean}
}

// IntValue is a value of a BYTE, SHORT, INTEGER or LONG, the days of a DATE, or
// the microseconds of a TIMESTAMP.
func IntValue(v int64) Value { return Value{class: integer, i: v} }

// FloatValue is a value of a FLOAT or DOUBLE. NaN is no value.
func FloatValue(v float64) Value {
	if math.IsNaN(v) {
		return Value{}
	}
	return Value{class: floating, f: v}
}

// DecimalValue is the unscaled value of a DECIMAL, in the column's scale.
func DecimalValue(unscaled decimal128.Num) Value { return Value{class: decimal, d: unscaled} }

// BytesValue is a value of a STRING or BINARY.
func BytesValue[T ~string | ~[]byte](v T) Value { return Value{class: bytes, s: string(v)} }

// IcebergValue decodes a bound of a column of type t from Iceberg's
// single-value serialization, which is also how manifests hold bounds. Bounds
// that were written before the column was widened are understood. What cannot
// be decoded is no value.
func IcebergValue(t schema.Type, b []byte) Value {
	switch t.Kind {
	case schema.Boolean:
		if len(b) == 1 {
			return BoolValue(b[0] != 0)
		}
	case schema.Byte, schema.Short, schema.Integer, schema.Long, schema.Date, schema.Timestamp:
		switch len(b) {
		case 4:
			return IntValue(int64(int32(binary.LittleEndian.Uint32(b))))
		case 8:
			return IntValue(int64(binary.LittleEndian.Uint64(b)))
		}
	case schema.Float, schema.Double:
		switch len(b) {
		case 4:
			return FloatValue(float64(math.Float32frombits(binary.LittleEndian.Uint32(b))))
		case 8:
			return FloatValue(math.Float64frombits(binary.LittleEndian.Uint64(b)))
		}
	case schema.Decimal:
		if len(b) == 0 || len(b) > 16 {
			return Value{}
		}
		hi, lo := uint64(int64(int8(b[0]))>>63), uint64(int64(int8(b[0]))>>63)
		for _, c := range b {
			hi, lo = hi<<8|lo>>56, lo<<8|uint64(c)
		}
		return DecimalValue(decimal128.New(int64(hi), lo))
	case schema.String, schema.Binary:
		return BytesValue(b)
	}
	return Value{}
}

// Int is what IntValue or BoolValue was given.
func (v Value) Int() int64 { return v.i }

// Decimal is what DecimalValue was given.
func (v Value) Decimal() decimal128.Num { return v.d }

// Text is what BytesValue was given.
func (v Value) Text() string { return v.s }

// compare is negative, 0 or positive as v is less than, equal to or greater
// than o, which must be of the same class.
func (v Value) compare(o Value) int {
	switch v.class {
	case floating:
		// Not cmp.Compare: -0 and 0 are equal, and NaN is no value.
		switch {
		case v.f < o.f:
			return -1
		case v.f > o.f:
			return 1
		}
		return 0
	case decimal:
		return v.d.Cmp(o.d)
	case bytes:
		return strings.Compare(v.s, o.s)
	}
	return cmp.Compare(v.i, o.i)
}
