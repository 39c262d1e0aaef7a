package writer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/ocf"
	"github.com/thermocline/thermocline/schema/schematest"
	"github.com/thermocline/thermocline/writer"
)

const flat = `{"fields":[{"name":"k","type":"STRING","nullable":false},{"name":"n","type":"LONG"}]}`

func TestJSONForms(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"array":    ` [{"k":"a","n":1}, {"n":2,"k":"b"}] `,
		"envelope": `{"rows":[{"k":"a","n":1},{"k":"b","n":"2"}]}`,
		"NDJSON":   "{\"k\":\"a\",\"n\":1}\n\n{\"k\":\"b\",\"n\":2}\n",
	} {
		e := newEnv(t, parse(t, flat), 1)
		out := e.must(writer.Request{Format: writer.JSON, Body: []byte(body)})
		if out.Rows != 2 || out.Duplicate || out.RejectedRows != 0 {
			t.Errorf("%s: %+v", name, out)
		}
		if diff := cmp.Diff([]string{`{"k":"a","n":1}`, `{"k":"b","n":2}`}, e.texts()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if rows := e.rows(); rows[0].id != 11 {
			t.Errorf("%s: rows of schema %d, want 11", name, rows[0].id)
		}
	}
}

func TestNoRows(t *testing.T) {
	t.Parallel()
	e := newEnv(t, parse(t, flat), 1)
	for f, body := range map[writer.Format][]byte{
		writer.JSON: []byte(" \n"), writer.Avro: avroBody(t, parse(t, flat), nil),
		writer.Arrow: stream(t, []arrow.RecordBatch{arrowRecord(t, parse(t, flat), nil)}),
	} {
		if out := e.must(writer.Request{Format: f, Body: body}); out.Rows != 0 || out.Ranges != nil {
			t.Errorf("%s: %+v", f, out)
		}
	}
	if out := e.must(writer.Request{Format: writer.JSON, Body: []byte("[]")}); out.Rows != 0 {
		t.Errorf("an empty array: %+v", out)
	}
}

// A row is the same row in every format: the same bytes, the same key, and so
// the same partition.
func TestFormatsAgree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		s := withIDs(schematest.Schema(3).Draw(r, "schema"), 11)
		rows := rapid.SliceOfN(schematest.Rows(s), 1, 6).Draw(r, "rows")
		var key []string
		for i := range s.Fields {
			if !s.Fields[i].Type.Kind.Nested() && len(key) < 2 {
				key = append(key, s.Fields[i].Name)
			}
		}
		var exact, loose [][]byte
		var data [][]byte
		for _, row := range rows {
			exact, loose, data = append(exact, row.JSON), append(loose, row.Loose), append(data, row.Avro)
		}
		ndjson := bytes.Join(exact, []byte("\n"))
		rec := arrowRecord(t, s, ndjson)
		defer rec.Release()
		var want []stored
		for i, q := range []writer.Request{
			{Format: writer.JSON, Body: ndjson},
			{Format: writer.JSON, Body: append(append([]byte("["), bytes.Join(loose, []byte(","))...), ']')},
			{Format: writer.Avro, Body: container(t, s.Avro(), ocf.Zstd, data...)},
			{Format: writer.Arrow, Body: stream(t, []arrow.RecordBatch{rec})},
		} {
			e := newEnv(t, s, 5, key...)
			if out := e.must(q); out.Rows != int64(len(rows)) {
				r.Fatalf("%s: %+v", q.Format, out)
			}
			got := e.rows()
			if i == 0 {
				want = got
			} else if !slices.Equal(got, want) {
				r.Fatalf("%s differs from JSON:\n%+v\n%+v", q.Format, got, want)
			}
		}
	})
}

