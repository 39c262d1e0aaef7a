package catalog

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/thermocline/thermocline/record"
)

// TablePointer returns the location of the current metadata of a dataset table;
// record.ErrNotFound before CreateTablePointer and after the stream was deleted.
func (c *Catalog) TablePointer(ctx context.Context, tableUUID string) (location string, err error) {
	err = c.read(ctx, fmt.Sprintf("read the pointer of table %s", clip(tableUUID)), func(ctx context.Context, db *sql.DB) error {
		err := db.QueryRowContext(ctx, `SELECT location FROM table_pointers WHERE table_uuid = $1`, tableUUID).Scan(&location)
		return notFound(err, "the table was not created yet, or was deleted")
	})
	return location, err
}

// TablePointerReferenced tells whether any table stands at location. The answer
// stays true to "no" as long as nobody swaps back to an old location, which
// SwapTablePointer forbids, or makes a branch from one.
func (c *Catalog) TablePointerReferenced(ctx context.Context, location string) (referenced bool, err error) {
	err = c.read(ctx, "look for table pointers at "+location, func(ctx context.Context, db *sql.DB) error {
		var n int
		if err := db.QueryRowContext(ctx, `SELECT count(*) FROM table_pointers WHERE location = $1`, location).Scan(&n); err != nil {
			return err
		}
		referenced = n > 0
		return nil
	})
	return referenced, err
}

// TablesSharing returns the locations of all tables that may share files with
// one, by table: those of all branches of its stream, in one consistent read. The
// one in question is among them, unless it is in the trash. record.ErrNotFound if
// there was no such table, or its files are gone.
func (c *Catalog) TablesSharing(ctx context.Context, tableUUID string) (locations map[string]string, err error) {
	err = c.read(ctx, fmt.Sprintf("list the tables that share files with %s", clip(tableUUID)), func(ctx context.Context, db *sql.DB) error {
		rows, err := db.QueryContext(ctx, `SELECT COALESCE(p.table_uuid, ''), COALESCE(p.location, '') FROM
			(SELECT stream_id FROM branches WHERE table_uuid = $1 UNION SELECT stream_id FROM trash WHERE table_uuid = $1) s
			LEFT JOIN branches b ON b.stream_id = s.stream_id LEFT JOIN table_pointers p ON p.table_uuid = b.table_uuid`, tableUUID)
		if err != nil {
			return err
		}
		defer rows.Close()
		locations = nil
		for rows.Next() {
			var table, location string
			if err := rows.Scan(&table, &location); err != nil {
				return err
			}
			if locations == nil {
				locations = map[string]string{}
			}
			if table != "" {
				locations[table] = location
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
		if locations == nil {
			return fmt.Errorf("%w: no branch has this table, and it is not in the trash", record.ErrNotFound)
		}
		return nil
	})
	return locations, err
}

// CreateTablePointer sets the first location of a branch's table: record.ErrExists
// if it has one, record.ErrNotFound if no branch has that table. After
// ErrOutcomeUnknown read the pointer.
func (c *Catalog) CreateTablePointer(ctx context.Context, tableUUID, location string) error {
	op := fmt.Sprintf("create the pointer of table %s", clip(tableUUID))
	if location == "" {
		return failed(op, fmt.Errorf("%w: the location is empty", record.ErrInvalid))
	}
	return c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		var exists int
		if err := tx.QueryRowContext(ctx, `SELECT 1 FROM branches WHERE table_uuid = $1`, tableUUID).Scan(&exists); err != nil {
			return notFound(err, "no branch has this table; its stream may have been deleted")
		}
		n, err := changed(ctx, tx, `INSERT INTO table_pointers (table_uuid, location, updated_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
			tableUUID, location, millis(c.now()))
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: the table was created before; load its pointer", record.ErrExists)
		}
		return nil
	})
}

// SwapTablePointer moves a table's pointer from one location to another if it
// still stands at from: of any number of concurrent swaps from one location, in
// any processes, exactly one succeeds. record.ErrConflict if it stands elsewhere,
// record.ErrNotFound if the table is gone; then nothing has changed. After
// ErrOutcomeUnknown it may have: read the pointer, or look for the commit among
// the ancestors of what it points to, before anything else. Locations are never
// used again, or a swap could follow one that the caller did not see.
func (c *Catalog) SwapTablePointer(ctx context.Context, tableUUID, from, to string) error {
	op := fmt.Sprintf("swap the pointer of table %s", clip(tableUUID))
	if to == "" || from == to {
		return failed(op, fmt.Errorf("%w: from %q to %q; the new location must be another one", record.ErrInvalid, from, to))
	}
	return c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		return c.swapPointer(ctx, tx, Swap{tableUUID, from, to})
	})
}

func (c *Catalog) swapPointer(ctx context.Context, tx *sql.Tx, s Swap) error {
	n, err := changed(ctx, tx, `UPDATE table_pointers SET location = $1, updated_ms = $2 WHERE table_uuid = $3 AND location = $4`,
		s.To, millis(c.now()), s.TableUUID, s.From)
	if err != nil || n == 1 {
		return err
	}
	var now string
	if err := tx.QueryRowContext(ctx, `SELECT location FROM table_pointers WHERE table_uuid = $1`, s.TableUUID).Scan(&now); err != nil {
		return notFound(err, "the table was not created yet, or was deleted")
	}
	return fmt.Errorf("%w: it stands at %s, not at %s; load it and commit again", record.ErrConflict, now, s.From)
}

// Swap is one of several swaps that happen together.
type Swap struct{ TableUUID, From, To string }

// SwapTablePointers makes all swaps or none; see SwapTablePointer.
func (c *Catalog) SwapTablePointers(ctx context.Context, swaps []Swap) error {
	op := fmt.Sprintf("swap the pointers of %d tables", len(swaps))
	for _, s := range swaps {
		if s.To == "" || s.From == s.To {
			return failed(op, fmt.Errorf("%w: from %q to %q; the new location must be another one", record.ErrInvalid, s.From, s.To))
		}
	}
	return c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		for _, s := range swaps {
			if err := c.swapPointer(ctx, tx, s); err != nil {
				return fmt.Errorf("table %s: %w", clip(s.TableUUID), err)
			}
		}
		return nil
	})
}
