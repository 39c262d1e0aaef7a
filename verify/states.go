package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// viewStates checks the views that are not active: that the dataset has moved on
// from those that are retired, and holds all their rows in its history.
func (v *Verifier) viewStates(ctx context.Context, p *pinned, r *report) error {
	last := p.branch.View.Number
	known := p.marker == nil // the marker's view
	history := archives(p)
	for after := record.ViewNumber(0); ; {
		page, err := v.o.Catalog.Views(ctx, p.branch.ID, after, catalog.MaxPage)
		if err != nil {
			return err
		}
		for _, w := range page {
			after = w.Number
			if p.marker != nil && w.ID == p.marker.View {
				known = true
			}
			if w.Number > last {
				continue // begun since
			}
			if err := v.viewState(ctx, p, r, w, history); err != nil {
				return err
			}
		}
		if len(page) < catalog.MaxPage {
			break
		}
	}
	if !known {
		r.add(Finding{Code: Marker, Place: fmt.Sprintf("%s snapshot %d", p.table.MetadataLocation(), p.marker.SnapshotID), View: p.marker.ViewNumber,
			Detail: fmt.Sprintf("it carries view %v (number %d), which the catalog does not know on this branch", p.marker.View, p.marker.ViewNumber)})
	}
	return nil
}

// archives returns how far the retained snapshots archived each view.
func archives(p *pinned) map[record.ViewID]record.Offsets {
	all := map[record.ViewID]record.Offsets{}
	if p.table == nil {
		return all
	}
	for _, s := range p.table.Snapshots() { // oldest first
		if s.Marker != nil {
			all[s.Marker.View] = s.Marker.Offsets
		}
	}
	return all
}

func (v *Verifier) viewState(ctx context.Context, p *pinned, r *report, w catalog.View, history map[record.ViewID]record.Offsets) error {
	place := fmt.Sprintf("catalog: view %v", w.ID)
	add := func(format string, args ...any) {
		r.add(Finding{Code: ViewState, Place: place, View: w.Number, Detail: fmt.Sprintf(format, args...)})
	}
	if w.State != catalog.Retired || slices.ContainsFunc(p.views, func(x pinnedView) bool { return x.ID == w.ID }) {
		return nil // live: its rows were checked, or it began or ended since
	}
	if p.table == nil {
		return nil
	}
	cp, err := v.o.Catalog.LatestCheckpoint(ctx, w.ID)
	if errors.Is(err, record.ErrNotFound) || errors.Is(err, record.ErrCorrupt) {
		cp, err = catalog.Checkpoint{}, nil
	}
	if err != nil {
		return err
	}
	rows := cp.Cut.RowsSince(nil)
	switch {
	case p.marker != nil && p.marker.View == w.ID:
		add("the view is RETIRED, but the dataset still carries it")
	case p.marker != nil && p.marker.ViewNumber < w.Number || p.marker == nil && rows > 0 && p.files != nil:
		add("the view is RETIRED with %d rows, but the dataset never carried it", rows)
	default:
		if archived, ok := history[w.ID]; ok && !archived.Covers(cp.Cut) {
			add("the view is RETIRED and was archived up to %v, but rows up to %v were acknowledged", archived, cp.Cut)
		}
	}
	return v.undropped(ctx, r, w, place)
}

// undropped tells a retired view that the hot buffer still has. Retiring and
// dropping are two steps, and a crash between them is mended at the next start.
func (v *Verifier) undropped(ctx context.Context, r *report, w catalog.View, place string) error {
	for try := 0; slices.Contains(v.o.Buffer.Views(), w.ID); try++ {
		if try == 10 {
			r.add(Finding{Code: ViewState, Severity: Notice, Place: place, View: w.Number,
				Detail: "the view is RETIRED, but the hot buffer still has it; a start of the server drops it"})
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}
