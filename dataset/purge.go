package dataset

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/record"
)

// Purge deletes the files below a table whose pointer is gone for good, as far as
// no other table reaches them, and returns how many are left. If no table is left
// that may share files with it, all go at once; otherwise by the rules of Collect,
// with its grace: call it again as long as files are left. A table that still has
// a pointer is refused with record.ErrConflict. An interruption leaves some files;
// calling again deletes the rest.
func (d *Datasets) Purge(ctx context.Context, id string, grace time.Duration) (left int, err error) {
	if err := checkID(id); err != nil {
		return 0, err
	}
	left, err = d.purge(ctx, id, grace)
	if err != nil {
		return 0, fmt.Errorf("dataset: purge table %s: %w", id, err)
	}
	return left, nil
}

func (d *Datasets) purge(ctx context.Context, id string, grace time.Duration) (left int, err error) {
	_, err = d.pointers.TablePointer(ctx, id)
	if err == nil {
		return 0, fmt.Errorf("it is still in use: %w", record.ErrConflict)
	}
	if !errors.Is(err, record.ErrNotFound) {
		return 0, err
	}
	d.watches.forget(id)
	// Nobody can join the tables that share its files when there is none left: a
	// branch is made from another one.
	_, sharing, err := d.reached(ctx, id)
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return 0, err
	}
	if sharing == 0 {
		return 0, d.deleteAll(ctx, id+"/", ledgerPrefix(id))
	}
	out, err := d.collect(ctx, id, CollectOptions{Grace: grace})
	if err != nil {
		return 0, err
	}
	if left = out.Listed - out.Deleted; left > 0 {
		return left, nil
	}
	return 0, d.deleteAll(ctx, ledgerPrefix(id))
}

func (d *Datasets) deleteAll(ctx context.Context, prefixes ...string) error {
	for _, prefix := range prefixes {
		for o, err := range d.store.List(ctx, prefix) {
			if err == nil {
				err = d.store.Delete(ctx, o.Key)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
