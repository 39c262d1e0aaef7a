package branch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// NewBranch is a branch to be made.
type NewBranch struct {
	Name string
	From From
	// Settings, if set, gets the source's settings and returns the branch's. They
	// may differ in anything: the branch has a view of its own.
	Settings func(catalog.Settings) catalog.Settings
	Policy   catalog.Policy
}

// From is what a branch begins with: the rows of another branch as they are now,
// with every one that was acknowledged before the call, or as they were at one of
// the other places, of which at most one is given.
type From struct {
	Branch   string // of the same stream; empty: main
	Snapshot int64  // of its dataset
	Tag      string // on its dataset
	// Time: the snapshot that was its dataset's head then.
	Time time.Time
	// Position: the rows below it.
	Position *Position
}

// Position is a place between the rows of a view.
type Position struct {
	View record.ViewID
	Next record.Offsets
}

// CreateBranch makes a branch of a stream, or of a dataset without one, that shares
// its first rows with another branch; no data is copied. It takes its own rows,
// settings and schema changes from then on. The state of a dataset's branch lacks a
// schema: its table has it. Errors: record.ErrExists,
// record.ErrNotFound (no such stream, branch, snapshot or tag), record.ErrInvalid,
// record.ErrOutOfRange (the position is behind the last row, or the snapshots before
// it have expired), or those of an archive.
//
// The catalog's transaction is what makes the branch, with all that it needs: a
// crash before it leaves files that the trash knows, one behind it a branch that
// Open opens.
func (d *Directory) CreateBranch(ctx context.Context, stream string, n NewBranch) (*State, error) {
	ns, short, err := catalog.ParseName(stream)
	if err != nil {
		return nil, fmt.Errorf("create branch: %w", err)
	}
	if n.From.Branch == "" {
		n.From.Branch = catalog.MainBranch
	}
	fail := func(err error) (*State, error) {
		return nil, fmt.Errorf("create branch %q of %s.%s from %s: %w", n.Name, ns, short, n.From.Branch, err)
	}
	if err := n.validate(); err != nil {
		return fail(err)
	}
	s, b, err := d.o.Catalog.Resolve(ctx, ns, short, n.From.Branch)
	if err != nil {
		return fail(err)
	}
	if s.Kind == catalog.KindStream && n.From.present(b) {
		if err := d.o.Archive(ctx, b.ID); err != nil {
			return fail(fmt.Errorf("archive the rows that it begins with: %w", err))
		}
	}
	// Up to the pointer, nothing that it shares may be erased.
	end, err := d.o.Datasets.Share(ctx)
	if err != nil {
		return fail(err)
	}
	defer end()
	f := &fork{d: d, n: n, stream: s}
	if err := f.look(ctx); err != nil {
		return fail(err)
	}
	if err := f.prepare(ctx); err != nil {
		return fail(err)
	}
	st, err := f.create(ctx)
	if err != nil {
		return fail(err)
	}
	return st, nil
}

func (n *NewBranch) validate() error {
	if err := catalog.ValidateName("branch name", n.Name); err != nil {
		return err
	}
	places := 0
	for _, given := range []bool{n.From.Snapshot != 0, n.From.Tag != "", !n.From.Time.IsZero(), n.From.Position != nil} {
		if given {
			places++
		}
	}
	if places > 1 {
		return fmt.Errorf("%d places to begin at; give one of snapshot, tag, time and cursor: %w", places, record.ErrInvalid)
	}
	return n.Policy.Validate()
}

// present tells whether a branch from there may begin with rows that are hot.
func (f *From) present(b catalog.Branch) bool {
	if f.Position != nil {
		return f.Position.View == b.View.ID
	}
	return f.Snapshot == 0 && f.Tag == "" && f.Time.IsZero()
}

// fork is the making of a branch.
type fork struct {
	d      *Directory
	n      NewBranch
	stream catalog.Stream

	source   catalog.Branch
	table    *dataset.Table
	start    start
	settings catalog.Settings
	// made is what the catalog is told.
	reserved catalog.Reserved
	made     catalog.NewBranch
}

// look finds the snapshot to begin with, and the schema and settings that fit.
func (f *fork) look(ctx context.Context) error {
	var err error
	// The branch before its table: a schema that rows of the table have been
	// written with is one that the branch had by then or before.
	if f.table, err = f.d.loadOf(ctx, f.stream.ID, f.n.From.Branch); err != nil {
		return err
	}
	if f.source, err = f.d.o.Catalog.Branch(ctx, f.stream.ID, f.n.From.Branch); err != nil {
		return err
	}
	if f.start, err = f.n.From.find(f.table, f.d.o.Now()); err != nil {
		return err
	}
	f.settings = f.source.Settings
	if f.n.Settings != nil {
		f.settings = f.n.Settings(f.settings).WithDefaults()
	}
	f.made = catalog.NewBranch{
		Stream: f.stream.ID, Kind: f.stream.Kind, Name: f.n.Name, Settings: f.settings, Policy: f.n.Policy,
		Origin: catalog.Origin{Branch: f.source.Name, Table: f.source.TableUUID, Snapshot: f.start.snapshot},
	}
	return f.findSchema(ctx)
}

