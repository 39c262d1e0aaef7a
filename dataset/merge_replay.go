package dataset

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
)

// replay plans what the source gained and lost for the target.
//
// Rows in published files are sets: what counts is which identities a side has,
// not in which files. So compactions are no changes, and rows can be left out or
// taken away one by one. Other files are taken as they are: they come, or they
// go where the target still has them unchanged.
func (m *merger) replay(ctx context.Context) error {
	own, err := m.target.Marker()
	if err != nil {
		return err
	}
	if own != nil {
		m.ownView = own.ViewNumber
	}
	if err := m.findKnown(ctx, own); err != nil {
		return err
	}
	if m.out.Strategy == Replay && m.wasReset() {
		m.conflicts.add(Conflict{
			Reason: "the source was reset since, so that everything that it had is gone from it",
			Remedy: fmt.Sprintf("merge with the strategy %s, or create the branch anew", Replace),
		})
	}
	if err := m.checkCrossed(ctx); err != nil {
		return err
	}
	m.checkBack()
	for _, p := range inOrder(m.src.gained) {
		if err := m.gain(ctx, p); err != nil {
			return err
		}
	}
	if err := m.loseRows(ctx); err != nil {
		return err
	}
	m.loseFiles()
	return m.settle(ctx)
}

// findKnown collects the rows that the source gained files with, but that are not
// new to the target.
func (m *merger) findKnown(ctx context.Context, own *Marker) error {
	// Those that the source had before: it compacted them. Those that came to the
	// target another way.
	var ranges []rowRange
	collect := func(p *piece, gone []int64) error {
		rows, err := m.ids.of(ctx, p.entry, gone)
		ranges = append(ranges, rows...)
		return err
	}
	var bounds []systemRange
	for _, p := range m.src.gained {
		if f := p.entry.DataFile(); published(f) {
			bounds = append(bounds, fileInfo(f, 0, 0).system)
		}
	}
	near := newNearness(bounds)
	for _, p := range slices.Concat(inOrder(m.src.lost), inOrder(m.src.thinned)) {
		if f := p.entry.DataFile(); published(f) && near.to(fileInfo(f, 0, 0).system) {
			if err := collect(p, p.was); err != nil {
				return err
			}
		}
	}
	for _, p := range inOrder(m.dst.newer) {
		if f := p.entry.DataFile(); published(f) && near.to(fileInfo(f, 0, 0).system) {
			if err := collect(p, p.gone); err != nil {
				return err
			}
		}
	}
	if own != nil {
		// Rows of the target's own view that it has not archived come from its hot
		// buffer, and from nowhere else.
		for p := range record.Partition(record.MaxPartitions) {
			ranges = append(ranges, rowRange{own.ViewNumber, p, record.Range{Start: own.Offsets.At(p), End: math.MaxInt64}})
		}
	}
	if !m.whole {
		// Newer common ancestors were forgotten; what the target says that it ever
		// had is not new to it.
		had, err := m.target.extents()
		if err != nil {
			return err
		}
		ranges = append(ranges, had.set()...)
	}
	m.known = newRowSet(ranges)
	return nil
}

// checkBack looks for rows that were deleted in the common ancestor and that the
// source has again, as it was replaced by a branch that never deleted them.
func (m *merger) checkBack() {
	for _, p := range inOrder(m.src.thinned) {
		if back := without(p.was, p.gone); len(back) > 0 {
			m.conflicts.add(Conflict{
				Path: p.path(), Rows: int64(len(back)),
				Reason: "the source has rows of this file again that were deleted in both branches",
				Remedy: fmt.Sprintf("merge with the strategy %s", Replace),
			})
		}
	}
}

