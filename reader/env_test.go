package reader_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
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
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// env is one branch, (k STRING, n LONG, s STRUCT of a, b), over a hot log in memory and a dataset in a
// temporary directory. Tests move rows from one half to the other step by
// step, also in ways that an archiver never would.
type env struct {
	t        testing.TB
	log      *disk.Log
	datasets *dataset.Datasets
	store    *checkpoints
	schemas  schemas
	checks   *reader.Checkpointer
	r        *reader.Reader
	target   reader.Target
	encode   *schema.JSONToAvro
	next     int64 // of n
	epoch    int64
}

const (
	view   record.ViewID     = 7
	number record.ViewNumber = 3
)

const envSchema = `{"fields":[{"name":"k","type":"STRING","nullable":false},{"name":"n","type":"LONG","nullable":false},
	{"name":"s","type":"STRUCT","fields":[{"name":"a","type":"LONG"},{"name":"b","type":"STRING"},{"name":"c","type":"ARRAY","element":{"type":"STRUCT","fields":[{"name":"x","type":"LONG"},{"name":"y","type":"STRING"}]}}]}]}`

func newEnv(t testing.TB, partitions int) *env {
	t.Helper()
	s, err := schema.Parse([]byte(envSchema))
	if err != nil {
		t.Fatal(err)
	}
	s, _ = s.AssignIDs(schema.FirstUserID)
	s.ID = 1
	e := &env{t: t, store: &checkpoints{}, schemas: schemas{1: s}}
	var clock atomic.Int64
	e.log, err = disk.Open("log", disk.Options{
		FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler), SegmentBytes: 1 << 20,
		// A millisecond for each commit, so that the order of rows is that of appends.
		Now: func() time.Time { return time.UnixMilli(1_700_000_000_000 + clock.Add(1)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.log.Close(); err != nil {
			t.Error(err)
		}
	})
	e.open(view, partitions)
	files, err := objstore.NewFS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	e.datasets = dataset.New(files, &pointers{}, dataset.Options{})
	e.target = reader.Target{View: view, Number: number, Table: uuid.NewString(), Schema: s}
	if _, err := e.datasets.Create(t.Context(), e.target.Table, s, nil); err != nil {
		t.Fatal(err)
	}
	e.checks = reader.NewCheckpointer(e.log, e.store, e.log.Views, reader.CheckpointOptions{Every: 10 * time.Millisecond, Guests: e.guestEnd})
	e.r = reader.New(e.log, e.datasets, e.schemas, e.checks)
	if e.encode, err = schema.CompileJSONToAvro(s, schema.JSONOptions{}); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *env) guestEnd(ctx context.Context, v record.ViewID, look bool) (int64, bool, error) {
	if v != view {
		return 0, true, nil
	}
	return e.r.GuestEnd(ctx, e.target, look)
}

func (e *env) open(v record.ViewID, partitions int) {
	e.t.Helper()
	if err := e.log.Open(e.t.Context(), v, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: partitions}); err != nil {
		e.t.Fatal(err)
	}
}

// publish appends rows to a partition: n counts over all of them, k is "even" or "odd",
// s.a is n as well.
func (e *env) publish(p record.Partition, rows int) {
	e.t.Helper()
	var arena record.Rows
	var value []byte
	for range rows {
		var err error
		value = schema.AppendHeader(value[:0], e.target.Schema.ID)
		row := fmt.Sprintf(`{"k":%q,"n":%d,"s":{"a":%d,"b":"b%d","c":[{"x":1,"y":"y"},null]}}`, []string{"even", "odd"}[e.next%2], e.next, e.next, e.next)
		if value, err = e.encode.Row(value, []byte(row)); err != nil {
			e.t.Fatal(err)
		}
		arena.Append(nil, value)
		e.next++
	}
	if _, err := e.log.Append(e.t.Context(), view, hotbuffer.Append{Parts: []hotbuffer.Part{{Partition: p, Rows: &arena}}}); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) ends() hotbuffer.Ends {
	e.t.Helper()
	ends, err := e.log.Ends(view)
	if err != nil {
		e.t.Fatal(err)
	}
	return ends
}

func (e *env) take() catalog.Checkpoint {
	e.t.Helper()
	if _, _, err := e.r.GuestEnd(e.t.Context(), e.target, true); err != nil {
		e.t.Fatal(err)
	}
	cp, err := e.checks.Take(e.t.Context(), view)
	if err != nil {
		e.t.Fatal(err)
	}
	return cp
}

// file writes the hot rows [from, to) to a data file.
func (e *env) file(from, to record.Offsets) dataset.DataFile {
	e.t.Helper()
	return e.write(e.decode(from, to, number, func(p record.Partition) record.Partition { return p }))
}

