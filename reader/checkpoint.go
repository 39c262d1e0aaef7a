package reader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// CheckpointStore keeps checkpoints; *catalog.Catalog does.
type CheckpointStore interface {
	// AddCheckpoints stores all or none; its error is a
	// *catalog.CheckpointError where one view's checkpoint is to blame.
	AddCheckpoints(ctx context.Context, cs []catalog.Checkpoint) error
	// LatestCheckpoint returns record.ErrNotFound where there is none.
	LatestCheckpoint(ctx context.Context, v record.ViewID) (catalog.Checkpoint, error)
	CheckpointsAfter(ctx context.Context, v record.ViewID, number int64, limit int) ([]catalog.Checkpoint, error)
	PruneCheckpoints(ctx context.Context, before time.Time, keepLast int) (int64, error)
}

// Checkpointer cuts views into numbered epochs. A checkpoint is complete when it
// is in the catalog; only then do exactly-once readers see its rows. A crash
// before leaves the rows for a later checkpoint, and a cut nobody has seen.
//
// Safe for concurrent use.
type Checkpointer struct {
	buffer hotbuffer.Buffer
	store  CheckpointStore
	views  func() []record.ViewID
	guests func(ctx context.Context, v record.ViewID, look bool) (end int64, known bool, err error)
	every  time.Duration
	keep   time.Duration
	now    func() time.Time
	log    *slog.Logger

	// taking serialises cuts, so that numbers and cuts grow together.
	taking sync.Mutex

	mu     sync.Mutex
	latest map[record.ViewID]catalog.Checkpoint
	moved  chan struct{} // closed and replaced when latest changes
}

// CheckpointOptions configure a Checkpointer; zero values are the defaults.
type CheckpointOptions struct {
	Every time.Duration // 2 s
	// Keep is how long checkpoints stay: a subscriber that was away for longer
	// gets what it missed merged into the oldest epoch that is left. 24 h.
	Keep time.Duration
	// Guests tells how far the guest rows of a view reach, see Reader.GuestEnd.
	// Nil: there are none.
	Guests func(ctx context.Context, v record.ViewID, look bool) (end int64, known bool, err error)
	Now    func() time.Time
	Logger *slog.Logger
}

// NewCheckpointer returns a Checkpointer for the views that views lists.
func NewCheckpointer(buffer hotbuffer.Buffer, store CheckpointStore, views func() []record.ViewID, o CheckpointOptions) *Checkpointer {
	if o.Every <= 0 {
		o.Every = 2 * time.Second
	}
	if o.Keep <= 0 {
		o.Keep = 24 * time.Hour
	}
	if o.Guests == nil {
		o.Guests = func(context.Context, record.ViewID, bool) (int64, bool, error) { return 0, true, nil }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Checkpointer{
		buffer: buffer, store: store, views: views, guests: o.Guests, every: o.Every, keep: o.Keep, now: o.Now, log: o.Logger,
		latest: map[record.ViewID]catalog.Checkpoint{}, moved: make(chan struct{}),
	}
}

// keepLast is how many checkpoints of a view stay whatever their age.
const keepLast = 16

// pruneEvery is how often old checkpoints are removed.
const pruneEvery = 10 * time.Minute

// Run takes checkpoints of all views that have new rows until ctx ends, then
// returns nil.
func (c *Checkpointer) Run(ctx context.Context) error {
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	var pruned time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		views := c.views()
		if err := c.sweep(ctx, views); err != nil && ctx.Err() == nil {
			// Rows stay invisible to exactly-once readers until it works again.
			c.log.Error("take checkpoints", "error", err)
		}
		c.forgetOthers(views)
		if now := c.now(); now.Sub(pruned) >= pruneEvery {
			pruned = now
			if _, err := c.store.PruneCheckpoints(ctx, now.Add(-c.keep), keepLast); err != nil && ctx.Err() == nil {
				c.log.Error("prune checkpoints", "error", err)
			}
		}
	}
}

// Take makes sure that a checkpoint covers every row that is durable now, and
// returns the newest one; it covers guest rows as far as they are known, see
// CheckpointOptions.Guests. Without any row ever it is the zero Checkpoint.
func (c *Checkpointer) Take(ctx context.Context, v record.ViewID) (catalog.Checkpoint, error) {
	c.taking.Lock()
	defer c.taking.Unlock()
	looks := 0 // archives take checkpoints, and need no guests
	cp, err := c.cut(ctx, v, &looks)
	if err == nil && cp != nil {
		err = c.add(ctx, []catalog.Checkpoint{*cp})
	}
	if err != nil {
		return catalog.Checkpoint{}, fmt.Errorf("take a checkpoint of %s: %w", v, err)
	}
	return c.Latest(ctx, v)
}

