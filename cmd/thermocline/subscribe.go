package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
)

func (a *app) subscribeCommand() *cobra.Command {
	t := &subscription{a: a}
	var from, commit string
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "subscribe NAME --group G",
		Short: "Print the rows of a stream behind a position that the server keeps",
		Long: `Joins the subscriber G of a stream, creates it if need be, prints rows as they
arrive, one JSON object a line, and commits behind what it has written. Several
runs with the same group divide the stream's partitions among them. A later run
goes on where the group was committed.

At least once (the default): rows are written, that is handed to the operating
system, as they come. Rows that were written shortly before a crash can come again.

Exactly once (--exactly-once, when the subscriber is created): rows are held back
until their epoch, 2 s long, is complete; the epoch is written as a whole and then
committed. What that means for a pipe: each epoch is written in order and whole,
and lost connections and restarts of the server neither lose nor repeat a row
within one run. But no pipe can say what its reader has stored. When this command
is killed between writing and committing, the next run writes that epoch again,
and what lay in the pipe when its reader died is lost with it. For each row once
in a store, whatever is killed, write rows and position in one transaction, as
examples/ does, or read the output of --commit none with a program that does.

--commit none prints rows and the server's marks between them (assignment, cursor,
checkpoint) and commits nothing: the program behind the pipe commits, over REST,
with the session of the assignment. The server ends a session that was sent rows
and commits nothing for a minute.

SIGINT ends it: what was written is committed, and the exit code is 0. A second
one ends it at once.`,
		Example: `  thermocline subscribe quakes --group alerts --from latest
  thermocline subscribe quakes --group billing --exactly-once >> quakes.ndjson`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case t.group == "":
				return usage("subscribe needs --group, the name of the subscriber")
			case commit != "auto" && commit != "none":
				return usage("--commit %q: use auto or none", commit)
			}
			t.stream, t.raw, t.start = args[0], commit == "none", startOf(from)
			if t.member == "" {
				// So that after a lost connection this run takes over from itself.
				t.member = "cli-" + strings.ToLower(rand.Text()[:12])
			}
			var err error
			if t.remote, err = a.connect(); err != nil {
				return err
			}
			defer t.held.close()
			if err := t.run(c.Context(), timeout); err != nil {
				return fmt.Errorf("subscribe %s --group %s: %w", t.stream, t.group, err)
			}
			return nil
		},
	}
	branchFlag(c, &t.branch)
	s := c.Flags()
	s.StringVar(&t.group, "group", "", "name of the subscriber")
	s.StringVar(&t.member, "member", "", "name of this member; a run of the same name is ended at once (default: a fresh one)")
	s.BoolVar(&t.exactly, "exactly-once", false, "epoch by epoch")
	s.StringVar(&from, "from", "earliest", "where a new subscriber begins: earliest, latest, a cursor, or a time like 2026-03-01T12:00:00Z")
	s.BoolVar(&t.create, "create", true, "create the subscriber if there is none")
	s.StringVar(&commit, "commit", "auto", "auto, or none to print marks and leave committing to others")
	t.scan.addRows(c)
	s.DurationVar(&timeout, "timeout", 5*time.Minute, "give up after this long without a connection")
	return c
}

// startOf reads --from: a word, a time, or else a cursor.
func startOf(from string) client.SubscriberStart {
	switch from {
	case "earliest", "latest":
		return client.SubscriberStart{Type: client.SubscriberStartType(from)}
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04:05", time.DateTime, time.DateOnly} {
		if at, err := time.Parse(form, from); err == nil {
			return client.SubscriberStart{Type: client.SubscriberStartTypeTime, Time: &at}
		}
	}
	return client.SubscriberStart{Type: client.SubscriberStartTypeCursor, Cursor: &from}
}

// subscription prints the rows of a subscriber across connections.
type subscription struct {
	a                             *app
	remote                        *client.Client
	stream, branch, group, member string
	start                         client.SubscriberStart
	scan                          scanFlags
	create, exactly, raw          bool

	joined  bool   // the subscriber is known to be there
	resume  string // the position behind what was written; empty before the first
	session int64
	held    spool // exactly once: rows of the epoch that is not complete
	commits committer

	mu      sync.Mutex // held while an event is dealt with
	stopped bool
}

func (t *subscription) run(ctx context.Context, timeout time.Duration) error {
	return reconnecting(ctx, timeout, func(seen func()) error { return t.once(ctx, seen) }, func(error) {})
}

