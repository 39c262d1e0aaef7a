package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// maxUpkeep bounds the compactions, expiries and collections that requests have
// under way; the server's own come on top.
const maxUpkeep = 2

// minGrace is the least that a request may ask for: what is collected earlier may
// belong to an archive or a compaction that is about to commit it.
const minGrace = time.Hour

// maxNamed bounds the snapshots and files that an answer names.
const maxNamed = 1000

// CompactDataset makes large files of small ones.
func (a *API) CompactDataset(c *gin.Context, stream, branch string) {
	var in rest.CompactFiles
	if err := a.readJSON(c, &in, true); err != nil {
		a.fail(c, err)
		return
	}
	dryRun := in.DryRun != nil && *in.DryRun
	a.maintain(c, "compact", stream, branch, func(ctx context.Context, name string) (any, error) {
		begin := time.Now()
		got, err := a.b.Maintainer.Compact(ctx, name, branch, dryRun)
		return rest.CompactResult{
			DryRun: dryRun, ReplacedFiles: got.Replaced, WrittenFiles: got.Written, Rows: got.Rows, BytesBefore: got.Before, BytesAfter: got.After,
			Seconds: time.Since(begin).Seconds(), SnapshotID: snapshotID(got.SnapshotID),
		}, err
	})
}

// ExpireSnapshots drops old snapshots.
func (a *API) ExpireSnapshots(c *gin.Context, stream, branch string) {
	var in rest.ExpireSnapshots
	if err := a.readJSON(c, &in, true); err != nil {
		a.fail(c, err)
		return
	}
	q := ExpireSnapshots{DryRun: in.DryRun != nil && *in.DryRun}
	if in.KeepLast != nil {
		if q.KeepLast = *in.KeepLast; q.KeepLast < 1 {
			a.fail(c, invalid("keepLast %d: want 1 or more; the newest snapshot always stays", q.KeepLast))
			return
		}
	}
	if in.OlderThan != nil {
		d, err := time.ParseDuration(*in.OlderThan)
		if err != nil || d < 0 {
			a.fail(c, invalid("olderThan %.40q: want a duration like 90m or 120h", *in.OlderThan))
			return
		}
		q.OlderThan = &d
	}
	a.maintain(c, "expire snapshots of", stream, branch, func(ctx context.Context, name string) (any, error) {
		got, err := a.b.Maintainer.Expire(ctx, name, branch, q)
		out := rest.ExpireResult{DryRun: q.DryRun, Expired: len(got.Expired), Kept: got.Kept, SnapshotIds: []string{}}
		for _, id := range got.Expired[:min(len(got.Expired), maxNamed)] {
			out.SnapshotIds = append(out.SnapshotIds, strconv.FormatInt(id, 10))
		}
		return out, err
	})
}

// CollectFiles deletes files that nothing leads to.
func (a *API) CollectFiles(c *gin.Context, stream, branch string) {
	var in rest.CollectFiles
	if err := a.readJSON(c, &in, true); err != nil {
		a.fail(c, err)
		return
	}
	q := CollectFiles{DryRun: in.DryRun != nil && *in.DryRun}
	if in.Grace != nil {
		d, err := time.ParseDuration(*in.Grace)
		if err != nil || d < minGrace {
			a.fail(c, invalid("grace %.40q: want a duration of at least 1h, like 24h; what is younger may belong to a commit under way", *in.Grace))
			return
		}
		q.Grace = d
	}
	a.maintain(c, "collect files of", stream, branch, func(ctx context.Context, name string) (any, error) {
		got, err := a.b.Maintainer.Collect(ctx, name, branch, q)
		return collectResult(q, got), err
	})
}

func collectResult(q CollectFiles, got Collection) rest.CollectResult {
	out := rest.CollectResult{DryRun: q.DryRun, ListedFiles: got.Listed, Files: []rest.UnreachedFile{}}
	for _, f := range got.Unreached {
		if len(out.Files) < maxNamed {
			out.Files = append(out.Files, rest.UnreachedFile{Key: f.Key, Bytes: f.Bytes, Since: f.Since, Deleted: f.Deleted})
		}
		if f.Deleted {
			out.DeletedFiles++
			out.DeletedBytes += f.Bytes
			continue
		}
		out.WaitingFiles++
		out.WaitingBytes += f.Bytes
		if due := f.Since.Add(got.Grace); out.NextDueAt == nil || due.Before(*out.NextDueAt) {
			out.NextDueAt = &due
		}
	}
	return out
}

