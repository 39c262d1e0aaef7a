package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Strategy is how a merge brings what a branch did into another.
type Strategy string

const (
	// FastForward: the target has done nothing since the branches parted, and
	// becomes what the source is. ErrConflict otherwise.
	FastForward Strategy = "fast-forward"
	// Replay adds the files that the source gained to the target, and takes
	// away what the source lost.
	Replay Strategy = "replay"
	// Replace makes the target what the source is, whatever it was.
	Replace Strategy = "replace"
)

// MergeOptions say how to merge.
type MergeOptions struct {
	// Strategy, "": FastForward where it can be, else Replay.
	Strategy Strategy
	// DryRun tells what would be done, conflicts included, and does nothing.
	DryRun bool
	// Schema, if set, is asked on each attempt for the schema that the target is
	// to have, and for what stands against it: whoever keeps schemas outside of
	// the table merges them before. Nil: the tables' schemas are merged.
	Schema func(ctx context.Context) (*schema.Schema, []Conflict, error)
}

// Conflict is why a merge cannot be.
type Conflict struct {
	Path   string // the data file or the field that it is about, "" for the whole
	Rows   int64  // that both sides changed, as far as is known
	Reason string
	Remedy string
}

func (c Conflict) String() string {
	s := c.Reason
	if c.Path != "" {
		s = c.Path + ": " + s
	}
	if c.Remedy != "" {
		s += "; " + c.Remedy
	}
	return s
}

// Conflicts is the error of a merge that both sides' changes forbid. It is
// record.ErrConflict.
type Conflicts struct {
	List  []Conflict // at most maxConflicts
	Count int
}

// maxConflicts bounds the conflicts that are listed.
const maxConflicts = 100

func (c *Conflicts) add(x Conflict) {
	if c.Count++; len(c.List) < maxConflicts {
		c.List = append(c.List, x)
	}
}

func (c *Conflicts) Error() string {
	const shown = 3
	var b strings.Builder
	fmt.Fprintf(&b, "%d conflicts", c.Count)
	for i, x := range c.List {
		if i == shown {
			fmt.Fprintf(&b, "; and %d more", c.Count-shown)
			break
		}
		b.WriteString(": ")
		b.WriteString(x.String())
	}
	return b.String()
}

func (c *Conflicts) Unwrap() error { return record.ErrConflict }

// Merged is what a merge did, or would do.
type Merged struct {
	Strategy Strategy
	UpToDate bool    // there was nothing to bring
	Bases    []int64 // the newest common ancestors; none after Replace without any
	Source   int64   // the snapshot that was merged; 0: it has none
	Target   int64   // the target's snapshot that it was merged into; 0: it had none
	Snapshot int64   // the target's new one; 0 if nothing was done

	AddedFiles, AddedRows     int64 // rows that the target did not have
	LeftOutFiles, LeftOutRows int64 // that an earlier merge had brought
	RemovedFiles              int64 // that the source had lost
	RemovedRows               int64
	Schema                    []schema.Change // of the target
	// Conflicts, of a dry run only; others end with the error.
	Conflicts Conflicts
}

