package branch

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
	if err := checkColumns(s, settings); err != nil {
		return fail(err)
	}
	d.creating.Lock()
	defer d.creating.Unlock()
	stream, b, err := d.o.Catalog.CreateStream(ctx, catalog.NewStream{
		Namespace: ns, Name: short, Settings: settings,
		Schema: catalog.NewSchema{Schema: s, FirstFieldID: schema.FirstUserID, NextFieldID: next},
	})
	// From here on whoever asked may have gone away.
	ctx, cancel := behind(ctx)
	defer cancel()
	if err != nil {
		// Perhaps it is there all the same, or from an earlier call that failed.
		st, adopted, aerr := d.adopt(ctx, ns+"."+short, catalog.MainBranch)
		if adopted && errors.Is(err, catalog.ErrOutcomeUnknown) {
			return st, nil
		}
		return fail(errors.Join(err, aerr))
	}
	st, err := d.openBranch(ctx, stream, b)
	if err != nil {
		// Take the name back.
		views, derr := d.o.Catalog.DeleteStream(ctx, stream.ID, d.o.Now())
		for _, v := range views {
			d.dropLater(ctx, v)
		}
		if derr != nil {
			d.unopened[key(stream.FullName(), catalog.MainBranch)] = true // or complete it later
		}
		return fail(errors.Join(err, derr))
	}
	return st, nil
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

// checkColumns makes sure that the columns that settings name exist and can be what
// they are named for.
func checkColumns(s *schema.Schema, settings catalog.Settings) error {
	if len(settings.KeyFields) > 0 {
		if _, err := schema.CompileKey(s, settings.KeyFields); err != nil {
			return fmt.Errorf("keyFields: %w", err)
		}
	}
	_, err := settings.Layout(s)
	return err
}

// change makes one change to a branch: publishes under way have ended, those
// that come wait. apply makes it in the catalog, which is the change; the state
// is then read back from there, and table and hot buffer follow. So it is after
// an error, too: the change may have been made all the same, or another one
// that this process did not know of.
//
// A crash in between leaves what Open completes.
func (d *Directory) change(ctx context.Context, stream, branch, what string, apply func(*State) error) (*State, error) {
	e, _, err := d.find(stream, branch)
	if err != nil {
		return nil, err
	}
	e.lock()
	defer e.unlock()
	if err := d.mend(ctx, e); err != nil {
		return nil, err
	}
	st := e.state.Load()
	if st == nil {
		return nil, deleted(stream)
	}
	err = apply(st)
	switch {
	case errors.Is(err, errUnchanged):
		return st, nil
	case errors.Is(err, record.ErrInvalid): // it was refused
		return nil, fmt.Errorf("%s %s: %w", what, st.Name(), err)
	}
	ctx, cancel := behind(ctx)
	defer cancel()
	e.stale.Store(true)
	if merr := d.mend(ctx, e); merr != nil {
		if err == nil {
			err = errors.New("the change is made, but the rest has not followed yet")
		}
		err = errors.Join(err, merr)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, st.Name(), err)
	}
	if st = e.state.Load(); st == nil {
		return nil, deleted(stream)
	}
	return st, nil
}

// errUnchanged: there is nothing to change.
var errUnchanged = errors.New("unchanged")

func deleted(stream string) error {
	return fmt.Errorf("stream %s: it was deleted: %w", stream, record.ErrNotFound)
}

// UpdateSettings changes settings. edit gets the current ones and returns the
// new ones. Changed key fields or more partitions send rows that come from now on
// elsewhere; in the view's order they still follow those before.
func (d *Directory) UpdateSettings(ctx context.Context, stream, branch string, edit func(catalog.Settings) catalog.Settings) (*State, error) {
	return d.change(ctx, stream, branch, "change settings of", func(st *State) error {
		old := st.Branch.Settings
		settings := edit(old).WithDefaults()
		if err := settings.Validate(); err != nil {
			return err
		}
		if err := checkColumns(st.Schema, settings); err != nil {
			return err
		}
		if settings.Partitions != old.Partitions || !slices.Equal(settings.KeyFields, old.KeyFields) {
			// A key may move to another partition. The cut sets the rows before
			// apart in time, so that the view's order keeps the key's.
			if _, err := d.o.Buffer.Cut(ctx, st.Branch.View.ID); err != nil {
				return err
			}
		}
		_, err := d.o.Catalog.UpdateSettings(ctx, st.Branch.ID, st.Branch.Version, settings)
		return err
	})
}

// Evolve makes proposed the branch's schema, by the rules of schema.Evolve. Rows
// stored under older schemas read as the new one.
func (d *Directory) Evolve(ctx context.Context, stream, branch string, proposed *schema.Schema) (*State, error) {
	return d.change(ctx, stream, branch, "evolve the schema of", func(st *State) error {
		return d.withFieldIDs(ctx, st, func(first int) error {
			evolved, next, err := schema.Evolve(st.Schema, proposed, first)
			if err != nil {
				return err
			}
			if evolved.Equal(st.Schema) {
				return errUnchanged
			}
			if err := checkColumns(evolved, st.Branch.Settings); err != nil {
				return fmt.Errorf("%w; change that setting first", err)
			}
			_, _, err = d.o.Catalog.AddSchema(ctx, st.Branch.ID, st.Branch.Version, catalog.NewSchema{
				Schema: evolved, FirstFieldID: first, NextFieldID: next,
			})
			return err
		})
	})
}

