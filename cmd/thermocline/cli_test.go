package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/cmd/thermocline/node"
)

// One node for all tests; each has streams, and where it needs one a server or
// proxy, of its own.
var shared struct {
	backend api.Backend
	address string
}

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "thermocline-cli-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	quiet := slog.New(slog.DiscardHandler)
	ctx, stop := context.WithCancel(context.Background())
	n, err := node.Open(ctx, node.Options{Dir: dir, SegmentBytes: 1 << 20, CheckpointEvery: 50 * time.Millisecond, Logger: quiet})
	if err != nil {
		panic(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx, time.Second) }()
	shared.backend = n.Backend()
	a, err := api.New(shared.backend, api.Options{Logger: quiet, Heartbeat: 100 * time.Millisecond})
	if err != nil {
		panic(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	shared.address = l.Addr().String()
	srv := a.Server()
	go func() { _ = srv.Serve(l) }()
	code := m.Run()
	a.Drain()
	_ = srv.Shutdown(ctx)
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

// result is what a command line did.
type result struct {
	code     int
	out, err string
}

// buffer is a writer that can be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// cli runs a command line against a server.
func cli(ctx context.Context, server string, in io.Reader, args ...string) result {
	var out, errs buffer
	code := run(ctx, terminal{in, &out, &errs}, append(args, "--server", server))
	return result{code, out.String(), errs.String()}
}

// do runs a command line that must succeed.
func do(t *testing.T, args ...string) string {
	t.Helper()
	r := cli(t.Context(), shared.address, nil, args...)
	if r.code != 0 {
		t.Fatalf("thermocline %s: exit code %d: %s", strings.Join(args, " "), r.code, r.err)
	}
	return r.out
}

// temp writes a file into the test's directory.
func temp(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var streamNumber atomic.Int64

const numberSchema = `{"fields":[{"name":"n","type":"LONG","nullable":false},{"name":"text","type":"STRING"}]}`

// stream makes a stream of numberSchema.
func stream(t *testing.T, flags ...string) string {
	t.Helper()
	name := fmt.Sprintf("s%d", streamNumber.Add(1))
	do(t, append([]string{"stream", "create", name, "--schema", temp(t, "schema.json", []byte(numberSchema))}, flags...)...)
	return name
}

// numbers is NDJSON with the numbers from first on.
func numbers(first, n int) []byte {
	var b bytes.Buffer
	for i := first; i < first+n; i++ {
		fmt.Fprintf(&b, "{\"n\":%d,\"text\":\"row %d\"}\n", i, i)
	}
	return b.Bytes()
}

// wantNumbers checks that a stream holds the numbers from 0 to n, each once and
// in order.
func wantNumbers(t *testing.T, name string, n int) {
	t.Helper()
	checkNumbers(t, do(t, "read", name, "--columns", "n"), n)
}

func checkNumbers(t *testing.T, text string, n int) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if text == "" {
		lines = nil
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, fmt.Sprintf(`{"n":%d`, i)) || strings.IndexAny(line[5:], "},") != len(fmt.Sprint(i)) {
			t.Fatalf("row %d is %s (%d rows, want %d)", i, line, len(lines), n)
		}
	}
	if len(lines) != n {
		t.Fatalf("%d rows, want %d", len(lines), n)
	}
}

// cutter is a proxy that breaks connections: the i-th after cuts[i] bytes of
// answers, those beyond the list never.
type cutter struct {
	net.Listener
	cuts  []int64
	conns atomic.Int64
	wg    sync.WaitGroup
}

func cutting(t *testing.T, cuts ...int64) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l, cuts: cuts}
	c.wg.Go(c.run)
	t.Cleanup(func() {
		l.Close()
		c.wg.Wait()
	})
	return c
}

func (c *cutter) run() {
	for {
		down, err := c.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", shared.address)
		if err != nil {
			down.Close()
			continue
		}
		i := c.conns.Add(1) - 1
		c.wg.Go(func() {
			_, _ = io.Copy(up, down)
			up.Close()
		})
		c.wg.Go(func() {
			var r io.Reader = up
			if i < int64(len(c.cuts)) {
				r = io.LimitReader(up, c.cuts[i])
			}
			_, _ = io.Copy(down, r)
			down.Close()
			up.Close()
		})
	}
}

func (c *cutter) address() string { return c.Addr().String() }

