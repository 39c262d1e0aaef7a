package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// NewSchema is a schema to be registered. Its ID is ignored; every field has an id.
type NewSchema struct {
	Schema *schema.Schema
	// FirstFieldID is the stream's NextFieldID from which ids of new fields
	// were taken; NextFieldID the next free one after that. They are equal if
	// there are no new fields. For a new stream FirstFieldID does not count.
	FirstFieldID, NextFieldID int
}

func (n NewSchema) validate() error {
	if n.Schema == nil {
		return fmt.Errorf("%w: no schema given", record.ErrInvalid)
	}
	if err := n.Schema.Validate(); err != nil {
		return err
	}
	if n.NextFieldID < max(n.FirstFieldID, schema.FirstUserID) || n.NextFieldID <= n.Schema.MaxID() || n.NextFieldID > math.MaxInt32 {
		return fmt.Errorf("%w: next field id %d; it must be above every id in the schema (%d), not below %d or %d, and fit 32 bits",
			record.ErrInvalid, n.NextFieldID, n.Schema.MaxID(), n.FirstFieldID, schema.FirstUserID)
	}
	return nil
}

// SchemaVersion is a schema in the history of a branch.
type SchemaVersion struct {
	Version int // 1, 2, … on the branch
	ID      int32
	Created time.Time
}

// AddSchema makes n the current schema of a branch, based on Version expected of
// the branch, and advances the stream's NextFieldID. record.ErrConflict also when
// another branch of the stream has taken those field ids meanwhile: load the
// stream and evolve the schema again. The returned schema has its ID set.
func (c *Catalog) AddSchema(ctx context.Context, id BranchID, expected int64, n NewSchema) (s *schema.Schema, b Branch, err error) {
	op := fmt.Sprintf("add a schema to branch %v", id)
	if err := n.validate(); err != nil {
		return nil, Branch{}, failed(op, err)
	}
	err = c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		if b, err = lockBranch(ctx, tx, id, expected); err != nil {
			return err
		}
		now := instant(millis(c.now()))
		if s, err = addBranchSchema(ctx, tx, &b, n, now); err != nil {
			return err
		}
		b.View.SchemaID = b.SchemaID
		if _, err := tx.ExecContext(ctx, `UPDATE views SET schema_id = $1 WHERE id = $2`, b.SchemaID, b.View.ID); err != nil {
			return err
		}
		return updateBranch(ctx, tx, &b, now)
	})
	if err != nil {
		return nil, Branch{}, err
	}
	c.schemas.put(s)
	return s, b, nil
}

// addBranchSchema registers n as the next schema version of b, which lockBranch
// read and updateBranch will store.
func addBranchSchema(ctx context.Context, tx *sql.Tx, b *Branch, n NewSchema, now time.Time) (*schema.Schema, error) {
	if err := advanceFieldIDs(ctx, tx, b.Stream, n); err != nil {
		return nil, err
	}
	s, err := insertSchema(ctx, tx, b.Stream, n.Schema, now)
	if err != nil {
		return nil, err
	}
	b.SchemaID, b.SchemaVersion = s.ID, b.SchemaVersion+1
	return s, insertBranchSchema(ctx, tx, *b, now)
}

// advanceFieldIDs takes the ids of n's new fields from the stream. Without new
// fields the schema still may not hold ids that were never given out.
func advanceFieldIDs(ctx context.Context, tx *sql.Tx, id StreamID, n NewSchema) error {
	var next int
	if err := tx.QueryRowContext(ctx, `SELECT next_field_id FROM streams WHERE id = $1`, id).Scan(&next); err != nil {
		return notFound(err, "there is no such stream")
	}
	if n.FirstFieldID == n.NextFieldID && n.Schema.MaxID() < next {
		return nil
	}
	if n.FirstFieldID != next {
		return fmt.Errorf("%w: the stream's next field id is %d, not %d; load the stream and evolve the schema again", record.ErrConflict, next, n.FirstFieldID)
	}
	_, err := tx.ExecContext(ctx, `UPDATE streams SET next_field_id = $1 WHERE id = $2`, n.NextFieldID, id)
	return err
}

// TakeFieldIDs gives the field ids below next to a dataset without a stream, whose
// tables hold their schemas themselves. record.ErrConflict if its next field id is
// not first any more: another branch has taken ids meanwhile.
func (c *Catalog) TakeFieldIDs(ctx context.Context, id StreamID, first, next int) error {
	return c.write(ctx, fmt.Sprintf("take field ids of dataset %v", id), func(ctx context.Context, tx *sql.Tx) error {
		n, err := changed(ctx, tx, `UPDATE streams SET next_field_id = $1 WHERE id = $2 AND kind = 'DATASET' AND next_field_id = $3 AND deleted_ms = 0`, next, id, first)
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: its next field id is not %d any more; load the table again", record.ErrConflict, first)
		}
		return err
	})
}

