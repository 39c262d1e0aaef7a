package reader

import (
	"fmt"
	"math"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// partitions is the part of a view that a read is about. Nil is all of it, also
// what comes to it later. A read of some is a read of all in which the others are
// empty: see of.
type partitions struct {
	has []bool
	// wanted, where the others stand beyond any row, for beyond.
	wanted record.Offsets
}

func newPartitions(list []record.Partition) (*partitions, error) {
	if list == nil {
		return nil, nil
	}
	s := &partitions{}
	for _, p := range list {
		if p < 0 || p >= record.MaxPartitions {
			return nil, fmt.Errorf("read: partition %v; partitions are numbered from 0 to %d: %w", p, record.MaxPartitions-1, record.ErrInvalid)
		}
		if int(p) >= len(s.has) {
			s.has = append(s.has, make([]bool, int(p)+1-len(s.has))...)
		}
		if s.has[p] {
			return nil, fmt.Errorf("read: partition %v is named twice: %w", p, record.ErrInvalid)
		}
		s.has[p] = true
	}
	return s, nil
}

// of returns a cut that is end in the partitions of s and 0, the beginning, in the
// others: no position is before it there.
func (s *partitions) of(end record.Offsets) record.Offsets {
	if s == nil {
		return end
	}
	own := make(record.Offsets, len(end))
	for i := range own {
		if i < len(s.has) && s.has[i] {
			own[i] = end[i]
		}
	}
	return own
}

// beyond returns a cut that is pos in the partitions of s and beyond every row in
// the others: what comes there is not waited for. It is good until the next call.
func (s *partitions) beyond(pos record.Offsets) record.Offsets {
	if s == nil {
		return pos
	}
	if s.wanted == nil {
		s.wanted = make(record.Offsets, record.MaxPartitions)
		for i := range s.wanted {
			s.wanted[i] = math.MaxInt64
		}
	}
	for i, own := range s.has {
		if own {
			s.wanted[i] = pos.At(record.Partition(i))
		}
	}
	return s.wanted
}

// guests tells whether guest rows are part of s: they come with partition 0.
func (s *partitions) guests() bool { return s == nil || len(s.has) > 0 && s.has[0] }

// ahead is beyond for guest rows as well.
func (s *partitions) ahead(pos Cursor) Cursor {
	pos.Next = s.beyond(pos.Next)
	if !s.guests() {
		pos.Guests = math.MaxInt64
	}
	return pos
}

// epochs leaves out the checkpoints that bring no row of s behind pos, as if they
// had not been taken: whether a reader is behind or up to date, it gets the same
// epochs.
func (s *partitions) epochs(pos Cursor, checks []catalog.Checkpoint) []catalog.Checkpoint {
	if s == nil {
		return checks
	}
	var own []catalog.Checkpoint
	for _, c := range checks {
		cut := s.of(c.Cut)
		if !pos.Next.Covers(cut) || s.guests() && c.Guests > pos.Guests {
			own = append(own, c)
			pos.Next, pos.Guests = greatest(pos.Next, cut), max(pos.Guests, c.Guests)
		}
	}
	return own
}
