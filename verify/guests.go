package verify

import (
	"fmt"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// guestCheck follows the rows of other views that a table holds: it began with
// them, or they were merged into it. None may come twice. Nothing says which there
// must be.
type guestCheck struct {
	views map[record.ViewNumber]*rowCheck
	// full: they are too scattered to be remembered, so that doubles are no longer
	// found.
	full bool
}

// guest checks a row that is not of the view; f is its file.
func (c *viewCheck) guest(f *coldFile, v record.ViewNumber, p record.Partition, o record.Offset) {
	place := f.info.Path
	// Files that we wrote hold rows of one view, and their names say which.
	if n, ok := dataset.ParseFileName(place); ok && n.View != 0 && n.View != v {
		c.r.row(WrongView, place, v, p, o, fmt.Sprintf("the file's name says view %d", n.View))
		return
	}
	if v < 0 || p < 0 || p >= record.MaxPartitions || o < 0 {
		c.r.row(Bounds, place, v, p, o, "no row has such a place")
		return
	}
	if c.guests.full {
		return
	}
	rows := c.guests.views[v]
	if rows == nil {
		if c.guests.views == nil {
			c.guests.views = map[record.ViewNumber]*rowCheck{}
		}
		rows = newRowCheck(c.r, v, nil)
		c.guests.views[v] = rows
	}
	part := rows.part(p)
	rows.place = place
	switch {
	case o >= part.next:
		if o > part.next && rows.open(part, record.Range{Start: part.next, End: o}) != nil {
			c.guests = guestCheck{full: true}
			return
		}
		part.next = o + 1
	case !rows.fill(part, o):
		c.r.row(Duplicate, place, v, p, o, fmt.Sprintf("a row of view %d with offset %v came before", v, o))
	}
}

// removed excuses rows that are missing where other engines, or merges of what they
// did, have removed as many or more. A history that has expired does not tell.
func (c *viewCheck) removed() {
	missing := c.rows.missing()
	if missing == 0 {
		return
	}
	if by := c.pin.table.RemovedByEngines(); missing <= by {
		c.r.add(Finding{Code: Gap, Severity: Notice, Place: c.head(), View: c.view.Number,
			Detail: fmt.Sprintf("%d archived rows are no longer there; other engines have removed %d rows", missing, by),
			Remedy: "nothing, if that was meant; otherwise roll the dataset back"})
		c.rows.excuseAll(c.view.archived)
	}
}

// missing counts the rows in gaps that are not excused.
func (c *rowCheck) missing() int64 {
	n := int64(0)
	for i := range c.parts {
		part := &c.parts[i]
		for _, g := range part.gaps {
			for _, left := range without(g.Range, sorted(part.excused)) {
				n += left.Len()
			}
		}
	}
	return n
}