// insertSchema stores a schema under a new global id and returns the copy that
// carries it.
func insertSchema(ctx context.Context, tx *sql.Tx, stream StreamID, s *schema.Schema, now time.Time) (*schema.Schema, error) {
	id, err := nextSchemaID(ctx, tx)
	if err != nil {
		return nil, err
	}
	registered := s.Clone()
	registered.ID = id
	body, err := registered.MarshalJSON()
	if err != nil {
		return nil, err
	}
	if len(body) > schema.MaxSchemaBytes {
		return nil, fmt.Errorf("%w: the schema has %d bytes; the limit is %d", record.ErrTooLarge, len(body), schema.MaxSchemaBytes)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO schemas (id, stream_id, body, created_ms) VALUES ($1, $2, $3, $4)`,
		id, stream, string(body), millis(now))
	return registered, err
}

func nextSchemaID(ctx context.Context, tx *sql.Tx) (int32, error) {
	id, err := nextID(ctx, tx, "schema")
	if err == nil && id > math.MaxInt32 {
		err = fmt.Errorf("%w: all schema ids are used up", record.ErrTooLarge)
	}
	return int32(id), err
}

// insertBranchSchema records the branch's current schema in its history.
func insertBranchSchema(ctx context.Context, tx *sql.Tx, b Branch, now time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO branch_schemas (branch_id, version, schema_id, created_ms) VALUES ($1, $2, $3, $4)`,
		b.ID, b.SchemaVersion, b.SchemaID, millis(now))
	return err
}

// SchemaByID returns a schema by its global id, also of a deleted stream. It is
// shared and immutable, and usually comes from memory. That of a DATASET, which
// has none here, is record.ErrNotFound.
func (c *Catalog) SchemaByID(ctx context.Context, id int32) (*schema.Schema, error) {
	if s := c.schemas.get(id); s != nil {
		return s, nil
	}
	var s *schema.Schema
	err := c.read(ctx, fmt.Sprintf("read schema %d", id), func(ctx context.Context, db *sql.DB) error {
		var body string
		err := db.QueryRowContext(ctx, `SELECT body FROM schemas WHERE id = $1`, id).Scan(&body)
		if err != nil {
			return notFound(err, "there is no such schema in this catalog")
		}
		if body == noSchema(id) {
			return fmt.Errorf("%w: a dataset without a stream has its schema in its table's metadata", record.ErrNotFound)
		}
		if s, err = schema.Parse([]byte(body)); err != nil {
			return fmt.Errorf("%w: stored schema: %s", record.ErrCorrupt, err.Error())
		}
		if s.ID != id {
			return fmt.Errorf("%w: the stored schema says it is schema %d", record.ErrCorrupt, s.ID)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.schemas.put(s)
	return s, nil
}

// SchemaVersions lists the schemas that a branch has had, newest first, those
// before the given version (0: from the newest), at most limit (see DefaultPage).
func (c *Catalog) SchemaVersions(ctx context.Context, id BranchID, before, limit int) (all []SchemaVersion, err error) {
	if before <= 0 {
		before = math.MaxInt32
	}
	scan := func(row scanner) (SchemaVersion, error) {
		var v SchemaVersion
		var created int64
		err := row.Scan(&v.Version, &v.ID, &created)
		v.Created = instant(created)
		return v, err
	}
	err = c.read(ctx, fmt.Sprintf("list schemas of branch %v", id), func(ctx context.Context, db *sql.DB) error {
		all, err = collect(ctx, db, scan, `SELECT version, schema_id, created_ms FROM branch_schemas
			WHERE branch_id = $1 AND version < $2 ORDER BY version DESC LIMIT $3`, id, before, pageLimit(limit))
		return err
	})
	return all, err
}

// StreamSchemas lists the ids of the schemas that the branches of a stream have
// had, also those of branches that are gone, newest first, those before the given
// one (0: from the newest), at most limit (see DefaultPage).
func (c *Catalog) StreamSchemas(ctx context.Context, id StreamID, before int32, limit int) (all []int32, err error) {
	if before <= 0 {
		before = math.MaxInt32
	}
	scan := func(row scanner) (id int32, err error) { return id, row.Scan(&id) }
	err = c.read(ctx, fmt.Sprintf("list schemas of stream %v", id), func(ctx context.Context, db *sql.DB) error {
		all, err = collect(ctx, db, scan, `SELECT id FROM schemas WHERE stream_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3`, id, before, pageLimit(limit))
		return err
	})
	return all, err
}

// maxCachedFields bounds the schema cache by the number of fields it holds.
const maxCachedFields = 1 << 17

// schemaCache keeps schemas by id. They never change, so there is nothing to
// invalidate; any of them may be dropped to make room.
type schemaCache struct {
	mu     sync.RWMutex
	byID   map[int32]*schema.Schema
	fields int
}

func (c *schemaCache) get(id int32) *schema.Schema {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.byID[id]
}

func (c *schemaCache) put(s *schema.Schema) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byID[s.ID] != nil {
		return
	}
	if c.byID == nil {
		c.byID = make(map[int32]*schema.Schema)
	}
	c.byID[s.ID] = s
	c.fields += cost(s)
	for id, old := range c.byID {
		if c.fields <= maxCachedFields {
			break
		}
		delete(c.byID, id)
		c.fields -= cost(old)
	}
}

// cost of a schema in fields, at any depth; ids are dense enough for an estimate.
func cost(s *schema.Schema) int { return 1 + countFields(s.Fields) }

func countFields(fields []schema.Field) int {
	n := len(fields)
	for i := range fields {
		n += countParts(&fields[i].Type)
	}
	return n
}

func countParts(t *schema.Type) int {
	n := countFields(t.Fields)
	if t.Element != nil {
		n += 1 + countParts(&t.Element.Type)
	}
	if t.Value != nil {
		n += 1 + countParts(&t.Value.Type)
	}
	return n
}