// Merge brings what the table source did since the branches parted, or since
// they were merged last, into the table target: with one commit, in which no data
// file is copied. Rows that the target has, or had, from an earlier merge are not
// added again, also where either side compacted meanwhile; rows that the source
// deleted or rewrote go, and both sides' changes to the same rows are conflicts.
// Commits to the target in between, such as archives, cost another plan. To
// repeat a merge of which the outcome is unknown is safe: it brings nothing twice.
//
// Both tables must be of one store, and their field ids of one counter. The
// source's snapshot is that of the call.
//
// Errors: *Conflicts; ErrConflict (nothing in common, not possible with that
// strategy), ErrTooLarge; others as of Commit. Nothing was changed then.
func (d *Datasets) Merge(ctx context.Context, source, target string, o MergeOptions) (Merged, error) {
	fail := func(err error) (Merged, error) {
		return Merged{}, fmt.Errorf("dataset: merge table %s into %s: %w", source, target, err)
	}
	switch o.Strategy {
	case "", FastForward, Replay, Replace:
	default:
		return fail(fmt.Errorf("strategy %q is none of %s, %s, %s: %w", o.Strategy, FastForward, Replay, Replace, record.ErrInvalid))
	}
	if source == target {
		return fail(fmt.Errorf("a branch is not merged into itself: %w", record.ErrInvalid))
	}
	end, err := d.Share(ctx)
	if err != nil {
		return fail(err)
	}
	defer end()
	from, err := d.Load(ctx, source)
	if err != nil {
		return fail(err)
	}
	into, err := d.Load(ctx, target)
	if err != nil {
		return fail(err)
	}
	m := &merger{source: from, o: o}
	var conflicts *Conflicts
	switch _, err := m.plan(ctx, into); {
	case errors.As(err, &conflicts) && o.DryRun:
		m.out.Conflicts = *conflicts
	case err != nil:
		return fail(err)
	}
	if o.DryRun || m.out.UpToDate {
		return m.out, nil
	}
	// The next merge asks what came since this one.
	if err := d.pinMerged(ctx, from, target); err != nil {
		return fail(err)
	}
	// A crash here leaves a pin too many, until the next merge.
	next, err := d.Commit(ctx, target, Commit{plan: m.plan})
	if err != nil {
		return fail(err)
	}
	if !m.out.UpToDate {
		m.out.Snapshot = next.head.SnapshotID
	}
	// The merge is made. Failing leaves pins of earlier merges, until the next one.
	_ = d.unpinMerged(ctx, from, target)
	return m.out, nil
}

// pinMerged keeps the head of a table, as it was loaded, from expiry.
func (d *Datasets) pinMerged(ctx context.Context, source *Table, target string) error {
	if source.head == nil {
		return nil
	}
	id := source.head.SnapshotID
	_, err := d.Commit(ctx, source.id, Commit{refs: func(head *Table, b *table.MetadataBuilder) (bool, error) {
		if head.meta.SnapshotByID(id) == nil {
			return false, fmt.Errorf("snapshot %d, which is to be merged, has expired meanwhile; try again: %w", id, record.ErrConflict)
		}
		if ref, ok := refs(head.meta)[mergedIntoTag(target, id)]; ok && ref.SnapshotID == id {
			return false, nil
		}
		return true, b.SetSnapshotRef(mergedIntoTag(target, id), id, table.TagRef)
	}})
	return err
}

// unpinMerged lets what was merged before the head expire.
func (d *Datasets) unpinMerged(ctx context.Context, source *Table, target string) error {
	if source.head == nil {
		return nil
	}
	keep := mergedIntoTag(target, source.head.SnapshotID)
	_, err := d.Commit(ctx, source.id, Commit{refs: func(head *Table, b *table.MetadataBuilder) (bool, error) {
		changed := false
		for name := range refs(head.meta) {
			if name == keep || !strings.HasPrefix(name, mergedIntoPrefix+target+"-") {
				continue
			}
			if err := b.RemoveSnapshotRef(name); err != nil {
				return false, err
			}
			changed = true
		}
		return changed, nil
	}})
	return err
}

// merger is one merge; out and what leads to it are made anew on each attempt.
type merger struct {
	source *Table
	o      MergeOptions
	ids    *identities
	out    Merged

	target    *Table
	from      []retained // common ancestors
	whole     bool       // and no newer ones were forgotten
	src, dst  *side
	known     rowSet // rows that are not new to the target
	where     []placedRange
	ownView   record.ViewNumber
	edit      *edit
	conflicts Conflicts
}

