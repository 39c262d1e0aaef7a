package schema

import (
	"encoding/binary"
	"math/big"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/arrow-go/v18/arrow/decimal256"
)

// decimalScale converts the unscaled values of an Arrow decimal or integer
// column to those of a DECIMAL, without loss or not at all.
type decimalScale struct {
	from      int            // the source's scale
	precision int            // the target's
	scale     int            // the target's
	digits    int            // that a source value may have when it is scaled up
	factor    decimal128.Num // 10^|scale-from|
}

func newDecimalScale(from arrow.DataType, to *Type) decimalScale {
	c := decimalScale{precision: to.Precision, scale: to.Scale}
	if d, ok := from.(arrow.DecimalType); ok {
		c.from = int(d.GetScale())
	}
	up := c.scale - c.from
	c.factor = decimal128.GetScaleMultiplier(max(up, -up))
	c.digits = min(max(c.precision-up, 0), MaxPrecision)
	return c
}

func (c *decimalScale) apply(n decimal128.Num) (decimal128.Num, numberFault) {
	digits := c.digits
	if c.scale < c.from {
		var rest decimal128.Num
		if n, rest = n.Div(c.factor); rest != (decimal128.Num{}) {
			return n, lossy
		}
		digits = c.precision
	}
	if !withinPrecision(n.HighBits(), n.LowBits(), digits) {
		return n, outOfRange
	}
	if c.scale > c.from {
		n = n.Mul(c.factor)
	}
	return n, fits
}

// applyWide converts a 256-bit value; only foreign columns have them.
func (c *decimalScale) applyWide(n decimal256.Num) (decimal128.Num, numberFault) {
	v, rest := n.BigInt(), new(big.Int)
	if up := c.scale - c.from; up >= 0 {
		v.Mul(v, c.factor.BigInt())
	} else {
		v.QuoRem(v, c.factor.BigInt(), rest)
	}
	if rest.Sign() != 0 {
		return decimal128.Num{}, lossy
	}
	if v.CmpAbs(decimal128.GetScaleMultiplier(c.precision).BigInt()) >= 0 {
		return decimal128.Num{}, outOfRange
	}
	return decimal128.FromBigInt(v), fits
}

// decimalText is value i of a decimal or integer column in its own digits.
func (s *source) decimalText(i int) string {
	b := s.raw[i*s.width:]
	word := func(k int) uint64 { return binary.NativeEndian.Uint64(b[8*k:]) }
	from := int32(s.scale.from)
	switch s.value {
	case arrow.DECIMAL32:
		return decimal128.FromI64(int64(int32(binary.NativeEndian.Uint32(b)))).ToString(from)
	case arrow.DECIMAL64:
		return decimal128.FromI64(int64(word(0))).ToString(from)
	case arrow.DECIMAL128:
		return decimal128.New(int64(word(1)), word(0)).ToString(from)
	case arrow.DECIMAL256:
		return decimal256.New(word(3), word(2), word(1), word(0)).ToString(from)
	}
	return s.number(i)
}

// decimal is value i of a decimal or integer column, in the target's scale.
func (s *source) decimal(i int) (decimal128.Num, numberFault) {
	b := s.raw[i*s.width:]
	word := func(k int) uint64 { return binary.NativeEndian.Uint64(b[8*k:]) }
	switch s.value {
	case arrow.DECIMAL32:
		return s.scale.apply(decimal128.FromI64(int64(int32(binary.NativeEndian.Uint32(b)))))
	case arrow.DECIMAL64:
		return s.scale.apply(decimal128.FromI64(int64(word(0))))
	case arrow.DECIMAL128:
		return s.scale.apply(decimal128.New(int64(word(1)), word(0)))
	case arrow.DECIMAL256:
		return s.scale.applyWide(decimal256.New(word(3), word(2), word(1), word(0)))
	}
	v, ok := s.integer(i)
	if !ok {
		return s.scale.apply(decimal128.FromU64(uint64(v)))
	}
	return s.scale.apply(decimal128.FromI64(v))
}
