package disk

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// gate is a file system whose commits can be counted, held up and failed.
type gate struct {
	fs    vfs.FS
	mu    sync.Mutex
	held  chan struct{} // non-nil: syncs wait for it
	fail  func(op errorfs.Op) error
	syncs atomic.Int64
	waits atomic.Int64
}

func newGate(fs vfs.FS) *gate {
	g := &gate{}
	g.fs = errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		g.mu.Lock()
		held, fail := g.held, g.fail
		g.mu.Unlock()
		if op.Kind == errorfs.OpFileSyncData {
			g.syncs.Add(1)
			if held != nil {
				g.waits.Add(1)
				<-held
			}
		}
		if fail != nil {
			return fail(op)
		}
		return nil
	}))
	return g
}

func (g *gate) hold() (release func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := make(chan struct{})
	g.held = c
	return func() {
		g.mu.Lock()
		g.held = nil
		g.mu.Unlock()
		close(c)
	}
}

func (g *gate) failing(f func(op errorfs.Op) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fail = f
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for range 2000 {
		if f() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

// TestPoison: after a failed write or sync nothing is acknowledged any more,
// nothing is tried again, and what was durable can still be read.
func TestPoison(t *testing.T) {
	t.Parallel()
	for _, kind := range []errorfs.OpKind{errorfs.OpFileSyncData, errorfs.OpFileWriteAt} {
		var fatal atomic.Int64
		g := newGate(vfs.NewCrashableMem())
		h := newHarness(t, Options{FS: g.fs, OnFatal: func(error) { fatal.Add(1) }})
		h.add(1, 0, "durable")
		waited := make(chan error, 1)
		go func() { waited <- h.Wait(context.Background(), 1, record.Offsets{1}) }()

		broken := errors.New("the disk is broken")
		g.failing(func(op errorfs.Op) error {
			if op.Kind == kind {
				return broken
			}
			return nil
		})
		before := g.syncs.Load()
		release := g.hold()
		errs := make(chan error, 5)
		for range cap(errs) {
			go func() {
				_, err := h.try(1, &hotbuffer.Producer{ID: hotbuffer.ProducerID{1}, Sequence: 1}, 0, "lost")
				errs <- err
			}()
		}
		time.Sleep(5 * time.Millisecond)
		release()
		for range cap(errs) {
			if err := <-errs; !errors.Is(err, record.ErrClosed) || !errors.Is(err, broken) || !strings.Contains(err.Error(), "hot log failed") {
				t.Errorf("append: %v", err)
			}
		}
		if err := <-waited; !errors.Is(err, record.ErrClosed) {
			t.Errorf("wait: %v", err)
		}
		g.failing(nil) // the disk pretends to be well again
		syncs := g.syncs.Load()
		if syncs > before+1 {
			t.Errorf("%d syncs after the failure", syncs-before)
		}
		if p, _, err := h.Newest(context.Background(), 1, hotbuffer.ProducerID{1}); !errors.Is(err, record.ErrClosed) {
			t.Errorf("newest request %+v, %v", p, err)
		}
		if _, err := h.try(1, nil, 0, "later"); !errors.Is(err, record.ErrClosed) {
			t.Errorf("append later: %v", err)
		}
		if err := h.Release(context.Background(), 1, record.Offsets{1}); err != nil && !errors.Is(err, record.ErrClosed) {
			t.Errorf("release: %v", err)
		}
		if err := h.Drop(context.Background(), 2); !errors.Is(err, record.ErrClosed) {
			t.Errorf("drop: %v", err)
		}
		if cut, err := h.Cut(context.Background(), 1); err != nil || cut[0] != 1 {
			t.Errorf("cut: %v, %v", cut, err)
		}
		if n := fatal.Load(); n != 1 {
			t.Errorf("OnFatal ran %d times", n)
		}
		if h.LogStats().Failed == nil {
			t.Error("the failure does not show")
		}
		e, err := h.Ends(1)
		if err != nil || e.End[0] != 1 {
			t.Errorf("ends %+v, %v", e, err)
		}
		h.close()
		if g.syncs.Load() != syncs {
			t.Error("something was synced after the failure")
		}
	}
}

// TestReadAfterPoison: rows that were durable before.
func TestReadAfterPoison(t *testing.T) {
	t.Parallel()
	g := newGate(vfs.NewCrashableMem())
	h := newHarness(t, Options{FS: g.fs, CacheBytes: -1})
	h.add(1, 0, "durable")
	g.failing(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSyncData {
			return syscall.EIO
		}
		return nil
	})
	if _, err := h.try(1, nil, 0, "lost"); !errors.Is(err, record.ErrClosed) {
		t.Fatal(err)
	}
	if got := readFrom(t, h.Log, 1, 0, 0); !slices.Equal(got, []string{"durable"}) {
		t.Errorf("rows %q", got)
	}
}

// TestFull: a log that has reached its limit refuses rows, without harm, and
// takes them again when segments are released; again and again.
func TestFull(t *testing.T) {
	t.Parallel()
	h := newHarness(t, Options{MaxBytes: 6 * 64 << 10})
	var stored []string
	start := record.Offset(0)
	for round := range 8 {
		full := false
		for range 100 {
			row := strings.Repeat("x", 3000)
			out, err := h.try(1, nil, 0, row)
			if err != nil {
				if !errors.Is(err, record.ErrFull) {
					t.Fatal(err)
				}
				full = true
				break
			}
			if out.Ranges[0].Start != record.Offset(len(stored)) {
				t.Fatalf("appended at %v after %d rows", out.Ranges, len(stored))
			}
			stored = append(stored, row)
		}
		if !full {
			t.Fatalf("round %d: never full", round)
		}
		if s := h.LogStats(); s.Size > s.Limit || !errors.Is(s.Stalled, record.ErrFull) {
			t.Fatalf("%d bytes of at most %d, stalled: %v", s.Size, s.Limit, s.Stalled)
		}
		if got := readFrom(t, h.Log, 1, 0, start); len(got) != len(stored)-int(start) {
			t.Fatalf("%d rows of %d", len(got), len(stored)-int(start))
		}
		if round%3 == 2 {
			h.reopen()
		}
		if round%3 == 1 {
			h.crash()
			e, _ := h.Ends(1)
			start = e.Start[0]
		}
		start = max(start, record.Offset(len(stored)*(round%2+2)/(round%2+3)))
		if err := h.Release(context.Background(), 1, record.Offsets{start}); err != nil {
			t.Fatal(err)
		}
	}
	// A request that can never fit, and a duplicate of one that did, on a full log.
	p := &hotbuffer.Producer{ID: hotbuffer.ProducerID{1}}
	if _, err := h.try(1, p, 0, "once"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.try(1, nil, 0, strings.Repeat("x", 400<<10)); !errors.Is(err, record.ErrFull) {
		t.Errorf("a request larger than the log: %v", err)
	}
	for range 100 {
		if _, err := h.try(1, nil, 0, strings.Repeat("x", 3000)); err != nil {
			break
		}
	}
	if out, err := h.try(1, p, 0, "once"); err != nil || !out.Duplicate {
		t.Errorf("a retry on a full log: %+v, %v", out, err)
	}
	if d := h.LogStats().Damage; len(d) > 0 {
		t.Errorf("damage: %v", &d[0])
	}
}

// TestFullWithManyViews: what says that rows of hundreds of views were released
// needs more room than a full segment keeps, and there is some.
func TestFullWithManyViews(t *testing.T) {
	t.Parallel()
	h := newHarness(t, Options{SegmentBytes: 256 << 10, MaxBytes: 6 * 256 << 10})
	ctx := context.Background()
	const views = 200
	settings := hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 1}
	for id := range record.ViewID(views) {
		if err := h.Log.Open(ctx, 100+id, settings); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		var err error
		for n := 0; err == nil; n++ {
			_, err = h.try(record.ViewID(100+n%views), nil, 0, strings.Repeat("x", 700))
		}
		if !errors.Is(err, record.ErrFull) {
			t.Fatal(err)
		}
		// Nothing can be freed until nearly all are released.
		for _, last := range []bool{false, true} {
			for id := range record.ViewID(views) {
				e, err := h.Ends(100 + id)
				if err != nil {
					t.Fatal(err)
				}
				if (id%10 == 0) != last {
					continue
				}
				if err := h.Release(ctx, 100+id, e.End); err != nil {
					t.Fatal(err)
				}
			}
		}
		h.add(100, 0, "room again")
	}
}

// TestReleaseNeedsNoSegment: freeing segments works without another one to go
// on to.
func TestReleaseNeedsNoSegment(t *testing.T) {
	t.Parallel()
	h := newHarness(t, Options{MaxBytes: 4 * 64 << 10})
	var err error
	for err == nil {
		_, err = h.try(1, nil, 0, strings.Repeat("x", 700))
	}
	if !errors.Is(err, record.ErrFull) {
		t.Fatal(err)
	}
	active := h.active().epoch
	e, err := h.Ends(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Release(context.Background(), 1, e.End); err != nil {
		t.Fatal(err)
	}
	if h.active().epoch != active || len(h.segments) != 1 {
		t.Errorf("active segment %v, was %v; %d in use", h.active().epoch, active, len(h.segments))
	}
}

// TestDropBeforeCommit: an append that is still queued when its view is dropped
// leaves nothing behind.
func TestDropBeforeCommit(t *testing.T) {
	t.Parallel()
	g := newGate(vfs.NewCrashableMem())
	h := newHarness(t, Options{FS: g.fs})
	h.add(1, 0, "before")
	release := g.hold()
	errs := make(chan error, 2)
	go func() {
		_, err := h.try(2, nil, 0, "held up")
		errs <- err
	}()
	eventually(t, "a commit is held up", func() bool { return g.waits.Load() > 0 })
	queued := make(chan error, 1)
	go func() {
		_, err := h.try(1, nil, 0, "queued")
		queued <- err
	}()
	eventually(t, "an append is queued", func() bool {
		h.queue.mu.Lock()
		defer h.queue.mu.Unlock()
		return len(h.queue.groups) == 1
	})
	go func() { errs <- h.Drop(context.Background(), 1) }()
	eventually(t, "the drop is queued", func() bool {
		h.queue.mu.Lock()
		defer h.queue.mu.Unlock()
		return len(h.queue.controls) == 1
	})
	release()
	if err := errors.Join(<-errs, <-errs); err != nil {
		t.Error(err)
	}
	if err := <-queued; !errors.Is(err, record.ErrNotFound) {
		t.Errorf("append to the dropped view: %v", err)
	}
	h.reopen()
	if slices.Contains(h.Views(), 1) {
		t.Error("the view is back")
	}
}

// TestTooLargeForTheRest: a request that there is no room for does not stop
// smaller ones of the same commit.
func TestTooLargeForTheRest(t *testing.T) {
	t.Parallel()
	g := newGate(vfs.NewCrashableMem())
	h := newHarness(t, Options{FS: g.fs, MaxBytes: 5 * 64 << 10})
	eventually(t, "segments are ready", func() bool { return h.LogStats().SpareSegments == readyTarget })
	for h.active().fits(4*3300, 4, false) { // the small ones need a new segment, too
		h.add(1, 0, strings.Repeat("x", 3000))
	}
	release := g.hold()
	results := make(chan error, 6)
	waits := 0
	send := func(size int, want error) {
		go func() {
			_, err := h.try(1, nil, 0, strings.Repeat("x", size))
			if !errors.Is(err, want) {
				err = fmt.Errorf("%d bytes: %w", size, err)
			} else {
				err = nil
			}
			results <- err
		}()
		waits++
		eventually(t, "it waits", func() bool {
			h.queue.mu.Lock()
			defer h.queue.mu.Unlock()
			return h.queue.requests == waits
		})
	}
	send(1, nil)
	eventually(t, "a commit is held up", func() bool { return g.waits.Load() > 0 })
	for range 4 {
		send(3000, nil)
	}
	send(300<<10, record.ErrFull) // in one commit with those before
	release()
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// TestDiskFull: a disk without room for another segment is a full log, not a
// failed one, and heals when there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for _, kind := range []errorfs.OpKind{errorfs.OpFilePreallocate, errorfs.OpFileWrite} {
		g := newGate(vfs.NewCrashableMem())
		h := newHarness(t, Options{FS: g.fs, OnFatal: func(err error) { t.Errorf("poisoned: %v", err) }})
		eventually(t, "segments are ready", func() bool { return h.LogStats().SpareSegments == readyTarget })
		g.failing(func(op errorfs.Op) error {
			if op.Kind == kind {
				return syscall.ENOSPC
			}
			return nil
		})
		rows := 0
		var err error
		for ; err == nil && rows < 200; rows++ {
			_, err = h.try(1, nil, 0, strings.Repeat("x", 3000))
		}
		if !errors.Is(err, record.ErrFull) || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("after %d rows: %v", rows, err)
		}
		// Released segments are recycled, which needs no room.
		if err := h.Release(context.Background(), 1, record.Offsets{record.Offset(rows - 1)}); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			h.add(1, 0, strings.Repeat("x", 3000))
		}
		g.failing(nil)
		eventually(t, "rows are taken after room was made", func() bool {
			for range 30 {
				if _, err := h.try(1, nil, 0, strings.Repeat("x", 3000)); err != nil {
					return false
				}
			}
			return true
		})
		h.close()
	}
}

