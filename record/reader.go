package record

import (
	"encoding/binary"
	"fmt"
)

// Reader iterates over the rows of batches. It owns the buffers that
// decompression needs and may be reused for any number of batches; the zero
// value is ready. Not safe for concurrent use.
type Reader struct {
	dec decompressor

	rest  []byte // records not yet read
	base  Offset
	index int
	count int
	err   error
}

// Reset begins batch b. Decompressed size is bounded by MaxBatchBytes. Damage
// is ErrCorrupt.
func (r *Reader) Reset(b Batch) error {
	r.rest, r.index, r.count, r.err = nil, 0, 0, nil
	if len(b.raw) == 0 {
		return nil
	}
	r.base = b.BaseOffset()
	body := b.raw[HeaderSize:]
	if codec := b.Codec(); codec != None {
		plain, err := r.dec.decompress(codec, body)
		if err != nil {
			r.err = fmt.Errorf("read batch at offset %d: decompress %v: %w: %w", r.base, codec, ErrCorrupt, err)
			return r.err
		}
		body = plain
	}
	r.rest, r.count = body, b.Len()
	return nil
}

// Next returns the next row; ok is false at the end or after an error (Err).
// key (nil if null) and value (nil if null, which AppendBatch never writes)
// point into r's buffers or into the batch, valid until Reset.
func (r *Reader) Next() (o Offset, key, value []byte, ok bool) {
	if r.index == r.count || r.err != nil {
		if r.err == nil && len(r.rest) > 0 {
			r.corrupt("%d bytes after the last record", len(r.rest))
		}
		return 0, nil, nil, false
	}
	n, rest, ok := takeVarint(r.rest)
	if !ok || n < minRecordSize-1 || n > int64(len(rest)) {
		return r.corrupt("record %d has a wrong length", r.index)
	}
	body := rest[:n:n]
	r.rest = rest[n:]

	body = body[1:] // attributes: unused by the format
	_, body, ok = takeVarint(body)
	if !ok {
		return r.corrupt("record %d has no timestamp", r.index)
	}
	delta, body, ok := takeVarint(body)
	if !ok || delta != int64(r.index) {
		return r.corrupt("record %d has offset delta %d", r.index, delta)
	}
	if key, body, ok = takeBytes(body); !ok {
		return r.corrupt("record %d has a wrong key length", r.index)
	}
	if value, body, ok = takeBytes(body); !ok {
		return r.corrupt("record %d has a wrong value length", r.index)
	}
	// A row that our encoder wrote ends in a zero: no headers.
	if (len(body) != 1 || body[0] != 0) && !skipHeaders(body) {
		return r.corrupt("record %d has wrong headers", r.index)
	}
	o = r.base + Offset(r.index)
	r.index++
	return o, key, value, true
}

// Err is what stopped Next early: always ErrCorrupt.
func (r *Reader) Err() error { return r.err }

func (r *Reader) corrupt(format string, args ...any) (Offset, []byte, []byte, bool) {
	r.err = fmt.Errorf("read batch at offset %d: %s: %w", r.base, fmt.Sprintf(format, args...), ErrCorrupt)
	return 0, nil, nil, false
}

// takeVarint reads a zigzag varint.
func takeVarint(b []byte) (int64, []byte, bool) {
	if len(b) > 0 && b[0] < 0x80 {
		u := b[0]
		return int64(u>>1) ^ -int64(u&1), b[1:], true
	}
	x, n := binary.Varint(b)
	if n <= 0 {
		return 0, nil, false
	}
	return x, b[n:], true
}

// takeBytes reads a length and that many bytes; length -1 is nil.
func takeBytes(b []byte) (s, rest []byte, ok bool) {
	n, rest, ok := takeVarint(b)
	if !ok || n < -1 || n > int64(len(rest)) {
		return nil, nil, false
	}
	if n == -1 {
		return nil, rest, true
	}
	return rest[:n:n], rest[n:], true
}

// skipHeaders tells whether b holds a header count and exactly those headers.
// Rows have no headers, but batches of other Kafka clients may.
func skipHeaders(b []byte) bool {
	n, b, ok := takeVarint(b)
	if !ok || n < 0 || n > int64(len(b)) {
		return false
	}
	for range n {
		if _, b, ok = takeBytes(b); !ok {
			return false
		}
		if _, b, ok = takeBytes(b); !ok {
			return false
		}
	}
	return len(b) == 0
}