// decode gives the hot rows [from, to) as if of another view and other partitions.
func (e *env) decode(from, to record.Offsets, of record.ViewNumber, as func(record.Partition) record.Partition) arrow.RecordBatch {
	e.t.Helper()
	dec := schema.NewRowDecoder(e.target.Schema.WithSystem(), of, e.schemas.SchemaByID, memory.DefaultAllocator)
	defer dec.Release()
	for b, err := range hotbuffer.Scan(e.t.Context(), e.log, view, from, to) {
		if err != nil {
			e.t.Fatal(err)
		}
		if err := dec.AppendBatch(e.t.Context(), as(b.Partition), b.Batch, b.Skip, b.Limit); err != nil {
			e.t.Fatal(err)
		}
	}
	return dec.Take()
}

// write makes a data file of batches, which it releases.
func (e *env) write(batches ...arrow.RecordBatch) dataset.DataFile {
	e.t.Helper()
	w, err := e.table().NewFileWriter(e.t.Context(), dataset.FileName{View: number, Epoch: 1}, e.target.Schema, dataset.Parquet)
	if err != nil {
		e.t.Fatal(err)
	}
	for _, rows := range batches {
		if rows == nil {
			continue
		}
		if err := w.Write(rows); err != nil {
			e.t.Fatal(err)
		}
		rows.Release()
	}
	f, err := w.Close()
	if err != nil {
		e.t.Fatal(err)
	}
	return f
}

func (e *env) table() *dataset.Table {
	e.t.Helper()
	table, err := e.datasets.Load(e.t.Context(), e.target.Table)
	if err != nil {
		e.t.Fatal(err)
	}
	return table
}

// commit puts files and a marker into the dataset.
func (e *env) commit(m dataset.Marker, files ...dataset.DataFile) {
	e.t.Helper()
	e.epoch++
	m.Epoch, m.CommitID = e.epoch, uuid.NewString()
	if _, err := e.datasets.Commit(e.t.Context(), e.target.Table, dataset.Commit{Add: files, Marker: &m}); err != nil {
		e.t.Fatal(err)
	}
}

// archive moves what lies below a checkpoint and is hot only into the dataset.
func (e *env) archive(to record.Offsets) {
	e.t.Helper()
	var from record.Offsets
	m, err := e.table().Marker()
	if err != nil {
		e.t.Fatal(err)
	}
	if m != nil {
		from = m.Offsets
	}
	through := int64(0) // unknown, where this is no checkpoint
	e.store.mu.Lock()
	for _, cp := range e.store.views[view] {
		if cp.Cut.Equal(to) {
			through = cp.Timestamp
		}
	}
	e.store.mu.Unlock()
	e.commit(dataset.Marker{View: view, ViewNumber: number, Offsets: to, ValidThroughMs: through}, e.file(from, to))
}

func (e *env) release(through record.Offsets) {
	e.t.Helper()
	if err := e.log.Release(e.t.Context(), view, through); err != nil {
		e.t.Fatal(err)
	}
}

// flush is what an archiver does: checkpoint, archive, release.
func (e *env) flush() {
	e.t.Helper()
	cut := e.take().Cut
	e.archive(cut)
	e.release(cut)
}

// read collects n of every row of a bounded read, and its closing cursor.
func (e *env) read(q reader.Request) (ns []int64, end reader.Cursor) {
	e.t.Helper()
	ns, end, err := e.tryRead(q)
	if err != nil {
		e.t.Fatal(err)
	}
	return ns, end
}

func (e *env) tryRead(q reader.Request) (ns []int64, end reader.Cursor, err error) {
	res, err := e.r.Read(e.t.Context(), e.target, q)
	if err != nil {
		return nil, reader.Cursor{}, err
	}
	for b, err := range res.Batches {
		if err != nil {
			return ns, end, err
		}
		ns, end = append(ns, numbers(b)...), b.Next
	}
	return ns, end, nil
}

// numbers are n of the rows of a batch.
func numbers(b reader.Batch) []int64 {
	if b.Rows == nil {
		return nil
	}
	at := b.Rows.Schema().FieldIndices("n")
	return slices.Clone(b.Rows.Column(at[0]).(*array.Int64).Int64Values())
}

// count is 0, 1, … n-1.
func count(n int64) []int64 {
	all := make([]int64, n)
	for i := range all {
		all[i] = int64(i)
	}
	return all
}

func (e *env) want(got, want []int64) {
	e.t.Helper()
	if !slices.Equal(got, want) {
		e.t.Fatalf("got rows %v, want %v", short(got), short(want))
	}
}

func short(ns []int64) string {
	if len(ns) > 40 {
		return fmt.Sprintf("%v … (%d)", ns[:40], len(ns))
	}
	return fmt.Sprint(ns)
}

type schemas map[int32]*schema.Schema

