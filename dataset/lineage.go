package dataset

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"

	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
)

// Branches are tables of their own, which share the snapshots from before they
// parted. A merge tells in its snapshot which one of another table it took in, so
// that all snapshots of all branches form one graph, in which a merge has two
// parents. What two branches have in common are its newest common ancestors.

// Keys of the summary of a merge.
const (
	// mergedKey holds, per view that is not the table's own, the offsets up to
	// which its rows have ever come into the table.
	mergedKey = "thermocline.merged"
	// mergedSourceKey names the snapshot that was merged.
	mergedSourceKey = "thermocline.merged-source"
)

// mergedTag pins the snapshot with the newest mergedKey, as markerTag does the
// marker.
const mergedTag = "thermocline-merged"

// forkedFromKey is the property of a table that says of which snapshot of which
// table it was made (0: that was empty), of which that was made, and so on.
const forkedFromKey = "thermocline.forked-from"

// forkTag begins the tags that pin these snapshots in the table: each is what it has
// in common with others, whether the tables between are still there or not.
const forkTag = "thermocline-fork"

// origins are what a table was made of, the nearest first.
func (t *Table) origins() []mergedSource {
	var out []mergedSource
	if json.Unmarshal([]byte(t.Property(forkedFromKey)), &out) != nil {
		return nil
	}
	return out
}

// mergedIntoPrefix begins the tags that pin a snapshot which was merged into
// another table, and so is what both have in common from then on.
const mergedIntoPrefix = "thermocline-merged-into-"

// mergedIntoTag is the tag on a snapshot that is merged into a table.
func mergedIntoTag(target string, snapshot int64) string {
	return mergedIntoPrefix + target + "-" + strconv.FormatInt(snapshot, 10)
}

// mergedSource is the value of mergedSourceKey, and a part of that of forkedFromKey.
type mergedSource struct {
	Table    string `json:"table"`
	Snapshot int64  `json:"snapshot,string"`
}

func parseMergedSource(s *table.Snapshot) (m mergedSource, ok bool) {
	if s.Summary == nil || s.Summary.Properties[mergedSourceKey] == "" {
		return m, false
	}
	err := json.Unmarshal([]byte(s.Summary.Properties[mergedSourceKey]), &m)
	return m, err == nil && checkID(m.Table) == nil && m.Snapshot != 0
}

// lineage yields the head and its ancestors as far as they are retained, newest
// first; behind a gap that expiry left, the retained ones before it, in no order.
func (t *Table) lineage() iter.Seq[*table.Snapshot] {
	return func(yield func(*table.Snapshot) bool) {
		oldest := t.head
		for s := range t.ancestors() {
			if oldest = s; !yield(s) {
				return
			}
		}
		if oldest == nil || oldest.ParentSnapshotID == nil {
			return
		}
		for _, s := range t.meta.Snapshots() {
			if s.SequenceNumber < oldest.SequenceNumber && !yield(&s) {
				return
			}
		}
	}
}

// extents tells which rows of which views have ever come into the table.
// ErrCorrupt where a record of that does not parse: rows would be taken for new.
func (t *Table) extents() (extents, error) {
	e := extents{}
	for s := range t.lineage() {
		if m := parseMarker(s); m != nil {
			e.raise(m.ViewNumber, m.Offsets)
		}
		if s.Summary == nil || s.Summary.Properties[mergedKey] == "" {
			continue
		}
		var merged extents
		if err := json.Unmarshal([]byte(s.Summary.Properties[mergedKey]), &merged); err != nil {
			return nil, fmt.Errorf("dataset: table %s: %s of snapshot %d does not parse; restore the snapshot's summary or roll back behind it: %w: %w", t.id, mergedKey, s.SnapshotID, err, record.ErrCorrupt)
		}
		e.raiseAll(merged)
	}
	return e, nil
}

// maxTables bounds the tables that one look at the graph loads.
const maxTables = 1000

// graph is the snapshots of several tables.
type graph struct {
	d         *Datasets
	tables    map[string]bool // that were looked at
	snapshots map[int64]retained
	points    map[string][]int64 // snapshots of a table that others were made of
}

// retained is a snapshot with a table that still has it.
type retained struct {
	*table.Snapshot
	t *Table
}

// older is the newest snapshot that is retained from before one whose parent
// expired: by its table, or by one that was made of it, or of what it was made of.
func (g *graph) older(r retained) []int64 {
	found, newest := []int64(nil), int64(-1)
	consider := func(s *table.Snapshot, below int64) {
		if s.SequenceNumber < below && s.SequenceNumber > newest {
			newest, found = s.SequenceNumber, []int64{s.SnapshotID}
		}
	}
	below := r.SequenceNumber
	for _, s := range r.t.meta.Snapshots() {
		consider(&s, below)
	}
	made := func(id string) {
		for _, p := range g.points[id] {
			if s, ok := g.snapshots[p]; ok {
				consider(s.Snapshot, below)
			}
		}
	}
	made(r.t.id)
	for _, o := range r.t.origins() {
		s, ok := g.snapshots[o.Snapshot]
		if !ok {
			break
		}
		below = min(below, s.SequenceNumber+1)
		made(o.Table)
	}
	return found
}

