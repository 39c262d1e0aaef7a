package branch

import (
	"context"
	"fmt"
	"slices"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// Enter returns the state of a branch for an append, and keeps it from changing
// until leave is called. It waits while a change is under way, which takes one
// catalog transaction. Unknown: record.ErrNotFound.
func (d *Directory) Enter(ctx context.Context, stream, branch string) (st *State, leave func(), err error) {
	e, _, err := d.find(stream, branch)
	if err != nil {
		return nil, nil, err
	}
	e.gate.RLock()
	for e.stale.Load() {
		e.gate.RUnlock()
		e.lock()
		err := d.mend(ctx, e)
		e.unlock()
		if err != nil {
			return nil, nil, err
		}
		e.gate.RLock()
	}
	if st = e.state.Load(); st == nil {
		err = deleted(stream)
	} else if err = ctx.Err(); err == nil {
		err = st.Lost
	}
	if err != nil {
		e.gate.RUnlock()
		return nil, nil, err
	}
	return st, e.gate.RUnlock, nil
}

// ArchiveTargets lists the ids of all branches.
func (d *Directory) ArchiveTargets() []catalog.BranchID {
	d.mu.RLock()
	defer d.mu.RUnlock()
	ids := make([]catalog.BranchID, 0, len(d.byID))
	for id := range d.byID {
		ids = append(ids, id)
	}
	return ids
}

// ByID returns the state of a branch; record.ErrNotFound when it is gone.
func (d *Directory) ByID(id catalog.BranchID) (*State, error) {
	_, st, err := d.entryByID(id)
	return st, err
}

func (d *Directory) entryByID(id catalog.BranchID) (*entry, *State, error) {
	d.mu.RLock()
	e := d.byID[id]
	d.mu.RUnlock()
	if e != nil {
		if st := e.state.Load(); st != nil {
			return e, st, nil
		}
	}
	return nil, nil, fmt.Errorf("branch %s: %w", id, record.ErrNotFound)
}

// Retire ends a draining view: its rows are in the dataset's history and the
// dataset carries the next view. Idempotent. A crash between the two steps
// leaves a view in the hot buffer that no branch has; Open drops it. After an
// error it is still listed, and the archiver calls again.
func (d *Directory) Retire(ctx context.Context, id catalog.BranchID, v record.ViewID) error {
	e, _, err := d.entryByID(id)
	if err != nil {
		return err
	}
	e.change.Lock()
	defer e.change.Unlock()
	st := e.state.Load()
	if st == nil {
		return nil // deleted meanwhile, and its views with it
	}
	if err := d.o.Catalog.RetireView(ctx, v); err != nil {
		return err
	}
	if err := d.drop(ctx, v); err != nil {
		return err
	}
	next := *st
	next.Draining = slices.DeleteFunc(slices.Clone(st.Draining), func(o Draining) bool { return o.ID == v })
	e.state.Store(&next)
	return nil
}
