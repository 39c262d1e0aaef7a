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

// Target is the branch to read, as it stood when the read began. Of a dataset
// without a stream only Table is set.
type Target struct {
	View   record.ViewID
	Number record.ViewNumber
	Table  string // dataset id
	Schema *schema.Schema
}

// Tables loads datasets and tells of commits to them; *dataset.Datasets does.
type Tables interface {
	Load(ctx context.Context, id string) (*dataset.Table, error)
	// Commits counts the commits that may have brought or taken guest rows, and
	// Watch calls wake behind each of them.
	Commits(id string) uint64
	Watch(id string, wake func()) (stop func())
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
	ends    ends
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
	Columns []string // dotted paths; nil: all
	Where   string   // see schema/predicate; empty: all rows
	From    Start
	// Partitions are those to read; nil: all, also those that the branch gains
	// later. Rows of the others are neither read nor waited for, and cursors
	// have for them what From has. An epoch has the rows of these partitions, and
	// is left out where that is none. One that does not exist yet is waited for.
	Partitions  []record.Partition
	Limit       int64 // rows; 0: no limit. Bounded reads only.
	Consistency Consistency
	// Version reads a past version of the table. Bounded reads only.
	Version *Version
	System  bool // also the columns _view, _partition_id, _offset, _timestamp
}

