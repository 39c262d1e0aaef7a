package archiver

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// look is how often Run looks for branches that are due.
const look = time.Second

// Retries after a failed archive wait between these.
const (
	leastPause = time.Second
	mostPause  = time.Minute
)

// Run archives each branch when its interval is over or much is waiting, and
// releases rows whose hot retention or hold is over; until ctx ends. Failures are
// logged and tried again. It returns when none of its archives is running any
// more; Finish comes after it.
func (a *Archiver) Run(ctx context.Context) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		branches := a.o.Branches.ArchiveTargets()
		a.keep(branches)
		full := a.o.Fullness() > halfFull
		for _, b := range branches {
			s := a.state(b)
			if !s.note.begin(a.o.Now()) {
				continue
			}
			t, err := a.o.Branches.ArchiveTarget(ctx, b)
			archive, release := false, false
			if err == nil {
				archive, release = a.due(s, t, full)
			}
			if !archive && !release {
				s.note.end()
				continue
			}
			running.Go(func() {
				defer s.note.end()
				if !archive {
					err := a.releaseKept(ctx, b)
					if err != nil && ctx.Err() == nil && !errors.Is(err, record.ErrNotFound) {
						s.note.failed(a.o.Now())
						a.o.Logger.Error("release rows that are archived", "branch", t.Name, "error", err)
					}
					return
				}
				out, err := a.Archive(ctx, b)
				switch {
				case err == nil:
					a.o.Logger.Debug("archived", "branch", t.Name, "rows", out.Rows, "files", out.Files, "took", out.Took)
				case ctx.Err() == nil && !errors.Is(err, record.ErrNotFound): // not a deleted stream
					a.o.Logger.Error("archive", "branch", t.Name, "error", err)
				}
			})
		}
	}
}

// keep forgets branches that are gone.
func (a *Archiver) keep(branches []catalog.BranchID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.branches) <= len(branches) {
		return // what is left over then is bounded
	}
	there := make(map[catalog.BranchID]bool, len(branches))
	for _, b := range branches {
		there[b] = true
	}
	maps.DeleteFunc(a.branches, func(b catalog.BranchID, _ *branchState) bool { return !there[b] })
}

// due tells whether a branch is to be archived now, or else rows that are archived
// to be released.
func (a *Archiver) due(s *branchState, t Target, full bool) (archive, release bool) {
	if len(t.Views) == 0 {
		return false, false
	}
	if len(t.Views) > 1 {
		return true, false // a reset is to be finished
	}
	v := t.Views[0]
	ends, err := a.o.Buffer.Ends(v.ID)
	if err != nil {
		return false, false
	}
	archived := s.note.archivedOf(v.ID, ends)
	// Rows are kept hot, and for some the time is over, or room is short.
	release = archived.RowsSince(ends.Start) > 0 && (full || !a.o.Now().Before(s.note.keptUntil()))
	return a.archiveDue(s, t, ends, archived), release
}

func (a *Archiver) archiveDue(s *branchState, t Target, ends hotbuffer.Ends, archived record.Offsets) bool {
	if ends.End.RowsSince(archived) == 0 {
		return false
	}
	v, last := t.Views[0], s.note.last()
	// A view from before this process is due at once: how long its rows have
	// waited is not known, and a process that keeps dying must still archive.
	since := last.begun
	if since.Before(v.Created) {
		since = v.Created
	}
	if a.o.Now().Sub(since) >= t.Settings.ArchiveInterval {
		return true
	}
	stats, err := a.o.Buffer.Stats(v.ID)
	if last.view == v.ID {
		stats.Bytes -= last.bytes
	}
	return err == nil && stats.Bytes >= a.o.WaitingBytes
}

