package api

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
)

// CreateBranch makes a branch.
func (a *API) CreateBranch(c *gin.Context, stream string) {
	name, err := fullName(stream)
	if err != nil {
		a.fail(c, err)
		return
	}
	var in rest.CreateBranch
	if err := a.readJSON(c, &in, false); err != nil {
		a.fail(c, err)
		return
	}
	create, err := createBranch(in)
	if err != nil {
		a.fail(c, err)
		return
	}
	b, err := a.b.Branches.CreateBranch(c.Request.Context(), name, create)
	if err != nil {
		a.fail(c, err)
		return
	}
	out, err := toBranchDetail(b)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Header("Location", "/v1/streams/"+url.PathEscape(name)+"/branches/"+url.PathEscape(b.Name))
	writeJSON(c, http.StatusCreated, out)
}

func createBranch(in rest.CreateBranch) (CreateBranch, error) {
	out := CreateBranch{Name: in.Name}
	err := catalog.ValidateName("branch name", in.Name)
	if err == nil && in.From != nil {
		out.From, err = fromSource(*in.From)
	}
	if err == nil {
		out.Settings, err = fromSettings(in.Settings)
	}
	if err == nil && in.Policy != nil {
		out.Policy, err = fromPolicy(*in.Policy)
	}
	return out, err
}

func fromSource(in rest.BranchSource) (BranchSource, error) {
	var out BranchSource
	if in.Branch != nil {
		out.Branch = *in.Branch
		if err := catalog.ValidateName("branch name", out.Branch); err != nil {
			return out, err
		}
	}
	var err error
	if in.Snapshot != nil {
		if out.Snapshot, err = parseSnapshot(*in.Snapshot); err != nil {
			return out, err
		}
	}
	if in.Tag != nil {
		if out.Tag = *in.Tag; out.Tag == "" {
			return out, invalid("from: the tag is empty")
		}
	}
	if in.Time != nil {
		if out.Time = *in.Time; out.Time.IsZero() {
			return out, invalid("from: the time is empty")
		}
	}
	if in.Cursor != nil {
		cursor, err := reader.ParseCursor(*in.Cursor)
		if err != nil {
			return out, err
		}
		out.Cursor = &cursor
	}
	return out, nil
}

// parseSnapshot reads the id of a snapshot.
func parseSnapshot(text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id == 0 {
		return 0, invalid("snapshot %.40q: want the id of a snapshot, as a list of snapshots gives it", text)
	}
	return id, nil
}

func fromPolicy(in rest.BranchPolicyPatch) (PolicyPatch, error) {
	p := PolicyPatch{Protected: in.Protected, MinSnapshots: in.MinSnapshots}
	var err error
	if p.MaxSnapshotAge, err = policyAge("maxSnapshotAge", in.MaxSnapshotAge); err != nil {
		return p, err
	}
	p.ExpireAfter, err = policyAge("expireAfter", in.ExpireAfter)
	return p, err
}

func policyAge(name string, in *string) (*time.Duration, error) {
	if in == nil {
		return nil, nil
	}
	d, err := time.ParseDuration(*in)
	if err != nil || d < 0 {
		return nil, invalid("%s %.40q: want a duration like 120h, or 0s for the default", name, *in)
	}
	return &d, nil
}