// maintain does work on a dataset and writes what do says of it. The work ends
// with the request and with the server; what it did until then stays.
func (a *API) maintain(c *gin.Context, what, stream, branch string, do func(ctx context.Context, name string) (any, error)) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	select {
	case a.upkeep <- struct{}{}:
		defer func() { <-a.upkeep }()
	default:
		a.fail(c, fmt.Errorf("%s %s@%s: %d requests are at work on datasets already; try again when one has ended: %w", what, name, branch, maxUpkeep, record.ErrBusy))
		return
	}
	ctx, cancel := a.untilDrained(c.Request.Context())
	defer cancel()
	out, err := do(ctx, name)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && c.Request.Context().Err() == nil {
			err = cause
		}
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusOK, out)
}

// EraseRows takes rows out of all branches.
func (a *API) EraseRows(c *gin.Context, stream string) {
	var in rest.EraseRows
	if err := a.readJSON(c, &in, false); err != nil {
		a.fail(c, err)
		return
	}
	q := EraseRows{Where: in.Where, DryRun: in.DryRun != nil && *in.DryRun}
	if in.Grace != nil {
		d, err := time.ParseDuration(*in.Grace)
		if err != nil || d < minGrace {
			a.fail(c, invalid("grace %.40q: want a duration of at least 1h, like 24h; what is younger may belong to a commit under way", *in.Grace))
			return
		}
		q.Grace = d
	}
	a.maintain(c, "erase rows of", stream, catalog.MainBranch, func(ctx context.Context, name string) (any, error) {
		begin := time.Now()
		got, err := a.b.Maintainer.Erase(ctx, name, q)
		out := rest.EraseResult{
			DryRun: q.DryRun, ArchivedRows: got.ArchivedRows, Branches: []rest.ErasedBranch{}, DeletedFiles: got.DeletedFiles, DeletedBytes: got.DeletedBytes,
			RemainingFiles: got.RemainingFiles, RemainingBytes: got.RemainingBytes, Seconds: time.Since(begin).Seconds(),
			Log: rest.ScrubbedLog{Segments: got.LogSegments, RemovedFiles: got.LogRemoved, Bytes: got.LogBytes, DamagedFiles: append([]string{}, got.LogDamaged...)},
		}
		for _, b := range got.Branches {
			out.Branches = append(out.Branches, rest.ErasedBranch{
				Branch: b.Branch, ExaminedFiles: b.Examined, MatchedFiles: b.Matched, Rows: b.Rows, BytesBefore: b.Bytes, BytesAfter: b.BytesAfter, Snapshots: b.Snapshots,
			})
		}
		return out, err
	})
}

// GetMaintenance tells of the work on a branch.
func (a *API) GetMaintenance(c *gin.Context, stream, branch string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	tasks, err := a.b.Maintainer.Tasks(c.Request.Context(), name, branch)
	if err != nil {
		a.fail(c, err)
		return
	}
	out := rest.Maintenance{Stream: name, Branch: branch, Tasks: []rest.MaintenanceTask{}}
	for _, t := range tasks {
		m := rest.MaintenanceTask{
			Kind: t.Kind, Requested: t.Requested, State: t.State, Files: t.Files, TotalFiles: t.TotalFiles, Bytes: t.Bytes, TotalBytes: t.TotalBytes, StartedAt: t.Started,
		}
		if t.Phase != "" {
			m.Phase = &t.Phase
		}
		if !t.Ended.IsZero() {
			m.EndedAt = &t.Ended
		}
		if t.Result != "" {
			m.Result = &t.Result
		}
		if t.Err != nil {
			text := t.Err.Error()
			m.Error = &text
		}
		out.Tasks = append(out.Tasks, m)
	}
	writeJSON(c, http.StatusOK, out)
}
