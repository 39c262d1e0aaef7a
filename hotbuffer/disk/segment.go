package disk

import (
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/thermocline/thermocline/record"
)

// segment is one file of the log. Written by the committer (frames) and, once
// it is full, by the keeper (footer); read by anyone who holds a reference.
type segment struct {
	epoch epoch
	size  int64
	file  vfs.File
	name  string // within the log's directory

	// refs counts who may still read the file: the log while the segment is
	// live, and each read under way. Nobody recycles or closes the file before
	// it is 0. Acquired under the lock of a view whose index leads here, so
	// that it never rises from 0.
	refs   atomic.Int64
	unused func(*segment) // called once, when refs reaches 0

	// The rest belongs to the committer (and to recovery before it starts).

	pos         int64                // where the next commit goes
	firstCommit uint64               // numbers of the commits it holds
	lastCommit  uint64               //
	parts       []*segPart           // in order of first appearance
	indexBytes  int                  // size of the footer for parts
	live        int                  // parts that are not released or dropped
	sealed      bool                 // full: another segment is active
	damaged     bool                 // holds damage: gets no footer, so that each start reports it
	cut         bool                 // the file is shorter than its header says
	byPart      map[partKey]*segPart // nil once sealed
}

type partKey struct {
	view      record.ViewID
	partition record.Partition
}

func (s *segment) acquire() { s.refs.Add(1) }

func (s *segment) release() {
	if s.refs.Add(-1) == 0 {
		s.unused(s)
	}
}

// footerAt is the last block, which points to the footer.
func (s *segment) trailerPos() int64 { return s.size - blockSize }

// controlReserve is what rows leave of a segment for control commits, so that
// released segments can be freed although there is no other segment to go on to.
const controlReserve = 16 << 10

// fits tells whether a commit of that many bytes and frames can still be
// appended, with room for the footer.
func (s *segment) fits(bytes, frames int, control bool) bool {
	if s.sealed {
		return false
	}
	limit := s.trailerPos()
	if !control {
		limit -= controlReserve
	}
	return s.pos+segmentRoom(bytes, frames, s.indexBytes) <= limit
}

// segmentRoom is what a commit takes of a segment, together with the footer.
func segmentRoom(bytes, frames, indexBytes int) int64 {
	return align(int64(bytes), blockSize) + align(int64(footerHeaderSize+indexBytes+frames*(footerPartSize+footerRunSize)), blockSize)
}

// segPart is what a segment holds of one partition of a view: offsets
// [base, end) and where they are. The committer appends under the view's lock.
type segPart struct {
	seg       *segment
	view      record.ViewID
	partition record.Partition
	base, end record.Offset
	runs      []run
	gone      bool // released or dropped; the committer's
}

// run is a stretch of consecutive frames of one partition: 12 bytes of memory
// per partition and commit, or per maxRun bytes.
type run struct {
	base uint32 // first offset, from the segPart's base
	pos  uint32 // of the first frame in the segment
	len  uint32 // to the end of the last frame
}

// maxRun bounds what must be read to get at one offset, by one batch.
const maxRun = 256 << 10

func (p *segPart) runBase(i int) record.Offset { return p.base + record.Offset(p.runs[i].base) }

// part returns the segment's part for a partition, made on first use with
// base as its first offset.
func (s *segment) part(v record.ViewID, p record.Partition, base record.Offset) (sp *segPart, isNew bool) {
	key := partKey{v, p}
	if sp := s.byPart[key]; sp != nil {
		return sp, false
	}
	sp = &segPart{seg: s, view: v, partition: p, base: base, end: base}
	if s.byPart == nil {
		s.byPart = make(map[partKey]*segPart)
	}
	s.byPart[key] = sp
	s.parts = append(s.parts, sp)
	s.live++
	s.indexBytes += footerPartSize
	return sp, true
}

// add enters a frame of n bytes at pos with rows [base, end). Frames are added
// in the order of their offsets.
func (p *segPart) add(pos int64, n int, base, end record.Offset) {
	if len(p.runs) > 0 {
		last := &p.runs[len(p.runs)-1]
		if base == p.end && int64(last.pos)+align(int64(last.len), frameAlign) == pos && last.len < maxRun {
			last.len = uint32(pos - int64(last.pos) + int64(n))
			p.end = end
			return
		}
	}
	p.runs = append(p.runs, run{base: uint32(base - p.base), pos: uint32(pos), len: uint32(n)})
	p.seg.indexBytes += footerRunSize
	p.end = end
}

// drop marks a part as no longer needed.
func (p *segPart) drop() {
	if !p.gone {
		p.gone = true
		p.seg.live--
	}
}

// The footer is a sealed segment's index, so that opening a log needs not
// read its frames:
//
//	 0  magic "TCFT"
//	 4  CRC-32C       uint32  of the rest
//	 8  epoch         uint64
//	16  first commit  uint64
//	24  last commit   uint64
//	32  parts         uint32
//	36  zero          uint32
//	40  per part: view int64, partition int32, runs uint32, base int64, end int64,
//	    then per run: base uint32 (from the part's), position uint32, length uint32
//
// The trailer, in the last block of the file, points to it:
//
//	 0  magic "TCTR"
//	 4  CRC-32C   uint32  of bytes 8 to 32
//	 8  epoch     uint64
//	16  position  uint64  of the footer
//	24  length    uint64  of the footer
//	32  zero
const (
	footerHeaderSize = 40
	footerPartSize   = 32
	footerRunSize    = 12
	trailerSize      = 32
)

