package archiver

import (
	"context"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// batchRows and batchBytes bound the rows that are held decoded at a time.
const (
	batchRows  = 32 << 10
	batchBytes = 16 << 20
)

// write moves [start, end) into data files, in the view's total order. On an
// error the files are given up: none of them is in a snapshot.
func (w *work) write(ctx context.Context) (files []dataset.DataFile, rows int64, err error) {
	dec := schema.NewRowDecoder(w.target.Schema.WithSystem(), w.view.Number, w.a.o.Schemas.SchemaByID, memory.DefaultAllocator)
	defer dec.Release()
	var file dataset.FileWriter
	defer func() {
		if file != nil {
			file.Abort()
		}
	}()
	pos := w.start     // behind the rows of the files that are closed
	reached := w.start // behind the rows that are decoded
	flush := func() error {
		batch := dec.Take()
		if batch == nil {
			return nil
		}
		defer batch.Release()
		rows += batch.NumRows()
		if file == nil {
			if file, err = w.newFile(ctx, pos); err != nil {
				return err
			}
		}
		if err := file.Write(batch); err != nil {
			return err
		}
		if file.Size() < w.a.o.FileBytes {
			return nil
		}
		pos = reached.Clone()
		return w.closeFile(&file, &files)
	}
	for b, err := range hotbuffer.Scan(ctx, w.a.o.Buffer, w.view.ID, w.start, w.end) {
		if err != nil {
			return nil, 0, err
		}
		if err := dec.AppendBatch(ctx, b.Partition, b.Batch, b.Skip, b.Limit); err != nil {
			return nil, 0, err
		}
		reached = reached.With(b.Partition, b.Batch.BaseOffset()+record.Offset(b.Limit))
		if dec.Len() >= batchRows || dec.Bytes() >= batchBytes {
			if err := flush(); err != nil {
				return nil, 0, err
			}
		}
	}
	if err := flush(); err != nil {
		return nil, 0, err
	}
	w.a.o.Reached(StepWrite)
	if file != nil {
		if err := w.closeFile(&file, &files); err != nil {
			return nil, 0, err
		}
	}
	if want := w.end.RowsSince(w.start); rows != want {
		// Committing would lose rows for good.
		return nil, 0, fmt.Errorf("the hot buffer yielded %d rows where its offsets promise %d: %w", rows, want, record.ErrCorrupt)
	}
	return files, rows, nil
}

// newFile begins a file for the rows from pos on. Its name promises that they
// lie in [pos, end): where it ends, if not there, is not known yet.
func (w *work) newFile(ctx context.Context, pos record.Offsets) (dataset.FileWriter, error) {
	name := dataset.FileName{View: w.view.Number, Epoch: w.epoch}
	for i := range w.end {
		p := record.Partition(i)
		if r := (record.Range{Start: pos.At(p), End: w.end.At(p)}); r.Len() > 0 {
			name.Ranges = append(name.Ranges, dataset.PartRange{Partition: p, Range: r})
		}
	}
	return w.table.NewFileWriter(ctx, name, w.target.Schema, dataset.Format(w.target.Settings.DatasetFormat))
}

func (w *work) closeFile(file *dataset.FileWriter, files *[]dataset.DataFile) error {
	f := *file
	*file = nil
	done, err := f.Close()
	if err != nil {
		return err
	}
	*files = append(*files, done)
	return nil
}
