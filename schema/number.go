package schema

import (
	"math"
	"math/bits"
	"strconv"
)

// numberFault says why a number does not fit a type.
type numberFault uint8

const (
	fits       numberFault = iota
	notNumber              // not a number in JSON's grammar
	lossy                  // has digits that the type cannot hold
	outOfRange             // is too large in magnitude
)

// scaledInt reads a number in JSON's grammar as the exact integer
// number × 10^scale: 1.0 is 1 at scale 0, 1e2 is 100, 1.5 is 15 at scale 1 and
// lossy at scale 0. The magnitude is below 10^38.
func scaledInt(text []byte, scale int) (hi int64, lo uint64, fault numberFault) {
	n, ok := scanNumber(text)
	if !ok {
		return 0, 0, notNumber
	}
	if n.digits == 0 {
		return 0, 0, fits
	}
	shift := n.exponent + scale
	if shift < 0 {
		return 0, 0, lossy
	}
	if n.digits+shift > MaxPrecision {
		return 0, 0, outOfRange
	}
	var uhi, ulo uint64
	seen := 0
	for _, c := range text[n.first:] {
		if c == '.' {
			continue
		}
		uhi, ulo = mul10(uhi, ulo, uint64(c-'0'))
		if seen++; seen == n.digits {
			break
		}
	}
	for range shift {
		uhi, ulo = mul10(uhi, ulo, 0)
	}
	if n.negative {
		uhi, ulo = negate128(uhi, ulo)
	}
	return int64(uhi), ulo, fits
}

// scannedNumber is digits × 10^exponent: the digits begin at text[first] with
// one that is not 0 and end with one that is not 0; 0 has none.
type scannedNumber struct {
	negative      bool
	first, digits int
	exponent      int
}

// maxExponent bounds exponents, so that sums with them cannot overflow;
// anything beyond is out of range or lossy for every type.
const maxExponent = 1 << 30

// scanNumber checks JSON's grammar of numbers.
func scanNumber(b []byte) (n scannedNumber, ok bool) {
	i := 0
	if i < len(b) && b[i] == '-' {
		n.negative = true
		i++
	}
	start := i
	fraction, zeros := 0, 0 // digits after the point; zeros since the last other digit
	digit := func(c byte) {
		switch {
		case c != '0':
			if n.digits == 0 {
				n.first = i
			} else {
				n.digits += zeros
			}
			n.digits++
			zeros = 0
		default:
			zeros++
		}
	}
	for i < len(b) && isDigit(b[i]) {
		digit(b[i])
		i++
	}
	if i == start || b[start] == '0' && i > start+1 {
		return n, false
	}
	if i < len(b) && b[i] == '.' {
		point := i
		for i++; i < len(b) && isDigit(b[i]); i++ {
			digit(b[i])
		}
		if fraction = i - point - 1; fraction == 0 {
			return n, false
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		negative := false
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			negative = b[i] == '-'
			i++
		}
		if i == len(b) {
			return n, false
		}
		for ; i < len(b) && isDigit(b[i]); i++ {
			n.exponent = min(n.exponent*10+int(b[i]-'0'), maxExponent)
		}
		if negative {
			n.exponent = -n.exponent
		}
	}
	n.exponent += zeros - fraction
	return n, i == len(b) && isDigit(b[i-1])
}

func isDigit(c byte) bool { return c-'0' < 10 }

// mul10 is hi:lo × 10 + digit; the caller sees to it that it fits.
func mul10(hi, lo, digit uint64) (uint64, uint64) {
	h, l := bits.Mul64(lo, 10)
	l, carry := bits.Add64(l, digit, 0)
	return hi*10 + h + carry, l
}

func negate128(hi, lo uint64) (uint64, uint64) {
	lo, borrow := bits.Sub64(0, lo, 0)
	hi, _ = bits.Sub64(0, hi, borrow)
	return hi, lo
}

// pow10 holds 10^0 to 10^38 as hi:lo.
var pow10 = func() (p [MaxPrecision + 1][2]uint64) {
	p[0][1] = 1
	for i := 1; i < len(p); i++ {
		p[i][0], p[i][1] = mul10(p[i-1][0], p[i-1][1], 0)
	}
	return p
}()

// withinPrecision tells whether |hi:lo| < 10^precision.
func withinPrecision(hi int64, lo uint64, precision int) bool {
	uhi, ulo := uint64(hi), lo
	if hi < 0 {
		uhi, ulo = negate128(uhi, ulo)
	}
	p := pow10[precision]
	return uhi < p[0] || uhi == p[0] && ulo < p[1]
}

// appendDecimalText appends hi:lo × 10^-scale in plain digits, with all
// digits of the scale.
func appendDecimalText(dst []byte, hi int64, lo uint64, scale int) []byte {
	uhi := uint64(hi)
	if hi < 0 {
		dst = append(dst, '-')
		uhi, lo = negate128(uhi, lo)
	}
	var digits [40]byte
	i := len(digits)
	for n := 0; n <= scale || uhi|lo != 0; n++ {
		var rest uint64
		uhi, rest = uhi/10, uhi%10
		lo, rest = bits.Div64(rest, lo, 10)
		i--
		digits[i] = byte('0' + rest)
	}
	point := len(digits) - scale
	dst = append(dst, digits[i:point]...)
	if scale > 0 {
		dst = append(append(dst, '.'), digits[point:]...)
	}
	return dst
}

// exactPow10 are the powers of ten that a float64 holds exactly.
var exactPow10 = [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// parseFloat reads a number in JSON's grammar as the nearest float of that many
// bits. Numbers beyond the largest float are out of range, and those which
// are not 0 but would become 0 are lossy.
func parseFloat(text []byte, size int) (float64, numberFault) {
	n, ok := scanNumber(text)
	if !ok {
		return 0, notNumber
	}
	f, err := strconv.ParseFloat(string(text), size)
	switch {
	case err != nil || math.IsInf(f, 0):
		return 0, outOfRange
	case f == 0 && n.digits > 0:
		return 0, lossy
	}
	return f, fits
}
