package schema

import (
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func big128(hi int64, lo uint64) *big.Int {
	v := new(big.Int).Lsh(big.NewInt(hi), 64)
	return v.Add(v, new(big.Int).SetUint64(lo))
}

// TestScaledInt holds the exact numbers against math/big.
func TestScaledInt(t *testing.T) {
	t.Parallel()
	number := rapid.StringMatching(`-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,42})?([eE][+-]?[0-9]{1,2})?`)
	limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(MaxPrecision), nil)
	rapid.Check(t, func(t *rapid.T) {
		text := number.Draw(t, "number")
		scale := rapid.IntRange(0, MaxPrecision).Draw(t, "scale")
		exact, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatal(text)
		}
		exact.Mul(exact, new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)))
		hi, lo, fault := scaledInt([]byte(text), scale)
		switch {
		case !exact.IsInt():
			if fault != lossy {
				t.Fatalf("%s at scale %d: fault %d, want lossy", text, scale, fault)
			}
		case exact.Num().CmpAbs(limit) >= 0:
			if fault != outOfRange {
				t.Fatalf("%s at scale %d: fault %d, want out of range", text, scale, fault)
			}
		case fault != fits || big128(hi, lo).Cmp(exact.Num()) != 0:
			t.Fatalf("%s at scale %d: %v, fault %d; want %v", text, scale, big128(hi, lo), fault, exact)
		}
	})
}

func TestDecimalBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		hi, lo := rapid.Int64().Draw(t, "hi"), rapid.Uint64().Draw(t, "lo")
		if rapid.Bool().Draw(t, "small") {
			hi = int64(lo) >> 63
		}
		b := appendDecimal(nil, hi, lo)
		v, i := readBytes(b, 0)
		if i != len(b) {
			t.Fatalf("%x", b)
		}
		if len(v) > 1 && (v[0] == 0 && v[1] < 0x80 || v[0] == 0xff && v[1] >= 0x80) {
			t.Fatalf("%x is not the shortest form", v)
		}
		pad := strings.Repeat(string([]byte{byte(hi >> 63)}), rapid.IntRange(0, 5).Draw(t, "padding"))
		h, l, ok := parseDecimal(append([]byte(pad), v...))
		if !ok || h != hi || l != lo {
			t.Fatalf("%x: %x %x, want %x %x", v, h, l, hi, lo)
		}
		if s := string(appendDecimalText(nil, hi, lo, 0)); s != big128(hi, lo).String() {
			t.Fatalf("%s, want %v", s, big128(hi, lo))
		}
	})
	for _, b := range [][]byte{{}, append([]byte{1}, make([]byte, 16)...), append([]byte{0xff}, make([]byte, 16)...), append([]byte{0, 0x80}, make([]byte, 15)...)} {
		if hi, lo, ok := parseDecimal(b); ok {
			t.Errorf("%x is %x %x", b, hi, lo)
		}
	}
}

// TestTime holds the calendar against package time.
func TestTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		micros := rapid.Int64Range(minMicros, maxMicros).Draw(t, "micros")
		want := time.UnixMicro(micros).UTC()
		got, fault := parseTimestamp([]byte(want.Format(time.RFC3339Nano)))
		if fault != timeFits || got != micros {
			t.Fatalf("%v: %d, fault %d; want %d", want, got, fault, micros)
		}
		if parsed, err := time.Parse(time.RFC3339Nano, string(appendTimestamp(nil, micros))); err != nil || parsed.UnixMicro() != micros {
			t.Fatalf("%d: %s, %v", micros, appendTimestamp(nil, micros), err)
		}
	})
	for d := int64(minDays); d <= maxDays; d += 7 { // meets every day of the year
		text := appendDate(nil, d)
		if got, fault := parseDate(text); got != d || fault != timeFits {
			t.Fatalf("%d is %s is %d", d, text, got)
		}
	}
	if got := string(appendTimestamp(nil, -1<<63)); got != "-290308-12-21T19:59:05.224192Z" {
		t.Errorf("the first timestamp is %s", got)
	}
	if got := string(appendDate(nil, maxDays+1)); got != "+010000-01-01" {
		t.Errorf("the day after the last is %s", got)
	}
}
