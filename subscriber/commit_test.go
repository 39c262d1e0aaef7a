package subscriber_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/subscriber"
)

// faultyStore is the catalog behind faults.
type faultyStore struct {
	*catalog.Catalog
	before, after atomic.Pointer[error]
	gate          chan struct{} // if set, each transaction waits for a token
	waiting       atomic.Int64
}

func (s *faultyStore) CommitSubscribers(ctx context.Context, commits []catalog.SubscriberCommit) ([]error, error) {
	if s.gate != nil {
		s.waiting.Add(1)
		<-s.gate
	}
	if err := s.before.Swap(nil); err != nil {
		return nil, *err
	}
	out, err := s.Catalog.CommitSubscribers(ctx, commits)
	if after := s.after.Swap(nil); after != nil {
		return nil, *after
	}
	return out, err
}

// TestCommitFails: an error of the catalog ends no session, and a commit whose
// answer was lost may be repeated.
func TestCommitFails(t *testing.T) {
	t.Parallel()
	s := &faultyStore{}
	e := newEnv(t, 1, subscriber.Options{Store: s})
	s.Catalog = e.catalog
	e.create("g", catalog.AtLeastOnce)
	e.publish(0, 3)
	c := e.join("g", subscriber.Join{Member: "m"})
	c.has(3)
	disk := errors.New("the disk is gone")
	s.before.Store(&disk)
	_, err := c.tryCommit(c.at())
	refused(t, err, disk, `"g"`)
	if at := e.get("g").Position.Next; !at.Equal(nil) {
		t.Fatalf("a failed commit moved the position to %v", at)
	}
	s.after.Store(&disk)
	_, err = c.tryCommit(c.at())
	refused(t, err, disk)
	if got := c.commit(); !got.Next.Equal(record.Offsets{3}) {
		t.Fatalf("repeated: %v", got)
	}
	e.publish(0, 1)
	c.has(4)
	c.commit()
}

// TestCommitUnderWay: who waits no longer knows nothing; who leaves with a commit
// under way is followed behind it; and a server that stops answers all.
func TestCommitUnderWay(t *testing.T) {
	t.Parallel()
	s := &faultyStore{gate: make(chan struct{})}
	e := newEnv(t, 1, subscriber.Options{Store: s})
	s.Catalog = e.catalog
	e.create("g", catalog.AtLeastOnce)
	e.publish(0, 3)
	a := e.join("g", subscriber.Join{Member: "a"})
	a.has(3)
	at := a.at()
	brief, cancel := context.WithCancel(ctx)
	gone := make(chan error, 1)
	go func() {
		_, err := e.c.Commit(brief, ref, "g", subscriber.Commit{Session: a.s.Number(), Cursor: &at})
		gone <- err
	}()
	for s.waiting.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	refused(t, <-gone, context.Canceled)
	a.leave()
	b := e.join("g", subscriber.Join{Member: "b"})
	b.given()
	s.gate <- struct{}{}
	b.given(0)
	e.publish(0, 2)
	b.has(2)
	e.everyRow(true, a.seen(), b.seen())

	// One is at the catalog and one in the queue when the server stops.
	at = b.at()
	answers := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := e.c.Commit(ctx, ref, "g", subscriber.Commit{Session: b.s.Number(), Cursor: &at})
			answers <- err
		}()
	}
	for s.waiting.Load() == 1 {
		time.Sleep(time.Millisecond)
	}
	stopped := make(chan struct{})
	go func() {
		e.stop()
		close(stopped)
	}()
	for done := false; !done; {
		select {
		case s.gate <- struct{}{}:
		case <-stopped:
			done = true
		}
	}
	for range 2 {
		if err := <-answers; err != nil && !errors.Is(err, record.ErrClosed) {
			t.Fatal(err)
		}
	}
	b.ends(record.ErrClosed)
}
