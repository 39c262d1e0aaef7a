package disk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// fill appends n rows of 3000 bytes and releases them, so that segments go by.
func (h *harness) fill(id record.ViewID, n int) {
	h.Helper()
	for range n {
		h.add(id, 0, strings.Repeat("x", 3000))
	}
	e, err := h.Ends(id)
	if err != nil {
		h.Fatal(err)
	}
	if err := h.Release(context.Background(), id, e.End); err != nil {
		h.Fatal(err)
	}
}

// TestStateOutlivesSegments: offsets, idempotence and the clock of a view
// survive when every segment that told of them has been recycled.
func TestStateOutlivesSegments(t *testing.T) {
	t.Parallel()
	h := newHarness(t, Options{})
	once := &hotbuffer.Producer{ID: hotbuffer.ProducerID{1}, Once: true}
	named := &hotbuffer.Producer{ID: hotbuffer.ProducerID{2}, Epoch: 4, Sequence: 10}
	idle := &hotbuffer.Producer{ID: hotbuffer.ProducerID{3}, Sequence: 7}
	for _, p := range []*hotbuffer.Producer{once, named} {
		if _, err := h.try(1, p, 1, "a", "b"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Append(context.Background(), 3, hotbuffer.Append{Producer: idle}); err != nil {
		t.Fatal(err)
	}
	before, err := h.Ends(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Release(context.Background(), 1, record.Offsets{0, 4}); err != nil {
		t.Fatal(err)
	}
	first := h.active().epoch
	for round := range 4 {
		h.fill(2, 100)
		if n := len(h.segments); n > 2 {
			t.Fatalf("%d segments are in use", n)
		}
		if h.active().epoch == first {
			t.Fatal("the first segment is still in use")
		}
		if round%2 == 0 {
			h.reopen()
		} else {
			h.crash()
		}
		after, err := h.Ends(1)
		if err != nil || !slices.Equal(after.End, before.End) || !slices.Equal(after.Start, record.Offsets{0, 4}) || after.LastTimestamp != before.LastTimestamp {
			t.Fatalf("ends %+v, %v; before %+v", after, err, before)
		}
		for i, p := range []*hotbuffer.Producer{once, named} {
			out, err := h.try(1, p, 1, "again")
			want := hotbuffer.PartRange{Partition: 1, Range: record.Range{Start: record.Offset(2 * i), End: record.Offset(2*i + 2)}}
			if err != nil || !out.Duplicate || len(out.Ranges) != 1 || out.Ranges[0] != want {
				t.Fatalf("retry: %+v, %v", out, err)
			}
		}
		if _, err := h.try(1, &hotbuffer.Producer{ID: named.ID, Epoch: 3, Sequence: 11}, 1, "zombie"); !errors.Is(err, record.ErrFenced) {
			t.Fatalf("old epoch: %v", err)
		}
		if out, err := h.Append(context.Background(), 3, hotbuffer.Append{Producer: idle}); err != nil || !out.Duplicate {
			t.Fatalf("retry without rows: %+v, %v", out, err)
		}
	}
	if _, err := h.try(1, &hotbuffer.Producer{ID: named.ID, Epoch: 4, Sequence: 11}, 1, "next"); err != nil {
		t.Fatal(err)
	}
}

// TestReleaseInTheMiddle: a stream that is not archived keeps its own segments
// only.
func TestReleaseInTheMiddle(t *testing.T) {
	t.Parallel()
	h := newHarness(t, Options{})
	h.add(1, 0, "kept", "rows")
	for range 5 {
		h.fill(2, 60)
		h.add(1, 1, "more")
		h.crash()
		if d := h.LogStats().Damage; len(d) > 0 {
			t.Fatalf("released rows are taken for lost: %v", &d[0])
		}
	}
	if n := len(h.segments); n > 12 {
		t.Errorf("%d segments are in use", n)
	}
	if got := readFrom(t, h.Log, 1, 0, 0); !slices.Equal(got, []string{"kept", "rows"}) {
		t.Errorf("rows %q", got)
	}
	if got := readFrom(t, h.Log, 1, 1, 0); len(got) != 5 {
		t.Errorf("rows %q", got)
	}
}

// TestDropFrees: a dropped view's segments are used again, its number is not
// while they hold its rows, and nothing of it comes back.
func TestDropFrees(t *testing.T) {
	t.Parallel()
	h := newHarness(t, Options{})
	for range 100 {
		h.add(1, 0, strings.Repeat("x", 3000))
	}
	h.add(2, 0, "other")
	live := len(h.segments)
	if err := h.Drop(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	if now := h.LogStats().Segments; now >= live-1 {
		t.Errorf("%d segments of %d are in use", now, live)
	}
	for range 2 {
		if err := h.Log.Open(context.Background(), 1, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 1}); !errors.Is(err, record.ErrNotFound) {
			t.Errorf("open of a dropped view: %v", err)
		}
		h.crash()
		if slices.Contains(h.Views(), 1) {
			t.Error("the view is back")
		}
	}
	if d := h.LogStats().Damage; len(d) > 0 {
		t.Errorf("damage: %v", &d[0])
	}
	if got := readFrom(t, h.Log, 2, 0, 0); !slices.Equal(got, []string{"other"}) {
		t.Errorf("rows %q", got)
	}
}

// TestProducersAreBounded: idle producers are forgotten after the retention
// time, and the longest idle ones earlier when there are too many.
func TestProducersAreBounded(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	clock.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli())
	h := newHarness(t, Options{producerRanges: 20, Now: func() time.Time { return time.UnixMilli(clock.Load()) }})
	key := func(n byte) *hotbuffer.Producer {
		return &hotbuffer.Producer{ID: hotbuffer.ProducerID{n}, Once: true}
	}
	once := func(n byte) bool {
		t.Helper()
		out, err := h.try(1, key(n), 0, "x")
		if err != nil {
			t.Fatal(err)
		}
		return !out.Duplicate
	}
	once(1)
	clock.Add(int64(hotbuffer.ProducerRetention/time.Millisecond) - 1000)
	once(2)
	if once(1) {
		t.Error("forgotten before the retention time")
	}
	clock.Add(2000)
	once(3)
	if !once(1) {
		t.Error("remembered beyond the retention time")
	}
	for n := range byte(15) {
		once(100 + n)
	}
	if s := h.LogStats(); s.Producers > 10 || s.ProducersEvicted == 0 {
		t.Errorf("%d producers are remembered, %d were evicted", s.Producers, s.ProducersEvicted)
	}
	if once(114) || !once(2) {
		t.Error("the wrong ones were forgotten")
	}
	h.reopen()
	if once(114) {
		t.Error("forgotten by a restart")
	}
}

// TestFooters: sealed segments are opened by their footers; a missing or
// damaged one is scanned, and written again.
func TestFooters(t *testing.T) {
	t.Parallel()
	h := newHarness(t, Options{CacheBytes: -1})
	var want []string
	for i := range 100 {
		want = append(want, sized(fmt.Sprint(i), 1, 3000)...)
		h.add(1, 0, want[i])
	}
	var sealed []string
	for _, s := range h.segments[:len(h.segments)-1] {
		sealed = append(sealed, s.name)
	}
	h.close()
	hasFooter := func(name string) bool {
		b := h.file(name)
		return be.Uint32(b[len(b)-blockSize:]) == trailerMagic
	}
	// How much of each sealed segment an open reads.
	readBytes := func() int64 {
		var n atomic.Int64
		o := h.o
		o.FS = errorfs.Wrap(h.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpFileReadAt && op.Offset == 0 && slices.Contains(sealed, h.mem.PathBase(op.Path)) {
				n.Add(1)
			}
			return nil
		}))
		l, err := Open("/log", o)
		if err != nil {
			t.Fatal(err)
		}
		if err := expect(t, l, want); err != nil {
			t.Fatal(err)
		}
		return n.Load()
	}
	if n := readBytes(); n != int64(len(sealed)) { // the header of each
		t.Errorf("%d reads from the start of %d sealed segments", n, len(sealed))
	}
	for i, name := range sealed {
		if !hasFooter(name) {
			t.Fatalf("%s has no footer", name)
		}
		b := h.file(name)
		switch i % 3 {
		case 0: // no trailer
			write(t, h.mem, name, len(b)-blockSize, make([]byte, blockSize))
		case 1: // damaged footer
			pos := int(be.Uint64(b[len(b)-blockSize+16:]))
			write(t, h.mem, name, pos+50, []byte{b[pos+50] ^ 1})
		}
	}
	readBytes()
	for _, name := range sealed {
		if !hasFooter(name) {
			t.Errorf("%s got no footer again", name)
		}
	}
	if n := readBytes(); n != int64(len(sealed)) {
		t.Errorf("after the repair: %d reads from the start of %d sealed segments", n, len(sealed))
	}
}

