package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Trash is a dataset table whose files are to be deleted.
type Trash struct {
	ID        int64
	Stream    StreamID
	TableUUID string
	// Location of the last metadata; empty if the table was never created, when
	// an interrupted first archive may still have left files.
	Location  string
	NotBefore time.Time
}

// trashTables puts the tables of all branches of a stream into the trash.
func trashTables(ctx context.Context, tx *sql.Tx, id StreamID, notBefore time.Time) error {
	var branches int64
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM branches WHERE stream_id = $1`, id).Scan(&branches); err != nil {
		return err
	}
	// One statement for all branches: their ids are the next ones in the order
	// of the branches.
	var last int64
	err := tx.QueryRowContext(ctx, `UPDATE counters SET last = last + $1 WHERE name = 'trash' RETURNING last`, branches).Scan(&last)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO trash (id, stream_id, table_uuid, location, not_before_ms)
		SELECT $1 + row_number() OVER (ORDER BY b.id), b.stream_id, b.table_uuid, COALESCE(p.location, ''), $2
		FROM branches b LEFT JOIN table_pointers p ON p.table_uuid = b.table_uuid WHERE b.stream_id = $3`,
		last-branches, millis(notBefore), id)
	return err
}

// TrashDue lists what may be deleted now, oldest first, at most limit (see
// DefaultPage). Delete the files, then RemoveTrash: a crash in between leaves an
// entry whose files are partly gone, and the next attempt finishes it.
func (c *Catalog) TrashDue(ctx context.Context, now time.Time, limit int) (due []Trash, err error) {
	scan := func(row scanner) (Trash, error) {
		var t Trash
		var notBefore int64
		err := row.Scan(&t.ID, &t.Stream, &t.TableUUID, &t.Location, &notBefore)
		t.NotBefore = instant(notBefore)
		return t, err
	}
	err = c.read(ctx, "list what is due in the trash", func(ctx context.Context, db *sql.DB) error {
		due, err = collect(ctx, db, scan, `SELECT id, stream_id, table_uuid, location, not_before_ms FROM trash
			WHERE not_before_ms <= $1 ORDER BY not_before_ms, id LIMIT $2`, millis(now), pageLimit(limit))
		return err
	})
	return due, err
}

// RemoveTrash forgets an entry whose files are gone. Idempotent.
func (c *Catalog) RemoveTrash(ctx context.Context, id int64) error {
	return c.write(ctx, fmt.Sprintf("remove entry %d from the trash", id), func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM trash WHERE id = $1`, id)
		return err
	})
}
