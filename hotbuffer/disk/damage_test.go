package disk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// harness is a log in a crashable memory file system.
type harness struct {
	testing.TB
	mem *vfs.MemFS
	o   Options
	*Log
}

func newHarness(t testing.TB, o Options) *harness {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 64 << 10
	}
	o.Logger = quiet()
	h := &harness{TB: t, mem: vfs.NewCrashableMem(), o: o}
	h.reopen()
	t.Cleanup(func() {
		if h.Log != nil {
			_ = h.Close()
		}
	})
	return h
}

// reopen opens the log and its views 1 to 3, with two partitions each.
func (h *harness) reopen() {
	h.Helper()
	if h.Log != nil {
		h.close()
	}
	if h.o.FS == nil {
		h.o.FS = h.mem
	}
	l, err := Open("/log", h.o)
	if err != nil {
		h.Fatalf("open: %v", err)
	}
	h.Log = l
	for id := range record.ViewID(3) {
		if err := l.Open(context.Background(), id+1, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 2}); err != nil && !errors.Is(err, record.ErrNotFound) {
			h.Fatal(err)
		}
	}
}

func (h *harness) close() {
	h.Helper()
	if err := h.Close(); err != nil {
		h.Fatal(err)
	}
	h.Log = nil
}

// crash goes on with what the disk holds for certain.
func (h *harness) crash() {
	h.Helper()
	left := h.mem.CrashClone(vfs.CrashCloneCfg{})
	_ = h.Close()
	h.Log = nil
	h.mem, h.o.FS = left, nil
	h.reopen()
}

func (h *harness) try(id record.ViewID, p *hotbuffer.Producer, partition record.Partition, values ...string) (hotbuffer.Appended, error) {
	var rows record.Rows
	for _, v := range values {
		rows.Append(nil, []byte(v))
	}
	return h.Append(context.Background(), id, hotbuffer.Append{Parts: []hotbuffer.Part{{Partition: partition, Rows: &rows}}, Producer: p})
}

func (h *harness) add(id record.ViewID, partition record.Partition, values ...string) hotbuffer.Appended {
	h.Helper()
	out, err := h.try(id, nil, partition, values...)
	if err != nil {
		h.Fatal(err)
	}
	return out
}

// file returns the bytes of a file of the log, which may be writing it.
func (h *harness) file(name string) []byte {
	h.Helper()
	f, err := h.mem.Open("/log/" + name)
	if err != nil {
		h.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		h.Fatal(err)
	}
	b := make([]byte, info.Size())
	if n, err := f.ReadAt(b, 0); n < len(b) {
		h.Fatalf("%d of %d bytes: %v", n, len(b), err)
	}
	return b
}

