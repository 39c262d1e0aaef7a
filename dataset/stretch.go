package dataset

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
)

// Stretch is a part of a view that no snapshot ends with: its rows from From on and
// below Next, as a snapshot has them that holds more.
type Stretch struct {
	Snapshot int64
	View     record.ViewNumber
	From     record.Offsets
	Next     record.Offsets
}

// rows are the identities of the stretch.
func (s *Stretch) rows() rowSet {
	var ranges []rowRange
	for i, end := range s.Next {
		p := record.Partition(i)
		if from := s.From.At(p); from < end {
			ranges = append(ranges, rowRange{s.View, p, record.Range{Start: from, End: end}})
		}
	}
	return newRowSet(ranges)
}

// stretch plans what a table at base gains by a stretch: the files that came up to
// the stretch's snapshot, with deletes for their rows outside of it. Rows that an
// engine deleted meanwhile, and those that it brought itself, stay out.
func (t *Table) stretch(ctx context.Context, base *table.Snapshot, s *Stretch) (*edit, error) {
	to := t.meta.SnapshotByID(s.Snapshot)
	if to == nil {
		return nil, fmt.Errorf("snapshot %d is not in its history, or has expired: %w", s.Snapshot, record.ErrNotFound)
	}
	came, err := t.d.differ(ctx, base, to)
	if err != nil {
		return nil, err
	}
	gone, err := deletedRows(ctx, t, to)
	if err != nil {
		return nil, err
	}
	want, ids := s.rows(), newIdentities(t)
	e := &edit{operation: string(table.OpAppend), remove: map[string]bool{}, deleted: map[string]*positions{}}
	for _, entry := range inSequence(came.gained) {
		a, rows, err := t.part(ctx, ids, entry, want, gone.of(entry))
		if err != nil {
			return nil, err
		}
		if rows == 0 {
			continue
		}
		if len(a.gone) > 0 {
			e.operation = string(table.OpOverwrite)
		}
		e.add = append(e.add, a)
	}
	return e, nil
}

func inSequence(files map[string]iceberg.ManifestEntry) []iceberg.ManifestEntry {
	out := make([]iceberg.ManifestEntry, 0, len(files))
	for _, e := range files {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b iceberg.ManifestEntry) int {
		return cmp.Or(cmp.Compare(a.SequenceNum(), b.SequenceNum()), cmp.Compare(a.DataFile().FilePath(), b.DataFile().FilePath()))
	})
	return out
}

// part is a file as an addition of which only the wanted rows are seen, and how
// many these are.
func (t *Table) part(ctx context.Context, ids *identities, e iceberg.ManifestEntry, want rowSet, gone []int64) (a addition, rows int64, err error) {
	f := e.DataFile()
	if !published(f) && !identified(f) || !want.meets(fileInfo(f, 0, 0).system) {
		return a, 0, nil
	}
	spec, err := specByID(t.meta, f.SpecID())
	if err != nil {
		return a, 0, err
	}
	a = addition{file: f, spec: spec}
	if published(f) {
		all, err := ids.of(ctx, e, gone)
		if err != nil {
			return a, 0, err
		}
		if rows = all.and(want).rows(); rows == 0 || rows == f.Count() {
			return a, rows, nil
		}
	}
	keep, err := ids.positions(ctx, e, want)
	if err != nil {
		return a, 0, err
	}
	keep = without(keep, gone)
	if f.Count()-int64(len(keep)) > maxDeletes {
		return a, 0, fmt.Errorf("%s: more than %d of its rows are behind the position; begin at a snapshot: %w", f.FilePath(), maxDeletes, record.ErrTooLarge)
	}
	a.gone = complement(keep, f.Count())
	return a, int64(len(keep)), nil
}
