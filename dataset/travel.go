package dataset

import (
	"fmt"
	"time"

	"github.com/thermocline/thermocline/record"
)

// ErrExpired: the version is no longer kept, or never was. It is
// record.ErrOutOfRange.
var ErrExpired = fmt.Errorf("the version is not kept: %w", record.ErrOutOfRange)

// Version is the table as if the snapshot were its head, for reading: what Head, Marker,
// GuestEnd and others tell is as of then. ErrExpired.
func (t *Table) Version(snapshotID int64) (*Table, error) {
	s := t.meta.SnapshotByID(snapshotID)
	if s == nil {
		return nil, fmt.Errorf("snapshot %d; %s: %w", snapshotID, t.kept(), ErrExpired)
	}
	past := *t
	past.head, past.past = s, true
	return &past, nil
}

// AsOf is Version for the snapshot that was the head at a time. Snapshots that were
// rolled back do not count.
func (t *Table) AsOf(at time.Time) (*Table, error) {
	s, ok := t.At(at.UnixMilli())
	if !ok {
		return nil, fmt.Errorf("the version of %s; %s: %w", at.UTC().Format(time.RFC3339Nano), t.kept(), ErrExpired)
	}
	return t.Version(s.ID)
}

// kept says which versions there are.
func (t *Table) kept() string {
	all := t.Snapshots()
	if len(all) == 0 {
		return "the dataset has no snapshot yet"
	}
	first, last := all[0], all[len(all)-1]
	return fmt.Sprintf("kept are %d snapshots from %d (%s) to %d (%s), list them for their ids", len(all),
		first.ID, first.Time.Format(time.RFC3339), last.ID, last.Time.Format(time.RFC3339))
}
