package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// guard looks at what the table would be. It keeps other engines from harming
// what only this program knows of: the place that a stream is archived up to, and
// who each row is. What it refuses it refuses with ErrInvalid and a way out.
func (w *stagingWork) guard(ctx context.Context) error {
	next := w.builder.CurrentSchema()
	if next == nil {
		return refused("the table would have no schema")
	}
	if w.o.View != 0 && !next.Equals(w.base.Schema()) {
		if err := systemColumnsKept(next); err != nil {
			return err
		}
		_, any := w.tips[table.MainBranch]
		if err := checkEvolution(w.base.meta, next, !any); err != nil {
			return err
		}
	}
	return w.guardFiles(ctx)
}

// agree asks whether the table's new schema may be, when nothing else stands against
// the change any more: the answer may be that it is another one's already.
func (w *stagingWork) agree(ctx context.Context) error {
	next := w.built.CurrentSchema()
	if w.o.Schema == nil || next.Equals(w.base.Schema()) {
		return nil
	}
	id, err := w.o.Schema(ctx, w.base, next)
	if err != nil || id == 0 {
		return err
	}
	b, err := table.MetadataBuilderFromBase(w.built, "")
	if err == nil {
		err = b.SetProperties(iceberg.Properties{followsKey: strconv.Itoa(int(id))})
	}
	if err == nil {
		w.built, err = b.Build()
	}
	return err
}

// systemColumnsKept tells whether a schema still has the system columns.
func systemColumnsKept(s *iceberg.Schema) error {
	all := (&schema.Schema{}).WithSystem()
	for i := range all.Fields {
		all.Fields[i].Nullable = true
	}
	for _, want := range all.Iceberg().Fields() {
		have, ok := s.FindFieldByID(want.ID)
		if !ok || have.Name != want.Name || !have.Type.Equals(want.Type) || have.Required {
			return refused("the column %s (id %d) says which row of the stream a row is; it cannot be dropped, renamed or changed", want.Name, want.ID)
		}
	}
	return nil
}

// markerKept tells whether the newest marker is still found from the head, and
// pinned by its tag.
func markerKept(before, after *Table) error {
	was, err := before.Marker()
	if err != nil {
		return err
	}
	if was == nil {
		return nil
	}
	is, err := after.Marker()
	if err != nil || is == nil || is.SnapshotID != was.SnapshotID {
		return refused("snapshot %d says up to where the stream is archived, and would no longer be in the history of %s; roll back by a new commit that stands on it, expire only what is older, or delete rows instead", was.SnapshotID, table.MainBranch)
	}
	tag := func(t *Table) table.SnapshotRef { return refs(t.meta)[markerTag] }
	if old, now := tag(before), tag(after); old.SnapshotID != now.SnapshotID || old.SnapshotRefType != now.SnapshotRefType {
		return refused("the tag %s pins the snapshot that says up to where the stream is archived; it cannot be moved or removed", markerTag)
	}
	return nil
}

// identity counts rows that say which row of the stream they are.
type identity struct {
	rows    int64 // data rows
	known   int64 // of them, rows that say which row of any view they are
	own     int64 // of these, rows that may be of the stream's view
	certain int64 // of these, rows that are
	unknown bool  // a file does not tell
	deletes int64 // rows that files of deletes name by position
}

func (i *identity) add(f iceberg.DataFile, view record.ViewNumber) {
	i.rows += f.Count()
	r := manifestRange(schema.Long, f, schema.OffsetID)
	values, counted := f.ValueCounts()[schema.OffsetID]
	switch {
	case counted && (r.nullsKnown || r.bounded):
		n := values - r.nulls
		i.known += n
		switch v := manifestRange(schema.Integer, f, schema.ViewID); {
		case v.bounded && (v.lower.i > int64(view) || v.upper.i < int64(view)): // of other views
		case v.bounded && v.lower.i == int64(view) && v.upper.i == int64(view):
			i.own += n
			i.certain += n
		default: // of several views, or it does not tell
			i.own += n
		}
	case !counted && len(f.ValueCounts()) > 0 && len(f.ValueCounts()) < manyColumns:
		// The file tells of its columns, and this is none of them.
	default:
		i.unknown = true
	}
}

func (i *identity) sum(o identity) {
	i.rows, i.known, i.own, i.certain = i.rows+o.rows, i.known+o.known, i.own+o.own, i.certain+o.certain
	i.deletes, i.unknown = i.deletes+o.deletes, i.unknown || o.unknown
}

// manyColumns is how many columns of a file writers keep counts of by default.
const manyColumns = 100

