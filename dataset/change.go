package dataset

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// change is what one attempt of a commit builds on one head. It is thrown away
// when the attempt fails.
type change struct {
	base       *Table
	builder    *table.MetadataBuilder
	schema     *iceberg.Schema // current after the change
	snapshotID int64
	sequence   int64
	commitID   string
	summary    summary
	extra      map[string]string // of the snapshot's summary
	puts       []pending
	edits      *edit
	written    []string       // delete files that are durable already
	drop       []int64        // snapshots that expire
	built      table.Metadata // what staging.stage has built already
	follow     int32          // id of the stream's schema that schema is; 0: none
}

// Table properties that are ours.
const (
	maxSnapshotsKey = "thermocline.max-snapshots"
	// keptMetadataFiles old metadata files are kept, for readers that were
	// handed one. Each is about as large as the table's history.
	keptMetadataFiles = 20
)

// newMetadata is the first metadata of a table.
func (d *Datasets) newMetadata(id string, sc *iceberg.Schema, props map[string]string) (table.Metadata, error) {
	all := tableProperties(props)
	names, err := nameMapping(sc)
	if err != nil {
		return nil, err
	}
	all[table.DefaultNameMappingKey] = names
	b, err := table.NewMetadataBuilder(formatVersion)
	if err != nil {
		return nil, fmt.Errorf("dataset: new table: %w", err)
	}
	tableID, err := uuid.Parse(id)
	if err != nil {
		return nil, fmt.Errorf("dataset: table id %q: %w", id, record.ErrInvalid)
	}
	unsorted := table.UnsortedSortOrder
	for _, step := range []func() error{
		func() error { return b.SetUUID(tableID) },
		// The builder, unlike iceberg's NewMetadata, keeps our field ids.
		func() error { return b.AddSchema(sc) },
		func() error { return b.SetCurrentSchemaID(-1) },
		func() error { return b.AddPartitionSpec(iceberg.UnpartitionedSpec, true) },
		func() error { return b.SetDefaultSpecID(-1) },
		func() error { return b.AddSortOrder(&unsorted) },
		func() error { return b.SetDefaultSortOrderID(-1) },
		func() error { return b.SetLoc(objstore.URI(d.store, id)) },
		func() error { return b.SetProperties(all) },
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("dataset: new table %s: %w: %w", id, err, record.ErrInvalid)
		}
	}
	m, err := b.Build()
	if err != nil {
		return nil, fmt.Errorf("dataset: new table %s: %w", id, err)
	}
	return m, nil
}

// icebergSchema is the table schema for the user's fields of s.
func icebergSchema(s *schema.Schema) (*iceberg.Schema, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if id := missingID(s.Fields); id != "" {
		return nil, fmt.Errorf("dataset: field %q has no id; assign ids first: %w", id, record.ErrInvalid)
	}
	all := s.WithSystem()
	for i := range all.Fields {
		// Our files always have the system columns; other engines, which know
		// nothing of offsets, must be able to append rows without.
		if schema.IsSystemID(all.Fields[i].ID) {
			all.Fields[i].Nullable = true
		}
	}
	return all.Iceberg(), nil
}

// missingID names a field without an id of its own, "" if there is none.
func missingID(fields []schema.Field) string {
	for i := range fields {
		if name := missingFieldID(&fields[i]); name != "" {
			return name
		}
	}
	return ""
}

func missingFieldID(f *schema.Field) string {
	switch {
	case f.ID < schema.FirstUserID:
		return f.Name
	case f.Type.Kind == schema.Array:
		return missingFieldID(f.Type.Element)
	case f.Type.Kind == schema.Map && f.Type.KeyID < schema.FirstUserID:
		return f.Name
	case f.Type.Kind == schema.Map:
		return missingFieldID(f.Type.Value)
	case f.Type.Kind == schema.Struct:
		return missingID(f.Type.Fields)
	}
	return ""
}

func nameMapping(s *iceberg.Schema) (string, error) {
	b, err := json.Marshal(s.NameMapping())
	if err != nil {
		return "", fmt.Errorf("dataset: encode name mapping: %w", err)
	}
	return string(b), nil
}

