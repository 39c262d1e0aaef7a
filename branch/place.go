package branch

import (
	"fmt"
	"time"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// find returns the snapshot of a table that a branch from f begins with, 0 if the
// table has none yet.
func (f *From) find(t *dataset.Table, now time.Time) (int64, error) {
	switch {
	case f.Snapshot != 0:
		if _, ok := t.Snapshot(f.Snapshot); !ok {
			return 0, fmt.Errorf("its dataset has no snapshot %d, or has it no longer; list its snapshots: %w", f.Snapshot, record.ErrNotFound)
		}
		return f.Snapshot, nil
	case f.Tag != "":
		tag, err := t.Tag(f.Tag)
		return tag.Snapshot, err
	case !f.Time.IsZero():
		return at(t, f.Time, now)
	case f.Position != nil:
		return below(t, f.Position)
	}
	head, _ := t.Head()
	return head.ID, nil
}

func at(t *dataset.Table, when, now time.Time) (int64, error) {
	if when.After(now) {
		return 0, fmt.Errorf("the time %s is yet to come: %w", when.UTC().Format(time.RFC3339Nano), record.ErrInvalid)
	}
	s, ok := t.At(when.UnixMilli())
	if !ok {
		return 0, fmt.Errorf("its dataset keeps no snapshot as old as %s; list its snapshots: %w", when.UTC().Format(time.RFC3339Nano), record.ErrNotFound)
	}
	return s.ID, nil
}

// below finds the newest snapshot that holds exactly the rows of a view below a
// position. Snapshots end where archives ended; a position between two of them has
// none, and cutting one would cost files.
func below(t *dataset.Table, p *Position) (int64, error) {
	history := t.History()
	var m *dataset.Marker // the newest at or before the snapshot
	var exact, before, behind int64
	for i := len(history) - 1; i >= 0; i-- {
		s := &history[i]
		if s.Marker != nil {
			m = s.Marker
		}
		if m == nil || m.View != p.View {
			continue
		}
		switch {
		case m.Offsets.Equal(p.Next):
			exact = s.ID
		case !m.Offsets.Covers(p.Next):
			before = s.ID
		case behind == 0:
			behind = s.ID
		}
	}
	if exact != 0 {
		return exact, nil
	}
	name := func(id int64) string {
		if id == 0 {
			return "none that is kept"
		}
		return fmt.Sprint("snapshot ", id)
	}
	if before == 0 && behind == 0 {
		return 0, fmt.Errorf("its dataset keeps no snapshot of the cursor's view; the cursor belongs to another branch, or to a view of which no snapshot is left: %w", record.ErrNotFound)
	}
	return 0, fmt.Errorf("no snapshot ends at the cursor: the last one before it is %s, the first behind it is %s; begin at one of these: %w", name(before), name(behind), record.ErrConflict)
}
