package dataset

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/schema"
)

// positions are rows of a data file by their place in it, in order.
type positions struct {
	file iceberg.DataFile
	spec iceberg.PartitionSpec // of the table, that file is partitioned by
	at   []int64
}

// deletesName begins the name of a position delete file of ours; it belongs to
// no view.
const deletesName = "v0-e0-deletes-"

// deleteSchema is what Iceberg prescribes for position delete files.
func deleteSchema() *schema.Schema {
	return &schema.Schema{Fields: []schema.Field{
		{ID: deletePathID, Name: "file_path", Type: schema.Type{Kind: schema.String}},
		{ID: deletePosID, Name: "pos", Type: schema.Type{Kind: schema.Long}},
	}}
}

// deleteBatch bounds the rows that are held beside the positions themselves.
const deleteBatch = 64 << 10

// writePositionDeletes makes a delete file, durable, that takes rows of one data
// file away. One for each: engines then find it by the path in its bounds. It has
// our checksums, so that a flipped bit brings no row back.
func (t *Table) writePositionDeletes(ctx context.Context, rows positions) (iceberg.DataFile, error) {
	id := newCheckedID()
	f := &newFile{
		table: t, id: id, schema: deleteSchema(),
		location: t.meta.Location() + "/data/" + deletesName + id.String() + ".parquet",
	}
	key, err := objstore.Key(t.d.store, f.location)
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	if f.out, err = t.d.store.Create(ctx, key); err != nil {
		return nil, fmt.Errorf("dataset: begin delete file: %w", err)
	}
	w, err := newParquetWriter(f)
	if err != nil {
		f.out.Abort()
		return nil, fmt.Errorf("dataset: begin delete file: %w", err)
	}
	defer w.Abort()
	b := array.NewRecordBuilder(memory.DefaultAllocator, f.schema.Arrow())
	defer b.Release()
	for part := range slices.Chunk(rows.at, deleteBatch) {
		for range part {
			b.Field(0).(*array.StringBuilder).Append(rows.file.FilePath())
		}
		b.Field(1).(*array.Int64Builder).AppendValues(part, nil)
		batch := b.NewRecordBatch()
		err := w.Write(batch)
		batch.Release()
		if err != nil {
			return nil, err
		}
	}
	done, err := w.Close()
	if err != nil {
		return nil, err
	}
	return asDeletes(done.file, rows)
}

// asDeletes describes a file of positions as what it is. Its bounds of paths are
// whole: by them engines know which data file it is about.
func asDeletes(f iceberg.DataFile, rows positions) (iceberg.DataFile, error) {
	b, err := iceberg.NewDataFileBuilder(rows.spec, iceberg.EntryContentPosDeletes, f.FilePath(), f.FileFormat(), rows.file.Partition(), nil, nil, f.Count(), f.FileSizeBytes())
	if err != nil {
		return nil, fmt.Errorf("dataset: describe delete file: %w", err)
	}
	path := []byte(rows.file.FilePath())
	lower, upper := maps.Clone(f.LowerBoundValues()), maps.Clone(f.UpperBoundValues())
	lower[deletePathID], upper[deletePathID] = path, path
	b.LowerBoundValues(lower).UpperBoundValues(upper).ColumnSizes(f.ColumnSizes()).ValueCounts(f.ValueCounts()).
		NullValueCounts(f.NullValueCounts()).SplitOffsets(f.SplitOffsets())
	return b.Build(), nil
}

// aboutFile is the data file that a delete file is about, if it is about one and
// says so.
func aboutFile(f iceberg.DataFile) (path string, ok bool) {
	if f.ContentType() != iceberg.EntryContentPosDeletes {
		return "", false
	}
	lower, upper := f.LowerBoundValues()[deletePathID], f.UpperBoundValues()[deletePathID]
	return string(lower), len(lower) > 0 && bytes.Equal(lower, upper)
}

// dropDeletes rewrites the manifests that name delete files about data files that
// go with this commit: without them each merge would leave some for good.
func (c *change) dropDeletes(ctx context.Context, gone func(path string) bool, manifests []iceberg.ManifestFile) ([]iceberg.ManifestFile, error) {
	out := make([]iceberg.ManifestFile, 0, len(manifests))
	for _, old := range manifests {
		if old.ManifestContent() != iceberg.ManifestContentDeletes || !live(old) {
			out = append(out, old)
			continue
		}
		entries, err := c.base.d.readEntries(ctx, old)
		if err != nil {
			return nil, err
		}
		dropped := func(e iceberg.ManifestEntry) bool {
			path, ok := aboutFile(e.DataFile())
			return ok && gone(path)
		}
		if !slices.ContainsFunc(entries, dropped) {
			out = append(out, old)
			continue
		}
		spec, err := specByID(c.base.meta, old.PartitionSpecID())
		if err != nil {
			return nil, err
		}
		m, err := c.newManifest(spec, iceberg.ManifestContentDeletes)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			write := m.w.Existing
			if dropped(e) {
				write = m.w.Delete
				c.summary.removed(e.DataFile())
			}
			if err := write(e); err != nil {
				return nil, fmt.Errorf("dataset: drop %s: %w", e.DataFile().FilePath(), err)
			}
		}
		f, err := c.finish(m, iceberg.ManifestContentDeletes)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}
