package dataset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Commit is a change to a table that becomes visible in one swap or not at all.
type Commit struct {
	// Base, if set, is a table whose head must be the head committed to or one
	// of its ancestors: somebody's rollback is ErrConflict.
	Base *Table
	// Add are files written with NewFileWriter of this table.
	Add []DataFile
	// RemoveAll drops every live file first (reset, overwrite).
	RemoveAll bool
	// Remove are the paths of live data files to drop. ErrConflict if one is not
	// live any more.
	Remove []string
	// ID names the commit as Marker.CommitID does; empty without a Marker: a
	// random one.
	ID string
	// Summary stands in the snapshot's summary.
	Summary map[string]string
	// Marker, if set, goes with the snapshot. Its CommitID names the commit:
	// a second Commit with the same id, after an outcome that was unknown,
	// returns the table without doing anything.
	Marker *Marker
	// Schema, if set and different, becomes the current one: the user's
	// fields, without system columns.
	Schema *schema.Schema
	// Layout, if set and different, becomes the table's, for files that are
	// written from then on. It is compiled for Schema or, if that is nil, for the
	// current one.
	Layout *schema.Layout
	// Check, if set, looks at the table actually committed against, on each
	// attempt; its error ends the commit.
	Check func(*Table) error
	// Swap, if set, moves the pointer in the place of Pointers.SwapTablePointer
	// and under its contract, for what must change together with it. snapshot is
	// the head at to, 0 if there is none. record.ErrFenced, in addition: the
	// pointer was not moved, and the commit must not be made.
	Swap Swap

	// replace: the files of Add take the place of live ones.
	replace *replacement
	// erase, if set, takes rows out of all snapshots; no other member is set.
	erase *erasing
	// expire, if set, names snapshots of the head to drop.
	expire func(head *Table) []int64
	// refs, if set, changes refs, and tells whether it did; a commit with it does
	// nothing else.
	refs func(head *Table, b *table.MetadataBuilder) (bool, error)
	// updates, if set, are another engine's, and nothing else is.
	updates *staging
	// rollback makes this ancestor the head; pick adds the files of this snapshot.
	rollback, pick int64
	// plan, if set, says on each attempt which files come and go; nil: none do,
	// and the commit ends with the head.
	plan func(ctx context.Context, head *Table) (*edit, error)
}

// Swap moves a pointer from one location to another.
type Swap func(ctx context.Context, from, to string, snapshot int64) error

// landed tells whether an earlier attempt, perhaps of an earlier call, has made the
// commit that led to t.
func (c *Commit) landed(t *Table, commitID string) bool {
	if c.updates != nil {
		return c.updates.landed(t)
	}
	_, found := t.FindCommit(commitID)
	return found
}

const (
	maxAttempts  = 12
	firstBackoff = 5 * time.Millisecond
	maxBackoff   = 500 * time.Millisecond
	// lookTime bounds the look for an unknown outcome when the caller's
	// context is over already.
	lookTime = 5 * time.Second
)

// Create makes an empty table with the user's fields of s (which have ids) and
// the system columns, and returns it durable. ErrExists if id is taken.
func (d *Datasets) Create(ctx context.Context, id string, s *schema.Schema, props map[string]string) (*Table, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	sc, err := icebergSchema(s)
	if err != nil {
		return nil, err
	}
	location, err := d.first(ctx, id, sc, props)
	if err != nil {
		return nil, err
	}
	// A crash here leaves a metadata file that nothing names: an orphan.
	err = d.pointers.CreateTablePointer(ctx, id, location)
	switch {
	case err == nil:
	default:
		// Look, also where it exists: it may have been created by this very
		// call, delivered twice.
		look, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTime)
		defer cancel()
		at, lookErr := d.pointers.TablePointer(look, id)
		switch exists := errors.Is(err, record.ErrExists); {
		case lookErr == nil && at == location:
		case exists && lookErr == nil:
			d.remove(ctx, []string{location})
			return nil, fmt.Errorf("dataset: create table %s: %w", id, err)
		case exists:
			return nil, fmt.Errorf("dataset: create table %s: %w", id, err)
		default:
			return nil, fmt.Errorf("dataset: create table %s: %w: %w", id, ErrOutcomeUnknown, err)
		}
	}
	return d.loadMetadata(ctx, id, location)
}

