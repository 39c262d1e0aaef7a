package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

var errDraining = fmt.Errorf("the server is shutting down; come again with the last cursor: %w", record.ErrClosed)

// TailRows answers a held-open read.
func (a *API) TailRows(c *gin.Context, stream, branch string, params rest.TailRowsParams) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	format, q, asText, err := tailRequest(c, params)
	if err != nil {
		a.fail(c, err)
		return
	}
	if !a.tails.enter() {
		a.fail(c, fmt.Errorf("tail %s: %d tails are open already; try again after a pause: %w", name, cap(a.tails), record.ErrBusy))
		return
	}
	defer a.tails.leave()
	ctx, cancel := context.WithCancelCause(c.Request.Context())
	defer cancel(nil)
	result, err := a.b.Reader.Tail(ctx, name, branch, q)
	if err != nil {
		a.fail(c, err)
		return
	}
	t := &tail{out: a.streamWriter(c), every: a.o.Heartbeat}
	if t.rows, err = newJSONRows(result.Schema, asText); err != nil {
		a.fail(c, err)
		return
	}
	t.sse = format == formatSSE
	t.marks = t.sse || params.Cursors != nil && *params.Cursors == rest.TailRowsParamsCursorsLine
	c.Header("Content-Type", outputTypes[format])
	c.Header("Cache-Control", "no-store")
	c.Header("X-Accel-Buffering", "no")
	c.Writer.WriteHeader(http.StatusOK)

	var beats sync.WaitGroup
	defer beats.Wait()
	defer cancel(nil)
	beats.Go(func() { t.heartbeats(ctx, cancel, a.draining) })
	err = t.follow(result)
	if cause := context.Cause(ctx); cause != nil {
		err = cause // what made the reader stop says more than that it did
	}
	cancel(nil)
	beats.Wait()
	if c.Request.Context().Err() != nil && !errors.Is(err, errDraining) {
		return // the client went, as clients do
	}
	if err == nil {
		err = errDraining // tails do not end by themselves
	}
	p, _ := problemOf(err, requestID(c))
	a.fail(c, err)
	if t.problem(p) != nil {
		cut()
	}
}

func tailRequest(c *gin.Context, params rest.TailRowsParams) (format string, q reader.Request, asText bool, err error) {
	var asked string
	if params.Format != nil {
		asked = string(*params.Format)
	}
	if format, err = negotiate(c, asked, formatNDJSON, formatSSE); err != nil {
		return "", q, false, err
	}
	if q, asText, err = scanRequest(params.Columns, params.Where, params.Consistency, params.System, (*string)(params.Numbers)); err != nil {
		return "", q, false, err
	}
	if params.Cursors != nil && !params.Cursors.Valid() {
		return "", q, false, invalid("cursors %.40q: want none or line", *params.Cursors)
	}
	from := "latest"
	switch {
	case params.LastEventID != nil && *params.LastEventID != "":
		from = *params.LastEventID
	case params.From != nil:
		from = *params.From
	}
	switch from {
	case "latest":
		q.From.Latest = true
	case "earliest":
	default:
		cursor, err := reader.ParseCursor(from)
		if err != nil {
			return "", q, false, err
		}
		q.From.Cursor = &cursor
	}
	return format, q, asText, nil
}

// tail writes a held-open answer. The rows and the heartbeats take turns.
type tail struct {
	rows  *jsonRows
	sse   bool
	marks bool // cursors and checkpoints are wanted
	every time.Duration

	mu   sync.Mutex
	out  *streamWriter
	last time.Time // of the last flush
}

// heartbeats shows a silent connection that it lives. A write that fails, or a
// server that shuts down, cancels the read.
func (t *tail) heartbeats(ctx context.Context, cancel context.CancelCauseFunc, draining <-chan struct{}) {
	tick := time.NewTicker(t.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-draining:
			cancel(errDraining)
			return
		case <-tick.C:
		}
		if err := t.beat(); err != nil {
			cancel(err)
			return
		}
	}
}

func (t *tail) beat() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.last) < t.every/2 {
		return nil
	}
	mark := "\n"
	if t.sse {
		mark = ": heartbeat\n\n"
	}
	return t.send(mark)
}

// send writes text and flushes. mu is held.
func (t *tail) send(text string) error {
	if _, err := t.out.Write([]byte(text)); err != nil {
		return err
	}
	t.last = time.Now()
	return t.out.flush()
}

// follow writes batches until the read ends, or the client does.
func (t *tail) follow(result *reader.Result) error {
	t.mu.Lock()
	err := t.send("") // the header, so that the client knows it is on
	t.mu.Unlock()
	if err != nil {
		return err
	}
	for b, err := range result.Batches {
		if err != nil {
			return err
		}
		if err := t.batch(b); err != nil {
			return err
		}
	}
	return nil
}

func (t *tail) batch(b reader.Batch) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b.Rows != nil {
		if err := t.writeRows(b); err != nil {
			return err
		}
	}
	return t.send(t.mark(b))
}

func (t *tail) writeRows(b reader.Batch) error {
	if t.sse {
		// Inside an epoch there is no cursor to resume from.
		head := "event: rows\n"
		if b.Epoch == 0 {
			head += "id: " + b.Next.String() + "\n"
		}
		if _, err := t.out.Write([]byte(head)); err != nil {
			return err
		}
	}
	err := t.rows.each(b.Rows, func(row []byte) error {
		if t.sse {
			if _, err := t.out.Write([]byte("data: ")); err != nil {
				return err
			}
		}
		_, err := t.out.Write(append(row, '\n'))
		return err
	})
	if err == nil && t.sse {
		_, err = t.out.Write([]byte{'\n'})
	}
	return err
}

// mark is what follows the rows of b: the end of an epoch, or the cursor where
// the rows do not carry it themselves.
func (t *tail) mark(b reader.Batch) string {
	if !t.marks {
		return ""
	}
	switch cursor := b.Next.String(); {
	case b.EpochEnd && t.sse:
		return fmt.Sprintf("event: checkpoint\nid: %s\ndata: {\"checkpoint\":%d,\"cursor\":%q}\n\n", cursor, b.Epoch, cursor)
	case b.EpochEnd:
		return fmt.Sprintf("{\"_thermocline\":\"checkpoint\",\"checkpoint\":%d,\"cursor\":%q}\n", b.Epoch, cursor)
	case b.Epoch != 0, t.sse && b.Rows != nil:
		return ""
	case t.sse:
		return fmt.Sprintf("event: cursor\nid: %s\ndata: {\"cursor\":%q}\n\n", cursor, cursor)
	default:
		return fmt.Sprintf("{\"_thermocline\":\"cursor\",\"cursor\":%q}\n", cursor)
	}
}

// problem writes why the answer ends.
func (t *tail) problem(p rest.Problem) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sse {
		return t.send("event: problem\ndata: " + string(text) + "\n\n")
	}
	return t.send(`{"_thermocline":"error","problem":` + string(text) + "}\n")
}
