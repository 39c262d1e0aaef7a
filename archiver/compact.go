package archiver

import (
	"context"
	"fmt"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
)

// CompactResult is the outcome of a compaction.
type CompactResult struct {
	// Replaced small files became Written larger ones.
	Replaced, Written int
	Rows              int64 // in the new files
	Before, After     int64 // bytes of the old and of the new files
	// SnapshotID is the newest snapshot that replaced files, 0 if none did.
	SnapshotID int64
}

// Compact rewrites small files of a branch's dataset into larger ones, as long
// as there are enough of them: rows, their order and what is archived stay the
// same. It runs beside archives and never makes one wait for longer than a
// repeated swap; one compaction runs at a time. While a reset is being finished
// or rows of a newer schema are not archived yet, it does nothing.
//
// tell, if not nil, is told now and then how many files were replaced and how many
// bytes of them were read.
//
// Errors as of dataset.Compact: record.ErrConflict if somebody else replaced the
// files meanwhile. What was compacted before an error stays, and the result
// tells it; calling again goes on.
func (a *Archiver) Compact(ctx context.Context, branch catalog.BranchID, tell func(files int, bytes int64)) (CompactResult, error) {
	var out CompactResult
	select {
	case a.compacting <- struct{}{}:
		defer func() { <-a.compacting }()
	case <-ctx.Done():
		return out, ctx.Err()
	}
	for {
		// Anew each time: the branch may have been reset or evolved.
		t, err := a.o.Branches.ArchiveTarget(ctx, branch)
		if err != nil {
			return out, err
		}
		done, err := a.compactOnce(ctx, t, &out, tell)
		if err != nil {
			return out, fmt.Errorf("compact %s: %w", t.Name, err)
		}
		if done {
			return out, nil
		}
	}
}

func (a *Archiver) compactOnce(ctx context.Context, t Target, out *CompactResult, tell func(files int, bytes int64)) (done bool, err error) {
	if len(t.Views) != 1 {
		return true, nil // the old view's rows leave the dataset soon
	}
	s := t.Views[0].Schema
	table, err := a.o.Datasets.Load(ctx, t.Table)
	if err != nil {
		return false, err
	}
	if same, err := table.HasSchema(s); err != nil || !same {
		return true, err // the next archive brings it
	}
	// As an archive: a file that is long under way must not be older than the grace
	// of a collection when it is committed.
	ctx, cancel := context.WithTimeout(ctx, a.o.FlushTimeout)
	defer cancel()
	progress := func(done int64) {
		if tell != nil {
			tell(out.Replaced, out.Before+done)
		}
	}
	c, err := a.o.Datasets.Compact(ctx, t.Table, dataset.CompactOptions{
		Progress: progress,
		Schema:   s, Format: dataset.Format(t.Settings.DatasetFormat), TargetBytes: a.o.CompactBytes,
	})
	if err != nil {
		return false, err
	}
	// A crash here leaves the dataset compacted so far.
	if c.Files == 0 {
		return true, nil
	}
	out.Replaced += c.Files
	if c.Path != "" {
		out.Written++
	}
	out.Rows, out.Before, out.After, out.SnapshotID = out.Rows+c.Rows, out.Before+c.Before, out.After+c.After, c.Snapshot
	return false, nil
}

// PlanCompaction tells what Compact would do.
func (a *Archiver) PlanCompaction(ctx context.Context, branch catalog.BranchID) (dataset.CompactionPlan, error) {
	t, err := a.o.Branches.ArchiveTarget(ctx, branch)
	if err != nil || len(t.Views) != 1 {
		return dataset.CompactionPlan{}, err
	}
	return a.o.Datasets.PlanCompaction(ctx, t.Table, a.o.CompactBytes)
}
