package dataset

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// A row group is what a reader decodes at a time and what the writer holds in
// memory: rows and bytes (before encoding) end it, whichever comes first.
const (
	rowGroupRows  = 1 << 20
	rowGroupBytes = 128 << 20
)

// maxStatBytes bounds a minimum or maximum in the footer. Longer ones are left
// out, not cut, because Parquet cannot say that they are cut.
const maxStatBytes = 1 << 10

type parquetWriter struct {
	f       *newFile
	arrow   *arrow.Schema
	w       *pqarrow.FileWriter
	last    lastWrites
	rows    int64
	pending int64 // bytes in the open row group, before encoding
	full    bool
	widest  int64 // see rowBytesKey
	done    bool
}

func newParquetWriter(f *newFile) (FileWriter, error) {
	props := parquet.NewWriterProperties(append(f.table.bloomProperties(f.schema),
		parquet.WithCompression(compress.Codecs.Zstd),
		parquet.WithCompressionLevel(1),
		parquet.WithMaxRowGroupLength(f.table.d.rowGroupRows),
		parquet.WithMaxStatsSize(maxStatBytes),
		parquet.WithStats(true),
		// Decimals as int32, int64 or fixed, by precision, as Iceberg wants.
		parquet.WithStoreDecimalAsInteger(true),
		parquet.WithCreatedBy("thermocline"),
		// Ascending, or nearly: some bits a row.
		parquet.WithDictionaryFor(schema.OffsetColumn, false),
		parquet.WithEncodingFor(schema.OffsetColumn, parquet.Encodings.DeltaBinaryPacked),
		parquet.WithDictionaryFor(schema.TimestampColumn, false),
		parquet.WithEncodingFor(schema.TimestampColumn, parquet.Encodings.DeltaBinaryPacked),
	)...)
	p := &parquetWriter{f: f, arrow: f.schema.Arrow(), last: lastWrites{to: f}}
	w, err := pqarrow.NewFileWriter(p.arrow, &p.last, props, pqarrow.DefaultWriterProps())
	if err != nil {
		return nil, fmt.Errorf("begin Parquet: %w", err)
	}
	for _, k := range slices.Sorted(maps.Keys(f.meta)) {
		if err := w.AppendKeyValueMetadata(k, f.meta[k]); err != nil {
			return nil, fmt.Errorf("begin Parquet: %w", err)
		}
	}
	p.w = w
	return p, nil
}

func (p *parquetWriter) Write(batch arrow.RecordBatch) error {
	if p.done {
		return fmt.Errorf("dataset: write %s: the file is finished: %w", p.f.location, record.ErrClosed)
	}
	if err := checkBatch(p.arrow, batch); err != nil {
		return err
	}
	if batch.NumRows() == 0 {
		return nil
	}
	if p.full {
		if err := p.w.NewBufferedRowGroupChecked(); err != nil {
			return fmt.Errorf("dataset: write %s: %w", p.f.location, err)
		}
		p.full, p.pending = false, 0
	}
	if err := p.w.WriteBuffered(batch); err != nil {
		return fmt.Errorf("dataset: write %s: %w", p.f.location, err)
	}
	p.rows += batch.NumRows()
	size := int64(0)
	for _, c := range batch.Columns() {
		size += memoryBytes(c)
	}
	p.pending += size
	p.widest = max(p.widest, size/batch.NumRows())
	p.full = p.pending >= rowGroupBytes
	return nil
}

func (p *parquetWriter) Size() int64 {
	if p.done {
		return p.f.bytes
	}
	return p.f.bytes + p.w.RowGroupTotalCompressedBytes()
}

func (p *parquetWriter) Rows() int64 { return p.rows }

func (p *parquetWriter) Close() (DataFile, error) {
	if p.done {
		return DataFile{}, fmt.Errorf("dataset: close %s: the file is finished: %w", p.f.location, record.ErrClosed)
	}
	defer p.Abort()
	p.last.hold = true
	if err := p.w.AppendKeyValueMetadata(rowBytesKey, strconv.FormatInt(p.widest, 10)); err != nil {
		return DataFile{}, fmt.Errorf("dataset: end %s: %w", p.f.location, err)
	}
	if err := p.w.Close(); err != nil {
		return DataFile{}, fmt.Errorf("dataset: end %s: %w", p.f.location, err)
	}
	footer, err := p.last.footer()
	if err != nil {
		return DataFile{}, fmt.Errorf("dataset: end %s: %w", p.f.location, err)
	}
	if err := p.f.writeEnd(nil, footer); err != nil {
		return DataFile{}, fmt.Errorf("dataset: end %s: %w", p.f.location, err)
	}
	meta, err := p.w.FileMetadata()
	if err != nil {
		return DataFile{}, fmt.Errorf("dataset: end %s: %w", p.f.location, err)
	}
	if meta.NumRows != p.rows {
		return DataFile{}, fmt.Errorf("dataset: end %s: the footer counts %d rows, %d were written", p.f.location, meta.NumRows, p.rows)
	}
	m, err := parquetMetrics(leaves(p.f.schema), meta)
	if err != nil {
		return DataFile{}, fmt.Errorf("dataset: end %s: %w", p.f.location, err)
	}
	return p.f.finish(iceberg.ParquetFile, p.rows, m)
}

func (p *parquetWriter) Abort() {
	if !p.done {
		p.done = true
		p.f.out.Abort()
	}
}

// lastWrites keeps the library's last writes back, so that the checksums can
// stand before the footer. The library writes the rows of the last row group,
// then the footer, its length and the magic, one write each.
type lastWrites struct {
	to   *newFile
	hold bool
	held [3][]byte // oldest first
}

func (l *lastWrites) Write(p []byte) (int, error) {
	if !l.hold {
		return l.to.Write(p)
	}
	oldest := l.held[0]
	if _, err := l.to.Write(oldest); err != nil {
		return 0, err
	}
	copy(l.held[:], l.held[1:])
	l.held[2] = append(oldest[:0], p...)
	return len(p), nil
}

// footer returns the footer with its length and the magic, and makes sure that
// they are what was held.
func (l *lastWrites) footer() ([]byte, error) {
	footer, length, magic := l.held[0], l.held[1], l.held[2]
	if len(length) != 4 || int(binary.LittleEndian.Uint32(length)) != len(footer) || string(magic) != "PAR1" {
		return nil, fmt.Errorf("the Parquet library did not end with a footer of %d bytes, its length and the magic", len(footer))
	}
	return slices.Concat(footer, length, magic), nil
}
