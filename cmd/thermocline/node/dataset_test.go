package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/dataset/objstore/objstoretest"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/transaction"
	"github.com/thermocline/thermocline/writer"
)

// newLake is a node with one dataset "d" of the world's schema.
func newLake(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), quiet: true}
	w.open()
	w.createDataset("d")
	return w
}

func (w *world) createDataset(name string) {
	w.t.Helper()
	s, err := schema.Parse([]byte(worldSchema))
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.b.Warehouse.CreateDataset(w.t.Context(), api.CreateDataset{Name: "default." + name, Schema: s}); err != nil {
		w.t.Fatal(err)
	}
}

var lake = transaction.Ref{Dataset: "d", Branch: "main"}

// rowsUpload uploads rows with the given n.
func rowsUpload(name string, ns ...int64) transaction.Upload {
	var b strings.Builder
	for _, n := range ns {
		fmt.Fprintf(&b, `{"k":"key-%d","n":%d}`+"\n", n%7, n)
	}
	return transaction.Upload{Name: name, Rows: func(ctx context.Context, s *schema.Schema, use func(*record.Rows) error) error {
		return writer.Decode(ctx, s, writer.Request{Format: writer.JSON, Body: []byte(b.String())}, func(d writer.Decoded) error { return use(d.Rows) })
	}}
}

func (w *world) begin(kind catalog.TransactionType) catalog.Transaction {
	w.t.Helper()
	tr, err := w.node.transactions.Begin(w.t.Context(), lake, transaction.Begin{Type: kind})
	if err != nil {
		w.t.Fatal(err)
	}
	return tr
}

