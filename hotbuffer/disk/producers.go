package disk

import (
	"cmp"
	"container/list"
	"fmt"
	"slices"
	"time"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// producers remembers the last outcomes of every producer, so that a retry
// gets the first answer. It belongs to the committer; nothing in it is visible
// to a client before the commit that holds it is durable.
//
// An idle producer is forgotten after hotbuffer.ProducerRetention; before
// that only when there are more than limit offset ranges to remember, the
// longest idle first.
type producers struct {
	limit int

	byKey  map[producerKey]*list.Element // of *producer
	idle   *list.List                    // longest idle first
	ranges int
	// evicted counts producers forgotten before their time.
	evicted int64
}

type producerKey struct {
	view record.ViewID
	id   hotbuffer.ProducerID
	once bool
}

type producer struct {
	producerKey
	epoch    int32
	lastUsed int64 // ms since 1970
	outcomes []outcome
}

// outcome is what a request got. The outcomes of a producer have consecutive
// sequences.
type outcome struct {
	sequence int64
	ranges   []hotbuffer.PartRange // by partition
}

// weight is what an outcome counts for in the limit.
func (o outcome) weight() int { return 1 + len(o.ranges) }

func newProducers(limit int) *producers {
	return &producers{limit: limit, byKey: make(map[producerKey]*list.Element), idle: list.New()}
}

func keyOf(v record.ViewID, p *hotbuffer.Producer) producerKey { return producerKey{v, p.ID, p.Once} }

// check tells what to do with a request: append it (nil, nil), answer with an
// earlier outcome, or refuse it.
func (s *producers) check(v record.ViewID, p *hotbuffer.Producer) (*outcome, error) {
	e := s.byKey[keyOf(v, p)]
	if e == nil {
		return nil, nil
	}
	known := e.Value.(*producer)
	switch {
	case p.Once:
		return &known.outcomes[0], nil
	case p.Epoch < known.epoch:
		return nil, fmt.Errorf("append to %v: producer epoch %d, but epoch %d has appended since: %w", v, p.Epoch, known.epoch, record.ErrFenced)
	case p.Epoch > known.epoch:
		return nil, nil
	}
	first, last := known.outcomes[0].sequence, known.outcomes[len(known.outcomes)-1].sequence
	switch {
	case p.Sequence == last+1:
		return nil, nil
	case first <= p.Sequence && p.Sequence <= last:
		return &known.outcomes[p.Sequence-first], nil
	}
	return nil, fmt.Errorf("append to %v: producer sequence %d, expected %d (remembered: %d to %d); begin a new producer epoch to go on elsewhere: %w",
		v, p.Sequence, last+1, first, last, record.ErrOutOfSequence)
}

// apply remembers the outcome of a request that check let pass.
func (s *producers) apply(v record.ViewID, p *hotbuffer.Producer, ranges []hotbuffer.PartRange, now int64) {
	o := outcome{sequence: p.Sequence, ranges: slices.SortedFunc(slices.Values(ranges), func(a, b hotbuffer.PartRange) int {
		return cmp.Compare(a.Partition, b.Partition)
	})}
	e := s.byKey[keyOf(v, p)]
	if e == nil {
		e = s.idle.PushBack(&producer{producerKey: keyOf(v, p), epoch: p.Epoch})
		s.byKey[keyOf(v, p)] = e
	}
	known := e.Value.(*producer)
	if p.Epoch > known.epoch {
		s.forgetOutcomes(known, len(known.outcomes))
		known.epoch = p.Epoch
	}
	if n := len(known.outcomes); n > 0 && known.outcomes[n-1].sequence+1 != p.Sequence {
		// Frames between are lost (state.go); what remains must be consecutive.
		s.forgetOutcomes(known, n)
	}
	if len(known.outcomes) == hotbuffer.RememberedSequences {
		s.forgetOutcomes(known, 1)
	}
	known.outcomes = append(known.outcomes, o)
	s.ranges += o.weight()
	known.lastUsed = now
	s.idle.MoveToBack(e)
	s.expire(now)
}

func (s *producers) forgetOutcomes(p *producer, n int) {
	for _, o := range p.outcomes[:n] {
		s.ranges -= o.weight()
	}
	p.outcomes = slices.Delete(p.outcomes, 0, n)
}

// expire forgets producers that were idle for too long or are too many; the
// last one stays.
func (s *producers) expire(now int64) {
	for e := s.idle.Front(); e != nil && s.idle.Len() > 1; e = s.idle.Front() {
		p := e.Value.(*producer)
		old := now-p.lastUsed > int64(hotbuffer.ProducerRetention/time.Millisecond)
		if !old && s.ranges <= s.limit {
			return
		}
		if !old {
			s.evicted++
		}
		s.remove(e)
	}
}

func (s *producers) remove(e *list.Element) {
	p := e.Value.(*producer)
	s.forgetOutcomes(p, len(p.outcomes))
	delete(s.byKey, p.producerKey)
	s.idle.Remove(e)
}

// dropView forgets the producers of a view.
func (s *producers) dropView(v record.ViewID) {
	for e := s.idle.Front(); e != nil; {
		next := e.Next()
		if e.Value.(*producer).view == v {
			s.remove(e)
		}
		e = next
	}
}
