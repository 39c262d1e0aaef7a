package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// NewDataset is what CreateDataset needs.
type NewDataset struct {
	Namespace string // empty: DefaultNamespace
	Name      string
	// Settings of the branch; of a dataset only DatasetFormat counts. Unset ones
	// get their defaults.
	Settings Settings
	// TableUUID names the table of branch main; empty: a new one.
	TableUUID string
	// Location of the table's metadata, durable by now: the pointer comes into
	// being with the dataset. Empty: see CreateTablePointer.
	Location string
	// Revive: if the table is in the trash and not due yet, it is taken out.
	Revive bool
}

// CreateDataset makes a dataset without a stream: a Stream of kind DATASET with its
// branch main, whose view takes no rows until StartStream. record.ErrExists if the
// name or the table's UUID is taken.
func (c *Catalog) CreateDataset(ctx context.Context, n NewDataset) (Stream, Branch, error) {
	if n.Namespace == "" {
		n.Namespace = DefaultNamespace
	}
	if n.TableUUID == "" {
		n.TableUUID = uuid.NewString()
	}
	n.Settings = n.Settings.WithDefaults()
	op := fmt.Sprintf("create dataset %s.%s", clip(n.Namespace), clip(n.Name))
	err := ValidateName("namespace", n.Namespace)
	if err == nil {
		err = ValidateName("dataset name", n.Name)
	}
	if err == nil {
		err = n.Settings.Validate()
	}
	if id, perr := uuid.Parse(n.TableUUID); err == nil && (perr != nil || id.String() != n.TableUUID) {
		err = fmt.Errorf("%w: table UUID %q is none in canonical form", record.ErrInvalid, clip(n.TableUUID))
	}
	if err != nil {
		return Stream{}, Branch{}, failed(op, err)
	}
	var s Stream
	var b Branch
	err = c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		now := instant(millis(c.now()))
		s, err = insertStream(ctx, tx, Stream{
			Kind: KindDataset, Namespace: n.Namespace, Name: n.Name, NextFieldID: schema.FirstUserID, Created: now,
		})
		if err != nil {
			return err
		}
		if n.Revive {
			// Not one that is due, or nearly: its files may be going.
			_, err := tx.ExecContext(ctx, `DELETE FROM trash WHERE table_uuid = $1 AND not_before_ms > $2`, n.TableUUID, millis(now.Add(reviveBefore)))
			if err != nil {
				return err
			}
		}
		var taken int64
		err := tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM branches WHERE table_uuid = $1) + (SELECT count(*) FROM trash WHERE table_uuid = $1)`, n.TableUUID).Scan(&taken)
		if err != nil {
			return err
		}
		if taken > 0 {
			// In the trash: its files are about to be deleted.
			return fmt.Errorf("%w: table %s belongs to another dataset or to a deleted one; give it another UUID", record.ErrExists, n.TableUUID)
		}
		none, err := insertNoSchema(ctx, tx, s.ID, now)
		if err != nil {
			return err
		}
		r, err := reserve(ctx, tx, s.ID)
		if err != nil {
			return err
		}
		b, err = insertBranch(ctx, tx, Branch{
			Stream: s.ID, Name: MainBranch, Settings: n.Settings, SchemaID: none, TableUUID: n.TableUUID, Created: now,
		}, r)
		if err != nil || n.Location == "" {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO table_pointers (table_uuid, location, updated_ms) VALUES ($1, $2, $3)`,
			b.TableUUID, n.Location, millis(now))
		return err
	})
	if err != nil {
		return Stream{}, Branch{}, err
	}
	return s, b, nil
}

// reviveBefore is how long before its time a table in the trash is given up.
const reviveBefore = time.Minute

// noSchema is the stored form of the schema of a DATASET.
func noSchema(id int32) string { return fmt.Sprintf(`{"id":%d,"fields":[]}`, id) }

