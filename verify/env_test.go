package verify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/cmd/thermocline/node"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/verify"
	"github.com/thermocline/thermocline/writer"
)

var quiet = slog.New(slog.DiscardHandler)

// prepared is a data directory of a stopped server, made once and restored for each
// case, one after the other: table metadata names its files by absolute paths. It
// holds the streams
//
//	kept     two archives, then hot rows; nothing was released
//	moved    two archives and released, then hot rows
//	reset    a view that was archived, reset and retired, and one with an archive
//	drains   a view that was archived in part and reset; nothing since
//	fresh    hot rows, nothing archived
var prepared struct {
	once       sync.Once
	root       string // dir, and copy as it was
	dir, saved string
	err        error
	busy       sync.Mutex
}

func TestMain(m *testing.M) {
	code := m.Run()
	if prepared.root != "" {
		_ = os.RemoveAll(prepared.root)
	}
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Println(err)
		code = 1
	}
	os.Exit(code)
}

const testSchema = `{"fields":[
	{"name":"k","type":"STRING","nullable":false},
	{"name":"producer","type":"STRING"},
	{"name":"seq","type":"LONG"},
	{"name":"n","type":"LONG","nullable":false}]}`

// feed publishes rows to a stream as one producer, with sequences one after the
// other.
type feed struct {
	n      *node.Node
	stream string
	next   int64
}

func (f *feed) publish(requests, rows int) error {
	for range requests {
		var b strings.Builder
		for range rows {
			fmt.Fprintf(&b, `{"k":"key-%d","producer":"p%d","seq":%d,"n":%d}`+"\n", f.next%4, f.next%2, f.next/2, f.next)
			f.next++
		}
		q := writer.Request{Stream: f.stream, Branch: "main", Format: writer.JSON, Body: []byte(b.String())}
		if _, err := f.n.Backend().Publisher.Publish(context.Background(), q); err != nil {
			return err
		}
	}
	return nil
}

func (f *feed) archive() error {
	_, err := f.n.Backend().Archiver.ArchiveNow(context.Background(), f.stream, "main")
	return err
}

// keep sets the stream's hot retention.
func (f *feed) keep(hot time.Duration) error {
	_, err := f.n.Backend().Streams.UpdateSettings(context.Background(), f.stream, "main", api.SettingsPatch{HotRetention: &hot})
	return err
}

func newFeed(n *node.Node, stream string, hot time.Duration, format api.DatasetFormat) (*feed, error) {
	s, err := schema.Parse([]byte(testSchema))
	if err != nil {
		return nil, err
	}
	partitions, every, keys := 2, 24*time.Hour, []string{"k"}
	_, err = n.Backend().Streams.CreateStream(context.Background(), api.CreateStream{Name: "default." + stream, Schema: s, Settings: api.SettingsPatch{
		Partitions: &partitions, ArchiveInterval: &every, HotRetention: &hot, KeyFields: &keys, DatasetFormat: &format,
	}})
	return &feed{n: n, stream: "default." + stream}, err
}

func prepare(dir string) (err error) {
	n, err := node.Open(context.Background(), node.Options{Dir: dir, SegmentBytes: 64 << 10, LogBytes: 64 << 20, Logger: quiet})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	do := func(stream string, hot time.Duration, format api.DatasetFormat, steps func(f *feed) error) {
		if err == nil {
			var f *feed
			if f, err = newFeed(n, stream, hot, format); err == nil {
				err = steps(f)
			}
		}
	}
	reset := func(f *feed) error {
		_, err := n.Backend().Streams.Reset(context.Background(), f.stream, "main", nil, api.SettingsPatch{})
		f.next = 0
		return err
	}
	halves := func(f *feed) error {
		return errors.Join(f.publish(5, 8), f.archive(), f.publish(3, 8), f.archive(), f.publish(2, 8))
	}
	do("kept", time.Hour, "PARQUET", halves)
	do("moved", 0, "AVRO", halves)
	do("reset", 0, "PARQUET", func(f *feed) error {
		return errors.Join(f.publish(3, 8), f.archive(), f.publish(1, 8), reset(f), f.publish(2, 8), f.archive(), f.publish(1, 8))
	})
	do("drains", 0, "PARQUET", func(f *feed) error {
		return errors.Join(f.publish(3, 8), f.archive(), f.publish(1, 8), reset(f), f.publish(2, 8))
	})
	do("fresh", 0, "PARQUET", func(f *feed) error { return f.publish(2, 8) })
	return err
}

// env is the prepared directory, as it was.
type env struct {
	t   *testing.T
	dir string
	// stopped is open for checks, until something is to be changed.
	stopped *node.Stopped
}

// open opens the directory for checks.
func (e *env) open() *node.Stopped {
	e.t.Helper()
	if e.stopped == nil {
		s, err := node.OpenStopped(e.t.Context(), e.dir, nil, quiet)
		e.must(err)
		e.stopped = s
	}
	return e.stopped
}

