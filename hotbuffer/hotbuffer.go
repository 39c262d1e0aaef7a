// Package hotbuffer is the contract of the hot buffer: where acknowledged rows
// live until they are archived. It knows rows as bytes, views and offsets; no
// schema, no dataset, no network.
//
// Engines (hotbuffer/disk now, hotbuffer/kafka later) implement Buffer and
// pass the conformance suite in hotbuffertest.
package hotbuffer

import (
	"context"
	"time"

	"github.com/thermocline/thermocline/record"
)

// Buffer is a durable, ordered buffer of rows per (view, partition).
// All methods are safe for concurrent use.
type Buffer interface {
	// Open makes a view known, or changes the settings of a known one. Rows
	// that an earlier process appended are there again. Not durable by
	// itself: the catalog is the authority on which views exist.
	Open(ctx context.Context, v record.ViewID, s Settings) error

	// Drop forgets a view and its rows, also of a view never opened in this
	// process. Appends, reads and waits on it fail with ErrNotFound.
	Drop(ctx context.Context, v record.ViewID) error

	// Views lists every view that holds state, opened or not, so that the
	// owner can drop those that the catalog no longer knows.
	Views() []record.ViewID

	// Append adds the rows of one request, to one or more partitions, all or
	// nothing, also across a crash. It returns when they are durable and
	// visible, with the offsets they got. When ctx ends first the outcome is
	// unknown: the rows may become durable.
	//
	// With a Producer, a request whose sequence was appended before returns
	// the first outcome with Duplicate set, and appends nothing.
	//
	// Errors: ErrNotFound (view not open), ErrInvalid, ErrTooLarge, ErrFull
	// and ErrBusy (nothing appended), ErrFenced and ErrOutOfSequence
	// (producer), ErrClosed (the log is closed or poisoned).
	Append(ctx context.Context, v record.ViewID, a Append) (Appended, error)

	// Newest returns the newest request that is remembered of a producer, and
	// the offsets that it got, so that a producer which lost its own state can
	// go on behind it. ErrNotFound: none is remembered.
	Newest(ctx context.Context, v record.ViewID, id ProducerID) (Producer, []PartRange, error)

	// Read returns consecutive whole batches of one partition that begin with
	// the batch holding from (its earlier rows are the caller's to skip), all
	// below the durable end; at least one batch if there is one, then up to
	// about maxBytes. At the durable end it returns none. Below the start or
	// beyond the durable end: ErrOutOfRange. Damage: ErrCorrupt naming the
	// place; undamaged batches before it are returned first. The batches are
	// immutable and stay valid as long as the caller holds them.
	Read(ctx context.Context, v record.ViewID, p record.Partition, from record.Offset, maxBytes int) ([]record.Batch, error)

	// Ends gives per-partition start and durable end, one consistent cut: it
	// holds all of an Append or none of it.
	Ends(v record.ViewID) (Ends, error)

	// Cut returns the durable ends like Ends, and makes sure that every row
	// appended later gets a larger timestamp than every row below the cut.
	// Checkpoints are cuts, so that the total order of a view,
	// (timestamp, partition, offset), never runs across a checkpoint.
	Cut(ctx context.Context, v record.ViewID) (record.Offsets, error)

	// Wait blocks until the durable end of some partition is beyond after, or
	// ctx ends, or the view is dropped (ErrNotFound) or the buffer is closed
	// (ErrClosed).
	Wait(ctx context.Context, v record.ViewID, after record.Offsets) error

	// Release allows rows below through to be deleted; the start may move
	// there now, later or, after a crash, again. Going back is no error;
	// beyond the durable end is ErrOutOfRange, because those rows were never
	// here.
	Release(ctx context.Context, v record.ViewID, through record.Offsets) error

	// Stats returns figures of a view since the process began.
	Stats(v record.ViewID) (Stats, error)

	// Close stops accepting appends, finishes those under way, wakes every
	// waiter and releases all files. Idempotent.
	Close() error
}

// Type is the stream type.
type Type string

const (
	// LowLatency commits each request as soon as the log is free.
	LowLatency Type = "LOW_LATENCY"
	// HighThroughput lingers to let rows of concurrent requests share batches.
	HighThroughput Type = "HIGH_THROUGHPUT"
)

// Settings of a view. Linger and LingerBytes apply to HighThroughput only; 0
// means the default (20 ms, 1 MiB).
type Settings struct {
	Type        Type
	Compressed  bool
	Partitions  int
	Linger      time.Duration
	LingerBytes int
}

// Append is one request.
type Append struct {
	// Parts holds the rows per partition; a partition appears at most once,
	// empty parts are allowed. The engine does not keep or change Rows after
	// Append returned.
	Parts []Part
	// Producer makes a retry safe. Nil: every call appends.
	Producer *Producer
}

// Part is the rows for one partition.
type Part struct {
	Partition record.Partition
	Rows      *record.Rows
}

// ProducerID names a producer within a view: the first 16 bytes of the SHA-256
// of the name it gave, so that the log needs no table of names.
type ProducerID [16]byte

// Producer identifies a request for idempotence.
type Producer struct {
	ID ProducerID
	// Epoch fences: a smaller one than the newest seen is refused with
	// ErrFenced. A larger one starts again at any sequence.
	Epoch int32
	// Sequence counts the requests of a producer, one by one. The first
	// sequence of a producer that is not remembered may be any. A sequence
	// that is neither the next nor among the remembered ones
	// (RememberedSequences) is refused with ErrOutOfSequence.
	Sequence int64
	// Once marks a request by a random key (Idempotency-Key): ID is the key's
	// hash, Sequence is 0. Kept for ProducerRetention.
	Once bool
}

const (
	// RememberedSequences is how many of a producer's last requests can be
	// repeated.
	RememberedSequences = 16
	// ProducerRetention is how long an idle producer is remembered at least,
	// also when its rows have left the hot buffer.
	ProducerRetention = 24 * time.Hour
)

// Appended is the outcome of an Append.
type Appended struct {
	// Ranges holds the offsets of each non-empty part, in the order of Parts
	// for a new append, by partition for a duplicate.
	Ranges []PartRange
	// Duplicate: this request had been appended before; Ranges are of then.
	Duplicate bool
}

// PartRange is an offset range of one partition.
type PartRange struct {
	Partition record.Partition
	record.Range
}

// Ends is a consistent view of a view's limits.
type Ends struct {
	// Start is the first offset held per partition; End the durable end.
	// Both have one entry per partition of the view.
	Start, End record.Offsets
	// LastTimestamp is the append time of the newest row, ms since 1970, 0 if
	// there never was one.
	LastTimestamp int64
}

// Stats are counters and histograms of one view since the process began.
type Stats struct {
	Requests, Duplicates int64
	Rows, Bytes          int64 // rows, and bytes of keys and values, appended
	StoredBytes          int64 // bytes of encoded batches (after compression)
	Batches              int64
	MaxBatchRows         int64
	MaxBatchBytes        int64     // largest batch, before compression
	BatchLimitBytes      int64     // what a batch may grow to
	ReadRows, ReadBytes  int64     // served by Read
	AppendSeconds        Histogram // from Append's call to its durable return
	LingerSeconds        Histogram // waiting for company, HighThroughput
}

// Histogram is a cumulative-free histogram: Counts[i] observations were at most
// Bounds[i] and above Bounds[i-1]; the last count is above all bounds.
type Histogram struct {
	Bounds []float64
	Counts []uint64
	Sum    float64
}
