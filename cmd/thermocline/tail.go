package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
)

func (a *app) tailCommand() *cobra.Command {
	var f scanFlags
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "tail NAME",
		Short: "Print the rows of a stream as they arrive, one JSON object a line",
		Long: `Follows a stream until it is interrupted. After a lost connection it goes on
behind the last row that it printed.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			t := &follower{a: a, remote: remote, stream: args[0], flags: &f, position: f.from}
			if err := t.run(c.Context(), timeout); err != nil {
				return fmt.Errorf("tail %s: %w", args[0], err)
			}
			return nil
		},
	}
	f.add(c, "latest", "latest, earliest, or a cursor to go on behind")
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "give up after this long without a connection")
	return c
}

// follower prints a tail across connections.
type follower struct {
	a        *app
	remote   *client.Client
	stream   string
	flags    *scanFlags
	position string // where the next connection begins: latest, earliest, a cursor
	// An exactly-once epoch has no cursor inside, but fixed contents: after a
	// lost connection it comes again from its start, and what was shown of it
	// is passed over.
	shown    int // rows shown since position
	received int // rows that this connection brought since position
}

func (t *follower) run(ctx context.Context, timeout time.Duration) error {
	return reconnecting(ctx, timeout, func(seen func()) error { return t.once(ctx, seen) }, func(err error) {
		if t.position == "latest" {
			fmt.Fprintf(t.a.err, "thermocline: tail %s: %v; rows that arrive before the next connection are not shown\n", t.stream, err)
		}
	})
}

func (t *follower) once(ctx context.Context, seen func()) error {
	sse := client.TailRowsParamsFormatSse
	params := client.TailRowsParams{Format: &sse, From: &t.position}
	params.Columns, params.Where, params.Consistency, params.System = t.flags.params()
	params.Fallback = given(strings.Join(t.flags.fallback, ","))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dead := time.AfterFunc(silence, func() { cancel(errEnded) })
	defer dead.Stop()
	resp, err := t.remote.TailRows(ctx, t.stream, t.flags.branch, &params)
	if resp, err = t.a.success(resp, err); err != nil {
		if errors.Is(context.Cause(ctx), errEnded) {
			return errEnded
		}
		return err
	}
	defer resp.Body.Close()
	// Positions are of this branch: further connections stay with it.
	t.flags.branch = t.a.fellBack(resp, t.stream, t.flags.branch)
	if t.received = 0; t.position == "latest" {
		t.shown = 0 // another latest: what was shown does not come again
	}
	return readEvents(resp.Body, func(e event) error {
		dead.Reset(silence)
		seen()
		return t.event(e)
	})
}

func (t *follower) event(e event) error {
	switch e.name {
	case "rows":
		lines := e.data
		for range min(t.shown-t.received, e.lines) {
			lines = lines[lineEnd(lines):]
		}
		t.received += e.lines
		t.shown = max(t.shown, t.received)
		if _, err := t.a.out.Write(lines); err != nil {
			return fmt.Errorf("write the rows: %w", err)
		}
	case "problem":
		return problemEvent(e)
	}
	if e.id != "" {
		t.position, t.shown, t.received = e.id, 0, 0
	}
	return nil
}

// problemEvent is the error that a push read ended with.
func problemEvent(e event) error {
	p := &problem{}
	if err := json.Unmarshal(e.data, &p.Problem); err != nil || p.Code == "" {
		return fmt.Errorf("the server sent a problem that is none: %.200q", e.data)
	}
	if p.Status == http.StatusServiceUnavailable {
		return errEnded
	}
	return p
}
