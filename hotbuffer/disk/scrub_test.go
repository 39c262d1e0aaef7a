package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

const scrubNeedle = "needle-that-must-go"

// scrubLog is a log with rows of view 1, which are released, among rows of view
// 2, which are not, over several segments, some of them recycled.
type scrubLog struct {
	t    testing.TB
	fs   vfs.FS
	log  *Log
	kept []string // rows of view 2
}

func (s *scrubLog) open(fs vfs.FS) {
	s.t.Helper()
	l, err := Open("/log", Options{FS: fs, Logger: quiet(), SegmentBytes: 64 << 10, MaxBytes: 64 << 20})
	if err != nil {
		s.t.Fatal(err)
	}
	s.fs, s.log = fs, l
	for _, v := range []record.ViewID{1, 2} {
		if err := l.Open(context.Background(), v, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 1}); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *scrubLog) add(v record.ViewID, text string) {
	s.t.Helper()
	var rows record.Rows
	rows.Append(nil, []byte(text))
	if _, err := s.log.Append(context.Background(), v, hotbuffer.Append{Parts: []hotbuffer.Part{{Rows: &rows}}}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scrubLog) fill(from, to int) {
	s.t.Helper()
	for i := from; i < to; i++ {
		s.add(1, fmt.Sprintf("%s %d %s", scrubNeedle, i, strings.Repeat("x", 2000)))
		if i%7 == 0 {
			text := fmt.Sprintf("kept %d", i)
			s.add(2, text)
			s.kept = append(s.kept, text)
		}
	}
}

func (s *scrubLog) release(v record.ViewID) {
	s.t.Helper()
	e, err := s.log.Ends(v)
	if err == nil {
		err = s.log.Release(context.Background(), v, e.End)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func newScrubLog(t testing.TB, fs vfs.FS) *scrubLog {
	t.Helper()
	s := &scrubLog{t: t}
	s.open(fs)
	// Files that are used again, with what they held.
	for i := range 80 {
		s.add(1, fmt.Sprintf("%s early %d %s", scrubNeedle, i, strings.Repeat("y", 2000)))
	}
	s.release(1)
	s.fill(0, 60)
	return s
}

// holding names the files of the log that hold the needle.
func (s *scrubLog) holding() (names []string) {
	s.t.Helper()
	all, err := s.fs.List("/log")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, name := range all {
		f, err := s.fs.Open("/log/" + name)
		if err != nil {
			continue // LOCK
		}
		data, err := io.ReadAll(f)
		_ = f.Close()
		if err != nil {
			s.t.Fatal(err)
		}
		if bytes.Contains(data, []byte(scrubNeedle)) {
			names = append(names, name)
		}
	}
	return names
}

// check reads the rows of view 2, all of them.
func (s *scrubLog) check() {
	s.t.Helper()
	if d := s.log.LogStats().Damage; len(d) > 0 {
		s.t.Fatalf("damage: %v", &d[0])
	}
	e, err := s.log.Ends(2)
	if err != nil {
		s.t.Fatal(err)
	}
	var got []string
	var r record.Reader
	for next := record.Offset(0); next < e.End[0]; {
		batches, err := s.log.ReadStored(context.Background(), 2, 0, next, 1<<20)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, b := range batches {
			if err := r.Reset(b); err != nil {
				s.t.Fatal(err)
			}
			for {
				_, _, value, ok := r.Next()
				if !ok {
					break
				}
				got = append(got, string(value))
			}
			next = b.End()
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(s.kept) {
		s.t.Fatalf("rows %v, want %v", got, s.kept)
	}
}

// TestScrub: no file holds a released row, and nothing else has changed: now,
// after a restart and after a crash.
func TestScrub(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	s := newScrubLog(t, mem)
	if err := s.log.Drop(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	// Rows that are not released stay, whoever scrubs.
	if _, err := s.log.Scrub(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(s.holding()) == 0 {
		t.Fatal("rows that are not released are gone")
	}
	before, _ := s.log.Ends(1)
	s.release(1)
	if len(s.holding()) == 0 {
		t.Fatal("nothing holds the needle; the test shows nothing")
	}
	out, err := s.log.Scrub(t.Context())
	if err != nil || out.Segments == 0 || out.Bytes == 0 || len(out.Damaged) > 0 {
		t.Fatalf("%+v, %v", out, err)
	}
	if names := s.holding(); len(names) > 0 {
		t.Errorf("%v hold the needle", names)
	}
	s.check()
	clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
	if err := s.log.Close(); err != nil {
		t.Fatal(err)
	}
	for name, fs := range map[string]vfs.FS{"restart": mem, "crash": clone} {
		s.open(fs)
		if names := s.holding(); len(names) > 0 {
			t.Errorf("%s: %v hold the needle", name, names)
		}
		s.check()
		if e, err := s.log.Ends(1); err != nil || !e.Start.Equal(before.End) || !e.End.Equal(before.End) {
			t.Errorf("%s: view 1 is at %+v, %v", name, e, err)
		}
		kept := len(s.kept)
		s.fill(100, 130)
		s.check()
		s.kept = s.kept[:kept]
		if err := s.log.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestScrubWithoutFooters: segments whose footers are lost are scanned, and rows
// that were overwritten are no damage.
func TestScrubWithoutFooters(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	s := newScrubLog(t, mem)
	s.release(1)
	if _, err := s.log.Scrub(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.log.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := mem.List("/log")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, segmentSuffix) {
			f, err := mem.OpenReadWrite("/log/"+name, writeCategory)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(make([]byte, blockSize), 64<<10-blockSize); err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
		}
	}
	s.open(mem)
	s.check()
	if err := s.log.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestSweepScrub fails each operation of a scrub in turn, and cuts the power then:
// other rows are whole, nothing counts as lost, and the next scrub does the rest.
func TestSweepScrub(t *testing.T) {
	t.Parallel()
	for at := int64(1); ; at += int64(sweepStep) {
		mem := vfs.NewCrashableMem()
		var n, armed atomic.Int64
		var mu sync.Mutex
		var clone *vfs.MemFS
		s := newScrubLog(t, errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if armed.Load() == 0 || !changes(op) || n.Add(1) != at {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			clone = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(uint64(at), 1))})
			return syscall.EIO
		})))
		s.release(1)
		armed.Store(1)
		_, err := s.log.Scrub(t.Context())
		armed.Store(0)
		mu.Lock()
		failed := clone != nil
		mu.Unlock()
		cerr := s.log.Close()
		if !failed {
			if err != nil || cerr != nil {
				t.Fatal(err, cerr)
			}
			covered(t, "failures of a scrub", int(at-1)/sweepStep, 20)
			return
		}
		if err == nil {
			// The operation was not one that the scrub depends on.
			t.Logf("operation %d failed, the scrub did not", at)
		}
		kept := s.kept
		s = &scrubLog{t: t, kept: kept}
		s.open(clone)
		s.check()
		s.release(1)
		if out, err := s.log.Scrub(t.Context()); err != nil || len(out.Damaged) > 0 {
			t.Fatalf("operation %d: %+v, %v", at, out, err)
		}
		if names := s.holding(); len(names) > 0 {
			t.Fatalf("operation %d: %v hold the needle", at, names)
		}
		s.check()
		if err := s.log.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestScrubUnderReaders: who reads rows that are released and overwritten at that
// moment is told that they were released, never that they are damaged.
func TestScrubUnderReaders(t *testing.T) {
	t.Parallel()
	s := newScrubLog(t, vfs.NewMem())
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				e, err := s.log.Ends(1)
				if err == nil && e.Start[0] < e.End[0] {
					_, err = s.log.ReadStored(context.Background(), 1, 0, e.Start[0], 1<<20)
				}
				if err != nil && !errors.Is(err, record.ErrOutOfRange) {
					t.Error(err)
					return
				}
			}
		})
	}
	// Segments that a scrub is at work on are retired meanwhile.
	ctx := t.Context()
	if err := s.log.Open(ctx, 4, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			s.add(4, strings.Repeat("z", 9000))
			s.release(4)
			time.Sleep(time.Millisecond)
		}
	})
	for i := range 20 {
		s.release(1)
		if _, err := s.log.Scrub(t.Context()); err != nil {
			t.Error(err)
		}
		s.fill(200+20*i, 220+20*i)
	}
	close(stop)
	readers.Wait()
	s.check()
	if err := s.log.Close(); err != nil {
		t.Fatal(err)
	}
}
