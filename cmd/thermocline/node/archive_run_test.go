package node

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/thermocline/thermocline/archiver"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/writer"
)

// run lets the archiver run until the test ends or stop is called.
func (w *world) run() (stop func()) {
	w.t.Helper()
	return w.background(w.node.archiver.Run)
}

// background lets a part of the node work until the test ends or stop is called.
func (w *world) background(work func(context.Context) error) (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, 1)
	go func() { done <- work(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
	w.t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func (w *world) archivedRows() int64 {
	if m := w.marker(); m != nil && m.View == w.view() {
		return m.Offsets.RowsSince(nil)
	}
	return 0
}

func (w *world) hotStart() record.Offsets {
	w.t.Helper()
	ends, err := w.node.log.Ends(w.view())
	if err != nil {
		w.t.Fatal(err)
	}
	return ends.Start
}

// Rows leave the hot buffer when they are as old as the hot retention, without
// new rows coming and however short the dataset's history is.
func TestHotRetentionEnds(t *testing.T) {
	t.Parallel()
	const keep = time.Hour
	var ahead time.Duration // of the archiver's clock
	start := time.Now()
	o := Options{seams: seams{archiver: func(o *archiver.Options) {
		o.Now = func() time.Time { return start.Add(ahead) }
	}}}
	w := newWorldWith(t, catalog.Settings{HotRetention: keep}, o)
	var appended []int64 // the time of each row
	for range 40 {
		w.publish(1)
		time.Sleep(2 * time.Millisecond)
	}
	for next := record.Offset(0); next < 40; {
		batches, err := w.node.log.Read(t.Context(), w.view(), 0, next, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batches {
			for ; next < b.End(); next++ {
				appended = append(appended, b.Timestamp())
			}
		}
	}
	w.archived()
	if got := w.hotStart().At(0); got != 0 {
		t.Fatalf("released up to %v at once", got)
	}
	for _, row := range []int{0, 7, 8, 20, 38} {
		ahead = time.UnixMilli(appended[row]).Sub(start) + keep
		w.archive()
		want := record.Offset(row + 1)
		for int(want) < len(appended) && appended[want] == appended[row] {
			want++ // of the same millisecond
		}
		if got := w.hotStart().At(0); got != want {
			t.Fatalf("released up to %v, want %v", got, want)
		}
		w.whole()
	}
	ahead += 24 * time.Hour
	w.restart()
	w.run()
	eventually(t, "the release of the last rows", func() bool { return w.hotStart().At(0) == 40 })
	w.whole()
}

// Much that waits is archived before the interval is over.
func TestWaitingBytesAreArchivedEarly(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{seams: seams{archiver: func(o *archiver.Options) { o.WaitingBytes = 20_000 }}})
	w.run()
	w.publish(10)
	time.Sleep(1500 * time.Millisecond)
	if n := w.archivedRows(); n != 0 {
		t.Fatalf("%d rows were archived early", n)
	}
	w.publish(2000)
	eventually(t, "an early archive", func() bool { return w.archivedRows() == w.next })
	w.reset() // what the view before had does not count
	eventually(t, "the end of the reset", func() bool { return len(w.state().Draining) == 0 })
	w.publish(2000)
	eventually(t, "an early archive after a reset", func() bool { return w.archivedRows() == w.next })
}

// Archives come at their interval by themselves, a reset is finished at once,
// and a stream that fails does not keep the others.
func TestRunArchivesEachStream(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{ArchiveInterval: time.Second}, Options{})
	bad, err := w.node.directory.Create(t.Context(), "bad", mustParse(t, worldSchema), catalog.Settings{ArchiveInterval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	// A row that is none, as no publish can make it.
	rows := &record.Rows{}
	rows.Append(nil, []byte("\x00\x00\x00\x00\x01garbage"))
	rows.Append(nil, schema.AppendHeader(nil, 999))
	if _, err := w.node.log.Append(t.Context(), bad.Branch.View.ID, hotbuffer.Append{Parts: []hotbuffer.Part{{Rows: rows}}}); err != nil {
		t.Fatal(err)
	}
	stop := w.run()
	for range 2 {
		w.publish(10)
		eventually(t, "an archive at the interval", func() bool { return w.archivedRows() == w.next })
	}
	w.reset()
	eventually(t, "the end of the reset", func() bool { return len(w.state().Draining) == 0 })
	eventually(t, "the failure", func() bool { return w.node.archiver.Status(bad.Branch.ID).Failures > 1 })
	s := w.node.archiver.Status(bad.Branch.ID)
	if !strings.Contains(s.LastError, "offset 0") || !strings.Contains(s.LastError, "default.bad") {
		t.Errorf("the failure says %q", s.LastError)
	}
	ends, err := w.node.log.Ends(bad.Branch.View.ID)
	if err != nil || ends.Start.At(0) != 0 || ends.End.At(0) != 2 {
		t.Errorf("the rows that could not be archived: %+v, %v", ends, err)
	}
	// Pauses grow: 1 s, 2 s, 4 s.
	if s.Runs > 6 {
		t.Errorf("%d runs in a short time", s.Runs)
	}
	stop()
	w.whole()
}

func mustParse(t *testing.T, text string) *schema.Schema {
	t.Helper()
	s, err := schema.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The end of Run archives all that waits, also behind a reset whose new view has
// no rows, gives the leases back, and leaves no goroutine (TestMain looks).
func TestShutdownArchivesWhatWaits(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{Partitions: 2}, Options{})
	names := []string{"a", "b", "c"}
	states := map[string]*branch.State{}
	for _, name := range names {
		st, err := w.node.directory.Create(t.Context(), name, mustParse(t, worldSchema), catalog.Settings{})
		if err != nil {
			t.Fatal(err)
		}
		states[name] = st
		if _, err := w.node.writer.Publish(t.Context(), writer.Request{Stream: name, Branch: "main", Format: writer.JSON, Body: []byte(`{"k":"a","n":1}`)}); err != nil {
			t.Fatal(err)
		}
	}
	w.publish(10)
	w.reset()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.node.Run(ctx, time.Minute) }()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := w.mostRows(1); got != 10 || len(w.state().Draining) != 0 {
		t.Errorf("%d rows of the old view are archived, want 10", got)
	}
	for _, st := range states {
		if a, ok := w.node.archiver.Archived(st.Branch.ID, st.Branch.View.ID); !ok || a.RowsSince(nil) != 1 {
			t.Errorf("stream %s is archived up to %v", st.Name(), a)
		}
		if _, err := w.node.catalog.AcquireLease(t.Context(), st.Branch.View.ID, "another", time.Second); err != nil {
			t.Error(err)
		}
	}
}

// Finish gives up in time, and the rows stay.
func TestShutdownIsBounded(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{})
	w := newWorldWith(t, catalog.Settings{}, Options{seams: seams{archiver: func(o *archiver.Options) { o.Buffer = stuckBuffer{o.Buffer, stuck} }}})
	w.publish(10)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	begun := time.Now()
	if err := w.node.Run(ctx, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	close(stuck)
	w.restart()
	w.archived()
}

// Who waits for a branch that is being archived keeps no other branch waiting,
// and leaves when its context ends.
func TestWaitingForABranchKeepsNoSlot(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{})
	w := newWorldWith(t, catalog.Settings{}, Options{seams: seams{archiver: func(o *archiver.Options) {
		o.Parallel = 2
		o.Buffer = stuckBuffer{o.Buffer, stuck}
	}}})
	w.publish(10)
	idle, err := w.node.directory.Create(t.Context(), "idle", mustParse(t, worldSchema), catalog.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan error, 3)
	for range 3 {
		go func() { answers <- w.tryArchive() }()
	}
	if _, err := w.node.archiver.Archive(t.Context(), idle.Branch.ID); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := w.b.Archiver.ArchiveNow(ctx, "s", "main"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the deadline", err)
	}
	close(stuck)
	for range 3 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	w.archived()
}

// An archive holds little in memory, however much it moves.
func TestArchiveMemoryIsBounded(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("too slow here")
	}
	w := newWorldWith(t, catalog.Settings{Partitions: 4}, Options{seams: seams{log: func(*disk.Options) {}}})
	const rows, each = 600_000, 20_000 // of 1 kB: more than the bound
	noise := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 4<<20)
	for i := range random {
		random[i] = byte(noise.Uint32())
	}
	pad := base64.StdEncoding.EncodeToString(random)
	for range rows / each {
		var b strings.Builder
		for range each {
			at := noise.IntN(len(pad) - 1000) // hardly compressible
			fmt.Fprintf(&b, `{"k":"%d%s","n":%d}`+"\n", w.next, pad[at:at+1000], w.next)
			w.next++
		}
		w.publishBody(b.String())
	}
	used := func() uint64 {
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	defer debug.SetGCPercent(debug.SetGCPercent(25)) // little of the peak is garbage
	runtime.GC()
	base := used()
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		most := uint64(0)
		for {
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(time.Millisecond):
				most = max(most, used())
			}
		}
	}()
	begun := time.Now()
	out := w.archive()
	took := time.Since(begun)
	close(stop)
	most := <-peak
	t.Logf("%d rows in %v (%.0f rows/s), %d files, %d bytes; heap %d MiB, at its peak %d MiB", out.Rows, took, float64(out.Rows)/took.Seconds(), out.Files, out.Bytes, base>>20, most>>20)
	if out.Rows != rows || most > 450<<20 { // a row group of 128 MiB, twice, and what is read ahead
		t.Errorf("peak heap %d MiB for %d rows", most>>20, out.Rows)
	}
}
