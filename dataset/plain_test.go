package dataset_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// createPlain makes a table without system columns.
func (e *env) createPlain(s *schema.Schema) *dataset.Table {
	e.t.Helper()
	location, err := e.d.Prepare(e.t.Context(), e.id, s, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	if _, err := e.d.Load(e.t.Context(), e.id); !errors.Is(err, record.ErrNotFound) {
		e.t.Fatalf("before its pointer the table is there: %v", err)
	}
	if err := e.pointers.CreateTablePointer(e.t.Context(), e.id, location); err != nil {
		e.t.Fatal(err)
	}
	return e.load()
}

// plainFile writes rows of numbers without system columns.
func (e *env) plainFile(t *dataset.Table, format dataset.Format, values ...int64) dataset.DataFile {
	e.t.Helper()
	w, err := t.NewRowWriter(e.t.Context(), numbers(), format)
	if err != nil {
		e.t.Fatal(err)
	}
	defer w.Abort()
	b := array.NewRecordBuilder(memory.DefaultAllocator, numbers().Arrow())
	defer b.Release()
	b.Field(0).(*array.Int64Builder).AppendValues(values, nil)
	rec := b.NewRecordBatch()
	defer rec.Release()
	if err := w.Write(rec); err != nil {
		e.t.Fatal(err)
	}
	f, err := w.Close()
	if err != nil {
		e.t.Fatal(err)
	}
	return f
}

// values are those of the column n.
func (e *env) values(t *dataset.Table, snapshot int64) []int64 {
	e.t.Helper()
	out := []int64{}
	for b, err := range t.Scan(e.t.Context(), dataset.ScanOptions{Schema: numbers(), SnapshotID: snapshot}) {
		if err != nil {
			e.t.Fatal(err)
		}
		out = append(out, b.Column(0).(*array.Int64).Int64Values()...)
	}
	return out
}

func (e *env) wantValues(t *dataset.Table, want ...int64) {
	e.t.Helper()
	if got := e.values(t, 0); !slices.Equal(got, want) {
		e.t.Fatalf("values %v, want %v", got, want)
	}
}

// TestPlainTable: a table without a stream has no system columns, takes files of
// both formats, also after they were stored as text, and drops those that a commit
// names.
func TestPlainTable(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	table := e.createPlain(numbers())
	if fields := table.Schema().Fields(); len(fields) != 1 || fields[0].Name != "n" {
		t.Fatalf("columns %v", fields)
	}
	var files []dataset.DataFile
	for i, format := range []dataset.Format{dataset.Parquet, dataset.Avro, dataset.Parquet} {
		text, err := json.Marshal(e.plainFile(table, format, int64(i), int64(i)+10))
		if err != nil {
			t.Fatal(err)
		}
		f, err := table.StagedFile(text)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
		if !f.Info().HasChecksums() {
			t.Errorf("%s has no checksums", f.Path())
		}
	}
	table = e.commit(dataset.Commit{Add: files, ID: "first", Summary: map[string]string{"k": "v"}})
	e.wantValues(table, 0, 10, 1, 11, 2, 12)
	if head, _ := table.Head(); head.Summary["k"] != "v" || head.Operation != "append" {
		t.Errorf("head %+v", head)
	}
	if again := e.commit(dataset.Commit{Add: files, ID: "first"}); again.MetadataLocation() != table.MetadataLocation() {
		t.Error("the same commit twice")
	}
	if lo := files[0].Info().Lower; len(lo) != 1 {
		t.Errorf("bounds %v", lo)
	}
	table = e.commit(dataset.Commit{Remove: []string{files[1].Path()}})
	e.wantValues(table, 0, 10, 2, 12)
	if head, _ := table.Head(); head.Operation != "delete" || head.RemovedRows != 2 || head.TotalRows != 4 || head.TotalFiles != 2 {
		t.Errorf("head %+v", head)
	}
	_, err := e.d.Commit(t.Context(), e.id, dataset.Commit{Remove: []string{files[0].Path(), files[1].Path()}})
	wantIs(t, err, record.ErrConflict)
	_, err = e.d.Commit(t.Context(), e.id, dataset.Commit{Remove: []string{files[0].Path()}, RemoveAll: true})
	wantIs(t, err, record.ErrInvalid)
	table = e.commit(dataset.Commit{Remove: []string{files[0].Path()}, Add: []dataset.DataFile{e.plainFile(table, "", 7)}})
	e.wantValues(table, 2, 12, 7)
	if head, _ := table.Head(); head.Operation != "overwrite" {
		t.Errorf("head %+v", head)
	}
	e.wantValues(e.commit(dataset.Commit{RemoveAll: true, Add: []dataset.DataFile{e.plainFile(table, "", 8)}}), 8)

	other := newMemEnv(t)
	text, err := json.Marshal(e.plainFile(table, "", 1))
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.createPlain(numbers()).StagedFile(text)
	wantIs(t, err, record.ErrInvalid)
	_, err = table.StagedFile(text[:len(text)-1])
	wantIs(t, err, record.ErrCorrupt)
	e.d.Discard(t.Context(), files[0])
	if _, err := e.store.Stat(t.Context(), strings.TrimPrefix(files[0].Path(), e.store.Base())); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("a discarded file: %v", err)
	}
}

