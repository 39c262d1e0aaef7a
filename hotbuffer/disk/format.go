package disk

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// All numbers on disk are big endian. Every checksum is CRC-32C, begun with the
// log's random id, so that bytes of another log, or row contents made to look
// like a header, never validate. FORMAT.md says how the parts play together.

// blockSize is the unit of commits: one starts on a block, and the rest of its
// last block is zero and stays so, so that what was acknowledged is never
// rewritten.
const blockSize = 4096

const (
	segmentMagic = 0x5443_5345_474d_4e54 // "TCSEGMNT"
	commitMagic  = 0x5443_4d54           // "TCMT"
	frameMagic   = 0x5443_4652           // "TCFR"
	footerMagic  = 0x5443_4654           // "TCFT"
	trailerMagic = 0x5443_5452           // "TCTR"

	formatVersion = 1
)

var (
	be         = binary.BigEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// logID is random per log and stands in every segment header.
type logID [16]byte

// sum is the checksum of b within the log.
func (id *logID) sum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(id[:], castagnoli), castagnoli, b)
}

// epoch is the number of a segment: larger than any number that this log, and
// so this file, bore before. It stands in every header within the segment, so
// that what a recycled file held earlier never validates.
type epoch uint64

func (e epoch) String() string { return fmt.Sprintf("%016x", uint64(e)) }

// segmentHeader is the first block of a segment file:
//
//	 0  magic "TCSEGMNT"
//	 8  CRC-32C  uint32  of bytes 12 to 4096, not begun with the log id
//	12  version  uint32
//	16  epoch    uint64
//	24  size     uint64  of the file
//	32  log id   16 bytes
//	48  zero up to 4096
type segmentHeader struct {
	epoch epoch
	size  int64
	id    logID
}

func (h segmentHeader) encode() []byte {
	b := make([]byte, blockSize)
	be.PutUint64(b, segmentMagic)
	be.PutUint32(b[12:], formatVersion)
	be.PutUint64(b[16:], uint64(h.epoch))
	be.PutUint64(b[24:], uint64(h.size))
	copy(b[32:], h.id[:])
	be.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	return b
}

func decodeSegmentHeader(b []byte) (segmentHeader, error) {
	var h segmentHeader
	switch {
	case len(b) < blockSize:
		return h, fmt.Errorf("segment header: %d bytes of %d: %w", len(b), blockSize, record.ErrCorrupt)
	case be.Uint64(b) != segmentMagic:
		return h, fmt.Errorf("segment header: magic %016x: %w", be.Uint64(b), record.ErrCorrupt)
	case be.Uint32(b[8:]) != crc32.Checksum(b[12:blockSize], castagnoli):
		return h, fmt.Errorf("segment header: checksum does not match: %w", record.ErrCorrupt)
	case be.Uint32(b[12:]) != formatVersion:
		return h, fmt.Errorf("segment header: format version %d, this program knows %d: %w", be.Uint32(b[12:]), formatVersion, record.ErrInvalid)
	}
	h.epoch, h.size = epoch(be.Uint64(b[16:])), int64(be.Uint64(b[24:]))
	copy(h.id[:], b[32:])
	return h, nil
}

// A commit is what one write and one sync made durable, all or nothing. It
// begins on a block with its header and table of contents:
//
//	 0  magic "TCMT"
//	 4  CRC-32C    uint32  of bytes 8 to the end of the table
//	 8  epoch      uint64
//	16  number     uint64  of the commit; the next commit of the log has the next one
//	24  timestamp  int64   ms since 1970 UTC, when it was written
//	32  length     uint32  of the commit from byte 0, without the padding
//	36  frames     uint32
//	40  per frame, 32 bytes:
//	    0  view       int64    0: a frame of the log's own
//	    8  partition  int32
//	   12  rows       uint32
//	   16  base       int64    offset
//	   24  position   uint32   of the frame, from byte 0 of the commit
//	   28  length     uint32   of the frame, without padding
//
// then the frames, each on a multiple of 8. The table repeats what the frame
// headers say, so that the loss of either one is known exactly.
type commitHeader struct {
	epoch     epoch
	number    uint64
	timestamp int64
	length    int
	frames    int
}

