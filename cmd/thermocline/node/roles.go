package node

import (
	"context"
	"fmt"
	"math"

	"github.com/thermocline/thermocline/archiver"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/writer"
)

// entrance is the directory as the writer sees it.
type entrance struct{ d *branch.Directory }

func (e entrance) Enter(ctx context.Context, stream, branch string) (writer.Target, func(), error) {
	st, leave, err := e.d.Enter(ctx, stream, branch)
	if err != nil {
		return writer.Target{}, nil, err
	}
	b := st.Branch
	return writer.Target{
		View: b.View.ID, Schema: st.Schema, Partitions: b.View.Partitions, KeyFields: b.Settings.KeyFields, Version: b.Version,
	}, leave, nil
}

// targets is the directory as the archiver sees it.
type targets struct{ d *branch.Directory }

func (a targets) ArchiveTargets() []catalog.BranchID { return a.d.ArchiveTargets() }

func (a targets) ArchiveTarget(_ context.Context, id catalog.BranchID) (archiver.Target, error) {
	st, err := a.d.ByID(id)
	if err != nil {
		return archiver.Target{}, err
	}
	t := archiver.Target{Branch: id, Name: st.Name(), Table: st.Branch.TableUUID, Settings: st.Branch.Settings}
	for _, v := range st.Draining {
		t.Views = append(t.Views, archiver.View{ID: v.ID, Number: v.Number, Created: v.Created, Schema: v.Schema})
	}
	v := st.Branch.View
	t.Views = append(t.Views, archiver.View{ID: v.ID, Number: v.Number, Created: v.Created, Schema: st.Schema})
	return t, nil
}

func (a targets) Retire(ctx context.Context, id catalog.BranchID, v record.ViewID) error {
	return a.d.Retire(ctx, id, v)
}

// checkpoints are the checkpointer's as the archiver sees them.
type checkpoints struct{ *reader.Checkpointer }

// Next looks for own rows: guest rows are in the dataset already.
func (c checkpoints) Next(ctx context.Context, v record.ViewID, after record.Offsets) (catalog.Checkpoint, error) {
	next, err := c.After(ctx, v, reader.Cursor{View: v, Next: after, Guests: math.MaxInt64}, catalog.MaxPage)
	if err == nil && len(next) == 0 {
		err = fmt.Errorf("a checkpoint of view %s beyond %v: %w", v, after, record.ErrNotFound)
	}
	if err != nil {
		return catalog.Checkpoint{}, err
	}
	return next[0], nil
}

// holds keeps rows hot for subscribers, from their committed positions on: also
// while no member is there, because one may be back in a moment.
type holds struct{ c *catalog.Catalog }

func (h holds) Holds(ctx context.Context, v record.ViewID) ([]archiver.Hold, error) {
	list, err := h.c.ViewSubscribers(ctx, v)
	if err != nil {
		return nil, err
	}
	all := make([]archiver.Hold, len(list))
	for i, s := range list {
		all[i] = archiver.Hold{Next: s.Next, For: s.Hold}
	}
	return all, nil
}

// fullness is the part of the log's limit that segments with rows take. A log that
// cannot grow is full, whatever its limit: its disk may be.
func fullness(s disk.LogStats) float64 {
	if s.Stalled != nil {
		return 1
	}
	return float64(s.Size) / float64(s.Limit) * float64(s.Segments) / float64(max(1, s.Segments+s.SpareSegments))
}

// readTarget is a branch as the reader sees it.
func readTarget(st *branch.State) reader.Target {
	return reader.Target{View: st.Branch.View.ID, Number: st.Branch.View.Number, Table: st.Branch.TableUUID, Schema: st.Schema}
}

// tablePointers are the catalog's as datasets see them.
type tablePointers struct{ *catalog.Catalog }

func (p tablePointers) SwapTables(ctx context.Context, swaps []dataset.PointerSwap) error {
	all := make([]catalog.Swap, len(swaps))
	for i, s := range swaps {
		all[i] = catalog.Swap{TableUUID: s.ID, From: s.From, To: s.To}
	}
	return p.SwapTablePointers(ctx, all)
}
