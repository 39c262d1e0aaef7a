package subscriber

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// The tests here give the group its times, and play the parts of sessions and of
// the catalog.

var (
	start = time.Unix(1_700_000_000, 0)
	empty = array.NewRecordBatch(arrow.NewSchema(nil, nil), nil, 1)
)

func testGroup(c catalog.Consistency, partitions int) *group {
	g := newGroup(Ref{"default.s", "main"}, catalog.Subscriber{ID: 1, Name: "g", View: 1, Generation: 1, Consistency: c}, 10*time.Second, time.Minute)
	g.grow(partitions, start)
	return g
}

func (g *group) testJoin(t *testing.T, session int64, name string, now time.Time) *member {
	t.Helper()
	m := &member{session: session, name: name}
	if err := g.admit(m, now); err != nil {
		t.Fatal(err)
	}
	return m
}

func (g *group) testBegin(t *testing.T, m *member, want ...record.Partition) turn {
	t.Helper()
	r, err := g.begin(m, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.partitions, want) {
		t.Fatalf("session %d has %v, want %v", m.session, r.partitions, want)
	}
	return r
}

// testDeliver sends a row up to next, or only tells the position.
func (g *group) testDeliver(t *testing.T, m *member, r turn, rows bool, now time.Time, next ...record.Offset) {
	t.Helper()
	b := reader.Batch{Next: reader.Cursor{View: 1, Next: next}}
	if rows {
		b.Rows = empty
	}
	if ok, err := g.deliver(m, &r, &b, now); !ok {
		t.Fatalf("not delivered: %v", err)
	}
}