// ListBranches lists the branches of a stream.
func (a *API) ListBranches(c *gin.Context, stream string, params rest.ListBranchesParams) {
	p, err := page(params.Limit, params.PageToken)
	var name string
	if err == nil {
		name, err = fullName(stream)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	list, next, err := a.b.Branches.ListBranches(c.Request.Context(), name, p)
	if err != nil {
		a.fail(c, err)
		return
	}
	out := rest.BranchList{Branches: make([]rest.BranchSummary, len(list)), NextPageToken: optional(next)}
	for i, b := range list {
		out.Branches[i] = rest.BranchSummary{
			Name: b.Name, View: int32(b.View), CreatedAt: b.Created, ChangedAt: b.Changed, Origin: toOrigin(b), Policy: toPolicy(b.Policy), Table: b.TableUUID,
		}
	}
	writeJSON(c, http.StatusOK, out)
}

// GetBranch shows a branch.
func (a *API) GetBranch(c *gin.Context, stream, branch string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	b, err := a.b.Branches.Branch(c.Request.Context(), name, branch)
	a.answerBranch(c, b, err)
}

// UpdateBranchPolicy changes what is kept of a branch.
func (a *API) UpdateBranchPolicy(c *gin.Context, stream, branch string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	var in rest.BranchPolicyPatch
	if err := a.readJSON(c, &in, false); err != nil {
		a.fail(c, err)
		return
	}
	patch, err := fromPolicy(in)
	if err != nil {
		a.fail(c, err)
		return
	}
	b, err := a.b.Branches.UpdatePolicy(c.Request.Context(), name, branch, patch)
	a.answerBranch(c, b, err)
}

func (a *API) answerBranch(c *gin.Context, b BranchDetail, err error) {
	if err != nil {
		a.fail(c, err)
		return
	}
	out, err := toBranchDetail(b)
	if err != nil {
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusOK, out)
}

// DeleteBranch deletes a branch.
func (a *API) DeleteBranch(c *gin.Context, stream, branch string, params rest.DeleteBranchParams) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	err := a.b.Branches.DeleteBranch(c.Request.Context(), name, branch, params.DeleteSubscribers != nil && *params.DeleteSubscribers)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Status(http.StatusNoContent)
}

func toBranchDetail(b BranchDetail) (rest.BranchDetail, error) {
	out := rest.BranchDetail{
		Name: b.Name, View: int32(b.View), CreatedAt: b.Created, ChangedAt: b.Changed, Origin: toOrigin(b), Policy: toPolicy(b.Policy), Table: b.TableUUID,
	}
	if b.Settings != nil {
		s := toSettings(*b.Settings)
		out.Settings = &s
	}
	if b.Schema != nil {
		v, err := toSchemaVersion(*b.Schema)
		if err != nil {
			return out, err
		}
		out.Schema = &v
	}
	return out, nil
}

func toOrigin(b BranchDetail) *rest.BranchOrigin {
	if b.From == "" {
		return nil
	}
	return &rest.BranchOrigin{Branch: b.From, Snapshot: snapshotID(b.FromSnapshot)}
}

func toPolicy(p Policy) rest.BranchPolicy {
	out := rest.BranchPolicy{Protected: p.Protected, MinSnapshots: optional(p.MinSnapshots)}
	if p.MaxSnapshotAge > 0 {
		out.MaxSnapshotAge = optional(duration(p.MaxSnapshotAge))
	}
	if p.ExpireAfter > 0 {
		out.ExpireAfter = optional(duration(p.ExpireAfter))
	}
	return out
}

// headerBranch says which branch a read was of.
const headerBranch = "Thermocline-Branch"

// maxFallback bounds a chain of branches.
const maxFallback = 16

// fallback returns the branch to read: the one of the path, or the first of the
// chain that there is. On false it has answered.
func (a *API) fallback(c *gin.Context, stream, branch string, chain *string) (string, bool) {
	if chain == nil {
		return branch, true
	}
	all := append([]string{branch}, strings.Split(*chain, ",")...)
	err := error(nil)
	if len(all) > maxFallback+1 {
		err = invalid("fallback names %d branches; at most %d are allowed", len(all)-1, maxFallback)
	}
	for _, b := range all[1:] {
		if err == nil {
			err = catalog.ValidateName("branch name", b)
		}
	}
	if err == nil {
		branch, err = a.b.Branches.Pick(c.Request.Context(), stream, all)
	}
	if err != nil {
		a.fail(c, err)
		return "", false
	}
	return branch, true
}
