package dataset

import (
	"context"
	"fmt"
	"iter"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/predicate"
)

// ScanOptions say what a scan reads.
type ScanOptions struct {
	// SnapshotID is the version to read; 0: the head.
	SnapshotID int64
	// Schema is what the batches look like: Schema.Arrow(). It may be a
	// projection and may hold system columns (WithSystem); fields are found by
	// their ids, so files of older schemas come out under it. Nil: all
	// columns of the current schema, with system columns.
	Schema *schema.Schema
	// Filter, if set, leaves out files and row groups that cannot match. It
	// does not filter rows: that is the caller's.
	Filter *predicate.Bound
	// View, From and To leave out files and row groups that lie wholly outside
	// of the view (0: any) and of the offsets [From, To) (nil To: no end).
	// Rows outside may still be delivered.
	View     record.ViewNumber
	From, To record.Offsets
	// BatchRows bounds the rows of a batch; default 32768. Batches of large
	// rows are smaller: of about BatchBytes, decoded; default 16 MiB.
	BatchRows, BatchBytes int
	// Stats, if set, is counted up while the scan runs. Read it afterwards.
	Stats *ScanStats

	// windowed, if set, is the order in which rows come, whatever file they are in.
	windowed *windowed
}

// ScanStats tell what a scan did.
type ScanStats struct {
	Files, FilesSkipped         int
	RowGroups, RowGroupsSkipped int
	Rows                        int64
}

const (
	defaultBatchRows  = 32 << 10
	defaultBatchBytes = 16 << 20
)

// Scan yields the rows of a snapshot in the order of commits, within a commit
// in the order of its files and their rows. A batch is released when the loop
// body ends; Retain it to keep it. At most two batches are held besides the
// caller's: one decoded ahead, one being decoded. The scan ends at the first
// error, and promptly with ctx; leaving the loop ends it too.
//
// Rows of other engines that lack the system columns have 0 in them: no view
// has the number 0. Position deletes are applied, equality deletes are
// ErrInvalid.
func (t *Table) Scan(ctx context.Context, o ScanOptions) iter.Seq2[arrow.RecordBatch, error] {
	return t.stream(ctx, o, func(ctx context.Context) (fileSet, error) { return t.liveFiles(ctx, o.SnapshotID) })
}

// stream scans the files that find returns.
func (t *Table) stream(ctx context.Context, o ScanOptions, find func(context.Context) (fileSet, error)) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) {
		for b, err := range t.placed(ctx, placedScan{ScanOptions: o, find: find}) {
			if !yield(b.rows, err) {
				return
			}
		}
	}
}

// placedScan is a scan whose batches tell where in their files they come from.
type placedScan struct {
	ScanOptions
	find func(context.Context) (fileSet, error)
	// guests turns View around: rows of any other view are asked for.
	guests bool
	// begin is where to begin: a file among those found, and a position in it.
	begin FilePlace
}

// scanned is a batch with its place.
type scanned struct {
	rows     arrow.RecordBatch
	file     int     // index among the files of the scan
	first, n int64   // rows was made of the file's positions [first, first+n)
	deleted  []int64 // those of them that are not in rows
}