// Finish archives every branch that has rows waiting, for a clean shutdown,
// then gives up all leases. Rows that could not be archived in time stay in
// the hot buffer. It returns the joined errors.
func (a *Archiver) Finish(ctx context.Context) error {
	var errs []error
	var mu sync.Mutex
	var running sync.WaitGroup
	for _, b := range a.o.Branches.ArchiveTargets() {
		t, err := a.o.Branches.ArchiveTarget(ctx, b)
		if err != nil || len(t.Views) == 0 {
			continue
		}
		if len(t.Views) == 1 {
			v := t.Views[0].ID
			ends, err := a.o.Buffer.Ends(v)
			if err != nil || ends.End.RowsSince(a.state(b).note.archivedOf(v, ends)) == 0 {
				continue
			}
		}
		running.Go(func() {
			if _, err := a.Archive(ctx, b); err != nil && !errors.Is(err, record.ErrNotFound) {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	running.Wait()
	a.releaseLeases(ctx)
	return errors.Join(errs...)
}

// Status is what the archiver knows of a branch.
type Status struct {
	// LastRun and LastSuccess began then; zero: not in this process.
	LastRun, LastSuccess time.Time
	// LastError is why the last run failed, "" if it did not.
	LastError string
	// Runs, Failures, Rows, Bytes and Files count since the process began.
	Runs, Failures, Rows, Bytes, Files int64
	// Seconds are the durations of all runs.
	Seconds hotbuffer.Histogram
}

var secondsBounds = []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300}

// Status returns figures of a branch.
func (a *Archiver) Status(branch catalog.BranchID) Status {
	if s := a.known(branch); s != nil {
		return s.note.status()
	}
	return Status{Seconds: emptySeconds()}
}

// Archived returns the first offsets of a view that are not archived, as far as
// this process has seen: it may lag behind another process. ok is false while
// it has not looked at the view's dataset.
func (a *Archiver) Archived(branch catalog.BranchID, v record.ViewID) (archived record.Offsets, ok bool) {
	s := a.known(branch)
	if s == nil {
		return nil, false
	}
	s.note.mu.Lock()
	defer s.note.mu.Unlock()
	return s.note.archived, s.note.view == v
}

func emptySeconds() hotbuffer.Histogram {
	return hotbuffer.Histogram{Bounds: secondsBounds, Counts: make([]uint64, len(secondsBounds)+1)}
}

// noteState remembers how archives of a branch went.
type noteState struct {
	mu      sync.Mutex
	busy    bool // Run is at it
	st      Status
	seen    lastSeen
	pause   time.Duration
	notTill time.Time
	kept    time.Time // when rows that are kept hot may go

	// archived is what the dataset held of view when it was last looked at.
	view     record.ViewID
	archived record.Offsets
}

// lastSeen is the state behind the last success.
type lastSeen struct {
	begun time.Time
	view  record.ViewID
	bytes int64 // Stats.Bytes of the hot buffer then
}

func (n *noteState) last() lastSeen {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen
}

// moved notes how far the dataset holds a view.
func (n *noteState) moved(v record.ViewID, archived record.Offsets) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.view, n.archived = v, archived
}

// keepUntil notes when rows that are kept hot may go, keptUntil returns it.
func (n *noteState) keepUntil(t time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.kept = t
}

func (n *noteState) keptUntil() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.kept
}

// archivedOf returns how far v is archived: as it was last seen, else what the
// hot buffer has released, which is never more.
func (n *noteState) archivedOf(v record.ViewID, ends hotbuffer.Ends) record.Offsets {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.view == v {
		return n.archived
	}
	return ends.Start
}

func (n *noteState) status() Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	st := n.st
	if st.Seconds.Counts == nil {
		st.Seconds = emptySeconds()
	}
	st.Seconds.Counts = slices.Clone(st.Seconds.Counts)
	return st
}

// begin marks the branch as being looked at; false: it is already, or it
// failed a short time ago.
func (n *noteState) begin(now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.busy || now.Before(n.notTill) {
		return false
	}
	n.busy = true
	return true
}

func (n *noteState) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.busy = false
}

// failed notes that a release failed.
func (n *noteState) failed(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.backOff(now)
}

func (n *noteState) backOff(now time.Time) {
	n.pause = min(max(2*n.pause, leastPause), mostPause)
	n.notTill = now.Add(n.pause)
}

func (n *noteState) record(seen lastSeen, out Result, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	begun := seen.begun
	n.st.Runs++
	n.st.LastRun = begun
	if n.st.Seconds.Counts == nil {
		n.st.Seconds = emptySeconds()
	}
	i, _ := slices.BinarySearch(secondsBounds, out.Took.Seconds())
	n.st.Seconds.Counts[i]++
	n.st.Seconds.Sum += out.Took.Seconds()
	n.st.Rows, n.st.Bytes, n.st.Files = n.st.Rows+out.Rows, n.st.Bytes+out.Bytes, n.st.Files+int64(out.Files)
	if err != nil {
		n.st.Failures++
		n.st.LastError = err.Error()
		n.backOff(begun.Add(out.Took))
		return
	}
	n.st.LastSuccess, n.st.LastError = begun, ""
	n.pause, n.notTill = 0, time.Time{}
	n.seen = seen
}