// Bad rows carry their own index, in every format, wherever they stand.
func TestRejectedRows(t *testing.T) {
	t.Parallel()
	const rows = 5000
	bad := map[int]bool{0: true, 1023: true, 1024: true, 1025: true, 2047: true, 4095: true, 4096: true, 4999: true}
	s := parse(t, flat)
	lenient := parse(t, `{"fields":[{"name":"k","type":"STRING"},{"name":"n","type":"LONG"}]}`)
	var b strings.Builder
	for i := range rows {
		if bad[i] {
			fmt.Fprintf(&b, `{"k":null,"n":%d}`+"\n", i)
		} else {
			fmt.Fprintf(&b, `{"k":"key","n":%d}`+"\n", i)
		}
	}
	ndjson := []byte(b.String())
	rec := arrowRecord(t, lenient, ndjson)
	defer rec.Release()
	first, second := rec.NewSlice(0, 1024), rec.NewSlice(1024, rows)
	defer first.Release()
	defer second.Release()
	for f, body := range map[writer.Format][]byte{
		writer.JSON: ndjson, writer.Avro: avroBody(t, lenient, ndjson), writer.Arrow: stream(t, []arrow.RecordBatch{first, second}),
	} {
		e := newEnv(t, s, 1)
		_, err := e.publish(writer.Request{Format: f, Body: body})
		var rejected *writer.RejectedError
		if !errors.As(err, &rejected) || !errors.Is(err, record.ErrInvalid) {
			t.Fatalf("%s: got %v, want a RejectedError", f, err)
		}
		if rejected.Total != int64(len(bad)) || rejected.Of != rows || len(rejected.Rows) != len(bad) {
			t.Errorf("%s: %d of %d rejected, %d listed", f, rejected.Total, rejected.Of, len(rejected.Rows))
		}
		if !strings.Contains(err.Error(), "8 of 5000 rows rejected, nothing was appended: row 0, field k") {
			t.Errorf("%s: %v", f, err)
		}
		for _, r := range rejected.Rows {
			if !bad[r.Row] || r.Path != "k" || r.Code != schema.CodeNull {
				t.Errorf("%s: %+v", f, r)
			}
		}
		if got := e.rows(); len(got) != 0 {
			t.Fatalf("%s: %d rows were appended", f, len(got))
		}
		out := e.must(writer.Request{Format: f, Body: body, SkipInvalid: true})
		if out.Rows != rows-8 || out.RejectedRows != 8 || len(out.Rejected) != 8 {
			t.Errorf("%s, skipping: %d rows, %d rejected", f, out.Rows, out.RejectedRows)
		}
		n := 0
		for _, text := range e.texts() {
			for bad[n] {
				n++
			}
			if text != fmt.Sprintf(`{"k":"key","n":%d}`, n) {
				t.Fatalf("%s: row %d is %s", f, n, text)
			}
			n++
		}
	}
}

func TestManyRejectedRowsAreCounted(t *testing.T) {
	t.Parallel()
	e := newEnv(t, parse(t, flat), 1)
	body := bytes.Repeat([]byte("{}\n"), 3000)
	_, err := e.publish(writer.Request{Format: writer.JSON, Body: body})
	var rejected *writer.RejectedError
	if !errors.As(err, &rejected) || rejected.Total != 3000 || len(rejected.Rows) != writer.MaxListed {
		t.Fatalf("got %+v", rejected)
	}
	out := e.must(writer.Request{Format: writer.JSON, Body: body, SkipInvalid: true})
	if out.Rows != 0 || out.RejectedRows != 3000 || len(out.Rejected) != writer.MaxListed {
		t.Fatalf("got %d rejected, %d listed", out.RejectedRows, len(out.Rejected))
	}
}