// plan says what the merge is to change on a head of the target; nil: nothing.
func (m *merger) plan(ctx context.Context, head *Table) (*edit, error) {
	source := m.source
	*m = merger{source: source, o: m.o, ids: m.ids, target: head, edit: &edit{remove: map[string]bool{}, deleted: map[string]*positions{}}}
	if m.ids == nil {
		m.ids = newIdentities(source)
	}
	if source.head != nil {
		m.out.Source = source.head.SnapshotID
	}
	if head.head != nil {
		m.out.Target = head.head.SnapshotID
	}
	if err := m.choose(ctx); err != nil {
		return nil, err
	}
	for _, b := range m.from {
		if b.Snapshot != nil {
			m.out.Bases = append(m.out.Bases, b.SnapshotID)
		}
	}
	var err error
	if m.out.Strategy == Replace {
		err = m.replace(ctx)
	} else {
		err = m.replay(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := m.mergeSchema(ctx); err != nil {
		return nil, err
	}
	m.count()
	if m.conflicts.Count > 0 {
		return nil, &m.conflicts
	}
	if m.edit.empty() {
		m.out.UpToDate = true
		return nil, nil
	}
	return m.edit, m.describe()
}

// choose finds the common ancestors and the strategy.
func (m *merger) choose(ctx context.Context) error {
	m.out.Strategy = m.o.Strategy
	var err error
	if m.from, m.whole, err = bases(ctx, m.source, m.target); err != nil {
		if m.o.Strategy == Replace && errors.Is(err, record.ErrConflict) {
			m.from = nil
			return nil
		}
		return fmt.Errorf("%w; the strategy %s needs no common ancestor", err, Replace)
	}
	if m.o.Strategy == Replace {
		return nil
	}
	if m.dst, err = since(ctx, m.target, m.from); err != nil {
		return err
	}
	if m.src, err = since(ctx, m.source, m.from); err != nil {
		return err
	}
	same, err := m.dst.sameRows(ctx, m.ids)
	if err != nil {
		return err
	}
	forward := same && len(m.from) <= 1 && m.sameSchema()
	switch {
	case m.o.Strategy == FastForward && !forward:
		return fmt.Errorf("the target has rows or a schema of its own since the branches parted (%d files came, %d went): merge with the strategy %s: %w",
			len(m.dst.gained), len(m.dst.lost)+len(m.dst.thinned), Replay, record.ErrConflict)
	case m.o.Strategy == "" && forward:
		m.out.Strategy = FastForward
	case m.o.Strategy == "":
		m.out.Strategy = Replay
	}
	return nil
}

// sameSchema tells whether the target's schema is that of the common ancestor.
func (m *merger) sameSchema() bool {
	s := m.baseSchema()
	return s == nil || s.Equals(m.target.Schema())
}

// describe writes what the snapshot says of the merge.
func (m *merger) describe() error {
	e := m.edit
	switch {
	case len(e.remove)+len(e.deleted) == 0:
		e.operation = "append"
	case len(e.add) == 0:
		e.operation = "delete"
	default:
		e.operation = "overwrite"
	}
	known, err := m.target.extents()
	if err != nil {
		return err
	}
	theirs, err := m.source.extents()
	if err != nil {
		return err
	}
	known.raiseAll(theirs)
	delete(known, m.ownView)
	merged, err := json.Marshal(known)
	if err != nil {
		return fmt.Errorf("merge: %w", err)
	}
	from, err := json.Marshal(mergedSource{m.source.id, m.out.Source})
	if err != nil {
		return fmt.Errorf("merge: %w", err)
	}
	e.tag = mergedTag
	e.props = map[string]string{mergedKey: string(merged), mergedSourceKey: string(from)}
	return nil
}

// count sums up what the edit does.
func (m *merger) count() {
	for _, a := range m.edit.add {
		m.out.AddedFiles++
		m.out.AddedRows += a.file.Count() - int64(len(a.gone))
	}
	m.out.RemovedFiles = int64(len(m.edit.remove))
}
