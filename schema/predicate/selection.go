package predicate

import (
	"math/bits"
)

// Selection is a set of rows of one batch: the result of Filter. It keeps its
// memory from batch to batch. Not safe for concurrent use.
type Selection struct {
	n       int
	truth   []uint64 // bit i: the predicate is true for row i
	scratch [][]uint64
}

// Len is the number of rows of the batch.
func (s *Selection) Len() int { return s.n }

// Count is the number of selected rows.
func (s *Selection) Count() int {
	n := 0
	for _, w := range s.truth {
		n += bits.OnesCount64(w)
	}
	return n
}

// Has tells whether row i is selected.
func (s *Selection) Has(i int) bool { return s.truth[i>>6]>>(i&63)&1 != 0 }

// Next returns the first selected row from row i on, or -1.
func (s *Selection) Next(i int) int {
	if i >= s.n {
		return -1
	}
	k := i >> 6
	w := s.truth[k] &^ (1<<(i&63) - 1)
	for w == 0 {
		if k++; k == len(s.truth) {
			return -1
		}
		w = s.truth[k]
	}
	return k<<6 + bits.TrailingZeros64(w)
}

// Fill makes s a selection of n rows, those that in tells.
func (s *Selection) Fill(n int, in func(i int) bool) {
	s.reset(n)
	clear(s.truth)
	for i := range n {
		if in(i) {
			s.truth[i>>6] |= 1 << (i & 63)
		}
	}
}

// reset prepares for n rows.
func (s *Selection) reset(n int) {
	s.n = n
	s.truth = sized(s.truth, n)
}

// borrow returns a bitmap for s.n rows, with any content.
func (s *Selection) borrow() []uint64 {
	if k := len(s.scratch) - 1; k >= 0 {
		b := s.scratch[k]
		s.scratch = s.scratch[:k]
		return sized(b, s.n)
	}
	return sized(nil, s.n)
}

func (s *Selection) giveBack(b []uint64) { s.scratch = append(s.scratch, b) }

func sized(b []uint64, n int) []uint64 {
	words := (n + 63) / 64
	if cap(b) < words {
		return make([]uint64, words)
	}
	return b[:words]
}
