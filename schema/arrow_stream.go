package schema

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/thermocline/thermocline/record"
)

// Limits of an Arrow IPC stream from outside.
const (
	maxStreamTables = 20 * MaxFields // FlatBuffers tables of one message
	maxStreamDepth  = 2*MaxDepth + 2 // maps have two levels
	maxStreamRows   = record.MaxBatchBytes
	maxStreamBytes  = 256 << 20 // of one message, decompressed
	maxStreamWindow = 64 << 20  // of a zstd frame
)

// CheckArrowStream checks the framing and metadata of an Arrow IPC stream that
// a client sent, before an IPC reader may see it. Arrow's reader recovers from
// most damage, but it allocates what length fields promise (the process dies of a
// vector of 4 billion fields in a body of 100 bytes), follows shared parts of
// the metadata any number of times, and copies a dictionary for each delta to it.
// Values and offsets are not looked at here, ArrowToAvro checks them. Errors are
// ErrInvalid.
//
// A stream is a sequence of messages:
//
//	ffffffff | length of metadata, int32 | metadata: FlatBuffers Message | body
//
// of which metadata.bodyLength is the length of the body. The first four bytes
// are missing in streams of before 2019. A length of 0, or the end, ends it.
func CheckArrowStream(b []byte) error {
	for i := 0; len(b) > 0; i++ {
		n, err := checkArrowMessage(b)
		if err != nil {
			return fmt.Errorf("schema: malformed Arrow IPC stream: message %d: %w: %w", i, err, record.ErrInvalid)
		}
		if n == 0 {
			return nil
		}
		b = b[n:]
	}
	return nil
}

var (
	errTruncated = errors.New("it ends too early")
	errMetadata  = errors.New("its metadata is damaged")
)

// checkArrowMessage checks the message at the start of b and returns its
// length, 0 if it ends the stream.
func checkArrowMessage(b []byte) (int, error) {
	at := 0
	if len(b) >= 4 && binary.LittleEndian.Uint32(b) == 0xffff_ffff {
		at = 4
	}
	if len(b) < at+4 {
		return 0, errTruncated
	}
	size := int(int32(binary.LittleEndian.Uint32(b[at:])))
	if size == 0 {
		return 0, nil
	}
	at += 4
	if size < 0 || size > len(b)-at {
		return 0, errTruncated
	}
	v := flatBuffer{b: b[at : at+size]}
	msg := v.root()
	length := msg.int64(3)
	if v.failed {
		return 0, errMetadata
	}
	body := b[at+size:]
	if length < 0 || length > int64(len(body)) {
		return 0, errTruncated
	}
	body = body[:length]
	msg.eachTable(4, nil) // custom metadata
	var err error
	switch kind, head := msg.byte(1), msg.table(2); kind {
	case 1: // Schema
		head.eachTable(1, func(f flatTable) { f.checkArrowField(1) })
		head.eachTable(2, nil)
	case 2: // DictionaryBatch
		err = head.table(1).checkArrowBatch(body)
		if head.byte(2) != 0 {
			err = errors.New("it is a delta to a dictionary; send whole dictionaries")
		}
	case 3: // RecordBatch
		err = head.checkArrowBatch(body)
	default:
		err = fmt.Errorf("it is of type %d, neither a schema nor a batch nor a dictionary", kind)
	}
	if v.failed {
		err = errMetadata
	}
	return at + size + int(length), err
}

// checkArrowField checks a Field and its children.
func (t flatTable) checkArrowField(depth int) {
	if depth > maxStreamDepth {
		t.v.failed = true
		return
	}
	t.eachTable(5, func(c flatTable) { c.checkArrowField(depth + 1) })
	t.eachTable(6, nil)
}

// checkArrowBatch checks a RecordBatch.
func (t flatTable) checkArrowBatch(body []byte) error {
	if n := t.int64(0); n < 0 || n > maxStreamRows {
		return fmt.Errorf("it has %d rows; the limit is %d", n, maxStreamRows)
	}
	t.vector(1, 16) // FieldNode: length, null count
	first, buffers := t.vector(2, 16)
	counts, n := t.vector(4, 8)
	for i := range n {
		if c := int64(binary.LittleEndian.Uint64(t.v.b[counts+8*i:])); c < 0 || c > int64(buffers) {
			return errMetadata
		}
	}
	total := int64(0)
	for i := range buffers {
		offset := int64(binary.LittleEndian.Uint64(t.v.b[first+16*i:]))
		length := int64(binary.LittleEndian.Uint64(t.v.b[first+16*i+8:]))
		if offset < 0 || length < 0 || offset > int64(len(body)) || length > int64(len(body))-offset {
			return errTruncated
		}
		if !t.has(3) || length == 0 {
			continue
		}
		size, err := checkCompressed(body[offset:offset+length], t.table(3).byte(0) == 1)
		if total += size; err == nil && total > maxStreamBytes {
			err = fmt.Errorf("it has more than %d bytes decompressed; send smaller batches", maxStreamBytes)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkCompressed checks a compressed buffer (its length decompressed as int64, -1
// if it is not compressed after all, and a frame) and returns that length.
func checkCompressed(b []byte, isZstd bool) (int64, error) {
	if len(b) < 8 {
		return 0, errTruncated
	}
	size := int64(binary.LittleEndian.Uint64(b))
	if size == -1 {
		return 0, nil
	}
	if size < 0 || size > maxStreamBytes {
		return 0, fmt.Errorf("a buffer of %d bytes decompressed; the limit is %d", size, maxStreamBytes)
	}
	if !isZstd {
		return size, nil // LZ4 blocks have at most 4 MiB
	}
	for b = b[8:]; len(b) > 0; {
		var h zstd.Header
		if err := h.Decode(b); err != nil || h.HeaderSize > len(b) {
			return 0, errors.New("a zstd frame of it is damaged")
		}
		if h.WindowSize > maxStreamWindow || h.SingleSegment && h.FrameContentSize > maxStreamBytes {
			return 0, fmt.Errorf("a zstd window of more than %d bytes; compress without long-distance matching", maxStreamWindow)
		}
		n, ok := zstdFrameSize(b, &h)
		if !ok {
			return 0, errTruncated
		}
		b = b[n:]
	}
	return size, nil
}

// zstdFrameSize is the length of the frame at the start of b.
func zstdFrameSize(b []byte, h *zstd.Header) (n int, ok bool) {
	n = h.HeaderSize
	if h.Skippable {
		n += int(h.SkippableSize)
		return n, n <= len(b)
	}
	for last := false; !last; {
		if n+3 > len(b) {
			return 0, false
		}
		head := int(b[n]) | int(b[n+1])<<8 | int(b[n+2])<<16
		last = head&1 != 0
		size := head >> 3
		if head>>1&3 == 1 { // one byte, repeated
			size = 1
		}
		n += 3 + size
	}
	if h.HasCheckSum {
		n += 4
	}
	return n, n <= len(b)
}
