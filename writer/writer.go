// Package writer takes publish requests: it turns the rows of a request into
// Avro by the branch's compiled program, spreads them over partitions, and
// appends them to the hot buffer as one atomic group.
//
// It knows no HTTP and no cold data, and does not decide which branches exist:
// Branches tells it.
package writer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// MaxRowBytes bounds one encoded row, its key included.
const MaxRowBytes = 1 << 20

// MaxRequestBytes bounds the encoded rows of a request, with 12 bytes for each:
// what the hot buffer takes at a time.
const MaxRequestBytes = 96 << 20

// MaxListed bounds how many rejected rows a result lists; all are counted.
const MaxListed = 1000

// Branches finds the branch that a request is for.
type Branches interface {
	// Enter returns the target of appends to a branch and keeps its view from
	// being replaced (by a reset) until leave is called. It does not block for
	// longer than a replacement under way takes. Unknown: record.ErrNotFound.
	Enter(ctx context.Context, stream, branch string) (t Target, leave func(), err error)
}

// Target is what an append needs to know of a branch; immutable.
type Target struct {
	View       record.ViewID
	Schema     *schema.Schema
	Partitions int
	KeyFields  []string
	// Version changes with anything above, and never comes back.
	Version int64
}

// Format is the encoding of a request's body.
type Format string

const (
	JSON  Format = "json"  // an array, {"rows": […]}, or NDJSON
	Avro  Format = "avro"  // an object container file
	Arrow Format = "arrow" // an IPC stream
)

// Request is one publish.
type Request struct {
	Stream, Branch string
	Format         Format
	Body           []byte
	// SkipInvalid appends the good rows of a request that has bad ones.
	// Otherwise one bad row rejects the request.
	SkipInvalid bool
	// IgnoreUnknown drops fields that the schema does not have, instead of
	// rejecting their rows. JSON only: Avro and Arrow bodies declare their
	// fields up front, and unknown ones are then dropped with it too.
	IgnoreUnknown bool
	// Producer makes a retry safe; nil: none.
	Producer *Producer
	// IdempotencyKey does so for a single request; empty: none.
	IdempotencyKey string
}

// Producer names a sequence of requests.
type Producer struct {
	Name     string
	Epoch    int32
	Sequence int64
}

// Result is the outcome of a publish.
type Result struct {
	// Rows is how many rows were appended (by the first attempt, for a
	// duplicate).
	Rows int64
	// Ranges holds their offsets.
	Ranges    []hotbuffer.PartRange
	Duplicate bool
	// Rejected lists the first MaxListed bad rows of RejectedRows.
	Rejected     []*schema.RowError
	RejectedRows int64
}

// RejectedError says that nothing was appended because rows were bad. It is
// record.ErrInvalid.
type RejectedError struct {
	Rows  []*schema.RowError // the first MaxListed
	Total int64              // bad rows
	Of    int64              // rows in the request
}

func (e *RejectedError) Error() string {
	s := fmt.Sprintf("publish: %d of %d rows rejected, nothing was appended", e.Total, e.Of)
	if len(e.Rows) > 0 {
		s += ": " + e.Rows[0].Error()
	}
	return s
}

// Is makes errors.Is(err, record.ErrInvalid) true.
func (e *RejectedError) Is(target error) bool { return target == record.ErrInvalid }

// Writer publishes rows. Safe for concurrent use.
type Writer struct {
	branches Branches
	buffer   hotbuffer.Buffer

	mu       sync.Mutex
	programs map[record.ViewID]*program
}

// New returns a Writer over a hot buffer.
func New(branches Branches, buffer hotbuffer.Buffer) *Writer {
	return &Writer{branches: branches, buffer: buffer, programs: map[record.ViewID]*program{}}
}

