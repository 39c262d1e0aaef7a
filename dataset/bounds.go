package dataset

import (
	"encoding/binary"
	"math"
	"math/big"
	"slices"
	"unicode/utf8"

	"github.com/thermocline/thermocline/schema"
)

// Bounds of columns stand in manifests in Iceberg's single-value form:
// integers and floats little-endian, decimals as the shortest big-endian two's
// complement, strings as UTF-8. Strings and binaries are cut to boundLen; the
// cut upper bound is rounded up, because readers skip files whose upper bound
// lies below what they look for.
const boundLen = 16

// bound is the smallest or largest value of a column in comparable form. For
// the kind of the column one of the members counts.
type bound struct {
	i int64    // Boolean, Byte … Long, Date, Timestamp
	f float64  // Float, Double
	d *big.Int // Decimal, unscaled
	b []byte   // String, Binary
}

// compareBounds orders two bounds of a kind.
func compareBounds(k schema.Kind, a, b bound) int {
	switch k {
	case schema.Float, schema.Double:
		switch {
		case a.f < b.f:
			return -1
		case a.f > b.f:
			return 1
		}
		return 0
	case schema.Decimal:
		return a.d.Cmp(b.d)
	case schema.String, schema.Binary:
		return slices.Compare(a.b, b.b)
	}
	switch {
	case a.i < b.i:
		return -1
	case a.i > b.i:
		return 1
	}
	return 0
}

// encodeBound gives Iceberg's single-value form; nil if there is none.
func encodeBound(k schema.Kind, v bound, upper bool) []byte {
	switch k {
	case schema.Boolean:
		return []byte{byte(v.i)}
	case schema.Byte, schema.Short, schema.Integer, schema.Date:
		return binary.LittleEndian.AppendUint32(nil, uint32(int32(v.i)))
	case schema.Long, schema.Timestamp:
		return binary.LittleEndian.AppendUint64(nil, uint64(v.i))
	case schema.Float:
		return binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(signedZero(v.f, upper))))
	case schema.Double:
		return binary.LittleEndian.AppendUint64(nil, math.Float64bits(signedZero(v.f, upper)))
	case schema.Decimal:
		return twosComplement(v.d)
	case schema.String:
		return cutString(v.b, upper)
	case schema.Binary:
		return cutBinary(v.b, upper)
	}
	return nil
}

// signedZero widens a zero bound to the zero that no other lies beyond: readers
// may order -0 before +0.
func signedZero(f float64, upper bool) float64 {
	if f == 0 {
		if upper {
			return 0
		}
		return math.Copysign(0, -1)
	}
	return f
}

func cutString(s []byte, upper bool) []byte {
	end, runes := 0, 0
	for end < len(s) && runes < boundLen {
		_, n := utf8.DecodeRune(s[end:])
		end += n
		runes++
	}
	if end == len(s) || !upper {
		return slices.Clone(s[:end])
	}
	// Count up the last character that can be; what stood behind it goes.
	for end > 0 {
		r, n := utf8.DecodeLastRune(s[:end])
		end -= n
		if r == utf8.RuneError && n <= 1 {
			return nil // not UTF-8: no bound is safe
		}
		next := r + 1
		if next == 0xD800 { // the gap of the surrogates
			next = 0xE000
		}
		if next <= utf8.MaxRune {
			return utf8.AppendRune(slices.Clone(s[:end]), next)
		}
	}
	return nil
}

func cutBinary(b []byte, upper bool) []byte {
	if len(b) <= boundLen {
		return append([]byte{}, b...)
	}
	c := slices.Clone(b[:boundLen])
	if !upper {
		return c
	}
	for i := len(c) - 1; i >= 0; i-- {
		if c[i] != 0xff {
			c[i]++
			return c[:i+1]
		}
	}
	return nil
}

// twosComplement is the shortest big-endian form.
func twosComplement(d *big.Int) []byte {
	if d.Sign() >= 0 {
		b := d.Bytes()
		if len(b) == 0 || b[0]&0x80 != 0 {
			b = append([]byte{0}, b...)
		}
		return b
	}
	// -d-1 has the inverted bits.
	b := new(big.Int).Not(d).Bytes()
	for i := range b {
		b[i] = ^b[i]
	}
	if len(b) == 0 || b[0]&0x80 == 0 {
		b = append([]byte{0xff}, b...)
	}
	return b
}

// fromTwosComplement reads big-endian two's complement of any length.
func fromTwosComplement(b []byte) *big.Int {
	d := new(big.Int).SetBytes(b)
	if len(b) > 0 && b[0]&0x80 != 0 {
		d.Sub(d, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	return d
}

// decodeBound reads the single-value form. The kind is that of the reader's
// field, which may be wider than the one the bound was written for. ok is
// false where the bytes do not fit.
func decodeBound(k schema.Kind, b []byte) (bound, bool) {
	switch k {
	case schema.Boolean:
		if len(b) == 1 {
			return bound{i: int64(b[0])}, true
		}
	case schema.Byte, schema.Short, schema.Integer, schema.Date, schema.Long, schema.Timestamp:
		switch len(b) {
		case 4:
			return bound{i: int64(int32(binary.LittleEndian.Uint32(b)))}, true
		case 8:
			return bound{i: int64(binary.LittleEndian.Uint64(b))}, true
		}
	case schema.Float, schema.Double:
		f := math.NaN()
		switch len(b) {
		case 4:
			f = float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
		case 8:
			f = math.Float64frombits(binary.LittleEndian.Uint64(b))
		}
		return bound{f: f}, !math.IsNaN(f)
	case schema.Decimal:
		if len(b) > 0 && len(b) <= 16 {
			return bound{d: fromTwosComplement(b)}, true
		}
	case schema.String, schema.Binary:
		return bound{b: b}, true
	}
	return bound{}, false
}
