package node

import (
	"context"
	"errors"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

type figures struct{ n *Node }

func (f figures) Branch(ctx context.Context, stream, branch string) (api.BranchFigures, error) {
	st, err := f.n.directory.Resolve(stream, branch)
	if err != nil {
		return api.BranchFigures{}, err
	}
	return f.of(ctx, st)
}

func (f figures) Branches(ctx context.Context) ([]api.BranchFigures, error) {
	var all []api.BranchFigures
	for _, st := range f.n.directory.All() {
		b, err := f.of(ctx, st)
		if errors.Is(err, record.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

func (f figures) of(ctx context.Context, st *branch.State) (api.BranchFigures, error) {
	view := st.Branch.View.ID
	out := api.BranchFigures{Stream: st.Stream.FullName(), Branch: st.Branch.Name, View: st.Branch.View.Number}
	var err error
	if out.Hot, err = f.n.log.Stats(view); err != nil {
		return out, err
	}
	ends, err := f.n.log.Ends(view)
	if err != nil {
		return out, err
	}
	b := backend(f)
	archived, err := b.archived(ctx, st)
	if err != nil {
		return out, err
	}
	if out.Lag, err = b.lag(ctx, st, archived, ends); err != nil {
		return out, err
	}
	a := f.n.archiver.Status(st.Branch.ID)
	out.Archive = api.ArchiveFigures{
		Flushes: a.Runs, Failures: a.Failures, Rows: a.Rows, Bytes: a.Bytes, FlushSeconds: a.Seconds,
		LastFlushAt: a.LastSuccess, LastError: a.LastError,
	}
	return out, nil
}

func (f figures) Log() (api.LogFigures, bool) {
	s := f.n.log.LogStats()
	return api.LogFigures{
		Segments: int64(s.Segments), Bytes: s.Size, LimitBytes: s.Limit, Commits: s.Commits, SyncSeconds: s.FsyncSeconds,
	}, true
}

// Ready is nil when rows can be taken and given: the log is not poisoned, the
// catalog answers.
func (f figures) Ready(ctx context.Context) error {
	if err := f.n.log.LogStats().Failed; err != nil {
		return err
	}
	_, err := f.n.catalog.ListStreams(ctx, catalog.StreamQuery{Limit: 1})
	return err
}
