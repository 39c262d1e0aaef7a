package disk

import (
	"bytes"
	"fmt"
	"io"
	"slices"

	"github.com/thermocline/thermocline/record"
)

// replay adds up the state of the log: from the newest readable checkpoint on,
// with the index of what lies before it.
func (r *recovery) replay() error {
	l := r.log
	r.state = newState(l.o.producerRanges)
	base, err := r.survey()
	if err != nil {
		return err
	}
	for i, seg := range r.segs {
		last := i == len(r.segs)-1
		loaded := seg.loadFooter(&l.id)
		if loaded && i < base {
			continue
		}
		misfit := seg.damaged
		scan := scan{recovery: r, seg: seg, index: !loaded, state: i >= base, producers: i == base, known: !last || r.end != nil}
		if err := scan.run(last && !loaded && !r.suspect && r.end == nil); err != nil {
			return fmt.Errorf("segment %v: %w", seg.epoch, err)
		}
		switch {
		case loaded && last && r.end == nil:
			// It was sealed after the next one's checkpoint was durable.
			r.damage = append(r.damage, Damage{Segment: uint64(seg.epoch), Position: -1, Reason: "the segment that followed is missing or unreadable", Unknown: true})
		case loaded:
		case !last:
			l.seal(seg) // its footer was lost, or never written
		case r.suspect:
			seg.sealed, seg.damaged = true, true
		default:
			if r.end == nil && !r.state.clean {
				if err := r.cutTail(seg); err != nil {
					return fmt.Errorf("segment %v: cut the tail: %w", seg.epoch, err)
				}
			}
			// A file that is not what its header says is not written to.
			seg.sealed = misfit || base > i
		}
	}
	if n := len(r.segs); n > 0 && r.segs[n-1].cut && r.end == nil {
		r.unknown(r.segs[n-1])
	}
	r.setMisfitsAside()
	r.closed()
	return nil
}

// closed compares with what was known when the log was closed; r.end stays only
// if that is more than the segments told. index finds out which rows are lost.
func (r *recovery) closed() {
	end := r.end
	r.end = nil
	switch {
	case end == nil:
	case end.commit < r.state.commit:
		r.damage = append(r.damage, Damage{File: endName, Reason: fmt.Sprintf("it says that the log ended with commit %d, but there is %d: it belongs to an older copy", end.commit, r.state.commit)})
	default:
		if end.commit > r.state.commit {
			r.damage = append(r.damage, Damage{File: endName, Reason: fmt.Sprintf("the log was closed behind commit %d, but ends with %d", end.commit, r.state.commit)})
			r.end = end
		}
		for _, v := range end.views {
			var known record.Offsets
			if k := r.state.views[v.id]; k != nil {
				known = k.next
			}
			if !known.Covers(v.next) {
				r.end = end // of some commit nothing is left
			}
		}
		r.state.checkpoint(end.views)
		r.state.commit, r.state.clean = end.commit, r.state.clean && r.end == nil
	}
}

// setMisfitsAside takes files out of the log whose header does not fit and in
// which nothing was found. They may be another segment's under a wrong name, so
// they are kept for whoever repairs the directory.
func (r *recovery) setMisfitsAside() {
	r.segs = slices.DeleteFunc(r.segs, func(seg *segment) bool {
		if !seg.damaged || seg.lastCommit > 0 || len(seg.parts) > 0 {
			return false
		}
		r.setAside(seg)
		return true
	})
}

// unknown notes that nothing tells what the damaged end of a segment held.
func (r *recovery) unknown(seg *segment) {
	for i := range r.damage {
		if d := &r.damage[i]; d.Segment == uint64(seg.epoch) && d.File == "" && d.Offsets.Len() == 0 {
			d.Unknown = true
		}
	}
}

func (r *recovery) setAside(seg *segment) {
	s := r.log.stock
	delete(r.files, seg.file)
	s.files.Done()
	s.total -= seg.size
	_ = seg.file.Close()
	err := r.fs.Rename(s.path(seg.name), s.path(seg.name+damagedSuffix))
	if err != nil {
		// It is found again at the next start.
		s.logger.Error("hot log: cannot set a damaged file aside", "dir", s.dir, "file", seg.name, "error", err)
	}
	for i := range r.damage {
		if d := &r.damage[i]; d.Segment == uint64(seg.epoch) && d.File == "" {
			d.Reason += "; the file was set aside as " + seg.name + damagedSuffix
		}
	}
}

