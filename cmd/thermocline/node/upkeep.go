package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/archiver"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// Defaults of UpkeepOptions.
const (
	CompactEvery = 10 * time.Minute
	ExpireEvery  = time.Hour
)

// UpkeepOptions say how often datasets are tended in the background. Zero values
// are the defaults in brackets.
type UpkeepOptions struct {
	// CompactEvery is the time between two walks over all branches that compact
	// those with new small files [10 min]; negative: never.
	CompactEvery time.Duration
	// ExpireEvery is the time between two walks that drop old snapshots and delete
	// unreached files [1 h]; negative: never.
	ExpireEvery time.Duration
	// MaxAge and Grace are those of dataset.ExpireOptions [5 days] and
	// dataset.CollectOptions [24 h]. A Grace shorter than an archive or a compaction
	// takes loses rows: only for tests.
	MaxAge, Grace time.Duration
	// CompactBytes is how large compaction makes a file, 128 to 512 MiB [256 MiB].
	CompactBytes int64
}

// Bounds of the background work.
const (
	// worthCompacting is how many files archives must have added to a branch before
	// its dataset is looked at again: fewer are never rewritten.
	worthCompacting = 4
	// compactTime bounds the work on one branch in one walk, so that a long backlog
	// does not keep the others waiting; the next walk goes on with it. It is far
	// below the grace, as a file must be committed before it could be collected.
	compactTime = 15 * time.Minute
	// mostRest bounds the pause behind the work on a branch.
	mostRest = time.Minute
	// mostSkipped bounds the walks that skip a branch whose compaction fails.
	mostSkipped = 64
	// TransactionIdle is how long a transaction on a dataset stays open when nothing
	// is added to it, transactionKeep how long an ended one is told of.
	TransactionIdle = 7 * 24 * time.Hour
	transactionKeep = 30 * 24 * time.Hour
)

// upkeep compacts datasets, expires their snapshots and collects their files: in
// the background, one branch at a time and at most half of the time, and on
// request. A crash anywhere leaves what the next walk finds.
type upkeep struct {
	n *Node
	o UpkeepOptions

	tasks
	collected collected // the expiring loop's

	figuresMu sync.Mutex
	count     api.MaintenanceFigures
}

func newUpkeep(n *Node, o UpkeepOptions) *upkeep {
	o.CompactEvery = cmp.Or(o.CompactEvery, CompactEvery)
	o.ExpireEvery = cmp.Or(o.ExpireEvery, ExpireEvery)
	return &upkeep{n: n, o: o, collected: collected{}}
}

// run tends datasets until ctx ends. Failures are logged and counted, and tried
// again with a later walk.
func (u *upkeep) run(ctx context.Context) error {
	// Two loops of which one works at a time: a long backlog of compactions does not
	// keep snapshots from expiring.
	turn := make(chan struct{}, 1)
	var loops sync.WaitGroup
	defer loops.Wait()
	seen := map[catalog.BranchID]tended{}
	loops.Go(func() {
		walkEvery(ctx, u.o.CompactEvery, func() {
			u.walk(ctx, turn, func(st *branch.State) { u.compactDue(ctx, st, seen) })
			u.forget(ctx, seen)
			u.tasks.forget(func(id catalog.BranchID) bool {
				_, err := u.n.catalog.BranchByID(ctx, id)
				return errors.Is(err, record.ErrNotFound)
			})
		})
	})
	loops.Go(func() {
		walkEvery(ctx, u.o.ExpireEvery, func() {
			u.expireBranches(ctx)
			u.pruneTransactions(ctx)
			u.walk(ctx, turn, func(st *branch.State) { u.expireDue(ctx, st) })
			u.collected.forget(ctx, u.n.catalog)
		})
	})
	return nil
}

// walkEvery calls walk with pauses around every, until ctx ends.
func walkEvery(ctx context.Context, every time.Duration, walk func()) {
	// Nodes that start together must not walk together.
	for every > 0 && sleep(ctx, every/2+rand.N(every)) {
		walk()
	}
}

// sleep returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// walk visits all branches, and rests behind each for as long as it took.
func (u *upkeep) walk(ctx context.Context, turn chan struct{}, visit func(*branch.State)) {
	all := u.n.directory.All()
	if err := u.n.eachDataset(ctx, func(st *branch.State) error { all = append(all, st); return nil }); err != nil && ctx.Err() == nil {
		u.n.logger.Error("list datasets for their upkeep; it is tried again later", "error", err)
	}
	for _, st := range all {
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			return
		}
		begin := time.Now()
		visit(st)
		<-turn
		if !sleep(ctx, min(time.Since(begin), mostRest)) {
			return
		}
	}
}

