package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

func (w *world) dataFiles() (n int) {
	w.t.Helper()
	head, _ := w.table().Head()
	for _, err := range w.table().Files(w.t.Context(), head.ID) {
		if err != nil {
			w.t.Fatal(err)
		}
		n++
	}
	return n
}

func (w *world) objects() (n int) {
	w.t.Helper()
	for _, err := range w.node.datasets.List(w.t.Context(), w.state().Branch.TableUUID) {
		if err != nil {
			w.t.Fatal(err)
		}
		n++
	}
	return n
}

// Many small archives end in few files, few versions and few objects, and no read
// ever sees a difference.
func TestUpkeepIsInvisible(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{Partitions: 3, KeyFields: []string{"k"}}, Options{
		CheckpointEvery: 20 * time.Millisecond,
		// Versions outlive an archive, and files even more so.
		Upkeep: UpkeepOptions{CompactEvery: 10 * time.Millisecond, ExpireEvery: 20 * time.Millisecond, MaxAge: time.Minute, Grace: time.Hour},
	})
	stop := w.background(w.node.upkeep.run)
	const archives = 40
	var middle reader.Cursor
	for i := range archives {
		w.publish(20)
		w.archive()
		if i == archives/2 {
			_, middle = w.read(reader.Request{Limit: 137})
		}
		if i%10 == 9 {
			w.whole()
		}
	}
	eventually(t, "few files", func() bool {
		f := w.b.Figures.Maintenance()
		return w.dataFiles() <= 12 && f.ReplacedFiles >= archives/2 && f.Compactions > 0 && f.Collections > 0
	})
	stop()
	if f := w.b.Figures.Maintenance(); f.WrittenFiles == 0 || f.WrittenFiles > f.ReplacedFiles/4 || f.Failures != 0 || f.DeletedFiles != 0 {
		t.Errorf("%+v", f)
	}
	w.whole()
	want, _ := w.read(reader.Request{})
	rest, _ := w.read(reader.Request{From: reader.Start{Cursor: &middle}})
	objects := w.objects()

	// Nobody reads or archives beside it now: everything may go at once.
	w.opts.Upkeep = UpkeepOptions{CompactEvery: -1, ExpireEvery: 10 * time.Millisecond, MaxAge: 1, Grace: 1}
	w.restart()
	stop = w.background(w.node.upkeep.run)
	eventually(t, "few versions", func() bool { return len(w.table().Snapshots()) <= 2 })
	eventually(t, "no file that nothing leads to", func() bool {
		c, err := w.node.datasets.Collect(t.Context(), w.state().Branch.TableUUID, dataset.CollectOptions{DryRun: true})
		return err == nil && len(c.Orphans) == 0
	})
	if n := w.objects(); n > objects/2 { // the newest metadata files stay
		t.Errorf("%d of %d objects are left", n, objects)
	}
	stop()
	if f := w.b.Figures.Maintenance(); f.ExpiredSnapshots == 0 || f.DeletedFiles == 0 || f.DeletedBytes == 0 || f.Failures != 0 || f.Compactions != 0 {
		t.Errorf("%+v", f)
	}
	w.restart()
	w.whole()
	if got, _ := w.read(reader.Request{}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%d rows, were %d, or others", len(got), len(want))
	}
	if got, _ := w.read(reader.Request{From: reader.Start{Cursor: &middle}}); fmt.Sprint(got) != fmt.Sprint(rest) {
		t.Errorf("the rest behind a cursor is %d rows, was %d, or others", len(got), len(rest))
	}
	w.audit()
}

// Compaction waits while archives fall behind.
func TestUpkeepLeavesAFullLogAlone(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{seams: seams{log: func(o *disk.Options) { o.SegmentBytes, o.MaxBytes = 64<<10, 8*64<<10 }}})
	for range worthCompacting {
		w.publish(5)
		w.archive()
	}
	seen := map[catalog.BranchID]tended{}
	for fullness(w.node.log.LogStats()) <= 0.5 {
		w.publish(100)
	}
	if w.node.upkeep.compactDue(t.Context(), w.state(), seen); w.dataFiles() != worthCompacting {
		t.Errorf("compacted to %d files while the log was full", w.dataFiles())
	}
	w.archive()
	eventually(t, "room in the log", func() bool { return fullness(w.node.log.LogStats()) <= 0.5 })
	if w.node.upkeep.compactDue(t.Context(), w.state(), seen); w.dataFiles() > 2 {
		t.Errorf("%d files", w.dataFiles())
	}
	w.whole()
}

