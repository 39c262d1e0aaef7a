package subscriber_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/subscriber"
)

func TestOneMember(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 3, subscriber.Options{})
	e.create("g", catalog.AtLeastOnce)
	e.publish(0, 5)
	e.publish(1, 5)
	c := e.join("g", subscriber.Join{Member: "m"})
	c.given(0, 1, 2)
	c.has(10)
	e.publish(2, 5)
	c.has(15)
	e.archive()
	e.publish(2, 5)
	c.has(20)
	e.everyRow(true, c.seen())
	if at := c.commit(); !at.Next.Equal(e.ends()) {
		t.Fatalf("committed %v of %v", at, e.ends())
	}
	c.leave()
	e.publish(0, 3)
	d := e.join("g", subscriber.Join{Member: "m"})
	d.has(3)
	e.everyRow(true, c.seen(), d.seen())
	if d.s.Number() <= c.s.Number() {
		t.Fatalf("session %d follows %d", d.s.Number(), c.s.Number())
	}
}

// TestOneMemberExactlyOnce: epochs come whole, and are committed by cursor and by
// number.
func TestOneMemberExactlyOnce(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2, subscriber.Options{})
	e.create("g", catalog.ExactlyOnce)
	c := e.join("g", subscriber.Join{})
	c.given(0, 1)
	for i := range 6 {
		e.publish(record.Partition(i%2), 4)
		e.publish(record.Partition((i+1)%2), 1)
		if i == 3 {
			e.archive()
		} else {
			e.checkpoint()
		}
		c.has(5 * (i + 1))
		if i%2 == 0 {
			c.commit()
		} else if _, err := e.c.Commit(ctx, ref, "g", subscriber.Commit{Session: c.s.Number(), Epoch: int64(i + 1)}); err != nil {
			t.Fatal(err)
		}
		at := e.get("g").Position
		if !at.Next.Equal(e.ends()) || at.Checkpoint != int64(i+1) {
			t.Fatalf("behind epoch %d the position is %v", i+1, at)
		}
	}
	e.everyRow(true, c.seen())
	if want := []int64{1, 2, 3, 4, 5, 6}; !slices.Equal(c.epochs, want) {
		t.Fatalf("epochs %v, want %v", c.epochs, want)
	}
}

// TestCommitSurvivesRestart: the position is there again, the sessions are not.
func TestCommitSurvivesRestart(t *testing.T) {
	t.Parallel()
	for _, consistency := range []reader.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce} {
		t.Run(string(consistency), func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, 2, subscriber.Options{})
			made := e.create("g", consistency)
			var parts [][]row
			last := int64(0)
			for i := range 3 {
				e.publish(0, 3)
				e.publish(1, 2)
				e.checkpoint()
				c := e.join("g", subscriber.Join{Member: "m"})
				c.has(5)
				c.commit()
				parts = append(parts, c.seen())
				if c.s.Number() <= last {
					t.Fatalf("session %d follows %d", c.s.Number(), last)
				}
				last = c.s.Number()
				old := c.at()
				e.restart()
				c.ends(record.ErrClosed)
				e.publish(0, 1)
				old.Next = old.Next.With(0, old.Next[0]+1)
				c.mustFence(old)
				if got := e.get("g"); got.Session != last || len(got.Members) != 0 || got.Generation != made.Generation {
					t.Fatalf("after restart %d: %+v", i, got)
				}
				e.checkpoint()
				d := e.join("g", subscriber.Join{Member: "m"})
				d.has(1)
				d.commit()
				parts = append(parts, d.seen())
				last = d.s.Number()
				d.leave()
			}
			e.everyRow(true, parts...)
		})
	}
}

