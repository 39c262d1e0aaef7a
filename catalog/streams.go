package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Kind says whether rows are published to a Stream, or only its tables exist.
type Kind string

const (
	KindStream  Kind = "STREAM"
	KindDataset Kind = "DATASET" // see CreateDataset
)

// Stream is a named stream, or a dataset without one. Its branches hold
// everything else.
type Stream struct {
	ID        StreamID
	Kind      Kind
	Namespace string
	Name      string
	// NextFieldID is the next free Iceberg field id, over all branches; of a
	// DATASET it does not count, its tables know.
	NextFieldID int
	Created     time.Time
	// Deleted is zero while the stream exists.
	Deleted time.Time
}

// FullName is namespace.name, the form that ParseName reads.
func (s Stream) FullName() string { return s.Namespace + "." + s.Name }

// NewStream is what CreateStream needs.
type NewStream struct {
	Namespace string // empty: DefaultNamespace
	Name      string
	Settings  Settings // unset ones get their defaults
	Schema    NewSchema
}

// CreateStream makes a stream with its main branch, the branch's first view
// (number 1), its schema (version 1) and the UUID of its dataset table, which does
// not exist yet: see CreateTablePointer. record.ErrExists if the name is taken,
// record.ErrInvalid for bad names, settings or field ids.
func (c *Catalog) CreateStream(ctx context.Context, n NewStream) (Stream, Branch, error) {
	if n.Namespace == "" {
		n.Namespace = DefaultNamespace
	}
	n.Settings = n.Settings.WithDefaults()
	op := fmt.Sprintf("create stream %s.%s", clip(n.Namespace), clip(n.Name))
	err := ValidateName("namespace", n.Namespace)
	if err == nil {
		err = ValidateName("stream name", n.Name)
	}
	if err == nil {
		err = n.Settings.Validate()
	}
	if err == nil {
		err = n.Schema.validate()
	}
	if err != nil {
		return Stream{}, Branch{}, failed(op, err)
	}
	var s Stream
	var b Branch
	var registered *schema.Schema
	err = c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		now := instant(millis(c.now()))
		s, err = insertStream(ctx, tx, Stream{
			Kind: KindStream, Namespace: n.Namespace, Name: n.Name, NextFieldID: n.Schema.NextFieldID, Created: now,
		})
		if err != nil {
			return err
		}
		if registered, err = insertSchema(ctx, tx, s.ID, n.Schema.Schema, now); err != nil {
			return err
		}
		r, err := reserve(ctx, tx, s.ID)
		if err != nil {
			return err
		}
		b, err = insertBranch(ctx, tx, Branch{
			Stream: s.ID, Name: MainBranch, Settings: n.Settings, SchemaID: registered.ID, Created: now,
		}, r)
		return err
	})
	if err != nil {
		return Stream{}, Branch{}, err
	}
	c.schemas.put(registered)
	return s, b, nil
}

// insertStream stores a new stream under its next id, in a namespace that comes
// into being with it if need be.
func insertStream(ctx context.Context, tx *sql.Tx, s Stream) (Stream, error) {
	id, err := nextID(ctx, tx, "stream")
	if err != nil {
		return Stream{}, err
	}
	s.ID = StreamID(id)
	made, err := changed(ctx, tx, `INSERT INTO streams
		(id, kind, namespace, name, next_field_id, last_view_number, created_ms, deleted_ms)
		VALUES ($1, $2, $3, $4, $5, 0, $6, 0) ON CONFLICT DO NOTHING`,
		id, s.Kind, s.Namespace, s.Name, s.NextFieldID, millis(s.Created))
	if err != nil {
		return Stream{}, err
	}
	if made == 0 {
		return Stream{}, fmt.Errorf("%w: choose another name or delete that one first", record.ErrExists)
	}
	_, err = insertNamespace(ctx, tx, Namespace{Name: s.Namespace, Created: s.Created})
	return s, err
}

const streamColumns = `s.id, s.kind, s.namespace, s.name, s.next_field_id, s.created_ms, s.deleted_ms`

func scanStream(row scanner) (Stream, error) {
	var r streamRow
	if err := row.Scan(r.dest()...); err != nil {
		return Stream{}, err
	}
	return r.stream(), nil
}

// streamRow is a row of streamColumns.
type streamRow struct {
	s                Stream
	created, deleted int64
}

