package archiver

import (
	"context"
	"fmt"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// load reads the dataset's head and what it says about the view; past tells that
// the dataset has moved on from it. Hot buffer and dataset must fit together: a
// gap between them would be lost rows, and must not be archived over.
func (w *work) load(ctx context.Context) (past bool, err error) {
	// Others may commit and release between two looks. So the start is looked
	// at before the dataset, the end behind it: each is then a bound.
	before, gone := w.a.o.Buffer.Ends(w.view.ID)
	if w.table, err = w.a.o.Datasets.Load(ctx, w.target.Table); err != nil {
		return false, err
	}
	if w.marker, err = w.table.Marker(); err != nil {
		return false, err
	}
	w.start = record.Offsets{}
	if m := w.marker; m != nil {
		switch {
		case m.Cluster != w.a.o.Cluster:
			return false, fmt.Errorf("the dataset was archived by the cluster %q, this one is %q, and its offsets mean nothing here; give the table back, or copy it into a new stream: %w", m.Cluster, w.a.o.Cluster, record.ErrConflict)
		case m.ViewNumber > w.view.Number && w.active:
			return false, fmt.Errorf("the dataset carries view %d, which is newer: the branch was reset meanwhile, or the catalog is an older copy: %w", m.ViewNumber, record.ErrConflict)
		case m.ViewNumber > w.view.Number:
			return true, nil // a crash came between the next view's first commit and Retire
		case m.View == w.view.ID && m.Epoch > w.epoch:
			return false, fmt.Errorf("the dataset carries epoch %d, ours is %d: %w", m.Epoch, w.epoch, record.ErrFenced)
		case m.View == w.view.ID:
			w.start = m.Offsets
		}
	}
	if gone != nil {
		return false, gone
	}
	after, err := w.a.o.Buffer.Ends(w.view.ID)
	if err != nil {
		return false, err
	}
	if !w.start.Covers(before.Start) {
		return false, fmt.Errorf("rows up to %v are archived, but the hot buffer begins at %v: the dataset was rolled back behind rows that only it had; roll it forward again: %w", w.start, before.Start, record.ErrCorrupt)
	}
	if !w.active {
		if err := w.salvage(ctx); err != nil {
			return false, err
		}
	}
	if !after.End.Covers(w.start) && !w.salvaged {
		return false, fmt.Errorf("rows up to %v are archived, but the hot buffer ends at %v: it is older than the dataset; restore a newer one, or reset the stream: %w", w.start, after.End, record.ErrCorrupt)
	}
	w.s.note.moved(w.view.ID, w.start)
	return false, nil
}

// salvage sets the goal for a draining view of which the hot buffer has lost
// rows: whatever is left of it. Whoever reset the stream was told; without this
// the new view could never be archived.
func (w *work) salvage(ctx context.Context) error {
	if w.goal != nil {
		return nil
	}
	acknowledged, err := w.a.o.Checkpoints.Latest(ctx, w.view.ID)
	if err != nil {
		return err
	}
	// Only now: rows are durable before a checkpoint covers them.
	ends, err := w.a.o.Buffer.Ends(w.view.ID)
	if err != nil || ends.End.Covers(acknowledged.Cut) {
		return err
	}
	w.a.o.Logger.Error("the hot buffer has lost rows of a view that was reset; archive what is left",
		"branch", w.target.Name, "view", w.view.ID, "acknowledged", acknowledged.Cut, "hot", ends.End)
	left := make(record.Offsets, len(ends.End))
	for i, end := range ends.End {
		left[i] = max(end, w.start.At(record.Partition(i)))
	}
	w.layout = &schema.Layout{}
	w.goal, w.schema, w.salvaged = &catalog.Checkpoint{View: w.view.ID, Cut: left, Timestamp: ends.LastTimestamp}, w.view.Schema, true
	return nil
}

// aim fixes the goal, once per archive, so that it ends while rows keep coming.
// The goal is a checkpoint, so that no epoch lies in two archives and files hold
// whole intervals of the view's order.
func (w *work) aim(ctx context.Context) error {
	cp, err := w.a.o.Checkpoints.Take(ctx, w.view.ID)
	if err != nil {
		return err
	}
	// The schema is asked for behind the cut: rows below it were written with
	// this one or earlier ones, so that no column of theirs is dropped.
	t, err := w.a.o.Branches.ArchiveTarget(ctx, w.target.Branch)
	if err != nil {
		return err
	}
	for _, v := range t.Views {
		if v.ID == w.view.ID {
			w.goal, w.schema, w.target.Settings = &cp, v.Schema, t.Settings
			w.layOut()
			return nil
		}
	}
	return fmt.Errorf("the view was retired meanwhile: %w", record.ErrFenced)
}