// TestMembersShare: partitions are divided, and each row comes to one member.
func TestMembersShare(t *testing.T) {
	t.Parallel()
	for _, consistency := range []reader.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce} {
		t.Run(string(consistency), func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, 6, subscriber.Options{HandoverTimeout: time.Hour})
			e.create("g", consistency)
			fill := func(rows int) {
				for p := range 6 {
					e.publish(record.Partition(p), rows)
				}
				e.checkpoint()
			}
			fill(2)
			a := e.join("g", subscriber.Join{Member: "a"})
			a.given(0, 1, 2, 3, 4, 5)
			a.has(12)

			// b gets its half when a has committed, and nothing again.
			b := e.join("g", subscriber.Join{Member: "b"})
			b.given()
			kept := a.assigned(3)
			if got := e.get("g").Members; len(got) != 2 || got[0].Name != "a" || len(got[1].Partitions) != 0 {
				t.Fatalf("members %+v", got)
			}
			a.commit()
			if got := b.assigned(3); slices.ContainsFunc(got, func(p record.Partition) bool { return slices.Contains(kept, p) }) {
				t.Fatalf("a has %v and b %v", kept, got)
			}
			fill(1)
			a.has(15)
			b.has(3)
			// a goes without a commit: what it had of the last round comes again.
			a.leave()
			b.given(0, 1, 2, 3, 4, 5)
			b.has(6)
			fill(1)
			b.has(12)
			b.commit()
			e.everyRow(false, a.seen(), b.seen())
			e.everyRow(true, a.seen()[:12], b.seen())

			// Two more, and one of them goes well.
			c, d := e.join("g", subscriber.Join{Member: "c"}), e.join("g", subscriber.Join{Member: "d"})
			c.assigned(2)
			d.assigned(2)
			fill(1)
			b.has(14)
			c.has(2)
			d.has(2)
			c.commit()
			c.leave()
			d.assigned(3)
			b.commit()
			d.commit()
			fill(1)
			b.has(17)
			d.has(5)
			e.everyRow(true, a.seen()[:12], b.seen(), c.seen(), d.seen())
		})
	}
}

// TestHandoverTimeout: who does not commit is waited for, but not for ever; the
// rest of what it has it keeps.
func TestHandoverTimeout(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2, subscriber.Options{HandoverTimeout: 50 * time.Millisecond})
	e.create("g", catalog.AtLeastOnce)
	e.publish(0, 3)
	e.publish(1, 3)
	a := e.join("g", subscriber.Join{Member: "a"})
	a.has(6)
	whole := a.at()
	b := e.join("g", subscriber.Join{Member: "b"})
	b.given(1)
	b.has(3)
	a.given(0)
	// What a was sent of partition 1 it can no longer commit, nor with it the rest.
	a.mustFence(whole)
	var own reader.Cursor
	a.until("a position without partition 1", func() bool {
		own = a.assignments[len(a.assignments)-1].Position
		return own.Next.Equal(record.Offsets{3, 0})
	})
	if _, err := a.tryCommit(own); err != nil {
		t.Fatal(err)
	}
	b.commit()
	// Now the old cursor stands ahead of nothing that is a's.
	if _, err := a.tryCommit(whole); err != nil {
		t.Fatal(err)
	}
	e.everyRow(true, a.seen()[:3], b.seen())
}

// TestIdleMembers: who has nothing waits until somebody goes.
func TestIdleMembers(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2, subscriber.Options{HandoverTimeout: time.Hour})
	e.create("g", catalog.AtLeastOnce)
	var all []*client
	for i := range 4 {
		c := e.join("g", subscriber.Join{Member: fmt.Sprint("m", i)})
		all = append(all, c)
	}
	all[0].assigned(1)
	all[1].assigned(1)
	all[2].given()
	all[3].given()
	e.publish(0, 2)
	e.publish(1, 2)
	all[0].has(2)
	all[1].has(2)
	all[0].leave()
	all[2].assigned(1)
	all[2].has(2)
	all[1].leave()
	all[3].assigned(1)
	all[3].has(2)
	all[2].leave()
	all[3].has(4)
	all[3].given(0, 1)
}

func TestPartitionGrowth(t *testing.T) {
	t.Parallel()
	for _, consistency := range []reader.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce} {
		t.Run(string(consistency), func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, 1, subscriber.Options{CommitTimeout: time.Second}) // looks every 100 ms
			e.create("g", consistency)
			e.publish(0, 2)
			e.checkpoint()
			a := e.join("g", subscriber.Join{Member: "a"})
			a.has(2)
			a.commit()
			b := e.join("g", subscriber.Join{Member: "b"})
			b.given()
			e.grow(4)
			for p := range 4 {
				e.publish(record.Partition(p), 2)
			}
			e.checkpoint()
			a.assigned(2)
			b.assigned(2)
			a.has(6)
			b.has(4)
			a.commit()
			b.commit()
			e.everyRow(true, a.seen(), b.seen())
			if at := e.get("g").Position; !at.Next.Equal(e.ends()) {
				t.Fatalf("committed %v of %v", at, e.ends())
			}
		})
	}
}