func TestUsage(t *testing.T) {
	t.Parallel()
	for args, text := range map[string]string{
		"nosuch":                               "nosuch",
		"stream nosuch":                        "nosuch",
		"stream create":                        "arg",
		"stream create x":                      "--schema",
		"stream create x --schema a --infer b": "--schema",
		"stream create x --nosuch":             "--nosuch",
		"stream list --output xml":             "--output",
		"ingest x":                             "arg",
		"ingest x - --on-error maybe":          "--on-error",
		"ingest x - --unknown-fields maybe":    "--unknown-fields",
		"ingest x - --timeout 0s":              "--timeout",
		"ingest x - --format xml":              "--format",
		"read x --format xml":                  "--format",
		"read x --limit -1":                    "--limit",
		"dataset history x --limit -1":         "--limit",
	} {
		r := cli(t.Context(), shared.address, strings.NewReader("{}"), strings.Fields(args)...)
		if args == "ingest x - --format xml" && r.code == exitFail {
			continue // the stream is looked up first
		}
		if r.code != exitUsage || !strings.Contains(r.err, text) || r.out != "" {
			t.Errorf("%s: exit code %d, %q, %q", args, r.code, r.out, r.err)
		}
	}
	if r := cli(t.Context(), "ftp://x", nil, "stream", "list"); r.code != exitUsage {
		t.Errorf("--server ftp: %+v", r)
	}
	for _, args := range []string{"--help", "stream", "ingest --help", "version"} {
		if r := cli(t.Context(), shared.address, nil, strings.Fields(args)...); r.code != exitOK || r.out == "" {
			t.Errorf("%s: %+v", args, r)
		}
	}
	if r := cli(t.Context(), "127.0.0.1:1", nil, "stream", "list"); r.code != exitFail || !strings.Contains(r.err, "--server") {
		t.Errorf("nobody there: %+v", r)
	}
}

// The null device is nobody to ask, under whatever name it was opened.
func TestIsTerminal(t *testing.T) {
	t.Parallel()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	link := filepath.Join(t.TempDir(), "stdin")
	if err := os.Symlink(os.DevNull, link); err != nil {
		t.Fatal(err)
	}
	stdin, err := os.Open(link)
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	for _, f := range []any{null, stdin, &bytes.Buffer{}} {
		if isTerminal(f) {
			t.Errorf("%T is taken for a person", f)
		}
	}
}

// An answer that is not from a thermocline server says so.
func TestOtherServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "DELETE" {
			w.WriteHeader(http.StatusTeapot)
		}
		fmt.Fprint(w, "<html>")
	})}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	if r := cli(t.Context(), l.Addr().String(), nil, "stream", "list"); r.code != exitFail || !strings.Contains(r.err, "thermocline server there?") {
		t.Errorf("%+v", r)
	}
	if r := cli(t.Context(), l.Addr().String(), nil, "stream", "delete", "x"); r.code != exitFail || !strings.Contains(r.err, "418") {
		t.Errorf("%+v", r)
	}
}

func TestStreamCommands(t *testing.T) {
	t.Parallel()
	name := stream(t, "--type", "high-throughput", "--key", "n", "--partitions", "2", "--archive-interval", "5m")
	text := do(t, "stream", "show", name)
	for _, want := range []string{"default." + name, "HIGH_THROUGHPUT", "5m", "LONG", "text"} {
		if !strings.Contains(text, want) {
			t.Errorf("show lacks %q:\n%s", want, text)
		}
	}
	if text := do(t, "stream", "settings", name, "--partitions", "3", "--compressed"); !strings.Contains(text, "3") || !strings.Contains(text, "true") {
		t.Errorf("settings: %s", text)
	}
	var settings struct {
		Partitions int
		Compressed bool
		KeyFields  []string
	}
	if err := json.Unmarshal([]byte(do(t, "stream", "settings", name, "--output", "json")), &settings); err != nil || settings.Partitions != 3 || !settings.Compressed || len(settings.KeyFields) != 1 {
		t.Errorf("settings: %+v, %v", settings, err)
	}
	if text := do(t, "stream", "list"); !strings.Contains(text, "default."+name) {
		t.Errorf("list: %s", text)
	}
	do(t, "ingest", name, temp(t, "n.ndjson", numbers(0, 3)))
	if text := do(t, "offsets", name); !strings.Contains(text, "3 rows wait") {
		t.Errorf("offsets: %s", text)
	}
	if text := do(t, "archive", name); !strings.Contains(text, "archived 3 rows") {
		t.Errorf("archive: %s", text)
	}
	if text := do(t, "dataset", "history", name); !strings.Contains(text, "append") {
		t.Errorf("history: %s", text)
	}
	if text := do(t, "dataset", "files", name); !strings.Contains(text, "parquet") {
		t.Errorf("files: %s", text)
	}
	if text := do(t, "stream", "reset", name, "--partitions", "1"); !strings.Contains(text, "2") {
		t.Errorf("reset: %s", text)
	}
	if text := do(t, "read", name); text != "" {
		t.Errorf("after the reset: %s", text)
	}
	do(t, "stream", "delete", name)
	r := cli(t.Context(), shared.address, nil, "stream", "show", name)
	if r.code != exitFail || !strings.Contains(r.err, name) || !strings.Contains(r.err, "NOT_FOUND") {
		t.Errorf("%+v", r)
	}
}

// ended waits for a command line that runs beside the test.
func ended(t *testing.T, done <-chan result) result {
	t.Helper()
	select {
	case r := <-done:
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("the command goes on")
		return result{}
	}
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for: %s", what)
		}
	}
}
