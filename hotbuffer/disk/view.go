package disk

import (
	"fmt"
	"sort"
	"sync"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// view is what the log knows of one view.
type view struct {
	id     record.ViewID
	stats  viewStats
	linger linger

	// mu guards what readers see; only the committer changes it, but for
	// settings and changed.
	mu            sync.RWMutex
	settings      *hotbuffer.Settings // nil: not opened in this process
	dropped       bool
	closed        bool // the log is: no more references to segments
	parts         []*part
	lastTimestamp int64
	changed       chan struct{} // closed when something above changes; nil: nobody waits

	// The committer's.
	floor      int64 // smallest timestamp of the next commit
	unreleased bool  // start moved since the last commit that says so
}

// part is one partition: rows [start, end), of which the index holds segs.
type part struct {
	start, end record.Offset
	segs       []*segPart    // ascending; without those wholly below start
	damage     []*Damage     // rows that are lost
	next       record.Offset // the committer's: end, ahead of it within a commit
}

func newView(id record.ViewID) *view { return &view{id: id} }

// grow makes sure that there are n partitions; v.mu is held.
func (v *view) grow(n int) {
	for len(v.parts) < n {
		v.parts = append(v.parts, &part{})
	}
}

func (v *view) open(s hotbuffer.Settings) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.dropped {
		return fmt.Errorf("the view was dropped: %w", record.ErrNotFound)
	}
	if s.Partitions < len(v.parts) {
		return fmt.Errorf("%d partitions, but rows may be in %d; partitions can only grow: %w", s.Partitions, len(v.parts), record.ErrInvalid)
	}
	v.grow(s.Partitions)
	v.settings = &s
	return nil
}

func (v *view) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
}

func (v *view) isOpen() bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.settings != nil && !v.dropped
}

// currentSettings of an opened view.
func (v *view) currentSettings() (hotbuffer.Settings, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.settings == nil || v.dropped {
		return hotbuffer.Settings{}, false
	}
	return *v.settings, true
}

func (v *view) ends() hotbuffer.Ends {
	v.mu.RLock()
	defer v.mu.RUnlock()
	e := hotbuffer.Ends{
		Start: make(record.Offsets, len(v.parts)), End: make(record.Offsets, len(v.parts)), LastTimestamp: v.lastTimestamp,
	}
	for i, p := range v.parts {
		e.Start[i], e.End[i] = p.start, p.end
	}
	return e
}

// beyond returns nil if some end is beyond after, else what is closed at the
// next change.
func (v *view) beyond(after record.Offsets) <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i, p := range v.parts {
		if p.end > after.At(record.Partition(i)) {
			return nil
		}
	}
	if v.changed == nil {
		v.changed = make(chan struct{})
	}
	return v.changed
}

// wake tells waiters to look again; v.mu is held.
func (v *view) wake() {
	if v.changed != nil {
		close(v.changed)
		v.changed = nil
	}
}

// release moves the start. Rows are released as soon as it returns; segments
// follow when no view needs them.
func (v *view) release(through record.Offsets) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.dropped {
		return fmt.Errorf("the view was dropped: %w", record.ErrNotFound)
	}
	for i, off := range through {
		if i >= len(v.parts) && off > 0 || i < len(v.parts) && off > v.parts[i].end {
			return fmt.Errorf("offset %v of partition %d is beyond the durable end: %w", off, i, record.ErrOutOfRange)
		}
	}
	for i, p := range v.parts {
		if off := through.At(record.Partition(i)); off > p.start {
			p.start = off
			v.unreleased = true
			p.trim()
		}
	}
	return nil
}

// trim drops the index below start. What is in the active segment stays until
// that is sealed.
func (p *part) trim() {
	n := 0
	for n < len(p.segs) && p.segs[n].end <= p.start && p.segs[n].seg.sealed {
		p.segs[n].drop()
		n++
	}
	// A copy, so that the array does not keep what was trimmed.
	p.segs = append([]*segPart(nil), p.segs[n:]...)
	n = 0
	for n < len(p.damage) && p.damage[n].Offsets.End <= p.start {
		n++
	}
	p.damage = p.damage[n:]
}

// publish makes a committed frame visible; v.mu is held.
func (p *part) publish(sp *segPart, isNew bool, pos int64, n int, base, end record.Offset) {
	sp.add(pos, n, base, end)
	if isNew {
		p.segs = append(p.segs, sp)
	}
	p.end = end
}

// find returns the index in p.segs of the last one that begins at or below
// off, -1 if none does; v.mu is held.
func (p *part) find(off record.Offset) int {
	return sort.Search(len(p.segs), func(i int) bool { return p.segs[i].base > off }) - 1
}
