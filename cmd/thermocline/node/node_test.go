package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"go.uber.org/goleak"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/writer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a node with one stream "s" of (k STRING, n LONG), and what was
// published to it.
type world struct {
	t    *testing.T
	dir  string
	node *Node
	b    api.Backend
	next int64 // the next n
	stop func()
	// opts are given to Open. quiet: checkpoints only where archives take them.
	opts  Options
	quiet bool
}

const worldSchema = `{"fields":[{"name":"k","type":"STRING","nullable":false},{"name":"n","type":"LONG","nullable":false}]}`

func newWorld(t *testing.T, settings catalog.Settings) *world {
	t.Helper()
	return newWorldWith(t, settings, Options{CheckpointEvery: 20 * time.Millisecond})
}

func newWorldWith(t *testing.T, settings catalog.Settings, o Options) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), opts: o, quiet: o.CheckpointEvery == 0}
	w.open()
	w.create(settings)
	return w
}

// create makes the stream "s".
func (w *world) create(settings catalog.Settings) {
	w.t.Helper()
	w.next = 0
	s, err := schema.Parse([]byte(worldSchema))
	if err != nil {
		w.t.Fatal(err)
	}
	if settings.ArchiveInterval == 0 {
		settings.ArchiveInterval = catalog.MaxArchiveInterval // on request only
	}
	if _, err := w.node.directory.Create(w.t.Context(), "s", s, settings); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) open() {
	w.t.Helper()
	o := w.opts
	o.Dir = w.dir
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.seams.log == nil {
		o.seams.log = func(o *disk.Options) { o.SegmentBytes = 1 << 20 } // quick to zero
	}
	n, err := Open(w.t.Context(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !w.quiet {
			_ = n.checks.Run(ctx)
		}
	}()
	stopped := false
	w.node, w.b = n, n.Backend()
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		<-done
		if err := n.Close(); err != nil {
			w.t.Error(err)
		}
	}
	w.t.Cleanup(w.stop)
}

func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.open()
}

// publish appends rows n, n+1, … whose key is n modulo 7.
func (w *world) publish(rows int) {
	w.t.Helper()
	var b strings.Builder
	for range rows {
		fmt.Fprintf(&b, `{"k":"key-%d","n":%d}`+"\n", w.next%7, w.next)
		w.next++
	}
	w.publishBody(b.String())
}

func (w *world) publishBody(body string) {
	w.t.Helper()
	if _, err := w.node.writer.Publish(w.t.Context(), writer.Request{Stream: "s", Branch: "main", Format: writer.JSON, Body: []byte(body)}); err != nil {
		w.t.Fatal(err)
	}
}

