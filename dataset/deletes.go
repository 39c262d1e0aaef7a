package dataset

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/compute"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
)

// Field ids that Iceberg reserves for the columns of position delete files.
const (
	deletePathID = 2147483546
	deletePosID  = 2147483545
)

// maxDeletes bounds the deleted positions that a scan holds in memory.
const maxDeletes = 32 << 20

// deletes are the row positions that delete files name, by data file.
type deletes map[string][]deletion

type deletion struct {
	sequence  int64 // applies to files of this sequence number and older
	positions []int64
}

// of returns the deleted positions of a file, sorted, without duplicates.
func (d deletes) of(e iceberg.ManifestEntry) []int64 {
	var all []int64
	for _, x := range d[e.DataFile().FilePath()] {
		if x.sequence >= e.SequenceNum() {
			all = append(all, x.positions...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// deletedIn is the part of sorted positions in [first, first+rows).
func deletedIn(positions []int64, first, rows int64) []int64 {
	from, _ := slices.BinarySearch(positions, first)
	to, _ := slices.BinarySearch(positions, first+rows)
	return positions[from:to]
}

// readDeletes reads the position delete files of a snapshot. We write none:
// they come from other engines in merge-on-read mode.
func (s *scanner) readDeletes(ctx context.Context, files fileSet) (deletes, error) {
	out := deletes{}
	total := 0
	for _, e := range files.deletes {
		f := e.DataFile()
		if f.ContentType() != iceberg.EntryContentPosDeletes || f.FileFormat() != iceberg.ParquetFile {
			return nil, fmt.Errorf("dataset: table %s has deletes of a kind that is not read (%s in %s, %s); rewrite the table's data files in the engine that wrote them: %w", s.t.id, f.ContentType(), f.FileFormat(), f.FilePath(), record.ErrInvalid)
		}
		if total += int(f.Count()); total > maxDeletes {
			return nil, fmt.Errorf("dataset: table %s has more than %d deleted rows; rewrite its data files: %w", s.t.id, maxDeletes, record.ErrTooLarge)
		}
		if err := s.deleteFile(ctx, f, e.SequenceNum(), out); err != nil {
			return nil, fmt.Errorf("dataset: read deletes %s: %w", f.FilePath(), corrupt(ctx, err))
		}
	}
	return out, nil
}

func (s *scanner) deleteFile(ctx context.Context, f iceberg.DataFile, sequence int64, out deletes) (err error) {
	defer guard(&err)
	o, err := s.t.d.openData(ctx, f.FilePath(), f.FileSizeBytes())
	if err != nil {
		return err
	}
	defer o.Close()
	pf, err := openParquet(o)
	if err != nil {
		return err
	}
	if pf.NumRows() != f.Count() {
		return fmt.Errorf("%d deletes, the manifest says %d: %w", pf.NumRows(), f.Count(), record.ErrCorrupt)
	}
	fr, err := pqarrow.NewFileReader(pf, pqarrow.ArrowReadProperties{BatchSize: defaultBatchRows}, memory.DefaultAllocator)
	if err != nil {
		return err
	}
	path, pos := -1, -1
	for i := range fr.Manifest.Fields {
		switch c := &fr.Manifest.Fields[i]; (names{}).id(*c.Field) {
		case deletePathID:
			path = c.ColIndex
		case deletePosID:
			pos = c.ColIndex
		}
	}
	if path < 0 || pos < 0 {
		return fmt.Errorf("columns with the ids %d and %d are missing: %w", deletePathID, deletePosID, record.ErrCorrupt)
	}
	rr, err := fr.GetRecordReader(ctx, []int{path, pos}, nil)
	if err != nil {
		return err
	}
	defer rr.Release()
	byPath := map[string][]int64{}
	for rr.Next() {
		rec := rr.RecordBatch()
		first, second := rec.Column(0), rec.Column(1)
		if (names{}).id(rec.Schema().Field(0)) != deletePathID {
			first, second = second, first
		}
		paths, ok1 := first.(array.StringLike)
		positions, ok2 := second.(*array.Int64)
		if !ok1 || !ok2 {
			return fmt.Errorf("columns of types %s and %s: %w", first.DataType(), second.DataType(), record.ErrCorrupt)
		}
		for i := range rec.NumRows() {
			p := paths.Value(int(i))
			at, known := byPath[p]
			if !known {
				p = string([]byte(p)) // not the batch's memory
			}
			byPath[p] = append(at, positions.Value(int(i)))
		}
	}
	if err := rr.Err(); err != nil && err != io.EOF {
		return err
	}
	for p, positions := range byPath {
		out[p] = append(out[p], deletion{sequence, positions})
	}
	return nil
}

// withoutDeleted drops the deleted rows of a batch whose first row has the
// position first. It takes over the caller's reference.
func withoutDeleted(ctx context.Context, b arrow.RecordBatch, positions []int64, first int64) (arrow.RecordBatch, error) {
	here := deletedIn(positions, first, b.NumRows())
	if len(here) == 0 {
		return b, nil
	}
	defer b.Release()
	mb := array.NewBooleanBuilder(memory.DefaultAllocator)
	defer mb.Release()
	keep := make([]bool, b.NumRows())
	for i := range keep {
		keep[i] = true
	}
	for _, p := range here {
		keep[p-first] = false
	}
	mb.AppendValues(keep, nil)
	mask := mb.NewArray()
	defer mask.Release()
	return compute.FilterRecordBatch(ctx, b, mask, compute.DefaultFilterOptions())
}
