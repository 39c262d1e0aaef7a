package verify

import (
	"context"
	"errors"
	"fmt"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// subscribers checks that every committed position is one that a reader can stand
// at.
func (v *Verifier) subscribers(ctx context.Context, p *pinned, r *report) error {
	for after := ""; ; {
		page, err := v.o.Catalog.ListSubscribers(ctx, p.branch.ID, after, catalog.MaxPage)
		if errors.Is(err, record.ErrCorrupt) {
			r.add(Finding{Code: OutOfRange, Place: "catalog: subscribers of " + displayName(r.stream, r.branch), Detail: err.Error()})
			return nil
		}
		if err != nil {
			return err
		}
		for _, s := range page {
			after = s.Name
			r.sum.Subscribers++
			f, err := v.subscriber(ctx, p, s)
			if err != nil {
				return err
			}
			if f.Detail != "" {
				f.Code, f.Place = OutOfRange, "catalog: subscriber "+s.Name
				r.add(f)
			}
		}
		if len(page) < catalog.MaxPage {
			return nil
		}
	}
}

// subscriber returns what is wrong with one; an empty finding if nothing is.
func (v *Verifier) subscriber(ctx context.Context, p *pinned, s catalog.Subscriber) (f Finding, err error) {
	view, err := v.o.Catalog.View(ctx, s.View)
	if errors.Is(err, record.ErrNotFound) {
		return Finding{Detail: fmt.Sprintf("it stands in view %v, which the catalog does not have", s.View)}, nil
	}
	if err != nil {
		return f, err
	}
	if view.Branch != s.Branch {
		return Finding{Detail: fmt.Sprintf("it stands in view %v, which is of another branch", s.View)}, nil
	}
	f.View = view.Number
	// Positions are committed when their rows are durable; what was read of the
	// view before may be older than this commit.
	end, known := record.Offsets{}, false
	if ends, err := v.o.Buffer.Ends(s.View); err == nil {
		end, known = ends.End, true
	} else if !errors.Is(err, record.ErrNotFound) {
		return f, err
	}
	if known {
		for i, o := range s.Next {
			if q := record.Partition(i); o > end.At(q) {
				f.Detail = fmt.Sprintf("its position is %v, the view ends at %v", o, end.At(q))
				return f.at(view.Number, q, record.Range{Start: end.At(q), End: o}), nil
			}
		}
	}
	if s.Checkpoint == 0 {
		return f, nil
	}
	progress, err := v.o.Catalog.ViewProgress(ctx, s.View)
	if err != nil {
		return f, moved(err)
	}
	if s.Checkpoint > progress.LastCheckpoint {
		f.Detail = fmt.Sprintf("it names checkpoint %d, the last one of the view is %d", s.Checkpoint, progress.LastCheckpoint)
		return f, nil
	}
	cp, err := v.o.Catalog.Checkpoint(ctx, s.View, s.Checkpoint)
	switch {
	case errors.Is(err, record.ErrNotFound), errors.Is(err, record.ErrCorrupt):
		return f, nil // pruned, or told as a checkpoint
	case err != nil:
		return f, err
	}
	if !s.Next.Covers(cp.Cut) {
		f.Detail = fmt.Sprintf("its position %v does not cover checkpoint %d at %v, which it names", s.Next, cp.Number, cp.Cut)
	}
	return f, nil
}
