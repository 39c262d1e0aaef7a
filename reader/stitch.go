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
)

// stitch yields the rows of [from, to), each once, per partition in offset
// order. Chunks belong to stitch: the loop body must not release them.
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
		for attempt := 0; !pos.Covers(to); attempt++ {
			before := pos.Clone()
			ends, err := r.buffer.Ends(t.View)
			if err != nil {
				yield(chunk{}, err)
				return
			}
			if heldFrom(pos, to, ends.Start) {
				err = r.hot(ctx, t, p, pos, to, yield)
			} else {
				err = r.cold(ctx, t, p, &pos, to, ends.Start, yield)
			}
			switch {
			case err == nil:
			case errors.Is(err, record.ErrOutOfRange) && !(attempt > 0 && pos.Equal(before)):
				// Released while we read; what was delivered stands in pos.
			case errors.Is(err, errStopped):
				return
			default:
				yield(chunk{}, err)
				return
			}
		}
	}
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
func (r *Reader) cold(ctx context.Context, t Target, p *plan, pos *record.Offsets, to, hotStart record.Offsets, yield func(chunk, error) bool) error {
	table, err := r.tables.Load(ctx, t.Table)
	if err != nil {
		return err
	}
	m, err := table.Marker()
	if err != nil {
		return err
	}
	// A marker of another view means that nothing of this one is cold yet: a
	// reset has happened, and the archiver is still busy with the view before.
	archived := record.Offsets{}
	if m != nil && m.View == t.View {
		archived = m.Offsets
	}
	end := least(archived, to)
	if !heldFrom(greatest(*pos, end), to, hotStart) {
		return fmt.Errorf("read %s: rows up to %v are archived, but the hot buffer begins at %v; the rows between are in neither: %w",
			t.View, archived, hotStart, record.ErrCorrupt)
	}
	if !pos.Covers(end) {
		scan := table.Scan(ctx, dataset.ScanOptions{
			Schema: p.scan, Filter: p.where, View: t.Number, From: pos.Clone(), To: end,
		})
		for rows, err := range scan {
			if err != nil {
				return err
			}
			if err := p.fresh(rows, t.Number, *pos, end, yield); err != nil {
				return err
			}
		}
	}
	// Rows that the predicate let the scan skip are behind us as well.
	*pos = greatest(*pos, end)
	return nil
}

// fresh yields the runs of rows that belong to [pos, end) of the view.
// Each row that is taken moves pos behind it, so that a row which stands in two
// files (it never should) is still delivered once.
func (p *plan) fresh(rows arrow.RecordBatch, number record.ViewNumber, pos, end record.Offsets, yield func(chunk, error) bool) error {
	views, partitions, offsets, err := p.system(rows)
	if err != nil {
		return err
	}
	take := func(i int) bool {
		q, o := record.Partition(partitions[i]), record.Offset(offsets[i])
		if views[i] != int32(number) || o >= end.At(q) || o < pos.At(q) {
			return false
		}
		pos[q] = o + 1
		return true
	}
	for i := 0; i < len(offsets); {
		if !take(i) {
			i++
			continue
		}
		j := i + 1
		for j < len(offsets) && take(j) {
			j++
		}
		c := chunk{rows.NewSlice(int64(i), int64(j)), partitions[i:j], offsets[i:j]}
		ok := yield(c, nil)
		c.rows.Release()
		if !ok {
			return errStopped
		}
		i = j
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