func (w *world) upload(tr catalog.Transaction, up transaction.Upload) transaction.File {
	w.t.Helper()
	f, err := w.node.transactions.Upload(w.t.Context(), lake, tr.ID, up)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

func (w *world) lakeTable() *dataset.Table {
	w.t.Helper()
	st, err := w.node.find(w.t.Context(), "d", "main")
	if err != nil {
		w.t.Fatal(err)
	}
	table, err := w.node.datasets.Load(w.t.Context(), st.Branch.TableUUID)
	if err != nil {
		w.t.Fatal(err)
	}
	return table
}

// wantLake checks which n the dataset holds, in any order.
func (w *world) wantLake(want ...int64) {
	w.t.Helper()
	got := []int64{}
	for b, err := range w.lakeTable().Scan(w.t.Context(), dataset.ScanOptions{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		got = append(got, b.Column(b.Schema().FieldIndices("n")[0]).(*array.Int64).Int64Values()...)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		w.t.Fatalf("the dataset holds %v, want %v", got, want)
	}
}

// exists tells whether the file of an upload is in the store.
func (w *world) exists(f transaction.File) bool {
	w.t.Helper()
	s := w.store()
	key, err := objstore.Key(s, f.Location)
	if err == nil {
		_, err = s.Stat(w.t.Context(), key)
	}
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		w.t.Fatal(err)
	}
	return err == nil
}

// collectTwice collects with a grace that has passed.
func (w *world) collectTwice() {
	w.t.Helper()
	for range 2 {
		time.Sleep(2 * time.Millisecond)
		if _, err := w.node.datasets.Collect(w.t.Context(), w.lakeTable().ID(), dataset.CollectOptions{Grace: time.Millisecond}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestOpenTransactionSurvives: an open transaction is there after a restart with all
// that was uploaded, which no collection touches, and can be committed or aborted.
func TestOpenTransactionSurvives(t *testing.T) {
	t.Parallel()
	w := newLake(t)
	tr := w.begin(catalog.TransactionAppend)
	f := w.upload(tr, rowsUpload("a", 1, 2))
	w.wantLake()
	for range 2 {
		w.restart()
		w.collectTwice()
		if !w.exists(f) {
			t.Fatal("a file of an open transaction was collected")
		}
	}
	if again := w.upload(tr, rowsUpload("a", 9)); !again.Duplicate || again.Location != f.Location {
		t.Errorf("a repeated upload: %+v", again)
	}
	done, err := w.node.transactions.Commit(t.Context(), lake, tr.ID)
	if err != nil || done.Rows != 2 {
		t.Fatalf("%+v, %v", done, err)
	}
	w.wantLake(1, 2)
	w.restart()
	w.collectTwice()
	w.wantLake(1, 2)

	tr = w.begin(catalog.TransactionSnapshot)
	f = w.upload(tr, rowsUpload("a", 5))
	w.restart()
	if _, err := w.node.transactions.Abort(t.Context(), lake, tr.ID); err != nil {
		t.Fatal(err)
	}
	w.wantLake(1, 2)
	w.collectTwice()
	if w.exists(f) {
		t.Error("the file of an aborted transaction is still there")
	}
	w.wantLake(1, 2)
}

// TestTransactionsCompete: of transactions begun together one is open; a commit and
// an abort of one end in one of both; commits of one are one.
func TestTransactionsCompete(t *testing.T) {
	t.Parallel()
	w := newLake(t)
	var want []int64
	for round := range int64(4) {
		var mu sync.Mutex
		var open []catalog.Transaction
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				tr, err := w.node.transactions.Begin(t.Context(), lake, transaction.Begin{Type: catalog.TransactionAppend})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					open = append(open, tr)
				} else if !errors.Is(err, record.ErrConflict) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if len(open) != 1 {
			t.Fatalf("%d open transactions", len(open))
		}
		tr := open[0]
		w.upload(tr, rowsUpload("a", round))
		committed, aborted := 0, 0
		end := func(do func(context.Context, transaction.Ref, string) (catalog.Transaction, error), ended *int) {
			all.Go(func() {
				_, err := do(t.Context(), lake, tr.ID)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					*ended++
				} else if !errors.Is(err, record.ErrConflict) {
					t.Error(err)
				}
			})
		}
		end(w.node.transactions.Commit, &committed)
		end(w.node.transactions.Commit, &committed)
		if round%2 == 1 {
			end(w.node.transactions.Abort, &aborted)
		}
		all.Wait()
		if (committed > 0) == (aborted > 0) || aborted == 0 && committed != 2 {
			t.Fatalf("round %d: %d commits and %d aborts succeeded", round, committed, aborted)
		}
		if committed > 0 {
			want = append(want, round)
		}
		w.wantLake(want...)
	}
}

// TestForgottenTransaction: one to which nothing is added for long ends, and its
// files go.
func TestForgottenTransaction(t *testing.T) {
	t.Parallel()
	w := &world{t: t, dir: t.TempDir(), quiet: true}
	var ahead time.Duration
	var mu sync.Mutex
	w.opts.seams.catalog = func(o *catalog.Options) {
		o.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(ahead)
		}
	}
	mu.Lock()
	ahead = -2 * TransactionIdle
	mu.Unlock()
	w.open()
	w.createDataset("d")
	tr := w.begin(catalog.TransactionAppend)
	f := w.upload(tr, rowsUpload("a", 1))
	w.node.upkeep.pruneTransactions(t.Context())
	w.collectTwice()
	if got, err := w.node.transactions.Get(t.Context(), lake, tr.ID); err != nil || got.State != catalog.TransactionAborted || w.exists(f) {
		t.Errorf("%+v, %v; its file exists: %v", got, err, w.exists(f))
	}
	mu.Lock()
	ahead = 0
	mu.Unlock()
	tr = w.begin(catalog.TransactionAppend)
	w.node.upkeep.pruneTransactions(t.Context())
	if got, err := w.node.transactions.Get(t.Context(), lake, tr.ID); err != nil || got.State != catalog.TransactionOpen {
		t.Errorf("one in use: %+v, %v", got, err)
	}
}

// TestUpkeepOfDatasets: datasets without a stream are compacted, expired and
// collected like those of streams, and stay without system columns.
func TestUpkeepOfDatasets(t *testing.T) {
	t.Parallel()
	w := newLake(t)
	var want []int64
	for i := range int64(6) {
		if _, err := w.node.transactions.Once(t.Context(), lake, transaction.Begin{Type: catalog.TransactionAppend}, rowsUpload("", i)); err != nil {
			t.Fatal(err)
		}
		want = append(want, i)
	}
	out, err := w.b.Maintainer.Compact(t.Context(), "d", "main", false)
	if err != nil || out.Replaced != 6 || out.Written != 1 {
		t.Errorf("%+v, %v", out, err)
	}
	w.wantLake(want...)
	e, err := w.b.Maintainer.Expire(t.Context(), "d", "main", api.ExpireSnapshots{OlderThan: new(time.Duration), KeepLast: 1})
	if err != nil || len(e.Expired) != 6 {
		t.Errorf("%+v, %v", e, err)
	}
	w.collectTwice()
	files, err := w.b.Datasets.DataFiles(t.Context(), "d", "main", 0, api.Page{Size: 10})
	if err != nil || len(files.Files) != 1 {
		t.Errorf("%+v, %v", files, err)
	}
	for f, err := range w.lakeTable().Files(t.Context(), 0) {
		if err != nil || len(f.Lower) != 2 || f.View != 0 {
			t.Errorf("columns with bounds: %v, view %v, %v", f.Lower, f.View, err)
		}
	}
	w.wantLake(want...)
	turns := 0
	w.node.upkeep.walk(t.Context(), make(chan struct{}, 1), func(*branch.State) { turns++ })
	if turns != 1 {
		t.Errorf("the upkeep visits %d branches", turns)
	}
}

// lakeFailing makes a node whose store fails at the nth call that writes or deletes once
// armed is not nil.
func lakeFailing(t *testing.T, fault objstoretest.Fault, nth int) (w *world, arm func(), fired func() bool) {
	t.Helper()
	var calls atomic.Int64
	calls.Store(-1 << 40)
	w = &world{t: t, dir: t.TempDir(), quiet: true}
	w.opts.seams.store = func(real objstore.Store) objstore.Store {
		return &objstoretest.Faulty{Store: real, Plan: func(name, _ string) objstoretest.Fault {
			if calls.Add(1) == int64(nth) {
				return fault
			}
			return objstoretest.None
		}}
	}
	w.open()
	w.createDataset("d")
	return w, func() { calls.Store(0) }, func() bool { return calls.Load() >= int64(nth) }
}

// sweep does something while call after call to the store fails, starts again
// without faults, and lets check repeat it.
func sweep(t *testing.T, before func(w *world), do func(w *world) error, check func(t *testing.T, w *world, err error)) {
	for _, fault := range []objstoretest.Fault{objstoretest.Fail, objstoretest.Lost} {
		t.Run(fault.String(), func(t *testing.T) {
			t.Parallel()
			for nth := 1; ; nth++ {
				w, arm, fired := lakeFailing(t, fault, nth)
				before(w)
				arm()
				err := do(w)
				hit := fired()
				w.opts.seams.store = nil
				w.restart()
				check(t, w, err)
				w.stop()
				if !hit {
					if nth < 4 {
						t.Errorf("the sweep ended at call %d", nth)
					}
					return
				}
			}
		})
	}
}

// TestUploadSweep: an upload that is repeated under its key until it succeeds brings
// its rows once, whichever call to the store had failed.
func TestUploadSweep(t *testing.T) {
	t.Parallel()
	once := func(w *world) error {
		_, err := w.node.transactions.Once(w.t.Context(), lake, transaction.Begin{Type: catalog.TransactionAppend, Key: "k"}, rowsUpload("", 1, 2))
		return err
	}
	sweep(t, func(*world) {}, once, func(t *testing.T, w *world, err error) {
		if err == nil {
			w.wantLake(1, 2)
		}
		if err = once(w); err != nil {
			// A known failure has ended the transaction, and its key with it.
			if !errors.Is(err, record.ErrConflict) {
				t.Fatal(err)
			}
			w.wantLake()
			return
		}
		w.wantLake(1, 2)
	})
}

// TestStartInterrupted: wherever a start ends, it leaves a dataset with its rows on
// which it can be repeated, or the stream.
func TestStartInterrupted(t *testing.T) {
	t.Parallel()
	start := func(w *world) error {
		_, err := w.node.directory.Start(w.t.Context(), "d", func(s catalog.Settings) catalog.Settings { return s })
		return err
	}
	sweep(t, func(w *world) {
		for i := range int64(2) {
			if _, err := w.node.transactions.Once(w.t.Context(), lake, transaction.Begin{Type: catalog.TransactionAppend}, rowsUpload("", i)); err != nil {
				w.t.Fatal(err)
			}
		}
	}, start, func(t *testing.T, w *world, err error) {
		w.wantLake(0, 1)
		if err := start(w); err != nil && !errors.Is(err, record.ErrExists) {
			t.Fatal(err)
		}
		w.wantStream(0, 1)
	})
}

// wantStream reads the stream "d" as it is, with one row more, and archived.
func (w *world) wantStream(want ...int64) {
	w.t.Helper()
	read := func() (got []int64) {
		w.t.Helper()
		res, err := w.b.Reader.Read(w.t.Context(), "d", "main", reader.Request{})
		if err != nil {
			w.t.Fatal(err)
		}
		for b, err := range res.Batches {
			if err != nil {
				w.t.Fatal(err)
			}
			if b.Rows != nil {
				got = append(got, b.Rows.Column(b.Rows.Schema().FieldIndices("n")[0]).(*array.Int64).Int64Values()...)
			}
		}
		return got
	}
	same := func() {
		w.t.Helper()
		if got := read(); !slices.Equal(got, want) {
			w.t.Fatalf("the stream holds %v, want %v", got, want)
		}
	}
	same()
	if _, err := w.node.writer.Publish(w.t.Context(), writer.Request{Stream: "d", Branch: "main", Format: writer.JSON, Body: []byte(`{"k":"x","n":99}`)}); err != nil {
		w.t.Fatal(err)
	}
	want = append(want, 99)
	same()
	if _, err := w.b.Archiver.ArchiveNow(w.t.Context(), "d", "main"); err != nil {
		w.t.Fatal(err)
	}
	same()
	w.restart()
	same()
}

// TestStartBesideUploads: a stream is started while uploads go on; every upload that
// was acknowledged is read, and none is refused in silence.
func TestStartBesideUploads(t *testing.T) {
	t.Parallel()
	w := newLake(t)
	var want []int64
	started := make(chan error, 1)
	for i := int64(0); ; i++ {
		_, err := w.node.transactions.Once(t.Context(), lake, transaction.Begin{Type: catalog.TransactionAppend}, rowsUpload("", i))
		if err == nil {
			want = append(want, i)
		} else if errors.Is(err, record.ErrInvalid) || errors.Is(err, record.ErrConflict) || errors.Is(err, record.ErrNotFound) {
			break // it is a stream now
		} else {
			t.Fatal(err)
		}
		if i == 3 {
			go func() {
				for {
					_, err := w.node.directory.Start(t.Context(), "d", func(s catalog.Settings) catalog.Settings { return s })
					if !errors.Is(err, record.ErrConflict) { // a transaction was open
						started <- err
						return
					}
				}
			}()
		}
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	w.wantStream(want...)
}

// TestStartEveryBranch: all branches of a dataset become branches of the stream, each
// with the rows that it has.
func TestStartEveryBranch(t *testing.T) {
	t.Parallel()
	w := newLake(t)
	add := func(branch string, n int64) {
		t.Helper()
		ref := transaction.Ref{Dataset: "d", Branch: branch}
		if _, err := w.node.transactions.Once(t.Context(), ref, transaction.Begin{Type: catalog.TransactionAppend}, rowsUpload("", n)); err != nil {
			t.Fatal(err)
		}
	}
	add("main", 1)
	if _, err := w.b.Branches.CreateBranch(t.Context(), "d", api.CreateBranch{Name: "exp"}); err != nil {
		t.Fatal(err)
	}
	add("exp", 2)
	add("main", 3)
	if _, err := w.node.directory.Start(t.Context(), "d", func(s catalog.Settings) catalog.Settings { return s }); err != nil {
		t.Fatal(err)
	}
	w.restart()
	for branch, want := range map[string][]int64{"main": {1, 3}, "exp": {1, 2}} {
		res, err := w.b.Reader.Read(t.Context(), "d", branch, reader.Request{})
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for b, err := range res.Batches {
			if err != nil {
				t.Fatal(err)
			}
			if b.Rows != nil {
				got = append(got, b.Rows.Column(b.Rows.Schema().FieldIndices("n")[0]).(*array.Int64).Int64Values()...)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("branch %s holds %v, want %v", branch, got, want)
		}
	}
}

// TestLateCommitOfDataset: an engine's commit that was decided on while the table was
// a dataset's does not land on the stream's.
func TestLateCommitOfDataset(t *testing.T) {
	t.Parallel()
	w := newLake(t)
	s, b, err := w.node.catalog.Resolve(t.Context(), "default", "d", "main")
	if err != nil {
		t.Fatal(err)
	}
	late := tables{w.node}.options(t.Context(), s, b)
	set := func(key string, o dataset.UpdateOptions) error {
		t.Helper()
		u, err := dataset.ParseUpdates(nil, []byte(`[{"action":"set-properties","updates":{"`+key+`":"1"}}]`))
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.node.datasets.CommitUpdates(t.Context(), b.TableUUID, u, o)
		return err
	}
	if err := set("early", late); err != nil {
		t.Fatal(err)
	}
	if _, err := w.node.directory.Start(t.Context(), "d", func(s catalog.Settings) catalog.Settings { return s }); err != nil {
		t.Fatal(err)
	}
	if err := set("late", late); !errors.Is(err, record.ErrFenced) {
		t.Errorf("a late commit: %v", err)
	}
	if table := w.lakeTable(); table.Property("early") != "1" || table.Property("late") != "" {
		t.Errorf("early %q, late %q", table.Property("early"), table.Property("late"))
	}
}

// TestCommitBesideUploads: an upload that was answered while its transaction is
// committed is in the commit, or was refused.
func TestCommitBesideUploads(t *testing.T) {
	t.Parallel()
	w := newLake(t)
	var want []int64
	for round := range int64(5) {
		tr := w.begin(catalog.TransactionAppend)
		var all sync.WaitGroup
		var mu sync.Mutex
		for i := range int64(6) {
			all.Go(func() {
				_, err := w.node.transactions.Upload(t.Context(), lake, tr.ID, rowsUpload("", round*10+i))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					want = append(want, round*10+i)
				} else if !errors.Is(err, record.ErrConflict) {
					t.Error(err)
				}
			})
		}
		all.Go(func() {
			if _, err := w.node.transactions.Commit(t.Context(), lake, tr.ID); err != nil {
				t.Error(err)
			}
		})
		all.Wait()
		slices.Sort(want)
		w.wantLake(want...)
	}
}