// checkCrossed looks, where merges crossed and there are several common ancestors,
// for what one side has of one of them and the other side has not: whether that came
// back or went is not told by files, and to guess could lose rows.
func (m *merger) checkCrossed(ctx context.Context) error {
	if len(m.from) < 2 {
		return nil
	}
	for _, s := range []*side{m.src, m.dst} {
		if err := m.checkKept(ctx, s); err != nil {
			return err
		}
	}
	for _, sides := range [][2]*side{{m.src, m.dst}, {m.dst, m.src}} {
		has, lacks := sides[0], sides[1]
		var ranges []rowRange
		for _, p := range inOrder(lacks.newer) {
			if published(p.entry.DataFile()) {
				rows, err := m.ids.of(ctx, p.entry, p.gone)
				if err != nil {
					return err
				}
				ranges = append(ranges, rows...)
			}
		}
		there := newRowSet(ranges)
		for _, p := range inOrder(has.newer) {
			if has.gained[p.path()] != nil || lacks.newer[p.path()] != nil {
				continue
			}
			rows := p.entry.DataFile().Count() - int64(len(p.gone))
			if published(p.entry.DataFile()) {
				here, err := m.ids.of(ctx, p.entry, p.gone)
				if err != nil {
					return err
				}
				rows = here.minus(there).rows()
			}
			if rows > 0 {
				m.conflicts.add(Conflict{
					Path: p.path(), Rows: rows,
					Reason: "merges crossed, and only one side still has this file, of one of several common ancestors",
					Remedy: fmt.Sprintf("merge with the strategy %s, in the direction whose rows are to stay", Replace),
				})
			}
		}
	}
	return nil
}

// checkKept looks for rows of any of several common ancestors that a side has
// deleted or rewritten: of which of them that was a change is not told by files.
// Rows that stand in another published file were moved, not deleted.
func (m *merger) checkKept(ctx context.Context, s *side) error {
	var there []rowRange
	for _, p := range inOrder(s.newer) {
		if published(p.entry.DataFile()) {
			rows, err := m.ids.of(ctx, p.entry, p.gone)
			if err != nil {
				return err
			}
			there = append(there, rows...)
		}
	}
	kept := newRowSet(there)
	for _, p := range slices.Concat(inOrder(s.lost), inOrder(s.thinned)) {
		f := p.entry.DataFile()
		left := f.Count() - int64(len(p.was))
		if _, thinned := s.thinned[p.path()]; thinned {
			left = int64(len(without(p.gone, p.was)))
		}
		if published(f) {
			rows, err := m.ids.of(ctx, p.entry, p.was)
			if err != nil {
				return err
			}
			if _, thinned := s.thinned[p.path()]; thinned {
				still, err := m.ids.of(ctx, p.entry, p.gone)
				if err != nil {
					return err
				}
				rows = rows.minus(still)
			}
			left = rows.minus(kept).rows()
		}
		if left > 0 {
			m.conflicts.add(Conflict{
				Path: p.path(), Rows: left,
				Reason: "merges crossed, and rows of this file, of one of several common ancestors, were deleted or rewritten since",
				Remedy: fmt.Sprintf("merge with the strategy %s, in the direction whose rows are to stay", Replace),
			})
		}
	}
	return nil
}

// nearness finds ranges that may meet others, by view and offsets.
type nearness struct {
	ranges []systemRange // by view, then by where they begin
	ends   []int64       // the largest end up to each, in its view
}

func newNearness(ranges []systemRange) nearness {
	slices.SortFunc(ranges, func(a, b systemRange) int {
		return cmp.Or(cmp.Compare(a.viewLo, b.viewLo), cmp.Compare(a.offsetLo, b.offsetLo))
	})
	n := nearness{ranges, make([]int64, len(ranges))}
	for i, r := range ranges {
		n.ends[i] = r.offsetHi
		if i > 0 && ranges[i-1].viewLo == r.viewLo {
			n.ends[i] = max(r.offsetHi, n.ends[i-1])
		}
	}
	return n
}

// to tells whether any of the ranges may share rows with r.
func (n nearness) to(r systemRange) bool {
	// The last one that begins at or before r's end.
	i := sort.Search(len(n.ranges), func(i int) bool {
		x := n.ranges[i]
		return x.viewLo > r.viewLo || x.viewLo == r.viewLo && x.offsetLo > r.offsetHi
	}) - 1
	return i >= 0 && n.ranges[i].viewLo == r.viewLo && n.ends[i] >= r.offsetLo
}

// inOrder returns pieces in the order of a scan.
func inOrder(pieces map[string]*piece) []*piece {
	return slices.SortedFunc(maps.Values(pieces), func(a, b *piece) int {
		return cmp.Or(cmp.Compare(a.entry.SequenceNum(), b.entry.SequenceNum()), cmp.Compare(a.at, b.at), cmp.Compare(a.path(), b.path()))
	})
}