// Prepare puts the first metadata of a table with the user's fields of s alone,
// which have ids, durable at the location that it returns. There is no table
// before somebody makes a pointer to it; until then it is an orphan.
func (d *Datasets) Prepare(ctx context.Context, id string, s *schema.Schema, props map[string]string) (location string, err error) {
	if err := checkID(id); err != nil {
		return "", err
	}
	if err := s.Validate(); err != nil {
		return "", err
	}
	if field := missingID(s.Fields); field != "" {
		return "", fmt.Errorf("dataset: field %q has no id; assign ids first: %w", field, record.ErrInvalid)
	}
	return d.first(ctx, id, s.Iceberg(), props)
}

// first puts the first metadata of a table.
func (d *Datasets) first(ctx context.Context, id string, sc *iceberg.Schema, props map[string]string) (location string, err error) {
	m, err := d.newMetadata(id, sc, props)
	if err != nil {
		return "", err
	}
	location, data, err := encodeMetadata(m, "")
	if err != nil {
		return "", err
	}
	return location, d.put(ctx, location, data)
}

// Load returns the table as it is now. ErrNotFound if id has no pointer.
func (d *Datasets) Load(ctx context.Context, id string) (*Table, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	for last := ""; ; {
		location, err := d.pointers.TablePointer(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("dataset: load table %s: %w", id, err)
		}
		t, err := d.loadMetadata(ctx, id, location)
		// Old metadata files go when rows are erased, and the pointer before them.
		if !errors.Is(err, errMissing) || location == last {
			return t, err
		}
		last = location
	}
}

// LoadAt returns the table id as the metadata file at location describes it.
func (d *Datasets) LoadAt(ctx context.Context, id, location string) (*Table, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return d.loadMetadata(ctx, id, location)
}

// SetSchema makes s (the user's fields) the current schema; no rows change.
func (d *Datasets) SetSchema(ctx context.Context, id string, s *schema.Schema) (*Table, error) {
	return d.Commit(ctx, id, Commit{Schema: s})
}

