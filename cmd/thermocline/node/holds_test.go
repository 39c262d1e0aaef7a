package node

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/thermocline/thermocline/archiver"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// ahead is an archiver's clock that tests move.
type ahead struct{ d atomic.Int64 }

func (a *ahead) Now() time.Time { return time.Now().Add(time.Duration(a.d.Load())) }

func (w *world) subscriber(name string, next record.Offsets, hold time.Duration) catalog.Subscriber {
	w.t.Helper()
	s, err := w.node.catalog.CreateSubscriber(w.t.Context(), catalog.Subscriber{
		Branch: w.state().Branch.ID, Name: name, Consistency: catalog.AtLeastOnce, View: w.view(), Next: next, Hold: hold,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// A subscriber that does not move keeps its rows hot for as long as it said and no
// longer, also when no new rows come; afterwards it reads them cold. One that
// moves lets them go behind it.
func TestSubscribersHoldRows(t *testing.T) {
	t.Parallel()
	var clock ahead
	var full atomic.Bool
	o := Options{CheckpointEvery: 20 * time.Millisecond, seams: seams{archiver: func(o *archiver.Options) {
		o.Now = clock.Now
		o.Fullness = func() float64 {
			if full.Load() {
				return 0.6
			}
			return 0.5
		}
	}}}
	w := newWorldWith(t, catalog.Settings{}, o)
	w.publish(10)
	w.subscriber("dead", nil, time.Minute)
	live := w.subscriber("live", nil, time.Hour)
	w.archived()
	if at := w.hotStart().At(0); at != 0 {
		t.Fatalf("released up to %v while the rows are held", at)
	}
	moved, err := w.node.catalog.CommitSubscribers(t.Context(), []catalog.SubscriberCommit{{ID: live.ID, Generation: 1, View: w.view(), Next: record.Offsets{8}}})
	if err != nil || moved[0] != nil {
		t.Fatal(err, moved)
	}
	w.run()
	time.Sleep(1200 * time.Millisecond) // a look of the archiver's
	if at := w.hotStart().At(0); at != 0 {
		t.Fatalf("released up to %v while the rows are held", at)
	}
	clock.d.Store(int64(70 * time.Second))
	eventually(t, "the release of what the dead one held", func() bool { return w.hotStart().At(0) == 8 })
	runs := w.node.archiver.Status(w.state().Branch.ID).Runs
	if runs != 1 {
		t.Errorf("%d archives for a release", runs)
	}
	w.whole()

	// New rows are held as well, and archived only when that is due.
	w.publish(5)
	clock.d.Store(int64(80 * time.Minute))
	eventually(t, "the release of the last rows that are archived", func() bool { return w.hotStart().At(0) == 10 })
	if m := w.marker(); m.Offsets.At(0) != 10 {
		t.Errorf("a release has archived up to %v", m.Offsets)
	}
	w.whole()

	// Room is short: what is held goes at once, and is read cold.
	clock.d.Store(0)
	w.archived()
	if at := w.hotStart().At(0); at != 10 {
		t.Fatalf("released up to %v while the rows are held", at)
	}
	full.Store(true)
	eventually(t, "the release of rows that are held in a full log", func() bool { return w.hotStart().At(0) == 15 })
	rows, _ := w.read(reader.Request{From: reader.Start{Cursor: &reader.Cursor{View: w.view(), Next: record.Offsets{8}}}})
	check(t, rows, 8, 15)
	w.whole()
}

// A subscriber that never moves, and a hot retention of a month, never bring
// publishers to a halt: the log is overwritten several times.
func TestHoldsDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	o := Options{CheckpointEvery: 20 * time.Millisecond, SegmentBytes: 64 << 10, LogBytes: 32 * 64 << 10}
	o.seams.log = func(*disk.Options) {}
	w := newWorldWith(t, catalog.Settings{HotRetention: catalog.MaxHotRetention}, o)
	w.subscriber("dead", nil, catalog.MaxHold)
	kept := false
	for range 15 {
		for range 100 { // each takes a block of 4 KiB
			w.publish(1)
		}
		w.archive()
		kept = kept || w.hotStart().At(0) == 0
	}
	if !kept {
		t.Error("nothing was kept hot")
	}
	w.whole()
}
