package dataset

import (
	"context"

	"github.com/thermocline/thermocline/record"
)

// GuestEnd is how far the guest rows of a table reach: those that are not of one
// view, whose place is the data sequence number of their file (decision 0013).
type GuestEnd struct {
	// Sequence is the largest data sequence number of a file that may have guest
	// rows, 0 if there is none.
	Sequence int64
	// of which snapshot this is.
	snapshot, sequence int64
}

// GuestEnd finds out from names and bounds how far the guest rows of view reach; 0
// takes all rows for guests. known, if it is of the same table and view, spares
// the manifests that it has seen: then files that were removed since may count
// still. It opens no data file.
func (t *Table) GuestEnd(ctx context.Context, view record.ViewNumber, known GuestEnd) (GuestEnd, error) {
	if t.head == nil {
		return GuestEnd{}, nil
	}
	if known.snapshot == t.head.SnapshotID {
		return known, nil
	}
	if known.snapshot == 0 || !t.descends(known.snapshot) {
		known = GuestEnd{}
	}
	manifests, err := t.d.readManifests(ctx, t.head)
	if err != nil {
		return GuestEnd{}, err
	}
	end := GuestEnd{known.Sequence, t.head.SnapshotID, t.head.SequenceNumber}
	for _, m := range manifests {
		// A manifest has the number of the snapshot that wrote it.
		if m.ManifestContent() != 0 || !live(m) || m.SequenceNum() <= known.sequence {
			continue
		}
		entries, err := t.d.readEntries(ctx, m)
		if err != nil {
			return GuestEnd{}, err
		}
		for _, e := range entries {
			if e.SequenceNum() <= end.Sequence || e.DataFile().Count() == 0 {
				continue
			}
			if s := spanOf(e); s.guests(view) {
				end.Sequence = e.SequenceNum()
			}
		}
	}
	return end, nil
}

// GuestRows counts the rows of the head's files with data sequence numbers larger
// than after that may have guest rows of view.
func (t *Table) GuestRows(ctx context.Context, view record.ViewNumber, after int64) (int64, error) {
	files, err := t.liveFiles(ctx, 0)
	if err != nil {
		return 0, err
	}
	rows := int64(0)
	for _, e := range files.data {
		if s := spanOf(e); e.SequenceNum() > after && s.guests(view) {
			rows += e.DataFile().Count()
		}
	}
	return rows, nil
}

// GuestSequences lists, in order, the data sequence numbers in (after, through] of
// the live files that may have guest rows of view in a snapshot (0: the head).
func (t *Table) GuestSequences(ctx context.Context, snapshotID int64, view record.ViewNumber, after, through int64) ([]int64, error) {
	files, err := t.liveFiles(ctx, snapshotID)
	if err != nil {
		return nil, err
	}
	var out []int64
	for _, e := range files.data {
		n := e.SequenceNum()
		if n <= after || n > through || e.DataFile().Count() == 0 || len(out) > 0 && out[len(out)-1] == n {
			continue
		}
		if s := spanOf(e); s.guests(view) {
			out = append(out, n)
		}
	}
	return out, nil
}