// Adopt makes a schema the branch's whose new fields have ids already, because
// another engine or another branch gave them to a table: by the rules of
// schema.Adopt, of which known are the fields of the other branch (nil: none).
// propose gets the current schema. A change that is none does nothing.
//
// The catalog has the schema when it returns; the table is for the caller to
// follow.
func (d *Directory) Adopt(ctx context.Context, stream, branch string, known *schema.Schema, propose func(now *schema.Schema) (*schema.Schema, error)) (*State, error) {
	return d.change(ctx, stream, branch, "change the schema of", func(st *State) error {
		return d.withFieldIDs(ctx, st, func(first int) error {
			proposed, err := propose(st.Schema)
			if err != nil {
				return err
			}
			adopted, next, err := schema.Adopt(st.Schema, proposed, first, known)
			if err != nil {
				return err
			}
			if adopted.Equal(st.Schema) {
				return errUnchanged
			}
			if err := checkColumns(adopted, st.Branch.Settings); err != nil {
				return fmt.Errorf("%w; change that setting first", err)
			}
			_, _, err = d.o.Catalog.AddSchema(ctx, st.Branch.ID, st.Branch.Version, catalog.NewSchema{
				Schema: adopted, FirstFieldID: first, NextFieldID: next,
			})
			return err
		})
	})
}

// withFieldIDs calls f with the stream's next free field id, again if another
// branch of the stream took it meanwhile.
func (d *Directory) withFieldIDs(ctx context.Context, st *State, f func(first int) error) error {
	for last := 0; ; {
		s, err := d.o.Catalog.StreamByID(ctx, st.Stream.ID)
		if err != nil {
			return err
		}
		if err = f(s.NextFieldID); !errors.Is(err, record.ErrConflict) || s.NextFieldID == last {
			return err // the same ids: the conflict is another one
		}
		last = s.NextFieldID
	}
}

// maxDraining bounds the views that wait for the archiver behind resets.
const maxDraining = 32

// Reset begins a new view: offsets from 0, no rows. proposed may be any schema
// (nil: the current one), and edit may change any setting, partitions down as
// well. Every row acknowledged before is in the old view and will be in the
// dataset's history; every publish answered afterwards is in the new one.
//
// The catalog's transaction is the reset. A crash behind it leaves a view to
// drain, which the archiver does.
func (d *Directory) Reset(ctx context.Context, stream, branch string, proposed *schema.Schema, edit func(catalog.Settings) catalog.Settings) (*State, error) {
	return d.change(ctx, stream, branch, "reset", func(st *State) error {
		if n := len(st.Draining); n >= maxDraining {
			return fmt.Errorf("%d views wait to be archived; archive the stream first: %w", n, record.ErrBusy)
		}
		if st.Branch.Policy.Protected {
			return fmt.Errorf("the branch is protected; end the protection first: %w", record.ErrConflict)
		}
		settings := edit(st.Branch.Settings).WithDefaults()
		if err := settings.Validate(); err != nil {
			return err
		}
		return d.withFieldIDs(ctx, st, func(first int) error {
			reset, now := catalog.Reset{Settings: &settings}, st.Schema
			if proposed != nil {
				s, next, err := schema.Evolve(st.Schema, proposed, first)
				if err != nil {
					// No evolution of the old one: then none of its fields live on.
					if s, next, err = fresh(proposed, first); err != nil {
						return err
					}
				}
				if !s.Equal(st.Schema) {
					reset.Schema, now = &catalog.NewSchema{Schema: s, FirstFieldID: first, NextFieldID: next}, s
				}
			}
			if err := checkColumns(now, settings); err != nil {
				return err
			}
			_, err := d.o.Catalog.ResetBranch(ctx, st.Branch.ID, st.Branch.Version, reset)
			return err
		})
	})
}

// Delete deletes a stream with all its branches. Its name is free at once, its
// hot rows are gone, its files go after a grace period.
func (d *Directory) Delete(ctx context.Context, stream string) error {
	_, main, err := d.find(stream, catalog.MainBranch)
	if err != nil {
		return fmt.Errorf("delete stream: %w", err)
	}
	all := d.entriesOf(main.Stream.ID)
	for _, e := range all {
		e.lock()
		defer e.unlock()
	}
	_, err = d.o.Catalog.DeleteStream(ctx, main.Stream.ID, d.o.Now().Add(d.o.TrashGrace))
	if err != nil {
		err = fmt.Errorf("delete stream %s: %w", main.Stream.FullName(), err)
	}
	ctx, cancel := behind(ctx)
	defer cancel()
	for _, e := range all {
		// The catalog says that it is gone, and then so it is here.
		e.stale.Store(true)
		if merr := d.mend(ctx, e); merr != nil {
			err = errors.Join(err, fmt.Errorf("delete stream %s: %w", main.Stream.FullName(), merr))
		}
	}
	return err
}

// entriesOf lists the branches of a stream in the order of their ids.
func (d *Directory) entriesOf(stream catalog.StreamID) []*entry {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var all []*entry
	for _, e := range d.byID {
		if st := e.state.Load(); st != nil && st.Stream.ID == stream {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b *entry) int { return int(a.id - b.id) })
	return all
}
