package dataset

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Format is the format of data files.
type Format string

const (
	// Parquet is the default: columns, statistics, read by every engine.
	Parquet Format = "PARQUET"
	// Avro files are read by Spark, Trino, Flink and by us; not by PyIceberg
	// and DuckDB.
	Avro Format = "AVRO"
)

// FileWriter writes one data file. It is not safe for concurrent use. End it
// with Close or Abort; Abort after Close does nothing.
type FileWriter interface {
	// Write appends the rows of a batch, whose schema is the storage form
	// (s.WithSystem().Arrow()). The batch is not kept. An error ends the file.
	Write(batch arrow.RecordBatch) error
	// Size is about how large the file is so far, in bytes.
	Size() int64
	// Rows is the number of rows so far.
	Rows() int64
	// Close makes the file durable. It becomes part of the table only by a
	// Commit. On an error it may exist all the same, unreferenced.
	Close() (DataFile, error)
	// Abort drops the file.
	Abort()
}

// DataFile is a durable file that can be committed to its table.
type DataFile struct {
	file  iceberg.DataFile
	table uuid.UUID
	// byName: it has no field ids, so that the table needs a name mapping.
	byName bool
}

// Path is the URI of the file.
func (f DataFile) Path() string { return f.file.FilePath() }

// Rows is the number of rows in the file.
func (f DataFile) Rows() int64 { return f.file.Count() }

// Bytes is the size of the file.
func (f DataFile) Bytes() int64 { return f.file.FileSizeBytes() }

// Info describes the file as Files does.
func (f DataFile) Info() FileInfo { return fileInfo(f.file, 0, 0) }

// fits refuses files of another table: after a drop and a new creation under
// the same name, a late commit must not bring the old table's rows.
func (f DataFile) fits(t *Table) error {
	if f.file == nil || f.table != t.meta.TableUUID() {
		return fmt.Errorf("dataset: commit to table %s: a file was written for table %s: %w", t.id, f.table, record.ErrInvalid)
	}
	return nil
}

// Keys of the metadata in data files.
const (
	fileViewKey   = "thermocline.view"
	fileEpochKey  = "thermocline.epoch"
	fileRangesKey = "thermocline.ranges"
)

// NewFileWriter begins a data file of t for rows with the user's fields of s
// and the system columns, in the order in which they are written and whatever
// their partition: under the unpartitioned spec. WriteFiles heeds a layout.
func (t *Table) NewFileWriter(ctx context.Context, name FileName, s *schema.Schema, format Format) (FileWriter, error) {
	plain, err := t.plainPlacement()
	if err != nil {
		return nil, err
	}
	return t.newStreamFile(ctx, name, s, format, plain)
}

// newStreamFile begins a file with the system columns.
func (t *Table) newStreamFile(ctx context.Context, name FileName, s *schema.Schema, format Format, at placement) (FileWriter, error) {
	if err := name.check(); err != nil {
		return nil, err
	}
	if _, err := icebergSchema(s); err != nil {
		return nil, err
	}
	return t.newFileWriter(ctx, name, s.WithSystem(), true, format, at)
}

// NewRowWriter begins a data file of t for rows with the user's fields of s alone,
// which belong to no stream: a batch's schema is s.Arrow().
func (t *Table) NewRowWriter(ctx context.Context, s *schema.Schema, format Format) (FileWriter, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if field := missingID(s.Fields); field != "" {
		return nil, fmt.Errorf("dataset: field %q has no id; assign ids first: %w", field, record.ErrInvalid)
	}
	plain, err := t.plainPlacement()
	if err != nil {
		return nil, err
	}
	return t.newFileWriter(ctx, FileName{}, s, false, format, plain)
}

