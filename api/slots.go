package api

import (
	"fmt"
	"sync"

	"github.com/thermocline/thermocline/record"
)

// slots bounds concurrent work, in all and for each stream: one stream gets
// three quarters, so that whatever its clients do, slow ones above all, others
// are served. It never waits: who does not fit is told to come again.
type slots struct {
	what string // for the error
	most int
	mu   sync.Mutex
	used int
	by   map[string]int // by stream, those that use any
}

func newSlots(what string, most int) *slots {
	return &slots{what: what, most: most, by: map[string]int{}}
}

// share is what one stream may have of most.
func share[T int | int64](most T) T { return most - most/4 }

// enter takes a slot for op on a stream; leave gives it back.
func (s *slots) enter(op, stream string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.used >= s.most:
		return fmt.Errorf("%s %s: %d %s already; try again after a pause: %w", op, stream, s.used, s.what, record.ErrBusy)
	case s.by[stream] >= share(s.most):
		return fmt.Errorf("%s %s: %d %s already for this stream; try again after a pause: %w", op, stream, s.by[stream], s.what, record.ErrBusy)
	}
	s.used++
	s.by[stream]++
	return nil
}

func (s *slots) leave(stream string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	if s.by[stream]--; s.by[stream] == 0 {
		delete(s.by, stream)
	}
}
