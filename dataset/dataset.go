// Package dataset keeps tables: Iceberg format v2 metadata, immutable data
// files, snapshots and commits by compare-and-swap, and scans over them.
//
// It knows no hot buffer and no catalog: where a table's pointer lives is
// behind Pointers, where its files live behind objstore.Store.
//
// The way of a commit: load the head (meta.go), let the caller check it, build
// manifests (manifest.go) and new metadata in memory, put both as new objects,
// swap the pointer (commit.go). Nothing is visible before the swap, and what
// is visible never changes. Compaction (compact.go) is a commit as well; expiry
// (expire.go) forgets versions, and only collection (collect.go) deletes.
//
// The keys of a table, below the location that its metadata names:
//
//	<table>/metadata/<version>-<uuid>.metadata.json
//	<table>/metadata/snap-<snapshot>-<uuid>.avro       manifest list
//	<table>/metadata/<uuid>-m<n>.avro                  manifest
//	<table>/data/v<view>-e<epoch>-<ranges>-<uuid>.parquet
//
// and beside it what Collect remembers:
//
//	gc/<table>/<ms>-<uuid>.json
//
// No byte of these is believed that has no checksum: a UUID of version 8 says
// that the file has one, in that UUID (meta.go) or inside (checksum.go).
package dataset

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// Pointers holds where the newest metadata file of each table is. It is the
// authority over commits: a commit is a successful swap. Implementations are
// safe for concurrent use.
type Pointers interface {
	// TablePointer returns the location, or record.ErrNotFound.
	TablePointer(ctx context.Context, id string) (location string, err error)

	// CreateTablePointer adds a table durably; record.ErrExists if id is
	// taken. After any other error it may or may not have been added.
	CreateTablePointer(ctx context.Context, id, location string) error

	// SwapTablePointer moves the pointer durably and atomically if it stands
	// at from. record.ErrConflict if it stands elsewhere and
	// record.ErrNotFound if there is none: then it was not moved and will not
	// be. After any other error, a timeout too, the outcome is unknown.
	SwapTablePointer(ctx context.Context, id, from, to string) error
}

// PointerReferences is what Pointers may offer in addition: whether any table
// (branches share metadata files) stands at location. Only then are old
// metadata files deleted.
type PointerReferences interface {
	TablePointerReferenced(ctx context.Context, location string) (bool, error)
}

// ErrOutcomeUnknown: the pointer may or may not have moved, and looking for the
// commit did not tell. Load the table later and look for the commit id; until
// then nothing that was uploaded may be deleted. A repeated Commit with the
// same commit id is safe.
var ErrOutcomeUnknown = errors.New("outcome of the commit unknown")

// Options of New. The zero value is the default.
type Options struct {
	// MaxSnapshots bounds the snapshots that a table's metadata lists: beyond
	// it a commit drops the oldest that no ref names. Default 1000. A table's
	// property thermocline.max-snapshots goes before it.
	MaxSnapshots int
	// CacheBytes bounds what is kept parsed: that much of metadata files, by
	// their size as JSON, and about that much memory for manifests. Default
	// 64 MiB.
	CacheBytes int64
	// Now is the clock; time.Now by default.
	Now func() time.Time
}

const (
	defaultMaxSnapshots = 1000
	minSnapshots        = 10
	defaultCacheBytes   = 64 << 20
	// manifestGrowth is about how much larger a manifest is in memory.
	manifestGrowth = 8
)

// Datasets gives access to the tables of one store. Safe for concurrent use.
type Datasets struct {
	store        objstore.Store
	pointers     Pointers
	maxSnapshots int
	rowGroupRows int64
	now          func() time.Time
	metas        *lru[table.Metadata]
	lists        *lru[[]iceberg.ManifestFile]
	entries      *lru[[]iceberg.ManifestEntry]
	watches      watches
	sharing      chan struct{} // see Share
	erasing      chan struct{} // one Erase at a time
	// windows are the large windows of ordered scans that are held at a time.
	windows chan struct{}
	// windowBytes is the size of one.
	windowBytes int64
}

// New returns the tables that are in store and named by p.
func New(store objstore.Store, p Pointers, o Options) *Datasets {
	if o.MaxSnapshots <= 0 {
		o.MaxSnapshots = defaultMaxSnapshots
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = defaultCacheBytes
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Datasets{
		store: store, pointers: p, maxSnapshots: max(o.MaxSnapshots, minSnapshots), now: o.Now,
		rowGroupRows: rowGroupRows,
		windows:      make(chan struct{}, maxWindows),
		windowBytes:  windowBytes,
		sharing:      make(chan struct{}, shares),
		erasing:      make(chan struct{}, 1),
		metas:        newLRU[table.Metadata](o.CacheBytes),
		lists:        newLRU[[]iceberg.ManifestFile](o.CacheBytes / manifestGrowth / 4),
		entries:      newLRU[[]iceberg.ManifestEntry](o.CacheBytes / manifestGrowth),
	}
}

// checkID refuses ids that are no UUID: they become part of keys.
func checkID(id string) error {
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return fmt.Errorf("dataset: table id %q is no UUID in canonical form: %w", id, record.ErrInvalid)
	}
	return nil
}
