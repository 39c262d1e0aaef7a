package dataset

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Limits of ImportParquet.
const (
	// MaxImportBytes bounds a file.
	MaxImportBytes = 2 << 30
	// maxFooterBytes bounds its footer, which is what it holds in memory.
	maxFooterBytes = 8 << 20
	magicBytes     = 4
)

// ImportParquet stores a Parquet file that somebody else wrote as a data file of
// t. Its rows and its footer stay byte for byte as they are; between them it gets
// our checksums (checksum.go), which other readers pass over. Columns are found by
// field ids, or, where the file has none, by the table's name mapping; all of
// them must be in the table's schema, and required ones must be there without
// nulls. (A table without a mapping gets that of its schema, with the commit.) The whole file is decoded once, so that what is committed can be read. It
// holds some megabytes in memory, whatever the file's size.
//
// ErrInvalid: the file is no sound Parquet, or does not fit the table; the error
// names the column. ErrTooLarge: see MaxImportBytes. After an error the file does
// not exist, or nothing names it.
func (t *Table) ImportParquet(ctx context.Context, r io.Reader) (DataFile, error) {
	want, err := schema.FromIceberg(t.Schema())
	if err != nil {
		return DataFile{}, fmt.Errorf("dataset: import into table %s, whose rows we could not read back: %w", t.id, err)
	}
	id := newCheckedID()
	f := &newFile{table: t, id: id, location: t.meta.Location() + "/data/" + FileName{}.format(id) + ".parquet"}
	key, err := objstore.Key(t.d.store, f.location)
	if err != nil {
		return DataFile{}, fmt.Errorf("dataset: %w", err)
	}
	if f.out, err = t.d.store.Create(ctx, key); err != nil {
		return DataFile{}, fmt.Errorf("dataset: begin data file: %w", err)
	}
	defer f.out.Abort()
	if err := f.take(ctx, r); err != nil {
		return DataFile{}, fmt.Errorf("dataset: import into table %s: %w", t.id, err)
	}
	if err := f.out.Commit(); err != nil {
		return DataFile{}, fmt.Errorf("dataset: end data file: %w", err)
	}
	// A crash from here on leaves an orphan.
	out, err := t.examine(ctx, want, f)
	if err != nil {
		t.d.remove(context.WithoutCancel(ctx), []string{f.location})
		return DataFile{}, fmt.Errorf("dataset: import into table %s: %w", t.id, foreignFault(err))
	}
	return out, nil
}

// foreignFault: what is damaged in a file that was just sent is the sender's fault.
func foreignFault(err error) error {
	if errors.Is(err, record.ErrCorrupt) {
		return fmt.Errorf("the file is no sound Parquet: %s: %w", err.Error(), record.ErrInvalid)
	}
	return err
}

