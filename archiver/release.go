package archiver

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// Hold keeps rows of a view hot for a reader: those at or behind Next that were
// appended less than For ago. They go at most a tenth of For later, or a second.
type Hold struct {
	Next record.Offsets
	For  time.Duration
}

// Holds tells for whom rows are kept hot. Reads go on without them, from the
// dataset; so when Holds fails there are none.
type Holds interface {
	Holds(ctx context.Context, v record.ViewID) ([]Hold, error)
}

// halfFull is how full the hot log may be with rows that are archived kept in it.
// Beyond that neither holds nor the hot retention count: nobody who reads slowly
// may bring publishers to a halt.
const halfFull = 0.5

// release lets the hot buffer forget what the dataset holds, but for rows that
// are younger than the branch's hot retention, or held.
func (w *work) release(ctx context.Context) error {
	if w.salvaged {
		return nil // the view goes altogether
	}
	ends, err := w.a.o.Buffer.Ends(w.view.ID)
	if err != nil {
		return err
	}
	through := make(record.Offsets, len(ends.Start))
	for i := range through {
		through[i] = max(ends.Start[i], w.start.At(record.Partition(i)))
	}
	if !w.vacate && w.a.o.Fullness() <= halfFull {
		k := keeping{work: w, now: w.a.o.Now(), start: ends.Start, through: through, until: math.MaxInt64}
		if err := k.keep(ctx); err != nil {
			return err
		}
		w.s.note.keepUntil(k.next())
	}
	if ends.Start.Covers(through) {
		return nil // also what spares a commit of the log
	}
	return w.a.o.Buffer.Release(ctx, w.view.ID, through)
}

// keeping finds out which rows stay. It asks the rows themselves for their age: no
// state of ours or of the dataset's history could be lost or expire.
type keeping struct {
	*work
	now     time.Time
	start   record.Offsets // the hot rows'
	through record.Offsets // what may go; moves down to start
	// until is when the first of the rows that stay need no longer, ms since 1970,
	// and longest how long one is kept.
	until   int64
	longest time.Duration
}

func (k *keeping) keep(ctx context.Context) error {
	if keep := k.target.Settings.HotRetention; keep > 0 {
		if err := k.hold(ctx, Hold{Next: k.start, For: keep}); err != nil {
			return err
		}
	}
	if k.a.o.Holds == nil || k.start.Covers(k.through) {
		return nil
	}
	holds, err := k.a.o.Holds.Holds(ctx, k.view.ID)
	if err != nil && ctx.Err() == nil {
		k.a.o.Logger.Warn("rows are not held for their readers, who read them from the dataset", "branch", k.target.Name, "error", err)
	}
	for _, h := range holds {
		if err := k.hold(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// hold moves through down to the first row that h keeps.
func (k *keeping) hold(ctx context.Context, h Hold) error {
	if h.For <= 0 {
		return nil
	}
	for i := range k.through {
		p := record.Partition(i)
		first := max(h.Next.At(p), k.start[i])
		if first >= k.through[i] {
			continue
		}
		first, appended, err := k.appendedBehind(ctx, p, record.Range{Start: first, End: k.through[i]}, k.now.Add(-h.For).UnixMilli())
		if err != nil {
			return err
		}
		if first < k.through[i] {
			k.through[i] = first
			k.until, k.longest = min(k.until, appended+h.For.Milliseconds()), max(k.longest, h.For)
		}
	}
	return nil
}

// next is when to look again for rows that need no longer be kept: when the first
// does, but not for each row of a busy stream.
func (k *keeping) next() time.Time {
	if k.until == math.MaxInt64 {
		return k.now // none is kept
	}
	pause := max(look, min(k.longest/10, k.target.Settings.ArchiveInterval))
	if at := time.UnixMilli(k.until); at.After(k.now.Add(pause)) {
		return at
	}
	return k.now.Add(pause)
}

// appendedBehind returns the first row of a range that was appended after a time,
// and when; else the range's end. Times of a partition never go back, so a binary
// search finds it.
func (w *work) appendedBehind(ctx context.Context, p record.Partition, in record.Range, ms int64) (first record.Offset, appended int64, err error) {
	old, young := in.Start-1, in.End
	look := func(o record.Offset) error {
		batches, err := w.a.o.Buffer.Read(ctx, w.view.ID, p, o, 1)
		switch {
		case errors.Is(err, record.ErrCorrupt), errors.Is(err, record.ErrOutOfRange):
			// It cannot be read any more; it is archived, and here it serves nobody.
			old = o
		case err != nil:
			return err
		case len(batches) == 0 || batches[0].Timestamp() <= ms:
			old = o
		default:
			young, appended = o, batches[0].Timestamp()
		}
		return nil
	}
	// Most often all of them are old, or none is.
	for _, o := range []record.Offset{young - 1, in.Start} {
		if old+1 < young {
			if err := look(o); err != nil {
				return 0, 0, err
			}
		}
	}
	for old+1 < young {
		if err := look(old + (young-old)/2); err != nil {
			return 0, 0, err
		}
	}
	return young, appended, nil
}

// Vacate archives a branch and lets the hot buffer forget every row that the
// dataset then holds, whoever wants it kept hot: none that was durable at the call
// is left there. Errors as of Archive.
func (a *Archiver) Vacate(ctx context.Context, branch catalog.BranchID) (Result, error) {
	out, err := a.Archive(ctx, branch)
	if err != nil {
		return out, err
	}
	return out, a.releaseArchived(ctx, branch, true)
}

// releaseKept releases rows whose time is over, without an archive: what waits is
// archived when that is due. It needs no lease: rows that the dataset's marker
// covers are in the dataset, whoever put them there.
func (a *Archiver) releaseKept(ctx context.Context, branch catalog.BranchID) error {
	return a.releaseArchived(ctx, branch, false)
}

func (a *Archiver) releaseArchived(ctx context.Context, branch catalog.BranchID, vacate bool) error {
	s := a.state(branch)
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	// Not a slot: archives may take long.
	select {
	case a.releases <- struct{}{}:
		defer func() { <-a.releases }()
	case <-ctx.Done():
		return ctx.Err()
	}
	t, err := a.o.Branches.ArchiveTarget(ctx, branch)
	if err != nil || len(t.Views) != 1 {
		return err // a reset is finished by an archive
	}
	w := &work{a: a, s: s, target: t, view: t.Views[0], active: true, epoch: math.MaxInt64, vacate: vacate}
	if past, err := w.load(ctx); err != nil || past {
		return err
	}
	return w.release(ctx)
}
