package record

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"sync"
)

// BatchOptions say how AppendBatch encodes.
type BatchOptions struct {
	// Codec compresses the records: None, Snappy, LZ4 or Zstd. A batch that
	// would grow is stored plain.
	Codec Codec
	// Timestamp is the append time in milliseconds since 1970 UTC. The batch
	// is marked LogAppendTime: the header's MaxTimestamp counts for all rows.
	Timestamp int64
	// BaseOffset may be 0 and be set later with SetBaseOffset.
	BaseOffset Offset
}

// recordOverhead is the most that a record adds to its key and value: five
// varints of at most 5 bytes, and attributes, timestamp delta and header
// count of one byte each.
const recordOverhead = 4*binary.MaxVarintLen32 + 3

// MaxEncodedSize is the most that AppendBatch adds to dst for that many rows
// whose keys and values have that many bytes together.
func MaxEncodedSize(rows, bytes int) int { return HeaderSize + bytes + rows*recordOverhead }

// plainPool holds the plain records of batches that are being compressed.
var plainPool = sync.Pool{New: func() any { return new([]byte) }}

// maxPooled keeps one enormous batch from staying in a pool for ever.
const maxPooled = 4 << 20

// AppendBatch encodes rows [from, to) as one record batch v2 at the end of dst.
// An empty range appends nothing. The caller keeps the batch below
// MaxBatchBytes (see MaxEncodedSize); a larger one will not be read back.
func AppendBatch(dst []byte, rows *Rows, from, to int, o BatchOptions) []byte {
	if from >= to {
		return dst
	}
	start := len(dst)
	codec := o.Codec
	if codec == None {
		dst = slices.Grow(dst, MaxEncodedSize(to-from, rows.bytesOf(from, to)))
		dst = appendRecords(dst[:start+HeaderSize], rows, from, to)
	} else {
		scratch := plainPool.Get().(*[]byte)
		plain := slices.Grow((*scratch)[:0], MaxEncodedSize(to-from, rows.bytesOf(from, to)))
		plain = appendRecords(plain, rows, from, to)

		dst = slices.Grow(dst, HeaderSize+len(plain))[:start+HeaderSize]
		dst = appendCompressed(dst, codec, plain)
		if len(dst)-start-HeaderSize >= len(plain) {
			codec = None
			dst = append(dst[:start+HeaderSize], plain...)
		}
		if cap(plain) <= maxPooled {
			*scratch = plain
			plainPool.Put(scratch)
		}
	}

	b := dst[start:]
	be := binary.BigEndian
	be.PutUint64(b[baseOffsetAt:], uint64(o.BaseOffset))
	be.PutUint32(b[lengthAt:], uint32(len(b)-lengthEnd))
	be.PutUint32(b[leaderEpochAt:], ^uint32(0))
	b[magicAt] = magic
	be.PutUint16(b[attributesAt:], uint16(codec)|logAppendTime)
	be.PutUint32(b[lastOffsetDeltaAt:], uint32(to-from-1))
	be.PutUint64(b[producerIDAt:], ^uint64(0))
	be.PutUint16(b[producerEpochAt:], ^uint16(0))
	be.PutUint32(b[baseSequenceAt:], ^uint32(0))
	be.PutUint32(b[recordsAt:], uint32(to-from))
	SetTimestamp(b, o.Timestamp)
	return dst
}

// appendRecords writes rows [from, to); dst has room for all of them.
func appendRecords(dst []byte, rows *Rows, from, to int) []byte {
	start := uint32(0)
	if from > 0 {
		start = rows.ends[from-1].value
	}
	b := dst[:cap(dst)]
	n := len(dst)
	for i, e := range rows.ends[from:to] {
		key, value := rows.buf[start:e.key], rows.buf[e.key:e.value]
		start = e.value
		// Zigzag of a number that is not negative is twice the number; of -1 it is 1.
		delta, valueLen := uint64(i)<<1, uint64(len(value))<<1
		keyLen := uint64(len(key)) << 1
		if e.keyNull {
			keyLen = 1
		}
		body := 3 + uvarintLen(delta) + uvarintLen(keyLen) + len(key) + uvarintLen(valueLen) + len(value)
		n += binary.PutUvarint(b[n:], uint64(body)<<1)
		b[n], b[n+1] = 0, 0 // attributes, timestamp delta
		n += 2
		n += binary.PutUvarint(b[n:], delta)
		n += binary.PutUvarint(b[n:], keyLen)
		n += copy(b[n:], key)
		n += binary.PutUvarint(b[n:], valueLen)
		n += copy(b[n:], value)
		b[n] = 0 // headers
		n++
	}
	return b[:n]
}

// recordSize is the size of record number i of a batch.
func recordSize(i, keyLen, valueLen int, keyNull bool) int {
	k := uint64(keyLen) << 1
	if keyNull {
		k = 1
	}
	body := 3 + uvarintLen(uint64(i)<<1) + uvarintLen(k) + keyLen + uvarintLen(uint64(valueLen)<<1) + valueLen
	return uvarintLen(uint64(body)<<1) + body
}

func uvarintLen(x uint64) int { return (bits.Len64(x|1) + 6) / 7 }
