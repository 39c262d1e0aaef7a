package dataset

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// UpdateOptions are how CommitUpdates treats a table.
type UpdateOptions struct {
	// View is the view whose rows are archived into the table; 0: none. What would
	// lose the place that they are archived up to, or who they are, is ErrInvalid.
	View record.ViewNumber
	// LastFieldID is the highest field id of all tables that share files with
	// this one; clients are told it, and take new ids above it.
	LastFieldID int
	// Key, if set, is kept in the table's properties: by it the change is found
	// when it is sent again, as long as no other change with a key came behind it.
	Key string
	// Schema, if set, is asked whether next may become the table's schema, before
	// it does; on each attempt. Its error ends the commit. id is that of the
	// stream's schema which next is then, 0 without a stream.
	Schema func(ctx context.Context, t *Table, next *iceberg.Schema) (id int32, err error)
	// Swap is Commit.Swap.
	Swap Swap
}

// CommitUpdates applies what another engine asks for to table id, and returns the
// new table. It may be repeated: a change that brought a snapshot is found.
//
// A snapshot that was made on an ancestor of the head is made anew on the head
// (restage.go), because the archiver's commits must not make those of others fail.
//
// Errors: a *RequirementError and others that are ErrConflict (load the table and
// try again), ErrInvalid (it would harm the table, or cannot be read),
// ErrNotFound: nothing was committed. ErrOutcomeUnknown as of Commit.
func (d *Datasets) CommitUpdates(ctx context.Context, id string, u *Updates, o UpdateOptions) (*Table, error) {
	return d.Commit(ctx, id, Commit{updates: &staging{u, o}, Swap: o.Swap})
}

// KeyProperty holds the key of the newest change that had one.
const KeyProperty = "thermocline.commit-key"

// staging makes a change of updates.
type staging struct {
	*Updates
	o UpdateOptions
}

// restagedKey, in a snapshot that was made anew, names the manifest list that the
// client had made for it: how the client's commit is found again.
const restagedKey = "thermocline.restaged-from"

// landed tells whether the table has every snapshot that the updates add.
func (s *staging) landed(t *Table) bool {
	if s.o.Key != "" && t.Property(KeyProperty) == s.o.Key {
		return true
	}
	any := false
	for _, u := range s.updates {
		if u.Action != table.UpdateAddSnapshot {
			continue
		}
		any = true
		have := t.meta.SnapshotByID(u.Snapshot.SnapshotID)
		if have == nil || (have.ManifestList != u.Snapshot.ManifestList &&
			(have.Summary == nil || have.Summary.Properties[restagedKey] != u.Snapshot.ManifestList)) {
			return false
		}
	}
	return any
}

// stage builds the change on head; nil if it changes nothing.
func (s *staging) stage(ctx context.Context, head *Table) (*change, error) {
	stale, err := s.checkRequirements(head)
	if err != nil {
		return nil, err
	}
	c := &change{base: head, schema: head.Schema(), sequence: head.meta.LastSequenceNumber()}
	if c.builder, err = table.MetadataBuilderFromBase(head.meta, head.location); err != nil {
		return nil, fmt.Errorf("dataset: change table %s: %w: %w", head.id, err, record.ErrCorrupt)
	}
	w := &stagingWork{staging: s, change: c, stale: stale, tips: refs(head.meta), fresh: map[int64]bool{}, made: map[int64]restaged{}}
	for i := range s.updates {
		if err := w.apply(ctx, i); err != nil {
			return nil, fmt.Errorf("dataset: change table %s: update number %d (%s): %w", head.id, i+1, s.updates[i].Action, err)
		}
	}
	if len(w.stale) > 0 {
		// The ref moved and the change sets no snapshot upon it.
		for _, err := range w.stale {
			return nil, err
		}
	}
	if !c.builder.HasChanges() {
		return nil, nil
	}
	if err := w.guard(ctx); err != nil {
		return nil, err
	}
	if s.o.Key != "" {
		if err := c.builder.SetProperties(iceberg.Properties{KeyProperty: s.o.Key}); err != nil {
			return nil, cannot(err)
		}
	}
	if c.built, err = c.builder.Build(); err != nil {
		return nil, fmt.Errorf("dataset: change table %s: %w: %w", head.id, err, record.ErrInvalid)
	}
	if s.o.View != 0 {
		if err := markerKept(head, newTable(head.d, head.id, "", c.built)); err != nil {
			return nil, err
		}
	}
	return c, w.agree(ctx)
}

// checkRequirements returns the refs that have moved on, which is no fault if a
// snapshot for them can be made anew, with the error if it cannot.
func (s *staging) checkRequirements(head *Table) (map[string]error, error) {
	stale := map[string]error{}
	last := max(head.meta.LastColumnID(), s.o.LastFieldID)
	for _, r := range s.requirements {
		err := r.holds(head.meta, last)
		switch {
		case err == nil:
		case r.Type == assertRef:
			stale[*r.Ref] = err
		default:
			return nil, err
		}
	}
	return stale, nil
}

