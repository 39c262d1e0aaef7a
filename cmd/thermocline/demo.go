package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

const demoSample = "testdata/earthquakes.ndjson"

// demoRows is how many rows the sample has, demoCold how many the demo archives.
const (
	demoRows = 1707
	demoCold = 1200
)

func (a *app) demoCommand() *cobra.Command {
	var f serveFlags
	var sample string
	var exit bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "Stream a week of real earthquakes through a server, step by step",
		Long: `Stream a week of real earthquakes through a server, step by step.

Starts a server on a new temporary data directory, creates a stream, ingests a part
of the sample, archives it, ingests the rest, and reads hot and cold rows as one.
Then it goes on serving until it is interrupted; the directory is removed at the end.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.demo(c.Context(), f, sample, exit) },
	}
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:8080", "address to listen on; if it is taken, a free port")
	c.Flags().StringVar(&sample, "sample", demoSample, "the earthquakes, as NDJSON")
	c.Flags().BoolVar(&exit, "exit", false, "end after the last step")
	return c
}

func (a *app) demo(ctx context.Context, f serveFlags, sample string, exit bool) (err error) {
	dir, err := os.MkdirTemp("", "thermocline-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	first, rest, err := splitSample(sample, dir)
	if err != nil {
		return err
	}
	f.data = filepath.Join(dir, "data")
	logger := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := startServer(ctx, f, logger)
	if err != nil {
		f.listen = "127.0.0.1:0"
		if s, err = startServer(ctx, f, logger); err != nil {
			return err
		}
	}
	d := demo{app: a, server: "http://" + s.address}
	if err := d.steps(ctx, sample, first, rest); err != nil {
		return errors.Join(err, s.shutdown(ctx))
	}
	if exit {
		return s.shutdown(ctx)
	}
	d.say("The server goes on serving at %s (contract: %s/v1/openapi.yaml). Try:", d.server, d.server)
	fmt.Fprintf(a.out, "\n    export THERMOCLINE_SERVER=%s\n    bin/thermocline read quakes --where 'magnitude >= 5' --columns time,magnitude,place\n    bin/thermocline tail quakes\n    curl -s '%s/v1/streams/quakes/branches/main/rows?format=csv&limit=3'\n\nCtrl-C ends it.\n", d.server, d.server)
	return s.wait(ctx)
}

// demo runs the command line against its server and tells what it does.
type demo struct {
	*app
	server string
	step   int
}

func (d *demo) say(format string, args ...any) {
	d.step++
	fmt.Fprintf(d.out, "\n── %d. %s\n", d.step, fmt.Sprintf(format, args...))
}

// typed shows a command as a person would type it, and runs it.
func (d *demo) typed(ctx context.Context, out io.Writer, args ...string) error {
	shown := make([]string, len(args))
	for i, s := range args {
		if shown[i] = s; strings.ContainsAny(s, " <>*'") {
			shown[i] = `"` + s + `"`
		}
	}
	fmt.Fprintf(d.out, "$ thermocline %s\n", strings.Join(shown, " "))
	if code := run(ctx, terminal{in: strings.NewReader(""), out: out, err: d.err}, append(args, "--server", d.server)); code != exitOK {
		return fmt.Errorf("demo: step %d ended with exit code %d", d.step, code)
	}
	return nil
}

func (d *demo) steps(ctx context.Context, sample, first, rest string) error {
	d.say("A server runs at %s: one process, one directory, nothing else.", d.server)

	d.say("Create a stream. Its schema comes from the sample; events of one network share a partition and keep their order.")
	if err := d.typed(ctx, io.Discard, "stream", "create", "quakes", "--infer", sample, "--key", "network", "--partitions", "3", "--archive-interval", "1h"); err != nil {
		return err
	}

	d.say("Publish the first %s events. Each request is answered when it is on disk.", count(demoCold))
	if err := d.typed(ctx, d.out, "ingest", "quakes", first); err != nil {
		return err
	}

	d.say("Archive: the rows move from the hot log into an Iceberg table of Parquet files. (By itself this happens every two minutes.)")
	for _, args := range [][]string{{"archive", "quakes"}, {"dataset", "history", "quakes"}, {"dataset", "files", "quakes"}} {
		if err := d.typed(ctx, d.out, args...); err != nil {
			return err
		}
	}

	d.say("Publish the other %s events. These stay hot.", count(demoRows-demoCold))
	if err := d.typed(ctx, d.out, "ingest", "quakes", rest); err != nil {
		return err
	}
	if err := d.typed(ctx, d.out, "offsets", "quakes"); err != nil {
		return err
	}

	d.say("Read hot and cold as one.")
	var all bytes.Buffer
	if err := d.typed(ctx, &all, "read", "quakes", "--system"); err != nil {
		return err
	}
	if err := d.account(ctx, &all); err != nil {
		return err
	}

	d.say("Ask: the strongest ones near the surface, from both halves.")
	return d.typed(ctx, d.out, "read", "quakes", "--where", "magnitude >= 5 and location.depth_km < 10", "--columns", "time,magnitude,place", "--format", "csv")
}

// account checks what was read and says so; the demo fails if it is not so.
func (d *demo) account(ctx context.Context, rows io.Reader) error {
	var text bytes.Buffer
	if code := run(ctx, terminal{in: strings.NewReader(""), out: &text, err: d.err}, []string{"offsets", "quakes", "--output", "json", "--server", d.server}); code != exitOK {
		return fmt.Errorf("demo: step %d ended with exit code %d", d.step, code)
	}
	var offsets struct {
		Partitions []struct {
			Archived int64 `json:"archived"`
		} `json:"partitions"`
	}
	if err := json.Unmarshal(text.Bytes(), &offsets); err != nil {
		return fmt.Errorf("demo: the offsets: %w", err)
	}
	cold := int64(0)
	for _, p := range offsets.Partitions {
		cold += p.Archived
	}
	last := map[string]int64{} // of each network, the last offset
	partitions := map[int64]int64{}
	seen := map[string]bool{}
	in := bufio.NewScanner(rows)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var r struct {
			ID        string `json:"id"`
			Network   string `json:"network"`
			Partition int64  `json:"_partition_id"`
			Offset    int64  `json:"_offset"`
		}
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			return fmt.Errorf("demo: a row that was read: %w", err)
		}
		if before, ok := last[r.Network]; ok && r.Offset <= before {
			return fmt.Errorf("demo: event %s of network %s comes after a later one", r.ID, r.Network)
		}
		if r.Offset != partitions[r.Partition] {
			return fmt.Errorf("demo: partition %d goes on at offset %d, not %d", r.Partition, r.Offset, partitions[r.Partition])
		}
		last[r.Network], partitions[r.Partition], seen[r.ID] = r.Offset, r.Offset+1, true
	}
	if err := in.Err(); err != nil {
		return err
	}
	total := int64(0)
	for _, n := range partitions {
		total += n
	}
	if len(seen) != demoRows || total != demoRows {
		return fmt.Errorf("demo: read %d rows with %d different earthquakes, there are %d", total, len(seen), demoRows)
	}
	fmt.Fprintf(d.out, "%s earthquakes as one stream: %s cold and %s hot, each once, in append order for each of the %d networks.\n",
		count(total), count(cold), count(total-cold), len(last))
	return nil
}

// splitSample cuts the sample into the rows to be archived and the others.
func splitSample(sample, dir string) (first, rest string, err error) {
	b, err := os.ReadFile(sample)
	if err != nil {
		return "", "", fmt.Errorf("demo: %w; run it in the project's folder, or name the file with --sample", err)
	}
	lines := bytes.SplitAfter(bytes.TrimSpace(b), []byte("\n"))
	if len(lines) != demoRows {
		return "", "", fmt.Errorf("demo: %s has %d rows; the sample has %d", sample, len(lines), demoRows)
	}
	first, rest = filepath.Join(dir, "first.ndjson"), filepath.Join(dir, "rest.ndjson")
	return first, rest, errors.Join(
		os.WriteFile(first, bytes.Join(lines[:demoCold], nil), 0o600),
		os.WriteFile(rest, bytes.Join(lines[demoCold:], nil), 0o600))
}
