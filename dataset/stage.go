package dataset

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/apache/iceberg-go"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// stagedFile is the stored form of a DataFile that waits for its commit.
type stagedFile struct {
	Version int            `json:"version"`
	Table   uuid.UUID      `json:"table"`
	Path    string         `json:"path"`
	Format  string         `json:"format"`
	Rows    int64          `json:"rows"`
	Bytes   int64          `json:"bytes"`
	Sizes   map[int]int64  `json:"sizes,omitempty"`
	Values  map[int]int64  `json:"values,omitempty"`
	Nulls   map[int]int64  `json:"nulls,omitempty"`
	Lower   map[int][]byte `json:"lower,omitempty"`
	Upper   map[int][]byte `json:"upper,omitempty"`
	Splits  []int64        `json:"splits,omitempty"`
	ByName  bool           `json:"byName,omitempty"`
}

const stagedVersion = 1

// MarshalJSON is a form that StagedFile reads: for whoever keeps files between
// writing and committing them.
func (f DataFile) MarshalJSON() ([]byte, error) {
	return json.Marshal(stagedFile{
		Version: stagedVersion, Table: f.table, Path: f.file.FilePath(), Format: string(f.file.FileFormat()),
		Rows: f.file.Count(), Bytes: f.file.FileSizeBytes(),
		Sizes: f.file.ColumnSizes(), Values: f.file.ValueCounts(), Nulls: f.file.NullValueCounts(),
		Lower: f.file.LowerBoundValues(), Upper: f.file.UpperBoundValues(), Splits: f.file.SplitOffsets(),
		ByName: f.byName,
	})
}

// StagedFile reads back what MarshalJSON of a file of t wrote. ErrCorrupt if that
// does not parse, ErrInvalid if it is of another table.
func (t *Table) StagedFile(text []byte) (DataFile, error) {
	var s stagedFile
	if err := json.Unmarshal(text, &s); err != nil || s.Version != stagedVersion || s.Path == "" || s.Rows < 0 || s.Bytes <= 0 {
		return DataFile{}, fmt.Errorf("dataset: a staged file of table %s does not parse (version %d, path %q): %w", t.id, s.Version, s.Path, record.ErrCorrupt)
	}
	f, err := t.describe(s.Path, iceberg.FileFormat(s.Format), s.Rows, s.Bytes, metrics{
		sizes: s.Sizes, values: s.Values, nulls: s.Nulls, lower: s.Lower, upper: s.Upper, splits: s.Splits,
	})
	if err != nil {
		return DataFile{}, err
	}
	f.table, f.byName = s.Table, s.ByName
	return f, f.fits(t)
}

// Discard deletes a file that was written and will certainly not be committed.
// Failing leaves an orphan, which Collect finds.
func (d *Datasets) Discard(ctx context.Context, f DataFile) { d.remove(ctx, []string{f.Path()}) }

// StagedFiles is what Pointers may offer in addition: where the files lie that
// wait for a commit and have no time limit. Collect leaves them alone.
type StagedFiles interface {
	StagedBelow(ctx context.Context, prefix string) (locations []string, err error)
}

// staged returns the keys of the files of table id that wait for their commit.
func (d *Datasets) staged(ctx context.Context, id string) (map[string]bool, error) {
	out := map[string]bool{}
	keeper, ok := d.pointers.(StagedFiles)
	if !ok {
		return out, nil
	}
	locations, err := keeper.StagedBelow(ctx, objstore.URI(d.store, id)+"/")
	if err != nil {
		return nil, err
	}
	for _, l := range locations {
		if key, err := objstore.Key(d.store, l); err == nil {
			out[key] = true
		}
	}
	return out, nil
}
