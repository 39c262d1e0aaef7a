package reader

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Version asks for the rows of a past version of the table instead of those that
// the branch holds now. At most one of Snapshot, Tag, AsOf and Until is set; none
// means the newest version.
type Version struct {
	Snapshot int64
	Tag      string
	AsOf     time.Time // the version that was the newest then
	// Until ends the read where another read ended, also one of a view that a reset
	// has replaced. In the current view rows are read hot and cold.
	Until *Cursor
	// CurrentSchema gives rows the columns that the branch has now. Otherwise they
	// have those of the version, as Iceberg has it.
	CurrentSchema bool
}

// until checks a read of the current view that ends at a cursor, and returns its
// end.
func (r *Reader) until(ctx context.Context, t Target, q Request, from, now Cursor) (Cursor, error) {
	end := *q.Version.Until
	switch {
	case end.Within != nil:
		return Cursor{}, fmt.Errorf("read until a cursor: it stands amid guest rows, where a read cannot end; take one from the end of a read: %w", record.ErrInvalid)
	case !now.Next.Covers(end.Next):
		p := firstBeyond(end.Next, now.Next)
		return Cursor{}, fmt.Errorf("read until a cursor: it stands at offset %v of partition %v, where rows are visible up to %v: %w", end.Next.At(p), p, now.Next.At(p), record.ErrOutOfRange)
	}
	if err := r.WithinGuests(ctx, t, end); err != nil {
		return Cursor{}, err
	}
	return Cursor{View: t.View, Next: greatest(from.Next, end.Next), Checkpoint: max(from.Checkpoint, end.Checkpoint), Guests: max(from.Guests, end.Guests)}, nil
}

// past is a version that is being read.
type past struct {
	table  *dataset.Table // as of then
	id     int64          // of the snapshot, 0: the table is empty
	target Target         // of the view that the version has rows of; View 0: none
	end    Cursor
}

// readVersion is Read for a version of the table, and for all reads of a dataset
// without a stream.
func (r *Reader) readVersion(ctx context.Context, t Target, q Request) (*Result, error) {
	if q.From.Latest || q.Partitions != nil {
		return nil, fmt.Errorf("read a version: begin at \"earliest\" or at a cursor, and read all partitions: %w", record.ErrInvalid)
	}
	table, err := r.tables.Load(ctx, t.Table)
	if err != nil {
		return nil, gone(t, err)
	}
	v, err := r.find(ctx, t, q, table)
	if err != nil {
		return nil, fmt.Errorf("read a version: %w", err)
	}
	if v.target.Schema, err = versionSchema(t, q, v.table); err != nil {
		return nil, err
	}
	p, err := newPlan(v.target, q)
	if err != nil {
		return nil, err
	}
	from := Cursor{View: v.target.View}
	if c := q.From.Cursor; c != nil {
		if from = *c; c.View != v.target.View {
			return nil, fmt.Errorf("%w: read the version from \"earliest\"", ErrOtherView)
		}
	}
	v.end.Next, v.end.Guests = greatest(from.Next, v.end.Next), max(from.Guests, v.end.Guests)
	v.end.Checkpoint = from.Checkpoint
	return &Result{Schema: p.out, Batches: func(yield func(Batch, error) bool) {
		d := &delivery{plan: p, pos: from, limit: q.Limit, yield: yield}
		err := r.versionRows(ctx, v, d)
		switch {
		case err == nil:
			yield(Batch{Next: v.end}, nil)
		case !stopped(err):
			yield(Batch{}, err)
		}
	}}, nil
}

// find finds the version, and where it ends.
func (r *Reader) find(ctx context.Context, t Target, q Request, table *dataset.Table) (v past, err error) {
	want := Version{}
	if q.Version != nil {
		want = *q.Version
	}
	given := 0
	for _, set := range []bool{want.Snapshot != 0, want.Tag != "", !want.AsOf.IsZero(), want.Until != nil} {
		if set {
			given++
		}
	}
	if given > 1 {
		return v, fmt.Errorf("give one of snapshot, tag, time and cursor: %w", record.ErrInvalid)
	}
	switch {
	case want.Snapshot != 0:
		v.table, err = table.Version(want.Snapshot)
	case want.Tag != "":
		var tag dataset.Tag
		if tag, err = table.Tag(want.Tag); err == nil {
			v.table, err = table.Version(tag.Snapshot)
		}
	case !want.AsOf.IsZero():
		v.table, err = table.AsOf(want.AsOf)
	case want.Until != nil:
		v.table, err = versionOf(table, *want.Until)
	default:
		v.table = table
	}
	if err != nil {
		return v, err
	}
	v.target = Target{Table: t.Table}
	m, err := v.table.Marker()
	if err != nil {
		return v, err
	}
	if m != nil && (t.View != 0 || want.Until != nil) {
		v.target.View, v.target.Number = m.View, m.ViewNumber
		v.end = Cursor{View: m.View, Next: m.Offsets}
	}
	head, ok := v.table.Head()
	if !ok {
		return v, nil
	}
	v.id = head.ID
	guests, err := v.table.GuestEnd(ctx, v.target.Number, dataset.GuestEnd{})
	v.end.Guests = guests.Sequence
	if want.Until != nil {
		v.end.Next, v.end.Guests = least(v.end.Next, want.Until.Next), min(v.end.Guests, want.Until.Guests)
	}
	return v, err
}

