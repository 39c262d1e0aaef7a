package node

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/archiver"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// machine runs operations against a node and a model of it. Hot log and warehouse
// lie in memory, so that a crash can drop what was not synced; the catalog lies in
// a directory. A clock that only operations move decides about leases and ages.
type machine struct {
	t     *testing.T
	ctx   context.Context //nolint:containedctx // every operation runs under it
	dir   string
	quiet bool // checkpoints come from operations and archives only

	fs      *vfs.MemFS
	clock   atomic.Int64 // ahead of the real one
	crashed atomic.Bool
	tick    time.Duration // of the log's clock: many commits have the same time
	faults  *faults
	// midst is called at every step of an archive. calm: no faults now.
	midst func(archiver.Step)
	only  *modelStream // what operations are about; nil: any
	calm  bool
	stop  func()

	// What follows is replaced when the node is opened again; other archivers
	// look from their goroutines.
	mu    sync.Mutex
	node  *Node
	b     api.Backend
	files objstore.Store // the warehouse

	streams  map[string]*modelStream
	turn     int64 // of publishes
	nextN    int64 // the newest row
	names    int   // of fields
	keys     int   // idempotency keys
	cursors  []modelCursor
	tails    []*modelTail
	sleepers []*modelSleeper

	done map[string]int // operations
	rows int64
}

// modelFailure is what an operation found; run catches it.
type modelFailure struct{ error }

func (m *machine) fail(format string, args ...any) {
	panic(modelFailure{fmt.Errorf(format, args...)})
}

func (m *machine) must(what string, err error) {
	if err != nil {
		m.fail("%s: %w", what, err)
	}
}

func (m *machine) count(what string) { m.done[what]++ }

func (m *machine) now() time.Time { return time.Now().Add(time.Duration(m.clock.Load())) }

func newMachine(ctx context.Context, t *testing.T, dir string, r *rand.Rand) *machine {
	m := &machine{
		t: t, ctx: ctx, dir: dir, quiet: r.IntN(3) > 0, tick: []time.Duration{time.Millisecond, time.Second}[r.IntN(2)], fs: vfs.NewCrashableMem(), faults: &faults{},
		streams: map[string]*modelStream{}, done: map[string]int{},
	}
	// The log is only told to survive where its parent does.
	m.must("make the directory", m.fs.MkdirAll(dir, 0o755))
	for at := dir; ; at = filepath.Dir(at) {
		d, err := m.fs.OpenDir(at)
		m.must("open the directory", err)
		m.must("sync the directory", errors.Join(d.Sync(), d.Close()))
		if at == filepath.Dir(at) {
			break
		}
	}
	return m
}

func (m *machine) open() {
	s := m.faults.seams()
	faulty := s.buffer
	s.buffer = func(b hotbuffer.Buffer) hotbuffer.Buffer { return modelBuffer{faulty(b), m.faults} }
	s.pointers = func(p dataset.Pointers) dataset.Pointers { return modelPointers{faultyPointers{p, m.faults}} }
	s.catalog = func(o *catalog.Options) { o.Now = m.now }
	s.store = func(objstore.Store) objstore.Store {
		files, err := objstore.NewFSOn(m.fs, filepath.Join(m.dir, warehouseDir))
		m.must("open the warehouse", err)
		m.mu.Lock()
		m.files = files
		m.mu.Unlock()
		return faultyStore{files, m.faults}
	}
	s.log = func(o *disk.Options) {
		o.FS, o.SegmentBytes, o.MaxBytes, o.Now = m.fs, 64<<10, 64<<20, func() time.Time { return m.now().Truncate(m.tick) }
	}
	s.branch = func(o *branch.Options) { o.Now = m.now }
	leases := s.archiver
	s.archiver = func(o *archiver.Options) {
		leases(o)
		o.Now, o.CommitBytes, o.FileBytes = m.now, 20_000, 40_000
	}
	o := Options{Dir: m.dir, Logger: slog.New(slog.DiscardHandler), CheckpointEvery: 20 * time.Millisecond, seams: s, Reached: func(step archiver.Step) {
		if m.midst != nil {
			m.midst(step)
		}
	}}
	n, err := Open(m.ctx, o)
	m.must("open", err)
	m.crashed.Store(false)
	m.mu.Lock()
	m.node, m.b = n, n.Backend()
	m.mu.Unlock()
	ctx, cancel := context.WithCancel(m.ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = n.subscribers.Run(ctx) })
	if !m.quiet {
		running.Go(func() { _ = n.checks.Run(ctx) })
	}
	m.stop = func() {
		cancel()
		running.Wait()
		m.stop = func() {}
	}
	if m.sleepers == nil {
		m.sleepers = []*modelSleeper{m.newSleeper("first"), m.newSleeper("second")}
	}
	if d := n.log.LogStats().Damage; len(d) > 0 {
		m.fail("a crash was taken for damage: %v", &d[0])
	}
}

