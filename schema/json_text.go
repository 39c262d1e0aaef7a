package schema

import (
	"encoding/base64"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// appendJSONString appends s, which is valid UTF-8, in quotes. Only what must
// be escaped is.
func appendJSONString[T ~string | ~[]byte](dst []byte, s T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, s[start:]...), '"')
}

// maxExactInt is the largest integer up to which every reader of JSON that
// keeps numbers as doubles is exact.
const maxExactInt = 1 << 53

// scalarForm says how a value is written as JSON.
type scalarForm struct {
	asText bool // see JSONOutOptions
	double bool // a FLOAT that is read as DOUBLE: with the digits of the latter
}

// appendJSONScalar appends the value of type t at b[i], and returns the
// position after it, or bad.
func appendJSONScalar(dst []byte, t *Type, form scalarForm, b []byte, i int) ([]byte, int) {
	switch t.Kind {
	case Boolean:
		if uint(i) >= uint(len(b)) || b[i] > 1 {
			return dst, bad
		}
		return strconv.AppendBool(dst, b[i] == 1), i + 1
	case Byte, Short, Integer, Long:
		v, next := readLong(b, i)
		lo, hi := intRange(t.Kind)
		if next < 0 || v < lo || v > hi {
			return dst, bad
		}
		if form.asText && (v > maxExactInt || v < -maxExactInt) {
			return append(strconv.AppendInt(append(dst, '"'), v, 10), '"'), next
		}
		return strconv.AppendInt(dst, v, 10), next
	case Float, Double:
		return appendJSONFloat(dst, t.Kind, form.double, b, i)
	case Decimal:
		v, next := readBytes(b, i)
		hi, lo, ok := parseDecimal(v)
		if next < 0 || !ok || !withinPrecision(hi, lo, t.Precision) {
			return dst, bad
		}
		if form.asText {
			return append(appendDecimalText(append(dst, '"'), hi, lo, t.Scale), '"'), next
		}
		return appendDecimalText(dst, hi, lo, t.Scale), next
	case String:
		v, next := readBytes(b, i)
		if next < 0 || !utf8.Valid(v) {
			return dst, bad
		}
		return appendJSONString(dst, v), next
	case Binary:
		v, next := readBytes(b, i)
		return append(base64.StdEncoding.AppendEncode(append(dst, '"'), v), '"'), next
	case Date:
		v, next := readLong(b, i)
		if next < 0 || v < math.MinInt32 || v > math.MaxInt32 {
			return dst, bad
		}
		return append(appendDate(append(dst, '"'), v), '"'), next
	case Timestamp:
		v, next := readLong(b, i)
		return append(appendTimestamp(append(dst, '"'), v), '"'), next
	}
	return dst, bad
}

func appendJSONFloat(dst []byte, k Kind, double bool, b []byte, i int) ([]byte, int) {
	size, v := 64, 0.0
	if k == Float {
		f, next := readFloat(b, i)
		v, i = float64(f), next
		if !double {
			size = 32
		}
	} else {
		v, i = readDouble(b, i)
	}
	if i < 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return dst, bad
	}
	return jsontext.AppendFloat(dst, v, size), i
}