// loadOf loads the table of a branch.
func (d *Directory) loadOf(ctx context.Context, stream catalog.StreamID, branch string) (*dataset.Table, error) {
	b, err := d.o.Catalog.Branch(ctx, stream, branch)
	if err != nil {
		return nil, err
	}
	return d.o.Datasets.Load(ctx, b.TableUUID)
}

// findSchema finds the schema that the chosen snapshot has in the catalog. A table
// does not hold all that a schema says, so that the newest of those that look the
// same there is taken.
func (f *fork) findSchema(ctx context.Context) error {
	if f.stream.Kind != catalog.KindStream {
		f.made.SchemaID = f.source.SchemaID // the table's own is the one that counts
		return nil
	}
	s, err := f.d.o.Catalog.SchemaByID(ctx, f.source.SchemaID)
	if err != nil {
		return err
	}
	head, _ := f.table.Head()
	if f.start.schemaAt() == head.ID && f.n.From.present(f.source) {
		f.made.SchemaID = s.ID // the table may lag behind it, as the source's does
		return f.checkColumns(s)
	}
	want := f.table.SchemaAt(f.start.schemaAt())
	for before := int32(0); ; {
		ids, err := f.d.o.Catalog.StreamSchemas(ctx, f.stream.ID, before, catalog.MaxPage)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if s, err = f.d.o.Catalog.SchemaByID(ctx, id); err != nil {
				return err
			}
			same, err := dataset.SameSchema(s, want)
			if err != nil {
				return err
			}
			if same {
				f.made.SchemaID = id
				return f.checkColumns(s)
			}
			before = id
		}
		if len(ids) < catalog.MaxPage {
			break
		}
	}
	// An engine made it.
	if s, err = schema.FromIceberg(want); err != nil {
		return err
	}
	now, err := f.d.o.Catalog.StreamByID(ctx, f.stream.ID)
	if err != nil {
		return err
	}
	f.made.Schema = &catalog.NewSchema{Schema: s, FirstFieldID: now.NextFieldID, NextFieldID: now.NextFieldID}
	return f.checkColumns(s)
}

func (f *fork) checkColumns(s *schema.Schema) error {
	if err := checkColumns(s, f.settings); err != nil {
		return fmt.Errorf("the snapshot's schema is another one than the branch has now: %w; give the branch keyFields of its own", err)
	}
	return nil
}

// prepare stores the first metadata of the new table. A crash, or an error, leaves
// what the trash has been told to look for.
func (f *fork) prepare(ctx context.Context) error {
	var err error
	if f.reserved, err = f.d.o.Catalog.ReserveBranch(ctx, f.stream.ID, f.d.o.Now().Add(f.d.o.TrashGrace)); err != nil {
		return err
	}
	o := dataset.ForkOptions{
		ID: f.reserved.TableUUID, Snapshot: f.start.snapshot, Stretch: f.start.stretch,
		Properties: map[string]string{"thermocline.stream": f.stream.FullName(), "thermocline.branch": f.n.Name},
	}
	if f.stream.Kind == catalog.KindStream {
		o.Marker = &dataset.Marker{
			View: f.reserved.View, ViewNumber: f.reserved.Number, Offsets: record.Offsets{},
			CommitID: uuid.NewString(), Cluster: f.d.o.Catalog.ClusterID(),
		}
	}
	f.made.Location, err = f.table.Fork(ctx, o)
	return err
}

// create makes the branch.
func (f *fork) create(ctx context.Context) (*State, error) {
	d, full := f.d, f.stream.FullName()
	d.creating.Lock()
	defer d.creating.Unlock()
	b, err := d.o.Catalog.CreateBranch(ctx, f.reserved, f.made)
	// From here on whoever asked may have gone away.
	ctx, cancel := behind(ctx)
	defer cancel()
	if errors.Is(err, catalog.ErrOutcomeUnknown) {
		found, ferr := d.o.Catalog.Branch(ctx, f.stream.ID, f.n.Name)
		if ferr == nil && found.TableUUID == f.reserved.TableUUID {
			b, err = found, nil
		}
	}
	if err != nil {
		// Perhaps it is there all the same, or from an earlier call that failed.
		if f.stream.Kind == catalog.KindStream {
			_, _, aerr := d.adopt(ctx, full, f.n.Name)
			err = errors.Join(err, aerr)
		}
		return nil, err
	}
	if f.stream.Kind != catalog.KindStream {
		return &State{Stream: f.stream, Branch: b}, nil // its schema is in its table
	}
	st, err := d.openBranch(ctx, f.stream, b)
	if err != nil {
		d.unopened[key(full, b.Name)] = true
		return nil, fmt.Errorf("it is made, but cannot be opened yet: %w", err)
	}
	return st, nil
}
