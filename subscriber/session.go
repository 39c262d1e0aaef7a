package subscriber

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Session is one membership of a subscriber. Its owner iterates over Events once,
// and closes it in the end.
type Session struct {
	c      *Coordinator
	e      *entry
	g      *group
	m      *member
	target reader.Target
	q      reader.Request // From and Partitions are each turn's
	schema *schema.Schema
	events iter.Seq2[Event, error]
	once   sync.Once
}

// Join makes the caller a member of a subscriber, with a session number that was
// never given before; that is durable when it returns. The session ends with ctx,
// and it does so for good when Events does. Until then the caller must read on, or
// Close it: what it has is given to nobody else.
//
// record.ErrNotFound, reader.ErrOtherView (the branch was reset: reset the
// subscriber; or Resume is of another view), record.ErrOutOfRange (Resume is from
// the future), record.ErrInvalid (the request), record.ErrBusy (MaxMembers are
// reading), record.ErrClosed.
func (c *Coordinator) Join(ctx context.Context, ref Ref, name string, j Join) (_ *Session, err error) {
	b, err := c.o.Branches.Branch(ref)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("join subscriber %q of %s: %w", name, ref, err)
		}
	}()
	if j.Member == "" {
		j.Member = "member-" + rand.Text()
	}
	if err := catalog.ValidateSubscriberName(j.Member); err != nil {
		return nil, fmt.Errorf("the name of the member is made like that of a subscriber: %w", err)
	}
	s := &Session{c: c, target: b.Target, q: reader.Request{Columns: j.Request.Columns, Where: j.Request.Where, System: j.Request.System}}
	s.e = c.acquire(key{b.ID, name})
	defer func() {
		if err != nil {
			c.release(s.e)
		}
	}()
	s.e.change.Lock()
	defer s.e.change.Unlock()
	if s.g, err = c.open(ctx, s.e, ref, b); err != nil {
		return nil, err
	}
	s.q.Consistency = s.g.sub.Consistency
	s.m = &member{name: j.Member}
	if s.m.resume, err = c.resume(ctx, s.g, b.Target, j.Resume); err != nil {
		return nil, err
	}
	// What is wrong with the request is said before anybody is fenced for it.
	probe := s.q
	probe.From.Cursor = &reader.Cursor{View: b.Target.View}
	result, err := c.o.Reads.Tail(ctx, b.Target, probe)
	if err != nil {
		return nil, err
	}
	s.schema = result.Schema
	if !s.g.room(j.Member) {
		return nil, fmt.Errorf("%d members are reading already; try again when one has gone: %w", MaxMembers, record.ErrBusy)
	}
	// A crash behind this leaves a number that nobody uses.
	if s.m.session, err = c.o.Store.BeginSession(ctx, s.g.sub.ID); err != nil {
		return nil, err
	}
	s.events = func(yield func(Event, error) bool) { s.run(ctx, yield) }
	if err := s.g.admit(s.m, time.Now()); err != nil {
		return nil, err
	}
	return s, nil
}

// open returns the group of those who read the subscriber, which it makes for the
// first. e.change is held.
func (c *Coordinator) open(ctx context.Context, e *entry, ref Ref, b Branch) (*group, error) {
	g := e.group.Load()
	if g != nil {
		c.follow(g)
	}
	if g == nil || g.isOver() {
		s, err := c.o.Store.Subscriber(ctx, b.ID, e.key.name)
		if err != nil {
			return nil, err
		}
		if s.View != b.Target.View {
			return nil, otherView(ref, s.Name)
		}
		g = newGroup(ref, s, c.o.HandoverTimeout, c.o.CommitTimeout)
	}
	ends, err := c.o.Log.Ends(g.sub.View)
	if err != nil {
		return nil, err
	}
	g.grow(len(ends.End), time.Now())
	e.group.Store(g)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return nil, c.closed(g.sub.Name, ref)
	}
	return g, nil
}

func (g *group) isOver() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.over != nil
}

// resume is a client's own position.
func (c *Coordinator) resume(ctx context.Context, g *group, t reader.Target, at *reader.Cursor) (reader.Cursor, error) {
	if at == nil {
		return reader.Cursor{}, nil
	}
	if at.View != g.sub.View {
		return reader.Cursor{}, fmt.Errorf("resume: %w: it can no longer be used", reader.ErrOtherView)
	}
	if err := c.within(ctx, t, *at); err != nil {
		return reader.Cursor{}, fmt.Errorf("resume: %w", err)
	}
	return *at, nil
}

// Number is the session's number.
func (s *Session) Number() int64 { return s.m.session }

// Member is the member's name.
func (s *Session) Member() string { return s.m.name }

// Schema has the columns that are delivered; its Arrow() is the batches' schema.
func (s *Session) Schema() *schema.Schema { return s.schema }

// Events gives assignments and batches until the session ends, and why it did:
// the context's error, ErrSessionFenced, reader.ErrOtherView (the branch was
// reset), record.ErrClosed, or what the read itself failed with (see
// reader.Tail). A batch is released when the loop body ends. The session is
// closed behind the last event, and when the loop is left.
//
// While the loop body runs nothing is read ahead, and nobody else waits for it.
func (s *Session) Events() iter.Seq2[Event, error] { return s.events }

// Close ends the session. Rows that were not committed are delivered again, to
// whoever gets the partitions. Idempotent.
func (s *Session) Close() {
	s.once.Do(func() {
		s.g.leave(s.m, time.Now())
		s.c.release(s.e)
	})
}

// run alternates between assignments and the reading that they allow.
func (s *Session) run(ctx context.Context, yield func(Event, error) bool) {
	defer s.Close()
	for {
		reading, stop := context.WithCancel(ctx)
		t, err := s.g.begin(s.m, stop)
		if err == nil {
			a := Assignment{s.m.session, s.m.name, t.partitions, t.from}
			if !yield(Event{Assignment: &a}, nil) {
				stop()
				return
			}
			err = s.read(reading, &t, yield)
		}
		stop()
		if errors.Is(err, errLeft) {
			return
		}
		if err != nil && !s.g.changed(s.m, &t) {
			s.c.follow(s.g) // it may be the branch that is gone
		}
		switch end := s.g.ended(s.m); {
		case end != nil:
			err = end
		case ctx.Err() != nil:
			err = fmt.Errorf("session %d of subscriber %q of %s: %w", s.m.session, s.g.sub.Name, s.g.ref, ctx.Err())
		case s.g.changed(s.m, &t):
			continue
		}
		yield(Event{}, err)
		return
	}
}

// errLeft: the consumer left the loop; nothing may be yielded any more.
var errLeft = errors.New("subscriber: left by its consumer")

// read delivers a turn's rows until the turn, the session or the consumer ends
// it. nil: look which.
func (s *Session) read(ctx context.Context, t *turn, yield func(Event, error) bool) error {
	if len(t.partitions) == 0 {
		<-ctx.Done()
		return nil
	}
	q := s.q
	q.Partitions = t.partitions
	q.From.Cursor = &t.from
	result, err := s.c.o.Reads.Tail(ctx, s.target, q)
	if err != nil {
		return err
	}
	for b, err := range result.Batches {
		if err != nil {
			return err
		}
		if ok, err := s.g.deliver(s.m, t, &b, time.Now()); !ok {
			return err
		}
		if !yield(Event{Batch: b}, nil) {
			return errLeft
		}
	}
	return nil
}
