package main

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/thermocline/thermocline/api/client"
)

// commitPause is the least time between two commits of a session: rows may come
// in many small groups, and only the newest position counts.
const commitPause = 100 * time.Millisecond

// committer commits the newest position of a session, beside the reading of it.
type committer struct {
	mu      sync.Mutex
	pending *client.CommitSubscriber

	wake chan struct{} // one token: pending is set, or the end has come
	quit chan struct{} // closed by finish
	over chan struct{} // closed when the loop has ended
}

// begin starts the work for one connection; a commit that can never succeed
// hangs it up.
func (c *committer) begin(conn context.Context, t *subscription, hangUp context.CancelCauseFunc) {
	c.pending = nil
	c.wake, c.quit, c.over = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(c.over)
		if err := c.run(conn, t); err != nil {
			hangUp(err)
		}
	}()
}

// add takes over a position. It replaces an earlier one that was not committed
// yet.
func (c *committer) add(p client.CommitSubscriber) {
	c.mu.Lock()
	c.pending = &p
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *committer) take() *client.CommitSubscriber {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pending
	c.pending = nil
	return p
}

// finish commits what is pending, for at most 5 s; nothing may be added any
// more.
func (c *committer) finish() {
	close(c.quit)
	select {
	case <-c.over:
	case <-time.After(5 * time.Second):
	}
}

// end waits for the loop, whose connection has ended.
func (c *committer) end() { <-c.over }

func (c *committer) run(conn context.Context, t *subscription) error {
	var pause backoff
	for last := false; !last; {
		select {
		case <-conn.Done():
			return nil // the session ends with its connection
		case <-c.quit:
			last = true
		case <-c.wake:
		}
		p := c.take()
		if p == nil {
			continue
		}
		resp, err := t.remote.CommitSubscriber(conn, t.stream, t.branch, t.group, *p)
		err = t.a.answer(resp, err, nil)
		wait := commitPause
		switch no := (*problem)(nil); {
		case err == nil:
			pause.reset()
		case errors.As(err, &no) && no.Status == http.StatusConflict:
			// Fenced. Either the session is over, and its read says why, or a
			// partition has moved on, and the next position is without it.
		case retryable(err):
			c.again(p)
			wait = pause.pause(err)
		case conn.Err() != nil:
			return nil
		default:
			return err
		}
		select {
		case <-conn.Done():
			return nil
		case <-c.quit: // the next round is the last
		case <-time.After(wait):
		}
	}
	return nil
}

// again puts a position back that could not be committed, unless there is a
// newer one.
func (c *committer) again(p *client.CommitSubscriber) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending == nil {
		c.pending = p
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
