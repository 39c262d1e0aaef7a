package dataset

import (
	"context"
	"fmt"

	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
)

// removeFiles rewrites the manifests that name files to be dropped, and passes the
// others on. Delete files stay: what they name is gone, and other files may be
// named by them too.
func (c *change) removeFiles(ctx context.Context, paths []string, manifests []iceberg.ManifestFile) ([]iceberg.ManifestFile, error) {
	gone := make(map[string]bool, len(paths))
	for _, p := range paths {
		gone[p] = true
	}
	left := len(gone)
	var out []iceberg.ManifestFile
	for _, old := range manifests {
		if !live(old) {
			continue
		}
		if left == 0 || old.ManifestContent() != iceberg.ManifestContentData {
			out = append(out, old)
			continue
		}
		entries, err := c.base.d.readEntries(ctx, old)
		if err != nil {
			return nil, err
		}
		hits := 0
		for _, e := range entries {
			if gone[e.DataFile().FilePath()] {
				hits++
			}
		}
		if hits == 0 {
			out = append(out, old)
			continue
		}
		f, err := c.without(old, entries, gone)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
		left -= hits
	}
	if left != 0 {
		return nil, fmt.Errorf("dataset: remove files of table %s: %d of %d are not in the table: %w", c.base.id, left, len(gone), record.ErrConflict)
	}
	return out, nil
}

// without writes a manifest anew in which some entries are deleted.
func (c *change) without(old iceberg.ManifestFile, entries []iceberg.ManifestEntry, gone map[string]bool) (iceberg.ManifestFile, error) {
	spec, err := specByID(c.base.meta, old.PartitionSpecID())
	if err != nil {
		return nil, err
	}
	m, err := c.newManifest(spec, iceberg.ManifestContentData)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		write := m.w.Existing
		if gone[e.DataFile().FilePath()] {
			write = m.w.Delete
			c.summary.removed(e.DataFile())
		}
		if err := write(e); err != nil {
			return nil, fmt.Errorf("dataset: remove %s: %w", e.DataFile().FilePath(), err)
		}
	}
	return c.finish(m, iceberg.ManifestContentData)
}
