package disk

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/thermocline/thermocline/record"
)

// stock owns the files of the log that hold no rows: it fills segments with
// zeros ahead of need, recycles released ones and finishes sealed ones, all on
// its own goroutine (run), so that the committer seldom waits.
//
// Two segments are kept ready. Rows never take the last one: it is for the
// commit that must precede the freeing of released segments, so that a full
// log can always be relieved.
type stock struct {
	fs           vfs.FS
	dir          string
	dirFile      vfs.File // for syncing
	id           logID
	segmentBytes int64
	maxBytes     int64
	fullRetry    time.Duration
	logger       *slog.Logger
	fatal        func(error)

	mu        sync.Mutex
	changed   *sync.Cond
	ready     []*segment // ascending by epoch: above every segment in use
	free      []freeFile
	jobs      []func()
	want      int64 // size of an extra large segment that is being waited for
	wanted    *segment
	wantedErr error
	stalled   error // why no more can be made ready; nil: not tried or done
	stalledAt time.Time
	total     int64 // bytes of all files, live ones too
	nextEpoch epoch
	closed    bool
	keepNone  bool            // freed files are removed, not used again
	leaving   int             // segments that were retired and are not freed yet
	leftAll   []chan struct{} // closed when leaving is 0

	// files counts open segment files that are not in free.
	files sync.WaitGroup
}

// freeFile has the standard size and an epoch below nextEpoch.
type freeFile struct {
	name string
	file vfs.File
}

const (
	readyTarget = 2
	// maxSpare bounds files that are kept although nothing needs them.
	maxSpare = 4

	segmentSuffix = ".seg"
	freeSuffix    = ".free"
	// damagedSuffix is added to the name of a file that was set aside.
	damagedSuffix = ".damaged"

	writeCategory = vfs.DiskWriteCategory("hotbuffer")
)

// isFull tells errors that making room heals from others.
func isFull(err error) bool {
	return vfs.IsNoSpaceError(err) || errors.Is(err, record.ErrFull)
}

// run works until close. Errors of the disk other than a full one poison the log.
func (s *stock) run() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case len(s.jobs) > 0:
			job := s.jobs[0]
			s.jobs = s.jobs[1:]
			s.mu.Unlock()
			job()
			s.mu.Lock()
		case s.closed:
			return
		case s.want != 0:
			s.makeWanted()
		case len(s.ready) < readyTarget && s.stalled == nil:
			s.makeReady()
		default:
			s.changed.Wait()
		}
	}
}

// makeReady adds a segment to ready. s.mu is held, but not during I/O.
func (s *stock) makeReady() {
	var f freeFile
	if n := len(s.free); n > 0 {
		f, s.free = s.free[n-1], s.free[:n-1]
	} else if s.total+s.segmentBytes > s.maxBytes {
		s.stall(fmt.Errorf("the log's limit of %d bytes is reached: %w", s.maxBytes, record.ErrFull))
		return
	} else {
		s.total += s.segmentBytes
	}
	e := s.nextEpoch
	s.nextEpoch++
	s.mu.Unlock()
	seg, err := s.prepare(f, e, s.segmentBytes)
	s.mu.Lock()
	if err != nil {
		s.total -= s.segmentBytes
		s.stall(err)
		return
	}
	s.ready = append(s.ready, seg)
	s.changed.Broadcast()
}

