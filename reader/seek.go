package reader

import (
	"context"
	"fmt"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// Seek returns the position before the first row, in the view's order, that was
// appended at or after a time: every row below Next was appended before it, every
// other one not. A time that is still to come gives the end as it is now. It reads
// the system columns of an epoch; where checkpoints were pruned, of at most an
// archive. Guest rows count by the time of the commit that brought them; those of
// commits that have expired lie before it only if they came before a commit that did.
// Errors are those of Read.
func (r *Reader) Seek(ctx context.Context, t Target, at time.Time) (Cursor, error) {
	found, err := r.seekOwn(ctx, t, at)
	if err != nil {
		return Cursor{}, err
	}
	found.Guests, err = r.seekGuests(ctx, t, at)
	return found, err
}

// seekGuests is the guest sequence at a time.
func (r *Reader) seekGuests(ctx context.Context, t Target, at time.Time) (int64, error) {
	end, err := r.guestEnd(ctx, t, guestsAge)
	if err != nil || end == 0 {
		return 0, err
	}
	table, err := r.tables.Load(ctx, t.Table)
	if err != nil {
		return 0, gone(t, err)
	}
	before := int64(0)
	for _, s := range table.Snapshots() {
		if s.Time.Before(at) {
			before = max(before, s.Sequence)
		}
	}
	return min(before, end), nil
}

func (r *Reader) seekOwn(ctx context.Context, t Target, at time.Time) (Cursor, error) {
	cp, ends, err := r.bounds(ctx, t)
	if err != nil {
		return Cursor{}, err
	}
	// Rows carry milliseconds.
	ms := at.UnixMilli()
	if at.After(time.UnixMilli(ms)) {
		ms++
	}
	last := max(ends.LastTimestamp, cp.Timestamp)
	if last < ms {
		return Cursor{View: t.View, Next: ends.End, Checkpoint: cp.Number}, nil
	}
	s := span{low: Cursor{View: t.View, Next: record.Offsets{}}, high: ends.End, until: last}
	if cp.Timestamp < ms {
		s.low = Cursor{View: t.View, Next: cp.Cut, Checkpoint: cp.Number}
	} else if err := r.narrow(ctx, t, ms, cp, &s); err != nil {
		return Cursor{}, err
	}
	return r.seekIn(ctx, t, ms, s)
}

// span is where the position lies: at or behind low and at or before high, below
// which rows have times up to until.
type span struct {
	low   Cursor
	high  record.Offsets
	until int64
}

// narrow finds cuts around a time at or before that of the newest checkpoint. No
// row behind a cut has the time of one below it, so that the time of a cut's newest
// row decides for all partitions.
func (r *Reader) narrow(ctx context.Context, t Target, ms int64, newest catalog.Checkpoint, s *span) error {
	first, err := r.checks.search(ctx, newest, func(cp catalog.Checkpoint) bool { return cp.Timestamp >= ms })
	if err != nil {
		return err
	}
	s.high, s.until = first.Cut, first.Timestamp
	if first.Number == 1 {
		return nil
	}
	before, err := r.checks.store.CheckpointsAfter(ctx, t.View, first.Number-2, 1)
	if err != nil {
		return err
	}
	if len(before) > 0 && before[0].Number == first.Number-1 {
		s.low.Next, s.low.Checkpoint = before[0].Cut, before[0].Number
		return nil
	}
	// Archives end at checkpoints too, and the dataset's history remembers those.
	table, err := r.tables.Load(ctx, t.Table)
	if err != nil {
		return gone(t, err)
	}
	for _, v := range table.Snapshots() {
		switch m := v.Marker; {
		case m == nil || m.View != t.View || m.ViewNumber != t.Number || m.ValidThroughMs == 0:
		case m.ValidThroughMs < ms:
			s.low.Next = greatest(s.low.Next, m.Offsets)
		case s.high.Covers(m.Offsets):
			s.high, s.until = m.Offsets, m.ValidThroughMs
		}
	}
	return nil
}

// seekIn looks at the rows of a span.
func (r *Reader) seekIn(ctx context.Context, t Target, ms int64, s span) (Cursor, error) {
	// The predicate only spares files and row groups that are too old or too young.
	text := func(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }
	p, err := newPlan(t, Request{
		Columns: []string{"_timestamp"},
		Where:   fmt.Sprintf("_timestamp >= '%s' and _timestamp <= '%s'", text(ms), text(s.until)),
	})
	if err != nil {
		return Cursor{}, err
	}
	found := Cursor{View: t.View, Next: greatest(s.low.Next, s.high), Checkpoint: s.low.Checkpoint}
	open := map[record.Partition]bool{}
	for i := range s.high {
		if p := record.Partition(i); s.low.Next.At(p) < s.high[p] {
			open[p] = true
		}
	}
	for c, err := range r.stitch(ctx, t, p, s.low.Next, s.high) {
		if err != nil {
			return Cursor{}, err
		}
		times, ok := c.rows.Column(len(p.scan.Fields) - 1).(*array.Timestamp)
		if !ok {
			return Cursor{}, fmt.Errorf("seek in view %s: the time column is %s: %w", t.View, c.rows.Column(len(p.scan.Fields)-1).DataType(), record.ErrCorrupt)
		}
		for i, at := range times.TimestampValues() {
			if q := record.Partition(c.partitions[i]); int64(at) >= ms*1000 && open[q] {
				found.Next[q] = record.Offset(c.offsets[i])
				delete(open, q)
			}
		}
		if len(open) == 0 {
			break
		}
	}
	return found, nil
}
