package dataset

import (
	"context"
	"fmt"

	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
)

// replacement is the part of a commit that takes the place of live files.
type replacement struct {
	files    map[string]int64 // sequence numbers by path
	sequence int64            // of the new file's rows: that of the last of files
	beside   map[string]bool  // other files of that sequence number
	deletes  map[string]bool  // delete files that the new file heeds
}

// newReplacement of a run, chosen among live files.
func newReplacement(run []iceberg.ManifestEntry, live fileSet) *replacement {
	r := &replacement{files: map[string]int64{}, beside: map[string]bool{}, deletes: map[string]bool{}}
	for _, e := range run {
		r.files[e.DataFile().FilePath()] = e.SequenceNum()
		r.sequence = max(r.sequence, e.SequenceNum())
	}
	for _, e := range live.data {
		if e.SequenceNum() == r.sequence {
			r.beside[e.DataFile().FilePath()] = true
		}
	}
	for _, e := range live.deletes {
		r.deletes[e.DataFile().FilePath()] = true
	}
	return r
}

// check makes sure that the replacement still says what the replaced files do.
func (r *replacement) check(ctx context.Context, head *Table) error {
	live, err := head.liveFiles(ctx, 0)
	if err != nil {
		return err
	}
	left := len(r.files)
	for _, e := range live.data {
		if s, ok := r.files[e.DataFile().FilePath()]; ok && s == e.SequenceNum() {
			left--
		} else if e.SequenceNum() == r.sequence && !r.beside[e.DataFile().FilePath()] {
			return fmt.Errorf("%s came into the commit that the replaced files end with: %w", e.DataFile().FilePath(), record.ErrConflict)
		}
	}
	if left != 0 {
		return fmt.Errorf("%d of %d files to be replaced are no longer in the table: %w", left, len(r.files), record.ErrConflict)
	}
	for _, e := range live.deletes {
		if !r.deletes[e.DataFile().FilePath()] {
			return fmt.Errorf("rows were deleted meanwhile (%s): %w", e.DataFile().FilePath(), record.ErrConflict)
		}
	}
	return nil
}

// replace rewrites the manifests that name replaced files: for each spec one
// manifest in which these are deleted and the others exist, and the manifests that
// name none as they are.
func (c *change) replace(ctx context.Context, r *replacement, manifests []iceberg.ManifestFile) ([]iceberg.ManifestFile, error) {
	writers := map[int32]*manifestWriter{}
	var order []*manifestWriter
	var kept []iceberg.ManifestFile
	left := len(r.files)
	for _, m := range manifests {
		entries, touched, err := c.touched(ctx, r, m)
		if err != nil {
			return nil, err
		}
		if !touched {
			kept = append(kept, m)
			continue
		}
		w := writers[m.PartitionSpecID()]
		if w == nil {
			spec, err := specByID(c.base.meta, m.PartitionSpecID())
			if err != nil {
				return nil, err
			}
			if w, err = c.newManifest(spec, iceberg.ManifestContentData); err != nil {
				return nil, err
			}
			writers[m.PartitionSpecID()] = w
			order = append(order, w)
		}
		for _, e := range entries {
			write := w.w.Existing
			if _, ok := r.files[e.DataFile().FilePath()]; ok {
				write = w.w.Delete
				c.summary.removed(e.DataFile())
				left--
			}
			if err := write(e); err != nil {
				return nil, fmt.Errorf("dataset: replace %s: %w", e.DataFile().FilePath(), err)
			}
		}
	}
	if left != 0 {
		return nil, fmt.Errorf("dataset: replace files of table %s: %d of %d are in no manifest of data: %w", c.base.id, left, len(r.files), record.ErrConflict)
	}
	out := make([]iceberg.ManifestFile, 0, len(order)+len(kept))
	for _, w := range order {
		f, err := c.finish(w, iceberg.ManifestContentData)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	kept, err := c.dropDeletes(ctx, func(path string) bool { _, gone := r.files[path]; return gone }, kept)
	if err != nil {
		return nil, err
	}
	return append(out, kept...), nil
}

// touched returns the entries of a manifest that names replaced files.
func (c *change) touched(ctx context.Context, r *replacement, m iceberg.ManifestFile) ([]iceberg.ManifestEntry, bool, error) {
	if m.ManifestContent() != iceberg.ManifestContentData || !live(m) || m.MinSequenceNum() > r.sequence {
		return nil, false, nil
	}
	entries, err := c.base.d.readEntries(ctx, m)
	if err != nil {
		return nil, false, err
	}
	for _, e := range entries {
		if _, ok := r.files[e.DataFile().FilePath()]; ok {
			return entries, true, nil
		}
	}
	return nil, false, nil
}
