package catalog

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/record"
)

func (f *fixture) dataset(t *testing.T, name string) (Stream, Branch) {
	t.Helper()
	s, b, err := f.CreateDataset(t.Context(), NewDataset{Name: name, Location: "m0-" + name})
	ok(t, err)
	return s, b
}

func (f *fixture) begin(t *testing.T, b Branch, typ TransactionType) Transaction {
	t.Helper()
	tr, err := f.BeginTransaction(t.Context(), Transaction{ID: uuid.NewString(), Branch: b.ID, Type: typ})
	ok(t, err)
	return tr
}

func (f *fixture) stage(t *testing.T, tr Transaction, name, location string) {
	t.Helper()
	_, err := f.StageFile(t.Context(), tr.ID, StagedFile{Name: name, Location: location, Rows: 2, Bytes: 10, Body: []byte(`{}`)})
	ok(t, err)
}

// TestTransactionCommits: a transaction ends together with the move of the pointer,
// once, and its files are protected exactly until then.
func TestTransactionCommits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	_, b := f.dataset(t, "d")
	tr := f.begin(t, b, TransactionAppend)
	if tr.State != TransactionOpen || tr.Created != f.clock.Now() || !tr.Ended.IsZero() {
		t.Errorf("%+v", tr)
	}
	f.clock.advance(time.Minute)
	f.stage(t, tr, "a", "w/t/a")
	f.stage(t, tr, "b", "w/t/b")
	// A repeated upload finds the first one.
	first, err := f.StageFile(ctx, tr.ID, StagedFile{Name: "a", Location: "w/t/other", Rows: 5, Bytes: 5, Body: []byte(`{"x":1}`)})
	if err != nil || first.Location != "w/t/a" || string(first.Body) != "{}" {
		t.Errorf("%+v, %v", first, err)
	}
	other := f.open(t) // another process, or this one after a restart
	got, err := other.Transaction(ctx, tr.ID)
	want := tr
	want.Files, want.Rows, want.Bytes, want.Used = 2, 4, 20, f.clock.Now()
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	again, err := f.BeginTransaction(ctx, Transaction{ID: tr.ID, Branch: b.ID, Type: TransactionAppend})
	if diff := cmp.Diff(want, again); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	files, err := f.StagedFiles(ctx, tr.ID, "", 1)
	ok(t, err)
	rest, err := f.StagedFiles(ctx, tr.ID, files[0].Name, 0)
	if err != nil || len(files) != 1 || len(rest) != 1 || rest[0].Name != "b" {
		t.Errorf("%+v, %+v, %v", files, rest, err)
	}
	for prefix, want := range map[string]int{"w/t/": 2, "w/": 2, "w/u/": 0} {
		if got, err := f.StagedBelow(ctx, prefix); err != nil || len(got) != want {
			t.Errorf("staged below %s: %v, %v", prefix, got, err)
		}
	}

	err = f.CommitTransaction(ctx, tr.ID, b.TableUUID, "m9", "m1", 7, 2)
	wantErr(t, "from elsewhere", err, record.ErrConflict)
	wantErr(t, "to another table", f.CommitTransaction(ctx, tr.ID, uuid.NewString(), "m0-d", "m1", 7, 2), record.ErrInvalid)
	wantErr(t, "a file that came in", f.CommitTransaction(ctx, tr.ID, b.TableUUID, "m0-d", "m1", 7, 1), record.ErrFenced)
	if got, _ := f.Transaction(ctx, tr.ID); got.State != TransactionOpen {
		t.Errorf("after a refused commit: %+v", got)
	}
	ok(t, f.CommitTransaction(ctx, tr.ID, b.TableUUID, "m0-d", "m1", 7, 2))
	if at, err := f.TablePointer(ctx, b.TableUUID); err != nil || at != "m1" {
		t.Errorf("pointer at %q, %v", at, err)
	}
	want.State, want.Snapshot, want.Ended = TransactionCommitted, 7, f.clock.Now()
	got, err = f.Transaction(ctx, tr.ID)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if left, err := f.StagedBelow(ctx, "w/"); err != nil || len(left) != 0 {
		t.Errorf("staged after the commit: %v, %v", left, err)
	}
	wantErr(t, "twice", f.CommitTransaction(ctx, tr.ID, b.TableUUID, "m1", "m2", 8, 2), record.ErrFenced)
	_, err = f.AbortTransaction(ctx, tr.ID)
	wantErr(t, "abort", err, record.ErrConflict)
	_, err = f.StageFile(ctx, tr.ID, StagedFile{Name: "c"})
	wantErr(t, "late file", err, record.ErrFenced)

	empty := f.begin(t, b, TransactionSnapshot)
	ok(t, f.CommitTransaction(ctx, empty.ID, b.TableUUID, "m1", "m1", 0, 0))
}