// batchOf is how many checkpoints one transaction stores, maxFailures how many
// views may fail before a sweep gives up: by then it is not the views.
const (
	batchOf     = 512
	maxFailures = 8
	// maxLooks is how many tables a sweep looks at for guest rows that it knows
	// nothing of: after a start those are all.
	maxLooks = 64
)

// sweep takes the checkpoints that are due. What is wrong with one view does not
// keep the others from theirs.
func (c *Checkpointer) sweep(ctx context.Context, views []record.ViewID) error {
	c.taking.Lock()
	defer c.taking.Unlock()
	var due []catalog.Checkpoint
	var failed []error
	looks := maxLooks
	for _, v := range views {
		cp, err := c.cut(ctx, v, &looks)
		switch {
		case errors.Is(err, record.ErrNotFound): // dropped since it was listed
		case err != nil:
			failed = append(failed, fmt.Errorf("view %s: %w", v, err))
			if len(failed) == maxFailures || ctx.Err() != nil {
				return errors.Join(failed...)
			}
		case cp != nil:
			due = append(due, *cp)
		}
	}
	for len(due) > 0 {
		n := min(len(due), batchOf)
		err := c.add(ctx, due[:n])
		var one *catalog.CheckpointError
		switch {
		case err == nil:
			due = due[n:]
			continue
		case !errors.As(err, &one):
			return errors.Join(append(failed, err)...)
		case !errors.Is(err, record.ErrNotFound):
			failed = append(failed, err)
		}
		left := slices.DeleteFunc(due, func(cp catalog.Checkpoint) bool { return cp.View == one.View })
		if len(left) == len(due) || len(failed) == maxFailures {
			return errors.Join(append(failed, err)...)
		}
		due = left
	}
	return errors.Join(failed...)
}

// add stores checkpoints, all or none, and shows them to readers.
func (c *Checkpointer) add(ctx context.Context, due []catalog.Checkpoint) error {
	err := c.store.AddCheckpoints(ctx, due)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		// The outcome may be unknown, and what we believe to be the newest
		// wrong: ask again next time.
		for _, cp := range due {
			delete(c.latest, cp.View)
		}
		return fmt.Errorf("store %d checkpoints: %w", len(due), err)
	}
	for _, cp := range due {
		c.latest[cp.View] = cp
	}
	close(c.moved)
	c.moved = make(chan struct{})
	return nil
}

// cut returns the next checkpoint of v, nil if no row came since the last. looks
// counts down how often tables may be looked at.
func (c *Checkpointer) cut(ctx context.Context, v record.ViewID, looks *int) (*catalog.Checkpoint, error) {
	last, err := c.Latest(ctx, v)
	if err != nil {
		return nil, err
	}
	before, err := c.buffer.Ends(v)
	if err != nil {
		return nil, err
	}
	if !before.End.Covers(last.Cut) {
		return nil, lostRows(v, last, before.End)
	}
	guests := max(last.Guests, c.guestEnd(ctx, v, looks))
	if last.Cut.Covers(before.End) && guests == last.Guests {
		return nil, nil
	}
	cut, err := c.buffer.Cut(ctx, v)
	if err != nil {
		return nil, err
	}
	next := &catalog.Checkpoint{View: v, Number: last.Number + 1, Cut: cut, Guests: guests}
	after, err := c.buffer.Ends(v)
	switch {
	case err != nil:
		return nil, err
	case last.Cut.Covers(cut): // guest rows only
		next.Timestamp = last.Timestamp
	case cut.Covers(after.End):
		next.Timestamp = after.LastTimestamp
	case before.End.Covers(cut):
		next.Timestamp = before.LastTimestamp
	default: // rows came between the three calls
		next.Timestamp, err = c.newest(ctx, v, last.Cut, cut)
	}
	return next, err
}

// guestEnd is 0 where it is not known: guest rows are cold, and a table that cannot
// be read must not keep hot rows from their epoch. Who reads it is told.
func (c *Checkpointer) guestEnd(ctx context.Context, v record.ViewID, looks *int) int64 {
	end, known, err := c.guests(ctx, v, false)
	if err == nil && !known && *looks > 0 {
		*looks--
		end, _, err = c.guests(ctx, v, true)
	}
	if err != nil {
		return 0
	}
	return end
}

// newest is the append time of the newest row in [from, cut). Such rows are not
// archived yet (an archive begins with a checkpoint), so they are hot.
func (c *Checkpointer) newest(ctx context.Context, v record.ViewID, from, cut record.Offsets) (int64, error) {
	newest := int64(0)
	for i, end := range cut {
		p := record.Partition(i)
		if end <= from.At(p) {
			continue
		}
		batches, err := c.buffer.Read(ctx, v, p, end-1, 1)
		if err != nil {
			return 0, err
		}
		for _, b := range batches {
			if b.BaseOffset() < end {
				newest = max(newest, b.Timestamp())
			}
		}
	}
	return newest, nil
}

