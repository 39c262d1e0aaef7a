package subscriber_test

import (
	"testing"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/subscriber"
)

// TestZombies: whatever ended a session, its commit changes nothing.
func TestZombies(t *testing.T) {
	t.Parallel()
	cases := map[string]func(e *env, zombie *client){
		"takeover": func(e *env, zombie *client) {
			d := e.join("g", subscriber.Join{Member: "m"})
			zombie.ends(subscriber.ErrSessionFenced)
			d.given(0, 1)
			d.has(4)
		},
		"expired": func(_ *env, zombie *client) {
			zombie.ends(subscriber.ErrSessionFenced)
		},
		"reset": func(e *env, zombie *client) {
			if _, err := e.c.Reset(ctx, ref, "g", subscriber.Start{}); err != nil {
				e.t.Fatal(err)
			}
			zombie.ends(subscriber.ErrSessionFenced)
		},
		"restart": func(e *env, zombie *client) {
			e.restart()
			zombie.ends(record.ErrClosed)
		},
		"left": func(_ *env, zombie *client) { zombie.leave() },
		"deleted and made again": func(e *env, zombie *client) {
			if err := e.c.Delete(ctx, ref, "g"); err != nil {
				e.t.Fatal(err)
			}
			zombie.ends(subscriber.ErrSessionFenced)
			e.create("g", catalog.AtLeastOnce)
			e.join("g", subscriber.Join{Member: "m"}).has(4)
		},
	}
	for name, end := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := subscriber.Options{}
			if name == "expired" {
				o.CommitTimeout = 50 * time.Millisecond
			}
			e := newEnv(t, 2, o)
			e.create("g", catalog.AtLeastOnce)
			e.publish(0, 2)
			e.publish(1, 2)
			zombie := e.join("g", subscriber.Join{Member: "m"})
			zombie.has(4)
			at := zombie.at()
			end(e, zombie)
			zombie.mustFence(at)
			e.publish(0, 2)
			// Its number is never given again, and the rows are still to be had.
			next := e.join("g", subscriber.Join{Member: "m"})
			if next.s.Number() <= zombie.s.Number() {
				t.Fatalf("session %d follows %d", next.s.Number(), zombie.s.Number())
			}
			next.has(6)
			zombie.mustFence(at)
			e.everyRow(true, next.seen())
			next.commit()
		})
	}
}

func TestCommitIsRefused(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2, subscriber.Options{})
	e.create("g", catalog.AtLeastOnce)
	e.publish(0, 3)
	c := e.join("g", subscriber.Join{Member: "m"})
	c.has(3)
	try := func(q subscriber.Commit) error {
		q.Session = c.s.Number()
		_, err := e.c.Commit(ctx, ref, "g", q)
		return err
	}
	view := e.target().View
	refused(t, try(subscriber.Commit{}), record.ErrInvalid, "cursor")
	refused(t, try(subscriber.Commit{Cursor: &reader.Cursor{View: view}, Epoch: 1}), record.ErrInvalid)
	refused(t, try(subscriber.Commit{Epoch: -1}), record.ErrInvalid)
	refused(t, try(subscriber.Commit{Epoch: 1}), record.ErrInvalid, "at least once")
	refused(t, try(subscriber.Commit{Cursor: &reader.Cursor{View: view, Next: record.Offsets{4}}}), record.ErrInvalid, "below 3")
	refused(t, try(subscriber.Commit{Cursor: &reader.Cursor{View: view, Next: record.Offsets{3, 1}}}), record.ErrInvalid)
	refused(t, try(subscriber.Commit{Cursor: &reader.Cursor{View: view, Next: record.Offsets{3, 0, 1}}}), record.ErrInvalid)
	refused(t, try(subscriber.Commit{Cursor: &reader.Cursor{View: view + 1, Next: record.Offsets{3}}}), reader.ErrOtherView)
	_, err := e.c.Commit(ctx, ref, "nobody", subscriber.Commit{Session: 1, Epoch: 1})
	refused(t, err, record.ErrNotFound)
	if at := e.get("g").Position.Next; !at.Equal(nil) {
		t.Fatalf("refused commits moved the position to %v", at)
	}

	// Never back.
	at := c.at()
	c.commit()
	for _, next := range []record.Offsets{{1}, {0}, nil, {3, 0, 0, 0}} {
		got, err := c.tryCommit(reader.Cursor{View: view, Next: next})
		if err != nil || !got.Next.Equal(at.Next) {
			t.Fatalf("commit of %v behind %v: %v, %v", next, at.Next, got, err)
		}
	}
	if got := e.get("g").Position.Next; !got.Equal(at.Next) {
		t.Fatalf("the position went from %v to %v", at.Next, got)
	}
}