// Publish appends the rows of one request; when it returns nil they are durable
// and visible. It is all or nothing but for SkipInvalid. Errors of the request
// itself are record.ErrInvalid (RejectedError where rows are bad); those of the
// hot buffer are passed on.
func (w *Writer) Publish(ctx context.Context, q Request) (Result, error) {
	producer, err := q.producer()
	if err != nil {
		return Result{}, err
	}
	t, leave, err := w.branches.Enter(ctx, q.Stream, q.Branch)
	if err != nil {
		return Result{}, err
	}
	defer leave()
	p, err := w.program(t)
	if err != nil {
		return Result{}, fmt.Errorf("publish to %s: %w", q.Stream, err)
	}
	in := intakes.Get().(*intake)
	defer in.recycle()
	in.begin(p)
	err = in.decode(ctx, q)
	switch {
	case err != nil:
		err = fmt.Errorf("publish to %s: %w", q.Stream, err)
	case in.rejected > 0 && !q.SkipInvalid:
		err = &RejectedError{Rows: in.listed, Total: in.rejected, Of: in.row}
	}
	if err != nil {
		if out, ok := w.appended(ctx, t.View, producer); ok {
			return out, nil
		}
		return Result{}, err
	}
	out := Result{Rejected: in.listed, RejectedRows: in.rejected}
	if in.row == in.rejected && producer == nil {
		return out, nil // no rows: nothing to remember
	}
	got, err := w.buffer.Append(ctx, t.View, hotbuffer.Append{Parts: in.parts(), Producer: producer})
	if err != nil {
		return Result{}, fmt.Errorf("publish to %s: %w", q.Stream, err)
	}
	return out.with(got.Ranges, got.Duplicate), nil
}

func (r Result) with(ranges []hotbuffer.PartRange, duplicate bool) Result {
	r.Ranges, r.Duplicate = ranges, duplicate
	for _, p := range ranges {
		r.Rows += p.Len()
	}
	return r
}

// appended looks for an earlier attempt of a request whose rows are refused now:
// the schema may have changed in between, and a retry must still learn that its
// rows are in. The hot buffer tells only the newest request of a producer, which
// is the one that a producer repeats, and nothing of idempotency keys.
func (w *Writer) appended(ctx context.Context, v record.ViewID, p *hotbuffer.Producer) (Result, bool) {
	if p == nil || p.Once {
		return Result{}, false
	}
	newest, ranges, err := w.buffer.Newest(ctx, v, p.ID)
	if err != nil || newest.Epoch != p.Epoch || newest.Sequence != p.Sequence {
		return Result{}, false
	}
	return Result{}.with(ranges, true), true
}

func (q *Request) unknownFields() schema.UnknownFields {
	if q.IgnoreUnknown {
		return schema.Ignore
	}
	return schema.Reject
}

const maxNameBytes = 256

// producer checks the request's idempotence and hashes its name.
func (q *Request) producer() (*hotbuffer.Producer, error) {
	name, once := q.IdempotencyKey, true
	p := hotbuffer.Producer{Once: true}
	if q.Producer != nil {
		if q.IdempotencyKey != "" {
			return nil, fmt.Errorf("publish to %s: Producer-Id and Idempotency-Key exclude each other; send one of them: %w", q.Stream, record.ErrInvalid)
		}
		name, once = q.Producer.Name, false
		p = hotbuffer.Producer{Epoch: q.Producer.Epoch, Sequence: q.Producer.Sequence}
		if name == "" || p.Epoch < 0 || p.Sequence < 0 {
			return nil, fmt.Errorf("publish to %s: a producer needs an id, and an epoch and a sequence of 0 or more: %w", q.Stream, record.ErrInvalid)
		}
	}
	if name == "" {
		return nil, nil
	}
	if len(name) > maxNameBytes {
		return nil, fmt.Errorf("publish to %s: the producer id or idempotency key has %d bytes, at most %d are allowed: %w", q.Stream, len(name), maxNameBytes, record.ErrInvalid)
	}
	p.ID = ProducerID(name, once)
	return &p, nil
}

// ProducerID is the identity under which the log remembers a producer's name,
// or an idempotency key (once); the two never meet.
func ProducerID(name string, once bool) hotbuffer.ProducerID {
	kind := "producer:"
	if once {
		kind = "once:"
	}
	sum := sha256.Sum256([]byte(kind + name))
	return hotbuffer.ProducerID(sum[:16])
}