// survey drops segments that hold no commit, which become free files, and
// returns the newest one with a readable checkpoint.
//
// A segment counts when its checkpoint is durable, which is before anything
// else in it is written. Where the newest one's checkpoint is not whole and
// nothing follows it, it was torn, or damaged later; nobody can tell. It counts
// as suspect if it still names all offsets: they are true in either case, but
// the producers are better taken from the frames before it.
func (r *recovery) survey() (base int, err error) {
	l := r.log
	base = -1
	segs := r.segs
	r.segs = nil
	for i := len(segs) - 1; i >= 0; i-- {
		seg := segs[i]
		begun, views := len(r.segs) > 0, false
		if base < 0 {
			found, hasViews, suspect, err := r.look(seg, begun)
			if err != nil {
				return 0, err
			}
			r.suspect = r.suspect || suspect
			begun, views = begun || found, hasViews
		}
		if !begun && seg.damaged {
			r.setAside(seg)
			if r.end == nil {
				r.unknown(seg)
			}
			continue
		}
		if !begun {
			f, err := l.stock.toFree(seg)
			if err != nil {
				delete(r.files, seg.file) // toFree closed it
				return 0, err
			}
			if seg.size == l.o.SegmentBytes {
				l.stock.free = append(l.stock.free, f)
			} else {
				l.stock.total -= seg.size
				if err := r.close(f.file); err != nil {
					return 0, err
				}
				if err := r.fs.Remove(l.stock.path(f.name)); err != nil {
					return 0, err
				}
			}
			continue
		}
		r.segs = append([]*segment{seg}, r.segs...)
		if base >= 0 {
			base++
		} else if views && !(r.suspect && len(r.segs) == 1) {
			base = 0
		}
	}
	if base < 0 && r.suspect {
		base = len(r.segs) - 1 // there is nothing better
	}
	if base < 0 && r.end != nil {
		return len(r.segs), nil // it says all that a checkpoint would
	}
	if base < 0 && (len(r.segs) > 0 || r.begun) {
		return 0, fmt.Errorf("no segment has a readable checkpoint, so that the next offsets are unknown; restore the directory from a copy, or move it away to begin an empty log: %w", record.ErrCorrupt)
	}
	return base, nil
}

// look tells whether a segment holds commits, and whether a checkpoint can be
// read from it. durable: a newer segment has begun, so that all here was synced.
func (r *recovery) look(seg *segment, durable bool) (begun, views, suspect bool, err error) {
	buf, err := readSegment(seg)
	if err != nil {
		return false, false, false, err
	}
	s := scanner{
		id: &r.log.id, epoch: seg.epoch, buf: buf, last: !durable && r.end == nil, cut: seg.cut,
		frame: func(h *frameHeader, _ record.Batch, _ []byte, _ int64) error {
			begun = true
			views = views || h.kind == viewsFrame
			return nil
		},
		end:  func(commitHeader) error { return nil },
		lost: func(Damage) {},
	}
	if _, err = s.scan(); err != nil || begun || durable || r.end != nil {
		return begun, views, false, err
	}
	s.last = false
	if _, err = s.scan(); err != nil {
		return false, false, false, err
	}
	return views, views, views, nil
}

func readSegment(seg *segment) ([]byte, error) {
	buf := make([]byte, seg.size)
	if _, err := seg.file.ReadAt(buf, 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read %s: %w", seg.name, err)
	}
	return buf, nil
}

// scan reads the frames of one segment into the index, the state, or both.
type scan struct {
	*recovery
	seg       *segment
	index     bool
	state     bool
	producers bool // take them from this segment's checkpoint
	known     bool // the next checkpoint, or the file END, tells which rows were here
}

func (s *scan) run(mayBeTorn bool) error {
	buf, err := readSegment(s.seg)
	if err != nil {
		return err
	}
	walk := scanner{id: &s.log.id, epoch: s.seg.epoch, buf: buf, last: mayBeTorn, cut: s.seg.cut, frame: s.frame, end: s.ended, lost: s.lost}
	end, err := walk.scan()
	if err != nil {
		return err
	}
	if s.index {
		s.seg.pos, s.seg.firstCommit, s.seg.lastCommit = end, walk.first, walk.newest
	}
	return nil
}

func (s *scan) lost(d Damage) {
	if s.suspect && s.seg == s.segs[len(s.segs)-1] {
		return
	}
	d.Unknown = d.Unknown && !s.known
	if !s.state && d.Offsets.Len() == 0 {
		return // of no use any more, like the checkpoint of a crashed start
	}
	s.seg.damaged = true
	s.damage = append(s.damage, d)
	if s.state && d.Offsets.Len() > 0 {
		// Lost, but given: never again.
		s.recovery.state.view(d.View).reach(d.Partition, d.Offsets.End)
	}
}

func (s *scan) ended(h commitHeader) error {
	if s.state {
		s.recovery.state.ended(h)
	}
	return nil
}

