package dataset

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
)

// Tag is a name for a snapshot of a table, an Iceberg ref of type tag. Expiry
// keeps the snapshot as long as the tag is there.
type Tag struct {
	Name     string
	Snapshot int64
	Sequence int64
	Time     time.Time // of the snapshot
}

// maxTags bounds the tags of a table: each commit writes them all.
const maxTags = 1000

// Tags lists the tags of the table by name, without those that Thermocline keeps
// for itself.
func (t *Table) Tags() []Tag {
	var all []Tag
	for name, ref := range t.meta.Refs() {
		s := t.meta.SnapshotByID(ref.SnapshotID)
		if ref.SnapshotRefType != table.TagRef || ours(name) || s == nil {
			continue
		}
		all = append(all, Tag{Name: name, Snapshot: s.SnapshotID, Sequence: s.SequenceNumber, Time: time.UnixMilli(s.TimestampMs).UTC()})
	}
	slices.SortFunc(all, func(a, b Tag) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Tag returns a tag by name; record.ErrNotFound.
func (t *Table) Tag(name string) (Tag, error) {
	for _, tag := range t.Tags() {
		if tag.Name == name {
			return tag, nil
		}
	}
	return Tag{}, fmt.Errorf("dataset: table %s has no tag %.80q; list its tags: %w", t.id, name, record.ErrNotFound)
}

// CreateTag gives a snapshot (0: the head) of a table a name. record.ErrExists if
// the name is taken, unless by the same snapshot; record.ErrNotFound if there is no
// such snapshot; record.ErrInvalid for names that Thermocline uses itself; others
// as of Commit.
func (d *Datasets) CreateTag(ctx context.Context, id, name string, snapshot int64) (Tag, error) {
	if name == "" || ours(name) {
		return Tag{}, fmt.Errorf("dataset: create tag %q: the name is reserved; choose another: %w", name, record.ErrInvalid)
	}
	t, err := d.Commit(ctx, id, Commit{refs: func(head *Table, b *table.MetadataBuilder) (bool, error) {
		if snapshot == 0 && head.head != nil {
			snapshot = head.head.SnapshotID // also for further attempts
		}
		if snapshot == 0 {
			return false, fmt.Errorf("dataset: create tag %s: table %s has no snapshot yet: %w", name, id, record.ErrNotFound)
		}
		if head.meta.SnapshotByID(snapshot) == nil {
			return false, fmt.Errorf("dataset: create tag %s: table %s has no snapshot %d, or has it no longer: %w", name, id, snapshot, record.ErrNotFound)
		}
		for taken, ref := range head.meta.Refs() {
			if taken != name {
				continue
			}
			if ref.SnapshotRefType == table.TagRef && ref.SnapshotID == snapshot {
				return false, nil
			}
			return false, fmt.Errorf("dataset: create tag %s: it names snapshot %d; delete it first: %w", name, ref.SnapshotID, record.ErrExists)
		}
		if len(head.Tags()) >= maxTags {
			return false, fmt.Errorf("dataset: create tag %s: table %s has %d tags, the most that are allowed: %w", name, id, maxTags, record.ErrTooLarge)
		}
		return true, b.SetSnapshotRef(name, snapshot, table.TagRef)
	}})
	if err != nil {
		return Tag{}, err
	}
	return t.Tag(name)
}

// DeleteTag takes a name from a table; the snapshot may expire from then on.
// record.ErrNotFound if there is no such tag; others as of CreateTag.
func (d *Datasets) DeleteTag(ctx context.Context, id, name string) error {
	_, err := d.Commit(ctx, id, Commit{refs: func(head *Table, b *table.MetadataBuilder) (bool, error) {
		if _, err := head.Tag(name); err != nil {
			return false, err
		}
		return true, b.RemoveSnapshotRef(name)
	}})
	return err
}