// stagingWork is one attempt.
type stagingWork struct {
	*staging
	*change
	stale map[string]error             // refs that are not where the client saw them
	tips  map[string]table.SnapshotRef // refs as they are after the updates so far
	fresh map[int64]bool               // snapshots that the change adds
	made  map[int64]restaged           // those of them that were made anew
}

func (w *stagingWork) apply(ctx context.Context, i int) error {
	u := &w.updates[i]
	switch u.Action {
	case table.UpdateAddSnapshot:
		return w.addSnapshot(ctx, u, w.refOf(i))
	case table.UpdateSetSnapshotRef:
		return w.setRef(u)
	case table.UpdateRemoveSnapshotRef:
		if _, ok := w.tips[u.RefName]; !ok {
			return nil // a replacement removes main whether there is one or not
		}
		delete(w.tips, u.RefName)
	case table.UpdateSetProperties:
		for key, value := range u.Set {
			if strings.HasPrefix(key, ownPrefix) && w.base.Property(key) != value {
				return refused("table properties that begin with %q are the server's; leave %q as it is", ownPrefix, key)
			}
		}
	case table.UpdateRemoveProperties:
		for _, key := range u.Removals {
			if strings.HasPrefix(key, ownPrefix) && w.base.Property(key) != "" {
				return refused("table properties that begin with %q are the server's; leave %q as it is", ownPrefix, key)
			}
		}
	case table.UpdateSetStatistics, table.UpdateSetPartitionStatistics:
		if err := w.checkStatistics(cmp.Or(u.Statistics, u.PartStats)); err != nil {
			return err
		}
	case table.UpdateAssignUUID:
		if !strings.EqualFold(u.UUID, w.base.meta.TableUUID().String()) {
			return refused("the table's UUID is %s and stays; leave assign-uuid out", w.base.meta.TableUUID())
		}
		return nil
	case table.UpdateUpgradeFormatVersion:
		if u.Format != formatVersion {
			return refused("format version %d is not supported; tables stay at %d", u.Format, formatVersion)
		}
		return nil
	case table.UpdateSetLocation:
		if !sameLocation(u.Location, w.base.meta.Location()) {
			return refused("the table's location is %s and stays; leave set-location out", w.base.meta.Location())
		}
		return nil
	}
	one, err := u.parse()
	if err != nil {
		return cannot(err)
	}
	return cannot(one.Apply(w.builder))
}

// cannot is what iceberg-go says of an update that does not fit the table.
func cannot(err error) error {
	if err != nil {
		err = fmt.Errorf("%w: %w", err, record.ErrInvalid)
	}
	return err
}

func refused(format string, args ...any) error {
	return fmt.Errorf("dataset: refused: %s: %w", fmt.Sprintf(format, args...), record.ErrInvalid)
}

// sameLocation tells whether two URIs name the same folder.
func sameLocation(a, b string) bool {
	norm := func(s string) string {
		s = strings.TrimRight(s, "/")
		if rest, ok := strings.CutPrefix(s, "file:"); ok {
			s = "file:///" + strings.TrimLeft(rest, "/")
		}
		return s
	}
	return norm(a) == norm(b)
}

// refOf names the ref that the snapshot added by update i is meant for, "" if it
// gets none.
func (w *stagingWork) refOf(i int) string {
	for _, u := range w.updates[i+1:] {
		if u.Action == table.UpdateSetSnapshotRef && u.SnapshotID == w.updates[i].Snapshot.SnapshotID && u.RefType == table.BranchRef {
			return u.RefName
		}
	}
	return ""
}

