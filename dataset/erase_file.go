package dataset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/apache/iceberg-go"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/ocf"
	"github.com/thermocline/thermocline/schema/predicate"
)

// erasedFile is what was found out about a data file.
type erasedFile struct {
	rows int64 // that match
	// positions of these, ascending; only while delete files may need them.
	positions []int64
	old       iceberg.DataFile
	// new takes its place; nil: nothing is left. Meaningless while rows is 0.
	new iceberg.DataFile
	// moved: a delete file names files that have been replaced.
	moved bool
}

func (f *erasedFile) changed() bool { return f.rows > 0 || f.moved }

// matches reads a data file, rows that delete files name included: their bytes
// are there as well. It returns the positions of the rows that match, and notes
// their identities.
func (e *eraser) matches(ctx context.Context, t *Table, entry iceberg.ManifestEntry) ([]int64, error) {
	f := entry.DataFile()
	probe := e.probe(t)
	if !probe.fileMayMatch(f) {
		return nil, nil
	}
	var out []int64
	var sel predicate.Selection
	at := int64(0)
	one := func(context.Context) (fileSet, error) { return fileSet{data: []iceberg.ManifestEntry{entry}}, nil }
	for b, err := range t.stream(ctx, ScanOptions{Schema: e.want.WithSystem()}, one) {
		if err != nil {
			return nil, err
		}
		if err := e.primary.Filter(b, &sel); err != nil {
			return nil, err
		}
		if sel.Count() > 0 {
			n := int(b.NumCols())
			views, partitions := b.Column(n-4).(*array.Int32), b.Column(n-3).(*array.Int32)
			offsets := b.Column(n - 2).(*array.Int64)
			for i := range sel.Len() {
				if !sel.Has(i) {
					continue
				}
				out = append(out, at+int64(i))
				if v := views.Value(i); v > 0 && !views.IsNull(i) && !e.o.DryRun {
					if err := e.erased.add(record.ViewNumber(v), record.Partition(partitions.Value(i)), record.Offset(offsets.Value(i))); err != nil {
						return nil, err
					}
				}
			}
		}
		at += b.NumRows()
	}
	return out, nil
}

// without writes what is left of a data file into a new one, with the columns
// that the old one has, in the order that it has; nil if nothing is left.
func (e *eraser) without(ctx context.Context, t *Table, entry iceberg.ManifestEntry, positions []int64) (iceberg.DataFile, error) {
	f := entry.DataFile()
	if int64(len(positions)) == f.Count() {
		return nil, nil
	}
	candidates, err := e.written(ctx, t, f)
	if err != nil {
		return nil, err
	}
	var failed error
	for _, s := range candidates {
		out, err := e.rewrite(ctx, t, entry, s, positions)
		if err == nil {
			return describe(t, f, out)
		}
		if !errors.Is(err, record.ErrInvalid) {
			return nil, err
		}
		failed = err // a column of the file is of another type: an older or newer schema's
	}
	if failed == nil {
		failed = fmt.Errorf("no schema of the tables has its columns: %w", record.ErrInvalid)
	}
	return nil, failed
}

func (e *eraser) rewrite(ctx context.Context, t *Table, entry iceberg.ManifestEntry, s *schema.Schema, positions []int64) (iceberg.DataFile, error) {
	f := entry.DataFile()
	name, err := t.fullName(ctx, f)
	if err != nil {
		name = FileName{} // another engine's
	}
	format := Parquet
	if f.FileFormat() == iceberg.AvroFile {
		format = Avro
	}
	rows := s.WithSystem()
	begin := func() (FileWriter, error) { return t.NewFileWriter(ctx, name, s, format) }
	if t.plain() {
		rows, begin = s, func() (FileWriter, error) { return t.NewRowWriter(ctx, s, format) }
	}
	w, err := begin()
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	find := func(context.Context) (fileSet, error) {
		return fileSet{data: []iceberg.ManifestEntry{entry}, without: positions}, nil
	}
	for b, err := range t.stream(ctx, ScanOptions{Schema: rows}, find) {
		if err == nil {
			err = w.Write(b)
		}
		if err != nil {
			return nil, err
		}
	}
	if want := f.Count() - int64(len(positions)); w.Rows() != want {
		return nil, fmt.Errorf("%d rows are left of %d without %d: %w", w.Rows(), f.Count(), len(positions), record.ErrCorrupt)
	}
	out, err := w.Close()
	if err != nil {
		return nil, err
	}
	return out.file, nil
}

