package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/thermocline/thermocline/record"
)

// BindWarehouse ties the catalog to the place where its tables lie: base is the
// URI that their locations begin with. The first call decides, later ones with
// another base are refused with record.ErrConflict, because the tables that the
// catalog points to would not be found below it.
func (c *Catalog) BindWarehouse(ctx context.Context, base string) error {
	op := "bind the warehouse " + clip(base)
	if base == "" {
		return failed(op, fmt.Errorf("%w: it is empty", record.ErrInvalid))
	}
	return c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		first := base
		// A catalog of before this was kept: its tables tell.
		var some string
		err := tx.QueryRowContext(ctx, `SELECT location FROM table_pointers WHERE substr(location, 1, $1) <> $2 LIMIT 1`, len(base), base).Scan(&some)
		if err == nil {
			return fmt.Errorf("%w: the catalog has a table at %s; start with the warehouse in which it was made", record.ErrConflict, some)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO meta (name, value) VALUES ('warehouse', $1) ON CONFLICT DO NOTHING`, base); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = 'warehouse'`).Scan(&first); err != nil {
			return err
		}
		if first != base {
			return fmt.Errorf("%w: the catalog belongs to the warehouse %s; start with that one", record.ErrConflict, first)
		}
		return nil
	})
}
