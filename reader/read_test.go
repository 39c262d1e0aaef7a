package reader_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// mixed is an env with cold rows in several files, rows in both halves, and hot
// ones; 3 partitions, 120 rows.
func mixed(t *testing.T) *env {
	e := newEnv(t, 3)
	for i := range 4 {
		for p := range record.Partition(3) {
			e.publish(p, 5)
			e.publish((p+1)%3, 5)
		}
		cut := e.take().Cut
		if i < 3 {
			e.archive(cut)
		}
		if i < 2 {
			e.release(cut)
		}
	}
	return e
}

// The cursor behind a limit gives exactly what is left, at every limit, with and
// without a predicate, wherever the rows lie, and for both consistencies.
func TestLimitAndContinuation(t *testing.T) {
	t.Parallel()
	e := mixed(t)
	for _, where := range []string{"", "k = 'odd'", "n >= 60", "n < 7 or n > 111", "n = 77", "n < 0"} {
		whole, _ := e.read(reader.Request{Where: where})
		for _, c := range []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce} {
			for limit := int64(1); limit <= int64(len(whole))+1; limit += 1 + limit/9 {
				head, at := e.read(reader.Request{Where: where, Limit: limit})
				text, err := reader.ParseCursor(at.String())
				if err != nil {
					t.Fatal(err)
				}
				rest, end := e.read(reader.Request{Where: where, From: reader.Start{Cursor: &text}, Consistency: c})
				if want := min(limit, int64(len(whole))); int64(len(head)) != want {
					t.Fatalf("where %q, limit %d: %d rows, want %d", where, limit, len(head), want)
				}
				e.want(append(head, rest...), whole)
				if !end.Next.Equal(e.ends().End) {
					t.Fatalf("where %q, limit %d: the read closes at %v, not at %v", where, limit, end.Next, e.ends().End)
				}
			}
		}
	}
}

// Reading one by one gives the same as reading at once, also while the rows
// turn cold.
func TestReadingRowByRow(t *testing.T) {
	t.Parallel()
	e := mixed(t)
	whole, _ := e.read(reader.Request{})
	e.want(sorted(whole), count(120))
	var got []int64
	var at *reader.Cursor
	for i := 0; ; i++ {
		rows, next := e.read(reader.Request{From: reader.Start{Cursor: at}, Limit: 1})
		if len(rows) == 0 {
			break
		}
		got, at = append(got, rows...), &next
		if i == 50 || i == 80 {
			e.flush()
		}
	}
	e.want(got, whole)
}

func sorted(ns []int64) []int64 {
	c := slices.Clone(ns)
	slices.Sort(c)
	return c
}

// A bounded read sees what was there at its call: nothing that came later, and
// exactly once nothing behind the last checkpoint.
func TestReadIsBounded(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	e.publish(0, 10)
	e.take()
	e.publish(0, 10)
	res, err := e.r.Read(t.Context(), e.target, reader.Request{})
	if err != nil {
		t.Fatal(err)
	}
	once, err := e.r.Read(t.Context(), e.target, reader.Request{Consistency: catalog.ExactlyOnce})
	if err != nil {
		t.Fatal(err)
	}
	e.publish(0, 10)
	e.take()
	for want, res := range map[int64]*reader.Result{20: res, 10: once} {
		var got []int64
		for b, err := range res.Batches {
			if err != nil {
				t.Fatal(err)
			}
			if b.Epoch != 0 || b.EpochEnd {
				t.Errorf("a bounded read has epoch %d", b.Epoch)
			}
			got = append(got, numbers(b)...)
		}
		e.want(got, count(want))
	}
}

// A cursor of one consistency is good for the other.
func TestCursorsOfTheOtherConsistency(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2)
	e.publish(0, 10)
	e.publish(1, 10)
	e.take()
	e.publish(0, 10)
	ahead, at := e.read(reader.Request{}) // stands behind the last checkpoint
	e.want(ahead, count(30))
	got, end := e.read(reader.Request{From: reader.Start{Cursor: &at}, Consistency: catalog.ExactlyOnce})
	e.want(got, nil)
	if !end.Next.Equal(at.Next) {
		t.Fatalf("a read with nothing to give moved the cursor from %v to %v", at.Next, end.Next)
	}
	// Ahead in one partition, behind in the other.
	odd := reader.Cursor{View: view, Next: record.Offsets{15, 3}}
	got, end = e.read(reader.Request{From: reader.Start{Cursor: &odd}, Consistency: catalog.ExactlyOnce})
	e.want(got, count(20)[13:])
	if !end.Next.Equal(record.Offsets{15, 10}) {
		t.Fatalf("the read closes at %v", end.Next)
	}
	e.take()
	got, _ = e.read(reader.Request{From: reader.Start{Cursor: &end}, Consistency: catalog.ExactlyOnce})
	e.want(got, count(30)[25:])
	got, _ = e.read(reader.Request{From: reader.Start{Cursor: &end}, Consistency: catalog.AtLeastOnce})
	e.want(got, count(30)[25:])
}

