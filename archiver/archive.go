package archiver

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Archive moves every row of a branch that is durable at the call, and returns
// when they are in the dataset. Errors: record.ErrNotFound (no such branch),
// record.ErrBusy (another process archives it), record.ErrFenced (another one
// took over meanwhile), record.ErrConflict (the dataset was changed under it),
// record.ErrCorrupt (a hot row cannot be read; nothing was skipped), or the
// stores'. After any error the rows are still in exactly one half of every
// read, and calling again goes on; the result tells what was moved before it.
func (a *Archiver) Archive(ctx context.Context, branch catalog.BranchID) (Result, error) {
	s := a.state(branch)
	// The branch first: who waits for a branch must not keep a slot from others.
	if err := s.lock(ctx); err != nil {
		return Result{}, err
	}
	defer s.unlock()
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	seen := lastSeen{begun: a.o.Now()}
	out, err := a.archiveBranch(ctx, s, branch, &seen)
	out.Took = a.o.Now().Sub(seen.begun)
	s.note.record(seen, out, err)
	if errors.Is(err, record.ErrNotFound) {
		a.forget(branch)
	}
	return out, err
}

func (a *Archiver) archiveBranch(ctx context.Context, s *branchState, branch catalog.BranchID, seen *lastSeen) (Result, error) {
	t, err := a.o.Branches.ArchiveTarget(ctx, branch)
	if err != nil {
		return Result{}, err
	}
	var out Result
	for i, v := range t.Views {
		if stats, err := a.o.Buffer.Stats(v.ID); err == nil {
			seen.view, seen.bytes = v.ID, stats.Bytes
		}
		if err := a.archiveView(ctx, s, t, v, i == len(t.Views)-1, &out); err != nil {
			return out, fmt.Errorf("archive %s (view %d): %w", t.Name, v.Number, err)
		}
	}
	// The dataset carries the last view's marker (or none, if no row was ever
	// archived): those before it are done. A crash before this is found out in
	// step 2 of their next archive.
	for _, v := range t.Views[:max(0, len(t.Views)-1)] {
		if err := a.o.Branches.Retire(ctx, t.Branch, v.ID); err != nil {
			return out, fmt.Errorf("archive %s: retire view %d: %w", t.Name, v.Number, err)
		}
		delete(s.leases, v.ID)
	}
	return out, nil
}

// archiveView is the archive protocol for one view: a lease, and under it as
// many flushes as it takes.
func (a *Archiver) archiveView(ctx context.Context, s *branchState, t Target, v View, active bool, out *Result) (err error) {
	// 1. Lease. It only keeps archivers from working in vain; what keeps them
	// from doing harm is the epoch in the dataset (3, 5).
	lease, err := a.lease(ctx, s, v.ID)
	if err != nil {
		return err
	}
	ctx, stop := a.keepLease(ctx, lease)
	defer stop()
	defer func() {
		if lost := context.Cause(ctx); err != nil && errors.Is(lost, record.ErrFenced) {
			err = fmt.Errorf("%w: %w", lost, err)
		}
		if errors.Is(err, record.ErrFenced) {
			delete(s.leases, v.ID) // the next archive needs a larger epoch
		}
	}()
	a.o.Reached(StepLease)
	// A crash here leaves a lease that expires, or that our next process takes
	// over with a larger epoch.

	w := &work{a: a, s: s, target: t, view: v, active: active, epoch: int64(lease.Epoch)}
	for {
		done, err := w.flush(ctx, out)
		if err != nil || done {
			return err
		}
	}
}

// work is one view's archive under way.
type work struct {
	a      *Archiver
	s      *branchState
	target Target
	view   View
	active bool // not one that a reset has replaced
	epoch  int64

	// goal is where the archive ends, fixed by its first flush, and schema the
	// one to write rows with.
	goal   *catalog.Checkpoint
	schema *schema.Schema

	// Of the flush under way.
	table  *dataset.Table
	marker *dataset.Marker    // nil: none; else perhaps of the view before
	start  record.Offsets     // what the dataset holds; moves with the commit
	end    catalog.Checkpoint // where the flush ends: the goal or before it
}

