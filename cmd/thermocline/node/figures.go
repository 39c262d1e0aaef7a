package node

import (
	"context"
	"errors"
	"maps"
	"sync"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// figures remembers per view what would be dear to ask for at each scrape: with
// ten thousand branches no dataset may be loaded and no row read for each.
type figures struct {
	n *Node

	mu    sync.Mutex
	views map[record.ViewID]remembered
}

// remembered is what is known of a view.
type remembered struct {
	archived record.Offsets // as its dataset said, nil: it was not asked
	// oldest is the append time of the first row behind.
	behind record.Offsets
	oldest int64
}

// loads bounds the datasets that one scrape looks at for views that the
// archiver has not come to yet; further ones get their turn at the next.
const loads = 64

func (f *figures) Branch(ctx context.Context, stream, branch string) (api.BranchFigures, error) {
	st, err := f.n.directory.Resolve(stream, branch)
	if err != nil {
		return api.BranchFigures{}, err
	}
	left := 1
	return f.of(ctx, st, &left)
}

func (f *figures) Branches(ctx context.Context) ([]api.BranchFigures, error) {
	states := f.n.directory.All()
	subscribers, err := f.subscribers(ctx)
	if err != nil {
		return nil, err
	}
	left := loads
	all := make([]api.BranchFigures, 0, len(states))
	there := make(map[record.ViewID]bool, len(states))
	for _, st := range states {
		b, err := f.of(ctx, st, &left)
		switch {
		case err == nil:
			b.Subscribers = subscribers[st.Branch.ID]
			all = append(all, b)
			there[st.Branch.View.ID] = true
		case errors.Is(err, record.ErrNotFound): // deleted or reset meanwhile
		case ctx.Err() != nil, errors.Is(err, record.ErrClosed):
			return nil, err
		default: // the figures of the others are worth having
			f.n.logger.Warn("figures", "branch", st.Name(), "error", err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.views, func(v record.ViewID, _ remembered) bool { return !there[v] })
	return all, nil
}

// subscribers are those that stand in the current view of their branch.
func (f *figures) subscribers(ctx context.Context) (map[catalog.BranchID][]api.SubscriberFigures, error) {
	all := map[catalog.BranchID][]api.SubscriberFigures{}
	for after := catalog.SubscriberID(0); ; {
		page, err := f.n.catalog.AllSubscribers(ctx, after, catalog.MaxPage)
		if err != nil {
			return nil, err
		}
		for _, s := range page {
			after = s.ID
			st, err := f.n.directory.ByID(s.Branch)
			if err != nil || st.Branch.View.ID != s.View {
				continue // deleted meanwhile, or waiting for a reset
			}
			lag, err := f.n.subscribers.Lag(ctx, readTarget(st), s)
			switch {
			case err == nil:
				all[s.Branch] = append(all[s.Branch], api.SubscriberFigures{Name: s.Name, Lag: lag})
			case ctx.Err() != nil, errors.Is(err, record.ErrClosed):
				return nil, err
			default:
				f.n.logger.Warn("figures", "branch", st.Name(), "subscriber", s.Name, "error", err)
			}
		}
		if len(page) < catalog.MaxPage {
			return all, nil
		}
	}
}

func (f *figures) of(ctx context.Context, st *branch.State, left *int) (api.BranchFigures, error) {
	view := st.Branch.View.ID
	out := api.BranchFigures{Stream: st.Stream.FullName(), Branch: st.Branch.Name, View: st.Branch.View.Number}
	f.mu.Lock()
	known := f.views[view]
	f.mu.Unlock()
	archived := f.archived(ctx, st, &known, left)
	var err error
	if out.Hot, err = f.n.log.Stats(view); err != nil {
		return out, err
	}
	ends, err := f.n.log.Ends(view)
	if err != nil {
		return out, err
	}
	if archived == nil {
		archived = ends.Start // what was released is archived
	}
	if !archived.Equal(known.behind) {
		known.behind, known.oldest = archived, 0
	}
	if out.Lag, known.oldest, err = (backend{f.n}).lag(ctx, st, archived, ends, known.oldest); err != nil {
		return out, err
	}
	f.mu.Lock()
	f.views[view] = known
	f.mu.Unlock()
	a := f.n.archiver.Status(st.Branch.ID)
	out.Archive = api.ArchiveFigures{
		Flushes: a.Runs, Failures: a.Failures, Rows: a.Rows, Bytes: a.Bytes, FlushSeconds: a.Seconds,
		LastFlushAt: a.LastSuccess, LastError: a.LastError,
	}
	return out, nil
}

// archived is how far the view is archived: as the archiver last saw it, else
// as the dataset said once, while left lasts; nil: not known.
func (f *figures) archived(ctx context.Context, st *branch.State, known *remembered, left *int) record.Offsets {
	if archived, ok := f.n.archiver.Archived(st.Branch.ID, st.Branch.View.ID); ok {
		return archived
	}
	if known.archived == nil && *left > 0 {
		*left--
		// A dataset that cannot be loaded shows in the archive's failures.
		known.archived, _ = (backend{f.n}).archived(ctx, st)
	}
	return known.archived
}

func (f *figures) Log() (api.LogFigures, bool) {
	s := f.n.log.LogStats()
	return api.LogFigures{
		Segments: int64(s.Segments), Bytes: s.Size, LimitBytes: s.Limit, Commits: s.Commits, SyncSeconds: s.FsyncSeconds,
	}, true
}

func (f *figures) Maintenance() api.MaintenanceFigures { return f.n.upkeep.figures() }

// Ready is nil when rows can be taken and given: the log is not poisoned, the
// catalog answers.
func (f *figures) Ready(ctx context.Context) error {
	if err := f.n.log.LogStats().Failed; err != nil {
		return err
	}
	_, err := f.n.catalog.ListStreams(ctx, catalog.StreamQuery{Limit: 1})
	return err
}
