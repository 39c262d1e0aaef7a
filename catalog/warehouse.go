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
		var first string
		err := tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = 'warehouse'`).Scan(&first)
		if err == nil && first != base {
			return fmt.Errorf("%w: the catalog belongs to the warehouse %s; start with that one", record.ErrConflict, first)
		}
		if err == nil || !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO meta (name, value) VALUES ('warehouse', $1)`, base)
		return err
	})
}
