package dataset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// readBuffer is read ahead per column.
const readBuffer = 256 << 10

// guard turns a panic of the Parquet library over damaged bytes into an error.
func guard(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("damaged file: %v: %w", r, record.ErrCorrupt)
	}
}

// corrupt classifies errors of the library: those of the store and of the
// context keep their class, the rest is damage.
func corrupt(ctx context.Context, err error) error {
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, record.ErrCorrupt), errors.Is(err, record.ErrInvalid), errors.Is(err, errStore):
		return err
	}
	return fmt.Errorf("%w: %w", err, record.ErrCorrupt)
}

// errStore marks errors of reading the object, which say nothing about what
// stands in it.
var errStore = errors.New("read object")

type storeReader struct{ objstore.Object }

func (r storeReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.Object.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, record.ErrCorrupt) && !errors.Is(err, errStore) {
		err = fmt.Errorf("%w: %w", errStore, err)
	}
	return n, err
}

// openParquet reads the footer.
func openParquet(o objstore.Object) (r *file.Reader, err error) {
	defer guard(&err)
	props := parquet.NewReaderProperties(memory.DefaultAllocator)
	props.BufferedStreamEnabled = true
	props.BufferSize = readBuffer
	return file.NewParquetReader(io.NewSectionReader(storeReader{o}, 0, o.Size()), file.WithReadProps(props))
}

func (s *scanner) parquetFile(ctx context.Context, f iceberg.DataFile, deleted []int64) (err error) {
	o, err := s.t.d.openData(ctx, f.FilePath(), f.FileSizeBytes())
	if err != nil {
		return err
	}
	defer o.Close()
	pf, err := openParquet(o)
	if err != nil {
		return corrupt(ctx, fmt.Errorf("read the footer: %w", err))
	}
	// The object is closed here, not by the reader.
	meta := pf.MetaData()
	s.rowBytes = 0
	if text := meta.KeyValueMetadata().FindValue(rowBytesKey); text != nil {
		s.rowBytes, _ = strconv.ParseInt(*text, 10, 64) // somebody else's
	}
	fr, err := newArrowReader(pf)
	if err != nil {
		return corrupt(ctx, fmt.Errorf("read the schema: %w", err))
	}
	cols := chooseColumns(s.schema, fr.Manifest, newNames(s.t.mapping(), meta))
	if _, ok := cols.leaves[schema.ViewID]; !ok && s.o.View != 0 && !s.o.guests {
		return nil // an engine's file, whose rows are of no view
	}
	var bloomErr error
	first := int64(0) // position of the row group's first row in the file
	for rg := range meta.NumRowGroups() {
		group := meta.RowGroup(rg)
		rows := group.NumRows()
		s.stats.RowGroups++
		column := func(id int, k schema.Kind) columnRange {
			if at, ok := cols.leaves[id]; ok {
				return chunkRange(k, meta, rg, at)
			}
			return columnRange{}
		}
		if first+rows <= s.begin || !s.mayMatch(column, s.bloom(pf, rg, cols, &bloomErr)) {
			s.stats.RowGroupsSkipped++
		} else if bloomErr != nil {
			return corrupt(ctx, bloomErr)
		} else if err := s.rowGroup(ctx, fr, rg, cols, deletedIn(deleted, first, rows), first); err != nil {
			return corrupt(ctx, err)
		}
		first += rows
	}
	return nil
}

// newArrowReader relates the columns of a file to Arrow's types.
func newArrowReader(pf *file.Reader) (fr *pqarrow.FileReader, err error) {
	defer guard(&err)
	return pqarrow.NewFileReader(pf, pqarrow.ArrowReadProperties{BatchSize: defaultBatchRows}, memory.DefaultAllocator)
}

// rowGroup decodes one row group, batch by batch.
func (s *scanner) rowGroup(ctx context.Context, fr *pqarrow.FileReader, rg int, cols columnChoice, deleted []int64, first int64) (err error) {
	defer guard(&err)
	group := fr.ParquetReader().MetaData().RowGroup(rg)
	perBatch := s.rowsPerBatch(group.NumRows(), group.TotalByteSize())
	if len(cols.read) == 0 {
		return s.absentRows(ctx, group.NumRows(), perBatch, deleted, first)
	}
	fr.Props.BatchSize = perBatch
	rr, err := fr.GetRecordReader(ctx, cols.read, []int{rg})
	if err != nil {
		return err
	}
	defer rr.Release()
	p, err := compileProjection(s.schema, rr.Schema(), cols.names)
	if err != nil {
		return err
	}
	defer p.release()
	rows := int64(0)
	for rr.Next() {
		rec := rr.RecordBatch()
		n := rec.NumRows()
		batch, err := p.project(ctx, rec)
		if err != nil {
			return err
		}
		if batch, err = withoutDeleted(ctx, batch, deleted, first+rows); err != nil {
			return err
		}
		if err := s.send(ctx, batch, first+rows, n, deleted); err != nil {
			return err
		}
		rows += n
	}
	if err := rr.Err(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if rows != group.NumRows() {
		return fmt.Errorf("row group %d holds %d rows, its header says %d: %w", rg, rows, group.NumRows(), record.ErrCorrupt)
	}
	return nil
}

// absentRows delivers rows of which the file has none of the columns wanted.
func (s *scanner) absentRows(ctx context.Context, rows, perBatch int64, deleted []int64, first int64) error {
	none := arrow.NewSchema(nil, nil)
	p, err := compileProjection(s.schema, none, names{})
	if err != nil {
		return err
	}
	defer p.release()
	for at := int64(0); at < rows; at += perBatch {
		n := min(perBatch, rows-at)
		rec := array.NewRecordBatch(none, nil, n)
		batch, err := p.project(ctx, rec)
		if err != nil {
			return err
		}
		if batch, err = withoutDeleted(ctx, batch, deleted, first+at); err != nil {
			return err
		}
		if err := s.send(ctx, batch, first+at, n, deleted); err != nil {
			return err
		}
	}
	return nil
}
