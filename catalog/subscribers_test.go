package catalog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
)

func (f *fixture) subscriber(t testing.TB, b Branch, name string, s Subscriber) Subscriber {
	t.Helper()
	s.Branch, s.Name, s.View = b.ID, name, b.View.ID
	if s.Consistency == "" {
		s.Consistency = AtLeastOnce
	}
	got, err := f.CreateSubscriber(t.Context(), s)
	ok(t, err)
	return got
}

// cuts adds checkpoints 1 to n to a view, number i at offset 10i in both of two
// partitions.
func (f *fixture) cuts(t testing.TB, v record.ViewID, from, to int64) {
	t.Helper()
	var cps []Checkpoint
	for i := from; i <= to; i++ {
		o := record.Offset(10 * i)
		cps = append(cps, Checkpoint{View: v, Number: i, Cut: record.Offsets{o, o}, Timestamp: i})
	}
	ok(t, f.AddCheckpoints(t.Context(), cps))
}

func TestSubscribers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	_, b := f.stream(t, "a")
	_, other := f.stream(t, "b")
	f.cuts(t, b.View.ID, 1, 5)
	want := Subscriber{
		ID: 1, Branch: b.ID, Name: "g.1", Consistency: ExactlyOnce, View: b.View.ID, Next: record.Offsets{30, 30}, Checkpoint: 3,
		Generation: 1, Hold: time.Minute, Created: f.clock.Now(), Committed: f.clock.Now(),
	}
	got := f.subscriber(t, b, "g.1", Subscriber{Consistency: ExactlyOnce, Next: record.Offsets{30, 30}, Checkpoint: 3, Hold: time.Minute})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// At the very beginning, and of the same name on another branch.
	empty := f.subscriber(t, other, "g.1", Subscriber{})
	for _, c := range []*Catalog{f.Catalog, f.open(t)} {
		got, err := c.Subscriber(ctx, b.ID, "g.1")
		ok(t, err)
		begin, err := c.Subscriber(ctx, other.ID, "g.1")
		ok(t, err)
		if diff := cmp.Diff([]Subscriber{want, empty}, []Subscriber{got, begin}); diff != "" {
			t.Error(diff)
		}
	}

	for what, c := range map[string]struct {
		s    Subscriber
		want error
	}{
		"same name":          {Subscriber{Branch: b.ID, Name: "g.1", Consistency: AtLeastOnce, View: b.View.ID}, record.ErrExists},
		"no branch":          {Subscriber{Branch: 99, Name: "x", Consistency: AtLeastOnce, View: b.View.ID}, record.ErrNotFound},
		"view of another":    {Subscriber{Branch: b.ID, Name: "x", Consistency: AtLeastOnce, View: other.View.ID}, record.ErrConflict},
		"no consistency":     {Subscriber{Branch: b.ID, Name: "x", View: b.View.ID}, record.ErrInvalid},
		"hold too long":      {Subscriber{Branch: b.ID, Name: "x", Consistency: AtLeastOnce, View: b.View.ID, Hold: MaxHold + time.Second}, record.ErrInvalid},
		"negative hold":      {Subscriber{Branch: b.ID, Name: "x", Consistency: AtLeastOnce, View: b.View.ID, Hold: -time.Second}, record.ErrInvalid},
		"negative offset":    {Subscriber{Branch: b.ID, Name: "x", Consistency: AtLeastOnce, View: b.View.ID, Next: record.Offsets{3, -1}}, record.ErrInvalid},
		"negative number":    {Subscriber{Branch: b.ID, Name: "x", Consistency: AtLeastOnce, View: b.View.ID, Checkpoint: -1}, record.ErrInvalid},
		"too many offsets":   {Subscriber{Branch: b.ID, Name: "x", Consistency: AtLeastOnce, View: b.View.ID, Next: make(record.Offsets, record.MaxPartitions+1)}, record.ErrInvalid},
		"no name":            {Subscriber{Branch: b.ID, Consistency: AtLeastOnce, View: b.View.ID}, record.ErrInvalid},
		"a path":             {Subscriber{Branch: b.ID, Name: "..", Consistency: AtLeastOnce, View: b.View.ID}, record.ErrInvalid},
		"a slash":            {Subscriber{Branch: b.ID, Name: "a/b", Consistency: AtLeastOnce, View: b.View.ID}, record.ErrInvalid},
		"name of a letter ü": {Subscriber{Branch: b.ID, Name: "ü", Consistency: AtLeastOnce, View: b.View.ID}, record.ErrInvalid},
		"long name":          {Subscriber{Branch: b.ID, Name: strings.Repeat("n", MaxNameLen+1), Consistency: AtLeastOnce, View: b.View.ID}, record.ErrInvalid},
	} {
		_, err := f.CreateSubscriber(ctx, c.s)
		wantErr(t, what, err, c.want)
	}
	if n := f.count(t, `SELECT count(*) FROM subscribers`); n != 2 {
		t.Errorf("%d subscribers, want 2", n)
	}
	// The longest there can be.
	long := make(record.Offsets, record.MaxPartitions)
	for i := range long {
		long[i] = 1<<63 - 1
	}
	name := strings.Repeat("n", MaxNameLen)
	f.subscriber(t, b, name, Subscriber{Next: long})
	if got, err := f.Subscriber(ctx, b.ID, name); err != nil || !got.Next.Equal(long) {
		t.Errorf("the longest position came back as %d offsets, %v", len(got.Next), err)
	}

	ok(t, f.DeleteSubscriber(ctx, want.ID))
	wantErr(t, "delete twice", f.DeleteSubscriber(ctx, want.ID), record.ErrNotFound)
	_, err := f.Subscriber(ctx, b.ID, "g.1")
	wantErr(t, "deleted", err, record.ErrNotFound)
	_, err = f.BeginSession(ctx, want.ID)
	wantErr(t, "session of a deleted one", err, record.ErrNotFound)
	_, err = f.ResetSubscriber(ctx, want.ID, b.View.ID, nil, 0, 0)
	wantErr(t, "reset of a deleted one", err, record.ErrNotFound)
	if again := f.subscriber(t, b, "g.1", Subscriber{}); again.ID <= want.ID {
		t.Errorf("id %v was used before", again.ID)
	}

	_, err = f.writer.ExecContext(ctx, `UPDATE subscribers SET next = '[1,' WHERE name = 'g.1'`)
	ok(t, err)
	_, err = f.Subscriber(ctx, b.ID, "g.1")
	wantErr(t, "damaged position", err, record.ErrCorrupt)
}