// setRef keeps the retention that a ref has where the client says nothing of it:
// clients leave it out when they only move a ref.
func (w *stagingWork) setRef(u *update) error {
	old, had := w.tips[u.RefName]
	had = had && old.SnapshotRefType == u.RefType && u.MaxRefAge == nil && u.MaxSnapAge == nil && u.MinSnapKeep == nil
	ref := table.SnapshotRef{SnapshotID: u.SnapshotID, SnapshotRefType: u.RefType}
	if had {
		ref.MaxRefAgeMs, ref.MaxSnapshotAgeMs, ref.MinSnapshotsToKeep = old.MaxRefAgeMs, old.MaxSnapshotAgeMs, old.MinSnapshotsToKeep
	} else {
		ref.MaxRefAgeMs, ref.MaxSnapshotAgeMs, ref.MinSnapshotsToKeep = u.MaxRefAge, u.MaxSnapAge, u.MinSnapKeep
	}
	if err, moved := w.stale[u.RefName]; moved && !w.fresh[u.SnapshotID] {
		return err
	}
	w.tips[u.RefName] = ref
	return cannot(table.NewSetSnapshotRefUpdate(u.RefName, u.SnapshotID, u.RefType,
		value(ref.MaxRefAgeMs), value(ref.MaxSnapshotAgeMs), value(ref.MinSnapshotsToKeep)).Apply(w.builder))
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// addSnapshot adds a snapshot as it is if it stands on the tip of its ref, and
// else, if that moved on, a new one of the same id that does.
func (w *stagingWork) addSnapshot(ctx context.Context, u *update, ref string) error {
	var own updateBody // a copy of this attempt
	if err := json.Unmarshal(u.raw, &own); err != nil {
		return err
	}
	s := own.Snapshot
	if err := w.checkSnapshot(s); err != nil {
		return err
	}
	var onto *table.Snapshot
	if tip, ok := w.tips[ref]; ok && ref != "" {
		var err error
		if onto, err = w.builder.SnapshotByID(tip.SnapshotID); err != nil {
			return err
		}
	}
	stale, moved := w.stale[ref]
	switch {
	case s.ParentSnapshotID == nil && onto != nil && !moved:
		return refused("snapshot %d has no parent, but %s has a history; load the table and commit upon it", s.SnapshotID, ref)
	case s.ParentSnapshotID == nil && onto == nil && len(w.base.meta.Snapshots()) > 0 && !w.replaces(ref):
		return refused("snapshot %d has no parent, but the table has a history; create the branch %q from a snapshot first", s.SnapshotID, ref)
	case s.ParentSnapshotID != nil && onto != nil && *s.ParentSnapshotID != onto.SnapshotID && !w.descends(onto, *s.ParentSnapshotID):
		if moved {
			return stale
		}
		return unmet("snapshot %d has the parent %d, which is not in the history of %s", s.SnapshotID, *s.ParentSnapshotID, ref)
	case s.ParentSnapshotID != nil && onto == nil && w.base.meta.SnapshotByID(*s.ParentSnapshotID) == nil && !w.fresh[*s.ParentSnapshotID]:
		return unmet("snapshot %d has the parent %d, which the table does not have; it may have expired", s.SnapshotID, *s.ParentSnapshotID)
	}
	delete(w.stale, ref)
	if onto == nil && s.ParentSnapshotID != nil {
		// It begins a ref, or has none yet.
		var err error
		if onto, err = w.builder.SnapshotByID(*s.ParentSnapshotID); err != nil {
			return err
		}
	}
	w.sequence++
	w.fresh[s.SnapshotID] = true
	if !w.standsOn(s, onto) {
		if err := w.restage(ctx, s, onto); err != nil {
			return err
		}
	}
	return cannot(w.builder.AddSnapshot(s))
}

// standsOn tells whether the snapshot can be added as the client made it.
func (w *stagingWork) standsOn(s, onto *table.Snapshot) bool {
	if s.SequenceNumber != w.sequence {
		return false
	}
	if onto == nil {
		return s.ParentSnapshotID == nil
	}
	_, anew := w.made[onto.SnapshotID]
	return !anew && s.ParentSnapshotID != nil && *s.ParentSnapshotID == onto.SnapshotID
}

// checkSnapshot refuses what no client may put into a snapshot.
func (w *stagingWork) checkSnapshot(s *table.Snapshot) error {
	if s.ManifestList == "" {
		return refused("snapshot %d has no manifest list", s.SnapshotID)
	}
	if _, err := objstore.Key(w.base.d.store, s.ManifestList); err != nil {
		return err
	}
	if s.Summary == nil || s.Summary.Operation == "" {
		return refused("snapshot %d has no summary with an operation", s.SnapshotID)
	}
	for key := range s.Summary.Properties {
		if strings.HasPrefix(key, ownPrefix) {
			return refused("the summary of snapshot %d has %q; keys that begin with %q are the server's", s.SnapshotID, key, ownPrefix)
		}
	}
	return nil
}

func (w *stagingWork) checkStatistics(s *statistics) error {
	if s == nil || s.Path == "" {
		return refused("statistics without a file")
	}
	if w.o.View == 0 {
		return nil
	}
	_, err := objstore.Key(w.base.d.store, s.Path)
	return err
}

// ownPrefix begins the keys of properties and summaries that are ours.
const ownPrefix = "thermocline."

// replaces tells whether the updates so far took the ref away to begin anew.
func (w *stagingWork) replaces(ref string) bool {
	return slices.ContainsFunc(w.updates, func(u update) bool {
		return u.Action == table.UpdateRemoveSnapshotRef && u.RefName == ref
	})
}

// descends tells whether id is s or an ancestor of it.
func (w *stagingWork) descends(s *table.Snapshot, id int64) bool {
	seen := map[int64]bool{}
	for s != nil && !seen[s.SnapshotID] {
		if s.SnapshotID == id {
			return true
		}
		seen[s.SnapshotID] = true
		if s.ParentSnapshotID == nil {
			return false
		}
		s, _ = w.builder.SnapshotByID(*s.ParentSnapshotID)
	}
	return false
}
