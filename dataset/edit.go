package dataset

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/apache/iceberg-go"
	"golang.org/x/sync/errgroup"

	"github.com/thermocline/thermocline/record"
)

// edit is a change of which files a table has: files of other tables come as they
// are, live ones go or lose rows.
type edit struct {
	operation string // of Iceberg
	add       []addition
	remove    map[string]bool       // live data files
	deleted   map[string]*positions // of live data files
	schema    *iceberg.Schema       // nil: as it is
	props     map[string]string     // of the snapshot
	tag       string                // that the snapshot gets, "": none
}

// addition is a file of another table.
type addition struct {
	file iceberg.DataFile
	spec iceberg.PartitionSpec // of the other table
	gone []int64               // positions that are not to be seen
}

func (e *edit) empty() bool { return len(e.add)+len(e.remove)+len(e.deleted) == 0 && e.schema == nil }

// edit writes the manifests of an edit: those of what comes, and the inherited
// ones without what goes.
func (c *change) edit(ctx context.Context, e *edit, inherited []iceberg.ManifestFile) (added, kept []iceberg.ManifestFile, err error) {
	if added, err = c.adopt(e.add); err != nil {
		return nil, nil, err
	}
	if kept, err = c.removeFiles(ctx, slices.Collect(maps.Keys(e.remove)), inherited); err != nil {
		return nil, nil, err
	}
	if kept, err = c.dropDeletes(ctx, func(path string) bool { return e.remove[path] }, kept); err != nil {
		return nil, nil, err
	}
	// What was written just now is not stored yet, and cannot be merged.
	fresh := func(m iceberg.ManifestFile) bool {
		return slices.ContainsFunc(c.puts, func(p pending) bool { return p.location == m.FilePath() })
	}
	old := slices.DeleteFunc(slices.Clone(kept), fresh)
	kept = slices.DeleteFunc(kept, func(m iceberg.ManifestFile) bool { return !fresh(m) })
	if old, err = c.merge(ctx, old); err != nil {
		return nil, nil, err
	}
	kept = append(old, kept...)
	deletes, err := c.deletePositions(ctx, e)
	if err != nil {
		return nil, nil, err
	}
	return append(added, deletes...), kept, nil
}

// manifestEntries bounds the entries of a manifest that is written at once, and
// so its memory; it is the last class of merge.
const manifestEntries = 4096

// adopt writes the manifests of files of other tables. Their rows come with this
// commit, so they get its sequence number.
func (c *change) adopt(files []addition) ([]iceberg.ManifestFile, error) {
	bySpec := map[int][]iceberg.DataFile{}
	for _, a := range files {
		spec, err := c.ownSpec(a.spec)
		if err != nil {
			return nil, fmt.Errorf("dataset: add %s: %w", a.file.FilePath(), err)
		}
		bySpec[spec.ID()] = append(bySpec[spec.ID()], a.file)
	}
	return c.writeAdded(iceberg.ManifestContentData, bySpec, c.summary.added)
}

// writeAdded writes the manifests of files that come with this commit, by spec.
func (c *change) writeAdded(content iceberg.ManifestContent, bySpec map[int][]iceberg.DataFile, count func(iceberg.DataFile)) ([]iceberg.ManifestFile, error) {
	var out []iceberg.ManifestFile
	for _, id := range slices.Sorted(maps.Keys(bySpec)) {
		spec, err := specByID(c.base.meta, int32(id))
		if err != nil {
			return nil, err
		}
		for part := range slices.Chunk(bySpec[id], manifestEntries) {
			m, err := c.newManifest(spec, content)
			if err != nil {
				return nil, err
			}
			for _, f := range part {
				if err := m.w.Add(iceberg.NewManifestEntry(iceberg.EntryStatusADDED, &c.snapshotID, nil, nil, f)); err != nil {
					return nil, fmt.Errorf("dataset: add %s: %w", f.FilePath(), err)
				}
				count(f)
			}
			f, err := c.finish(m, content)
			if err != nil {
				return nil, err
			}
			out = append(out, f)
		}
	}
	return out, nil
}

// ownSpec is the table's partition spec that is the same as one of another table.
func (c *change) ownSpec(other iceberg.PartitionSpec) (iceberg.PartitionSpec, error) {
	for _, s := range c.base.meta.PartitionSpecs() {
		if s.CompatibleWith(&other) && sameFieldIDs(s, other) {
			return s, nil
		}
	}
	return other, fmt.Errorf("it is partitioned by %s, which the table never was; give the table that partitioning first: %w", other, record.ErrConflict)
}

// sameFieldIDs: by these a file's partition values are found.
func sameFieldIDs(a, b iceberg.PartitionSpec) bool {
	ids := func(s iceberg.PartitionSpec) (out []int) {
		for _, f := range s.Fields() {
			out = append(out, f.FieldID)
		}
		return out
	}
	return slices.Equal(ids(a), ids(b))
}

// deletePositions writes the delete files of an edit, and their manifests.
func (c *change) deletePositions(ctx context.Context, e *edit) ([]iceberg.ManifestFile, error) {
	var all []positions
	for _, path := range slices.Sorted(maps.Keys(e.deleted)) {
		p := *e.deleted[path]
		var err error
		if p.spec, err = specByID(c.base.meta, p.file.SpecID()); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	for _, a := range e.add {
		if len(a.gone) == 0 {
			continue
		}
		spec, err := c.ownSpec(a.spec)
		if err != nil {
			return nil, err
		}
		all = append(all, positions{a.file, spec, a.gone})
	}
	files := make([]iceberg.DataFile, len(all))
	g, writing := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, p := range all {
		g.Go(func() (err error) {
			files[i], err = c.base.writePositionDeletes(writing, p)
			return err
		})
	}
	err := g.Wait()
	bySpec := map[int][]iceberg.DataFile{}
	for i, f := range files {
		if f != nil {
			c.written = append(c.written, f.FilePath())
			bySpec[all[i].spec.ID()] = append(bySpec[all[i].spec.ID()], f)
		}
	}
	if err != nil {
		return nil, err
	}
	return c.writeAdded(iceberg.ManifestContentDeletes, bySpec, c.summary.addedDelete)
}
