package node

import (
	"context"
	"errors"

	"github.com/thermocline/thermocline/api/iceberg"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

func (t tables) Namespaces(ctx context.Context, p iceberg.Page) ([]string, string, error) {
	var names []string
	for after, size := p.Token, p.Size; ; {
		if size == 0 {
			size = catalog.MaxPage
		}
		page, err := t.n.catalog.ListNamespaces(ctx, after, size)
		if err != nil {
			return nil, "", err
		}
		for _, n := range page {
			names = append(names, n.Name)
			after = n.Name
		}
		switch {
		case len(page) < size:
			return names, "", nil
		case p.Size > 0:
			return names, after, nil
		}
	}
}

func (t tables) Namespace(ctx context.Context, name string) (map[string]string, error) {
	n, err := t.n.catalog.Namespace(ctx, name)
	if errors.Is(err, record.ErrNotFound) {
		err = &iceberg.MissingNamespaceError{Name: name}
	}
	return n.Properties, err
}

func (t tables) CreateNamespace(ctx context.Context, name string, properties map[string]string) error {
	_, err := t.n.catalog.CreateNamespace(ctx, name, properties)
	return err
}

func (t tables) SetNamespace(ctx context.Context, name string, removals []string, updates map[string]string) ([]string, error) {
	before, err := t.Namespace(ctx, name)
	if err != nil {
		return nil, err
	}
	missing := []string{}
	for _, key := range removals {
		if _, ok := before[key]; !ok {
			missing = append(missing, key)
		}
	}
	_, err = t.n.catalog.UpdateNamespaceProperties(ctx, name, removals, updates)
	return missing, err
}

func (t tables) DropNamespace(ctx context.Context, name string) error {
	return t.n.catalog.DeleteNamespace(ctx, name)
}