// Batch is a piece of a read. In a read of exactly-once consistency no batch
// runs across a checkpoint.
type Batch struct {
	// Rows holds at least one row, or is nil where the batch only tells the
	// position. It belongs to the iterator and is released when the loop body
	// ends: Retain it to keep it.
	Rows arrow.RecordBatch
	// Next is the position behind Rows, and behind most rows that the predicate
	// dropped: those that come again from here are dropped again.
	Next Cursor
	// Epoch is the number of the checkpoint that made Rows visible; 0 in reads
	// of at-least-once consistency and in bounded reads. An epoch has the same
	// rows whenever it is read, as long as its checkpoint and the one before
	// are kept (CheckpointOptions.Keep). A reader that comes later gets what it
	// missed as a part of the oldest epoch that is left.
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
// cursor; exactly once, what it holds up to the newest checkpoint. Memory is
// bounded whatever the size. Errors, from Read itself or from the iteration:
// record.ErrInvalid (request), record.ErrOutOfRange (the cursor is of another
// view or from the future), ErrViewGone, record.ErrCorrupt.
func (r *Reader) Read(ctx context.Context, t Target, q Request) (*Result, error) {
	version := q.Version != nil && (q.Version.Until == nil || q.Version.Until.View != t.View || *q.Version != Version{Until: q.Version.Until})
	if t.View == 0 || version {
		return r.readVersion(ctx, t, q)
	}
	p, err := newPlan(t, q)
	if err != nil {
		return nil, err
	}
	from, err := r.begin(ctx, t, q)
	if err != nil {
		return nil, err
	}
	to, err := r.end(ctx, t, q, p.parts, from)
	if err == nil && q.Version != nil {
		to, err = r.until(ctx, t, q, from, to)
	}
	if err != nil {
		return nil, err
	}
	return &Result{Schema: p.out, Batches: func(yield func(Batch, error) bool) {
		d := &delivery{plan: p, pos: from, limit: q.Limit, yield: yield}
		if err := r.guests(ctx, t, d, to.Guests, false); err != nil {
			if !stopped(err) {
				yield(Batch{}, err)
			}
			return
		}
		to.Guests, to.Within = d.pos.Guests, d.pos.Within
		for c, err := range r.stitch(ctx, t, p, from.Next, p.parts.of(to.Next)) {
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

// end is the closing cursor of a bounded read: behind every row that the read
// may see now, and not before from.
func (r *Reader) end(ctx context.Context, t Target, q Request, parts *partitions, from Cursor) (Cursor, error) {
	if q.Consistency == catalog.ExactlyOnce {
		c, err := r.checks.Latest(ctx, t.View)
		// Rows behind the newest checkpoint are not visible yet.
		return Cursor{View: t.View, Next: greatest(from.Next, parts.of(c.Cut)), Checkpoint: max(from.Checkpoint, c.Number), Guests: max(from.Guests, c.Guests)}, err
	}
	guests, err := r.guestEnd(ctx, t, guestsAge)
	if err != nil {
		return Cursor{}, err
	}
	ends, err := r.buffer.Ends(t.View)
	return Cursor{View: t.View, Next: greatest(from.Next, parts.of(ends.End)), Checkpoint: from.Checkpoint, Guests: max(from.Guests, guests)}, gone(t, err)
}

// Tail returns rows as they become visible and never ends by itself: at least
// once as soon as they are durable, exactly once epoch by epoch. It holds no
// lock and no rows while it waits. From the latest row, the first batch only tells
// the position. It ends with an error when ctx does, when the
// view was replaced or deleted (ErrViewGone), when rows come that no longer fit
// its schema (record.ErrConflict: tail on from the last cursor), or when the
// buffer closes (record.ErrClosed).
//
// Errors are those of Read, from Tail itself or from the iteration.
func (r *Reader) Tail(ctx context.Context, t Target, q Request) (*Result, error) {
	if t.View == 0 {
		return nil, fmt.Errorf("tail: a dataset without a stream cannot be followed; read it, or start a stream on it: %w", record.ErrInvalid)
	}
	if q.Version != nil {
		return nil, fmt.Errorf("tail: a version is for bounded reads only; read it, and tail from its closing cursor: %w", record.ErrInvalid)
	}
	if q.Limit != 0 {
		return nil, fmt.Errorf("tail: a limit is for bounded reads only: %w", record.ErrInvalid)
	}
	p, err := newPlan(t, q)
	if err != nil {
		return nil, err
	}
	p.memory = tailMemory
	from, err := r.begin(ctx, t, q)
	if err != nil {
		return nil, err
	}
	follow := r.follow
	if q.Consistency == catalog.ExactlyOnce {
		follow = r.followEpochs
	}
	return &Result{Schema: p.out, Batches: func(yield func(Batch, error) bool) {
		// A subscriber who is cut before the first row must know where to go on:
		// another "latest" would leave rows out.
		if q.From.Latest && !yield(Batch{Next: from}, nil) {
			return
		}
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
	if c := q.From.Cursor; c != nil && c.View != t.View {
		return Cursor{}, fmt.Errorf("%w: read again from \"earliest\"", ErrOtherView)
	}
	cp, ends, err := r.bounds(ctx, t)
	if err != nil {
		return Cursor{}, err
	}
	switch c := q.From.Cursor; {
	case c != nil && !ends.End.Covers(c.Next):
		p := firstBeyond(c.Next, ends.End)
		return Cursor{}, fmt.Errorf("the cursor stands at offset %v of partition %v, but view %s ends at %v there: use a cursor of this stream, or \"earliest\": %w",
			c.Next.At(p), p, t.View, ends.End.At(p), record.ErrOutOfRange)
	case c != nil:
		return *c, r.WithinGuests(ctx, t, *c)
	case !q.From.Latest:
		return Cursor{View: t.View}, nil
	case q.Consistency == catalog.ExactlyOnce:
		at := cursorAt(cp)
		at.View = t.View // there may be none yet
		return at, nil
	}
	guests, err := r.guestEnd(ctx, t, guestsAge)
	return Cursor{View: t.View, Next: ends.End, Checkpoint: cp.Number, Guests: guests}, err
}

// cursorAt stands at a checkpoint.
func cursorAt(cp catalog.Checkpoint) Cursor {
	return Cursor{View: cp.View, Next: cp.Cut, Checkpoint: cp.Number, Guests: cp.Guests}
}

// bounds returns the newest checkpoint and the ends of the hot rows.
func (r *Reader) bounds(ctx context.Context, t Target) (catalog.Checkpoint, hotbuffer.Ends, error) {
	// In this order, because rows that come meanwhile move both.
	cp, err := r.checks.Latest(ctx, t.View)
	if err != nil {
		return catalog.Checkpoint{}, hotbuffer.Ends{}, err
	}
	ends, err := r.buffer.Ends(t.View)
	if err != nil {
		return catalog.Checkpoint{}, hotbuffer.Ends{}, gone(t, err)
	}
	if !ends.End.Covers(cp.Cut) {
		return catalog.Checkpoint{}, hotbuffer.Ends{}, lostRows(t.View, cp, ends.End)
	}
	return cp, ends, nil
}

// ErrOtherView: the cursor belongs to a view that a reset has replaced, or to
// another branch. It is record.ErrOutOfRange.
var ErrOtherView = fmt.Errorf("the cursor is of another view of this stream, or of another stream: %w", record.ErrOutOfRange)

// ErrViewGone: a reset has replaced the view, or its stream was deleted, while
// it was being read. It is record.ErrNotFound.
var ErrViewGone = fmt.Errorf("the view is gone, because a reset has begun a new one or the stream was deleted: %w", record.ErrNotFound)

// gone explains an error of the hot buffer or of the dataset that says that t is
// no longer there.
func gone(t Target, err error) error {
	if !errors.Is(err, record.ErrNotFound) || errors.Is(err, ErrViewGone) {
		return err
	}
	return fmt.Errorf("read view %s: %w; read on from \"earliest\" of the new view, the rows of the old one stay in the dataset's history (%s)", t.View, ErrViewGone, err.Error())
}

// follow delivers rows as they become durable, and guest rows as they are
// committed.
func (r *Reader) follow(ctx context.Context, t Target, d *delivery) error {
	woken, stop := r.watch(ctx, t)
	defer func() { stop() }()
	for {
		if woken.Err() != nil {
			stop()
			// Before the look at the table: what is committed behind it wakes us.
			woken, stop = r.watch(ctx, t)
		}
		guests, err := r.guestEnd(ctx, t, guestsAge)
		if err != nil {
			return err
		}
		if err := r.guests(ctx, t, d, guests, true); err != nil {
			return err
		}
		ends, err := r.buffer.Ends(t.View)
		if err != nil {
			return gone(t, err)
		}
		end := d.plan.parts.of(ends.End)
		for c, err := range r.stitch(ctx, t, d.plan, d.pos.Next, end) {
			if err != nil {
				return err
			}
			if !d.deliver(ctx, c) {
				return errStopped
			}
		}
		if !d.caughtUp(end) {
			return errStopped
		}
		err = r.buffer.Wait(woken, t.View, d.plan.parts.beyond(d.pos.Next))
		if err != nil && (woken.Err() == nil || ctx.Err() != nil) {
			return gone(t, err)
		}
	}
}

// epochsAhead is how many epochs one pass over the stitched rows may deliver:
// a subscriber far behind reads many with one look at the dataset.
const epochsAhead = 4096

// followEpochs delivers epoch after epoch. The total order of a view never runs
// across a checkpoint, so that one pass yields each epoch's rows together.
func (r *Reader) followEpochs(ctx context.Context, t Target, d *delivery) error {
	parts := d.plan.parts
	for {
		checks, err := r.checks.After(ctx, t.View, parts.ahead(d.pos), epochsAhead)
		if err != nil {
			return err
		}
		if checks = parts.epochs(d.pos, checks); len(checks) == 0 {
			if err := r.checks.Wait(ctx, t.View, parts.ahead(d.pos)); err != nil {
				return gone(t, err)
			}
			continue
		}
		for len(checks) > 0 {
			n := 1
			for n < len(checks) && checks[n].Guests <= max(d.pos.Guests, checks[0].Guests) {
				n++
			}
			if err := r.epochs(ctx, t, d, checks[:n]); err != nil {
				return err
			}
			checks = checks[n:]
		}
	}
}

// epochs delivers the rows of epochs of which only the first one has guest rows.
func (r *Reader) epochs(ctx context.Context, t Target, d *delivery, checks []catalog.Checkpoint) error {
	d.epochs = checks
	if err := r.guests(ctx, t, d, checks[0].Guests, false); err != nil {
		return err
	}
	for c, err := range r.stitch(ctx, t, d.plan, d.pos.Next, d.plan.parts.of(checks[len(checks)-1].Cut)) {
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
	return nil
}
