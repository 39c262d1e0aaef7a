package schema

import (
	"encoding/binary"

	"github.com/apache/arrow-go/v18/arrow/bitutil"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// form is how a column keeps its values.
type form uint8

const (
	oneBit   form = iota // data: one bit a value
	fixed                // data: width bytes a value
	variable             // offsets into data
	list                 // offsets into the next column
	entries              // offsets into the next two columns, keys and values
	group                // parts in the columns behind it
)

// column holds the values of one field of a Builder, laid out as Arrow has
// them. The validity bitmap exists only while nulls > 0. Offsets hold n+1
// entries once the column has had a value.
type column struct {
	form     form
	nullable bool
	width    int
	end      int // index after the column's last part in Builder.cols
	n, nulls int

	valid, data, offsets buffer
}

func (c *column) append4(v uint32) {
	b := c.data.room(4)
	c.data.b = binary.NativeEndian.AppendUint32(b, v)
	c.addValid()
}

func (c *column) append8(v uint64) {
	b := c.data.room(8)
	c.data.b = binary.NativeEndian.AppendUint64(b, v)
	c.addValid()
}

func (c *column) append16(low, high uint64) {
	b := c.data.room(16)
	b = binary.NativeEndian.AppendUint64(b, low)
	c.data.b = binary.NativeEndian.AppendUint64(b, high)
	c.addValid()
}

func (c *column) appendBit(v bool) {
	c.data.pushBit(c.n, v)
	c.addValid()
}

func (c *column) appendBytes(v []byte) {
	c.data.b = append(c.data.room(len(v)), v...)
	c.pushOffset(len(c.data.b))
	c.addValid()
}

func (c *column) addValid() {
	if c.nulls > 0 {
		c.valid.pushBit(c.n, true)
	}
	c.n++
}

func (c *column) addNull() {
	if c.nulls == 0 {
		c.valid.ones(c.n)
	}
	c.valid.pushBit(c.n, false)
	c.nulls++
	c.n++
}

func (c *column) pushOffset(end int) {
	b := c.offsets.room(8)
	if len(b) == 0 {
		b = append(b, 0, 0, 0, 0)
	}
	c.offsets.b = binary.NativeEndian.AppendUint32(b, uint32(end))
}

// lastOffset is where the data of the next value begins.
func (c *column) lastOffset() int {
	b := c.offsets.b
	if len(b) == 0 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(b[len(b)-4:]))
}

// cutOffsets keeps n values and returns where the last of them ends.
func (c *column) cutOffsets(n int) int {
	if len(c.offsets.b) > 0 {
		c.offsets.cut(4 * (n + 1))
	}
	return c.lastOffset()
}

// takeOffsets takes the offsets, which readers want to be there (a zero) even
// when there is no value.
func (c *column) takeOffsets() *memory.Buffer {
	if len(c.offsets.b) == 0 {
		c.offsets.zero(4)
	}
	return c.offsets.take()
}

// buffer is bytes in memory of an Arrow allocator.
type buffer struct {
	mem memory.Allocator
	m   *memory.Buffer // what b lies in; nil before the first byte
	b   []byte
	// last is the length of the buffer that was taken before: the capacity
	// that the next one begins with.
	last int
}

// room returns b with at least n bytes of free capacity.
func (x *buffer) room(n int) []byte {
	if cap(x.b)-len(x.b) < n {
		x.grow(n)
	}
	return x.b
}

func (x *buffer) grow(n int) {
	if x.m == nil {
		x.m = memory.NewResizableBuffer(x.mem)
		n = max(n, x.last)
	}
	x.m.Reserve(max(256, len(x.b)+n, 2*cap(x.b)))
	m := x.m.Buf()
	x.b = m[:len(x.b):len(m)]
}

// take returns the buffer, nil if nothing was ever written, and starts afresh.
func (x *buffer) take() *memory.Buffer {
	m := x.m
	if m != nil {
		m.ResizeNoShrink(len(x.b))
		x.last = len(x.b)
	}
	x.m, x.b = nil, nil
	return m
}

// takeSome is take, but an empty buffer instead of nil.
func (x *buffer) takeSome() *memory.Buffer {
	if m := x.take(); m != nil {
		return m
	}
	return memory.NewBufferBytes(nil)
}

func (x *buffer) drop() {
	if x.m != nil {
		x.m.Release()
	}
	x.m, x.b = nil, nil
}

func (x *buffer) cut(n int) { x.b = x.b[:min(n, len(x.b))] }

func (x *buffer) zero(n int) {
	b := x.room(n)
	x.b = b[:len(b)+n]
	clear(x.b[len(b):])
}

// pushBit appends bit number n.
func (x *buffer) pushBit(n int, v bool) {
	if n&7 == 0 {
		x.b = append(x.room(1), 0)
	}
	if v {
		x.b[n>>3] |= 1 << (n & 7)
	}
}

// ones makes the buffer n set bits.
func (x *buffer) ones(n int) {
	x.cut(0)
	x.zero(int(bitutil.BytesForBits(int64(n))))
	bitutil.SetBitsTo(x.b, 0, int64(n), true)
}

// cutBits keeps n bits; the bits behind them in the last byte become 0.
func (x *buffer) cutBits(n int) {
	x.cut(int(bitutil.BytesForBits(int64(n))))
	if n&7 != 0 && len(x.b) == n>>3+1 {
		x.b[n>>3] &= 1<<(n&7) - 1
	}
}