const (
	commitHeaderSize = 40
	tocEntrySize     = 32
	frameAlign       = 8
)

type tocEntry struct {
	view      record.ViewID
	partition record.Partition
	rows      int
	base      record.Offset
	pos, len  int
}

// put writes the header; the table of contents is already in b.
func (h commitHeader) put(b []byte, id *logID) {
	be.PutUint32(b, commitMagic)
	be.PutUint64(b[8:], uint64(h.epoch))
	be.PutUint64(b[16:], h.number)
	be.PutUint64(b[24:], uint64(h.timestamp))
	be.PutUint32(b[32:], uint32(h.length))
	be.PutUint32(b[36:], uint32(h.frames))
	be.PutUint32(b[4:], id.sum(b[8:commitHeaderSize+h.frames*tocEntrySize]))
}

// decodeCommitHeader reads the header of a commit of segment e at the start of
// b, which reaches to the end of the segment. ok is false for anything else.
func decodeCommitHeader(b []byte, id *logID, e epoch) (h commitHeader, ok bool) {
	if len(b) < commitHeaderSize || be.Uint32(b) != commitMagic || epoch(be.Uint64(b[8:])) != e {
		return h, false
	}
	length, frames := int64(be.Uint32(b[32:])), int64(be.Uint32(b[36:]))
	table := commitHeaderSize + frames*tocEntrySize
	if length > int64(len(b)) || table > length || be.Uint32(b[4:]) != id.sum(b[8:table]) {
		return h, false
	}
	return commitHeader{
		epoch: e, number: be.Uint64(b[16:]), timestamp: int64(be.Uint64(b[24:])), length: int(length), frames: int(frames),
	}, true
}

func (t tocEntry) put(b []byte) {
	be.PutUint64(b, uint64(t.view))
	be.PutUint32(b[8:], uint32(t.partition))
	be.PutUint32(b[12:], uint32(t.rows))
	be.PutUint64(b[16:], uint64(t.base))
	be.PutUint32(b[24:], uint32(t.pos))
	be.PutUint32(b[28:], uint32(t.len))
}

// tocAt reads entry i of the commit at the start of b.
func tocAt(b []byte, i int) tocEntry {
	b = b[commitHeaderSize+i*tocEntrySize:]
	return tocEntry{
		view: record.ViewID(be.Uint64(b)), partition: record.Partition(be.Uint32(b[8:])), rows: int(be.Uint32(b[12:])),
		base: record.Offset(be.Uint64(b[16:])), pos: int(be.Uint32(b[24:])), len: int(be.Uint32(b[28:])),
	}
}

// frameKind says what a frame's payload is.
type frameKind uint8

const (
	// rowsFrame holds one record batch.
	rowsFrame frameKind = iota + 1
	// emptyFrame has no payload: a producer's request without rows, which
	// takes up a sequence number.
	emptyFrame
	// viewsFrame holds the offsets of all views (checkpoint.go).
	viewsFrame
	// producersFrame holds some of the producers' outcomes (checkpoint.go).
	producersFrame
	// releaseFrame holds released offsets of one view, int64 per partition.
	releaseFrame
	// dropFrame says that its view is gone.
	dropFrame
	// closeFrame is the last one that a clean shutdown writes.
	closeFrame
)

// frameHeader stands before each payload:
//
//	 0  magic "TCFR"
//	 4  CRC-32C           uint32  of bytes 8 to 88
//	 8  epoch             uint64
//	16  commit            uint64  number of the commit it belongs to
//	24  view              int64
//	32  partition         int32
//	36  kind              uint8
//	37  flags             uint8   1: has a producer, 2: by random key (Once)
//	38  zero              uint16
//	40  base offset       int64
//	48  rows              uint32
//	52  payload length    uint32
//	56  payload CRC-32C   uint32  0 for rows: a record batch has its own
//	60  producer epoch    int32
//	64  producer sequence int64
//	72  producer id       16 bytes
//	88  the payload
type frameHeader struct {
	epoch      epoch
	commit     uint64
	view       record.ViewID
	partition  record.Partition
	kind       frameKind
	base       record.Offset
	rows       int
	payload    int
	payloadSum uint32
	producer   *hotbuffer.Producer
}

