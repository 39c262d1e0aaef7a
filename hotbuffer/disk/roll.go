package disk

import (
	"errors"
	"fmt"
	"slices"

	"github.com/thermocline/thermocline/record"
)

// active is the segment that commits go to.
func (l *Log) active() *segment { return l.segments[len(l.segments)-1] }

// roll goes on to a new segment, with room for a commit of that size behind
// the checkpoint. A control commit may have the last ready segment. ErrFull
// leaves everything as it was.
func (l *Log) roll(bytes, frames int, control bool, now int64) error {
	checkpoint := l.checkpoint()
	size := commitHeaderSize
	for i := range checkpoint {
		size += tocEntrySize + align(frameHeaderSize+len(checkpoint[i].payload), frameAlign)
	}
	need := 2*blockSize + controlReserve + align(int64(size), blockSize) + segmentRoom(bytes, frames, 0)
	seg, err := l.stock.take(need, control)
	if err != nil {
		if !errors.Is(err, record.ErrFull) && l.poison() != nil {
			err = l.poison()
		}
		return err
	}
	// A crash before the checkpoint is durable leaves a segment without a
	// valid commit, which recovery frees; from then on the segment counts.
	// The sync of its own keeps a torn checkpoint from standing before rows.
	if _, err := l.write(seg, checkpoint, now); err != nil {
		seg.release()
		return err
	}
	old := l.segments
	l.segments = append(l.segments, seg)
	l.stats.segments.Store(int64(len(l.segments)))
	if len(old) > 0 {
		l.seal(old[len(old)-1])
	}
	l.settled()
	return nil
}

// checkpoint is the first commit of a segment.
func (l *Log) checkpoint() []frame {
	var states []viewState
	l.mu.RLock()
	for _, v := range l.views {
		states = append(states, v.state())
	}
	l.mu.RUnlock()
	views := appendViews(nil, states)
	frames := []frame{{frameHeader: frameHeader{kind: viewsFrame}, payload: views}}
	for _, b := range l.producers.frames() {
		frames = append(frames, frame{frameHeader: frameHeader{kind: producersFrame}, payload: b})
	}
	return append(frames, frame{frameHeader: frameHeader{kind: viewsFrame}, payload: views})
}

func (v *view) state() viewState {
	e := v.ends()
	return viewState{id: v.id, lastTimestamp: e.LastTimestamp, next: e.End, released: e.Start}
}

// seal ends a segment: its index is final, and is written as a footer later.
func (l *Log) seal(seg *segment) {
	if seg.sealed {
		return
	}
	seg.sealed, seg.byPart = true, nil
	// What was released while the segment was active could not be trimmed.
	l.mu.RLock()
	for _, sp := range seg.parts {
		if v := l.views[sp.view]; v != nil {
			v.mu.Lock()
			v.parts[sp.partition].trim()
			v.mu.Unlock()
		}
	}
	l.mu.RUnlock()
	if seg.damaged {
		return
	}
	footer := seg.footer(&l.id)
	seg.acquire()
	l.stock.later(func() {
		defer seg.release()
		if err := seg.writeFooter(footer, &l.id); err != nil {
			l.o.Logger.Warn("hot log: cannot write a footer; the next start will scan the segment", "dir", l.dir, "segment", seg.epoch, "error", err)
		}
	})
}

// drop forgets a view. Its frames in live segments are dead from now on; the
// drop frame, or the next checkpoint, keeps them so after a restart.
func (l *Log) drop(id record.ViewID) error {
	if err := l.poison(); err != nil {
		return err
	}
	l.mu.Lock()
	v := l.views[id]
	if v == nil {
		l.mu.Unlock()
		return nil
	}
	delete(l.views, id)
	for _, seg := range l.segments {
		if seg.holds(id) {
			l.dropped[id]++
		}
	}
	l.mu.Unlock()

	v.mu.Lock()
	v.dropped = true
	for _, p := range v.parts {
		for _, sp := range p.segs {
			sp.drop()
		}
		p.segs = nil
	}
	v.wake()
	v.mu.Unlock()
	l.closeLinger(v)
	l.producers.dropView(id)
	l.drops = append(l.drops, id)
	return l.settle()
}

