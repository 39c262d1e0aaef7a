package api

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/schema"
)

// defaultSample is how many rows of a kind a comparison shows.
const defaultSample = 20

// CompareBranches tells what two branches have each for themselves.
func (a *API) CompareBranches(c *gin.Context, stream, name, other string, params rest.CompareBranchesParams) {
	q := branch.Compare{Sample: defaultSample, Archived: params.Archive != nil && !*params.Archive}
	if params.Sample != nil {
		q.Sample = *params.Sample
	}
	err := catalog.ValidateName("branch name", other)
	if err == nil && (q.Sample < 0 || q.Sample > dataset.MaxSample) {
		err = invalid("sample %d: want 0 to %d", q.Sample, dataset.MaxSample)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	a.maintain(c, "compare", stream, name, func(ctx context.Context, stream string) (any, error) {
		got, err := a.b.Merger.Compare(ctx, stream, name, other, q)
		return toComparison(got), err
	})
}

// MergeBranch merges a branch into another.
func (a *API) MergeBranch(c *gin.Context, stream, name string) {
	var in rest.MergeBranch
	err := a.readJSON(c, &in, false)
	if err == nil {
		err = catalog.ValidateName("branch name", in.Into)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	q := branch.Merge{Into: in.Into, DryRun: in.DryRun != nil && *in.DryRun}
	if in.Strategy != nil {
		q.Strategy = dataset.Strategy(*in.Strategy)
	}
	a.maintain(c, "merge", stream, name, func(ctx context.Context, stream string) (any, error) {
		got, err := a.b.Merger.Merge(ctx, stream, name, q)
		return toMergeResult(got, q.DryRun), err
	})
}

func toMergeResult(m dataset.Merged, dryRun bool) rest.MergeResult {
	out := rest.MergeResult{
		Strategy: rest.MergeStrategy(m.Strategy), UpToDate: m.UpToDate, DryRun: dryRun, Bases: []string{},
		SourceSnapshot: snapshotID(m.Source), Snapshot: snapshotID(m.Snapshot),
		AddedFiles: m.AddedFiles, AddedRows: m.AddedRows, LeftOutFiles: m.LeftOutFiles, LeftOutRows: m.LeftOutRows,
		RemovedFiles: m.RemovedFiles, RemovedRows: m.RemovedRows,
		Schema: toSchemaChanges(m.Schema), Conflicts: toConflicts(m.Conflicts.List), ConflictCount: m.Conflicts.Count,
	}
	for _, b := range m.Bases {
		out.Bases = append(out.Bases, strconv.FormatInt(b, 10))
	}
	return out
}

func toConflicts(in []dataset.Conflict) []rest.MergeConflict {
	out := make([]rest.MergeConflict, len(in))
	for i, c := range in {
		out[i] = rest.MergeConflict{Path: optional(c.Path), Rows: c.Rows, Reason: c.Reason, Remedy: optional(c.Remedy)}
	}
	return out
}

func toSchemaChanges(in []schema.Change) []rest.SchemaChange {
	out := make([]rest.SchemaChange, len(in))
	for i, c := range in {
		out[i] = rest.SchemaChange{Kind: string(c.Kind), Path: c.Path, From: optional(c.From), To: optional(c.To)}
	}
	return out
}

func toComparison(c dataset.Comparison) rest.BranchComparison {
	side := func(s dataset.ComparedSide) rest.ComparedBranch {
		return rest.ComparedBranch{
			Snapshot: snapshotID(s.Snapshot), AddedFiles: s.AddedFiles, RemovedFiles: s.RemovedFiles, AddedRows: s.AddedRows, RemovedRows: s.RemovedRows,
		}
	}
	row := func(r dataset.SampledRow, now json.RawMessage) rest.ComparedRow {
		out := rest.ComparedRow{Row: now}
		if r.View > 0 {
			view, partition, offset := int32(r.View), int32(r.Partition), int64(r.Offset)
			out.View, out.Partition, out.Offset = &view, &partition, &offset
		}
		return out
	}
	rows := func(in []dataset.SampledRow) []rest.ComparedRow {
		out := make([]rest.ComparedRow, len(in))
		for i, r := range in {
			out[i] = row(r, r.Row)
		}
		return out
	}
	out := rest.BranchComparison{
		Bases: []rest.ComparisonBase{}, Branch: side(c.A), Other: side(c.B), Schema: toSchemaChanges(c.Schema),
		Added: rows(c.Rows.Added), Removed: rows(c.Rows.Removed), Changed: make([]rest.ComparedRow, len(c.Rows.Changed)), Whole: c.Rows.Whole,
	}
	for _, b := range c.Bases {
		out.Bases = append(out.Bases, rest.ComparisonBase{Snapshot: strconv.FormatInt(b.Snapshot, 10), CommittedAt: b.Time})
	}
	for i, r := range c.Rows.Changed {
		out.Changed[i] = row(r.Was, r.Now)
		out.Changed[i].Was = &r.Was.Row
	}
	return out
}
