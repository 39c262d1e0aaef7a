package node

import (
	"context"

	"github.com/thermocline/thermocline/api/iceberg"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset/objstore"
)

// sharedStore is a store that other programs can reach over a network.
type sharedStore interface {
	objstore.Store
	// ClientConfig is how a client reaches the store, in the names that Iceberg
	// clients know; with credentials: those that this process has.
	ClientConfig(ctx context.Context, credentials bool) (map[string]string, error)
}

// StorageConfig has nothing to say of files on a local disk: a client there reads
// them by their paths.
func (t tables) StorageConfig(ctx context.Context, credentials bool) (string, map[string]string, error) {
	s, ok := t.n.warehouse.(sharedStore)
	if !ok {
		return "", nil, nil
	}
	config, err := s.ClientConfig(ctx, credentials)
	return s.Base(), config, err
}

// answers are the catalog's as the Iceberg REST catalog sees them.
type answers struct{ *catalog.Catalog }

func (a answers) BeginAnswer(ctx context.Context, key, fingerprint string) (iceberg.Answer, bool, error) {
	got, known, err := a.Catalog.BeginAnswer(ctx, key, fingerprint)
	return iceberg.Answer(got), known, err
}

func (a answers) EndAnswer(ctx context.Context, key string, given iceberg.Answer) error {
	return a.Catalog.EndAnswer(ctx, key, catalog.Answer(given))
}