func TestCursorsThatCannotBe(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	e.publish(0, 10)
	for name, c := range map[string]struct {
		cursor reader.Cursor
		is     error
		words  []string
	}{
		"other view":        {reader.Cursor{View: view + 1}, reader.ErrOtherView, []string{"another view", "earliest"}},
		"future":            {reader.Cursor{View: view, Next: record.Offsets{11}}, record.ErrOutOfRange, []string{"offset 11", "partition 0", "ends at 10", "earliest"}},
		"unknown partition": {reader.Cursor{View: view, Next: record.Offsets{0, 0, 1}}, record.ErrOutOfRange, []string{"partition 2"}},
	} {
		for _, consistency := range []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce} {
			q := reader.Request{From: reader.Start{Cursor: &c.cursor}, Consistency: consistency}
			_, err := e.r.Read(t.Context(), e.target, q)
			_, err2 := e.r.Tail(t.Context(), e.target, q)
			for _, err := range []error{err, err2} {
				if !errors.Is(err, c.is) || !errors.Is(err, record.ErrOutOfRange) {
					t.Errorf("%s: got %v, want %v", name, err, c.is)
				}
				contains(t, err, c.words...)
			}
		}
	}
}

// A log that has lost rows which readers have seen is not read as if it had not.
func TestLostRowsAreTold(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	e.publish(0, 10)
	cp := e.take()
	cp.Number, cp.Cut = 2, record.Offsets{12}
	if err := e.store.AddCheckpoints(t.Context(), []catalog.Checkpoint{cp}); err != nil {
		t.Fatal(err)
	}
	checks := reader.NewCheckpointer(e.log, e.store, e.log.Views, reader.CheckpointOptions{})
	r := reader.New(e.log, e.datasets, e.schemas, checks)
	_, err := r.Read(t.Context(), e.target, reader.Request{})
	_, err2 := checks.Take(t.Context(), view)
	for _, err := range []error{err, err2} {
		if !errors.Is(err, record.ErrCorrupt) {
			t.Errorf("got %v, want ErrCorrupt", err)
		}
		contains(t, err, "checkpoint 2", "offset 12", "ends at 10", "restore")
	}
}

// Columns and predicates, by all the ways to name them, agree in both halves.
func TestPlans(t *testing.T) {
	t.Parallel()
	e := mixed(t)
	for _, c := range []struct {
		columns, where string
		system         bool
		want           string // the columns
	}{
		{"", "n = 13", false, "k n s"},
		{"n,k", "n = 13", false, "n k"},
		{"k,n", "", false, "k n"},
		{"s.b,n", "n = 13", false, "s n"},
		{"s.b,n", "s.a = 13", false, "s n"},
		{"n", "s.a = 13 and k = 'odd'", false, "n"},
		{"s.c.element.x,n", "s.a = 13", false, "s n"},
		{"n,s.c", "s.b = 'b13' and s.a is not null", false, "n s"},
		{"_offset,n,_partition_id", "_offset >= 0 and n = 13", false, "_offset n _partition_id"},
		{"n", "n = 13 and _timestamp > '2000-01-01T00:00:00Z' and _view = 3", true, "n _view _partition_id _offset _timestamp"},
		{"n,_offset", "s.b is null or n = 13", true, "n _offset _view _partition_id _timestamp"},
		{"s,n,s.a", "", true, "s n _view _partition_id _offset _timestamp"},
	} {
		q := reader.Request{Where: c.where, System: c.system}
		if c.columns != "" {
			q.Columns = strings.Split(c.columns, ",")
		}
		first := ""
		for _, cold := range []bool{false, true} {
			if cold {
				e.flush()
			}
			got := e.text(q)
			if first == "" {
				first = got
			} else if got != first {
				t.Fatalf("%+v: cold\n%s\nhot\n%s", c, got, first)
			}
		}
		var names []string
		for pair := range strings.SplitSeq(strings.Trim(first[:max(0, strings.IndexByte(first, '\n'))], " "), "\t") {
			names = append(names, pair[:max(0, strings.IndexByte(pair, '='))])
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%+v: columns %s", c, got)
		}
	}
}

