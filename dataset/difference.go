package dataset

import (
	"context"
	"slices"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
)

// difference is what came into a table's files and what went, from one snapshot
// to another, which may be another table's.
type difference struct {
	gained, lost               map[string]iceberg.ManifestEntry // data files
	order                      map[string]int                   // of gained, as the manifests have them
	gainedDeletes, lostDeletes int                              // delete files
}

// differ compares two snapshots; nil is the empty table. Manifests that both
// have are not read, so that it costs what changed, not what there is.
func (d *Datasets) differ(ctx context.Context, from, to *table.Snapshot) (difference, error) {
	out := difference{gained: map[string]iceberg.ManifestEntry{}, lost: map[string]iceberg.ManifestEntry{}, order: map[string]int{}}
	before, err := d.readManifests(ctx, from)
	if err != nil {
		return out, err
	}
	after, err := d.readManifests(ctx, to)
	if err != nil {
		return out, err
	}
	shared := map[string]bool{}
	for _, m := range before {
		shared[m.FilePath()] = false
	}
	for _, m := range after {
		if _, ok := shared[m.FilePath()]; ok {
			shared[m.FilePath()] = true
		}
	}
	goneDeletes, newDeletes := map[string]bool{}, map[string]bool{}
	read := func(manifests []iceberg.ManifestFile, files map[string]iceberg.ManifestEntry, deletes map[string]bool) error {
		for _, m := range manifests {
			if !live(m) || shared[m.FilePath()] {
				continue
			}
			entries, err := d.readEntries(ctx, m)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if m.ManifestContent() == iceberg.ManifestContentDeletes {
					deletes[e.DataFile().FilePath()] = true
				} else {
					files[e.DataFile().FilePath()] = e
					out.order[e.DataFile().FilePath()] = len(out.order)
				}
			}
		}
		return nil
	}
	if err := read(before, out.lost, goneDeletes); err != nil {
		return out, err
	}
	if err := read(after, out.gained, newDeletes); err != nil {
		return out, err
	}
	for path := range out.gained {
		if _, both := out.lost[path]; both {
			delete(out.gained, path)
			delete(out.lost, path)
		}
	}
	for path := range newDeletes {
		if goneDeletes[path] {
			delete(goneDeletes, path)
			delete(newDeletes, path)
		}
	}
	out.gainedDeletes, out.lostDeletes = len(newDeletes), len(goneDeletes)
	return out, nil
}

// piece is a data file that changed between two states of a table.
type piece struct {
	entry iceberg.ManifestEntry
	was   []int64 // positions that were deleted in the common ancestors
	gone  []int64 // those that are deleted on the branch
	bases int     // of a lost one, how many common ancestors have it
	both  bool    // of a thinned one
	at    int     // of a gained one, its place among them in the manifests
}

func (p *piece) path() string { return p.entry.DataFile().FilePath() }

// side is what a branch did since the common ancestors.
type side struct {
	t *Table
	// gained: no ancestor has it. lost: an ancestor has it, the branch does
	// not. thinned: both have it, with other rows deleted.
	gained, lost, thinned map[string]*piece
	// newer are the gained ones, and those that only some of several ancestors
	// have: a file that one of them had may live on in one of another.
	newer map[string]*piece
}

// since compares a table's head with the common ancestors.
func since(ctx context.Context, t *Table, from []retained) (*side, error) {
	s := &side{t: t, gained: map[string]*piece{}, lost: map[string]*piece{}, thinned: map[string]*piece{}, newer: map[string]*piece{}}
	if len(from) == 0 {
		from = []retained{{}}
	}
	deletes := false
	for i, base := range from {
		d, err := t.d.differ(ctx, base.Snapshot, t.head)
		if err != nil {
			return nil, err
		}
		deletes = deletes || d.gainedDeletes+d.lostDeletes > 0
		for path, e := range d.lost {
			if s.lost[path] == nil {
				s.lost[path] = &piece{entry: e}
			}
			s.lost[path].bases++
		}
		for path, e := range d.gained {
			if s.newer[path] == nil {
				s.newer[path] = &piece{entry: e, at: d.order[path]}
			}
			if i == 0 {
				s.gained[path] = s.newer[path]
			}
		}
		for path := range s.gained {
			if _, ok := d.gained[path]; !ok {
				delete(s.gained, path)
			}
		}
	}
	return s, s.findDeleted(ctx, from, deletes)
}

