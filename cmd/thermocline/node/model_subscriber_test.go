package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/subscriber"
)

// modelGroup is a subscriber: a position that survives everything, moved by
// whoever holds its newest session.
type modelGroup struct {
	name        string
	consistency catalog.Consistency
	view        *modelView // a reset of the stream leaves it behind
	done        record.Offsets
	guests      int64 // the guest sequence that is committed
	zombie      int64 // a session that is over
	zombieAt    reader.Cursor
}

func (s *modelStream) ref() subscriber.Ref {
	return subscriber.Ref{Stream: catalog.DefaultNamespace + "." + s.name, Branch: catalog.MainBranch}
}

// group returns one of a stream's subscribers, perhaps a new one.
func (m *machine) group(r *rand.Rand, s *modelStream) *modelGroup {
	name := fmt.Sprintf("group-%d", r.IntN(2))
	for _, g := range s.groups {
		if g.name == name {
			return g
		}
	}
	g := &modelGroup{name: name, view: s.view, consistency: []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce}[r.IntN(2)]}
	spec := subscriber.Spec{Name: name, Consistency: g.consistency, Hold: time.Duration(r.IntN(2)) * time.Minute}
	_, err := m.node.subscribers.Create(m.ctx, s.ref(), spec)
	m.must("create a subscriber", err)
	s.groups = append(s.groups, g)
	return g
}

// A member joins, gets rows from where the subscriber stands, commits some of
// them, and leaves, perhaps in the middle.
func (m *machine) opSubscriber(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	g := m.group(r, s)
	ctx, cancel := context.WithTimeout(m.ctx, patience)
	defer cancel()
	join := subscriber.Join{Member: "member", Request: reader.Request{Columns: []string{"n"}, System: true}}
	if g.view != s.view {
		if _, err := m.node.subscribers.Join(ctx, s.ref(), g.name, join); !errors.Is(err, reader.ErrOtherView) {
			m.fail("join of a subscriber of a view that is gone: %v", err)
		}
		_, err := m.node.subscribers.Reset(ctx, s.ref(), g.name, subscriber.Start{})
		m.must("reset a subscriber", err)
		g.view, g.done, g.guests, g.zombie = s.view, nil, 0, 0
		m.count("reset of a subscriber")
	}
	m.learn(s)
	to := s.view.ends
	exactly := g.consistency == catalog.ExactlyOnce
	if exactly {
		to = s.view.newest().Cut
	}
	at, atGuests := g.done, g.guests
	guests := m.seenBy(s.view, exactly)
	covered := func() bool { return at.Covers(to) && atGuests >= guests }
	session, err := m.node.subscribers.Join(ctx, s.ref(), g.name, join)
	m.must("join "+g.name, err)
	number := session.Number()
	m.zombieCommit(r, s, g)
	got := []gotRow{}
	next := reader.Cursor{}
	for ev, err := range session.Events() {
		m.must(fmt.Sprintf("subscriber %s of %s at %v of %v", g.name, s.name, at, to), err)
		if ev.Assignment != nil {
			if number = ev.Assignment.Session; covered() {
				break // nothing is there to come
			}
			continue
		}
		got = gotRows(ev.Batch, got)
		if exactly && !ev.Batch.EpochEnd {
			continue
		}
		if ev.Batch.Next.Within != nil {
			continue
		}
		others, own := s.view.own(got)
		if want := s.view.guestsIn(atGuests, ev.Batch.Next.Guests); len(others) != len(want) {
			m.fail("subscriber %s of %s got %d guests from %d to %d, want %d", g.name, s.name, len(others), atGuests, ev.Batch.Next.Guests, len(want))
		}
		m.groupRows(s, g, own, at, ev.Batch.Next.Next)
		got, at, atGuests, next = got[:0], ev.Batch.Next.Next, ev.Batch.Next.Guests, ev.Batch.Next
		if r.IntN(3) == 0 {
			out, err := m.node.subscribers.Commit(ctx, s.ref(), g.name, subscriber.Commit{Session: number, Cursor: &next})
			m.must("commit of "+g.name, err)
			if g.done, g.guests = at, atGuests; !out.Next.Equal(at) || out.Guests != atGuests {
				m.fail("subscriber %s of %s committed %v and stands at %v", g.name, s.name, at, out.Next)
			}
			m.count("commit of a subscriber")
		}
		if r.IntN(8) == 0 || covered() {
			break
		}
	}
	session.Close()
	if next.View != 0 {
		g.zombie, g.zombieAt = number, next
	}
	return true
}

