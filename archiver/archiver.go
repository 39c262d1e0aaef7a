// Package archiver moves rows from the hot buffer into the dataset of their
// branch, crash-safe, and lets the hot buffer forget them afterwards.
//
// The protocol is in archive.go; this file says what it works with. When it
// runs is in run.go. It serves no reads and knows no names.
package archiver

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Target is a branch to archive, as it stood when it was asked for.
type Target struct {
	Branch   catalog.BranchID
	Name     string // for messages
	Table    string // dataset id
	Settings catalog.Settings
	// Views are those that still have a claim on the dataset, oldest first: the
	// draining ones and the active one.
	Views []View
}

// View is one generation of a branch's log.
type View struct {
	ID      record.ViewID
	Number  record.ViewNumber
	Created time.Time
	// Schema is the newest that its rows were written with.
	Schema *schema.Schema
}

// Branches tells what there is to archive.
type Branches interface {
	// ArchiveTargets lists the ids of all branches.
	ArchiveTargets() []catalog.BranchID
	// ArchiveTarget returns one; record.ErrNotFound when it is gone. A change
	// that was in force when a row was acknowledged is seen afterwards.
	ArchiveTarget(ctx context.Context, branch catalog.BranchID) (Target, error)
	// Retire ends a draining view: all its rows are in the dataset's history,
	// and the dataset has moved on to the next view. Idempotent.
	Retire(ctx context.Context, branch catalog.BranchID, v record.ViewID) error
}

// Leases hands out the right to archive a view; *catalog.Catalog does.
type Leases interface {
	AcquireLease(ctx context.Context, v record.ViewID, owner string, ttl time.Duration) (catalog.Lease, error)
	RenewLease(ctx context.Context, l catalog.Lease, ttl time.Duration) (catalog.Lease, error)
	ReleaseLease(ctx context.Context, l catalog.Lease) error
}

// Schemas finds the schema that a row was written with; *catalog.Catalog does.
type Schemas interface {
	SchemaByID(ctx context.Context, id int32) (*schema.Schema, error)
}

// Checkpoints ends archives where epochs end.
type Checkpoints interface {
	// Take makes sure that a checkpoint covers all rows durable now, and
	// returns the newest.
	Take(ctx context.Context, v record.ViewID) (catalog.Checkpoint, error)
	// Latest returns the newest, the zero Checkpoint if there is none.
	Latest(ctx context.Context, v record.ViewID) (catalog.Checkpoint, error)
	// Next returns the first checkpoint beyond a position.
	Next(ctx context.Context, v record.ViewID, after record.Offsets) (catalog.Checkpoint, error)
}

// Options configure an Archiver. Zero values are the defaults in brackets.
type Options struct {
	Branches    Branches
	Leases      Leases
	Schemas     Schemas
	Checkpoints Checkpoints
	Buffer      hotbuffer.Buffer
	Datasets    *dataset.Datasets
	// Holds keeps rows hot for who is about to read them [none].
	Holds Holds
	// Fullness is the part of its limit that the hot log uses, from 0 to 1 [0].
	// Beyond one half nothing that is archived is kept hot.
	Fullness func() float64

	// Owner names this node in leases: unique among all that share the catalog,
	// and the same over restarts, so that a node need not wait for the lease of
	// its own last life.
	Owner string
	// Cluster is the catalog's id; it is written into every snapshot.
	Cluster string
	// LeaseTTL is how long a lease outlives its owner [30 s].
	LeaseTTL time.Duration
	// WaitingBytes archives a branch before its interval is over [128 MiB].
	WaitingBytes int64
	// FileBytes is the size at which a data file is closed [256 MiB].
	FileBytes int64
	// CompactBytes is the size of a file that compaction makes of small ones,
	// 128 to 512 MiB [256 MiB].
	CompactBytes int64
	// CommitBytes is how much, as it is stored in the hot buffer, goes into one
	// commit before it ends at the next checkpoint [1 GiB]: a long backlog frees
	// the hot buffer as it goes, and no crash costs more than this work.
	CommitBytes int64
	// Parallel is how many branches are archived at a time [2].
	Parallel int
	// FlushTimeout bounds one commit, of an archive or a compaction, and the writing
	// of its files [10 min].
	FlushTimeout time.Duration
	Now          func() time.Time
	Logger       *slog.Logger
	// Reached, if set, is called behind every step of the protocol, with what
	// is done: tests crash there.
	Reached func(Step)
}