// placed scans in a goroutine of its own; a batch is released when the loop body
// ends.
func (t *Table) placed(ctx context.Context, o placedScan) iter.Seq2[scanned, error] {
	return func(yield func(scanned, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		out := make(chan scanned, 1)
		done := make(chan error, 1)
		go func() {
			err := t.missing(ctx, t.scan(ctx, o, out))
			close(out)
			done <- err
		}()
		defer func() {
			cancel()
			for b := range out {
				b.rows.Release()
			}
		}()
		for b := range out {
			more := yield(b, nil)
			b.rows.Release()
			if !more {
				return
			}
		}
		if err := <-done; err != nil {
			yield(scanned{}, err)
		}
	}
}

// scanner reads files for one scan.
type scanner struct {
	t      *Table
	o      placedScan
	schema *schema.Schema
	out    chan<- scanned
	stats  *ScanStats
	at     int   // index of the file being read
	begin  int64 // position in it to begin at
	// filterColumns are the filter's, by field id.
	filterColumns map[int]*predicate.Column
	filled        map[int]bool
	rowBytes      int64 // of the file being read, see rowBytesKey
	// avro reads files with the schema avsc.
	avro *avroReader
	avsc string
	// window, if set, takes the batches of the file being read.
	window *window
}

func (t *Table) scan(ctx context.Context, o placedScan, out chan<- scanned) error {
	if o.BatchRows <= 0 {
		o.BatchRows = defaultBatchRows
	}
	if o.BatchBytes <= 0 {
		o.BatchBytes = defaultBatchBytes
	}
	s := &scanner{t: t, o: o, schema: o.Schema, out: out, stats: o.Stats}
	if s.schema == nil {
		user, err := schema.FromIceberg(t.Schema())
		if err != nil {
			return fmt.Errorf("dataset: scan table %s: %w", t.id, err)
		}
		s.schema = user.WithSystem()
	}
	if s.stats == nil {
		s.stats = &ScanStats{}
	}
	if o.Filter != nil {
		s.filterColumns, s.filled = map[int]*predicate.Column{}, map[int]bool{}
		filledFields(s.filled, s.schema.Fields)
		for _, c := range o.Filter.Columns() {
			s.filterColumns[c.ID] = &c
		}
	}
	files, err := o.find(ctx)
	if err != nil {
		return err
	}
	deletes, err := s.readDeletes(ctx, files)
	if err != nil {
		return err
	}
	if o.windowed != nil {
		return s.windows(ctx, files.data, deletes)
	}
	for i, e := range files.data {
		if i < o.begin.File {
			continue
		}
		if s.at, s.begin = i, 0; i == o.begin.File {
			s.begin = o.begin.Row
		}
		s.stats.Files++
		if !s.fileMayMatch(e.DataFile()) {
			s.stats.FilesSkipped++
			continue
		}
		without := deletes.of(e)
		if files.without != nil {
			without = files.without
		}
		if err := s.entry(ctx, e, without); err != nil {
			return err
		}
	}
	return nil
}

// entry reads the file of a manifest's entry.
func (s *scanner) entry(ctx context.Context, e iceberg.ManifestEntry, without []int64) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("dataset: scan table %s: %w", s.t.id, err)
	}
	if err := s.file(ctx, e.DataFile(), without); err != nil {
		return fmt.Errorf("dataset: scan %s: %w", e.DataFile().FilePath(), err)
	}
	return nil
}

func (s *scanner) file(ctx context.Context, f iceberg.DataFile, deleted []int64) error {
	switch f.FileFormat() {
	case iceberg.ParquetFile:
		return s.parquetFile(ctx, f, deleted)
	case iceberg.AvroFile:
		return s.avroFile(ctx, f, deleted)
	}
	return fmt.Errorf("files of format %s are not read: %w", f.FileFormat(), record.ErrInvalid)
}

// send hands on a batch that was made of n rows from the position first on,
// without the deleted ones; and its reference with it.
func (s *scanner) send(ctx context.Context, b arrow.RecordBatch, first, n int64, deleted []int64) error {
	if s.window != nil {
		defer b.Release()
		return s.window.add(ctx, b)
	}
	if s.begin > first {
		before := min(s.begin, first+n) - first
		live := before - int64(len(deletedIn(deleted, first, before)))
		rest := b.NewSlice(live, b.NumRows())
		b.Release()
		b, first, n = rest, first+before, n-before
	}
	if b.NumRows() == 0 {
		b.Release()
		return nil
	}
	s.stats.Rows += b.NumRows()
	select {
	case s.out <- scanned{b, s.at, first, n, deletedIn(deleted, first, n)}:
		return nil
	case <-ctx.Done():
		b.Release()
		return ctx.Err()
	}
}

// rowsPerBatch bounds a batch by rows and by bytes.
func (s *scanner) rowsPerBatch(rows, bytes int64) int64 {
	n := int64(s.o.BatchRows)
	if rows > 0 {
		if each := max(bytes/rows, s.rowBytes); each > 0 {
			n = min(n, max(1, int64(s.o.BatchBytes)/each))
		}
	}
	return n
}
