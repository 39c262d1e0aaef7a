package dataset_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

func TestScanInCommitOrder(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	table := e.create(numbers())
	// Two files in one commit, then enough commits for manifests to merge.
	var files []dataset.DataFile
	for _, from := range []record.Offset{0, 10} {
		b := numberBatch(numbers(), 0, from, from+10)
		defer b.Release()
		files = append(files, e.file(table, numbers(), fileName(0, from, from+10), b))
	}
	e.commit(dataset.Commit{Add: files, Marker: marker(20)})
	for o := record.Offset(20); o < 60; o += 2 {
		e.addNumbers(o, o+2)
	}
	e.wantOffsets(e.load(), 60)
}

func TestConcurrentScans(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(numbers())
	for o := range record.Offset(20) {
		e.addNumbers(o, o+1)
	}
	table := e.load()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			rows, err := scanRows(t.Context(), table, dataset.ScanOptions{})
			if err != nil || len(rows) != 20 {
				t.Errorf("%d rows, %v", len(rows), err)
			}
			for f, err := range table.Files(t.Context(), 0) {
				if err != nil || f.Rows != 1 {
					t.Errorf("%+v, %v", f, err)
				}
			}
			if m, err := table.Marker(); err != nil || m.Offsets[0] != 20 {
				t.Errorf("%+v, %v", m, err)
			}
		})
	}
	wg.Wait()
}

func TestScanStops(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(numbers())
	e.addNumbers(0, 10_000)
	table := e.load()

	n := 0
	for _, err := range table.Scan(t.Context(), dataset.ScanOptions{BatchRows: 10}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 3 {
			break
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n = 0
	var last error
	begin := time.Now()
	for _, err := range table.Scan(ctx, dataset.ScanOptions{BatchRows: 10}) {
		if n++; n == 3 {
			cancel()
		}
		last = err
	}
	wantIs(t, last, context.Canceled)
	if n > 8 || time.Since(begin) > 10*time.Second {
		t.Errorf("%d batches, %v after the end of the context", n-3, time.Since(begin))
	}

	// A loop body that panics leaves nothing behind either (goleak looks).
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was lost")
			}
		}()
		for range table.Scan(t.Context(), dataset.ScanOptions{BatchRows: 10}) {
			panic("in the loop")
		}
	}()
}

func TestBatchesCanBeKept(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(numbers())
	e.addNumbers(0, 1000)
	var kept []arrow.RecordBatch
	for b, err := range e.load().Scan(t.Context(), dataset.ScanOptions{BatchRows: 100}) {
		if err != nil {
			t.Fatal(err)
		}
		b.Retain()
		kept = append(kept, b)
	}
	next := int64(0)
	for _, b := range kept {
		for _, o := range b.Column(3).(*array.Int64).Int64Values() {
			if o != next {
				t.Fatalf("offset %d, want %d", o, next)
			}
			next++
		}
		b.Release()
	}
	if next != 1000 {
		t.Errorf("%d rows", next)
	}
}

func TestMissingDataFile(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(numbers())
	table := e.addNumbers(0, 10)
	for f, err := range table.Files(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		key, err := objstore.Key(e.store, f.Path)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.store.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		_, err = scanRows(t.Context(), table, dataset.ScanOptions{})
		wantIs(t, err, record.ErrCorrupt)
		if !strings.Contains(err.Error(), f.Path) {
			t.Errorf("the error does not name the file: %v", err)
		}
	}
}

func TestEmptyFile(t *testing.T) {
	t.Parallel()
	for _, format := range []dataset.Format{dataset.Parquet, dataset.Avro} {
		e := newEnv(t)
		table := e.create(numbers())
		f := e.fileAs(format, table, numbers(), fileName(0, 0, 0))
		e.commit(dataset.Commit{Add: []dataset.DataFile{f}})
		e.wantOffsets(e.load(), 0)
	}
}

// errStore fails reads of data files while it is told to.
type errStore struct {
	objstore.Store
	fail bool
}

func (s *errStore) Open(ctx context.Context, key string) (objstore.Object, error) {
	o, err := s.Store.Open(ctx, key)
	if err == nil && s.fail && strings.Contains(key, "/data/") {
		return errObject{o}, nil
	}
	return o, err
}

type errObject struct{ objstore.Object }

var errNetwork = errors.New("the network is down")

func (errObject) ReadAt([]byte, int64) (int, error) { return 0, errNetwork }

// TestReadErrorsAreNotDamage: a store that cannot be read says nothing about
// the file.
func TestReadErrorsAreNotDamage(t *testing.T) {
	t.Parallel()
	for _, format := range []dataset.Format{dataset.Parquet, dataset.Avro} {
		e := newEnv(t)
		store := &errStore{Store: e.store}
		e.d = dataset.New(store, e.pointers, dataset.Options{})
		table := e.create(numbers())
		b := numberBatch(numbers(), 0, 0, 10)
		f := e.fileAs(format, table, numbers(), fileName(0, 0, 10), b)
		b.Release()
		table = e.commit(dataset.Commit{Add: []dataset.DataFile{f}})
		store.fail = true
		_, err := scanRows(t.Context(), table, dataset.ScanOptions{})
		wantIs(t, err, errNetwork)
		if errors.Is(err, record.ErrCorrupt) {
			t.Errorf("%s: a read error is reported as damage: %v", format, err)
		}
		store.fail = false
		e.wantOffsets(table, 10)
	}
}