func (s schemas) SchemaByID(_ context.Context, id int32) (*schema.Schema, error) {
	if found := s[id]; found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("schema %d: %w", id, record.ErrNotFound)
}

// pointers keeps table pointers in memory.
type pointers struct {
	mu sync.Mutex
	at map[string]string
}

func (p *pointers) TablePointer(_ context.Context, id string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at, ok := p.at[id]; ok {
		return at, nil
	}
	return "", fmt.Errorf("pointer %s: %w", id, record.ErrNotFound)
}

func (p *pointers) CreateTablePointer(_ context.Context, id, location string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at == nil {
		p.at = map[string]string{}
	}
	p.at[id] = location
	return nil
}

func (p *pointers) SwapTablePointer(_ context.Context, id, from, to string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at[id] != from {
		return record.ErrConflict
	}
	p.at[id] = to
	return nil
}

// checkpoints is a CheckpointStore in memory, as strict as the catalog.
type checkpoints struct {
	mu    sync.Mutex
	views map[record.ViewID][]catalog.Checkpoint
	gone  map[record.ViewID]bool
	last  map[record.ViewID]int64
	// fail, if set, is asked before each AddCheckpoints; after is asked behind it.
	fail, after func([]catalog.Checkpoint) error
	lookups     int
}

func (s *checkpoints) AddCheckpoints(_ context.Context, cs []catalog.Checkpoint) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		if err := s.fail(cs); err != nil {
			return err
		}
	}
	for _, c := range cs {
		refuse := func(err error) error {
			return &catalog.CheckpointError{View: c.View, Err: err}
		}
		list := s.views[c.View]
		switch {
		case s.gone[c.View]:
			return refuse(record.ErrNotFound)
		case c.Number != s.last[c.View]+1:
			return refuse(fmt.Errorf("%w: checkpoint %d, the next is %d", record.ErrConflict, c.Number, s.last[c.View]+1))
		case len(list) > 0 && (!c.Cut.Covers(list[len(list)-1].Cut) || c.Timestamp < list[len(list)-1].Timestamp):
			return refuse(fmt.Errorf("%w: checkpoint %d goes back", record.ErrInvalid, c.Number))
		}
	}
	if s.views == nil {
		s.views, s.last = map[record.ViewID][]catalog.Checkpoint{}, map[record.ViewID]int64{}
	}
	for _, c := range cs {
		s.views[c.View] = append(s.views[c.View], c)
		s.last[c.View] = c.Number
	}
	if s.after != nil {
		return s.after(cs)
	}
	return nil
}

func (s *checkpoints) LatestCheckpoint(_ context.Context, v record.ViewID) (catalog.Checkpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookups++
	if list := s.views[v]; len(list) > 0 {
		return list[len(list)-1], nil
	}
	return catalog.Checkpoint{}, record.ErrNotFound
}

func (s *checkpoints) CheckpointsAfter(_ context.Context, v record.ViewID, number int64, limit int) ([]catalog.Checkpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []catalog.Checkpoint
	for _, c := range s.views[v] {
		if c.Number > number && len(out) < min(limit, 3) {
			out = append(out, c)
		}
	}
	return out, nil
}

// PruneCheckpoints goes by number here: it leaves keepLast whatever the time.
func (s *checkpoints) PruneCheckpoints(_ context.Context, _ time.Time, keepLast int) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int64
	for v, list := range s.views {
		if cut := len(list) - keepLast; cut > 0 {
			s.views[v] = slices.Clone(list[cut:])
			n += int64(cut)
		}
	}
	return n, nil
}

func contains(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("the error %q does not say %q", fmt.Sprint(err), w)
		}
	}
}

// countingTables counts loads.
type countingTables struct {
	reader.Tables
	n atomic.Int64
}

func (c *countingTables) Load(ctx context.Context, id string) (*dataset.Table, error) {
	c.n.Add(1)
	return c.Tables.Load(ctx, id)
}

// meddling is a hot buffer in which things happen between two calls.
type meddling struct {
	hotbuffer.Buffer
	ends func(hotbuffer.Ends) hotbuffer.Ends // behind Ends
	read func(record.Partition, record.Offset) error
}

func (b *meddling) Ends(v record.ViewID) (hotbuffer.Ends, error) {
	e, err := b.Buffer.Ends(v)
	if b.ends != nil && err == nil {
		e = b.ends(e)
	}
	return e, err
}

func (b *meddling) Read(ctx context.Context, v record.ViewID, p record.Partition, from record.Offset, most int) ([]record.Batch, error) {
	if b.read != nil {
		if err := b.read(p, from); err != nil {
			return nil, err
		}
		most = 1 // batch by batch
	}
	return b.Buffer.Read(ctx, v, p, from, most)
}
