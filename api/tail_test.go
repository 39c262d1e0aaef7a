package api_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// follow opens a tail and returns its lines as they come.
func (s *server) follow(ctx context.Context, stream, query string, headers ...header) (*http.Response, *bufio.Scanner) {
	s.t.Helper()
	req := s.request("GET", branchPath(stream, "tail"+query), nil, headers...).WithContext(ctx)
	resp, err := s.Client().Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 {
		body, _ := io.ReadAll(resp.Body)
		s.t.Fatalf("tail: %s: %s", resp.Status, body)
	}
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 8<<20)
	return resp, sc
}

// nextLine returns the next line that is neither blank nor a comment.
func nextLine(t *testing.T, sc *bufio.Scanner) string {
	t.Helper()
	for sc.Scan() {
		if line := sc.Text(); line != "" && line[0] != ':' {
			return line
		}
	}
	t.Fatalf("the tail ended: %v", sc.Err())
	return ""
}

func TestTailNDJSON(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(nil)
	s.publish(stream, 0, 2)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	_, latest := s.follow(ctx, stream, "?columns=seq")
	_, all := s.follow(ctx, stream, "?columns=seq&from=earliest&cursors=line")
	for i := range 2 {
		if got := nextLine(t, all); got != fmt.Sprintf(`{"seq":%d}`, i) {
			t.Errorf("earliest: %s", got)
		}
	}
	cursor, ok := strings.CutPrefix(nextLine(t, all), `{"_thermocline":"cursor","cursor":"`)
	if !ok {
		t.Errorf("no cursor behind the rows: %s", cursor)
	}
	cursor = strings.TrimSuffix(cursor, `"}`)
	s.publish(stream, 2, 1)
	if got := nextLine(t, latest); got != `{"seq":2}` {
		t.Errorf("latest: %s", got)
	}
	_, on := s.follow(ctx, stream, "?columns=seq&from="+cursor)
	if got := nextLine(t, on); got != `{"seq":2}` {
		t.Errorf("from a cursor: %s", got)
	}
}

func TestTailEvents(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(nil)
	s.publish(stream, 0, 2)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	resp, sc := s.follow(ctx, stream, "?columns=seq&from=earliest", header{"Accept", "text/event-stream"})
	if ct := resp.Header.Get("Content-Type"); ct != "text/event-stream" {
		t.Errorf("Content-Type %q", ct)
	}
	if got := nextLine(t, sc); got != "event: rows" {
		t.Errorf("first line %q", got)
	}
	id, ok := strings.CutPrefix(nextLine(t, sc), "id: ")
	if a, b := nextLine(t, sc), nextLine(t, sc); !ok || a != `data: {"seq":0}` || b != `data: {"seq":1}` {
		t.Errorf("%q, %q", a, b)
	}
	s.publish(stream, 2, 1)
	_, on := s.follow(ctx, stream, "?columns=seq&from=earliest&format=sse", header{"Last-Event-ID", id})
	for _, want := range []string{"event: rows", "id: ", `data: {"seq":2}`} {
		if got := nextLine(t, on); !strings.HasPrefix(got, want) {
			t.Errorf("behind Last-Event-ID: %q, want %q", got, want)
		}
	}
}

// In an exactly-once tail rows have no cursor of their own: a checkpoint, whose
// cursor lies behind all rows of its epoch, ends them.
func TestTailEpochs(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(map[string]any{"partitions": 2})
	s.publish(stream, 0, 3)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	_, sc := s.follow(ctx, stream, "?columns=seq&from=earliest&format=sse&consistency=EXACTLY_ONCE")
	seen, cursor := 0, ""
	for cursor == "" || seen < 3 {
		switch line := nextLine(t, sc); {
		case line == "event: rows":
			if got := nextLine(t, sc); !strings.HasPrefix(got, "data: {") {
				t.Fatalf("in an epoch: %q", got)
			}
			seen++
		case strings.HasPrefix(line, "data: {\"seq\""):
			seen++
		case line == "event: checkpoint":
			cursor = strings.TrimPrefix(nextLine(t, sc), "id: ")
			if data := nextLine(t, sc); !strings.Contains(data, `"checkpoint":`) || !strings.Contains(data, cursor) {
				t.Errorf("checkpoint: %s", data)
			}
		default:
			t.Fatalf("line %q", line)
		}
	}
	if seen != 3 {
		t.Errorf("%d rows", seen)
	}
	s.publish(stream, 3, 1)
	_, lines := s.follow(ctx, stream, "?columns=seq&cursors=line&consistency=EXACTLY_ONCE&from="+cursor)
	if got := nextLine(t, lines); got != `{"seq":3}` {
		t.Errorf("behind the checkpoint: %s", got)
	}
	if got := nextLine(t, lines); !strings.HasPrefix(got, `{"_thermocline":"checkpoint","checkpoint":`) {
		t.Errorf("behind the epoch: %s", got)
	}
}

func TestTailBadRequests(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(nil)
	for query, text := range map[string]string{
		"?format=csv": "csv", "?from=now": "cursor", "?cursors=all": "cursors", "?consistency=x": "consistency",
		"?columns=nosuch": "nosuch", "?where=x": "", "?limit=1": "limit",
	} {
		s.do("GET", branchPath(stream, "tail"+query), nil).wantProblem(t, 400, "INVALID_REQUEST", text)
	}
	s.do("GET", branchPath(stream, "tail"), nil, header{"Accept", "text/csv"}).wantProblem(t, 406, "NOT_ACCEPTABLE", "event-stream")
	s.do("GET", branchPath("nosuch", "tail"), nil).wantProblem(t, 404, "NOT_FOUND", "nosuch")
}

