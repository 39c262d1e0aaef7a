// Package disk is the embedded engine of the hot buffer: one write-ahead log
// for all views of a node, so that one fdatasync makes the rows of every
// stream and partition durable that arrived while the one before was running
// (group commit).
//
// A row's way: Append encodes it into record batches on the caller's
// goroutine (linger.go lets requests share batches first) and queues them;
// the committer (commit.go), the only writer, takes what is queued, stamps
// offsets and time, writes and syncs once, publishes the new ends of all views
// and wakes who waits. Read finds batches by an index in memory and takes them
// from memory while they are recent, from the file otherwise.
//
// It is for one process at a time (a lock file sees to that) and knows nothing
// of schemas, archives or other machines. FORMAT.md is the format.
//
// Lock order: Log.mu, view.mu, linger.mu, then those of queue, stock and
// cache, under which nothing else is taken. The committer's own state
// (segments, producers, next offsets) has no lock.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// Options of a log. The zero value is good for production but for MaxBytes.
type Options struct {
	// FS is where the files are; nil means the operating system's.
	FS vfs.FS
	// SegmentBytes is the size of a segment file, a multiple of 4096 from 64
	// KiB to 256 MiB; 0 means 64 MiB. A request that does not fit gets a
	// segment of its own size.
	SegmentBytes int64
	// MaxBytes bounds the size of all files together, at least four
	// segments; 0 means 64 GiB. Beyond it appends fail with ErrFull. The
	// index in memory takes about 12 bytes per partition and commit: below
	// 0.3 % of the log, 5 % where every commit holds one small row of each of
	// hundreds of partitions.
	MaxBytes int64
	// CacheBytes is how much of the newest commits is kept in memory for
	// readers; 0 means 64 MiB, negative nothing.
	CacheBytes int
	// Now is the clock for append times; nil means time.Now.
	Now func() time.Time
	// Logger gets damage, repairs and full disks; nil means slog.Default().
	Logger *slog.Logger
	// OnFatal is called once, when a failed write or sync has poisoned the
	// log; the process should end then, and start again. It must neither
	// block nor call Close.
	OnFatal func(error)

	// Limits that tests make small.
	queueRequests  int
	queueBytes     int64
	producerRanges int
	fullRetry      time.Duration // how often a full disk is tried again
}

const (
	minSegmentBytes = 64 << 10
	maxSegmentBytes = 256 << 20
)

func (o Options) withDefaults() (Options, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 64 << 20
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 64 << 30
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.OnFatal == nil {
		o.OnFatal = func(error) {}
	}
	if o.queueRequests == 0 {
		o.queueRequests = 16 << 10
	}
	if o.queueBytes == 0 {
		o.queueBytes = 256 << 20
	}
	if o.producerRanges == 0 {
		o.producerRanges = 512 << 10
	}
	if o.fullRetry == 0 {
		o.fullRetry = time.Second
	}
	if o.SegmentBytes < minSegmentBytes || o.SegmentBytes > maxSegmentBytes || o.SegmentBytes%blockSize != 0 {
		return o, fmt.Errorf("segment size %d is not a multiple of %d from %d to %d: %w", o.SegmentBytes, blockSize, minSegmentBytes, maxSegmentBytes, record.ErrInvalid)
	}
	if o.MaxBytes < 4*o.SegmentBytes {
		return o, fmt.Errorf("log limit %d is below four segments of %d: %w", o.MaxBytes, o.SegmentBytes, record.ErrInvalid)
	}
	return o, nil
}

