package branch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/catalog"
)

// Files deletes the files of a table; *dataset.Datasets does.
type Files interface {
	// Purge deletes the files of a table whose pointer is gone: all if no table is
	// left that may share them, otherwise those that no other one has reached for
	// the grace, which takes another call. It returns how many are left. It may be
	// repeated after an interruption.
	Purge(ctx context.Context, tableUUID string, grace time.Duration) (left int, err error)
}

// repairEvery is how often branches that are out of step with the catalog are
// looked for, sweepEvery how often the trash is looked at, and lookAgain the most
// time between two looks at files that other branches may still need.
const (
	repairEvery = time.Second
	sweepEvery  = time.Minute
	lookAgain   = time.Hour
)

// Run deletes files of deleted streams and branches after their grace, and tries again what
// did not follow a change, until ctx ends.
func (d *Directory) Run(ctx context.Context) error {
	tick := time.NewTicker(repairEvery)
	defer tick.Stop()
	var swept time.Time
	for {
		if err := d.repair(ctx); err != nil && ctx.Err() == nil {
			d.o.Logger.Error("bring branches in step with the catalog", "error", err)
		}
		if now := time.Now(); now.Sub(swept) >= sweepEvery {
			swept = now
			if err := d.sweep(ctx); err != nil && ctx.Err() == nil {
				d.o.Logger.Error("delete files of deleted streams and branches", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// sweep deletes what is due. One table that cannot be deleted does not keep
// the others.
func (d *Directory) sweep(ctx context.Context) error {
	for {
		due, err := d.o.Catalog.TrashDue(ctx, d.o.Now(), catalog.MaxPage)
		if err != nil {
			return err
		}
		var errs []error
		for _, t := range due {
			left, err := d.o.Files.Purge(ctx, t.TableUUID, d.o.TrashGrace)
			switch {
			case err != nil:
			case left > 0:
				// Other branches share them, or they have not been waiting long
				// enough. A crash before this only looks again sooner.
				err = d.o.Catalog.DeferTrash(ctx, t.ID, d.o.Now().Add(min(d.o.TrashGrace, lookAgain)))
			default:
				err = d.o.Catalog.RemoveTrash(ctx, t.ID)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("table %s: %w", t.TableUUID, err))
			}
		}
		if len(errs) > 0 || len(due) < catalog.MaxPage {
			return errors.Join(errs...)
		}
	}
}
