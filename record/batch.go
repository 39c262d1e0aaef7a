package record

// SKELETON (signatures are the contract between packages; bodies to be written).

// Codec is the compression of a batch: the three low bits of its attributes.
type Codec int8

const (
	None   Codec = 0
	Gzip   Codec = 1 // decoded only
	Snappy Codec = 2
	LZ4    Codec = 3
	Zstd   Codec = 4
)

// HeaderSize is the length of an encoded batch's fixed part, including base
// offset and length.
const HeaderSize = 61

// BatchOptions say how AppendBatch encodes.
type BatchOptions struct {
	// Codec compresses the records. A batch that would grow is stored plain.
	Codec Codec
	// Timestamp is the append time in milliseconds since 1970 UTC. The batch
	// is marked LogAppendTime: the header's MaxTimestamp counts for all rows.
	Timestamp int64
	// BaseOffset may be 0 and be set later with SetBaseOffset.
	BaseOffset Offset
}

// AppendBatch encodes rows [from, to) as one record batch v2 at the end of dst.
func AppendBatch(dst []byte, rows *Rows, from, to int, o BatchOptions) []byte { panic("skeleton") }

// Batch is one encoded, validated record batch. It points into the bytes it
// was parsed from and is immutable.
type Batch struct{ raw []byte }

// ParseBatch validates the header, length and CRC-32C of the one batch at the
// start of b (limits before allocation) and returns it with the bytes after it.
// Damage is ErrCorrupt.
func ParseBatch(b []byte) (batch Batch, rest []byte, err error) { panic("skeleton") }

func (b Batch) Bytes() []byte      { return b.raw }
func (b Batch) BaseOffset() Offset { panic("skeleton") }

// End is the offset after the last row.
func (b Batch) End() Offset { panic("skeleton") }

// Len is the number of rows.
func (b Batch) Len() int     { panic("skeleton") }
func (b Batch) Codec() Codec { panic("skeleton") }

// Timestamp is the append time of all rows, milliseconds since 1970 UTC.
func (b Batch) Timestamp() int64 { panic("skeleton") }

// SetBaseOffset and SetTimestamp stamp an encoded batch that is not shared
// yet: the base offset lies outside the checksum; SetTimestamp recomputes it.
func SetBaseOffset(batch []byte, o Offset)       { panic("skeleton") }
func SetTimestamp(batch []byte, unixMilli int64) { panic("skeleton") }

// Reader iterates over the rows of batches. It owns the buffers that
// decompression needs and may be reused for any number of batches; the zero
// value is ready. Not safe for concurrent use.
type Reader struct{ _ []byte }

// Reset begins batch b. Decompressed size is bounded by MaxBatchBytes.
func (r *Reader) Reset(b Batch) error { panic("skeleton") }

// Next returns the next row; ok is false at the end or after an error (Err).
// key (nil if null) and value point into r's buffers, valid until Reset.
func (r *Reader) Next() (o Offset, key, value []byte, ok bool) { panic("skeleton") }

// Err is what stopped Next early: always ErrCorrupt.
func (r *Reader) Err() error { panic("skeleton") }

// MaxBatchBytes bounds an encoded batch, and a decoded one.
const MaxBatchBytes = 64 << 20
