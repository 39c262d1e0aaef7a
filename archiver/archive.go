package archiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// Archive moves every row of a branch that is durable at the call, and returns
// when they are in the dataset. Errors: record.ErrNotFound (no such branch),
// record.ErrBusy (another process archives it), record.ErrFenced (another one
// took over meanwhile), record.ErrCorrupt (a hot row cannot be read; nothing
// was skipped), or the stores'. After any error the rows are still in exactly
// one half of every read; calling again goes on.
func (a *Archiver) Archive(ctx context.Context, branch catalog.BranchID) (Result, error) {
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	s := a.state(branch)
	s.Lock()
	defer s.Unlock()
	ctx, cancel := context.WithTimeout(ctx, a.o.FlushTimeout)
	defer cancel()
	seen := lastSeen{begun: a.o.Now()}
	out, err := a.archiveBranch(ctx, s, branch, &seen)
	out.Took = a.o.Now().Sub(seen.begun)
	s.note.record(seen, out, err)
	return out, err
}

func (a *Archiver) archiveBranch(ctx context.Context, s *branchState, branch catalog.BranchID, seen *lastSeen) (Result, error) {
	t, err := a.o.Branches.ArchiveTarget(ctx, branch)
	if err != nil {
		return Result{}, err
	}
	var out Result
	for _, v := range t.Views {
		if stats, err := a.o.Buffer.Stats(v.ID); err == nil {
			seen.view, seen.bytes = v.ID, stats.Bytes
		}
		if err := a.archiveView(ctx, s, t, v, &out); err != nil {
			return out, fmt.Errorf("archive %s (view %d): %w", t.Name, v.Number, err)
		}
		seen.archived = out.Archived
	}
	// The dataset carries the last view's marker (or none, if no row was ever
	// archived): those before it are done. A crash before this is found out in
	// step 2 of their next archive.
	for _, v := range t.Views[:max(0, len(t.Views)-1)] {
		if err := a.retire(ctx, s, t, v); err != nil {
			return out, fmt.Errorf("archive %s: retire view %d: %w", t.Name, v.Number, err)
		}
	}
	return out, nil
}

// archiveView is the archive protocol for one view. Comments say what a crash
// (or an error: they are treated alike) behind a step leaves, and who repairs it.
func (a *Archiver) archiveView(ctx context.Context, s *branchState, t Target, v catalog.View, out *Result) error {
	// 1. Lease. It only keeps archivers from working in vain; what keeps them
	// from doing harm is the epoch in the dataset (3, 5).
	lease, err := a.lease(ctx, s, v.ID)
	if err != nil {
		return err
	}
	epoch := int64(lease.Epoch)
	ctx, stop := a.keepLease(ctx, lease)
	defer stop()
	a.o.Reached(StepLease)
	// A crash here leaves a lease that expires, or that our next process takes
	// over with a larger epoch.

	// 2. Load. The newest marker among the head's ancestors says where to go
	// on, whatever this process or the hot buffer believe.
	table, err := a.o.Datasets.Load(ctx, t.Table)
	if err != nil {
		return err
	}
	m, err := table.Marker()
	if err != nil {
		return err
	}
	if m != nil && m.ViewNumber > v.Number {
		// A crash came between the next view's first commit and our Retire.
		return a.retire(ctx, s, t, v)
	}
	w := &work{a: a, target: t, view: v, epoch: epoch, table: table}
	if m != nil && m.View == v.ID {
		w.start = m.Offsets
		// A crash between commit and release left rows hot that are cold.
		if err := w.release(ctx); err != nil {
			return err
		}
	}
	a.o.Reached(StepLoad)

	// What is to be archived ends at a checkpoint, so that no epoch lies in two
	// archives and files hold whole intervals of the view's order.
	through := a.o.Now().UnixMilli()
	cp, err := a.o.Checkpoints.Take(ctx, v.ID)
	if err != nil {
		return err
	}
	w.end = cp.Cut
	reset := m != nil && m.View != v.ID
	if reset || (w.end.RowsSince(w.start) > 0 && (m == nil || m.Epoch < epoch)) {
		// 3. Fence, and after a reset the beginning of the new view: from this
		// commit on, the dataset's rows are those of v only. An archiver of an
		// older epoch fails its check (5) from here on.
		if err := w.fence(ctx, m, reset); err != nil {
			return err
		}
	}
	a.o.Reached(StepFence)
	// A crash here leaves an empty snapshot with our epoch.

	if w.end.RowsSince(w.start) > 0 {
		// 4. Write. Files are invisible until a snapshot names them.
		files, rows, err := w.write(ctx)
		if err != nil {
			return err
		}
		a.o.Reached(StepUpload)
		// A crash while writing or here leaves files that no snapshot names;
		// orphan collection may take them. The next archive writes new ones,
		// under other names.

		// 5. Commit: files and offsets become visible together or not at all.
		if err := w.commit(ctx, files, through); err != nil {
			return err
		}
		a.o.Reached(StepCommit)
		// A crash here leaves rows in both halves; readers take the cold ones,
		// and step 2 of the next archive releases the hot ones.
		out.Rows += rows
		for _, f := range files {
			out.Files++
			out.Bytes += f.Bytes()
		}

		// 7. Release. (6, an unknown outcome, is part of Datasets.Commit.)
		if err := w.release(ctx); err != nil {
			return err
		}
	}
	a.o.Reached(StepDone)

	out.MetadataLocation = w.table.MetadataLocation()
	if head, ok := w.table.Head(); ok {
		out.SnapshotID = head.ID
	}
	out.Archived = w.start
	return nil
}

