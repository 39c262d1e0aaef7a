package reader

import (
	"context"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// chunk is a piece of the stitched view: scanned columns of consecutive rows.
type chunk struct {
	rows       arrow.RecordBatch // plan.scan's columns; owned by stitch
	partitions []int32           // _partition of each row
	offsets    []int64           // _offset of each row
}

func (c chunk) len() int { return len(c.offsets) }

func (c chunk) slice(i, j int) chunk {
	return chunk{c.rows.NewSlice(int64(i), int64(j)), c.partitions[i:j], c.offsets[i:j]}
}

// delivery turns chunks into the consumer's batches: it keeps the position,
// cuts at checkpoints, filters, projects and counts down the limit.
type delivery struct {
	plan  *plan
	pos   Cursor
	limit int64 // rows still wanted; 0: no limit
	yield func(Batch, error) bool
	// epochs are the checkpoints to come, in order; nil outside of
	// exactly-once tails.
	epochs []catalog.Checkpoint
}

// deliver reports whether to go on.
func (d *delivery) deliver(ctx context.Context, c chunk) bool {
	for d.epochs != nil && c.len() > 0 {
		n := within(c, d.epochs[0].Cut)
		if n == c.len() {
			break
		}
		// The chunk leaves the epoch: deliver the part before, then end it.
		if n > 0 {
			head := c.slice(0, n)
			ok := d.emit(ctx, head)
			head.rows.Release()
			if !ok {
				return false
			}
		}
		if !d.endEpoch() {
			return false
		}
		tail := c.slice(n, c.len())
		defer tail.rows.Release()
		c = tail
	}
	return d.emit(ctx, c)
}

// within counts the leading rows that lie below cut.
func within(c chunk, cut record.Offsets) int {
	for i, o := range c.offsets {
		if record.Offset(o) >= cut.At(record.Partition(c.partitions[i])) {
			return i
		}
	}
	return c.len()
}

func (d *delivery) endEpoch() bool {
	e := d.epochs[0]
	d.epochs = d.epochs[1:]
	d.pos = Cursor{View: d.pos.View, Next: e.Cut, Checkpoint: e.Number}
	return d.yield(Batch{Next: d.pos, Epoch: e.Number, EpochEnd: true}, nil)
}

// endEpochs completes what no later row will complete.
func (d *delivery) endEpochs() bool {
	for len(d.epochs) > 0 {
		if !d.endEpoch() {
			return false
		}
	}
	return true
}

func (d *delivery) emit(ctx context.Context, c chunk) bool {
	if c.len() == 0 {
		return true
	}
	rows, used, err := d.plan.apply(ctx, c.rows, d.limit)
	if err != nil {
		return d.fail(err)
	}
	d.advance(c, used)
	if rows == nil {
		return true
	}
	defer rows.Release()
	b := Batch{Rows: rows, Next: d.pos}
	if len(d.epochs) > 0 {
		b.Epoch = d.epochs[0].Number
	}
	if d.limit > 0 {
		d.limit -= rows.NumRows()
		if d.limit == 0 {
			d.yield(b, nil)
			return false
		}
	}
	return d.yield(b, nil)
}

func (d *delivery) fail(err error) bool {
	d.yield(Batch{}, err)
	return false
}

// advance moves the position behind the first n rows of c.
func (d *delivery) advance(c chunk, n int) {
	next := d.pos.Next.Clone()
	for i := range n {
		p := record.Partition(c.partitions[i])
		if int(p) >= len(next) {
			next = next.With(p, 0)
		}
		next[p] = record.Offset(c.offsets[i] + 1)
	}
	d.pos.Next = next
}
