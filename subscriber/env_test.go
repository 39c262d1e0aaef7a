package subscriber_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/subscriber"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	ref = subscriber.Ref{Stream: "default.s", Branch: catalog.MainBranch}
	ctx = context.Background()
)

// env is one branch of (n LONG), over a catalog in SQLite, a hot log in memory and
// a dataset in a temporary directory, and a coordinator of its subscribers.
// Checkpoints are taken and rows archived when a test says so.
type env struct {
	t        testing.TB
	opts     subscriber.Options
	catalog  *catalog.Catalog
	log      *disk.Log
	datasets *dataset.Datasets
	checks   *reader.Checkpointer
	branches *branches
	c        *subscriber.Coordinator
	stop     func() // the coordinator
	encode   *schema.JSONToAvro
	next     atomic.Int64 // of n
	epoch    int64
}

// branches is the one branch, as it stands.
type branches struct {
	at atomic.Pointer[subscriber.Branch]
}

func (b *branches) Branch(r subscriber.Ref) (subscriber.Branch, error) {
	if at := b.at.Load(); at != nil && r == ref {
		return *at, nil
	}
	return subscriber.Branch{}, fmt.Errorf("branch %s: %w", r, record.ErrNotFound)
}

// newEnv begins with a coordinator that runs. o may have timeouts.
func newEnv(t testing.TB, partitions int, o subscriber.Options) *env {
	t.Helper()
	e := &env{t: t, opts: o, branches: &branches{}}
	var err error
	if e.catalog, err = catalog.Open(ctx, catalog.Options{Path: filepath.Join(t.TempDir(), "catalog.db")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.catalog.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := schema.Parse([]byte(`{"fields":[{"name":"n","type":"LONG","nullable":false}]}`))
	if err != nil {
		t.Fatal(err)
	}
	s, nextID := s.AssignIDs(schema.FirstUserID)
	_, b, err := e.catalog.CreateStream(ctx, catalog.NewStream{
		Name: "s", Settings: catalog.Settings{Partitions: partitions}, Schema: catalog.NewSchema{Schema: s, NextFieldID: nextID},
	})
	if err != nil {
		t.Fatal(err)
	}
	if s, err = e.catalog.SchemaByID(ctx, b.SchemaID); err != nil {
		t.Fatal(err)
	}
	if e.encode, err = schema.CompileJSONToAvro(s, schema.JSONOptions{}); err != nil {
		t.Fatal(err)
	}
	// A millisecond for each commit, so that the order of rows is that of appends.
	var clock atomic.Int64
	clock.Store(time.Now().UnixMilli())
	e.log, err = disk.Open("log", disk.Options{
		FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler), SegmentBytes: 1 << 20,
		Now: func() time.Time { return time.UnixMilli(clock.Add(1)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.log.Close(); err != nil {
			t.Error(err)
		}
	})
	files, err := objstore.NewFS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	e.datasets = dataset.New(files, e.catalog, dataset.Options{})
	if _, err := e.datasets.Create(ctx, b.TableUUID, s, nil); err != nil {
		t.Fatal(err)
	}
	e.become(b, s)
	e.checks = reader.NewCheckpointer(e.log, e.catalog, e.log.Views, reader.CheckpointOptions{Every: 10 * time.Millisecond})
	e.start()
	return e
}

// become shows a state of the branch to the coordinator.
func (e *env) become(b catalog.Branch, s *schema.Schema) {
	e.t.Helper()
	if err := e.log.Open(ctx, b.View.ID, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: b.View.Partitions}); err != nil {
		e.t.Fatal(err)
	}
	e.branches.at.Store(&subscriber.Branch{
		ID: b.ID, Consistency: b.Settings.Consistency,
		Target: reader.Target{View: b.View.ID, Number: b.View.Number, Table: b.TableUUID, Schema: s},
	})
}

// start makes a coordinator, as a start of the server does.
func (e *env) start() {
	o := e.opts
	o.Store, o.History, o.Branches, o.Checkpoints, o.Log = e.catalog, e.catalog, e.branches, e.checks, e.log
	if e.opts.Store != nil {
		o.Store = e.opts.Store
	}
	o.Reads = reader.New(e.log, e.datasets, e.catalog, e.checks)
	e.c = subscriber.New(o)
	run, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func(c *subscriber.Coordinator) {
		defer close(done)
		if err := c.Run(run); err != nil {
			e.t.Error(err)
		}
	}(e.c)
	e.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	e.t.Cleanup(e.stop)
}

func (e *env) restart() {
	e.t.Helper()
	e.stop()
	e.start()
}

func (e *env) target() reader.Target { return e.branches.at.Load().Target }

// publish appends rows to a partition; n counts over all of them.
func (e *env) publish(p record.Partition, rows int) {
	e.t.Helper()
	var arena record.Rows
	var value []byte
	for range rows {
		var err error
		value = schema.AppendHeader(value[:0], e.target().Schema.ID)
		if value, err = e.encode.Row(value, fmt.Appendf(nil, `{"n":%d}`, e.next.Add(1)-1)); err != nil {
			e.t.Fatal(err)
		}
		arena.Append(nil, value)
	}
	if _, err := e.log.Append(ctx, e.target().View, hotbuffer.Append{Parts: []hotbuffer.Part{{Partition: p, Rows: &arena}}}); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) ends() record.Offsets {
	e.t.Helper()
	ends, err := e.log.Ends(e.target().View)
	if err != nil {
		e.t.Fatal(err)
	}
	return ends.End
}

func (e *env) checkpoint() catalog.Checkpoint {
	e.t.Helper()
	cp, err := e.checks.Take(ctx, e.target().View)
	if err != nil {
		e.t.Fatal(err)
	}
	return cp
}

// archive does what an archiver does: checkpoint, data file, release.
func (e *env) archive() {
	e.t.Helper()
	t := e.target()
	cut := e.checkpoint().Cut
	table, err := e.datasets.Load(ctx, t.Table)
	if err != nil {
		e.t.Fatal(err)
	}
	var from record.Offsets
	m, err := table.Marker()
	if err != nil {
		e.t.Fatal(err)
	}
	if m != nil && m.View == t.View {
		from = m.Offsets
	}
	if from.Covers(cut) {
		return
	}
	dec := schema.NewRowDecoder(t.Schema.WithSystem(), t.Number, e.catalog.SchemaByID, memory.DefaultAllocator)
	defer dec.Release()
	for b, err := range hotbuffer.Scan(ctx, e.log, t.View, from, cut) {
		if err == nil {
			err = dec.AppendBatch(ctx, b.Partition, b.Batch, b.Skip, b.Limit)
		}
		if err != nil {
			e.t.Fatal(err)
		}
	}
	w, err := table.NewFileWriter(ctx, dataset.FileName{View: t.Number, Epoch: 1}, t.Schema, dataset.Parquet)
	if err != nil {
		e.t.Fatal(err)
	}
	rows := dec.Take()
	defer rows.Release()
	if err := w.Write(rows); err != nil {
		e.t.Fatal(err)
	}
	f, err := w.Close()
	if err != nil {
		e.t.Fatal(err)
	}
	e.epoch++
	marker := dataset.Marker{View: t.View, ViewNumber: t.Number, Offsets: cut, Epoch: e.epoch, CommitID: uuid.NewString()}
	if _, err := e.datasets.Commit(ctx, t.Table, dataset.Commit{Add: []dataset.DataFile{f}, Marker: &marker}); err != nil {
		e.t.Fatal(err)
	}
	if err := e.log.Release(ctx, t.View, cut); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) branch() catalog.Branch {
	e.t.Helper()
	b, err := e.catalog.BranchByID(ctx, e.branches.at.Load().ID)
	if err != nil {
		e.t.Fatal(err)
	}
	return b
}

// grow gives the view more partitions.
func (e *env) grow(partitions int) {
	e.t.Helper()
	b := e.branch()
	s := b.Settings
	s.Partitions = partitions
	b, err := e.catalog.UpdateSettings(ctx, b.ID, b.Version, s)
	if err != nil {
		e.t.Fatal(err)
	}
	e.become(b, e.target().Schema)
}

// resetBranch begins a new view.
func (e *env) resetBranch() {
	e.t.Helper()
	b := e.branch()
	b, err := e.catalog.ResetBranch(ctx, b.ID, b.Version, catalog.Reset{})
	if err != nil {
		e.t.Fatal(err)
	}
	e.become(b, e.target().Schema)
}

func (e *env) create(name string, consistency reader.Consistency) subscriber.Info {
	e.t.Helper()
	i, err := e.c.Create(ctx, ref, subscriber.Spec{Name: name, Consistency: consistency})
	if err != nil {
		e.t.Fatal(err)
	}
	return i
}

func (e *env) get(name string) subscriber.Info {
	e.t.Helper()
	i, err := e.c.Get(ctx, ref, name)
	if err != nil {
		e.t.Fatal(err)
	}
	return i
}

// row is where a row lies, and its n.
type row struct {
	p record.Partition
	o record.Offset
	n int64
}

// client is a member that reads in a goroutine and keeps what it was sent.
type client struct {
	e       *env
	name    string // of the subscriber
	s       *subscriber.Session
	cancel  context.CancelFunc
	stopped chan struct{}

	mu          sync.Mutex
	changed     chan struct{} // closed and replaced
	assignments []subscriber.Assignment
	rows        []row
	open        []row // of an epoch that is not complete
	cursor      reader.Cursor
	epochs      []int64
	err         error
	gate        chan struct{} // if set, each event waits for a token
}

func (e *env) join(name string, j subscriber.Join) *client {
	e.t.Helper()
	c, err := e.tryJoin(name, j)
	if err != nil {
		e.t.Fatal(err)
	}
	return c
}

func (e *env) tryJoin(name string, j subscriber.Join) (*client, error) {
	return e.joinGated(name, j, nil)
}

func (e *env) joinGated(name string, j subscriber.Join, gate chan struct{}) (*client, error) {
	j.Request.System = true
	reading, cancel := context.WithCancel(ctx)
	s, err := e.c.Join(reading, ref, name, j)
	if err != nil {
		cancel()
		return nil, err
	}
	c := &client{e: e, name: name, s: s, cancel: cancel, stopped: make(chan struct{}), changed: make(chan struct{}), gate: gate}
	go c.read(reading)
	e.t.Cleanup(c.leave)
	return c, nil
}

func (c *client) read(reading context.Context) {
	defer close(c.stopped)
	for ev, err := range c.s.Events() {
		if c.gate != nil {
			select {
			case <-c.gate:
			case <-reading.Done():
			}
		}
		c.take(ev, err)
	}
}

func (c *client) take(ev subscriber.Event, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := ev.Batch
	switch {
	case err != nil:
		c.err = err
	case ev.Assignment != nil:
		c.open = nil
		c.assignments = append(c.assignments, *ev.Assignment)
		if len(c.assignments) == 1 {
			c.cursor = ev.Assignment.Position
		}
	case b.Epoch == 0: // at least once
		c.rows = append(c.rows, rowsOf(b)...)
		c.cursor = b.Next
	default:
		c.open = append(c.open, rowsOf(b)...)
		if b.EpochEnd {
			c.rows = append(c.rows, c.open...)
			c.open = nil
			c.cursor = b.Next
			c.epochs = append(c.epochs, b.Epoch)
		}
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

func rowsOf(b reader.Batch) (rows []row) {
	if b.Rows == nil {
		return nil
	}
	col := func(name string) int { return b.Rows.Schema().FieldIndices(name)[0] }
	n := b.Rows.Column(col("n")).(*array.Int64)
	p := b.Rows.Column(col("_partition_id")).(*array.Int32)
	o := b.Rows.Column(col("_offset")).(*array.Int64)
	for i := range int(b.Rows.NumRows()) {
		rows = append(rows, row{record.Partition(p.Value(i)), record.Offset(o.Value(i)), n.Value(i)})
	}
	return rows
}

// leave ends the reading as a client does that goes.
func (c *client) leave() {
	c.cancel()
	<-c.stopped
}

// until waits for what the client has seen to be so.
func (c *client) until(what string, is func() bool) {
	c.e.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		c.mu.Lock()
		ok, changed := is(), c.changed
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-limit:
			c.mu.Lock()
			defer c.mu.Unlock()
			c.e.t.Fatalf("waited for %s; rows %v, assignments %v, error %v", what, c.rows, c.assignments, c.err)
		}
	}
}

// has waits for so many rows.
func (c *client) has(rows int) {
	c.e.t.Helper()
	c.until(fmt.Sprintf("%d rows", rows), func() bool { return len(c.rows) >= rows })
}

// given waits for an assignment of exactly these partitions to be the last.
func (c *client) given(ps ...record.Partition) {
	c.e.t.Helper()
	c.until(fmt.Sprintf("partitions %v", ps), func() bool {
		n := len(c.assignments)
		return n > 0 && slices.Equal(c.assignments[n-1].Partitions, ps)
	})
}

// assigned waits for an assignment of so many partitions to be the last.
func (c *client) assigned(n int) []record.Partition {
	c.e.t.Helper()
	var got []record.Partition
	c.until(fmt.Sprintf("%d partitions", n), func() bool {
		if len(c.assignments) == 0 {
			return false
		}
		got = c.assignments[len(c.assignments)-1].Partitions
		return len(got) == n
	})
	return got
}

// ends waits for the session's error.
func (c *client) ends(want error) {
	c.e.t.Helper()
	select {
	case <-c.stopped:
	case <-time.After(20 * time.Second):
		c.e.t.Fatalf("the session goes on, want %v", want)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !errors.Is(c.err, want) {
		c.e.t.Fatalf("the session ended with %v, want %v", c.err, want)
	}
}

func (c *client) at() reader.Cursor {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cursor
}

func (c *client) seen() []row {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.rows)
}

func (c *client) commit() reader.Cursor {
	c.e.t.Helper()
	at, err := c.tryCommit(c.at())
	if err != nil {
		c.e.t.Fatal(err)
	}
	return at
}

func (c *client) tryCommit(at reader.Cursor) (reader.Cursor, error) {
	return c.e.c.Commit(ctx, ref, c.name, subscriber.Commit{Session: c.s.Number(), Cursor: &at})
}

func (c *client) mustFence(at reader.Cursor) {
	c.e.t.Helper()
	before := c.e.get(c.name).Position
	_, err := c.tryCommit(at)
	if !errors.Is(err, subscriber.ErrSessionFenced) || !errors.Is(err, record.ErrFenced) {
		c.e.t.Fatalf("a zombie's commit: %v, want ErrSessionFenced", err)
	}
	if after := c.e.get(c.name).Position; !after.Next.Equal(before.Next) {
		c.e.t.Fatalf("a zombie moved the position from %v to %v", before.Next, after.Next)
	}
}

// everyRow fails unless rows are all of the branch, each at least once, or
// exactly once; and in each client each partition's first deliveries in order.
func (e *env) everyRow(exactly bool, rows ...[]row) {
	e.t.Helper()
	count := map[row]int{}
	for _, list := range rows {
		for _, r := range list {
			count[r]++
		}
	}
	ns := map[int64]bool{}
	for p, end := range e.ends() {
		at := slices.SortedFunc(maps.Keys(count), func(a, b row) int { return int(a.o - b.o) })
		next := record.Offset(0)
		for _, r := range at {
			if r.p != record.Partition(p) {
				continue
			}
			if r.o != next {
				e.t.Fatalf("partition %d: row %v came behind %v", p, r.o, next-1)
			}
			if exactly && count[r] != 1 {
				e.t.Fatalf("row %v came %d times", r, count[r])
			}
			ns[r.n] = true
			next++
		}
		if next != end {
			e.t.Fatalf("partition %d: %v rows of %v", p, next, end)
		}
	}
	if len(ns) != len(count) {
		e.t.Fatalf("%d rows have %d values", len(count), len(ns))
	}
}

func refused(t testing.TB, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Fatalf("the error %q does not say %q", err, w)
		}
	}
}
