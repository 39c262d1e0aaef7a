package dataset

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// ForkOptions say how a table becomes two.
type ForkOptions struct {
	// ID of the new table.
	ID string
	// Snapshot that the new table begins with; 0: the head.
	Snapshot int64
	// Stretch, if set, adds rows behind the chosen snapshot's.
	Stretch *Stretch
	// Marker of the view whose rows the new table will hold. Nil: none, for a
	// table that no stream archives into.
	Marker *Marker
	// Properties are set beside those of t.
	Properties map[string]string
}

// Fork puts the first metadata of a new table that shares t's files, and returns
// where: the table comes into being when a pointer is set to that location. It
// holds the chosen snapshot with its ancestors, so that both tables know what
// they have in common by the snapshots' ids, t's schemas, partition specs and
// sort orders under their ids, and the schema of the chosen snapshot as the
// current one. Neither tags nor what t forgot come along; a tag of its own keeps
// the chosen snapshot, for merges. On top is one empty snapshot with the marker.
// What is put is this metadata file and that snapshot's list, in the new table's
// own place; nothing of t is copied or changed.
//
// A crash, or a pointer that is never set, leaves these two files below the new
// table's id.
func (t *Table) Fork(ctx context.Context, o ForkOptions) (location string, err error) {
	if err := checkID(o.ID); err != nil {
		return "", err
	}
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("dataset: fork table %s: %w", t.id, err)
	}
	if o.Marker != nil {
		if err := o.Marker.check(); err != nil {
			return fail(err)
		}
	}
	at := t.head
	if o.Snapshot != 0 {
		if at = t.meta.SnapshotByID(o.Snapshot); at == nil {
			return fail(fmt.Errorf("snapshot %d is not in its history, or has expired: %w", o.Snapshot, record.ErrNotFound))
		}
	}
	m, err := t.forked(at, o)
	if err != nil {
		return fail(err)
	}
	var puts []pending
	if o.Stretch != nil {
		e, err := t.stretch(ctx, at, o.Stretch)
		if err != nil {
			return fail(err)
		}
		if m, puts, err = newTable(t.d, o.ID, "", m).next(ctx, uuid.NewString(), nil, e, nil); err != nil {
			return fail(err)
		}
		// At once: what comes on top reads it.
		if err := t.d.putAll(ctx, puts); err != nil {
			return fail(err)
		}
		puts = nil
	}
	if o.Marker != nil {
		was := *t
		was.head = at
		known, err := was.extents()
		if err != nil {
			return fail(err)
		}
		// Which rows it ever had is told to merges, also when the history is forgotten.
		merged, err := json.Marshal(known)
		if err != nil {
			return fail(err)
		}
		if m, puts, err = newTable(t.d, o.ID, "", m).next(ctx, o.Marker.CommitID, o.Marker, nil, map[string]string{mergedKey: string(merged)}); err != nil {
			return fail(err)
		}
	}
	location, data, err := encodeMetadata(m, "")
	if err != nil {
		return fail(err)
	}
	if err := t.d.putAll(ctx, append(puts, pending{location, data})); err != nil {
		return fail(err)
	}
	t.d.metas.put(location, m, int64(len(data)))
	return location, nil
}

// forked is t's metadata as that of a new table whose head is at (nil: none).
func (t *Table) forked(at *table.Snapshot, o ForkOptions) (table.Metadata, error) {
	id, err := uuid.Parse(o.ID)
	if err != nil {
		return nil, fmt.Errorf("table id %q: %w", o.ID, record.ErrInvalid)
	}
	b, err := table.MetadataBuilderFromBase(t.meta, "")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, record.ErrCorrupt)
	}
	b.TrimMetadataLogs(0) // t's files are t's to delete
	if err := b.SetUUID(id); err != nil {
		return nil, err
	}
	if err := b.SetLoc(objstore.URI(t.d.store, o.ID)); err != nil {
		return nil, err
	}
	if err := t.forkHistory(b, at); err != nil {
		return nil, err
	}
	props := iceberg.Properties{}
	last := at
	if o.Stretch != nil {
		last = t.meta.SnapshotByID(o.Stretch.Snapshot)
	}
	if last != nil && last.SchemaID != nil && *last.SchemaID != t.Schema().ID {
		if err := b.SetCurrentSchemaID(*last.SchemaID); err != nil {
			return nil, fmt.Errorf("the schema of snapshot %d: %w: %w", last.SnapshotID, err, record.ErrCorrupt)
		}
		if props[table.DefaultNameMappingKey], err = nameMapping(b.CurrentSchema()); err != nil {
			return nil, err
		}
	}
	origins := []mergedSource{{Table: t.id}}
	if at != nil {
		origins[0].Snapshot = at.SnapshotID
	}
	origins = append(origins, t.origins()...)
	from, err := json.Marshal(origins)
	if err != nil {
		return nil, err
	}
	props[forkedFromKey] = string(from)
	for i, o := range origins {
		if _, err := b.SnapshotByID(o.Snapshot); err != nil {
			continue
		}
		if err := b.SetSnapshotRef(forkTag+"-"+strconv.Itoa(i), o.Snapshot, table.TagRef); err != nil {
			return nil, err
		}
	}
	maps.Copy(props, o.Properties)
	if len(props) > 0 {
		if err := b.SetProperties(props); err != nil {
			return nil, err
		}
	}
	return b.Build()
}

