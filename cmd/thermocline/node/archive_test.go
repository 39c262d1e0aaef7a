package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/archiver"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

func (w *world) state() *branch.State {
	w.t.Helper()
	st, err := w.node.directory.Resolve("s", "main")
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

func (w *world) table() *dataset.Table {
	w.t.Helper()
	t, err := w.node.datasets.Load(w.t.Context(), w.state().Branch.TableUUID)
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

func (w *world) marker() *dataset.Marker {
	w.t.Helper()
	m, err := w.table().Marker()
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// recreate makes a new stream of the same name.
func (w *world) recreate(settings catalog.Settings) {
	w.t.Helper()
	if err := w.node.directory.Delete(w.t.Context(), "s"); err != nil {
		w.t.Fatal(err)
	}
	w.create(settings)
}

func (w *world) reset() {
	w.t.Helper()
	if _, err := w.node.directory.Reset(w.t.Context(), "s", "main", nil, func(s catalog.Settings) catalog.Settings { return s }); err != nil {
		w.t.Fatal(err)
	}
	w.next = 0
}

// audit is the oracle of the cold half alone, because readers would hide a row
// that is there twice: the dataset holds each row below its marker exactly
// once, no other, and the hot buffer goes on from there without a gap.
func (w *world) audit() {
	w.t.Helper()
	m := w.marker()
	type place struct {
		part   int32
		offset int64
	}
	seen := map[place]bool{}
	for b, err := range w.table().Scan(w.t.Context(), dataset.ScanOptions{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		at := func(name string) int { return b.Schema().FieldIndices(name)[0] }
		views := b.Column(at(schema.ViewColumn)).(*array.Int32)
		parts := b.Column(at(schema.PartitionColumn)).(*array.Int32)
		offsets := b.Column(at(schema.OffsetColumn)).(*array.Int64)
		for i := range int(b.NumRows()) {
			if views.IsNull(i) || views.Value(i) == 0 {
				continue // another engine's row
			}
			p := place{parts.Value(i), offsets.Value(i)}
			if m == nil || views.Value(i) != int32(m.ViewNumber) || p.offset >= int64(m.Offsets.At(record.Partition(p.part))) || seen[p] {
				w.t.Fatalf("the dataset holds row %+v of view %d beyond its marker %+v, or twice", p, views.Value(i), m)
			}
			seen[p] = true
		}
	}
	var archived record.Offsets
	if m != nil {
		if want := m.Offsets.RowsSince(nil); int64(len(seen)) != want {
			w.t.Fatalf("the dataset holds %d rows, its marker promises %d", len(seen), want)
		}
		if m.View == w.view() {
			archived = m.Offsets
		}
	}
	ends, err := w.node.log.Ends(w.view())
	if err != nil {
		w.t.Fatal(err)
	}
	if !archived.Covers(ends.Start) || !ends.End.Covers(archived) {
		w.t.Fatalf("hot rows [%v,%v), archived up to %v", ends.Start, ends.End, archived)
	}
}

// whole checks that the stream holds rows 0 to next-1 of its own, hot and cold.
func (w *world) whole() {
	w.t.Helper()
	rows, _ := w.read(reader.Request{Where: "_view > 0"})
	check(w.t, rows, 0, w.next)
	w.audit()
}

// archived archives and checks that everything is cold.
func (w *world) archived() {
	w.t.Helper()
	w.archive()
	off, err := w.b.Archiver.Offsets(w.t.Context(), "s", "main")
	if err != nil {
		w.t.Fatal(err)
	}
	if off.Lag.Rows != 0 || !off.Archived.Equal(off.End) || off.End.RowsSince(nil) != w.next {
		w.t.Fatalf("after an archive of %d rows: %+v", w.next, off)
	}
	w.whole()
}

func (w *world) tryArchive() error {
	_, err := w.b.Archiver.ArchiveNow(w.t.Context(), "s", "main")
	return err
}

// Whatever call between archiver, checkpointer, hot buffer, dataset, store,
// pointers and leases fails, before it took effect or behind it: no row is
// missing, none is there twice, and the next archive succeeds.
func TestArchiveSurvivesEveryFault(t *testing.T) {
	t.Parallel()
	prepare := map[string]func(*world){
		"same process": func(*world) {},
		"new process":  func(w *world) { w.restart() }, // with a lease to take and a fence
		"after a reset": func(w *world) { // with a view to drain and one to begin
			w.reset()
			w.publish(9)
		},
		"after a reset without rows": func(w *world) { w.archive(); w.reset() },
	}
	for name, before := range prepare {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, lost %v", name, lost), func(t *testing.T) {
				t.Parallel()
				f := &faults{}
				settings := catalog.Settings{Partitions: 2, KeyFields: []string{"k"}, HotRetention: time.Millisecond}
				w := newWorldWith(t, settings, Options{seams: f.seams()})
				w.publish(10)
				w.archived()
				hit := map[string]int{}
				for at := 1; ; at += stride {
					if at%8 == 1 { // history makes each round dearer
						w.recreate(settings)
						w.publish(10)
						w.archived()
					}
					w.publish(10)
					before(w)
					f.arm(at, lost, "")
					err := w.tryArchive()
					call := f.disarm()
					if call == "" {
						if err != nil {
							t.Fatal(err)
						}
						break
					}
					if err != nil && !errors.Is(err, errInjected) {
						t.Fatalf("call %d, %s: %v", at, call, err)
					}
					hit[call]++
					w.whole()
					w.archived()
				}
				if stride == 1 && (hit["SwapTablePointer"] == 0 || hit["Buffer.Ends"] == 0 || hit["RenewLease"]+hit["AcquireLease"] == 0) {
					t.Errorf("struck only %v", hit)
				}
			})
		}
	}
}

// A panic at a step leaves what a crash there leaves, as far as one process can
// tell: the next process goes on.
func TestArchiveSurvivesAPanicAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, step := range archiver.Steps {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			var at archiver.Step
			w := newWorldWith(t, catalog.Settings{Partitions: 2}, Options{Reached: func(s archiver.Step) {
				if s == at {
					panic(s)
				}
			}})
			w.publish(20)
			w.archive()
			for range 3 {
				w.publish(20)
				at = step
				func() {
					defer func() {
						if recover() == nil {
							t.Fatal("the archive never came there")
						}
					}()
					_ = w.tryArchive()
				}()
				at = ""
				w.restart()
				w.whole()
			}
			w.archived()
		})
	}
}