// tended is what the compacting loop remembers of a branch.
type tended struct {
	files    int64 // that archives had added when it was compacted last
	failures int   // in a row
	skip     int   // walks
}

// forget drops branches that are gone.
func (u *upkeep) forget(ctx context.Context, seen map[catalog.BranchID]tended) {
	for id := range seen {
		if _, err := u.n.catalog.BranchByID(ctx, id); errors.Is(err, record.ErrNotFound) {
			delete(seen, id)
		}
	}
}

// compactDue compacts a branch that this process has not seen yet, or that has
// enough new files.
func (u *upkeep) compactDue(ctx context.Context, st *branch.State, seen map[catalog.BranchID]tended) {
	last, known := seen[st.Branch.ID]
	if last.skip > 0 {
		last.skip--
		seen[st.Branch.ID] = last
		return
	}
	files := u.files(ctx, st)
	if known && last.failures == 0 && files-last.files < worthCompacting {
		return
	}
	// Archives must have the disk and the processor while they fall behind.
	if fullness(u.n.log.LogStats()) > 0.5 {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, compactTime)
	defer cancel()
	out, err := u.compact(bounded, st, false)
	switch {
	case ctx.Err() != nil:
		return
	case err == nil:
		if st.Stream.Kind != catalog.KindStream {
			files = u.files(ctx, st) // they have become fewer
		}
		seen[st.Branch.ID] = tended{files: files}
	case errors.Is(err, record.ErrNotFound): // deleted meanwhile
	case bounded.Err() != nil && out.Replaced > 0:
		// It goes on with the next walk.
		seen[st.Branch.ID] = tended{files: files - worthCompacting}
	default:
		last.failures++
		last.skip = min(1<<min(last.failures-1, 10), mostSkipped)
		seen[st.Branch.ID] = last
		u.n.logger.Error("compact a dataset; it is tried again later", "branch", st.Name(), "failures", last.failures, "error", err)
	}
	if out.Replaced > 0 {
		u.n.logger.Info("compacted a dataset", "branch", st.Name(), "replaced", out.Replaced, "written", out.Written, "bytes", out.After)
	}
}

// pruneTransactions ends transactions that were forgotten, so that their files are
// collected, and forgets those that ended long ago.
func (u *upkeep) pruneTransactions(ctx context.Context) {
	now := time.Now()
	aborted, _, err := u.n.catalog.PruneTransactions(ctx, now.Add(-TransactionIdle), now.Add(-transactionKeep))
	if err != nil && ctx.Err() == nil {
		u.n.logger.Error("prune transactions on datasets; it is tried again later", "error", err)
	}
	if aborted > 0 {
		u.n.logger.Warn("aborted transactions to which nothing was added for long", "transactions", aborted, "idle", TransactionIdle)
	}
}

// expireDue expires and then collects, so that what expiry leaves is on the
// collection's list at once.
func (u *upkeep) expireDue(ctx context.Context, st *branch.State) {
	e, err := u.expire(ctx, st, retention(st.Branch.Policy, dataset.ExpireOptions{MaxAge: u.o.MaxAge}), false)
	var c dataset.Collection
	if err == nil {
		idle, stands := u.collected.idle(ctx, u.n.catalog, st.Branch.TableUUID)
		if !idle {
			if c, err = u.collect(ctx, st, dataset.CollectOptions{Grace: u.o.Grace}, false); err == nil {
				u.collected.done(st.Branch.TableUUID, stands, c, cmp.Or(u.o.Grace, defaultGrace))
			}
		}
		if len(e.Expired) > 0 || c.Deleted > 0 {
			u.n.logger.Info("expired snapshots of a dataset", "branch", st.Name(), "snapshots", len(e.Expired), "kept", e.Kept, "files", c.Deleted, "bytes", c.DeletedBytes)
		}
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, record.ErrNotFound) {
		u.n.logger.Error("expire snapshots of a dataset; it is tried again later", "branch", st.Name(), "error", err)
	}
}

// files grows with the files that came to a branch. Of a dataset without a stream
// it is the number that it has: commits of others are not counted here.
func (u *upkeep) files(ctx context.Context, st *branch.State) int64 {
	if st.Stream.Kind == catalog.KindStream {
		return u.n.archiver.Status(st.Branch.ID).Files
	}
	t, err := u.n.datasets.Load(ctx, st.Branch.TableUUID)
	if err != nil {
		return 0 // the compaction will say why
	}
	head, _ := t.Head()
	return head.TotalFiles
}

