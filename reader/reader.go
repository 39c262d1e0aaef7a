// Package reader gives one ordered view over the cold and the hot half of a
// branch: bounded reads, held-open reads, at least once and exactly once.
//
// It writes nothing but checkpoints, and knows neither names nor HTTP: Target
// says what to read.
package reader

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Target is the branch to read, as it stood when the read began.
type Target struct {
	View   record.ViewID
	Number record.ViewNumber
	Table  string // dataset id
	Schema *schema.Schema
}

// Tables loads datasets; *dataset.Datasets does.
type Tables interface {
	Load(ctx context.Context, id string) (*dataset.Table, error)
}

// Schemas finds the schema that a row was written with; *catalog.Catalog does.
type Schemas interface {
	SchemaByID(ctx context.Context, id int32) (*schema.Schema, error)
}

// Reader reads branches. Safe for concurrent use.
type Reader struct {
	buffer  hotbuffer.Buffer
	tables  Tables
	schemas Schemas
	checks  *Checkpointer
}

// New returns a Reader.
func New(buffer hotbuffer.Buffer, tables Tables, schemas Schemas, checks *Checkpointer) *Reader {
	return &Reader{buffer: buffer, tables: tables, schemas: schemas, checks: checks}
}

// Consistency says which rows a read sees.
type Consistency = catalog.Consistency

// Start is where a read begins.
type Start struct {
	// Cursor goes on behind an earlier read. Nil: see Latest.
	Cursor *Cursor
	// Latest begins at the end as it is now, otherwise at the earliest row.
	Latest bool
}

// Request is one read.
type Request struct {
	Columns     []string // dotted paths; nil: all
	Where       string   // see schema/predicate; empty: all rows
	From        Start
	Limit       int64 // rows; 0: no limit. Bounded reads only.
	Consistency Consistency
	System      bool // also the columns _view, _partition, _offset, _timestamp
}

// Batch is a piece of a read. In a read of exactly-once consistency no batch
// runs across a checkpoint.
type Batch struct {
	// Rows holds at least one row, or is nil where the batch only tells the
	// position. It belongs to the iterator and is released when the loop body
	// ends: Retain it to keep it.
	Rows arrow.RecordBatch
	// Next is the position behind Rows (and behind rows that the predicate
	// dropped).
	Next Cursor
	// Epoch is the number of the checkpoint that made Rows visible; 0 in reads
	// of at-least-once consistency and in bounded reads.
	Epoch int64
	// EpochEnd: with this batch the epoch is complete, and Next stands at its
	// checkpoint.
	EpochEnd bool
}

// Result is a read that has begun. Iterate over Batches once.
type Result struct {
	// Schema has the delivered columns; its Arrow() is the batches' schema.
	Schema  *schema.Schema
	Batches iter.Seq2[Batch, error]
}

// Read returns the rows that the branch holds at the moment of the call, in
// the view's order, hot and cold as one. The last batch's Next is the closing
// cursor. Memory is bounded whatever the size. Errors: record.ErrInvalid
// (request), record.ErrOutOfRange (the cursor is of another view or from the
// future), record.ErrCorrupt.
func (r *Reader) Read(ctx context.Context, t Target, q Request) (*Result, error) {
	p, err := newPlan(t, q)
	if err != nil {
		return nil, err
	}
	from, err := r.begin(ctx, t, q)
	if err != nil {
		return nil, err
	}
	to := Cursor{View: t.View}
	if q.Consistency == catalog.ExactlyOnce {
		c, err := r.checks.Latest(ctx, t.View)
		if err != nil {
			return nil, err
		}
		to.Next, to.Checkpoint = c.Cut, c.Number
	} else {
		ends, err := r.buffer.Ends(t.View)
		if err != nil {
			return nil, err
		}
		to.Next = ends.End
	}
	if !to.Next.Covers(from.Next) {
		if q.Consistency != catalog.ExactlyOnce {
			return nil, beyond(from, to.Next)
		}
		to = from // rows behind the newest checkpoint are not visible yet
	}
	return &Result{Schema: p.out, Batches: func(yield func(Batch, error) bool) {
		d := delivery{plan: p, pos: from, limit: q.Limit, yield: yield}
		for c, err := range r.stitch(ctx, t, p, from.Next, to.Next) {
			if err != nil {
				yield(Batch{}, err)
				return
			}
			if !d.deliver(ctx, c) {
				return
			}
		}
		yield(Batch{Next: to}, nil)
	}}, nil
}

