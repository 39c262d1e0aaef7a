package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/thermocline/thermocline/record"
)

const (
	// MaxProperties bounds the properties of a namespace.
	MaxProperties = 1000
	// MaxPropertiesBytes bounds them as JSON.
	MaxPropertiesBytes = 256 << 10
)

// Namespace is a set of streams and datasets. There is one level of them, and
// names have no dots: "a.b" is always stream b in namespace a. DefaultNamespace
// always exists, others from their creation, or that of the first stream in
// them, until they are deleted.
type Namespace struct {
	Name string
	// Properties are the user's; treat them as immutable.
	Properties map[string]string
	Created    time.Time
}

const namespaceColumns = `n.name, n.properties, n.created_ms`

func scanNamespace(row scanner) (Namespace, error) {
	var n Namespace
	var properties string
	var created int64
	if err := row.Scan(&n.Name, &properties, &created); err != nil {
		return Namespace{}, err
	}
	if err := json.Unmarshal([]byte(properties), &n.Properties); err != nil {
		return Namespace{}, fmt.Errorf("%w: stored properties of namespace %s: %s", record.ErrCorrupt, clip(n.Name), err.Error())
	}
	n.Created = instant(created)
	return n, nil
}

// insertNamespace makes a namespace unless it exists.
func insertNamespace(ctx context.Context, tx *sql.Tx, n Namespace) (made bool, err error) {
	properties, err := encodeProperties(n.Properties)
	if err != nil {
		return false, err
	}
	rows, err := changed(ctx, tx, `INSERT INTO namespaces (name, properties, created_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
		n.Name, properties, millis(n.Created))
	return rows == 1, err
}

func encodeProperties(p map[string]string) (string, error) {
	if p == nil {
		p = map[string]string{}
	}
	if len(p) > MaxProperties {
		return "", fmt.Errorf("%w: %d properties; use at most %d", record.ErrTooLarge, len(p), MaxProperties)
	}
	b, err := json.Marshal(p)
	if err == nil && len(b) > MaxPropertiesBytes {
		err = fmt.Errorf("%w: the properties have %d bytes; use at most %d", record.ErrTooLarge, len(b), MaxPropertiesBytes)
	}
	return string(b), err
}

// CreateNamespace makes a namespace; record.ErrExists if it is there.
func (c *Catalog) CreateNamespace(ctx context.Context, name string, properties map[string]string) (Namespace, error) {
	op := "create namespace " + clip(name)
	if err := ValidateName("namespace", name); err != nil {
		return Namespace{}, failed(op, err)
	}
	n := Namespace{Name: name, Properties: maps.Clone(properties), Created: instant(millis(c.now()))}
	if n.Properties == nil {
		n.Properties = map[string]string{}
	}
	err := c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		made, err := insertNamespace(ctx, tx, n)
		if err == nil && !made {
			err = fmt.Errorf("%w: choose another name", record.ErrExists)
		}
		return err
	})
	if err != nil {
		return Namespace{}, err
	}
	return n, nil
}

// Namespace finds a namespace.
func (c *Catalog) Namespace(ctx context.Context, name string) (n Namespace, err error) {
	err = c.read(ctx, "find namespace "+clip(name), func(ctx context.Context, db *sql.DB) error {
		n, err = scanNamespace(db.QueryRowContext(ctx, `SELECT `+namespaceColumns+` FROM namespaces n WHERE n.name = $1`, name))
		return notFound(err, "there is no such namespace; create it first")
	})
	return n, err
}

// ListNamespaces lists the namespaces in the order of their names, those after the
// given one ("": from the first), at most limit (see DefaultPage).
func (c *Catalog) ListNamespaces(ctx context.Context, after string, limit int) (all []Namespace, err error) {
	err = c.read(ctx, "list namespaces", func(ctx context.Context, db *sql.DB) error {
		all, err = collect(ctx, db, scanNamespace, `SELECT `+namespaceColumns+` FROM namespaces n
			WHERE n.name > $1 ORDER BY n.name LIMIT $2`, after, pageLimit(limit))
		return err
	})
	return all, err
}

// UpdateNamespaceProperties removes and sets properties of a namespace in one step
// and returns it as it is then. To remove what is not set does nothing; a key that
// is in both is record.ErrInvalid.
func (c *Catalog) UpdateNamespaceProperties(ctx context.Context, name string, remove []string, set map[string]string) (n Namespace, err error) {
	op := "update the properties of namespace " + clip(name)
	for _, key := range remove {
		if _, both := set[key]; both {
			return Namespace{}, failed(op, fmt.Errorf("%w: property %q is to be removed and set; name it once", record.ErrInvalid, clip(key)))
		}
	}
	err = c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		n, err = scanNamespace(tx.QueryRowContext(ctx, `SELECT `+namespaceColumns+` FROM namespaces n WHERE n.name = $1`, name))
		if err != nil {
			return notFound(err, "there is no such namespace; create it first")
		}
		for _, key := range remove {
			delete(n.Properties, key)
		}
		maps.Copy(n.Properties, set)
		text, err := encodeProperties(n.Properties)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE namespaces SET properties = $1 WHERE name = $2`, text, name)
		return err
	})
	if err != nil {
		return Namespace{}, err
	}
	return n, nil
}

// DeleteNamespace deletes a namespace: record.ErrConflict while a stream or dataset
// is in it, record.ErrInvalid for DefaultNamespace.
func (c *Catalog) DeleteNamespace(ctx context.Context, name string) error {
	op := "delete namespace " + clip(name)
	if name == DefaultNamespace {
		return failed(op, fmt.Errorf("%w: this one always exists", record.ErrInvalid))
	}
	return c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		n, err := changed(ctx, tx, `DELETE FROM namespaces WHERE name = $1`, name)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: there is no such namespace", record.ErrNotFound)
		}
		var used int64
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM streams WHERE namespace = $1 AND deleted_ms = 0`, name).Scan(&used); err != nil {
			return err
		}
		if used > 0 {
			return fmt.Errorf("%w: it holds %d streams or datasets; delete or rename them first", record.ErrConflict, used)
		}
		return nil
	})
}