// at runs do once, at a step of the archive.
func at(step archiver.Step, do func()) func(archiver.Step) {
	var once sync.Once
	return func(s archiver.Step) {
		if s == step {
			once.Do(do)
		}
	}
}

// A reset at any step of an archive: the old rows are in the history, the new
// view has its own.
func TestResetWhileAnArchiveRuns(t *testing.T) {
	t.Parallel()
	for _, step := range archiver.Steps {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			var w *world
			w = newWorldWith(t, catalog.Settings{Partitions: 2}, Options{Reached: at(step, func() {
				w.publish(10)
				w.reset()
				w.publish(7)
			})})
			w.publish(10)
			if err := w.tryArchive(); err != nil {
				t.Fatal(err)
			}
			w.whole()
			w.archived()
			if got := w.mostRows(1); got != 20 {
				t.Errorf("the history holds %d rows of the first view, want 20", got)
			}
		})
	}
}

// mostRows is how many rows of a view the largest snapshot in the history holds.
func (w *world) mostRows(n record.ViewNumber) int64 {
	w.t.Helper()
	most := int64(0)
	for _, s := range w.table().Snapshots() {
		if s.Marker != nil && s.Marker.ViewNumber == n {
			most = max(most, s.TotalRows)
		}
	}
	return most
}

