package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/thermocline/thermocline/record"
)

// longSweeps makes sweeps try more: THERMOCLINE_LONG=1 make sweep.
var longSweeps = os.Getenv("THERMOCLINE_LONG") != ""

// covered prints how many places a sweep visited, and fails if they are so few
// that the script no longer meets what it is for.
func covered(t testing.TB, what string, n, floor int) {
	t.Helper()
	t.Logf("sweep: %s: %d %s", t.Name(), n, what)
	if n < floor/sweepStep {
		t.Errorf("only %d %s; the sweep covers less than the %d that it is meant for", n, what, floor/sweepStep)
	}
}

func mustOpen(t testing.TB, fs vfs.FS) *Log {
	t.Helper()
	l, err := Open("/log", Options{FS: fs, Logger: quiet(), SegmentBytes: scriptSegment, MaxBytes: 4 << 20})
	if err != nil {
		t.Fatalf("open after a crash: %v", err)
	}
	return l
}

// survives opens what a crash left, compares it, and does so again after a
// second crash right behind that.
func survives(left *vfs.MemFS, acked, latest *model, percent int, rng *rand.Rand) error {
	o := Options{FS: left, Logger: quiet(), SegmentBytes: scriptSegment, MaxBytes: 4 << 20}
	l, err := Open("/log", o)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	err = compare(l, acked, latest)
	second := left.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
	failed := l.LogStats().Failed
	if err := errors.Join(err, l.Close(), failed); err != nil {
		return err
	}
	o.FS = second
	if l, err = Open("/log", o); err != nil {
		return fmt.Errorf("open after a second crash: %w", err)
	}
	if d := l.LogStats().Damage; len(d) > 0 {
		err = fmt.Errorf("second crash: %w", &d[0])
	}
	return errors.Join(err, l.Close())
}

// crash is one way in which a disk loses what was not synced.
type crash struct {
	percent int // of blocks and names that are there all the same
	sector  int // else tear by sectors of that size
}

var crashes = []crash{{percent: 0}, {percent: 100}, {percent: 30}, {percent: 70}, {sector: 512}, {sector: 512}}

// TestSweepCrashes stops the machine before every operation that changes the
// disk and behind every sync, with all, none or some of what was not synced,
// and looks whether what is left agrees with what was acknowledged; then it goes
// on from there and stops the machine again.
func TestSweepCrashes(t *testing.T) {
	t.Parallel()
	for _, s := range scripts(t) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			mem, m := s.begin()
			var mu sync.Mutex
			places, before, behind, recycled := 0, 0, 0, 0
			filled := map[string]bool{}
			variants := crashes
			if longSweeps {
				for range 20 {
					variants = append(variants, crash{percent: 50}, crash{sector: 512}, crash{sector: 4096})
				}
			}
			stop := func(where string, n *int) {
				mu.Lock()
				defer mu.Unlock()
				*n++
				if places++; places%sweepStep != 0 || t.Failed() {
					return
				}
				for i, c := range variants {
					rng := rand.New(rand.NewPCG(uint64(places), uint64(i)))
					acked := m.snapshot()
					var left *vfs.MemFS
					if c.sector > 0 {
						left = tearSectors(t, mem, c.sector, rng)
					} else {
						left = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.percent, RNG: rng})
					}
					if err := survives(left, acked, m.snapshot(), c.percent, rng); err != nil {
						t.Errorf("place %d, %s, crash %+v: %v", places, where, c, err)
						return
					}
				}
			}
			fs := &faultFS{
				FS: errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
					if changes(op) {
						mu.Lock()
						switch {
						case op.Kind == errorfs.OpFileWrite:
							filled[op.Path] = true
						case op.Kind == errorfs.OpRename && strings.HasSuffix(op.Path, freeSuffix) && !filled[op.Path]:
							recycled++
						}
						mu.Unlock()
						stop(fmt.Sprintf("before %v of %s", op.Kind, op.Path), &before)
					}
					return nil
				})),
				synced: func(path string) { stop("behind a sync of "+path, &behind) },
			}
			if err := s.run(fs, m, Options{}); err != nil {
				t.Fatal(err)
			}
			covered(t, "crashes before an operation that changes the disk", before/sweepStep, s.changes)
			covered(t, "crashes behind a sync", behind/sweepStep, s.syncs)
			if recycled < s.recycled {
				t.Errorf("only %d recycled segments were used", recycled)
			}
		})
	}
}

// TestSweepErrors lets each operation fail in turn, reads too, once or from
// then on, with an I/O error and with a full disk, and looks whether what was
// acknowledged is there afterwards. An error of a commit ends all appends.
func TestSweepErrors(t *testing.T) {
	t.Parallel()
	for _, s := range scripts(t) {
		for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
			for _, once := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, %v, once %v", s.name, cause, once), func(t *testing.T) {
					t.Parallel()
					places := 0
					for n := int64(1); ; n += sweepStep {
						mem, m := s.begin()
						var count atomic.Int64
						var where atomic.Pointer[string]
						fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
							c := count.Add(1)
							if c == n {
								place := fmt.Sprintf("%v of %s", op.Kind, op.Path)
								where.Store(&place)
							}
							if c == n || c > n && !once {
								return cause
							}
							return nil
						}))
						err := failing(s, mem, m, fs, cause)
						if where.Load() == nil {
							if err != nil {
								t.Fatalf("without an error: %v", err)
							}
							break
						}
						if err != nil {
							t.Fatalf("operation %d, %s: %v", n, *where.Load(), err)
						}
						places++
					}
					covered(t, "operations that failed", places, s.operations)
				})
			}
		}
	}
}