func TestListSubscribers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	_, b := f.stream(t, "a")
	_, other := f.stream(t, "b")
	f.subscriber(t, other, "elsewhere", Subscriber{})
	var want []string
	for i := range 7 {
		want = append(want, fmt.Sprintf("g%d", i))
		f.subscriber(t, b, fmt.Sprintf("g%d", 6-i), Subscriber{})
	}
	var got []string
	for after := ""; ; {
		page, err := f.ListSubscribers(ctx, b.ID, after, 3)
		ok(t, err)
		if len(page) == 0 {
			break
		}
		for _, s := range page {
			got = append(got, s.Name)
		}
		after = got[len(got)-1]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	of, err := f.ViewSubscribers(ctx, b.View.ID)
	if err != nil || len(of) != 7 {
		t.Errorf("%d subscribers of the view, %v", len(of), err)
	}
	all, err := f.AllSubscribers(ctx, 0, 5)
	if err != nil || len(all) != 5 || all[0].Name != "elsewhere" {
		t.Errorf("the first of all subscribers: %v, %v", all, err)
	}
	if all, err = f.AllSubscribers(ctx, all[4].ID, 5); err != nil || len(all) != 3 {
		t.Errorf("%d more subscribers, %v", len(all), err)
	}

	// No more than the bound, and a place is free again after a deletion.
	_, err = f.writer.ExecContext(ctx, `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
		INSERT INTO subscribers (id, branch_id, name, consistency, view_id, next, checkpoint, generation, session, hold_ms, created_ms, committed_ms)
		SELECT 10000 + i, branch_id, 'more' || i, consistency, view_id, next, checkpoint, generation, session, hold_ms, created_ms, committed_ms
		FROM n, subscribers WHERE name = 'g0'`, MaxSubscribers-7)
	ok(t, err)
	more := Subscriber{Branch: b.ID, Name: "one-more", Consistency: AtLeastOnce, View: b.View.ID}
	_, err = f.CreateSubscriber(ctx, more)
	wantErr(t, "beyond the bound", err, record.ErrTooLarge)
	more.Name = "g0"
	_, err = f.CreateSubscriber(ctx, more)
	wantErr(t, "an old name beyond the bound", err, record.ErrExists)
	ok(t, f.DeleteSubscriber(ctx, of[0].ID))
	f.subscriber(t, b, "one-more", Subscriber{})
}

