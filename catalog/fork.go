package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// MaxBranches bounds the branches of a stream.
const MaxBranches = 1000

// Reserved are the ids of a branch or a view that is about to be. They are never
// given out again, whether it comes to be or not.
type Reserved struct {
	TableUUID string
	View      record.ViewID
	Number    record.ViewNumber
	// trash is the entry that has the table's files deleted, unless the branch
	// comes to be before.
	trash int64
}

// reserve takes the next ids of a stream.
func reserve(ctx context.Context, tx *sql.Tx, stream StreamID) (Reserved, error) {
	id, err := nextID(ctx, tx, "view")
	if err != nil {
		return Reserved{}, err
	}
	var number int64
	err = tx.QueryRowContext(ctx, `UPDATE streams SET last_view_number = last_view_number + 1
		WHERE id = $1 AND deleted_ms = 0 RETURNING last_view_number`, stream).Scan(&number)
	if err != nil {
		return Reserved{}, notFound(err, "there is no such stream")
	}
	if number > math.MaxInt32 {
		return Reserved{}, fmt.Errorf("%w: the stream has had %d views; make a new stream", record.ErrTooLarge, number-1)
	}
	return Reserved{TableUUID: uuid.NewString(), View: record.ViewID(id), Number: record.ViewNumber(number)}, nil
}

