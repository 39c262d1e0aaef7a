package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/thermocline/thermocline/record"
)

// Scrubbed is what a call of Scrub did.
type Scrubbed struct {
	// Segments were overwritten in part, because rows of others live in them; the
	// files of Removed ones are gone.
	Segments, Removed int
	// Bytes of rows that were overwritten.
	Bytes int64
	// Damaged files may hold rows still: segments that do not read as they should,
	// and files that a start has set aside.
	Damaged []string
}

// Scrub overwrites what no longer counts: when it returns nil, no file of the log
// holds a byte of rows that were released, or whose view was dropped, before the
// call, except those that it names as damaged. Rows that are not released stay
// durable and readable all the time; appends wait for as long as it takes to begin
// a new segment.
//
// Only payloads are overwritten, with zeros, and only when the release that made
// them dead is durable: a crash at any point leaves rows that nobody asks for any
// more, whole or not, and the call can be repeated.
//
// Errors: ErrFull (no room for another segment), ErrClosed, the context's and the
// file system's.
func (l *Log) Scrub(ctx context.Context) (out Scrubbed, err error) {
	select {
	case l.scrubbing <- struct{}{}:
		defer func() { <-l.scrubbing }()
	case <-ctx.Done():
		return out, fmt.Errorf("scrub the hot log: %w", ctx.Err())
	}
	if err := l.scrub(ctx, &out); err != nil {
		return out, fmt.Errorf("scrub the hot log: %w", err)
	}
	return out, nil
}

func (l *Log) scrub(ctx context.Context, out *Scrubbed) error {
	// What was freed before has old bytes. From here on files are filled with
	// zeros, and none is used again.
	l.stock.keepFiles(false)
	defer l.stock.keepFiles(true)
	removed, err := inStock(ctx, l, l.stock.discard)
	if err != nil {
		return err
	}
	out.Removed += removed
	var targets []target
	defer func() {
		for _, t := range targets {
			t.seg.release()
		}
	}()
	// Not cut short: what it does and returns belongs together.
	err = l.between(context.WithoutCancel(ctx), func() error {
		if err := l.poison(); err != nil {
			return err
		}
		// The new segment's checkpoint says what is released and dropped; so all
		// that is overwritten below stays dead after a crash.
		if err := l.roll(0, 0, true, l.o.Now().UnixMilli()); err != nil {
			return err
		}
		before := len(l.segments)
		l.retire()
		out.Removed += before - len(l.segments)
		targets = l.dead()
		return nil
	})
	if err != nil {
		return err
	}
	l.cache.clear()
	// Footers that are still to be written come first.
	if _, err := inStock(ctx, l, func() (struct{}, error) { return struct{}{}, nil }); err != nil {
		return err
	}
	for len(targets) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		t := targets[0]
		n, err := t.scrub(&l.id)
		if err != nil {
			return fmt.Errorf("segment %v: %w", t.seg.epoch, err)
		}
		if out.Bytes += n; n > 0 {
			out.Segments++
		}
		if t.seg.damaged {
			out.Damaged = append(out.Damaged, t.seg.name)
		}
		// It may have been retired meanwhile, and leaves only then.
		t.seg.release()
		targets = targets[1:]
	}
	if err := l.stock.left(ctx, l.closing); err != nil {
		return err
	}
	aside, err := inStock(ctx, l, func() (aside []string, err error) {
		names, err := l.o.FS.List(l.dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if strings.HasSuffix(name, damagedSuffix) {
				aside = append(aside, name)
			}
		}
		// Files that were removed must not come back.
		return aside, l.stock.dirFile.Sync()
	})
	out.Damaged = append(out.Damaged, aside...)
	return err
}

// inStock runs a job among those that keep the log's files.
func inStock[T any](ctx context.Context, l *Log, job func() (T, error)) (out T, err error) {
	type result struct {
		out T
		err error
	}
	done := make(chan result, 1)
	l.stock.later(func() {
		out, err := job()
		done <- result{out, err}
	})
	select {
	case r := <-done:
		return r.out, r.err
	case <-ctx.Done():
		return out, ctx.Err()
	case <-l.closing:
		return out, fmt.Errorf("the hot log is %w", record.ErrClosed)
	}
}

// target is a sealed segment and what is dead in it.
type target struct {
	seg  *segment
	dead []deadPart
}

type deadPart struct {
	*segPart
	through record.Offset // rows below are dead
}

