package subscriber

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// commit is a commit on its way to the catalog.
type commit struct {
	e      *entry // held until it is there
	g      *group
	m      *member
	moves  []move
	guests int64 // what it does to the guest sequence, 0: nothing
	item   catalog.SubscriberCommit
	whole  bool       // it stands behind its epoch in all partitions
	done   chan error // room for one
}

// move is what a commit does to a partition.
type move struct {
	partition int
	to        record.Offset
}

const (
	// commitQueue bounds the commits that wait; who comes then waits at the door.
	commitQueue = 1024
	// commitBatch bounds one transaction.
	commitBatch = 512
)

// Commit makes a position durable and returns the subscriber's, of all
// partitions. Positions never go back: what is committed already counts as done.
//
// A commit of a session that is over, or that moves a partition which the session
// has lost, is ErrSessionFenced and changes nothing. Beyond what the session was
// sent (or brought as Join.Resume) it is record.ErrInvalid, and so is, exactly
// once, a position that is not the end of an epoch. When ctx ends first, the
// outcome is unknown. Run must be running.
func (c *Coordinator) Commit(ctx context.Context, ref Ref, name string, q Commit) (reader.Cursor, error) {
	b, err := c.o.Branches.Branch(ref)
	if err != nil {
		return reader.Cursor{}, err
	}
	if (q.Cursor == nil) == (q.Epoch == 0) || q.Epoch < 0 {
		return reader.Cursor{}, fmt.Errorf("commit of subscriber %q of %s: give a cursor or the number of an epoch: %w", name, ref, record.ErrInvalid)
	}
	e := c.entry(key{b.ID, name})
	if e == nil {
		return reader.Cursor{}, c.notLive(ctx, b, ref, name, q.Session)
	}
	g := e.group.Load()
	if g == nil {
		c.release(e)
		return reader.Cursor{}, c.notLive(ctx, b, ref, name, q.Session)
	}
	w, now, err := g.submit(q, nil)
	if errors.Is(err, errForgotten) {
		var cut *catalog.Checkpoint
		if cut, err = c.cutOf(ctx, g, q); err == nil {
			w, now, err = g.submit(q, cut)
		}
	}
	if w == nil {
		c.release(e)
		return now, err
	}
	w.e = e
	select {
	case c.commits <- w:
	case <-ctx.Done():
		c.abandon(w)
		return reader.Cursor{}, fmt.Errorf("commit of subscriber %q of %s: %w", name, ref, ctx.Err())
	case <-c.done:
		c.abandon(w)
		return reader.Cursor{}, c.closed(name, ref)
	}
	select {
	case err = <-w.done:
	case <-ctx.Done():
		return reader.Cursor{}, fmt.Errorf("commit of subscriber %q of %s: %w", name, ref, ctx.Err())
	case <-c.done:
		select {
		case err = <-w.done: // the last to be taken
		default:
			err = c.closed(name, ref)
		}
	}
	if err != nil {
		return reader.Cursor{}, fmt.Errorf("commit of subscriber %q of %s: %w", name, ref, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.position(), nil
}

// notLive is the error for a session that nobody knows here.
func (c *Coordinator) notLive(ctx context.Context, b Branch, ref Ref, name string, session int64) error {
	if _, err := c.o.Store.Subscriber(ctx, b.ID, name); err != nil {
		return err
	}
	return fmt.Errorf("session %d of subscriber %q of %s is none that reads: %w", session, name, ref, ErrSessionFenced)
}

func (c *Coordinator) closed(name string, ref Ref) error {
	return fmt.Errorf("subscriber %q of %s: the server shuts down: %w", name, ref, record.ErrClosed)
}

// errForgotten: the session does not remember the epoch, see cutOf.
var errForgotten = errors.New("subscriber: an epoch that the session has forgotten")

// cutOf looks up the checkpoint that an exactly-once commit is of. It is empty
// where there is none: then the commit is refused, unless it moves nothing.
func (c *Coordinator) cutOf(ctx context.Context, g *group, q Commit) (*catalog.Checkpoint, error) {
	cp, err := c.o.History.Checkpoint(ctx, g.sub.View, q.epoch())
	if errors.Is(err, record.ErrNotFound) {
		return &catalog.Checkpoint{}, nil
	}
	return &cp, err
}

// epoch is the number that an exactly-once commit is of.
func (q Commit) epoch() int64 {
	if q.Cursor != nil {
		return q.Cursor.Checkpoint
	}
	return q.Epoch
}

// session finds a live one, nil: there is none. mu is held.
func (g *group) session(number int64) *member {
	for _, m := range g.members {
		if m.session == number {
			return m
		}
	}
	return nil
}

// submit checks a commit and makes it one on its way; or nil and the position as
// it is, when it moves nothing. From here on nobody else is given what it moves,
// until applied or abandoned. cut is nil before it was looked up.
func (g *group) submit(q Commit, cut *catalog.Checkpoint) (*commit, reader.Cursor, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.session(q.Session)
	if m == nil {
		return nil, reader.Cursor{}, g.fencedErr(q.Session, "it is none that reads")
	}
	moves, guests, err := g.moves(m, q, cut)
	if err != nil {
		return nil, reader.Cursor{}, fmt.Errorf("commit of session %d of subscriber %q of %s: %w", q.Session, g.sub.Name, g.ref, err)
	}
	if len(moves) == 0 && guests == 0 {
		return nil, g.position(), nil
	}
	w := &commit{g: g, m: m, moves: moves, guests: guests, done: make(chan error, 1)}
	// The catalog believes the number where the whole position covers it.
	w.item = catalog.SubscriberCommit{ID: g.sub.ID, Generation: g.sub.Generation, View: g.sub.View, Next: g.position().Next, Guests: max(g.guests, guests)}
	if g.exactly() {
		w.item.Checkpoint = q.epoch()
	}
	for _, v := range moves {
		g.slots[v.partition].busy++
		w.item.Next[v.partition] = v.to
	}
	if guests > 0 {
		g.slots[0].busy++
	}
	w.whole = slices.ContainsFunc(m.marks, func(k mark) bool {
		return k.epoch == w.item.Checkpoint && k.whole && len(k.next) == len(g.slots) && w.item.Next.Covers(k.next) && w.item.Guests >= k.guests
	})
	return w, reader.Cursor{}, nil
}

// moves says what a commit does, also to the guest sequence (0: nothing). mu is
// held.
func (g *group) moves(m *member, q Commit, cut *catalog.Checkpoint) ([]move, int64, error) {
	if q.Cursor != nil && q.Cursor.View != g.sub.View {
		return nil, 0, fmt.Errorf("%w: commit a cursor of this session", reader.ErrOtherView)
	}
	switch {
	case !g.exactly() && q.Cursor == nil:
		return nil, 0, fmt.Errorf("the subscriber is at least once, it has no epochs: commit a cursor: %w", record.ErrInvalid)
	case !g.exactly():
		return g.movesTo(m, q.Cursor)
	case cut == nil && q.epoch() > 0 && !slices.ContainsFunc(m.marks, func(k mark) bool { return k.epoch == q.epoch() && !k.again }):
		return nil, 0, errForgotten
	case q.Cursor != nil:
		return g.movesToMark(m, q.Cursor, cut)
	}
	return g.movesToEpoch(m, q.Epoch, cut)
}

// movesTo checks who owns what a cursor moves, and that it was delivered.
func (g *group) movesTo(m *member, c *reader.Cursor) ([]move, int64, error) {
	var moves []move
	guests, beyond, err := g.guestsTo(m, c.Guests)
	if err != nil {
		return nil, 0, err
	}
	for i, to := range c.Next {
		p := record.Partition(i)
		switch {
		case i >= len(g.slots) && to > 0:
			beyond = fmt.Errorf("the cursor stands at offset %v of partition %v, which the subscriber was never sent: %w", to, p, record.ErrInvalid)
		case i >= len(g.slots), to <= g.slots[i].committed:
		case g.slots[i].owner != m && to <= m.cleared[i]:
		case g.slots[i].owner != m:
			return nil, 0, fmt.Errorf("partition %v has gone to another member, who reads it from offset %v; the commit of offset %v changes nothing: %w",
				p, g.slots[i].committed, to, ErrSessionFenced)
		case to > m.delivered[i]:
			beyond = fmt.Errorf("the cursor stands at offset %v of partition %v, but the session was sent rows below %v%s; commit a cursor that it was sent: %w",
				to, p, m.delivered[i], g.whole(), record.ErrInvalid)
		default:
			moves = append(moves, move{i, to})
		}
	}
	return moves, guests, beyond
}

// guestsTo is movesTo for the guest sequence, which moves with partition 0.
func (g *group) guestsTo(m *member, to int64) (guests int64, beyond, err error) {
	switch {
	case to <= g.guests:
	case len(g.slots) == 0 || g.slots[0].owner != m && to > m.guests.cleared:
		return 0, nil, fmt.Errorf("the guest rows have gone to another member with partition 0, who reads them behind commit %d of the dataset; the commit of %d changes nothing: %w",
			g.guests, to, ErrSessionFenced)
	case g.slots[0].owner != m:
	case to > m.guests.delivered:
		return 0, fmt.Errorf("the cursor stands behind the guest rows of commit %d of the dataset, but the session was sent those up to %d%s; commit a cursor that it was sent: %w",
			to, m.guests.delivered, g.whole(), record.ErrInvalid), nil
	default:
		return to, nil, nil
	}
	return 0, nil, nil
}

func (g *group) whole() string {
	if g.exactly() {
		return " in complete epochs"
	}
	return ""
}

// movesToMark checks that a cursor stands at the end of its epoch in every
// partition that it moves.
func (g *group) movesToMark(m *member, c *reader.Cursor, cut *catalog.Checkpoint) ([]move, int64, error) {
	moves, guests, err := g.movesTo(m, c)
	if err != nil {
		return nil, 0, err
	}
	if cut == nil {
		cut = &catalog.Checkpoint{}
	}
	for _, k := range m.marks {
		if k.epoch == c.Checkpoint && (guests == 0 || guests == k.guests) && !slices.ContainsFunc(moves, func(v move) bool { return k.next.At(record.Partition(v.partition)) != v.to }) {
			return moves, guests, nil
		}
	}
	elsewhere := guests > 0 && guests != cut.Guests && guests != m.guests.begun
	for _, v := range moves {
		to := v.to
		elsewhere = elsewhere || to != cut.Cut.At(record.Partition(v.partition)) && (v.partition >= len(m.begun) || to != m.begun[v.partition])
	}
	if elsewhere {
		return nil, 0, fmt.Errorf("the cursor does not stand at the end of epoch %d: exactly once, commit the cursor of a checkpoint mark: %w", c.Checkpoint, record.ErrInvalid)
	}
	return moves, guests, nil
}

// movesToEpoch finds what the end of an epoch was to the session. Where a number
// was sent twice (a partition came to the session from further back), the first
// is meant: the client may not have seen the second.
func (g *group) movesToEpoch(m *member, epoch int64, cut *catalog.Checkpoint) ([]move, int64, error) {
	if epoch > m.newest {
		return nil, 0, fmt.Errorf("epoch %d is not complete in this session, the last one is %d: %w", epoch, m.newest, record.ErrInvalid)
	}
	moved := func(end record.Offsets, through int64) (moves []move, guests int64) {
		for p := range g.slots {
			s, to := &g.slots[p], end.At(record.Partition(p))
			if s.owner == m && to > s.committed && to <= m.delivered[p] {
				moves = append(moves, move{p, to})
			}
		}
		if g.slots[0].owner == m && through > g.guests && through <= m.guests.delivered {
			guests = through
		}
		return moves, guests
	}
	first := slices.IndexFunc(m.marks, func(k mark) bool { return k.epoch == epoch && !k.again })
	switch {
	case first < 0 && epoch <= m.repeating:
		return nil, 0, g.twice(epoch)
	case first < 0 && (cut == nil || len(cut.Cut) == 0):
		return nil, 0, fmt.Errorf("epoch %d is too old to be known; commit a newer one: %w", epoch, record.ErrInvalid)
	case first < 0:
		moves, guests := moved(cut.Cut, cut.Guests)
		return moves, guests, nil
	}
	moves, guests := moved(m.marks[first].next, m.marks[first].guests)
	if len(moves) > 0 || guests > 0 {
		return moves, guests, nil
	}
	for _, k := range m.marks {
		if k.epoch != epoch || !k.again {
			continue
		}
		if moves, guests := moved(k.next, k.guests); len(moves) > 0 || guests > 0 {
			return nil, 0, g.twice(epoch)
		}
	}
	return nil, 0, nil
}

func (g *group) twice(epoch int64) error {
	return fmt.Errorf("epoch %d was sent to this session more than once, for partitions that it was given later: commit the cursor of the checkpoint mark: %w", epoch, record.ErrInvalid)
}

// applied ends a commit: err tells what became of it.
func (g *group) applied(w *commit, err error, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, v := range w.moves {
		s := &g.slots[v.partition]
		s.busy--
		if err == nil {
			s.committed = max(s.committed, v.to)
		}
	}
	if w.guests > 0 {
		g.slots[0].busy--
		if err == nil {
			g.guests = max(g.guests, w.guests)
		}
	}
	if err == nil && w.whole {
		g.epoch = max(g.epoch, w.item.Checkpoint)
	}
	switch m := w.m; {
	case m.end != nil || err != nil:
	case g.owes(m):
		m.waiting = now
	default:
		m.waiting = time.Time{}
	}
	if g.over == nil {
		g.settle(now)
	}
}

// abandon ends a commit that never got on its way.
func (c *Coordinator) abandon(w *commit) {
	w.g.applied(w, record.ErrClosed, time.Now())
	c.release(w.e)
}

// runCommits brings commits to the catalog, many in one transaction, until ctx
// ends. A crash leaves each of them whole or undone; the position that a client
// was told is durable.
func (c *Coordinator) runCommits(ctx context.Context) {
	batch := make([]*commit, 0, commitBatch)
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-c.commits:
			batch = append(batch[:0], w)
		}
	more:
		for len(batch) < commitBatch {
			select {
			case w := <-c.commits:
				batch = append(batch, w)
			default:
				break more
			}
		}
		c.store(ctx, batch)
		clear(batch)
	}
}

// store is one transaction. It is not left half way when the server stops.
func (c *Coordinator) store(ctx context.Context, batch []*commit) {
	items := make([]catalog.SubscriberCommit, len(batch))
	for i, w := range batch {
		items[i] = w.item
	}
	outcome, failed := c.o.Store.CommitSubscribers(context.WithoutCancel(ctx), items)
	now := time.Now()
	for i, w := range batch {
		err := failed
		if failed == nil {
			err = outcome[i]
		}
		if errors.Is(err, record.ErrFenced) {
			err = fmt.Errorf("the subscriber was reset: %w", ErrSessionFenced)
		}
		w.g.applied(w, err, now)
		w.done <- err
		c.release(w.e)
	}
}