// waiting is a tail that waits for its context; ended says that it is over.
func waiting(ended chan error, first ...reader.Batch) script {
	return script{yield: func(ctx context.Context, yield func(reader.Batch, error) bool) {
		for _, b := range first {
			if !yield(b, nil) {
				ended <- nil
				return
			}
		}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		yield(reader.Batch{}, ctx.Err())
	}}
}

func TestTailHeartbeatsAndDisconnect(t *testing.T) {
	t.Parallel()
	for query, beat := range map[string]string{"": "", "?format=sse": ": heartbeat"} {
		ended := make(chan error, 1)
		b := shared
		b.Reader = waiting(ended)
		s := serve(t, b, api.Options{Heartbeat: 20 * time.Millisecond, MaxTails: 1})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		_, sc := s.follow(ctx, "x", query)
		for range 3 {
			if !sc.Scan() || sc.Text() != beat {
				t.Fatalf("heartbeat %q: %v", sc.Text(), sc.Err())
			}
			if beat != "" && (!sc.Scan() || sc.Text() != "") {
				t.Fatalf("a comment goes on: %q", sc.Text())
			}
		}
		s.do("GET", branchPath("x", "tail"), nil).wantProblem(t, 429, "BUSY", "1 tails")
		stop() // the client goes
		if err := <-ended; err == nil {
			t.Error("the read ended by itself")
		}
		eventually(t, "the slot to be free", func() bool {
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			resp, err := s.Client().Do(s.request("GET", branchPath("x", "tail"), nil).WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			return resp.StatusCode == 200
		})
		<-ended
	}
}

// Shutting down ends a tail with a word to the client, and takes no time.
func TestTailShutdown(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"":            `{"_thermocline":"error","problem":{`,
		"?format=sse": "event: problem",
	} {
		ended := make(chan error, 1)
		b := shared
		b.Reader = waiting(ended, reader.Batch{Rows: rows(1, 1), Next: next(1)})
		s := serve(t, b, api.Options{})
		_, sc := s.follow(t.Context(), "x", query)
		first := nextLine(t, sc)
		go func() { _ = s.Config.Shutdown(t.Context()) }()
		<-ended
		got := first
		for !strings.HasPrefix(got, want) {
			got = nextLine(t, sc)
		}
		if query != "" {
			got = nextLine(t, sc)
		}
		if !strings.Contains(got, `"code":"UNAVAILABLE"`) || !strings.Contains(got, "shutting down") {
			t.Errorf("%q: %s", query, got)
		}
		if sc.Scan() && sc.Text() != "" {
			t.Errorf("%q: goes on: %s", query, sc.Text())
		}
	}
}

func TestTailThatFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		query, want string
	}{{"", `{"_thermocline":"error","problem":{`}, {"?format=sse", "data: {"}} {
		b := shared
		b.Reader = script{yield: func(_ context.Context, yield func(reader.Batch, error) bool) {
			if yield(reader.Batch{Rows: rows(1, 1), Next: next(1)}, nil) {
				yield(reader.Batch{}, fmt.Errorf("tail: the stream was deleted: %w", record.ErrNotFound))
			}
		}}
		s := serve(t, b, api.Options{})
		_, sc := s.follow(t.Context(), "x", c.query)
		last := ""
		for sc.Scan() {
			if sc.Text() != "" {
				last = sc.Text()
			}
		}
		if !strings.HasPrefix(last, c.want) || !strings.Contains(last, `"code":"NOT_FOUND"`) {
			t.Errorf("%q: last line %s", c.query, last)
		}
	}
}

// A position without rows is passed on, so that a client knows where it stands
// before the first row.
func TestTailPosition(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 8)
	b := shared
	b.Reader = waiting(ended, reader.Batch{Next: next(7)})
	s := serve(t, b, api.Options{})
	_, sc := s.follow(t.Context(), "x", "?cursors=line")
	if got := nextLine(t, sc); got != fmt.Sprintf(`{"_thermocline":"cursor","cursor":%q}`, next(7)) {
		t.Errorf("ndjson: %s", got)
	}
	_, sc = s.follow(t.Context(), "x", "?format=sse")
	if a, b := nextLine(t, sc), nextLine(t, sc); a != "event: cursor" || b != "id: "+next(7).String() {
		t.Errorf("sse: %s, %s", a, b)
	}
}

// A client that stops reading is cut within the time that it has.
func TestTailOfASlowClient(t *testing.T) {
	t.Parallel()
	ended := make(chan bool, 1)
	b := shared
	b.Reader = script{yield: func(ctx context.Context, yield func(reader.Batch, error) bool) {
		defer func() { ended <- true }()
		batch := rows(1, 1<<20)
		for i := 0; ctx.Err() == nil && yield(reader.Batch{Rows: batch, Next: next(i)}, nil); i++ {
		}
	}}
	s := serve(t, b, api.Options{StallTimeout: 300 * time.Millisecond})
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", branchPath("x", "tail"))
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the tail goes on")
	}
}
