package test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestEnginesUploadFiles: Parquet files of other writers are uploaded as they are to
// a dataset that PyIceberg made, which engines then read; and a stream is started on
// it, with PyIceberg's own field ids.
func TestEnginesUploadFiles(t *testing.T) {
	t.Parallel()
	python := pythonPath(t)
	s := startServer(t, release)
	cmd := exec.CommandContext(t.Context(), python, "python/upload_files.py", "http://"+s.address, "lake.engines", t.TempDir())
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	read := func(what ...string) []string {
		return strings.Split(strings.TrimSpace(s.run(t, append(what, "lake.engines", "--columns", "n")...)), "\n")
	}
	if got := read("dataset", "read"); len(got) != 410 {
		t.Errorf("we read %d rows", len(got))
	}
	s.run(t, "stream", "create", "lake.engines", "--from-dataset", "--key", "n")
	for n := range 5 {
		s.post(t, "/v1/streams/lake.engines/branches/main/rows", []map[string]any{{"n": 410 + n, "text": "new"}}, nil)
	}
	for range 2 { // hot, then archived
		seen := map[string]bool{}
		got := read("read")
		for _, line := range got {
			seen[line] = true
		}
		if len(got) != 415 || len(seen) != 415 || got[414] != `{"n":414}` {
			t.Errorf("the stream holds %d rows, %d different, the last %s", len(got), len(seen), got[len(got)-1])
		}
		s.run(t, "archive", "lake.engines")
	}
	s.run(t, "verify", "lake.engines")
}

// TestTransactionSurvivesKill: a transaction is open after the server was killed, with
// every upload that was acknowledged; nothing of it is visible before its commit, and all
// of it after, also when the server is killed at once.
func TestTransactionSurvivesKill(t *testing.T) {
	t.Parallel()
	s := startServer(t, release)
	s.post(t, "/v1/datasets", map[string]any{"name": "d", "schema": map[string]any{"fields": []any{map[string]any{"name": "n", "type": "LONG"}}}}, nil)
	rows := func(n int) {
		t.Helper()
		var d struct{ TotalRows int }
		if s.get(t, "/v1/datasets/d", &d); d.TotalRows != n {
			t.Fatalf("%d rows, want %d", d.TotalRows, n)
		}
	}
	total := 0
	for round := range 4 {
		var tr struct{ ID, State string }
		s.post(t, "/v1/datasets/d/branches/main/transactions", map[string]any{"type": "APPEND"}, &tr)
		at := "/v1/datasets/d/branches/main/transactions/" + tr.ID
		for i := range 3 {
			path, body := fmt.Sprintf("%s/files?name=f%d", at, i), []map[string]any{{"n": round*10 + i}}
			s.post(t, path, body, nil)
			if i == 1 {
				// One more is on its way when the server dies; whatever becomes of it, it is
				// repeated.
				gone := make(chan struct{})
				ctx, cancel := context.WithCancel(t.Context())
				go func() {
					defer close(gone)
					big := bytes.Repeat([]byte(`{"n":77}`+"\n"), 20000)
					s.send(ctx, http.MethodPost, at+"/files?name=big", http.Header{"Content-Type": {"application/x-ndjson"}}, big) //nolint:errcheck // see above
				}()
				s.kill(t)
				cancel()
				<-gone
				s.start(t)
				rows(total)
				s.post(t, path, body, nil) // a duplicate
			}
		}
		if s.get(t, at, &tr); tr.State != "OPEN" {
			t.Fatalf("the transaction is %s", tr.State)
		}
		if round == 3 {
			s.want(t, http.MethodPost, at+"/abort", nil, nil)
			s.kill(t)
			s.start(t)
			rows(total)
			continue
		}
		s.want(t, http.MethodPost, at+"/commit", nil, nil)
		s.kill(t)
		s.start(t)
		var done struct{ Rows int }
		s.want(t, http.MethodPost, at+"/commit", nil, &done)
		total += done.Rows
		if rows(total); done.Rows != 3 && done.Rows != 20003 {
			t.Errorf("round %d: %d rows", round, done.Rows)
		}
	}
}