// makeWanted makes a segment of an unusual size. Ready ones go back to free,
// so that the order of epochs stays that of use.
func (s *stock) makeWanted() {
	size := s.want
	if s.total+size > s.maxBytes {
		s.want, s.wantedErr = 0, fmt.Errorf("the log's limit of %d bytes leaves no room for a segment of %d: %w", s.maxBytes, size, record.ErrFull)
		s.changed.Broadcast()
		return
	}
	s.total += size
	back := s.ready
	s.ready, s.stalled = nil, nil
	e := s.nextEpoch
	s.nextEpoch++
	s.mu.Unlock()
	var freed []freeFile
	var err error
	for len(back) > 0 && err == nil {
		var f freeFile
		if f, err = s.toFree(back[0]); err == nil {
			freed = append(freed, f)
		}
		back = back[1:]
	}
	var seg *segment
	if err == nil {
		seg, err = s.prepare(freeFile{}, e, size)
	}
	s.mu.Lock()
	s.free = append(s.free, freed...)
	s.ready = append(s.ready, back...) // only after an error
	if err != nil {
		s.total -= size
		if !isFull(err) {
			s.stall(err)
		}
	}
	s.want, s.wanted, s.wantedErr = 0, seg, err
	s.changed.Broadcast()
}

// stall notes why nothing more can be made ready; s.mu is held.
func (s *stock) stall(err error) {
	s.stalled, s.stalledAt = err, time.Now()
	s.changed.Broadcast()
	if !isFull(err) {
		s.mu.Unlock()
		s.fatal(fmt.Errorf("prepare a segment in %s: %w", s.dir, err))
		s.mu.Lock()
	} else {
		s.logger.Warn("hot log: cannot prepare another segment", "dir", s.dir, "error", err)
	}
}

// prepare makes a segment with that epoch, of a free file or a new one.
func (s *stock) prepare(f freeFile, e epoch, size int64) (*segment, error) {
	isNew := f.file == nil
	if isNew {
		f.name = e.String() + freeSuffix
		var err error
		if f.file, err = s.fs.OpenReadWrite(s.path(f.name), writeCategory); err != nil {
			return nil, err
		}
	}
	name := e.String() + segmentSuffix
	err := func() error {
		if isNew {
			if err := fill(f.file, size); err != nil {
				return err
			}
		}
		// A crash here leaves a free file, whatever its header says.
		if _, err := f.file.WriteAt(segmentHeader{epoch: e, size: size, id: s.id}.encode(), 0); err != nil {
			return err
		}
		if err := f.file.Sync(); err != nil {
			return err
		}
		// A crash from here on leaves a free file or a segment without
		// commits, which recovery turns into a free file.
		if err := s.fs.Rename(s.path(f.name), s.path(name)); err != nil {
			return err
		}
		return s.dirFile.Sync()
	}()
	if err != nil {
		_ = f.file.Close()
		_ = s.fs.Remove(s.path(f.name))
		return nil, err
	}
	return s.segment(f.file, name, e, size), nil
}

// segment wraps an open file; the log holds its one reference.
func (s *stock) segment(file vfs.File, name string, e epoch, size int64) *segment {
	seg := &segment{epoch: e, size: size, file: file, name: name, pos: blockSize, unused: s.unused}
	seg.refs.Store(1)
	s.files.Add(1)
	return seg
}

// fill writes a new file's zeros. A full disk shows before the first byte
// where the file system can tell.
func fill(f vfs.File, size int64) error {
	if err := f.Preallocate(0, size); err != nil && vfs.IsNoSpaceError(err) {
		return err
	}
	zeros := make([]byte, min(1<<20, size))
	for size > 0 {
		n, err := f.Write(zeros[:min(int64(len(zeros)), size)])
		if err != nil {
			return err
		}
		size -= int64(n)
		clear(zeros) // Write may change it
	}
	return nil
}

// take returns the next segment to write to, of at least size bytes. It waits
// for one that is being prepared; when there is none to come it returns
// ErrFull. Only the committer calls it; control commits may have the last one.
func (s *stock) take(size int64, control bool) (*segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if size > s.segmentBytes {
		s.want, s.wanted, s.wantedErr = size, nil, nil
		s.changed.Broadcast()
		for s.want != 0 && !s.closed {
			s.changed.Wait()
		}
		seg, err := s.wanted, s.wantedErr
		s.wanted = nil
		if err == nil && seg == nil {
			err = record.ErrClosed
		}
		return seg, fullError(err)
	}
	keep := 1
	if control {
		keep = 0
	}
	for {
		switch {
		case len(s.ready) > keep:
			seg := s.ready[0]
			s.ready = slices.Delete(s.ready, 0, 1)
			s.changed.Broadcast()
			return seg, nil
		case s.closed:
			return nil, record.ErrClosed
		case s.stalled == nil:
			s.changed.Wait()
		case isFull(s.stalled) && time.Since(s.stalledAt) > s.fullRetry:
			s.stalled = nil
			s.changed.Broadcast()
		default:
			return nil, fullError(s.stalled)
		}
	}
}