// A delete at any step of an archive ends it, and leaves nothing behind.
func TestDeleteWhileAnArchiveRuns(t *testing.T) {
	t.Parallel()
	for _, step := range archiver.Steps {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			var w *world
			w = newWorldWith(t, catalog.Settings{Partitions: 2}, Options{Reached: at(step, func() {
				if err := w.node.directory.Delete(t.Context(), "s"); err != nil {
					t.Error(err)
				}
			})})
			w.publish(10)
			err := w.tryArchive()
			if step != archiver.StepDone && !errors.Is(err, record.ErrNotFound) && !errors.Is(err, record.ErrFenced) {
				t.Fatalf("archive of a deleted stream: %v", err)
			}
			if err := w.tryArchive(); !errors.Is(err, record.ErrNotFound) {
				t.Fatalf("the next archive: %v", err)
			}
			if v := w.node.log.Views(); len(v) != 0 {
				t.Errorf("the hot buffer still holds %v", v)
			}
			w.create(catalog.Settings{})
			w.publish(10)
			w.archived()
		})
	}
}

// Rows written under a schema that came while an archive had begun keep their
// new columns.
func TestEvolveWhileAnArchiveRuns(t *testing.T) {
	t.Parallel()
	for _, step := range []archiver.Step{archiver.StepLease, archiver.StepLoad, archiver.StepFence, archiver.StepUpload} {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			var w *world
			w = newWorldWith(t, catalog.Settings{}, Options{Reached: at(step, func() {
				wide := w.state().Schema.Clone()
				wide.Fields = append(wide.Fields, schema.Field{Name: "x", Type: schema.Type{Kind: schema.Long}, Nullable: true})
				if _, err := w.node.directory.Evolve(t.Context(), "s", "main", wide); err != nil {
					t.Error(err)
				}
				w.publishBody(`{"k":"a","n":1,"x":42}`)
			})})
			w.publishBody(`{"k":"a","n":0}`)
			w.archive()
			w.archive()
			if off := w.marker().Offsets; off.RowsSince(nil) != 2 {
				t.Fatalf("archived up to %v", off)
			}
			res, err := w.b.Reader.Read(t.Context(), "s", "main", reader.Request{Where: "x = 42"})
			if err != nil {
				t.Fatal(err)
			}
			rows := int64(0)
			for b, err := range res.Batches {
				if err != nil {
					t.Fatal(err)
				}
				if b.Rows != nil {
					rows += b.Rows.NumRows()
				}
			}
			if rows != 1 {
				t.Errorf("%d rows with the new column, want 1", rows)
			}
		})
	}
}

// Every archive ends at a checkpoint, and checkpoints are numbered without gaps,
// while rows come.
func TestArchivesEndAtCheckpoints(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{Partitions: 3, KeyFields: []string{"k"}}, Options{CheckpointEvery: 2 * time.Millisecond})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for archives := 0; archives < 8; {
			out, err := w.b.Archiver.ArchiveNow(w.t.Context(), "s", "main")
			if err != nil {
				w.t.Error(err)
				return
			}
			if out.Rows > 0 {
				archives++
			}
		}
	}()
	for published := false; !published; {
		w.publish(5)
		select {
		case <-done:
			published = true
		default:
		}
	}
	w.archived()
	cuts := map[string]bool{}
	number := int64(0)
	for after := int64(0); ; {
		cs, err := w.node.catalog.CheckpointsAfter(t.Context(), w.view(), after, catalog.MaxPage)
		if err != nil {
			t.Fatal(err)
		}
		if len(cs) == 0 {
			break
		}
		for _, c := range cs {
			if number++; c.Number != number {
				t.Fatalf("checkpoint %d where %d is next", c.Number, number)
			}
			cuts[text(c.Cut)] = true
		}
		after = number
	}
	markers := 0
	for _, s := range w.table().Snapshots() {
		if m := s.Marker; m != nil && m.Offsets.RowsSince(nil) > 0 {
			markers++
			if !cuts[text(m.Offsets)] {
				t.Errorf("the archive up to %v ends at no checkpoint", m.Offsets)
			}
		}
	}
	if markers < 8 {
		t.Errorf("only %d archives", markers)
	}
}