func insertNoSchema(ctx context.Context, tx *sql.Tx, stream StreamID, now time.Time) (int32, error) {
	id, err := nextSchemaID(ctx, tx)
	if err != nil {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO schemas (id, stream_id, body, created_ms) VALUES ($1, $2, $3, $4)`,
		id, stream, noSchema(id), millis(now))
	return id, err
}

// BranchStart is what StartStream needs of one branch.
type BranchStart struct {
	Branch BranchID
	// Version that the settings and the schema are based on.
	Version  int64
	Settings Settings
	// Schema of the rows to come, with the ids that the table's columns have;
	// FirstFieldID does not count.
	Schema NewSchema
	// Location is where the table's pointer must stand: the metadata that the
	// schema was read from, with everything that a stream needs.
	Location string
}

// StartStream turns a DATASET into a STREAM with all its branches: their views begin
// to take rows, their schemas are registered as the first versions. record.ErrConflict
// if a branch is missing in starts, has changed, or its table was committed to after
// it was looked at: look again. record.ErrExists if it is a stream already.
func (c *Catalog) StartStream(ctx context.Context, id StreamID, starts []BranchStart) (Stream, []Branch, error) {
	op := fmt.Sprintf("start a stream on dataset %v", id)
	next := schema.FirstUserID
	for i := range starts {
		err := starts[i].Settings.Validate()
		if err == nil {
			err = starts[i].Schema.validate()
		}
		if err != nil {
			return Stream{}, nil, failed(op, fmt.Errorf("branch %v: %w", starts[i].Branch, err))
		}
		next = max(next, starts[i].Schema.NextFieldID)
	}
	var s Stream
	var branches []Branch
	var registered []*schema.Schema
	err := c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		branches, registered = nil, nil
		var err error
		s, err = scanStream(tx.QueryRowContext(ctx, `SELECT `+streamColumns+` FROM streams s WHERE s.id = $1 AND s.deleted_ms = 0`, id))
		if err != nil {
			return notFound(err, "there is no such dataset; it may have been deleted")
		}
		if s.Kind != KindDataset {
			return fmt.Errorf("%w: it is a stream already", record.ErrExists)
		}
		s.Kind, s.NextFieldID = KindStream, max(s.NextFieldID, next)
		if _, err := tx.ExecContext(ctx, `UPDATE streams SET kind = $1, next_field_id = $2 WHERE id = $3`, s.Kind, s.NextFieldID, id); err != nil {
			return err
		}
		for i := range starts {
			b, sc, err := startBranch(ctx, tx, id, &starts[i], instant(millis(c.now())))
			if err != nil {
				return fmt.Errorf("branch %v: %w", starts[i].Branch, err)
			}
			branches, registered = append(branches, b), append(registered, sc)
		}
		var all int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM branches WHERE stream_id = $1`, id).Scan(&all); err != nil {
			return err
		}
		if all != len(branches) {
			return fmt.Errorf("%w: it has %d branches, not %d; look at them again", record.ErrConflict, all, len(branches))
		}
		// Nothing names the schema without fields any more.
		_, err = tx.ExecContext(ctx, `DELETE FROM schemas WHERE stream_id = $1
			AND id NOT IN (SELECT schema_id FROM branch_schemas WHERE branch_id IN (SELECT id FROM branches WHERE stream_id = $1))`, id)
		return err
	})
	if err != nil {
		return Stream{}, nil, err
	}
	for _, sc := range registered {
		c.schemas.put(sc)
	}
	return s, branches, nil
}