// TestSweepShortWrites cuts each write in turn in the middle before it fails.
func TestSweepShortWrites(t *testing.T) {
	t.Parallel()
	for _, s := range scripts(t) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			places := 0
			for n := int64(1); ; n += sweepStep {
				mem, m := s.begin()
				var count atomic.Int64
				fs := &faultFS{FS: mem, short: func(string) error {
					if count.Add(1) == n {
						return syscall.EIO
					}
					return nil
				}}
				if err := failing(s, mem, m, fs, syscall.EIO); err != nil {
					t.Fatalf("write %d: %v", n, err)
				}
				if count.Load() < n {
					break
				}
				places++
			}
			covered(t, "writes that were cut", places, s.writes)
		})
	}
}

// failing runs a script that meets errors, and looks at what is left.
func failing(s script, mem *vfs.MemFS, m *model, fs vfs.FS, cause error) error {
	var fatal atomic.Int64
	err := s.run(fs, m, Options{OnFatal: func(error) { fatal.Add(1) }})
	if fatal.Load() > 1 {
		return fmt.Errorf("OnFatal ran %d times", fatal.Load())
	}
	if err != nil && !errors.Is(err, cause) && !errors.Is(err, record.ErrClosed) && !errors.Is(err, record.ErrFull) {
		return fmt.Errorf("the script met %w", err)
	}
	for i, percent := range []int{0, 100, 50} {
		rng := rand.New(rand.NewPCG(1, uint64(i)))
		now := m.snapshot()
		if err := survives(mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}), now, now, percent, rng); err != nil {
			return fmt.Errorf("with %d %% of what was not synced: %w", percent, err)
		}
	}
	return nil
}

// TestSweepFullDisk runs on a disk of every size, block by block, from nothing
// to one that is large enough: an append that finds no room says ErrFull and
// nothing else breaks. What is there can be read and released, by the next
// process too while the disk is still full, and everything goes on when there
// is room.
func TestSweepFullDisk(t *testing.T) {
	t.Parallel()
	for _, honest := range []bool{false, true} {
		t.Run(fmt.Sprintf("preallocation %v", honest), func(t *testing.T) {
			t.Parallel()
			places := 0
			for limit := int64(0); ; limit += blockSize * sweepStep {
				full, err := fullDisk(limit, honest)
				if err != nil {
					t.Fatalf("a disk of %d bytes: %v", limit, err)
				}
				if full == 0 {
					break
				}
				places++
			}
			covered(t, "sizes of a disk that fills up", places, 160)
		})
	}
}

func fullDisk(limit int64, honest bool) (full int, err error) {
	mem, m := vfs.NewCrashableMem(), newModel()
	q := &quotaFS{FS: mem, limit: limit, sizes: map[string]int64{}, honest: honest}
	var fatal atomic.Pointer[error]
	o := Options{OnFatal: func(err error) { fatal.Store(&err) }, fullRetry: 3 * time.Millisecond}
	err = lifeScript(q, m, o)
	if err != nil && !errors.Is(err, record.ErrFull) && !errors.Is(err, syscall.ENOSPC) {
		return 0, err
	}
	if p := fatal.Load(); p != nil {
		return 0, fmt.Errorf("poisoned: %w", *p)
	}
	full = q.full
	began := false
	if names, err := mem.List("/log"); err == nil {
		for _, name := range names {
			began = began || name == identityName
		}
	}
	if began {
		// The next process, while the disk is full.
		if err := process("on a full disk", m, scriptOptions(q, o), 3, func(l *Log) error {
			return all(
				func() error { return m.readAll(l) },
				func() error { return m.repeatAll(l) },
				func() error { return m.releaseAll(l, 1, 1) },
				func() error { return m.readAll(l) },
			)
		}); err != nil {
			return 0, err
		}
	}
	// A process that lives to see room again.
	l, err := Open("/log", scriptOptions(q, o))
	if err == nil {
		err = m.openAll(l, 3)
		for i := 0; err == nil && i < 40; i++ {
			err = m.append(l, 3, nothing, modelPart{1, sized("until full", 1, 5000)})
		}
		if err != nil && !errors.Is(err, record.ErrFull) {
			return 0, errors.Join(err, l.Close())
		}
		q.setLimit(-1)
		time.Sleep(2 * o.fullRetry)
		if err := all(
			func() error { return m.fill(l, "again", 3, 12) },
			func() error { return m.repeatAll(l) },
			func() error { return m.readAll(l) },
			l.Close,
		); err != nil {
			return 0, fmt.Errorf("after room was made: %w", err)
		}
	} else if began {
		return 0, err
	}
	if p := fatal.Load(); p != nil {
		return 0, fmt.Errorf("poisoned: %w", *p)
	}
	now := m.snapshot()
	return full, survives(mem.CrashClone(vfs.CrashCloneCfg{}), now, now, 0, nil)
}
