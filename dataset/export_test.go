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
