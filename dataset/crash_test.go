package dataset_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// failAt fails one file operation, counted from when it is armed.
type failAt struct {
	mu    sync.Mutex // a commit puts several objects at once
	n, at int
}

func (f *failAt) String() string { return fmt.Sprintf("fail at %d", f.at) }

func (f *failAt) MaybeError(errorfs.Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == 0 {
		return nil
	}
	if f.n++; f.n == f.at {
		return syscall.EIO
	}
	return nil
}

// TestCrashAtEveryStep fails each file operation of write, commit and reset in
// turn and cuts the power at that moment. The table that the pointer names is
// whole: the old one if the swap was not reached, else the new one. The next
// round succeeds and nothing is missing or twice.
func TestCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	for at := 1; ; at++ {
		mem := vfs.NewCrashableMem()
		inject := &failAt{}
		store, err := objstore.NewFSOn(errorfs.Wrap(mem, inject), "/store")
		if err != nil {
			t.Fatal(err)
		}
		e := &env{t: t, store: store, pointers: newPointers(), id: uuid.NewString()}
		e.d = dataset.New(store, e.pointers, dataset.Options{})
		e.create(numbers())
		e.addNumbers(0, 10)

		inject.at = at
		err = round(e, 10, 20)
		failed := inject.n >= at
		if !failed && err != nil {
			t.Fatal(err)
		}

		clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(1, uint64(at)))})
		if e.store, err = objstore.NewFSOn(clone, "/store"); err != nil {
			t.Fatal(err)
		}
		e.d = dataset.New(e.store, e.pointers, dataset.Options{})
		table, err := e.d.Load(t.Context(), e.id)
		if err != nil {
			t.Fatalf("operation %d: %v", at, err)
		}
		m, err := table.Marker()
		if err != nil {
			t.Fatalf("operation %d: %v", at, err)
		}
		e.wantOffsets(table, int64(m.Offsets[0]))
		if m.Offsets[0] == 10 {
			if err := round(e, 10, 20); err != nil {
				t.Fatalf("operation %d, after the restart: %v", at, err)
			}
		}
		e.wantOffsets(e.load(), 20)
		if !failed {
			if at < 20 {
				t.Fatalf("only %d operations; the sweep misses steps", at)
			}
			t.Logf("sweep: %s: %d crashes at a file operation of an archive", t.Name(), at-1)
			return
		}
	}
}

// round is a round of an archiver that may fail anywhere.
func round(e *env, from, to record.Offset) error {
	table, err := e.d.Load(e.t.Context(), e.id)
	if err != nil {
		return err
	}
	w, err := table.NewFileWriter(e.t.Context(), fileName(0, from, to), numbers(), dataset.Parquet)
	if err != nil {
		return err
	}
	defer w.Abort()
	b := numberBatch(numbers(), 0, from, to)
	defer b.Release()
	if err := w.Write(b); err != nil {
		return err
	}
	f, err := w.Close()
	if err != nil {
		return err
	}
	_, err = e.d.Commit(e.t.Context(), e.id, dataset.Commit{
		Base: table, Add: []dataset.DataFile{f}, Marker: marker(to),
		Check: func(t *dataset.Table) error {
			m, err := t.Marker()
			if err == nil && m.Offsets.At(0) != from {
				err = fmt.Errorf("marker at %d: %w", m.Offsets.At(0), record.ErrConflict)
			}
			return err
		},
	})
	return err
}
