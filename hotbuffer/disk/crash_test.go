package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/thermocline/thermocline/record"
)

// changes tells operations that change what is on disk from others.
func changes(op errorfs.Op) bool {
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpRemove, errorfs.OpRename, errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFileSync, errorfs.OpFileSyncData:
		return true
	default:
		return false
	}
}

func mustOpen(t testing.TB, fs vfs.FS) *Log {
	t.Helper()
	l, err := Open("/log", Options{FS: fs, Logger: quiet(), SegmentBytes: 64 << 10, MaxBytes: 4 << 20})
	if err != nil {
		t.Fatalf("open after a crash: %v", err)
	}
	return l
}

// TestCrashEverywhere stops the machine before every operation that changes
// the disk, with all, none or some of what was not synced, and looks whether
// what is left agrees with what was acknowledged; then it goes on from there
// and stops the machine again.
func TestCrashEverywhere(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	m := newModel()
	var mu sync.Mutex
	var crashes int
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if !changes(op) || t.Failed() {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if crashes++; crashes%sweepStep != 0 {
			return nil
		}
		for i, percent := range []int{0, 100, 30, 70} {
			rng := rand.New(rand.NewPCG(uint64(crashes), uint64(i)))
			acked := m.snapshot()
			left := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
			latest := m.snapshot()
			l := mustOpen(t, left)
			check(t, l, acked, latest)
			second := left.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
			after := l.LogStats()
			if err := l.Close(); err != nil || after.Failed != nil {
				t.Fatalf("%v %v", err, after.Failed)
			}
			l = mustOpen(t, second)
			if d := l.LogStats().Damage; len(d) > 0 {
				t.Fatalf("second crash: %v", &d[0])
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		return nil
	}))
	if err := script(fs, m, Options{}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d places to crash", crashes)
	if crashes < 100 {
		t.Errorf("only %d places to crash", crashes)
	}
}

// TestErrorEverywhere lets each operation fail in turn, with an I/O error and
// with a full disk, and looks whether what was acknowledged is there
// afterwards. An error of a commit ends all appends.
func TestErrorEverywhere(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
		t.Run(cause.Error(), func(t *testing.T) {
			t.Parallel()
			for n := int64(1); ; n += sweepStep {
				mem := vfs.NewCrashableMem()
				m := newModel()
				var count atomic.Int64
				var where atomic.Pointer[string]
				fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
					if count.Add(1) != n {
						return nil
					}
					s := fmt.Sprintf("%v of %s", op.Kind, op.Path)
					where.Store(&s)
					return cause
				}))
				var fatal atomic.Int64
				err := script(fs, m, Options{OnFatal: func(error) { fatal.Add(1) }})
				if where.Load() == nil {
					if err != nil {
						t.Fatalf("without an error: %v", err)
					}
					t.Logf("less than %d operations", n)
					return
				}
				place := fmt.Sprintf("operation %d, %s", n, *where.Load())
				if fatal.Load() > 1 {
					t.Fatalf("%s: OnFatal ran %d times", place, fatal.Load())
				}
				if err != nil && !errors.Is(err, cause) && !errors.Is(err, record.ErrClosed) && !errors.Is(err, record.ErrFull) {
					t.Fatalf("%s: the script met %v", place, err)
				}
				for _, percent := range []int{0, 100} {
					now := m.snapshot()
					l := mustOpen(t, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(1, 2))}))
					func() {
						defer func() {
							if t.Failed() {
								t.Log(place)
							}
						}()
						check(t, l, now, now)
					}()
					if err := l.Close(); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}
