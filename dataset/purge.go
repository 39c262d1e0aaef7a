package dataset

import (
	"context"
	"errors"
	"fmt"

	"github.com/thermocline/thermocline/record"
)

// Purge deletes every file below a table whose pointer is gone for good. A
// table that still has a pointer is refused with record.ErrConflict. An
// interruption leaves some files; calling again deletes the rest.
func (d *Datasets) Purge(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	_, err := d.pointers.TablePointer(ctx, id)
	if err == nil {
		return fmt.Errorf("dataset: purge table %s: it is still in use: %w", id, record.ErrConflict)
	}
	if !errors.Is(err, record.ErrNotFound) {
		return fmt.Errorf("dataset: purge table %s: %w", id, err)
	}
	for _, prefix := range []string{id + "/", ledgerPrefix(id)} {
		for o, err := range d.store.List(ctx, prefix) {
			if err == nil {
				err = d.store.Delete(ctx, o.Key)
			}
			if err != nil {
				return fmt.Errorf("dataset: purge table %s: %w", id, err)
			}
		}
	}
	return nil
}