// close gives the directory back, so that it can be changed.
func (e *env) close() {
	if s := e.stopped; s != nil {
		e.stopped = nil
		if err := s.Close(); err != nil {
			e.t.Error(err)
		}
	}
}

func newEnv(t *testing.T) *env {
	t.Helper()
	prepared.once.Do(func() {
		p := &prepared
		//nolint:usetesting // it serves all tests
		if p.root, p.err = os.MkdirTemp("", "thermocline-verify-"); p.err != nil {
			return
		}
		p.dir, p.saved = filepath.Join(p.root, "data"), filepath.Join(p.root, "saved")
		if p.err = prepare(p.dir); p.err == nil {
			p.err = os.Rename(p.dir, p.saved)
		}
	})
	if prepared.err != nil {
		t.Fatal(prepared.err)
	}
	prepared.busy.Lock()
	t.Cleanup(prepared.busy.Unlock)
	e := &env{t: t, dir: prepared.dir}
	t.Cleanup(e.close)
	e.must(os.RemoveAll(e.dir))
	e.must(filepath.WalkDir(prepared.saved, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(prepared.saved, path)
		if err != nil {
			return err
		}
		to := filepath.Join(e.dir, rel)
		if d.IsDir() {
			return os.MkdirAll(to, 0o750)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, b, 0o600)
	}))
	return e
}

func (e *env) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) sql(query string, args ...any) int64 {
	e.t.Helper()
	e.close()
	db, err := sql.Open("sqlite", filepath.Join(e.dir, "catalog.db"))
	e.must(err)
	defer db.Close()
	out, err := db.ExecContext(e.t.Context(), query, args...)
	e.must(err)
	n, err := out.RowsAffected()
	e.must(err)
	// Not the catalog, but whoever changed it, said what it was when it was closed.
	e.must(os.RemoveAll(filepath.Join(e.dir, "catalog.db.sum")))
	return n
}

// changed runs a statement that must change one row.
func (e *env) changed(query string, args ...any) {
	e.t.Helper()
	if n := e.sql(query, args...); n != 1 {
		e.t.Fatalf("%s: changed %d rows", query, n)
	}
}

func (e *env) catalog() *catalog.Catalog {
	e.t.Helper()
	e.close()
	c, err := catalog.Open(e.t.Context(), catalog.Options{Path: filepath.Join(e.dir, "catalog.db")})
	e.must(err)
	return c
}

func (e *env) store() objstore.Store {
	e.t.Helper()
	s, err := objstore.NewFS(filepath.Join(e.dir, "warehouse"))
	e.must(err)
	return s
}

// with gives access to a stream's parts while nothing else has them.
func (e *env) with(stream string, do func(c *catalog.Catalog, d *dataset.Datasets, b catalog.Branch)) {
	e.t.Helper()
	c := e.catalog()
	defer c.Close()
	_, b, err := c.Resolve(e.t.Context(), "default", stream, "main")
	e.must(err)
	do(c, dataset.New(e.store(), c, dataset.Options{}), b)
}

// found is a finding in short.
func found(f verify.Finding) string {
	s := string(f.Code)
	if f.Severity == verify.Notice {
		s += " notice"
	}
	if f.View != 0 {
		s += fmt.Sprintf(" v%d", f.View)
	}
	if f.Partition != nil {
		s += fmt.Sprintf(" p%v", *f.Partition)
	}
	if f.Offsets != nil {
		s += fmt.Sprintf(" %v", *f.Offsets)
	}
	return s
}

// outcome is what a check found.
type outcome struct {
	findings []verify.Finding
	summary  verify.Summary
}

func (o outcome) short() []string {
	var all []string
	for _, f := range o.findings {
		all = append(all, found(f))
	}
	slices.Sort(all)
	return all
}

func check(ctx context.Context, v *verify.Verifier, stream string, q verify.Request) (out outcome, err error) {
	err = v.Branch(ctx, stream, "main", q, func(e verify.Event) error {
		switch {
		case e.Finding != nil:
			out.findings = append(out.findings, *e.Finding)
		case e.Summary != nil:
			out.summary = *e.Summary
		}
		return nil
	})
	return out, err
}

// verify checks a stream of the stopped server.
func (e *env) verify(stream string, q verify.Request) outcome {
	e.t.Helper()
	out, err := check(e.t.Context(), e.open().Verifier, stream, q)
	e.must(err)
	return out
}

// labelled asks for the producers' sequences too.
var labelled = verify.Request{ProducerColumn: "producer", SequenceColumn: "seq"}

func (e *env) want(stream string, want ...string) outcome {
	e.t.Helper()
	return e.wanted(stream, labelled, want...)
}

func (e *env) wanted(stream string, q verify.Request, want ...string) outcome {
	e.t.Helper()
	out := e.verify(stream, q)
	slices.Sort(want)
	if diff := cmp.Diff(want, out.short()); diff != "" {
		e.t.Errorf("%s (-want +got):\n%s", stream, diff)
		for _, f := range out.findings {
			e.t.Log(f.Error())
		}
	}
	for _, f := range out.findings {
		if f.Place == "" || f.Detail == "" || f.Remedy == "" {
			e.t.Errorf("a finding without place, detail or remedy: %+v", f)
		}
	}
	return out
}

