package api

import (
	"context"
	"iter"
	"time"

	"github.com/thermocline/thermocline/api/iceberg"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/subscriber"
	"github.com/thermocline/thermocline/writer"
)

// Backend is what the handlers call. Each part is a small interface; all
// methods are safe for concurrent use and return when ctx ends.
//
// Streams are named in full, "namespace.name"; the handlers have checked the
// form. Errors wrap the sentinels of package record; their text is shown to
// people as it is, so it names operation, object and remedy.
type Backend struct {
	Streams      Streams
	Branches     Branches
	Tags         Tags
	Schemas      Schemas
	Publisher    Publisher
	Producers    Producers
	Reader       Reader
	Subscribers  Subscribers
	Archiver     Archiver
	Datasets     Datasets
	Warehouse    Warehouse
	Transactions Transactions
	Uploads      Uploads
	Heads        Heads
	Maintainer   Maintainer
	Merger       Merger
	Figures      Figures
	Verifier     Verifier
	Iceberg      iceberg.Catalog
	Answers      iceberg.Answers
}

// Streams is the life of streams. What a method returned nil for is durable.
type Streams interface {
	// CreateStream makes the stream and its branch main. ErrExists, ErrInvalid.
	CreateStream(ctx context.Context, c CreateStream) (Stream, error)
	Stream(ctx context.Context, name string) (Stream, error)
	// ListStreams returns a page ordered by name, and the token of the next
	// page, empty on the last. A token that it did not make is ErrInvalid.
	ListStreams(ctx context.Context, p Page) ([]StreamSummary, string, error)
	DeleteStream(ctx context.Context, name string) error
	Settings(ctx context.Context, stream, branch string) (Settings, error)
	// UpdateSettings changes what is set in p and returns all settings.
	UpdateSettings(ctx context.Context, stream, branch string, p SettingsPatch) (Settings, error)
	// Reset begins a new view, and returns the branch with it. Nil schema: the
	// current one.
	Reset(ctx context.Context, stream, branch string, s *schema.Schema, p SettingsPatch) (Branch, error)
}

// Schemas is the history of a branch's schema.
type Schemas interface {
	Schema(ctx context.Context, stream, branch string) (SchemaVersion, error)
	// SchemaVersions returns a page, newest first.
	SchemaVersions(ctx context.Context, stream, branch string, p Page) ([]SchemaVersion, string, error)
	// Evolve makes s the current schema by the rules of schema.Evolve.
	Evolve(ctx context.Context, stream, branch string, s *schema.Schema) (SchemaVersion, error)
}

// Publisher appends rows; *writer.Writer is one.
type Publisher interface {
	// Publish does not keep or change q.Body after it returned.
	Publish(ctx context.Context, q writer.Request) (writer.Result, error)
}

// Producers remembers what producers appended last.
type Producers interface {
	// Producer returns the newest request of a Producer-Id. Not remembered:
	// ErrNotFound.
	Producer(ctx context.Context, stream, branch, producer string) (ProducerState, error)
}

// Reader reads rows; it finds the branch's reader.Target and calls
// reader.Reader. An empty Consistency in the request means the branch's setting.
type Reader interface {
	Read(ctx context.Context, stream, branch string, q reader.Request) (*reader.Result, error)
	Tail(ctx context.Context, stream, branch string, q reader.Request) (*reader.Result, error)
}

// Subscribers keeps shared reading positions; its errors and semantics are those
// of *subscriber.Coordinator.
type Subscribers interface {
	Create(ctx context.Context, ref subscriber.Ref, s subscriber.Spec) (subscriber.Info, error)
	Get(ctx context.Context, ref subscriber.Ref, name string) (subscriber.Info, error)
	// List returns a page ordered by name, and the token of the next one, empty
	// on the last.
	List(ctx context.Context, ref subscriber.Ref, p Page) ([]subscriber.Info, string, error)
	Delete(ctx context.Context, ref subscriber.Ref, name string) error
	Reset(ctx context.Context, ref subscriber.Ref, name string, s subscriber.Start) (subscriber.Info, error)
	// Join begins a session, which ends with ctx or with Close.
	Join(ctx context.Context, ref subscriber.Ref, name string, j subscriber.Join) (SubscriberSession, error)
	// Commit is durable when it returns; it returns the committed position.
	Commit(ctx context.Context, ref subscriber.Ref, name string, c subscriber.Commit) (reader.Cursor, error)
}

