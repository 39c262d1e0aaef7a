package dataset

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// openData opens a data file that the table names, with its size. Of one with checksums, each
// byte that is read was checked, and damage is ErrCorrupt; the others are read
// as they are.
func (d *Datasets) openData(ctx context.Context, location string, size int64) (objstore.Object, error) {
	o, err := d.openRaw(ctx, location)
	if err != nil {
		return nil, err
	}
	id, ok := checkedID(location)
	if !ok {
		return o, nil
	}
	c := &checked{Object: o}
	if o.Size() != size {
		err = fmt.Errorf("it has %d bytes, its manifest says %d: %w", o.Size(), size, record.ErrCorrupt)
	} else {
		err = c.readEnd(location, id)
	}
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return c, nil
}

// openRaw opens a file that a table names.
func (d *Datasets) openRaw(ctx context.Context, location string) (objstore.Object, error) {
	key, err := objstore.Key(d.store, location)
	if err != nil {
		return nil, err
	}
	o, err := d.store.Open(ctx, key)
	if errors.Is(err, record.ErrNotFound) {
		return nil, fmt.Errorf("the table names the file but it is missing: %w", errMissing)
	}
	return o, err
}

// checked is a data file whose bytes are compared with its checksums whenever
// they are read. Immutable, and as safe for concurrent use as the object.
type checked struct {
	objstore.Object
	data int64  // [0, data) has checksums in sums
	sums []byte // a part of end
	end  []byte // [data, size), verified: served from here
}

// firstRead is read from the end of a file, in the hope that it holds the
// checksums and the footer.
const firstRead = 64 << 10

// readEnd reads and verifies the checksums and the footer.
func (c *checked) readEnd(location string, id [16]byte) error {
	size := c.Size()
	if size < trailerSize {
		return fmt.Errorf("it has only %d bytes: %w", size, record.ErrCorrupt)
	}
	tail := make([]byte, min(size, firstRead))
	from := size - int64(len(tail))
	if err := c.readRaw(tail, from); err != nil {
		return err
	}
	end, err := trailerEnd(location, size, tail)
	if err != nil {
		return err
	}
	head := make([]byte, trailerSize)
	if at := end - trailerSize; at >= from {
		copy(head, tail[at-from:])
	} else if err := c.readRaw(head, at); err != nil {
		return err
	}
	t, err := parseTrailer(head, id, size, end)
	if err != nil {
		return err
	}
	if size-t.data > maxMetaBytes {
		return fmt.Errorf("footer and checksums have %d bytes, at most %d are read: %w", size-t.data, maxMetaBytes, record.ErrTooLarge)
	}
	if t.data >= from {
		c.end = tail[t.data-from:]
	} else {
		c.end = make([]byte, size-t.data)
		copy(c.end[from-t.data:], tail)
		if err := c.readRaw(c.end[:from-t.data], t.data); err != nil {
			return err
		}
	}
	if sum := endSum(c.end, int(end-t.data)); sum != t.sum {
		return fmt.Errorf("the CRC-32C of its end, bytes [%d,%d), is %08x, it says %08x: %w", t.data, size, sum, t.sum, record.ErrCorrupt)
	}
	c.data, c.sums = t.data, c.end[t.at-t.data:end-t.data-trailerSize]
	return nil
}

// readRaw fills p from the object.
func (c *checked) readRaw(p []byte, off int64) error {
	n, err := c.Object.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil, errors.Is(err, io.EOF):
		return fmt.Errorf("it ends at byte %d of %d: %w", off+int64(n), c.Size(), record.ErrCorrupt)
	}
	return fmt.Errorf("%w: %w", errStore, err)
}

// scratch holds whole chunks around what was asked for.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// maxScratch keeps a rare large read from staying in the pool.
const maxScratch = 4 << 20

// ReadAt reads the whole chunks that hold the bytes, with one read.
func (c *checked) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, record.ErrInvalid)
	}
	n := 0
	if off < c.data && len(p) > 0 {
		want := p[:min(int64(len(p)), c.data-off)]
		if err := c.readChunks(want, off); err != nil {
			return 0, err
		}
		n = len(want)
	}
	if n < len(p) {
		at := off + int64(n) - c.data
		if at < int64(len(c.end)) {
			n += copy(p[n:], c.end[at:])
		}
		if n < len(p) {
			return n, io.EOF
		}
	}
	return n, nil
}

// readChunks fills p from [0, data).
func (c *checked) readChunks(p []byte, off int64) error {
	first := off / sumChunk
	from := first * sumChunk
	to := min(c.data, (off+int64(len(p))+sumChunk-1)/sumChunk*sumChunk)
	buf := p
	if from != off || to != off+int64(len(p)) {
		s := scratch.Get().(*[]byte)
		if int64(cap(*s)) < to-from {
			*s = make([]byte, to-from)
		}
		defer func() {
			if cap(*s) <= maxScratch {
				scratch.Put(s)
			}
		}()
		buf = (*s)[:to-from]
	}
	if err := c.readRaw(buf, from); err != nil {
		return err
	}
	for i := int64(0); i < to-from; i += sumChunk {
		chunk := buf[i:min(i+sumChunk, to-from)]
		want := binary.BigEndian.Uint32(c.sums[(from+i)/sumChunk*sumBytes:])
		if sum := crc32.Checksum(chunk, castagnoli); sum != want {
			return fmt.Errorf("the CRC-32C of bytes [%d,%d) is %08x, the file says %08x: %w", from+i, from+i+int64(len(chunk)), sum, want, record.ErrCorrupt)
		}
	}
	if len(buf) > 0 && &buf[0] != &p[0] {
		copy(p, buf[off-from:])
	}
	return nil
}