// lostRows: a checkpoint is only stored when its rows are durable.
func lostRows(v record.ViewID, cp catalog.Checkpoint, end record.Offsets) error {
	p := firstBeyond(cp.Cut, end)
	return fmt.Errorf("checkpoint %d of view %s stands at offset %v of partition %v, but the hot buffer ends at %v: acknowledged rows are gone; "+
		"restore the log that belongs to this catalog, or reset the stream: %w", cp.Number, v, cp.Cut.At(p), p, end.At(p), record.ErrCorrupt)
}

// firstBeyond is the first partition in which a stands beyond b.
func firstBeyond(a, b record.Offsets) record.Partition {
	for i := range a {
		if p := record.Partition(i); a.At(p) > b.At(p) {
			return p
		}
	}
	return 0
}

// Latest returns the newest complete checkpoint; the zero Checkpoint if there
// is none.
func (c *Checkpointer) Latest(ctx context.Context, v record.ViewID) (catalog.Checkpoint, error) {
	c.mu.Lock()
	cp, ok := c.latest[v]
	c.mu.Unlock()
	if ok {
		return cp, nil
	}
	cp, err := c.store.LatestCheckpoint(ctx, v)
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return catalog.Checkpoint{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if newer, ok := c.latest[v]; ok {
		return newer, nil
	}
	c.latest[v] = cp // also where there is none yet: idle streams are many
	return cp, nil
}

// forgetOthers drops what is remembered of views that are gone.
func (c *Checkpointer) forgetOthers(views []record.ViewID) {
	known := make(map[record.ViewID]bool, len(views))
	for _, v := range views {
		known[v] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for v := range c.latest {
		if !known[v] {
			delete(c.latest, v)
		}
	}
}

// After lists the checkpoints behind a position, in order, at most limit. A
// position that is not a checkpoint's is followed by the first one beyond it.
func (c *Checkpointer) After(ctx context.Context, v record.ViewID, pos Cursor, limit int) ([]catalog.Checkpoint, error) {
	latest, err := c.Latest(ctx, v)
	if err != nil || pos.covers(latest) {
		return nil, err
	}
	// The hint is not trusted: it may come from a read of other partitions, where
	// these were not as far. Most often it is right and the next ones follow.
	if hint := pos.Checkpoint; hint > 0 && hint < latest.Number {
		cs, err := c.store.CheckpointsAfter(ctx, v, hint-1, limit+1)
		if err != nil {
			return nil, err
		}
		if len(cs) > 0 && cs[0].Number == hint && pos.covers(cs[0]) {
			for i := range cs {
				if !pos.covers(cs[i]) {
					return cs[i:], nil
				}
			}
		}
	}
	first, err := c.search(ctx, latest, func(cp catalog.Checkpoint) bool { return !pos.covers(cp) })
	if err != nil {
		return nil, err
	}
	cs, err := c.store.CheckpointsAfter(ctx, v, first.Number-1, limit)
	if err == nil && len(cs) == 0 {
		cs = []catalog.Checkpoint{latest}
	}
	return cs, err
}

// search returns the oldest checkpoint that is kept and for which beyond is true.
// It is true for latest, and for every one behind one for which it is.
func (c *Checkpointer) search(ctx context.Context, latest catalog.Checkpoint, beyond func(catalog.Checkpoint) bool) (catalog.Checkpoint, error) {
	found := latest
	for low := int64(0); low+1 < found.Number; {
		mid := low + (found.Number-low)/2
		cs, err := c.store.CheckpointsAfter(ctx, latest.View, mid-1, 1)
		switch {
		case err != nil:
			return catalog.Checkpoint{}, err
		case len(cs) == 0 || cs[0].Number >= found.Number:
			return found, nil // those between were pruned, and with them all before
		case !beyond(cs[0]):
			low = cs[0].Number
		default:
			found = cs[0]
			if found.Number > mid {
				return found, nil // likewise
			}
		}
	}
	return found, nil
}

// Wait blocks until there is a checkpoint beyond a position, or ctx ends, or
// the view is gone (record.ErrNotFound), or the buffer is closed
// (record.ErrClosed).
func (c *Checkpointer) Wait(ctx context.Context, v record.ViewID, pos Cursor) error {
	// A view that is dropped makes no checkpoint that would wake us.
	look := time.NewTicker(c.every)
	defer look.Stop()
	for {
		c.mu.Lock()
		moved := c.moved
		c.mu.Unlock()
		latest, err := c.Latest(ctx, v)
		if err != nil {
			return err
		}
		if !pos.covers(latest) {
			return nil
		}
		if _, err := c.buffer.Ends(v); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		case <-look.C:
		}
	}
}