// dead lists the sealed segments, with references; the committer calls it.
func (l *Log) dead() []target {
	var out []target
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, seg := range l.segments[:len(l.segments)-1] {
		t := target{seg: seg}
		for _, sp := range seg.parts {
			through := sp.end
			if v := l.views[sp.view]; v != nil {
				v.mu.RLock()
				through = v.parts[sp.partition].start
				v.mu.RUnlock()
			}
			if through > sp.base {
				t.dead = append(t.dead, deadPart{sp, through})
			}
		}
		seg.acquire()
		out = append(out, t)
	}
	return out
}

// scrub overwrites dead rows, and what the file held in an earlier life behind
// its last commit. It returns how many bytes it changed.
func (t *target) scrub(id *logID) (n int64, err error) {
	for _, p := range t.dead {
		for i := range p.runs {
			k, err := p.scrubRun(i, id)
			if err != nil {
				return n, err
			}
			n += k
		}
	}
	if !t.seg.damaged {
		k, err := t.scrubTail()
		if err != nil {
			return n, err
		}
		n += k
	}
	if n == 0 {
		return 0, nil
	}
	return n, t.seg.file.SyncData()
}

// scrubRun overwrites the payloads of dead frames of one run.
func (p *deadPart) scrubRun(i int, id *logID) (n int64, err error) {
	if p.runBase(i) >= p.through {
		return 0, nil
	}
	r := p.runs[i]
	buf := make([]byte, r.len)
	if _, err := p.seg.file.ReadAt(buf, int64(r.pos)); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	end := p.end
	if i+1 < len(p.runs) {
		end = p.runBase(i + 1)
	}
	zero := func(from, to int) {
		if bytes.Count(buf[from:to], []byte{0}) < to-from {
			clear(buf[from:to])
			n += int64(to - from)
		}
	}
	last := 0 // where the dead frames end
	for at := 0; at < len(buf); {
		h, ok := decodeFrameHeader(buf[at:], id, p.seg.epoch)
		if !ok {
			// A damaged frame: of dead rows if all of the run is dead.
			next := nextFrame(buf, at+frameAlign, id, p.seg.epoch)
			if next < 0 {
				next = len(buf)
			}
			if end <= p.through {
				zero(at, next)
				last = next
			}
			at = next
			continue
		}
		if h.base+record.Offset(h.rows) > p.through {
			break
		}
		zero(at+frameHeaderSize, at+frameHeaderSize+h.payload)
		at += align(frameHeaderSize+h.payload, frameAlign)
		last = min(at, len(buf))
	}
	if n == 0 {
		return 0, nil
	}
	_, err = p.seg.file.WriteAt(buf[:last], int64(r.pos))
	return n, err
}

// scrubTail overwrites what stands between footer and trailer.
func (t *target) scrubTail() (n int64, err error) {
	s := t.seg
	buf := make([]byte, 1<<20)
	for at := s.pos + footerHeaderSize + int64(s.indexBytes); at < s.trailerPos(); at += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), s.trailerPos()-at)]
		if _, err := s.file.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		if bytes.Count(b, []byte{0}) == len(b) {
			continue
		}
		clear(b)
		if _, err := s.file.WriteAt(b, at); err != nil {
			return n, err
		}
		n += int64(len(b))
	}
	return n, nil
}

// keepFiles says whether freed files may be used again.
func (s *stock) keepFiles(keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keepNone = !keep
}

// discard removes the files without rows. Others are made, from zeros.
func (s *stock) discard() (removed int, err error) {
	s.mu.Lock()
	ready, free := s.ready, s.free
	s.ready, s.free = nil, nil
	s.mu.Unlock()
	size := int64(0)
	var errs []error
	for _, seg := range ready {
		_ = seg.file.Close()
		s.files.Done()
		errs = append(errs, s.fs.Remove(s.path(seg.name)))
		size += seg.size
	}
	for _, f := range free {
		_ = f.file.Close()
		errs = append(errs, s.fs.Remove(s.path(f.name)))
		size += s.segmentBytes
	}
	s.mu.Lock()
	s.total -= size
	if s.stalled != nil && isFull(s.stalled) {
		s.stalled = nil
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	return len(ready) + len(free), errors.Join(errs...)
}

// left waits until the files of all segments that were retired are gone: reads
// that have begun keep them.
func (s *stock) left(ctx context.Context, closing <-chan struct{}) error {
	gone := make(chan struct{})
	s.mu.Lock()
	s.leftAll = append(s.leftAll, gone)
	s.tellLeft()
	s.mu.Unlock()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-closing:
		return fmt.Errorf("the hot log is %w", record.ErrClosed)
	}
}

// tellLeft tells who waits that no retired segment is left; s.mu is held.
func (s *stock) tellLeft() {
	if s.leaving > 0 {
		return
	}
	for _, c := range s.leftAll {
		close(c)
	}
	s.leftAll = nil
}
