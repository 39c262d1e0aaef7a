package branch

import (
	"fmt"
	"time"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// start is what a new table begins with: a snapshot (0: none) of its source, and
// perhaps a stretch of rows behind it.
type start struct {
	snapshot int64
	stretch  *dataset.Stretch
}

// schemaAt is the snapshot whose schema the rows have.
func (s start) schemaAt() int64 {
	if s.stretch != nil {
		return s.stretch.Snapshot
	}
	return s.snapshot
}

// find returns what a branch from f begins with.
func (f *From) find(t *dataset.Table, now time.Time) (start, error) {
	switch {
	case f.Snapshot != 0:
		if _, ok := t.Snapshot(f.Snapshot); !ok {
			return start{}, fmt.Errorf("its dataset has no snapshot %d, or has it no longer; list its snapshots: %w", f.Snapshot, record.ErrNotFound)
		}
		return start{snapshot: f.Snapshot}, nil
	case f.Tag != "":
		tag, err := t.Tag(f.Tag)
		return start{snapshot: tag.Snapshot}, err
	case !f.Time.IsZero():
		id, err := at(t, f.Time, now)
		return start{snapshot: id}, err
	case f.Position != nil:
		return below(t, f.Position)
	}
	head, _ := t.Head()
	return start{snapshot: head.ID}, nil
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
// position. Archives end at checkpoints, so that for most positions there is none:
// then it is the newest one that holds no row behind the position, with the rows
// between that the next one brings. Not the other way round, a snapshot without
// the rows behind the position: a merge would take those for deleted.
func below(t *dataset.Table, p *Position) (start, error) {
	history := t.History()
	var m, low *dataset.Marker // the newest at or before the snapshot; that of before
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
		case p.Next.Covers(m.Offsets):
			before, low, behind = s.ID, m, 0
		case m.Offsets.Covers(p.Next) && behind == 0:
			behind = s.ID
		}
	}
	switch {
	case exact != 0:
		return start{snapshot: exact}, nil
	case before != 0 && behind != 0:
		return start{before, &dataset.Stretch{Snapshot: behind, View: low.ViewNumber, From: low.Offsets, Next: p.Next}}, nil
	case before != 0:
		return start{}, fmt.Errorf("the cursor lies behind the last row: %w", record.ErrOutOfRange)
	case behind != 0:
		return start{}, fmt.Errorf("the snapshots before the cursor have expired; the first that is kept is %d, begin there or later: %w", behind, record.ErrOutOfRange)
	}
	return start{}, fmt.Errorf("its dataset keeps no snapshot of the cursor's view; the cursor belongs to another branch, or to a view of which no snapshot is left: %w", record.ErrNotFound)
}
