package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/thermocline/thermocline/record"
)

// Epoch numbers the acquisitions of a view's archive lease: each is larger than
// all before it. Archives carry it, and one with a smaller epoch is refused.
type Epoch int64

func (e Epoch) String() string { return "e" + strconv.FormatInt(int64(e), 10) }

// Lease is the right to archive a view, until it expires or is released. Clocks of
// different machines may differ: what makes a late holder harmless is the epoch,
// the time only says when others may try.
type Lease struct {
	View    record.ViewID
	Owner   string
	Epoch   Epoch
	Expires time.Time
}

// AcquireLease takes the archive lease of a view for ttl. It succeeds when nobody
// holds the lease, the holder's time is over, or the holder is owner itself (after
// a restart); each success has a larger epoch than all before, so that the former
// holder's RenewLease fails. record.ErrBusy if another owner holds it.
func (c *Catalog) AcquireLease(ctx context.Context, v record.ViewID, owner string, ttl time.Duration) (Lease, error) {
	op := fmt.Sprintf("acquire the archive lease of view %v for %s", v, clip(owner))
	if owner == "" || ttl < time.Millisecond {
		return Lease{}, failed(op, fmt.Errorf("%w: owner %q, ttl %v; name an owner and at least a millisecond", record.ErrInvalid, owner, ttl))
	}
	var l Lease
	err := c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		now := millis(c.now())
		l = Lease{View: v, Owner: owner, Expires: instant(now + ttl.Milliseconds())}
		var exists int
		if err := tx.QueryRowContext(ctx, `SELECT 1 FROM views WHERE id = $1`, v).Scan(&exists); err != nil {
			return notFound(err, "there is no such view; its stream may have been deleted")
		}
		err := tx.QueryRowContext(ctx, `INSERT INTO leases (view_id, owner, epoch, expires_ms) VALUES ($1, $2, 1, $3)
			ON CONFLICT (view_id) DO UPDATE SET owner = excluded.owner, epoch = leases.epoch + 1, expires_ms = excluded.expires_ms
			WHERE leases.owner = excluded.owner OR leases.expires_ms <= $4
			RETURNING epoch`, v, owner, millis(l.Expires), now).Scan(&l.Epoch)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		var holder string
		var expires int64
		if err := tx.QueryRowContext(ctx, `SELECT owner, expires_ms FROM leases WHERE view_id = $1`, v).Scan(&holder, &expires); err != nil {
			return err
		}
		return fmt.Errorf("%w: %s holds it for %v more; retry then", record.ErrBusy, holder, time.Duration(expires-now)*time.Millisecond)
	})
	if err != nil {
		return Lease{}, err
	}
	return l, nil
}

// RenewLease extends a lease to ttl from now. It succeeds also after the time is
// over, as long as nobody else took the lease; otherwise record.ErrFenced: stop.
func (c *Catalog) RenewLease(ctx context.Context, l Lease, ttl time.Duration) (Lease, error) {
	op := fmt.Sprintf("renew the archive lease of view %v, %v", l.View, l.Epoch)
	if ttl < time.Millisecond {
		return Lease{}, failed(op, fmt.Errorf("%w: ttl %v; use at least a millisecond", record.ErrInvalid, ttl))
	}
	err := c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		l.Expires = instant(millis(c.now()) + ttl.Milliseconds())
		return updateLease(ctx, tx, l, l.Owner, millis(l.Expires))
	})
	if err != nil {
		return Lease{}, err
	}
	return l, nil
}

// ReleaseLease gives a lease back. record.ErrFenced if it is no longer ours, which
// a caller that is leaving may ignore.
func (c *Catalog) ReleaseLease(ctx context.Context, l Lease) error {
	return c.write(ctx, fmt.Sprintf("release the archive lease of view %v, %v", l.View, l.Epoch), func(ctx context.Context, tx *sql.Tx) error {
		return updateLease(ctx, tx, l, "", 0)
	})
}

// updateLease changes owner and end of a lease that is still ours.
func updateLease(ctx context.Context, tx *sql.Tx, l Lease, owner string, expiresMS int64) error {
	n, err := changed(ctx, tx, `UPDATE leases SET owner = $1, expires_ms = $2 WHERE view_id = $3 AND owner = $4 AND epoch = $5 AND owner <> ''`,
		owner, expiresMS, l.View, l.Owner, l.Epoch)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: the lease was taken over or released, or its stream deleted; stop archiving and acquire it anew", record.ErrFenced)
	}
	return nil
}
