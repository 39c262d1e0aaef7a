package reader

import (
	"context"
	"fmt"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// chunk is a piece of the stitched view: scanned columns of consecutive rows.
type chunk struct {
	rows       arrow.RecordBatch // plan.scan's columns; owned by stitch
	partitions []int32           // _partition_id of each row
	offsets    []int64           // _offset of each row
}

func (c chunk) len() int { return len(c.offsets) }

func (c chunk) slice(i, j int) chunk {
	return chunk{c.rows.NewSlice(int64(i), int64(j)), c.partitions[i:j], c.offsets[i:j]}
}

// behind moves pos, which has every partition of c, behind its rows.
func (c chunk) behind(pos record.Offsets) {
	for i, o := range c.offsets {
		pos[c.partitions[i]] = record.Offset(o + 1)
	}
}

// delivery turns chunks into the consumer's batches: it keeps the position,
// cuts at checkpoints, filters, projects and counts down the limit.
type delivery struct {
	plan  *plan
	pos   Cursor
	limit int64 // rows still wanted; 0: no limit
	yield func(Batch, error) bool

	told   Cursor    // the last position that the consumer knows
	toldAt time.Time // when it was told one without rows
	// epochs are the checkpoints to come, in order; nil outside of
	// exactly-once tails.
	epochs []catalog.Checkpoint
}

// deliver reports whether to go on.
func (d *delivery) deliver(ctx context.Context, c chunk) bool {
	for d.epochs != nil && c.len() > 0 {
		n := c.below(d.epochs[0].Cut)
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

// below counts the leading rows that lie below cut.
func (c chunk) below(cut record.Offsets) int {
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
	// Not the cut itself: a cursor of another read may stand beyond it in some
	// partition, where the predicate let a scan skip rows of the others.
	d.pos.Next, d.pos.Checkpoint = greatest(d.pos.Next, d.plan.parts.of(e.Cut)), e.Number
	return d.tell(Batch{Next: d.pos, Epoch: e.Number, EpochEnd: true})
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

// positionEvery is how often a consumer that gets no rows hears where the read
// stands.
const positionEvery = time.Second

// caughtUp ends a pass over all rows below end: also those that the predicate let
// a scan skip are behind. The consumer is told, where it does not know from
// rows, but not for each of many small appends that the predicate drops.
func (d *delivery) caughtUp(end record.Offsets) bool {
	d.pos.Next = greatest(d.pos.Next, end)
	known := d.told.Next.Covers(d.pos.Next) && d.told.Guests == d.pos.Guests && d.told.Within == nil
	if known || time.Since(d.toldAt) < positionEvery {
		return true
	}
	d.toldAt = time.Now()
	return d.tell(Batch{Next: d.pos})
}

func (d *delivery) tell(b Batch) bool {
	d.told = b.Next
	return d.yield(b, nil)
}

func (d *delivery) emit(ctx context.Context, c chunk) bool {
	if c.len() == 0 {
		return true
	}
	rows, used, err := d.plan.apply(ctx, c.rows, d.limit)
	if err != nil {
		return d.fail(err)
	}
	if err := d.advance(c, used); err != nil {
		if rows != nil {
			rows.Release()
		}
		return d.fail(err)
	}
	if rows == nil {
		return true
	}
	defer rows.Release()
	return d.give(rows)
}

// give hands delivered rows to the consumer.
func (d *delivery) give(rows arrow.RecordBatch) bool {
	b := Batch{Rows: rows, Next: d.pos}
	if len(d.epochs) > 0 {
		b.Epoch = d.epochs[0].Number
	}
	if d.limit > 0 {
		d.limit -= rows.NumRows()
		if d.limit == 0 {
			d.tell(b)
			return false
		}
	}
	return d.tell(b)
}

func (d *delivery) fail(err error) bool {
	d.yield(Batch{}, err)
	return false
}

// advance moves the position behind the first n rows of c. A row below the
// position comes out of order: the epoch that it belongs to is over, and a cursor
// that was given out would skip it.
func (d *delivery) advance(c chunk, n int) error {
	next := d.pos.Next.Clone()
	for i := range n {
		p, o := record.Partition(c.partitions[i]), record.Offset(c.offsets[i])
		if int(p) >= len(next) {
			next = next.With(p, 0)
		}
		if o < next[p] {
			return disordered(d.pos.View, p, o, next[p])
		}
		next[p] = o + 1
	}
	d.pos.Next = next
	return nil
}

func disordered(v record.ViewID, p record.Partition, o, next record.Offset) error {
	return fmt.Errorf("view %s: the dataset gives row %v of partition %v again or out of order, behind row %v; "+
		"another engine has rewritten or copied rows: roll the table back, or sort its files by _timestamp, _partition_id, _offset: %w", v, o, p, next-1, record.ErrCorrupt)
}
