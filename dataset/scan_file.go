package dataset

import (
	"context"
	"fmt"
	"iter"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
)

// FileRows is a snapshot of a table, file by file: for those who must know which
// file a row came from. Safe for concurrent use.
type FileRows struct {
	t   *Table
	set fileSet
}

// FileRows reads the manifests of a snapshot (0: the head).
func (t *Table) FileRows(ctx context.Context, snapshotID int64) (*FileRows, error) {
	set, err := t.liveFiles(ctx, snapshotID)
	if err != nil {
		return nil, err
	}
	return &FileRows{t, set}, nil
}

// Len is the number of data files.
func (f *FileRows) Len() int { return len(f.set.data) }

// File describes data file i, in the order in which a scan delivers them.
func (f *FileRows) File(i int) FileInfo {
	e := f.set.data[i]
	return fileInfo(e.DataFile(), e.SequenceNum(), e.SnapshotID())
}

// Arrange puts the files that may have rows of a view last, in the order in which
// Ordered reads them, and reports whether there is no such order, because they
// overlap. It comes before the first File or Rows.
func (f *FileRows) Arrange(view record.ViewNumber) (overlap bool) {
	var own []span
	var rest []iceberg.ManifestEntry
	for _, e := range f.set.data {
		if s := spanOf(e); s.holds(view) {
			own = append(own, s)
		} else {
			rest = append(rest, e)
		}
	}
	chains, windowed := chained(own, true, func(*span) bool { return true })
	f.set.data = rest
	for _, chain := range chains {
		f.set.data = append(f.set.data, chain...)
	}
	f.set.data = append(f.set.data, windowed...)
	return len(chains) > 1 || len(windowed) > 0
}

// Deletes tells whether position deletes of other engines take rows away.
func (f *FileRows) Deletes() bool { return len(f.set.deletes) > 0 }

// Rows yields the rows of data file i the way Table.Scan does; SnapshotID is
// ignored.
func (f *FileRows) Rows(ctx context.Context, i int, o ScanOptions) iter.Seq2[arrow.RecordBatch, error] {
	if i < 0 || i >= len(f.set.data) {
		return func(yield func(arrow.RecordBatch, error) bool) {
			yield(nil, fmt.Errorf("dataset: data file %d of %d: %w", i, len(f.set.data), record.ErrInvalid))
		}
	}
	return f.t.stream(ctx, o, func(context.Context) (fileSet, error) {
		return fileSet{data: []iceberg.ManifestEntry{f.set.data[i]}, deletes: f.set.deletes}, nil
	})
}

// LaidOut tells whether the rows of some file do not stand in the order of the
// view, or lie beside those of other files: then only Ordered gives that order.
func (f *FileRows) LaidOut() bool {
	for _, e := range f.set.data {
		if sp := spanOf(e); sp.sorted || len(e.DataFile().Partition()) > 0 {
			return true
		}
	}
	return false
}

// Ordered yields the rows of all files but those left out as Table.Ordered does;
// SnapshotID is ignored.
func (f *FileRows) Ordered(ctx context.Context, leaveOut func(i int) bool, o OrderedOptions) iter.Seq2[Piece, error] {
	set := fileSet{deletes: f.set.deletes}
	for i, e := range f.set.data {
		if !leaveOut(i) {
			set.data = append(set.data, e)
		}
	}
	return f.t.ordered(ctx, o, func(context.Context) (fileSet, error) { return set, nil })
}
