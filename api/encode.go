package api

import (
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/parquet"
	pqcompress "github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"github.com/thermocline/thermocline/schema"
)

// encoder writes batches in one output format. The first write comes with the
// first batch, or with close.
type encoder interface {
	// write encodes one batch, which the caller releases.
	write(rec arrow.RecordBatch) error
	// close writes what ends the format.
	close() error
}

// The output formats.
const (
	formatNDJSON  = "ndjson"
	formatCSV     = "csv"
	formatArrow   = "arrow"
	formatParquet = "parquet"
	formatSSE     = "sse"
)

var outputTypes = map[string]string{
	formatNDJSON:  "application/x-ndjson",
	formatCSV:     "text/csv",
	formatArrow:   "application/vnd.apache.arrow.stream",
	formatParquet: "application/vnd.apache.parquet",
	formatSSE:     "text/event-stream",
}

// newEncoder returns the encoder of rows of s; numbersAsText is for NDJSON.
func newEncoder(format string, w io.Writer, s *schema.Schema, numbersAsText bool) (encoder, error) {
	switch format {
	case formatCSV:
		return newCSVEncoder(w, s)
	case formatArrow:
		x := schema.NewExternal(s)
		return &arrowEncoder{x: x, w: ipc.NewWriter(w, ipc.WithSchema(x.Schema()))}, nil
	case formatParquet:
		return newParquetEncoder(w, s)
	}
	return newNDJSONEncoder(w, s, numbersAsText)
}

type ndjsonEncoder struct {
	rows *jsonRows
	w    io.Writer
}

func newNDJSONEncoder(w io.Writer, s *schema.Schema, numbersAsText bool) (*ndjsonEncoder, error) {
	rows, err := newJSONRows(s, numbersAsText)
	return &ndjsonEncoder{rows: rows, w: w}, err
}

func (e *ndjsonEncoder) write(rec arrow.RecordBatch) error {
	return e.rows.each(rec, func(row []byte) error {
		_, err := e.w.Write(append(row, '\n'))
		return err
	})
}

func (e *ndjsonEncoder) close() error { return nil }

type arrowEncoder struct {
	x *schema.External
	w *ipc.Writer
}

func (e *arrowEncoder) write(rec arrow.RecordBatch) error {
	out, err := e.x.Convert(rec)
	if err != nil {
		return err
	}
	defer out.Release()
	return e.w.Write(out)
}

func (e *arrowEncoder) close() error { return e.w.Close() }

// groupRows and groupBytes bound a row group, and so what the Parquet encoder
// holds in memory.
const (
	groupRows  = 128 << 10
	groupBytes = 32 << 20
)

type parquetEncoder struct {
	x *schema.External
	w *pqarrow.FileWriter
}

func newParquetEncoder(w io.Writer, s *schema.Schema) (*parquetEncoder, error) {
	x := schema.NewExternal(s)
	props := parquet.NewWriterProperties(
		parquet.WithCompression(pqcompress.Codecs.Zstd), parquet.WithCompressionLevel(1),
		parquet.WithMaxRowGroupLength(groupRows), parquet.WithCreatedBy("thermocline"))
	fw, err := pqarrow.NewFileWriter(x.Schema(), writeOnly{w}, props, pqarrow.NewArrowWriterProperties(pqarrow.WithStoreSchema()))
	return &parquetEncoder{x: x, w: fw}, err
}

// writeOnly keeps the Parquet writer from closing what it writes to.
type writeOnly struct{ io.Writer }

func (e *parquetEncoder) write(rec arrow.RecordBatch) error {
	out, err := e.x.Convert(rec)
	if err != nil {
		return err
	}
	defer out.Release()
	if e.w.RowGroupTotalBytesWritten() >= groupBytes {
		e.w.NewBufferedRowGroup()
	}
	return e.w.WriteBuffered(out)
}

func (e *parquetEncoder) close() error { return e.w.Close() }
