// Package iceberg serves the tables of streams and datasets as an Iceberg REST
// catalog, so that other engines list, read and change them. The contract is
// Iceberg's own OpenAPI document; what of it is served, GET /v1/config lists.
//
// It decides nothing about tables: handlers check the form of a request, choose the
// branch that it is for, call the Catalog and write its answer, with Iceberg's
// error model.
package iceberg

import (
	"context"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// Ref names a table: a branch of a stream or dataset.
type Ref struct{ Namespace, Name, Branch string }

// String is namespace.name, with @branch unless it is main.
func (r Ref) String() string {
	s := r.Namespace + "." + r.Name
	if r.Branch != MainBranch {
		s += "@" + r.Branch
	}
	return s
}

// MainBranch is the branch of a request that names none.
const MainBranch = "main"

// Table is a table as clients are to see it.
type Table struct {
	MetadataLocation string // empty: staged only
	Metadata         table.Metadata
	// LastFieldID is the highest field id of all branches. Clients take the ids
	// of new columns above it.
	LastFieldID int
	// Properties are shown in addition to those of the metadata.
	Properties map[string]string
}

// NewTable is a table to be made.
type NewTable struct {
	Schema     *iceberg.Schema
	Spec       *iceberg.PartitionSpec // nil: unpartitioned
	Order      *table.SortOrder       // nil: unsorted
	Properties map[string]string
	// Stage: nothing is made yet. The client commits what it makes of the
	// answer.
	Stage bool
}

// Page asks for at most Size entries behind Token; 0: as many as there may be.
type Page struct {
	Size  int
	Token string
}

// MissingNamespaceError is a record.ErrNotFound that is about a namespace and not
// about the table in it.
type MissingNamespaceError struct{ Name string }

func (e *MissingNamespaceError) Error() string { return "namespace " + e.Name + " does not exist" }

// Unwrap implements errors.Unwrap.
func (e *MissingNamespaceError) Unwrap() error { return record.ErrNotFound }

// MissingMetadataError is a table whose metadata file is not there.
type MissingMetadataError struct{ Location string }

func (e *MissingMetadataError) Error() string {
	return "the metadata file " + e.Location + " is not there"
}

// Unwrap implements errors.Unwrap.
func (e *MissingMetadataError) Unwrap() error { return record.ErrCorrupt }

// Catalog is what the handlers call. All methods are safe for concurrent use and
// return when ctx ends; what one returned nil for is durable. Errors wrap the
// sentinels of package record; ErrOutcomeUnknown of package dataset tells that a
// change may have happened, and all others that it did not.
type Catalog interface {
	// Namespaces returns a page ordered by name, and the next page's token.
	Namespaces(ctx context.Context, p Page) (names []string, next string, err error)
	Namespace(ctx context.Context, name string) (properties map[string]string, err error)
	CreateNamespace(ctx context.Context, name string, properties map[string]string) error
	// SetNamespace removes and sets properties, and tells which of those to remove
	// were not there.
	SetNamespace(ctx context.Context, name string, removals []string, updates map[string]string) (missing []string, err error)
	// DropNamespace: record.ErrConflict if it is not empty.
	DropNamespace(ctx context.Context, name string) error

	// Tables returns a page of the names of tables that have the branch.
	Tables(ctx context.Context, namespace, branch string, p Page) (names []string, next string, err error)
	// Table loads a table; fresh: after all rows that were acknowledged before
	// are archived.
	Table(ctx context.Context, r Ref, fresh bool) (Table, error)
	CreateTable(ctx context.Context, r Ref, n NewTable) (Table, error)
	// CreateStaged makes a table of the updates that a client commits after a
	// staged CreateTable.
	CreateStaged(ctx context.Context, r Ref, u *dataset.Updates) (Table, error)
	Commit(ctx context.Context, r Ref, u *dataset.Updates) (Table, error)
	// CommitAll makes all changes or none.
	CommitAll(ctx context.Context, changes []Change) error
	// DropTable: with purge the files go soon, else a client may still register
	// the table again for some days.
	DropTable(ctx context.Context, r Ref, purge bool) error
	RenameTable(ctx context.Context, from, to Ref) error
	RegisterTable(ctx context.Context, r Ref, metadataLocation string, overwrite bool) (Table, error)
	// StorageConfig is how clients reach the files: endpoint and region, and with
	// credentials the keys. prefix is what the credentials are for.
	StorageConfig(ctx context.Context, credentials bool) (prefix string, config map[string]string, err error)
}

// Change is the change of one table.
type Change struct {
	Ref     Ref
	Updates *dataset.Updates
}

// Options of Register.
type Options struct {
	// Body reads a request's body, of at most limit bytes.
	Body func(c *gin.Context, limit int64) ([]byte, error)
	// Answers remembers what requests with an idempotency key were told.
	Answers Answers
	// MaxRequests bounds the requests under way; more get 429.
	MaxRequests int
}

// handlers serve one catalog.
type handlers struct {
	catalog Catalog
	o       Options
	slots   chan struct{}
	running running
}

// route is one endpoint; path as in Iceberg's document, behind "/v1/{prefix}".
type route struct {
	method, path string
	handle       gin.HandlerFunc
}

func (h *handlers) routes() []route {
	return []route{
		{"GET", "/namespaces", h.listNamespaces},
		{"POST", "/namespaces", h.createNamespace},
		{"GET", "/namespaces/{namespace}", h.getNamespace},
		{"HEAD", "/namespaces/{namespace}", h.getNamespace},
		{"DELETE", "/namespaces/{namespace}", h.dropNamespace},
		{"POST", "/namespaces/{namespace}/properties", h.setNamespace},
		{"GET", "/namespaces/{namespace}/tables", h.listTables},
		{"POST", "/namespaces/{namespace}/tables", h.createTable},
		{"GET", "/namespaces/{namespace}/tables/{table}", h.loadTable},
		{"HEAD", "/namespaces/{namespace}/tables/{table}", h.headTable},
		{"POST", "/namespaces/{namespace}/tables/{table}", h.commitTable},
		{"DELETE", "/namespaces/{namespace}/tables/{table}", h.dropTable},
		{"POST", "/namespaces/{namespace}/register", h.registerTable},
		{"GET", "/namespaces/{namespace}/tables/{table}/credentials", h.credentials},
		{"POST", "/namespaces/{namespace}/tables/{table}/metrics", h.metrics},
		{"POST", "/tables/rename", h.renameTable},
		{"POST", "/transactions/commit", h.commitTransaction},
	}
}

// Register adds the catalog's routes to g, with and without a prefix.
func Register(g gin.IRouter, c Catalog, o Options) {
	h := &handlers{catalog: c, o: o, slots: make(chan struct{}, o.MaxRequests), running: running{by: map[string]chan struct{}{}}}
	g.GET("/v1/config", h.limited(h.config))
	for _, r := range h.routes() {
		path := pathParams.Replace(r.path)
		handle := h.limited(h.once(r.handle))
		g.Handle(r.method, "/v1"+path, handle)
		g.Handle(r.method, "/v1/:prefix"+path, handle)
	}
}