// A row of 1 MB with its key is the most, in every format.
func TestLargeRows(t *testing.T) {
	t.Parallel()
	s := parse(t, flat)
	for _, c := range []struct {
		size int
		key  []string
		good bool
	}{{writer.MaxRowBytes - 200, nil, true}, {writer.MaxRowBytes, nil, false}, {writer.MaxRowBytes/2 - 100, []string{"k"}, true}, {writer.MaxRowBytes / 2, []string{"k"}, false}} {
		ndjson := []byte(fmt.Sprintf(`{"k":%q}`, strings.Repeat("x", c.size)))
		wide := withIDs(s, 11)
		for f, body := range map[writer.Format]func() []byte{
			writer.JSON: func() []byte { return ndjson },
			writer.Avro: func() []byte {
				d := append(varint(int64(c.size)), bytes.Repeat([]byte("x"), c.size)...)
				return container(t, wide.Avro(), ocf.Snappy, append(d, 0))
			},
			writer.Arrow: func() []byte {
				return stream(t, []arrow.RecordBatch{stringsRecord(t, strings.Repeat("x", c.size))})
			},
		} {
			e := newEnv(t, s, 1, c.key...)
			_, err := e.publish(writer.Request{Format: f, Body: body()})
			var rejected *writer.RejectedError
			if c.good && err != nil || !c.good && (!errors.As(err, &rejected) || rejected.Rows[0].Code != schema.CodeTooLarge || !errors.Is(rejected.Rows[0], record.ErrTooLarge)) {
				t.Errorf("%s of %d bytes, key %v: %v", f, c.size, c.key, err)
			}
		}
	}
}

// What a body of allowed size may become is bounded, before it is there.
func TestRequestsThatGrow(t *testing.T) {
	t.Parallel()
	s := parse(t, `{"fields":[{"name":"k","type":"STRING","nullable":false,"default":"`+strings.Repeat("x", 30_000)+`"}]}`)
	b := &kept{}
	w := writer.New(&branches{target: writer.Target{View: view, Schema: s, Partitions: 1, Version: 1}}, b)
	_, err := w.Publish(t.Context(), writer.Request{Stream: "s", Format: writer.JSON, Body: bytes.Repeat([]byte("{}\n"), 10_000)})
	if !errors.Is(err, record.ErrTooLarge) {
		t.Fatalf("10000 rows that become 300 MB: %v", err)
	}
	for _, w := range []string{"publish to s", "100663296", "fewer"} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v does not say %q", err, w)
		}
	}
	if b.appends > 0 {
		t.Error("they reached the hot buffer")
	}
}

func TestKeysChooseThePartition(t *testing.T) {
	t.Parallel()
	e := newEnv(t, parse(t, flat), 4, "k")
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, `{"k":"key-%d","n":%d}`+"\n", i%37, i)
	}
	for range 3 {
		e.must(writer.Request{Format: writer.JSON, Body: []byte(b.String())})
	}
	of := map[string]record.Partition{}
	used := map[record.Partition]bool{}
	for _, r := range e.rows() {
		if p, ok := of[r.key]; ok && p != r.partition {
			t.Fatalf("key %q is in partitions %d and %d", r.key, p, r.partition)
		}
		of[r.key], used[r.partition] = r.partition, true
		if r.key == "" {
			t.Fatal("a row without its key")
		}
	}
	if len(of) != 37 || len(used) != 4 {
		t.Errorf("%d keys in %d partitions", len(of), len(used))
	}
}

// Requests without keys take the partitions in turn, each branch for itself, and
// keep their rows together.
func TestTurns(t *testing.T) {
	t.Parallel()
	e := newEnv(t, parse(t, flat), 3)
	other := newEnv(t, parse(t, flat), 2)
	other.w = e.w // one writer, two branches
	both := &twoBranches{a: e.branches, b: other.branches}
	w := writer.New(both, e.log)
	other.branches.change(func(t *writer.Target) { t.View = view + 1 })
	if err := e.log.Open(t.Context(), view+1, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		for _, name := range []string{"a", "b"} {
			out, err := w.Publish(t.Context(), writer.Request{Stream: name, Format: writer.JSON, Body: []byte("{\"k\":\"x\"}\n{\"k\":\"y\"}")})
			if err != nil {
				t.Fatal(err)
			}
			n := map[string]int{"a": 3, "b": 2}[name]
			if len(out.Ranges) != 1 || int(out.Ranges[0].Partition) != i%n || out.Ranges[0].Len() != 2 {
				t.Fatalf("request %d of %s went to %+v", i, name, out.Ranges)
			}
		}
	}
}

