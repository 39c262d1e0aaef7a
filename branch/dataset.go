package branch

import (
	"context"
	"errors"
	"fmt"

	"github.com/apache/iceberg-go"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// CreateDataset makes a dataset without a stream, with its branch main and an empty
// table. Errors: record.ErrExists, record.ErrInvalid.
//
// Name and table come into being in one transaction; a crash before leaves a file
// that nothing names.
func (d *Directory) CreateDataset(ctx context.Context, name string, s *schema.Schema, settings catalog.Settings) (catalog.Stream, catalog.Branch, error) {
	fail := func(err error) (catalog.Stream, catalog.Branch, error) {
		return catalog.Stream{}, catalog.Branch{}, fmt.Errorf("create dataset %.200s: %w", name, err)
	}
	ns, short, err := catalog.ParseName(name)
	if err != nil {
		return fail(err)
	}
	if s, _, err = fresh(s, schema.FirstUserID); err != nil {
		return fail(err)
	}
	if field := defaulted(s.Fields); field != "" {
		return fail(fmt.Errorf("field %q has a default, which a dataset cannot keep: %w", field, record.ErrInvalid))
	}
	if _, err := d.o.Catalog.Stream(ctx, ns, short); err == nil {
		return fail(fmt.Errorf("choose another name or delete that one first: %w", record.ErrExists))
	}
	n := catalog.NewDataset{Namespace: ns, Name: short, Settings: settings, TableUUID: uuid.NewString()}
	if n.Location, err = d.o.Datasets.Prepare(ctx, n.TableUUID, s, map[string]string{"thermocline.dataset": ns + "." + short}); err != nil {
		return fail(err)
	}
	stream, b, err := d.o.Catalog.CreateDataset(ctx, n)
	switch {
	case err == nil:
		return stream, b, nil
	case errors.Is(err, catalog.ErrOutcomeUnknown):
		look, cancel := behind(ctx)
		defer cancel()
		stream, b, lerr := d.o.Catalog.Resolve(look, ns, short, catalog.MainBranch)
		if lerr == nil && b.TableUUID == n.TableUUID {
			return stream, b, nil
		}
		// Not known, so that the file stays.
	default:
		d.o.Datasets.DropMetadata(context.WithoutCancel(ctx), n.Location)
	}
	return fail(err)
}

// defaulted names a field with a default, at any depth; "" if there is none.
func defaulted(fields []schema.Field) string {
	for i := range fields {
		if name := defaultedPart(&fields[i]); name != "" {
			return name
		}
	}
	return ""
}

func defaultedPart(f *schema.Field) string {
	if f.Default != nil {
		return f.Name
	}
	if f.Type.Element != nil {
		return defaultedPart(f.Type.Element)
	}
	if f.Type.Value != nil {
		return defaultedPart(f.Type.Value)
	}
	return defaulted(f.Type.Fields)
}

// DeleteDataset deletes a dataset without a stream, with all its branches. Its name
// is free at once, its files go after a grace period.
func (d *Directory) DeleteDataset(ctx context.Context, name string) error {
	s, _, err := d.lookup(ctx, name, catalog.MainBranch)
	if err == nil && s.Kind != catalog.KindDataset {
		err = fmt.Errorf("it is the dataset of a stream, which goes with the stream: %w", record.ErrInvalid)
	}
	if err == nil {
		_, err = d.o.Catalog.DeleteStream(ctx, s.ID, d.o.Now().Add(d.o.TrashGrace))
	}
	if err != nil {
		return fmt.Errorf("delete dataset %.200s: %w", name, err)
	}
	return nil
}

// maxStarts is how often a start is tried while others commit to the tables.
const maxStarts = 8

// Start starts a stream on a dataset, with all its branches: rows that are there
// stay, and come before those that are published from now on. Every column must
// have a type that rows can have. record.ErrExists if it is a stream already,
// record.ErrConflict while a transaction is open.
//
// First each table gets the system columns and an empty snapshot with the marker of
// the branch's view: it is still a dataset then, and the same after a crash; starting
// again finds that done. Then one transaction of the catalog makes it a stream, if no
// table has moved meanwhile. A crash behind it leaves a stream that Open opens.
func (d *Directory) Start(ctx context.Context, name string, edit func(catalog.Settings) catalog.Settings) (*State, error) {
	fail := func(err error) (*State, error) {
		return nil, fmt.Errorf("start a stream on dataset %.200s: %w", name, err)
	}
	d.creating.Lock()
	defer d.creating.Unlock()
	for try := 1; ; try++ {
		s, _, err := d.lookup(ctx, name, catalog.MainBranch)
		if err != nil {
			return fail(err)
		}
		if s.Kind != catalog.KindDataset {
			err := fmt.Errorf("it is a stream already: %w", record.ErrExists)
			_, _, aerr := d.adopt(ctx, s.FullName(), catalog.MainBranch)
			return fail(errors.Join(err, aerr))
		}
		starts, err := d.prepare(ctx, s, edit)
		if err == nil {
			s, _, err = d.o.Catalog.StartStream(ctx, s.ID, starts)
		}
		switch {
		case err == nil, errors.Is(err, catalog.ErrOutcomeUnknown):
			return d.started(ctx, name, err)
		case !errors.Is(err, record.ErrConflict) && !errors.Is(err, record.ErrFenced) || try == maxStarts:
			return fail(err)
		}
	}
}

// started opens the stream, if there is one.
func (d *Directory) started(ctx context.Context, name string, err error) (*State, error) {
	// From here on whoever asked may have gone away.
	ctx, cancel := behind(ctx)
	defer cancel()
	s, _, lerr := d.lookup(ctx, name, catalog.MainBranch)
	if lerr == nil && s.Kind == catalog.KindStream {
		if err = d.openStream(ctx, s); err == nil {
			return d.Resolve(s.FullName(), catalog.MainBranch)
		}
		for after := catalog.BranchID(0); ; { // or open it later
			branches, lerr := d.o.Catalog.Branches(ctx, s.ID, after, catalog.MaxPage)
			for _, b := range branches {
				after = b.ID
				d.unopened[key(s.FullName(), b.Name)] = true
			}
			if lerr != nil || len(branches) < catalog.MaxPage {
				break
			}
		}
	}
	return nil, fmt.Errorf("start a stream on dataset %.200s: %w", name, errors.Join(err, lerr))
}

// prepare brings the tables of a dataset into the form that streams have.
func (d *Directory) prepare(ctx context.Context, s catalog.Stream, edit func(catalog.Settings) catalog.Settings) ([]catalog.BranchStart, error) {
	var starts []catalog.BranchStart
	for after := catalog.BranchID(0); ; {
		branches, err := d.o.Catalog.Branches(ctx, s.ID, after, catalog.MaxPage)
		if err != nil {
			return nil, err
		}
		for _, b := range branches {
			after = b.ID
			start, err := d.prepareBranch(ctx, s, b, edit)
			if err != nil {
				return nil, fmt.Errorf("branch %s: %w", b.Name, err)
			}
			starts = append(starts, start)
		}
		if len(branches) < catalog.MaxPage {
			return starts, nil
		}
	}
}

func (d *Directory) prepareBranch(ctx context.Context, s catalog.Stream, b catalog.Branch, edit func(catalog.Settings) catalog.Settings) (catalog.BranchStart, error) {
	start := catalog.BranchStart{Branch: b.ID, Version: b.Version, Settings: edit(b.Settings).WithDefaults()}
	if err := start.Settings.Validate(); err != nil {
		return start, err
	}
	t, err := d.o.Datasets.Load(ctx, b.TableUUID)
	if err != nil {
		return start, err
	}
	sc, err := schema.FromIceberg(t.Schema())
	if err != nil {
		return start, fmt.Errorf("rows cannot be published to it: %w", err)
	}
	if err := checkColumns(sc, start.Settings); err != nil {
		return start, err
	}
	t, err = d.o.Datasets.Commit(ctx, b.TableUUID, dataset.Commit{
		Base: t, Schema: sc,
		Marker: &dataset.Marker{
			View: b.View.ID, ViewNumber: b.View.Number, Offsets: record.Offsets{},
			CommitID: uuid.NewString(), Cluster: d.o.Catalog.ClusterID(),
		},
		// Not over the head of somebody who changed the schema since.
		Check: func(now *dataset.Table) error {
			if !now.Schema().Equals(t.Schema()) {
				return fmt.Errorf("its schema was changed meanwhile: %w", record.ErrConflict)
			}
			return nil
		},
		Swap: func(ctx context.Context, from, to string, _ int64) error {
			return d.o.Catalog.SwapDatasetPointer(ctx, b.TableUUID, from, to)
		},
	})
	if err != nil {
		return start, err
	}
	start.Location = t.MetadataLocation()
	next := max(s.NextFieldID, schema.FirstUserID)
	for _, old := range t.Metadata().Schemas() {
		next = max(next, highestUserID(old)+1)
	}
	start.Schema = catalog.NewSchema{Schema: sc, NextFieldID: next}
	return start, nil
}

// highestUserID is the highest field id in a table's schema that is not a system
// column's.
func highestUserID(s *iceberg.Schema) int {
	highest := 0
	fields, err := iceberg.IndexByID(s)
	if err != nil {
		return 0 // a schema that names an id twice: it is none that a table can have
	}
	for id := range fields {
		if !schema.IsSystemID(id) {
			highest = max(highest, id)
		}
	}
	return highest
}
