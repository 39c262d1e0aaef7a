package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/cmd/thermocline/node"
	"github.com/thermocline/thermocline/schema"
	publish "github.com/thermocline/thermocline/writer"
)

func TestVerifyBesideAServer(t *testing.T) {
	t.Parallel()
	name := stream(t, "--hot-retention", "1h")
	rows := temp(t, "rows.ndjson", []byte(`{"n":1,"text":"a"}`+"\n"+`{"n":2,"text":"a"}`+"\n"+`{"n":4,"text":"a"}`+"\n"))
	do(t, "ingest", name, rows)
	do(t, "archive", name)
	if out := do(t, "verify", name); !strings.Contains(out, "default."+name+": sound") || !strings.Contains(out, "3 rows in 1 files") || !strings.Contains(out, "3 compared") {
		t.Errorf("sound: %s", out)
	}
	r := cli(t.Context(), shared.address, nil, "verify", name, "--producer-column", "text", "--sequence-column", "n")
	if r.code != exitFail || !strings.Contains(r.out, "LOST") || !strings.Contains(r.out, "sequences 3 to 3") || r.err != "" {
		t.Errorf("findings: code %d, %s%s", r.code, r.out, r.err)
	}
	r = cli(t.Context(), shared.address, nil, "verify", name, "--producer-column", "text", "--sequence-column", "n", "--output", "json")
	var report checkReport
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || r.code != exitFail {
		t.Fatalf("code %d: %v: %s", r.code, err, r.out)
	}
	if !report.Complete || report.Clean || len(report.Findings) != 1 || len(report.Branches) != 1 || report.Findings[0].Finding.Code != "LOST" || report.Branches[0].Summary.Sequences != 3 {
		t.Errorf("report: %s", r.out)
	}
	r = cli(t.Context(), shared.address, nil, "verify", "--output", "json")
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || !report.Complete || len(report.Branches) < 2 {
		t.Errorf("all: code %d, %v, %s%s", r.code, err, r.out, r.err)
	}
}

// Code 2 says that nothing was proved.
func TestVerifyThatCannotCheck(t *testing.T) {
	t.Parallel()
	name := stream(t)
	gone, stop := context.WithCancel(t.Context())
	stop()
	for what, c := range map[string]struct {
		ctx    context.Context //nolint:containedctx // a case of a table
		server string
		args   []string
		text   string
	}{
		"no such stream":  {t.Context(), shared.address, []string{"nosuch"}, "NOT_FOUND"},
		"no such branch":  {t.Context(), shared.address, []string{name, "--branch", "nosuch"}, "NOT_FOUND"},
		"no such column":  {t.Context(), shared.address, []string{name, "--producer-column", "text", "--sequence-column", "text"}, "INVALID_REQUEST"},
		"half of a pair":  {t.Context(), shared.address, []string{name, "--producer-column", "text"}, "go together"},
		"name and all":    {t.Context(), shared.address, []string{name, "--all"}, "not both"},
		"branch of all":   {t.Context(), shared.address, []string{"--branch", "main"}, "--branch"},
		"grace":           {t.Context(), shared.address, []string{name, "--grace", "1ms"}, "--grace"},
		"no server":       {t.Context(), "127.0.0.1:1", []string{name}, "no answer"},
		"interrupted":     {gone, shared.address, []string{name}, "interrupted"},
		"no directory":    {t.Context(), shared.address, []string{"--data", filepath.Join(t.TempDir(), "nosuch")}, "catalog.db"},
		"empty directory": {t.Context(), shared.address, []string{"--data", t.TempDir()}, "catalog.db"},
	} {
		r := cli(c.ctx, c.server, nil, append([]string{"verify"}, c.args...)...)
		if r.code != exitUnchecked || !strings.Contains(r.err, c.text) {
			t.Errorf("%s: code %d, %q", what, r.code, r.err)
		}
	}
}

// TestVerifyStopped checks the directory of a server that is stopped, before and
// after a data file goes; while a server has it, it cannot be checked.
func TestVerifyStopped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	quiet := slog.New(slog.DiscardHandler)
	n, err := node.Open(t.Context(), node.Options{Dir: dir, SegmentBytes: 64 << 10, LogBytes: 8 << 20, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	b := n.Backend()
	name := "default.stopped"
	err = createNumbers(t.Context(), b.Streams, name)
	if err == nil {
		_, err = b.Publisher.Publish(t.Context(), publish.Request{Stream: name, Branch: "main", Format: publish.JSON, Body: []byte(`{"n":1}`)})
	}
	if err == nil {
		_, err = b.Archiver.ArchiveNow(t.Context(), name, "main")
	}
	busy := cli(t.Context(), shared.address, nil, "verify", "--data", dir)
	if err = errors.Join(err, n.Close()); err != nil {
		t.Fatal(err)
	}
	if busy.code != exitUnchecked || !strings.Contains(busy.err, "another process has it open") {
		t.Errorf("while a server has it: code %d, %q", busy.code, busy.err)
	}
	if r := cli(t.Context(), "127.0.0.1:1", nil, "verify", "--data", dir); r.code != exitOK || !strings.Contains(r.out, "default.stopped: sound") {
		t.Errorf("sound: code %d, %s%s", r.code, r.out, r.err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "warehouse", "*", "data", "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	r := cli(t.Context(), "127.0.0.1:1", nil, "verify", "stopped", "--data", dir)
	if r.code != exitFail || !strings.Contains(r.out, "MISSING") || !strings.Contains(r.out, filepath.Base(files[0])) {
		t.Errorf("missing: code %d, %s%s", r.code, r.out, r.err)
	}
}

func createNumbers(ctx context.Context, streams api.Streams, name string) error {
	s, err := schema.Parse([]byte(numberSchema))
	if err == nil {
		_, err = streams.CreateStream(ctx, api.CreateStream{Name: name, Schema: s})
	}
	return err
}