// TestOneOpenTransaction: a branch has at most one, and an aborted one lets the
// next begin and can never land.
func TestOneOpenTransaction(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	s, b := f.dataset(t, "d")
	_, b2 := f.dataset(t, "e")
	tr := f.begin(t, b, TransactionAppend)
	f.begin(t, b2, TransactionAppend) // another branch
	_, err := f.BeginTransaction(ctx, Transaction{ID: uuid.NewString(), Branch: b.ID, Type: TransactionDelete})
	wantErr(t, "second", err, record.ErrConflict)
	if !strings.Contains(err.Error(), tr.ID) {
		t.Errorf("%v does not name the open one", err)
	}
	_, err = f.BeginTransaction(ctx, Transaction{ID: tr.ID, Branch: b.ID, Type: TransactionDelete})
	wantErr(t, "same id, other type", err, record.ErrConflict)
	f.stage(t, tr, "a", "w/a")
	aborted, err := f.AbortTransaction(ctx, tr.ID)
	if err != nil || aborted.State != TransactionAborted || aborted.Files != 1 {
		t.Errorf("%+v, %v", aborted, err)
	}
	_, err = f.AbortTransaction(ctx, tr.ID)
	ok(t, err)
	wantErr(t, "commit of an aborted one", f.CommitTransaction(ctx, tr.ID, b.TableUUID, "m0-d", "m1", 1, 1), record.ErrFenced)
	if at, _ := f.TablePointer(ctx, b.TableUUID); at != "m0-d" {
		t.Errorf("the pointer moved to %s", at)
	}
	if left, err := f.StagedBelow(ctx, "w/"); err != nil || len(left) != 0 {
		t.Errorf("staged after the abort: %v, %v", left, err)
	}
	f.clock.advance(time.Second)
	next := f.begin(t, b, TransactionDelete)
	all, err := f.Transactions(ctx, TransactionQuery{Branch: b.ID})
	if err != nil || len(all) != 2 || all[0].ID != next.ID || all[1].ID != tr.ID {
		t.Errorf("%+v, %v", all, err)
	}
	page, err := f.Transactions(ctx, TransactionQuery{Branch: b.ID, Before: all[0].Created, BeforeID: all[0].ID})
	if err != nil || len(page) != 1 || page[0].ID != tr.ID {
		t.Errorf("%+v, %v", page, err)
	}
	if open, err := f.Transactions(ctx, TransactionQuery{Branch: b.ID, State: TransactionOpen}); err != nil || len(open) != 1 {
		t.Errorf("%+v, %v", open, err)
	}
	for what, n := range map[string]Transaction{
		"id":     {ID: "x", Branch: b.ID, Type: TransactionAppend},
		"type":   {ID: uuid.NewString(), Branch: b.ID, Type: "UPDATE"},
		"filter": {ID: uuid.NewString(), Branch: b.ID, Type: TransactionAppend, Filter: "a = 1"},
	} {
		_, err := f.BeginTransaction(ctx, n)
		wantErr(t, what, err, record.ErrInvalid)
	}
	_, err = f.BeginTransaction(ctx, Transaction{ID: uuid.NewString(), Branch: 99, Type: TransactionAppend})
	wantErr(t, "no branch", err, record.ErrNotFound)
	_, err = f.Transaction(ctx, uuid.NewString())
	wantErr(t, "absent", err, record.ErrNotFound)
	_, err = f.AbortTransaction(ctx, uuid.NewString())
	wantErr(t, "absent", err, record.ErrNotFound)

	// A stream cannot begin below it, and a deletion takes it along.
	_, _, err = f.StartStream(ctx, s.ID, []BranchStart{{Branch: b.ID, Version: b.Version, Settings: Settings{}.WithDefaults(), Schema: newSchema(5, "a"), Location: "m0-d"}})
	wantErr(t, "start", err, record.ErrConflict)
	_, err = f.DeleteStream(ctx, s.ID, f.clock.Now())
	ok(t, err)
	_, err = f.Transaction(ctx, next.ID)
	wantErr(t, "deleted", err, record.ErrNotFound)
}

func TestTransactionLimits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	_, b := f.dataset(t, "d")
	tr := f.begin(t, b, TransactionAppend)
	for what, file := range map[string]struct {
		StagedFile
		want error
	}{
		"no name":   {StagedFile{}, record.ErrInvalid},
		"long name": {StagedFile{Name: strings.Repeat("x", MaxNameLen+1)}, record.ErrInvalid},
		"body":      {StagedFile{Name: "a", Body: make([]byte, MaxStagedBytes+1)}, record.ErrTooLarge},
	} {
		_, err := f.StageFile(ctx, tr.ID, file.StagedFile)
		wantErr(t, what, err, file.want)
	}
	_, err := f.writer.ExecContext(ctx, `UPDATE transactions SET files = $1`, MaxTransactionFiles)
	ok(t, err)
	_, err = f.StageFile(ctx, tr.ID, StagedFile{Name: "a", Location: "l", Body: []byte("{}")})
	wantErr(t, "too many", err, record.ErrTooLarge)
	if n := f.count(t, `SELECT count(*) FROM transaction_files`); n != 0 {
		t.Errorf("%d files", n)
	}
}

// TestPruneTransactions: a forgotten transaction is aborted, one in use never, and
// ended ones are forgotten later.
func TestPruneTransactions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	var all []Transaction
	for i := range 3 {
		_, b := f.dataset(t, fmt.Sprint("d", i))
		tr := f.begin(t, b, TransactionAppend)
		f.stage(t, tr, "a", fmt.Sprint("w/", i))
		all = append(all, tr)
	}
	_, err := f.AbortTransaction(ctx, all[0].ID)
	ok(t, err)
	f.clock.advance(time.Hour)
	f.stage(t, all[1], "b", "w/b")
	aborted, forgotten, err := f.PruneTransactions(ctx, f.clock.Now().Add(-time.Minute), f.clock.Now().Add(-time.Minute))
	if err != nil || aborted != 1 || forgotten != 1 {
		t.Errorf("%d aborted, %d forgotten, %v", aborted, forgotten, err)
	}
	if _, err := f.Transaction(ctx, all[0].ID); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("ended long ago: %v", err)
	}
	if used, err := f.Transaction(ctx, all[1].ID); err != nil || used.State != TransactionOpen {
		t.Errorf("in use: %+v, %v", used, err)
	}
	if idle, err := f.Transaction(ctx, all[2].ID); err != nil || idle.State != TransactionAborted {
		t.Errorf("idle: %+v, %v", idle, err)
	}
	if left, err := f.StagedBelow(ctx, "w/"); err != nil || len(left) != 2 {
		t.Errorf("staged: %v, %v", left, err)
	}
}
