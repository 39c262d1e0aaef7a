package dataset

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema/predicate"
)

// mayMatch tells by its bounds whether a file that is not there any more may have
// had rows that match.
func (e *eraser) mayMatch(t *Table, f iceberg.DataFile) bool {
	probe := e.probe(t)
	return probe.fileMayMatch(f)
}

// probe is a scanner that decides over files.
func (e *eraser) probe(t *Table) *scanner {
	s := &scanner{t: t, o: placedScan{ScanOptions: ScanOptions{Filter: e.primary}}, schema: e.want, filterColumns: map[int]*predicate.Column{}, filled: map[int]bool{}}
	filledFields(s.filled, e.want.Fields)
	for _, c := range e.primary.Columns() {
		s.filterColumns[c.ID] = &c
	}
	return s
}

// deleteFile is what takes the place of a position delete file: it names new
// files instead of old ones, and the places that rows have there. Files of one
// commit attempt that fails are orphans, or are found again by the next.
func (e *eraser) deleteFile(ctx context.Context, t *Table, entry iceberg.ManifestEntry) (*erasedFile, error) {
	f := entry.DataFile()
	if known := e.deletes[f.FilePath()]; known != nil {
		return known, nil
	}
	if f.FileFormat() != iceberg.ParquetFile {
		return nil, fmt.Errorf("deletes in %s (%s) are not read; rewrite the table's data files in the engine that wrote them: %w", f.FileFormat(), f.FilePath(), record.ErrInvalid)
	}
	byPath := deletes{}
	if err := (&scanner{t: t}).deleteFile(ctx, f, entry.SequenceNum(), byPath); err != nil {
		return nil, fmt.Errorf("read deletes %s: %w", f.FilePath(), corrupt(ctx, err))
	}
	out := &erasedFile{old: f}
	next := map[string][]int64{}
	changed := false
	for path, all := range byPath {
		data := e.files[path]
		for _, d := range all {
			if data == nil || !data.changed() {
				next[path] = append(next[path], d.positions...)
				continue
			}
			changed = true
			for _, p := range d.positions {
				before, erased := slices.BinarySearch(data.positions, p)
				if erased || data.new == nil {
					out.rows++
					continue
				}
				to := data.new.FilePath()
				next[to] = append(next[to], p-int64(before))
			}
		}
	}
	if changed {
		// It counts as changed even where all its rows stay.
		var err error
		if len(next) > 0 {
			if out.new, err = e.writeDeletes(ctx, t, f, next); err != nil {
				return nil, err
			}
		}
		out.moved = true
	}
	e.deletes[f.FilePath()] = out
	return out, nil
}

// writeDeletes writes a position delete file.
func (e *eraser) writeDeletes(ctx context.Context, t *Table, old iceberg.DataFile, byPath map[string][]int64) (iceberg.DataFile, error) {
	field := func(name string, dt arrow.DataType, id string) arrow.Field {
		return arrow.Field{Name: name, Type: dt, Metadata: arrow.NewMetadata([]string{"PARQUET:field_id"}, []string{id})}
	}
	s := arrow.NewSchema([]arrow.Field{
		field("file_path", arrow.BinaryTypes.String, fmt.Sprint(deletePathID)), field("pos", arrow.PrimitiveTypes.Int64, fmt.Sprint(deletePosID)),
	}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	defer b.Release()
	paths := slices.Sorted(maps.Keys(byPath))
	rows := int64(0)
	for _, path := range paths {
		positions := byPath[path]
		slices.Sort(positions)
		for _, p := range slices.Compact(positions) {
			b.Field(0).(*array.StringBuilder).Append(path)
			b.Field(1).(*array.Int64Builder).Append(p)
			rows++
		}
	}
	batch := b.NewRecordBatch()
	defer batch.Release()
	location := t.meta.Location() + "/data/" + newDeleteName()
	key, ok := t.d.key(location)
	if !ok {
		return nil, fmt.Errorf("%s lies outside of the store: %w", location, record.ErrInvalid)
	}
	out, err := t.d.store.Create(ctx, key)
	if err != nil {
		return nil, err
	}
	defer out.Abort()
	count := &counter{to: out}
	w, err := pqarrow.NewFileWriter(s, count, parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Zstd)), pqarrow.DefaultWriterProps())
	if err != nil {
		return nil, err
	}
	if err := w.WriteBuffered(batch); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := out.Commit(); err != nil {
		return nil, err
	}
	spec, err := specByID(t.meta, old.SpecID())
	if err != nil {
		return nil, err
	}
	d, err := iceberg.NewDataFileBuilder(spec, iceberg.EntryContentPosDeletes, location, iceberg.ParquetFile, old.Partition(), nil, nil, rows, count.n)
	if err != nil {
		return nil, err
	}
	// Bounds are whole: a cut path could leave files out.
	d.LowerBoundValues(map[int][]byte{deletePathID: []byte(paths[0])}).UpperBoundValues(map[int][]byte{deletePathID: []byte(paths[len(paths)-1])})
	return d.Build(), nil
}

// counter counts what is written.
type counter struct {
	to interface{ Write([]byte) (int, error) }
	n  int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	return n, err
}
