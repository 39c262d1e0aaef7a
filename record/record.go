// Package record is the vocabulary that every other package speaks: offsets,
// partitions and views, the rows of an append, the record batch they are
// stored in, and the few errors that cross package borders.
//
// It knows no schema (a row is two byte strings here), no storage and no
// network, and imports nothing of this module.
package record

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// Offset is the position of a row in one partition of one view: dense,
// starting at 0, assigned at append, never reused.
type Offset int64

func (o Offset) String() string { return strconv.FormatInt(int64(o), 10) }

// Partition is the number of a shard of a view, from 0.
type Partition int32

func (p Partition) String() string { return strconv.FormatInt(int64(p), 10) }

// ViewID identifies one generation of one branch's log within the whole
// cluster. It is allocated by the catalog, starts at 1 and is never reused.
// (The number in the system column _view is another one: ViewNumber.)
type ViewID int64

func (v ViewID) String() string { return "v" + strconv.FormatInt(int64(v), 10) }

// ViewNumber is the number of a view within its stream, over all branches,
// from 1. It is stored with every archived row as _view, so that
// (ViewNumber, Partition, Offset) stays the identity of a row after a merge.
type ViewNumber int32

// Range is the half-open interval [Start, End) of one partition's offsets.
type Range struct {
	Start Offset `json:"start"`
	End   Offset `json:"end"`
}

// Len is the number of offsets in r; it is 0 for an empty or inverted range.
func (r Range) Len() int64 { return max(0, int64(r.End-r.Start)) }

func (r Range) String() string { return fmt.Sprintf("[%d,%d)", r.Start, r.End) }

// Offsets is one offset per partition, indexed by Partition: a cut through a
// view. Partitions beyond its length stand at 0, so that a cut taken before
// partitions were added stays valid. Treat a shared Offsets as immutable.
type Offsets []Offset

// At returns the offset of p, 0 where the cut is older than the partition.
func (o Offsets) At(p Partition) Offset {
	if int(p) < len(o) {
		return o[p]
	}
	return 0
}

// With returns a copy in which p stands at off, grown as needed.
func (o Offsets) With(p Partition, off Offset) Offsets {
	c := make(Offsets, max(len(o), int(p)+1))
	copy(c, o)
	c[p] = off
	return c
}

// Clone returns a copy that shares nothing with o.
func (o Offsets) Clone() Offsets { return slices.Clone(o) }

// Equal tells whether both cuts are the same; trailing zeros do not count.
func (o Offsets) Equal(b Offsets) bool { return o.Covers(b) && b.Covers(o) }

// Covers tells whether o stands at or beyond b in every partition.
func (o Offsets) Covers(b Offsets) bool {
	for p := range max(len(o), len(b)) {
		if o.At(Partition(p)) < b.At(Partition(p)) {
			return false
		}
	}
	return true
}

// RowsSince counts the rows in [from, o); partitions where o is behind from
// count nothing.
func (o Offsets) RowsSince(from Offsets) int64 {
	var n int64
	for p := range max(len(o), len(from)) {
		n += max(0, int64(o.At(Partition(p))-from.At(Partition(p))))
	}
	return n
}

// MarshalJSON writes the form used in snapshot summaries and REST answers:
// an object from partition number to offset, {"0":17,"1":4}.
func (o Offsets) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for p, off := range o {
		if p > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = strconv.AppendInt(b, int64(p), 10)
		b = append(b, `":`...)
		b = strconv.AppendInt(b, int64(off), 10)
	}
	return append(b, '}'), nil
}

// MaxPartitions bounds the partitions of a view and so the size of a cut
// that is read from outside.
const MaxPartitions = 1024

// UnmarshalJSON reads what MarshalJSON wrote. Partitions that are missing
// stand at 0; numbers outside [0, MaxPartitions) and negative offsets are
// errors.
func (o *Offsets) UnmarshalJSON(b []byte) error {
	var m map[string]int64
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("offsets: %w", err)
	}
	partitions := 0
	for k, v := range m {
		p, err := strconv.ParseInt(k, 10, 32)
		if err != nil || p < 0 || p >= MaxPartitions || strconv.FormatInt(p, 10) != k {
			return fmt.Errorf("offsets: partition %q is not a number from 0 to %d", k, MaxPartitions-1)
		}
		if v < 0 {
			return fmt.Errorf("offsets: partition %s has the negative offset %d", k, v)
		}
		partitions = max(partitions, int(p)+1)
	}
	out := make(Offsets, partitions)
	for k, v := range m {
		p, _ := strconv.Atoi(k) // looked at above
		out[p] = Offset(v)
	}
	*o = out
	return nil
}
