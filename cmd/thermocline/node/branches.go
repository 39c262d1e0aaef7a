package node

import (
	"context"
	"fmt"
	"strconv"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
)

// branches are branches and tags as the REST interface asks for them: of streams,
// which the directory has open, and of datasets without one, which it has not.
type branches struct{ n *Node }

func (b branches) CreateBranch(ctx context.Context, stream string, c api.CreateBranch) (api.BranchDetail, error) {
	from := branch.From{Branch: c.From.Branch, Snapshot: c.From.Snapshot, Tag: c.From.Tag, Time: c.From.Time}
	if p := c.From.Cursor; p != nil {
		from.Position = &branch.Position{View: p.View, Next: p.Next}
	}
	st, err := b.n.directory.CreateBranch(ctx, stream, branch.NewBranch{
		Name: c.Name, From: from, Policy: patchedPolicy(catalog.Policy{}, c.Policy),
		Settings: func(s catalog.Settings) catalog.Settings { return patched(s, c.Settings) },
	})
	if err != nil {
		return api.BranchDetail{}, err
	}
	return b.Branch(ctx, stream, st.Branch.Name)
}

func patchedPolicy(p catalog.Policy, by api.PolicyPatch) catalog.Policy {
	change(&p.Protected, by.Protected)
	change(&p.MaxSnapshotAge, by.MaxSnapshotAge)
	change(&p.MinSnapshots, by.MinSnapshots)
	change(&p.ExpireAfter, by.ExpireAfter)
	return p
}

// resolve finds a branch in the catalog, as that is what has all of them.
func (b branches) resolve(ctx context.Context, stream, name string) (catalog.Stream, catalog.Branch, error) {
	ns, short, err := catalog.ParseName(stream)
	if err != nil {
		return catalog.Stream{}, catalog.Branch{}, err
	}
	return b.n.catalog.Resolve(ctx, ns, short, name)
}

func (b branches) Branch(ctx context.Context, stream, name string) (api.BranchDetail, error) {
	s, br, err := b.resolve(ctx, stream, name)
	if err != nil {
		return api.BranchDetail{}, err
	}
	out := branchDetail(br)
	if s.Kind != catalog.KindStream {
		return out, nil
	}
	sc, err := b.n.catalog.SchemaByID(ctx, br.SchemaID)
	if err != nil {
		return api.BranchDetail{}, err
	}
	st := &branch.State{Stream: s, Branch: br, Schema: sc}
	v, err := schemas(b).version(ctx, st)
	settings := settingsOf(st)
	out.Schema, out.Settings = &v, &settings
	return out, err
}

func branchDetail(b catalog.Branch) api.BranchDetail {
	return api.BranchDetail{
		Name: b.Name, View: b.View.Number, Created: b.Created, Changed: b.Changed, From: b.Origin.Branch, FromSnapshot: b.Origin.Snapshot,
		Policy: api.Policy{
			Protected: b.Policy.Protected, MaxSnapshotAge: b.Policy.MaxSnapshotAge, ExpireAfter: b.Policy.ExpireAfter, MinSnapshots: b.Policy.MinSnapshots,
		},
		TableUUID: b.TableUUID,
	}
}

// ListBranches pages by the ids of branches: a token is the last one of the page.
func (b branches) ListBranches(ctx context.Context, stream string, p api.Page) ([]api.BranchDetail, string, error) {
	ns, short, err := catalog.ParseName(stream)
	if err != nil {
		return nil, "", err
	}
	s, err := b.n.catalog.Stream(ctx, ns, short)
	if err != nil {
		return nil, "", err
	}
	after := int64(0)
	if p.Token != "" {
		if after, err = pageStart(p.Token, 1<<62); err != nil {
			return nil, "", err
		}
	}
	list, err := b.n.catalog.Branches(ctx, s.ID, catalog.BranchID(after), p.Size)
	if err != nil {
		return nil, "", err
	}
	out := make([]api.BranchDetail, len(list))
	next := ""
	for i, br := range list {
		out[i] = branchDetail(br)
		if i == p.Size-1 {
			next = strconv.FormatInt(int64(br.ID), 10)
		}
	}
	return out, next, nil
}

func (b branches) UpdatePolicy(ctx context.Context, stream, name string, p api.PolicyPatch) (api.BranchDetail, error) {
	if _, err := b.n.directory.SetPolicy(ctx, stream, name, func(old catalog.Policy) catalog.Policy { return patchedPolicy(old, p) }); err != nil {
		return api.BranchDetail{}, err
	}
	return b.Branch(ctx, stream, name)
}

func (b branches) DeleteBranch(ctx context.Context, stream, name string, subscribers bool) error {
	return b.n.directory.DeleteBranch(ctx, stream, name, branch.DeleteBranch{Subscribers: subscribers})
}

func (b branches) Pick(ctx context.Context, stream string, chain []string) (string, error) {
	return b.n.directory.Pick(ctx, stream, chain)
}

func (b branches) CreateTag(ctx context.Context, stream, name, tag string, snapshot int64) (api.Tag, error) {
	t, err := b.n.directory.CreateTag(ctx, stream, name, tag, snapshot)
	return toTag(t), err
}

func (b branches) ListTags(ctx context.Context, stream, name string) ([]api.Tag, error) {
	all, err := b.n.directory.Tags(ctx, stream, name)
	if err != nil {
		return nil, fmt.Errorf("tags: %w", err)
	}
	out := make([]api.Tag, len(all))
	for i, t := range all {
		out[i] = toTag(t)
	}
	return out, nil
}

func (b branches) Tag(ctx context.Context, stream, name, tag string) (api.Tag, error) {
	t, err := b.n.directory.Tag(ctx, stream, name, tag)
	return toTag(t), err
}

func (b branches) DeleteTag(ctx context.Context, stream, name, tag string) error {
	return b.n.directory.DeleteTag(ctx, stream, name, tag)
}

func toTag(t dataset.Tag) api.Tag {
	return api.Tag{Name: t.Name, Snapshot: t.Snapshot, Sequence: t.Sequence, Committed: t.Time}
}
