package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/subscriber"
)

// sessions is a backend of subscribers whose sessions yield what a test says,
// and which keeps what it was asked for.
type sessions struct {
	info  subscriber.Info
	err   error // of every call
	yield func(ctx context.Context, yield func(subscriber.Event, error) bool)

	mu     sync.Mutex
	calls  []any
	closed int
}

func (s *sessions) seen(call any) (subscriber.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
	return s.info, s.err
}

func (s *sessions) last() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[len(s.calls)-1]
}

func (s *sessions) Create(_ context.Context, _ subscriber.Ref, spec subscriber.Spec) (subscriber.Info, error) {
	return s.seen(spec)
}

func (s *sessions) Get(_ context.Context, ref subscriber.Ref, name string) (subscriber.Info, error) {
	return s.seen(ref.String() + " " + name)
}

func (s *sessions) List(_ context.Context, _ subscriber.Ref, p api.Page) ([]subscriber.Info, string, error) {
	info, err := s.seen(p)
	return []subscriber.Info{info}, "more", err
}

func (s *sessions) Delete(_ context.Context, ref subscriber.Ref, name string) error {
	_, err := s.seen(ref.String() + " " + name)
	return err
}

func (s *sessions) Reset(_ context.Context, _ subscriber.Ref, _ string, start subscriber.Start) (subscriber.Info, error) {
	return s.seen(start)
}

func (s *sessions) Commit(_ context.Context, _ subscriber.Ref, _ string, c subscriber.Commit) (reader.Cursor, error) {
	_, err := s.seen(c)
	return next(3), err
}

func (s *sessions) Join(ctx context.Context, _ subscriber.Ref, _ string, j subscriber.Join) (api.SubscriberSession, error) {
	_, err := s.seen(j)
	return session{s, ctx}, err
}

type session struct {
	s   *sessions
	ctx context.Context //nolint:containedctx // a session lives as long as its context
}

func (x session) Schema() *schema.Schema { return scriptSchema }

func (x session) Events() iter.Seq2[subscriber.Event, error] {
	return func(yield func(subscriber.Event, error) bool) { x.s.yield(x.ctx, yield) }
}

func (x session) Close() {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	x.s.closed++
}

// theEpoch is a session of an exactly-once subscriber that ends when it is
// fenced.
func theEpoch(_ context.Context, yield func(subscriber.Event, error) bool) {
	batch := rows(2, 3)
	defer batch.Release()
	as := subscriber.Assignment{Session: 12, Member: "m", Partitions: []record.Partition{0, 1}, Position: next(5)}
	_ = yield(subscriber.Event{Assignment: &as}, nil) &&
		yield(subscriber.Event{Batch: reader.Batch{Rows: batch, Next: next(7), Epoch: 3}}, nil) &&
		yield(subscriber.Event{Batch: reader.Batch{Next: next(7), Epoch: 3, EpochEnd: true}}, nil) &&
		yield(subscriber.Event{}, fmt.Errorf("subscriber g: another read took the name m: %w", subscriber.ErrSessionFenced))
}

// theRows is one of an at-least-once subscriber, idle at first.
func theRows(_ context.Context, yield func(subscriber.Event, error) bool) {
	batch := rows(1, 3)
	defer batch.Release()
	as := subscriber.Assignment{Session: 12, Member: "m", Position: next(5)}
	_ = yield(subscriber.Event{Assignment: &as}, nil) &&
		yield(subscriber.Event{Batch: reader.Batch{Rows: batch, Next: next(6)}}, nil) &&
		yield(subscriber.Event{Batch: reader.Batch{Next: next(9)}}, nil) &&
		yield(subscriber.Event{}, fmt.Errorf("subscriber g: it was deleted: %w", record.ErrNotFound))
}

// text reads the whole answer of a push read, without heartbeats and request id.
func (s *server) text(query string) string {
	s.t.Helper()
	resp, err := s.Client().Do(s.request("GET", branchPath("x", "subscribers/g/rows"+query), nil, header{"Request-Id", "r"}))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		s.t.Fatalf("%s: %v: %s", resp.Status, err, body)
	}
	return string(body)
}

