package disk

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// commitTarget is how much the committer takes at once; more only where one
// group is larger. Small segments take less.
const commitTarget = 8 << 20

// runCommitter is the only goroutine that writes commits, and owns what they
// change. It ends when the queue is closed and empty.
func (l *Log) runCommitter() {
	defer l.stock.stop()
	target := int(min(commitTarget, l.o.SegmentBytes/4))
	for more := true; more; {
		var groups []*group
		var controls []*control
		groups, controls, more = l.queue.take(target)
		for _, c := range controls {
			c.err = c.do()
			close(c.done)
		}
		if len(groups) > 0 {
			l.commitGroups(groups)
			for _, g := range groups {
				l.finish(g)
			}
		}
	}
	l.writeClose()
	l.writeEnd()
}

// frame is one frame of a commit that is being put together.
type frame struct {
	frameHeader
	payload   []byte
	timestamp int64 // of rows
	view      *view // of rows
	plain     int
}

// commitGroups makes groups durable and visible, all with one write and one
// sync, and sets their outcome. Those that are refused leave no trace.
func (l *Log) commitGroups(groups []*group) {
	if err := l.poison(); err != nil {
		setErr(groups, err)
		return
	}
	// Room comes first: nothing may have changed when there is none.
	var candidates []*group
	bytes, frames := 0, 0
	for _, g := range groups {
		if l.precheck(g) {
			candidates = append(candidates, g)
			b, n := g.size()
			bytes += b
			frames += n
		}
	}
	if len(candidates) == 0 {
		return
	}
	now := l.o.Now().UnixMilli()
	candidates, err := l.makeRoom(candidates, bytes, frames, now)
	if err != nil {
		setErr(candidates, err)
		return
	}
	var out []frame
	for _, g := range candidates {
		// Again, because a request of this same commit may be the first of two.
		if l.precheck(g) {
			out = l.assign(g, out, now)
		}
	}
	if len(out) == 0 {
		return
	}
	// Frames of a partition stand together, so that one entry of the index
	// covers them; in the order of their offsets, because the sort is stable.
	slices.SortStableFunc(out, func(a, b frame) int {
		return cmp.Or(cmp.Compare(a.frameHeader.view, b.frameHeader.view), cmp.Compare(a.partition, b.partition))
	})
	seg := l.active()
	pos := seg.pos
	buf, err := l.write(seg, out, now)
	if err != nil {
		setErr(candidates, err)
		return
	}
	l.cache.add(seg.epoch, pos, buf)
	l.publish(seg, pos, out)
}

func setErr(groups []*group, err error) {
	for _, g := range groups {
		g.err = err
	}
}

// precheck tells whether a group is to be appended; if not, it sets the
// group's outcome.
func (l *Log) precheck(g *group) bool {
	if g.view.dropped {
		g.err = fmt.Errorf("the view was dropped: %w", record.ErrNotFound)
		return false
	}
	if g.producer == nil {
		return true
	}
	o, err := l.producers.check(g.view.id, g.producer)
	switch {
	case err != nil:
		g.err = err
		return false
	case o != nil:
		g.ranges, g.duplicate = slices.Clone(o.ranges), true
		return false
	}
	return true
}

// makeRoom makes sure that groups fit in the active segment. Where there is no
// room for all it refuses some with ErrFull and returns the others.
func (l *Log) makeRoom(groups []*group, bytes, frames int, now int64) ([]*group, error) {
	if len(groups) == 0 || l.active().fits(commitHeaderSize+bytes, frames, false) {
		return groups, nil
	}
	err := l.roll(commitHeaderSize+bytes, frames, false, now)
	if err == nil {
		l.retire()
		return groups, nil
	}
	if !errors.Is(err, record.ErrFull) {
		return groups, err
	}
	full := fmt.Errorf("the hot log has no room until rows are archived: %w", err)
	// Requests that need a segment of their own must not stop the others.
	var ordinary []*group
	ordinaryBytes, ordinaryFrames := 0, 0
	for _, g := range groups {
		if b, n := g.size(); int64(b) < l.o.SegmentBytes/2 {
			ordinary, ordinaryBytes, ordinaryFrames = append(ordinary, g), ordinaryBytes+b, ordinaryFrames+n
		} else {
			g.err = full
		}
	}
	if len(ordinary) < len(groups) {
		return l.makeRoom(ordinary, ordinaryBytes, ordinaryFrames, now)
	}
	var fit []*group
	bytes, frames = 0, 0
	for _, g := range groups {
		b, n := g.size()
		if l.active().fits(commitHeaderSize+bytes+b, frames+n, false) {
			fit, bytes, frames = append(fit, g), bytes+b, frames+n
		} else {
			g.err = full
		}
	}
	return fit, nil
}