func (g *group) testSubmit(t *testing.T, m *member, next ...record.Offset) *commit {
	t.Helper()
	w, _, err := g.submit(Commit{Session: m.session, Cursor: &reader.Cursor{View: 1, Next: next}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestExpiry: only rows count, only after the whole time without any progress,
// and progress begins it anew.
func TestExpiry(t *testing.T) {
	t.Parallel()
	g := testGroup(catalog.AtLeastOnce, 2)
	idle, m := g.testJoin(t, 1, "idle", start), g.testJoin(t, 2, "m", start)
	g.testBegin(t, idle, 0)
	r := g.testBegin(t, m, 1)
	at := start
	after := func(d time.Duration) time.Time {
		at = at.Add(d)
		g.look(at)
		return at
	}
	g.testDeliver(t, m, r, false, after(time.Hour), 0, 5)
	after(time.Hour)
	g.testDeliver(t, m, r, true, at, 0, 10)
	g.testDeliver(t, m, r, true, after(50*time.Second), 0, 20)
	after(9 * time.Second)
	if m.end != nil {
		t.Fatalf("expelled too early: %v", m.end)
	}
	g.applied(g.testSubmit(t, m, 0, 10), nil, at) // some progress
	after(59 * time.Second)
	if m.end != nil {
		t.Fatalf("expelled in spite of progress: %v", m.end)
	}
	g.applied(g.testSubmit(t, m, 0, 20), nil, at)
	g.testDeliver(t, m, r, false, at, 0, 30)
	after(time.Hour)
	if m.end != nil {
		t.Fatalf("expelled for a position: %v", m.end)
	}
	g.testDeliver(t, m, r, true, at, 0, 31)
	after(59 * time.Second)
	if m.end != nil {
		t.Fatal("expelled too early")
	}
	after(2 * time.Second)
	if !errors.Is(m.end, ErrSessionFenced) || idle.end != nil {
		t.Fatalf("ends: %v, %v", m.end, idle.end)
	}
	r = g.testBegin(t, idle, 0, 1)
	if !r.from.Next.Equal(record.Offsets{0, 20}) {
		t.Fatalf("the other begins at %v", r.from.Next)
	}
}

// TestHandover: the states of a partition between two living members.
func TestHandover(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (g *group, a, b *member) {
		g = testGroup(catalog.AtLeastOnce, 2)
		a = g.testJoin(t, 1, "a", start)
		r := g.testBegin(t, a, 0, 1)
		g.testDeliver(t, a, r, true, start, 5, 5)
		b = g.testJoin(t, 2, "b", start)
		if ok, err := g.deliver(a, &r, &reader.Batch{}, start); ok || err != nil {
			t.Fatal("a passed turn delivers")
		}
		g.testBegin(t, a, 0)
		g.testBegin(t, b)
		return g, a, b
	}
	t.Run("committed", func(t *testing.T) {
		t.Parallel()
		g, a, b := setup(t)
		w := g.testSubmit(t, a, 5, 4)
		g.applied(w, nil, start)
		g.testBegin(t, b) // a row is left
		g.applied(g.testSubmit(t, a, 5, 5), nil, start)
		g.testBegin(t, b, 1)
		// A repetition, or a cursor of behind, means nothing and is no offence.
		if w := g.testSubmit(t, a, 5, 5); w != nil {
			t.Fatal("it moves something")
		}
	})
	t.Run("timeout", func(t *testing.T) {
		t.Parallel()
		g, a, b := setup(t)
		g.look(start.Add(10*time.Second - 1))
		g.testBegin(t, b)
		g.look(start.Add(10 * time.Second))
		if r := g.testBegin(t, b, 1); r.from.Next[1] != 0 {
			t.Fatalf("b begins at %v", r.from.Next)
		}
		if _, _, err := g.submit(Commit{Session: 1, Cursor: &reader.Cursor{View: 1, Next: record.Offsets{5, 5}}}, nil); !errors.Is(err, ErrSessionFenced) {
			t.Fatalf("what was lost is committed: %v", err)
		}
		if r := g.testBegin(t, a, 0); !r.from.Next.Equal(record.Offsets{5, 0}) {
			t.Fatalf("a goes on at %v", r.from.Next)
		}
	})
	t.Run("commit under way", func(t *testing.T) {
		t.Parallel()
		g, a, b := setup(t)
		w := g.testSubmit(t, a, 5, 5)
		g.look(start.Add(time.Minute - 1)) // a's time for the handover is over
		g.testBegin(t, b)
		g.applied(w, nil, start)
		if r := g.testBegin(t, b, 1); r.from.Next[1] != 5 {
			t.Fatalf("b begins at %v, in the midst of what a has committed", r.from.Next)
		}
	})
	t.Run("leave with a commit under way", func(t *testing.T) {
		t.Parallel()
		g, a, b := setup(t)
		w := g.testSubmit(t, a, 5, 5)
		g.leave(a, start)
		g.testBegin(t, b)
		g.applied(w, nil, start)
		if r := g.testBegin(t, b, 0, 1); !r.from.Next.Equal(record.Offsets{5, 5}) {
			t.Fatalf("b begins at %v", r.from.Next)
		}
	})
	t.Run("commit under way fails", func(t *testing.T) {
		t.Parallel()
		g, a, b := setup(t)
		w := g.testSubmit(t, a, 5, 5)
		g.leave(a, start)
		g.applied(w, errors.New("disk"), start)
		if r := g.testBegin(t, b, 0, 1); !r.from.Next.Equal(nil) {
			t.Fatalf("b begins at %v", r.from.Next)
		}
	})
	t.Run("meant for its owner again", func(t *testing.T) {
		t.Parallel()
		g, a, b := setup(t)
		g.leave(b, start)
		if r := g.testBegin(t, a, 0, 1); !r.from.Next.Equal(record.Offsets{5, 5}) {
			t.Fatalf("a goes on at %v", r.from.Next)
		}
	})
	t.Run("takeover", func(t *testing.T) {
		t.Parallel()
		g, a, b := setup(t)
		c := g.testJoin(t, 3, "a", start)
		if !errors.Is(a.end, ErrSessionFenced) {
			t.Fatalf("a: %v", a.end)
		}
		g.testBegin(t, b, 1)
		if r := g.testBegin(t, c, 0); r.from.Next[0] != 0 {
			t.Fatalf("its follower begins at %v", r.from.Next)
		}
	})
}

// TestAnOpenEpochIsVoid: its rows need no commit, and are sent again.
func TestAnOpenEpochIsVoid(t *testing.T) {
	t.Parallel()
	g := testGroup(catalog.ExactlyOnce, 2)
	a := g.testJoin(t, 1, "a", start)
	r := g.testBegin(t, a, 0, 1)
	send := func(b reader.Batch) {
		t.Helper()
		b.Epoch = 7
		if ok, err := g.deliver(a, &r, &b, start); !ok {
			t.Fatal(err)
		}
	}
	send(reader.Batch{Rows: empty, Next: reader.Cursor{View: 1, Next: record.Offsets{3, 3}}})
	b := g.testJoin(t, 2, "b", start)
	if r := g.testBegin(t, b, 1); r.from.Next[1] != 0 {
		t.Fatalf("b begins at %v", r.from.Next)
	}
	r = g.testBegin(t, a, 0)
	if r.from.Next[0] != 0 {
		t.Fatalf("a goes on at %v", r.from.Next)
	}
	g.look(start.Add(time.Hour))
	if a.end != nil {
		t.Fatalf("expelled for an open epoch: %v", a.end)
	}
	// An epoch whose rows the predicate dropped needs no commit.
	send(reader.Batch{EpochEnd: true, Next: reader.Cursor{View: 1, Next: record.Offsets{2, 0}, Checkpoint: 7}})
	if g.owes(a) || a.delivered[0] != 2 {
		t.Fatalf("delivered %v, owes %v", a.delivered, a.dirty)
	}
	send(reader.Batch{Rows: empty, Next: reader.Cursor{View: 1, Next: record.Offsets{3, 0}}})
	send(reader.Batch{EpochEnd: true, Next: reader.Cursor{View: 1, Next: record.Offsets{4, 0}, Checkpoint: 7}})
	if !g.owes(a) || a.delivered[0] != 4 {
		t.Fatalf("delivered %v, owes %v", a.delivered, a.dirty)
	}
}

// TestNumbersThatComeAgain: when a session has forgotten that it sent a number
// before, it does not take the second sending for the first.
func TestNumbersThatComeAgain(t *testing.T) {
	t.Parallel()
	g := testGroup(catalog.ExactlyOnce, 2)
	a, b := g.testJoin(t, 1, "a", start), g.testJoin(t, 2, "b", start)
	r := g.testBegin(t, a, 0)
	epoch := func(n int64, next ...record.Offset) {
		t.Helper()
		e := reader.Batch{Rows: empty, Epoch: n, EpochEnd: true, Next: reader.Cursor{View: 1, Next: next, Checkpoint: n}}
		if ok, err := g.deliver(a, &r, &e, start); !ok {
			t.Fatal(err)
		}
	}
	const last = 20
	for n := range record.Offset(last) {
		epoch(int64(n)+1, n+1, 0)
	}
	g.leave(b, start)
	r = g.testBegin(t, a, 0, 1)
	for n := range record.Offset(last) {
		epoch(int64(n)+1, last, n+1)
	}
	commit := func(n int64, cut record.Offsets) (record.Offsets, error) {
		var cp *catalog.Checkpoint
		if cut != nil {
			cp = &catalog.Checkpoint{Cut: cut}
		}
		w, _, err := g.submit(Commit{Session: 1, Epoch: n}, cp)
		if w == nil {
			return nil, err
		}
		return w.item.Next, err
	}
	for n := int64(1); n <= last-maxMarks+last; n++ { // forgotten
		if next, err := commit(n, record.Offsets{record.Offset(n), record.Offset(n)}); !errors.Is(err, record.ErrInvalid) {
			t.Fatalf("epoch %d commits %v: %v", n, next, err)
		}
	}
	if next, err := commit(last-1, nil); err != nil || !next.Equal(record.Offsets{last - 1, 0}) {
		t.Fatalf("epoch %d commits %v: %v", last-1, next, err)
	}
}