// row is a row of the test streams.
type row struct {
	view, partition int32
	offset, micros  int64
	k, producer     string
	seq, n          int64
}

// rowsOf reads the archived rows.
func (e *env) rowsOf(t *dataset.Table, s *schema.Schema) []row {
	e.t.Helper()
	var rows []row
	for b, err := range t.Scan(e.t.Context(), dataset.ScanOptions{Schema: s.WithSystem()}) {
		e.must(err)
		for i := range int(b.NumRows()) {
			rows = append(rows, row{
				k: b.Column(0).(*array.String).Value(i), producer: b.Column(1).(*array.String).Value(i),
				seq: b.Column(2).(*array.Int64).Value(i), n: b.Column(3).(*array.Int64).Value(i),
				view: b.Column(4).(*array.Int32).Value(i), partition: b.Column(5).(*array.Int32).Value(i),
				offset: b.Column(6).(*array.Int64).Value(i), micros: int64(b.Column(7).(*array.Timestamp).Value(i)),
			})
		}
	}
	return rows
}

func batchOf(s *schema.Schema, rows []row) arrow.RecordBatch {
	b := array.NewRecordBuilder(memory.DefaultAllocator, s.WithSystem().Arrow())
	defer b.Release()
	for _, r := range rows {
		b.Field(0).(*array.StringBuilder).Append(strings.Clone(r.k))
		b.Field(1).(*array.StringBuilder).Append(strings.Clone(r.producer))
		b.Field(2).(*array.Int64Builder).Append(r.seq)
		b.Field(3).(*array.Int64Builder).Append(r.n)
		b.Field(4).(*array.Int32Builder).Append(r.view)
		b.Field(5).(*array.Int32Builder).Append(r.partition)
		b.Field(6).(*array.Int64Builder).Append(r.offset)
		b.Field(7).(*array.TimestampBuilder).Append(arrow.Timestamp(r.micros))
	}
	return b.NewRecordBatch()
}

// rewrite replaces the data files of a stream by one with the rows that change
// makes of them, the way a faulty compaction would. marker may change the marker.
func (e *env) rewrite(stream string, name dataset.FileName, change func([]row) []row, marker func(*dataset.Marker)) {
	e.t.Helper()
	e.with(stream, func(c *catalog.Catalog, d *dataset.Datasets, b catalog.Branch) {
		s, err := c.SchemaByID(e.t.Context(), b.SchemaID)
		e.must(err)
		t, err := d.Load(e.t.Context(), b.TableUUID)
		e.must(err)
		m, err := t.Marker()
		e.must(err)
		commit := dataset.Commit{RemoveAll: true}
		if m != nil {
			m.CommitID = uuid.NewString()
			if marker != nil {
				marker(m)
			}
			commit.Marker = m
		}
		if rows := change(e.rowsOf(t, s)); len(rows) > 0 {
			w, err := t.NewFileWriter(e.t.Context(), name, s, dataset.Parquet)
			e.must(err)
			batch := batchOf(s, rows)
			defer batch.Release()
			e.must(w.Write(batch))
			f, err := w.Close()
			e.must(err)
			commit.Add = []dataset.DataFile{f}
		}
		_, err = d.Commit(e.t.Context(), b.TableUUID, commit)
		e.must(err)
	})
}

// join adds a file with rows, as an engine or a merge does.
func (e *env) join(stream string, rows ...row) {
	e.t.Helper()
	e.with(stream, func(c *catalog.Catalog, d *dataset.Datasets, b catalog.Branch) {
		s, err := c.SchemaByID(e.t.Context(), b.SchemaID)
		e.must(err)
		t, err := d.Load(e.t.Context(), b.TableUUID)
		e.must(err)
		w, err := t.NewFileWriter(e.t.Context(), dataset.FileName{View: record.ViewNumber(rows[0].view)}, s, dataset.Parquet)
		e.must(err)
		batch := batchOf(s, rows)
		defer batch.Release()
		e.must(w.Write(batch))
		f, err := w.Close()
		e.must(err)
		_, err = d.Commit(e.t.Context(), b.TableUUID, dataset.Commit{Add: []dataset.DataFile{f}})
		e.must(err)
	})
}

// files lists the files of a stream's table that hold what: "data", "metadata".
func (e *env) files(stream, what string) []string {
	e.t.Helper()
	var names []string
	e.with(stream, func(_ *catalog.Catalog, _ *dataset.Datasets, b catalog.Branch) {
		list, err := filepath.Glob(filepath.Join(e.dir, "warehouse", b.TableUUID, what, "*"))
		e.must(err)
		names = list
	})
	if len(names) == 0 {
		e.t.Fatalf("%s has no files in %s", stream, what)
	}
	return names
}