// Log is a hot buffer in one directory. It implements hotbuffer.Buffer; see
// there for what each method promises. All methods are safe for concurrent
// use.
type Log struct {
	o      Options
	dir    string
	lock   io.Closer
	id     logID
	stock  *stock
	cache  *cache
	queue  *queue
	damage []Damage // found at the start; immutable

	mu      sync.RWMutex
	views   map[record.ViewID]*view
	dropped map[record.ViewID]int // dropped views whose rows are still in that many segments

	closing   chan struct{} // closed when Close begins or the log is poisoned
	closeOnce sync.Once
	closeErr  error
	shut      atomic.Bool           // Close has begun
	poisoned  atomic.Pointer[error] // set once
	stop      sync.Once             // closes closing
	scrubbing chan struct{}         // one scrub at a time
	work      sync.WaitGroup        // committer, stock and linger timers

	// The committer's.
	segments  []*segment // live, ascending by epoch; the last one is active
	producers *producers
	commit    uint64          // number of the last commit
	clean     bool            // the last commit holds a close frame
	drops     []record.ViewID // dropped since the last commit that says so

	stats logStats
}

var _ hotbuffer.Buffer = (*Log)(nil)

// Views implements hotbuffer.Buffer.
func (l *Log) Views() []record.ViewID {
	l.mu.RLock()
	defer l.mu.RUnlock()
	ids := make([]record.ViewID, 0, len(l.views))
	for id := range l.views {
		ids = append(ids, id)
	}
	return ids
}

// Open implements hotbuffer.Buffer.
func (l *Log) Open(_ context.Context, id record.ViewID, s hotbuffer.Settings) error {
	s, err := checkSettings(s)
	if err != nil {
		return fmt.Errorf("open %v: %w", id, err)
	}
	if id < 1 {
		return fmt.Errorf("open %v: views are numbered from 1: %w", id, record.ErrInvalid)
	}
	l.mu.Lock()
	if l.shut.Load() {
		l.mu.Unlock()
		return fmt.Errorf("open %v: the hot log is %w", id, record.ErrClosed)
	}
	if l.dropped[id] > 0 {
		l.mu.Unlock()
		return fmt.Errorf("open %v: the view was dropped, and view numbers are never used again: %w", id, record.ErrNotFound)
	}
	v := l.views[id]
	if v == nil {
		v = newView(id)
		l.views[id] = v
	}
	l.mu.Unlock()
	if err := v.open(s); err != nil {
		return fmt.Errorf("open %v: %w", id, err)
	}
	// Rows that linger under the old settings need not wait for more.
	l.flush(v)
	return nil
}

func checkSettings(s hotbuffer.Settings) (hotbuffer.Settings, error) {
	switch s.Type {
	case hotbuffer.LowLatency, hotbuffer.HighThroughput:
	default:
		return s, fmt.Errorf("unknown stream type %q: %w", s.Type, record.ErrInvalid)
	}
	if s.Partitions < 1 || s.Partitions > record.MaxPartitions {
		return s, fmt.Errorf("%d partitions are outside [1,%d]: %w", s.Partitions, record.MaxPartitions, record.ErrInvalid)
	}
	if s.Linger < 0 || s.LingerBytes < 0 {
		return s, fmt.Errorf("linger of %v or %d bytes is negative: %w", s.Linger, s.LingerBytes, record.ErrInvalid)
	}
	if s.Linger == 0 {
		s.Linger = 20 * time.Millisecond
	}
	if s.LingerBytes == 0 {
		s.LingerBytes = batchLimit
	}
	return s, nil
}

// opened returns a view that was opened in this process.
func (l *Log) opened(id record.ViewID) (*view, error) {
	if l.shut.Load() {
		return nil, fmt.Errorf("the hot log is %w", record.ErrClosed)
	}
	l.mu.RLock()
	v := l.views[id]
	l.mu.RUnlock()
	if v == nil || !v.isOpen() {
		return nil, fmt.Errorf("%v is not open in the hot log: %w", id, record.ErrNotFound)
	}
	return v, nil
}

// Ends implements hotbuffer.Buffer.
func (l *Log) Ends(id record.ViewID) (hotbuffer.Ends, error) {
	v, err := l.opened(id)
	if err != nil {
		return hotbuffer.Ends{}, fmt.Errorf("ends: %w", err)
	}
	return v.ends(), nil
}

