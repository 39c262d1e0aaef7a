package reader_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

func TestTake(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2)
	if cp := e.take(); cp.Number != 0 || cp.Cut != nil {
		t.Fatalf("without rows: %+v", cp)
	}
	e.publish(0, 3)
	e.publish(1, 4)
	first := e.take()
	if first.Number != 1 || !first.Cut.Equal(record.Offsets{3, 4}) || first.Timestamp != e.ends().LastTimestamp {
		t.Fatalf("got %+v at %+v", first, e.ends())
	}
	if again := e.take(); again.Number != 1 {
		t.Fatalf("nothing came, yet there is checkpoint %d", again.Number)
	}
	e.publish(0, 1)
	if cp := e.take(); cp.Number != 2 || cp.Timestamp <= first.Timestamp {
		t.Fatalf("got %+v after %+v", cp, first)
	}
	if _, err := e.checks.Take(t.Context(), view+1); !errors.Is(err, record.ErrNotFound) {
		t.Fatalf("a view that does not exist: %v", err)
	}
}

// racing lets rows come between the calls that a checkpoint makes.
type racing struct {
	hotbuffer.Buffer
	beforeCut, afterCut func()
}

func (b *racing) Cut(ctx context.Context, v record.ViewID) (record.Offsets, error) {
	b.beforeCut()
	defer b.afterCut()
	return b.Buffer.Cut(ctx, v)
}

// The timestamp is that of the newest row below the cut, however many rows come
// while it is taken.
func TestCheckpointTimestamp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ before, after bool }{
		"quiet": {false, false}, "before": {true, false}, "after": {false, true}, "both": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, 2)
			want := int64(0)
			checks := reader.NewCheckpointer(&racing{
				Buffer: e.log,
				beforeCut: func() {
					if c.before {
						e.publish(1, 2)
					}
					want = e.ends().LastTimestamp
				},
				afterCut: func() {
					if c.after {
						e.publish(0, 2)
					}
				},
			}, e.store, e.log.Views, reader.CheckpointOptions{})
			for i := range int64(3) {
				e.publish(0, 2)
				cp, err := checks.Take(t.Context(), view)
				if err != nil {
					t.Fatal(err)
				}
				if cp.Number != i+1 || cp.Timestamp != want {
					t.Fatalf("got %+v, want timestamp %d", cp, want)
				}
			}
		})
	}
}

// A checkpoint whose storing failed, or may have, was seen by nobody, and the
// next one takes its place.
func TestStoringFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("disk on fire")
	for name, c := range map[string]struct{ stored bool }{"refused": {false}, "outcome unknown": {true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, 1)
			e.publish(0, 5)
			e.take()
			e.publish(0, 5)
			fault := func([]catalog.Checkpoint) error { return broken }
			if c.stored {
				e.store.after = fault
			} else {
				e.store.fail = fault
			}
			if _, err := e.checks.Take(t.Context(), view); !errors.Is(err, broken) {
				t.Fatalf("got %v", err)
			}
			e.store.fail, e.store.after = nil, nil
			want := int64(1)
			if c.stored {
				want = 2
			}
			if cp, err := e.checks.Latest(t.Context(), view); err != nil || cp.Number != want {
				t.Fatalf("latest is %+v, %v; want checkpoint %d", cp, err, want)
			}
			if cp := e.take(); cp.Number != 2 || !cp.Cut.Equal(record.Offsets{10}) {
				t.Fatalf("got %+v", cp)
			}
		})
	}
}

// A restart goes on with the numbers of before.
func TestCheckpointsAfterARestart(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	for range 3 {
		e.publish(0, 1)
		e.take()
	}
	e.publish(0, 1)
	again := reader.NewCheckpointer(e.log, e.store, e.log.Views, reader.CheckpointOptions{})
	cp, err := again.Take(t.Context(), view)
	if err != nil || cp.Number != 4 {
		t.Fatalf("got %+v, %v; want checkpoint 4", cp, err)
	}
	// The first one lost the race; it says so, then learns.
	e.publish(0, 1)
	if _, err := e.checks.Take(t.Context(), view); !errors.Is(err, record.ErrConflict) {
		t.Fatalf("got %v, want ErrConflict", err)
	}
	if cp := e.take(); cp.Number != 5 {
		t.Fatalf("got %+v, want checkpoint 5", cp)
	}
}

