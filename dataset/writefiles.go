package dataset

import (
	"bytes"
	"context"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/thermocline/thermocline/schema"
)

// maxTuples bounds the partitions that the rows of one WriteFiles may have: each is
// a file, and files are written one after the other. Rows of more than that go to
// files of no partition.
const maxTuples = 256

// WriteFiles writes rows, which it holds in memory, about three times over, to data
// files as the layout l says, which the table has: each partition has a file, and
// rows are sorted in it. name's ranges are those of all rows; each file has some of
// them. The batches have the schema s.WithSystem().Arrow() and are not kept.
//
// With rows of more than 256 partitions the files are of the unpartitioned spec:
// spread is true then. After an error there may be files that nothing names.
func (t *Table) WriteFiles(ctx context.Context, name FileName, s *schema.Schema, format Format, l *schema.Layout, batches []arrow.RecordBatch) (files []DataFile, spread bool, err error) {
	at, err := t.placementOf(l)
	if err != nil {
		return nil, false, err
	}
	w := layoutWriter{t: t, name: name, schema: s, format: format, layout: l, at: at}
	defer w.rows.drop()
	if err := w.fill(batches, l.Partitioning); err != nil {
		return nil, false, err
	}
	if w.tuples() > maxTuples {
		plain, err := t.plainPlacement()
		if err != nil {
			return nil, false, err
		}
		spread, w.at.spec = true, plain.spec
		w.rows.drop()
		w.rows = rowBuffer{}
		if err := w.fill(batches, nil); err != nil {
			return nil, false, err
		}
	}
	if err := w.rows.merge(); err != nil {
		return nil, false, err
	}
	files, err = w.write(ctx)
	return files, spread, err
}

// layoutWriter writes the rows of one call.
type layoutWriter struct {
	t         *Table
	name      FileName
	schema    *schema.Schema
	format    Format
	layout    *schema.Layout
	at        placement
	partition rowKey
	rows      rowBuffer
}

// fill sorts the rows by partition, then by the sort order, then by identity.
func (w *layoutWriter) fill(batches []arrow.RecordBatch, by []schema.PartitionField) error {
	all := w.schema.WithSystem()
	var err error
	if w.partition, err = partitionKey(all, &schema.Layout{Partitioning: by}); err != nil {
		return err
	}
	sorted, err := sortKey(all, w.layout.SortOrder)
	if err != nil {
		return err
	}
	identity, err := identityKey(all)
	if err != nil {
		return err
	}
	rest := rowKey{append(sorted.fields, identity.fields...)}
	b := &w.rows
	for _, batch := range batches {
		if batch.NumRows() == 0 {
			continue
		}
		file, err := w.partition.bind(batch)
		if err != nil {
			return err
		}
		order, err := rest.bind(batch)
		if err != nil {
			return err
		}
		b.hold(batch, 0)
		for row := range int(batch.NumRows()) {
			start := len(b.keys)
			b.keys = file.append(b.keys, row)
			group := len(b.keys) - start
			b.keys = order.append(b.keys, row)
			b.add(row, start, group)
		}
	}
	b.sort()
	return nil
}

// run is the end of the rows that go to the file of row i.
func (w *layoutWriter) run(i int) int {
	group := func(i int) []byte { return w.rows.key(i)[:w.rows.rows[i].group] }
	end := i + 1
	for end < len(w.rows.rows) && bytes.Equal(group(end), group(i)) {
		end++
	}
	return end
}

func (w *layoutWriter) tuples() int {
	n := 0
	for i := 0; i < len(w.rows.rows); i = w.run(i) {
		n++
	}
	return n
}

func (w *layoutWriter) write(ctx context.Context) ([]DataFile, error) {
	var out []DataFile
	for i := 0; i < len(w.rows.rows); {
		end := w.run(i)
		f, err := w.file(ctx, i, end)
		if err != nil {
			return nil, err
		}
		out, i = append(out, f), end
	}
	return out, nil
}

// file writes the rows [from, to), which are of one partition.
func (w *layoutWriter) file(ctx context.Context, from, to int) (f DataFile, err error) {
	at := w.at
	if len(w.partition.fields) > 0 {
		first, err := w.rows.take(ctx, from, from+1)
		if err != nil {
			return f, err
		}
		defer first.Release()
		values, err := w.partition.bind(first)
		if err != nil {
			return f, err
		}
		rows, err := icebergSchema(w.schema)
		if err != nil {
			return f, err
		}
		types := at.spec.PartitionType(rows)
		at.tuple = make(map[int]any, len(values))
		for i := range values {
			at.tuple[at.spec.Field(i).FieldID] = values[i].partitionValue(0, types.FieldList[i].Type)
		}
	}
	out, err := w.t.newStreamFile(ctx, w.name, w.schema, w.format, at)
	if err != nil {
		return f, err
	}
	defer out.Abort()
	for ; from < to; from += defaultBatchRows {
		rows, err := w.rows.take(ctx, from, min(from+defaultBatchRows, to))
		if err != nil {
			return f, err
		}
		err = out.Write(rows)
		rows.Release()
		if err != nil {
			return f, err
		}
	}
	return out.Close()
}
