package dataset

import (
	"iter"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
)

// Table is a table as one metadata file describes it: immutable, and safe for
// concurrent use. What later commits add is seen after another Load.
type Table struct {
	d        *Datasets
	id       string
	location string
	meta     table.Metadata
	head     *table.Snapshot // nil: no snapshot yet
	past     bool            // head is not the newest, see Version
}

func newTable(d *Datasets, id, location string, m table.Metadata) *Table {
	return &Table{d: d, id: id, location: location, meta: m, head: m.CurrentSnapshot()}
}

// ID is the id that the pointer is kept under.
func (t *Table) ID() string { return t.id }

// MetadataLocation is the URI of the metadata file.
func (t *Table) MetadataLocation() string { return t.location }

// Metadata is the Iceberg metadata; treat it as read-only.
func (t *Table) Metadata() table.Metadata { return t.meta }

// Schema is the current Iceberg schema, system columns included.
func (t *Table) Schema() *iceberg.Schema { return t.meta.CurrentSchema() }

// Property returns a table property, "" if it is not set.
func (t *Table) Property(key string) string { return t.meta.Properties()[key] }

// SnapshotInfo describes a snapshot. Figures that an engine did not record
// are -1.
type SnapshotInfo struct {
	ID        int64
	Parent    int64 // 0: none
	Sequence  int64 // the order of commits; ids have none
	Time      time.Time
	Operation string // append, replace, overwrite, delete
	SchemaID  int
	Summary   map[string]string
	Marker    *Marker // nil: not one of our commits

	AddedRows, AddedFiles, AddedBytes       int64
	RemovedRows, RemovedFiles, RemovedBytes int64
	TotalRows, TotalFiles, TotalBytes       int64
}

// Snapshots lists the snapshots that the metadata still holds, oldest first.
func (t *Table) Snapshots() []SnapshotInfo {
	snapshots := t.meta.Snapshots()
	infos := make([]SnapshotInfo, len(snapshots))
	for i := range snapshots {
		infos[i] = snapshotInfo(&snapshots[i])
	}
	slices.SortStableFunc(infos, func(a, b SnapshotInfo) int { return int(a.Sequence - b.Sequence) })
	return infos
}

// Head is the current snapshot; ok is false while there is none.
func (t *Table) Head() (info SnapshotInfo, ok bool) {
	if t.head == nil {
		return SnapshotInfo{}, false
	}
	return snapshotInfo(t.head), true
}

// Snapshot returns the snapshot with the id.
func (t *Table) Snapshot(id int64) (info SnapshotInfo, ok bool) {
	if s := t.meta.SnapshotByID(id); s != nil {
		return snapshotInfo(s), true
	}
	return SnapshotInfo{}, false
}

// ancestors yields the head and its ancestors, newest first, as far as the
// metadata still holds them.
func (t *Table) ancestors() iter.Seq[*table.Snapshot] {
	return func(yield func(*table.Snapshot) bool) {
		seen := map[int64]bool{} // parents of damaged metadata may form a ring
		for s := t.head; s != nil && !seen[s.SnapshotID]; s = t.meta.SnapshotByID(*s.ParentSnapshotID) {
			seen[s.SnapshotID] = true
			if !yield(s) || s.ParentSnapshotID == nil {
				return
			}
		}
	}
}

// descends tells whether the snapshot id is the head or one of its ancestors.
func (t *Table) descends(id int64) bool {
	for s := range t.ancestors() {
		if s.SnapshotID == id {
			return true
		}
	}
	return false
}

// Keys of snapshot summaries that Iceberg defines.
const (
	addedFilesKey   = "added-data-files"
	addedRowsKey    = "added-records"
	addedBytesKey   = "added-files-size"
	removedFilesKey = "deleted-data-files"
	removedRowsKey  = "deleted-records"
	removedBytesKey = "removed-files-size"
	totalFilesKey   = "total-data-files"
	totalRowsKey    = "total-records"
	totalBytesKey   = "total-files-size"

	addedDeletesKey      = "added-delete-files"
	addedPosDeletesKey   = "added-position-deletes"
	removedDeletesKey    = "removed-delete-files"
	totalDeletesKey      = "total-delete-files"
	totalPosDeletesKey   = "total-position-deletes"
	totalEqDeletesKey    = "total-equality-deletes"
	removedPosDeletesKey = "removed-position-deletes"
	removedEqDeletesKey  = "removed-equality-deletes"
)

func snapshotInfo(s *table.Snapshot) SnapshotInfo {
	i := SnapshotInfo{
		ID: s.SnapshotID, Sequence: s.SequenceNumber, Time: time.UnixMilli(s.TimestampMs).UTC(),
		SchemaID: -1, Summary: map[string]string{},
	}
	if s.ParentSnapshotID != nil {
		i.Parent = *s.ParentSnapshotID
	}
	if s.SchemaID != nil {
		i.SchemaID = *s.SchemaID
	}
	if s.Summary != nil {
		i.Operation = string(s.Summary.Operation)
		i.Summary = maps.Clone(map[string]string(s.Summary.Properties))
	}
	count := func(key string, missing int64) int64 {
		if v, err := strconv.ParseInt(i.Summary[key], 10, 64); err == nil {
			return v
		}
		return missing
	}
	// Engines leave out what is zero, but not the totals.
	i.AddedRows, i.AddedFiles, i.AddedBytes = count(addedRowsKey, 0), count(addedFilesKey, 0), count(addedBytesKey, 0)
	i.RemovedRows, i.RemovedFiles, i.RemovedBytes = count(removedRowsKey, 0), count(removedFilesKey, 0), count(removedBytesKey, 0)
	i.TotalRows, i.TotalFiles, i.TotalBytes = count(totalRowsKey, -1), count(totalFilesKey, -1), count(totalBytesKey, -1)
	i.Marker = parseMarker(s)
	return i
}
