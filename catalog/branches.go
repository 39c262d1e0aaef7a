package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/record"
)

// Branch is one line of a stream's history.
type Branch struct {
	ID     BranchID
	Stream StreamID
	Name   string
	// Version counts the changes of settings, schema and view of this branch.
	// A change is based on a Version and refused with record.ErrConflict when
	// the branch has moved on.
	Version  int64
	Settings Settings
	// View is the branch's ACTIVE view.
	View View
	// SchemaID is global, SchemaVersion counts 1, 2, … on this branch. That of
	// a DATASET has no fields: the schema is in the table's metadata.
	SchemaID      int32
	SchemaVersion int
	// TableUUID names the branch's dataset table and its pointer.
	TableUUID string
	Origin    Origin
	Policy    Policy
	Created   time.Time
	// Changed is when settings, schema, view or policy last changed.
	Changed time.Time
}

const branchColumns = `b.id, b.stream_id, b.name, b.version, b.settings, b.schema_id, b.schema_version, b.table_uuid,
	b.origin, b.policy, b.created_ms, b.changed_ms, ` + viewColumns

// branchRow is a row of branchColumns.
type branchRow struct {
	b                        Branch
	settings, origin, policy string
	created, changed         int64
	view                     viewRow
}

func (r *branchRow) dest() []any {
	return append([]any{&r.b.ID, &r.b.Stream, &r.b.Name, &r.b.Version, &r.settings, &r.b.SchemaID, &r.b.SchemaVersion,
		&r.b.TableUUID, &r.origin, &r.policy, &r.created, &r.changed}, r.view.dest()...)
}

func (r *branchRow) branch() (Branch, error) {
	var err error
	r.b.Settings, err = decodeSettings(r.settings)
	if err == nil {
		r.b.Policy, err = decodePolicy(r.policy)
	}
	if err == nil {
		r.b.Origin, err = decodeOrigin(r.origin)
	}
	if err != nil {
		return Branch{}, fmt.Errorf("branch %v: %w", r.b.ID, err)
	}
	r.b.Created, r.b.Changed = instant(r.created), instant(max(r.created, r.changed))
	r.b.View = r.view.view()
	return r.b, nil
}

func scanBranch(row scanner) (Branch, error) {
	var r branchRow
	if err := row.Scan(r.dest()...); err != nil {
		return Branch{}, err
	}
	return r.branch()
}

const branchFrom = ` FROM branches b JOIN views v ON v.branch_id = b.id AND v.state = 'ACTIVE' `

// Branch finds a branch of a stream by name.
func (c *Catalog) Branch(ctx context.Context, stream StreamID, name string) (Branch, error) {
	return c.branch(ctx, fmt.Sprintf("find branch %s of stream %v", clip(name), stream), `b.stream_id = $1 AND b.name = $2`, stream, name)
}

// BranchByID finds a branch.
func (c *Catalog) BranchByID(ctx context.Context, id BranchID) (Branch, error) {
	return c.branch(ctx, fmt.Sprintf("find branch %v", id), `b.id = $1`, id)
}

func (c *Catalog) branch(ctx context.Context, op, where string, args ...any) (b Branch, err error) {
	err = c.read(ctx, op, func(ctx context.Context, db *sql.DB) error {
		b, err = scanBranch(db.QueryRowContext(ctx, `SELECT `+branchColumns+branchFrom+`WHERE `+where, args...))
		return notFound(err, "there is no such branch")
	})
	return b, err
}

// Branches lists the branches of a stream in the order of their creation, those
// after the given one (0: from the first), at most limit (see DefaultPage).
func (c *Catalog) Branches(ctx context.Context, stream StreamID, after BranchID, limit int) (all []Branch, err error) {
	err = c.read(ctx, fmt.Sprintf("list branches of stream %v", stream), func(ctx context.Context, db *sql.DB) error {
		all, err = collect(ctx, db, scanBranch, `SELECT `+branchColumns+branchFrom+
			`WHERE b.stream_id = $1 AND b.id > $2 ORDER BY b.id LIMIT $3`, stream, after, pageLimit(limit))
		return err
	})
	return all, err
}

