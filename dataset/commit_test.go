package dataset_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

func TestCreateLoadCommit(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	table := e.create(numbers())
	if _, ok := table.Head(); ok {
		t.Error("a new table has a snapshot")
	}
	e.wantOffsets(table, 0)
	_, err := e.d.Create(t.Context(), e.id, numbers(), nil)
	wantIs(t, err, record.ErrExists)
	_, err = e.d.Load(t.Context(), uuid.NewString())
	wantIs(t, err, record.ErrNotFound)
	_, err = e.d.Load(t.Context(), "../x")
	wantIs(t, err, record.ErrInvalid)

	e.addNumbers(0, 100)
	e.addNumbers(100, 150)
	table = e.load()
	e.wantOffsets(table, 150)
	rows := e.rows(table, dataset.ScanOptions{})
	if want := "n=1490 _view=2 _partition_id=0 _offset=149 _timestamp=2018-02-01T00:00:00.149Z"; rows[149] != want {
		t.Errorf("row 149 is %q, want %q", rows[149], want)
	}

	snapshots := table.Snapshots()
	if len(snapshots) != 2 {
		t.Fatalf("%d snapshots", len(snapshots))
	}
	first, second := snapshots[0], snapshots[1]
	if first.Operation != "append" || first.AddedRows != 100 || first.AddedFiles != 1 || first.TotalRows != 100 || first.Sequence != 1 || first.Parent != 0 {
		t.Errorf("first snapshot: %+v", first)
	}
	if second.AddedRows != 50 || second.TotalRows != 150 || second.TotalFiles != 2 || second.Parent != first.ID || second.TotalBytes != first.AddedBytes+second.AddedBytes {
		t.Errorf("second snapshot: %+v", second)
	}
	if second.Time.Before(first.Time) {
		t.Errorf("time runs back from %v to %v", first.Time, second.Time)
	}
	// Time travel.
	if rows := e.rows(table, dataset.ScanOptions{SnapshotID: first.ID}); len(rows) != 100 {
		t.Errorf("%d rows at the first snapshot", len(rows))
	}
	_, err = scanRows(t.Context(), table, dataset.ScanOptions{SnapshotID: 42})
	wantIs(t, err, record.ErrNotFound)

	n := 0
	for f, err := range table.Files(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		want := [][2]record.Offset{{0, 100}, {100, 150}}[n]
		if f.Format != "PARQUET" || f.View != 2 || len(f.Ranges) != 1 || f.Ranges[0].Start != want[0] || f.Ranges[0].End != want[1] || f.Rows != f.Ranges[0].Len() {
			t.Errorf("file %d: %+v", n, f)
		}
		path, ok := strings.CutPrefix(f.Path, "file://")
		if st, err := os.Stat(path); !ok || err != nil || st.Size() != f.Bytes {
			t.Errorf("file %s: %v", f.Path, err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d files", n)
	}
}

func TestConcurrentCommits(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(numbers())
	const writers, each = 4, 5
	var wg sync.WaitGroup
	for p := range writers {
		wg.Go(func() {
			d := e.other()
			for i := range each {
				from := record.Offset(i * 10)
				table, err := d.Load(t.Context(), e.id)
				if err != nil {
					t.Error(err)
					return
				}
				b := numberBatch(numbers(), record.Partition(p), from, from+10)
				f := e.file(table, numbers(), fileName(record.Partition(p), from, from+10), b)
				b.Release()
				if _, err := d.Commit(t.Context(), e.id, dataset.Commit{Add: []dataset.DataFile{f}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	table := e.load()
	seen := map[string]bool{}
	for _, r := range e.rows(table, dataset.ScanOptions{}) {
		if seen[r] {
			t.Errorf("twice: %s", r)
		}
		seen[r] = true
	}
	if len(seen) != writers*each*10 {
		t.Errorf("%d rows, want %d", len(seen), writers*each*10)
	}
	infos := table.Snapshots()
	for i, s := range infos {
		if s.Sequence != int64(i+1) || i > 0 && s.Parent != infos[i-1].ID {
			t.Errorf("snapshot %d: %+v", i, s)
		}
	}
}

func TestCheckSeesTheTableCommittedTo(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	table := e.create(numbers())
	b := numberBatch(numbers(), 0, 0, 10)
	defer b.Release()
	late := e.file(table, numbers(), fileName(0, 0, 10), b)
	// Somebody archives [0, 10) at a higher epoch between our load and our swap.
	first := firstTime()
	e.pointers.beforeSwap = func(string, string, string) error {
		if first() {
			m := marker(10)
			m.Epoch = 9
			f := e.file(table, numbers(), fileName(0, 0, 10), b)
			if _, err := e.other().Commit(t.Context(), e.id, dataset.Commit{Add: []dataset.DataFile{f}, Marker: m}); err != nil {
				t.Error(err)
			}
		}
		return nil
	}
	checks := 0
	_, err := e.d.Commit(t.Context(), e.id, dataset.Commit{
		Add: []dataset.DataFile{late}, Marker: marker(10),
		Check: func(on *dataset.Table) error {
			checks++
			m, err := on.Marker()
			if err != nil {
				return err
			}
			if m != nil && m.Epoch > 1 {
				return fmt.Errorf("epoch %d: %w", m.Epoch, record.ErrFenced)
			}
			return nil
		},
	})
	wantIs(t, err, record.ErrFenced)
	if checks != 2 {
		t.Errorf("checked %d times, want before each attempt", checks)
	}
	e.wantOffsets(e.load(), 10)
}

func TestOutcomeUnknown(t *testing.T) {
	t.Parallel()
	lost := errors.New("connection lost")
	tests := []struct {
		name    string
		before  func(e *env) func(id, from, to string) error
		after   func(e *env) func(error) error
		wantErr error
		landed  bool
	}{{
		name:   "landed, answer lost",
		after:  func(e *env) func(error) error { return onceErr(lost) },
		landed: true,
	}, {
		name: "not landed, answer lost, second try lands",
		before: func(e *env) func(id, from, to string) error {
			f := onceErr(lost)
			return func(_, _, _ string) error { return f(nil) }
		},
		landed: true,
	}, {
		name:    "never lands, never answers",
		before:  func(e *env) func(id, from, to string) error { return func(_, _, _ string) error { return lost } },
		wantErr: dataset.ErrOutcomeUnknown,
	}, {
		name: "not landed, another commit lands meanwhile",
		before: func(e *env) func(id, from, to string) error {
			first := firstTime()
			return func(_, _, _ string) (err error) {
				if first() {
					if _, cerr := e.other().Commit(e.t.Context(), e.id, dataset.Commit{Marker: &dataset.Marker{View: 7, ViewNumber: 2, CommitID: "x"}}); cerr != nil {
						e.t.Error(cerr)
					}
					err = lost
				}
				return err
			}
		},
		landed: true, // by the retry on the new head
	}, {
		name: "landed, answer lost, others commit on top",
		after: func(e *env) func(error) error {
			first := firstTime()
			return func(err error) error {
				if first() {
					if _, cerr := e.other().Commit(e.t.Context(), e.id, dataset.Commit{Marker: &dataset.Marker{View: 7, ViewNumber: 2, CommitID: "x"}}); cerr != nil {
						e.t.Error(cerr)
					}
					err = lost
				}
				return err
			}
		},
		landed: true,
	}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			table := e.create(numbers())
			b := numberBatch(numbers(), 0, 0, 10)
			defer b.Release()
			f := e.file(table, numbers(), fileName(0, 0, 10), b)
			if tt.before != nil {
				e.pointers.beforeSwap = tt.before(e)
			}
			if tt.after != nil {
				e.pointers.afterSwap = tt.after(e)
			}
			c := dataset.Commit{Add: []dataset.DataFile{f}, Marker: marker(10)}
			_, err := e.d.Commit(t.Context(), e.id, c)
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("error %v, want %v", err, tt.wantErr)
			}
			if _, found := e.load().FindCommit(c.Marker.CommitID); found != tt.landed {
				t.Fatalf("commit found: %v, want %v", found, tt.landed)
			}
			if tt.landed {
				e.wantOffsets(e.load(), 10)
			}
			// The same commit again is safe, whatever happened.
			e.pointers.beforeSwap, e.pointers.afterSwap = nil, nil
			if _, err := e.d.Commit(t.Context(), e.id, c); err != nil {
				t.Fatal(err)
			}
			e.wantOffsets(e.load(), 10)
		})
	}
}

// firstTime is true at its first call. (A sync.Once would lock itself out:
// the calls nest.)
func firstTime() func() bool {
	var calls atomic.Int32
	return func() bool { return calls.Add(1) == 1 }
}

// onceErr replaces the first outcome by err.
func onceErr(err error) func(error) error {
	first := firstTime()
	return func(e error) error {
		if first() {
			return err
		}
		return e
	}
}

func TestCommitWhenTheContextEndsInTheSwap(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	table := e.create(numbers())
	b := numberBatch(numbers(), 0, 0, 10)
	defer b.Release()
	f := e.file(table, numbers(), fileName(0, 0, 10), b)
	ctx, cancel := context.WithCancel(t.Context())
	e.pointers.afterSwap = func(error) error { cancel(); return context.Canceled }
	if _, err := e.d.Commit(ctx, e.id, dataset.Commit{Add: []dataset.DataFile{f}, Marker: marker(10)}); err != nil {
		t.Fatalf("the commit landed and was to be found: %v", err)
	}
	e.wantOffsets(e.load(), 10)
}

func TestEndlessConflictEnds(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(numbers())
	tries, others := 0, false
	e.pointers.beforeSwap = func(string, string, string) error {
		if others {
			return nil
		}
		tries++
		others = true
		_, err := e.other().Commit(t.Context(), e.id, dataset.Commit{Marker: marker(record.Offset(tries))})
		others = false
		return err
	}
	_, err := e.d.Commit(t.Context(), e.id, dataset.Commit{Marker: marker(1000)})
	wantIs(t, err, record.ErrConflict)
	if tries < 3 || tries > 50 {
		t.Errorf("%d tries", tries)
	}
	// Nothing of the attempts is left but what the others committed.
	if c := e.collect(dataset.CollectOptions{DryRun: true}); len(c.Orphans) != 0 {
		t.Errorf("left: %v", c.Orphans)
	}
}

func TestCommitToADroppedTable(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	table := e.create(numbers())
	b := numberBatch(numbers(), 0, 0, 10)
	defer b.Release()
	f := e.file(table, numbers(), fileName(0, 0, 10), b)
	e.pointers.beforeSwap = func(id, _, _ string) error { delete(e.pointers.at, id); return nil }
	_, err := e.d.Commit(t.Context(), e.id, dataset.Commit{Add: []dataset.DataFile{f}})
	wantIs(t, err, record.ErrNotFound)
	e.pointers.beforeSwap = nil
	// A table made anew under another id must not take the old one's files.
	e.id = uuid.NewString()
	e.create(numbers())
	_, err = e.d.Commit(t.Context(), e.id, dataset.Commit{Add: []dataset.DataFile{f}})
	wantIs(t, err, record.ErrInvalid)
}

func TestRemoveAll(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(numbers())
	e.addNumbers(0, 100)
	before := e.addNumbers(100, 150)
	b := numberBatch(numbers(), 0, 0, 5)
	defer b.Release()
	table := e.commit(dataset.Commit{
		RemoveAll: true, Add: []dataset.DataFile{e.file(before, numbers(), fileName(0, 0, 5), b)},
		Marker: &dataset.Marker{View: 8, ViewNumber: 3, Epoch: 1, Offsets: record.Offsets{5}, CommitID: uuid.NewString()},
	})
	head, _ := table.Head()
	if head.Operation != "overwrite" || head.RemovedFiles != 2 || head.RemovedRows != 150 || head.AddedRows != 5 || head.TotalRows != 5 || head.TotalFiles != 1 {
		t.Errorf("head: %+v", head)
	}
	e.wantOffsets(e.load(), 5)
	old, _ := before.Head()
	if rows := e.rows(table, dataset.ScanOptions{SnapshotID: old.ID}); len(rows) != 150 {
		t.Errorf("%d rows before the reset", len(rows))
	}
	// Removed entries are not carried on.
	e.d = e.other()
	table = e.commit(dataset.Commit{RemoveAll: true})
	head, _ = table.Head()
	if head.RemovedFiles != 1 || head.TotalRows != 0 {
		t.Errorf("second reset: %+v", head)
	}
	e.wantOffsets(e.load(), 0)
}

func TestBaseMustBeInTheHistory(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(numbers())
	e.addNumbers(0, 10)
	rolledBack := e.load()
	base := e.addNumbers(10, 20)
	e.pointers.at[e.id] = rolledBack.MetadataLocation()
	_, err := e.d.Commit(t.Context(), e.id, dataset.Commit{Base: base, Marker: marker(30)})
	wantIs(t, err, record.ErrConflict)
	// An older base is fine.
	e.commit(dataset.Commit{Base: rolledBack, Marker: marker(11)})
}

func TestEmptyCommits(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	table := e.create(numbers())
	same := e.commit(dataset.Commit{})
	if same.MetadataLocation() != table.MetadataLocation() {
		t.Error("a commit of nothing moved the pointer")
	}
	m := marker(0)
	fenced := e.commit(dataset.Commit{Marker: m})
	if head, ok := fenced.Head(); !ok || head.AddedRows != 0 || head.Marker == nil {
		t.Errorf("the fence is not recorded: %+v", head)
	}
	again := *m
	again.CommitID, again.ValidThroughMs = uuid.NewString(), 2000
	if e.commit(dataset.Commit{Marker: &again}).MetadataLocation() != fenced.MetadataLocation() {
		t.Error("a marker that did not move was recorded")
	}
	again.Epoch++
	next := e.commit(dataset.Commit{Marker: &again})
	got, err := next.Marker()
	if err != nil || got.Epoch != 2 {
		t.Errorf("marker %+v, %v", got, err)
	}
	e.wantOffsets(e.load(), 0)
}

func TestOldMetadataFilesGo(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(numbers())
	first := e.addNumbers(0, 1)
	// A branch stands at an old metadata file.
	branch := uuid.NewString()
	if err := e.pointers.CreateTablePointer(t.Context(), branch, first.MetadataLocation()); err != nil {
		t.Fatal(err)
	}
	for o := range record.Offset(30) {
		e.addNumbers(o+1, o+2)
	}
	var left []string
	for info, err := range e.store.List(t.Context(), e.id+"/metadata/") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(info.Key, ".metadata.json") {
			left = append(left, info.Key)
		}
	}
	if len(left) != 22 { // the head, 20 in its log, the branch's
		t.Errorf("%d metadata files are left: %v", len(left), left)
	}
	if !slices.ContainsFunc(left, func(k string) bool { return strings.HasSuffix(first.MetadataLocation(), k) }) {
		t.Error("the branch's metadata file was deleted")
	}
	b, err := e.other().Load(t.Context(), branch)
	if err != nil {
		t.Fatal(err)
	}
	e.wantOffsets(b, 1)
	e.wantOffsets(e.load(), 31)
}

func TestPurge(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(numbers())
	e.addNumbers(0, 10)
	_, err := e.d.Purge(t.Context(), e.id, time.Hour)
	wantIs(t, err, record.ErrConflict)
	e.wantOffsets(e.load(), 10)
	delete(e.pointers.at, e.id)
	if left, err := e.d.Purge(t.Context(), e.id, time.Hour); err != nil || left != 0 {
		t.Fatal(left, err)
	}
	for info, err := range e.store.List(t.Context(), "") {
		t.Errorf("left: %+v, %v", info, err)
	}
	_, err = e.d.Purge(t.Context(), "../etc", time.Hour)
	wantIs(t, err, record.ErrInvalid)
}
