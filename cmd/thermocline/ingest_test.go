package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/twmb/avro"
	"github.com/twmb/avro/ocf"
)

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

func avroNumbers(t *testing.T, n int) []byte {
	s, err := avro.Parse(`{"type":"record","name":"r","fields":[{"name":"n","type":"long"},{"name":"text","type":"string"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		N    int64  `avro:"n"`
		Text string `avro:"text"`
	}
	var buf bytes.Buffer
	w, err := ocf.NewWriter(&buf, s)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := w.Encode(row{int64(i), fmt.Sprintf("row %d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Every format, however compressed, brings in the same rows, by file and by
// standard input. 12,000 rows are several batches.
func TestIngestFormats(t *testing.T) {
	t.Parallel()
	const n = 12_000
	first := stream(t)
	do(t, "ingest", first, temp(t, "n.ndjson", numbers(0, n)))
	want := do(t, "read", first)
	checkNumbers(t, want, n)
	parquet := []byte(do(t, "read", first, "--format", "parquet"))
	csv := []byte(do(t, "read", first, "--format", "csv"))
	for name, content := range map[string][]byte{
		"n.csv": csv, "n.csv.gz": gzipped(csv), "n.tsv.zst": zstded(bytes.ReplaceAll(csv, []byte(","), []byte("\t"))),
		"n.parquet": parquet, "n.parquet.gz": gzipped(parquet), "n.avro": avroNumbers(t, n), "n.avro.zst": zstded(avroNumbers(t, n)),
		"n.txt": numbers(0, n), "n.gz": gzipped(numbers(0, n)),
	} {
		s := stream(t)
		out := do(t, "ingest", s, temp(t, name, content))
		if !strings.Contains(out, "ingested 12,000 rows") {
			t.Errorf("%s: %s", name, out)
		}
		if got := do(t, "read", s); got != want {
			t.Errorf("%s: other rows than the NDJSON file's", name)
		}
	}
	for format, content := range map[string][]byte{"": numbers(0, n), "csv": csv, "parquet": parquet, "avro": gzipped(avroNumbers(t, n))} {
		s := stream(t)
		r := cli(t.Context(), shared.address, bytes.NewReader(content), "ingest", s, "-", "--format", format)
		if r.code != 0 {
			t.Fatalf("%s from standard input: %+v", format, r)
		}
		if got := do(t, "read", s); got != want {
			t.Errorf("%s from standard input: other rows", format)
		}
	}
	if r := cli(t.Context(), shared.address, strings.NewReader("[1]"), "ingest", first, "-"); r.code != exitFail || !strings.Contains(r.err, "jq") {
		t.Errorf("a JSON array: %+v", r)
	}
	if r := cli(t.Context(), shared.address, strings.NewReader("hello"), "ingest", first, "-"); r.code != exitFail || !strings.Contains(r.err, "--format") {
		t.Errorf("an unknown format: %+v", r)
	}
	if r := cli(t.Context(), shared.address, nil, "ingest", first, "/no/such/file"); r.code != exitFail || !strings.Contains(r.err, "/no/such/file") {
		t.Errorf("no file: %+v", r)
	}
}

func TestInferFormats(t *testing.T) {
	t.Parallel()
	first := stream(t)
	do(t, "ingest", first, temp(t, "n.ndjson", numbers(0, 10)))
	parquet := []byte(do(t, "read", first, "--format", "parquet"))
	csv := []byte("n,text,zip,flag\n1,a,01234,true\n2,,00000,false\n")
	for name, content := range map[string][]byte{"n.ndjson": numbers(0, 10), "n.csv": csv, "n.parquet.zst": zstded(parquet), "n.avro": avroNumbers(t, 10)} {
		s := fmt.Sprintf("i%d", streamNumber.Add(1))
		path := temp(t, name, content)
		if out := do(t, "stream", "create", s, "--infer", path); !strings.Contains(out, "LONG") || !strings.Contains(out, "STRING") {
			t.Errorf("%s: %s", name, out)
		}
		do(t, "ingest", s, path)
		if name == "n.csv" {
			if got := do(t, "read", s); got != "{\"n\":1,\"text\":\"a\",\"zip\":\"01234\",\"flag\":true}\n{\"n\":2,\"text\":null,\"zip\":\"00000\",\"flag\":false}\n" {
				t.Errorf("csv: %s", got)
			}
		}
	}
	for _, content := range []string{"", "\n", "{"} {
		if r := cli(t.Context(), shared.address, strings.NewReader(content), "stream", "create", "never", "--infer", "-"); r.code != exitFail {
			t.Errorf("%q: %+v", content, r)
		}
	}
}

// Connections break at any place: before an answer, in its header, in its body,
// behind some answers. Every row is there once, in order.
func TestIngestThroughBrokenConnections(t *testing.T) {
	t.Parallel()
	const n = 60_000
	s := stream(t)
	// A publish answer has about 400 bytes: between the cuts in and before the
	// answer some come through.
	c := cutting(t, 0, 1500, 0, 1500, 10, 900, 200, 900, 340, 900, 380, 900, 400, 900, 420, 900)
	r := cli(t.Context(), c.address(), nil, "ingest", s, temp(t, "n.ndjson", numbers(0, n)), "--output", "json")
	if r.code != 0 {
		t.Fatalf("%+v", r)
	}
	var sum ingested
	if err := json.Unmarshal([]byte(r.out), &sum); err != nil {
		t.Fatal(err)
	}
	if sum.Rows != n || sum.Retries < 6 || sum.Requests != n/batchRows {
		t.Errorf("summary: %+v", sum)
	}
	wantNumbers(t, s, n)
}

// front is a server before the shared one which may answer by itself.
func front(t *testing.T, answer func(w http.ResponseWriter, r *http.Request) bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	back := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: shared.address})
	transport := &http.Transport{}
	back.Transport = transport
	back.ErrorLog = log.New(io.Discard, "", 0)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answer(w, r) {
			back.ServeHTTP(w, r)
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		transport.CloseIdleConnections()
	})
	return l.Addr().String()
}

// The server asks to wait, and is obeyed.
func TestIngestWaits(t *testing.T) {
	t.Parallel()
	s := stream(t)
	var posts atomic.Int64
	var asked time.Time
	address := front(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != "POST" {
			return false
		}
		switch posts.Add(1) {
		case 1:
			w.Header().Set("Retry-After", "1")
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(429)
			asked = time.Now()
			fmt.Fprint(w, `{"code":"BUSY","status":429,"detail":"wait","title":"","type":"","requestId":"r"}`)
		case 2:
			if took := time.Since(asked); took < 900*time.Millisecond {
				t.Errorf("it came back after %v, the server asked for 1 s", took)
			}
			w.WriteHeader(503)
		case 3:
			w.WriteHeader(507)
		case 4:
			w.WriteHeader(502)
		default:
			return false
		}
		return true
	})
	r := cli(t.Context(), address, bytes.NewReader(numbers(0, 10)), "ingest", s, "-")
	if r.code != 0 || !strings.Contains(r.out, "4 retries") {
		t.Errorf("%+v", r)
	}
	wantNumbers(t, s, 10)
}

func TestIngestGivesUp(t *testing.T) {
	t.Parallel()
	s := stream(t)
	address := front(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == "POST" {
			w.WriteHeader(503)
		}
		return r.Method == "POST"
	})
	r := cli(t.Context(), address, bytes.NewReader(numbers(0, 10)), "ingest", s, "-", "--timeout", "300ms")
	if r.code != exitFail || !strings.Contains(r.err, "no progress for 300ms") || !strings.Contains(r.err, "--producer") {
		t.Errorf("%+v", r)
	}
	// A server that takes a request and never answers is as bad.
	hang := make(chan bool)
	defer close(hang)
	address = front(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != "POST" {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-hang:
		case <-r.Context().Done():
		}
		return true
	})
	r = cli(t.Context(), address, bytes.NewReader(numbers(0, 10)), "ingest", s, "-", "--timeout", "300ms")
	if r.code != exitFail || !strings.Contains(r.err, "no progress for 300ms") {
		t.Errorf("%+v", r)
	}
}

// An ingest that was itself interrupted goes on when it is run again.
func TestIngestResumes(t *testing.T) {
	t.Parallel()
	const n = 40_000
	for name, content := range map[string][]byte{"n.ndjson": numbers(0, n), "n.avro.gz": gzipped(avroNumbers(t, n))} {
		s := stream(t)
		path := temp(t, name, content)
		ctx, interrupt := context.WithCancel(t.Context())
		var posts atomic.Int64
		address := front(t, func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == "POST" && posts.Add(1) == 4 {
				interrupt() // while the fourth batch is on its way
			}
			return false
		})
		r := cli(ctx, address, nil, "ingest", s, path, "--producer", "p")
		if r.code != exitFail || !strings.Contains(r.err, "interrupted") || !strings.Contains(r.err, "same command") {
			t.Fatalf("%s: %+v", name, r)
		}
		// The request that was under way may still be appended: its outcome is
		// unknown to the client, and must not matter.
		r = cli(t.Context(), shared.address, nil, "ingest", s, path, "--producer", "p", "--output", "json")
		var sum ingested
		if err := json.Unmarshal([]byte(r.out), &sum); err != nil || r.code != 0 {
			t.Fatalf("%s: %+v: %v", name, r, err)
		}
		if sum.ResumedRows == 0 || sum.Rows+sum.ResumedRows != n {
			t.Errorf("%s: summary %+v", name, sum)
		}
		wantNumbers(t, s, n)
		// Once more, and there is nothing to do.
		if out := do(t, "ingest", s, path, "--producer", "p"); !strings.Contains(out, "ingested 0 rows") || !strings.Contains(out, "40,000 rows were there already") {
			t.Errorf("%s: %s", name, out)
		}
		wantNumbers(t, s, n)
	}
}

// The same name for another file, or for a file that has grown, loses nothing
// in silence.
func TestIngestResumesOnlyTheSameFile(t *testing.T) {
	t.Parallel()
	s := stream(t)
	do(t, "ingest", s, temp(t, "a", numbers(0, 7000)), "--producer", "p")
	do(t, "ingest", s, temp(t, "b", numbers(7000, 100)), "--producer", "p")
	wantNumbers(t, s, 7100)
	r := cli(t.Context(), shared.address, bytes.NewReader(numbers(0, 7500)), "ingest", s, "-", "--producer", "p")
	if r.code != exitFail || !strings.Contains(r.err, "has changed") {
		t.Errorf("a file that has grown: %+v", r)
	}
	wantNumbers(t, s, 7100)
}

func TestIngestBadRows(t *testing.T) {
	t.Parallel()
	s := stream(t)
	bad := append(numbers(0, 6000), "{\"n\":\"x\"}\n{\"n\":1,\"nosuch\":2}\n"...)
	bad = append(bad, numbers(6000, 10)...)
	path := temp(t, "n.ndjson", bad)
	r := cli(t.Context(), shared.address, nil, "ingest", s, path)
	if r.code != exitFail || !strings.Contains(r.err, "row 6001, field n: expected LONG") || !strings.Contains(r.err, "row 6002, field nosuch") || !strings.Contains(r.err, "5,000 rows") {
		t.Errorf("reject: %+v", r)
	}
	wantNumbers(t, s, 5000)
	s = stream(t)
	r = cli(t.Context(), shared.address, nil, "ingest", s, path, "--on-error", "skip")
	if r.code != exitOK || !strings.Contains(r.out, "2 bad rows left out") || !strings.Contains(r.err, "row 6001") {
		t.Errorf("skip: %+v", r)
	}
	wantNumbers(t, s, 6010)
	s = stream(t)
	r = cli(t.Context(), shared.address, strings.NewReader(`{"n":0,"nosuch":2}`), "ingest", s, "-", "--unknown-fields", "ignore")
	if r.code != exitOK {
		t.Errorf("ignore: %+v", r)
	}
	wantNumbers(t, s, 1)
	if r := cli(t.Context(), shared.address, strings.NewReader("{}"), "ingest", "nosuch", "-"); r.code != exitFail || !strings.Contains(r.err, "nosuch") {
		t.Errorf("no such stream: %+v", r)
	}
}
