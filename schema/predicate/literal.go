package predicate

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow/decimal128"

	"github.com/thermocline/thermocline/schema"
)

// point is where a literal lies among the values of a column's type: at a
// value; between the value and the next greater one; below all (-1) or above
// all (+1) values.
type point struct {
	value   Value
	between bool
	outside int
}

// place finds the point of a literal. Texts for dates and timestamps, and
// numbers, are taken exactly as they stand; only for FLOAT and DOUBLE is the
// nearest value taken, which is also what happens to numbers in rows.
func place(t *schema.Type, l literal) (point, error) {
	want, hint := "", ""
	switch t.Kind {
	case schema.Boolean:
		if l.kind == boolLiteral {
			return point{value: BoolValue(l.text == "TRUE")}, nil
		}
		want, hint = "TRUE or FALSE", ""
	case schema.Byte, schema.Short, schema.Integer, schema.Long:
		if l.kind == numberLiteral {
			n, between, outside := scaled(l.text, 0)
			if outside == 0 && (n.HighBits() != 0 || n.LowBits() > math.MaxInt64) && (n.HighBits() != -1 || n.LowBits() <= math.MaxInt64) {
				outside = n.Sign()
			}
			return point{value: IntValue(int64(n.LowBits())), between: between, outside: outside}, nil
		}
		want = "a number"
	case schema.Decimal:
		if l.kind == numberLiteral {
			n, between, outside := scaled(l.text, t.Scale)
			return point{value: DecimalValue(n), between: between, outside: outside}, nil
		}
		want = "a number"
	case schema.Float, schema.Double:
		if l.kind == numberLiteral {
			// Beyond the type's range the result is an infinity, which compares right.
			size := map[schema.Kind]int{schema.Float: 32, schema.Double: 64}[t.Kind]
			f, _ := strconv.ParseFloat(l.text, size)
			return point{value: FloatValue(f)}, nil
		}
		want = "a number"
	case schema.String:
		if l.kind == textLiteral {
			return point{value: BytesValue(l.text)}, nil
		}
		want, hint = "a text", ", as in 'abc'"
	case schema.Binary:
		if l.kind == binaryLiteral {
			return point{value: BytesValue(l.text)}, nil
		}
		want, hint = "a binary", ", as in X'00ff'"
	case schema.Date:
		if d, err := time.Parse(time.DateOnly, l.text); err == nil && l.kind == textLiteral {
			return point{value: IntValue(d.Unix() / 86_400)}, nil
		}
		want, hint = "a date", ", as in '2018-02-05'"
	case schema.Timestamp:
		if l.kind == textLiteral {
			if ts, ok := timestamp(l.text); ok {
				return point{value: IntValue(ts.UnixMicro()), between: ts.Nanosecond()%1000 != 0}, nil
			}
		}
		want, hint = "a timestamp", ", as in '2018-02-05T10:00:00Z'"
	}
	return point{}, fmt.Errorf("expected %s for this %s column%s", want, t.Kind, hint)
}

// timestamp reads a date, or a date and time with up to nine digits of a
// fraction, of UTC unless an offset is given.
func timestamp(s string) (time.Time, bool) {
	if i := strings.IndexByte(s, '.'); i >= 0 {
		digits := 0
		for i+1+digits < len(s) && isDigit(s[i+1+digits]) {
			digits++
		}
		if digits > 9 { // time.Parse would drop them in silence
			return time.Time{}, false
		}
	}
	for _, layout := range [...]string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00",
		"2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// scaled is the greatest integer not above number × 10^scale, and whether it
// lies below. outside tells on which side of 128 bits the number lies.
func scaled(number string, scale int) (n decimal128.Num, between bool, outside int) {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(number), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	m, ok := new(big.Int).SetString(whole+fraction, 10)
	if !ok { // the sign alone before the point: "-.5"
		m, _ = new(big.Int).SetString(whole+"0"+fraction, 10)
	}
	if m.Sign() == 0 {
		return n, false, 0
	}
	// Digits are bounded by MaxText; exponents beyond that bound decide alone.
	const far = 4 * MaxText
	e := 0
	if exponent != "" {
		v, err := strconv.Atoi(exponent)
		if err != nil && strings.HasPrefix(exponent, "-") {
			v = -far
		} else if err != nil {
			v = far
		}
		e = min(max(v, -far), far)
	}
	shift := e - len(fraction) + scale
	digits := len(new(big.Int).Abs(m).String())
	switch {
	case digits+shift > 39:
		return n, false, m.Sign()
	case digits+shift < 0: // |value| < 0.1
		if m.Sign() < 0 {
			return decimal128.FromI64(-1), true, 0
		}
		return n, true, 0
	case shift >= 0:
		m.Mul(m, pow10(shift))
	default:
		// Euclidean division rounds towards the lesser for a positive divisor.
		rest := new(big.Int)
		m.DivMod(m, pow10(-shift), rest)
		between = rest.Sign() != 0
	}
	if m.BitLen() > 127 {
		return n, false, m.Sign()
	}
	return decimal128.FromBigInt(m), between, 0
}

func pow10(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }
