package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
	"github.com/thermocline/thermocline/schema"
)

type ingestFlags struct {
	branch, format, onError, unknownFields, producer string
	timeout                                          time.Duration
}

func (a *app) ingestCommand() *cobra.Command {
	var f ingestFlags
	c := &cobra.Command{
		Use:   "ingest NAME FILE|-",
		Short: "Publish the rows of a file: NDJSON, CSV, Parquet or Avro, also with gzip or zstd",
		Long: `Publishes the rows of a file, or of standard input (-), in batches of up to
5,000 rows or 1 MiB. Each batch carries a producer's name and a number, so that
it can be sent again until the server answers: a server that is killed and
restarted meanwhile neither loses a row nor has one twice.

CSV begins with a line of column names; values are typed by the stream's schema,
an empty value is null, "" is an empty text, nested values are JSON.

With --producer NAME an ingest that was itself interrupted can be repeated with
the same command within 24 hours: what the stream has of this file is passed
over. The file must be unchanged, and NAME not be in use by two at a time.

By default (--on-error reject) the first batch with a bad row ends the ingest;
the batches before it are in the stream.`,
		Example: `  thermocline ingest quakes earthquakes.ndjson
  zcat rows.csv.gz | thermocline ingest quakes - --format csv
  thermocline ingest flights flights.parquet --producer nightly`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if f.onError != "reject" && f.onError != "skip" {
				return usage("--on-error %q: use reject or skip", f.onError)
			}
			if f.unknownFields != "reject" && f.unknownFields != "ignore" {
				return usage("--unknown-fields %q: use reject or ignore", f.unknownFields)
			}
			if f.timeout <= 0 {
				return usage("--timeout %v: use a duration like 5m", f.timeout)
			}
			if err := a.ingest(c.Context(), args[0], args[1], f); err != nil {
				var wrong *usageError
				if errors.As(err, &wrong) {
					return err
				}
				return fmt.Errorf("ingest %s: %w", args[0], err)
			}
			return nil
		},
	}
	branchFlag(c, &f.branch)
	c.Flags().StringVar(&f.format, "format", "", "ndjson, csv, parquet or avro (default: found out)")
	c.Flags().StringVar(&f.onError, "on-error", "reject", "what a bad row does: reject ends the ingest, skip leaves the row out")
	c.Flags().StringVar(&f.unknownFields, "unknown-fields", "reject", "what a field that the schema lacks does: reject or ignore")
	c.Flags().StringVar(&f.producer, "producer", "", "name of this ingest, so that it can be repeated after an interruption")
	c.Flags().DurationVar(&f.timeout, "timeout", 5*time.Minute, "give up after this long without an answer of the server")
	return c
}

// ingested is what an ingest did.
type ingested struct {
	File          string  `json:"file"`
	Stream        string  `json:"stream"`
	Producer      string  `json:"producer"`
	Rows          int64   `json:"rows"`         // appended by this run
	RejectedRows  int64   `json:"rejectedRows"` // left out (--on-error skip)
	ResumedRows   int64   `json:"resumedRows"`  // passed over, an earlier run appended them
	Requests      int64   `json:"requests"`
	Retries       int     `json:"retries"`
	Seconds       float64 `json:"seconds"`
	RowsPerSecond float64 `json:"rowsPerSecond"`
}

func (a *app) ingest(ctx context.Context, stream, file string, f ingestFlags) error {
	in, err := a.openInput(file, f.format)
	if err != nil {
		return err
	}
	defer in.Close()
	remote, err := a.connect()
	if err != nil {
		return err
	}
	bar := a.newProgress(in)
	defer bar.close()
	p := &publisher{
		a: a, remote: remote, stream: stream, branch: f.branch, producer: "cli-" + rand.Text(),
		skipBad: f.onError == "skip", ignoreUnknown: f.unknownFields == "ignore",
		timeout: f.timeout, onRetry: bar.retry,
	}
	if f.producer != "" {
		id, err := in.identity()
		if err != nil {
			return err
		}
		p.producer = f.producer + "-" + id
	}
	v, err := p.schema(ctx)
	if err != nil {
		return err
	}
	s, err := schema.ParseAny(v.Schema)
	if err != nil {
		return fmt.Errorf("the schema in the answer of %s: %w", a.server, err)
	}
	src, err := openSource(in, s)
	if err != nil {
		return err
	}
	sum := ingested{File: in.name, Stream: stream, Producer: p.producer}
	begin := time.Now()
	err = a.publishAll(ctx, p, src, bar, &sum, f.producer != "")
	bar.close()
	sum.Retries, sum.Seconds = p.retries, time.Since(begin).Seconds()
	sum.RowsPerSecond = float64(sum.Rows) / max(sum.Seconds, 1e-9)
	if err != nil {
		return a.partly(in.name, sum, f, err)
	}
	return a.summarize(sum)
}