// compactDataset compacts the table of a dataset without a stream until there is
// nothing more to do.
func (u *upkeep) compactDataset(ctx context.Context, st *branch.State, tell func(int, int64)) (archiver.CompactResult, error) {
	var out archiver.CompactResult
	for {
		c, err := u.n.datasets.Compact(ctx, st.Branch.TableUUID, dataset.CompactOptions{
			Format: dataset.Format(st.Branch.Settings.DatasetFormat), TargetBytes: u.o.CompactBytes,
			Progress: func(done int64) { tell(out.Replaced, out.Before+done) },
		})
		if err != nil || c.Files == 0 {
			return out, err
		}
		out.Replaced += c.Files
		if c.Path != "" {
			out.Written++
		}
		out.Rows, out.Before, out.After, out.SnapshotID = out.Rows+c.Rows, out.Before+c.Before, out.After+c.After, c.Snapshot
	}
}

// planCompaction tells what compact would do.
func (u *upkeep) planCompaction(ctx context.Context, st *branch.State) (dataset.CompactionPlan, error) {
	if st.Stream.Kind == catalog.KindStream {
		return u.n.archiver.PlanCompaction(ctx, st.Branch.ID)
	}
	return u.n.datasets.PlanCompaction(ctx, st.Branch.TableUUID, u.o.CompactBytes)
}

func (u *upkeep) compact(ctx context.Context, st *branch.State, requested bool) (archiver.CompactResult, error) {
	t := u.begin(st.Branch.ID, "compact", requested)
	t.tell("plan", 0, 0, 0, 0)
	plan, err := u.planCompaction(ctx, st)
	var out archiver.CompactResult
	if err == nil {
		tell := func(files int, bytes int64) {
			t.tell("rewrite", int64(files), int64(max(files, plan.Files)), bytes, max(bytes, plan.Bytes))
		}
		if st.Stream.Kind == catalog.KindStream {
			out, err = u.n.archiver.Compact(ctx, st.Branch.ID, tell)
		} else {
			out, err = u.compactDataset(ctx, st, tell)
		}
	}
	t.end(fmt.Sprintf("%d files of %d bytes became %d of %d", out.Replaced, out.Before, out.Written, out.After), err)
	u.note(err, func(f *api.MaintenanceFigures) {
		if err == nil {
			f.Compactions++
		}
		f.ReplacedFiles, f.WrittenFiles = f.ReplacedFiles+int64(out.Replaced), f.WrittenFiles+int64(out.Written)
		f.ReplacedBytes, f.WrittenBytes = f.ReplacedBytes+out.Before, f.WrittenBytes+out.After
	})
	return out, err
}

func (u *upkeep) expire(ctx context.Context, st *branch.State, o dataset.ExpireOptions, requested bool) (dataset.Expiry, error) {
	t := u.begin(st.Branch.ID, "expire", requested)
	out, err := u.n.datasets.Expire(ctx, st.Branch.TableUUID, o)
	t.end(fmt.Sprintf("%d snapshots dropped, %d stay", len(out.Expired), out.Kept), err)
	u.note(err, func(f *api.MaintenanceFigures) {
		if err == nil && !o.DryRun {
			f.Expiries++
			f.ExpiredSnapshots += int64(len(out.Expired))
		}
	})
	return out, err
}

func (u *upkeep) collect(ctx context.Context, st *branch.State, o dataset.CollectOptions, requested bool) (dataset.Collection, error) {
	t := u.begin(st.Branch.ID, "gc", requested)
	o.Progress = func(phase string, done, total int) { t.tell(phase, int64(done), int64(total), 0, 0) }
	out, err := u.n.datasets.Collect(ctx, st.Branch.TableUUID, o)
	t.end(fmt.Sprintf("%d of %d files deleted, %d bytes; %d wait", out.Deleted, out.Listed, out.DeletedBytes, len(out.Orphans)-out.Deleted), err)
	u.note(err, func(f *api.MaintenanceFigures) {
		if o.DryRun {
			return
		}
		if err == nil {
			f.Collections++
		}
		f.DeletedFiles, f.DeletedBytes = f.DeletedFiles+int64(out.Deleted), f.DeletedBytes+out.DeletedBytes
	})
	return out, err
}

// note counts; what a caller gave up, or is about a branch that is gone, is no
// failure.
func (u *upkeep) note(err error, add func(*api.MaintenanceFigures)) {
	u.figuresMu.Lock()
	defer u.figuresMu.Unlock()
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, record.ErrNotFound) {
		u.count.Failures++
	}
	add(&u.count)
}

func (u *upkeep) figures() api.MaintenanceFigures {
	u.figuresMu.Lock()
	defer u.figuresMu.Unlock()
	return u.count
}