func text(o record.Offsets) string {
	b, _ := o.MarshalJSON()
	return string(b)
}

// A long backlog is committed part by part, each up to a checkpoint, and what is
// committed stays when a later part fails.
func TestBacklogIsArchivedInParts(t *testing.T) {
	t.Parallel()
	f := &faults{}
	s := f.seams()
	leases := s.archiver
	s.archiver = func(o *archiver.Options) { leases(o); o.CommitBytes = 3000 }
	w := newWorldWith(t, catalog.Settings{Partitions: 2, KeyFields: []string{"k"}}, Options{seams: s})
	cuts := map[string]bool{}
	for i := range 40 {
		w.publish(13 + i%9)
		cp, err := w.node.checks.Take(t.Context(), w.view())
		if err != nil {
			t.Fatal(err)
		}
		cuts[text(cp.Cut)] = true
	}
	f.arm(3, false, "Buffer.Release") // behind the third commit
	if err := w.tryArchive(); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	f.disarm()
	if got := w.marker().Offsets.RowsSince(nil); got == 0 || got == w.next {
		t.Fatalf("%d of %d rows are archived, want a part", got, w.next)
	}
	w.whole()
	out := w.archive()
	if out.Rows == 0 || out.Files < 3 {
		t.Fatalf("%+v", out)
	}
	commits := 0
	for _, s := range w.table().Snapshots() {
		if s.AddedRows > 0 {
			commits++
			if !cuts[text(s.Marker.Offsets)] {
				t.Errorf("the commit up to %v ends at no checkpoint", s.Marker.Offsets)
			}
		}
	}
	if commits < 5 {
		t.Errorf("%d commits", commits)
	}
	w.archived()
}

// A large flush rolls files, and all land in one commit.
func TestLargeFlushRollsFiles(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{Partitions: 2}, Options{seams: seams{archiver: func(o *archiver.Options) { o.FileBytes = 1 }}})
	for range 10 {
		w.publish(10_000)
	}
	out := w.archive()
	if out.Rows != 100_000 || out.Files < 3 {
		t.Fatalf("%+v, want 100000 rows in several files", out)
	}
	head, _ := w.table().Head()
	if head.AddedFiles != int64(out.Files) || head.AddedRows != 100_000 {
		t.Errorf("the commit added %d rows in %d files", head.AddedRows, head.AddedFiles)
	}
	w.archived()
}

// brokenBuffer yields what a faulty engine might: a gap, or a batch again.
type brokenBuffer struct {
	hotbuffer.Buffer
	gap bool
}

func (b *brokenBuffer) Read(ctx context.Context, v record.ViewID, p record.Partition, from record.Offset, n int) ([]record.Batch, error) {
	out, err := b.Buffer.Read(ctx, v, p, from, n)
	if len(out) < 2 {
		return out, err
	}
	if b.gap {
		return slices.Delete(slices.Clone(out), 1, 2), err
	}
	return slices.Insert(slices.Clone(out), 1, out[0]), err
}

// What does not add up is not committed.
func TestGapsAndRepeatsAreNotArchived(t *testing.T) {
	t.Parallel()
	for _, gap := range []bool{true, false} {
		w := newWorldWith(t, catalog.Settings{}, Options{seams: seams{archiver: func(o *archiver.Options) { o.Buffer = &brokenBuffer{o.Buffer, gap} }}})
		for range 5 {
			w.publish(10)
		}
		if err := w.tryArchive(); !errors.Is(err, record.ErrCorrupt) {
			t.Errorf("gap %v: %v, want ErrCorrupt", gap, err)
		}
		if m := w.marker(); m != nil && m.Offsets.RowsSince(nil) > 0 {
			t.Errorf("gap %v: archived up to %v", gap, m.Offsets)
		}
		w.whole()
	}
}