// footer encodes the index; the committer calls it when it seals the segment.
func (s *segment) footer(id *logID) []byte {
	b := make([]byte, footerHeaderSize, footerHeaderSize+s.indexBytes)
	be.PutUint32(b, footerMagic)
	be.PutUint64(b[8:], uint64(s.epoch))
	be.PutUint64(b[16:], s.firstCommit)
	be.PutUint64(b[24:], s.lastCommit)
	be.PutUint32(b[32:], uint32(len(s.parts)))
	for _, p := range s.parts {
		b = be.AppendUint64(b, uint64(p.view))
		b = be.AppendUint32(b, uint32(p.partition))
		b = be.AppendUint32(b, uint32(len(p.runs)))
		b = be.AppendUint64(b, uint64(p.base))
		b = be.AppendUint64(b, uint64(p.end))
		for _, r := range p.runs {
			b = be.AppendUint32(b, r.base)
			b = be.AppendUint32(b, r.pos)
			b = be.AppendUint32(b, r.len)
		}
	}
	be.PutUint32(b[4:], id.sum(b[8:]))
	return b
}

func (s *segment) trailer(id *logID, footerPos int64, footerLen int) []byte {
	b := make([]byte, blockSize)
	be.PutUint32(b, trailerMagic)
	be.PutUint64(b[8:], uint64(s.epoch))
	be.PutUint64(b[16:], uint64(footerPos))
	be.PutUint64(b[24:], uint64(footerLen))
	be.PutUint32(b[4:], id.sum(b[8:trailerSize]))
	return b
}

// writeFooter makes a sealed segment quick to open. Nothing depends on it: a
// crash in between leaves a footer that does not validate, and the next start
// scans the frames.
func (s *segment) writeFooter(footer []byte, id *logID) error {
	if s.pos+int64(len(footer)) > s.trailerPos() {
		return fmt.Errorf("no room for %d bytes", len(footer))
	}
	if _, err := s.file.WriteAt(footer, s.pos); err != nil {
		return err
	}
	if _, err := s.file.WriteAt(s.trailer(id, s.pos, len(footer)), s.trailerPos()); err != nil {
		return err
	}
	return s.file.SyncData()
}

// loadFooter fills the index from the footer; false if there is none that
// validates.
func (s *segment) loadFooter(id *logID) bool {
	if s.damaged {
		return false // the file is not what it should be: look at everything in it
	}
	t := make([]byte, trailerSize)
	if _, err := s.file.ReadAt(t, s.trailerPos()); err != nil ||
		be.Uint32(t) != trailerMagic || epoch(be.Uint64(t[8:])) != s.epoch || be.Uint32(t[4:]) != id.sum(t[8:]) {
		return false
	}
	pos, n := int64(be.Uint64(t[16:])), int64(be.Uint64(t[24:]))
	if pos < blockSize || n < footerHeaderSize || n > s.trailerPos() || pos > s.trailerPos()-n {
		return false
	}
	b := make([]byte, n)
	if _, err := s.file.ReadAt(b, pos); err != nil ||
		be.Uint32(b) != footerMagic || epoch(be.Uint64(b[8:])) != s.epoch || be.Uint32(b[4:]) != id.sum(b[8:]) {
		return false
	}
	rest := b[footerHeaderSize:]
	// The checksum matched, so that the bounds below hold; a wrong writer must
	// not become a panic, or reads behind the end, all the same.
	for range be.Uint32(b[32:]) {
		if len(rest) < footerPartSize {
			return s.forget()
		}
		runs := int(be.Uint32(rest[12:]))
		base, end := record.Offset(be.Uint64(rest[16:])), record.Offset(be.Uint64(rest[24:]))
		sp, isNew := s.part(record.ViewID(be.Uint64(rest)), record.Partition(be.Uint32(rest[8:])), base)
		rest = rest[footerPartSize:]
		if !isNew || runs > len(rest)/footerRunSize {
			return s.forget()
		}
		sp.end = end
		sp.runs = make([]run, runs)
		for i := range sp.runs {
			r := run{base: be.Uint32(rest), pos: be.Uint32(rest[4:]), len: be.Uint32(rest[8:])}
			if int64(r.pos)+int64(r.len) > pos {
				return s.forget()
			}
			sp.runs[i] = r
			rest = rest[footerRunSize:]
		}
		s.indexBytes += runs * footerRunSize
	}
	if len(rest) > 0 || be.Uint32(b[36:]) != 0 {
		return s.forget()
	}
	s.firstCommit, s.lastCommit = be.Uint64(b[16:]), be.Uint64(b[24:])
	s.pos, s.sealed = pos, true
	return true
}

// forget takes back a half-loaded index.
func (s *segment) forget() bool {
	s.parts, s.byPart, s.live, s.indexBytes = nil, nil, 0, 0
	return false
}