// assign gives a group its offsets and adds its frames to out.
func (l *Log) assign(g *group, out []frame, now int64) []frame {
	v := g.view
	v.mu.RLock()
	defer v.mu.RUnlock()
	timestamp := max(now, v.lastTimestamp, v.floor)
	for _, b := range g.batches {
		p := v.parts[b.partition]
		base := p.next
		p.next += record.Offset(b.rows)
		if n := len(g.ranges); n > 0 && g.ranges[n-1].Partition == b.partition {
			g.ranges[n-1].End = p.next
		} else {
			g.ranges = append(g.ranges, hotbuffer.PartRange{Partition: b.partition, Range: record.Range{Start: base, End: p.next}})
		}
		out = append(out, frame{
			frameHeader: frameHeader{view: v.id, partition: b.partition, kind: rowsFrame, base: base, rows: b.rows, producer: g.producer},
			payload:     b.data, timestamp: timestamp, view: v, plain: b.plain,
		})
	}
	if g.producer != nil {
		if len(g.batches) == 0 {
			out = append(out, frame{frameHeader: frameHeader{view: v.id, kind: emptyFrame, producer: g.producer}, view: v})
		}
		// Known at once to later requests of this commit; to anyone outside
		// only when the commit is durable, or never.
		l.producers.apply(v.id, g.producer, g.ranges, now)
	}
	return out
}

// write puts a commit together, writes and syncs it. When it returns nil the
// commit is durable. A crash before that leaves all of it, or a torn tail that
// recovery cuts. An error poisons the log.
func (l *Log) write(seg *segment, frames []frame, now int64) ([]byte, error) {
	length := commitHeaderSize + len(frames)*tocEntrySize
	for i := range frames {
		length = align(length, frameAlign) + frameHeaderSize + len(frames[i].payload)
	}
	number := l.commit + 1
	buf := make([]byte, align(length, blockSize))
	at := commitHeaderSize + len(frames)*tocEntrySize
	for i := range frames {
		f := &frames[i]
		at = align(at, frameAlign)
		n := frameHeaderSize + len(f.payload)
		payload := buf[at+frameHeaderSize : at+n]
		copy(payload, f.payload)
		f.epoch, f.commit, f.frameHeader.payload = seg.epoch, number, len(payload)
		if f.kind == rowsFrame {
			record.SetBaseOffset(payload, f.base)
			record.SetTimestamp(payload, f.timestamp)
		} else {
			f.payloadSum = l.id.sum(payload)
		}
		f.frameHeader.put(buf[at:], &l.id)
		tocEntry{view: f.frameHeader.view, partition: f.partition, rows: f.rows, base: f.base, pos: at, len: n}.put(buf[commitHeaderSize+i*tocEntrySize:])
		at += n
	}
	commitHeader{epoch: seg.epoch, number: number, timestamp: now, length: length, frames: len(frames)}.put(buf, &l.id)

	if err := l.poison(); err != nil {
		return nil, err
	}
	if _, err := seg.file.WriteAt(buf, seg.pos); err != nil {
		l.fail(fmt.Errorf("write %d bytes to segment %v at %d: %w", len(buf), seg.epoch, seg.pos, err))
		return nil, l.poison()
	}
	begin := time.Now()
	if err := seg.file.SyncData(); err != nil {
		l.fail(fmt.Errorf("sync segment %v: %w", seg.epoch, err))
		return nil, l.poison()
	}
	l.stats.fsync.observe(time.Since(begin))
	l.stats.commits.Add(1)
	l.stats.written.Add(int64(len(buf)))
	l.stats.producers.Store(int64(l.producers.idle.Len()))
	l.stats.evictedEarly.Store(l.producers.evicted)
	if seg.firstCommit == 0 {
		seg.firstCommit = number
	}
	seg.lastCommit = number
	seg.pos += int64(len(buf))
	l.commit, l.clean = number, false
	return buf, nil
}

// publish makes the rows of a durable commit visible: those of one view at
// once, so that Ends never shows a part of a request.
func (l *Log) publish(seg *segment, pos int64, frames []frame) {
	at := commitHeaderSize + len(frames)*tocEntrySize
	for i := 0; i < len(frames); {
		v := frames[i].view
		var stored int64
		first := i
		v.mu.Lock()
		for ; i < len(frames) && frames[i].view == v; i++ {
			f := &frames[i]
			at = align(at, frameAlign)
			n := frameHeaderSize + len(f.payload)
			if f.kind == rowsFrame {
				sp, isNew := seg.part(v.id, f.partition, f.base)
				v.parts[f.partition].publish(sp, isNew, pos+int64(at), n, f.base, f.base+record.Offset(f.rows))
				v.lastTimestamp = f.timestamp
			}
			stored += int64(len(f.payload))
			at += n
		}
		v.wake()
		v.mu.Unlock()

		v.stats.stored.Add(stored)
		for _, f := range frames[first:i] {
			if f.kind == rowsFrame {
				v.stats.batches.Add(1)
				raise(&v.stats.maxBatchRows, int64(f.rows))
				raise(&v.stats.maxBatchBytes, int64(f.plain))
			}
		}
	}
}
