package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/thermocline/thermocline/api/client"
)

// TestBranchCommands: branches and tags on the command line, and --branch where a
// command is about one.
func TestBranchCommands(t *testing.T) {
	t.Parallel()
	name := stream(t)
	do(t, "ingest", name, temp(t, "n.ndjson", numbers(0, 10)))
	decode := func(v any, args ...string) {
		t.Helper()
		if err := json.Unmarshal([]byte(do(t, append(args, "--output", "json")...)), v); err != nil {
			t.Fatal(err)
		}
	}
	wants := func(text string, args ...string) {
		t.Helper()
		out := do(t, args...)
		for _, want := range strings.Split(text, "|") {
			if !strings.Contains(out, want) {
				t.Errorf("%v: %q lacks %q", args, out, want)
			}
		}
	}
	fails := func(code int, text string, args ...string) {
		t.Helper()
		if r := cli(t.Context(), shared.address, nil, args...); r.code != code || !strings.Contains(r.err, text) {
			t.Errorf("%v: exit code %d, %q, want %d, %q", args, r.code, r.err, code, text)
		}
	}
	wants("v1.0", "tag", "create", name, "v1.0")
	var b client.BranchDetail
	decode(&b, "branch", "create", name, "exp", "--partitions", "3", "--min-snapshots", "5")
	if b.Name != "exp" || b.Settings.Partitions != 3 || *b.Policy.MinSnapshots != 5 || b.Origin.Branch != "main" {
		t.Errorf("branch %+v", b)
	}
	wants("main |replay", "branch", "create", name, "replay", "--from", "main", "--tag", "v1.0", "--expire-after", "72h")
	wants("exp|replay|expires after 72h|main", "branch", "list", name)
	wants("from|main|partitions", "branch", "show", name, "exp")
	wants("from|main|partitions", "stream", "show", name, "--branch", "exp")
	wants("protected, at least 5", "branch", "protect", name, "exp")
	fails(exitFail, "protected", "branch", "delete", name, "exp")
	wants("snapshots 1h, at least 5", "branch", "protect", name, "exp", "--off", "--max-snapshot-age", "1h")
	do(t, "ingest", name, temp(t, "m.ndjson", numbers(10, 5)), "--branch", "exp")
	do(t, "archive", name, "--branch", "exp")
	wants("version 1 of branch exp", "stream", "schema", name, "--branch", "exp")
	wants("partitions", "stream", "settings", name, "--branch", "exp", "--partitions", "4")
	wants("", "dataset", "history", name, "--branch", "exp")
	wants("nothing to do", "dataset", "compact", name, "--branch", "exp")
	wants("", "offsets", name, "--branch", "exp")
	wants("v1.0", "tag", "list", name)
	wants("t2", "tag", "create", name, "t2", "--branch", "exp")
	wants("deleted tag t2", "tag", "delete", name, "t2", "--branch", "exp")
	fails(exitFail, "NOT_FOUND", "tag", "delete", name, "t2", "--branch", "exp")

	r := cli(t.Context(), shared.address, nil, "read", name, "--branch", "none", "--fallback", "also-none,main")
	if r.code != exitOK || strings.Count(r.out, "\n") != 10 || !strings.Contains(r.err, "this is main") {
		t.Errorf("read with a fallback: exit code %d, %q, %q", r.code, r.out, r.err)
	}
	wants("main|exp|+5|+ 2/|since snapshot", "branch", "compare", name, "main", "exp")
	wants("exp would be merged into main by fast-forward: 5 rows came", "branch", "merge", name, "exp", "--into", "main", "--dry-run")
	wants("exp merged into main by fast-forward: 5 rows came|; snapshot ", "branch", "merge", name, "exp")
	wants("nothing to merge", "branch", "merge", name, "exp", "--strategy", "replay")
	var cmp client.BranchComparison
	decode(&cmp, "branch", "compare", name, "main", "exp", "--sample", "5")
	if cmp.Branch.AddedRows != 0 || cmp.Other.AddedRows != 0 || !cmp.Whole || len(cmp.Added) != 0 {
		t.Errorf("after the merge: %+v", cmp)
	}
	fails(exitUsage, "fast-forward, replay or replace", "branch", "merge", name, "exp", "--strategy", "guess")
	fails(exitFail, "NOT_FOUND", "branch", "merge", name, "exp", "--into", "nobody")
	wants("deleted branch exp", "branch", "delete", name, "exp", "--yes")
	fails(exitFail, "NOT_FOUND", "branch", "show", name, "exp")
	wants("deleted branch replay", "branch", "delete", name, "replay", "--yes")
	fails(exitFail, "INVALID_REQUEST", "branch", "delete", name, "main", "--yes")
	fails(exitUsage, "give one of", "branch", "create", name, "z", "--tag", "a", "--snapshot", "1")
	fails(exitUsage, "no time", "branch", "create", name, "z", "--time", "yesterday")
	fails(exitUsage, "arg", "branch", "create", name)
}
