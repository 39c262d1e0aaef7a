package node

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/thermocline/thermocline/archiver"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/reader"
)

func (w *world) compact() archiver.CompactResult {
	w.t.Helper()
	out, err := w.node.archiver.Compact(w.t.Context(), w.state().Branch.ID, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// Readers cannot tell a compacted dataset from one that is not: epochs, cursors
// that were handed out before, order, and what is archived are the same.
func TestCompactionIsInvisible(t *testing.T) {
	t.Parallel()
	for _, s := range []catalog.Settings{
		{Partitions: 1},
		{Partitions: 9, KeyFields: []string{"k"}, DatasetFormat: "AVRO"},
	} {
		w := newWorld(t, s)
		for range 10 {
			w.publish(30)
			if _, err := w.node.checks.Take(t.Context(), w.view()); err != nil {
				t.Fatal(err)
			}
			w.archive()
		}
		want := w.epochs(10)
		_, middle := w.read(reader.Request{Limit: 137})
		rest, _ := w.read(reader.Request{From: reader.Start{Cursor: &middle}})
		before := *w.marker()
		out := w.compact()
		if out.Replaced != 10 || out.Written != 1 || out.Rows != 300 || out.SnapshotID == 0 {
			t.Errorf("%+v", out)
		}
		if again := w.compact(); again != (archiver.CompactResult{}) {
			t.Errorf("once more: %+v", again)
		}
		if m := w.marker(); !m.Offsets.Equal(before.Offsets) || m.View != before.View || m.Epoch != before.Epoch {
			t.Errorf("marker %+v, before %+v", m, before)
		}
		for range 2 {
			got := w.epochs(10)
			for n, rows := range want {
				if fmt.Sprint(got[n]) != fmt.Sprint(rows) {
					t.Fatalf("epoch %d is\n%v\nbefore the compaction it was\n%v", n, got[n], rows)
				}
			}
			if got, _ := w.read(reader.Request{From: reader.Start{Cursor: &middle}}); fmt.Sprint(got) != fmt.Sprint(rest) {
				t.Fatalf("the rest behind the cursor is %d rows, was %d, or others", len(got), len(rest))
			}
			w.whole()
			w.restart()
		}
		w.publish(10)
		w.archived()
		w.reset()
		w.compact() // nothing, or rows that leave anyway
		w.archive()
		w.compact()
		w.audit()
	}
}

// Compaction, expiry and collection go on beside archives and reads: no archive
// fails, no row is missing or there twice.
func TestCompactionBesideArchives(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{Partitions: 3, KeyFields: []string{"k"}})
	done := make(chan struct{})
	var tending sync.WaitGroup
	compacted := 0
	tending.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
			out, err := w.node.archiver.Compact(t.Context(), w.state().Branch.ID, nil)
			if err != nil {
				t.Error(err)
				return
			}
			compacted += out.Replaced
			// Versions are kept for longer than an archive takes.
			if _, err := w.node.datasets.Expire(t.Context(), w.state().Branch.TableUUID, dataset.ExpireOptions{MaxAge: 10 * time.Second}); err != nil {
				t.Error(err)
				return
			}
			if _, err := w.node.datasets.Collect(t.Context(), w.state().Branch.TableUUID, dataset.CollectOptions{Grace: 10 * time.Second}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 40 {
		w.publish(10)
		w.archive()
		if i%10 == 9 {
			w.whole()
		}
	}
	close(done)
	tending.Wait()
	w.whole()
	w.compact()
	w.whole()
	if compacted == 0 {
		t.Error("nothing was compacted meanwhile")
	}
	// All versions but the head go, and all files that only they had.
	id := w.state().Branch.TableUUID
	for range 2 {
		if _, err := w.node.datasets.Expire(t.Context(), id, dataset.ExpireOptions{MaxAge: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.node.datasets.Collect(t.Context(), id, dataset.CollectOptions{Grace: 1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
	}
	if n := len(w.table().Snapshots()); n != 1 {
		t.Errorf("%d versions are left", n)
	}
	w.whole()
	w.restart()
	w.whole()
}