// Step is a point in the archive protocol.
type Step string

// The steps in their order.
const (
	StepLease  Step = "lease"  // the lease is ours
	StepLoad   Step = "load"   // the head is read, the hot start repaired
	StepFence  Step = "fence"  // the dataset carries our epoch
	StepWrite  Step = "write"  // rows are in files that are not complete
	StepUpload Step = "upload" // the files are complete and durable
	StepCommit Step = "commit" // the snapshot is the dataset's head
	StepDone   Step = "done"   // the hot buffer may forget the rows
)

// Steps lists them for tests.
var Steps = []Step{StepLease, StepLoad, StepFence, StepWrite, StepUpload, StepCommit, StepDone}

// Archiver archives branches. Safe for concurrent use; several in several
// processes may work on the same catalog, the leases and the fence keep them
// apart.
type Archiver struct {
	o Options

	slots      chan struct{} // taken while a branch is archived
	releases   chan struct{} // taken while rows are released without an archive
	compacting chan struct{} // full while one is compacted

	mu       sync.Mutex
	branches map[catalog.BranchID]*branchState
}

// branchState is what an Archiver remembers of a branch.
type branchState struct {
	// busy is full during an archive, so that there is one at a time in this
	// process. A channel, so that waiting ends with the context.
	busy   chan struct{}
	leases map[record.ViewID]catalog.Lease // busy guards it

	note noteState
}

func (s *branchState) lock(ctx context.Context) error {
	select {
	case s.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *branchState) unlock() { <-s.busy }

// New returns an Archiver; Run starts it.
func New(o Options) (*Archiver, error) {
	if o.Branches == nil || o.Leases == nil || o.Schemas == nil || o.Checkpoints == nil || o.Buffer == nil || o.Datasets == nil || o.Owner == "" {
		return nil, fmt.Errorf("archiver: an option that has no default is missing: %w", record.ErrInvalid)
	}
	set(&o.LeaseTTL, 30*time.Second)
	set(&o.WaitingBytes, 128<<20)
	set(&o.FileBytes, 256<<20)
	set(&o.CommitBytes, 1<<30)
	set(&o.Parallel, 2)
	set(&o.FlushTimeout, 10*time.Minute)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Fullness == nil {
		o.Fullness = func() float64 { return 0 }
	}
	if o.Reached == nil {
		o.Reached = func(Step) {}
	}
	return &Archiver{o: o, slots: make(chan struct{}, o.Parallel), releases: make(chan struct{}, o.Parallel), compacting: make(chan struct{}, 1), branches: map[catalog.BranchID]*branchState{}}, nil
}

func set[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

func (a *Archiver) state(branch catalog.BranchID) *branchState {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.branches[branch]
	if s == nil {
		s = &branchState{busy: make(chan struct{}, 1), leases: map[record.ViewID]catalog.Lease{}}
		a.branches[branch] = s
	}
	return s
}

// known returns the state of a branch, nil if there is none.
func (a *Archiver) known(branch catalog.BranchID) *branchState {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.branches[branch]
}

// forget drops the state of a branch that is gone; its leases went with it.
func (a *Archiver) forget(branch catalog.BranchID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.branches, branch)
}

// Result is the outcome of an archive.
type Result struct {
	// SnapshotID is the dataset's head afterwards, 0 while it has none.
	SnapshotID int64
	// Rows, Files and Bytes are what this archive moved; 0 if nothing waited.
	Rows  int64
	Files int
	Bytes int64
	// Archived holds the first offsets of the active view that are not
	// archived.
	Archived record.Offsets
	// MetadataLocation is the dataset's metadata file.
	MetadataLocation string
	Took             time.Duration
}
