package api

import (
	"context"
	"time"
)

// Eraser takes rows out of all that is stored.
type Eraser interface {
	// Erase removes the rows that match from all branches of a stream, hot and cold.
	// After an error it can be repeated, and does the rest. ErrInvalid (the
	// condition, or files that cannot be rewritten), ErrNotFound, ErrConflict.
	Erase(ctx context.Context, stream string, q EraseRows) (Erasure, error)
}

// EraseRows says which rows.
type EraseRows struct {
	Where  string
	Grace  time.Duration // 0: the default
	DryRun bool
}

// Erasure is what Erase did, or would do.
type Erasure struct {
	ArchivedRows   int64 // before anything else
	Branches       []ErasedBranch
	DeletedFiles   int
	DeletedBytes   int64
	RemainingFiles int // too young to be deleted; nothing leads to them
	RemainingBytes int64
	// Of the hot log's files.
	LogSegments, LogRemoved int
	LogBytes                int64
	LogDamaged              []string
}

// ErasedBranch is the part of one branch, over all its retained snapshots.
type ErasedBranch struct {
	Branch            string
	Examined, Matched int // files
	Rows              int64
	Bytes, BytesAfter int64
	Snapshots         int
}

// MaintenanceTask is work on a branch's dataset, under way, or the last of its
// kind since the process began.
type MaintenanceTask struct {
	Kind      string // compact, expire, gc, erase
	Requested bool   // not by the server itself
	State     string // running, done, failed, cancelled
	Phase     string
	// Files and Bytes are done, of Total as far as that is known.
	Files, TotalFiles int64
	Bytes, TotalBytes int64
	Started           time.Time
	Ended             time.Time // zero while it runs
	Result            string
	Err               error
}
