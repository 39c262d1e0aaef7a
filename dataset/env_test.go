package dataset_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// pointers is a real Pointers in memory, with seams for faults.
type pointers struct {
	mu sync.Mutex
	at map[string]string
	// beforeSwap and afterSwap, if set, are called around the swap; an error
	// of beforeSwap prevents it, one of afterSwap hides its outcome.
	beforeSwap func(id, from, to string) error
	afterSwap  func(err error) error
}

func newPointers() *pointers { return &pointers{at: map[string]string{}} }

func (p *pointers) TablePointer(ctx context.Context, id string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
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
	if _, ok := p.at[id]; ok {
		return fmt.Errorf("pointer %s: %w", id, record.ErrExists)
	}
	p.at[id] = location
	return nil
}

func (p *pointers) SwapTablePointer(ctx context.Context, id, from, to string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.beforeSwap != nil {
		if err := p.beforeSwap(id, from, to); err != nil {
			return err
		}
	}
	err := p.swap(id, from, to)
	if p.afterSwap != nil {
		return p.afterSwap(err)
	}
	return err
}

func (p *pointers) swap(id, from, to string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.at[id]
	switch {
	case !ok:
		return record.ErrNotFound
	case at != from:
		return record.ErrConflict
	}
	p.at[id] = to
	return nil
}

func (p *pointers) TablePointerReferenced(_ context.Context, location string) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range p.at {
		if at == location {
			return true, nil
		}
	}
	return false, nil
}

// TablesSharing takes all tables for branches of one stream.
func (p *pointers) TablesSharing(context.Context, string) (map[string]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.at), nil
}

// env is a store on disk with datasets on it.
type env struct {
	t        testing.TB
	dir      string
	store    *objstore.FS
	pointers *pointers
	d        *dataset.Datasets
	id       string
}

func newEnv(t testing.TB) *env {
	t.Helper()
	e := &env{t: t, dir: t.TempDir(), pointers: newPointers(), id: uuid.NewString()}
	var err error
	if e.store, err = objstore.NewFS(e.dir); err != nil {
		t.Fatal(err)
	}
	e.d = dataset.New(e.store, e.pointers, dataset.Options{})
	return e
}

// newMemEnv is newEnv without a disk, for what need not be durable.
func newMemEnv(t testing.TB) *env {
	t.Helper()
	e := &env{t: t, pointers: newPointers(), id: uuid.NewString()}
	var err error
	if e.store, err = objstore.NewFSOn(vfs.NewMem(), "/store"); err != nil {
		t.Fatal(err)
	}
	e.d = dataset.New(e.store, e.pointers, dataset.Options{})
	return e
}

// other is another handle on the same tables, with nothing cached.
func (e *env) other() *dataset.Datasets {
	return dataset.New(e.store, e.pointers, dataset.Options{})
}

