package archiver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/record"
)

// held is a list of holds.
type held struct {
	holds []Hold
	err   error
}

func (h *held) Holds(context.Context, record.ViewID) ([]Hold, error) { return h.holds, h.err }

// hotRows is a log with rows of two partitions, appended at known times.
type hotRows struct {
	*disk.Log
	clock time.Time
	at    [2][]time.Time // of each row
}

func newHotRows(t *testing.T, rnd *rand.Rand) *hotRows {
	t.Helper()
	h := &hotRows{clock: time.UnixMilli(1_700_000_000_000)}
	var err error
	h.Log, err = disk.Open("log", disk.Options{
		FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler), SegmentBytes: 1 << 20, Now: func() time.Time { return h.clock },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := h.Open(t.Context(), 1, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		p, rows := rnd.IntN(2), 1+rnd.IntN(4)
		var arena record.Rows
		for range rows {
			arena.Append(nil, []byte("row"))
			h.at[p] = append(h.at[p], h.clock)
		}
		if _, err := h.Append(t.Context(), 1, hotbuffer.Append{Parts: []hotbuffer.Part{{Partition: record.Partition(p), Rows: &arena}}}); err != nil {
			t.Fatal(err)
		}
		h.clock = h.clock.Add(time.Duration(rnd.IntN(20_000)) * time.Millisecond)
	}
	return h
}

// A release leaves what the retention and the holds ask for, and no row more.
func TestReleaseLeavesWhatIsHeld(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 1))
			h := newHotRows(t, rnd)
			now := h.clock
			holds := &held{}
			a := &Archiver{o: Options{
				Buffer: h.Log, Holds: holds, Logger: slog.New(slog.DiscardHandler),
				Now: func() time.Time { return now }, Fullness: func() float64 { return halfFull },
			}}
			archived := record.Offsets{}
			for p := range h.at {
				archived = append(archived, record.Offset(rnd.IntN(len(h.at[p])+1)))
			}
			s := &branchState{}
			w := &work{a: a, s: s, view: View{ID: 1}, start: archived}
			w.target.Settings.ArchiveInterval = time.Minute
			start := make(record.Offsets, 2)
			for range 6 {
				w.target.Settings.HotRetention = time.Duration(rnd.IntN(3)) * time.Minute
				holds.holds = nil
				for range rnd.IntN(4) {
					hold := Hold{For: time.Duration(rnd.IntN(400)) * time.Second, Next: make(record.Offsets, rnd.IntN(3))}
					for i := range hold.Next {
						hold.Next[i] = record.Offset(rnd.IntN(len(h.at[i]) + 1))
					}
					holds.holds = append(holds.holds, hold)
				}
				first := now.Add(1000 * time.Hour) // when one of the kept rows may go
				for p := range h.at {
					for start[p] < archived[p] {
						age := now.Sub(h.at[p][start[p]])
						until := time.Duration(0)
						if age < w.target.Settings.HotRetention {
							until = max(until, w.target.Settings.HotRetention)
						}
						for _, hold := range holds.holds {
							if start[p] >= hold.Next.At(record.Partition(p)) && age < hold.For {
								until = max(until, hold.For)
							}
						}
						if until > 0 {
							if at := h.at[p][start[p]].Add(until); at.Before(first) {
								first = at
							}
							break
						}
						start[p]++
					}
				}
				if err := w.release(t.Context()); err != nil {
					t.Fatal(err)
				}
				ends, err := h.Ends(1)
				if err != nil || !ends.Start.Equal(start) {
					t.Fatalf("at %v with a retention of %v and %+v: released up to %v of %v, %v; want %v",
						now, w.target.Settings.HotRetention, holds.holds, ends.Start, archived, err, start)
				}
				// It is looked at again in time.
				if start.Covers(archived) {
					continue
				}
				if late := s.note.keptUntil().Sub(first); late > 41*time.Second || s.note.keptUntil().Before(now.Add(look)) && !s.note.keptUntil().Equal(now) {
					t.Fatalf("at %v: rows may go at %v, the next look is at %v", now, first, s.note.keptUntil())
				}
				now = now.Add(time.Duration(rnd.IntN(120)) * time.Second)
			}
		})
	}
}

// Holds count for nothing when they cannot be told, and together with the
// retention when the log is more than half full.
func TestReleaseWithoutHolds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		full float64
		keep time.Duration
		err  error
	}{
		"more than half full": {full: 0.501, keep: time.Hour},
		"not to be told":      {err: errors.New("no catalog")},
	} {
		h := newHotRows(t, rand.New(rand.NewPCG(1, 1)))
		a := &Archiver{o: Options{
			Buffer: h.Log, Holds: &held{[]Hold{{For: time.Hour}}, c.err}, Logger: slog.New(slog.DiscardHandler),
			Now: func() time.Time { return h.clock }, Fullness: func() float64 { return c.full },
		}}
		if c.err != nil {
			a.o.Holds.(*held).holds = nil
		}
		w := &work{a: a, s: &branchState{}, view: View{ID: 1}, start: record.Offsets{10, 10}, target: Target{Settings: catalog.Settings{HotRetention: c.keep}}}
		if err := w.release(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if ends, err := h.Ends(1); err != nil || !ends.Start.Equal(w.start) {
			t.Errorf("%s: released up to %v, %v; want %v", name, ends.Start, err, w.start)
		}
	}
}

// A row goes when it is exactly as old as its hold is long, and not a look at the
// log is made before that.
func TestHoldEndsOnTime(t *testing.T) {
	t.Parallel()
	h := newHotRows(t, rand.New(rand.NewPCG(2, 1)))
	now := h.at[0][0].Add(time.Hour - time.Millisecond)
	a := &Archiver{o: Options{
		Buffer: h.Log, Holds: &held{holds: []Hold{{For: time.Hour}}}, Logger: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return now }, Fullness: func() float64 { return 0 },
	}}
	w := &work{a: a, s: &branchState{}, view: View{ID: 1}, start: record.Offsets{record.Offset(len(h.at[0])), 0}}
	w.target.Settings.ArchiveInterval = time.Second
	released := func(want int, next time.Time) {
		t.Helper()
		if err := w.release(t.Context()); err != nil {
			t.Fatal(err)
		}
		ends, err := h.Ends(1)
		if err != nil || ends.Start.At(0) != record.Offset(want) || !w.s.note.keptUntil().Equal(next) {
			t.Fatalf("released up to %v, %v, the next look is at %v; want %d, %v", ends.Start, err, w.s.note.keptUntil(), want, next)
		}
	}
	released(0, now.Add(look)) // not for every row of a busy stream
	now = now.Add(time.Millisecond)
	rows, next := 0, time.Time{}
	for _, at := range h.at[0] {
		if at.After(h.at[0][0]) {
			next = at
			break
		}
		rows++
	}
	next = next.Add(time.Hour)
	if soon := now.Add(look); next.Before(soon) {
		next = soon
	}
	released(rows, next)
	now = h.clock.Add(time.Hour)
	released(len(h.at[0]), now)
}