// TestBusy: what waits for a slow disk is bounded, in requests and bytes.
func TestBusy(t *testing.T) {
	t.Parallel()
	g := newGate(vfs.NewCrashableMem())
	h := newHarness(t, Options{FS: g.fs, queueRequests: 4, queueBytes: 10_000})
	h.add(1, 0, "first")
	release := g.hold()
	errs := make(chan error, 10)
	send := func(size int) {
		go func() {
			_, err := h.try(1, nil, 0, strings.Repeat("x", size))
			errs <- err
		}()
	}
	waiting := func(n int) {
		t.Helper()
		eventually(t, "requests wait", func() bool {
			h.queue.mu.Lock()
			defer h.queue.mu.Unlock()
			return h.queue.requests == n
		})
	}
	send(6000)
	waiting(1)
	if _, err := h.try(1, nil, 0, strings.Repeat("x", 6000)); !errors.Is(err, record.ErrBusy) {
		t.Errorf("too many bytes: %v", err)
	}
	for range 3 {
		send(10)
	}
	waiting(4)
	if _, err := h.try(1, nil, 0, "x"); !errors.Is(err, record.ErrBusy) {
		t.Errorf("too many requests: %v", err)
	}
	// Who gives up leaves no trace in the bounds.
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_, _ = h.Append(ctx, 1, hotbuffer.Append{Producer: &hotbuffer.Producer{}})
	release()
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	waiting(0)
	h.add(1, 0, strings.Repeat("x", 20_000)) // alone, any size
	if h.queue.bytes != 0 {
		t.Errorf("%d bytes are still counted", h.queue.bytes)
	}
}

