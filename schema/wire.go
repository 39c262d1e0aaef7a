package schema

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/thermocline/thermocline/record"
)

// The Avro binary encoding, as far as rows use it. Readers take the bytes and a
// position and return the position after the value, or bad when the bytes do
// not hold one: nothing is read or allocated beyond the input.

// bad is the position that readers return for damaged input.
const bad = -1

// appendLong appends v as a zigzag varint.
func appendLong(dst []byte, v int64) []byte {
	u := uint64(v)<<1 ^ uint64(v>>63)
	if u < 0x80 {
		return append(dst, byte(u))
	}
	return binary.AppendUvarint(dst, u)
}

// readLong reads a zigzag varint of up to 64 bits.
func readLong(b []byte, i int) (int64, int) {
	if uint(i) >= uint(len(b)) {
		return 0, bad
	}
	if c := b[i]; c < 0x80 {
		return int64(c>>1) ^ -int64(c&1), i + 1
	}
	u, n := binary.Uvarint(b[i:])
	if n <= 0 {
		return 0, bad
	}
	return int64(u>>1) ^ -int64(u&1), i + n
}

// readBytes reads a length and returns the bytes behind it, which stay part of b.
func readBytes(b []byte, i int) ([]byte, int) {
	n, i := readLong(b, i)
	if i < 0 || n < 0 || n > int64(len(b)-i) {
		return nil, bad
	}
	return b[i : i+int(n) : i+int(n)], i + int(n)
}

// readBranch reads the union branch of a nullable value.
func readBranch(b []byte, i int) (null bool, next int) {
	if uint(i) >= uint(len(b)) {
		return false, bad
	}
	switch b[i] {
	case 0:
		return true, i + 1
	case 2:
		return false, i + 1
	}
	return false, bad
}

// readBlock reads the head of a block of array elements or map entries; 0
// ends the array or map. Every element has at least one byte, so that a count
// beyond the remaining bytes is damage. size is the length of the block in
// bytes, or -1 where the writer did not say.
func readBlock(b []byte, i int) (count, size, next int) {
	n, i := readLong(b, i)
	if i < 0 {
		return 0, 0, bad
	}
	s := int64(-1)
	if n < 0 {
		if s, i = readLong(b, i); i < 0 || s < 0 || s > int64(len(b)-i) {
			return 0, 0, bad
		}
		n = -n // the lowest int64 stays negative and fails below
	}
	if n < 0 || n > int64(len(b)-i) {
		return 0, 0, bad
	}
	return int(n), int(s), i
}

// skipField returns the position after a value of f, which may be null.
func skipField(f *Field, b []byte, i int) int {
	if f.Nullable {
		null, next := readBranch(b, i)
		if null || next < 0 {
			return next
		}
		i = next
	}
	return skipType(&f.Type, b, i)
}

func skipType(t *Type, b []byte, i int) int {
	switch t.Kind {
	case Boolean:
		return skipN(b, i, 1)
	case Byte, Short, Integer, Long, Date, Timestamp:
		_, i = readLong(b, i)
		return i
	case Float:
		return skipN(b, i, 4)
	case Double:
		return skipN(b, i, 8)
	case Decimal, String, Binary:
		_, i = readBytes(b, i)
		return i
	case Struct:
		for f := range t.Fields {
			if i = skipField(&t.Fields[f], b, i); i < 0 {
				return bad
			}
		}
		return i
	}
	for { // Array, Map
		count, size, next := readBlock(b, i)
		if next < 0 || count == 0 {
			return next
		}
		if i = next; size >= 0 {
			i += size
			continue
		}
		for range count {
			if t.Kind == Map {
				if _, i = readBytes(b, i); i < 0 {
					return bad
				}
				i = skipField(t.Value, b, i)
			} else {
				i = skipField(t.Element, b, i)
			}
			if i < 0 {
				return bad
			}
		}
	}
}

func skipN(b []byte, i, n int) int {
	if n > len(b)-i {
		return bad
	}
	return i + n
}

// headerSize is the length of the Confluent header: a zero byte and the
// schema id as a big-endian int32.
const headerSize = 5

// AppendHeader appends the Confluent wire format's header, which stands before
// the Avro datum of every row.
func AppendHeader(dst []byte, schemaID int32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, 0), uint32(schemaID))
}

// SplitHeader parts a row into schema id and Avro datum, which stays part of
// value. A value without a header is ErrCorrupt.
func SplitHeader(value []byte) (schemaID int32, datum []byte, err error) {
	if len(value) < headerSize || value[0] != 0 {
		return 0, nil, fmt.Errorf("schema: row of %d bytes does not begin with a schema header (% x): %w",
			len(value), value[:min(len(value), headerSize)], record.ErrCorrupt)
	}
	return int32(binary.BigEndian.Uint32(value[1:])), value[headerSize:], nil
}

// maxDecimalBytes is the longest two's complement form of a DECIMAL.
const maxDecimalBytes = 16

// appendDecimal appends the shortest two's complement big-endian form of the
// 128-bit number hi:lo, with its length.
func appendDecimal(dst []byte, hi int64, lo uint64) []byte {
	var b [maxDecimalBytes]byte
	binary.BigEndian.PutUint64(b[:8], uint64(hi))
	binary.BigEndian.PutUint64(b[8:], lo)
	n := 0
	for n < maxDecimalBytes-1 && (b[n] == 0 && b[n+1] < 0x80 || b[n] == 0xff && b[n+1] >= 0x80) {
		n++
	}
	dst = append(dst, byte(maxDecimalBytes-n)<<1)
	return append(dst, b[n:]...)
}

// parseDecimal reads a two's complement big-endian number of 1 to 16 bytes;
// longer ones are accepted when the additional bytes only repeat the sign.
func parseDecimal(b []byte) (hi int64, lo uint64, ok bool) {
	if len(b) == 0 {
		return 0, 0, false
	}
	sign := byte(int8(b[0]) >> 7)
	for len(b) > maxDecimalBytes {
		if b[0] != sign || (b[1]^sign)&0x80 != 0 {
			return 0, 0, false
		}
		b = b[1:]
	}
	u, l := uint64(int64(int8(sign))), uint64(int64(int8(sign)))
	for _, c := range b {
		u = u<<8 | l>>56
		l = l<<8 | uint64(c)
	}
	return int64(u), l, true
}

// corruptf is an ErrCorrupt about a field of a row.
func corruptf(path, format string, args ...any) error {
	return fmt.Errorf("schema: damaged row, field %q: %s: %w", path, fmt.Sprintf(format, args...), record.ErrCorrupt)
}

// readFloat and readDouble read IEEE 754 numbers, which may be NaN.
func readFloat(b []byte, i int) (float32, int) {
	if len(b)-i < 4 {
		return 0, bad
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(b[i:])), i + 4
}

func readDouble(b []byte, i int) (float64, int) {
	if len(b)-i < 8 {
		return 0, bad
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(b[i:])), i + 8
}