// take copies the file, and puts the checksums before its footer.
func (f *newFile) take(ctx context.Context, r io.Reader) error {
	// The end is held back, until it is known to be no part of the rows.
	const hold = maxFooterBytes + parquetTail
	buf := make([]byte, 0, 1<<20)
	total := int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(buf) == cap(buf) {
			if cap(buf) < 2*hold {
				grown := make([]byte, len(buf), min(2*cap(buf), 2*hold))
				copy(grown, buf)
				buf = grown
			} else {
				if _, err := f.Write(buf[:len(buf)-hold]); err != nil {
					return err
				}
				buf = buf[:copy(buf, buf[len(buf)-hold:])]
			}
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		if total == 0 && n >= magicBytes && string(buf[:magicBytes]) != "PAR1" {
			return fmt.Errorf("the file does not begin with \"PAR1\": it is no Parquet file, or an encrypted one: %w", record.ErrInvalid)
		}
		buf = buf[:len(buf)+n]
		if total += int64(n); total > MaxImportBytes {
			return fmt.Errorf("the file is larger than %d bytes; send several: %w", int64(MaxImportBytes), record.ErrTooLarge)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if len(buf) < magicBytes+parquetTail || string(buf[len(buf)-magicBytes:]) != "PAR1" {
		return fmt.Errorf("%d bytes that do not end with \"PAR1\": it is no whole Parquet file: %w", total, record.ErrInvalid)
	}
	length := int64(binary.LittleEndian.Uint32(buf[len(buf)-parquetTail:])) + parquetTail
	if length > maxFooterBytes+parquetTail || length > int64(len(buf))-magicBytes {
		return fmt.Errorf("a footer of %d bytes in a file of %d; at most %d are allowed: %w", length, total, maxFooterBytes, record.ErrInvalid)
	}
	footer := buf[len(buf)-int(length):]
	if _, err := f.Write(buf[:len(buf)-int(length)]); err != nil {
		return err
	}
	return f.writeEnd(nil, footer)
}

// examine decides whether the file at f fits the table, and describes it.
func (t *Table) examine(ctx context.Context, want *schema.Schema, f *newFile) (DataFile, error) {
	o, err := t.d.openData(ctx, f.location, f.bytes)
	if err != nil {
		return DataFile{}, err
	}
	defer o.Close()
	pf, err := openParquet(o)
	if err != nil {
		return DataFile{}, corrupt(ctx, fmt.Errorf("read the footer: %w", err))
	}
	fr, err := newArrowReader(pf)
	if err != nil {
		return DataFile{}, corrupt(ctx, fmt.Errorf("read the schema: %w", err))
	}
	cols, byName, err := t.fitColumns(want, pf, fr.Manifest)
	if err != nil {
		return DataFile{}, err
	}
	if err := noNulls(cols, pf); err != nil {
		return DataFile{}, err
	}
	leaves := make([]leaf, len(cols))
	for i, c := range cols {
		leaves[i] = c.leaf
	}
	m, err := parquetMetrics(leaves, pf.MetaData())
	if err != nil {
		return DataFile{}, corrupt(ctx, err)
	}
	out, err := t.describe(f.location, iceberg.ParquetFile, pf.NumRows(), f.bytes, m)
	if err != nil {
		return DataFile{}, err
	}
	out.byName = byName
	return out, t.readable(ctx, want, out)
}

// readable decodes the whole file.
func (t *Table) readable(ctx context.Context, want *schema.Schema, f DataFile) error {
	snapshot, sequence := int64(0), int64(0)
	entry := iceberg.NewManifestEntry(iceberg.EntryStatusEXISTING, &snapshot, &sequence, nil, f.file)
	rows := int64(0)
	for b, err := range t.stream(ctx, ScanOptions{Schema: want}, func(context.Context) (fileSet, error) {
		return fileSet{data: []iceberg.ManifestEntry{entry}}, nil
	}) {
		if err != nil {
			return err
		}
		rows += b.NumRows()
	}
	if rows != f.Rows() {
		return fmt.Errorf("the file holds %d rows, its footer says %d: %w", rows, f.Rows(), record.ErrCorrupt)
	}
	return nil
}

// importColumn is a leaf column of a file that is imported.
type importColumn struct {
	leaf
	path     string
	required bool
}

// fitColumns finds what each column of a file is in the table's schema, in the
// order of the file.
func (t *Table) fitColumns(want *schema.Schema, pf *file.Reader, m *pqarrow.SchemaManifest) (cols []importColumn, byName bool, err error) {
	n := newNames(t.mapping(), pf.MetaData())
	f := fitting{cols: make([]importColumn, pf.MetaData().Schema.NumColumns())}
	have := make([]arrow.Field, len(m.Fields))
	for i := range m.Fields {
		have[i] = *m.Fields[i].Field
	}
	// What a scan will do with the file; it names columns that it cannot read.
	p, err := compileProjection(want, arrow.NewSchema(have, nil), n)
	if err != nil {
		return nil, false, err
	}
	p.release()
	return f.cols, n.byName, f.fields("", want.Fields, m.Fields, n, false)
}

type fitting struct{ cols []importColumn }

// fields relates columns to fields of one level.
func (f *fitting) fields(path string, want []schema.Field, have []pqarrow.SchemaField, n names, repeated bool) error {
	seen := map[int]bool{}
	for i := range have {
		name := have[i].Field.Name
		at := -1
		for j := range want {
			if want[j].ID == n.id(*have[i].Field) {
				at = j
			}
		}
		if at < 0 {
			return fmt.Errorf("column %q of the file is not in the dataset's schema; add it there first, or leave it out: %w", joined(path, name), record.ErrInvalid)
		}
		if seen[want[at].ID] {
			return fmt.Errorf("column %q of the file is there twice: %w", joined(path, name), record.ErrInvalid)
		}
		seen[want[at].ID] = true
		if err := f.field(joined(path, want[at].Name), &want[at], &have[i], n.in(name), repeated); err != nil {
			return err
		}
	}
	for i := range want {
		if !seen[want[i].ID] && !want[i].Nullable && want[i].Default == nil {
			return fmt.Errorf("column %q is required and not in the file: %w", joined(path, want[i].Name), record.ErrInvalid)
		}
	}
	return nil
}

func joined(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// field relates one column, whose type the projection has found to fit; n is the
// level below.
func (f *fitting) field(path string, want *schema.Field, have *pqarrow.SchemaField, n names, repeated bool) error {
	if !have.IsLeaf() && !want.Nullable && have.Field.Nullable {
		return fmt.Errorf("column %q is required, but optional in the file; write it as required: %w", path, record.ErrInvalid)
	}
	switch {
	case want.Type.Kind == schema.Struct:
		return f.fields(path, want.Type.Fields, have.Children, n, repeated)
	case want.Type.Kind == schema.Array && len(have.Children) == 1:
		e := &have.Children[0]
		return f.field(joined(path, "element"), want.Type.Element, e, n.in(e.Field.Name), true)
	case want.Type.Kind == schema.Map && len(have.Children) == 1 && len(have.Children[0].Children) == 2:
		kv := have.Children[0].Children
		f.cols[kv[0].ColIndex] = importColumn{leaf{want.Type.KeyID, schema.String, true}, joined(path, "key"), true}
		return f.field(joined(path, "value"), want.Type.Value, &kv[1], n.in("value"), true)
	case have.IsLeaf():
		f.cols[have.ColIndex] = importColumn{leaf{want.ID, want.Type.Kind, repeated}, path, !want.Nullable}
		return nil
	}
	return fmt.Errorf("column %q of the file has a form that is not read: %w", path, record.ErrInvalid)
}

// noNulls refuses nulls where the schema allows none; reading would put a default
// in their place.
func noNulls(cols []importColumn, pf *file.Reader) error {
	meta := pf.MetaData()
	for i, c := range cols {
		// A leaf that is there whenever its parents are has the definition level
		// of theirs; in doubt the statistics decide.
		if !c.required || meta.Schema.Column(i).SchemaNode().RepetitionType() == parquet.Repetitions.Required {
			continue
		}
		for rg := range meta.NumRowGroups() {
			r := chunkRange(c.kind, meta, rg, i)
			switch {
			case c.repeated:
				// Statistics count the empty lists too.
				return fmt.Errorf("column %q is required, but optional in the file; write it as required: %w", c.path, record.ErrInvalid)
			case !r.nullsKnown:
				return fmt.Errorf("column %q is required, and the file does not tell whether it has nulls; write statistics, or write it as required: %w", c.path, record.ErrInvalid)
			case r.nulls > 0:
				return fmt.Errorf("column %q is required, and the file has %d nulls in it: %w", c.path, r.nulls, record.ErrInvalid)
			}
		}
	}
	return nil
}
