package branch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// followTime bounds what is done behind a change in the catalog, whatever
// becomes of the one who asked for it.
const followTime = 30 * time.Second

func behind(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), followTime)
}

// mend brings a stale entry back in step with the catalog; e is locked. On an
// error it stays stale: publishes are refused, reads and archives go on with the
// old state, and Run tries again.
func (d *Directory) mend(ctx context.Context, e *entry) error {
	if !e.stale.Load() {
		return nil
	}
	st := e.state.Load()
	if st == nil {
		return nil
	}
	next, err := d.reload(ctx, e.id)
	if err != nil {
		return fmt.Errorf("bring %s in step with the catalog: %w; it is tried again", st.Name(), err)
	}
	if next == nil {
		d.mu.Lock()
		delete(d.byName, key(st.Stream.FullName(), st.Branch.Name))
		delete(d.byID, e.id)
		d.mu.Unlock()
	}
	e.state.Store(next)
	e.stale.Store(false)
	if next != nil {
		return nil
	}
	// A crash here leaves views that no branch has; Open drops them, and repair
	// those that cannot be dropped now.
	for _, v := range st.views() {
		d.dropLater(ctx, v.ID)
	}
	return nil
}

// dropLater drops a view of a branch that is gone, now or when repair comes.
func (d *Directory) dropLater(ctx context.Context, v record.ViewID) {
	err := d.drop(ctx, v)
	if err != nil {
		d.o.Logger.Warn("drop the view of a deleted branch; it is tried again", "error", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if delete(d.undropped, v); err != nil {
		d.undropped[v] = true
	}
}

// reload reads a branch from the catalog; nil if it is gone.
func (d *Directory) reload(ctx context.Context, id catalog.BranchID) (*State, error) {
	b, err := d.o.Catalog.BranchByID(ctx, id)
	if errors.Is(err, record.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s, err := d.o.Catalog.StreamByID(ctx, b.Stream)
	if err != nil {
		return nil, err
	}
	return d.follow(ctx, s, b)
}

// adopt opens a branch of a stream that the catalog has and this directory has
// not; creating is held.
func (d *Directory) adopt(ctx context.Context, full, branch string) (st *State, adopted bool, err error) {
	if _, st, err := d.find(full, branch); err == nil {
		return st, false, nil
	}
	ns, name, err := catalog.ParseName(full)
	if err != nil {
		return nil, false, err
	}
	s, b, err := d.o.Catalog.Resolve(ctx, ns, name, branch)
	if errors.Is(err, record.ErrNotFound) || err == nil && s.Kind != catalog.KindStream {
		delete(d.unopened, key(full, branch))
		return nil, false, nil
	}
	if err == nil {
		st, err = d.openBranch(ctx, s, b)
	}
	if err != nil {
		d.unopened[key(full, branch)] = true
		return nil, false, fmt.Errorf("open stream %s: %w; it is tried again", displayName(full, branch), err)
	}
	delete(d.unopened, key(full, branch))
	return st, true, nil
}

// repair tries again what did not work before.
func (d *Directory) repair(ctx context.Context) error {
	d.mu.RLock()
	var stale []*entry
	for _, e := range d.byID {
		if e.stale.Load() {
			stale = append(stale, e)
		}
	}
	undropped := slices.Collect(maps.Keys(d.undropped))
	d.mu.RUnlock()
	for _, v := range undropped {
		d.dropLater(ctx, v)
	}
	var errs []error
	for _, e := range stale {
		e.lock()
		errs = append(errs, d.mend(ctx, e))
		e.unlock()
	}
	d.creating.Lock()
	defer d.creating.Unlock()
	for name := range d.unopened {
		full, branch, _ := strings.Cut(name, "@")
		_, _, err := d.adopt(ctx, full, branch)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