// describe is the manifest's description of a new file in the place of an old
// one, whose partition it has.
func describe(t *Table, old, now iceberg.DataFile) (iceberg.DataFile, error) {
	if old.SpecID() == now.SpecID() && len(old.Partition()) == 0 && old.SortOrderID() == nil {
		return now, nil
	}
	spec, err := specByID(t.meta, old.SpecID())
	if err != nil {
		return nil, err
	}
	b, err := iceberg.NewDataFileBuilder(spec, iceberg.EntryContentData, now.FilePath(), now.FileFormat(), old.Partition(), nil, nil, now.Count(), now.FileSizeBytes())
	if err != nil {
		return nil, err
	}
	b.LowerBoundValues(now.LowerBoundValues()).UpperBoundValues(now.UpperBoundValues())
	b.ColumnSizes(now.ColumnSizes()).ValueCounts(now.ValueCounts()).NullValueCounts(now.NullValueCounts()).SplitOffsets(now.SplitOffsets())
	if id := old.SortOrderID(); id != nil {
		b.SortOrderID(*id)
	}
	return b.Build(), nil
}

// written returns the schemas that a file may have been written with, the most
// likely first: those with its columns and no others, the oldest of them first.
func (e *eraser) written(ctx context.Context, t *Table, f iceberg.DataFile) ([]*schema.Schema, error) {
	ids, err := t.columnIDs(ctx, f)
	if err != nil {
		return nil, err
	}
	type candidate struct {
		s              *schema.Schema
		missing, extra int
	}
	var out []candidate
	for _, s := range e.schemas {
		c := candidate{s: s, missing: len(ids)}
		for _, id := range userIDs(nil, s.Fields) {
			if ids[id] {
				c.missing--
			} else {
				c.extra++
			}
		}
		if !slices.ContainsFunc(out, func(o candidate) bool { return o.s.Equal(s) }) {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b candidate) int { return (a.missing-b.missing)<<16 + a.extra - b.extra })
	list := make([]*schema.Schema, len(out))
	for i, c := range out {
		list[i] = c.s
	}
	return list, nil
}

// userIDs are the ids of fields, nested ones included.
func userIDs(out []int, fields []schema.Field) []int {
	for i := range fields {
		if f := &fields[i]; f.ID > 0 && !schema.IsSystemID(f.ID) {
			out = append(out, f.ID)
			out = partIDs(out, &f.Type)
		}
	}
	return out
}

func partIDs(out []int, t *schema.Type) []int {
	switch t.Kind {
	case schema.Array:
		return partIDs(append(out, t.Element.ID), &t.Element.Type)
	case schema.Map:
		return partIDs(append(out, t.KeyID, t.Value.ID), &t.Value.Type)
	case schema.Struct:
		return userIDs(out, t.Fields)
	}
	return out
}

// columnIDs are the field ids of a data file, nested ones included, without the
// system columns.
func (t *Table) columnIDs(ctx context.Context, f iceberg.DataFile) (ids map[int]bool, err error) {
	defer guard(&err)
	o, err := t.d.openData(ctx, f.FilePath(), f.FileSizeBytes())
	if err != nil {
		return nil, err
	}
	defer o.Close()
	ids = map[int]bool{}
	switch f.FileFormat() {
	case iceberg.AvroFile:
		file, err := ocf.NewReader(io.NewSectionReader(storeReader{o}, 0, o.Size()))
		if err != nil {
			return nil, damaged(ctx, err)
		}
		foreign, err := schema.CompileForeignAvro(file.Schema())
		if err != nil {
			return nil, err
		}
		for _, id := range userIDs(nil, foreign.Schema().Fields) {
			ids[id] = true
		}
	case iceberg.ParquetFile:
		pf, err := openParquet(o)
		if err != nil {
			return nil, corrupt(ctx, err)
		}
		fr, err := newArrowReader(pf)
		if err != nil {
			return nil, corrupt(ctx, err)
		}
		parquetIDs(ids, fr.Manifest.Fields, newNames(t.mapping(), pf.MetaData()))
	default:
		return nil, fmt.Errorf("files of format %s are not read: %w", f.FileFormat(), record.ErrInvalid)
	}
	return ids, nil
}

func parquetIDs(ids map[int]bool, fields []pqarrow.SchemaField, n names) {
	for i := range fields {
		f := &fields[i]
		if id := n.id(*f.Field); id > 0 && !schema.IsSystemID(id) {
			ids[id] = true
		}
		parquetIDs(ids, f.Children, n.in(f.Field.Name))
	}
}

// newDeleteName names a delete file of ours.
func newDeleteName() string { return uuid.NewString() + "-deletes.parquet" }
