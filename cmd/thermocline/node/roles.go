package node

import (
	"context"

	"github.com/thermocline/thermocline/archiver"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
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

// archives is the directory as the archiver sees it.
type archives struct{ d *branch.Directory }

func (a archives) ArchiveTargets() []catalog.BranchID { return a.d.ArchiveTargets() }

func (a archives) ArchiveTarget(_ context.Context, id catalog.BranchID) (archiver.Target, error) {
	st, err := a.d.ByID(id)
	if err != nil {
		return archiver.Target{}, err
	}
	views := make([]catalog.View, 0, len(st.Draining)+1)
	views = append(append(views, st.Draining...), st.Branch.View)
	return archiver.Target{
		Branch: id, Name: st.Name(), Table: st.Branch.TableUUID, Schema: st.Schema, Settings: st.Branch.Settings, Views: views,
	}, nil
}

func (a archives) Retire(ctx context.Context, id catalog.BranchID, v record.ViewID) error {
	return a.d.Retire(ctx, id, v)
}

// readTarget is a branch as the reader sees it.
func readTarget(st *branch.State) reader.Target {
	return reader.Target{View: st.Branch.View.ID, Number: st.Branch.View.Number, Table: st.Branch.TableUUID, Schema: st.Schema}
}
