package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

const allKinds = `{"id":"a,\"b\"\n","mag":1.5,"seq":9007199254740993,"price":12345678901234567.89,"tags":["x","y"],"at":"2018-01-31T01:49:59.650Z","small":-3}
{"id":"","mag":null,"seq":null,"price":null,"tags":null,"at":null,"small":null}
`

func TestReadFormats(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(nil)
	s.do("POST", branchPath(stream, "rows"), allKinds, ndjson).want(t, 200, nil)
	get := func(query string, headers ...header) answer {
		a := s.do("GET", branchPath(stream, "rows"+query), nil, headers...)
		a.want(t, 200, nil)
		if a.Trailer.Get("Thermocline-Rows") != "2" || a.Trailer.Get("Thermocline-Cursor") == "" {
			t.Errorf("%s: trailers %v", query, a.Trailer)
		}
		return a
	}
	if a := get(""); string(a.body) != allKinds {
		t.Errorf("ndjson: %s", a.body)
	}
	if a := get("?numbers=string&columns=seq,price"); !bytes.HasPrefix(a.body, []byte(`{"seq":"9007199254740993","price":"12345678901234567.89"}`)) {
		t.Errorf("numbers as text: %s", a.body)
	}
	if a := get("?end=line&columns=id"); !bytes.HasSuffix(a.body, fmt.Appendf(nil, "{\"_thermocline\":\"end\",\"cursor\":%q,\"rows\":2}\n", a.Trailer.Get("Thermocline-Cursor"))) {
		t.Errorf("end=line: %s", a.body)
	}
	if a := get("?columns=seq&system=true"); !bytes.Contains(a.body, []byte(`{"seq":9007199254740993,"_view":1,"_partition_id":0,"_offset":0,"_timestamp":"20`)) {
		t.Errorf("system: %s", a.body)
	}

	a := get("?format=csv", header{"Accept", "application/x-ndjson"}) // format goes before Accept
	records, err := csv.NewReader(bytes.NewReader(a.body)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{
		{"id", "mag", "seq", "price", "tags", "at", "small"},
		{"a,\"b\"\n", "1.5", "9007199254740993", "12345678901234567.89", `["x","y"]`, "2018-01-31T01:49:59.650Z", "-3"},
		{"", "", "", "", "", "", ""},
	}
	if d := cmp.Diff(want, records); d != "" {
		t.Errorf("csv (-want +got):\n%s", d)
	}
	if !strings.HasSuffix(string(a.body), "\n\"\",,,,,,\n") {
		t.Errorf("csv: an empty text must differ from nothing: %q", a.body)
	}

	a = get("", header{"Accept", "application/vnd.apache.arrow.stream;q=0.9, text/csv;q=0.1"})
	r, err := ipc.NewReader(bytes.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	if k := r.Schema().Field(6).Type.ID(); k != arrow.INT8 {
		t.Errorf("a BYTE is %v in Arrow", k)
	}
	n := int64(0)
	for r.Next() {
		n += r.RecordBatch().NumRows()
	}
	if r.Err() != nil || n != 2 {
		t.Errorf("arrow: %d rows, %v", n, r.Err())
	}

	a = get("?format=parquet")
	table, err := pqarrow.ReadTable(t.Context(), bytes.NewReader(a.body), parquet.NewReaderProperties(nil), pqarrow.ArrowReadProperties{}, memory.DefaultAllocator)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Release()
	if table.NumRows() != 2 || table.NumCols() != 7 {
		t.Errorf("parquet: %d rows of %d columns", table.NumRows(), table.NumCols())
	}
	if got := table.Column(0).Data().Chunk(0).(*array.String).Value(0); got != "a,\"b\"\n" {
		t.Errorf("parquet: %q", got)
	}
}

// An empty answer is whole too: header, footer and cursor are there.
func TestReadNothing(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(nil)
	for format, want := range map[string]string{"ndjson": "", "csv": "id,mag,seq,price,tags,at,small\n", "arrow": "", "parquet": "PAR1"} {
		a := s.do("GET", branchPath(stream, "rows?format="+format), nil)
		a.want(t, 200, nil)
		if a.Trailer.Get("Thermocline-Rows") != "0" || a.Trailer.Get("Thermocline-Cursor") == "" || !strings.HasPrefix(string(a.body), want) {
			t.Errorf("%s: %q, trailers %v", format, a.body, a.Trailer)
		}
		if format == "arrow" {
			if _, err := ipc.NewReader(bytes.NewReader(a.body)); err != nil {
				t.Errorf("arrow: %v", err)
			}
		}
	}
}

func TestReadGoesOn(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(nil)
	s.publish(stream, 0, 10)
	var got []string
	cursor := "earliest"
	for range 4 {
		a := s.do("GET", branchPath(stream, "rows?columns=seq&limit=4&from="+cursor), nil)
		a.want(t, 200, nil)
		got = append(got, strings.Fields(string(a.body))...)
		cursor = a.Trailer.Get("Thermocline-Cursor")
	}
	if len(got) != 10 || got[0] != `{"seq":0}` || got[9] != `{"seq":9}` {
		t.Errorf("rows: %v", got)
	}
	a := s.do("GET", branchPath(stream, "rows?columns=seq&where=seq+%3E%3D+8+and+id+in+(%27r9%27)"), nil)
	if string(a.body) != "{\"seq\":9}\n" {
		t.Errorf("where: %s", a.body)
	}
	s.do("POST", branchPath(stream, "reset"), nil).want(t, 200, nil)
	s.do("GET", branchPath(stream, "rows?from="+cursor), nil).wantProblem(t, 410, "CURSOR_OF_OTHER_VIEW", "earliest")
}

func TestReadBadRequests(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(nil)
	for query, text := range map[string]string{
		"?format=xml":          "xml",
		"?columns=id,,mag":     "empty",
		"?columns=nosuch":      "nosuch",
		"?where=mag+%3E":       "",
		"?where=nosuch%3D1":    "nosuch",
		"?from=yesterday":      "cursor",
		"?limit=0":             "limit",
		"?limit=x":             "limit",
		"?consistency=MAYBE":   "consistency",
		"?numbers=words":       "numbers",
		"?end=never":           "end",
		"?end=line&format=csv": "end",
		"?system=perhaps":      "system",
		"?snapshot=0":          "snapshot",
		"?tag=":                "tag",
		"?asOf=yesterday":      "asOf",
		"?until=never":         "cursor",
		"?schema=old":          "schema",
		"?snapshot=1&tag=x":    "one of",
	} {
		s.do("GET", branchPath(stream, "rows"+query), nil).wantProblem(t, 400, "INVALID_REQUEST", text)
	}
	s.do("GET", branchPath(stream, "rows"), nil, header{"Accept", "image/png, text/csv;q=0"}).wantProblem(t, 406, "NOT_ACCEPTABLE", "text/csv")
	s.do("GET", branchPath(stream, "rows"), nil, header{"Accept", "image/png, */*;q=0.1"}).want(t, 200, nil)
	s.do("GET", branchPath("nosuch", "rows"), nil).wantProblem(t, 404, "NOT_FOUND", "nosuch")
}

// The largest row that can be published can be read, also with more columns.
func TestReadLargestRow(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(nil)
	text := strings.Repeat("x", 1<<20-64)
	for ; ; text += "x" {
		a := s.do("POST", branchPath(stream, "rows"), `{"id":"`+text+`"}`, ndjson)
		if a.StatusCode == 422 {
			break
		}
		a.want(t, 200, nil)
	}
	for _, format := range []string{"ndjson", "csv", "arrow", "parquet"} {
		a := s.do("GET", branchPath(stream, "rows?system=true&format="+format), nil)
		a.want(t, 200, nil)
		if a.Trailer.Get("Thermocline-Rows") == "" {
			t.Errorf("%s: trailers %v", format, a.Trailer)
		}
	}
}

// script is a reader that yields what a test says.
type script struct {
	begin error
	yield func(ctx context.Context, yield func(reader.Batch, error) bool)
}

var scriptSchema = func() *schema.Schema {
	s, err := schema.ParseAny([]byte(`{"fields":[{"name":"text","type":"STRING"}]}`))
	if err != nil {
		panic(err)
	}
	s, _ = s.AssignIDs(schema.FirstUserID)
	return s
}()

func (s script) Read(ctx context.Context, _, _ string, _ reader.Request) (*reader.Result, error) {
	if s.begin != nil {
		return nil, s.begin
	}
	return &reader.Result{Schema: scriptSchema, Batches: iter.Seq2[reader.Batch, error](func(yield func(reader.Batch, error) bool) { s.yield(ctx, yield) })}, nil
}

func (s script) Tail(ctx context.Context, stream, branch string, q reader.Request) (*reader.Result, error) {
	return s.Read(ctx, stream, branch, q)
}

// rows is a batch of n rows of size bytes.
func rows(n, size int) arrow.RecordBatch {
	b := array.NewRecordBuilder(memory.DefaultAllocator, scriptSchema.Arrow())
	defer b.Release()
	for range n {
		b.Field(0).(*array.StringBuilder).Append(strings.Repeat("x", size))
	}
	return b.NewRecordBatch()
}

func next(i int) reader.Cursor { return reader.Cursor{View: 1, Next: record.Offsets{record.Offset(i)}} }

var errDamaged = fmt.Errorf("read default.x: segment 7 is damaged — at offset 12: %w", record.ErrCorrupt)

// failsAfter yields n batches of 1 MB and then fails.
func failsAfter(n int) script {
	return script{yield: func(_ context.Context, yield func(reader.Batch, error) bool) {
		for i := range n {
			if !yield(reader.Batch{Rows: rows(1, 1<<20), Next: next(i)}, nil) {
				return
			}
		}
		yield(reader.Batch{}, errDamaged)
	}}
}

func TestReadThatFails(t *testing.T) {
	t.Parallel()
	for _, c := range []script{failsAfter(0), {begin: errDamaged}} {
		b := shared
		b.Reader = c
		s := serve(t, b, api.Options{})
		a := s.do("GET", branchPath("x", "rows?format=parquet"), nil)
		a.wantProblem(t, 500, "CORRUPT", "segment 7")
		if a.Header.Get("Trailer") != "" || len(a.Trailer) > 0 {
			t.Errorf("a problem with trailers: %v", a.Trailer)
		}
	}
	b := shared
	b.Reader = failsAfter(3)
	s := serve(t, b, api.Options{})
	for _, format := range []string{"ndjson", "csv", "arrow"} {
		// A client that knows nothing of trailers sees a broken connection.
		if a := s.do("GET", branchPath("x", "rows?format="+format), nil); !errors.Is(a.err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: the body ended with %v after %d bytes %.300s", format, a.err, len(a.body), a.body)
		}
		// One that does is told why.
		a := s.do("GET", branchPath("x", "rows?format="+format), nil, header{"TE", "gzip, trailers"})
		var p problem
		if err := json.Unmarshal([]byte(a.Trailer.Get("Thermocline-Error")), &p); err != nil || a.err != nil {
			t.Fatalf("%s: %v, body %v", format, err, a.err)
		}
		if p.Code != "CORRUPT" || !strings.Contains(p.Detail, "segment 7 is damaged — at") || a.Trailer.Get("Thermocline-Cursor") != "" {
			t.Errorf("%s: trailers %v", format, a.Trailer)
		}
	}
	if !strings.Contains(s.logs.String(), "cut=true") || !strings.Contains(s.logs.String(), "segment 7") {
		t.Errorf("log: %s", s.logs.String())
	}
}

// A panic behind the first byte must not look like the end.
func TestReadThatPanics(t *testing.T) {
	t.Parallel()
	b := shared
	b.Reader = script{yield: func(_ context.Context, yield func(reader.Batch, error) bool) {
		yield(reader.Batch{Rows: rows(1, 1<<20), Next: next(1)}, nil)
		panic("boom")
	}}
	s := serve(t, b, api.Options{})
	if a := s.do("GET", branchPath("x", "rows"), nil, header{"TE", "trailers"}); a.err == nil {
		t.Errorf("the body ended properly, with trailers %v", a.Trailer)
	}
}

func TestReadHTTP10(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(nil)
	s.publish(stream, 0, 1)
	for query, want := range map[string]string{"": " 505 ", "?end=line": " 200 "} {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", branchPath(stream, "rows"+query))
		text, err := io.ReadAll(conn)
		if err != nil || !strings.Contains(string(text[:20]), want) {
			t.Errorf("%q: %v %s", query, err, text)
		}
	}
}

func TestReadsAreBounded(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan bool), make(chan bool)
	b := shared
	b.Reader = script{yield: func(_ context.Context, yield func(reader.Batch, error) bool) {
		entered <- true
		<-leave
		yield(reader.Batch{Next: next(0)}, nil)
	}}
	s := serve(t, b, api.Options{MaxReads: 1})
	done := make(chan answer)
	go func() { done <- s.do("GET", branchPath("x", "rows"), nil) }()
	<-entered
	if a := s.do("GET", branchPath("x", "rows"), nil); a.wantProblem(t, 429, "BUSY", "1 reads").Status != 429 || a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	leave <- true
	if a := <-done; a.StatusCode != 200 {
		t.Error(a.Status)
	}
}

// A client that does not read what it asked for is cut, and its slot is free.
func TestReadOfASlowClient(t *testing.T) {
	t.Parallel()
	ended := make(chan bool, 1)
	b := shared
	b.Reader = script{yield: func(_ context.Context, yield func(reader.Batch, error) bool) {
		defer func() { ended <- true }()
		batch := rows(1, 1<<20)
		for i := 0; yield(reader.Batch{Rows: batch, Next: next(i)}, nil); i++ {
		}
	}}
	s := serve(t, b, api.Options{StallTimeout: 300 * time.Millisecond})
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n", branchPath("x", "rows"))
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the read goes on")
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("what was cut looks whole")
	}
}

func BenchmarkReadNDJSON(b *testing.B) {
	batch := rows(4096, 100)
	back := shared
	back.Reader = script{yield: func(_ context.Context, yield func(reader.Batch, error) bool) {
		for i := range 100 {
			if !yield(reader.Batch{Rows: batch, Next: next(i)}, nil) {
				return
			}
		}
	}}
	s := serve(b, back, api.Options{})
	for b.Loop() {
		resp, err := s.Client().Get(s.URL + branchPath("x", "rows"))
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
	}
	b.ReportMetric(float64(b.N)*409600/b.Elapsed().Seconds(), "rows/s")
}