func (r *streamRow) dest() []any {
	return []any{&r.s.ID, &r.s.Kind, &r.s.Namespace, &r.s.Name, &r.s.NextFieldID, &r.created, &r.deleted}
}

func (r *streamRow) stream() Stream {
	r.s.Created = instant(r.created)
	if r.deleted != 0 {
		r.s.Deleted = instant(r.deleted)
	}
	return r.s
}

// Stream finds the stream, of any Kind, that has the name now.
func (c *Catalog) Stream(ctx context.Context, namespace, name string) (Stream, error) {
	return c.stream(ctx, fmt.Sprintf("find stream %s.%s", clip(namespace), clip(name)),
		`s.namespace = $1 AND s.name = $2 AND s.deleted_ms = 0`, namespace, name)
}

// StreamByID finds a stream, also a deleted one.
func (c *Catalog) StreamByID(ctx context.Context, id StreamID) (Stream, error) {
	return c.stream(ctx, fmt.Sprintf("find stream %v", id), `s.id = $1`, id)
}

func (c *Catalog) stream(ctx context.Context, op, where string, args ...any) (s Stream, err error) {
	err = c.read(ctx, op, func(ctx context.Context, db *sql.DB) error {
		s, err = scanStream(db.QueryRowContext(ctx, `SELECT `+streamColumns+` FROM streams s WHERE `+where, args...))
		return notFound(err, "there is no such stream")
	})
	return s, err
}

// Resolve finds a stream of any Kind by name and one of its branches, in one
// consistent read.
func (c *Catalog) Resolve(ctx context.Context, namespace, name, branch string) (s Stream, b Branch, err error) {
	op := fmt.Sprintf("find stream %s.%s, branch %s", clip(namespace), clip(name), clip(branch))
	err = c.read(ctx, op, func(ctx context.Context, db *sql.DB) error {
		var sr streamRow
		var r branchRow
		err := db.QueryRowContext(ctx, `SELECT `+streamColumns+`, `+branchColumns+` FROM streams s
			JOIN branches b ON b.stream_id = s.id JOIN views v ON v.branch_id = b.id AND v.state = 'ACTIVE'
			WHERE s.namespace = $1 AND s.name = $2 AND s.deleted_ms = 0 AND b.name = $3`, namespace, name, branch).
			Scan(append(sr.dest(), r.dest()...)...)
		if err != nil {
			return notFound(err, "there is no such stream, or it has no such branch")
		}
		s = sr.stream()
		b, err = r.branch()
		return err
	})
	if err != nil {
		return Stream{}, Branch{}, err
	}
	return s, b, nil
}

// notFound turns the absence of a row into record.ErrNotFound.
func notFound(err error, hint string) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w: %s", record.ErrNotFound, hint)
	}
	return err
}

// DeleteStream deletes a stream: its name is free at once; its branches, views,
// checkpoints, leases, subscribers and table pointers are gone, so that an archiver
// still at work on it can no longer commit; for each branch an entry in the trash says what
// to delete at notBefore. Its schemas stay, so that rows that were read can still
// be decoded. It returns all views of the stream: the hot buffer can drop them.
// A crash before it does leaves views that the catalog does not know, which is
// how they are found.
func (c *Catalog) DeleteStream(ctx context.Context, id StreamID, notBefore time.Time) (views []record.ViewID, err error) {
	err = c.write(ctx, fmt.Sprintf("delete stream %v", id), func(ctx context.Context, tx *sql.Tx) error {
		n, err := changed(ctx, tx, `UPDATE streams SET deleted_ms = $1 WHERE id = $2 AND deleted_ms = 0`,
			max(1, millis(c.now())), id)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: there is no such stream; it may have been deleted already", record.ErrNotFound)
		}
		var protected string
		err = tx.QueryRowContext(ctx, `SELECT name FROM branches WHERE stream_id = $1 AND policy LIKE '%"protected":true%' ORDER BY id LIMIT 1`, id).Scan(&protected)
		if err == nil {
			return fmt.Errorf("%w: its branch %s is protected; end the protection first", record.ErrConflict, protected)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		// What branches that were deleted before have left may be in use, too.
		if _, err := tx.ExecContext(ctx, `UPDATE trash SET not_before_ms = $1 WHERE stream_id = $2 AND not_before_ms < $1`, millis(notBefore), id); err != nil {
			return err
		}
		views, err = removeBranches(ctx, tx, id, 0, notBefore)
		return err
	})
	if err != nil {
		return nil, err
	}
	return views, nil
}