// newFileWriter begins a data file with the columns of s; system: the system
// columns are among them.
func (t *Table) newFileWriter(ctx context.Context, name FileName, s *schema.Schema, system bool, format Format, at placement) (FileWriter, error) {
	ending, begin := "", newParquetWriter
	switch format {
	case Parquet, "":
		ending = ".parquet"
	case Avro:
		ending, begin = ".avro", newAvroWriter
	default:
		return nil, fmt.Errorf("dataset: data file format %q is neither %s nor %s: %w", format, Parquet, Avro, record.ErrInvalid)
	}
	ranges, err := json.Marshal(name.Ranges)
	if err != nil {
		return nil, fmt.Errorf("dataset: file name: %w", err)
	}
	id := newCheckedID()
	f := &newFile{
		table:    t,
		at:       at,
		id:       id,
		location: t.meta.Location() + "/data/" + name.format(id) + ending,
		schema:   s,
		system:   system,
		meta: map[string]string{
			fileViewKey:   strconv.Itoa(int(name.View)),
			fileEpochKey:  strconv.FormatInt(name.Epoch, 10),
			fileRangesKey: string(ranges),
		},
	}
	key, err := objstore.Key(t.d.store, f.location)
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	if f.out, err = t.d.store.Create(ctx, key); err != nil {
		return nil, fmt.Errorf("dataset: begin data file: %w", err)
	}
	w, err := begin(f)
	if err != nil {
		f.out.Abort()
		return nil, fmt.Errorf("dataset: begin data file: %w", err)
	}
	return w, nil
}

// newFile is a data file in the making, of either format.
type newFile struct {
	table    *Table
	at       placement
	id       uuid.UUID // in the name
	location string
	schema   *schema.Schema // of all columns
	system   bool           // it ends with the system columns
	meta     map[string]string
	out      objstore.Writer
	bytes    int64
	sums     sums
}

// Write takes what the format's writer writes, as far as it has checksums.
func (f *newFile) Write(p []byte) (int, error) {
	n, err := f.out.Write(p)
	f.bytes += int64(n)
	f.sums.write(p[:n])
	return n, err
}

// writeEnd writes what stands behind the rows, with the table of checksums in
// it: before it, and after it.
func (f *newFile) writeEnd(before, after []byte) error {
	end := append(before, f.sums.table(f.id, f.bytes, len(before)+len(after))...)
	at := len(end)
	end = append(end, after...)
	seal(end, at)
	n, err := f.out.Write(end)
	f.bytes += int64(n)
	return err
}

// checkBatch refuses what would be written wrongly in silence.
func checkBatch(want *arrow.Schema, batch arrow.RecordBatch) error {
	if !batch.Schema().Equal(want) {
		return fmt.Errorf("dataset: a batch has the schema %s, the file %s: %w", batch.Schema(), want, record.ErrInvalid)
	}
	for i, f := range want.Fields() {
		if n := batch.Column(i).NullN(); n > 0 && !f.Nullable {
			return fmt.Errorf("dataset: column %q is not nullable and has %d nulls: %w", f.Name, n, record.ErrInvalid)
		}
	}
	return nil
}

// finish makes the file durable and describes it.
func (f *newFile) finish(format iceberg.FileFormat, rows int64, m metrics) (DataFile, error) {
	if err := f.out.Commit(); err != nil {
		return DataFile{}, fmt.Errorf("dataset: end data file: %w", err)
	}
	return f.table.describeAt(f.location, format, rows, f.bytes, m, f.at)
}

// describe is the manifest's entry for a data file of the unpartitioned spec.
func (t *Table) describe(location string, format iceberg.FileFormat, rows, bytes int64, m metrics) (DataFile, error) {
	plain, err := t.plainPlacement()
	if err != nil {
		return DataFile{}, err
	}
	return t.describeAt(location, format, rows, bytes, m, plain)
}

// describeAt is the manifest's entry for a data file.
func (t *Table) describeAt(location string, format iceberg.FileFormat, rows, bytes int64, m metrics, at placement) (DataFile, error) {
	b, err := iceberg.NewDataFileBuilder(at.spec, iceberg.EntryContentData, location, format, at.tuple, nil, nil, rows, bytes)
	if err != nil {
		return DataFile{}, fmt.Errorf("dataset: describe data file: %w", err)
	}
	b.LowerBoundValues(m.lower).UpperBoundValues(m.upper)
	if len(m.sizes) > 0 {
		b.ColumnSizes(m.sizes)
	}
	if len(m.values) > 0 {
		b.ValueCounts(m.values).NullValueCounts(m.nulls)
	}
	if len(m.splits) > 0 {
		b.SplitOffsets(m.splits)
	}
	if at.order > 0 {
		b.SortOrderID(at.order)
	}
	return DataFile{file: b.Build(), table: t.meta.TableUUID()}, nil
}

// metrics of a data file by field id, as they stand in manifests.
type metrics struct {
	sizes, values, nulls map[int]int64
	lower, upper         map[int][]byte
	splits               []int64
}