// forkHistory leaves the snapshot at and its ancestors, and the ref main.
func (t *Table) forkHistory(b *table.MetadataBuilder, at *table.Snapshot) error {
	if at != nil {
		if err := b.SetSnapshotRef(table.MainBranch, at.SnapshotID, table.BranchRef); err != nil {
			return err
		}
	}
	for name := range t.meta.Refs() {
		if name != table.MainBranch || at == nil {
			if err := b.RemoveSnapshotRef(name); err != nil {
				return err
			}
		}
	}
	keep := map[int64]bool{}
	for s := at; s != nil && !keep[s.SnapshotID]; {
		keep[s.SnapshotID] = true
		if s.ParentSnapshotID == nil {
			break
		}
		s = t.meta.SnapshotByID(*s.ParentSnapshotID)
	}
	if at != nil { // and what t was made of, also where the chain is broken
		for _, o := range t.origins() {
			if s := t.meta.SnapshotByID(o.Snapshot); s != nil && s.SequenceNumber < at.SequenceNumber {
				keep[s.SnapshotID] = true
			}
		}
	}
	var drop []int64
	for _, s := range t.meta.Snapshots() {
		if !keep[s.SnapshotID] {
			drop = append(drop, s.SnapshotID)
		}
	}
	if len(drop) == 0 {
		return nil
	}
	return b.RemoveSnapshots(drop, false)
}

// next adds a snapshot on top of t, whose metadata is not stored yet, and returns
// what is to be put: an empty one, unless e says what it changes. extra is for its
// summary.
func (t *Table) next(ctx context.Context, commitID string, m *Marker, e *edit, extra map[string]string) (table.Metadata, []pending, error) {
	c := &change{base: t, schema: t.Schema(), sequence: t.meta.LastSequenceNumber() + 1, commitID: commitID, extra: extra}
	for c.snapshotID == 0 || t.meta.SnapshotByID(c.snapshotID) != nil {
		c.snapshotID = rand.Int64()
	}
	var err error
	if c.builder, err = table.MetadataBuilderFromBase(t.meta, ""); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", err, record.ErrCorrupt)
	}
	manifests, err := t.d.readManifests(ctx, t.head)
	if err != nil {
		return nil, nil, err
	}
	var kept []iceberg.ManifestFile
	for _, f := range manifests {
		if live(f) {
			kept = append(kept, f)
		}
	}
	operation := table.OpAppend
	if e != nil {
		operation = table.Operation(e.operation)
		added, inherited, err := c.edit(ctx, e, kept)
		if err != nil {
			return nil, nil, err
		}
		kept = append(added, inherited...)
	}
	if err := c.add(operation, kept, m); err != nil {
		return nil, nil, err
	}
	if extra[mergedKey] != "" {
		if err := c.builder.SetSnapshotRef(mergedTag, c.snapshotID, table.TagRef); err != nil {
			return nil, nil, err
		}
	}
	meta, err := c.builder.Build()
	return meta, c.puts, err
}

// At returns the snapshot that was the head at a time, and true if there was one
// that is still held. Snapshots that were rolled back do not count.
func (t *Table) At(ms int64) (SnapshotInfo, bool) {
	for s := range t.ancestors() {
		if s.TimestampMs <= ms {
			return snapshotInfo(s), true
		}
	}
	return SnapshotInfo{}, false
}

// History lists the head and its ancestors, newest first, as far as they are
// still held.
func (t *Table) History() []SnapshotInfo {
	var all []SnapshotInfo
	for s := range t.ancestors() {
		all = append(all, snapshotInfo(s))
	}
	return all
}

// SchemaAt returns the Iceberg schema of a snapshot; the current one if the
// snapshot does not say, or is not held.
func (t *Table) SchemaAt(snapshot int64) *iceberg.Schema {
	s := t.meta.SnapshotByID(snapshot)
	if s != nil && s.SchemaID != nil {
		for _, sc := range t.meta.Schemas() {
			if sc.ID == *s.SchemaID {
				return sc
			}
		}
	}
	return t.Schema()
}

// SameSchema tells whether ours (the user's fields) is the schema theirs of a
// table.
func SameSchema(ours *schema.Schema, theirs *iceberg.Schema) (bool, error) {
	s, err := icebergSchema(ours)
	if err != nil {
		return false, err
	}
	return s.Equals(theirs), nil
}

// ours tells whether a ref's name is one that Thermocline uses itself.
func ours(ref string) bool {
	return ref == table.MainBranch || strings.HasPrefix(ref, "thermocline-")
}
