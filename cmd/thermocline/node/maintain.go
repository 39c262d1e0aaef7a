package node

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
)

// defaultGrace is dataset.CollectOptions', told to clients.
const defaultGrace = 24 * time.Hour

// maintainer is the upkeep of datasets as the REST interface asks for it.
type maintainer struct{ n *Node }

func (m maintainer) Compact(ctx context.Context, stream, branch string, dryRun bool) (api.Compaction, error) {
	st, err := m.n.find(ctx, stream, branch)
	if err != nil {
		return api.Compaction{}, err
	}
	if dryRun {
		plan, err := m.n.upkeep.planCompaction(ctx, st)
		return api.Compaction{Replaced: plan.Files, Written: plan.Written, Rows: plan.Rows, Before: plan.Bytes}, err
	}
	out, err := m.n.upkeep.compact(ctx, st, true)
	return api.Compaction{
		Replaced: out.Replaced, Written: out.Written, Rows: out.Rows, Before: out.Before, After: out.After, SnapshotID: out.SnapshotID,
	}, err
}

func (m maintainer) Expire(ctx context.Context, stream, branch string, q api.ExpireSnapshots) (api.Expiry, error) {
	st, err := m.n.find(ctx, stream, branch)
	if err != nil {
		return api.Expiry{}, err
	}
	o := dataset.ExpireOptions{KeepLast: q.KeepLast, DryRun: q.DryRun}
	if q.OlderThan != nil {
		o.MaxAge = max(*q.OlderThan, 1) // 0 would mean the default
	}
	if q.OlderThan == nil {
		o = retention(st.Branch.Policy, o)
	}
	out, err := m.n.upkeep.expire(ctx, st, o, true)
	if err != nil {
		return api.Expiry{}, fmt.Errorf("expire snapshots of %s: %w", st.Name(), err)
	}
	return api.Expiry{Expired: out.Expired, Kept: out.Kept}, nil
}

func (m maintainer) Collect(ctx context.Context, stream, branch string, q api.CollectFiles) (api.Collection, error) {
	st, err := m.n.find(ctx, stream, branch)
	if err != nil {
		return api.Collection{}, err
	}
	q.Grace = cmp.Or(q.Grace, defaultGrace)
	out, err := m.n.upkeep.collect(ctx, st, dataset.CollectOptions{Grace: q.Grace, DryRun: q.DryRun}, true)
	if err != nil {
		return api.Collection{}, fmt.Errorf("collect files of %s: %w", st.Name(), err)
	}
	c := api.Collection{Listed: out.Listed, Grace: q.Grace, Unreached: make([]api.UnreachedFile, len(out.Orphans))}
	for i, f := range out.Orphans {
		c.Unreached[i] = api.UnreachedFile{Key: f.Key, Bytes: f.Bytes, Since: f.Since, Deleted: f.Due}
	}
	return c, nil
}

func (m maintainer) Tasks(ctx context.Context, stream, branch string) ([]api.MaintenanceTask, error) {
	ns, name, err := catalog.ParseName(stream)
	if err != nil {
		return nil, err
	}
	_, b, err := m.n.catalog.Resolve(ctx, ns, name, branch)
	if err != nil {
		return nil, err
	}
	return m.n.upkeep.ofBranch(b.ID), nil
}
