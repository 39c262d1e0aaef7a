package catalog

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"

	"github.com/thermocline/thermocline/record"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrate brings the database to the newest version. Each migration is one
// transaction: a crash leaves those before it, and the next call goes on.
//
// Two processes may get here together. Whoever comes second to a migration fails
// on it without effect, since its tables are there, and finds on the next attempt
// that it is done; so there are at most as many failures as migrations, and one
// for the table of versions.
func migrate(ctx context.Context, db *sql.DB) error {
	sources, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return err
	}
	var failures []error
	for {
		p, err := goose.NewProvider(migrationDialect, db, sources,
			goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true))
		if err != nil {
			return err
		}
		known := p.ListSources()
		newest := known[len(known)-1].Version
		if version, err := p.GetDBVersion(ctx); err == nil && version > newest {
			return fmt.Errorf("%w: the catalog has version %d, this program knows up to %d; use a newer program",
				record.ErrInvalid, version, newest)
		}
		_, err = p.Up(ctx)
		if err == nil {
			return nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil || len(failures) > len(known)+1 {
			return fmt.Errorf("migrate: %w", errors.Join(failures...))
		}
	}
}
