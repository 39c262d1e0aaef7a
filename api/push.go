package api

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

var errDraining = fmt.Errorf("the server is shutting down; come again with the last cursor: %w", record.ErrClosed)

// pushed is a piece of a push read: rows, the mark that counts behind them, or
// both. The rows belong to whoever made them.
type pushed struct {
	rows arrow.RecordBatch
	mark *mark
}

// mark is what stands between the rows of a push read. Its JSON is part of the
// contract.
type mark struct {
	Kind       string        `json:"_thermocline,omitempty"`
	Session    int64         `json:"session,omitempty"`
	Member     string        `json:"member,omitempty"`
	Partitions *[]int32      `json:"partitions,omitempty"` // set, if only to an empty list, in an assignment
	Checkpoint int64         `json:"checkpoint,omitempty"`
	Cursor     string        `json:"cursor,omitempty"`
	Problem    *rest.Problem `json:"problem,omitempty"`
}

// The kinds of marks.
const (
	markAssignment = "assignment"
	markCursor     = "cursor"
	markCheckpoint = "checkpoint"
	markError      = "error"
)

// markOf is the mark behind a batch: where it ends, or nil inside of an epoch,
// which has no position to go on from.
func markOf(b reader.Batch) *mark {
	switch {
	case b.EpochEnd:
		return &mark{Kind: markCheckpoint, Checkpoint: b.Epoch, Cursor: b.Next.String()}
	case b.Epoch != 0:
		return nil
	}
	return &mark{Kind: markCursor, Cursor: b.Next.String()}
}

// push answers with a push read that begin opens: its pieces as they come,
// heartbeats while none does, and at last the problem that ended it. The context
// of begin ends with the client, with a write that fails, and with a.Drain.
func (a *API) push(c *gin.Context, format string, asText bool, begin func(context.Context) (*schema.Schema, iter.Seq2[pushed, error], error)) {
	ctx, cancel := context.WithCancelCause(c.Request.Context())
	defer cancel(nil)
	rows, pieces, err := begin(ctx)
	if err != nil {
		a.fail(c, err)
		return
	}
	w := &pushWriter{out: a.streamWriter(c), every: a.o.Heartbeat}
	if w.form, err = newPushForm(format, w.out, rows, asText); err != nil {
		a.fail(c, err)
		return
	}
	c.Header("Content-Type", outputTypes[format])
	c.Header("Cache-Control", "no-store")
	c.Header("X-Accel-Buffering", "no")
	c.Writer.WriteHeader(http.StatusOK)

	var beats sync.WaitGroup
	defer beats.Wait()
	defer cancel(nil)
	beats.Go(func() { w.heartbeats(ctx, cancel, a.draining) })
	err = w.all(pieces)
	if cause := context.Cause(ctx); cause != nil {
		err = cause // what made the read stop says more than that it did
	}
	cancel(nil)
	beats.Wait()
	if c.Request.Context().Err() != nil && !errors.Is(err, errDraining) {
		return // the client went, as clients do
	}
	if err == nil {
		err = errDraining // push reads do not end by themselves
	}
	p, _ := problemOf(err, requestID(c))
	a.fail(c, err)
	if w.end(p) != nil {
		cut()
	}
}

// pushWriter writes a held-open answer. The pieces and the heartbeats take
// turns.
type pushWriter struct {
	every time.Duration

	mu   sync.Mutex
	form pushForm
	out  *streamWriter
	last time.Time // of the last flush
}

// heartbeats shows a silent connection that it lives. A write that fails, or a
// server that shuts down, cancels the read.
func (w *pushWriter) heartbeats(ctx context.Context, cancel context.CancelCauseFunc, draining <-chan struct{}) {
	tick := time.NewTicker(w.every)
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
		if err := w.beat(); err != nil {
			cancel(err)
			return
		}
	}
}

func (w *pushWriter) beat() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.last) < w.every/2 {
		return nil
	}
	return w.send(pushed{})
}

// send writes a piece and flushes. mu is held.
func (w *pushWriter) send(p pushed) error {
	if err := w.form.write(p); err != nil {
		return err
	}
	w.last = time.Now()
	return w.out.flush()
}

// all writes pieces until the read ends, or the client does.
func (w *pushWriter) all(pieces iter.Seq2[pushed, error]) error {
	w.mu.Lock()
	w.last = time.Now()
	err := w.out.flush() // the header, so that the client knows it is on
	w.mu.Unlock()
	if err != nil {
		return err
	}
	for p, err := range pieces {
		if err != nil {
			return err
		}
		if p == (pushed{}) {
			continue // it would be a heartbeat
		}
		w.mu.Lock()
		err = w.send(p)
		w.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// end writes why the answer ends, and what ends its format.
func (w *pushWriter) end(p rest.Problem) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.form.write(pushed{mark: &mark{Kind: markError, Problem: &p}})
	if err == nil {
		err = w.form.close()
	}
	if err != nil {
		return err
	}
	return w.out.flush()
}