// TestSwapOfCommit: what must change with the pointer changes with it, is asked
// again after an unknown outcome, and can forbid the commit.
func TestSwapOfCommit(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	table := e.createPlain(numbers())
	commit := func(answer func(err error) error) (int, int64, error) {
		calls, snapshot := 0, int64(0)
		now, err := e.d.Commit(t.Context(), e.id, dataset.Commit{
			Add: []dataset.DataFile{e.plainFile(table, "", 1)},
			Swap: func(_ context.Context, from, to string, s int64) error {
				calls++
				snapshot = s
				if calls == 1 {
					return answer(e.pointers.swap(e.id, from, to))
				}
				return e.pointers.swap(e.id, from, to)
			},
		})
		if err == nil {
			if head, _ := now.Head(); head.ID != snapshot {
				t.Errorf("told snapshot %d, the head is %d", snapshot, head.ID)
			}
		}
		return calls, snapshot, err
	}
	if calls, _, err := commit(func(err error) error { return err }); calls != 1 || err != nil {
		t.Errorf("%d calls, %v", calls, err)
	}
	if calls, _, err := commit(func(error) error { return errors.New("no answer") }); calls != 1 || err != nil {
		t.Errorf("landed without an answer: %d calls, %v", calls, err)
	}
	before := e.load().MetadataLocation()
	calls := 0
	_, err := e.d.Commit(t.Context(), e.id, dataset.Commit{
		Add: []dataset.DataFile{e.plainFile(table, "", 1)},
		Swap: func(context.Context, string, string, int64) error {
			calls++
			return fmt.Errorf("ended: %w", record.ErrFenced)
		},
	})
	wantIs(t, err, record.ErrFenced)
	if e.load().MetadataLocation() != before || calls != 1 {
		t.Errorf("a forbidden commit was made, or tried %d times", calls)
	}
	e.wantValues(e.load(), 1, 1)
}

func TestRollbackAndCherryPick(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	table := e.createPlain(numbers())
	add := func(n int64) int64 {
		head, _ := e.commit(dataset.Commit{Add: []dataset.DataFile{e.plainFile(table, "", n)}}).Head()
		return head.ID
	}
	one, two, three := add(1), add(2), add(3)
	now, err := e.d.Rollback(t.Context(), e.id, one, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.wantValues(now, 1)
	if got := e.values(now, three); !slices.Equal(got, []int64{1, 2, 3}) {
		t.Errorf("what was rolled back reads %v", got)
	}
	same, err := e.d.Rollback(t.Context(), e.id, one, nil)
	if err != nil || same.MetadataLocation() != now.MetadataLocation() {
		t.Errorf("a rollback to the head: %v", err)
	}
	_, err = e.d.Rollback(t.Context(), e.id, two, nil)
	wantIs(t, err, record.ErrInvalid) // no ancestor any more
	_, err = e.d.Rollback(t.Context(), e.id, 12345, nil)
	wantIs(t, err, record.ErrNotFound)

	now, err = e.d.CherryPick(t.Context(), e.id, three, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.wantValues(now, 1, 3)
	head, _ := now.Head()
	if head.Summary["source-snapshot-id"] != fmt.Sprint(three) || head.AddedRows != 1 || head.TotalRows != 2 || head.Parent != one {
		t.Errorf("head %+v", head)
	}
	for _, s := range []int64{three, one, head.ID} {
		_, err = e.d.CherryPick(t.Context(), e.id, s, nil)
		wantIs(t, err, record.ErrExists)
	}
	// Appends go on, and the rest of the line can follow.
	four := add(4)
	if now, err = e.d.CherryPick(t.Context(), e.id, two, nil); err != nil {
		t.Fatal(err)
	}
	e.wantValues(now, 1, 3, 4, 2)
	_, err = e.d.Rollback(t.Context(), e.id, four, func(context.Context, string, string, int64) error { return record.ErrFenced })
	wantIs(t, err, record.ErrFenced)
	removed, _ := e.commit(dataset.Commit{RemoveAll: true}).Head()
	if now, err = e.d.Rollback(t.Context(), e.id, four, nil); err != nil {
		t.Fatal(err)
	}
	e.wantValues(now, 1, 3, 4)
	_, err = e.d.CherryPick(t.Context(), e.id, removed.ID, nil)
	wantIs(t, err, record.ErrInvalid)

	// A commit in between is not undone in silence.
	late := e.plainFile(table, "", 5)
	swapped := false
	e.pointers.beforeSwap = func(id, _, _ string) error {
		if !swapped {
			swapped = true
			e.commit(dataset.Commit{Add: []dataset.DataFile{late}})
		}
		return nil
	}
	_, err = e.d.Rollback(t.Context(), e.id, one, nil)
	wantIs(t, err, record.ErrConflict)
	e.wantValues(e.load(), 1, 3, 4, 5)
}

// staging is pointers that also keep files that wait for their commit.
type staging struct {
	*pointers
	files []string
}

func (s *staging) StagedBelow(_ context.Context, prefix string) (below []string, _ error) {
	for _, f := range s.files {
		if strings.HasPrefix(f, prefix) {
			below = append(below, f)
		}
	}
	return below, nil
}

// TestCollectKeepsStaged: files that wait for a commit stay, however old, and go a
// grace after they ceased to.
func TestCollectKeepsStaged(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	table := e.createPlain(numbers())
	f := e.plainFile(table, "", 1)
	c := &clock{ms: 1e12}
	keeper := &staging{e.pointers, []string{f.Path()}}
	d := dataset.New(e.store, keeper, dataset.Options{Now: c.now})
	collect := func() int {
		t.Helper()
		c.pass(unit)
		out, err := d.Collect(t.Context(), e.id, dataset.CollectOptions{Grace: unit / 2})
		if err != nil {
			t.Fatal(err)
		}
		return out.Deleted
	}
	for range 3 {
		if n := collect(); n != 0 {
			t.Fatalf("%d files collected", n)
		}
	}
	keeper.files = nil
	if first, second := collect(), collect(); first != 0 || second != 1 {
		t.Errorf("collected %d, then %d files", first, second)
	}
}