func (s *segment) holds(id record.ViewID) bool {
	return slices.ContainsFunc(s.parts, func(p *segPart) bool { return p.view == id })
}

// freeReleased frees segments that nobody needs any more, if there are any.
func (l *Log) freeReleased() error {
	if err := l.poison(); err != nil {
		return err
	}
	for _, seg := range l.segments[:len(l.segments)-1] {
		if seg.live == 0 {
			return l.settle()
		}
	}
	return nil
}

// settle makes releases and drops durable, then frees segments. In this order:
// recovery takes rows that are missing without a release for lost.
func (l *Log) settle() error {
	now := l.o.Now().UnixMilli()
	frames := l.unsettled()
	if len(frames) > 0 {
		size := commitHeaderSize
		for i := range frames {
			size += tocEntrySize + align(frameHeaderSize+len(frames[i].payload), frameAlign)
		}
		var err error
		if l.active().fits(size, len(frames), true) {
			if _, err = l.write(l.active(), frames, now); err == nil {
				l.settled()
			}
		} else {
			err = l.roll(0, 0, true, now) // the checkpoint says it all
		}
		if errors.Is(err, record.ErrFull) {
			// Only when no segment could be kept ready. What was released
			// stays on disk until the next release, or the next segment.
			l.o.Logger.Warn("hot log: no room to free released segments", "dir", l.dir, "error", err)
			return nil
		}
		if err != nil {
			return err
		}
	}
	l.retire()
	return nil
}

// unsettled are the frames that say which rows were released and which views
// dropped since the last ones that did.
func (l *Log) unsettled() []frame {
	var frames []frame
	for _, id := range l.drops {
		frames = append(frames, frame{frameHeader: frameHeader{view: id, kind: dropFrame}})
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, v := range l.views {
		if v.unreleased {
			var b []byte
			for _, o := range v.ends().Start {
				b = be.AppendUint64(b, uint64(o))
			}
			frames = append(frames, frame{frameHeader: frameHeader{view: v.id, kind: releaseFrame}, payload: b})
		}
	}
	return frames
}

// settled notes that all releases and drops are durable.
func (l *Log) settled() {
	l.drops = nil
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, v := range l.views {
		v.unreleased = false
	}
}

// retire gives sealed segments without live rows back. Call it only when all
// releases and drops are durable.
func (l *Log) retire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := len(l.segments) - 1
	keep := l.segments[:0:0]
	for i, seg := range l.segments {
		if i == last || seg.live > 0 {
			keep = append(keep, seg)
			continue
		}
		for id := range l.dropped {
			if seg.holds(id) {
				if l.dropped[id]--; l.dropped[id] == 0 {
					delete(l.dropped, id)
				}
			}
		}
		l.stock.leave()
		seg.release()
	}
	l.segments = keep
	l.stats.segments.Store(int64(len(keep)))
}

// writeClose ends the log cleanly: it tells the next start that nothing was
// being written, and keeps the starts of views exact.
func (l *Log) writeClose() {
	if l.clean || l.poison() != nil {
		return
	}
	frames := append(l.unsettled(), frame{frameHeader: frameHeader{kind: closeFrame}})
	size := commitHeaderSize
	for i := range frames {
		size += tocEntrySize + align(frameHeaderSize+len(frames[i].payload), frameAlign)
	}
	if !l.active().fits(size, len(frames), true) {
		return // the file END tells as much
	}
	if _, err := l.write(l.active(), frames, l.o.Now().UnixMilli()); err != nil {
		l.o.Logger.Error("hot log: cannot write the closing frame", "dir", l.dir, "error", fmt.Errorf("close: %w", err))
	}
}
