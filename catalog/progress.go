package catalog

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/thermocline/thermocline/record"
)

// ViewProgress is what the catalog has counted of a view, at one moment.
type ViewProgress struct {
	// LastCheckpoint is the last number that was given out, NewestCheckpoint the
	// largest that is stored; 0: none. They are equal in a sound catalog.
	LastCheckpoint, NewestCheckpoint int64
	// LeaseEpoch is the epoch of the last archive lease, 0: there was none.
	LeaseEpoch Epoch
}

// ViewProgress returns the counters of a view, for those who check them.
func (c *Catalog) ViewProgress(ctx context.Context, v record.ViewID) (p ViewProgress, err error) {
	err = c.read(ctx, fmt.Sprintf("read the counters of view %v", v), func(ctx context.Context, db *sql.DB) error {
		err := db.QueryRowContext(ctx, `SELECT v.last_checkpoint,
			COALESCE((SELECT max(c.number) FROM checkpoints c WHERE c.view_id = v.id), 0),
			COALESCE((SELECT l.epoch FROM leases l WHERE l.view_id = v.id), 0)
			FROM views v WHERE v.id = $1`, v).Scan(&p.LastCheckpoint, &p.NewestCheckpoint, &p.LeaseEpoch)
		return notFound(err, "there is no such view; its stream may have been deleted")
	})
	return p, err
}