// ReserveBranch takes the ids of a branch that is to share another one's files, so
// that the first metadata of its table can be stored before CreateBranch. Until
// then a branch is nothing but an entry in the trash: if CreateBranch has not
// come before until, what was stored is deleted.
func (c *Catalog) ReserveBranch(ctx context.Context, stream StreamID, until time.Time) (r Reserved, err error) {
	err = c.write(ctx, fmt.Sprintf("reserve a branch of stream %v", stream), func(ctx context.Context, tx *sql.Tx) error {
		if r, err = reserve(ctx, tx, stream); err != nil {
			return err
		}
		if r.trash, err = nextID(ctx, tx, "trash"); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO trash (id, stream_id, table_uuid, location, not_before_ms) VALUES ($1, $2, $3, '', $4)`,
			r.trash, stream, r.TableUUID, millis(until))
		return err
	})
	return r, err
}

// NewBranch is what CreateBranch needs.
type NewBranch struct {
	Stream StreamID
	// Kind that the stream had when the table's metadata was made.
	Kind     Kind
	Name     string
	Settings Settings
	// SchemaID is a schema of the stream; or Schema is one to be registered.
	SchemaID int32
	Schema   *NewSchema
	Policy   Policy
	Origin   Origin
	// Location of the first metadata of the table.
	Location string
}

// CreateBranch makes a branch with all that it needs under the ids that were
// reserved: a view, a schema and a table pointer, in one transaction.
// record.ErrExists if the name is taken, record.ErrNotFound if the stream is
// gone, record.ErrConflict if the reservation is over, or if field ids were given
// out meanwhile, record.ErrTooLarge beyond MaxBranches.
func (c *Catalog) CreateBranch(ctx context.Context, r Reserved, n NewBranch) (b Branch, err error) {
	op := fmt.Sprintf("create branch %s of stream %v", clip(n.Name), n.Stream)
	if err := n.validate(); err != nil {
		return Branch{}, failed(op, err)
	}
	var registered *schema.Schema
	err = c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		now := instant(millis(c.now()))
		if err := checkRoom(ctx, tx, n); err != nil {
			return err
		}
		live, err := changed(ctx, tx, `DELETE FROM trash WHERE id = $1 AND table_uuid = $2 AND not_before_ms > $3`, r.trash, r.TableUUID, millis(now))
		if err != nil {
			return err
		}
		if live != 1 {
			return fmt.Errorf("%w: the reservation of the branch's table is over; try again", record.ErrConflict)
		}
		schemaID := n.SchemaID
		if n.Schema != nil {
			if err := advanceFieldIDs(ctx, tx, n.Stream, *n.Schema); err != nil {
				return err
			}
			if registered, err = insertSchema(ctx, tx, n.Stream, n.Schema.Schema, now); err != nil {
				return err
			}
			schemaID = registered.ID
		}
		b, err = insertBranch(ctx, tx, Branch{
			Stream: n.Stream, Name: n.Name, Settings: n.Settings, SchemaID: schemaID, Policy: n.Policy, Origin: n.Origin, Created: now,
		}, r)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO table_pointers (table_uuid, location, updated_ms) VALUES ($1, $2, $3)`, r.TableUUID, n.Location, millis(now))
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

func (n *NewBranch) validate() error {
	if err := ValidateName("branch name", n.Name); err != nil {
		return err
	}
	if err := n.Settings.Validate(); err != nil {
		return err
	}
	if err := n.Policy.validateFor(n.Name); err != nil {
		return err
	}
	if n.Location == "" {
		return fmt.Errorf("%w: the table's location is empty", record.ErrInvalid)
	}
	if n.Schema != nil {
		return n.Schema.validate()
	}
	return nil
}

// checkRoom makes sure that the stream is there and can have the branch.
func checkRoom(ctx context.Context, tx *sql.Tx, n NewBranch) error {
	var branches, same, schemas int
	var kind Kind
	err := tx.QueryRowContext(ctx, `SELECT
		COALESCE((SELECT kind FROM streams WHERE id = $1 AND deleted_ms = 0), ''),
		(SELECT count(*) FROM branches WHERE stream_id = $1),
		(SELECT count(*) FROM branches WHERE stream_id = $1 AND name = $2),
		(SELECT count(*) FROM schemas WHERE stream_id = $1 AND id = $3)`, n.Stream, n.Name, n.SchemaID).Scan(&kind, &branches, &same, &schemas)
	switch {
	case err != nil:
		return err
	case kind == "":
		return fmt.Errorf("%w: there is no such stream; it may have been deleted", record.ErrNotFound)
	case kind != n.Kind:
		return fmt.Errorf("%w: it became a %s meanwhile; try again", record.ErrConflict, kind)
	case same > 0:
		return fmt.Errorf("%w: choose another name or delete that branch first", record.ErrExists)
	case branches >= MaxBranches:
		return fmt.Errorf("%w: the stream has %d branches, the most that are allowed; delete some first", record.ErrTooLarge, branches)
	case n.Schema == nil && schemas == 0:
		return fmt.Errorf("%w: schema %d is not one of the stream", record.ErrInvalid, n.SchemaID)
	}
	return nil
}

// DeleteBranch deletes a branch, never main, and not a protected one
// (record.ErrConflict). Its name is free at once; its views, checkpoints, leases
// and table pointer are gone, so that an archiver still at work on it can no
// longer commit; an entry in the trash says what to look through for files that
// no other branch reaches, from notBefore on. Its subscribers go with it if
// subscribers is true, otherwise they are record.ErrConflict. Its schemas stay.
// It returns its views: the hot buffer can drop them. A crash before it does leaves
// views that the catalog does not know.
func (c *Catalog) DeleteBranch(ctx context.Context, id BranchID, subscribers bool, notBefore time.Time) (views []record.ViewID, err error) {
	err = c.write(ctx, fmt.Sprintf("delete branch %v", id), func(ctx context.Context, tx *sql.Tx) error {
		b, err := scanBranch(tx.QueryRowContext(ctx, `SELECT `+branchColumns+branchFrom+`WHERE b.id = $1`, id))
		if err != nil {
			return notFound(err, "there is no such branch; it may have been deleted already")
		}
		if err := deletable(b); err != nil {
			return err
		}
		if !subscribers {
			var n int
			if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM subscribers WHERE branch_id = $1`, id).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				return fmt.Errorf("%w: it has %d subscribers; delete them first, or with it", record.ErrConflict, n)
			}
		}
		views, err = removeBranches(ctx, tx, 0, id, notBefore)
		return err
	})
	if err != nil {
		return nil, err
	}
	return views, nil
}

func deletable(b Branch) error {
	if b.Name == MainBranch {
		return fmt.Errorf("%w: the branch %s goes with its stream only; delete the stream", record.ErrInvalid, MainBranch)
	}
	if b.Policy.Protected {
		return fmt.Errorf("%w: the branch %s is protected; end the protection first", record.ErrConflict, b.Name)
	}
	return nil
}
