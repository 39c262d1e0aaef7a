package main

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
)

// parquetSource sends the row groups of a Parquet file as Arrow batches.
type parquetSource struct {
	file    *pqarrow.FileReader
	records pqarrow.RecordReader
	pending []arrow.RecordBatch // pieces of a batch that was too large
	rows    int64
}

func openParquet(in *input) (*pqarrow.FileReader, error) {
	f, err := in.randomAccess()
	if err != nil {
		return nil, err
	}
	r, err := file.NewParquetReader(f)
	if err != nil {
		return nil, fmt.Errorf("read %s as Parquet: %w", in.name, err)
	}
	// The file itself is closed by in.
	return pqarrow.NewFileReader(r, pqarrow.ArrowReadProperties{BatchSize: batchRows}, memory.DefaultAllocator)
}

func newParquetSource(in *input) (*parquetSource, error) {
	f, err := openParquet(in)
	if err != nil {
		return nil, err
	}
	return &parquetSource{file: f}, nil
}

// maxArrowBody is what one request of Arrow data may hold before it is halved.
const maxArrowBody = 8 << 20

func (s *parquetSource) next(ctx context.Context) (batch, error) {
	if s.records == nil {
		r, err := s.file.GetRecordReader(ctx, nil, nil)
		if err != nil {
			return batch{}, err
		}
		s.records = r
	}
	rec, err := s.take()
	if err != nil {
		return batch{}, err
	}
	for {
		body, err := encodeArrow(rec)
		if err != nil {
			rec.Release()
			return batch{}, err
		}
		if n := rec.NumRows(); len(body) > maxArrowBody && n > 1 {
			s.pending = append(s.pending, rec.NewSlice(n/2, n))
			half := rec.NewSlice(0, n/2)
			rec.Release()
			rec = half
			continue
		}
		b := batch{contentType: "application/vnd.apache.arrow.stream", body: body, rows: rec.NumRows(), first: s.rows}
		s.rows += b.rows
		rec.Release()
		return b, nil
	}
}

// take returns the next piece, which the caller releases.
func (s *parquetSource) take() (arrow.RecordBatch, error) {
	if n := len(s.pending); n > 0 {
		rec := s.pending[n-1]
		s.pending = s.pending[:n-1]
		return rec, nil
	}
	for s.records.Next() {
		if rec := s.records.RecordBatch(); rec.NumRows() > 0 {
			rec.Retain()
			return rec, nil
		}
	}
	if err := s.records.Err(); err != nil && err != io.EOF {
		return nil, err
	}
	s.records.Release()
	return nil, io.EOF
}

func encodeArrow(rec arrow.RecordBatch) ([]byte, error) {
	var buf bytes.Buffer
	w := ipc.NewWriter(&buf, ipc.WithSchema(rec.Schema()))
	if err := w.Write(rec); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