// TestCloseWhileBlocked: Close waits for the disk and finishes what was
// accepted; waiters do not wait that long.
func TestCloseWhileBlocked(t *testing.T) {
	t.Parallel()
	g := newGate(vfs.NewCrashableMem())
	h := newHarness(t, Options{FS: g.fs})
	release := g.hold()
	appended, waited, closed := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := h.try(1, nil, 0, "accepted")
		appended <- err
	}()
	eventually(t, "the commit waits", func() bool { return g.waits.Load() > 0 })
	go func() { waited <- h.Wait(context.Background(), 1, nil) }()
	go func() { closed <- h.Close() }()
	if err := <-waited; !errors.Is(err, record.ErrClosed) {
		t.Errorf("wait: %v", err)
	}
	select {
	case <-closed:
		t.Error("Close did not wait for the commit under way")
	case <-time.After(10 * time.Millisecond):
	}
	release()
	if err := errors.Join(<-appended, <-closed); err != nil {
		t.Error(err)
	}
}

// TestCloseWhileReading: a read under way ends before its file is closed, and
// none begins after that.
func TestCloseWhileReading(t *testing.T) {
	t.Parallel()
	for range 20 {
		h := newHarness(t, Options{CacheBytes: -1})
		for range 5 {
			h.add(1, 0, strings.Repeat("x", 3000))
		}
		var readers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				for {
					if _, err := h.Read(context.Background(), 1, 0, 0, 1<<20); err != nil {
						if !errors.Is(err, record.ErrClosed) {
							t.Errorf("read: %v", err)
						}
						return
					}
				}
			})
		}
		time.Sleep(time.Millisecond)
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		readers.Wait()
	}
}

