package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
)

// scanFlags are the flags that read and tail share.
type scanFlags struct {
	branch, where, consistency, from string
	columns, fallback                []string
	system                           bool
}

func (f *scanFlags) add(c *cobra.Command, from, fromHelp string) {
	branchFlag(c, &f.branch)
	f.addRows(c)
	s := c.Flags()
	s.StringVar(&f.consistency, "consistency", "", "AT_LEAST_ONCE or EXACTLY_ONCE (default: the stream's setting)")
	s.StringVar(&f.from, "from", from, fromHelp)
	s.StringSliceVar(&f.fallback, "fallback", nil, "branches to read instead if the stream lacks the branch, with commas between them; the first that there is")
}

// addRows adds the flags that say what of the rows is wanted.
func (f *scanFlags) addRows(c *cobra.Command) {
	s := c.Flags()
	s.StringSliceVar(&f.columns, "columns", nil, "columns to return, with commas between them (default: all)")
	s.StringVar(&f.where, "where", "", "rows to return, like \"magnitude >= 4.5 and kind = 'earthquake'\"")
	s.BoolVar(&f.system, "system", false, "add the columns _view, _partition_id, _offset and _timestamp")
}

// given is nil for an empty string.
func given(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (f *scanFlags) params() (columns, where *string, consistency *client.Consistency, system *bool) {
	if f.consistency != "" {
		consistency = (*client.Consistency)(upper(f.consistency))
	}
	if f.system {
		system = &f.system
	}
	return given(strings.Join(f.columns, ",")), given(f.where), consistency, system
}

func (a *app) readCommand() *cobra.Command {
	var f scanFlags
	var format string
	var limit int64
	var cursor bool
	var past versionFlags
	c := &cobra.Command{
		Use:   "read NAME",
		Short: "Read a stream, hot and cold as one, to standard output",
		Long: `Reads what the stream holds at the moment of the call and ends. The output
is complete if and only if the exit code is 0. With --snapshot, --tag or --as-of it
is what the dataset held in that version, with --until-cursor what lies before a
cursor. NAME may be a dataset without a stream.`,
		Example: `  thermocline read quakes --where "magnitude >= 4.5" --columns time,place,magnitude --format csv
  thermocline read quakes --format parquet > quakes.parquet
  thermocline read quakes --as-of 2026-02-01T00:00:00Z --limit 10`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			params := client.ReadRowsParams{From: &f.from, Format: (*client.ReadRowsParamsFormat)(&format)}
			if !params.Format.Valid() {
				return usage("--format %q: use ndjson, csv, arrow or parquet", format)
			}
			if limit < 0 {
				return usage("--limit %d: use 0 (all) or more", limit)
			}
			if limit > 0 {
				params.Limit = &limit
			}
			if isTerminal(a.out) && (format == "arrow" || format == "parquet") {
				return usage("--format %s is not for a terminal; redirect the output into a file", format)
			}
			params.Columns, params.Where, params.Consistency, params.System = f.params()
			params.Fallback = given(strings.Join(f.fallback, ","))
			if err := past.set(&params); err != nil {
				return err
			}
			end, err := a.read(c.Context(), args[0], f.branch, &params)
			if err != nil {
				return fmt.Errorf("read %s: %w", args[0], err)
			}
			if cursor {
				fmt.Fprintln(a.err, end)
			}
			return nil
		},
	}
	f.add(c, "earliest", "earliest, or a cursor to go on behind")
	c.Flags().StringVar(&format, "format", "ndjson", "ndjson, csv, arrow or parquet")
	c.Flags().Int64Var(&limit, "limit", 0, "most rows to return; 0 is all")
	past.add(c)
	c.Flags().BoolVar(&cursor, "cursor", false, "print the closing cursor to standard error")
	return c
}

// versionFlags choose a past version of a dataset.
type versionFlags struct {
	snapshot           int64
	tag, asOf, until   string
	withCurrentColumns bool
}

func (f *versionFlags) add(c *cobra.Command) {
	s := c.Flags()
	s.Int64Var(&f.snapshot, "snapshot", 0, "read the version of this snapshot id")
	s.StringVar(&f.tag, "tag", "", "read the version that a tag names")
	s.StringVar(&f.asOf, "as-of", "", "read the version that was the newest at a time, like 2026-02-01T00:00:00Z")
	s.StringVar(&f.until, "until-cursor", "", "leave out rows behind a cursor, also one from before a reset")
	s.BoolVar(&f.withCurrentColumns, "current-schema", false, "give a version the columns that the stream has now")
	c.MarkFlagsMutuallyExclusive("snapshot", "tag", "as-of", "until-cursor")
}

func (f *versionFlags) set(params *client.ReadRowsParams) error {
	if f.snapshot != 0 {
		params.Snapshot = &f.snapshot
	}
	params.Tag, params.Until = given(f.tag), given(f.until)
	if f.asOf != "" {
		at, err := time.Parse(time.RFC3339Nano, f.asOf)
		if err != nil {
			return usage("--as-of %q: want a time like 2026-02-01T00:00:00Z", f.asOf)
		}
		params.AsOf = &at
	}
	if f.withCurrentColumns {
		current := client.ReadRowsParamsSchemaCurrent
		params.Schema = &current
	}
	return nil
}

// read copies a bounded read to standard output and returns the closing cursor.
func (a *app) read(ctx context.Context, stream, branch string, params *client.ReadRowsParams) (string, error) {
	remote, err := a.connect()
	if err != nil {
		return "", err
	}
	resp, err := remote.ReadRows(ctx, stream, branch, params, func(_ context.Context, r *http.Request) error {
		r.Header.Set("TE", "trailers")
		return nil
	})
	if resp, err = a.success(resp, err); err != nil {
		return "", err
	}
	defer resp.Body.Close()
	a.fellBack(resp, stream, branch)
	_, err = io.Copy(a.out, resp.Body)
	var onDisk *os.PathError
	switch {
	case errors.As(err, &onDisk): // our own output: a full disk, a closed pipe
		return "", fmt.Errorf("write the rows: %w", err)
	case err != nil:
		return "", fmt.Errorf("the answer was cut, the output is not complete: %w", a.lost(err))
	}
	if text := resp.Trailer.Get("Thermocline-Error"); text != "" {
		var p problem
		if err := json.Unmarshal([]byte(text), &p.Problem); err != nil {
			return "", fmt.Errorf("the server failed, the output is not complete: %s", text)
		}
		return "", fmt.Errorf("the output is not complete: %w", &p)
	}
	cursor := resp.Trailer.Get("Thermocline-Cursor")
	if cursor == "" {
		return "", errors.New("the answer has no closing cursor, the output may not be complete; is there a proxy that drops trailers?")
	}
	return cursor, nil
}

// fellBack tells that another branch is read than the one that was asked for, and
// returns the one that is.
func (a *app) fellBack(resp *http.Response, stream, asked string) string {
	is := resp.Header.Get("Thermocline-Branch")
	if is == "" || is == asked {
		return asked
	}
	fmt.Fprintf(a.err, "thermocline: %s has no branch %s; this is %s\n", stream, asked, is)
	return is
}
