package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// ViewState is where a view is in its life: ACTIVE, DRAINING, RETIRED, never back.
type ViewState string

const (
	// Active: the current view of its branch; each branch has exactly one.
	Active ViewState = "ACTIVE"
	// Draining: a reset took its place; rows may still have to be archived.
	Draining ViewState = "DRAINING"
	// Retired: all its rows are archived and it holds none in the hot buffer.
	Retired ViewState = "RETIRED"
)

// View is one generation of a branch's log.
type View struct {
	ID     record.ViewID
	Stream StreamID
	Branch BranchID
	// Number counts the views of the stream, over all its branches, from 1.
	Number record.ViewNumber
	State  ViewState
	// Partitions of this view; the branch's settings speak of the ACTIVE one.
	Partitions int
	// SchemaID is the newest schema of its rows: the branch's while the view is
	// ACTIVE, then the one that the reset found.
	SchemaID int32
	Created  time.Time
}

const viewColumns = `v.id, v.stream_id, v.branch_id, v.number, v.state, v.partitions, v.schema_id, v.created_ms`

// viewRow is a row of viewColumns.
type viewRow struct {
	v       View
	created int64
}

func (r *viewRow) dest() []any {
	return []any{&r.v.ID, &r.v.Stream, &r.v.Branch, &r.v.Number, &r.v.State, &r.v.Partitions, &r.v.SchemaID, &r.created}
}

func (r *viewRow) view() View {
	r.v.Created = instant(r.created)
	return r.v
}

func scanView(row scanner) (View, error) {
	var r viewRow
	if err := row.Scan(r.dest()...); err != nil {
		return View{}, err
	}
	return r.view(), nil
}

// View finds a view.
func (c *Catalog) View(ctx context.Context, id record.ViewID) (v View, err error) {
	err = c.read(ctx, fmt.Sprintf("find view %v", id), func(ctx context.Context, db *sql.DB) error {
		v, err = scanView(db.QueryRowContext(ctx, `SELECT `+viewColumns+` FROM views v WHERE v.id = $1`, id))
		return notFound(err, "there is no such view; its stream may have been deleted")
	})
	return v, err
}

// Views lists the views of a branch in the order of their numbers, those after the
// given number (0: from the first), at most limit (see DefaultPage).
func (c *Catalog) Views(ctx context.Context, branch BranchID, after record.ViewNumber, limit int) ([]View, error) {
	return c.views(ctx, fmt.Sprintf("list views of branch %v", branch),
		`v.branch_id = $1 AND v.number > $2 ORDER BY v.number LIMIT $3`, branch, after, pageLimit(limit))
}

// DrainingViews lists the DRAINING views of a branch in the order of their
// numbers, which is the order to archive them in, at most limit (see DefaultPage).
func (c *Catalog) DrainingViews(ctx context.Context, branch BranchID, limit int) ([]View, error) {
	return c.views(ctx, fmt.Sprintf("list draining views of branch %v", branch),
		`v.branch_id = $1 AND v.state = 'DRAINING' ORDER BY v.number LIMIT $2`, branch, pageLimit(limit))
}

// LiveViews lists the ACTIVE and DRAINING views of all streams by id, those after
// the given one (0: from the first), at most limit (see DefaultPage). These are
// the views that may hold rows in the hot buffer; those of a DATASET cannot.
func (c *Catalog) LiveViews(ctx context.Context, after record.ViewID, limit int) ([]View, error) {
	return c.views(ctx, "list live views", `v.state <> 'RETIRED' AND v.id > $1
		AND EXISTS (SELECT 1 FROM streams s WHERE s.id = v.stream_id AND s.kind = 'STREAM') ORDER BY v.id LIMIT $2`, after, pageLimit(limit))
}

func (c *Catalog) views(ctx context.Context, op, where string, args ...any) (all []View, err error) {
	err = c.read(ctx, op, func(ctx context.Context, db *sql.DB) error {
		all, err = collect(ctx, db, scanView, `SELECT `+viewColumns+` FROM views v WHERE `+where, args...)
		return err
	})
	return all, err
}