func TestSubscribeFormats(t *testing.T) {
	t.Parallel()
	const fenced = `{"code":"SUBSCRIBER_FENCED","detail":"subscriber g: another read took the name m: the session is over; join again: fenced by a newer owner","requestId":"r","status":409,"title":"Conflict","type":"about:blank"}`
	const deleted = `{"code":"NOT_FOUND","detail":"subscriber g: it was deleted: not found","requestId":"r","status":404,"title":"Not Found","type":"about:blank"}`
	replace := strings.NewReplacer("C5", next(5).String(), "C6", next(6).String(), "C7", next(7).String(), "C9", next(9).String(), "FENCED", fenced, "DELETED", deleted)
	for query, c := range map[string]struct {
		yield func(context.Context, func(subscriber.Event, error) bool)
		want  string
	}{
		"": {theEpoch, `{"_thermocline":"assignment","session":12,"member":"m","partitions":[0,1],"cursor":"C5"}
{"text":"xxx"}
{"text":"xxx"}
{"_thermocline":"checkpoint","checkpoint":3,"cursor":"C7"}
{"_thermocline":"error","problem":FENCED}
`},
		"?format=ndjson": {theRows, `{"_thermocline":"assignment","session":12,"member":"m","partitions":[],"cursor":"C5"}
{"text":"xxx"}
{"_thermocline":"cursor","cursor":"C6"}
{"_thermocline":"cursor","cursor":"C9"}
{"_thermocline":"error","problem":DELETED}
`},
		"?format=sse": {theEpoch, `event: assignment
data: {"session":12,"member":"m","partitions":[0,1],"cursor":"C5"}

event: rows
data: {"text":"xxx"}
data: {"text":"xxx"}

event: checkpoint
id: C7
data: {"checkpoint":3,"cursor":"C7"}

event: problem
data: FENCED

`},
		"?format=sse&member=m": {theRows, `event: assignment
data: {"session":12,"member":"m","partitions":[],"cursor":"C5"}

event: rows
id: C6
data: {"text":"xxx"}

event: cursor
id: C9
data: {"cursor":"C9"}

event: problem
data: DELETED

`},
	} {
		b := shared
		fake := &sessions{yield: c.yield}
		b.Subscribers = fake
		s := serve(t, b, api.Options{})
		if diff := cmp.Diff(replace.Replace(c.want), s.text(query)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", query, diff)
		}
		eventually(t, "the session to be closed", func() bool {
			fake.mu.Lock()
			defer fake.mu.Unlock()
			return fake.closed == 1
		})
	}
}

// piece is a record batch of an answer: its rows and its mark.
type piece struct {
	Rows int64
	Mark string
}