// versionOf is the oldest version that holds what lies before a cursor of a view
// that a reset has replaced, or of a dataset.
func versionOf(table *dataset.Table, c Cursor) (*dataset.Table, error) {
	if c.Within != nil {
		return nil, fmt.Errorf("the cursor stands amid guest rows, where a read cannot end; take one from the end of a read: %w", record.ErrInvalid)
	}
	for _, s := range table.Snapshots() {
		whole := c.View == 0 && s.Marker == nil || s.Marker != nil && s.Marker.View == c.View && s.Marker.Offsets.Covers(c.Next)
		if whole && s.Sequence >= c.Guests {
			return table.Version(s.ID)
		}
	}
	return nil, fmt.Errorf("no version that is kept holds all rows before the cursor; list the snapshots for what there is: %w", dataset.ErrExpired)
}

// versionSchema is the schema that rows of a version are given in.
func versionSchema(t Target, q Request, table *dataset.Table) (*schema.Schema, error) {
	current := q.Version != nil && q.Version.CurrentSchema
	if current && t.Schema != nil {
		return t.Schema, nil
	}
	of := table.Schema()
	if head, ok := table.Head(); ok && !current {
		of = table.SchemaAt(head.ID)
	}
	s, foreign, err := schema.ReadableFromIceberg(of)
	if err != nil {
		return nil, fmt.Errorf("read: the table's schema: %w", err)
	}
	if len(foreign) > 0 && q.Columns == nil {
		var readable []string
		for _, f := range s.Fields {
			readable = append(readable, f.Name)
		}
		name := slices.Min(slices.Collect(maps.Keys(foreign)))
		return nil, fmt.Errorf("read: column %q cannot be read; ask for columns that can: %s: %w", name, strings.Join(readable, ","), foreign[name])
	}
	for _, c := range q.Columns {
		top, _, _ := strings.Cut(c, ".")
		if err := foreign[top]; err != nil {
			return nil, fmt.Errorf("read: column %q: %w", c, err)
		}
	}
	if t.Schema != nil {
		restore(s, t.Schema)
	}
	return s, nil
}

// restore gives the fields of s, which come from Iceberg, what that cannot say of
// fields that are still as they were: defaults, and small integers.
func restore(s, now *schema.Schema) {
	then := s.Iceberg()
	for i := range s.Fields {
		for k := range now.Fields {
			f := now.Fields[k]
			if f.ID != s.Fields[i].ID {
				continue
			}
			is := (&schema.Schema{Fields: []schema.Field{f}}).Iceberg()
			if is.Field(0).Type.Equals(then.Field(i).Type) {
				f.Name = s.Fields[i].Name
				s.Fields[i] = f
			}
		}
	}
}

// versionRows delivers the rows of a version behind d's position: guests, then own.
func (r *Reader) versionRows(ctx context.Context, v past, d *delivery) error {
	if w := d.pos.Within; w != nil {
		if _, err := v.table.Version(w.Snapshot); err != nil {
			return err
		}
		if err := r.window(ctx, v.target, d, v.table, *w); err != nil {
			return err
		}
	}
	if d.pos.Guests < v.end.Guests {
		if err := r.window(ctx, v.target, d, v.table, Within{Through: v.end.Guests, Snapshot: v.id}); err != nil {
			return err
		}
	}
	from, end := d.pos.Next, v.end.Next
	if from.Covers(end) {
		return nil
	}
	pos := greatest(from, make(record.Offsets, len(end)))
	for piece, err := range v.table.Ordered(ctx, dataset.OrderedOptions{ScanOptions: dataset.ScanOptions{
		SnapshotID: v.id, Schema: d.plan.scan, Filter: d.plan.where, View: v.target.Number, From: from, To: end, BatchBytes: d.plan.memory.cold,
	}}) {
		if err != nil {
			return err
		}
		yield := func(c chunk, err error) bool { return err == nil && d.deliver(ctx, c) }
		if err := d.plan.within(ctx, piece.Rows, v.target.Number, from, end, pos, yield); err != nil {
			return err
		}
	}
	return nil
}