// once is one connection, and so one session. When ctx ends, what was written
// is committed before the connection goes, and the session with it.
func (t *subscription) once(ctx context.Context, seen func()) error {
	if err := t.prepare(ctx); err != nil {
		return err
	}
	conn, hangUp := context.WithCancelCause(context.WithoutCancel(ctx))
	dead := time.AfterFunc(silence, func() { hangUp(errEnded) })
	defer dead.Stop()
	t.commits.begin(conn, t, hangUp)
	defer func() {
		hangUp(nil)
		t.commits.end()
	}()
	stop := context.AfterFunc(ctx, func() {
		t.mu.Lock()
		t.stopped = true
		t.mu.Unlock()
		t.commits.finish()
		hangUp(errEnded)
	})
	defer stop()

	sse := client.SubscribeRowsParamsFormatSse
	params := client.SubscribeRowsParams{Format: &sse, Member: &t.member, Resume: given(t.resume)}
	params.Columns, params.Where, _, params.System = t.scan.params()
	resp, err := t.remote.SubscribeRows(conn, t.stream, t.branch, t.group, &params)
	if resp, err = t.a.success(resp, err); err == nil {
		defer resp.Body.Close()
		err = readEvents(resp.Body, func(e event) error {
			dead.Reset(silence)
			seen()
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.stopped {
				return errEnded
			}
			return t.event(e)
		})
	}
	if cause := context.Cause(conn); cause != nil {
		return cause
	}
	return err
}

// prepare creates the subscriber if it is missing, and learns its consistency.
func (t *subscription) prepare(ctx context.Context) error {
	if t.joined {
		return nil
	}
	var s client.Subscriber
	resp, err := t.remote.GetSubscriber(ctx, t.stream, t.branch, t.group)
	err = t.a.answer(resp, err, &s)
	if p := (*problem)(nil); t.create && errors.As(err, &p) && p.Status == http.StatusNotFound {
		consistency := client.ConsistencyATLEASTONCE
		if t.exactly {
			consistency = client.ConsistencyEXACTLYONCE
		}
		resp, err = t.remote.CreateSubscriber(ctx, t.stream, t.branch, client.CreateSubscriber{ID: t.group, Consistency: &consistency, Start: &t.start})
		if err = t.a.answer(resp, err, &s); errors.As(err, &p) && p.Code == "ALREADY_EXISTS" {
			resp, err = t.remote.GetSubscriber(ctx, t.stream, t.branch, t.group) // made by another run meanwhile
			err = t.a.answer(resp, err, &s)
		}
	}
	if err != nil {
		return err
	}
	if t.exactly && s.Consistency != client.ConsistencyEXACTLYONCE {
		return fmt.Errorf("the subscriber is %s, and that is fixed; take another --group, or delete this one first", s.Consistency)
	}
	t.exactly, t.joined = s.Consistency == client.ConsistencyEXACTLYONCE, true
	return nil
}

func (t *subscription) event(e event) error {
	switch e.name {
	case "assignment":
		var as struct{ Session int64 }
		if err := json.Unmarshal(e.data, &as); err != nil || as.Session == 0 {
			return fmt.Errorf("the server sent an assignment that is none: %.200q", e.data)
		}
		t.session = as.Session
		t.held.drop()
		return t.mark(e)
	case "rows":
		if t.exactly && !t.raw {
			return t.held.add(e.data)
		}
		if err := t.write(e.data); err != nil || e.id == "" {
			return err
		}
		if err := t.mark(event{name: "cursor", data: fmt.Appendf(nil, "{\"cursor\":%q}\n", e.id)}); err != nil {
			return err
		}
		t.done(client.CommitSubscriber{Session: t.session, Cursor: &e.id}, e.id)
	case "cursor":
		if err := t.mark(e); err != nil {
			return err
		}
		t.done(client.CommitSubscriber{Session: t.session, Cursor: &e.id}, e.id)
	case "checkpoint":
		var cp struct{ Checkpoint int64 }
		if err := json.Unmarshal(e.data, &cp); err != nil || cp.Checkpoint == 0 || e.id == "" {
			return fmt.Errorf("the server sent a checkpoint that is none: %.200q", e.data)
		}
		if err := t.held.release(t.write); err != nil {
			return err
		}
		if err := t.mark(e); err != nil {
			return err
		}
		// By cursor: numbers come again when a partition is given to us that was
		// further back.
		t.done(client.CommitSubscriber{Session: t.session, Cursor: &e.id}, e.id)
	case "problem":
		return problemEvent(e)
	}
	return nil
}

// done: everything before the position has been written.
func (t *subscription) done(c client.CommitSubscriber, position string) {
	t.resume = position
	if !t.raw {
		t.commits.add(c)
	}
}

// mark prints a mark where marks are wanted.
func (t *subscription) mark(e event) error {
	if !t.raw {
		return nil
	}
	return t.write(fmt.Appendf(nil, "{\"_thermocline\":%q,%s", e.name, bytes.TrimPrefix(e.data, []byte("{"))))
}

func (t *subscription) write(lines []byte) error {
	if _, err := t.a.out.Write(lines); err != nil {
		return fmt.Errorf("write the rows: %w", err)
	}
	return nil
}