// Commit applies c to the head of table id and returns the new table. It
// retries when others commit in between, from fresh metadata each time, and
// checks again each time. A commit that changes nothing returns the head.
//
// Errors: those of Check; ErrConflict (retries exhausted, Base not in the
// history), ErrNotFound (the table was dropped), ErrInvalid: nothing was
// committed, the files may be committed later or deleted. ErrOutcomeUnknown:
// the files must stay. After other errors nothing was committed.
func (d *Datasets) Commit(ctx context.Context, id string, c Commit) (*Table, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	commitID := cmp.Or(c.ID, uuid.NewString())
	if c.Marker != nil {
		commitID = c.Marker.CommitID
	}
	backoff := firstBackoff
	for attempt := 1; ; attempt++ {
		head, err := d.Load(ctx, id)
		if err != nil {
			return nil, err
		}
		if c.landed(head, commitID) {
			d.Committed(id)
			return head, nil
		}
		next, err := d.tryCommit(ctx, head, commitID, &c)
		if errors.Is(err, errMissing) || errors.Is(err, record.ErrBusy) {
			// An erasure may have put other files into the place of the head's.
			if at, lookErr := d.pointers.TablePointer(ctx, id); lookErr == nil && at != head.location {
				err = errMoved
			}
		}
		if !errors.Is(err, errMoved) {
			return next, err
		}
		if attempt == maxAttempts {
			return nil, fmt.Errorf("dataset: commit to table %s: others committed first %d times in a row: %w", id, attempt, record.ErrConflict)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("dataset: commit to table %s: %w", id, ctx.Err())
		case <-time.After(backoff/2 + rand.N(backoff)):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func (c *Commit) check() error {
	if c.RemoveAll && len(c.Remove) > 0 {
		return fmt.Errorf("dataset: a commit removes all files, and some: %w", record.ErrInvalid)
	}
	if c.Marker != nil {
		return c.Marker.check()
	}
	return nil
}

// errMoved: the pointer certainly moved away from the head that the attempt
// built on; nothing was committed.
var errMoved = errors.New("pointer moved")

// errMovedAfterAll is errMoved, found out by looking after a swap that was not
// answered.
var errMovedAfterAll = fmt.Errorf("unanswered, then: %w", errMoved)

// tryCommit is one attempt on one head.
func (d *Datasets) tryCommit(ctx context.Context, head *Table, commitID string, c *Commit) (*Table, error) {
	if c.Base != nil && c.Base.head != nil && !head.descends(c.Base.head.SnapshotID) {
		return nil, fmt.Errorf("dataset: commit to table %s: snapshot %d is no longer in its history (rolled back or expired): %w", head.id, c.Base.head.SnapshotID, record.ErrConflict)
	}
	if c.Check != nil {
		if err := c.Check(head); err != nil {
			return nil, fmt.Errorf("dataset: commit to table %s refused: %w", head.id, err)
		}
	}
	if c.replace != nil {
		if err := c.replace.check(ctx, head); err != nil {
			return nil, fmt.Errorf("dataset: commit to table %s refused: %w", head.id, err)
		}
	}
	var e *edit
	if c.plan != nil {
		var err error
		if e, err = c.plan(ctx, head); err != nil {
			return nil, fmt.Errorf("dataset: commit to table %s refused: %w", head.id, err)
		}
		if e == nil {
			return head, nil
		}
	}
	ch, err := newChange(ctx, head, commitID, c, e)
	if err != nil {
		return nil, err
	}
	if ch == nil {
		return head, nil
	}
	meta, err := ch.build(ctx, c)
	if err != nil {
		d.remove(context.WithoutCancel(ctx), ch.written) // nothing names them
		return nil, err
	}
	if meta == nil {
		return head, nil
	}
	location, data, err := encodeMetadata(meta, head.location)
	if err != nil {
		return nil, err
	}
	puts := append(ch.puts, pending{location, data})
	if err := d.putAll(ctx, puts); err != nil {
		// A crash or failure here leaves orphans: no name of this attempt
		// was told to anybody, and no other attempt uses it again.
		d.remove(context.WithoutCancel(ctx), append(locations(puts), ch.written...))
		return nil, fmt.Errorf("dataset: commit to table %s: %w", head.id, err)
	}
	// A crash here leaves orphans too; the table is still the old one.
	if err := d.swap(ctx, head, newTable(d, head.id, location, meta), commitID, c); err != nil {
		// Only after a plain answer: a swap that went unanswered must not find
		// its files gone, however the pointer may move.
		refused := errors.Is(err, errMoved) && !errors.Is(err, errMovedAfterAll)
		if refused || errors.Is(err, record.ErrNotFound) || errors.Is(err, record.ErrFenced) {
			d.remove(context.WithoutCancel(ctx), append(locations(puts), ch.written...))
		}
		if errors.Is(err, ErrOutcomeUnknown) {
			d.Committed(head.id)
		}
		return nil, err
	}
	// A crash from here on leaves the new table, and old metadata files that
	// were due to go: orphans.
	d.metas.put(location, meta, int64(len(data)))
	d.metas.drop(head.location)
	next := newTable(d, head.id, location, meta)
	if !c.plain(head, next) {
		d.Committed(head.id)
	}
	d.dropOldMetadata(context.WithoutCancel(ctx), head, next)
	return next, nil
}

// putAll puts the objects of a commit at once: none depends on another before
// the swap.
func (d *Datasets) putAll(ctx context.Context, puts []pending) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, p := range puts {
		g.Go(func() error { return d.put(ctx, p.location, p.data) })
	}
	return g.Wait()
}

func locations(puts []pending) []string {
	out := make([]string, len(puts))
	for i, p := range puts {
		out[i] = p.location
	}
	return out
}

// swap moves the pointer from head to the new location. errMoved, ErrFenced and
// ErrNotFound: certainly not moved. ErrOutcomeUnknown: perhaps.
func (d *Datasets) swap(ctx context.Context, head, next *Table, commitID string, c *Commit) error {
	swap := c.Swap
	if swap == nil {
		swap = func(ctx context.Context, from, to string, _ int64) error {
			return d.pointers.SwapTablePointer(ctx, head.id, from, to)
		}
	}
	to, snapshot := next.location, int64(0)
	if next.head != nil {
		snapshot = next.head.SnapshotID
	}
	for try := 1; ; try++ {
		err := swap(ctx, head.location, to, snapshot)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, record.ErrFenced) && try == 1:
			return fmt.Errorf("dataset: commit to table %s: %w", head.id, err)
		case errors.Is(err, record.ErrNotFound) && try == 1:
			return fmt.Errorf("dataset: commit to table %s: the table was dropped: %w", head.id, err)
		}
		// The swap of this try, also where it was delivered twice and only the
		// second one answered, or of one before it may have moved the pointer, or
		// may do so later. Look where it is.
		refused := errors.Is(err, record.ErrConflict) && try == 1
		look, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTime)
		landed, stands, lookErr := d.look(look, head, to, commitID, c)
		cancel()
		switch {
		case landed:
			return nil
		case refused && lookErr == nil && !stands:
			return errMoved
		case refused:
			return errMovedAfterAll
		case lookErr == nil && !stands:
			// Locations are never used twice, so no swap from head's can
			// succeed any more.
			return errMovedAfterAll
		case lookErr != nil || try == 3 || ctx.Err() != nil:
			return fmt.Errorf("dataset: commit %s to table %s: %w: %w", commitID, head.id, ErrOutcomeUnknown, errors.Join(err, lookErr))
		}
		// The pointer stands where it was. To swap again is safe: whichever
		// of the swaps comes second finds the pointer moved.
	}
}