func startBranch(ctx context.Context, tx *sql.Tx, stream StreamID, n *BranchStart, now time.Time) (Branch, *schema.Schema, error) {
	b, err := lockBranch(ctx, tx, n.Branch, n.Version)
	if err != nil {
		return Branch{}, nil, err
	}
	if b.Stream != stream {
		return Branch{}, nil, fmt.Errorf("%w: it belongs to %v", record.ErrInvalid, b.Stream)
	}
	var open int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM transactions WHERE branch_id = $1 AND state = 'OPEN'`, b.ID).Scan(&open); err != nil {
		return Branch{}, nil, err
	}
	if open > 0 {
		return Branch{}, nil, fmt.Errorf("%w: a transaction is open on it; commit or abort it first", record.ErrConflict)
	}
	var at string
	if err := tx.QueryRowContext(ctx, `SELECT location FROM table_pointers WHERE table_uuid = $1`, b.TableUUID).Scan(&at); err != nil {
		return Branch{}, nil, notFound(err, "its table was not created yet")
	}
	if at != n.Location {
		return Branch{}, nil, fmt.Errorf("%w: its table stands at %s, not at %s; look at it again", record.ErrConflict, at, n.Location)
	}
	sc, err := insertSchema(ctx, tx, stream, n.Schema.Schema, now)
	if err != nil {
		return Branch{}, nil, err
	}
	b.Settings, b.SchemaID = n.Settings, sc.ID
	if err := updateBranch(ctx, tx, &b, now); err != nil {
		return Branch{}, nil, err
	}
	_, err = tx.ExecContext(ctx, `UPDATE branch_schemas SET schema_id = $1, created_ms = $2 WHERE branch_id = $3`, sc.ID, millis(now), b.ID)
	if err != nil {
		return Branch{}, nil, err
	}
	b.View.SchemaID, b.View.Partitions = sc.ID, n.Settings.Partitions
	_, err = tx.ExecContext(ctx, `UPDATE views SET schema_id = $1, partitions = $2 WHERE id = $3`, sc.ID, b.View.Partitions, b.View.ID)
	return b, sc, err
}

// SwapDatasetPointer is SwapTablePointer for a table of a DATASET. Once it is a
// stream, record.ErrFenced: who decided by what a dataset may decides again.
func (c *Catalog) SwapDatasetPointer(ctx context.Context, tableUUID, from, to string) error {
	return c.write(ctx, fmt.Sprintf("swap the pointer of table %s", clip(tableUUID)), func(ctx context.Context, tx *sql.Tx) error {
		var kind Kind
		err := tx.QueryRowContext(ctx, `SELECT s.kind FROM branches b JOIN streams s ON s.id = b.stream_id WHERE b.table_uuid = $1`, tableUUID).Scan(&kind)
		if err != nil {
			return notFound(err, "the table was not created yet, or was deleted")
		}
		if kind != KindDataset {
			return fmt.Errorf("%w: a stream was started on it; look at it again", record.ErrFenced)
		}
		return c.swapPointer(ctx, tx, Swap{tableUUID, from, to})
	})
}

// RenameStream gives a stream or dataset another name, in the same namespace or
// another one, which must exist. Cursors, subscribers and tables stay as they are.
// record.ErrExists if the name is taken.
func (c *Catalog) RenameStream(ctx context.Context, id StreamID, namespace, name string) (s Stream, err error) {
	op := fmt.Sprintf("rename stream %v to %s.%s", id, clip(namespace), clip(name))
	err = ValidateName("namespace", namespace)
	if err == nil {
		err = ValidateName("stream name", name)
	}
	if err != nil {
		return Stream{}, failed(op, err)
	}
	err = c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		s, err = scanStream(tx.QueryRowContext(ctx, `SELECT `+streamColumns+` FROM streams s WHERE s.id = $1 AND s.deleted_ms = 0`, id))
		if err != nil {
			return notFound(err, "there is no such stream; it may have been deleted")
		}
		var there int
		if err := tx.QueryRowContext(ctx, `SELECT 1 FROM namespaces WHERE name = $1`, namespace).Scan(&there); err != nil {
			return notFound(err, "there is no such namespace; create it first")
		}
		var taken int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM streams WHERE namespace = $1 AND name = $2 AND deleted_ms = 0 AND id <> $3`, namespace, name, id).Scan(&taken); err != nil {
			return err
		}
		if taken > 0 {
			return fmt.Errorf("%w: choose another name or delete that one first", record.ErrExists)
		}
		s.Namespace, s.Name = namespace, name
		_, err = tx.ExecContext(ctx, `UPDATE streams SET namespace = $1, name = $2 WHERE id = $3`, namespace, name, id)
		return err
	})
	if err != nil {
		return Stream{}, err
	}
	return s, nil
}