func (e *env) create(s *schema.Schema) *dataset.Table {
	e.t.Helper()
	t, err := e.d.Create(e.t.Context(), e.id, s, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	return t
}

func (e *env) load() *dataset.Table {
	e.t.Helper()
	t, err := e.other().Load(e.t.Context(), e.id)
	if err != nil {
		e.t.Fatal(err)
	}
	return t
}

// file writes one data file.
func (e *env) file(t *dataset.Table, s *schema.Schema, name dataset.FileName, batches ...arrow.RecordBatch) dataset.DataFile {
	e.t.Helper()
	return e.fileAs(dataset.Parquet, t, s, name, batches...)
}

func (e *env) fileAs(format dataset.Format, t *dataset.Table, s *schema.Schema, name dataset.FileName, batches ...arrow.RecordBatch) dataset.DataFile {
	e.t.Helper()
	w, err := t.NewFileWriter(e.t.Context(), name, s, format)
	if err != nil {
		e.t.Fatal(err)
	}
	defer w.Abort()
	for _, b := range batches {
		if err := w.Write(b); err != nil {
			e.t.Fatal(err)
		}
	}
	f, err := w.Close()
	if err != nil {
		e.t.Fatal(err)
	}
	return f
}

func (e *env) commit(c dataset.Commit) *dataset.Table {
	e.t.Helper()
	t, err := e.d.Commit(e.t.Context(), e.id, c)
	if err != nil {
		e.t.Fatal(err)
	}
	return t
}

// marker of view 7, number 2, epoch 1.
func marker(offsets ...record.Offset) *dataset.Marker {
	return &dataset.Marker{View: 7, ViewNumber: 2, Epoch: 1, Offsets: offsets, CommitID: uuid.NewString(), Cluster: "c", ValidThroughMs: 1000}
}

// numbers is the schema {n LONG}, and rows with it hold n = offset·10.
func numbers() *schema.Schema {
	return &schema.Schema{Fields: []schema.Field{{ID: 5, Name: "n", Type: schema.Type{Kind: schema.Long}}}}
}

func numberBatch(s *schema.Schema, p record.Partition, from, to record.Offset) arrow.RecordBatch {
	b := array.NewRecordBuilder(memory.DefaultAllocator, s.WithSystem().Arrow())
	defer b.Release()
	for o := from; o < to; o++ {
		b.Field(0).(*array.Int64Builder).Append(int64(o) * 10)
		appendSystem(b, 1, 2, p, o)
	}
	return b.NewRecordBatch()
}

// appendSystem fills the system columns, which begin at column i.
func appendSystem(b *array.RecordBuilder, i int, view record.ViewNumber, p record.Partition, o record.Offset) {
	b.Field(i).(*array.Int32Builder).Append(int32(view))
	b.Field(i + 1).(*array.Int32Builder).Append(int32(p))
	b.Field(i + 2).(*array.Int64Builder).Append(int64(o))
	b.Field(i + 3).(*array.TimestampBuilder).Append(arrow.Timestamp(1_517_443_200_000_000 + int64(o)*1000))
}

func fileName(p record.Partition, from, to record.Offset) dataset.FileName {
	return dataset.FileName{View: 2, Epoch: 1, Ranges: []dataset.PartRange{{Partition: p, Range: record.Range{Start: from, End: to}}}}
}

// addNumbers writes rows [from, to) of partition 0 and commits them with a
// marker at to.
func (e *env) addNumbers(from, to record.Offset) *dataset.Table {
	e.t.Helper()
	t, err := e.d.Load(e.t.Context(), e.id)
	if err != nil {
		e.t.Fatal(err)
	}
	b := numberBatch(numbers(), 0, from, to)
	defer b.Release()
	return e.commit(dataset.Commit{Base: t, Add: []dataset.DataFile{e.file(t, numbers(), fileName(0, from, to), b)}, Marker: marker(to)})
}

// rows renders the rows of a scan, one string each.
func (e *env) rows(t *dataset.Table, o dataset.ScanOptions) []string {
	e.t.Helper()
	out, err := scanRows(e.t.Context(), t, o)
	if err != nil {
		e.t.Fatal(err)
	}
	return out
}

func scanRows(ctx context.Context, t *dataset.Table, o dataset.ScanOptions) ([]string, error) {
	out := []string{}
	for b, err := range t.Scan(ctx, o) {
		if err != nil {
			return out, err
		}
		out = append(out, render(b)...)
	}
	return out, nil
}

func render(b arrow.RecordBatch) []string {
	out := make([]string, b.NumRows())
	for i := range out {
		var row []string
		for c, f := range b.Schema().Fields() {
			row = append(row, f.Name+"="+b.Column(c).ValueStr(i))
		}
		out[i] = strings.Join(row, " ")
	}
	return out
}

// offsetsOf is the column _offset of a scan.
func (e *env) offsetsOf(t *dataset.Table) []int64 {
	e.t.Helper()
	s := (&schema.Schema{}).WithSystem()
	s.Fields = s.Fields[2:3]
	var out []int64
	for b, err := range t.Scan(e.t.Context(), dataset.ScanOptions{Schema: s}) {
		if err != nil {
			e.t.Fatal(err)
		}
		out = append(out, b.Column(0).(*array.Int64).Int64Values()...)
	}
	return out
}

func (e *env) wantOffsets(t *dataset.Table, to int64) {
	e.t.Helper()
	want := []int64{}
	for o := range to {
		want = append(want, o)
	}
	if got := e.offsetsOf(t); !slices.Equal(got, want) {
		e.t.Fatalf("offsets are %s, want 0 to %d", brief(got), to-1)
	}
}

func brief(o []int64) string {
	if len(o) > 12 {
		return fmt.Sprintf("%v…%v (%d)", o[:6], o[len(o)-6:], len(o))
	}
	return fmt.Sprint(o)
}

func wantIs(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error %v, want %v", err, target)
	}
}
