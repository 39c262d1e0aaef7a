// Package subscriber keeps durable reading positions on branches, each shared by
// any number of members: it divides the partitions among the members, moves
// them when members come and go, and takes commits from the member that owns
// what it commits, and from nobody else.
//
// It reads no rows itself (package reader does) and knows no HTTP. What is
// durable stands in the catalog: name, position, generation and the last session
// number. Who is a member, and which partitions it has, is memory of this
// process; after a restart members join again and go on behind what was
// committed.
//
// Words: a subscriber is the named position; a member is one open read of it; a
// session is one membership, from Join to its end, with a number that was never
// given before and fences all that came earlier under the same name.
package subscriber

import (
	"fmt"
	"time"

	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// Limits.
const (
	// MaxMembers may read one subscriber at a time.
	MaxMembers = 64
	// DefaultHold and MaxHold bound how long unread rows stay hot.
	DefaultHold = time.Minute
	MaxHold     = time.Hour
)

// ErrSessionFenced: the session is over, or it has lost a partition that the
// commit moves: another member took its name, it was expelled, the subscriber was
// reset or deleted, the server was started again, or its read has ended. What the
// client did since its last commit may be done again by another; it must join
// again and go on from what it is given. It is record.ErrFenced.
var ErrSessionFenced = fmt.Errorf("the session is over; join again: %w", record.ErrFenced)

// Ref names a branch: the stream's full name, and the branch in it.
type Ref struct{ Stream, Branch string }

func (r Ref) String() string {
	if r.Branch == "main" {
		return r.Stream
	}
	return r.Stream + "@" + r.Branch
}

// Start is where a subscriber begins; at most one field is set, none means the
// earliest row.
type Start struct {
	// Latest: behind every row that is durable now.
	Latest bool
	// Cursor: behind another read of this view.
	Cursor *reader.Cursor
	// Time: at the first row whose append time is not before it.
	Time *time.Time
}

// Spec is a subscriber to be made.
type Spec struct {
	Name string // 1..128 of [A-Za-z0-9._-], unique in the branch
	// Consistency, fixed for good; empty: the branch's setting.
	Consistency reader.Consistency
	Start       Start
	// Hold is how long rows that the subscriber has yet to commit stay in the
	// hot buffer, counted from their append; behind that it reads them from
	// the dataset. 0: DefaultHold; at most MaxHold.
	Hold time.Duration
}

// Info is a subscriber as it stands.
type Info struct {
	Name        string
	Consistency reader.Consistency
	View        record.ViewNumber
	// CurrentView is false when a reset of the branch has replaced the view:
	// nobody can join until the subscriber is reset as well. Lag is zero then.
	CurrentView bool
	// Position is what was committed.
	Position reader.Cursor
	// Session is the last session number that was given out, Generation counts
	// resets of the position.
	Session, Generation int64
	Hold                time.Duration
	Created             time.Time
	Committed           time.Time // when the position last moved, at first Created
	Lag                 Lag
	Members             []MemberInfo // by session
}

// Lag is what is durable and not committed.
type Lag struct {
	Rows int64
	// Age of the oldest such row. Of rows that have left the hot buffer it is
	// known to the length of an epoch, and of rows older than the oldest
	// checkpoint that is kept it is at least that checkpoint's age.
	Age time.Duration
}

// MemberInfo is a member as it stands.
type MemberInfo struct {
	Name       string
	Session    int64
	Partitions []record.Partition // that are delivered to it
	Joined     time.Time
	// Delivered is how far it was sent rows, exactly once in complete epochs;
	// partitions that it does not have stand at what is committed.
	Delivered record.Offsets
}

// Join is a member's request.
type Join struct {
	// Member is a name of the client's own. A session of that name that is
	// still there ends at once, fenced, and this one takes its partitions.
	// Empty: a fresh name.
	Member string
	// Resume is a position that the client has stored itself, exactly once in
	// the transaction of its output. Partitions that the session is given begin
	// at the later one of it and what is committed. It is not committed by
	// joining: commit the Position of the first assignment for that.
	Resume *reader.Cursor
	// Request says what of the rows is wanted: Columns, Where and System. The
	// other fields are the coordinator's.
	Request reader.Request
}

// Event is an assignment, or else a batch.
type Event struct {
	Assignment *Assignment
	// Batch is as in reader.Tail. The cursors in it stand for all partitions: where
	// the session was in those that it has, or gave away and may still commit,
	// and at what was committed in those of others.
	Batch reader.Batch
}

// Assignment tells a session which partitions it has from here on. It is the
// first event of each session and comes again whenever the set changes.
//
// It voids the rows of an epoch that is not complete yet: exactly once, drop what
// came since the last EpochEnd. Partitions that are kept go on behind what was
// delivered (at least once) or behind the last complete epoch (exactly once).
// Commit what was delivered of partitions that are gone from the set soon, with a
// cursor from before or behind the assignment: their next owner waits for it,
// but not for longer than Options.HandoverTimeout. When that has passed the
// assignment comes once more, and cursors from before are fenced.
type Assignment struct {
	Session    int64
	Member     string
	Partitions []record.Partition // in order; empty: idle until another member goes
	// Position is where the delivery of Partitions begins. The others stand as in
	// the cursors of batches.
	Position reader.Cursor
}

// Commit says how far the client is done. Exactly one of Cursor and Epoch is set.
type Commit struct {
	Session int64
	// Cursor is the Next of a batch, of a session of this subscriber; exactly
	// once that of a batch with EpochEnd.
	Cursor *reader.Cursor
	// Epoch is the number of a complete epoch (exactly once): everything that
	// the session was given up to its end.
	Epoch int64
}
