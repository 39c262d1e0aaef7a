package api

import (
	"context"
	"time"

	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// Branches is the life of branches and tags, of streams and of datasets without
// one. What a method returned nil for is durable.
type Branches interface {
	// CreateBranch begins a branch with rows of another one. ErrExists, ErrInvalid,
	// ErrNotFound, ErrConflict.
	CreateBranch(ctx context.Context, stream string, c CreateBranch) (BranchDetail, error)
	Branch(ctx context.Context, stream, branch string) (BranchDetail, error)
	// ListBranches returns a page in the order of creation, without schemas and
	// settings, and the token of the next page, empty on the last.
	ListBranches(ctx context.Context, stream string, p Page) ([]BranchDetail, string, error)
	// UpdatePolicy changes what is set in p.
	UpdatePolicy(ctx context.Context, stream, branch string, p PolicyPatch) (BranchDetail, error)
	// DeleteBranch never deletes main (ErrInvalid), nor a protected branch, nor one
	// with subscribers unless they go with it (ErrConflict).
	DeleteBranch(ctx context.Context, stream, branch string, subscribers bool) error
	// Pick returns the first of the branches that the stream has, or ErrNotFound.
	Pick(ctx context.Context, stream string, chain []string) (string, error)
}

// Tags are names for snapshots of a branch.
type Tags interface {
	// CreateTag names a snapshot; 0: the branch as it is now. ErrExists, ErrInvalid,
	// ErrNotFound.
	CreateTag(ctx context.Context, stream, branch, tag string, snapshot int64) (Tag, error)
	// ListTags lists all by name.
	ListTags(ctx context.Context, stream, branch string) ([]Tag, error)
	Tag(ctx context.Context, stream, branch, tag string) (Tag, error)
	DeleteTag(ctx context.Context, stream, branch, tag string) error
}

// CreateBranch is a branch to be made.
type CreateBranch struct {
	Name     string
	From     BranchSource
	Settings SettingsPatch // on the source's
	Policy   PolicyPatch
}

// BranchSource is what a branch begins with: the present state of a branch, or one
// of the other places, of which at most one is set.
type BranchSource struct {
	Branch   string // empty: main
	Snapshot int64
	Tag      string
	Time     time.Time
	Cursor   *reader.Cursor
}

// PolicyPatch is a change of a policy: nil means unchanged, or the default in a new
// branch; 0 the default or never.
type PolicyPatch struct {
	Protected                   *bool
	MaxSnapshotAge, ExpireAfter *time.Duration
	MinSnapshots                *int
}

// Policy says what is kept of a branch; 0: the default, or never.
type Policy struct {
	Protected                   bool
	MaxSnapshotAge, ExpireAfter time.Duration
	MinSnapshots                int
}

// BranchDetail is a branch with its history and policy.
type BranchDetail struct {
	Name             string
	View             record.ViewNumber
	Created, Changed time.Time
	// From and FromSnapshot (0: none) tell what it began with; From is empty if it
	// began with nothing.
	From         string
	FromSnapshot int64
	Policy       Policy
	TableUUID    string
	// Schema and Settings are nil in lists, and for datasets without a stream.
	Schema   *SchemaVersion
	Settings *Settings
}

// Tag is a name for a snapshot.
type Tag struct {
	Name      string
	Snapshot  int64
	Sequence  int64
	Committed time.Time
}
