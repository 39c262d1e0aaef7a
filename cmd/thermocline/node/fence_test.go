package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/thermocline/thermocline/archiver"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// sleeper is an archiver of another process on the same stores, which stops at
// a step with all it does, its lease's renewal included.
type sleeper struct {
	*archiver.Archiver
	mu     sync.Mutex
	at     archiver.Step
	asleep bool
	sleeps chan struct{}
	wake   chan struct{}
}

func (w *world) otherArchiver(owner string, at archiver.Step) *sleeper {
	w.t.Helper()
	s := &sleeper{at: at, sleeps: make(chan struct{}), wake: make(chan struct{})}
	n := w.node
	a, err := archiver.New(archiver.Options{
		Branches: targets{n.directory}, Leases: sleepyLeases{n.catalog, s}, Schemas: n.catalog, Checkpoints: checkpoints{n.checks},
		Buffer: n.log, Datasets: dataset.New(w.store(), n.catalog, dataset.Options{}),
		Owner: owner, Cluster: n.catalog.ClusterID(), LeaseTTL: 30 * time.Millisecond,
		Reached: func(step archiver.Step) {
			if step != s.at {
				return
			}
			s.mu.Lock()
			s.asleep, s.at = true, ""
			s.mu.Unlock()
			s.sleeps <- struct{}{}
			<-s.wake
			s.mu.Lock()
			s.asleep = false
			s.mu.Unlock()
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	s.Archiver = a
	return s
}

type sleepyLeases struct {
	archiver.Leases
	s *sleeper
}

func (l sleepyLeases) RenewLease(ctx context.Context, in catalog.Lease, ttl time.Duration) (catalog.Lease, error) {
	l.s.mu.Lock()
	asleep := l.s.asleep
	l.s.mu.Unlock()
	if asleep {
		return catalog.Lease{}, errInjected
	}
	return l.Leases.RenewLease(ctx, in, ttl)
}

// takeOver archives as soon as the other's lease is over.
func (s *sleeper) takeOver(t *testing.T, b catalog.BranchID) archiver.Result {
	t.Helper()
	for {
		out, err := s.Archive(t.Context(), b)
		if err == nil {
			return out
		}
		if !errors.Is(err, record.ErrBusy) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// An archiver that slept through its lease finds that another one took over,
// whatever its clock says: it changes nothing any more.
func TestStaleArchiverIsFenced(t *testing.T) {
	t.Parallel()
	for _, reset := range []bool{false, true} {
		for _, step := range archiver.Steps {
			t.Run(fmt.Sprintf("%s, reset %v", step, reset), func(t *testing.T) {
				t.Parallel()
				w := newWorldWith(t, catalog.Settings{Partitions: 2}, Options{})
				b := w.state().Branch.ID
				w.publish(30)
				w.archive()
				if err := w.node.archiver.Finish(t.Context()); err != nil { // gives its lease back
					t.Fatal(err)
				}
				w.publish(30)
				if reset {
					w.reset()
					w.publish(30)
				}
				first, second := w.otherArchiver("first", step), w.otherArchiver("second", "")
				answer := make(chan error)
				go func() {
					_, err := first.Archive(t.Context(), b)
					answer <- err
				}()
				<-first.sleeps
				second.takeOver(t, b)
				w.publish(10)
				head := w.table().MetadataLocation()
				close(first.wake)
				err := <-answer
				late := step == archiver.StepCommit || step == archiver.StepDone
				switch {
				case reset && err == nil:
					// It found the old view done, and took the new one's lease rightly.
					head = w.table().MetadataLocation()
				case reset:
					if errors.Is(err, record.ErrCorrupt) {
						t.Errorf("the stale archiver: %v", err)
					}
				case late && err != nil:
					t.Errorf("an archiver that had committed: %v", err)
				case !late && !errors.Is(err, record.ErrFenced):
					t.Errorf("the stale archiver: %v, want ErrFenced", err)
				}
				if now := w.table().MetadataLocation(); now != head {
					t.Errorf("the stale archiver moved the dataset")
				}
				w.whole()
				first.takeOver(t, b)
				w.whole()
				w.publish(10)
				second.takeOver(t, b)
				w.whole()
				if m := w.marker(); m.Offsets.RowsSince(nil) != w.next {
					t.Errorf("archived up to %v of %d rows", m.Offsets, w.next)
				}
				w.epochsGrow()
			})
		}
	}
}

// The epoch alone stops a stale archiver, before the other has moved anything.
func TestFenceAloneStopsAStaleArchiver(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	b := w.state().Branch.ID
	w.publish(30)
	first, second := w.otherArchiver("first", archiver.StepUpload), w.otherArchiver("second", archiver.StepFence)
	answer := make(chan error)
	go func() {
		_, err := first.Archive(t.Context(), b)
		answer <- err
	}()
	<-first.sleeps
	over := make(chan struct{})
	go func() {
		defer close(over)
		second.takeOver(t, b)
	}()
	<-second.sleeps
	close(first.wake)
	if err := <-answer; !errors.Is(err, record.ErrFenced) {
		t.Errorf("the stale archiver: %v, want ErrFenced", err)
	}
	if m := w.marker(); m.Offsets.RowsSince(nil) != 0 {
		t.Errorf("it archived up to %v", m.Offsets)
	}
	close(second.wake)
	<-over
	w.archivedBy(second)
}

// archivedBy checks that another archiver has everything cold.
func (w *world) archivedBy(s *sleeper) {
	w.t.Helper()
	s.takeOver(w.t, w.state().Branch.ID)
	if m := w.marker(); m.Offsets.RowsSince(nil) != w.next {
		w.t.Errorf("archived up to %v of %d rows", m.Offsets, w.next)
	}
	w.whole()
}

// An archiver whose lease is good but whose epoch the dataset has passed takes
// larger epochs until it is ahead.
func TestEpochOfTheDatasetDecides(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	w.publish(5)
	w.archive()
	m := *w.marker()
	m.Epoch += 3
	m.CommitID = "by hand"
	if _, err := w.node.datasets.Commit(t.Context(), w.state().Branch.TableUUID, dataset.Commit{Marker: &m}); err != nil {
		t.Fatal(err)
	}
	w.publish(5)
	fenced := 0
	for ; errors.Is(w.tryArchive(), record.ErrFenced); fenced++ {
		if fenced > 5 {
			t.Fatal("it never gets ahead")
		}
	}
	if fenced == 0 {
		t.Error("it archived under an epoch that had passed")
	}
	w.archived()
	w.epochsGrow()
}

// epochsGrow checks that the epochs of a view never go back along the history.
func (w *world) epochsGrow() {
	w.t.Helper()
	last := map[record.ViewID]int64{}
	for _, s := range w.table().Snapshots() {
		if m := s.Marker; m != nil {
			if m.Epoch < last[m.View] {
				w.t.Errorf("epoch %d of view %s comes after %d", m.Epoch, m.View, last[m.View])
			}
			last[m.View] = m.Epoch
		}
	}
}

// A lease that is lost while an archive waits ends the archive.
func TestLostLeaseEndsTheArchive(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{})
	o := Options{seams: seams{
		buffer: func(b hotbuffer.Buffer) hotbuffer.Buffer { return stuckBuffer{b, stuck} },
		archiver: func(o *archiver.Options) {
			o.LeaseTTL = 30 * time.Millisecond
			o.Leases = &stolenLeases{Leases: o.Leases}
		},
	}}
	w := newWorldWith(t, catalog.Settings{}, o)
	w.publish(10)
	if err := w.tryArchive(); !errors.Is(err, record.ErrFenced) {
		t.Fatalf("%v, want ErrFenced", err)
	}
	close(stuck)
	if err := w.tryArchive(); err != nil {
		t.Fatal(err)
	}
	w.whole()
}

// stuckBuffer hangs in Read until the caller goes or stuck is closed.
type stuckBuffer struct {
	hotbuffer.Buffer
	stuck chan struct{}
}

func (b stuckBuffer) Read(ctx context.Context, v record.ViewID, p record.Partition, from record.Offset, n int) ([]record.Batch, error) {
	select {
	case <-b.stuck:
		return b.Buffer.Read(ctx, v, p, from, n)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// stolenLeases are taken over once.
type stolenLeases struct {
	archiver.Leases
	stolen atomic.Bool
}

func (l *stolenLeases) RenewLease(ctx context.Context, in catalog.Lease, ttl time.Duration) (catalog.Lease, error) {
	if !l.stolen.Swap(true) {
		return catalog.Lease{}, record.ErrFenced
	}
	return l.Leases.RenewLease(ctx, in, ttl)
}

// When neither the swap nor a look at the pointer answers, nobody knows whether
// the commit landed. Both ways the next archive does what is left.
func TestCommitOutcomeUnknown(t *testing.T) {
	t.Parallel()
	for _, landed := range []bool{false, true} {
		t.Run(fmt.Sprintf("landed %v", landed), func(t *testing.T) {
			t.Parallel()
			p := &mutePointers{landed: landed}
			w := newWorldWith(t, catalog.Settings{}, Options{seams: seams{pointers: func(real dataset.Pointers) dataset.Pointers {
				p.Pointers = real
				return p
			}}})
			w.publish(10)
			w.archive() // with its fence, so that the next has only the commit
			w.publish(10)
			p.mute(true)
			err := w.tryArchive()
			p.mute(false)
			if !errors.Is(err, dataset.ErrOutcomeUnknown) {
				t.Fatalf("%v, want ErrOutcomeUnknown", err)
			}
			w.whole()
			want := int64(10)
			if landed {
				want = 0
			}
			if out := w.archive(); out.Rows != want {
				t.Errorf("the next archive moved %d rows, want %d", out.Rows, want)
			}
			w.archived()
		})
	}
}

// A swap whose outcome was unknown may still land while the next archive is at
// work on the same rows: then that one is refused, and no row is there twice.
func TestCommitThatLandsLate(t *testing.T) {
	t.Parallel()
	p := &mutePointers{}
	var land func()
	w := newWorldWith(t, catalog.Settings{}, Options{
		seams: seams{pointers: func(real dataset.Pointers) dataset.Pointers { p.Pointers = real; return p }},
		Reached: func(s archiver.Step) {
			if s == archiver.StepUpload && land != nil {
				land()
				land = nil
			}
		},
	})
	w.publish(10)
	w.archive()
	w.publish(10)
	p.mute(true)
	if err := w.tryArchive(); !errors.Is(err, dataset.ErrOutcomeUnknown) {
		t.Fatalf("%v, want ErrOutcomeUnknown", err)
	}
	p.mute(false)
	land = func() {
		if err := p.Pointers.SwapTablePointer(t.Context(), p.late[0], p.late[1], p.late[2]); err != nil {
			t.Error(err)
		}
	}
	if err := w.tryArchive(); !errors.Is(err, record.ErrFenced) {
		t.Errorf("%v, want ErrFenced", err)
	}
	w.whole()
	w.archived()
}

type mutePointers struct {
	late [3]string // the swap that was not made

	dataset.Pointers
	landed bool
	mu     sync.Mutex
	muted  bool
	silent bool
}

func (p *mutePointers) mute(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.muted, p.silent = on, false
}

func (p *mutePointers) SwapTablePointer(ctx context.Context, id, from, to string) error {
	p.mu.Lock()
	muted := p.muted
	p.silent = muted
	p.mu.Unlock()
	if muted && !p.landed {
		p.late = [3]string{id, from, to}
		return errInjected
	}
	err := p.Pointers.SwapTablePointer(ctx, id, from, to)
	if muted {
		return errInjected
	}
	return err
}

func (p *mutePointers) TablePointer(ctx context.Context, id string) (string, error) {
	p.mu.Lock()
	silent := p.silent
	p.mu.Unlock()
	if silent {
		return "", errInjected
	}
	return p.Pointers.TablePointer(ctx, id)
}

// An archive without rows makes no snapshot, a process and view need one fence.
func TestFewSnapshots(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	w.archive()
	if n := len(w.table().Snapshots()); n != 0 {
		t.Fatalf("an archive of nothing made %d snapshots", n)
	}
	want := 1 // the fence
	for range 3 {
		w.publish(5)
		w.archive()
		w.archive()
		want++
		if n := len(w.table().Snapshots()); n != want {
			t.Fatalf("%d snapshots, want %d", n, want)
		}
	}
	w.restart()
	w.archive()
	if n := len(w.table().Snapshots()); n != want {
		t.Fatalf("an archive of nothing after a restart: %d snapshots, want %d", n, want)
	}
	w.publish(5)
	w.archive()
	if n := len(w.table().Snapshots()); n != want+2 {
		t.Fatalf("after a restart: %d snapshots, want %d", n, want+2)
	}
	w.epochsGrow()
	w.archived()
}