// newChange begins the change that c, with the edit e if it has one, makes to
// head; nil if it makes none.
func newChange(ctx context.Context, head *Table, commitID string, c *Commit, e *edit) (*change, error) {
	if c.updates != nil {
		return c.updates.stage(ctx, head)
	}
	ch := &change{base: head, commitID: commitID, edits: e, schema: head.Schema(), sequence: head.meta.LastSequenceNumber() + 1}
	evolved := false
	if c.Schema != nil && !head.follows(c.Schema) {
		s, err := icebergSchema(c.Schema)
		if err != nil {
			return nil, err
		}
		if evolved = !s.Equals(ch.schema); evolved {
			now, any := head.Head()
			empty := c.RemoveAll || !any || now.TotalRows == 0 // -1: not known
			if err := checkEvolution(head.meta, s, empty); err != nil {
				return nil, err
			}
			ch.schema, ch.follow = s, c.Schema.ID
		}
	}
	if e != nil && e.schema != nil {
		if err := checkEvolution(head.meta, e.schema, false); err != nil {
			return nil, err
		}
		ch.schema, evolved = e.schema, true
	}
	moved := false
	if c.Marker != nil {
		old, err := head.Marker()
		if err != nil {
			return nil, err
		}
		moved = c.Marker.moved(old)
	}
	if c.expire != nil {
		ch.drop = c.expire(head)
	}
	laidOut := c.Layout != nil && !head.HasLayout(c.Layout)
	if c.refs == nil && c.erase == nil && !evolved && !moved && !laidOut && len(c.Add) == 0 && len(c.Remove) == 0 && c.replace == nil && e == nil && len(ch.drop) == 0 && !(c.RemoveAll && head.head != nil) &&
		c.pick == 0 && (c.rollback == 0 || c.rollback == head.head.SnapshotID) {
		return nil, nil
	}
	for i := range c.Add {
		if err := c.Add[i].fits(head); err != nil {
			return nil, err
		}
	}
	for ch.snapshotID == 0 || head.meta.SnapshotByID(ch.snapshotID) != nil {
		ch.snapshotID = rand.Int64()
	}
	var err error
	if ch.builder, err = table.MetadataBuilderFromBase(head.meta, head.location); err != nil {
		return nil, fmt.Errorf("dataset: change table %s: %w: %w", head.id, err, record.ErrCorrupt)
	}
	if c.refs != nil {
		if changed, err := c.refs(head, ch.builder); err != nil || !changed {
			return nil, err
		}
	}
	if err := ch.mapNames(c.Add); err != nil {
		return nil, fmt.Errorf("dataset: change table %s: %w", head.id, err)
	}
	if evolved {
		if err := ch.evolve(); err != nil {
			return nil, fmt.Errorf("dataset: change the schema of table %s: %w", head.id, err)
		}
	}
	if laidOut {
		if err := ch.layout(c.Layout); err != nil {
			return nil, err
		}
	}
	return ch, nil
}

// mapNames gives the table a name mapping if a file is the first to need one.
func (c *change) mapNames(files []DataFile) error {
	if len(c.base.meta.NameMapping()) > 0 || !slices.ContainsFunc(files, func(f DataFile) bool { return f.byName }) {
		return nil
	}
	names, err := nameMapping(c.base.Schema())
	if err != nil {
		return err
	}
	return c.builder.SetProperties(iceberg.Properties{table.DefaultNameMappingKey: names})
}

// evolve makes c.schema the current one; a schema that was current before gets
// its old id back.
func (c *change) evolve() error {
	if err := c.builder.AddSchema(c.schema); err != nil {
		return fmt.Errorf("%w: %w", err, record.ErrInvalid)
	}
	if err := c.builder.SetCurrentSchemaID(-1); err != nil {
		return err
	}
	c.schema = c.builder.CurrentSchema()
	names, err := json.Marshal(renamed(c.schema.NameMapping(), c.base.meta.NameMapping()))
	if err != nil {
		return fmt.Errorf("encode name mapping: %w", err)
	}
	props := iceberg.Properties{table.DefaultNameMappingKey: string(names)}
	if c.follow != 0 {
		props[followsKey] = strconv.Itoa(int(c.follow))
	}
	return c.builder.SetProperties(props)
}

