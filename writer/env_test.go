package writer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/ocf"
	"github.com/thermocline/thermocline/writer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// branches is a Branches of one branch, "s", whose target can be changed.
type branches struct {
	mu      sync.RWMutex
	target  writer.Target
	before  map[int32]*schema.Schema // schemas that rows may have
	entered int                      // publishes under way
}

func (b *branches) Enter(ctx context.Context, stream, _ string) (writer.Target, func(), error) {
	if stream != "s" {
		return writer.Target{}, nil, fmt.Errorf("stream %q: %w", stream, record.ErrNotFound)
	}
	if err := ctx.Err(); err != nil {
		return writer.Target{}, nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entered++
	return b.target, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.entered--
	}, nil
}

// change gives the branch another target, as an evolution or a reset does.
func (b *branches) change(edit func(*writer.Target)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.before == nil {
		b.before = map[int32]*schema.Schema{}
	}
	b.before[b.target.Schema.ID] = b.target.Schema
	edit(&b.target)
	b.target.Version++
}

// env is a writer over a hot log in memory.
type env struct {
	t        testing.TB
	log      *disk.Log
	branches *branches
	w        *writer.Writer
}

const view record.ViewID = 7

func parse(t testing.TB, text string) *schema.Schema {
	t.Helper()
	s, err := schema.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return withIDs(s, 11)
}

func withIDs(s *schema.Schema, id int32) *schema.Schema {
	s, _ = s.AssignIDs(schema.FirstUserID)
	s.ID = id
	return s
}

func newEnv(t testing.TB, s *schema.Schema, partitions int, key ...string) *env {
	t.Helper()
	log, err := disk.Open("log", disk.Options{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler), SegmentBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := log.Open(t.Context(), view, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: partitions}); err != nil {
		t.Fatal(err)
	}
	b := &branches{target: writer.Target{View: view, Schema: s, Partitions: partitions, KeyFields: key, Version: 1}}
	return &env{t, log, b, writer.New(b, log)}
}

// publish fills in the branch.
func (e *env) publish(q writer.Request) (writer.Result, error) {
	q.Stream, q.Branch = "s", "main"
	return e.w.Publish(e.t.Context(), q)
}

func (e *env) must(q writer.Request) writer.Result {
	e.t.Helper()
	out, err := e.publish(q)
	if err != nil {
		e.t.Fatal(err)
	}
	return out
}

// stored is one row as it stands in the log.
type stored struct {
	partition record.Partition
	offset    record.Offset
	key       string
	id        int32
	json      string
}

// rows decodes everything that the log holds, by partition.
func (e *env) rows() (all []stored) {
	e.t.Helper()
	ends, err := e.log.Ends(view)
	if err != nil {
		e.t.Fatal(err)
	}
	e.branches.mu.RLock()
	schemas := maps.Clone(e.branches.before)
	if schemas == nil {
		schemas = map[int32]*schema.Schema{}
	}
	schemas[e.branches.target.Schema.ID] = e.branches.target.Schema
	e.branches.mu.RUnlock()
	programs := map[int32]*schema.AvroToJSON{}
	for id, s := range schemas {
		if programs[id], err = schema.CompileAvroToJSON(s, s, schema.JSONOutOptions{}); err != nil {
			e.t.Fatal(err)
		}
	}
	for p := range ends.End {
		for o := ends.Start[p]; o < ends.End[p]; {
			batches, err := e.log.Read(e.t.Context(), view, record.Partition(p), o, 1<<20)
			if err != nil {
				e.t.Fatal(err)
			}
			for _, b := range batches {
				var r record.Reader
				if err := r.Reset(b); err != nil {
					e.t.Fatal(err)
				}
				for {
					o, key, value, ok := r.Next()
					if !ok {
						break
					}
					id, datum, err := schema.SplitHeader(value)
					if err != nil {
						e.t.Fatal(err)
					}
					if programs[id] == nil {
						e.t.Fatalf("row %d has schema %d", o, id)
					}
					row, err := programs[id].Row(nil, datum)
					if err != nil {
						e.t.Fatalf("row %d: %v", o, err)
					}
					all = append(all, stored{record.Partition(p), o, string(key), id, string(row)})
				}
				o = b.End()
			}
		}
	}
	return all
}