// TestSlowMember: one that does not read what it is sent blocks nobody but
// itself; its partitions it loses when it does not commit.
func TestSlowMember(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 4, subscriber.Options{HandoverTimeout: 100 * time.Millisecond, CommitTimeout: 500 * time.Millisecond})
	e.create("g", catalog.AtLeastOnce)
	e.create("h", catalog.AtLeastOnce)
	gate := make(chan struct{}, 1)
	gate <- struct{}{} // the first assignment
	for p := range 4 {
		e.publish(record.Partition(p), 3)
	}
	slow, err := e.joinGated("g", subscriber.Join{Member: "slow"}, gate)
	if err != nil {
		t.Fatal(err)
	}
	slow.given(0, 1, 2, 3)
	for !e.get("g").Members[0].Delivered.Equal(e.ends()) {
		time.Sleep(time.Millisecond)
	}
	e.join("h", subscriber.Join{}).has(12)
	quick := e.join("g", subscriber.Join{Member: "quick"})
	quick.assigned(2) // handed over while slow sits on its rows
	quick.has(6)
	quick.commit()
	quick.assigned(4) // and the rest, when slow was expelled
	quick.has(12)
	e.everyRow(true, quick.seen())
	close(gate)
	slow.ends(subscriber.ErrSessionFenced)
}

func TestJoinIsRefused(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1, subscriber.Options{})
	e.create("g", catalog.AtLeastOnce)
	e.publish(0, 1)
	_, err := e.tryJoin("nobody", subscriber.Join{})
	refused(t, err, record.ErrNotFound, "nobody")
	_, err = e.tryJoin("g", subscriber.Join{Member: "a/b"})
	refused(t, err, record.ErrInvalid, "member")
	_, err = e.c.Join(ctx, subscriber.Ref{Stream: "default.none", Branch: "main"}, "g", subscriber.Join{})
	refused(t, err, record.ErrNotFound)
	_, err = e.tryJoin("g", subscriber.Join{Resume: &reader.Cursor{View: e.target().View, Next: record.Offsets{2}}})
	refused(t, err, record.ErrOutOfRange, "resume")
	_, err = e.tryJoin("g", subscriber.Join{Resume: &reader.Cursor{View: e.target().View + 1}})
	refused(t, err, reader.ErrOtherView, "resume")
	_, err = e.tryJoin("g", subscriber.Join{Request: reader.Request{Where: "nope ="}})
	refused(t, err, record.ErrInvalid)
	if i := e.get("g"); i.Session != 0 {
		t.Fatalf("refused joins took sessions: %d", i.Session)
	}
	for i := range subscriber.MaxMembers {
		e.join("g", subscriber.Join{Member: fmt.Sprint(i)})
	}
	_, err = e.tryJoin("g", subscriber.Join{Member: "one more"[:3]})
	refused(t, err, record.ErrBusy, "64")
	e.join("g", subscriber.Join{Member: "7"}) // in the place of its own
	if n := len(e.get("g").Members); n != subscriber.MaxMembers {
		t.Fatalf("%d members", n)
	}
}

// TestRequests: columns, predicates and system columns are the member's own.
func TestRequests(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2, subscriber.Options{})
	e.create("g", catalog.AtLeastOnce)
	e.publish(0, 10)
	e.publish(1, 10)
	c := e.join("g", subscriber.Join{Request: reader.Request{Where: "n >= 18 or n < 1"}})
	if got := c.s.Schema().Fields; len(got) != 5 {
		t.Fatalf("columns %v", got)
	}
	c.has(3)
	c.until("a position behind all rows", func() bool { return c.cursor.Next.Equal(e.ends()) })
	if at := c.commit(); !at.Next.Equal(e.ends()) {
		t.Fatalf("committed %v", at)
	}
	if lag := e.get("g").Lag; lag != (subscriber.Lag{}) {
		t.Fatalf("lag %+v", lag)
	}
}

// TestEventsEndWithTheContext: and the session with them.
func TestEventsEndWithTheContext(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1, subscriber.Options{})
	e.create("g", catalog.AtLeastOnce)
	c := e.join("g", subscriber.Join{})
	c.given(0)
	c.leave()
	if c.err == nil || errors.Is(c.err, subscriber.ErrSessionFenced) {
		t.Fatalf("it ended with %v", c.err)
	}
	if n := len(e.get("g").Members); n != 0 {
		t.Fatalf("%d members", n)
	}
	c.mustFence(c.at())
	c.s.Close()
}