// TestExactlyOnceTakesOnlyEnds of epochs, of any age, by cursor and by number.
func TestExactlyOnceTakesOnlyEnds(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2, subscriber.Options{})
	e.create("g", catalog.ExactlyOnce)
	cuts := []catalog.Checkpoint{{}}
	const epochs = 80 // more than a session remembers
	for range epochs {
		e.publish(0, 2)
		e.publish(1, 1)
		cuts = append(cuts, e.checkpoint())
	}
	c := e.join("g", subscriber.Join{Member: "m"})
	c.has(3 * epochs)
	view := e.target().View
	commit := func(q subscriber.Commit) (reader.Cursor, error) {
		q.Session = c.s.Number()
		return e.c.Commit(ctx, ref, "g", q)
	}
	cursor := func(epoch int64, next record.Offsets) subscriber.Commit {
		return subscriber.Commit{Cursor: &reader.Cursor{View: view, Next: next, Checkpoint: epoch}}
	}
	for _, n := range []int64{1, 5, 70} {
		cut := cuts[n].Cut
		for _, next := range []record.Offsets{{cut[0] - 1, cut[1]}, {cut[0], cut[1] + 1}, {cut[0] + 2, cut[1]}} {
			_, err := commit(cursor(n, next))
			refused(t, err, record.ErrInvalid, "epoch")
		}
		_, err := commit(cursor(0, cut))
		refused(t, err, record.ErrInvalid, "epoch")
	}
	highest := int64(0)
	_, err := commit(subscriber.Commit{Epoch: epochs + 1})
	refused(t, err, record.ErrInvalid, "complete")
	for _, q := range []subscriber.Commit{cursor(3, cuts[3].Cut), {Epoch: 4}, {Epoch: 2}, cursor(1, cuts[1].Cut), {Epoch: 60}, cursor(70, cuts[70].Cut), {Epoch: 80}} {
		before := e.get("g").Position.Next
		n := q.Epoch
		if q.Cursor != nil {
			n = q.Cursor.Checkpoint
		}
		got, err := commit(q)
		if err != nil {
			t.Fatalf("epoch %d: %v", n, err)
		}
		want := cuts[n].Cut
		if before.Covers(want) {
			want = before
		}
		if highest = max(highest, n); got.Checkpoint > highest {
			t.Fatalf("behind epoch %d the position covers checkpoint %d", n, got.Checkpoint)
		}
		if !got.Next.Equal(want) || !e.get("g").Position.Next.Equal(want) {
			t.Fatalf("behind epoch %d the position is %v, want %v", n, got.Next, want)
		}
	}
	// Rows of an epoch that is not complete are not to be committed at all.
	e.publish(0, 1)
	_, err = commit(cursor(epochs, e.ends()))
	refused(t, err, record.ErrInvalid, "complete")
}

// TestEpochsOfAPartitionFromFurtherBack: numbers come again, and a commit by
// number never means more than the client may have seen.
func TestEpochsOfAPartitionFromFurtherBack(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2, subscriber.Options{HandoverTimeout: time.Hour})
	e.create("g", catalog.ExactlyOnce)
	epoch := func() {
		e.publish(0, 1)
		e.publish(1, 1)
		e.checkpoint()
	}
	a := e.join("g", subscriber.Join{Member: "a"})
	a.given(0, 1)
	b := e.join("g", subscriber.Join{Member: "b"})
	b.given(1)
	a.given(0)
	for range 5 {
		epoch()
	}
	a.has(5)
	b.has(5)
	b.leave() // without a commit: a gets epochs 1 to 5 of partition 1
	a.given(0, 1)
	a.has(10)
	commit := func(n int64) (reader.Cursor, error) {
		return e.c.Commit(ctx, ref, "g", subscriber.Commit{Session: a.s.Number(), Epoch: n})
	}
	got, err := commit(4)
	if err != nil || !got.Next.Equal(record.Offsets{4, 0}) {
		t.Fatalf("epoch 4, which was first sent of partition 0 only: %v, %v", got, err)
	}
	_, err = commit(4) // a retry, or the second? the first was meant
	refused(t, err, record.ErrInvalid, "more than once", "cursor")
	if got := a.commit(); !got.Next.Equal(record.Offsets{5, 5}) {
		t.Fatalf("by cursor: %v", got)
	}
	epoch()
	a.has(12)
	if got, err := commit(6); err != nil || !got.Next.Equal(e.ends()) {
		t.Fatalf("epoch 6: %v, %v", got, err)
	}
	e.everyRow(true, a.seen())
}

