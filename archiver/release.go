package archiver

import (
	"context"
	"errors"
	"time"

	"github.com/thermocline/thermocline/record"
)

// release lets the hot buffer forget what the dataset holds, but for rows that
// are younger than the branch's hot retention.
func (w *work) release(ctx context.Context) error {
	if w.salvaged {
		return nil // the view goes altogether
	}
	ends, err := w.a.o.Buffer.Ends(w.view.ID)
	if err != nil {
		return err
	}
	through := w.start
	if keep := w.target.Settings.HotRetention; keep > 0 {
		if through, err = w.appendedBefore(ctx, ends.Start, w.a.o.Now().Add(-keep)); err != nil {
			return err
		}
	}
	if ends.Start.Covers(through) {
		return nil // also what spares a commit of the log
	}
	return w.a.o.Buffer.Release(ctx, w.view.ID, through)
}

// appendedBefore returns, per partition, the first archived row from begin on
// that is younger than at. It asks the rows themselves: no state of ours or of
// the dataset's history could be lost or expire. Times of a partition never go
// back, so a binary search finds it.
func (w *work) appendedBefore(ctx context.Context, begin record.Offsets, at time.Time) (record.Offsets, error) {
	through := make(record.Offsets, len(begin))
	for i := range through {
		p := record.Partition(i)
		old, young := begin[i]-1, max(begin[i], w.start.At(p))
		// Most often all of them are old, or none is.
		for _, o := range []record.Offset{young - 1, begin[i]} {
			if old+1 >= young {
				break
			}
			before, err := w.rowBefore(ctx, p, o, at)
			if err != nil {
				return nil, err
			}
			if before {
				old = o
			} else {
				young = o
			}
		}
		for old+1 < young {
			mid := old + (young-old)/2
			before, err := w.rowBefore(ctx, p, mid, at)
			if err != nil {
				return nil, err
			}
			if before {
				old = mid
			} else {
				young = mid
			}
		}
		through[i] = young
	}
	return through, nil
}

// rowBefore tells whether a row was appended by at. One that cannot be read any
// more counts as such: it is archived, and here it serves nobody.
func (w *work) rowBefore(ctx context.Context, p record.Partition, o record.Offset, at time.Time) (bool, error) {
	batches, err := w.a.o.Buffer.Read(ctx, w.view.ID, p, o, 1)
	switch {
	case errors.Is(err, record.ErrCorrupt), errors.Is(err, record.ErrOutOfRange):
		return true, nil
	case err != nil:
		return false, err
	}
	return len(batches) == 0 || batches[0].Timestamp() <= at.UnixMilli(), nil
}