// groupRows compares what a member got between two positions.
func (m *machine) groupRows(s *modelStream, g *modelGroup, got []gotRow, from, to record.Offsets) {
	want := s.view.visible(from, to)
	if len(got) != len(want) {
		m.fail("subscriber %s of %s got %d rows from %v to %v, want %d", g.name, s.name, len(got), from, to, len(want))
	}
	byPlace := func(a, b record.Partition, c, d record.Offset) int {
		if a != b {
			return int(a) - int(b)
		}
		return int(c - d)
	}
	if g.consistency != catalog.ExactlyOnce { // partition by partition
		got, want = slices.Clone(got), slices.Clone(want)
		slices.SortStableFunc(got, func(a, b gotRow) int { return int(a.part) - int(b.part) })
		slices.SortStableFunc(want, func(a, b *expectedRow) int { return byPlace(a.part, b.part, a.off, b.off) })
	}
	for i, w := range want {
		if got[i].n != w.n || got[i].off != w.off || got[i].part != w.part {
			m.fail("subscriber %s of %s got row %d (partition %d, offset %d) where %d is next", g.name, s.name, got[i].n, got[i].part, got[i].off, w.n)
		}
	}
}

// zombieCommit lets the session of before commit what it got: it is too late.
func (m *machine) zombieCommit(r *rand.Rand, s *modelStream, g *modelGroup) {
	if g.zombie == 0 || r.IntN(2) == 0 {
		return
	}
	_, err := m.node.subscribers.Commit(m.ctx, s.ref(), g.name, subscriber.Commit{Session: g.zombie, Cursor: &g.zombieAt})
	if !errors.Is(err, subscriber.ErrSessionFenced) {
		m.fail("commit of a session that is over of %s: %v", g.name, err)
	}
	m.count("commit of a zombie")
	m.standsAt(s, g)
}

func (m *machine) standsAt(s *modelStream, g *modelGroup) {
	info, err := m.node.subscribers.Get(m.ctx, s.ref(), g.name)
	m.must("subscriber", err)
	if !info.Position.Next.Equal(g.done) || info.CurrentView != (g.view == s.view) {
		m.fail("subscriber %s of %s stands at %v (current view: %v), want %v", g.name, s.name, info.Position, info.CurrentView, g.done)
	}
	lag := s.view.ends.RowsSince(g.done) + int64(len(s.view.guestsIn(g.guests, s.view.guestEnd())))
	if info.CurrentView && info.Lag.Rows != lag {
		m.fail("subscriber %s of %s lags by %d rows, want %d", g.name, s.name, info.Lag.Rows, lag)
	}
}

// opSubscriberState looks at a position, resets one, or forgets it.
func (m *machine) opSubscriberState(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	g := m.group(r, s)
	m.settle(s)
	m.standsAt(s, g)
	switch r.IntN(6) {
	case 0:
		m.must("delete a subscriber", m.node.subscribers.Delete(m.ctx, s.ref(), g.name))
		s.groups = slices.DeleteFunc(s.groups, func(o *modelGroup) bool { return o == g })
	case 1:
		info, err := m.node.subscribers.Reset(m.ctx, s.ref(), g.name, subscriber.Start{Latest: true})
		m.must("reset a subscriber", err)
		g.view, g.done, g.guests, g.zombie = s.view, info.Position.Next, info.Position.Guests, 0
		if !s.view.ends.Equal(g.done) {
			m.fail("a subscriber of %s that begins at the latest row stands at %v, rows end at %v", s.name, g.done, s.view.ends)
		}
	}
	return true
}
