package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/pressly/goose/v3"

	"github.com/thermocline/thermocline/record"
)

// This file is the seam between engines. PostgreSQL will need of its own: opening
// a pool, serializable write transactions, and these error classes; its columns
// that are paged over (namespace, name) compare in any fixed collation.

const (
	migrationDialect = goose.DialectSQLite3

	// readerConnections bounds concurrent reads; further ones wait.
	readerConnections = 4
	// engineWait is how long SQLite itself waits for a lock. It is short,
	// because that wait does not see the context; run goes on waiting.
	engineWait = 100 * time.Millisecond
	// logSizeLimit is what the write-ahead log is cut back to after it was
	// folded into the file.
	logSizeLimit = 16 << 20
)

// openSQLite sets up both pools. Writers: write-ahead log, synced at every commit,
// the write lock taken at BEGIN so that what a transaction reads stays true until
// it commits. Readers never write and never wait for writers.
func (c *Catalog) openSQLite(path string) error {
	if path == "" {
		return fmt.Errorf("%w: no file named; set Options.Path", record.ErrInvalid)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if dir, err := os.Stat(filepath.Dir(abs)); err != nil || !dir.IsDir() {
		return fmt.Errorf("%w: the directory %s does not exist; create it first", record.ErrNotFound, filepath.Dir(abs))
	}
	open := func(connections int, params url.Values) (*sql.DB, error) {
		params.Add("_pragma", fmt.Sprintf("busy_timeout(%d)", engineWait.Milliseconds()))
		params.Add("_pragma", "foreign_keys(1)")
		db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: abs, RawQuery: params.Encode()}).String())
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(connections)
		db.SetMaxIdleConns(connections)
		return db, nil
	}
	c.writer, err = open(1, url.Values{
		"_txlock": {"immediate"},
		"_pragma": {"journal_mode(WAL)", "synchronous(FULL)", fmt.Sprintf("journal_size_limit(%d)", logSizeLimit)},
	})
	if err != nil {
		return err
	}
	c.readers, err = open(readerConnections, url.Values{"_pragma": {"query_only(1)"}})
	if err != nil {
		return errors.Join(err, c.writer.Close())
	}
	return nil
}

// checkFile reads the whole file once and fails with record.ErrCorrupt if its
// structure is damaged, before a transaction builds on it. It also makes sure
// that commits are logged and synced as the package promises.
func (c *Catalog) checkFile(ctx context.Context) error {
	return c.run(ctx, "check the file", func(ctx context.Context) error {
		var mode, verdict string
		var synchronous int
		if err := c.writer.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&mode); err != nil {
			return err
		}
		if err := c.writer.QueryRowContext(ctx, `PRAGMA synchronous`).Scan(&synchronous); err != nil {
			return err
		}
		if mode != "wal" || synchronous != 2 {
			return fmt.Errorf("journal mode is %s, synchronous %d instead of wal, 2; use a local file system", mode, synchronous)
		}
		if err := c.writer.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&verdict); err != nil {
			return err
		}
		if verdict != "ok" {
			return fmt.Errorf("%w: %s; restore the file from a backup", record.ErrCorrupt, verdict)
		}
		return nil
	})
}

// resultCode is SQLite's primary result code of err, 0 for other errors.
func resultCode(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// locked tells whether err says that another connection was in the way, and
// nothing happened.
func locked(err error) bool {
	switch resultCode(err) {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return true
	}
	return false
}

// classify adds the sentinel that callers know to an error of the engine.
func classify(ctx context.Context, err error) error {
	switch resultCode(err) {
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%w on the catalog's disk; free some: %w", record.ErrFull, err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: the catalog file is damaged; restore it from a backup: %w", record.ErrCorrupt, err)
	case sqlite3.SQLITE_INTERRUPT:
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
	return err
}
