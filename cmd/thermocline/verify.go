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
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
	"github.com/thermocline/thermocline/cmd/thermocline/node"
	"github.com/thermocline/thermocline/verify"
)

// exitUnchecked: verify could not look at everything, so that no finding means
// nothing. Findings are exitFail.
const exitUnchecked = 2

// codedError is an error with an exit code of its own. quiet: everything was said.
type codedError struct {
	code  int
	quiet bool
	err   error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

type verifyFlags struct {
	branch, data       string
	all                bool
	producer, sequence string
	grace              time.Duration
	warehouse          warehouseFlags
}

func (a *app) verifyCommand() *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use:   "verify [NAME]",
		Short: "Check all that a stream has stored, hot and cold",
		Long: `Reads every data file and every hot row of a stream, offset by offset, past all
caches, and reports gaps, duplicates, disorder, damaged files, rows that differ between
data file and hot log, subscribers at positions that cannot be, files that are
missing or that nothing leads to. Without NAME, or with --all, every stream is
checked, and what belongs to none.

The server may run and work meanwhile. With --data the directory of a stopped
server is checked instead.

With --producer-column and --sequence-column the rows of each producer are checked
too: every sequence once, none missing between the smallest and the largest, none
going back within a partition.

Nothing is repaired. Exit codes: 0 all is well, 1 there are findings (a NOTICE is
none), 2 the check could not be made, or not to its end.`,
		Example: `  thermocline verify quakes
  thermocline verify orders --producer-column device --sequence-column n
  thermocline verify --all --data /var/lib/thermocline --output json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case len(args) == 1 && f.all:
				return usage("name a stream, or --all, not both")
			case f.grace < time.Second:
				return usage("--grace %v: use at least 1s", f.grace)
			case (f.producer == "") != (f.sequence == ""):
				return usage("--producer-column and --sequence-column go together")
			case len(args) == 0 && c.Flags().Changed("branch"):
				return usage("--branch is of a stream; name it")
			}
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			return a.verify(c.Context(), name, f)
		},
	}
	branchFlag(c, &f.branch)
	s := c.Flags()
	s.BoolVar(&f.all, "all", false, "check every stream")
	s.StringVar(&f.data, "data", "", "check the data directory of a stopped server, without a server")
	f.warehouse.register(s)
	s.StringVar(&f.producer, "producer-column", "", "column that names the producer of a row")
	s.StringVar(&f.sequence, "sequence-column", "", "column that numbers the rows of a producer")
	s.DurationVar(&f.grace, "grace", verify.DefaultGrace, "age from which on a file that nothing leads to is a finding")
	return c
}

// checkReport is what a check said, for --output json.
type checkReport struct {
	Complete bool           `json:"complete"` // every check came to its end
	Clean    bool           `json:"clean"`    // and found nothing
	Findings []verify.Event `json:"findings"`
	Branches []verify.Event `json:"branches"` // their summaries
	Error    string         `json:"error,omitempty"`
}

// verify runs a check and shows it as it goes.
func (a *app) verify(ctx context.Context, name string, f verifyFlags) error {
	report := checkReport{Findings: []verify.Event{}, Branches: []verify.Event{}}
	failures := int64(0)
	show := func(e verify.Event) error {
		switch {
		case e.Finding != nil:
			if a.output == "json" {
				report.Findings = append(report.Findings, e)
				return nil
			}
			return a.showFinding(e)
		case e.Summary != nil:
			report.Branches = append(report.Branches, e)
			failures += e.Summary.Failures
			if a.output != "json" {
				return a.showSummary(e)
			}
		case e.Progress != nil && isTerminal(a.err):
			p := e.Progress
			fmt.Fprintf(a.err, "\r\033[K%s: %s, %d of %d files, %s rows", place(e), p.Phase, p.Files, p.TotalFiles, count(p.ColdRows+p.HotRows))
		}
		return nil
	}
	var err error
	switch {
	case f.data == "" && f.warehouse.uri != "":
		err = errors.New("--warehouse is for --data; a server knows its own")
	case f.data != "":
		err = a.verifyStopped(ctx, name, f, show)
	default:
		err = a.verifyServer(ctx, name, f, show)
	}
	if isTerminal(a.err) {
		fmt.Fprint(a.err, "\r\033[K")
	}
	if ctx.Err() != nil {
		err = errInterrupted
	}
	report.Complete, report.Clean = err == nil, err == nil && failures == 0
	if err != nil {
		report.Error = err.Error()
	}
	if a.output == "json" {
		if perr := a.printJSON(report); perr != nil {
			return perr
		}
	}
	switch {
	case err != nil:
		return &codedError{code: exitUnchecked, err: fmt.Errorf("verify: %w", err)}
	case failures > 0:
		return &codedError{code: exitFail, quiet: true, err: fmt.Errorf("%d findings", failures)}
	}
	return nil
}

func place(e verify.Event) string {
	switch {
	case e.Stream == "":
		return "(common)"
	case e.Branch == "main":
		return e.Stream
	}
	return e.Stream + "@" + e.Branch
}

func (a *app) showFinding(e verify.Event) error {
	f := e.Finding
	if isTerminal(a.err) {
		fmt.Fprint(a.err, "\r\033[K")
	}
	var where []string
	if f.View != 0 {
		where = append(where, fmt.Sprintf("view %d", f.View))
	}
	if f.Partition != nil {
		where = append(where, fmt.Sprintf("partition %d", *f.Partition))
	}
	if f.Offsets != nil {
		where = append(where, fmt.Sprintf("offsets %v", *f.Offsets))
	}
	_, err := fmt.Fprintf(a.out, "%-7s  %-12s %s  %s\n         in %s\n         %s\n         -> %s\n", f.Severity, f.Code, place(e), strings.Join(where, " "), f.Place, f.Detail, f.Remedy)
	return err
}

func (a *app) showSummary(e verify.Event) error {
	s := e.Summary
	if isTerminal(a.err) {
		fmt.Fprint(a.err, "\r\033[K")
	}
	verdict := "sound"
	if s.Failures > 0 {
		verdict = fmt.Sprintf("%d FINDINGS", s.Failures)
	}
	if s.Notices > 0 {
		verdict += fmt.Sprintf(", %d notices", s.Notices)
	}
	var err error
	if e.Stream == "" {
		_, err = fmt.Fprintf(a.out, "%s: %s; %s files in the warehouse\n", place(e), verdict, count(s.Objects))
		return err
	}
	_, err = fmt.Fprintf(a.out, "%s: %s; view %d, %s rows in %s files, %s hot rows (%s compared), %s checkpoints, %s subscribers, %s producers, %.1f s\n",
		place(e), verdict, s.View, count(s.ColdRows), count(s.Files), count(s.HotRows), count(s.Compared), count(s.Checkpoints), count(s.Subscribers), count(s.Producers), s.Seconds)
	return err
}

// verifyServer follows a check of a running server.
func (a *app) verifyServer(ctx context.Context, name string, f verifyFlags, show func(verify.Event) error) error {
	remote, err := a.connect()
	if err != nil {
		return err
	}
	grace := int64(f.grace / time.Second)
	if name == "" {
		resp, err := remote.VerifyAll(ctx, &client.VerifyAllParams{ProducerColumn: given(f.producer), SequenceColumn: given(f.sequence), GraceSeconds: &grace})
		if resp, err = a.success(resp, err); err != nil {
			return err
		}
		defer resp.Body.Close()
		return a.events(resp.Body, func(e verify.Event) bool { return e.Stream == "" && e.Summary != nil }, show)
	}
	resp, err := remote.VerifyBranch(ctx, name, f.branch, &client.VerifyBranchParams{ProducerColumn: given(f.producer), SequenceColumn: given(f.sequence), GraceSeconds: &grace})
	if resp, err = a.success(resp, err); err != nil {
		return err
	}
	defer resp.Body.Close()
	return a.events(resp.Body, func(e verify.Event) bool { return e.Summary != nil }, show)
}

// maxCheckLine bounds a line of a check.
const maxCheckLine = 1 << 20

// events reads lines until the one that is the last.
func (a *app) events(r io.Reader, last func(verify.Event) bool, show func(verify.Event) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxCheckLine)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var e struct {
			verify.Event
			Problem *client.Problem `json:"problem"`
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("a line of the answer is not what the contract says: %w", err)
		}
		if e.Problem != nil {
			return &problem{Problem: *e.Problem}
		}
		if err := show(e.Event); err != nil {
			return err
		}
		if last(e.Event) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return a.lost(err)
	}
	return errors.New("the answer ended before the check did")
}

// verifyStopped checks a data directory in this process.
func (a *app) verifyStopped(ctx context.Context, name string, f verifyFlags, show func(verify.Event) error) error {
	// What the log's opening finds is among the findings.
	tables, err := f.warehouse.open(ctx)
	if err != nil {
		return err
	}
	s, err := node.OpenStopped(ctx, f.data, tables, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	q := verify.Request{ProducerColumn: f.producer, SequenceColumn: f.sequence, Grace: f.grace}
	if name == "" {
		err = s.All(ctx, q, show)
	} else {
		err = s.Branch(ctx, name, f.branch, q, show)
	}
	return errors.Join(err, s.Close())
}