func (h *harness) names() []string {
	h.Helper()
	names, err := h.mem.List("/log")
	if err != nil {
		h.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// write changes a file behind the log's back.
func write(t testing.TB, fs vfs.FS, name string, pos int, b []byte) {
	t.Helper()
	f, err := fs.OpenReadWrite("/log/"+name, writeCategory)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b, int64(pos)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// salvage reads all rows of a partition, stepping over those that are lost.
func salvage(t testing.TB, l *Log, id record.ViewID, p record.Partition) (rows []string, lost []record.Offset) {
	t.Helper()
	ends, err := l.Ends(id)
	if err != nil {
		t.Fatal(err)
	}
	var r record.Reader
	for next := ends.Start[p]; next < ends.End[p]; {
		batches, err := l.Read(context.Background(), id, p, next, 4<<10)
		if err != nil {
			if !errors.Is(err, record.ErrCorrupt) || !strings.Contains(err.Error(), "segment") || !strings.Contains(err.Error(), "lost") {
				t.Fatalf("%v does not name the loss", err)
			}
			lost = append(lost, next)
			rows = append(rows, "")
			next++
			continue
		}
		for _, b := range batches {
			if err := r.Reset(b); err != nil {
				t.Fatal(err)
			}
			for {
				o, _, v, ok := r.Next()
				if !ok {
					break
				}
				if o == next {
					rows = append(rows, string(v))
					next++
				}
			}
			if r.Err() != nil {
				t.Fatal(r.Err())
			}
		}
	}
	return rows, lost
}

// TestBitFlips turns bits all over the files of a log that was closed cleanly.
// Rows are right or reported lost; a flip costs one batch at most; nothing else
// changes; and appends go on with the right offsets.
func TestBitFlips(t *testing.T) {
	t.Parallel()
	h := newHarness(t, Options{CacheBytes: -1})
	want := map[partKey][]string{}
	for i := range 70 {
		id, p := record.ViewID(1+i%2), record.Partition(i/2%2)
		values := sized(fmt.Sprint(i), 2, 1000)
		var producer *hotbuffer.Producer
		if i%5 == 0 {
			producer = &hotbuffer.Producer{ID: hotbuffer.ProducerID{byte(i)}, Once: true}
		}
		if _, err := h.try(id, producer, p, values...); err != nil {
			t.Fatal(err)
		}
		key := partKey{id, p}
		want[key] = append(want[key], values...)
	}
	ends := map[record.ViewID]hotbuffer.Ends{}
	for id := range record.ViewID(3) {
		e, err := h.Ends(id + 1)
		if err != nil {
			t.Fatal(err)
		}
		ends[id+1] = e
	}
	h.close()

	// Where rows are: there, a flip must not go unnoticed.
	type place struct {
		name string
		pos  int
	}
	rowBytes := map[string][][2]int64{}
	var places []place
	segments := 0
	for _, name := range h.names() {
		if name == "LOCK" {
			continue
		}
		b := h.file(name)
		head, err := decodeSegmentHeader(b)
		if err == nil && strings.HasSuffix(name, segmentSuffix) {
			s := scanner{
				id: &head.id, epoch: head.epoch, buf: b, last: true,
				frame: func(f *frameHeader, _ record.Batch, payload []byte, pos int64) error {
					if f.kind == rowsFrame {
						rowBytes[name] = append(rowBytes[name], [2]int64{pos, pos + int64(frameHeaderSize+len(payload))})
					}
					return nil
				},
				end: func(commitHeader) error { return nil }, lost: func(d Damage) { t.Fatal(&d) },
			}
			if _, err := s.scan(); err != nil {
				t.Fatal(err)
			}
			if len(rowBytes[name]) > 0 {
				segments++
			}
		}
		step := 307 * sweepStep
		for pos := 0; pos < len(b); pos += step {
			places = append(places, place{name, pos})
		}
		for pos := 0; pos < min(len(b), 160); pos += sweepStep { // headers
			places = append(places, place{name, pos})
			if pos >= 32 {
				places = append(places, place{name, blockSize + pos})
			}
		}
		if len(b) > blockSize {
			for pos := 0; pos < trailerSize; pos += sweepStep {
				places = append(places, place{name, len(b) - blockSize + pos})
			}
		}
	}
	if segments < 3 {
		t.Fatalf("only %d segments have rows", segments)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	noticed := 0
	for _, at := range places {
		b := h.file(at.name)
		if at.pos >= len(b) {
			continue
		}
		fs := h.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
		bit := byte(1) << rng.IntN(8)
		write(t, fs, at.name, at.pos, []byte{b[at.pos] ^ bit})
		inRows := slices.ContainsFunc(rowBytes[at.name], func(r [2]int64) bool { return int64(at.pos) >= r[0] && int64(at.pos) < r[1] })

		o := h.o
		o.FS = fs
		l, err := Open("/log", o)
		if err != nil {
			t.Fatalf("%s byte %d bit %02x: open: %v", at.name, at.pos, bit, err)
		}
		fail := func(format string, args ...any) {
			t.Helper()
			t.Errorf("%s byte %d bit %02x: %s", at.name, at.pos, bit, fmt.Sprintf(format, args...))
		}
		losses := 0
		for id, e := range ends {
			if err := l.Open(context.Background(), id, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 2}); err != nil {
				t.Fatal(err)
			}
			now, err := l.Ends(id)
			if err != nil || !slices.Equal(now.End, e.End) || !slices.Equal(now.Start, e.Start) {
				fail("%v has ends %+v, want %+v; %v", id, now, e, err)
				continue
			}
			for p := range record.Partition(2) {
				rows, lost := salvage(t, l, id, p)
				for i, r := range rows {
					if r != want[partKey{id, p}][i] && !slices.Contains(lost, record.Offset(i)) {
						fail("%v partition %v row %d is wrong", id, p, i)
					}
				}
				losses += len(lost)
				var next record.Rows
				next.Append(nil, []byte("next"))
				out, err := l.Append(context.Background(), id, hotbuffer.Append{Parts: []hotbuffer.Part{{Partition: p, Rows: &next}}})
				if err != nil || out.Ranges[0].Start != e.End[p] {
					fail("append got %v, %v; want offset %v", out.Ranges, err, e.End[p])
				}
			}
		}
		if losses > 2 {
			fail("%d rows lost", losses)
		}
		if d := l.LogStats().Damage; losses > 0 || len(d) > 0 {
			noticed++
		} else if inRows {
			fail("a flip in a row was not noticed")
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d flips, %d noticed", len(places), noticed)
}

// TestTornTail cuts the last commit at every sector, and leaves out each
// sector in turn, on a new segment and on a recycled one full of stale bytes.
// The request is there as a whole or not at all, and what was cut is gone from
// the file.
func TestTornTail(t *testing.T) {
	t.Parallel()
	for _, recycled := range []bool{false, true} {
		t.Run(fmt.Sprintf("recycled %v", recycled), func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, Options{})
			if recycled {
				// Which spare file comes next is a matter of time.
				stale := func() bool {
					seg := h.active()
					rest := h.file(seg.name)[seg.pos:]
					return len(rest) > 32<<10 && !slices.Equal(rest[:32<<10], make([]byte, 32<<10))
				}
				for i := 0; i < 60 || i < 1000 && !stale(); i++ {
					h.add(1, 0, sized(fmt.Sprint(i), 3, 2000)...)
					e, _ := h.Ends(1)
					if err := h.Release(context.Background(), 1, e.End); err != nil {
						t.Fatal(err)
					}
				}
			}
			first := h.add(1, 0, "acknowledged")
			seg := h.active()
			pos, name := int(seg.pos), seg.name
			before := h.file(name)
			last := h.add(1, 1, sized("last", 5, 2500)...)
			end := int(seg.pos)
			after := h.file(name)
			if stale := !slices.Equal(before[pos:end], make([]byte, end-pos)); stale != recycled {
				t.Fatalf("stale bytes under the commit: %v", stale)
			}
			const sector = 512
			clone := h.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
			for n := range (end - pos) / sector {
				for _, hole := range []bool{false, true} {
					tail := slices.Clone(after[pos:])
					if hole {
						copy(tail[n*sector:(n+1)*sector], before[pos+n*sector:])
					} else {
						copy(tail[n*sector:], before[pos+n*sector:])
					}
					whole := slices.Equal(tail[:end-pos], after[pos:end])
					write(t, clone, name, pos, tail)
					fs := clone.CrashClone(vfs.CrashCloneCfg{})
					o := h.o
					o.FS = fs
					l, err := Open("/log", o)
					if err != nil {
						t.Fatal(err)
					}
					if d := l.LogStats().Damage; len(d) > 0 {
						t.Fatalf("sector %d: a torn tail was taken for damage: %v", n, &d[0])
					}
					if err := l.Open(context.Background(), 1, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 2}); err != nil {
						t.Fatal(err)
					}
					e, err := l.Ends(1)
					if err != nil {
						t.Fatal(err)
					}
					start := last.Ranges[0].Start
					if e.End[0] != first.Ranges[0].End || e.End[1] != start && e.End[1] != last.Ranges[0].End {
						t.Fatalf("sector %d: ends %v", n, e.End)
					}
					if cut := e.End[1] == start; cut {
						if whole {
							t.Fatalf("sector %d: a whole commit was cut", n)
						}
						b, err := fs.UnsafeGetFileDataBuffer("/log/" + name)
						if err != nil {
							t.Fatal(err)
						}
						if !slices.Equal(b[pos:], make([]byte, len(b)-pos)) {
							t.Fatalf("sector %d: the cut tail is still in the file", n)
						}
					}
					if err := l.Close(); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// TestDamageInsideTail: a bad commit that others follow was durable, and is
// not taken for a torn tail.
func TestDamageIsNotATornTail(t *testing.T) {
	t.Parallel()
	h := newHarness(t, Options{})
	h.add(1, 0, "before")
	pos := int(h.active().pos)
	h.add(1, 0, "lost 1", "lost 2")
	h.add(2, 0, "other view")
	h.add(1, 0, "after")
	name := h.active().name
	fs := h.mem.CrashClone(vfs.CrashCloneCfg{})
	write(t, fs, name, pos, make([]byte, blockSize)) // header and frame
	h.mem = fs
	h.o.FS = nil
	_ = h.Close()
	h.Log = nil
	h.reopen()
	d := h.LogStats().Damage
	if len(d) != 2 || d[1].View != 1 || d[1].Offsets != (record.Range{Start: 1, End: 3}) || !errors.Is(&d[1], record.ErrCorrupt) {
		t.Fatalf("damage %v", d)
	}
	if !d[0].Unknown || !strings.Contains(d[0].Error(), "commits 3 to 3") {
		t.Errorf("a commit of which nothing is left: %v", &d[0])
	}
	d = d[1:]
	for _, word := range []string{"segment 0000000000000001", "position", "[1,3)", "v1", "partition 0"} {
		if !strings.Contains(d[0].Error(), word) {
			t.Errorf("%q does not say %q", d[0].Error(), word)
		}
	}
	rows, lost := salvage(t, h.Log, 1, 0)
	if !slices.Equal(rows, []string{"before", "", "", "after"}) || len(lost) != 2 {
		t.Errorf("rows %q, lost %v", rows, lost)
	}
	if got := readFrom(t, h.Log, 2, 0, 0); !slices.Equal(got, []string{"other view"}) {
		t.Errorf("the other view holds %q", got)
	}
	// Undamaged batches before it come first.
	batches, err := h.Read(context.Background(), 1, 0, 0, 1<<20)
	if err != nil || len(batches) != 1 || batches[0].End() != 1 {
		t.Errorf("%d batches, %v", len(batches), err)
	}
	// It is told at each start, until it is released.
	h.reopen()
	if d := h.LogStats().Damage; !slices.ContainsFunc(d, func(d Damage) bool { return d.View == 1 && d.Offsets == record.Range{Start: 1, End: 3} }) {
		t.Error("the damage was forgotten")
	}
	if err := h.Release(context.Background(), 1, record.Offsets{3}); err != nil {
		t.Fatal(err)
	}
	if got := readFrom(t, h.Log, 1, 0, 3); !slices.Equal(got, []string{"after"}) {
		t.Errorf("after the release: %q", got)
	}
}

// TestMissingSegment: a file that is gone is noticed by the offsets it held.
func TestMissingSegment(t *testing.T) {
	t.Parallel()
	h := newHarness(t, Options{})
	for i := range 80 {
		h.add(1, 0, sized(fmt.Sprint(i), 1, 3000)...)
	}
	if len(h.segments) < 4 {
		t.Fatalf("%d segments", len(h.segments))
	}
	gone := h.segments[1]
	lost := record.Range{Start: gone.parts[0].base, End: gone.parts[0].end}
	name := gone.name
	h.close()
	if err := h.mem.Remove("/log/" + name); err != nil {
		t.Fatal(err)
	}
	h.reopen()
	d := h.LogStats().Damage
	if len(d) != 1 || d[0].Offsets != lost || d[0].View != 1 {
		t.Fatalf("damage %v, want rows %v", d, lost)
	}
	if _, l := salvage(t, h.Log, 1, 0); len(l) != int(lost.Len()) || l[0] != lost.Start {
		t.Errorf("%d rows lost from %v on, want %v", len(l), l[0], lost)
	}
	if got := h.add(1, 0, "next"); got.Ranges[0].Start != 80 {
		t.Errorf("appended at %v", got.Ranges)
	}
}

// TestNothingReadable: when offsets cannot be known, the log does not open;
// after a clean shutdown they are.
func TestNothingReadable(t *testing.T) {
	t.Parallel()
	h := newHarness(t, Options{})
	h.add(1, 0, "row")
	crashed := h.mem.CrashClone(vfs.CrashCloneCfg{})
	h.close()
	for _, remove := range []bool{false, true} {
		for _, closed := range []bool{false, true} {
			o := h.o
			left := crashed
			if closed {
				left = h.mem
			}
			left = left.CrashClone(vfs.CrashCloneCfg{})
			o.FS = left
			names, err := left.List("/log")
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if !strings.HasSuffix(name, segmentSuffix) {
					continue
				}
				if remove {
					if err := left.Remove("/log/" + name); err != nil {
						t.Fatal(err)
					}
				} else {
					write(t, left, name, blockSize, make([]byte, 60<<10))
				}
			}
			l, err := Open("/log", o)
			if !closed {
				if !errors.Is(err, record.ErrCorrupt) {
					t.Fatalf("removed %v: open: %v", remove, err)
				}
				continue
			}
			for range 2 { // until the rows are released
				if err != nil {
					t.Fatal(err)
				}
				if err := l.Open(context.Background(), 1, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 2}); err != nil {
					t.Fatal(err)
				}
				if rows, lost := salvage(t, l, 1, 0); len(rows) != 1 || len(lost) != 1 {
					t.Fatalf("removed %v: rows %q, lost %v", remove, rows, lost)
				}
				if d := l.LogStats().Damage; !slices.ContainsFunc(d, func(d Damage) bool { return d.View == 1 && d.Offsets == record.Range{Start: 0, End: 1} }) {
					t.Fatalf("removed %v: damage %v", remove, d)
				}
				left = left.CrashClone(vfs.CrashCloneCfg{})
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				o.FS = left
				l, err = Open("/log", o)
			}
			if err := errors.Join(err, l.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
}
