package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/api/client"
)

// publisher sends batches with the numbers of one producer, so that the server
// appends each once, however often it is sent.
type publisher struct {
	a              *app
	remote         *client.Client
	stream, branch string
	producer       string
	skipBad        bool
	ignoreUnknown  bool
	timeout        time.Duration // give up a request after this long
	retries        int
	onRetry        func(err error)
}

// retry repeats op until it succeeds, fails for good, or timeout has passed.
func (p *publisher) retry(ctx context.Context, timeout time.Duration, op func(context.Context) error) error {
	var pause backoff
	deadline := time.Now().Add(timeout)
	for {
		attempt, cancel := context.WithDeadline(ctx, deadline)
		err := op(attempt)
		late := attempt.Err() != nil
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return errInterrupted
		}
		if !late && !retryable(err) {
			return err
		}
		d := pause.pause(err)
		if late || time.Now().Add(d).After(deadline) {
			return fmt.Errorf("no progress for %v: %w", timeout, err)
		}
		p.retries++
		p.onRetry(err)
		if sleep(ctx, d) != nil {
			return errInterrupted
		}
	}
}

// send publishes one batch under a sequence.
func (p *publisher) send(ctx context.Context, b batch, sequence int64) (client.PublishResult, error) {
	params := client.PublishRowsParams{ProducerID: &p.producer, ProducerSequence: &sequence}
	if p.skipBad {
		skip := client.PublishRowsParamsOnErrorSkip
		params.OnError = &skip
	}
	if p.ignoreUnknown {
		ignore := client.PublishRowsParamsUnknownFieldsIgnore
		params.UnknownFields = &ignore
	}
	var result client.PublishResult
	err := p.retry(ctx, p.timeout, func(ctx context.Context) error {
		resp, err := p.remote.PublishRowsWithBody(ctx, p.stream, p.branch, &params, b.contentType, bytes.NewReader(b.body))
		return p.a.answer(resp, err, &result)
	})
	return result, err
}

// last returns the newest request of the producer, nil if the server does not
// remember any.
func (p *publisher) last(ctx context.Context) (*client.Producer, error) {
	var out client.Producer
	err := p.retry(ctx, p.timeout, func(ctx context.Context) error {
		resp, err := p.remote.GetProducer(ctx, p.stream, p.branch, p.producer)
		return p.a.answer(resp, err, &out)
	})
	var no *problem
	if errors.As(err, &no) && no.Status == 404 {
		return nil, nil
	}
	return &out, err
}

// schema returns the schema of the branch. It is the first call, so that a
// wrong address or name is known at once.
func (p *publisher) schema(ctx context.Context) (client.SchemaVersion, error) {
	var v client.SchemaVersion
	err := p.retry(ctx, min(p.timeout, firstContact), func(ctx context.Context) error {
		resp, err := p.remote.GetSchema(ctx, p.stream, p.branch)
		return p.a.answer(resp, err, &v)
	})
	return v, err
}

// firstContact is how long the first call is tried: a server that was never
// there is more likely a wrong address than one that restarts.
const firstContact = 10 * time.Second