// look tells whether the commit landed, and else whether the pointer still
// stands at head.
func (d *Datasets) look(ctx context.Context, head *Table, to, commitID string, c *Commit) (landed, stands bool, err error) {
	at, err := d.pointers.TablePointer(ctx, head.id)
	switch {
	case err != nil:
		return false, false, err
	case at == to:
		return true, false, nil
	case at == head.location:
		return false, true, nil
	}
	t, err := d.loadMetadata(ctx, head.id, at)
	if err != nil {
		return false, false, err
	}
	// A commit without a snapshot (schema only) leaves its location in the
	// log of metadata files.
	return c.landed(t, commitID) || slices.Contains(t.previousFiles(), to), false, nil
}

// dropOldMetadata deletes the metadata files that fell off the log, if no
// table stands at them. Failing to only leaves orphans.
func (d *Datasets) dropOldMetadata(ctx context.Context, old, now *Table) {
	refs, ok := d.pointers.(PointerReferences)
	if !ok {
		return
	}
	kept := now.previousFiles()
	for _, l := range old.previousFiles() {
		if slices.Contains(kept, l) || l == now.location {
			continue
		}
		if used, err := refs.TablePointerReferenced(ctx, l); err != nil || used {
			continue
		}
		d.metas.drop(l)
		d.remove(ctx, []string{l})
	}
}

func (t *Table) previousFiles() []string {
	var out []string
	for e := range t.meta.PreviousFiles() {
		out = append(out, e.MetadataFile)
	}
	return out
}
