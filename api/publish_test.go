package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/twmb/avro"
	"github.com/twmb/avro/ocf"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/writer"
)

type published struct {
	Rows         int64
	Ranges       []struct{ Partition, Start, End int64 }
	Duplicate    bool
	RejectedRows int64
	Rejected     []rowError
}

func gzipped(b []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, _ = w.Write(b)
	_ = w.Close()
	return buf.Bytes()
}

func zstded(b []byte) []byte {
	w, _ := zstd.NewWriter(nil)
	return w.EncodeAll(b, nil)
}

func avroFile(t *testing.T) []byte {
	s, err := avro.Parse(`{"type":"record","name":"r","fields":[{"name":"id","type":"string"},{"name":"seq","type":"long"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w, err := ocf.NewWriter(&buf, s)
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		ID  string `avro:"id"`
		Seq int64  `avro:"seq"`
	}
	for i := range 2 {
		if err := w.Encode(row{fmt.Sprintf("r%d", i), int64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func arrowStream(t *testing.T) []byte {
	s := arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.BinaryTypes.String}, {Name: "seq", Type: arrow.PrimitiveTypes.Int64}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	defer b.Release()
	b.Field(0).(*array.StringBuilder).AppendValues([]string{"r0", "r1"}, nil)
	b.Field(1).(*array.Int64Builder).AppendValues([]int64{0, 1}, nil)
	rec := b.NewRecordBatch()
	defer rec.Release()
	var buf bytes.Buffer
	w := ipc.NewWriter(&buf, ipc.WithSchema(s))
	if err := w.Write(rec); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Every format and every compression brings in the same two rows.
func TestPublishFormats(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	lines := []byte("{\"id\":\"r0\",\"seq\":0}\n\n{\"id\":\"r1\",\"seq\":1}")
	for name, c := range map[string]struct {
		body    []byte
		headers []header
	}{
		"array":       {[]byte(`[{"id":"r0","seq":0},{"id":"r1","seq":1}]`), nil},
		"object":      {[]byte(`{"rows":[{"id":"r0","seq":0},{"id":"r1","seq":1}]}`), nil},
		"ndjson":      {lines, []header{ndjson}},
		"ndjson gzip": {gzipped(lines), []header{ndjson, {"Content-Encoding", "gzip"}}},
		"ndjson zstd": {zstded(lines), []header{ndjson, {"Content-Encoding", "zstd"}}},
		"avro":        {avroFile(t), []header{{"Content-Type", "application/avro"}}},
		"arrow":       {arrowStream(t), []header{{"Content-Type", "application/vnd.apache.arrow.stream"}}},
		"arrow zstd":  {zstded(arrowStream(t)), []header{{"Content-Type", "application/vnd.apache.arrow.stream"}, {"Content-Encoding", "zstd"}}},
		"parameters":  {lines, []header{{"Content-Type", "application/x-ndjson; charset=utf-8"}}},
		"chunked":     {nil, []header{ndjson}},
	} {
		t.Run(name, func(t *testing.T) {
			stream := s.stream(nil)
			var body any = c.body
			if name == "chunked" {
				body = io.MultiReader(bytes.NewReader(lines)) // without a length
			}
			var p published
			s.do("POST", branchPath(stream, "rows"), body, c.headers...).want(t, 200, &p)
			if p.Rows != 2 || p.Duplicate || len(p.Ranges) != 1 || p.Ranges[0].End-p.Ranges[0].Start != 2 {
				t.Errorf("answer: %+v", p)
			}
			a := s.do("GET", branchPath(stream, "rows?columns=id,seq"), nil)
			a.want(t, 200, nil)
			if got := string(a.body); got != "{\"id\":\"r0\",\"seq\":0}\n{\"id\":\"r1\",\"seq\":1}\n" {
				t.Errorf("rows: %s", got)
			}
		})
	}
}

func TestPublishRejectsRows(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(nil)
	rows := `[{"id":"a"},{"id":7},{"id":"b","tags":["x",1]},{"id":"c","nosuch":1}]`
	p := s.do("POST", branchPath(stream, "rows"), rows).wantProblem(t, 422, "ROWS_REJECTED", "3 of 4 rows")
	var got []string
	for _, e := range p.Errors {
		got = append(got, fmt.Sprintf("%d %s %s", e.Row, e.Path, e.Code))
		if e.Expected == "" || e.Got == "" {
			t.Errorf("%+v: wants what was expected and what came", e)
		}
	}
	want := []string{"1 id wrong_type", "2 tags[1] wrong_type", "3 nosuch unknown_field"}
	if d := cmp.Diff(want, got); d != "" || p.ErrorCount != 3 {
		t.Errorf("errors (-want +got), count %d:\n%s", p.ErrorCount, d)
	}
	if a := s.do("GET", branchPath(stream, "rows"), nil); len(a.body) != 0 {
		t.Errorf("after a rejected request the stream holds %s", a.body)
	}
	var r published
	s.do("POST", branchPath(stream, "rows?onError=skip"), rows).want(t, 200, &r)
	if r.Rows != 1 || r.RejectedRows != 3 || len(r.Rejected) != 3 || r.Rejected[1].Row != 2 {
		t.Errorf("skip: %+v", r)
	}
	s.do("POST", branchPath(stream, "rows?unknownFields=ignore"), `[{"id":"c","nosuch":1}]`).want(t, 200, &r)
	if r.Rows != 1 {
		t.Errorf("ignore: %+v", r)
	}
	s.do("POST", branchPath(stream, "rows?onError=skip"), `[{"id":"`+strings.Repeat("x", 1<<20)+`"}]`).want(t, 200, &r)
	if r.Rows != 0 || r.RejectedRows != 1 {
		t.Errorf("a row above 1 MB: %+v", r)
	}
}

func TestPublishOnce(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(map[string]any{"keyFields": []string{"id"}, "partitions": 3})
	producer := func(epoch, sequence int) []header {
		return []header{{"Producer-Id", "p/1"}, {"Producer-Epoch", strconv.Itoa(epoch)}, {"Producer-Sequence", strconv.Itoa(sequence)}}
	}
	path := branchPath(stream, "rows")
	s.do("GET", branchPath(stream, "producers/p%2F1"), nil).wantProblem(t, 404, "NOT_FOUND", "p/1")
	var first, again published
	s.do("POST", path, `[{"id":"a"},{"id":"b"},{"id":"c"}]`, producer(0, 5)...).want(t, 200, &first)
	s.do("POST", path, `[{"id":"a"},{"id":"b"},{"id":"c"}]`, producer(0, 5)...).want(t, 200, &again)
	if !again.Duplicate || again.Rows != 3 || first.Duplicate {
		t.Errorf("first %+v, again %+v", first, again)
	}
	s.do("POST", path, `[{"id":"a"}]`, producer(0, 7)...).wantProblem(t, 409, "PRODUCER_OUT_OF_SEQUENCE", "")
	s.do("POST", path, `[{"id":"d"}]`, producer(1, 0)...).want(t, 200, nil)
	s.do("POST", path, `[{"id":"e"}]`, producer(0, 6)...).wantProblem(t, 409, "PRODUCER_FENCED", "")
	var state struct{ Epoch, Sequence, Rows int64 }
	s.do("GET", branchPath(stream, "producers/p%2F1"), nil).want(t, 200, &state)
	if state.Epoch != 1 || state.Sequence != 0 || state.Rows != 1 {
		t.Errorf("producer: %+v", state)
	}
	key := header{"Idempotency-Key", "k"}
	s.do("POST", path, `[{"id":"f"}]`, key).want(t, 200, &first)
	s.do("POST", path, `[{"id":"f"}]`, key).want(t, 200, &again)
	if first.Duplicate || !again.Duplicate {
		t.Errorf("key: first %+v, again %+v", first, again)
	}
	if n := bytes.Count(s.do("GET", path, nil).body, []byte("\n")); n != 5 {
		t.Errorf("%d rows, want 5", n)
	}
	for _, h := range [][]header{
		{{"Producer-Id", "p"}},
		{{"Producer-Sequence", "1"}},
		{{"Producer-Epoch", "1"}},
		{{"Producer-Id", "p"}, {"Producer-Sequence", "x"}},
		{{"Producer-Id", "p"}, {"Producer-Sequence", "-1"}},
		{{"Producer-Id", "p"}, {"Producer-Sequence", "1"}, {"Idempotency-Key", "k"}},
		{{"Idempotency-Key", strings.Repeat("k", 201)}},
		{{"Producer-Id", strings.Repeat("k", 201)}, {"Producer-Sequence", "1"}},
	} {
		s.do("POST", path, `[{"id":"x"}]`, h...).wantProblem(t, 400, "INVALID_REQUEST", "")
	}
}

func TestPublishBadRequests(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(nil)
	path := branchPath(stream, "rows")
	s.do("POST", path, `x`, header{"Content-Type", "text/plain"}).wantProblem(t, 415, "UNSUPPORTED_MEDIA_TYPE", "text/plain")
	s.do("POST", path, `[]`, header{"Content-Encoding", "br"}).wantProblem(t, 415, "UNSUPPORTED_MEDIA_TYPE", "br")
	s.do("POST", path, `not gzip`, header{"Content-Encoding", "gzip"}).wantProblem(t, 400, "INVALID_REQUEST", "")
	s.do("POST", path, gzipped([]byte(`[{"id":"a"}]`))[:20], header{"Content-Encoding", "gzip"}).wantProblem(t, 400, "INVALID_REQUEST", "")
	s.do("POST", path, `not zstd`, header{"Content-Encoding", "zstd"}).wantProblem(t, 400, "INVALID_REQUEST", "")
	s.do("POST", path, `not avro`, header{"Content-Type", "application/avro"}).wantProblem(t, 400, "INVALID_REQUEST", "")
	s.do("POST", path, `not arrow`, header{"Content-Type", "application/vnd.apache.arrow.stream"}).wantProblem(t, 400, "INVALID_REQUEST", "")
	s.do("POST", path+"?onError=maybe", `[]`).wantProblem(t, 400, "INVALID_REQUEST", "onError")
	s.do("POST", path+"?unknownFields=maybe", `[]`).wantProblem(t, 400, "INVALID_REQUEST", "unknownFields")
	s.do("POST", branchPath("nosuch", "rows"), `[]`).wantProblem(t, 404, "NOT_FOUND", "nosuch")
	s.do("POST", "/v1/streams/"+stream+"/branches/nosuch/rows", `[]`).wantProblem(t, 404, "NOT_FOUND", "nosuch")
	var p published
	s.do("POST", path, `[]`).want(t, 200, &p)
	if p.Rows != 0 {
		t.Errorf("an empty array: %+v", p)
	}
}

// A body that is too large is refused whatever its form: by its declared
// length, chunked, or because it grows when it is decompressed.
func TestPublishTooLarge(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	path := branchPath(s.stream(nil), "rows")
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, api.MaxRequestBytes+1)
	head := make([]byte, 12) // the answer comes before any of the body
	if _, err := io.ReadFull(conn, head); err != nil || string(head) != "HTTP/1.1 413" {
		t.Errorf("a declared length of 64 MB and 1: %q, %v", head, err)
	}

	const limit = 1 << 20
	s.api.Shrink(limit, 64<<20)
	fits, huge := bytes.Repeat([]byte(" "), limit), bytes.Repeat([]byte(" "), limit+1)
	for name, form := range map[string]func([]byte) (any, []header){
		"length":  func(b []byte) (any, []header) { return b, nil },
		"chunked": func(b []byte) (any, []header) { return io.MultiReader(bytes.NewReader(b)), nil },
		"gzip":    func(b []byte) (any, []header) { return gzipped(b), []header{{"Content-Encoding", "gzip"}} },
		"zstd":    func(b []byte) (any, []header) { return zstded(b), []header{{"Content-Encoding", "zstd"}} },
	} {
		body, headers := form(fits)
		if a := s.do("POST", path, body, headers...); a.StatusCode != 200 {
			t.Errorf("%s: a body of the largest size: %s", name, a.body)
		}
		body, headers = form(huge)
		s.do("POST", path, body, headers...).wantProblem(t, 413, "TOO_LARGE", "several requests")
	}
}

// blocked is a publisher that waits to be let go.
type blocked struct {
	entered chan writer.Request
	leave   chan struct{}
}

func (b *blocked) Publish(ctx context.Context, q writer.Request) (writer.Result, error) {
	b.entered <- q
	select {
	case <-b.leave:
		return writer.Result{}, nil
	case <-ctx.Done():
		return writer.Result{}, ctx.Err()
	}
}

func TestPublishIsBoundedInNumber(t *testing.T) {
	t.Parallel()
	b := shared
	p := &blocked{make(chan writer.Request, 8), make(chan struct{})}
	b.Publisher = p
	s := serve(t, b, api.Options{MaxPublishes: 2})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { s.do("POST", branchPath("x", "rows"), `[]`).want(t, 200, nil) })
	}
	<-p.entered
	<-p.entered
	a := s.do("POST", branchPath("x", "rows"), `[]`)
	a.wantProblem(t, 429, "BUSY", "2 requests")
	if a.Header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
	}
	close(p.leave)
	wg.Wait()
	s.do("POST", branchPath("x", "rows"), `[]`).want(t, 200, nil)
}

// One stream does not get all there is: another finds room.
func TestPublishShares(t *testing.T) {
	t.Parallel()
	b := shared
	p := &blocked{make(chan writer.Request, 8), make(chan struct{})}
	b.Publisher = p
	s := serve(t, b, api.Options{MaxPublishes: 4})
	// Four bodies, and what the next one takes for a moment while it grows.
	s.api.Shrink(1<<20, 4800<<10)
	body := bytes.Repeat([]byte(" "), 900<<10)
	var wg sync.WaitGroup
	publish := func(stream string) {
		wg.Go(func() { s.do("POST", branchPath(stream, "rows"), body).want(t, 200, nil) })
		<-p.entered
	}
	for range 3 {
		publish("x")
	}
	s.do("POST", branchPath("x", "rows"), `[]`).wantProblem(t, 429, "BUSY", "for this stream")
	publish("y")
	s.do("POST", branchPath("y", "rows"), `[]`).wantProblem(t, 429, "BUSY", "4 requests")
	close(p.leave)
	wg.Wait()

	// Bytes as well, of few requests.
	s = serve(t, b, api.Options{})
	// Four bodies, and what the next one takes for a moment while it grows.
	s.api.Shrink(1<<20, 4800<<10)
	p.leave = make(chan struct{})
	for range 3 {
		publish("x")
	}
	s.do("POST", branchPath("x", "rows"), body).wantProblem(t, 429, "BUSY", "for one stream")
	publish("y")
	s.do("POST", branchPath("y", "rows"), body).wantProblem(t, 429, "BUSY", "bodies under way")
	close(p.leave)
	wg.Wait()
}

func TestPublishIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	b := shared
	p := &blocked{make(chan writer.Request, 8), make(chan struct{})}
	b.Publisher = p
	s := serve(t, b, api.Options{})
	s.api.Shrink(1<<20, 3<<19) // a body, and what it takes for a moment while it grows
	body := bytes.Repeat([]byte(" "), 600<<10)
	var wg sync.WaitGroup
	wg.Go(func() { s.do("POST", branchPath("x", "rows"), body).want(t, 200, nil) })
	<-p.entered
	s.do("POST", branchPath("x", "rows"), body).wantProblem(t, 429, "BUSY", "bodies under way fill")
	s.do("POST", branchPath("x", "rows"), io.MultiReader(bytes.NewReader(body))).wantProblem(t, 429, "BUSY", "bodies under way fill")
	s.do("POST", branchPath("x", "rows"), gzipped(body), header{"Content-Encoding", "gzip"}).wantProblem(t, 429, "BUSY", "bodies under way fill")
	s.do("POST", branchPath("x", "rows"), zstded(body), header{"Content-Encoding", "zstd"}).wantProblem(t, 429, "BUSY", "bodies under way fill")
	close(p.leave)
	wg.Wait()
	s.do("POST", branchPath("x", "rows"), body).want(t, 200, nil) // all of it was given back
}

// A body that trickles in is given up, and the time that the work behind it
// takes is not counted.
func TestPublishBodyTimeout(t *testing.T) {
	t.Parallel()
	b := shared
	p := &blocked{make(chan writer.Request, 8), make(chan struct{})}
	b.Publisher = p
	s := serve(t, b, api.Options{BodyTimeout: 300 * time.Millisecond})
	r, w := io.Pipe()
	defer w.Close()
	go func() { _, _ = w.Write([]byte("[")) }()
	s.do("POST", branchPath("x", "rows"), r).wantProblem(t, 408, "REQUEST_TIMEOUT", "too slowly")

	for _, body := range []string{"[]", ""} {
		go func() {
			<-p.entered
			time.Sleep(600 * time.Millisecond) // longer than the body may take
			p.leave <- struct{}{}
		}()
		s.do("POST", branchPath("x", "rows"), body, ndjson).want(t, 200, nil)
	}
}

// Who sends a byte now and then is given up long before the whole body's time is
// over; who only takes long is not.
func TestPublishBodyPause(t *testing.T) {
	t.Parallel()
	b := shared
	b.Publisher = failing{record.ErrBusy} // the body was read
	s := serve(t, b, api.Options{BodyTimeout: time.Minute, BodyPause: 500 * time.Millisecond})
	trickle := func(bytes, times int) io.Reader {
		r, w := io.Pipe()
		go func() {
			defer w.Close()
			for range times {
				if _, err := w.Write(make([]byte, bytes)); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		}()
		return r
	}
	s.do("POST", branchPath("x", "rows"), trickle(1, 1000)).wantProblem(t, 408, "REQUEST_TIMEOUT", "too slowly")
	s.do("POST", branchPath("x", "rows"), trickle(8<<10, 20)).wantProblem(t, 429, "BUSY", "")
}

// Bodies that are declared and do not come take no memory from others.
func TestPublishDeclaredLength(t *testing.T) {
	t.Parallel()
	b := shared
	b.Publisher = failing{record.ErrClosed}
	s := serve(t, b, api.Options{})
	for range 16 {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", branchPath("x", "rows"), api.MaxRequestBytes)
		// The server says so when it has made room and begins to read.
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, " 100 ") {
			t.Fatalf("%q, %v", line, err)
		}
	}
	// One that does come has its room, all of it.
	s.do("POST", branchPath("x", "rows"), make([]byte, api.MaxRequestBytes)).wantProblem(t, 503, "UNAVAILABLE", "")
}

// failing fails with its error.
type failing struct{ err error }

func (f failing) Publish(context.Context, writer.Request) (writer.Result, error) {
	return writer.Result{}, f.err
}

func TestErrorsBecomeProblems(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err        error
		status     int
		code       string
		retryAfter string
	}{
		{record.ErrNotFound, 404, "NOT_FOUND", ""},
		{record.ErrExists, 409, "ALREADY_EXISTS", ""},
		{record.ErrInvalid, 400, "INVALID_REQUEST", ""},
		{record.ErrConflict, 409, "CONFLICT", ""},
		{record.ErrFenced, 409, "PRODUCER_FENCED", ""},
		{record.ErrOutOfSequence, 409, "PRODUCER_OUT_OF_SEQUENCE", ""},
		{record.ErrTooLarge, 413, "TOO_LARGE", ""},
		{record.ErrFull, 507, "BUFFER_FULL", "5"},
		{record.ErrBusy, 429, "BUSY", "1"},
		{record.ErrClosed, 503, "UNAVAILABLE", "2"},
		{record.ErrCorrupt, 500, "CORRUPT", ""},
		{record.ErrOutOfRange, 410, "CURSOR_OUT_OF_RANGE", ""},
		{context.DeadlineExceeded, 504, "TIMEOUT", ""},
	} {
		b := shared
		b.Publisher = failing{fmt.Errorf("publish to x: the reason: %w", c.err)}
		s := serve(t, b, api.Options{})
		a := s.do("POST", branchPath("x", "rows"), `[]`)
		a.wantProblem(t, c.status, c.code, "the reason")
		if got := a.Header.Get("Retry-After"); got != c.retryAfter {
			t.Errorf("%v: Retry-After %q, want %q", c.err, got, c.retryAfter)
		}
	}
}

// What has no sentinel is told to the log, not to the client.
func TestInternalErrorsStayInside(t *testing.T) {
	t.Parallel()
	b := shared
	b.Publisher = failing{errors.New("the secret place")}
	s := serve(t, b, api.Options{})
	a := s.do("POST", branchPath("x", "rows"), `[]`, header{"Request-Id", "my-request.1"}, header{"Authorization", "Bearer hunter2"})
	p := a.wantProblem(t, 500, "INTERNAL", "internal error")
	if p.RequestID != "my-request.1" {
		t.Errorf("request id %q", p.RequestID)
	}
	if bytes.Contains(a.body, []byte("secret")) {
		t.Errorf("the client is told: %s", a.body)
	}
	eventually(t, "the request in the log", func() bool { return strings.Contains(s.logs.String(), "my-request.1") })
	log := s.logs.String()
	if !strings.Contains(log, "the secret place") || strings.Contains(log, "hunter2") {
		t.Errorf("log: %s", log)
	}
	if a := s.do("GET", "/healthz", nil, header{"Request-Id", "bad\tid"}); a.Header.Get("Request-Id") == "bad\tid" {
		t.Error("a request id that is not sound was taken over")
	}
}

type panicking struct{}

func (panicking) Publish(context.Context, writer.Request) (writer.Result, error) { panic("boom") }

func TestPanicIsAProblem(t *testing.T) {
	t.Parallel()
	b := shared
	b.Publisher = panicking{}
	s := serve(t, b, api.Options{})
	s.do("POST", branchPath("x", "rows"), `[]`).wantProblem(t, 500, "INTERNAL", "")
	if !strings.Contains(s.logs.String(), "boom") || !strings.Contains(s.logs.String(), "publish_test.go") {
		t.Errorf("the log lacks the panic and its stack: %s", s.logs.String())
	}
	s.do("GET", "/healthz", nil).want(t, 200, nil)
}

// A client that goes while its request is at work cancels it.
func TestPublishClientGoes(t *testing.T) {
	t.Parallel()
	b := shared
	p := &blocked{make(chan writer.Request, 1), make(chan struct{})}
	b.Publisher = p
	s := serve(t, b, api.Options{MaxPublishes: 1})
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]", branchPath("x", "rows"))
		return conn
	}
	conn := dial()
	<-p.entered
	conn.Close()
	eventually(t, "the log to name it", func() bool { return strings.Contains(s.logs.String(), "context canceled") })
	conn = dial() // there is one slot, and it is free again
	<-p.entered
	conn.Close()
}

// The order of JSON keys and spaces of an answer are not promised; this only
// pins that numbers beyond 2^53 are exact.
func TestOffsetsAreExact(t *testing.T) {
	t.Parallel()
	b := shared
	b.Publisher = answering{writer.Result{Rows: 1<<62 + 1}}
	s := serve(t, b, api.Options{})
	var r struct{ Rows json.Number }
	s.do("POST", branchPath("x", "rows"), `[]`).want(t, 200, &r)
	if r.Rows != "4611686018427387905" {
		t.Error(r.Rows)
	}
}

type answering struct{ result writer.Result }

func (a answering) Publish(context.Context, writer.Request) (writer.Result, error) {
	return a.result, nil
}

// What the HTTP layer costs: a request of 1 MiB, whole in memory, and its answer.
func BenchmarkPublishHTTP(b *testing.B) {
	back := shared
	back.Publisher = answering{}
	s := serve(b, back, api.Options{})
	body := bytes.Repeat([]byte("{\"id\":\"r0\",\"seq\":0}\n"), 1<<20/22)
	b.SetBytes(int64(len(body)))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			resp, err := s.Client().Post(s.URL+branchPath("x", "rows"), "application/x-ndjson", bytes.NewReader(body))
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
}