type twoBranches struct{ a, b *branches }

func (t *twoBranches) Enter(ctx context.Context, stream, branch string) (writer.Target, func(), error) {
	if stream == "a" {
		return t.a.Enter(ctx, "s", branch)
	}
	return t.b.Enter(ctx, "s", branch)
}

// A new version of the branch is taken at once: schema, keys, partitions, view.
func TestVersionsChange(t *testing.T) {
	t.Parallel()
	e := newEnv(t, parse(t, flat), 1)
	body := writer.Request{Format: writer.JSON, Body: []byte(`{"k":"a","n":1}`)}
	e.must(body)
	e.branches.change(func(tg *writer.Target) {
		tg.Schema = parse(t, `{"fields":[{"name":"k","type":"STRING","nullable":false},{"name":"n","type":"LONG"},{"name":"x","type":"LONG","default":9}]}`)
		tg.Schema.ID = 12
	})
	e.must(body)
	e.must(writer.Request{Format: writer.Avro, Body: avroBody(t, parse(t, flat), body.Body)})
	if rows := e.rows()[1:]; rows[0].id != 12 || rows[0].json != `{"k":"a","n":1,"x":9}` || rows[1].json != rows[0].json {
		t.Fatalf("after the evolution: %+v", rows)
	}
	e.branches.change(func(tg *writer.Target) { tg.KeyFields, tg.Partitions = []string{"k"}, 4 })
	if err := e.log.Open(t.Context(), view, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 4}); err != nil {
		t.Fatal(err)
	}
	e.must(body)
	if rows := e.rows(); !slices.ContainsFunc(rows, func(r stored) bool { return r.key != "" }) {
		t.Fatalf("after the key was set: %+v", rows)
	}
	e.branches.change(func(tg *writer.Target) { tg.Partitions = 0 })
	if _, err := e.publish(body); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("no partitions: %v", err)
	}
	e.branches.change(func(tg *writer.Target) { tg.Partitions, tg.KeyFields = 4, []string{"nope"} })
	if _, err := e.publish(body); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("a key that is no field: %v", err)
	}
}

func TestProducers(t *testing.T) {
	t.Parallel()
	e := newEnv(t, parse(t, flat), 3, "k")
	q := writer.Request{Format: writer.JSON, Body: []byte("{\"k\":\"a\"}\n{\"k\":\"b\"}\n{\"k\":\"c\"}")}
	with := func(name string, epoch int32, sequence int64) writer.Request {
		c := q
		c.Producer = &writer.Producer{Name: name, Epoch: epoch, Sequence: sequence}
		return c
	}
	once := q
	once.IdempotencyKey = "p"
	for _, q := range []writer.Request{with("p", 0, 5), with("p", 0, 6), with("q", 0, 0), once} {
		first, again := e.must(q), e.must(q)
		if first.Duplicate || !again.Duplicate || again.Rows != 3 || first.Rows != 3 {
			t.Errorf("%+v: %+v then %+v", q, first, again)
		}
	}
	if got := len(e.rows()); got != 12 {
		t.Fatalf("%d rows, want 12", got)
	}
	for name, c := range map[string]struct {
		q  writer.Request
		is error
	}{
		"gap":          {with("p", 0, 9), record.ErrOutOfSequence},
		"old epoch":    {func() writer.Request { e.must(with("r", 3, 0)); return with("r", 2, 1) }(), record.ErrFenced},
		"no name":      {with("", 0, 1), record.ErrInvalid},
		"epoch -1":     {with("p", -1, 1), record.ErrInvalid},
		"sequence -1":  {with("p", 0, -1), record.ErrInvalid},
		"long name":    {with(strings.Repeat("x", 257), 0, 1), record.ErrInvalid},
		"both":         {func() writer.Request { c := with("p", 0, 7); c.IdempotencyKey = "x"; return c }(), record.ErrInvalid},
		"long key":     {func() writer.Request { c := q; c.IdempotencyKey = strings.Repeat("x", 257); return c }(), record.ErrInvalid},
		"format":       {writer.Request{Format: "xml"}, record.ErrInvalid},
		"not a stream": {writer.Request{Format: writer.JSON, Stream: "nope"}, record.ErrNotFound},
	} {
		c.q.Branch = "main"
		if c.q.Stream == "" {
			c.q.Stream = "s"
		}
		if _, err := e.w.Publish(t.Context(), c.q); !errors.Is(err, c.is) {
			t.Errorf("%s: got %v, want %v", name, err, c.is)
		}
	}
	if e.branches.entered != 0 {
		t.Errorf("%d publishes have not left their branch", e.branches.entered)
	}
	if writer.ProducerID("p", false) == writer.ProducerID("p", true) {
		t.Error("a producer and an idempotency key of one name are the same")
	}
}

