package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/thermocline/thermocline/api/client"
)

func TestDatasetTending(t *testing.T) {
	t.Parallel()
	name := stream(t)
	if text := do(t, "dataset", "compact", name); !strings.Contains(text, "nothing to do") {
		t.Errorf("compact what is empty: %s", text)
	}
	const archives = 6
	for i := range archives {
		do(t, "ingest", name, temp(t, "n.ndjson", numbers(10*i, 10)))
		do(t, "archive", name)
	}
	if text := do(t, "dataset", "compact", name); !strings.Contains(text, "6 files of ") || !strings.Contains(text, " became 1 of ") || !strings.Contains(text, "60 rows") {
		t.Errorf("compact: %s", text)
	}
	wantNumbers(t, name, 10*archives)
	if text := do(t, "dataset", "files", name); !strings.Contains(text, "1 files in snapshot") {
		t.Errorf("files: %s", text)
	}

	decode := func(v any, args ...string) {
		t.Helper()
		if err := json.Unmarshal([]byte(do(t, append(args, "--output", "json")...)), v); err != nil {
			t.Fatal(err)
		}
	}
	var history client.SnapshotList
	decode(&history, "dataset", "history", name)
	all := len(history.Snapshots)
	if text := do(t, "dataset", "expire", name); !strings.Contains(text, "0 snapshots expired") {
		t.Errorf("expire by default: %s", text)
	}
	var e client.ExpireResult
	decode(&e, "dataset", "expire", name, "--older-than", "0s", "--keep-last", "2", "--dry-run")
	if !e.DryRun || e.Expired == 0 || e.Expired != len(e.SnapshotIds) || e.Expired+e.Kept != all {
		t.Errorf("expire: %+v of %d snapshots", e, all)
	}
	text := do(t, "dataset", "expire", name, "--older-than", "0s", "--dry-run")
	if !strings.Contains(text, "would be expired") || !strings.Contains(text, e.SnapshotIds[0]) {
		t.Errorf("expire --dry-run: %s", text)
	}
	if decode(&history, "dataset", "history", name); len(history.Snapshots) != all {
		t.Errorf("a dry run left %d of %d snapshots", len(history.Snapshots), all)
	}
	if text := do(t, "dataset", "expire", name, "--older-than", "0s"); !strings.Contains(text, "snapshots expired") {
		t.Errorf("expire: %s", text)
	}
	history = client.SnapshotList{}
	if decode(&history, "dataset", "history", name); len(history.Snapshots) > 2 { // the head, and what the tag on the marker holds
		t.Errorf("%d snapshots are left", len(history.Snapshots))
	}

	var c client.CollectResult
	decode(&c, "dataset", "gc", name, "--dry-run")
	if !c.DryRun || c.DeletedFiles != 0 || c.WaitingFiles == 0 || len(c.Files) != c.WaitingFiles {
		t.Errorf("gc --dry-run: %+v", c)
	}
	if text := do(t, "dataset", "gc", name, "--grace", "1h"); !strings.Contains(text, "waits") || !strings.Contains(text, "0 of ") || !strings.Contains(text, "the first until") {
		t.Errorf("gc: %s", text)
	}
	wantNumbers(t, name, 10*archives)

	for args, text := range map[string]string{
		"expire x --older-than -1s": "--older-than",
		"expire x --keep-last 0":    "--keep-last",
		"gc x --grace 59m":          "--grace",
		"compact":                   "arg",
	} {
		r := cli(t.Context(), shared.address, nil, strings.Fields("dataset "+args)...)
		if r.code != exitUsage || !strings.Contains(r.err, text) || r.out != "" {
			t.Errorf("dataset %s: exit code %d, %q, %q", args, r.code, r.out, r.err)
		}
	}
	for _, what := range []string{"compact", "expire", "gc"} {
		r := cli(t.Context(), shared.address, nil, "dataset", what, "nosuch")
		if r.code != exitFail || !strings.Contains(r.err, "NOT_FOUND") {
			t.Errorf("dataset %s nosuch: exit code %d, %q", what, r.code, r.err)
		}
	}
}

func TestDatasetErase(t *testing.T) {
	t.Parallel()
	name := stream(t)
	do(t, "ingest", name, temp(t, "n.ndjson", numbers(0, 10)))
	do(t, "archive", name)
	do(t, "ingest", name, temp(t, "m.ndjson", numbers(10, 10)))
	if text := do(t, "dataset", "erase", name, "--where", "n < 3", "--dry-run"); !strings.Contains(text, "nothing was erased") || !strings.Contains(text, "main") {
		t.Errorf("dry run: %s", text)
	}
	wantNumbers(t, name, 20)
	var r client.EraseResult
	if err := json.Unmarshal([]byte(do(t, "dataset", "erase", name, "--where", "n >= 17", "--output", "json")), &r); err != nil {
		t.Fatal(err)
	}
	if r.DryRun || len(r.Branches) != 1 || r.Branches[0].Rows != 3 || r.DeletedFiles == 0 {
		t.Errorf("erased %+v", r)
	}
	wantNumbers(t, name, 17)
	if text := do(t, "dataset", "maintenance", name); !strings.Contains(text, "erase") || !strings.Contains(text, "request") || !strings.Contains(text, "done") {
		t.Errorf("maintenance: %s", text)
	}
	if text := do(t, "dataset", "compact", name, "--dry-run"); !strings.Contains(text, "nothing to do") {
		t.Errorf("compact --dry-run: %s", text)
	}
}
