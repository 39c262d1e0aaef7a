package dataset

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/thermocline/thermocline/record"
)

// rowRange is an interval of the identities that published rows have.
type rowRange struct {
	view      record.ViewNumber
	partition record.Partition
	record.Range
}

// rowSet is a set of identities: ranges in order, none empty, none touching the
// next. Archives hold intervals of offsets, so that a set of millions of rows
// is a few ranges. Immutable.
type rowSet []rowRange

// maxRanges bounds a rowSet: about 24 bytes each.
const maxRanges = 4 << 20

func compareRanges(a, b rowRange) int {
	return cmp.Or(cmp.Compare(a.view, b.view), cmp.Compare(a.partition, b.partition), cmp.Compare(a.Start, b.Start))
}

func (a rowRange) sameLog(b rowRange) bool { return a.view == b.view && a.partition == b.partition }

// newRowSet takes over ranges in any order.
func newRowSet(ranges []rowRange) rowSet {
	slices.SortFunc(ranges, compareRanges)
	out := ranges[:0]
	for _, r := range ranges {
		switch last := len(out) - 1; {
		case r.Len() == 0:
		case last >= 0 && out[last].sameLog(r) && r.Start <= out[last].End:
			out[last].End = max(out[last].End, r.End)
		default:
			out = append(out, r)
		}
	}
	return rowSet(out)
}

// rows counts the identities.
func (s rowSet) rows() (n int64) {
	for _, r := range s {
		n += r.Len()
	}
	return n
}

// plus is the union.
func (s rowSet) plus(o rowSet) rowSet {
	if len(s) == 0 {
		return o
	}
	if len(o) == 0 {
		return s
	}
	return newRowSet(slices.Concat(s, o))
}

// minus leaves out what o has.
func (s rowSet) minus(o rowSet) rowSet { return s.cut(o, false) }

// and keeps what o has too.
func (s rowSet) and(o rowSet) rowSet { return s.cut(o, true) }

func (s rowSet) cut(o rowSet, inside bool) rowSet {
	if len(s) == 0 || len(o) == 0 {
		if inside {
			return nil
		}
		return s
	}
	var out rowSet
	put := func(r rowRange, from, to record.Offset) {
		if r.Start, r.End = from, to; r.Len() > 0 {
			out = append(out, r)
		}
	}
	for _, r := range s {
		at := r.Start
		// The first range of o that may meet r: its log, and it ends behind r's start.
		i, _ := slices.BinarySearchFunc(o, r, func(x, r rowRange) int {
			return cmp.Or(cmp.Compare(x.view, r.view), cmp.Compare(x.partition, r.partition), cmp.Compare(x.End, r.Start+1))
		})
		for ; i < len(o) && o[i].sameLog(r) && o[i].Start < r.End; i++ {
			from, to := max(o[i].Start, r.Start), min(o[i].End, r.End)
			if inside {
				put(r, from, to)
			} else {
				put(r, at, from)
			}
			at = to
		}
		if !inside {
			put(r, at, r.End)
		}
	}
	return out
}

// has tells whether the set holds one identity.
func (s rowSet) has(view record.ViewNumber, p record.Partition, o record.Offset) bool {
	r := rowRange{view, p, record.Range{Start: o, End: o + 1}}
	i, found := slices.BinarySearchFunc(s, r, compareRanges)
	return found || i > 0 && s[i-1].sameLog(r) && o < s[i-1].End
}

// meets tells of a file's bounds, of one view, whether the set may hold rows of it.
func (s rowSet) meets(r systemRange) bool {
	if !r.known || r.partLo < 0 || r.partHi >= record.MaxPartitions {
		return true
	}
	for p := r.partLo; p <= r.partHi; p++ {
		file := rowSet{{record.ViewNumber(r.viewLo), record.Partition(p), record.Range{Start: record.Offset(r.offsetLo), End: record.Offset(r.offsetHi) + 1}}}
		if len(file.and(s)) > 0 {
			return true
		}
	}
	return false
}

// rowSetBuilder collects identities one by one; those that follow each other
// cost nothing.
type rowSetBuilder struct {
	open   map[[2]int32]int // view and partition → the index of their last range
	ranges []rowRange
}

func (b *rowSetBuilder) add(view record.ViewNumber, p record.Partition, o record.Offset) error {
	if b.open == nil {
		b.open = map[[2]int32]int{}
	}
	k := [2]int32{int32(view), int32(p)}
	if i, ok := b.open[k]; ok && b.ranges[i].End == o {
		b.ranges[i].End++
		return nil
	}
	if len(b.ranges) == maxRanges {
		return fmt.Errorf("rows that do not follow each other, more than %d times; compact the branch first: %w", maxRanges, record.ErrTooLarge)
	}
	b.open[k] = len(b.ranges)
	b.ranges = append(b.ranges, rowRange{view, p, record.Range{Start: o, End: o + 1}})
	return nil
}

func (b *rowSetBuilder) set() rowSet { return newRowSet(b.ranges) }

// extents are, per view, the offsets up to which its rows have come into a
// table: each archive and each merge brings a beginning of a view's log.
type extents map[record.ViewNumber]record.Offsets

// raise makes sure that the extents reach to offsets.
func (e extents) raise(view record.ViewNumber, o record.Offsets) {
	have := e[view]
	if have.Covers(o) {
		return
	}
	grown := make(record.Offsets, max(len(have), len(o)))
	for p := range grown {
		grown[p] = max(have.At(record.Partition(p)), o.At(record.Partition(p)))
	}
	e[view] = grown
}

func (e extents) raiseAll(o extents) {
	for v, offsets := range o {
		e.raise(v, offsets)
	}
}

// set is the extents as identities.
func (e extents) set() rowSet {
	var out []rowRange
	for v, offsets := range e {
		for p, o := range offsets {
			out = append(out, rowRange{v, record.Partition(p), record.Range{End: o}})
		}
	}
	return newRowSet(out)
}
