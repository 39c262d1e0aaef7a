package reader

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema/predicate"
)

// stitch yields the rows of [from, to), per partition in offset order; what the
// dataset gives twice or out of order, delivery refuses. Chunks belong to
// stitch: the loop body must not release them.
//
// Which half holds a row is decided here and nowhere else. What the hot buffer
// still holds from pos on is read there, without a look at the dataset.
// Otherwise a snapshot is pinned, its files are read up to the offsets that it
// carries, and the hot buffer goes on from exactly those. Rows are released
// from the hot buffer only after the snapshot that holds them was committed;
// so when a hot read finds its rows gone, a snapshot loaded after that has them.
func (r *Reader) stitch(ctx context.Context, t Target, p *plan, from, to record.Offsets) iter.Seq2[chunk, error] {
	return func(yield func(chunk, error) bool) {
		pos := greatest(from, make(record.Offsets, len(to))) // a copy with every partition
		for stuck := 0; !pos.Covers(to); {
			before := pos.Clone()
			err := r.pass(ctx, t, p, &pos, to, yield)
			if !pos.Equal(before) {
				stuck = 0
			} else {
				stuck++
			}
			switch {
			case errors.Is(err, errStopped):
				return
			case errors.Is(err, record.ErrOutOfRange) && stuck < maxStuck:
				// Released while we read; what was delivered stands in pos.
			case err == nil && stuck >= maxStuck:
				err = fmt.Errorf("read view %s from %v to %v: neither half has the next rows: %w", t.View, pos, to, record.ErrCorrupt)
				fallthrough
			case err != nil:
				yield(chunk{}, err)
				return
			}
		}
	}
}

// maxStuck is how often in a row rows may be released between the look at the
// hot buffer's ends and the read. Once is rare.
const maxStuck = 8

// pass reads from one half, as far as that has rows, and moves pos.
func (r *Reader) pass(ctx context.Context, t Target, p *plan, pos *record.Offsets, to record.Offsets, yield func(chunk, error) bool) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("read view %s: %w", t.View, err)
	}
	ends, err := r.buffer.Ends(t.View)
	if err != nil {
		return gone(t, err)
	}
	if heldFrom(*pos, to, ends.Start) {
		return r.hot(ctx, t, p, *pos, to, yield)
	}
	return r.cold(ctx, t, p, pos, to, ends.Start, yield)
}

// heldFrom tells whether everything of [pos, to) lies at or behind start.
func heldFrom(pos, to, start record.Offsets) bool {
	for i := range to {
		p := record.Partition(i)
		if pos.At(p) < to.At(p) && pos.At(p) < start.At(p) {
			return false
		}
	}
	return true
}

// least is the smaller offset of each partition.
func least(a, b record.Offsets) record.Offsets {
	c := make(record.Offsets, max(len(a), len(b)))
	for i := range c {
		c[i] = min(a.At(record.Partition(i)), b.At(record.Partition(i)))
	}
	return c
}

// greatest is the larger offset of each partition.
func greatest(a, b record.Offsets) record.Offsets {
	c := make(record.Offsets, max(len(a), len(b)))
	for i := range c {
		c[i] = max(a.At(record.Partition(i)), b.At(record.Partition(i)))
	}
	return c
}

// cold yields the archived rows of [pos, to) and moves pos behind them.
// hotStart is older than the snapshot that is loaded here.
func (r *Reader) cold(ctx context.Context, t Target, p *plan, pos *record.Offsets, to, hotStart record.Offsets, yield func(chunk, error) bool) error {
	table, err := r.tables.Load(ctx, t.Table)
	if err != nil {
		return gone(t, err)
	}
	m, err := table.Marker()
	if err != nil {
		return err
	}
	archived := record.Offsets{}
	switch {
	case m == nil || m.ViewNumber < t.Number:
		// Nothing of this view is cold yet: after a reset the archiver may
		// still be busy with the view before.
	case m.View == t.View:
		archived = m.Offsets
	default:
		return gone(t, fmt.Errorf("the dataset holds view %d, this is view %d: %w", m.ViewNumber, t.Number, record.ErrNotFound))
	}
	end := least(archived, to)
	if next := greatest(*pos, end); !heldFrom(next, to, hotStart) {
		p := firstBeyond(least(hotStart, to), next)
		return fmt.Errorf("read view %s: partition %v is archived up to offset %v, but its hot rows begin at %v; the rows between are in neither half: %w",
			t.View, p, archived.At(p), hotStart.At(p), record.ErrCorrupt)
	}
	if !pos.Covers(end) {
		from := pos.Clone()
		scan := table.Ordered(ctx, dataset.OrderedOptions{ScanOptions: dataset.ScanOptions{
			Schema: p.scan, Filter: p.where, View: t.Number, From: from, To: end, BatchBytes: p.memory.cold,
		}})
		for piece, err := range scan {
			if err != nil {
				return err
			}
			if err := p.within(ctx, piece.Rows, t.Number, from, end, *pos, yield); err != nil {
				return err
			}
		}
	}
	// Rows that the predicate let the scan skip are behind us as well.
	*pos = greatest(*pos, end)
	return nil
}

// within yields the rows that belong to [from, end) of the view, and moves pos
// behind them.
func (p *plan) within(ctx context.Context, rows arrow.RecordBatch, number record.ViewNumber, from, end, pos record.Offsets, yield func(chunk, error) bool) error {
	views, partitions, offsets, err := p.system(rows)
	if err != nil {
		return err
	}
	ours := func(i int) bool {
		q, o := record.Partition(partitions[i]), record.Offset(offsets[i])
		return views[i] == int32(number) && q >= 0 && o < end.At(q) && o >= from.At(q)
	}
	first, n := 0, len(offsets)
	for first < n && !ours(first) {
		first++
	}
	last := n
	for last > first && !ours(last-1) {
		last--
	}
	if first == last {
		return nil
	}
	rows = rows.NewSlice(int64(first), int64(last))
	defer func() { rows.Release() }()
	if p.ours.Fill(last-first, func(i int) bool { return ours(first + i) }); p.ours.Count() < last-first {
		// Partitions that are not read, or an archive that is no interval of the
		// order. Copied, because runs may be as short as a row.
		picked, err := predicate.Select(ctx, rows, &p.ours)
		if err != nil {
			return err
		}
		rows.Release()
		rows = picked
	}
	if _, partitions, offsets, err = p.system(rows); err != nil {
		return err
	}
	c := chunk{rows, partitions, offsets}
	c.behind(pos)
	if !yield(c, nil) {
		return errStopped
	}
	return nil
}

// system returns the identity columns of scanned rows.
func (p *plan) system(rows arrow.RecordBatch) (views, partitions []int32, offsets []int64, err error) {
	at := len(p.scan.Fields) - 4
	v, ok1 := rows.Column(at).(*array.Int32)
	q, ok2 := rows.Column(at + 1).(*array.Int32)
	o, ok3 := rows.Column(at + 2).(*array.Int64)
	if !ok1 || !ok2 || !ok3 {
		return nil, nil, nil, fmt.Errorf("read: the data file's system columns are %s, %s, %s: %w",
			rows.Column(at).DataType(), rows.Column(at+1).DataType(), rows.Column(at+2).DataType(), record.ErrCorrupt)
	}
	return v.Int32Values(), q.Int32Values(), o.Int64Values(), nil
}