// SubscriberSession is one membership of a subscriber; *subscriber.Session is
// one.
type SubscriberSession interface {
	// Schema has the columns of the delivered rows.
	Schema() *schema.Schema
	// Events may be iterated once, and ends with the error that ended the
	// session. A batch's rows are valid in the loop's body only.
	Events() iter.Seq2[subscriber.Event, error]
	// Close ends the session; its commits are fenced from then on. Idempotent.
	Close()
}

// Archiver moves rows into the dataset.
type Archiver interface {
	// ArchiveNow archives what is durable at the call and returns when the
	// commit is confirmed.
	ArchiveNow(ctx context.Context, stream, branch string) (Archived, error)
	Offsets(ctx context.Context, stream, branch string) (Offsets, error)
}

// Datasets shows the archived half of a branch.
type Datasets interface {
	// Snapshots returns a page, newest first.
	Snapshots(ctx context.Context, stream, branch string, p Page) (SnapshotPage, error)
	// DataFiles returns a page of the files of a snapshot, 0 for the newest,
	// and which snapshot that is (0: there is none yet). A page token knows
	// the snapshot that it belongs to.
	DataFiles(ctx context.Context, stream, branch string, snapshot int64, p Page) (DataFilePage, error)
}

// Maintainer keeps the archived half of a branch small. All calls may be repeated,
// at any time and beside archives and reads, and none changes a row.
type Maintainer interface {
	// Compact makes large files of small ones until there are no more to do. What it
	// did before an error stays. A dry run tells what it would do.
	Compact(ctx context.Context, stream, branch string, dryRun bool) (Compaction, error)
	// Expire drops old snapshots, and no file.
	Expire(ctx context.Context, stream, branch string, q ExpireSnapshots) (Expiry, error)
	// Collect deletes files that nothing leads to, at the second look.
	Collect(ctx context.Context, stream, branch string, q CollectFiles) (Collection, error)
	Eraser
	// Tasks returns the work on a branch, see MaintenanceTask.
	Tasks(ctx context.Context, stream, branch string) ([]MaintenanceTask, error)
}

// Figures is for metrics and health.
type Figures interface {
	// Branch returns the figures of one branch.
	Branch(ctx context.Context, stream, branch string) (BranchFigures, error)
	// Branches returns those of all branches that this process has open.
	Branches(ctx context.Context) ([]BranchFigures, error)
	// Log returns the figures of the log that all streams share; false for an
	// engine without one.
	Log() (LogFigures, bool)
	// Maintenance returns those of the work on all datasets.
	Maintenance() MaintenanceFigures
	// Ready is nil when rows can be taken and given.
	Ready(ctx context.Context) error
}

// Page asks for at most Size entries behind Token; an empty token begins.
type Page struct {
	Size  int
	Token string
}

// CreateStream is a stream to be made.
type CreateStream struct {
	Name     string // in full
	Schema   *schema.Schema
	Settings SettingsPatch
}

// StreamSummary is an entry of a list.
type StreamSummary struct {
	Name      string // in full
	CreatedAt time.Time
}

// Stream is a stream with its branch main.
type Stream struct {
	StreamSummary
	Main Branch
}

// Branch is a branch with its current view.
type Branch struct {
	Name     string
	View     record.ViewNumber
	Schema   SchemaVersion
	Settings Settings
}

// SchemaVersion is an entry of a branch's schema history.
type SchemaVersion struct {
	Version   int32 // within the branch, from 1
	CreatedAt time.Time
	Schema    *schema.Schema // with its global id
}

// Settings of a branch.
type Settings struct {
	Type            hotbuffer.Type
	Compressed      bool
	Partitions      int
	KeyFields       []string
	ArchiveInterval time.Duration
	HotRetention    time.Duration
	DatasetFormat   DatasetFormat
	Consistency     reader.Consistency
	// The layout of data files, see schema.CompileLayout.
	Partitioning, SortOrder, BloomFilters []string
}

// SettingsPatch is a change of settings: nil means unchanged, or the default
// in a new stream.
type SettingsPatch struct {
	Type            *hotbuffer.Type
	Compressed      *bool
	Partitions      *int
	KeyFields       *[]string
	ArchiveInterval *time.Duration
	HotRetention    *time.Duration
	DatasetFormat   *DatasetFormat
	Consistency     *reader.Consistency
	Partitioning    *[]string
	SortOrder       *[]string
	BloomFilters    *[]string
}

// DatasetFormat is the format of data files: PARQUET or AVRO.
type DatasetFormat string

