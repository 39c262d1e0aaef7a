package disk

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/thermocline/thermocline/record"
)

// Open opens the log in dir, or begins one, and repairs what a crash left: a
// torn tail is cut, so that it can never come back, and half-made files are
// used again. Other damage is logged, listed in LogStats and contained to the
// rows it hit. Only one process at a time may have a log open.
//
// Errors: ErrInvalid (options, or files of another log or version),
// ErrCorrupt where so much is damaged that offsets would be given twice, or
// those of the file system.
func Open(dir string, o Options) (*Log, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open hot log %s: %w", dir, err)
	}
	l := &Log{
		o: o, dir: dir,
		cache:   &cache{limit: max(0, o.CacheBytes)},
		queue:   newQueue(o.queueRequests, o.queueBytes),
		views:   make(map[record.ViewID]*view),
		dropped: make(map[record.ViewID]int),
		closing: make(chan struct{}), scrubbing: make(chan struct{}, 1),
	}
	r := &recovery{log: l, fs: o.FS, files: make(map[vfs.File]bool)}
	if err := r.open(); err != nil {
		r.abandon()
		return nil, fmt.Errorf("open hot log %s: %w", dir, err)
	}
	return l, nil
}

// recovery is the state of Open.
type recovery struct {
	log      *Log
	fs       vfs.FS
	files    map[vfs.File]bool // to be closed if Open fails
	segs     []*segment        // ascending
	state    *state
	damage   []Damage
	begun    bool // by the file LOG
	identity bool // which is readable
	// suspect: the newest segment has nothing but a checkpoint that is not
	// whole.
	suspect bool
	end     *logEnd // nil: the log was not closed
	ran     bool    // goroutines are running
}

func (r *recovery) open() error {
	l := r.log
	if err := r.openDir(); err != nil {
		return err
	}
	if err := r.openFiles(); err != nil {
		return err
	}
	if err := r.readEnd(); err != nil {
		return err
	}
	if err := r.replay(); err != nil {
		return err
	}
	r.index()
	l.producers, l.commit, l.clean = r.state.producers, r.state.commit, r.state.clean
	l.segments = r.segs
	l.damage = r.damage
	for i := range l.damage {
		l.o.Logger.Error("hot log: damage", "dir", l.dir, "error", &l.damage[i])
	}
	l.stats.producers.Store(int64(l.producers.idle.Len()))
	l.stats.segments.Store(int64(len(l.segments)))

	r.ran = true
	l.work.Add(1)
	go func() {
		defer l.work.Done()
		l.stock.run()
	}()
	if len(l.segments) == 0 || r.suspect || r.end != nil {
		// A crash before this is done finds the same again.
		if err := l.roll(0, 0, true, l.o.Now().UnixMilli()); err != nil {
			return err
		}
	}
	// Only now, because what it says may stand nowhere else. A crash from here
	// on is one of a log that is open.
	if err := removeEnd(r.fs, l.dir, l.stock.dirFile); err != nil {
		return err
	}
	if !r.identity {
		// A crash before this is done leaves a log that looks begun or new,
		// by its segments, and both are right.
		if err := writeIdentity(r.fs, l.dir, l.stock.dirFile, &l.id); err != nil {
			return err
		}
	}
	l.retire()
	l.work.Add(1)
	go func() {
		defer l.work.Done()
		l.runCommitter()
	}()
	return nil
}

// abandon undoes an Open that failed.
func (r *recovery) abandon() {
	l := r.log
	if r.ran {
		l.stock.stop()
		l.work.Wait()
		for _, s := range l.segments {
			s.release()
		}
		_ = l.stock.closeFiles()
	} else {
		for f := range r.files {
			_ = f.Close()
		}
	}
	if l.lock != nil {
		_ = l.lock.Close()
	}
}

func (r *recovery) close(f vfs.File) error {
	delete(r.files, f)
	return f.Close()
}