// publishAll sends every batch, one at a time for the order of rows, while the
// next one is being made.
func (a *app) publishAll(ctx context.Context, p *publisher, src source, bar *progress, sum *ingested, resume bool) error {
	var last *client.Producer
	if resume {
		var err error
		if last, err = p.last(ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	ahead := readAhead(ctx, src)
	defer func() {
		cancel()
		for range ahead { // wait for the reader to end
		}
	}()
	sequence := int64(0)
	for next := range ahead {
		if next.err != nil {
			return fmt.Errorf("read %s: %w", sum.File, next.err)
		}
		b := next.batch
		if last != nil && sequence <= last.Sequence {
			if sequence == last.Sequence && !p.skipBad && last.Rows != b.rows {
				return fmt.Errorf("the file has changed since the interrupted run: batch %d has %d rows, the stream got %d then; ingest what is new as a file of its own", sequence, b.rows, last.Rows)
			}
			sum.ResumedRows += b.rows
			sequence++
			continue
		}
		result, err := p.send(ctx, b, sequence)
		if err != nil {
			a.printRejected(b, err)
			return err
		}
		a.printRows(b, result.Rejected, result.RejectedRows)
		sum.Requests++
		sum.Rows += result.Rows
		sum.RejectedRows += result.RejectedRows
		bar.rows(sum.Rows)
		sequence++
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	return nil
}

// made is a batch, or why there is none.
type made struct {
	batch batch
	err   error
}

// readAhead makes batches while earlier ones are on their way. The channel is
// closed behind the last one, an error, or the end of ctx.
func readAhead(ctx context.Context, src source) <-chan made {
	out := make(chan made, 1)
	go func() {
		defer close(out)
		for {
			b, err := src.next(ctx)
			if err == io.EOF {
				return
			}
			select {
			case out <- made{b, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return out
}

// shownRows bounds how many bad rows are printed of each batch.
const shownRows = 20

func (a *app) printRejected(b batch, err error) {
	var p *problem
	if errors.As(err, &p) && p.Errors != nil {
		total := int64(len(*p.Errors))
		if p.ErrorCount != nil {
			total = *p.ErrorCount
		}
		a.printRows(b, *p.Errors, total)
	}
}

func (a *app) printRows(b batch, bad []client.RowError, total int64) {
	for i, e := range bad {
		if i == shownRows {
			break
		}
		path := ""
		if e.Path != "" {
			path = ", field " + e.Path
		}
		fmt.Fprintf(a.err, "row %d%s: expected %s, got %s\n", b.first+e.Row+1, path, e.Expected, e.Got)
	}
	if more := total - int64(min(len(bad), shownRows)); more > 0 {
		fmt.Fprintf(a.err, "and %s more bad rows in this batch\n", count(more))
	}
}

// partly says how far a failed ingest came, and how to go on.
func (a *app) partly(name string, sum ingested, f ingestFlags, err error) error {
	hint := "run it again with --producer NAME to be able to go on after the next interruption"
	if f.producer != "" {
		hint = "the same command goes on behind them"
	}
	return fmt.Errorf("%w; %s rows of %s are in the stream, %s", err, count(sum.Rows+sum.ResumedRows), name, hint)
}

func (a *app) summarize(sum ingested) error {
	if a.output == "json" {
		return a.printJSON(sum)
	}
	line := fmt.Sprintf("ingested %s rows of %s into %s: %.1f s, %s rows/s, %d retries", count(sum.Rows), sum.File, sum.Stream, sum.Seconds, count(int64(sum.RowsPerSecond)), sum.Retries)
	if sum.ResumedRows > 0 {
		line += fmt.Sprintf(", %s rows were there already", count(sum.ResumedRows))
	}
	if sum.RejectedRows > 0 {
		line += fmt.Sprintf(", %s bad rows left out", count(sum.RejectedRows))
	}
	_, err := fmt.Fprintln(a.out, line)
	return err
}