func TestSubscribeArrow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		yield func(context.Context, func(subscriber.Event, error) bool)
		want  []piece
	}{
		{theEpoch, []piece{{0, "assignment"}, {2, ""}, {0, "checkpoint 3 " + next(7).String()}, {0, "error SUBSCRIBER_FENCED"}}},
		// The cursor comes with its rows.
		{theRows, []piece{{0, "assignment"}, {1, "cursor " + next(6).String()}, {0, "cursor " + next(9).String()}, {0, "error NOT_FOUND"}}},
	} {
		b := shared
		b.Subscribers = &sessions{yield: c.yield}
		s := serve(t, b, api.Options{})
		if diff := cmp.Diff(c.want, arrowPieces(t, strings.NewReader(s.text("?format=arrow")))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func arrowPieces(t *testing.T, r io.Reader) (out []piece) {
	t.Helper()
	in, err := ipc.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Release()
	for in.Next() {
		out = append(out, piece{in.RecordBatch().NumRows(), arrowMark(t, in.RecordBatch())})
	}
	if err := in.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func arrowMark(t *testing.T, b arrow.RecordBatch) string {
	t.Helper()
	text, ok := b.(arrow.RecordBatchWithMetadata).Metadata().GetValue("thermocline.mark")
	if !ok {
		return ""
	}
	var m struct {
		Kind       string `json:"_thermocline"`
		Checkpoint int
		Cursor     string
		Problem    problem
	}
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	switch m.Kind {
	case "checkpoint":
		return fmt.Sprint(m.Kind, " ", m.Checkpoint, " ", m.Cursor)
	case "cursor":
		return m.Kind + " " + m.Cursor
	case "error":
		return m.Kind + " " + m.Problem.Code
	}
	return m.Kind
}

func TestSubscribeHeartbeats(t *testing.T) {
	t.Parallel()
	idle := func(ctx context.Context, yield func(subscriber.Event, error) bool) {
		if yield(subscriber.Event{Assignment: &subscriber.Assignment{Session: 1, Member: "m", Position: next(0)}}, nil) {
			<-ctx.Done()
			yield(subscriber.Event{}, ctx.Err())
		}
	}
	b := shared
	b.Subscribers = &sessions{yield: idle}
	s := serve(t, b, api.Options{Heartbeat: 20 * time.Millisecond, MaxSubscribes: 1})
	resp, err := s.Client().Do(s.request("GET", branchPath("x", "subscribers/g/rows?format=arrow"), nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in, err := ipc.NewReader(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Release()
	for i := range 3 {
		if !in.Next() || in.RecordBatch().NumRows() != 0 || (arrowMark(t, in.RecordBatch()) != "") != (i == 0) {
			t.Fatalf("piece %d is no heartbeat: %v", i, in.Err())
		}
	}
	a := s.do("GET", branchPath("x", "subscribers/g/rows"), nil)
	a.wantProblem(t, 429, "BUSY", "1 subscriber reads")
	if a.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	s.api.Drain()
	last := ""
	for in.Next() {
		if m := arrowMark(t, in.RecordBatch()); m != "" {
			last = m
		}
	}
	if last != "error UNAVAILABLE" || in.Err() != nil {
		t.Errorf("shutting down: %q, %v", last, in.Err())
	}
}

// A client that stops reading is cut, in every format, and its session ends.
func TestSubscribeOfASlowClient(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"ndjson", "sse", "arrow"} {
		ended := make(chan bool, 1)
		b := shared
		fake := &sessions{yield: func(ctx context.Context, yield func(subscriber.Event, error) bool) {
			defer func() { ended <- true }()
			batch := rows(1, 1<<20)
			defer batch.Release()
			for i := 0; ctx.Err() == nil && yield(subscriber.Event{Batch: reader.Batch{Rows: batch, Next: next(i)}}, nil); i++ {
			}
		}}
		b.Subscribers = fake
		s := serve(t, b, api.Options{StallTimeout: 300 * time.Millisecond})
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", branchPath("x", "subscribers/g/rows?format="+format))
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the session goes on", format)
		}
		eventually(t, "the session to be closed", func() bool {
			fake.mu.Lock()
			defer fake.mu.Unlock()
			return fake.closed == 1
		})
	}
}

func TestSubscriberRequests(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	cursor := next(4)
	b := shared
	fake := &sessions{yield: theRows, info: subscriber.Info{
		Name: "g", Consistency: "EXACTLY_ONCE", View: 2, CurrentView: true, Position: reader.Cursor{View: 1, Next: record.Offsets{4, 5}, Checkpoint: 9},
		Session: 12, Generation: 1, Hold: time.Minute, Created: at, Committed: at, Lag: subscriber.Lag{Rows: 3, Age: 1500 * time.Millisecond},
		Members: []subscriber.MemberInfo{{Name: "m", Session: 12, Partitions: []record.Partition{1}, Joined: at, Delivered: record.Offsets{4, 6}}},
	}}
	b.Subscribers = fake
	s := serve(t, b, api.Options{})
	path := branchPath("x", "subscribers")
	for _, c := range []struct {
		method, path, body string
		status             int
		want               any
	}{
		{"POST", path, `{"id":"g"}`, 201, subscriber.Spec{Name: "g"}},
		{"POST", path, `{"id":"g","consistency":"EXACTLY_ONCE","hold":"5m","start":{"type":"latest"}}`, 201,
			subscriber.Spec{Name: "g", Consistency: "EXACTLY_ONCE", Hold: 5 * time.Minute, Start: subscriber.Start{Latest: true}}},
		{"POST", path, `{"id":"g","start":{"type":"time","time":"2026-03-01T00:00:00Z"}}`, 201, subscriber.Spec{Name: "g", Start: subscriber.Start{Time: &at}}},
		{"POST", path + "/g/reset", `{"start":{"type":"cursor","cursor":"` + cursor.String() + `"}}`, 200, subscriber.Start{Cursor: &cursor}},
		{"POST", path + "/g/reset", `{"start":{"type":"earliest"}}`, 200, subscriber.Start{}},
		{"POST", path + "/g/commit", `{"session":12,"cursor":"` + cursor.String() + `"}`, 200, subscriber.Commit{Session: 12, Cursor: &cursor}},
		{"POST", path + "/g/commit", `{"session":12,"checkpoint":7}`, 200, subscriber.Commit{Session: 12, Epoch: 7}},
		{"GET", path + "/a.b-c_D", "", 200, "default.x a.b-c_D"},
		{"GET", path + "?limit=7&pageToken=t", "", 200, api.Page{Size: 7, Token: "t"}},
		{"DELETE", path + "/g", "", 204, "default.x g"},
	} {
		a := s.do(c.method, c.path, c.body)
		a.want(t, c.status, nil)
		if diff := cmp.Diff(c.want, fake.last()); diff != "" {
			t.Errorf("%s %s %s (-want +got):\n%s", c.method, c.path, c.body, diff)
		}
		if c.status == 201 && a.Header.Get("Location") != "/v1/streams/default.x/branches/main/subscribers/g" {
			t.Errorf("Location %q", a.Header.Get("Location"))
		}
	}
	var shown struct {
		Cursor     string
		Checkpoint int
		Offsets    map[string]int
		LagSeconds float64
		Hold       string
		Members    []struct {
			Partitions []int
			Delivered  map[string]int
		}
	}
	s.do("GET", path+"/g", nil).want(t, 200, &shown)
	if got := fmt.Sprintf("%+v", shown); got != fmt.Sprintf("{Cursor:%s Checkpoint:9 Offsets:map[0:4 1:5] LagSeconds:1.5 Hold:1m Members:[{Partitions:[1] Delivered:map[0:4 1:6]}]}", fake.info.Position) {
		t.Errorf("shown: %s", got)
	}
	s.text("?member=m&resume=" + cursor.String() + "&columns=text&where=text%3D%27a%27&system=true")
	if diff := cmp.Diff(subscriber.Join{Member: "m", Resume: &cursor, Request: reader.Request{Columns: []string{"text"}, Where: "text='a'", System: true}}, fake.last()); diff != "" {
		t.Errorf("join (-want +got):\n%s", diff)
	}
}

func TestSubscriberBadRequests(t *testing.T) {
	t.Parallel()
	b := shared
	fake := &sessions{yield: theRows}
	b.Subscribers = fake
	s := serve(t, b, api.Options{})
	path := branchPath("x", "subscribers")
	for _, c := range [][3]string{
		{path, `{"id":"g","consistency":"ONCE"}`, "consistency"},
		{path, `{"id":"g","hold":"0s"}`, "hold"},
		{path, `{"id":"g","hold":"soon"}`, "hold"},
		{path, `{"id":"g","start":{"type":"now"}}`, "start"},
		{path, `{"id":"g","start":{"type":"cursor"}}`, "cursor"},
		{path, `{"id":"g","start":{"type":"earliest","cursor":"x"}}`, "cursor"},
		{path, `{"id":"g","start":{"type":"cursor","cursor":"x"}}`, "cursor"},
		{path, `{"id":"g","start":{"type":"time"}}`, "time"},
		{path, `{"id":"g","start":{"type":"time","time":"noon"}}`, "noon"},
		{path, `{"name":"g"}`, "name"},
		{path + "/g/reset", `{}`, "start"},
		{path + "/g/commit", `{"session":1}`, "cursor"},
		{path + "/g/commit", `{"checkpoint":1}`, "session"},
		{path + "/g/commit", `{"session":1,"cursor":"x"}`, "cursor"},
		{path + "/g/commit", `{"session":1,"checkpoint":0}`, "checkpoint"},
		{path + "/g/commit", `{"session":1,"checkpoint":1,"cursor":"x"}`, "cursor"},
	} {
		s.do("POST", c[0], c[1]).wantProblem(t, 400, "INVALID_REQUEST", c[2])
	}
	for query, text := range map[string]string{
		"?format=csv": "csv", "?resume=x": "cursor", "?member=": "member", "?columns=,": "columns", "?consistency=EXACTLY_ONCE": "consistency", "?numbers=x": "numbers",
	} {
		s.do("GET", path+"/g/rows"+query, nil).wantProblem(t, 400, "INVALID_REQUEST", text)
	}
	s.do("GET", path+"/g/rows", nil, header{"Accept", "text/csv"}).wantProblem(t, 406, "NOT_ACCEPTABLE", "arrow")
	s.do("POST", path, `{}`, header{"Content-Type", "text/plain"}).wantProblem(t, 415, "UNSUPPORTED_MEDIA_TYPE", "")
	if len(fake.calls) != 0 {
		t.Errorf("the backend was called: %v", fake.calls)
	}
}

func TestSubscriberErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{subscriber.ErrSessionFenced, 409, "SUBSCRIBER_FENCED"},
		{reader.ErrOtherView, 410, "CURSOR_OF_OTHER_VIEW"},
		{record.ErrExists, 409, "ALREADY_EXISTS"},
		{record.ErrNotFound, 404, "NOT_FOUND"},
		{record.ErrBusy, 429, "BUSY"},
		{record.ErrClosed, 503, "UNAVAILABLE"},
	} {
		b := shared
		b.Subscribers = &sessions{err: fmt.Errorf("subscriber g: %w", c.err)}
		s := serve(t, b, api.Options{})
		path := branchPath("x", "subscribers")
		for _, call := range [][3]string{
			{"POST", path, `{"id":"g"}`}, {"GET", path, ""}, {"GET", path + "/g", ""}, {"DELETE", path + "/g", ""},
			{"POST", path + "/g/reset", `{"start":{"type":"earliest"}}`}, {"POST", path + "/g/commit", `{"session":1,"checkpoint":1}`}, {"GET", path + "/g/rows", ""},
		} {
			s.do(call[0], call[1], call[2]).wantProblem(t, c.status, c.code, "subscriber g")
		}
	}
}

// A real node: a subscriber is created, read by members, committed, reset and
// deleted.
func TestSubscribersOfANode(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(map[string]any{"partitions": 2})
	path := branchPath(stream, "subscribers")
	s.publish(stream, 0, 4)
	s.do("POST", path, `{"id":"g","consistency":"EXACTLY_ONCE"}`).want(t, 201, nil)
	s.do("POST", path, `{"id":"g"}`).wantProblem(t, 409, "ALREADY_EXISTS", "g")
	s.do("POST", path, `{"id":"a b"}`).wantProblem(t, 400, "INVALID_REQUEST", "a b")

	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	read := s.join(ctx, stream, "g", "?member=m&columns=seq")
	first := nextMark(t, read, "assignment")
	if first.Session < 1 || first.Member != "m" || fmt.Sprint(first.Partitions) != "[0 1]" {
		t.Errorf("assignment: %+v", first)
	}
	var end wireMark
	for seen := 0; seen < 4; seen += end.rows {
		end = nextMark(t, read, "checkpoint")
	}
	commit := func(session int64, checkpoint int64) answer {
		return s.do("POST", path+"/g/commit", map[string]int64{"session": session, "checkpoint": checkpoint})
	}
	commit(first.Session, end.Checkpoint).want(t, 200, nil)
	commit(first.Session, end.Checkpoint).want(t, 200, nil) // again
	commit(first.Session+1, end.Checkpoint).wantProblem(t, 409, "SUBSCRIBER_FENCED", "session")

	var info struct {
		Cursor              string
		LagRows, Generation int64
		Members             []struct{ Member string }
	}
	s.do("GET", path+"/g", nil).want(t, 200, &info)
	if info.LagRows != 0 || info.Cursor != end.Cursor || len(info.Members) != 1 || info.Members[0].Member != "m" {
		t.Errorf("shown: %+v, want the cursor %s", info, end.Cursor)
	}

	// A read of the same name takes over at once, and fences what it replaces.
	second := s.join(ctx, stream, "g", "?member=m&columns=seq")
	taken := nextMark(t, second, "assignment")
	if p := nextMark(t, read, "error").Problem; p.Code != "SUBSCRIBER_FENCED" || taken.Session <= first.Session || taken.Cursor != end.Cursor {
		t.Errorf("taken over: %+v, %+v", p, taken)
	}
	commit(first.Session, end.Checkpoint).wantProblem(t, 409, "SUBSCRIBER_FENCED", "session")

	// A reset ends the reads, and the next one begins where it says.
	s.do("POST", path+"/g/reset", `{"start":{"type":"earliest"}}`).want(t, 200, &info)
	if p := nextMark(t, second, "error").Problem; p.Code != "SUBSCRIBER_FENCED" || info.Generation < 1 || info.LagRows != 4 {
		t.Errorf("reset: %+v, %+v", p, info)
	}
	leave()
	ctx, leave = context.WithCancel(t.Context())
	defer leave()
	third := s.join(ctx, stream, "g", "?member=m&resume="+end.Cursor)
	nextMark(t, third, "assignment")
	s.publish(stream, 4, 1)
	if m := nextMark(t, third, "checkpoint"); m.rows != 1 {
		t.Errorf("behind resume: %+v", m)
	}

	var list struct{ Subscribers []struct{ ID string } }
	s.do("GET", path, nil).want(t, 200, &list)
	if len(list.Subscribers) != 1 || list.Subscribers[0].ID != "g" {
		t.Errorf("list: %+v", list)
	}
	s.do("DELETE", path+"/g", nil).want(t, 204, nil)
	if p := nextMark(t, third, "error").Problem; p.Code != "NOT_FOUND" && p.Code != "SUBSCRIBER_FENCED" {
		t.Errorf("deleted: %+v", p)
	}
	s.do("GET", path+"/g", nil).wantProblem(t, 404, "NOT_FOUND", "g")
	s.do("GET", path+"/g/rows", nil).wantProblem(t, 404, "NOT_FOUND", "g")
}

// After a reset of the branch a subscriber stands in the old view until it is reset
// too.
func TestSubscriberOfAnotherView(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(nil)
	path := branchPath(stream, "subscribers")
	s.publish(stream, 0, 3)
	s.do("POST", path, `{"id":"g"}`).want(t, 201, nil)
	s.do("POST", branchPath(stream, "reset"), nil).want(t, 200, nil)
	s.do("GET", path+"/g/rows", nil).wantProblem(t, 410, "CURSOR_OF_OTHER_VIEW", "reset")
	var info struct {
		CurrentView bool
		View        int
	}
	s.do("GET", path+"/g", nil).want(t, 200, &info)
	if info.CurrentView || info.View != 1 {
		t.Errorf("%+v", info)
	}
	s.do("POST", path+"/g/reset", `{"start":{"type":"latest"}}`).want(t, 200, &info)
	if !info.CurrentView || info.View != 2 {
		t.Errorf("%+v", info)
	}
}

// wireMark is a mark as a client reads it, with the number of rows before it.
type wireMark struct {
	Kind       string `json:"_thermocline"`
	Session    int64
	Member     string
	Partitions []int
	Checkpoint int64
	Cursor     string
	Problem    problem

	rows int
}

// nextMark reads up to a mark of the kind; other kinds are passed over.
func nextMark(t *testing.T, sc *bufio.Scanner, kind string) wireMark {
	t.Helper()
	for rows := 0; ; {
		line := nextLine(t, sc)
		if !strings.HasPrefix(line, `{"_thermocline":`) {
			rows++
			continue
		}
		m := wireMark{rows: rows}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if m.Kind == kind {
			return m
		}
		if m.Kind == "error" {
			t.Fatalf("the read ended: %s", line)
		}
	}
}

// join opens a push read of a subscriber of a real stream.
func (s *server) join(ctx context.Context, stream, name, query string) *bufio.Scanner {
	s.t.Helper()
	resp, err := s.Client().Do(s.request("GET", branchPath(stream, "subscribers/"+name+"/rows"+query), nil).WithContext(ctx))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		s.t.Fatalf("join: %s: %s", resp.Status, body)
	}
	return bufio.NewScanner(resp.Body)
}
