package branch

import (
	"context"
	"errors"
	"fmt"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Create makes a stream with its branch main. name is "name" or
// "namespace.name". Errors: record.ErrExists, record.ErrInvalid.
//
// A crash behind the catalog's transaction leaves a stream that Open completes.
func (d *Directory) Create(ctx context.Context, name string, s *schema.Schema, settings catalog.Settings) (*State, error) {
	ns, short, err := catalog.ParseName(name)
	if err != nil {
		return nil, fmt.Errorf("create stream: %w", err)
	}
	fail := func(err error) (*State, error) {
		return nil, fmt.Errorf("create stream %s.%s: %w", ns, short, err)
	}
	settings = settings.WithDefaults()
	s, next, err := fresh(s, schema.FirstUserID)
	if err != nil {
		return fail(err)
	}
	if err := checkKey(s, settings); err != nil {
		return fail(err)
	}
	stream, b, err := d.o.Catalog.CreateStream(ctx, catalog.NewStream{
		Namespace: ns, Name: short, Settings: settings,
		Schema: catalog.NewSchema{Schema: s, FirstFieldID: schema.FirstUserID, NextFieldID: next},
	})
	if err != nil {
		return fail(err)
	}
	if err := d.openBranch(ctx, stream, b); err != nil {
		// Take the name back; if that fails too, the next start completes it.
		_, derr := d.o.Catalog.DeleteStream(ctx, stream.ID, d.o.Now())
		return fail(errors.Join(err, derr))
	}
	return d.Resolve(stream.FullName(), b.Name)
}

// fresh gives every field a new id from first on, whatever ids it came with:
// ids are the dataset's to allocate.
func fresh(s *schema.Schema, first int) (*schema.Schema, int, error) {
	if s == nil {
		return nil, 0, fmt.Errorf("a schema is needed: %w", record.ErrInvalid)
	}
	s, next := s.FreshIDs(first)
	return s, next, s.Validate()
}

// checkKey makes sure that the key fields exist and can be keys.
func checkKey(s *schema.Schema, settings catalog.Settings) error {
	if len(settings.KeyFields) == 0 {
		return nil
	}
	_, err := schema.CompileKey(s, settings.KeyFields)
	return err
}

// begin locks a branch for a change.
func (d *Directory) begin(stream, branch string) (*entry, *State, error) {
	e, _, err := d.find(stream, branch)
	if err != nil {
		return nil, nil, err
	}
	e.change.Lock()
	st := e.state.Load()
	if st == nil {
		e.change.Unlock()
		return nil, nil, fmt.Errorf("stream %s: it was deleted: %w", stream, record.ErrNotFound)
	}
	return e, st, nil
}

// UpdateSettings changes settings. edit gets the current ones and returns the
// new ones. Changed key fields or more partitions send rows that come from now on
// elsewhere; in the view's order they still follow those before.
func (d *Directory) UpdateSettings(ctx context.Context, stream, branch string, edit func(catalog.Settings) catalog.Settings) (*State, error) {
	e, st, err := d.begin(stream, branch)
	if err != nil {
		return nil, err
	}
	defer e.change.Unlock()
	settings := edit(st.Branch.Settings).WithDefaults()
	fail := func(err error) (*State, error) {
		return nil, fmt.Errorf("change settings of %s: %w", st.Name(), err)
	}
	if err := checkKey(st.Schema, settings); err != nil {
		return fail(err)
	}
	// A key may move to another partition. The cut sets the rows before apart
	// in time, so that the view's order keeps the key's.
	e.gate.Lock()
	defer e.gate.Unlock()
	if _, err := d.o.Buffer.Cut(ctx, st.Branch.View.ID); err != nil {
		return fail(err)
	}
	b, err := d.o.Catalog.UpdateSettings(ctx, st.Branch.ID, st.Branch.Version, settings)
	if err != nil {
		return fail(err)
	}
	// The hot buffer learns of it before any publish can use it.
	if err := d.o.Buffer.Open(ctx, b.View.ID, hotSettings(b.Settings, b.View)); err != nil {
		return fail(err)
	}
	return d.store(e, *st, b), nil
}

func (d *Directory) store(e *entry, next State, b catalog.Branch) *State {
	next.Branch = b
	e.state.Store(&next)
	return &next
}

// Evolve makes proposed the branch's schema, by the rules of schema.Evolve. Rows
// stored under older schemas read as the new one.
func (d *Directory) Evolve(ctx context.Context, stream, branch string, proposed *schema.Schema) (*State, error) {
	e, st, err := d.begin(stream, branch)
	if err != nil {
		return nil, err
	}
	defer e.change.Unlock()
	fail := func(err error) (*State, error) {
		return nil, fmt.Errorf("evolve the schema of %s: %w", st.Name(), err)
	}
	// Another branch may have taken field ids since.
	s, err := d.o.Catalog.StreamByID(ctx, st.Stream.ID)
	if err != nil {
		return fail(err)
	}
	evolved, next, err := schema.Evolve(st.Schema, proposed, s.NextFieldID)
	if err != nil {
		return fail(err)
	}
	if evolved.Equal(st.Schema) {
		return st, nil
	}
	if err := checkKey(evolved, st.Branch.Settings); err != nil {
		return fail(fmt.Errorf("%w; change keyFields first", err))
	}
	registered, b, err := d.o.Catalog.AddSchema(ctx, st.Branch.ID, st.Branch.Version, catalog.NewSchema{
		Schema: evolved, FirstFieldID: s.NextFieldID, NextFieldID: next,
	})
	if err != nil {
		return fail(err)
	}
	changed := *st
	changed.Schema, changed.Stream.NextFieldID = registered, next
	return d.store(e, changed, b), nil
}

// Reset begins a new view: offsets from 0, no rows. proposed may be any schema
// (nil: the current one), and edit may change any setting, partitions down as
// well. Every row acknowledged before is in the old view and will be in the
// dataset's history; every publish answered afterwards is in the new one.
//
// The catalog's transaction is the reset. A crash behind it leaves a view to
// drain, which the archiver does.
func (d *Directory) Reset(ctx context.Context, stream, branch string, proposed *schema.Schema, edit func(catalog.Settings) catalog.Settings) (*State, error) {
	e, st, err := d.begin(stream, branch)
	if err != nil {
		return nil, err
	}
	defer e.change.Unlock()
	fail := func(err error) (*State, error) {
		return nil, fmt.Errorf("reset %s: %w", st.Name(), err)
	}
	settings := edit(st.Branch.Settings).WithDefaults()
	reset := catalog.Reset{Settings: &settings}
	if proposed != nil {
		s, err := d.o.Catalog.StreamByID(ctx, st.Stream.ID)
		if err != nil {
			return fail(err)
		}
		evolved, next, err := schema.Evolve(st.Schema, proposed, s.NextFieldID)
		if err != nil {
			// No evolution of the old one: then none of its fields live on.
			if evolved, next, err = fresh(proposed, s.NextFieldID); err != nil {
				return fail(err)
			}
		}
		if !evolved.Equal(st.Schema) {
			reset.Schema = &catalog.NewSchema{Schema: evolved, FirstFieldID: s.NextFieldID, NextFieldID: next}
		}
	}
	now := st.Schema
	if reset.Schema != nil {
		now = reset.Schema.Schema
	}
	if err := checkKey(now, settings); err != nil {
		return fail(err)
	}

	e.gate.Lock() // publishes under way have ended; those that come wait
	defer e.gate.Unlock()
	b, err := d.o.Catalog.ResetBranch(ctx, st.Branch.ID, st.Branch.Version, reset)
	if err != nil {
		return fail(err)
	}
	if err := d.o.Buffer.Open(ctx, b.View.ID, hotSettings(b.Settings, b.View)); err != nil {
		return fail(err)
	}
	changed, err := d.load(ctx, st.Stream, b)
	if err != nil {
		return fail(err)
	}
	e.state.Store(changed)
	return changed, nil
}

// Delete deletes a stream with all its branches. Its name is free at once, its
// hot rows are gone, its files go after a grace period.
func (d *Directory) Delete(ctx context.Context, stream string) error {
	e, st, err := d.begin(stream, catalog.MainBranch)
	if err != nil {
		return fmt.Errorf("delete stream: %w", err)
	}
	defer e.change.Unlock()
	views, err := d.o.Catalog.DeleteStream(ctx, st.Stream.ID, d.o.Now().Add(d.o.TrashGrace))
	if err != nil {
		return fmt.Errorf("delete stream %s: %w", st.Stream.FullName(), err)
	}
	d.mu.Lock()
	for k, o := range d.byName {
		if s := o.state.Load(); s != nil && s.Stream.ID == st.Stream.ID {
			o.state.Store(nil)
			delete(d.byName, k)
			delete(d.byID, s.Branch.ID)
		}
	}
	d.mu.Unlock()
	// A crash from here on leaves views that no branch has; Open drops them.
	var errs []error
	for _, v := range views {
		if err := d.o.Buffer.Drop(ctx, v); err != nil && !errors.Is(err, record.ErrNotFound) {
			errs = append(errs, fmt.Errorf("delete stream %s: drop view %s: %w", st.Stream.FullName(), v, err))
		}
	}
	return errors.Join(errs...)
}