func TestCommitSubscribers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	_, b := f.stream(t, "a")
	v := b.View.ID
	f.cuts(t, v, 1, 9)
	one := f.subscriber(t, b, "one", Subscriber{})
	two := f.subscriber(t, b, "two", Subscriber{Next: record.Offsets{50, 50}, Checkpoint: 5})
	three := f.subscriber(t, b, "three", Subscriber{})
	f.clock.advance(time.Minute)
	reset, err := f.ResetSubscriber(ctx, three.ID, v, record.Offsets{20, 20}, 0, 2)
	ok(t, err)
	if want := (Subscriber{
		ID: three.ID, Branch: b.ID, Name: "three", Consistency: AtLeastOnce, View: v, Next: record.Offsets{20, 20}, Checkpoint: 2,
		Generation: 2, Created: three.Created, Committed: f.clock.Now(),
	}); !cmp.Equal(want, reset) {
		t.Error(cmp.Diff(want, reset))
	}

	outcome, err := f.CommitSubscribers(ctx, []SubscriberCommit{
		{ID: one.ID, Generation: 1, View: v, Next: record.Offsets{30}, Checkpoint: 3},
		{ID: 99, Generation: 1, View: v, Next: record.Offsets{1}},
		{ID: three.ID, Generation: 1, View: v, Next: record.Offsets{90, 90}, Checkpoint: 9},
		{ID: two.ID, Generation: 1, View: v, Next: record.Offsets{40, 70}, Checkpoint: 4},
		{ID: two.ID, Generation: 1, View: v + 1, Next: record.Offsets{90, 90}},
		{ID: two.ID, Generation: 1, View: v, Next: record.Offsets{-1}},
		{ID: one.ID, Generation: 1, View: v, Next: record.Offsets{0, 0, 7}, Checkpoint: 3},
		{ID: three.ID, Generation: 2, View: v, Next: record.Offsets{25, 40}, Checkpoint: 2},
	})
	ok(t, err)
	for i, want := range []error{nil, record.ErrNotFound, record.ErrFenced, nil, record.ErrInvalid, record.ErrInvalid, nil, nil} {
		if !errors.Is(outcome[i], want) || (want == nil && outcome[i] != nil) {
			t.Errorf("commit %d: %v, want %v", i, outcome[i], want)
		}
	}
	for _, c := range []*Catalog{f.Catalog, f.open(t)} {
		for name, want := range map[string]Subscriber{
			// One partition stands at checkpoint 3, the other before all.
			"one":   {Next: record.Offsets{30, 0, 7}, Checkpoint: 0, Generation: 1},
			"two":   {Next: record.Offsets{50, 70}, Checkpoint: 5, Generation: 1},
			"three": {Next: record.Offsets{25, 40}, Checkpoint: 2, Generation: 2},
		} {
			got, err := c.Subscriber(ctx, b.ID, name)
			ok(t, err)
			if !cmp.Equal(got.Next, want.Next) || got.Checkpoint != want.Checkpoint || got.Generation != want.Generation {
				t.Errorf("%s stands at %v, checkpoint %d, generation %d; want %+v", name, got.Next, got.Checkpoint, got.Generation, want)
			}
		}
	}

	// When the other partition follows, the checkpoint does.
	outcome, err = f.CommitSubscribers(ctx, []SubscriberCommit{{ID: one.ID, Generation: 1, View: v, Next: record.Offsets{0, 40}, Checkpoint: 4}})
	if err != nil || outcome[0] != nil {
		t.Fatal(err, outcome)
	}
	outcome, err = f.CommitSubscribers(ctx, []SubscriberCommit{{ID: one.ID, Generation: 1, View: v, Next: record.Offsets{30}, Checkpoint: 3}})
	if err != nil || outcome[0] != nil {
		t.Fatal(err, outcome)
	}
	if got, err := f.Subscriber(ctx, b.ID, "one"); err != nil || got.Checkpoint != 3 {
		t.Errorf("%+v, %v; want checkpoint 3", got, err)
	}
	// A commit that moves nothing writes nothing.
	at := f.clock.Now()
	f.clock.advance(time.Minute)
	_, err = f.CommitSubscribers(ctx, []SubscriberCommit{{ID: one.ID, Generation: 1, View: v, Next: record.Offsets{30}, Checkpoint: 3}})
	ok(t, err)
	if got, err := f.Subscriber(ctx, b.ID, "one"); err != nil || !got.Committed.Equal(at) {
		t.Errorf("committed at %v, %v; want %v", got.Committed, err, at)
	}
	if outcome, err := f.CommitSubscribers(ctx, nil); err != nil || outcome != nil {
		t.Errorf("no commits: %v, %v", outcome, err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	outcome, err = f.CommitSubscribers(cancelled, []SubscriberCommit{{ID: one.ID, Generation: 1, View: v, Next: record.Offsets{80}}})
	if !errors.Is(err, context.Canceled) || outcome != nil {
		t.Errorf("without a catalog: %v, %v", outcome, err)
	}
}

// A reset of the branch leaves its subscribers where they were, and only a reset
// of the subscriber takes them to the new view.
func TestSubscribersOfAResetBranch(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	s, b := f.stream(t, "a")
	before := f.subscriber(t, b, "g", Subscriber{Next: record.Offsets{7}})
	now, err := f.ResetBranch(ctx, b.ID, b.Version, Reset{})
	ok(t, err)
	if got, err := f.Subscriber(ctx, b.ID, "g"); err != nil || !cmp.Equal(got, before) {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = f.ResetSubscriber(ctx, before.ID, b.View.ID, nil, 0, 0)
	wantErr(t, "reset to the old view", err, record.ErrConflict)
	got, err := f.ResetSubscriber(ctx, before.ID, now.View.ID, nil, 0, 0)
	if err != nil || got.View != now.View.ID || len(got.Next) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	outcome, err := f.CommitSubscribers(ctx, []SubscriberCommit{{ID: before.ID, Generation: 1, View: b.View.ID, Next: record.Offsets{9}}})
	ok(t, err)
	wantErr(t, "commit of the old view", outcome[0], record.ErrFenced)
	for v, want := range map[record.ViewID]int{b.View.ID: 0, now.View.ID: 1} {
		if of, err := f.ViewSubscribers(ctx, v); err != nil || len(of) != want {
			t.Errorf("%d subscribers of view %v, %v; want %d", len(of), v, err, want)
		}
	}

	// With the stream they go, whatever view they are of.
	f.subscriber(t, now, "h", Subscriber{})
	_, err = f.DeleteStream(ctx, s.ID, f.clock.Now())
	ok(t, err)
	if n := f.count(t, `SELECT count(*) FROM subscribers`); n != 0 {
		t.Errorf("%d subscribers of a deleted stream", n)
	}
}

// Sessions grow for ever: over reopening, resets, and for those who were told of
// a subscriber that has gone, over deletion.
func TestSessionsGrow(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	s, b := f.stream(t, "a")
	g := f.subscriber(t, b, "g", Subscriber{})
	begin := func(want int64) {
		t.Helper()
		if got, err := f.BeginSession(ctx, g.ID); err != nil || got != want {
			t.Fatalf("session %d, %v; want %d", got, err, want)
		}
	}
	begin(1)
	begin(2)
	ok(t, f.Close())
	f.Catalog = f.open(t)
	begin(3)
	_, err := f.ResetSubscriber(ctx, g.ID, b.View.ID, nil, 0, 0)
	ok(t, err)
	begin(4)
	ok(t, f.DeleteSubscriber(ctx, g.ID))
	other := f.subscriber(t, b, "other", Subscriber{})
	g = f.subscriber(t, b, "g", Subscriber{})
	begin(5)
	begin(6)
	ok(t, f.DeleteSubscriber(ctx, other.ID)) // has had fewer
	_, err = f.DeleteStream(ctx, s.ID, f.clock.Now())
	ok(t, err)
	_, b = f.stream(t, "a")
	g = f.subscriber(t, b, "g", Subscriber{})
	begin(7)
	if got, err := f.Subscriber(ctx, b.ID, "g"); err != nil || got.Session != 7 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestSubscriberContention: commits and sessions from several handles: the
// position ends at the largest of each partition and is never seen to go back,
// no session is given out twice.
func TestSubscriberContention(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	_, b := f.stream(t, "a")
	g := f.subscriber(t, b, "g", Subscriber{})
	const workers, each = 4, 30
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for w, c := range []*Catalog{f.Catalog, f.Catalog, f.open(t), f.open(t)} {
		wg.Go(func() {
			last := record.Offsets{}
			for i := range each {
				n, err := c.BeginSession(ctx, g.ID)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[n] {
					t.Errorf("session %d twice", n)
				}
				seen[n] = true
				mu.Unlock()
				// One partition of the worker's own, one that all move.
				next := record.Offsets{record.Offset(i*workers + w)}.With(record.Partition(1+w), record.Offset(i))
				outcome, err := c.CommitSubscribers(ctx, []SubscriberCommit{{ID: g.ID, Generation: 1, View: b.View.ID, Next: next}})
				if err != nil || outcome[0] != nil {
					t.Error(err, outcome)
					return
				}
				s, err := c.Subscriber(ctx, b.ID, "g")
				if err != nil || !s.Next.Covers(last) || !s.Next.Covers(next) {
					t.Errorf("at %v behind %v and the commit of %v, %v", s.Next, last, next, err)
					return
				}
				last = s.Next
			}
		})
	}
	wg.Wait()
	s, err := f.Subscriber(ctx, b.ID, "g")
	ok(t, err)
	if want := (record.Offsets{each*workers - 1, each - 1, each - 1, each - 1, each - 1}); !s.Next.Equal(want) || len(seen) != workers*each {
		t.Errorf("ends at %v after %d sessions, want %v after %d", s.Next, len(seen), want, workers*each)
	}
}

// What an exactly-once subscriber has yet to read is kept, for a week.
func TestPruneKeepsUnreadEpochs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	_, b := f.stream(t, "a")
	v := b.View.ID
	f.cuts(t, v, 1, 40)
	slow := f.subscriber(t, b, "slow", Subscriber{Consistency: ExactlyOnce, Next: record.Offsets{50, 50}, Checkpoint: 5})
	fast := f.subscriber(t, b, "fast", Subscriber{Consistency: ExactlyOnce, Next: record.Offsets{200, 200}, Checkpoint: 20})
	f.subscriber(t, b, "careless", Subscriber{Next: record.Offsets{10, 10}, Checkpoint: 1})
	prune := func(what string, keep time.Duration, removed, first int64) {
		t.Helper()
		n, err := f.PruneCheckpoints(ctx, f.clock.Now().Add(-keep), 3)
		left, err2 := f.CheckpointsAfter(ctx, v, 0, 1)
		if err != nil || err2 != nil || n != removed || len(left) == 0 || left[0].Number != first {
			t.Errorf("%s: removed %d, left %+v, %v, %v; want %d, from %d", what, n, left, err, err2, removed, first)
		}
	}
	f.clock.advance(48 * time.Hour)
	prune("too young", 72*time.Hour, 0, 1)
	prune("two are behind", 24*time.Hour, 5, 6)
	prune("again", 24*time.Hour, 0, 6)
	_, err := f.CommitSubscribers(ctx, []SubscriberCommit{{ID: slow.ID, Generation: 1, View: v, Next: record.Offsets{100, 90}, Checkpoint: 10}})
	ok(t, err)
	prune("one partition is behind", 24*time.Hour, 0, 6)
	_, err = f.CommitSubscribers(ctx, []SubscriberCommit{{ID: slow.ID, Generation: 1, View: v, Next: record.Offsets{0, 100}, Checkpoint: 10}})
	ok(t, err)
	prune("it has moved", 24*time.Hour, 5, 11)
	ok(t, f.DeleteSubscriber(ctx, slow.ID))
	prune("it is gone", 24*time.Hour, 10, 21)

	f.clock.advance(SubscriberKeep - 48*time.Hour)
	f.cuts(t, v, 41, 50)
	prune("a week", 24*time.Hour, 0, 21)
	f.clock.advance(time.Millisecond)
	prune("more than a week", 24*time.Hour, 20, 41)
	f.clock.advance(48 * time.Hour)
	prune("the last ones are younger", 24*time.Hour, 0, 41)

	// After a reset of the branch nobody can read on.
	_, err = f.ResetBranch(ctx, b.ID, b.Version, Reset{})
	ok(t, err)
	prune("the branch was reset", 24*time.Hour, 7, 48)
	ok(t, f.DeleteSubscriber(ctx, fast.ID))
}

// TestPruneModel prunes against a list of checkpoints with their ages.
func TestPruneModel(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		_, b := f.stream(t, fmt.Sprintf("s%d", seed))
		v := b.View.ID
		made := map[int64]time.Time{}
		last, removedAll := int64(0), int64(0)
		var subs []int64
		for range 12 {
			switch rnd.IntN(5) {
			case 0:
				n := 1 + rnd.Int64N(30)
				f.cuts(t, v, last+1, last+n)
				for i := last + 1; i <= last+n; i++ {
					made[i] = f.clock.Now()
				}
				last += n
			case 1:
				f.clock.advance(time.Duration(1+rnd.IntN(96)) * time.Hour)
			case 2:
				at := removedAll + rnd.Int64N(last-removedAll+1)
				o := record.Offset(10 * at)
				s := f.subscriber(t, b, fmt.Sprintf("g%d", len(subs)), Subscriber{Consistency: ExactlyOnce, Next: record.Offsets{o, o}, Checkpoint: at})
				subs = append(subs, s.Checkpoint)
			default:
				keep := time.Duration(1+rnd.IntN(240)) * time.Hour
				before, week := f.clock.Now().Add(-keep), f.clock.Now().Add(-SubscriberKeep)
				_, err := f.PruneCheckpoints(ctx, before, 4)
				ok(t, err)
				for i := removedAll + 1; i <= last-4; i++ {
					unread := false
					for _, at := range subs {
						unread = unread || at < i
					}
					if !made[i].Before(before) || unread && !made[i].Before(week) {
						break
					}
					removedAll = i
				}
			}
			left, err := f.CheckpointsAfter(ctx, v, 0, MaxPage)
			ok(t, err)
			if int64(len(left)) != last-removedAll || len(left) > 0 && left[0].Number != removedAll+1 {
				t.Fatalf("seed %d: %d checkpoints are left, %d of %d should be gone", seed, len(left), removedAll, last)
			}
		}
	}
}

func BenchmarkCommitSubscribers(b *testing.B) {
	for _, group := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("group=%d", group), func(b *testing.B) {
			f := newFixture(b)
			_, branch := f.stream(b, "s")
			commits := make([]SubscriberCommit, group)
			for i := range commits {
				s := f.subscriber(b, branch, fmt.Sprintf("g%d", i), Subscriber{})
				commits[i] = SubscriberCommit{ID: s.ID, Generation: 1, View: branch.View.ID, Next: make(record.Offsets, 8)}
			}
			for b.Loop() {
				for i := range commits {
					commits[i].Next[3]++
				}
				_, err := f.CommitSubscribers(b.Context(), commits)
				ok(b, err)
			}
			b.ReportMetric(float64(b.N)*float64(group)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}