// wasReset tells whether the source began a new view since the common ancestor.
func (m *merger) wasReset() bool {
	var begun *Marker // of the overwrite that was met last
	past := false
	for s := range m.source.ancestors() {
		past = past || slices.ContainsFunc(m.from, func(b retained) bool { return b.Snapshot != nil && b.SnapshotID == s.SnapshotID })
		if past && begun == nil {
			return false
		}
		now := parseMarker(s)
		if now == nil {
			continue
		}
		if begun != nil && now.View != begun.View {
			return true
		}
		if begun = nil; s.Summary.Operation == table.OpOverwrite {
			begun = now
		}
	}
	return false
}

func (m *merger) addition(p *piece, gone []int64) error {
	spec, err := specByID(m.source.meta, p.entry.DataFile().SpecID())
	if err != nil {
		return err
	}
	m.edit.add = append(m.edit.add, addition{p.entry.DataFile(), spec, gone})
	return nil
}

// gain plans a file that the source gained.
func (m *merger) gain(ctx context.Context, p *piece) error {
	f := p.entry.DataFile()
	if have, ok := m.dst.gained[p.path()]; ok {
		// It came another way. What the source deleted of it goes.
		if published(f) {
			return m.uncover(ctx, p, have)
		}
		m.delete(have.entry.DataFile(), without(p.gone, have.gone))
		m.leaveOut(f.Count())
		return nil
	}
	if !published(f) {
		return m.addition(p, p.gone)
	}
	if !m.known.meets(fileInfo(f, 0, 0).system) {
		return m.addition(p, p.gone)
	}
	rows, err := m.ids.of(ctx, p.entry, p.gone)
	if err != nil {
		return err
	}
	fresh := rows.minus(m.known)
	m.out.LeftOutRows += rows.rows() - fresh.rows()
	switch fresh.rows() {
	case 0:
		m.out.LeftOutFiles++
		return nil
	case f.Count():
		return m.addition(p, nil)
	}
	keep, err := m.ids.positions(ctx, p.entry, fresh)
	if err != nil {
		return err
	}
	// Position deletes cover the rows that are known and those that the source deleted.
	if f.Count()-int64(len(keep)) > maxDeletes {
		return fmt.Errorf("%s: more than %d of its rows are known already, too many to cover; merge more often than the source is compacted, or with the strategy %s: %w", p.path(), maxDeletes, Replace, record.ErrTooLarge)
	}
	return m.addition(p, complement(keep, f.Count()))
}

// uncover plans a file that both sides gained, each without the other: a branch
// that began in the middle of it has some of its rows covered. Those that are new
// to the target come with the file anew.
func (m *merger) uncover(ctx context.Context, p, have *piece) error {
	rows, err := m.ids.of(ctx, p.entry, p.gone)
	if err != nil {
		return err
	}
	fresh := rows.minus(m.known)
	m.out.LeftOutRows += rows.rows() - fresh.rows()
	if len(fresh) == 0 {
		m.out.LeftOutFiles++
		return nil
	}
	there, err := m.ids.of(ctx, have.entry, have.gone)
	if err != nil {
		return err
	}
	keep, err := m.ids.positions(ctx, p.entry, fresh.plus(there))
	if err != nil {
		return err
	}
	m.edit.remove[p.path()] = true
	m.out.RemovedRows += there.rows()
	return m.addition(p, complement(keep, p.entry.DataFile().Count()))
}

func (m *merger) leaveOut(rows int64) {
	m.out.LeftOutFiles++
	m.out.LeftOutRows += rows
}

// complement is [0, n) without sorted positions.
func complement(keep []int64, n int64) []int64 {
	out := make([]int64, 0, n-int64(len(keep)))
	for i := range n {
		if len(keep) > 0 && keep[0] == i {
			keep = keep[1:]
		} else {
			out = append(out, i)
		}
	}
	return out
}

// delete takes rows away from a live file of the target.
func (m *merger) delete(f iceberg.DataFile, at []int64) {
	if len(at) == 0 || m.edit.remove[f.FilePath()] {
		return
	}
	p := m.edit.deleted[f.FilePath()]
	if p == nil {
		p = &positions{file: f}
		m.edit.deleted[f.FilePath()] = p
	}
	m.out.RemovedRows -= int64(len(p.at))
	p.at = union(p.at, at)
	m.out.RemovedRows += int64(len(p.at))
}

