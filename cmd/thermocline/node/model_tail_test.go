package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// patience is how long anything may take that happens by itself.
const patience = 10 * time.Second

// modelTail is a subscriber in the background, which goes on where it was when
// the node comes back.
type modelTail struct {
	stream      string
	view        *modelView
	consistency catalog.Consistency
	left        bool // its view is gone

	cancel context.CancelFunc
	done   chan struct{} // closed when it is not running any more

	mu   sync.Mutex
	from *reader.Cursor // where it began
	next *reader.Cursor
	rows []gotRow
	err  error
}

const mostTails = 4

func (m *machine) opTail(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil || len(m.tails) >= mostTails {
		return false
	}
	t := &modelTail{stream: s.name, view: s.view, consistency: []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce}[r.IntN(2)]}
	var start reader.Start
	switch r.IntN(3) {
	case 0:
		start.Latest = true
	case 1:
		m.settle(s)
		if len(s.view.order) > 0 {
			_, _, end, err := m.read(s, reader.Request{Limit: 1 + r.Int64N(int64(len(s.view.order))), Consistency: catalog.AtLeastOnce})
			m.must("read", err)
			start.Cursor = &end
		}
	}
	t.from = start.Cursor
	if !start.Latest && t.from == nil {
		t.from = &reader.Cursor{View: s.view.id}
	}
	t.run(m, start)
	m.must("tail", t.err)
	m.tails = append(m.tails, t)
	m.count("tail " + string(t.consistency))
	return true
}

func (t *modelTail) run(m *machine, start reader.Start) {
	ctx, cancel := context.WithCancel(m.ctx)
	res, err := m.b.Reader.Tail(ctx, t.stream, "main", reader.Request{Columns: []string{"n"}, System: true, From: start, Consistency: t.consistency})
	if t.err = err; err != nil {
		cancel()
		return
	}
	t.cancel, t.done = cancel, make(chan struct{})
	go func() {
		defer close(t.done)
		for b, err := range res.Batches {
			t.mu.Lock()
			if err != nil {
				t.err = err
				t.mu.Unlock()
				return
			}
			if m.crashed.Load() {
				t.mu.Unlock()
				continue
			}
			t.rows = gotRows(b, t.rows)
			next := b.Next
			t.next = &next
			if t.from == nil { // from the latest row: this is where
				t.from = &next
			}
			t.mu.Unlock()
		}
	}()
}

// joinTails waits for the tails of a node that was closed.
func (m *machine) joinTails() {
	for _, t := range m.tails {
		select {
		case <-t.done:
		case <-time.After(patience):
			m.fail("a tail of %s does not end although its node was closed", t.stream)
		}
		t.cancel()
		if !errors.Is(t.err, record.ErrClosed) && !goneView(t.err) && !errors.Is(t.err, errInjected) {
			m.fail("a tail of %s ended with %w", t.stream, t.err)
		}
	}
}

func (m *machine) resumeTails() {
	m.tails = slices.DeleteFunc(m.tails, func(t *modelTail) bool { return t.left })
	for _, t := range m.tails {
		m.resume(t)
	}
}

// resume lets a tail that has ended go on behind what it got.
func (m *machine) resume(t *modelTail) {
	<-t.done
	t.cancel()
	start := reader.Start{Cursor: t.next}
	if t.next == nil {
		start.Cursor = t.from
	}
	if start.Cursor == nil { // it had not begun
		start.Latest = true
	}
	t.run(m, start)
}

// goneView tells how reads of a view end that is gone. What a reset of unknown
// outcome did to a tail is known only later.
func goneView(err error) bool {
	return errors.Is(err, reader.ErrViewGone) || errors.Is(err, reader.ErrOtherView) || errors.Is(err, record.ErrNotFound)
}

// leaveTails notes that a view is gone: its tails end.
func (m *machine) leaveTails(v *modelView) {
	for _, t := range m.tails {
		t.left = t.left || t.view == v
	}
}

// opTails checks what the tails have got, which must be all there is.
func (m *machine) opTails(*rand.Rand) bool {
	m.tails = slices.DeleteFunc(m.tails, func(t *modelTail) bool {
		// A view that a reset has replaced is there until it is archived.
		s := m.streams[t.stream]
		if t.left && s != nil && !s.archived && slices.Contains(s.old, t.view) {
			return false
		}
		m.checkTail(t)
		if t.left {
			m.count("tail of a view that is gone")
		}
		return t.left
	})
	return len(m.tails) > 0
}

func (m *machine) checkTail(t *modelTail) {
	if t.left {
		select {
		case <-t.done:
		case <-time.After(patience):
			m.fail("a tail of view %d of %s goes on although the view is gone", t.view.number, t.stream)
		}
		t.cancel()
		if !goneView(t.err) && !errors.Is(t.err, errInjected) {
			m.fail("a tail of view %d of %s, which is gone, ended with %w", t.view.number, t.stream, t.err)
		}
		m.tailRows(t, t.view.ends, 0, false)
		return
	}
	s := m.streams[t.stream]
	m.learn(s)
	to := s.view.ends
	if t.consistency == catalog.ExactlyOnce {
		to = s.view.newest().Cut
	}
	guests := m.seenBy(s.view, t.consistency == catalog.ExactlyOnce)
	covers := func(c *reader.Cursor) bool { return c != nil && c.Next.Covers(to) && c.Guests >= guests }
	for begin := time.Now(); ; {
		t.mu.Lock()
		there := covers(t.next) || covers(t.from)
		err := t.err
		t.mu.Unlock()
		if there {
			break
		}
		if errors.Is(err, errInjected) {
			m.resume(t)
			continue
		}
		if err != nil {
			m.fail("a tail of %s ended with %w", t.stream, err)
		}
		if time.Since(begin) > patience {
			m.fail("a tail (%s) of %s stands at %v, rows are there up to %v", t.consistency, t.stream, t.next, to)
		}
		time.Sleep(time.Millisecond)
	}
	m.tailRows(t, to, guests, true)
}

// tailRows compares what a tail got with the rows behind its beginning, all of
// them up to a position or some.
func (m *machine) tailRows(t *modelTail, to record.Offsets, guests int64, all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.from == nil {
		return
	}
	others, own := t.view.own(t.rows)
	m.guestsOfTail(t, others, guests, all)
	got := own
	want := t.view.visible(t.from.Next, to)
	if all && t.consistency == catalog.ExactlyOnce {
		if len(got) > len(want) { // a checkpoint came since
			got = got[:len(want)]
		}
		for i, g := range got {
			if g.n != want[i].n {
				m.fail("row %d of a tail of %s from %v is %d, want %d", i, t.stream, t.from, g.n, want[i].n)
			}
		}
	}
	next := t.from.Next.Clone()
	rows := map[int64]*expectedRow{}
	for _, row := range want {
		rows[row.n] = row
	}
	for _, g := range own {
		for int(g.part) >= len(next) {
			next = append(next, 0)
		}
		row := t.view.rows[g.n]
		if row == nil || row.placed && (row.part != g.part || row.off != g.off || row.ts != g.ts) {
			m.fail("a tail of %s got row %d at partition %d offset %d, where it is not", t.stream, g.n, g.part, g.off)
		}
		if g.off != next[g.part] {
			m.fail("a tail of %s from %v got row %d at offset %d of partition %d, where %d is next", t.stream, t.from, g.n, g.off, g.part, next[g.part])
		}
		next[g.part]++
		delete(rows, g.n)
	}
	if all && len(rows) > 0 {
		m.fail("a tail of %s from %v to %v lacks %d rows", t.stream, t.from, to, len(rows))
	}
}