// close ends the node cleanly; finish: as a server does at SIGTERM.
func (m *machine) close(finish bool) {
	m.stop()
	if finish {
		if err := m.node.archiver.Finish(m.ctx); err != nil && !errors.Is(err, record.ErrBusy) {
			m.fail("archive at shutdown: %v", err)
		}
	}
	m.must("close", m.node.Close())
	m.joinTails()
}

// crash ends the node as a loss of power would: of the log, what was not synced
// is there with a probability of so many per cent. The catalog comes first, as
// nothing in it may speak of rows that the log has lost.
func (m *machine) crash(r *rand.Rand, percent int) {
	m.crashed.Store(true) // what anybody is told from here on does not count
	_ = m.node.catalog.Close()
	clone := m.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: r})
	m.stop()
	_ = m.node.Close()
	m.fs = clone
	m.joinTails()
}

// end closes everything, whatever state it is in.
func (m *machine) end() {
	m.faults.disarm()
	for _, s := range m.sleepers {
		s.end()
	}
	if m.node != nil {
		m.stop()
		_ = m.node.Close()
	}
	for _, tail := range m.tails {
		tail.cancel()
		<-tail.done
	}
}

// modelPointers can be listed, too.
type modelPointers struct{ faultyPointers }

func (p modelPointers) TablesSharing(ctx context.Context, id string) (out map[string]string, err error) {
	err = p.f.call("TablesSharing", func() error {
		out, err = p.Pointers.(dataset.PointerSharing).TablesSharing(ctx, id)
		return err
	})
	return out, err
}

// modelBuffer lets appends fail, too.
type modelBuffer struct {
	hotbuffer.Buffer
	f *faults
}

func (b modelBuffer) Append(ctx context.Context, v record.ViewID, a hotbuffer.Append) (out hotbuffer.Appended, err error) {
	err = b.f.call("Buffer.Append", func() error { out, err = b.Buffer.Append(ctx, v, a); return err })
	return out, err
}

// modelSleeper is the archiver of another process that shares catalog, hot
// buffer and warehouse, whatever becomes of this node: it stops at a step, with
// its renewals, and goes on when it is woken.
type modelSleeper struct {
	m *machine
	*archiver.Archiver
	mu     sync.Mutex
	at     archiver.Step
	after  int // times that at is passed
	sleeps chan struct{}
	wake   chan struct{}
	answer chan error // of the archive under way; nil: none is
	stream *modelStream
	// late: another archive of the stream has succeeded while it slept.
	late bool
	step archiver.Step
}

func (m *machine) newSleeper(owner string) *modelSleeper {
	s := &modelSleeper{m: m, sleeps: make(chan struct{})}
	var err error
	s.Archiver, err = archiver.New(archiver.Options{
		Branches: modelCurrent{m}, Leases: modelCurrent{m}, Schemas: modelCurrent{m}, Checkpoints: modelCurrent{m}, Buffer: modelShared{m: m},
		Datasets: dataset.New(modelFiles{m: m}, modelCurrent{m}, dataset.Options{}),
		Owner:    owner, Cluster: m.node.catalog.ClusterID(), Now: m.now, CommitBytes: 20_000,
		Reached: s.reached,
	})
	m.must("open another archiver", err)
	return s
}

func (s *modelSleeper) reached(step archiver.Step) {
	s.mu.Lock()
	if step != s.at {
		s.mu.Unlock()
		return
	}
	if s.after > 0 {
		s.after--
		s.mu.Unlock()
		return
	}
	s.at = ""
	wake := s.wake
	s.mu.Unlock()
	s.sleeps <- struct{}{}
	<-wake
}

func (s *modelSleeper) asleep() bool { return s.answer != nil }

func (s *modelSleeper) end() {
	if s.asleep() {
		close(s.wake)
		<-s.answer
		s.answer = nil
	}
}

// current is the node that is open now, as other processes see what they share
// with it.
type modelCurrent struct{ m *machine }

func (c modelCurrent) node() *Node {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.m.node
}

// modelFiles is the warehouse of the node that is open now.
type modelFiles struct{ m *machine }

