package disk

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

const keys = 300

func keyed(i int) *hotbuffer.Producer {
	return &hotbuffer.Producer{ID: hotbuffer.ProducerID{byte(i), byte(i >> 8), 7}, Once: true}
}

// withKeys is a log whose checkpoints are several blocks long.
func withKeys(t *testing.T) *harness {
	h := newHarness(t, Options{})
	for i := range keys {
		if _, err := h.try(1, keyed(i), record.Partition(i%2), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// rollNow begins a new segment: nothing but a checkpoint is in it.
func (h *harness) rollNow() {
	h.Helper()
	if err := h.between(context.Background(), func() error { return h.roll(0, 0, true, time.Now().UnixMilli()) }); err != nil {
		h.Fatal(err)
	}
}

// alone waits until the files of segments that are not in use are free.
func (h *harness) alone() {
	h.Helper()
	oldest := h.segments[0].name
	eventually(h.TB, "old segments are free", func() bool {
		return !slices.ContainsFunc(h.names(), func(n string) bool { return strings.HasSuffix(n, segmentSuffix) && n < oldest })
	})
}

// knows checks the ends of view 1 and, for all keys if all is set, that
// retries are recognized.
func (h *harness) knows(all bool) {
	h.Helper()
	e, err := h.Ends(1)
	if err != nil || !slices.Equal(e.End, record.Offsets{keys / 2, keys / 2}) {
		h.Fatalf("ends %+v, %v", e, err)
	}
	for i := 0; all && i < keys; i++ {
		out, err := h.try(1, keyed(i), record.Partition(i%2), "again")
		if err != nil || !out.Duplicate || out.Ranges[0].Start != record.Offset(i/2) {
			h.Fatalf("retry %d: %+v, %v", i, out, err)
		}
	}
}

// on opens the log on other files, as after a crash.
func (h *harness) on(fs *vfs.MemFS) *harness {
	h.Helper()
	n := &harness{TB: h.TB, mem: fs, o: h.o}
	n.o.FS = nil
	n.reopen()
	return n
}

// TestTornCheckpoint: whatever blocks of a checkpoint a crash left, nothing is
// forgotten, and nothing is called damage, also by the start after the next one.
func TestTornCheckpoint(t *testing.T) {
	t.Parallel()
	for _, released := range []bool{false, true} {
		tornCheckpoint(t, released)
	}
}

func tornCheckpoint(t *testing.T, released bool) {
	h := withKeys(t)
	if released {
		if err := h.Release(context.Background(), 1, record.Offsets{keys / 2, keys / 2}); err != nil {
			t.Fatal(err)
		}
		h.alone()
	}
	eventually(t, "segments are ready", func() bool { return h.LogStats().SpareSegments >= readyTarget })
	before := h.mem.CrashClone(vfs.CrashCloneCfg{})
	h.rollNow()
	name := h.active().name
	written := h.file(name)[blockSize:h.active().pos]
	blocks := len(written) / blockSize
	if blocks < 3 {
		t.Fatalf("the checkpoint has %d blocks", blocks)
	}
	stale, err := before.UnsafeGetFileDataBuffer("/log/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for there := range 1 << blocks {
		fs := before.CrashClone(vfs.CrashCloneCfg{})
		for b := range blocks {
			src := stale[blockSize:]
			if there&(1<<b) != 0 {
				src = written
			}
			write(t, fs, name, blockSize*(1+b), src[b*blockSize:(b+1)*blockSize])
		}
		n := h.on(fs)
		for round := range 3 {
			if d := n.LogStats().Damage; len(d) > 0 {
				t.Fatalf("blocks %b, round %d: %v", there, round, &d[0])
			}
			n.knows(true)
			if round > 0 {
				n.add(2, 0, "more")
			}
			n.alone()
			n.crash()
		}
		if got := readFrom(t, n.Log, 2, 0, 0); len(got) != 2 {
			t.Fatalf("blocks %b: %d rows", there, len(got))
		}
		n.close()
	}
}

// TestCheckpointDamage: a flipped bit in the only checkpoint that is left costs
// no offset, whether something follows it or not.
func TestCheckpointDamage(t *testing.T) {
	t.Parallel()
	for _, followed := range []bool{false, true} {
		h := withKeys(t)
		if err := h.Release(context.Background(), 1, record.Offsets{keys / 2, keys / 2}); err != nil {
			t.Fatal(err)
		}
		h.rollNow()
		if err := h.between(context.Background(), func() error { h.retire(); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(h.segments) != 1 {
			t.Fatalf("%d segments", len(h.segments))
		}
		h.alone()
		seg := h.active()
		end := int(seg.pos)
		if followed {
			h.add(2, 0, "row")
		}
		left := h.mem.CrashClone(vfs.CrashCloneCfg{})
		data := h.file(seg.name)
		rng := rand.New(rand.NewPCG(5, 6))
		for pos := blockSize; pos < end; pos += 67 * sweepStep {
			fs := left.CrashClone(vfs.CrashCloneCfg{})
			write(t, fs, seg.name, pos, []byte{data[pos] ^ 1<<rng.IntN(8)})
			n := h.on(fs)
			for range 2 {
				n.knows(false)
				e, err := n.Ends(1)
				if err != nil || !slices.Equal(e.Start, record.Offsets{keys / 2, keys / 2}) {
					t.Fatalf("byte %d: start %v, %v", pos, e.Start, err)
				}
				n.crash()
			}
			n.close()
		}
	}
}

// TestClockGoesBack: timestamps never do, not even across restarts.
func TestClockGoesBack(t *testing.T) {
	t.Parallel()
	clock := time.UnixMilli(1_000_000)
	h := newHarness(t, Options{Now: func() time.Time { return clock }})
	last := int64(0)
	for i, step := range []int64{0, 500, -100_000, 0, 50, 200_000} {
		clock = clock.Add(time.Duration(step) * time.Millisecond)
		h.add(1, 0, "row")
		e, err := h.Ends(1)
		if err != nil || e.LastTimestamp < last || i == 0 && e.LastTimestamp != 1_000_000 || i == 5 && e.LastTimestamp != clock.UnixMilli() {
			t.Fatalf("step %d: timestamp %d after %d, %v", i, e.LastTimestamp, last, err)
		}
		last = e.LastTimestamp
		if i == 2 {
			h.crash()
		}
	}
}