// NewestView returns the largest view id that was ever given out, 0 if none was.
// A hot buffer that holds a larger one is newer than this catalog.
func (c *Catalog) NewestView(ctx context.Context) (id record.ViewID, err error) {
	err = c.read(ctx, "find the newest view", func(ctx context.Context, db *sql.DB) error {
		return db.QueryRowContext(ctx, `SELECT last FROM counters WHERE name = 'view'`).Scan(&id)
	})
	return id, err
}

// Reset says what a reset changes.
type Reset struct {
	// Settings for the new view, which may have fewer partitions. Nil: as before.
	Settings *Settings
	// Schema for the new view, with any change. Nil: as before.
	Schema *NewSchema
}

// ResetBranch starts a new view of a branch, based on Version expected: the new
// view is ACTIVE, the one before becomes DRAINING, schema and settings change with
// them. A crash leaves all of it or none.
func (c *Catalog) ResetBranch(ctx context.Context, id BranchID, expected int64, r Reset) (b Branch, err error) {
	op := fmt.Sprintf("reset branch %v", id)
	if r.Settings != nil {
		if err := r.Settings.Validate(); err != nil {
			return Branch{}, failed(op, err)
		}
	}
	if r.Schema != nil {
		if err := r.Schema.validate(); err != nil {
			return Branch{}, failed(op, err)
		}
	}
	var registered *schema.Schema
	err = c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		if b, err = lockBranch(ctx, tx, id, expected); err != nil {
			return err
		}
		now := instant(millis(c.now()))
		if r.Settings != nil {
			b.Settings = *r.Settings
		}
		if r.Schema != nil {
			if registered, err = addBranchSchema(ctx, tx, &b, *r.Schema, now); err != nil {
				return err
			}
		}
		if err := updateBranch(ctx, tx, &b, now); err != nil {
			return err
		}
		// First, so that there is never a second ACTIVE view.
		if _, err := tx.ExecContext(ctx, `UPDATE views SET state = 'DRAINING' WHERE id = $1`, b.View.ID); err != nil {
			return err
		}
		next, err := reserve(ctx, tx, b.Stream)
		if err != nil {
			return err
		}
		b.View, err = insertView(ctx, tx, b, next, now)
		return err
	})
	if err != nil {
		return Branch{}, err
	}
	if registered != nil {
		c.schemas.put(registered)
	}
	return b, nil
}

// RetireView marks a DRAINING view RETIRED, once all its rows are archived. For a
// RETIRED view it does nothing; an ACTIVE one is refused with record.ErrConflict.
func (c *Catalog) RetireView(ctx context.Context, id record.ViewID) error {
	return c.write(ctx, fmt.Sprintf("retire view %v", id), func(ctx context.Context, tx *sql.Tx) error {
		n, err := changed(ctx, tx, `UPDATE views SET state = 'RETIRED' WHERE id = $1 AND state <> 'ACTIVE'`, id)
		if err != nil || n == 1 {
			return err
		}
		var state ViewState
		if err := tx.QueryRowContext(ctx, `SELECT state FROM views WHERE id = $1`, id).Scan(&state); err != nil {
			return notFound(err, "there is no such view; its stream may have been deleted")
		}
		return fmt.Errorf("%w: the view is %s; only a view that a reset has replaced can retire", record.ErrConflict, state)
	})
}

// insertView makes the ACTIVE view of a branch under ids that were reserved.
func insertView(ctx context.Context, tx *sql.Tx, b Branch, r Reserved, now time.Time) (View, error) {
	v := View{
		ID: r.View, Stream: b.Stream, Branch: b.ID, Number: r.Number,
		State: Active, Partitions: b.Settings.Partitions, SchemaID: b.SchemaID, Created: now,
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO views
		(id, stream_id, branch_id, number, state, partitions, schema_id, last_checkpoint, created_ms)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8)`,
		v.ID, v.Stream, v.Branch, v.Number, v.State, v.Partitions, v.SchemaID, millis(now))
	return v, err
}
