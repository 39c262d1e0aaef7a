package dataset

import (
	"context"
	"fmt"

	"github.com/apache/iceberg-go"
)

// checkStep is how much of a file CheckFile holds at a time.
const checkStep = 1 << 20

// HasChecksums tells whether a data file carries checksums of all its bytes.
// Files of earlier versions and of other engines do not.
func (f FileInfo) HasChecksums() bool {
	_, ok := checkedID(f.Path)
	return ok
}

// CheckFile reads a file that Files yielded, whole. One with checksums is
// compared with them, with its name and with its size in the manifest; one
// without is decoded, and its rows are counted. ErrCorrupt: it is damaged,
// missing, or not the file that was committed. ErrInvalid: its format is not
// read. The error names the file. Memory is bounded.
func (t *Table) CheckFile(ctx context.Context, f FileInfo) error {
	var err error
	if f.HasChecksums() {
		err = t.checkSums(ctx, f)
	} else {
		err = t.checkRows(ctx, f)
	}
	if err != nil {
		return fmt.Errorf("dataset: check %s: %w", f.Path, err)
	}
	return nil
}

func (t *Table) checkSums(ctx context.Context, f FileInfo) error {
	o, err := t.d.openData(ctx, f.Path, f.Bytes)
	if err != nil {
		return err
	}
	defer o.Close()
	buf := make([]byte, min(checkStep, f.Bytes))
	for off := int64(0); off < f.Bytes; off += checkStep {
		if err := ctx.Err(); err != nil {
			return err
		}
		step := buf[:min(checkStep, f.Bytes-off)]
		if n, err := o.ReadAt(step, off); n < len(step) {
			return err
		}
	}
	return nil
}

func (t *Table) checkRows(ctx context.Context, f FileInfo) error {
	entry := iceberg.NewManifestEntry(iceberg.EntryStatusEXISTING, &f.Snapshot, &f.Sequence, nil, f.file)
	one := func(context.Context) (fileSet, error) { return fileSet{data: []iceberg.ManifestEntry{entry}}, nil }
	for _, err := range t.stream(ctx, ScanOptions{}, one) {
		if err != nil {
			return err
		}
	}
	return nil
}