// Tail returns rows as they become visible and never ends by itself: at least
// once as soon as they are durable, exactly once epoch by epoch. It holds no
// lock and no memory while it waits. It ends with an error when ctx does, when
// the view is replaced or dropped (record.ErrNotFound), or the buffer closes.
func (r *Reader) Tail(ctx context.Context, t Target, q Request) (*Result, error) {
	if q.Limit != 0 {
		return nil, fmt.Errorf("tail: a limit is for bounded reads only: %w", record.ErrInvalid)
	}
	p, err := newPlan(t, q)
	if err != nil {
		return nil, err
	}
	from, err := r.begin(ctx, t, q)
	if err != nil {
		return nil, err
	}
	follow := r.follow
	if q.Consistency == catalog.ExactlyOnce {
		follow = r.followEpochs
	}
	return &Result{Schema: p.out, Batches: func(yield func(Batch, error) bool) {
		d := &delivery{plan: p, pos: from, yield: yield}
		if err := follow(ctx, t, d); err != nil && !errors.Is(err, errStopped) {
			yield(Batch{}, err)
		}
	}}, nil
}

// errStopped: the consumer left the loop; nothing may be yielded any more.
var errStopped = errors.New("reader: stopped by its consumer")

// begin turns a start into a position of t's view.
func (r *Reader) begin(ctx context.Context, t Target, q Request) (Cursor, error) {
	switch c := q.From.Cursor; {
	case c != nil && c.View != t.View:
		return Cursor{}, fmt.Errorf("%w: read again from \"earliest\"", ErrOtherView)
	case c != nil:
		ends, err := r.buffer.Ends(t.View)
		if err != nil {
			return Cursor{}, err
		}
		if !ends.End.Covers(c.Next) {
			return Cursor{}, beyond(*c, ends.End)
		}
		return *c, nil
	case !q.From.Latest:
		return Cursor{View: t.View}, nil
	case q.Consistency == catalog.ExactlyOnce:
		c, err := r.checks.Latest(ctx, t.View)
		return Cursor{View: t.View, Next: c.Cut, Checkpoint: c.Number}, err
	default:
		ends, err := r.buffer.Ends(t.View)
		return Cursor{View: t.View, Next: ends.End}, err
	}
}

// ErrOtherView: the cursor belongs to a view that a reset has replaced, or to
// another branch. It is record.ErrOutOfRange.
var ErrOtherView = fmt.Errorf("the cursor is of another view of this stream, or of another one: %w", record.ErrOutOfRange)

func beyond(c Cursor, end record.Offsets) error {
	return fmt.Errorf("the cursor stands at %v, beyond the end %v of %s: %w", c.Next, end, c.View, record.ErrOutOfRange)
}

// follow delivers rows as they become durable.
func (r *Reader) follow(ctx context.Context, t Target, d *delivery) error {
	for {
		ends, err := r.buffer.Ends(t.View)
		if err != nil {
			return err
		}
		for c, err := range r.stitch(ctx, t, d.plan, d.pos.Next, ends.End) {
			if err != nil {
				return err
			}
			if !d.deliver(ctx, c) {
				return errStopped
			}
		}
		if err := r.buffer.Wait(ctx, t.View, d.pos.Next); err != nil {
			return err
		}
	}
}

// epochsAhead is how many epochs one pass over the stitched rows may deliver:
// a subscriber far behind reads many with one look at the dataset.
const epochsAhead = 4096

// followEpochs delivers epoch after epoch. The total order of a view never runs
// across a checkpoint, so that one pass yields each epoch's rows together.
func (r *Reader) followEpochs(ctx context.Context, t Target, d *delivery) error {
	for {
		checks, err := r.checks.After(ctx, t.View, d.pos, epochsAhead)
		if err != nil {
			return err
		}
		if len(checks) > 0 {
			d.epochs = checks
			last := checks[len(checks)-1]
			for c, err := range r.stitch(ctx, t, d.plan, d.pos.Next, last.Cut) {
				if err != nil {
					return err
				}
				if !d.deliver(ctx, c) {
					return errStopped
				}
			}
			if !d.endEpochs() {
				return errStopped
			}
			continue
		}
		if err := r.checks.Wait(ctx, t.View, d.pos.Next); err != nil {
			return err
		}
	}
}