func (r *recovery) openDir() error {
	l := r.log
	if err := r.fs.MkdirAll(l.dir, 0o755); err != nil {
		return err
	}
	parent, err := r.fs.OpenDir(r.fs.PathDir(l.dir))
	if err != nil {
		return err
	}
	if err := errors.Join(parent.Sync(), parent.Close()); err != nil {
		return err
	}
	if l.lock, err = r.fs.Lock(r.fs.PathJoin(l.dir, "LOCK")); err != nil {
		l.lock = nil
		return fmt.Errorf("another process has it open: %w", err)
	}
	dirFile, err := r.fs.OpenDir(l.dir)
	if err != nil {
		return err
	}
	r.files[dirFile] = true
	l.stock = &stock{
		fs: r.fs, dir: l.dir, dirFile: dirFile, segmentBytes: l.o.SegmentBytes, maxBytes: l.o.MaxBytes, fullRetry: l.o.fullRetry,
		logger: l.o.Logger, fatal: l.fail, nextEpoch: 1,
	}
	l.stock.changed = sync.NewCond(&l.stock.mu)
	return nil
}

// openFiles opens the files there are and learns the log's id.
func (r *recovery) openFiles() error {
	s := r.log.stock
	names, err := r.fs.List(r.log.dir)
	if err != nil {
		return err
	}
	slices.Sort(names) // by epoch: fixed-width hexadecimal
	id, begun, err := readIdentity(r.fs, r.log.dir)
	if err != nil {
		return err
	}
	r.begun, r.identity = begun, id != nil
	if begun && id == nil {
		r.damage = append(r.damage, Damage{File: identityName, Reason: "it does not validate and is written anew"})
	}
	for _, name := range names {
		base, isSegment := strings.CutSuffix(name, segmentSuffix)
		base, isFree := strings.CutSuffix(base, freeSuffix)
		if !isSegment && !isFree {
			continue
		}
		n, err := strconv.ParseUint(base, 16, 64)
		if err != nil || len(base) != 16 {
			return fmt.Errorf("%s is not a segment's name; move it away: %w", name, record.ErrInvalid)
		}
		file, err := r.fs.OpenReadWrite(s.path(name), writeCategory)
		if err != nil {
			return err
		}
		r.files[file] = true
		info, err := file.Stat()
		if err != nil {
			return err
		}
		head := make([]byte, blockSize)
		if _, err := file.ReadAt(head, 0); err != nil && err != io.EOF {
			return fmt.Errorf("read %s: %w", name, err)
		}
		h, headErr := decodeSegmentHeader(head)
		if headErr == nil && isSegment && (h.epoch != epoch(n) || h.size != info.Size()) {
			headErr = fmt.Errorf("segment header of %v with %d bytes, but the file has %d: %w", h.epoch, h.size, info.Size(), record.ErrCorrupt)
		}
		s.nextEpoch = max(s.nextEpoch, epoch(n)+1)
		switch {
		case errors.Is(headErr, record.ErrInvalid):
			return fmt.Errorf("%s: %w", name, headErr)
		case headErr == nil && id != nil && h.id != *id:
			return fmt.Errorf("%s belongs to another log; move it away: %w", name, record.ErrInvalid)
		case headErr == nil:
			id = &h.id
			s.nextEpoch = max(s.nextEpoch, h.epoch+1)
		case isSegment:
			r.damage = append(r.damage, Damage{Segment: n, Reason: headErr.Error()})
		}
		if isSegment {
			seg := s.segment(file, name, epoch(n), info.Size())
			seg.damaged, seg.cut = headErr != nil, headErr != nil && info.Size() < h.size
			r.segs = append(r.segs, seg)
			s.total += info.Size()
			continue
		}
		if info.Size() != s.segmentBytes || len(s.free) >= maxSpare || slices.Contains(names, base+segmentSuffix) {
			// Half made, or of another size than is used now, or a renaming
			// of which the crash left both names.
			if err := errors.Join(r.close(file), r.fs.Remove(s.path(name))); err != nil {
				return err
			}
			continue
		}
		s.free = append(s.free, freeFile{name, file})
		s.total += info.Size()
	}
	if id == nil {
		if len(r.segs) > 0 {
			return fmt.Errorf("neither %s nor any segment has a readable header; restore the directory from a copy, or move it away to begin an empty log: %w", identityName, record.ErrCorrupt)
		}
		id = new(logID)
		_, _ = rand.Read(id[:]) // never fails
	}
	s.id, r.log.id = *id, *id
	return nil
}

// readEnd learns where the log was closed.
func (r *recovery) readEnd() error {
	end, err := readEnd(r.fs, r.log.dir, &r.log.id)
	if errors.Is(err, record.ErrCorrupt) {
		r.damage = append(r.damage, Damage{File: endName, Reason: err.Error()})
		return nil
	}
	r.end = end
	return err
}
