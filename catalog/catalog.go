// Package catalog is the SQL metadata of Thermocline: streams, branches, views,
// schemas, settings, checkpoints, subscribers, archive leases and table pointers.
// It is the authority on what exists, and on which dataset version is current: a
// table pointer moves only by compare-and-swap.
//
// It does not hold rows, it does not interpret schemas, it knows neither the hot
// buffer nor the dataset. Everything in it is small.
//
// # Atomicity and durability
//
// Each method is one transaction, unless it says otherwise: it happens wholly or
// not at all, against all other handles and processes on the same catalog, and
// is durable (synced) when it returns nil. Reads see one committed state.
// After an error nothing has changed, with one exception: an error that wraps
// ErrOutcomeUnknown came from the commit itself, so that the change may or may
// not have happened. Read back before deciding.
//
// Decisions made on an earlier read are checked again inside the transaction: a
// branch carries a Version, a view its last checkpoint, a lease its epoch, a
// pointer its location. Who comes second gets record.ErrConflict or
// record.ErrFenced and decides again.
//
// All methods are safe for concurrent use, and several processes may have one
// catalog open. Every call ends within CallTimeout even if its context has no
// deadline; waiting for another writer counts.
//
// # SQL
//
// Statements are portable between SQLite and PostgreSQL; what differs between
// engines (opening, how a write transaction begins, error codes) is in sqlite.go
// alone.
package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/record"
)

// CallTimeout bounds every call.
const CallTimeout = 30 * time.Second

// Options of Open.
type Options struct {
	// Path is the SQLite file. It is created if missing; its directory must
	// exist.
	Path string
	// Now is the clock for creation times, leases and pruning. Nil: time.Now.
	Now func() time.Time
	// Around, if set, is called with every read, and with the commit of every
	// change: tests let them fail there, before and behind.
	Around func(op string, do func() error) error
}

// Catalog is an open catalog.
type Catalog struct {
	writer    *sql.DB // one connection: writers of this process queue here
	readers   *sql.DB
	now       func() time.Time
	clusterID string
	schemas   schemaCache
	closed    atomic.Bool
	around    func(op string, do func() error) error
	// path is set once the file is known to be good.
	path string
}

// Open opens the catalog, creates it if there is none, and migrates an older one
// to the newest version. A crash in between leaves complete migrations; the next
// Open goes on. Opening the same new catalog from several processes is safe.
// A catalog of a newer program is refused with record.ErrInvalid, a damaged file
// with record.ErrCorrupt.
func Open(ctx context.Context, o Options) (*Catalog, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Catalog{now: o.Now, around: func(_ string, do func() error) error { return do() }}
	op := fmt.Sprintf("open %s", o.Path)
	if err := c.openSQLite(o.Path); err != nil {
		return nil, failed(op, err)
	}
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	err := checkSum(o.Path) // before the first connection, which may write
	if err == nil {
		err = c.checkFile(ctx)
	}
	if err == nil {
		err = migrate(ctx, c.writer)
	}
	if err == nil {
		err = c.loadClusterID(ctx)
	}
	if err != nil {
		return nil, failed(op, errors.Join(err, c.Close()))
	}
	c.path = o.Path
	if o.Around != nil {
		c.around = o.Around
	}
	return c, nil
}

// Close waits for calls under way and closes the catalog. Idempotent; later calls
// fail with record.ErrClosed.
func (c *Catalog) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	// The writer goes last: the last connection folds the log into the file.
	err := errors.Join(c.readers.Close(), c.writer.Close())
	if err == nil && c.path != "" {
		// Without it the next Open checks the structure only.
		_ = writeSum(c.path)
	}
	return err
}

// ClusterID is the random UUID that the catalog got when it was created. Archives
// carry it, so that a dataset restored into another cluster is recognised.
func (c *Catalog) ClusterID() string { return c.clusterID }

func (c *Catalog) loadClusterID(ctx context.Context) error {
	return c.write(ctx, "read the cluster id", func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx,
			`INSERT INTO meta (name, value) VALUES ('cluster_id', $1) ON CONFLICT DO NOTHING`, uuid.NewString())
		if err != nil {
			return err
		}
		err = tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = 'cluster_id'`).Scan(&c.clusterID)
		if err != nil {
			return err
		}
		if _, err := uuid.Parse(c.clusterID); err != nil {
			return fmt.Errorf("%w: the cluster id %q is not a UUID", record.ErrCorrupt, c.clusterID)
		}
		return nil
	})
}

// millis and instant convert between the clock and the stored form.
func millis(t time.Time) int64   { return t.UnixMilli() }
func instant(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