// followsKey is the table property that has the id of the stream's schema that the
// table's current one is.
const followsKey = "thermocline.schema-id"

// follows tells whether the table has the schema of a stream, or a newer one of it:
// another engine's change may have come before an archive that began before it.
func (t *Table) follows(s *schema.Schema) bool {
	id, err := strconv.ParseInt(t.Property(followsKey), 10, 32)
	return err == nil && s.ID != 0 && int32(id) >= s.ID
}

// renamed adds to the names of now those that the fields had before, which files
// without field ids still use, unless another field has taken one.
func renamed(now, before []iceberg.MappedField) []iceberg.MappedField {
	taken := map[string]bool{}
	for i := range now {
		for _, n := range now[i].Names {
			taken[n] = true
		}
	}
	for i := range now {
		f := &now[i]
		at := slices.IndexFunc(before, func(b iceberg.MappedField) bool { return b.ID() == f.ID() })
		if at < 0 {
			continue
		}
		for _, n := range before[at].Names {
			if !taken[n] {
				taken[n] = true
				f.Names = append(f.Names, n)
			}
		}
		f.Fields = renamed(f.Fields, before[at].Fields)
	}
	return now
}

// build makes the new metadata, nil if nothing changes after all; what must be
// put before it is in c.puts.
func (c *change) build(ctx context.Context, commit *Commit) (table.Metadata, error) {
	if c.built != nil {
		return c.built, nil
	}
	if commit.erase != nil {
		return c.eraseMetadata(ctx, commit.erase)
	}
	if commit.rollback != 0 {
		if err := c.builder.SetSnapshotRef(table.MainBranch, commit.rollback, table.BranchRef); err != nil {
			return nil, fmt.Errorf("dataset: move the head of table %s: %w", c.base.id, err)
		}
	}
	if len(commit.Add) > 0 || commit.RemoveAll || len(commit.Remove) > 0 || commit.Marker != nil || commit.replace != nil || commit.pick != 0 || c.edits != nil {
		if err := c.snapshot(ctx, commit); err != nil {
			return nil, err
		}
		if err := c.expire(); err != nil {
			return nil, fmt.Errorf("dataset: bound the history of table %s: %w", c.base.id, err)
		}
	}
	if len(c.drop) > 0 {
		if err := c.builder.RemoveSnapshots(c.drop, false); err != nil {
			return nil, fmt.Errorf("dataset: expire snapshots of table %s: %w", c.base.id, err)
		}
	}
	m, err := c.builder.Build()
	if err != nil {
		return nil, fmt.Errorf("dataset: change table %s: %w", c.base.id, err)
	}
	return m, nil
}

// snapshot adds the new snapshot and makes it the head.
func (c *change) snapshot(ctx context.Context, commit *Commit) error {
	inherited, err := c.base.d.readManifests(ctx, c.base.head)
	if err != nil {
		return err
	}
	operation := table.OpAppend
	marker := commit.Marker
	var manifests []iceberg.ManifestFile
	if len(commit.Add) > 0 {
		if manifests, err = c.addFiles(commit.Add, commit.replace); err != nil {
			return err
		}
	}
	if commit.pick != 0 {
		if manifests, err = c.pickFiles(ctx, commit.pick); err != nil {
			return err
		}
	}
	switch {
	case len(commit.Remove) > 0:
		if operation = table.OpDelete; len(commit.Add) > 0 {
			operation = table.OpOverwrite
		}
		if inherited, err = c.removeFiles(ctx, commit.Remove, inherited); err != nil {
			return err
		}
	case commit.replace != nil:
		operation = table.OpReplace
		if inherited, err = c.replace(ctx, commit.replace, inherited); err != nil {
			return err
		}
		if marker, err = c.carried(); err != nil {
			return err
		}
	case c.edits != nil:
		operation = table.Operation(c.edits.operation)
		if manifests, inherited, err = c.edit(ctx, c.edits, inherited); err != nil {
			return err
		}
		if marker, err = c.carried(); err != nil {
			return err
		}
	case commit.RemoveAll:
		operation = table.OpOverwrite
		if inherited, err = c.removeAll(ctx, inherited); err != nil {
			return err
		}
	default:
		var kept []iceberg.ManifestFile
		for _, m := range inherited {
			if live(m) {
				kept = append(kept, m)
			}
		}
		if inherited, err = c.merge(ctx, kept); err != nil {
			return err
		}
	}
	c.extra = commit.Summary
	return c.add(operation, append(manifests, inherited...), marker)
}

