package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/record"
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

// ofBranches selects the branches of a stream, or one branch; ids begin with 1.
const ofBranches = `(SELECT id FROM branches WHERE stream_id = $1 OR id = $2)`

// removeBranches removes the branches of a stream, or one branch (the other id is
// 0), with all that is theirs, puts their tables into the trash, and returns their
// views.
func removeBranches(ctx context.Context, tx *sql.Tx, stream StreamID, branch BranchID, notBefore time.Time) ([]record.ViewID, error) {
	if err := trashTables(ctx, tx, stream, branch, notBefore); err != nil {
		return nil, err
	}
	views, err := viewsOf(ctx, tx, stream, branch)
	if err != nil {
		return nil, err
	}
	if _, err := deleteSubscribers(ctx, tx, `DELETE FROM subscribers WHERE branch_id IN `+ofBranches+` RETURNING session`, stream, branch); err != nil {
		return nil, err
	}
	const ofThem = `(SELECT id FROM views WHERE branch_id IN ` + ofBranches + `)`
	for _, q := range []string{
		`DELETE FROM checkpoints WHERE view_id IN ` + ofThem,
		`DELETE FROM leases WHERE view_id IN ` + ofThem,
		`DELETE FROM views WHERE branch_id IN ` + ofBranches,
		`DELETE FROM table_pointers WHERE table_uuid IN (SELECT table_uuid FROM branches WHERE id IN ` + ofBranches + `)`,
		`DELETE FROM branch_schemas WHERE branch_id IN ` + ofBranches,
		`DELETE FROM branches WHERE id IN ` + ofBranches,
	} {
		if _, err := tx.ExecContext(ctx, q, stream, branch); err != nil {
			return nil, err
		}
	}
	return views, nil
}

// viewsOf lists the ids of all views of branches.
func viewsOf(ctx context.Context, tx *sql.Tx, stream StreamID, branch BranchID) ([]record.ViewID, error) {
	rows, err := tx.QueryContext(ctx, `SELECT id FROM views WHERE branch_id IN `+ofBranches+` ORDER BY number`, stream, branch)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var views []record.ViewID
	for rows.Next() {
		var v record.ViewID
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	return views, rows.Err()
}

// trashTables puts the tables of branches into the trash.
func trashTables(ctx context.Context, tx *sql.Tx, stream StreamID, branch BranchID, notBefore time.Time) error {
	var branches int64
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM branches WHERE id IN `+ofBranches, stream, branch).Scan(&branches); err != nil {
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
		SELECT $3 + row_number() OVER (ORDER BY b.id), b.stream_id, b.table_uuid, COALESCE(p.location, ''), $4
		FROM branches b LEFT JOIN table_pointers p ON p.table_uuid = b.table_uuid WHERE b.id IN `+ofBranches,
		stream, branch, last-branches, millis(notBefore))
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

// DeferTrash moves an entry to a later time: files of it are still needed.
// Idempotent.
func (c *Catalog) DeferTrash(ctx context.Context, id int64, notBefore time.Time) error {
	return c.write(ctx, fmt.Sprintf("defer entry %d of the trash", id), func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE trash SET not_before_ms = $1 WHERE id = $2`, millis(notBefore), id)
		return err
	})
}

// RemoveTrash forgets an entry whose files are gone. Idempotent.
func (c *Catalog) RemoveTrash(ctx context.Context, id int64) error {
	return c.write(ctx, fmt.Sprintf("remove entry %d from the trash", id), func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM trash WHERE id = $1`, id)
		return err
	})
}