// store is the warehouse, as another process opens it.
func (w *world) store() objstore.Store {
	w.t.Helper()
	s, err := objstore.NewFS(filepath.Join(w.dir, warehouseDir))
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) archive() api.Archived {
	w.t.Helper()
	out, err := w.b.Archiver.ArchiveNow(w.t.Context(), "s", "main")
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// row is what a read gave.
type row struct {
	k            string
	n            int64
	part, offset int64
}

// read runs a bounded read with system columns.
func (w *world) read(q reader.Request) (rows []row, end reader.Cursor) {
	w.t.Helper()
	q.System = true
	res, err := w.b.Reader.Read(w.t.Context(), "s", "main", q)
	if err != nil {
		w.t.Fatal(err)
	}
	for b, err := range res.Batches {
		if err != nil {
			w.t.Fatal(err)
		}
		rows = append(rows, rowsOf(b)...)
		end = b.Next
	}
	return rows, end
}

func rowsOf(b reader.Batch) (rows []row) {
	if b.Rows == nil {
		return nil
	}
	at := func(name string) arrow.Array { return b.Rows.Column(b.Rows.Schema().FieldIndices(name)[0]) }
	k, n := at("k").(*array.String), at("n").(*array.Int64)
	p, o := at(schema.PartitionColumn).(*array.Int32), at(schema.OffsetColumn).(*array.Int64)
	for i := range k.Len() {
		rows = append(rows, row{strings.Clone(k.Value(i)), n.Value(i), int64(p.Value(i)), o.Value(i)})
	}
	return rows
}

// check is the oracle: rows from..to-1, each once, offsets dense per partition
// and rows of a key in order.
func check(t *testing.T, rows []row, from, to int64) {
	t.Helper()
	if int64(len(rows)) != to-from {
		t.Fatalf("got %d rows, want %d", len(rows), to-from)
	}
	seen := map[int64]bool{}
	lastOfKey := map[string]int64{}
	nextOffset := map[int64]int64{}
	for _, r := range rows {
		if r.n < from || r.n >= to || seen[r.n] {
			t.Fatalf("row %+v is foreign or there twice", r)
		}
		seen[r.n] = true
		if last, ok := lastOfKey[r.k]; ok && last >= r.n {
			t.Fatalf("row %+v comes after %d of the same key", r, last)
		}
		lastOfKey[r.k] = r.n
		if want, ok := nextOffset[r.part]; ok && want != r.offset {
			t.Fatalf("row %+v: partition %d goes on at %d", r, r.part, want)
		}
		nextOffset[r.part] = r.offset + 1
	}
}

func TestHotColdAndBothReadAsOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{Partitions: 3, KeyFields: []string{"k"}})
	w.publish(1000)
	hot, _ := w.read(reader.Request{})
	check(t, hot, 0, 1000)

	if out := w.archive(); out.Rows != 1000 || out.SnapshotID == 0 {
		t.Fatalf("archived %+v, want 1000 rows", out)
	}
	cold, _ := w.read(reader.Request{})
	check(t, cold, 0, 1000)
	for i := range cold {
		if cold[i] != hot[i] {
			t.Fatalf("row %d is %+v cold and was %+v hot", i, cold[i], hot[i])
		}
	}

	w.publish(500)
	both, _ := w.read(reader.Request{})
	check(t, both, 0, 1500)
	w.archive()
	w.publish(1)
	w.restart()
	again, _ := w.read(reader.Request{})
	check(t, again, 0, 1501)
}

// Hot rows are gone from the hot buffer once they are cold.
func TestArchiveReleasesHotRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{})
	w.publish(100)
	w.archive()
	off, err := w.b.Archiver.Offsets(t.Context(), "s", "main")
	if err != nil {
		t.Fatal(err)
	}
	if off.Start.At(0) != 100 || off.Archived.At(0) != 100 || off.End.At(0) != 100 || off.Lag.Rows != 0 {
		t.Errorf("offsets %+v, want 100 everywhere and no lag", off)
	}
	if out := w.archive(); out.Rows != 0 {
		t.Errorf("a second archive moved %d rows", out.Rows)
	}
}

func TestHotRetentionKeepsRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{HotRetention: time.Hour})
	w.publish(100)
	w.archive()
	off, err := w.b.Archiver.Offsets(t.Context(), "s", "main")
	if err != nil {
		t.Fatal(err)
	}
	if off.Start.At(0) != 0 || off.Archived.At(0) != 100 {
		t.Errorf("offsets %+v, want start 0 and archived 100", off)
	}
	rows, _ := w.read(reader.Request{})
	check(t, rows, 0, 100)
}

// A cursor taken hot gives the same continuation when its rows are cold, at
// every position, and after a restart.
func TestCursorSurvivesArchiving(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{Partitions: 3, KeyFields: []string{"k"}})
	for range 5 {
		w.publish(20)
	}
	all, _ := w.read(reader.Request{})
	continuation := func(limit int64) (reader.Cursor, []row) {
		head, at := w.read(reader.Request{Limit: limit})
		if int64(len(head)) != limit {
			t.Fatalf("limit %d gave %d rows", limit, len(head))
		}
		text, err := reader.ParseCursor(at.String())
		if err != nil {
			t.Fatal(err)
		}
		rest, _ := w.read(reader.Request{From: reader.Start{Cursor: &text}})
		if len(head)+len(rest) != len(all) {
			t.Fatalf("limit %d: %d + %d rows of %d", limit, len(head), len(rest), len(all))
		}
		return text, rest
	}
	cursors := map[int64]reader.Cursor{}
	for limit := int64(1); limit < 100; limit += 7 {
		c, rest := continuation(limit)
		check(t, append(append([]row(nil), all[:limit]...), rest...), 0, 100)
		cursors[limit] = c
	}
	w.archive()
	w.restart()
	for limit, c := range cursors {
		rest, _ := w.read(reader.Request{From: reader.Start{Cursor: &c}})
		for i, r := range rest {
			if r != all[limit+int64(i)] {
				t.Fatalf("cursor %d: row %d is %+v cold, was %+v", limit, i, r, all[limit+int64(i)])
			}
		}
		if int64(len(rest)) != 100-limit {
			t.Fatalf("cursor %d: %d rows, want %d", limit, len(rest), 100-limit)
		}
	}
}