// A retry whose rows no longer fit learns that they are in already; a new request
// with such rows does not pass for one.
func TestRetryAfterAnEvolution(t *testing.T) {
	t.Parallel()
	e := newEnv(t, parse(t, flat), 2)
	q := writer.Request{Format: writer.JSON, Body: []byte(`{"k":"a","n":1}`), Producer: &writer.Producer{Name: "p", Sequence: 1}}
	av := writer.Request{Format: writer.Avro, Body: avroBody(t, parse(t, flat), q.Body), Producer: &writer.Producer{Name: "q", Sequence: 1}}
	first, second := e.must(q), e.must(av)
	e.branches.change(func(tg *writer.Target) {
		tg.Schema = withIDs(&schema.Schema{Fields: tg.Schema.Fields[:1]}, 12)
	})
	for _, c := range []struct {
		q    writer.Request
		want writer.Result
	}{{q, first}, {av, second}} {
		again, err := e.publish(c.q)
		c.want.Duplicate = true
		if diff := cmp.Diff(c.want, again); err != nil || diff != "" {
			t.Errorf("%s: %v %s", c.q.Format, err, diff)
		}
	}
	q.Producer = &writer.Producer{Name: "p", Sequence: 2}
	av.Producer = &writer.Producer{Name: "q", Sequence: 2}
	for _, q := range []writer.Request{q, av} {
		if _, err := e.publish(q); !errors.Is(err, record.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", q.Format, err)
		}
	}
}

// A request without good rows uses its sequence up all the same.
func TestProducersWithoutRows(t *testing.T) {
	t.Parallel()
	e := newEnv(t, parse(t, flat), 2)
	for i := range int64(3) {
		q := writer.Request{Format: writer.JSON, Body: []byte("{}"), SkipInvalid: true, Producer: &writer.Producer{Name: "p", Sequence: i}}
		if out := e.must(q); out.Rows != 0 || out.RejectedRows != 1 || out.Duplicate {
			t.Fatalf("%+v", out)
		}
		if out := e.must(q); !out.Duplicate {
			t.Fatalf("%+v", out)
		}
	}
}

// canceled is a context that ends at the nth look.
type canceled struct {
	context.Context //nolint:containedctx // it is one
	looks           int
}

func (c *canceled) Err() error {
	if c.looks--; c.looks < 0 {
		return context.Canceled
	}
	return nil
}