// flush moves rows up to the goal, or as many as one commit should have, and
// tells whether the goal is reached. The comments say what a crash (or an error:
// they are treated alike) behind a step leaves, and who repairs it.
func (w *work) flush(ctx context.Context, out *Result) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.a.o.FlushTimeout)
	defer cancel()

	// 2. Load. The newest marker among the head's ancestors says where to go
	// on, whatever this process or the hot buffer believe.
	if past, err := w.load(ctx); err != nil || past {
		return past, err
	}
	// A crash between commit and release left rows hot that are cold.
	if err := w.release(ctx); err != nil {
		return false, err
	}
	w.a.o.Reached(StepLoad)

	if w.goal == nil {
		if err := w.aim(ctx); err != nil {
			return false, err
		}
	}
	w.end = *w.goal
	waiting := w.end.Cut.RowsSince(w.start) > 0
	reset := w.marker != nil && w.marker.View != w.view.ID
	if reset || (waiting && (w.marker == nil || w.marker.Epoch < w.epoch)) {
		// 3. Fence, and after a reset the beginning of the new view: from this
		// commit on, the dataset's rows are those of this view only. An archiver
		// of an older epoch fails its check (5) from here on.
		if err := w.fence(ctx, reset); err != nil {
			return false, err
		}
	}
	w.a.o.Reached(StepFence)
	// A crash here leaves an empty snapshot with our epoch.

	if waiting {
		// 4. Write. Files are invisible until a snapshot names them.
		files, rows, err := w.write(ctx)
		if err != nil {
			return false, err
		}
		w.a.o.Reached(StepUpload)
		// A crash while writing or here leaves files that no snapshot names;
		// orphan collection may take them. The next archive writes new ones,
		// under other names.

		// 5. Commit: files and offsets become visible together or not at all.
		if err := w.commit(ctx, files); err != nil {
			return false, err
		}
		w.a.o.Reached(StepCommit)
		// A crash here leaves rows in both halves; readers take the cold ones,
		// and step 2 of the next archive releases the hot ones.
		out.Rows += rows
		for _, f := range files {
			out.Files++
			out.Bytes += f.Bytes()
		}

		// 7. Release. (6, an unknown outcome, is part of Datasets.Commit.)
		if err := w.release(ctx); err != nil {
			return false, err
		}
	}
	w.a.o.Reached(StepDone)

	out.MetadataLocation = w.table.MetadataLocation()
	if head, ok := w.table.Head(); ok {
		out.SnapshotID = head.ID
	}
	out.Archived = w.start
	return w.start.Covers(w.goal.Cut), nil
}

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
			return false, fmt.Errorf("the dataset carries view %d, which the catalog does not know; restore a newer catalog: %w", m.ViewNumber, record.ErrConflict)
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
	if !after.End.Covers(w.start) && !w.active {
		// Whoever reset the stream was told.
		w.a.o.Logger.Error("give up the rest of a view whose hot rows are lost", "branch", w.target.Name, "view", w.view.ID, "archived", w.start, "hot", after.End)
		return true, nil
	}
	if !after.End.Covers(w.start) {
		return false, fmt.Errorf("rows up to %v are archived, but the hot buffer ends at %v: it is older than the dataset; restore a newer one, or reset the stream: %w", w.start, after.End, record.ErrCorrupt)
	}
	w.s.note.moved(w.view.ID, w.start)
	return false, nil
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
			w.goal, w.schema = &cp, v.Schema
			return nil
		}
	}
	return fmt.Errorf("the view was retired meanwhile: %w", record.ErrFenced)
}

func (w *work) newMarker(offsets record.Offsets, throughMs int64) *dataset.Marker {
	return &dataset.Marker{
		View: w.view.ID, ViewNumber: w.view.Number, Epoch: w.epoch, Offsets: offsets,
		CommitID: uuid.NewString(), Cluster: w.a.o.Cluster, ValidThroughMs: throughMs,
	}
}

func (w *work) fence(ctx context.Context, reset bool) error {
	old := w.marker
	c := dataset.Commit{Base: w.table, Check: func(t *dataset.Table) error {
		m, err := t.Marker()
		switch {
		case err != nil:
			return err
		case m == nil && old == nil:
			return nil
		case m == nil || old == nil || m.View != old.View || !m.Offsets.Equal(old.Offsets):
			return fmt.Errorf("another archiver moved the dataset meanwhile: %w", record.ErrFenced)
		case m.View == w.view.ID && m.Epoch >= w.epoch:
			return fmt.Errorf("the dataset carries epoch %d, ours is %d: %w", m.Epoch, w.epoch, record.ErrFenced)
		}
		return nil
	}}
	through := int64(0)
	if reset {
		c.RemoveAll, c.Schema = true, w.schema
	} else if old != nil {
		through = old.ValidThroughMs
	}
	c.Marker = w.newMarker(w.start, through)
	table, err := w.a.o.Datasets.Commit(ctx, w.target.Table, c)
	if err != nil {
		return fmt.Errorf("fence: %w", err)
	}
	w.table = table
	return nil
}

func (w *work) commit(ctx context.Context, files []dataset.DataFile) error {
	// The checkpoint's time, not the clock's: a row whose append was under way
	// at the cut may have an earlier time than the clock showed.
	table, err := w.a.o.Datasets.Commit(ctx, w.target.Table, dataset.Commit{
		Base: w.table, Add: files, Marker: w.newMarker(w.end.Cut, w.end.Timestamp), Schema: w.schema,
		Check: func(t *dataset.Table) error {
			m, err := t.Marker()
			switch {
			case err != nil:
				return err
			case m == nil || m.View != w.view.ID || m.Epoch != w.epoch:
				return fmt.Errorf("the dataset no longer carries our epoch %d of view %d: %w", w.epoch, w.view.Number, record.ErrFenced)
			case !m.Offsets.Equal(w.start):
				return fmt.Errorf("the dataset stands at %v, our archive began at %v: %w", m.Offsets, w.start, record.ErrFenced)
			}
			return nil
		},
	})
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	w.table, w.start = table, w.end.Cut
	w.s.note.moved(w.view.ID, w.start)
	return nil
}