func newGraph(tables ...*Table) *graph {
	g := &graph{d: tables[0].d, tables: map[string]bool{}, snapshots: map[int64]retained{}, points: map[string][]int64{}}
	for _, t := range tables {
		g.add(t)
	}
	return g
}

func (g *graph) add(t *Table) {
	g.tables[t.id] = true
	for _, o := range t.origins() {
		g.points[o.Table] = append(g.points[o.Table], o.Snapshot)
	}
	for _, s := range t.meta.Snapshots() {
		if _, ok := g.snapshots[s.SnapshotID]; !ok {
			g.snapshots[s.SnapshotID] = retained{&s, t}
		}
	}
}

// parents of a snapshot, and the tables that it merged.
func (g *graph) parents(ctx context.Context, id int64) ([]int64, error) {
	s, ok := g.snapshots[id]
	if !ok {
		return nil, nil
	}
	var out []int64
	if s.ParentSnapshotID != nil {
		out = append(out, *s.ParentSnapshotID)
		if _, ok := g.snapshots[*s.ParentSnapshotID]; !ok {
			out = append(out, g.older(s)...)
		}
	}
	m, ok := parseMergedSource(s.Snapshot)
	if !ok {
		return out, nil
	}
	if !g.tables[m.Table] && len(g.tables) < maxTables {
		t, err := g.d.Load(ctx, m.Table)
		switch {
		case errors.Is(err, record.ErrNotFound):
			g.tables[m.Table] = true // the branch was deleted
		case err != nil:
			return nil, err
		default:
			g.add(t)
		}
	}
	return append(out, m.Snapshot), nil
}

// ancestry is the head of t with all that lies before it.
func (g *graph) ancestry(ctx context.Context, t *Table) (map[int64]bool, error) {
	seen := map[int64]bool{}
	var next []int64
	visit := func(id int64) {
		if !seen[id] {
			seen[id] = true
			next = append(next, id)
		}
	}
	if t.head != nil {
		visit(t.head.SnapshotID)
	}
	for len(next) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		id := next[len(next)-1]
		next = next[:len(next)-1]
		parents, err := g.parents(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, p := range parents {
			visit(p)
		}
	}
	return seen, nil
}

// fromNothing tells whether two tables parted when there was nothing in them yet:
// then the empty table is what they have in common.
func fromNothing(a, b *Table) bool {
	up := func(t *Table) map[string]bool { // the tables that it comes from → through an empty one
		out, empty := map[string]bool{t.id: false}, false
		for _, o := range t.origins() {
			empty = empty || o.Snapshot == 0
			out[o.Table] = empty
		}
		return out
	}
	ofB := up(b)
	for id, empty := range up(a) {
		if also, common := ofB[id]; common && (empty || also) {
			return true
		}
	}
	return false
}

// bases returns the newest common ancestors of two tables, oldest first: one,
// or several after merges that crossed; none if one of the tables has no snapshot.
// whole is false where newer ones may have been forgotten: by expiry, or because
// the branch that they were merged from was deleted.
//
// ErrConflict: they have nothing in common, or it has expired.
func bases(ctx context.Context, a, b *Table) (out []retained, whole bool, err error) {
	g := newGraph(a, b)
	ofA, err := g.ancestry(ctx, a)
	if err != nil {
		return nil, false, err
	}
	ofB, err := g.ancestry(ctx, b)
	if err != nil {
		return nil, false, err
	}
	newest := map[int64]bool{}
	for id := range ofA {
		if ofB[id] {
			newest[id] = true
		}
	}
	for id := range maps.Clone(newest) {
		parents, err := g.parents(ctx, id)
		if err != nil {
			return nil, false, err
		}
		for _, p := range parents {
			delete(newest, p)
		}
	}
	whole = true
	for id := range newest {
		if s, ok := g.snapshots[id]; ok {
			out = append(out, s)
		} else {
			whole = false
		}
	}
	if len(out) == 0 && a.head != nil && b.head != nil && !fromNothing(a, b) {
		return nil, false, fmt.Errorf("they have no snapshot in common, or it has expired on both sides: %w", record.ErrConflict)
	}
	slices.SortFunc(out, func(x, y retained) int {
		return cmp.Or(cmp.Compare(x.TimestampMs, y.TimestampMs), cmp.Compare(x.SnapshotID, y.SnapshotID))
	})
	return out, whole, nil
}
