package disk

import (
	"fmt"

	"github.com/thermocline/thermocline/record"
)

// scanner walks the commits of one segment whose bytes it has in memory, and
// tells a torn tail from damage: a commit that does not validate was never
// acknowledged if nothing was written after it, because each commit is synced
// before the next one is written.
type scanner struct {
	id    *logID
	epoch epoch
	buf   []byte
	// last is set for the newest segment, whose tail may be torn.
	last bool
	// cut is set for a file that is too short: it does not end in a trailer.
	cut bool
	// frame gets each frame that validates, in order; end gets each commit
	// after its frames.
	frame func(h *frameHeader, batch record.Batch, payload []byte, pos int64) error
	end   func(h commitHeader) error
	// lost gets what does not validate although it was durable.
	lost func(d Damage)

	first, newest uint64 // numbers of the commits found
	pos           int    // of the commit that is visited
}

// scan visits everything and returns where the valid commits end.
func (s *scanner) scan() (int64, error) {
	limit := len(s.buf) - blockSize // the trailer
	if s.cut {
		limit = len(s.buf)
	}
	pos := blockSize
	for pos < limit {
		s.pos = pos
		h, ok := decodeCommitHeader(s.buf[pos:limit], s.id, s.epoch)
		ok = ok && h.number > s.newest
		if ok && s.intact(pos, h) {
			if err := s.visit(pos, h); err != nil {
				return 0, err
			}
			pos += align(h.length, blockSize)
			continue
		}
		above := s.newest + 1
		switch {
		case ok && s.outOfPlace(pos, limit, h):
			ok, above = false, s.newest
		case ok:
			above = h.number
		case s.newest == 0:
			above = 0
		}
		next := s.nextCommit(pos+blockSize, limit, above)
		if next < 0 {
			if s.last {
				break // a torn tail, or the end
			}
			next = limit
		}
		found, err := s.salvage(pos, next, h, ok)
		if err != nil {
			return 0, err
		}
		if !found && next == limit {
			break // the end
		}
		pos = next
	}
	return int64(pos), nil
}

// nextCommit finds a commit with a number above the given one; -1 if there is
// none.
func (s *scanner) nextCommit(from, limit int, above uint64) int {
	for pos := from; pos < limit; pos += blockSize {
		if h, ok := decodeCommitHeader(s.buf[pos:limit], s.id, s.epoch); ok && h.number > above {
			return pos
		}
	}
	return -1
}

// outOfPlace: the block of a damaged commit stands before commits with smaller
// numbers. It was put there; the others are where they belong.
func (s *scanner) outOfPlace(pos, limit int, h commitHeader) bool {
	next := s.nextCommit(pos+blockSize, limit, s.newest)
	if next < 0 {
		return false
	}
	n, _ := decodeCommitHeader(s.buf[next:limit], s.id, s.epoch)
	return n.number < h.number
}

// at decodes and checks the frame that an entry of the table of contents names.
func (s *scanner) at(pos int, h commitHeader, t tocEntry) (f frameHeader, batch record.Batch, payload []byte, ok bool) {
	if t.pos < commitHeaderSize || t.pos > h.length || t.len > h.length-t.pos {
		return f, batch, nil, false
	}
	b := s.buf[pos+t.pos : pos+t.pos+t.len]
	f, ok = decodeFrameHeader(b, s.id, s.epoch)
	if !ok || f.commit != h.number || f.view != t.view || f.partition != t.partition || f.base != t.base || f.rows != t.rows {
		return f, batch, nil, false
	}
	payload = b[frameHeaderSize : frameHeaderSize+f.payload]
	batch, err := f.checkPayload(payload, s.id)
	return f, batch, payload, err == nil
}

func (s *scanner) intact(pos int, h commitHeader) bool {
	for i := range h.frames {
		if _, _, _, ok := s.at(pos, h, tocAt(s.buf[pos:], i)); !ok {
			return false
		}
	}
	return true
}

func (s *scanner) visit(pos int, h commitHeader) error {
	for i := range h.frames {
		t := tocAt(s.buf[pos:], i)
		f, batch, payload, _ := s.at(pos, h, t)
		if err := s.frame(&f, batch, payload, int64(pos+t.pos)); err != nil {
			return err
		}
	}
	return s.ended(h)
}

func (s *scanner) ended(h commitHeader) error {
	if s.first == 0 {
		s.first = h.number
	}
	if s.newest > 0 && h.number > s.newest+1 {
		s.lost(Damage{Segment: uint64(s.epoch), Position: int64(s.pos), Reason: fmt.Sprintf("commits %d to %d are missing before this", s.newest+1, h.number-1), Unknown: true})
	}
	s.newest = h.number
	return s.end(h)
}

// salvage visits what still validates in [pos, next), which begins with a
// damaged commit: with its table of contents if that is whole (ok), else by
// looking for frames. It tells whether there was a commit at all.
func (s *scanner) salvage(pos, next int, h commitHeader, ok bool) (bool, error) {
	if ok {
		for i := range h.frames {
			t := tocAt(s.buf[pos:], i)
			f, batch, payload, ok := s.at(pos, h, t)
			if !ok {
				s.lost(Damage{
					Segment: uint64(s.epoch), Position: int64(pos + t.pos), View: t.view, Partition: t.partition,
					Offsets: record.Range{Start: t.base, End: t.base + record.Offset(t.rows)}, Reason: "a frame does not validate",
				})
				continue
			}
			if err := s.frame(&f, batch, payload, int64(pos+t.pos)); err != nil {
				return true, err
			}
		}
		return true, s.ended(h)
	}
	var current commitHeader // its time is lost with its header
	for at := nextFrame(s.buf[:next], pos, s.id, s.epoch); at >= 0; {
		f, _ := decodeFrameHeader(s.buf[at:next], s.id, s.epoch)
		payload := s.buf[at+frameHeaderSize : at+frameHeaderSize+f.payload]
		batch, err := f.checkPayload(payload, s.id)
		if f.commit != current.number {
			if current.number == 0 {
				s.lost(Damage{Segment: uint64(s.epoch), Position: int64(pos), Reason: "a commit header does not validate", Unknown: true})
			} else if err := s.ended(current); err != nil {
				return true, err
			}
			current = commitHeader{epoch: f.epoch, number: f.commit, timestamp: batchTime(batch)}
		}
		step := frameAlign
		if err != nil {
			s.lost(Damage{
				Segment: uint64(s.epoch), Position: int64(at), View: f.view, Partition: f.partition,
				Offsets: record.Range{Start: f.base, End: f.base + record.Offset(f.rows)}, Reason: err.Error(),
			})
		} else {
			if err := s.frame(&f, batch, payload, int64(at)); err != nil {
				return true, err
			}
			step = align(frameHeaderSize+f.payload, frameAlign)
		}
		at = nextFrame(s.buf[:next], at+step, s.id, s.epoch)
	}
	if current.number == 0 {
		return false, nil
	}
	return true, s.ended(current)
}

func batchTime(b record.Batch) int64 {
	if len(b.Bytes()) == 0 {
		return 0
	}
	return b.Timestamp()
}