func (w *world) view() record.ViewID {
	st, err := w.node.directory.Resolve("s", "main")
	if err != nil {
		w.t.Fatal(err)
	}
	return st.Branch.View.ID
}

// epochs tails exactly once from the earliest row until epoch number last ends.
func (w *world) epochs(last int64) map[int64][]row {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	res, err := w.b.Reader.Tail(ctx, "s", "main", reader.Request{Consistency: catalog.ExactlyOnce, System: true})
	if err != nil {
		w.t.Fatal(err)
	}
	got := map[int64][]row{}
	for b, err := range res.Batches {
		if err != nil {
			w.t.Fatal(err)
		}
		got[b.Epoch] = append(got[b.Epoch], rowsOf(b)...)
		if b.EpochEnd && b.Next.Checkpoint >= last {
			return got
		}
	}
	w.t.Fatal("the tail ended")
	return nil
}

// A tail gets rows that come while it waits, across archives.
func TestTailFollowsAcrossArchives(t *testing.T) {
	t.Parallel()
	for _, consistency := range []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce} {
		t.Run(string(consistency), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, catalog.Settings{Partitions: 2, KeyFields: []string{"k"}})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			res, err := w.b.Reader.Tail(ctx, "s", "main", reader.Request{Consistency: consistency, System: true})
			if err != nil {
				t.Fatal(err)
			}
			got := make(chan []row)
			go func() {
				defer close(got)
				var rows []row
				for b, err := range res.Batches {
					if err != nil {
						return
					}
					rows = append(rows, rowsOf(b)...)
					if len(rows) >= 400 {
						got <- rows
						return
					}
				}
			}()
			for i := range 40 {
				w.publish(10)
				if i%10 == 5 {
					w.archive()
				}
			}
			check(t, <-got, 0, 400)
		})
	}
}

func TestPredicateAndProjectionAgreeHotAndCold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{Partitions: 2, KeyFields: []string{"k"}})
	w.publish(1000)
	q := reader.Request{Where: "n >= 990 or k = 'key-3' and n < 10", Columns: []string{"k", "n"}, System: true}
	hot, _ := w.read(q)
	w.archive()
	cold, _ := w.read(q)
	if len(hot) != 11 || fmt.Sprint(hot) != fmt.Sprint(cold) {
		t.Fatalf("hot %v\ncold %v", hot, cold)
	}
}

// A reset starts over: the new view has its own rows only, before and after
// the archiver has caught up, and the old rows stay in the dataset's history.
func TestReset(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{Partitions: 4, KeyFields: []string{"k"}})
	w.publish(100)
	w.archive()
	w.publish(50) // these are still hot when the reset comes
	_, old := w.read(reader.Request{})
	one := 1
	br, err := w.b.Streams.Reset(t.Context(), "s", "main", nil, api.SettingsPatch{Partitions: &one})
	if err != nil {
		t.Fatal(err)
	}
	if br.View != 2 || br.Settings.Partitions != 1 {
		t.Fatalf("after the reset: %+v", br)
	}
	rows, _ := w.read(reader.Request{})
	check(t, rows, 0, 0)
	w.next = 0
	w.publish(30)
	rows, _ = w.read(reader.Request{})
	check(t, rows, 0, 30)
	if _, err := w.b.Reader.Read(t.Context(), "s", "main", reader.Request{From: reader.Start{Cursor: &old}}); !errors.Is(err, reader.ErrOtherView) {
		t.Fatalf("a cursor of the old view: %v, want ErrOtherView", err)
	}
	w.restart()
	w.archive()
	rows, _ = w.read(reader.Request{})
	check(t, rows, 0, 30)
	page, err := w.b.Datasets.Snapshots(t.Context(), "s", "main", api.Page{Size: 100})
	if err != nil {
		t.Fatal(err)
	}
	most := int64(0)
	for _, s := range page.Snapshots {
		most = max(most, s.TotalRows)
	}
	if most != 150 || page.Snapshots[0].TotalRows != 30 {
		t.Fatalf("the history's largest version has %d rows, the newest %d; want 150 and 30", most, page.Snapshots[0].TotalRows)
	}
	if views := w.node.log.Views(); len(views) != 1 {
		t.Fatalf("the hot buffer still holds views %v", views)
	}
}