// work is one view's archive under way.
type work struct {
	a          *Archiver
	target     Target
	view       catalog.View
	epoch      int64
	table      *dataset.Table
	start, end record.Offsets // [start, end) is to be archived; start moves with commits
}

func (w *work) marker(offsets record.Offsets, throughMs int64) *dataset.Marker {
	return &dataset.Marker{
		View: w.view.ID, ViewNumber: w.view.Number, Epoch: w.epoch, Offsets: offsets,
		CommitID: uuid.NewString(), Cluster: w.a.o.Cluster, ValidThroughMs: throughMs,
	}
}

func (w *work) fence(ctx context.Context, old *dataset.Marker, reset bool) error {
	through := int64(0)
	if old != nil && !reset {
		through = old.ValidThroughMs
	}
	table, err := w.a.o.Datasets.Commit(ctx, w.target.Table, dataset.Commit{
		Base: w.table, Marker: w.marker(w.start, through), RemoveAll: reset,
		Check: func(t *dataset.Table) error {
			m, err := t.Marker()
			switch {
			case err != nil:
				return err
			case m == nil && old == nil:
				return nil
			case m == nil || old == nil || m.View != old.View || !m.Offsets.Equal(old.Offsets):
				return fmt.Errorf("the dataset was moved by another archiver: %w", record.ErrConflict)
			case m.View == w.view.ID && m.Epoch >= w.epoch:
				return fmt.Errorf("the dataset carries epoch %d, ours is %d: %w", m.Epoch, w.epoch, record.ErrFenced)
			}
			return nil
		},
	})
	if err != nil {
		return fmt.Errorf("fence: %w", err)
	}
	w.table = table
	return nil
}

func (w *work) commit(ctx context.Context, files []dataset.DataFile, through int64) error {
	table, err := w.a.o.Datasets.Commit(ctx, w.target.Table, dataset.Commit{
		Base: w.table, Add: files, Marker: w.marker(w.end, through), Schema: w.target.Schema,
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
	w.table, w.start = table, w.end
	return nil
}

// release lets the hot buffer forget what the dataset has held for at least
// the branch's hot retention.
func (w *work) release(ctx context.Context) error {
	through := w.start
	if keep := w.target.Settings.HotRetention; keep > 0 {
		through = archivedBefore(w.table, w.view.ID, w.a.o.Now().Add(-keep))
	}
	err := w.a.o.Buffer.Release(ctx, w.view.ID, through)
	if errors.Is(err, record.ErrNotFound) {
		return nil // the view was dropped meanwhile, and its rows with it
	}
	return err
}

// archivedBefore returns the offsets of the newest snapshot of v made before
// at. It needs no state of ours, so that it is right after a restart.
func archivedBefore(table *dataset.Table, v record.ViewID, at time.Time) record.Offsets {
	snapshots := table.Snapshots()
	for i := len(snapshots) - 1; i >= 0; i-- {
		if m := snapshots[i].Marker; m != nil && m.View == v && !snapshots[i].Time.After(at) {
			return m.Offsets
		}
	}
	return record.Offsets{}
}

// retire ends a view that the dataset has moved on from.
func (a *Archiver) retire(ctx context.Context, s *branchState, t Target, v catalog.View) error {
	if err := a.o.Branches.Retire(ctx, t.Branch, v.ID); err != nil {
		return err
	}
	delete(s.leases, v.ID)
	return nil
}
