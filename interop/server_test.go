package interop

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	ndjson      = "application/x-ndjson"
	avroFile    = "application/avro"
	arrowStream = "application/vnd.apache.arrow.stream"
)

// binary is bin/thermocline: named by THERMOCLINE_BIN, or built into dir.
func binary(dir string) (string, error) {
	if path := os.Getenv("THERMOCLINE_BIN"); path != "" {
		return path, nil
	}
	path := filepath.Join(dir, "thermocline")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./cmd/thermocline")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the server: %w\n%s", err, out)
	}
	return path, nil
}

// server is a running thermocline. All tests share one, each with a stream of
// its own.
type server struct {
	url  string
	stop func() error
}

var shared struct {
	once   sync.Once
	server *server
	err    error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if s := shared.server; s != nil {
		if err := s.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "the server did not shut down cleanly:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

func start(t *testing.T) *server {
	t.Helper()
	shared.once.Do(func() { shared.server, shared.err = startServer() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server
}

func startServer() (*server, error) {
	dir, err := os.MkdirTemp("", "thermocline-interop-")
	if err != nil {
		return nil, err
	}
	path, err := binary(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	address := filepath.Join(dir, "address")
	var log bytes.Buffer
	cmd := exec.Command(path, "serve", "--data", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0", "--address-file", address)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	died := make(chan error, 1)
	go func() { died <- cmd.Wait() }()
	stop := func() error {
		defer os.RemoveAll(dir)
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		select {
		case err := <-died:
			return err
		case <-time.After(20 * time.Second):
			return fmt.Errorf("still running after 20 s: %w\n%s", cmd.Process.Kill(), log.String())
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-died:
			return nil, fmt.Errorf("the server ended at once: %w\n%s", err, log.String())
		default:
		}
		if at, err := os.ReadFile(address); err == nil && len(at) > 0 {
			return &server{url: "http://" + strings.TrimSpace(string(at)), stop: stop}, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("the server wrote no address: %w\n%s", stop(), log.String())
		}
	}
}

// call sends a request and returns the body of a 2xx answer.
func (s *server) call(t *testing.T, method, path, contentType string, body []byte) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s\n%s", method, path, resp.Status, answer)
	}
	return answer
}

// stream is one stream of the server, with the fields of row.
type stream struct {
	*server
	name, path string
}

func (s *server) create(t *testing.T, name, settings string) *stream {
	t.Helper()
	s.call(t, "POST", "/v1/streams", "application/json",
		fmt.Appendf(nil, `{"name":%q,"schema":%s,"settings":%s}`, name, schemaJSON, settings))
	return &stream{s, name, "/v1/streams/" + name + "/branches/main"}
}

func (s *stream) publish(t *testing.T, contentType string, body []byte, rows int) {
	t.Helper()
	var result struct{ Rows int }
	decode(t, s.call(t, "POST", s.path+"/rows", contentType, body), &result)
	if result.Rows != rows {
		t.Fatalf("%d rows were taken of %d", result.Rows, rows)
	}
}

func (s *stream) read(t *testing.T, format string) []byte {
	t.Helper()
	return s.call(t, "GET", s.path+"/rows?numbers=string&format="+format, "", nil)
}

func (s *stream) archive(t *testing.T) {
	t.Helper()
	s.call(t, "POST", s.path+"/archive", "", nil)
}

// avroSchema is the stream's schema as the server writes it for Avro clients.
func (s *stream) avroSchema(t *testing.T) string {
	t.Helper()
	var version struct{ Avro string }
	decode(t, s.call(t, "GET", s.path+"/schema", "", nil), &version)
	return version.Avro
}

// files are the contents of the dataset's data files, all of the one format.
func (s *stream) files(t *testing.T, format string) [][]byte {
	t.Helper()
	var list struct {
		Files []struct{ Path, Format string }
	}
	decode(t, s.call(t, "GET", "/v1/datasets/"+s.name+"/branches/main/files?limit=1000", "", nil), &list)
	var contents [][]byte
	for _, f := range list.Files {
		if f.Format != format {
			t.Fatalf("%s is a file of %s, not %s", f.Path, f.Format, format)
		}
		content, err := os.ReadFile(localPath(t, f.Path))
		if err != nil {
			t.Fatal(err)
		}
		contents = append(contents, content)
	}
	if len(contents) == 0 {
		t.Fatal("the dataset has no files")
	}
	return contents
}

func localPath(t *testing.T, path string) string {
	t.Helper()
	u, err := url.Parse(path)
	if err != nil || u.Scheme != "" && u.Scheme != "file" {
		t.Fatalf("%q is not a path of the local file system: %v", path, err)
	}
	return u.Path
}

func decode(t *testing.T, text []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}
