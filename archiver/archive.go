package archiver

import (
	"context"
	"errors"
	"fmt"

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
	// layout is that of the files.
	layout *schema.Layout

	// vacate: nothing is kept hot for anybody.
	vacate bool

	// salvaged: the hot buffer has lost rows of the view; goal is what is left.
	salvaged bool

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
		// A layout that is new is told to the table first, because files are
		// written for its spec. A crash behind it leaves a table whose default
		// spec has no files yet.
		if err := w.applyLayout(ctx); err != nil {
			return false, err
		}
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