// add makes a snapshot of the manifests the head.
func (c *change) add(operation table.Operation, manifests []iceberg.ManifestFile, marker *Marker) error {
	list, err := c.list(manifests)
	if err != nil {
		return err
	}
	props := c.summary.properties(c.base.head)
	maps.Copy(props, c.extra)
	props[commitIDKey] = c.commitID
	if c.edits != nil {
		maps.Copy(props, c.edits.props)
	}
	if marker != nil {
		m, err := marker.properties()
		if err != nil {
			return err
		}
		maps.Copy(props, m)
	}
	schemaID := c.schema.ID
	if err := c.builder.AddSnapshot(&table.Snapshot{
		SnapshotID:       c.snapshotID,
		ParentSnapshotID: c.parentID(),
		SequenceNumber:   c.sequence,
		TimestampMs:      c.timestamp(),
		ManifestList:     list,
		Summary:          &table.Summary{Operation: operation, Properties: props},
		SchemaID:         &schemaID,
	}); err != nil {
		return fmt.Errorf("dataset: add snapshot to table %s: %w", c.base.id, err)
	}
	if err := c.builder.SetSnapshotRef(table.MainBranch, c.snapshotID, table.BranchRef); err != nil {
		return fmt.Errorf("dataset: move the head of table %s: %w", c.base.id, err)
	}
	if marker != nil {
		if err := c.builder.SetSnapshotRef(markerTag, c.snapshotID, table.TagRef); err != nil {
			return fmt.Errorf("dataset: tag the marker of table %s: %w", c.base.id, err)
		}
	}
	if c.edits != nil && c.edits.tag != "" {
		if err := c.builder.SetSnapshotRef(c.edits.tag, c.snapshotID, table.TagRef); err != nil {
			return fmt.Errorf("dataset: tag a snapshot of table %s: %w", c.base.id, err)
		}
	}
	return nil
}

// carried is the newest marker under this commit's id: a compaction says what
// the head says, so that the marker stays near it.
func (c *change) carried() (*Marker, error) {
	m, err := c.base.Marker()
	if err != nil || m == nil {
		return nil, err
	}
	m.CommitID = c.commitID
	return m, nil
}

func (c *change) parentID() *int64 {
	if c.base.head == nil {
		return nil
	}
	id := c.base.head.SnapshotID
	return &id
}

// timestamp never runs backwards along the history, whatever the clock does:
// Iceberg refuses that, and time travel relies on it.
func (c *change) timestamp() int64 {
	ts := max(c.base.d.now().UnixMilli(), c.base.meta.LastUpdatedMillis())
	if c.base.head != nil {
		ts = max(ts, c.base.head.TimestampMs)
	}
	return ts
}

// expire drops the oldest snapshots beyond the limit from the metadata, except
// those that a ref names. It deletes no file: what only they reached becomes an
// orphan, and readers at work on them are not disturbed. Rows go only if a
// later snapshot had removed them.
func (c *change) expire() error {
	limit := c.base.d.maxSnapshots
	if v, err := strconv.Atoi(c.base.Property(maxSnapshotsKey)); err == nil && v >= minSnapshots {
		limit = v
	}
	snapshots := c.base.meta.Snapshots()
	over := len(snapshots) + 1 - limit
	if over <= 0 {
		return nil
	}
	named := map[int64]bool{}
	for _, ref := range c.base.meta.Refs() {
		named[ref.SnapshotID] = true
	}
	slices.SortStableFunc(snapshots, func(a, b table.Snapshot) int { return cmp.Compare(a.SequenceNumber, b.SequenceNumber) })
	var drop []int64
	for _, s := range snapshots[:min(over, len(snapshots))] {
		if !named[s.SnapshotID] {
			drop = append(drop, s.SnapshotID)
		}
	}
	if len(drop) == 0 {
		return nil
	}
	return c.builder.RemoveSnapshots(drop, false)
}
