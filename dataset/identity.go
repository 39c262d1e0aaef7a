package dataset

import (
	"context"
	"fmt"
	"slices"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// published tells whether a file holds rows as they were published: one that an
// archive or a compaction of ours wrote, of one view. Its rows are then known by
// their identity alone, whichever file they stand in. Every other file is its own
// identity: an engine may have changed the values of rows and kept the system
// columns. So whoever rewrites rows with other values names the file otherwise.
func published(f iceberg.DataFile) bool {
	if _, ok := checkedID(f.FilePath()); !ok {
		return false
	}
	n, _, ok := parseFileName(f.FilePath())
	return ok && n.View > 0 && f.ContentType() == iceberg.EntryContentData && fileInfo(f, 0, 0).View == n.View
}

// identified tells whether a file that is not published may hold rows with an
// identity: those that an engine rewrote, but not those that it brought.
func identified(f iceberg.DataFile) bool {
	values, known := f.ValueCounts()[schema.ViewID]
	if !known {
		return len(f.ValueCounts()) == 0
	}
	nulls, known := f.NullValueCounts()[schema.ViewID]
	return !known || nulls < values
}

// identities finds which rows files hold. It remembers what it found.
type identities struct {
	t    *Table // any of the store
	full map[string]rowSet
}

func newIdentities(t *Table) *identities { return &identities{t: t, full: map[string]rowSet{}} }

// of returns the identities of a published file without the deleted positions.
// It opens the file only where name and bounds do not tell.
func (i *identities) of(ctx context.Context, e iceberg.ManifestEntry, gone []int64) (rowSet, error) {
	f := e.DataFile()
	if len(gone) > 0 {
		var b rowSetBuilder
		err := i.read(ctx, e, func(at int64, v record.ViewNumber, p record.Partition, o record.Offset) error {
			if _, deleted := slices.BinarySearch(gone, at); deleted {
				return nil
			}
			return b.add(v, p, o)
		})
		return b.set(), err
	}
	if s, ok := i.full[f.FilePath()]; ok {
		return s, nil
	}
	s, ok, err := i.promised(ctx, f)
	if err != nil {
		return nil, err
	}
	if !ok {
		var b rowSetBuilder
		if err := i.read(ctx, e, func(_ int64, v record.ViewNumber, p record.Partition, o record.Offset) error { return b.add(v, p, o) }); err != nil {
			return nil, err
		}
		s = b.set()
	}
	i.full[f.FilePath()] = s
	return s, nil
}

// promised is what name and bounds tell; ok only if that is all rows exactly.
func (i *identities) promised(ctx context.Context, f iceberg.DataFile) (rowSet, bool, error) {
	info := fileInfo(f, 0, 0)
	r := info.system
	if r.partLo == r.partHi && r.offsetHi-r.offsetLo+1 == f.Count() {
		return rowSet{{info.View, record.Partition(r.partLo), record.Range{Start: record.Offset(r.offsetLo), End: record.Offset(r.offsetHi) + 1}}}, true, nil
	}
	name, err := i.t.fullName(ctx, f)
	if err != nil {
		return nil, false, err
	}
	var ranges []rowRange
	rows := int64(0)
	for _, n := range name.Ranges {
		n.Start, n.End = max(n.Start, record.Offset(r.offsetLo)), min(n.End, record.Offset(r.offsetHi)+1)
		rows += n.Len()
		ranges = append(ranges, rowRange{info.View, n.Partition, n.Range})
	}
	return newRowSet(ranges), rows == f.Count(), nil
}

// positions returns where in a file the rows of a set stand, in order.
func (i *identities) positions(ctx context.Context, e iceberg.ManifestEntry, s rowSet) ([]int64, error) {
	var out []int64
	err := i.read(ctx, e, func(at int64, v record.ViewNumber, p record.Partition, o record.Offset) error {
		if !s.has(v, p, o) {
			return nil
		}
		if len(out) == maxDeletes {
			return fmt.Errorf("more than %d rows of one file are to be deleted: %w", maxDeletes, record.ErrTooLarge)
		}
		out = append(out, at)
		return nil
	})
	return out, err
}

// read visits the identities of a file's rows, deleted ones as well.
func (i *identities) read(ctx context.Context, e iceberg.ManifestEntry, visit func(at int64, v record.ViewNumber, p record.Partition, o record.Offset) error) error {
	s := (&schema.Schema{}).WithSystem()
	s.Fields = s.Fields[:3]
	one := func(context.Context) (fileSet, error) { return fileSet{data: []iceberg.ManifestEntry{e}}, nil }
	at := int64(0)
	for b, err := range i.t.stream(ctx, ScanOptions{Schema: s}, one) {
		if err != nil {
			return err
		}
		views, ok1 := b.Column(0).(*array.Int32)
		partitions, ok2 := b.Column(1).(*array.Int32)
		offsets, ok3 := b.Column(2).(*array.Int64)
		if !ok1 || !ok2 || !ok3 {
			return fmt.Errorf("dataset: %s: the system columns are not what they should be: %w", e.DataFile().FilePath(), record.ErrCorrupt)
		}
		for r := range int(b.NumRows()) {
			if err := visit(at, record.ViewNumber(views.Value(r)), record.Partition(partitions.Value(r)), record.Offset(offsets.Value(r))); err != nil {
				return fmt.Errorf("dataset: %s: %w", e.DataFile().FilePath(), err)
			}
			at++
		}
	}
	return nil
}