func (s *scan) frame(h *frameHeader, batch record.Batch, payload []byte, pos int64) error {
	if s.index && h.kind == rowsFrame {
		sp, isNew := s.seg.part(h.view, h.partition, h.base)
		if h.base < sp.end {
			s.lost(Damage{Segment: uint64(s.seg.epoch), Position: pos, Reason: fmt.Sprintf("rows [%v,%v) of %v partition %v are there twice", batch.BaseOffset(), batch.End(), h.view, h.partition)})
			return nil
		}
		if h.base > sp.end && !isNew {
			s.lost(Damage{Segment: uint64(s.seg.epoch), Position: pos, View: h.view, Partition: h.partition, Offsets: record.Range{Start: sp.end, End: h.base}, Reason: "frames are missing before this"})
		}
		sp.add(pos, frameHeaderSize+len(payload), h.base, batch.End())
	}
	if !s.state {
		return nil
	}
	switch h.kind {
	case viewsFrame:
		views, err := decodeViews(payload)
		if err != nil {
			return err
		}
		s.recovery.state.checkpoint(views)
	case producersFrame:
		if s.producers {
			return s.recovery.state.producers.load(payload)
		}
	default:
		s.recovery.state.frame(h, batch, payload)
	}
	return nil
}

// cutTail zeroes what stands behind the last commit, so that no part of a
// commit that was being written at the crash can ever be taken for one: what
// was promised since, an end or a cut, would become wrong. A crash in between
// leaves a torn tail again.
func (r *recovery) cutTail(seg *segment) error {
	tail := make([]byte, max(0, seg.size-seg.pos))
	n, err := seg.file.ReadAt(tail, seg.pos)
	if err != nil && err != io.EOF {
		return err
	}
	if n == len(tail) && bytes.Count(tail, []byte{0}) == n {
		return nil
	}
	clear(tail)
	if _, err := seg.file.WriteAt(tail, seg.pos); err != nil {
		return err
	}
	return seg.file.Sync()
}

// index makes the views of the state and gives them what the segments hold.
// Whatever is neither held nor released is lost.
func (r *recovery) index() {
	l := r.log
	for id, s := range r.state.views {
		v := newView(id)
		v.grow(len(s.next))
		v.lastTimestamp = s.lastTimestamp
		// Later than anything that was cut or read before the restart.
		v.floor = s.lastTimestamp + 1
		for i, p := range v.parts {
			p.start, p.end, p.next = s.released[i], s.next[i], s.next[i]
		}
		l.views[id] = v
	}
	for i, seg := range r.segs {
		active := i == len(r.segs)-1 && !seg.sealed
		gone := make(map[record.ViewID]bool)
		for _, sp := range seg.parts {
			v := l.views[sp.view]
			switch {
			case v == nil:
				sp.drop()
				gone[sp.view] = true
				continue
			case int(sp.partition) >= len(v.parts):
				v.grow(int(sp.partition) + 1)
			}
			p := v.parts[sp.partition]
			p.end = max(p.end, sp.end)
			p.next = p.end
			if sp.end <= p.start && !active {
				sp.drop()
				continue
			}
			p.segs = append(p.segs, sp)
		}
		for id := range gone {
			l.dropped[id]++
		}
		if !active {
			seg.byPart = nil
		}
	}
	// What was released is archived; and it may have been overwritten (scrub.go).
	r.damage = slices.DeleteFunc(r.damage, func(d Damage) bool {
		if d.Unknown || d.Offsets.Len() == 0 {
			return false
		}
		v := l.views[d.View]
		return v == nil || int(d.Partition) < len(v.parts) && d.Offsets.End <= v.parts[d.Partition].start
	})
	for _, v := range l.views {
		for i, p := range v.parts {
			r.holes(v, record.Partition(i), p)
		}
	}
	for i := range r.damage {
		d := &r.damage[i]
		if v := l.views[d.View]; v != nil && int(d.Partition) < len(v.parts) && d.Offsets.End > v.parts[d.Partition].start {
			v.parts[d.Partition].damage = append(v.parts[d.Partition].damage, d)
		}
	}
}

// holes finds offsets that no segment holds and no scan has named as lost.
func (r *recovery) holes(v *view, id record.Partition, p *part) {
	at := p.start
	missing := func(end record.Offset, next epoch) {
		known := false
		for _, d := range r.damage {
			known = known || d.View == v.id && d.Partition == id && d.Offsets.Start <= at && d.Offsets.End >= end
		}
		if !known {
			r.damage = append(r.damage, Damage{Segment: uint64(next), Position: -1, View: v.id, Partition: id, Offsets: record.Range{Start: at, End: end}, Reason: "frames are missing in, before or behind this"})
		}
	}
	for _, sp := range p.segs {
		if sp.base > at {
			missing(sp.base, sp.seg.epoch)
		}
		at = max(at, sp.end)
	}
	if at < p.end {
		var last epoch
		if n := len(r.segs); n > 0 {
			last = r.segs[n-1].epoch
		}
		missing(p.end, last)
	}
}