// logs collects what is logged.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// run runs a Checkpointer until the test ends.
func (e *env) run(o reader.CheckpointOptions, views func() []record.ViewID) (*reader.Checkpointer, *logs) {
	e.t.Helper()
	out := &logs{}
	o.Logger = slog.New(slog.NewTextHandler(out, nil))
	checks := reader.NewCheckpointer(e.log, e.store, views, o)
	ctx, cancel := context.WithCancel(e.t.Context())
	done := make(chan error, 1)
	go func() { done <- checks.Run(ctx) }()
	e.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			e.t.Error(err)
		}
	})
	return checks, out
}

func (e *env) appendTo(v record.ViewID) {
	e.t.Helper()
	var rows record.Rows
	rows.Append(nil, []byte("row"))
	if _, err := e.log.Append(e.t.Context(), v, hotbuffer.Append{Parts: []hotbuffer.Part{{Rows: &rows}}}); err != nil {
		e.t.Fatal(err)
	}
}

// Many views: those that are gone, refused or damaged do not keep the others
// from their checkpoints.
func TestRunTakesAllViews(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	var views []record.ViewID
	const n = 1200 // more than one transaction holds
	for v := range record.ViewID(n) {
		views = append(views, 100+v)
		if v != 5 { // listed, but dropped
			e.open(100+v, 1)
			e.appendTo(100 + v)
		}
	}
	// 110 was deleted from the catalog, 111 has lost rows, 112 has a number
	// that somebody else took.
	e.store.gone = map[record.ViewID]bool{110: true}
	lost := catalog.Checkpoint{View: 111, Number: 1, Cut: record.Offsets{7}, Timestamp: 1}
	if err := e.store.AddCheckpoints(t.Context(), []catalog.Checkpoint{lost}); err != nil {
		t.Fatal(err)
	}
	stolen := false
	e.store.fail = func([]catalog.Checkpoint) error {
		if stolen {
			return nil
		}
		stolen = true
		return &catalog.CheckpointError{View: 112, Err: record.ErrConflict}
	}
	checks, out := e.run(reader.CheckpointOptions{Every: 20 * time.Millisecond}, func() []record.ViewID { return views })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, v := range views {
		if slices.Contains([]record.ViewID{105, 110, 111}, v) {
			continue
		}
		if err := checks.Wait(ctx, v, reader.Cursor{}); err != nil {
			t.Fatalf("view %s: %v", v, err)
		}
		if cp, err := checks.Latest(t.Context(), v); err != nil || cp.Number != 1 {
			t.Fatalf("view %s: %+v, %v", v, cp, err)
		}
	}
	for _, want := range []string{"view v111", "acknowledged rows are gone", "v112"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	for _, quiet := range []string{"v105", "v110"} {
		if strings.Contains(out.String(), quiet) {
			t.Errorf("the log complains about %s, which was deleted", quiet)
		}
	}
}

// When nothing works, a sweep says so once and not for every view.
func TestRunSurvivesABrokenStore(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	e.publish(0, 5)
	fails := 0
	e.store.fail = func([]catalog.Checkpoint) error {
		if fails++; fails < 4 {
			return errors.New("disk on fire")
		}
		return nil
	}
	checks, out := e.run(reader.CheckpointOptions{Every: 5 * time.Millisecond}, e.log.Views)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := checks.Wait(ctx, view, reader.Cursor{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "disk on fire") {
		t.Error("the log does not say what is wrong")
	}
}

// Idle views cost no look into the catalog.
func TestRunAsksOnceForIdleViews(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	sweeps := make(chan struct{}, 100)
	e.run(reader.CheckpointOptions{Every: time.Millisecond}, func() []record.ViewID {
		select {
		case sweeps <- struct{}{}:
		default:
		}
		return []record.ViewID{view}
	})
	for range 20 {
		<-sweeps
	}
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	if e.store.lookups > 1 {
		t.Errorf("%d looks into the catalog for a view without rows", e.store.lookups)
	}
}

func TestRunPrunes(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	for range 30 {
		e.publish(0, 1)
		e.take()
	}
	e.run(reader.CheckpointOptions{Every: time.Millisecond}, e.log.Views)
	for range 1000 {
		e.store.mu.Lock()
		left := len(e.store.views[view])
		e.store.mu.Unlock()
		if left == 16 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("old checkpoints were not pruned to the last 16")
}

func TestWaitEnds(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := e.checks.Wait(ctx, view, reader.Cursor{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
	done := make(chan error, 1)
	go func() { done <- e.checks.Wait(t.Context(), view, reader.Cursor{}) }()
	if err := e.log.Drop(t.Context(), view); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, record.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}
