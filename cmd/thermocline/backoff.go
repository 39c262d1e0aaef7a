package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// backoff is the pauses between attempts: they double from 100 ms to 5 s, are
// spread so that many clients do not come back at once, and never shorter than
// the server asked for.
type backoff struct{ next time.Duration }

const (
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
)

func (b *backoff) pause(err error) time.Duration {
	b.next = min(max(2*b.next, firstPause), maxPause)
	d := b.next/2 + rand.N(b.next/2)
	var p *problem
	if errors.As(err, &p) {
		d = max(d, min(p.retryAfter, time.Minute))
	}
	return d
}

func (b *backoff) reset() { b.next = 0 }

// sleep waits, or returns early with ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
