package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

// problem is an answer that is no success.
type problem struct {
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

func (p *problem) Error() string { return fmt.Sprintf("%d %s: %s", p.Status, p.Code, p.Detail) }

// send makes a request of the server and returns the body of a 2xx answer. Its errors are *problem, or mean that the outcome is unknown.
func (s *server) send(ctx context.Context, method, path string, header http.Header, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.address+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		p := &problem{Status: resp.StatusCode, Detail: string(answer)}
		if err := json.Unmarshal(answer, p); err != nil && !errors.As(err, new(*json.SyntaxError)) {
			return nil, err
		}
		return nil, p
	}
	return answer, nil
}

// get and post want a success, and decode its JSON into v unless that is nil.
func (s *server) get(t *testing.T, path string, v any) {
	t.Helper()
	s.want(t, http.MethodGet, path, nil, v)
}

func (s *server) post(t *testing.T, path string, body, v any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	s.want(t, http.MethodPost, path, text, v)
}

func (s *server) want(t *testing.T, method, path string, body []byte, v any) {
	t.Helper()
	header := http.Header{}
	if body != nil {
		header.Set("Content-Type", "application/json")
	}
	answer, err := s.send(t.Context(), method, path, header, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if v == nil {
		return
	}
	if err := json.Unmarshal(answer, v); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, answer)
	}
}

// stream is the main branch of one stream.
type stream struct {
	*server
	name, path string
}

// create makes a stream; schema and settings are JSON in Thermocline's form.
func (s *server) create(t *testing.T, name, schema, settings string) *stream {
	t.Helper()
	s.post(t, "/v1/streams", map[string]any{
		"name": name, "schema": json.RawMessage(schema), "settings": json.RawMessage(settings),
	}, nil)
	return s.stream(name)
}

func (s *server) stream(name string) *stream {
	return &stream{s, name, "/v1/streams/" + url.PathEscape(name) + "/branches/main"}
}

var ndjson = http.Header{"Content-Type": {"application/x-ndjson"}}

// publish appends lines of NDJSON; the rows are durable when it returns.
func (s *stream) publish(t *testing.T, lines string) {
	t.Helper()
	var result struct{ Rows int }
	answer, err := s.send(t.Context(), http.MethodPost, s.path+"/rows", ndjson, []byte(lines))
	if err == nil {
		err = json.Unmarshal(answer, &result)
	}
	if err != nil {
		t.Fatalf("publish to %s: %v", s.name, err)
	}
	if want := strings.Count(lines, "\n"); result.Rows != want {
		t.Fatalf("publish to %s: %d rows taken, want %d", s.name, result.Rows, want)
	}
}

// read returns the lines of a bounded read and the cursor behind them. query
// is in URL form, like "limit=10&system=true".
func (s *stream) read(t *testing.T, query string) (lines []string, cursor string) {
	t.Helper()
	cursor = s.scan(t, query, func(line []byte) { lines = append(lines, string(line)) })
	return lines, cursor
}

// scan calls row with each line of a bounded read, which may be too long to
// hold, and returns the cursor behind them. row must not keep the line.
func (s *stream) scan(t *testing.T, query string, row func(line []byte)) (cursor string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.address+s.path+"/rows?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("read %s?%s: %s\n%s", s.name, query, resp.Status, text)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 2<<20) // a row has up to 1 MB
	n := 0
	for ; lines.Scan(); n++ {
		row(lines.Bytes())
	}
	if err := lines.Err(); err != nil {
		t.Fatalf("read %s?%s, after %d rows: %v", s.name, query, n, err)
	}
	cursor = resp.Trailer.Get("Thermocline-Cursor")
	if rows := resp.Trailer.Get("Thermocline-Rows"); rows != strconv.Itoa(n) || cursor == "" {
		t.Fatalf("read %s?%s: %d lines, the trailers say %q rows, cursor %q", s.name, query, n, rows, cursor)
	}
	return cursor
}

type archived struct {
	SnapshotID string `json:"snapshotId"`
	Rows       int64  `json:"rows"`
}

func (s *stream) archive(t *testing.T) archived {
	t.Helper()
	var a archived
	s.want(t, http.MethodPost, s.path+"/archive", nil, &a)
	return a
}

type offsets struct {
	Partitions []struct {
		Partition            int
		Start, Archived, End int64
	}
	LagRows int64
}

func (s *stream) offsets(t *testing.T) offsets {
	t.Helper()
	var o offsets
	s.get(t, s.path+"/offsets", &o)
	return o
}

// end is the number of rows ever appended to the view.
func (o offsets) end() (n int64) {
	for _, p := range o.Partitions {
		n += p.End
	}
	return n
}
