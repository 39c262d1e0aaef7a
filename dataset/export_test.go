package dataset

import (
	"context"
	"encoding/binary"
	"path"
	"strings"

	"github.com/apache/iceberg-go"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// SetRowGroupRows makes row groups small enough for tests.
func (d *Datasets) SetRowGroupRows(n int64) { d.rowGroupRows = n }

// WithoutChecksums copies a file into one as versions without checksums wrote it.
func (t *Table) WithoutChecksums(ctx context.Context, f DataFile) (DataFile, error) {
	key, err := objstore.Key(t.d.store, f.Path())
	if err != nil {
		return DataFile{}, err
	}
	data, err := objstore.Get(ctx, t.d.store, key, 1<<24)
	if err != nil {
		return DataFile{}, err
	}
	at := strings.LastIndex(string(data), string(sumMagic[:]))
	begin, after := int(binary.BigEndian.Uint64(data[at+24:])), data[at+trailerSize:]
	if path.Ext(key) == ".avro" {
		after = nil
	}
	data = append(data[:begin:begin], after...)
	id, _ := checkedID(key)
	location := strings.Replace(f.Path(), id.String(), uuid.NewString(), 1)
	if err := t.d.put(ctx, location, data); err != nil {
		return DataFile{}, err
	}
	b, err := iceberg.NewDataFileBuilder(*iceberg.UnpartitionedSpec, iceberg.EntryContentData, location, f.file.FileFormat(), nil, nil, nil, f.Rows(), int64(len(data)))
	if err != nil {
		return DataFile{}, err
	}
	return DataFile{file: b.Build(), table: f.table}, nil
}

// Candidate is a file to plan a compaction with.
type Candidate struct {
	View            record.ViewNumber
	Bytes, Sequence int64
}

// ChooseRun plans a compaction.
func ChooseRun(files []Candidate, target int64) (from, to int) {
	c := make([]candidate, len(files))
	for i, f := range files {
		c[i] = candidate{f.View, f.Bytes, f.Sequence}
	}
	return chooseRun(c, target)
}

// Edit commits what an engine might: files that go, rows that are deleted by
// position, files that come.
func (d *Datasets) Edit(ctx context.Context, id string, remove []string, deleted map[string][]int64, add ...DataFile) error {
	_, err := d.Commit(ctx, id, Commit{plan: func(ctx context.Context, head *Table) (*edit, error) {
		e := &edit{operation: "overwrite", remove: map[string]bool{}, deleted: map[string]*positions{}}
		for _, path := range remove {
			e.remove[path] = true
		}
		files, err := find(ctx, d, head.head, func(iceberg.ManifestEntry) bool { return true })
		if err != nil {
			return nil, err
		}
		for path, at := range deleted {
			e.deleted[path] = &positions{file: files[path].DataFile(), at: at}
		}
		for _, f := range add {
			spec, err := unpartitioned(head.meta)
			if err != nil {
				return nil, err
			}
			e.add = append(e.add, addition{file: f.file, spec: spec})
		}
		return e, nil
	}})
	return err
}

// Descends tells whether the snapshot id is the head or one of its ancestors.
func (t *Table) Descends(id int64) bool { return t.descends(id) }

// SetWindowBytes makes the windows of ordered scans small enough for tests.
func (d *Datasets) SetWindowBytes(n int64) { d.windowBytes = n }