// Wait implements hotbuffer.Buffer. On a poisoned log it returns ErrClosed
// once there is nothing beyond after.
func (l *Log) Wait(ctx context.Context, id record.ViewID, after record.Offsets) error {
	for {
		v, err := l.opened(id)
		if err != nil {
			return fmt.Errorf("wait: %w", err)
		}
		changed := v.beyond(after)
		if changed == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for rows of %v: %w", id, ctx.Err())
		case <-l.closing:
			if err := l.poison(); err != nil {
				return fmt.Errorf("wait for rows of %v: %w", id, err)
			}
			return fmt.Errorf("wait for rows of %v: the hot log is %w", id, record.ErrClosed)
		}
	}
}

// Cut implements hotbuffer.Buffer. The committer takes the cut between two
// commits.
func (l *Log) Cut(ctx context.Context, id record.ViewID) (record.Offsets, error) {
	v, err := l.opened(id)
	if err != nil {
		return nil, fmt.Errorf("cut: %w", err)
	}
	var ends hotbuffer.Ends
	if err := l.between(ctx, func() error {
		ends = v.ends()
		v.floor = ends.LastTimestamp + 1
		return nil
	}); err != nil {
		return nil, fmt.Errorf("cut %v: %w", id, err)
	}
	return ends.End, nil
}

// Release implements hotbuffer.Buffer. The start moves at once; files are
// recycled when all views have released what they hold.
func (l *Log) Release(ctx context.Context, id record.ViewID, through record.Offsets) error {
	v, err := l.opened(id)
	if err != nil {
		return fmt.Errorf("release: %w", err)
	}
	if err := l.between(ctx, func() error {
		if err := v.release(through); err != nil {
			return err
		}
		return l.freeReleased()
	}); err != nil {
		return fmt.Errorf("release %v: %w", id, err)
	}
	return nil
}

// Drop implements hotbuffer.Buffer. A view that does not exist is dropped
// already.
func (l *Log) Drop(ctx context.Context, id record.ViewID) error {
	if l.shut.Load() {
		return fmt.Errorf("drop %v: the hot log is %w", id, record.ErrClosed)
	}
	if err := l.between(ctx, func() error { return l.drop(id) }); err != nil {
		return fmt.Errorf("drop %v: %w", id, err)
	}
	return nil
}

// Close implements hotbuffer.Buffer. Appends under way are finished, lingering
// ones at once. A poisoned log only closes its files.
func (l *Log) Close() error {
	l.closeOnce.Do(func() {
		l.mu.Lock()
		l.shut.Store(true)
		views := make([]*view, 0, len(l.views))
		for _, v := range l.views {
			views = append(views, v)
		}
		l.mu.Unlock()
		l.wakeAll()
		for _, v := range views {
			l.closeLinger(v)
			v.close()
		}
		l.queue.close() // the committer finishes what is queued and stops stock
		l.work.Wait()
		for _, s := range l.segments {
			s.release()
		}
		l.closeErr = errors.Join(l.stock.closeFiles(), l.lock.Close())
	})
	return l.closeErr
}

func (l *Log) wakeAll() { l.stop.Do(func() { close(l.closing) }) }

// poison returns the error of a log that failed for good, nil if it did not.
func (l *Log) poison() error {
	if p := l.poisoned.Load(); p != nil {
		return *p
	}
	return nil
}

// fail poisons the log: what the disk holds from now on is unknown (after a
// failed fsync the kernel may have thrown the pages away, so that a second one
// that succeeds proves nothing). Nothing is acknowledged any more.
func (l *Log) fail(cause error) {
	err := fmt.Errorf("the hot log failed and takes no more rows until the process starts again: %w: %w", cause, record.ErrClosed)
	if !l.poisoned.CompareAndSwap(nil, &err) {
		return
	}
	l.o.Logger.Error("hot log: poisoned", "dir", l.dir, "error", cause)
	l.wakeAll()
	l.o.OnFatal(err)
}