// A request that is given up while it is decoded appends nothing.
func TestContextEndsDecoding(t *testing.T) {
	t.Parallel()
	s := parse(t, flat)
	ndjson := bytes.Repeat([]byte(`{"k":"key","n":1}`+"\n"), 10_000)
	rec := arrowRecord(t, s, ndjson)
	defer rec.Release()
	for f, body := range map[writer.Format][]byte{writer.JSON: ndjson, writer.Avro: avroBody(t, s, ndjson), writer.Arrow: stream(t, []arrow.RecordBatch{rec})} {
		e := newEnv(t, s, 1)
		ctx := &canceled{t.Context(), 5}
		if _, err := e.w.Publish(ctx, writer.Request{Stream: "s", Format: f, Body: body}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want Canceled", f, err)
		}
		if got := e.rows(); len(got) != 0 {
			t.Errorf("%s: %d rows were appended", f, len(got))
		}
		if e.branches.entered != 0 {
			t.Errorf("%s: the publish has not left its branch", f)
		}
	}
}

// Working memory goes from request to request, rows never do: requests that
// succeed, fail half way, skip rows, of many shapes, at once.
func TestNothingLeaksBetweenRequests(t *testing.T) {
	t.Parallel()
	s := parse(t, flat)
	keyed, plain := newEnv(t, s, 7, "k"), newEnv(t, s, 5)
	var all sync.WaitGroup
	var mu sync.Mutex
	want := map[*env]map[string]int{keyed: {}, plain: {}}
	for g := range 8 {
		all.Go(func() {
			for i := range 60 {
				e := []*env{keyed, plain}[i%2]
				var b strings.Builder
				var rows []string
				for j := range 1 + (i*7+g)%50 {
					row := fmt.Sprintf(`{"k":"g%d-%d","n":%d}`, g, j, i)
					rows = append(rows, row)
					b.WriteString(row + "\n")
				}
				q := writer.Request{Format: writer.JSON, Body: []byte(b.String())}
				switch i % 6 {
				case 1:
					q.Format, q.Body = writer.Avro, avroBody(t, s, q.Body)
				case 2:
					q.Format, q.Body = writer.Arrow, stream(t, []arrow.RecordBatch{arrowRecord(t, s, q.Body)})
				case 3: // a bad row at the end: nothing of it
					q.Body = append(q.Body, "{}\n"...)
					rows = nil
				case 4: // the same, skipped
					q.Body = append(q.Body, "{}\n"...)
					q.SkipInvalid = true
				case 5: // ends within the block
					q.Format, q.Body = writer.Avro, avroBody(t, s, q.Body)
					q.Body = q.Body[:len(q.Body)-20]
					rows = nil
				}
				out, err := e.publish(q)
				if (err == nil) != (rows != nil) || int(out.Rows) != len(rows) {
					t.Errorf("case %d: %d rows, %v; want %d", i%6, out.Rows, err, len(rows))
				}
				mu.Lock()
				for _, r := range rows {
					want[e][r]++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for e, want := range want {
		got := map[string]int{}
		for _, text := range e.texts() {
			got[text]++
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("rows that were published, and those that are there: %s", diff)
		}
	}
}

// Errors of the hot buffer come through as they are.
func TestAppendErrors(t *testing.T) {
	t.Parallel()
	e := newEnv(t, parse(t, flat), 1)
	q := writer.Request{Format: writer.JSON, Body: []byte(`{"k":"a"}`)}
	e.branches.change(func(tg *writer.Target) { tg.View = 99 })
	_, err := e.publish(q)
	if !errors.Is(err, record.ErrNotFound) || !strings.HasPrefix(err.Error(), "publish to s:") {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

// The JSON of a request that cannot be split is refused whole, with its place.
func TestDamagedJSON(t *testing.T) {
	t.Parallel()
	e := newEnv(t, parse(t, flat), 1)
	for _, body := range []string{`[{"k":"a"},`, `[{"k":"a"}] x`, `[{"k":"a"} {"k":"b"}]`} {
		for _, skip := range []bool{false, true} {
			_, err := e.publish(writer.Request{Format: writer.JSON, Body: []byte(body), SkipInvalid: skip})
			if !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), "at byte") {
				t.Errorf("%s: %v", body, err)
			}
		}
	}
	if got := e.rows(); len(got) != 0 {
		t.Errorf("%d rows were appended", len(got))
	}
}