// findDeleted fills in which positions are deleted, before and after.
func (s *side) findDeleted(ctx context.Context, from []retained, changed bool) error {
	now, err := deletedRows(ctx, s.t, s.t.head)
	if err != nil {
		return err
	}
	for _, p := range s.newer {
		p.gone = now.of(p.entry)
	}
	for _, base := range from {
		if base.Snapshot == nil {
			continue
		}
		before, err := deletedRows(ctx, base.t, base.Snapshot)
		if err != nil {
			return err
		}
		for _, p := range s.lost {
			p.was = union(p.was, before.of(p.entry))
		}
		if !changed {
			continue
		}
		if err := s.findThinned(ctx, base, before, now); err != nil {
			return err
		}
	}
	for path, p := range s.thinned {
		if slices.Equal(p.gone, p.was) {
			delete(s.thinned, path)
		}
	}
	return nil
}

// findThinned looks at the files that delete files of either state name.
func (s *side) findThinned(ctx context.Context, base retained, before, now deletes) error {
	named := func(e iceberg.ManifestEntry) bool {
		path := e.DataFile().FilePath()
		return len(now[path])+len(before[path]) > 0
	}
	head, err := find(ctx, s.t.d, s.t.head, named)
	if err != nil {
		return err
	}
	old, err := find(ctx, s.t.d, base.Snapshot, func(e iceberg.ManifestEntry) bool {
		_, ok := head[e.DataFile().FilePath()]
		return ok
	})
	if err != nil {
		return err
	}
	for path, was := range old {
		p := s.thinned[path]
		if p == nil {
			p = &piece{entry: head[path], both: true, gone: now.of(head[path])}
			s.thinned[path] = p
		}
		p.was = union(p.was, before.of(was))
	}
	return nil
}

// find returns the data files of a snapshot that match.
func find(ctx context.Context, d *Datasets, s *table.Snapshot, match func(iceberg.ManifestEntry) bool) (map[string]iceberg.ManifestEntry, error) {
	out := map[string]iceberg.ManifestEntry{}
	manifests, err := d.readManifests(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, m := range manifests {
		if !live(m) || m.ManifestContent() != iceberg.ManifestContentData {
			continue
		}
		entries, err := d.readEntries(ctx, m)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if match(e) {
				out[e.DataFile().FilePath()] = e
			}
		}
	}
	return out, nil
}

// deletedRows reads the delete files of a snapshot.
func deletedRows(ctx context.Context, t *Table, s *table.Snapshot) (deletes, error) {
	if s == nil {
		return deletes{}, nil
	}
	manifests, err := t.d.readManifests(ctx, s)
	if err != nil {
		return nil, err
	}
	var set fileSet
	for _, m := range manifests {
		if !live(m) || m.ManifestContent() != iceberg.ManifestContentDeletes {
			continue
		}
		entries, err := t.d.readEntries(ctx, m)
		if err != nil {
			return nil, err
		}
		set.deletes = append(set.deletes, entries...)
	}
	return (&scanner{t: t}).readDeletes(ctx, set)
}

// union joins sorted positions.
func union(a, b []int64) []int64 {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

// without is a less b, both sorted.
func without(a, b []int64) []int64 {
	if len(b) == 0 {
		return a
	}
	var out []int64
	for _, x := range a {
		for len(b) > 0 && b[0] < x {
			b = b[1:]
		}
		if len(b) == 0 || b[0] != x {
			out = append(out, x)
		}
	}
	return out
}
