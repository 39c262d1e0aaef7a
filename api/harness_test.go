package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"go.uber.org/goleak"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/cmd/thermocline/node"
)

// The tests run against a whole node in a temporary directory, shared by all
// (each has streams of its own); parts of its backend are replaced where a test
// needs a fault. Every answer is held against openapi.yaml.
var shared api.Backend

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "thermocline-api-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx, stop := context.WithCancel(context.Background())
	n, err := node.Open(ctx, node.Options{Dir: dir, SegmentBytes: 1 << 20, CheckpointEvery: 50 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx, time.Second) }()
	shared = n.Backend()
	code := m.Run()
	stop()
	if err := <-ran; err != nil {
		fmt.Println("run:", err)
		code = 1
	}
	if err := n.Close(); err != nil {
		fmt.Println("close:", err)
		code = 1
	}
	if err := goleak.Find(); err != nil {
		fmt.Println(err)
		code = 1
	}
	return code
}

// server is an API behind a real listener.
type server struct {
	*httptest.Server
	t    testing.TB
	api  *api.API
	logs *logs
}

// logs is the server's log.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func serve(t testing.TB, b api.Backend, o api.Options) *server {
	t.Helper()
	s := &server{t: t, logs: &logs{}}
	o.Logger = slog.New(slog.NewTextHandler(s.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.Version = "test"
	a, err := api.New(b, o)
	if err != nil {
		t.Fatal(err)
	}
	s.api = a
	s.Server = httptest.NewUnstartedServer(a)
	s.Config = a.Server()
	s.Start()
	t.Cleanup(func() {
		a.Drain()
		s.Client().CloseIdleConnections()
		s.Close()
	})
	return s
}

// answer is a response, read whole.
type answer struct {
	*http.Response
	body []byte
	err  error // of reading the body
}

// header is one of a request.
type header struct{ name, value string }

// do sends one request and holds the answer against the contract.
func (s *server) do(method, path string, body any, headers ...header) answer {
	s.t.Helper()
	req := s.request(method, path, body, headers...)
	resp, err := s.Client().Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	a := answer{Response: resp}
	a.body, a.err = io.ReadAll(resp.Body)
	if a.err == nil {
		s.checkContract(req, a)
	}
	return a
}

func (s *server) request(method, path string, body any, headers ...header) *http.Request {
	s.t.Helper()
	var r io.Reader
	contentType := "application/json"
	switch b := body.(type) {
	case nil:
		contentType = ""
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	case io.Reader:
		r = b
	default:
		text, err := json.Marshal(b)
		if err != nil {
			s.t.Fatal(err)
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.URL+path, r)
	if err != nil {
		s.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for _, h := range headers {
		req.Header.Set(h.name, h.value)
	}
	return req
}

// want checks the status and decodes a JSON answer into v.
func (a answer) want(t testing.TB, status int, v any) {
	t.Helper()
	if a.err != nil {
		t.Fatalf("read the answer: %v", a.err)
	}
	if a.StatusCode != status {
		t.Fatalf("%s %s: status %d, want %d: %.500s", a.Request.Method, a.Request.URL, a.StatusCode, status, a.body)
	}
	if v != nil {
		if err := json.Unmarshal(a.body, v); err != nil {
			t.Fatalf("%s %s: %v: %.500s", a.Request.Method, a.Request.URL, err, a.body)
		}
	}
}

type problem struct {
	Status     int
	Code       string
	Detail     string
	RequestID  string `json:"requestId"`
	ErrorCount int64
	Errors     []rowError
}

type rowError struct {
	Row                       int64
	Path, Code, Expected, Got string
}

// wantProblem checks for a problem with the code, whose detail holds text.
func (a answer) wantProblem(t testing.TB, status int, code, text string) problem {
	t.Helper()
	var p problem
	a.want(t, status, &p)
	if ct := a.Header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("Content-Type %q of a problem", ct)
	}
	if p.Code != code || p.Status != status || !strings.Contains(p.Detail, text) {
		t.Errorf("%s %s: problem %d %s %q, want %d %s with %q", a.Request.Method, a.Request.URL, p.Status, p.Code, p.Detail, status, code, text)
	}
	if p.RequestID == "" || p.RequestID != a.Header.Get("Request-Id") {
		t.Errorf("the problem's request id %q is not the header's %q", p.RequestID, a.Header.Get("Request-Id"))
	}
	return p
}

// The contract.

var contract = sync.OnceValue(func() *openapi3.T {
	doc, err := openapi3.NewLoader().LoadFromData(api.Contract())
	if err != nil {
		panic(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		panic(err)
	}
	doc.Servers = nil
	return doc
})

var router = sync.OnceValue(func() routers.Router {
	r, err := legacy.NewRouter(contract())
	if err != nil {
		panic(err)
	}
	return r
})

func (s *server) checkContract(req *http.Request, a answer) {
	s.t.Helper()
	route, params, err := router().FindRoute(&http.Request{Method: req.Method, URL: mustPath(req)})
	if err != nil {
		if a.StatusCode < 400 {
			s.t.Errorf("%s %s: served with %d, but not in the contract: %v", req.Method, req.URL, a.StatusCode, err)
		}
		return
	}
	in := &openapi3filter.RequestValidationInput{
		Request: req, PathParams: params, Route: route, QueryParams: req.URL.Query(),
		Options: &openapi3filter.Options{ExcludeRequestBody: true},
	}
	if a.StatusCode < 300 {
		if err := openapi3filter.ValidateRequest(req.Context(), in); err != nil {
			s.t.Errorf("%s %s: answered with %d, but the contract forbids the request: %v", req.Method, req.URL, a.StatusCode, err)
		}
	}
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: a.StatusCode, Header: a.Header,
		Options: &openapi3filter.Options{IncludeResponseStatus: true, ExcludeResponseBody: !strings.Contains(a.Header.Get("Content-Type"), "json") || strings.Contains(a.Header.Get("Content-Type"), "ndjson")},
	}
	out.SetBodyBytes(a.body)
	if err := openapi3filter.ValidateResponse(req.Context(), out); err != nil {
		s.t.Errorf("%s %s: the answer %d breaks the contract: %v\n%.500s", req.Method, req.URL, a.StatusCode, err, a.body)
	}
	if want := route.Operation.Responses.Status(a.StatusCode); want != nil && want.Value.Content != nil && a.StatusCode < 300 {
		if ct, _, _ := strings.Cut(a.Header.Get("Content-Type"), ";"); want.Value.Content.Get(ct) == nil {
			s.t.Errorf("%s %s: Content-Type %q is not in the contract", req.Method, req.URL, ct)
		}
	}
}

// Streams for tests.

var streamNumber atomic.Int64

const quakeSchema = `{"fields":[
	{"name":"id","type":"STRING","nullable":false},
	{"name":"mag","type":"DOUBLE"},
	{"name":"seq","type":"LONG"},
	{"name":"price","type":"DECIMAL","precision":20,"scale":2},
	{"name":"tags","type":"ARRAY","element":{"type":"STRING"}},
	{"name":"at","type":"TIMESTAMP"},
	{"name":"small","type":"BYTE"}
]}`

// stream makes a stream of quakeSchema and returns its name.
func (s *server) stream(settings map[string]any) string {
	s.t.Helper()
	name := fmt.Sprintf("s%d", streamNumber.Add(1))
	s.do("POST", "/v1/streams", map[string]any{"name": name, "schema": json.RawMessage(quakeSchema), "settings": settings}).want(s.t, 201, nil)
	return name
}

func branchPath(stream, what string) string {
	return "/v1/streams/" + stream + "/branches/main/" + what
}

var ndjson = header{"Content-Type", "application/x-ndjson"}

// publish appends n rows {"id":"r<i>","seq":<i>} from first on.
func (s *server) publish(stream string, first, n int) {
	s.t.Helper()
	var b strings.Builder
	for i := first; i < first+n; i++ {
		fmt.Fprintf(&b, "{\"id\":\"r%d\",\"seq\":%d}\n", i, i)
	}
	s.do("POST", branchPath(stream, "rows"), b.String(), ndjson).want(s.t, 200, nil)
}

// eventually waits until ok, for conditions that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 10 s for: %s", what)
		}
	}
}
