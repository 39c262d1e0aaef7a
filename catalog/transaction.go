package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/record"
)

// ErrOutcomeUnknown: the commit was sent and failed in a way that does not tell
// whether it took place (an I/O error while syncing, a lost connection). The
// change may be there now, or come to light after a crash. Read back before
// anything else, and never undo work on the assumption that it failed.
var ErrOutcomeUnknown = errors.New("outcome unknown")

// retryPause is how long a call waits before it asks again for a lock that
// another process holds. It comes on top of the engine's own short wait, which
// does not see the context.
const retryPause = 5 * time.Millisecond

// write runs fn in one write transaction. fn may run several times, when another
// process was in the way; it must do nothing but run statements and set results.
func (c *Catalog) write(ctx context.Context, op string, fn func(context.Context, *sql.Tx) error) error {
	return c.run(ctx, op, func(ctx context.Context) error {
		tx, err := c.writer.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		// After a commit this does nothing; after an error the transaction
		// leaves no trace, also when the process dies here.
		defer func() { _ = tx.Rollback() }()
		if err := fn(ctx, tx); err != nil {
			return err
		}
		return c.around(op, func() error { return commitError(ctx, tx.Commit()) })
	})
}

// read runs fn, which should be one statement, on the readers' connections.
func (c *Catalog) read(ctx context.Context, op string, fn func(context.Context, *sql.DB) error) error {
	return c.run(ctx, op, func(ctx context.Context) error {
		return c.around(op, func() error { return fn(ctx, c.readers) })
	})
}

// run bounds fn in time and repeats it while another process is in the way.
func (c *Catalog) run(ctx context.Context, op string, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	for {
		if c.closed.Load() {
			return failed(op, fmt.Errorf("%w: the catalog was closed", record.ErrClosed))
		}
		err := fn(ctx)
		switch {
		case err == nil:
			return nil
		case c.closed.Load() && !errors.Is(err, ErrOutcomeUnknown):
			return failed(op, fmt.Errorf("%w: the catalog was closed: %w", record.ErrClosed, err))
		case errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil:
			// What ended the transaction is the context, whichever of the two
			// was noticed first.
			return failed(op, fmt.Errorf("%w: %w", ctx.Err(), err))
		case !locked(err):
			return failed(op, classify(ctx, err))
		}
		select {
		case <-ctx.Done():
			return failed(op, fmt.Errorf("%w: another writer holds the catalog; retry: %w", record.ErrBusy, ctx.Err()))
		case <-time.After(retryPause):
		}
	}
}

// commitError tells a commit that certainly did not happen from one that may have.
func commitError(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrTxDone), errors.Is(err, ctx.Err()):
		// The context ended before the commit was sent: it was rolled back.
		return err
	case locked(err):
		return err
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
}

// failed names the operation in front of err.
func failed(op string, err error) error {
	return fmt.Errorf("catalog: %s: %w", op, err)
}

// nextID allocates an id that was never given out before, unless the transaction
// is rolled back.
func nextID(ctx context.Context, tx *sql.Tx, counter string) (int64, error) {
	var id int64
	err := tx.QueryRowContext(ctx,
		`UPDATE counters SET last = last + 1 WHERE name = $1 RETURNING last`, counter).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("allocate a %s id: %w", counter, err)
	}
	return id, nil
}

// changed runs a statement and returns how many rows it changed.
func changed(ctx context.Context, tx *sql.Tx, query string, args ...any) (int64, error) {
	res, err := tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// scanner is a *sql.Row or *sql.Rows.
type scanner interface{ Scan(dest ...any) error }

// collect runs a query and scans each row.
func collect[T any](ctx context.Context, db *sql.DB, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		t, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, rows.Err()
}
