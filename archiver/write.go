package archiver

import (
	"context"
	"errors"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// batchRows and batchBytes bound the rows that are held decoded at a time, and
// layoutBytes those that are laid out together, where files are not in the order of
// the rows: as many as one reader brings back into order at a time.
const (
	batchRows   = 32 << 10
	batchBytes  = 16 << 20
	layoutBytes = 48 << 20
)

// write moves [start, end) into data files, in the view's total order. When it
// has written much it ends at an earlier checkpoint and moves end there. On an
// error the files are given up: none of them is in a snapshot.
func (w *work) write(ctx context.Context) (done []dataset.DataFile, rows int64, err error) {
	f := files{
		work:    w,
		dec:     schema.NewRowDecoder(w.schema.WithSystem(), w.view.Number, w.a.o.Schemas.SchemaByID, memory.DefaultAllocator),
		reached: make(record.Offsets, len(w.end.Cut)),
	}
	defer f.abort()
	copy(f.reached, w.start)
	f.begin = f.reached.Clone()
	stored := int64(0)
	for b, err := range hotbuffer.Scan(ctx, w.a.o.Buffer, w.view.ID, w.start, w.end.Cut) {
		if errors.Is(err, record.ErrOutOfRange) {
			err = fmt.Errorf("another archiver moved the rows meanwhile: %w: %w", record.ErrFenced, err)
		}
		if err != nil {
			return nil, 0, err
		}
		// The scan is in the view's order and passes through every checkpoint.
		if stored >= w.a.o.CommitBytes {
			next, err := w.a.o.Checkpoints.Next(ctx, w.view.ID, f.reached)
			if err != nil {
				return nil, 0, err
			}
			if w.end.Cut.Covers(next.Cut) {
				w.end = next
			}
			stored = 0
		}
		if f.reached.Covers(w.end.Cut) {
			break
		}
		if err := f.append(ctx, b); err != nil {
			return nil, 0, err
		}
		stored += int64(len(b.Batch.Bytes()))
	}
	if err := f.flush(ctx); err != nil {
		return nil, 0, err
	}
	if err := f.layOut(ctx); err != nil {
		return nil, 0, err
	}
	w.a.o.Reached(StepWrite)
	if err := f.close(); err != nil {
		return nil, 0, err
	}
	if want := w.end.Cut.RowsSince(w.start); f.rows != want || !f.reached.Equal(w.end.Cut) {
		// Committing would lose rows for good.
		return nil, 0, fmt.Errorf("the hot buffer yielded %d rows up to %v where its offsets promise %d up to %v: %w", f.rows, f.reached, want, w.end.Cut, record.ErrCorrupt)
	}
	return f.done, f.rows, nil
}

// files are the data files of a flush.
type files struct {
	*work
	dec     *schema.RowDecoder
	file    dataset.FileWriter // nil: none is open
	begin   record.Offsets     // behind the rows of the files that are done
	reached record.Offsets     // behind the rows that are decoded
	done    []dataset.DataFile
	rows    int64
	// held are rows that wait to be laid out.
	held      []arrow.RecordBatch
	heldBytes int
}

// append decodes a batch; what is decoded goes to the file bit by bit.
func (f *files) append(ctx context.Context, b hotbuffer.PartBatch) error {
	first, last := b.Batch.BaseOffset()+record.Offset(b.Skip), b.Batch.BaseOffset()+record.Offset(b.Limit)
	if first != f.reached.At(b.Partition) || last <= first {
		return fmt.Errorf("partition %v: the hot buffer yielded rows [%v,%v) where %v is next: %w", b.Partition, first, last, f.reached.At(b.Partition), record.ErrCorrupt)
	}
	if err := f.dec.AppendBatch(ctx, b.Partition, b.Batch, b.Skip, b.Limit); err != nil {
		return err
	}
	f.reached[b.Partition] = last
	if f.dec.Len() >= batchRows || f.dec.Bytes() >= batchBytes {
		return f.flush(ctx)
	}
	return nil
}

// flush writes what is decoded, and ends the file if it is large enough.
func (f *files) flush(ctx context.Context) error {
	size := f.dec.Bytes()
	batch := f.dec.Take()
	if batch == nil {
		return nil
	}
	if !f.layout.IsPlain() {
		f.held = append(f.held, batch)
		f.rows += batch.NumRows()
		if f.heldBytes += size; f.heldBytes < layoutBytes {
			return nil
		}
		return f.layOut(ctx)
	}
	defer batch.Release()
	if f.file == nil {
		file, err := f.table.NewFileWriter(ctx, f.name(), f.schema, dataset.Format(f.target.Settings.DatasetFormat))
		if err != nil {
			return err
		}
		f.file = file
	}
	if err := f.file.Write(batch); err != nil {
		return err
	}
	f.rows += batch.NumRows()
	if f.file.Size() < f.a.o.FileBytes {
		return nil
	}
	f.begin = f.reached.Clone()
	return f.close()
}

// layOut writes the rows held, each partition to a file, sorted.
func (f *files) layOut(ctx context.Context) error {
	if len(f.held) == 0 {
		return nil
	}
	done, spread, err := f.table.WriteFiles(ctx, f.name(), f.schema, dataset.Format(f.target.Settings.DatasetFormat), f.layout, f.held)
	if err != nil {
		return err
	}
	if spread {
		f.a.o.Logger.Warn("rows have too many partitions for a file each, and went to files of none; choose a coarser partitioning",
			"branch", f.target.Name, "partitioning", f.target.Settings.Partitioning)
	}
	f.done = append(f.done, done...)
	f.begin = f.reached.Clone()
	f.drop()
	return nil
}

func (f *files) drop() {
	for _, b := range f.held {
		b.Release()
	}
	f.held, f.heldBytes = nil, 0
}

// name promises that the file's rows lie in [begin, end): where it ends, if not
// there, is not known yet.
func (f *files) name() dataset.FileName {
	name := dataset.FileName{View: f.view.Number, Epoch: f.epoch}
	for i, end := range f.end.Cut {
		p := record.Partition(i)
		if r := (record.Range{Start: f.begin.At(p), End: end}); r.Len() > 0 {
			name.Ranges = append(name.Ranges, dataset.PartRange{Partition: p, Range: r})
		}
	}
	return name
}

// close makes the open file durable.
func (f *files) close() error {
	if f.file == nil {
		return nil
	}
	file := f.file
	f.file = nil
	done, err := file.Close()
	if err != nil {
		return err
	}
	f.done = append(f.done, done)
	return nil
}

// abort gives up what is not done.
func (f *files) abort() {
	f.dec.Release()
	f.drop()
	if f.file != nil {
		f.file.Abort()
	}
}