// ProducerState is the newest request that a producer appended.
type ProducerState struct {
	Epoch    int32
	Sequence int64
	Ranges   []hotbuffer.PartRange
}

// Archived is the outcome of ArchiveNow.
type Archived struct {
	SnapshotID int64 // the newest; 0: the dataset has none yet
	Rows       int64 // archived by this call
	Files      int
	Bytes      int64
	Offsets    record.Offsets // first offset not archived
	// MetadataLocation is the table's metadata file.
	MetadataLocation string
}

// Offsets is how far the partitions of a view are stored and archived.
type Offsets struct {
	View                 record.ViewNumber
	Start, Archived, End record.Offsets
	Lag                  Lag
}

// Lag is what is durable and not archived.
type Lag struct {
	Rows int64
	Age  time.Duration // of the oldest such row
}

// Snapshot is a version of a dataset.
type Snapshot struct {
	ID, ParentID   int64 // ParentID 0: none
	SequenceNumber int64
	CommittedAt    time.Time
	Operation      string
	SchemaID       *int // Iceberg's
	AddedRows      int64
	AddedFiles     int64
	TotalRows      int64
	TotalFiles     int64
	TotalBytes     int64
	Summary        map[string]string
}

// SnapshotPage is a page of a dataset's history.
type SnapshotPage struct {
	MetadataLocation string // the table's metadata file
	Snapshots        []Snapshot
	Next             string
}

// DataFile is a file of a snapshot.
type DataFile struct {
	Path           string
	Format         string
	Rows           int64
	Bytes          int64
	SnapshotID     int64 // that added it; 0: unknown
	SequenceNumber int64 // 0: unknown
}

// DataFilePage is a page of files.
type DataFilePage struct {
	SnapshotID int64
	Files      []DataFile
	Next       string
}

// Compaction is the outcome of Compact; all zero if there was nothing to do.
type Compaction struct {
	Replaced, Written int   // files
	Rows              int64 // of the written files
	Before, After     int64 // bytes of the replaced and of the written files
	SnapshotID        int64 // the newest that replaced files
}

// ExpireSnapshots says which snapshots may go.
type ExpireSnapshots struct {
	// OlderThan is how long one is kept after it ceased to be the newest; nil: the
	// default. KeepLast of the newest stay in any case; 0: the default.
	OlderThan *time.Duration
	KeepLast  int
	DryRun    bool
}

// Expiry is what Expire did, or would do.
type Expiry struct {
	Expired []int64 // snapshots, oldest first
	Kept    int
}

// CollectFiles says which files may be deleted.
type CollectFiles struct {
	Grace  time.Duration // 0: the default
	DryRun bool
}

// Collection is what Collect found and did, or would do.
type Collection struct {
	Listed    int // files looked at
	Unreached []UnreachedFile
	Grace     time.Duration // that was in force
}

// UnreachedFile is a file that nothing leads to.
type UnreachedFile struct {
	Key     string // below the warehouse
	Bytes   int64
	Since   time.Time // known to be unreached
	Deleted bool      // or would be; false: it waits
}

// BranchFigures are the figures of one branch since the process began.
type BranchFigures struct {
	Stream, Branch string
	View           record.ViewNumber
	Hot            hotbuffer.Stats
	Archive        ArchiveFigures
	Lag            Lag
	Subscribers    []SubscriberFigures // Branches only
}

// SubscriberFigures are of one subscriber.
type SubscriberFigures struct {
	Name string
	Lag  subscriber.Lag
}

// ArchiveFigures count the archiver's work on one branch.
type ArchiveFigures struct {
	Flushes, Failures int64
	Rows, Bytes       int64
	FlushSeconds      hotbuffer.Histogram
	LastFlushAt       time.Time // zero: none yet
	LastError         string    // of the last attempt; empty when it succeeded
}

// LogFigures are of the log that all streams share.
type LogFigures struct {
	Segments    int64
	Bytes       int64
	LimitBytes  int64 // 0: no limit
	Commits     int64
	SyncSeconds hotbuffer.Histogram
}

// MaintenanceFigures count the work on datasets since the process began.
type MaintenanceFigures struct {
	Compactions, Expiries, Collections int64 // that ended well
	Failures                           int64 // of all three
	ReplacedFiles, WrittenFiles        int64 // by compactions
	ReplacedBytes, WrittenBytes        int64
	ExpiredSnapshots, ExpiredBranches  int64
	DeletedFiles, DeletedBytes         int64
}