// Rows written under an old schema read under the new one, hot and cold.
func TestEvolveReadsOldRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{})
	w.publish(10)
	w.archive()
	w.publish(10)
	cur, err := w.b.Schemas.Schema(t.Context(), "s", "main")
	if err != nil {
		t.Fatal(err)
	}
	wide := cur.Schema.Clone()
	wide.Fields = append(wide.Fields, schema.Field{Name: "x", Type: schema.Type{Kind: schema.Double}, Nullable: true})
	v, err := w.b.Schemas.Evolve(t.Context(), "s", "main", wide)
	if err != nil {
		t.Fatal(err)
	}
	if v.Version != 2 {
		t.Fatalf("version %d", v.Version)
	}
	for _, where := range []string{"", "x is null"} {
		rows := 0
		res, err := w.b.Reader.Read(t.Context(), "s", "main", reader.Request{Where: where})
		if err != nil {
			t.Fatal(err)
		}
		for b, err := range res.Batches {
			if err != nil {
				t.Fatal(err)
			}
			if b.Rows != nil {
				rows += int(b.Rows.NumRows())
				if b.Rows.NumCols() != 3 || b.Rows.Column(2).NullN() != int(b.Rows.NumRows()) {
					t.Fatalf("batch %v", b.Rows)
				}
			}
		}
		if rows != 20 {
			t.Fatalf("where %q: %d rows, want 20", where, rows)
		}
	}
	w.archive()
	rows, _ := w.read(reader.Request{Columns: []string{"k", "n", "x"}})
	check(t, rows, 0, 20)
}

func TestDeleteFreesTheName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{})
	w.publish(10)
	w.archive()
	if err := w.b.Streams.DeleteStream(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.Reader.Read(t.Context(), "s", "main", reader.Request{}); !errors.Is(err, record.ErrNotFound) {
		t.Fatalf("read of a deleted stream: %v", err)
	}
	s, err := schema.Parse([]byte(worldSchema))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.node.directory.Create(t.Context(), "s", s, catalog.Settings{}); err != nil {
		t.Fatal(err)
	}
	w.next = 0
	w.publish(5)
	rows, _ := w.read(reader.Request{})
	check(t, rows, 0, 5)
	w.restart()
	rows, _ = w.read(reader.Request{})
	check(t, rows, 0, 5)
}

// Retries with a producer's sequence, and with an idempotency key, append once.
func TestRetriesAppendOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{Partitions: 3})
	send := func(q writer.Request) writer.Result {
		q.Stream, q.Branch, q.Format, q.Body = "s", "main", writer.JSON, []byte(`{"k":"a","n":1}`)
		out, err := w.node.writer.Publish(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, q := range []writer.Request{
		{Producer: &writer.Producer{Name: "p", Sequence: 0}},
		{Producer: &writer.Producer{Name: "p", Sequence: 1}},
		{IdempotencyKey: "p"},
	} {
		first := send(q)
		w.restart()
		second := send(q)
		if first.Duplicate || !second.Duplicate || fmt.Sprint(first.Ranges) != fmt.Sprint(second.Ranges) {
			t.Errorf("%+v: first %+v, then %+v", q, first, second)
		}
	}
	if rows, _ := w.read(reader.Request{}); len(rows) != 3 {
		t.Errorf("%d rows, want 3", len(rows))
	}
	_, err := w.node.writer.Publish(t.Context(), writer.Request{Stream: "s", Branch: "main", Format: writer.JSON,
		Body: []byte(`{"k":"a","n":1}`), Producer: &writer.Producer{Name: "p", Sequence: 7}})
	if !errors.Is(err, record.ErrOutOfSequence) {
		t.Errorf("a gap in the sequence: %v", err)
	}
}
