package dataset

import (
	"fmt"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/ocf"
)

// avroWriter writes an object container file, zstd compressed, with Iceberg's
// field ids in the schema. Avro has no statistics: the manifest gets bounds of
// the system columns only.
type avroWriter struct {
	f      *newFile
	arrow  *arrow.Schema
	encode *schema.ArrowToAvro
	w      *ocf.Writer
	row    []byte
	rows   int64
	system [4]columnRange // of the system columns
	done   bool
}

func newAvroWriter(f *newFile) (FileWriter, error) {
	a := &avroWriter{f: f, arrow: f.schema.Arrow()}
	var err error
	// A row may take what a batch may; the limit on rows is that of publishing.
	if a.encode, err = schema.CompileArrowToAvro(a.arrow, f.schema, schema.ArrowOptions{ByID: true, MaxRowBytes: record.MaxBatchBytes}); err != nil {
		return nil, fmt.Errorf("begin Avro: %w", err)
	}
	if a.w, err = ocf.NewWriter(f, f.schema.Avro(), ocf.Zstd, f.meta); err != nil {
		return nil, fmt.Errorf("begin Avro: %w", err)
	}
	for i := range a.system {
		a.system[i].empty = true
	}
	return a, nil
}

func (a *avroWriter) Write(batch arrow.RecordBatch) error {
	if a.done {
		return fmt.Errorf("dataset: write %s: the file is finished: %w", a.f.location, record.ErrClosed)
	}
	if err := checkBatch(a.arrow, batch); err != nil {
		return err
	}
	if batch.NumRows() == 0 {
		return nil
	}
	rows, err := a.encode.Bind(batch)
	if err != nil {
		return fmt.Errorf("dataset: write %s: %w", a.f.location, err)
	}
	for i := range rows.Len() {
		if a.row, err = rows.Row(a.row[:0], i); err != nil {
			return fmt.Errorf("dataset: write %s, row %d: %w", a.f.location, a.rows+int64(i), err)
		}
		if err := a.w.Append(a.row); err != nil {
			return fmt.Errorf("dataset: write %s: %w", a.f.location, err)
		}
	}
	a.rows += batch.NumRows()
	if !a.f.system {
		return nil
	}
	first := int(batch.NumCols()) - 4
	a.system[0] = a.system[0].join(schema.Integer, rangeOf(batch.Column(first).(*array.Int32).Int32Values()))
	a.system[1] = a.system[1].join(schema.Integer, rangeOf(batch.Column(first+1).(*array.Int32).Int32Values()))
	a.system[2] = a.system[2].join(schema.Long, rangeOf(batch.Column(first+2).(*array.Int64).Int64Values()))
	a.system[3] = a.system[3].join(schema.Timestamp, rangeOf(batch.Column(first+3).(*array.Timestamp).TimestampValues()))
	return nil
}

func rangeOf[T int32 | int64 | arrow.Timestamp](values []T) columnRange {
	lo, hi := slices.Min(values), slices.Max(values)
	return columnRange{values: int64(len(values)), nullsKnown: true, bounded: true, lower: bound{i: int64(lo)}, upper: bound{i: int64(hi)}}
}

func (a *avroWriter) Size() int64 { return a.f.bytes }

func (a *avroWriter) Rows() int64 { return a.rows }

func (a *avroWriter) Close() (DataFile, error) {
	if a.done {
		return DataFile{}, fmt.Errorf("dataset: close %s: the file is finished: %w", a.f.location, record.ErrClosed)
	}
	defer a.Abort()
	if err := a.w.Close(); err != nil {
		return DataFile{}, fmt.Errorf("dataset: end %s: %w", a.f.location, err)
	}
	before, after := a.w.Annex(a.f.sums.size())
	if err := a.f.writeEnd(before, after); err != nil {
		return DataFile{}, fmt.Errorf("dataset: end %s: %w", a.f.location, err)
	}
	m := metrics{values: map[int]int64{}, nulls: map[int]int64{}, lower: map[int][]byte{}, upper: map[int][]byte{}}
	for i, k := range []schema.Kind{schema.Integer, schema.Integer, schema.Long, schema.Timestamp} {
		if r := a.system[i]; r.bounded {
			id := schema.ViewID + i
			m.values[id], m.nulls[id] = r.values, 0
			m.lower[id], m.upper[id] = encodeBound(k, r.lower, false), encodeBound(k, r.upper, true)
		}
	}
	return a.f.finish(iceberg.AvroFile, a.rows, m)
}

func (a *avroWriter) Abort() {
	if !a.done {
		a.done = true
		a.f.out.Abort()
	}
}
