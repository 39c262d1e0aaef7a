package node

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/catalog"
)

// tasks remembers the work on datasets that is under way, and the last one of
// each kind, by branch.
type tasks struct {
	mu      sync.Mutex
	running map[*track]bool
	last    map[catalog.BranchID]map[string]api.MaintenanceTask
}

// track is one piece of work.
type track struct {
	of     *tasks
	branch catalog.BranchID
	task   api.MaintenanceTask // guarded by of.mu
}

func (t *tasks) begin(branch catalog.BranchID, kind string, requested bool) *track {
	t.mu.Lock()
	defer t.mu.Unlock()
	tr := &track{of: t, branch: branch, task: api.MaintenanceTask{Kind: kind, Requested: requested, State: "running", Started: time.Now()}}
	if t.running == nil {
		t.running, t.last = map[*track]bool{}, map[catalog.BranchID]map[string]api.MaintenanceTask{}
	}
	t.running[tr] = true
	return tr
}

// tell notes where the work stands.
func (tr *track) tell(phase string, files, totalFiles, bytes, totalBytes int64) {
	tr.of.mu.Lock()
	defer tr.of.mu.Unlock()
	tr.task.Phase, tr.task.Files, tr.task.TotalFiles, tr.task.Bytes, tr.task.TotalBytes = phase, files, totalFiles, bytes, totalBytes
}

// end notes how it ended.
func (tr *track) end(result string, err error) {
	tr.of.mu.Lock()
	defer tr.of.mu.Unlock()
	delete(tr.of.running, tr)
	tr.task.Ended, tr.task.Phase, tr.task.Err = time.Now(), "", err
	switch {
	case err == nil:
		tr.task.State, tr.task.Result = "done", result
	case errors.Is(err, context.Canceled):
		tr.task.State = "cancelled"
	default:
		tr.task.State = "failed"
	}
	if tr.of.last[tr.branch] == nil {
		tr.of.last[tr.branch] = map[string]api.MaintenanceTask{}
	}
	tr.of.last[tr.branch][tr.task.Kind] = tr.task
}

// ofBranch returns the work on a branch: what is under way first, then the last ones, by
// kind.
func (t *tasks) ofBranch(branch catalog.BranchID) []api.MaintenanceTask {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []api.MaintenanceTask
	for tr := range t.running {
		if tr.branch == branch {
			out = append(out, tr.task)
		}
	}
	for _, last := range t.last[branch] {
		out = append(out, last)
	}
	slices.SortFunc(out, func(a, b api.MaintenanceTask) int {
		if a.Ended.IsZero() && !b.Ended.IsZero() {
			return -1
		}
		if b.Ended.IsZero() && !a.Ended.IsZero() {
			return 1
		}
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.Started.Compare(b.Started))
	})
	return out
}

// forget drops what is remembered of branches that are gone.
func (t *tasks) forget(gone func(catalog.BranchID) bool) {
	t.mu.Lock()
	ids := slices.Collect(maps.Keys(t.last))
	t.mu.Unlock()
	for _, id := range ids {
		if gone(id) {
			t.mu.Lock()
			delete(t.last, id)
			t.mu.Unlock()
		}
	}
}
