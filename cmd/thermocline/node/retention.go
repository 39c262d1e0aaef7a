package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// retention is what may go of a branch: by its policy, where that says something.
func retention(p catalog.Policy, o dataset.ExpireOptions) dataset.ExpireOptions {
	if p.MaxSnapshotAge > 0 {
		o.MaxAge = p.MaxSnapshotAge
	}
	o.KeepLast = max(o.KeepLast, p.MinSnapshots)
	return o
}

// expireBranches deletes the branches that nothing has changed for as long as their
// policy says. What fails is tried again with the next walk.
func (u *upkeep) expireBranches(ctx context.Context) {
	for after := catalog.BranchID(0); ctx.Err() == nil; {
		page, err := u.n.catalog.ExpiringBranches(ctx, after, catalog.MaxPage)
		if err != nil {
			u.failed(ctx, "look for branches that expire", err)
			return
		}
		for _, b := range page {
			after = b.Branch.ID
			if err := u.expireBranch(ctx, b); err != nil && !errors.Is(err, errInUse) && !errors.Is(err, record.ErrNotFound) {
				u.failed(ctx, fmt.Sprintf("expire branch %s of %s", b.Branch.Name, b.Stream.FullName()), err)
			}
		}
		if len(page) < catalog.MaxPage {
			return
		}
	}
}

func (u *upkeep) failed(ctx context.Context, what string, err error) {
	if ctx.Err() == nil {
		u.note(err, func(*api.MaintenanceFigures) {})
		u.n.logger.Error("expire branches; it is tried again later", "doing", what, "error", err)
	}
}

// errInUse: the branch has changed, or is protected.
var errInUse = errors.New("in use")

func (u *upkeep) expireBranch(ctx context.Context, b catalog.StreamBranch) error {
	// A look that disturbs nobody; the one that counts is made while no row comes in.
	if err := u.unchanged(ctx, b.Stream, b.Branch); err != nil {
		return err
	}
	err := u.n.directory.DeleteBranch(ctx, b.Stream.FullName(), b.Branch.Name, branch.DeleteBranch{
		Subscribers: true,
		If: func(st *branch.State) error {
			if st.Branch.ID != b.Branch.ID {
				return errInUse // another one of that name
			}
			return u.unchanged(ctx, st.Stream, st.Branch)
		},
	})
	if err != nil {
		return err
	}
	u.note(nil, func(f *api.MaintenanceFigures) { f.ExpiredBranches++ })
	u.n.logger.Info("deleted a branch that expired", "stream", b.Stream.FullName(), "branch", b.Branch.Name, "after", b.Branch.Policy.ExpireAfter)
	return nil
}

// unchanged returns nil if a branch expires: if the last change of its settings,
// schema, view or policy, and the last commit that changed rows, are long enough
// ago, and no row waits to be archived.
func (u *upkeep) unchanged(ctx context.Context, s catalog.Stream, b catalog.Branch) error {
	p := b.Policy
	if p.Protected || p.ExpireAfter == 0 {
		return errInUse
	}
	last := b.Changed
	t, err := u.n.datasets.Load(ctx, b.TableUUID)
	if err != nil {
		return err
	}
	for _, snapshot := range t.History() {
		if snapshot.Operation != "replace" { // a compaction changes nothing
			if snapshot.Time.After(last) {
				last = snapshot.Time
			}
			break
		}
	}
	if time.Since(last) < p.ExpireAfter {
		return errInUse
	}
	if s.Kind != catalog.KindStream {
		return nil
	}
	m, err := t.Marker()
	if err != nil {
		return err
	}
	ends, err := u.n.log.Ends(b.View.ID)
	if err != nil {
		return err
	}
	var archived record.Offsets
	if m != nil && m.View == b.View.ID {
		archived = m.Offsets
	}
	if ends.End.RowsSince(archived) > 0 {
		return errInUse
	}
	return nil
}