func (f modelFiles) store() objstore.Store {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return f.m.files
}

func (f modelFiles) Base() string { return f.store().Base() }

func (f modelFiles) Create(ctx context.Context, key string) (objstore.Writer, error) {
	at := f.store()
	w, err := at.Create(ctx, key)
	if err != nil {
		return nil, err
	}
	return modelWriter{w, f, at}, nil
}

// modelWriter fails when the warehouse has gone down since it began.
type modelWriter struct {
	objstore.Writer
	files modelFiles
	at    objstore.Store
}

func (w modelWriter) Commit() error {
	if w.files.store() != w.at {
		w.Abort()
		return errInjected
	}
	return w.Writer.Commit()
}

func (f modelFiles) Open(ctx context.Context, key string) (objstore.Object, error) {
	return f.store().Open(ctx, key)
}

func (f modelFiles) List(ctx context.Context, prefix string) iter.Seq2[objstore.Info, error] {
	return f.store().List(ctx, prefix)
}

func (f modelFiles) Stat(ctx context.Context, key string) (objstore.Info, error) {
	return f.store().Stat(ctx, key)
}

func (f modelFiles) Delete(ctx context.Context, key string) error { return f.store().Delete(ctx, key) }

// modelShared has what an archiver calls.
type modelShared struct {
	hotbuffer.Buffer
	m *machine
}

func (c modelShared) log() hotbuffer.Buffer { return modelCurrent{c.m}.node().log }

func (c modelCurrent) ArchiveTargets() []catalog.BranchID {
	return targets{c.node().directory}.ArchiveTargets()
}

func (c modelCurrent) ArchiveTarget(ctx context.Context, id catalog.BranchID) (archiver.Target, error) {
	return targets{c.node().directory}.ArchiveTarget(ctx, id)
}

func (c modelCurrent) Retire(ctx context.Context, id catalog.BranchID, v record.ViewID) error {
	return targets{c.node().directory}.Retire(ctx, id, v)
}

func (c modelCurrent) AcquireLease(ctx context.Context, v record.ViewID, owner string, ttl time.Duration) (catalog.Lease, error) {
	return c.node().catalog.AcquireLease(ctx, v, owner, ttl)
}

func (c modelCurrent) RenewLease(ctx context.Context, l catalog.Lease, ttl time.Duration) (catalog.Lease, error) {
	return c.node().catalog.RenewLease(ctx, l, ttl)
}

func (c modelCurrent) ReleaseLease(ctx context.Context, l catalog.Lease) error {
	return c.node().catalog.ReleaseLease(ctx, l)
}

func (c modelCurrent) SchemaByID(ctx context.Context, id int32) (*schema.Schema, error) {
	return c.node().catalog.SchemaByID(ctx, id)
}

func (c modelCurrent) Take(ctx context.Context, v record.ViewID) (catalog.Checkpoint, error) {
	return c.node().checks.Take(ctx, v)
}

func (c modelCurrent) Latest(ctx context.Context, v record.ViewID) (catalog.Checkpoint, error) {
	return c.node().checks.Latest(ctx, v)
}

func (c modelCurrent) Next(ctx context.Context, v record.ViewID, after record.Offsets) (catalog.Checkpoint, error) {
	return checkpoints{c.node().checks}.Next(ctx, v, after)
}

func (c modelCurrent) TablePointer(ctx context.Context, id string) (string, error) {
	return c.node().catalog.TablePointer(ctx, id)
}

func (c modelCurrent) CreateTablePointer(ctx context.Context, id, location string) error {
	return c.node().catalog.CreateTablePointer(ctx, id, location)
}

func (c modelCurrent) SwapTablePointer(ctx context.Context, id, from, to string) error {
	return c.node().catalog.SwapTablePointer(ctx, id, from, to)
}

func (c modelCurrent) TablePointerReferenced(ctx context.Context, location string) (bool, error) {
	return c.node().catalog.TablePointerReferenced(ctx, location)
}

func (c modelShared) Ends(v record.ViewID) (hotbuffer.Ends, error) { return c.log().Ends(v) }

func (c modelShared) Stats(v record.ViewID) (hotbuffer.Stats, error) { return c.log().Stats(v) }

func (c modelShared) Read(ctx context.Context, v record.ViewID, p record.Partition, from record.Offset, n int) ([]record.Batch, error) {
	return c.log().Read(ctx, v, p, from, n)
}

func (c modelShared) Release(ctx context.Context, v record.ViewID, through record.Offsets) error {
	return c.log().Release(ctx, v, through)
}