// expect checks that partition 0 of view 1 holds these rows, and closes the log.
func expect(t testing.TB, l *Log, want []string) error {
	t.Helper()
	if err := l.Open(context.Background(), 1, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 2}); err != nil {
		return err
	}
	if got := readFrom(t, l, 1, 0, 0); !slices.Equal(got, want) {
		t.Errorf("%d rows of %d, or others", len(got), len(want))
	}
	if d := l.LogStats().Damage; len(d) > 0 {
		t.Errorf("damage: %v", &d[0])
	}
	return l.Close()
}

// TestReadersAndRecycling: a segment is not written to while someone reads it.
func TestReadersAndRecycling(t *testing.T) {
	t.Parallel()
	held := make(chan struct{})
	var holding atomic.Bool
	reading := make(chan struct{}, 1)
	fs := errorfs.Wrap(vfs.NewCrashableMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileReadAt && holding.Load() {
			reading <- struct{}{}
			<-held
		}
		return nil
	}))
	h := newHarness(t, Options{FS: fs, CacheBytes: -1})
	h.add(1, 0, "first")
	for range 40 {
		h.add(1, 0, strings.Repeat("x", 3000))
	}
	holding.Store(true)
	got := make(chan error, 1)
	go func() {
		batches, err := h.Read(context.Background(), 1, 0, 0, 1)
		if err == nil && batches[0].Len() != 1 {
			err = errors.New("wrong batch")
		}
		got <- err
	}()
	<-reading
	holding.Store(false)
	for range 4 {
		h.fill(1, 60)
	}
	close(held)
	if err := <-got; err != nil {
		t.Errorf("a read that began before the release: %v", err)
	}
}
