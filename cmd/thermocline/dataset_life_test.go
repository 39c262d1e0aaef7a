package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/thermocline/thermocline/api/client"
)

// TestDatasetCommands: a dataset from its creation to a stream on it, by the commands
// that people use.
func TestDatasetCommands(t *testing.T) {
	t.Parallel()
	const name = "lake.cli"
	if text := do(t, "dataset", "create", name, "--schema", temp(t, "s.json", []byte(numberSchema))); !strings.Contains(text, "DATASET") || !strings.Contains(text, "required") {
		t.Errorf("create: %s", text)
	}
	csv := temp(t, "a.csv", []byte("n,text\n5,five\n6,\n"))
	if text := do(t, "dataset", "upload", name, temp(t, "a.ndjson", numbers(0, 5)), csv); !strings.Contains(text, "7 rows in 2 files") {
		t.Errorf("upload: %s", text)
	}
	decode := func(v any, args ...string) {
		t.Helper()
		if err := json.Unmarshal([]byte(do(t, append(args, "--output", "json")...)), v); err != nil {
			t.Fatal(err)
		}
	}
	var d client.Dataset
	decode(&d, "dataset", "show", name)
	first := *d.SnapshotID
	// A file of its own, as it is: another dataset's.
	var files client.DataFileList
	decode(&files, "dataset", "files", name)
	path := strings.TrimPrefix(files.Files[0].Path, "file://")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy.parquet")
	if err := os.WriteFile(copied, content, 0o600); err != nil {
		t.Fatal(err)
	}
	do(t, "dataset", "upload", name, copied)
	want := func(rows int64) {
		t.Helper()
		if decode(&d, "dataset", "show", name); d.TotalRows != rows {
			t.Errorf("%d rows, want %d", d.TotalRows, rows)
		}
	}
	want(7 + files.Files[0].Rows)
	second := *d.SnapshotID
	// All or none: the second file is bad, and the next upload finds nothing open.
	r := cli(t.Context(), shared.address, nil, "dataset", "upload", name, temp(t, "b.ndjson", numbers(7, 3)), temp(t, "bad.ndjson", []byte(`{"n":"x"}`)))
	if r.code == 0 || !strings.Contains(r.err, "bad.ndjson") {
		t.Errorf("a bad file: exit code %d, %s", r.code, r.err)
	}
	want(7 + files.Files[0].Rows)
	if text := do(t, "dataset", "transactions", name); strings.Count(text, "COMMITTED") != 2 || strings.Count(text, "ABORTED") != 1 {
		t.Errorf("transactions: %s", text)
	}
	if text := do(t, "dataset", "rollback", name, first); !strings.Contains(text, "7 rows") {
		t.Errorf("rollback: %s", text)
	}
	do(t, "dataset", "cherry-pick", name, second)
	want(7 + files.Files[0].Rows)
	do(t, "dataset", "rollback", name, first)
	if text := do(t, "dataset", "list"); !strings.Contains(text, name) {
		t.Errorf("list: %s", text)
	}
	if text := do(t, "dataset", "history", name); !strings.Contains(text, first) {
		t.Errorf("history: %s", text)
	}
	do(t, "dataset", "compact", name)

	r = cli(t.Context(), shared.address, nil, "dataset", "remove", name, "--where", "n = 5")
	if r.code == 0 || !strings.Contains(r.err, "1 of 2 rows") {
		t.Errorf("a part of a file: exit code %d, %s", r.code, r.err)
	}
	do(t, "dataset", "remove", name, "--where", "n >= 5")
	want(5)
	r = cli(t.Context(), shared.address, nil, "dataset", "abort", name)
	if r.code == 0 || !strings.Contains(r.err, "no transaction is open") {
		t.Errorf("nothing to abort: exit code %d, %s", r.code, r.err)
	}

	checkNumbers(t, do(t, "dataset", "read", name, "--columns", "n"), 5)
	checkNumbers(t, do(t, "dataset", "read", name, "--columns", "n", "--snapshot", first), 7)
	if text := do(t, "stream", "create", name, "--from-dataset", "--key", "n"); !strings.Contains(text, "key fields") {
		t.Errorf("stream from dataset: %s", text)
	}
	do(t, "ingest", name, temp(t, "more.ndjson", numbers(5, 5)))
	wantNumbers(t, name, 10)
	do(t, "archive", name)
	wantNumbers(t, name, 10)
	r = cli(t.Context(), shared.address, nil, "dataset", "upload", name, csv)
	if r.code == 0 || !strings.Contains(r.err, "publish") {
		t.Errorf("upload to a stream: exit code %d, %s", r.code, r.err)
	}

	do(t, "dataset", "create", "lake.gone", "--infer", temp(t, "i.ndjson", numbers(0, 3)))
	do(t, "dataset", "upload", "lake.gone", temp(t, "x.ndjson", numbers(0, 3)), "--type", "snapshot")
	do(t, "dataset", "delete", "lake.gone", "--yes")
	for args, code := range map[string]int{
		"dataset create x": exitUsage, "dataset remove x": exitUsage, "dataset rollback x": exitUsage,
		"stream create x --from-dataset --schema y": exitUsage, "dataset show lake.gone": exitFail, "stream create lake.gone --from-dataset": exitFail,
	} {
		if r := cli(t.Context(), shared.address, nil, strings.Fields(args)...); r.code != code {
			t.Errorf("%s: exit code %d, want %d: %s", args, r.code, code, fmt.Sprint(r.err))
		}
	}
}