// TestResume: partitions begin at the later one of what is committed and what the
// client has stored.
func TestResume(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 3, subscriber.Options{})
	e.create("g", catalog.ExactlyOnce)
	var cuts []catalog.Checkpoint
	for range 4 {
		for p := range 3 {
			e.publish(record.Partition(p), 2)
		}
		cuts = append(cuts, e.checkpoint())
	}
	a := e.join("g", subscriber.Join{Member: "m"})
	a.has(24)
	if _, err := a.tryCommit(reader.Cursor{View: e.target().View, Next: cuts[1].Cut, Checkpoint: cuts[1].Number}); err != nil {
		t.Fatal(err)
	}
	a.leave()
	// The client has stored epoch 3 of partition 0, 1 of partition 1, none of 2.
	resume := reader.Cursor{View: e.target().View, Next: record.Offsets{cuts[2].Cut[0], cuts[0].Cut[1], 0}, Checkpoint: cuts[2].Number}
	b := e.join("g", subscriber.Join{Member: "m", Resume: &resume})
	b.has(2 + 4 + 4)
	if at := b.assignments[0].Position.Next; !at.Equal(record.Offsets{6, 4, 4}) {
		t.Fatalf("it begins at %v", at)
	}
	// It is not committed by joining, and may be committed.
	if at := e.get("g").Position.Next; !at.Equal(cuts[1].Cut) {
		t.Fatalf("joining moved the position to %v", at)
	}
	if got, err := b.tryCommit(resume); err != nil || !got.Next.Equal(record.Offsets{6, 4, 4}) {
		t.Fatalf("commit of what it has: %v, %v", got, err)
	}
	if got := b.commit(); !got.Next.Equal(e.ends()) {
		t.Fatalf("committed %v", got)
	}
}

// TestResetOfTheBranch ends subscribers until they are reset as well.
func TestResetOfTheBranch(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2, subscriber.Options{CommitTimeout: time.Second})
	e.create("g", catalog.AtLeastOnce)
	e.publish(0, 3)
	c := e.join("g", subscriber.Join{Member: "m"})
	c.has(3)
	c.commit()
	e.publish(1, 3)
	c.has(6)
	e.resetBranch()
	c.ends(reader.ErrOtherView)
	c.mustFence(c.at())
	_, err := e.tryJoin("g", subscriber.Join{Member: "m"})
	refused(t, err, reader.ErrOtherView, "reset the subscriber")
	old := e.get("g")
	if old.CurrentView || old.View != 1 || old.Lag != (subscriber.Lag{}) {
		t.Fatalf("of the old view: %+v", old)
	}
	_, err = e.c.Reset(ctx, ref, "g", subscriber.Start{Cursor: &old.Position})
	refused(t, err, reader.ErrOtherView)
	e.publish(1, 2)
	got, err := e.c.Reset(ctx, ref, "g", subscriber.Start{})
	if err != nil {
		t.Fatal(err)
	}
	if !got.CurrentView || got.View != 2 || got.Generation != old.Generation+1 || got.Lag.Rows != 2 || !got.Position.Next.Equal(nil) {
		t.Fatalf("behind the reset: %+v", got)
	}
	d := e.join("g", subscriber.Join{Member: "m"})
	d.has(2)
	d.commit()
	c.mustFence(c.at())
	e.everyRow(true, d.seen())
}

func TestDelete(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1, subscriber.Options{})
	e.create("g", catalog.AtLeastOnce)
	e.publish(0, 1)
	c := e.join("g", subscriber.Join{})
	c.has(1)
	if err := e.c.Delete(ctx, ref, "g"); err != nil {
		t.Fatal(err)
	}
	c.ends(subscriber.ErrSessionFenced)
	_, err := c.tryCommit(c.at())
	refused(t, err, record.ErrNotFound)
	_, err = e.c.Get(ctx, ref, "g")
	refused(t, err, record.ErrNotFound, `"g"`)
	_, err = e.c.Reset(ctx, ref, "g", subscriber.Start{})
	refused(t, err, record.ErrNotFound)
	refused(t, e.c.Delete(ctx, ref, "g"), record.ErrNotFound)
}

// TestStreamIsDeleted under its subscribers.
func TestStreamIsDeleted(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1, subscriber.Options{CommitTimeout: time.Second})
	e.create("g", catalog.AtLeastOnce)
	c := e.join("g", subscriber.Join{})
	c.given(0)
	e.branches.at.Store(nil)
	c.ends(record.ErrNotFound)
	_, err := c.tryCommit(c.at())
	refused(t, err, record.ErrNotFound)
}
