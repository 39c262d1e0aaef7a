package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/verify"
)

// Verifier checks what is stored; *verify.Verifier is one.
type Verifier interface {
	// Branch checks one branch and passes what it finds to emit, the summary last.
	// The first error of emit ends it.
	Branch(ctx context.Context, stream, branch string, q verify.Request, emit func(verify.Event) error) error
	// All checks all branches, and what belongs to none.
	All(ctx context.Context, q verify.Request, emit func(verify.Event) error) error
}

// maxChecks bounds the checks under way: each reads a whole branch from disk.
const maxChecks = 2

// VerifyBranch checks a branch.
func (a *API) VerifyBranch(c *gin.Context, stream, branch string, params rest.VerifyBranchParams) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	a.verify(c, name, params.ProducerColumn, params.SequenceColumn, params.GraceSeconds,
		func(ctx context.Context, q verify.Request, emit func(verify.Event) error) error {
			return a.b.Verifier.Branch(ctx, name, branch, q, emit)
		})
}

// VerifyAll checks everything.
func (a *API) VerifyAll(c *gin.Context, params rest.VerifyAllParams) {
	a.verify(c, "all streams", params.ProducerColumn, params.SequenceColumn, params.GraceSeconds, a.b.Verifier.All)
}

// untilDrained returns a context that ends with ctx and with the server.
func (a *API) untilDrained(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-a.draining:
			cancel(fmt.Errorf("the server is shutting down; try again when it is back: %w", record.ErrClosed))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// verifyLine is a line of the answer.
type verifyLine struct {
	verify.Event
	Problem *rest.Problem `json:"problem,omitempty"`
}

// verify streams a check. What fails before the first line is a problem like any
// other, what fails later the last line.
func (a *API) verify(c *gin.Context, what string, producer, sequence *string, grace *int64,
	check func(context.Context, verify.Request, func(verify.Event) error) error,
) {
	var q verify.Request
	if producer != nil {
		q.ProducerColumn = *producer
	}
	if sequence != nil {
		q.SequenceColumn = *sequence
	}
	if grace != nil {
		if *grace < 1 || *grace > int64(1<<62/time.Second) {
			a.fail(c, invalid("graceSeconds %d: want 1 or more, or none for an hour", *grace))
			return
		}
		q.Grace = time.Duration(*grace) * time.Second
	}
	select {
	case a.checks <- struct{}{}:
		defer func() { <-a.checks }()
	default:
		a.fail(c, fmt.Errorf("verify %s: %d checks are under way already; try again when one has ended: %w", what, maxChecks, record.ErrBusy))
		return
	}
	ctx, cancel := a.untilDrained(c.Request.Context())
	defer cancel()
	out := a.streamWriter(c)
	begun := false
	send := func(line verifyLine) error {
		if !begun {
			begun = true
			c.Header("Content-Type", outputTypes[formatNDJSON])
			c.Header("Cache-Control", "no-store")
			c.Header("X-Accel-Buffering", "no")
			c.Writer.WriteHeader(http.StatusOK)
		}
		text, err := json.Marshal(line)
		if err != nil {
			return err
		}
		if _, err := out.Write(append(text, '\n')); err != nil {
			return err
		}
		return out.flush()
	}
	err := check(ctx, q, func(e verify.Event) error { return send(verifyLine{Event: e}) })
	if err == nil {
		return
	}
	if cause := context.Cause(ctx); cause != nil && c.Request.Context().Err() == nil {
		err = cause
	}
	a.fail(c, err) // the answer, or, too late for that, the log
	if !begun || c.Request.Context().Err() != nil {
		return
	}
	p, _ := problemOf(err, requestID(c))
	if send(verifyLine{Problem: &p}) != nil {
		cut()
	}
}