func fullError(err error) error {
	if err != nil && isFull(err) && !errors.Is(err, record.ErrFull) {
		return fmt.Errorf("%w: %w", record.ErrFull, err)
	}
	return err
}

// later queues work on the log's files; in order.
func (s *stock) later(job func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs = append(s.jobs, job)
	s.changed.Broadcast()
}

// unused takes a segment that nobody reads any more: the log retired it, or is
// closing.
func (s *stock) unused(seg *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = seg.file.Close()
		s.files.Done()
		return
	}
	s.jobs = append(s.jobs, func() { s.recycle(seg) })
	if s.stalled != nil && isFull(s.stalled) {
		s.stalled = nil // take waits for the recycling now
	}
	s.changed.Broadcast()
}

// leave notes that a segment was retired: it is freed when nobody reads it.
func (s *stock) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving++
}

// recycle makes a free file of a retired segment, or removes it. A crash
// before that leaves a segment whose rows are all released, which recovery
// retires again.
func (s *stock) recycle(seg *segment) {
	s.mu.Lock()
	keep := seg.size == s.segmentBytes && len(s.ready)+len(s.free) < maxSpare && !s.keepNone
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.leaving--
		s.tellLeft()
		s.mu.Unlock()
	}()
	if keep {
		f, err := s.toFree(seg)
		if err == nil {
			s.mu.Lock()
			s.free = append(s.free, f)
			s.mu.Unlock()
		} else {
			s.logger.Error("hot log: cannot recycle a segment; its space stays in use until the next start", "dir", s.dir, "segment", seg.name, "error", err)
		}
	} else {
		_ = seg.file.Close()
		s.files.Done()
		if err := s.fs.Remove(s.path(seg.name)); err != nil {
			s.logger.Error("hot log: cannot remove a segment; its space stays in use until the next start", "dir", s.dir, "segment", seg.name, "error", err)
		} else {
			s.mu.Lock()
			s.total -= seg.size
			s.mu.Unlock()
		}
	}
}

// toFree renames a segment's file durably, before anything in it changes, so
// that a header that does not fit its name is always damage.
func (s *stock) toFree(seg *segment) (freeFile, error) {
	s.files.Done()
	name := strings.TrimSuffix(seg.name, segmentSuffix) + freeSuffix
	err := s.fs.Rename(s.path(seg.name), s.path(name))
	if err == nil {
		err = s.dirFile.Sync()
	}
	if err != nil {
		_ = seg.file.Close()
		return freeFile{}, err
	}
	return freeFile{name: name, file: seg.file}, nil
}

func (s *stock) path(name string) string { return s.fs.PathJoin(s.dir, name) }

// stop ends run after the jobs queued so far, and wakes take.
func (s *stock) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.changed.Broadcast()
}

// closeFiles closes what stop left: files without rows. Live segments are
// closed by their last reference.
func (s *stock) closeFiles() error {
	s.mu.Lock()
	if s.wanted != nil {
		s.ready = append(s.ready, s.wanted)
	}
	for _, seg := range s.ready {
		_ = seg.file.Close()
		s.files.Done()
	}
	for _, f := range s.free {
		_ = f.file.Close()
	}
	s.ready, s.free = nil, nil
	s.mu.Unlock()
	s.files.Wait()
	return s.dirFile.Close()
}

// sizes for LogStats.
func (s *stock) sizes() (total int64, spare int, stalled error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total, len(s.ready) + len(s.free), s.stalled
}
