package branch

import (
	"context"
	"errors"
	"fmt"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// DeleteBranch says how a branch goes.
type DeleteBranch struct {
	// Subscribers go with it; otherwise a branch that has any is refused with
	// record.ErrConflict.
	Subscribers bool
	// If, if set, looks at the branch while no row comes in; its error keeps it.
	If func(*State) error
}

// DeleteBranch deletes a branch of a stream, or of a dataset without one: never
// main (record.ErrInvalid), not a protected one (record.ErrConflict). Its name is
// free at once, its hot rows are gone. Files go when no other branch has reached
// them for the grace; other branches lose nothing, whichever of them it was made
// from. The catalog's transaction is the deletion; a crash behind it leaves views
// that Open drops.
func (d *Directory) DeleteBranch(ctx context.Context, stream, branch string, o DeleteBranch) error {
	// The trash is looked at from now on: what is found unreached then waits for
	// the grace.
	remove := func(id catalog.BranchID) error {
		_, err := d.o.Catalog.DeleteBranch(ctx, id, o.Subscribers, d.o.Now())
		return err
	}
	e, st, err := d.find(stream, branch)
	if err != nil {
		return d.deleteDatasetBranch(ctx, stream, branch, o, remove)
	}
	e.lock()
	defer e.unlock()
	fail := func(err error) error { return fmt.Errorf("delete %s: %w", st.Name(), err) }
	if e.state.Load() == nil {
		return fail(fmt.Errorf("it was deleted already: %w", record.ErrNotFound))
	}
	if o.If != nil {
		if err := o.If(st); err != nil {
			return fail(err)
		}
	}
	if err = remove(st.Branch.ID); errors.Is(err, record.ErrInvalid) {
		return fail(err)
	}
	// Also where it was gone before: an earlier call may not have come further.
	ctx, cancel := behind(ctx)
	defer cancel()
	// The catalog says whether it is gone, and then so it is here.
	e.stale.Store(true)
	if merr := d.mend(ctx, e); merr != nil {
		err = errors.Join(err, merr)
	}
	if errors.Is(err, catalog.ErrOutcomeUnknown) && e.state.Load() == nil {
		err = nil
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// deleteDatasetBranch deletes a branch of a dataset without a stream, of which
// nothing is open.
func (d *Directory) deleteDatasetBranch(ctx context.Context, stream, branch string, o DeleteBranch, remove func(catalog.BranchID) error) error {
	s, b, err := d.lookup(ctx, stream, branch)
	if err == nil && s.Kind == catalog.KindStream {
		err = fmt.Errorf("%s is not open yet; try again: %w", displayName(s.FullName(), branch), record.ErrBusy)
	}
	if err == nil && o.If != nil {
		err = o.If(&State{Stream: s, Branch: b})
	}
	if err == nil {
		err = remove(b.ID)
	}
	if err != nil {
		return fmt.Errorf("delete branch: %w", err)
	}
	return nil
}

// lookup finds a branch of a stream, or of a dataset without one, in the catalog.
func (d *Directory) lookup(ctx context.Context, stream, branch string) (catalog.Stream, catalog.Branch, error) {
	ns, name, err := catalog.ParseName(stream)
	if err != nil {
		return catalog.Stream{}, catalog.Branch{}, err
	}
	s, b, err := d.o.Catalog.Resolve(ctx, ns, name, branch)
	if err != nil {
		return s, b, fmt.Errorf("branch %q of %s.%s: %w", branch, ns, name, err)
	}
	return s, b, nil
}

// SetPolicy changes what is kept of a branch. edit gets the current policy and
// returns the new one.
func (d *Directory) SetPolicy(ctx context.Context, stream, branch string, edit func(catalog.Policy) catalog.Policy) (catalog.Branch, error) {
	s, b, err := d.lookup(ctx, stream, branch)
	if err != nil {
		return catalog.Branch{}, fmt.Errorf("set the policy of a branch: %w", err)
	}
	if s.Kind != catalog.KindStream {
		if b, err = d.o.Catalog.SetPolicy(ctx, b.ID, b.Version, edit(b.Policy)); err != nil {
			return catalog.Branch{}, fmt.Errorf("set the policy of %s: %w", displayName(s.FullName(), branch), err)
		}
		return b, nil
	}
	st, err := d.change(ctx, stream, branch, "set the policy of", func(st *State) error {
		next := edit(st.Branch.Policy)
		if next == st.Branch.Policy {
			return errUnchanged
		}
		_, err := d.o.Catalog.SetPolicy(ctx, st.Branch.ID, st.Branch.Version, next)
		return err
	})
	if err != nil {
		return catalog.Branch{}, err
	}
	return st.Branch, nil
}