// UpdateSettings replaces the settings of a branch, based on Version expected, and
// grows its view when there are more partitions. Fewer are refused with
// record.ErrInvalid: that takes a reset.
func (c *Catalog) UpdateSettings(ctx context.Context, id BranchID, expected int64, s Settings) (b Branch, err error) {
	op := fmt.Sprintf("update settings of branch %v", id)
	if err := s.Validate(); err != nil {
		return Branch{}, failed(op, err)
	}
	err = c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		if b, err = lockBranch(ctx, tx, id, expected); err != nil {
			return err
		}
		if s.Partitions < b.View.Partitions {
			return fmt.Errorf("%w: partitions %d; the view has %d and can only grow; reset the branch to get fewer",
				record.ErrInvalid, s.Partitions, b.View.Partitions)
		}
		b.Settings = s
		b.View.Partitions = s.Partitions
		if err := updateBranch(ctx, tx, &b, instant(millis(c.now()))); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE views SET partitions = $1 WHERE id = $2`, s.Partitions, b.View.ID)
		return err
	})
	if err != nil {
		return Branch{}, err
	}
	return b, nil
}

// lockBranch reads a branch to be changed and checks that it is at the expected
// Version. Nobody else can change it before the transaction ends.
func lockBranch(ctx context.Context, tx *sql.Tx, id BranchID, expected int64) (Branch, error) {
	b, err := scanBranch(tx.QueryRowContext(ctx, `SELECT `+branchColumns+branchFrom+`WHERE b.id = $1`, id))
	if err != nil {
		return Branch{}, notFound(err, "there is no such branch")
	}
	if b.Version != expected {
		return Branch{}, fmt.Errorf("%w: the branch is at version %d, not %d; load it and decide again", record.ErrConflict, b.Version, expected)
	}
	return b, nil
}

// updateBranch stores settings, schema and policy of a branch that lockBranch read,
// as its next Version.
func updateBranch(ctx context.Context, tx *sql.Tx, b *Branch, now time.Time) error {
	settings, err := b.Settings.encode()
	if err != nil {
		return err
	}
	policy, err := b.Policy.encode()
	if err != nil {
		return err
	}
	n, err := changed(ctx, tx, `UPDATE branches SET version = version + 1, settings = $1, schema_id = $2, schema_version = $3, policy = $4, changed_ms = $5
		WHERE id = $6 AND version = $7`, settings, b.SchemaID, b.SchemaVersion, policy, millis(now), b.ID, b.Version)
	if err != nil {
		return err
	}
	if n != 1 {
		return fmt.Errorf("%w: the branch was changed meanwhile; load it and decide again", record.ErrConflict)
	}
	b.Version++
	b.Changed = now
	return nil
}

// insertBranch makes a branch of which Stream, Name, Settings, SchemaID, Origin,
// Policy and Created are given: with schema version 1 and an ACTIVE view. The view
// has the ids that were reserved, and so has the table unless TableUUID is given.
func insertBranch(ctx context.Context, tx *sql.Tx, b Branch, r Reserved) (Branch, error) {
	id, err := nextID(ctx, tx, "branch")
	if err != nil {
		return Branch{}, err
	}
	settings, err := b.Settings.encode()
	if err != nil {
		return Branch{}, err
	}
	policy, err := b.Policy.encode()
	if err != nil {
		return Branch{}, err
	}
	origin, err := b.Origin.encode()
	if err != nil {
		return Branch{}, err
	}
	b.ID, b.Version, b.SchemaVersion, b.Changed = BranchID(id), 1, 1, b.Created
	if b.TableUUID == "" {
		b.TableUUID = r.TableUUID
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO branches
		(id, stream_id, name, version, settings, schema_id, schema_version, table_uuid, origin, policy, created_ms, changed_ms)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)`,
		b.ID, b.Stream, b.Name, b.Version, settings, b.SchemaID, b.SchemaVersion, b.TableUUID, origin, policy, millis(b.Created))
	if err != nil {
		return Branch{}, err
	}
	if err := insertBranchSchema(ctx, tx, b, b.Created); err != nil {
		return Branch{}, err
	}
	b.View, err = insertView(ctx, tx, b, r, b.Created)
	return b, err
}
