package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// epochs walks the checkpoints of a view beside its rows: the total order passes
// through all of them, so one page is enough at a time.
type epochs struct {
	ctx  context.Context //nolint:containedctx // lives as long as one check
	v    *Verifier
	r    *report
	view catalog.View

	page []catalog.Checkpoint
	// last is the checkpoint that the rows have passed, next the one ahead; nil:
	// none.
	last, next *catalog.Checkpoint
	done       bool
	count      int64
}

// newEpochs begins with the oldest checkpoint that is left.
func newEpochs(ctx context.Context, v *Verifier, r *report, view catalog.View) (*epochs, error) {
	e := &epochs{ctx: ctx, v: v, r: r, view: view}
	return e, e.step()
}

func (e *epochs) place(number int64) string {
	return fmt.Sprintf("catalog: checkpoint %d of view %v", number, e.view.ID)
}

// step goes on to the next checkpoint, and holds it against the one before.
func (e *epochs) step() error {
	e.last, e.next = e.next, nil
	if e.done {
		return nil
	}
	if len(e.page) == 0 {
		after := int64(0)
		if e.last != nil {
			after = e.last.Number
		}
		var err error
		e.page, err = e.v.o.Catalog.CheckpointsAfter(e.ctx, e.view.ID, after, catalog.MaxPage)
		if errors.Is(err, record.ErrCorrupt) {
			e.r.add(Finding{Code: Checkpoint, Place: e.place(after + 1), View: e.view.Number, Detail: err.Error()})
			e.done = true
			return nil
		}
		if err != nil {
			return err
		}
		if len(e.page) == 0 {
			e.done = true
			return nil
		}
	}
	cp := e.page[0]
	e.page = e.page[1:]
	e.count++
	if e.last != nil && (!cp.Cut.Covers(e.last.Cut) || cp.Timestamp < e.last.Timestamp || cp.Guests < e.last.Guests) {
		e.r.add(Finding{Code: Checkpoint, Place: e.place(cp.Number), View: e.view.Number,
			Detail: fmt.Sprintf("it stands at %v, %s, and so before checkpoint %d at %v, %s",
				cp.Cut, stamp(cp.Timestamp*1000), e.last.Number, e.last.Cut, stamp(e.last.Timestamp*1000))})
		// What comes behind is measured by the sound one.
		cp.Cut, cp.Timestamp, cp.Guests = e.last.Cut, e.last.Timestamp, e.last.Guests
	}
	e.next = &cp
	return nil
}

// row checks that a row, which stands in order, is on the right side of the
// checkpoints around it: below a cut are all commits up to its time, and no later
// one.
func (e *epochs) row(c *rowCheck, p record.Partition, o record.Offset, micros int64) error {
	for e.next != nil && o >= e.next.Cut.At(p) {
		if err := e.step(); err != nil {
			return err
		}
	}
	switch {
	case e.last != nil && (o < e.last.Cut.At(p) || micros <= e.last.Timestamp*1000):
		c.r.row(Checkpoint, c.place, c.view, p, o, fmt.Sprintf("the row of %s comes behind rows of a later epoch: checkpoint %d at %v of %s cuts through a commit",
			stamp(micros), e.last.Number, e.last.Cut, stamp(e.last.Timestamp*1000)))
	case e.next != nil && micros > e.next.Timestamp*1000:
		c.r.row(Checkpoint, c.place, c.view, p, o, fmt.Sprintf("the row of %s is below checkpoint %d, whose newest row is said to be of %s",
			stamp(micros), e.next.Number, stamp(e.next.Timestamp*1000)))
	}
	return nil
}

// drain looks at the checkpoints that no row has reached.
func (e *epochs) drain() error {
	for !e.done {
		if err := e.step(); err != nil {
			return err
		}
	}
	return nil
}

func stamp(micros int64) string {
	return time.UnixMicro(micros).UTC().Format("2006-01-02T15:04:05.000Z")
}
