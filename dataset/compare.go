package dataset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// CompareOptions say what to compare.
type CompareOptions struct {
	// Sample is how many rows that differ are shown of each kind; 0: none.
	Sample int
	// Schema is what they are shown under: the user's fields. Nil: those of b.
	Schema *schema.Schema
}

// MaxSample bounds CompareOptions.Sample.
const MaxSample = 1000

// Comparison is what two tables have each for themselves.
type Comparison struct {
	// Bases are the newest common ancestors, oldest first: one, or several after
	// merges that crossed; none if it was not kept, and then the sides are compared
	// with each other.
	Bases []Base
	// A and B are what each side did since.
	A, B ComparedSide
	// Schema leads from a's to b's; nil if a schema has types that only engines
	// know.
	Schema []schema.Change
	// Rows lead from a to b.
	Rows RowSample
}

// Base is a common ancestor.
type Base struct {
	Snapshot int64
	Time     time.Time
}

// ComparedSide is what one side did. A row that an engine rewrote was removed and
// added; one that was compacted neither.
type ComparedSide struct {
	Snapshot                 int64 // 0: none
	AddedFiles, RemovedFiles int64
	AddedRows, RemovedRows   int64
}

// Compare says what the tables a and b each did since they parted or were merged
// last, reading only manifests that they do not share, and samples the rows in
// which they differ now, reading only files that they do not share.
func (d *Datasets) Compare(ctx context.Context, a, b string, o CompareOptions) (Comparison, error) {
	fail := func(err error) (Comparison, error) {
		return Comparison{}, fmt.Errorf("dataset: compare tables %s and %s: %w", a, b, err)
	}
	if o.Sample < 0 || o.Sample > MaxSample {
		return fail(fmt.Errorf("a sample of %d rows; at most %d are shown: %w", o.Sample, MaxSample, record.ErrInvalid))
	}
	one, err := d.Load(ctx, a)
	if err != nil {
		return fail(err)
	}
	two, err := d.Load(ctx, b)
	if err != nil {
		return fail(err)
	}
	var out Comparison
	from, _, err := bases(ctx, one, two)
	switch {
	case errors.Is(err, record.ErrConflict):
		from = nil
	case err != nil:
		return fail(err)
	}
	for _, s := range from {
		out.Bases = append(out.Bases, Base{s.SnapshotID, time.UnixMilli(s.TimestampMs).UTC()})
	}
	ids := newIdentities(one)
	apart, err := since(ctx, two, []retained{{one.head, one}})
	if err != nil {
		return fail(err)
	}
	if len(from) == 0 {
		// What b gained is its own, what it lost is a's.
		if out.B, err = apart.figures(ctx, ids); err != nil {
			return fail(err)
		}
		out.A.AddedFiles, out.B.RemovedFiles = out.B.RemovedFiles, 0
		out.A.AddedRows, out.B.RemovedRows = out.B.RemovedRows, 0
	} else {
		for t, to := range map[*Table]*ComparedSide{one: &out.A, two: &out.B} {
			s, err := since(ctx, t, from)
			if err != nil {
				return fail(err)
			}
			if *to, err = s.figures(ctx, ids); err != nil {
				return fail(err)
			}
		}
	}
	if one.head != nil {
		out.A.Snapshot = one.head.SnapshotID
	}
	if two.head != nil {
		out.B.Snapshot = two.head.SnapshotID
	}
	was, err1 := schema.FromIceberg(one.Schema())
	is, err2 := schema.FromIceberg(two.Schema())
	if err1 == nil && err2 == nil {
		out.Schema = schema.Diff(was, is)
	}
	if o.Sample == 0 {
		return out, nil
	}
	if o.Schema == nil {
		if o.Schema = is; err2 != nil {
			return fail(fmt.Errorf("rows cannot be shown: %w; ask for no sample", err2))
		}
	}
	if out.Rows, err = sampleRows(ctx, one, two, apart, ids, o); err != nil {
		return fail(err)
	}
	return out, nil
}

// figures counts what a side did.
func (s *side) figures(ctx context.Context, ids *identities) (ComparedSide, error) {
	var out ComparedSide
	now, before, err := s.publishedRows(ctx, ids)
	if err != nil {
		return out, err
	}
	out.AddedFiles, out.RemovedFiles = int64(len(s.gained)), int64(len(s.lost))
	out.AddedRows, out.RemovedRows = now.minus(before).rows(), before.minus(now).rows()
	for _, p := range s.gained {
		if f := p.entry.DataFile(); !published(f) {
			out.AddedRows += f.Count() - int64(len(p.gone))
		}
	}
	for _, p := range s.lost {
		if f := p.entry.DataFile(); !published(f) {
			out.RemovedRows += f.Count() - int64(len(p.was))
		}
	}
	for _, p := range s.thinned {
		if !published(p.entry.DataFile()) {
			out.RemovedRows += int64(len(without(p.gone, p.was)))
			out.AddedRows += int64(len(without(p.was, p.gone))) // a merge brought them back
		}
	}
	return out, nil
}

// publishedRows are the rows in published files that changed, now and before.
func (s *side) publishedRows(ctx context.Context, ids *identities) (now, before rowSet, err error) {
	var rows [2][]rowRange
	collect := func(into int, p *piece, gone []int64) error {
		if !published(p.entry.DataFile()) {
			return nil
		}
		r, err := ids.of(ctx, p.entry, gone)
		rows[into] = append(rows[into], r...)
		return err
	}
	for _, p := range inOrder(s.newer) {
		if err := collect(0, p, p.gone); err != nil {
			return nil, nil, err
		}
	}
	for _, p := range inOrder(s.lost) {
		if err := collect(1, p, p.was); err != nil {
			return nil, nil, err
		}
	}
	for _, p := range inOrder(s.thinned) {
		if err := errors.Join(collect(0, p, p.gone), collect(1, p, p.was)); err != nil {
			return nil, nil, err
		}
	}
	return newRowSet(rows[0]), newRowSet(rows[1]), nil
}

// onlyPublished tells whether all files that changed are published.
func (s *side) onlyPublished() bool {
	for _, pieces := range []map[string]*piece{s.gained, s.lost, s.thinned} {
		for p := range maps.Values(pieces) {
			if !published(p.entry.DataFile()) {
				return false
			}
		}
	}
	return true
}

// sameRows tells whether a side has the rows of the common ancestor: it did
// nothing, or only compacted.
func (s *side) sameRows(ctx context.Context, ids *identities) (bool, error) {
	if len(s.gained)+len(s.lost)+len(s.thinned) == 0 {
		return true, nil
	}
	if !s.onlyPublished() {
		return false, nil
	}
	delta := int64(0)
	for _, p := range s.gained {
		delta += p.entry.DataFile().Count() - int64(len(p.gone))
	}
	for _, p := range s.lost {
		delta -= p.entry.DataFile().Count() - int64(len(p.was))
	}
	for _, p := range s.thinned {
		delta -= int64(len(p.gone) - len(p.was))
	}
	if delta != 0 {
		return false, nil
	}
	now, before, err := s.publishedRows(ctx, ids)
	return slices.Equal(now, before), err
}