// loseRows plans the rows of published files that the source deleted or rewrote.
func (m *merger) loseRows(ctx context.Context) error {
	var changed []*piece
	for _, p := range slices.Concat(inOrder(m.src.lost), inOrder(m.src.thinned)) {
		if published(p.entry.DataFile()) {
			changed = append(changed, p)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	// Where the source has these rows now: files that compaction made, or what is
	// left of thinned ones.
	var ranges []rowRange
	for _, p := range slices.Concat(inOrder(m.src.newer), inOrder(m.src.thinned)) {
		if !published(p.entry.DataFile()) {
			continue
		}
		rows, err := m.ids.of(ctx, p.entry, p.gone)
		if err != nil {
			return err
		}
		ranges = append(ranges, rows...)
	}
	kept := newRowSet(ranges)
	for _, p := range changed {
		had, err := m.ids.of(ctx, p.entry, p.was)
		if err != nil {
			return err
		}
		if lost := had.minus(kept); len(lost) > 0 {
			if err := m.loseFrom(ctx, p, had, lost); err != nil {
				return err
			}
		}
	}
	return nil
}

// loseFrom takes rows that the common ancestor had in one file away from the
// target.
func (m *merger) loseFrom(ctx context.Context, p *piece, had, lost rowSet) error {
	missing := lost.rows() // that the target has not got either
	if _, gone := m.dst.lost[p.path()]; !gone {
		was := p.was
		if thin := m.dst.thinned[p.path()]; thin != nil {
			was = thin.gone
		}
		if lost.rows() == had.rows() && len(without(was, p.was)) == 0 {
			m.edit.remove[p.path()] = true
			m.out.RemovedRows += lost.rows()
			return nil
		}
		at, err := m.ids.positions(ctx, p.entry, lost)
		if err != nil {
			return err
		}
		// The file may hold rows that were deleted before the ancestor.
		at = without(at, was)
		m.delete(p.entry.DataFile(), at)
		missing -= int64(len(at))
	}
	if missing > 0 {
		found, err := m.loseElsewhere(ctx, lost)
		if err != nil {
			return err
		}
		missing -= found
	}
	if missing > 0 && !m.settled(p) && (m.src.rewrote(identified) || m.dst.rewrote(identified)) {
		m.conflicts.add(Conflict{
			Path: p.path(), Rows: missing,
			Reason: "both sides rewrote or deleted rows of this file",
			Remedy: "undo one of the changes (roll that branch back), or merge with the strategy replace",
		})
	}
	return nil
}

// loseElsewhere takes rows away from the files that the target gained: those
// that compaction made.
func (m *merger) loseElsewhere(ctx context.Context, lost rowSet) (found int64, err error) {
	if m.where == nil {
		m.where = []placedRange{}
		for _, q := range inOrder(m.dst.newer) {
			if !published(q.entry.DataFile()) {
				continue
			}
			rows, err := m.ids.of(ctx, q.entry, q.gone)
			if err != nil {
				return 0, err
			}
			for _, r := range rows {
				m.where = append(m.where, placedRange{r, q})
			}
		}
		slices.SortFunc(m.where, func(a, b placedRange) int { return compareRanges(a.rowRange, b.rowRange) })
	}
	hold := map[*piece][]rowRange{}
	for _, r := range lost {
		i, _ := slices.BinarySearchFunc(m.where, r, func(x placedRange, r rowRange) int { return compareRanges(x.rowRange, r) })
		for i = max(0, i-1); i < len(m.where) && compareRanges(m.where[i].rowRange, rowRange{r.view, r.partition, record.Range{Start: r.End}}) < 0; i++ {
			if both := (rowSet{r}).and(rowSet{m.where[i].rowRange}); len(both) > 0 {
				hold[m.where[i].piece] = append(hold[m.where[i].piece], both...)
			}
		}
	}
	for q, ranges := range hold {
		at, err := m.ids.positions(ctx, q.entry, newRowSet(ranges))
		if err != nil {
			return 0, err
		}
		at = without(at, q.gone)
		m.delete(q.entry.DataFile(), at)
		found += int64(len(at))
	}
	return found, nil
}

// placedRange is a range of rows with the file that holds them.
type placedRange struct {
	rowRange
	*piece
}

// settled tells of a file that neither side has, whether one of several common
// ancestors had lost it already.
func (m *merger) settled(p *piece) bool { return p.bases > 0 && p.bases < len(m.from) }

// rewrote tells whether a side has files that may hold rewritten rows.
func (s *side) rewrote(may func(iceberg.DataFile) bool) bool {
	for _, p := range s.gained {
		if f := p.entry.DataFile(); !published(f) && may(f) {
			return true
		}
	}
	return false
}

// loseFiles plans the files that are taken as they are and that the source lost,
// in whole or in part.
func (m *merger) loseFiles() {
	any := func(iceberg.DataFile) bool { return true }
	conflict := func(p *piece, rows int64) {
		if !m.settled(p) && (m.src.rewrote(any) || m.dst.rewrote(any)) {
			m.conflicts.add(Conflict{
				Path: p.path(), Rows: rows,
				Reason: "both sides rewrote or deleted rows of this file",
				Remedy: "undo one of the changes (roll that branch back), or merge with the strategy replace",
			})
		}
	}
	for _, p := range inOrder(m.src.lost) {
		f := p.entry.DataFile()
		if published(f) {
			continue
		}
		if _, gone := m.dst.lost[p.path()]; gone {
			conflict(p, f.Count())
			continue
		}
		if thin := m.dst.thinned[p.path()]; thin != nil {
			conflict(p, int64(len(without(thin.gone, p.was))))
		}
		m.edit.remove[p.path()] = true
		m.out.RemovedRows += f.Count() - int64(len(p.was))
	}
	for _, p := range inOrder(m.src.thinned) {
		if published(p.entry.DataFile()) {
			continue
		}
		if _, gone := m.dst.lost[p.path()]; gone {
			conflict(p, int64(len(without(p.gone, p.was))))
			continue
		}
		was := p.was
		if thin := m.dst.thinned[p.path()]; thin != nil {
			was = thin.gone
			if both := len(p.gone) - len(p.was) - len(without(p.gone, was)); both > 0 {
				conflict(p, int64(both))
			}
		}
		m.delete(p.entry.DataFile(), without(p.gone, was))
	}
}

// settle looks up what the target's manifests say of the files that lose rows,
// and removes those of which no row is left.
func (m *merger) settle(ctx context.Context) error {
	if len(m.edit.deleted) == 0 {
		return nil
	}
	there, err := find(ctx, m.target.d, m.target.head, func(e iceberg.ManifestEntry) bool {
		return m.edit.deleted[e.DataFile().FilePath()] != nil
	})
	if err != nil {
		return err
	}
	for path, p := range m.edit.deleted {
		if m.edit.remove[path] { // as a whole, after all
			m.out.RemovedRows -= int64(len(p.at))
			delete(m.edit.deleted, path)
			continue
		}
		e, ok := there[path]
		if !ok {
			return fmt.Errorf("%s should be in the target, and is not: %w", path, record.ErrCorrupt)
		}
		p.file = e.DataFile()
		gone := p.at
		for _, pieces := range []map[string]*piece{m.dst.newer, m.dst.thinned} {
			if q := pieces[path]; q != nil {
				gone = union(gone, q.gone)
			}
		}
		if int64(len(gone)) == p.file.Count() {
			delete(m.edit.deleted, path)
			m.edit.remove[path] = true
		}
	}
	return nil
}

// replace plans what makes the target's rows those of the source.
func (m *merger) replace(ctx context.Context) error {
	own, err := m.target.Marker()
	if err != nil {
		return err
	}
	if own != nil {
		m.ownView = own.ViewNumber
	}
	d, err := since(ctx, m.source, []retained{{m.target.head, m.target}})
	if err != nil {
		return err
	}
	m.src, m.dst = d, &side{t: m.target}
	for _, p := range inOrder(d.gained) {
		if err := m.addition(p, p.gone); err != nil {
			return err
		}
	}
	for _, p := range inOrder(d.lost) {
		m.edit.remove[p.path()] = true
		m.out.RemovedRows += p.entry.DataFile().Count() - int64(len(p.was))
	}
	for _, p := range inOrder(d.thinned) {
		if len(without(p.was, p.gone)) == 0 {
			m.delete(p.entry.DataFile(), without(p.gone, p.was))
			continue
		}
		// The target deleted rows that the source has: the file comes anew.
		m.edit.remove[p.path()] = true
		m.out.RemovedRows += p.entry.DataFile().Count() - int64(len(p.was))
		if err := m.addition(p, p.gone); err != nil {
			return err
		}
	}
	return m.settle(ctx)
}