// TestOneProcess: a log is open once at a time.
func TestOneProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "log")
	o := Options{SegmentBytes: 64 << 10, Logger: quiet()}
	l, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, o); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second open: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err = Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestKilled: a process that ends without Close leaves everything it
// acknowledged, on a real file system.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := Options{SegmentBytes: 128 << 10, Logger: quiet(), FS: vfs.Default}
	l, err := Open(filepath.Join(dir, "0"), o)
	if err != nil {
		t.Fatal(err)
	}
	for id := range record.ViewID(2) {
		if err := l.Open(context.Background(), id+1, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 2}); err != nil {
			t.Fatal(err)
		}
	}
	m := newModel()
	m.view(1, 2)
	m.view(2, 2)
	for round := range 6 {
		for i := range 12 {
			if err := m.append(l, record.ViewID(1+i%2), retryBy(i%3), modelPart{0, sized("a", 2, 2000)}, modelPart{1, sized("b", 1, 100)}); err != nil {
				t.Fatal(err)
			}
		}
		// What a killed process leaves is what the kernel has.
		left := filepath.Join(dir, "killed")
		if _, err := vfs.Clone(vfs.Default, vfs.Default, filepath.Join(dir, "0"), left); err != nil {
			t.Fatal(err)
		}
		k, err := Open(left, o)
		if err != nil {
			t.Fatal(err)
		}
		check(t, k, m, m)
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		if err := vfs.Default.RemoveAll(left); err != nil {
			t.Fatal(err)
		}
		if round == 3 {
			if err := m.release(l, 1, record.Offsets{40, 20}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{SegmentBytes: 4096}, {SegmentBytes: 65 << 10}, {SegmentBytes: 1 << 30}, {MaxBytes: 128 << 20}} {
		if _, err := Open(t.TempDir(), o); !errors.Is(err, record.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