// A branch is compacted when there are new files, and more and more seldom while
// it fails.
func TestUpkeepIsSparing(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	var logs strings.Builder
	w := newWorldWith(t, catalog.Settings{}, Options{
		Logger: slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelError})),
		seams: seams{
			log:   func(o *disk.Options) { o.SegmentBytes = 64 << 10 },
			store: func(s objstore.Store) objstore.Store { return failing{s, &broken} },
		},
	})
	u, seen := w.node.upkeep, map[catalog.BranchID]tended{}
	walk := func() int64 {
		before := u.figures()
		u.compactDue(t.Context(), w.state(), seen)
		after := u.figures()
		return after.Compactions + after.Failures - before.Compactions - before.Failures
	}
	archive := func(n int) {
		for range n {
			w.publish(5)
			w.archive()
		}
	}
	if archive(1); walk() != 1 || walk() != 0 {
		t.Error("a branch that is new is looked at, once")
	}
	if archive(worthCompacting - 1); walk() != 0 {
		t.Error("compacted too early")
	}
	if archive(1); walk() != 1 || u.figures().ReplacedFiles != worthCompacting+1 {
		t.Errorf("not compacted: %+v", u.figures())
	}

	archive(worthCompacting)
	broken.Store(true)
	tries := int64(0)
	for range 40 {
		tries += walk()
	}
	if f := u.figures(); tries != 6 || f.Failures != tries || strings.Count(logs.String(), "level=ERROR") != int(tries) {
		t.Errorf("%d tries in 40 walks, %+v, log:\n%s", tries, f, logs.String())
	}
	broken.Store(false)
	for walk() == 0 {
	}
	if f := u.figures(); f.ReplacedFiles <= worthCompacting+1 || seen[w.state().Branch.ID].failures != 0 {
		t.Errorf("it is not as before: %+v", f)
	}
	if err := w.node.directory.Delete(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	if u.forget(t.Context(), seen); len(seen) != 0 {
		t.Errorf("branches that are gone are remembered: %v", seen)
	}
}

// failing is a store in which nothing can be written while broken.
type failing struct {
	objstore.Store
	broken *atomic.Bool
}

func (f failing) Create(ctx context.Context, key string) (objstore.Writer, error) {
	if f.broken.Load() {
		return nil, fmt.Errorf("create %s: %w", key, record.ErrFull)
	}
	return f.Store.Create(ctx, key)
}

// TestUpkeepPassesOverWhatStands: files of a table that nothing has changed are
// listed once, not with every walk, until something is due; a restart looks once.
func TestUpkeepPassesOverWhatStands(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{})
	w.publish(5)
	w.archive()
	walks := func(n int) int64 {
		before := w.node.upkeep.figures().Collections
		for range n {
			w.node.upkeep.expireDue(t.Context(), w.state())
		}
		return w.node.upkeep.figures().Collections - before
	}
	if n := walks(5); n != 1 {
		t.Errorf("%d collections of a table that nothing changes", n)
	}
	w.publish(5)
	w.archive()
	if n := walks(5); n != 1 {
		t.Errorf("%d collections after an archive", n)
	}
	if n := walks(2 * mostIdle); n < 1 || n > 3 {
		t.Errorf("%d collections in %d walks: nothing is passed over for ever", n, 2*mostIdle)
	}
	w.restart()
	if n := walks(5); n != 1 {
		t.Errorf("%d collections after a restart", n)
	}
	tasks, err := w.b.Maintainer.Tasks(t.Context(), "s", "main")
	if err != nil || len(tasks) != 2 || tasks[0].Kind != "expire" || tasks[1].Kind != "gc" || tasks[1].State != "done" || tasks[1].Requested {
		t.Errorf("tasks %+v, %v", tasks, err)
	}
}

// TestTasksShowProgress: what is under way can be watched, and cancelled.
func TestTasksShowProgress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{})
	for range 6 {
		w.publish(50)
		w.archive()
	}
	plan, err := w.b.Maintainer.Compact(t.Context(), "s", "main", true)
	if err != nil || plan.Replaced != 6 || plan.Written != 1 || plan.Rows != 300 || plan.SnapshotID != 0 || w.dataFiles() != 6 {
		t.Fatalf("a dry run: %+v, %v", plan, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	tr := w.node.upkeep.begin(w.state().Branch.ID, "compact", true)
	tr.tell("rewrite", 1, 6, 10, 60)
	tasks, err := w.b.Maintainer.Tasks(t.Context(), "s", "main")
	if err != nil || len(tasks) != 1 || tasks[0].State != "running" || tasks[0].Phase != "rewrite" || tasks[0].TotalBytes != 60 || !tasks[0].Ended.IsZero() {
		t.Errorf("tasks %+v, %v", tasks, err)
	}
	tr.end("", context.Canceled)
	cancel()
	if _, err := w.b.Maintainer.Compact(ctx, "s", "main", false); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if tasks, err = w.b.Maintainer.Tasks(t.Context(), "s", "main"); err != nil || len(tasks) != 1 || tasks[0].State != "cancelled" {
		t.Errorf("tasks %+v, %v", tasks, err)
	}
	if out, err := w.b.Maintainer.Compact(t.Context(), "s", "main", false); err != nil || out.Replaced != 6 {
		t.Errorf("%+v, %v", out, err)
	}
	tasks, err = w.b.Maintainer.Tasks(t.Context(), "s", "main")
	if err != nil || len(tasks) != 1 || tasks[0].State != "done" || tasks[0].Files != 0 || !tasks[0].Requested || tasks[0].Result == "" {
		t.Errorf("tasks %+v, %v", tasks, err)
	}
	w.whole()
}
