package verify

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/thermocline/thermocline/record"
)

// maxGaps bounds the gaps that are remembered at a time: each takes a few dozen
// bytes, and a sound view has none.
const maxGaps = 1 << 20

// rowCheck follows the rows of a view in the order in which a reader gets them:
// first those of the data files, then the hot ones. Every row is asked three
// things: does it come for the first time, does it come behind the row before in
// the order (timestamp, partition, offset), and on which side of the checkpoints.
type rowCheck struct {
	r      *report
	view   record.ViewNumber
	epochs *epochs
	place  string // where the rows now come from
	parts  []partRows
	gaps   int

	prev rowKey
	any  bool
	// disordered: a row came out of order, so that the checkpoints beside the rows
	// say nothing any more.
	disordered bool
	// merged: files overlap, because other engines have rewritten them. Readers bring
	// their rows into order; here they come file by file.
	merged bool
}

type rowKey struct {
	micros    int64
	partition record.Partition
	offset    record.Offset
}

func (k rowKey) before(o rowKey) bool {
	if k.micros != o.micros {
		return k.micros < o.micros
	}
	if k.partition != o.partition {
		return k.partition < o.partition
	}
	return k.offset < o.offset
}

// partRows is what is known of a partition.
type partRows struct {
	next record.Offset // one behind the largest that came
	gaps []gap         // below next, ascending
	// excused rows are gone for a reason that was told.
	excused []record.Range
}

type gap struct {
	record.Range
	place string
}

func newRowCheck(r *report, v record.ViewNumber, e *epochs) *rowCheck {
	return &rowCheck{r: r, view: v, epochs: e}
}

func (c *rowCheck) part(p record.Partition) *partRows {
	for int(p) >= len(c.parts) {
		c.parts = append(c.parts, partRows{})
	}
	return &c.parts[p]
}

// row takes the next row; false if its offset came before.
func (c *rowCheck) row(p record.Partition, o record.Offset, micros int64) (first bool, err error) {
	part := c.part(p)
	back := false
	switch {
	case o == part.next:
		part.next++
	case o > part.next:
		if err := c.open(part, record.Range{Start: part.next, End: o}); err != nil {
			return false, err
		}
		part.next = o + 1
	case c.fill(part, o):
		back = true
	default:
		c.r.row(Duplicate, c.place, c.view, p, o, fmt.Sprintf("a row with offset %v came before", o))
		return false, nil
	}
	key := rowKey{micros, p, o}
	switch {
	case c.merged:
		if c.any && key.before(c.prev) {
			return true, nil
		}
	case back || c.any && !c.prev.before(key):
		c.r.row(Order, c.place, c.view, p, o, fmt.Sprintf("the row of %s stands behind offset %v of partition %v of %s",
			stamp(micros), c.prev.offset, c.prev.partition, stamp(c.prev.micros)))
		c.disordered = true
	case !c.disordered:
		if err := c.epochs.row(c, p, o, micros); err != nil {
			return false, err
		}
	}
	c.prev, c.any = key, true
	return true, nil
}

// open notes offsets that are missing so far.
func (c *rowCheck) open(part *partRows, r record.Range) error {
	if c.gaps++; c.gaps > maxGaps {
		return fmt.Errorf("%s: view %d has more than %d gaps; look at what was reported and repair that first: %w", c.place, c.view, maxGaps, record.ErrTooLarge)
	}
	part.gaps = append(part.gaps, gap{r, c.place})
	return nil
}

// fill takes an offset out of the gaps; false if it is in none.
func (c *rowCheck) fill(part *partRows, o record.Offset) bool {
	i, _ := slices.BinarySearchFunc(part.gaps, o, func(g gap, o record.Offset) int {
		switch {
		case g.End <= o:
			return -1
		case g.Start > o:
			return 1
		}
		return 0
	})
	if i == len(part.gaps) || o < part.gaps[i].Start {
		return false
	}
	g := &part.gaps[i]
	switch {
	case g.Len() == 1:
		part.gaps = slices.Delete(part.gaps, i, i+1)
		c.gaps--
	case o == g.Start:
		g.Start++
	case o == g.End-1:
		g.End--
	default:
		rest := gap{record.Range{Start: o + 1, End: g.End}, g.place}
		g.End = o
		part.gaps = slices.Insert(part.gaps, i+1, rest)
		c.gaps++
	}
	return true
}

// excuse says that rows may be missing, because why was told already.
func (c *rowCheck) excuse(p record.Partition, r record.Range) {
	part := c.part(p)
	part.excused = append(part.excused, r)
}

// reach says that every row below end should have come by now.
func (c *rowCheck) reach(end record.Offsets) error {
	for i, o := range end {
		part := c.part(record.Partition(i))
		if part.next < o {
			if err := c.open(part, record.Range{Start: part.next, End: o}); err != nil {
				return err
			}
			part.next = o
		}
	}
	return nil
}

// forgive says that as many archived rows may be missing, because other engines have
// removed them; negative: any number.
func (c *rowCheck) forgive(rows int64, archived record.Offsets) {
	missing := int64(0)
	for i := range c.parts {
		part := &c.parts[i]
		slices.SortFunc(part.excused, func(a, b record.Range) int { return int(a.Start - b.Start) })
		for _, g := range part.gaps {
			for _, left := range without(g.Range, part.excused) {
				missing += max(0, int64(min(left.End, archived.At(record.Partition(i)))-left.Start))
			}
		}
	}
	if rows >= 0 && missing > rows {
		return // not only these, and nobody knows which: all are told
	}
	c.excuseAll(archived)
}

// finish tells the gaps that are left.
func (c *rowCheck) finish() {
	c.r.flush()
	for i := range c.parts {
		part := &c.parts[i]
		for _, g := range part.gaps {
			for _, left := range without(g.Range, sorted(part.excused)) {
				c.r.add(Finding{Code: Gap, Place: g.place, Detail: fmt.Sprintf("%d rows that must be here are missing", left.Len())}.at(c.view, record.Partition(i), left))
			}
		}
		part.gaps, part.excused = nil, nil
	}
}

func sorted(all []record.Range) []record.Range {
	slices.SortFunc(all, func(a, b record.Range) int { return cmp.Compare(a.Start, b.Start) })
	return all
}

// without cuts sorted ranges out of r.
func without(r record.Range, cut []record.Range) []record.Range {
	var left []record.Range
	for _, c := range cut {
		if c.End <= r.Start {
			continue
		}
		if c.Start >= r.End {
			break
		}
		if c.Start > r.Start {
			left = append(left, record.Range{Start: r.Start, End: c.Start})
		}
		r.Start = c.End
		if r.Len() == 0 {
			return left
		}
	}
	if r.Len() > 0 {
		left = append(left, r)
	}
	return left
}