// text is every row of a read, with its columns' names.
func (e *env) text(q reader.Request) string {
	e.t.Helper()
	res, err := e.r.Read(e.t.Context(), e.target, q)
	if err != nil {
		e.t.Fatalf("%+v: %v", q, err)
	}
	var b strings.Builder
	for batch, err := range res.Batches {
		if err != nil {
			e.t.Fatalf("%+v: %v", q, err)
		}
		if batch.Rows == nil {
			continue
		}
		if !batch.Rows.Schema().Equal(res.Schema.Arrow()) {
			e.t.Fatalf("%+v: batches of %v, promised %v", q, batch.Rows.Schema(), res.Schema.Arrow())
		}
		if err := array.ValidateRecord(batch.Rows); err != nil {
			e.t.Fatalf("%+v: %v", q, err)
		}
		for i := range int(batch.Rows.NumRows()) {
			for j, col := range batch.Rows.Columns() {
				if j > 0 {
					b.WriteByte('\t')
				}
				fmt.Fprintf(&b, "%s=%s", batch.Rows.ColumnName(j), col.ValueStr(i))
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func TestRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	for name, c := range map[string]struct {
		q     reader.Request
		words []string
	}{
		"column":       {reader.Request{Columns: []string{"nope"}}, []string{"nope", "k, n, s"}},
		"no columns":   {reader.Request{Columns: []string{}}, []string{"at least one"}},
		"where column": {reader.Request{Where: "nope = 1"}, []string{"nope"}},
		"where":        {reader.Request{Where: "n ="}, []string{"where"}},
		"limit":        {reader.Request{Limit: -1}, []string{"limit -1"}},
	} {
		_, err := e.r.Read(t.Context(), e.target, c.q)
		if !errors.Is(err, record.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
		contains(t, err, c.words...)
	}
	if _, err := e.r.Tail(t.Context(), e.target, reader.Request{Limit: 1}); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("a tail with a limit: %v, want ErrInvalid", err)
	}
}

// A read whose schema cannot hold newer rows says so, and one that takes the
// newer schema goes on from its cursor.
func TestRowsOfANewerSchema(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	e.publish(0, 10)
	old := e.target
	old.Schema = old.Schema.Clone()
	old.Schema.Fields[1].Type.Kind = schema.Integer
	old.Schema.ID = 9
	res, err := e.r.Read(t.Context(), old, reader.Request{})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range res.Batches {
		if !errors.Is(err, record.ErrConflict) || errors.Is(err, record.ErrInvalid) {
			t.Fatalf("got %v, want ErrConflict", err)
		}
		contains(t, err, "schema 1", "schema 9", "newest schema")
	}
}

// Arrow memory of hot rows is given back, whatever becomes of the read. Not
// parallel, because the allocator is everyone's. (The Parquet library keeps
// buffers in pools, so that this cannot be seen of cold rows.)
func TestReadsReleaseTheirMemory(t *testing.T) { //nolint:paralleltest // see above
	checked := memory.NewCheckedAllocator(memory.DefaultAllocator)
	before := memory.DefaultAllocator
	memory.DefaultAllocator = checked
	defer func() { memory.DefaultAllocator = before }()
	defer checked.AssertSize(t, 0)
	e := newEnv(t, 2)
	for range 4 {
		e.publish(0, 50)
		e.publish(1, 50)
		e.take()
	}
	for _, where := range []string{"", "k = 'odd'", "n < 0", "s.a > 120"} {
		for _, columns := range [][]string{nil, {"n", "s.b"}, {"s.c.element.x", "n"}} {
			for _, limit := range []int64{0, 1, 30, 50} {
				e.read(reader.Request{Where: where, Columns: columns, Limit: limit, System: limit == 1})
			}
			for leave := range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				res, err := e.r.Tail(ctx, e.target, reader.Request{Where: where, Columns: columns, Consistency: catalog.ExactlyOnce})
				if err != nil {
					t.Fatal(err)
				}
				for range res.Batches {
					if leave--; leave < 0 {
						break
					}
				}
				cancel()
			}
		}
	}
	delete(e.schemas, 1)
	if _, _, err := e.tryRead(reader.Request{}); !errors.Is(err, record.ErrCorrupt) {
		t.Fatal(err)
	}
}
