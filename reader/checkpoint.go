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
	// gets the rows since its last epoch as one epoch. 24 h.
	Keep   time.Duration
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
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Checkpointer{
		buffer: buffer, store: store, views: views, every: o.Every, keep: o.Keep, now: o.Now, log: o.Logger,
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
		if err := c.takeAll(ctx, c.views()); err != nil && ctx.Err() == nil {
			// Rows stay invisible to exactly-once readers until it works again.
			c.log.Error("take checkpoints", "error", err)
		}
		if now := c.now(); now.Sub(pruned) >= pruneEvery {
			pruned = now
			if _, err := c.store.PruneCheckpoints(ctx, now.Add(-c.keep), keepLast); err != nil && ctx.Err() == nil {
				c.log.Error("prune checkpoints", "error", err)
			}
		}
	}
}

// Take makes sure that a checkpoint covers every row that is durable now, and
// returns the newest one. Without any row ever it is the zero Checkpoint.
func (c *Checkpointer) Take(ctx context.Context, v record.ViewID) (catalog.Checkpoint, error) {
	if err := c.takeAll(ctx, []record.ViewID{v}); err != nil {
		return catalog.Checkpoint{}, err
	}
	return c.Latest(ctx, v)
}

// batchOf is how many checkpoints one transaction stores.
const batchOf = 512

func (c *Checkpointer) takeAll(ctx context.Context, views []record.ViewID) error {
	c.taking.Lock()
	defer c.taking.Unlock()
	var due []catalog.Checkpoint
	for _, v := range views {
		cp, err := c.cut(ctx, v)
		switch {
		case errors.Is(err, record.ErrNotFound) && len(views) > 1:
			continue // dropped since it was listed
		case err != nil:
			return err
		case cp != nil:
			due = append(due, *cp)
		}
	}
	for len(due) > 0 {
		n := min(len(due), batchOf)
		if err := c.store.AddCheckpoints(ctx, due[:n]); err != nil {
			// What we believe to be the newest may be wrong: ask again next time.
			c.mu.Lock()
			for _, cp := range due[:n] {
				delete(c.latest, cp.View)
			}
			c.mu.Unlock()
			var one *catalog.CheckpointError
			if errors.As(err, &one) && len(views) > 1 {
				c.log.Warn("take a checkpoint", "view", one.View, "error", one.Err)
				due = slices.DeleteFunc(due, func(cp catalog.Checkpoint) bool { return cp.View == one.View })
				continue
			}
			return fmt.Errorf("store %d checkpoints: %w", n, err)
		}
		c.mu.Lock()
		for _, cp := range due[:n] {
			c.latest[cp.View] = cp
		}
		close(c.moved)
		c.moved = make(chan struct{})
		c.mu.Unlock()
		due = due[n:]
	}
	return nil
}

// cut returns the next checkpoint of v, nil if no row came since the last.
func (c *Checkpointer) cut(ctx context.Context, v record.ViewID) (*catalog.Checkpoint, error) {
	last, err := c.Latest(ctx, v)
	if err != nil {
		return nil, err
	}
	ends, err := c.buffer.Ends(v)
	if err != nil {
		return nil, err
	}
	if last.Cut.Covers(ends.End) {
		return nil, nil
	}
	cut, err := c.buffer.Cut(ctx, v)
	if err != nil {
		return nil, err
	}
	return &catalog.Checkpoint{View: v, Number: last.Number + 1, Cut: cut, Timestamp: ends.LastTimestamp}, nil
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
	if cp.Number > 0 {
		c.latest[v] = cp
	}
	return cp, nil
}

// Forget drops what is remembered of a view that is gone.
func (c *Checkpointer) Forget(v record.ViewID) {
	c.mu.Lock()
	delete(c.latest, v)
	c.mu.Unlock()
}

// After lists the checkpoints behind a position, at most limit. A position
// that is not a checkpoint's is followed by the first one beyond it.
func (c *Checkpointer) After(ctx context.Context, v record.ViewID, pos Cursor, limit int) ([]catalog.Checkpoint, error) {
	latest, err := c.Latest(ctx, v)
	if err != nil || pos.Next.Covers(latest.Cut) {
		return nil, err
	}
	for number := pos.Checkpoint; ; {
		cs, err := c.store.CheckpointsAfter(ctx, v, number, limit)
		if err != nil || len(cs) == 0 {
			return nil, err
		}
		for i := range cs {
			if !pos.Next.Covers(cs[i].Cut) {
				return cs[i:], nil
			}
		}
		number = cs[len(cs)-1].Number
	}
}

// Wait blocks until there is a checkpoint beyond a position, or ctx ends, or
// the view is gone (record.ErrNotFound).
func (c *Checkpointer) Wait(ctx context.Context, v record.ViewID, pos record.Offsets) error {
	for {
		c.mu.Lock()
		moved := c.moved
		c.mu.Unlock()
		latest, err := c.Latest(ctx, v)
		if err != nil {
			return err
		}
		if !pos.Covers(latest.Cut) {
			return nil
		}
		if _, err := c.buffer.Ends(v); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		case <-time.After(c.every): // a view that was dropped makes no checkpoint
		}
	}
}
