package disk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// script is a run of the log that a sweep repeats with a fault at each of its
// places. It stops at the first error.
type script struct {
	name string
	// begin returns the files it begins with, and what is on them.
	begin func() (*vfs.MemFS, *model)
	run   func(fs vfs.FS, m *model, o Options) error
	// How many places sweeps must find at least.
	operations, writes, changes, syncs, recycled int
}

// scripts are all of them. Together they meet every kind of commit and of file
// operation: see lifeScript and recoveryScript.
func scripts(t testing.TB) []script {
	return []script{
		{
			name: "life", run: lifeScript, operations: 380, writes: 115, changes: 270, syncs: 120, recycled: 3,
			begin: func() (*vfs.MemFS, *model) { return vfs.NewCrashableMem(), newModel() },
		},
		tornScript(t),
	}
}

const scriptSegment = 64 << 10

func scriptOptions(fs vfs.FS, o Options) Options {
	o.FS, o.Logger, o.SegmentBytes = fs, quiet(), scriptSegment
	o.CacheBytes = -1 // reads meet the disk
	if o.MaxBytes == 0 {
		o.MaxBytes = 2 << 20
	}
	return o
}

// process opens the log and its views, does something, and closes it.
func process(name string, m *model, o Options, newest record.ViewID, do func(l *Log) error) error {
	l, err := Open("/log", o)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := m.openAll(l, newest); err != nil {
		return errors.Join(err, l.Close())
	}
	if err := do(l); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", name, err), l.Close())
	}
	return l.Close()
}

// all does one thing after the other until one fails.
func all(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// fill appends n requests of about 3 to 9 KB to two partitions each.
func (m *model) fill(l *Log, name string, id record.ViewID, n int) error {
	for i := range n {
		s := fmt.Sprintf("%s%d", name, i)
		by := retryBy(i % 3)
		err := m.append(l, id, by, modelPart{record.Partition(i % 2), sized(s, 1+i%3, 2500)}, modelPart{record.Partition(1 - i%2), sized(s, 1, 10)})
		if err != nil {
			return err
		}
	}
	return nil
}

// lifeScript is the life of a log from nothing: appends to several views and
// partitions, with producers and keys and without rows, rolls, releases that
// free segments at the front and in the middle, recycled segments, partitions
// that grow, retries of requests whose segments are gone, a drop, a request
// larger than a segment, clean restarts.
func lifeScript(fs vfs.FS, m *model, o Options) error {
	ctx := context.Background()
	o = scriptOptions(fs, o)
	if err := process("first", m, o, 3, func(l *Log) error {
		return all(
			func() error { return m.append(l, 3, nothing, modelPart{0, sized("old", 3, 100)}) },
			func() error { return m.fill(l, "a", 1, 12) },
			func() error { return m.fill(l, "b", 2, 5) },
			func() error { return m.readAll(l) },
			func() error { return m.release(l, 1, record.Offsets{10, 8}) },
			func() error { _, err := l.Cut(ctx, 1); return err },
			func() error { return m.append(l, 2, sequence) },
			func() error { return m.repeatAll(l) },
		)
	}); err != nil {
		return err
	}
	if err := process("second", m, o, 3, func(l *Log) error {
		return all(
			func() error {
				return m.append(l, 1, sequence, modelPart{0, sized("big", 3, 40<<10)}, modelPart{1, sized("big", 1, 1)})
			},
			func() error { return m.open(l, 1, 3) },
			func() error { return m.repeatAll(l) },
			func() error { return m.append(l, 1, sequence, modelPart{2, sized("grown", 1, 10)}) },
			func() error { return m.fill(l, "c", 1, 10) },
			func() error { return m.drop(l, 2) },
			func() error { return m.releaseAll(l, 1, 1) },
			func() error { return m.fill(l, "d", 3, 12) },
			func() error { return m.readAll(l) },
		)
	}); err != nil {
		return err
	}
	return process("third", m, o, 3, func(l *Log) error {
		return all(
			func() error { return m.releaseAll(l, 3, 0) },
			func() error { return m.releaseAll(l, 1, 0) },
			func() error { return m.fill(l, "e", 1, 15) },
			func() error { return m.releaseAll(l, 1, 0) },
			func() error { return m.fill(l, "f", 1, 15) },
			func() error { return m.repeatAll(l) },
			func() error { return m.readAll(l) },
		)
	})
}

// tornScript begins with what a crash in the middle of a commit left, half of
// whose blocks are there; recoveryScript goes on from it.
func tornScript(t testing.TB) script {
	mem, m := vfs.NewCrashableMem(), newModel()
	stop := errors.New("crash")
	var mu sync.Mutex
	var left *vfs.MemFS
	var then *model
	armed, file := int64(0), "" // the write whose sync does not return, and its file
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind == errorfs.OpFileWriteAt && op.Offset == armed && armed > 0 {
			file = op.Path
		}
		if op.Kind == errorfs.OpFileSyncData && op.Path == file && left == nil {
			left = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(1, 3))})
			then = m.snapshot()
			return stop
		}
		return nil
	}))
	err := process("crash", m, scriptOptions(fs, Options{}), 3, func(l *Log) error {
		return all(
			func() error { return m.fill(l, "a", 1, 9) },
			func() error { return m.releaseAll(l, 1, 0) }, // makes recycled segments
			func() error { return m.fill(l, "b", 2, 9) },
			func() error { return m.append(l, 3, sequence, modelPart{1, sized("x", 1, 10)}) },
			func() error {
				mu.Lock()
				armed = l.active().pos
				mu.Unlock()
				return m.append(l, 3, sequence, modelPart{0, sized("torn", 6, 2500)}, modelPart{1, sized("torn", 3, 2500)})
			},
		)
	})
	if !errors.Is(err, stop) || left == nil {
		t.Fatalf("no crash: %v", err)
	}
	l, err := Open("/log", scriptOptions(left.CrashClone(vfs.CrashCloneCfg{}), Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Open(context.Background(), 3, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	if e, err := l.Ends(3); err != nil || e.End[0] != 0 || e.End[1] != 1 {
		t.Fatalf("the commit is not torn: %+v, %v", e, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return script{
		name: "recovery", run: recoveryScript, operations: 180, writes: 48, changes: 120, syncs: 55, recycled: 1,
		begin: func() (*vfs.MemFS, *model) { return left.CrashClone(vfs.CrashCloneCfg{}), then.snapshot() },
	}
}

// recoveryScript repairs the torn tail, repeats what was not acknowledged, and
// goes on over recycled segments.
func recoveryScript(fs vfs.FS, m *model, o Options) error {
	o = scriptOptions(fs, o)
	if err := process("recovery", m, o, 3, func(l *Log) error {
		return all(
			func() error { return m.send(l, 3) },
			func() error { return m.repeatAll(l) },
			func() error { return m.readAll(l) },
			func() error { return m.fill(l, "c", 3, 10) },
			func() error { return m.releaseAll(l, 2, 0) },
			func() error { return m.releaseAll(l, 3, 2) },
			func() error { return m.fill(l, "d", 1, 10) },
		)
	}); err != nil {
		return err
	}
	return process("after it", m, o, 3, func(l *Log) error {
		return all(
			func() error { return m.repeatAll(l) },
			func() error { return m.readAll(l) },
			func() error { return m.fill(l, "e", 2, 2) },
		)
	})
}
