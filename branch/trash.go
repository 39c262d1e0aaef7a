package branch

import (
	"context"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/catalog"
)

// Files deletes the files of a table; *dataset.Datasets does.
type Files interface {
	// Purge deletes every file of a table whose pointer is gone. It may be
	// repeated after an interruption.
	Purge(ctx context.Context, tableUUID string) error
}

// sweepEvery is how often the trash is looked at.
const sweepEvery = time.Minute

// Run deletes files of deleted streams after their grace, until ctx ends.
func (d *Directory) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := d.sweep(ctx); err != nil && ctx.Err() == nil {
			d.o.Logger.Error("delete files of deleted streams", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (d *Directory) sweep(ctx context.Context) error {
	for {
		due, err := d.o.Catalog.TrashDue(ctx, d.o.Now(), catalog.MaxPage)
		if err != nil || len(due) == 0 {
			return err
		}
		for _, t := range due {
			if err := d.o.Files.Purge(ctx, t.TableUUID); err != nil {
				return fmt.Errorf("table %s: %w", t.TableUUID, err)
			}
			if err := d.o.Catalog.RemoveTrash(ctx, t.ID); err != nil {
				return err
			}
		}
	}
}
