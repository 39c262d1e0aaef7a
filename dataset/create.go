package dataset

import (
	"context"
	"fmt"
	"maps"
	"path"
	"strconv"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// NewTable is a table that another engine would like to have.
type NewTable struct {
	Schema     *iceberg.Schema
	Spec       *iceberg.PartitionSpec // nil: unpartitioned
	Order      *table.SortOrder       // nil: unsorted
	Properties map[string]string
	Key        string // as in UpdateOptions
}

// tableProperties are those that each of our tables gets.
func tableProperties(props map[string]string) iceberg.Properties {
	all := iceberg.Properties{
		table.ParquetCompressionKey:          "zstd",
		table.ParquetCompressionLevelKey:     "1",
		table.MetadataPreviousVersionsMaxKey: strconv.Itoa(keptMetadataFiles),
		// Old metadata files are ours to delete: branches may share them.
		table.MetadataDeleteAfterCommitEnabledKey: "false",
	}
	maps.Copy(all, props)
	return all
}

// Draft is the first metadata of table id, with fields numbered anew from 1.
// Nothing is written.
func (d *Datasets) Draft(id string, n NewTable) (table.Metadata, error) {
	tableID, err := uuid.Parse(id)
	if err != nil {
		return nil, fmt.Errorf("dataset: table id %q: %w", id, record.ErrInvalid)
	}
	props := tableProperties(n.Properties)
	if v := props[table.PropertyFormatVersion]; v != "" && v != strconv.Itoa(formatVersion) {
		return nil, refused("format version %.20s is not supported; use %d", v, formatVersion)
	}
	props[table.PropertyFormatVersion] = strconv.Itoa(formatVersion)
	if err := noOwnProperties(n.Properties); err != nil {
		return nil, err
	}
	if n.Key != "" {
		props[KeyProperty] = n.Key
	}
	order := table.UnsortedSortOrder
	if n.Order != nil {
		order = *n.Order
	}
	if n.Spec == nil {
		n.Spec = iceberg.UnpartitionedSpec
	}
	m, err := table.NewMetadataWithUUID(n.Schema, n.Spec, order, d.tableLocation(id), props, tableID)
	if err != nil {
		return nil, fmt.Errorf("dataset: new table: %w: %w", err, record.ErrInvalid)
	}
	return m, nil
}

func noOwnProperties(props map[string]string) error {
	for key := range props {
		if len(key) >= len(ownPrefix) && key[:len(ownPrefix)] == ownPrefix {
			return refused("table properties that begin with %q are the server's; leave %q out", ownPrefix, key)
		}
	}
	return nil
}

func (d *Datasets) tableLocation(id string) string { return objstore.URI(d.store, id) }

// DraftUpdates is the first metadata of the table that u creates, and its id: what a
// client made of a Draft. Nothing is written.
func (d *Datasets) DraftUpdates(ctx context.Context, u *Updates, key string) (id string, m table.Metadata, err error) {
	b, err := table.NewMetadataBuilder(formatVersion)
	if err != nil {
		return "", nil, fmt.Errorf("dataset: new table: %w", err)
	}
	for _, r := range u.requirements {
		if r.Type != assertCreate {
			return "", nil, refused("%s cannot hold of a table that is to be created", r.Type)
		}
	}
	location := ""
	for i := range u.updates {
		up := &u.updates[i]
		switch up.Action {
		case table.UpdateUpgradeFormatVersion:
			if up.Format > formatVersion {
				return "", nil, refused("format version %d is not supported; use %d", up.Format, formatVersion)
			}
			continue
		case table.UpdateAssignUUID:
			id = up.UUID
		case table.UpdateSetLocation:
			location = up.Location
			continue
		case table.UpdateSetProperties:
			if err := noOwnProperties(up.Set); err != nil {
				return "", nil, err
			}
		case table.UpdateRemoveSnapshotRef:
			continue // of a replacement of what is not there
		}
		one, err := up.parse()
		if err == nil {
			err = one.Apply(b)
		}
		if err != nil {
			return "", nil, fmt.Errorf("dataset: new table: update number %d (%s): %w", i+1, up.Action, cannot(err))
		}
	}
	if id == "" {
		if _, err := uuid.Parse(path.Base(location)); err == nil {
			id = path.Base(location)
		} else {
			id = uuid.NewString()
		}
		if err := b.SetUUID(uuid.MustParse(id)); err != nil {
			return "", nil, cannot(err)
		}
	}
	if err := checkID(id); err != nil {
		return "", nil, err
	}
	if location != "" && !sameLocation(location, d.tableLocation(id)) {
		return "", nil, refused("the table's location is %q; tables lie where the server says, here at %s: create the table with stage-create first", location, d.tableLocation(id))
	}
	if err := b.SetLoc(d.tableLocation(id)); err != nil {
		return "", nil, cannot(err)
	}
	if key != "" {
		if err := b.SetProperties(iceberg.Properties{KeyProperty: key}); err != nil {
			return "", nil, cannot(err)
		}
	}
	m, err = b.Build()
	if err != nil {
		return "", nil, fmt.Errorf("dataset: new table: %w", cannot(err))
	}
	for _, s := range m.Snapshots() {
		if _, err := d.readManifests(ctx, &s); err != nil {
			return "", nil, fmt.Errorf("snapshot %d: %w", s.SnapshotID, unreadable(err))
		}
	}
	return id, m, nil
}

// WriteMetadata makes metadata that nothing names yet durable, and returns where
// it is. Without a pointer to it, it is an orphan; DropMetadata takes it back.
func (d *Datasets) WriteMetadata(ctx context.Context, m table.Metadata) (location string, err error) {
	location, data, err := encodeMetadata(m, "")
	if err != nil {
		return "", err
	}
	return location, d.put(ctx, location, data)
}

// DropMetadata deletes what WriteMetadata wrote, if certainly nothing names it.
func (d *Datasets) DropMetadata(ctx context.Context, location string) {
	d.remove(ctx, []string{location})
}

// Foreign loads a table that is in the store and has no pointer, by one of its
// metadata files. Its files must lie below the folder of its UUID, as ours do.
func (d *Datasets) Foreign(ctx context.Context, location string) (*Table, error) {
	data, err := d.readMeta(ctx, location)
	if err != nil {
		return nil, unreadable(err)
	}
	m, err := parseMetadata(location, data)
	if err != nil {
		return nil, unreadable(err)
	}
	id := m.TableUUID().String()
	if !sameLocation(m.Location(), d.tableLocation(id)) {
		return nil, refused("the table lies at %s; only tables at %s/UUID can be registered", m.Location(), d.store.Base())
	}
	return newTable(d, id, location, m), nil
}