// texts are the rows of all partitions as JSON.
func (e *env) texts() (all []string) {
	e.t.Helper()
	for _, r := range e.rows() {
		all = append(all, r.json)
	}
	return all
}

// container makes an Avro object container of data that are encoded already.
func container(t testing.TB, avsc string, c ocf.Codec, data ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := ocf.NewWriter(&b, avsc, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range data {
		if err := w.Append(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// avroBody encodes NDJSON rows as a container of s.
func avroBody(t testing.TB, s *schema.Schema, rows []byte) []byte {
	t.Helper()
	p, err := schema.CompileJSONToAvro(s, schema.JSONOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var data [][]byte
	if err := schema.SplitJSON(rows, func(_ int, raw []byte) error {
		d, err := p.Row(nil, raw)
		data = append(data, d)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return container(t, s.Avro(), ocf.Null, data...)
}

// arrowRecord encodes NDJSON rows as a batch of s.
func arrowRecord(t testing.TB, s *schema.Schema, rows []byte) arrow.RecordBatch {
	t.Helper()
	p, err := schema.CompileJSONToAvro(s, schema.JSONOptions{})
	if err != nil {
		t.Fatal(err)
	}
	columns, err := schema.CompileAvroToArrow(s, s)
	if err != nil {
		t.Fatal(err)
	}
	b := schema.NewBuilder(s, memory.DefaultAllocator)
	defer b.Release()
	if err := schema.SplitJSON(rows, func(_ int, raw []byte) error {
		d, err := p.Row(nil, raw)
		if err != nil {
			return err
		}
		return columns.Append(b, d)
	}); err != nil {
		t.Fatal(err)
	}
	return b.NewBatch()
}

// stream makes an IPC stream.
func stream(t testing.TB, batches []arrow.RecordBatch, o ...ipc.Option) []byte {
	t.Helper()
	var b bytes.Buffer
	w := ipc.NewWriter(&b, append([]ipc.Option{ipc.WithSchema(batches[0].Schema())}, o...)...)
	for _, r := range batches {
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func quakes(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("../testdata/earthquakes.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func varint(v int64) []byte { return binary.AppendVarint(nil, v) }

// stringsRecord is a batch with the one column k.
func stringsRecord(t testing.TB, values ...string) arrow.RecordBatch {
	t.Helper()
	b := array.NewStringBuilder(memory.DefaultAllocator)
	defer b.Release()
	b.AppendValues(values, nil)
	col := b.NewArray()
	defer col.Release()
	return array.NewRecordBatch(arrow.NewSchema([]arrow.Field{{Name: "k", Type: arrow.BinaryTypes.String}}, nil), []arrow.Array{col}, int64(len(values)))
}

// kept is a hot buffer that keeps rows until they are taken.
type kept struct {
	hotbuffer.Buffer
	rows    [][2]string // key, value
	appends int
}

func (b *kept) Append(_ context.Context, _ record.ViewID, a hotbuffer.Append) (hotbuffer.Appended, error) {
	b.appends++
	var out hotbuffer.Appended
	for _, p := range a.Parts {
		for i := range p.Rows.Len() {
			key, value := p.Rows.Row(i)
			b.rows = append(b.rows, [2]string{string(key), string(value)})
		}
		out.Ranges = append(out.Ranges, hotbuffer.PartRange{Partition: p.Partition, Range: record.Range{End: record.Offset(p.Rows.Len())}})
	}
	return out, nil
}

func (b *kept) take() [][2]string {
	rows := b.rows
	b.rows = nil
	return rows
}
