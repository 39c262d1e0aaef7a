package dataset

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
)

// sourceSnapshotKey names the snapshot that a cherry-pick added again, as Iceberg
// does.
const sourceSnapshotKey = "source-snapshot-id"

// Rollback makes an ancestor of the head the head again. The snapshots after it
// stay, for reads and cherry-picks, until they expire. Rolling back to the head
// does nothing. Schema and properties of the table stay as they are.
//
// swap, if not nil, is Commit.Swap.
// ErrNotFound: there is no such snapshot; ErrInvalid: it is no ancestor of the
// head; ErrConflict: another commit came in between; others as of Commit.
func (d *Datasets) Rollback(ctx context.Context, id string, snapshot int64, swap Swap) (*Table, error) {
	var first int64
	return d.Commit(ctx, id, Commit{rollback: snapshot, Swap: swap, Check: func(t *Table) error {
		if _, err := t.existing(snapshot); err != nil {
			return err
		}
		if first == 0 {
			first = t.head.SnapshotID
		} else if first != t.head.SnapshotID {
			return fmt.Errorf("snapshot %d was committed meanwhile, which a rollback would undo; look at the history and decide again: %w", t.head.SnapshotID, record.ErrConflict)
		}
		if !t.descends(snapshot) {
			return fmt.Errorf("snapshot %d is not in the history of the head; cherry-pick it instead: %w", snapshot, record.ErrInvalid)
		}
		return nil
	}})
}

// CherryPick adds the files that an append had added, and a rollback (or another
// line of history) left behind, on top of the head: a new snapshot with the
// source's id in its summary.
//
// swap is as in Rollback. ErrNotFound: there is no such snapshot; ErrInvalid: it
// is no append; ErrExists: it is in the history already, by itself or picked before;
// others as of Commit.
func (d *Datasets) CherryPick(ctx context.Context, id string, snapshot int64, swap Swap) (*Table, error) {
	source := strconv.FormatInt(snapshot, 10)
	return d.Commit(ctx, id, Commit{pick: snapshot, Swap: swap, Summary: map[string]string{sourceSnapshotKey: source}, Check: func(t *Table) error {
		s, err := t.existing(snapshot)
		if err != nil {
			return err
		}
		if s.Summary == nil || s.Summary.Operation != table.OpAppend || hasMarker(s) {
			return fmt.Errorf("snapshot %d is no plain append; only those can be picked: %w", snapshot, record.ErrInvalid)
		}
		for a := range t.ancestors() {
			if a.SnapshotID == snapshot || a.Summary != nil && a.Summary.Properties[sourceSnapshotKey] == source {
				return fmt.Errorf("snapshot %d is in the history of the head already (as %d): %w", snapshot, a.SnapshotID, record.ErrExists)
			}
		}
		return nil
	}})
}

// RemovedByEngines counts the rows that snapshots of other engines, and merges of
// what they did, have removed, as far as the history of the head is held: rewritten
// rows count as well.
func (t *Table) RemovedByEngines() int64 {
	rows := int64(0)
	for s := range t.ancestors() {
		if s.Summary == nil {
			continue
		}
		p := s.Summary.Properties
		if p[commitIDKey] != "" && p[mergedSourceKey] == "" {
			continue // ours
		}
		for _, key := range []string{removedRowsKey, addedPosDeletesKey} {
			if n, err := strconv.ParseInt(p[key], 10, 64); err == nil && n > 0 {
				rows += n
			}
		}
	}
	return rows
}

// existing returns a snapshot by its id, which is not 0.
func (t *Table) existing(id int64) (*table.Snapshot, error) {
	if id == 0 || t.head == nil {
		return nil, fmt.Errorf("table %s has no snapshot %d: %w", t.id, id, record.ErrNotFound)
	}
	return t.snapshot(id)
}

// pickFiles writes the manifests of the files that a snapshot added, each under its
// own partition spec.
func (c *change) pickFiles(ctx context.Context, id int64) ([]iceberg.ManifestFile, error) {
	s, err := c.base.existing(id)
	if err != nil {
		return nil, err
	}
	manifests, err := c.base.d.readManifests(ctx, s)
	if err != nil {
		return nil, err
	}
	now, err := c.base.liveFiles(ctx, 0)
	if err != nil {
		return nil, err
	}
	there := make(map[string]bool, len(now.data))
	for _, e := range now.data {
		there[e.DataFile().FilePath()] = true
	}
	var out []iceberg.ManifestFile
	for _, m := range manifests {
		if m.SnapshotID() != id || !live(m) {
			continue
		}
		entries, err := c.base.d.readEntries(ctx, m)
		if err != nil {
			return nil, err
		}
		added := slices.DeleteFunc(slices.Clone(entries), func(e iceberg.ManifestEntry) bool {
			return e.Status() != iceberg.EntryStatusADDED || e.SnapshotID() != id
		})
		if len(added) == 0 {
			continue
		}
		f, err := c.addAgain(m, added, there)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

func (c *change) addAgain(m iceberg.ManifestFile, added []iceberg.ManifestEntry, there map[string]bool) (iceberg.ManifestFile, error) {
	spec, err := specByID(c.base.meta, m.PartitionSpecID())
	if err != nil {
		return nil, err
	}
	w, err := c.newManifest(spec, iceberg.ManifestContentData)
	if err != nil {
		return nil, err
	}
	for _, e := range added {
		f := e.DataFile()
		if there[f.FilePath()] {
			return nil, fmt.Errorf("dataset: %s is in table %s already: %w", f.FilePath(), c.base.id, record.ErrExists)
		}
		if err := w.w.Add(iceberg.NewManifestEntry(iceberg.EntryStatusADDED, &c.snapshotID, nil, nil, f)); err != nil {
			return nil, fmt.Errorf("dataset: add %s: %w", f.FilePath(), err)
		}
		c.summary.added(f)
	}
	return c.finish(w, iceberg.ManifestContentData)
}