const (
	frameHeaderSize = 88

	flagProducer = 1
	flagOnce     = 2
)

func (h *frameHeader) put(b []byte, id *logID) {
	be.PutUint32(b, frameMagic)
	be.PutUint64(b[8:], uint64(h.epoch))
	be.PutUint64(b[16:], h.commit)
	be.PutUint64(b[24:], uint64(h.view))
	be.PutUint32(b[32:], uint32(h.partition))
	b[36] = byte(h.kind)
	be.PutUint64(b[40:], uint64(h.base))
	be.PutUint32(b[48:], uint32(h.rows))
	be.PutUint32(b[52:], uint32(h.payload))
	be.PutUint32(b[56:], h.payloadSum)
	if p := h.producer; p != nil {
		b[37] = flagProducer
		if p.Once {
			b[37] |= flagOnce
		}
		be.PutUint32(b[60:], uint32(p.Epoch))
		be.PutUint64(b[64:], uint64(p.Sequence))
		copy(b[72:], p.ID[:])
	}
	be.PutUint32(b[4:], id.sum(b[8:frameHeaderSize]))
}

// decodeFrameHeader reads the header of a frame of segment e at the start of
// b; ok is false for anything else, and where the payload would not fit in b.
func decodeFrameHeader(b []byte, id *logID, e epoch) (h frameHeader, ok bool) {
	if len(b) < frameHeaderSize || be.Uint32(b) != frameMagic || epoch(be.Uint64(b[8:])) != e ||
		be.Uint32(b[4:]) != id.sum(b[8:frameHeaderSize]) || int64(be.Uint32(b[52:])) > int64(len(b)-frameHeaderSize) {
		return h, false
	}
	h = frameHeader{
		epoch: e, commit: be.Uint64(b[16:]),
		view: record.ViewID(be.Uint64(b[24:])), partition: record.Partition(be.Uint32(b[32:])), kind: frameKind(b[36]),
		base: record.Offset(be.Uint64(b[40:])), rows: int(be.Uint32(b[48:])),
		payload: int(be.Uint32(b[52:])), payloadSum: be.Uint32(b[56:]),
	}
	if b[37]&flagProducer != 0 {
		h.producer = &hotbuffer.Producer{Epoch: int32(be.Uint32(b[60:])), Sequence: int64(be.Uint64(b[64:])), Once: b[37]&flagOnce != 0}
		copy(h.producer.ID[:], b[72:])
	}
	return h, true
}

// checkPayload validates what follows the header; a rows frame's batch is
// returned.
func (h *frameHeader) checkPayload(payload []byte, id *logID) (record.Batch, error) {
	if h.kind != rowsFrame {
		if sum := id.sum(payload); sum != h.payloadSum {
			return record.Batch{}, fmt.Errorf("payload checksum %08x instead of %08x: %w", sum, h.payloadSum, record.ErrCorrupt)
		}
		return record.Batch{}, nil
	}
	batch, rest, err := record.ParseBatch(payload)
	switch {
	case err != nil:
		return record.Batch{}, err
	case len(rest) != 0 || batch.BaseOffset() != h.base || batch.Len() != h.rows:
		return record.Batch{}, fmt.Errorf("batch [%v,%v) under the header of [%v,%v): %w", batch.BaseOffset(), batch.End(), h.base, h.base+record.Offset(h.rows), record.ErrCorrupt)
	case be.Uint32(payload[12:]) != ^uint32(0):
		// The leader epoch is outside the batch's own checksum.
		return record.Batch{}, fmt.Errorf("batch [%v,%v) has a leader epoch: %w", batch.BaseOffset(), batch.End(), record.ErrCorrupt)
	}
	return batch, nil
}

// align rounds n up to a multiple of unit, a power of two.
func align[T int | int64](n, unit T) T { return (n + unit - 1) &^ (unit - 1) }
