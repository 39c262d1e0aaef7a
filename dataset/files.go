package dataset

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// FileInfo describes a live data file.
type FileInfo struct {
	Path     string // URI
	Format   string // PARQUET, AVRO, ORC
	Rows     int64
	Bytes    int64
	Sequence int64 // of the commit that brought the rows
	Snapshot int64 // that added the file
	// View is the view whose rows the file holds, 0 if it has rows of none, of
	// several, or does not tell.
	View record.ViewNumber
	// Ranges are the offsets per partition, where the file tells: by its name,
	// or by its bounds if it has one partition.
	Ranges []PartRange
	// Lower and Upper are bounds by field id in Iceberg's single-value form.
	// Those of strings and binaries may be cut.
	Lower, Upper map[int][]byte
	// Nulls counts nulls by field id.
	Nulls map[int]int64
	// SpecID is the partition spec that the file was written under, Partition its
	// values by partition field id, and SortOrderID what its rows are sorted by, 0 if
	// by none that is known.
	SpecID      int
	Partition   map[int]any
	SortOrderID int

	file   iceberg.DataFile
	system systemRange
}

// systemRange is what the bounds of the system columns say.
type systemRange struct {
	known              bool
	viewLo, viewHi     int64
	partLo, partHi     int64
	offsetLo, offsetHi int64
}

func fileInfo(f iceberg.DataFile, sequence, snapshot int64) FileInfo {
	i := FileInfo{
		Path: f.FilePath(), Format: string(f.FileFormat()), Rows: f.Count(), Bytes: f.FileSizeBytes(),
		Sequence: sequence, Snapshot: snapshot, file: f,
		Lower: f.LowerBoundValues(), Upper: f.UpperBoundValues(), Nulls: f.NullValueCounts(),
		SpecID: int(f.SpecID()), Partition: f.Partition(),
	}
	if id := f.SortOrderID(); id != nil {
		i.SortOrderID = *id
	}
	i.system = systemBounds(func(id int, k schema.Kind) columnRange { return manifestRange(k, f, id) })
	if n, _, ok := parseFileName(i.Path); ok {
		i.Ranges = n.Ranges
	}
	if s := i.system; s.known {
		if s.viewLo == s.viewHi && s.viewLo > 0 && s.viewLo <= math.MaxInt32 {
			i.View = record.ViewNumber(s.viewLo)
		}
		if i.Ranges == nil && s.partLo == s.partHi && s.partLo >= 0 && s.partLo < record.MaxPartitions {
			i.Ranges = []PartRange{{record.Partition(s.partLo), record.Range{Start: record.Offset(s.offsetLo), End: record.Offset(s.offsetHi + 1)}}}
		}
	}
	return i
}

// manifestRange is what a manifest entry says about a column.
func manifestRange(k schema.Kind, f iceberg.DataFile, id int) columnRange {
	var r columnRange
	values, ok := f.ValueCounts()[id]
	nulls, ok2 := f.NullValueCounts()[id]
	if ok && ok2 {
		r.values, r.nulls, r.nullsKnown, r.empty = values, nulls, true, values == nulls
	}
	lo, ok1 := f.LowerBoundValues()[id]
	hi, ok2 := f.UpperBoundValues()[id]
	if r.empty || !ok1 || !ok2 {
		return r
	}
	lower, ok1 := decodeBound(k, lo)
	upper, ok2 := decodeBound(k, hi)
	if ok1 && ok2 {
		r.bounded, r.lower, r.upper = true, lower, upper
	}
	return r
}

// systemBounds puts the ranges of view, partition and offset together; known
// only if all three have bounds and no nulls.
func systemBounds(column func(id int, k schema.Kind) columnRange) systemRange {
	view, part, off := column(schema.ViewID, schema.Integer), column(schema.PartitionID, schema.Integer), column(schema.OffsetID, schema.Long)
	for _, r := range []columnRange{view, part, off} {
		if !r.bounded || r.nulls > 0 {
			return systemRange{}
		}
	}
	return systemRange{
		known: true, viewLo: view.lower.i, viewHi: view.upper.i,
		partLo: part.lower.i, partHi: part.upper.i, offsetLo: off.lower.i, offsetHi: off.upper.i,
	}
}

// Files yields the live data files of a snapshot (0: the head) in the order in
// which a scan delivers them. After an error it ends.
func (t *Table) Files(ctx context.Context, snapshotID int64) iter.Seq2[FileInfo, error] {
	return func(yield func(FileInfo, error) bool) {
		files, err := t.liveFiles(ctx, snapshotID)
		if err != nil {
			yield(FileInfo{}, err)
			return
		}
		for _, f := range files.data {
			if !yield(fileInfo(f.DataFile(), f.SequenceNum(), f.SnapshotID()), nil) {
				return
			}
		}
	}
}

// fileSet is the live files of a snapshot.
type fileSet struct {
	data    []iceberg.ManifestEntry // by sequence number, then as committed
	deletes []iceberg.ManifestEntry
	// without, if set, are the positions of rows that are left out of the one data
	// file, whatever deletes say.
	without []int64
}

// liveFiles reads the manifests of a snapshot.
func (t *Table) liveFiles(ctx context.Context, snapshotID int64) (fileSet, error) {
	var set fileSet
	s, err := t.snapshot(snapshotID)
	if err != nil || s == nil {
		return set, err
	}
	manifests, err := t.d.readManifests(ctx, s)
	if err != nil {
		return set, t.missing(ctx, err)
	}
	for _, m := range manifests {
		if !live(m) {
			continue
		}
		entries, err := t.d.readEntries(ctx, m)
		if err != nil {
			return set, t.missing(ctx, err)
		}
		if m.ManifestContent() == iceberg.ManifestContentDeletes {
			set.deletes = append(set.deletes, entries...)
		} else {
			set.data = append(set.data, entries...)
		}
	}
	slices.SortStableFunc(set.data, func(a, b iceberg.ManifestEntry) int { return cmp.Compare(a.SequenceNum(), b.SequenceNum()) })
	return set, nil
}

// snapshot returns the snapshot with the id, the head for 0, nil if that does
// not exist yet.
func (t *Table) snapshot(id int64) (*table.Snapshot, error) {
	if id == 0 {
		return t.head, nil
	}
	s := t.meta.SnapshotByID(id)
	if s == nil {
		return nil, fmt.Errorf("dataset: table %s has no snapshot %d; it may have expired: %w", t.id, id, record.ErrNotFound)
	}
	return s, nil
}
