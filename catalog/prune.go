package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/thermocline/thermocline/record"
)

// SubscriberKeep is how long at most a checkpoint is kept because a subscriber has
// yet to read its epoch. Behind that the oldest epochs merge into one.
const SubscriberKeep = 7 * 24 * time.Hour

// pruneBatch bounds one transaction of PruneCheckpoints, since other writers wait.
const pruneBatch = 2000

// unread: an EXACTLY_ONCE subscriber has yet to read the epoch of checkpoint c.
// Nobody will read on in a view that a reset has replaced.
const unread = `EXISTS (SELECT 1 FROM subscribers s JOIN views a ON a.id = s.view_id AND a.state = 'ACTIVE'
	WHERE s.view_id = c.view_id AND s.consistency = 'EXACTLY_ONCE' AND s.checkpoint < c.number)`

// PruneCheckpoints removes checkpoints created before a time, but never the last
// keepLast (at least 1) of a view, and those that an EXACTLY_ONCE subscriber has
// yet to read only when they are older than SubscriberKeep. It works in several
// transactions, each removing the oldest of a view first; after an error some are
// gone, and the next call goes on. It returns how many it removed.
func (c *Catalog) PruneCheckpoints(ctx context.Context, before time.Time, keepLast int) (removed int64, err error) {
	const op = "prune checkpoints"
	if keepLast < 1 {
		return 0, failed(op, fmt.Errorf("%w: keepLast %d; the newest checkpoint of a view must stay, use at least 1", record.ErrInvalid, keepLast))
	}
	p := prune{before: millis(before), keepLast: int64(keepLast)}
	p.always = min(p.before, millis(c.now().Add(-SubscriberKeep)))
	for after := record.ViewID(0); ; {
		var views []prunable
		err := c.read(ctx, op, func(ctx context.Context, db *sql.DB) error {
			views, err = p.views(ctx, db, after)
			return err
		})
		if err != nil || len(views) == 0 {
			return removed, err
		}
		due := slices.DeleteFunc(slices.Clone(views), func(v prunable) bool { return v.first >= v.end })
		for rest := due; len(rest) > 0; {
			var n int64
			left := rest
			err := c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
				n, left, err = p.remove(ctx, tx, rest)
				return err
			})
			if err != nil {
				return removed, err
			}
			removed, rest = removed+n, left
		}
		after = views[len(views)-1].view
	}
}

// prune is one call of PruneCheckpoints. Times are milliseconds.
type prune struct {
	before   int64 // later ones stay
	always   int64 // earlier ones go whoever wants them
	keepLast int64
}

// prunable is a view whose checkpoints from first on, up to the one before end,
// may go.
type prunable struct {
	view       record.ViewID
	first, end int64
}

// views lists the views behind one. It looks at no more checkpoints than may go:
// those of a view end before the first that has to stay.
func (p prune) views(ctx context.Context, db *sql.DB, after record.ViewID) ([]prunable, error) {
	return collect(ctx, db, func(row scanner) (prunable, error) {
		var v prunable
		var last int64
		err := row.Scan(&v.view, &last, &v.first, &v.end)
		v.end = min(v.end, last-p.keepLast+1)
		return v, err
	}, `SELECT v.id, v.last_checkpoint, COALESCE((SELECT min(number) FROM checkpoints WHERE view_id = v.id), $1),
		COALESCE((SELECT c.number FROM checkpoints c WHERE c.view_id = v.id AND c.created_ms >= $2 AND (c.created_ms >= $3 OR `+unread+`)
			ORDER BY c.number LIMIT 1), $1)
		FROM views v WHERE v.id > $4 ORDER BY v.id LIMIT $5`,
		int64(math.MaxInt64), p.always, p.before, after, MaxPage)
}

// remove deletes what may go of as many views as one transaction should touch,
// and returns what is left to do. A subscriber may have been reset since views
// looked, so what is unread is asked again.
func (p prune) remove(ctx context.Context, tx *sql.Tx, views []prunable) (removed int64, left []prunable, err error) {
	for touched := int64(0); len(views) > 0; {
		if touched == pruneBatch {
			break
		}
		v := views[0]
		end := min(v.end, v.first+pruneBatch-touched)
		n, err := changed(ctx, tx, `DELETE FROM checkpoints AS c WHERE c.view_id = $1 AND c.number >= $2 AND c.number < $3
			AND (c.created_ms < $4 OR NOT `+unread+`)`, v.view, v.first, end, p.always)
		if err != nil {
			return 0, nil, err
		}
		removed, touched = removed+n, touched+end-v.first
		if end == v.end {
			views = views[1:]
			continue
		}
		// A copy: the transaction may run again.
		views = append([]prunable{{v.view, end, v.end}}, views[1:]...)
	}
	return removed, views, nil
}
