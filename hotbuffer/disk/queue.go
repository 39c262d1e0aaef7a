package disk

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// group is what becomes durable together: the batches of one request, or of
// the requests that lingered together.
type group struct {
	view     *view
	batches  []encoded // batches of one partition stand together
	buf      *[]byte   // what the batches point into; goes back to its pool
	producer *hotbuffer.Producer
	requests int   // what it holds of the queue's bounds
	reserved int64 //

	done      chan struct{}         // closed when the outcome is there:
	ranges    []hotbuffer.PartRange // one per partition, in the order of batches
	duplicate bool
	err       error
}

// encoded is a record batch whose offset and timestamp are not yet set.
type encoded struct {
	partition record.Partition
	data      []byte
	rows      int
	plain     int // size before compression
}

// size is what the group's frames take in a commit.
func (g *group) size() (bytes, frames int) {
	for _, b := range g.batches {
		bytes += tocEntrySize + align(frameHeaderSize+len(b.data), frameAlign)
	}
	if len(g.batches) == 0 {
		return tocEntrySize + frameHeaderSize, 1
	}
	return bytes, len(g.batches)
}

// control is something that the committer does between two commits.
type control struct {
	do   func() error
	done chan struct{}
	err  error
}

// queue is between those who append and the committer. It is bounded: an
// append reserves room before it uses memory, and holds it until its outcome
// is there.
type queue struct {
	maxRequests int
	maxBytes    int64

	mu       sync.Mutex
	filled   *sync.Cond
	requests int
	bytes    int64
	groups   []*group
	controls []*control
	closed   bool
}

func newQueue(maxRequests int, maxBytes int64) *queue {
	q := &queue{maxRequests: maxRequests, maxBytes: maxBytes}
	q.filled = sync.NewCond(&q.mu)
	return q
}

// reserve makes room for a request, at once or not at all. A request alone
// always finds room.
func (q *queue) reserve(bytes int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return fmt.Errorf("the hot log is %w", record.ErrClosed)
	case q.requests >= q.maxRequests:
		return fmt.Errorf("%d requests wait for the hot log, retry later: %w", q.requests, record.ErrBusy)
	case q.requests > 0 && q.bytes+bytes > q.maxBytes:
		return fmt.Errorf("%d bytes wait for the hot log, retry later: %w", q.bytes, record.ErrBusy)
	}
	q.requests++
	q.bytes += bytes
	return nil
}

func (q *queue) unreserve(requests int, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.requests -= requests
	q.bytes -= bytes
}

// push queues groups, in order and next to each other. What they hold goes to
// the committer, unless the queue is closed.
func (q *queue) push(groups ...*group) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return fmt.Errorf("the hot log is %w", record.ErrClosed)
	}
	q.groups = append(q.groups, groups...)
	q.filled.Signal()
	return nil
}

func (q *queue) pushControl(c *control) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return fmt.Errorf("the hot log is %w", record.ErrClosed)
	}
	q.controls = append(q.controls, c)
	q.filled.Signal()
	return nil
}

// take waits for work and returns all controls, and groups up to about
// maxBytes; more is false when the queue is closed and this is the last of it.
func (q *queue) take(maxBytes int) (groups []*group, controls []*control, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.groups) == 0 && len(q.controls) == 0 && !q.closed {
		q.filled.Wait()
	}
	controls, q.controls = q.controls, nil
	n, bytes := 0, 0
	for n < len(q.groups) && bytes < maxBytes {
		b, _ := q.groups[n].size()
		bytes += b
		n++
	}
	groups = slices.Clone(q.groups[:n])
	q.groups = slices.Delete(q.groups, 0, n)
	return groups, controls, !q.closed || len(q.groups) > 0
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.filled.Signal()
}

// between has the committer do something between two commits.
func (l *Log) between(ctx context.Context, do func() error) error {
	c := &control{do: do, done: make(chan struct{})}
	if err := l.queue.pushControl(c); err != nil {
		return err
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}