// guardFiles looks at the files that the change adds and removes, and keeps count of
// the stream's rows that engines have removed, so that others that are missing are
// found out.
func (w *stagingWork) guardFiles(ctx context.Context) error {
	var added, removed identity
	moved := w.brought()
	for id := range w.fresh {
		moved[id] = moved[id] || false
	}
	for id, onMain := range moved {
		s, err := w.builder.SnapshotByID(id)
		if err != nil {
			continue // it was added and expired at once
		}
		in, out, err := w.snapshotFiles(ctx, s)
		if err != nil {
			return err
		}
		if w.o.View == 0 {
			continue
		}
		if s.Summary.Operation != table.OpAppend && out.own > 0 && in.rows > 0 && in.own == 0 && !in.unknown {
			return refused("snapshot %d rewrites rows of the stream without the columns _view, %s and _offset, and they would no longer be known; carry these columns along, or delete the rows in one commit and append others in the next", s.SnapshotID, partitionName())
		}
		if onMain {
			added.sum(in)
			removed.sum(out)
		}
	}
	if w.o.View == 0 {
		return nil
	}
	// Where files hold rows of several views, what a rewrite adds is told from copies by
	// their number only.
	copies := added.certain > removed.own || (added.own > removed.own && added.known > removed.known)
	if copies && !removed.unknown {
		return refused("the commit adds %d rows that say they are rows of the stream (_view %d), and removes %d; leave the columns _view, %s, _offset and _timestamp out of rows that are new", added.own, w.o.View, removed.own, partitionName())
	}
	return w.noteRemoved(removed.known-added.known+added.deletes, removed.unknown || added.unknown && removed.own > 0)
}

// brought are the snapshots that come into the history of main, each true.
func (w *stagingWork) brought() map[int64]bool {
	out := map[int64]bool{}
	tip, ok := w.tips[table.MainBranch]
	if !ok {
		return out
	}
	s, err := w.builder.SnapshotByID(tip.SnapshotID)
	for err == nil && s != nil && !out[s.SnapshotID] && !w.base.descends(s.SnapshotID) {
		out[s.SnapshotID] = true
		if s.ParentSnapshotID == nil {
			break
		}
		s, err = w.builder.SnapshotByID(*s.ParentSnapshotID)
	}
	return out
}

// removedKey is the table property that counts rows of the stream's view that other
// engines have removed.
const removedKey = "thermocline.engine-removed"

type removedRows struct {
	View    record.ViewNumber `json:"view"`
	Rows    int64             `json:"rows"`
	Unknown bool              `json:"unknown,omitempty"`
}

func (w *stagingWork) noteRemoved(rows int64, unknown bool) error {
	if rows <= 0 && !unknown {
		return nil
	}
	before, all := w.base.EngineRemoved(w.o.View)
	text, err := json.Marshal(removedRows{w.o.View, before + max(rows, 0), unknown || all})
	if err != nil {
		return fmt.Errorf("dataset: note removed rows: %w", err)
	}
	return cannot(w.builder.SetProperties(iceberg.Properties{removedKey: string(text)}))
}

// EngineRemoved is how many rows of a view other engines have removed from the
// table at most; unknown: that cannot be told.
func (t *Table) EngineRemoved(view record.ViewNumber) (rows int64, unknown bool) {
	var r removedRows
	if text := t.Property(removedKey); text == "" || json.Unmarshal([]byte(text), &r) != nil || r.View != view {
		return 0, false
	}
	return r.Rows, r.Unknown
}

func partitionName() string { return (&schema.Schema{}).WithSystem().Fields[1].Name }

// snapshotFiles counts what a new snapshot adds and removes, and refuses files of a
// stream outside the warehouse, which its readers could not read.
func (w *stagingWork) snapshotFiles(ctx context.Context, s *table.Snapshot) (in, out identity, err error) {
	manifests, err := w.serverManifests(ctx, s)
	if err != nil {
		return in, out, fmt.Errorf("snapshot %d: %w", s.SnapshotID, unreadable(err))
	}
	for _, m := range manifests {
		if m.SnapshotID() != s.SnapshotID {
			continue
		}
		entries, err := w.entriesOf(ctx, m)
		if err != nil {
			return in, out, fmt.Errorf("snapshot %d: %w", s.SnapshotID, unreadable(err))
		}
		for _, e := range entries {
			f := e.DataFile()
			switch {
			case e.Status() == iceberg.EntryStatusADDED && f.ContentType() == iceberg.EntryContentPosDeletes:
				in.deletes += f.Count()
			case e.Status() == iceberg.EntryStatusADDED && f.ContentType() == iceberg.EntryContentEqDeletes:
				out.unknown = true
			case f.ContentType() == iceberg.EntryContentData:
				switch {
				case e.Status() == iceberg.EntryStatusADDED:
					in.add(f, w.o.View)
				case e.Status() == iceberg.EntryStatusDELETED && e.SnapshotID() == s.SnapshotID:
					out.add(f, w.o.View)
				}
			}
			// A dataset without a stream may name files elsewhere, as tables that moved
			// in from other catalogs do. This server cannot read them, nor does it tend them.
			if e.Status() != iceberg.EntryStatusADDED || w.o.View == 0 {
				continue
			}
			if _, err := objstore.Key(w.base.d.store, f.FilePath()); err != nil {
				return in, out, refused("%s: %v; copy the file below %s first", f.FilePath(), err, w.base.meta.Location())
			}
		}
	}
	return in, out, nil
}

// unreadable: what the client wrote cannot be read. That is the client's fault, not
// damage of the table.
func unreadable(err error) error {
	if !errors.Is(err, record.ErrCorrupt) {
		return err
	}
	return fmt.Errorf("dataset: what the commit names cannot be read: %w: %w", record.ErrInvalid, err)
}
