package disk

import (
	"bytes"
	"context"
	"fmt"
	"sort"

	"github.com/thermocline/thermocline/record"
)

// span is a stretch of one segment that a read needs. The runs in it belong to
// one partition; between them there may be frames of others.
type span struct {
	seg  *segment
	pos  int64
	len  int
	rows int // bytes of the runs
	runs []run
}

// takes tells whether reading on to r is better than another system call: not
// when most of what is read would be frames of others.
func (s *span) takes(r run) bool {
	return int64(r.pos)+int64(r.len)-s.pos <= int64(4*(s.rows+int(r.len))+16<<10)
}

// Read implements hotbuffer.Buffer.
func (l *Log) Read(ctx context.Context, id record.ViewID, p record.Partition, from record.Offset, maxBytes int) ([]record.Batch, error) {
	return l.read(ctx, id, p, from, maxBytes, l.cache)
}

// ReadStored is Read from the files alone: it shows what stands there, also of
// batches that are still in memory. Damage that names its place and rows is a
// *Damage.
func (l *Log) ReadStored(ctx context.Context, id record.ViewID, p record.Partition, from record.Offset, maxBytes int) ([]record.Batch, error) {
	return l.read(ctx, id, p, from, maxBytes, nil)
}

func (l *Log) read(ctx context.Context, id record.ViewID, p record.Partition, from record.Offset, maxBytes int, c *cache) ([]record.Batch, error) {
	fail := func(err error) ([]record.Batch, error) {
		return nil, fmt.Errorf("read %v partition %v from %v: %w", id, p, from, err)
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	v, err := l.opened(id)
	if err != nil {
		return fail(err)
	}
	spans, end, lost, err := v.plan(p, from, maxBytes)
	if err != nil {
		return fail(err)
	}
	defer func() {
		for _, s := range spans {
			s.seg.release()
		}
	}()

	r := reading{log: l, cache: c, view: id, partition: p, next: from, maxBytes: maxBytes}
	for _, s := range spans {
		if err = r.span(s); err != nil || r.bytes >= maxBytes {
			break
		}
	}
	if err == nil && len(r.batches) == 0 && from < end {
		err = fmt.Errorf("no segment holds rows from %v on, they are lost: %w", from, record.ErrCorrupt)
	}
	if len(r.batches) > 0 {
		v.stats.read(r.batches)
		return r.batches, nil // the next read meets the damage again
	}
	if err != nil && v.released(p, r.next) {
		// They may have been overwritten since.
		return fail(fmt.Errorf("the rows were released meanwhile, they are archived: %w", record.ErrOutOfRange))
	}
	if err != nil && lost != nil {
		err = lost
	}
	if err != nil {
		return fail(err)
	}
	return nil, nil
}

// released tells whether the hot rows begin behind an offset.
func (v *view) released(p record.Partition, at record.Offset) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return int(p) < len(v.parts) && at < v.parts[p].start
}

// plan finds where rows from offset from on are and takes references to the
// segments. end is the durable end; lost is the damage at from that the start of the log found, if any.
func (v *view) plan(id record.Partition, from record.Offset, maxBytes int) (spans []span, end record.Offset, lost, err error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.closed {
		return nil, 0, nil, fmt.Errorf("the hot log is %w", record.ErrClosed)
	}
	if v.dropped {
		return nil, 0, nil, fmt.Errorf("the view was dropped: %w", record.ErrNotFound)
	}
	if id < 0 || int(id) >= len(v.parts) {
		return nil, 0, nil, fmt.Errorf("there are %d partitions: %w", len(v.parts), record.ErrInvalid)
	}
	p := v.parts[id]
	switch {
	case from < p.start:
		return nil, 0, nil, fmt.Errorf("the hot rows begin at %v, earlier ones are archived: %w", p.start, record.ErrOutOfRange)
	case from > p.end:
		return nil, 0, nil, fmt.Errorf("the durable end is %v: %w", p.end, record.ErrOutOfRange)
	case from == p.end:
		return nil, p.end, nil, nil
	}
	for _, d := range p.damage {
		if d.Offsets.Start <= from && from < d.Offsets.End {
			lost = d
		}
	}
	total := 0
	for i := max(0, p.find(from)); i < len(p.segs) && total < maxBytes || len(spans) == 0 && i < len(p.segs); i++ {
		sp := p.segs[i]
		if sp.end <= from {
			continue
		}
		first := max(0, sort.Search(len(sp.runs), func(i int) bool { return sp.runBase(i) > from })-1)
		for _, r := range sp.runs[first:] {
			last := len(spans) - 1
			if last >= 0 && spans[last].seg == sp.seg && spans[last].takes(r) {
				s := &spans[last]
				s.len = int(int64(r.pos) + int64(r.len) - s.pos)
				s.rows += int(r.len)
				s.runs = append(s.runs, r)
			} else {
				sp.seg.acquire()
				spans = append(spans, span{seg: sp.seg, pos: int64(r.pos), len: int(r.len), rows: int(r.len), runs: []run{r}})
			}
			if total += int(r.len); total >= maxBytes {
				break
			}
		}
	}
	return spans, p.end, lost, nil
}

// reading collects the batches of one Read.
type reading struct {
	log       *Log
	cache     *cache // nil: only what the files hold
	view      record.ViewID
	partition record.Partition
	next      record.Offset
	maxBytes  int
	bytes     int
	batches   []record.Batch
}

// span adds the batches of a span. They point into the memory that was read
// or, while it is recent, written.
func (r *reading) span(s span) error {
	var buf []byte
	for _, run := range s.runs {
		var b []byte
		ok := false
		if r.cache != nil {
			b, ok = r.cache.get(s.seg.epoch, int64(run.pos), int(run.len))
		}
		if !ok {
			if buf == nil {
				buf = make([]byte, s.len)
				if _, err := s.seg.file.ReadAt(buf, s.pos); err != nil {
					return fmt.Errorf("segment %v position %d: %w: %w", s.seg.epoch, s.pos, record.ErrCorrupt, err)
				}
			}
			at := int64(run.pos) - s.pos
			b = buf[at : at+int64(run.len)]
		}
		if err := r.run(s.seg, int64(run.pos), b); err != nil || r.bytes >= r.maxBytes {
			return err
		}
	}
	return nil
}

// run adds the batches of a run from r.next on, each checked as if it came
// from elsewhere.
func (r *reading) run(seg *segment, pos int64, b []byte) error {
	for at := 0; at < len(b); {
		h, ok := decodeFrameHeader(b[at:], &r.log.id, seg.epoch)
		if !ok || h.view != r.view || h.partition != r.partition || h.kind != rowsFrame {
			// The damaged frame may be one of earlier rows: go on behind it,
			// and tell only if rows are missing that were asked for.
			if at = nextFrame(b, at+frameAlign, &r.log.id, seg.epoch); at < 0 {
				return nil
			}
			continue
		}
		end := h.base + record.Offset(h.rows)
		if h.base > r.next {
			return r.lost(seg, pos+int64(at), r.next, h.base, "the frame before does not validate")
		}
		if end > r.next {
			batch, err := h.checkPayload(b[at+frameHeaderSize:at+frameHeaderSize+h.payload], &r.log.id)
			if err != nil {
				return r.lost(seg, pos+int64(at), h.base, end, err.Error())
			}
			r.batches = append(r.batches, batch)
			r.bytes += h.payload
			r.next = end
			if r.bytes >= r.maxBytes {
				return nil
			}
		}
		at += align(frameHeaderSize+h.payload, frameAlign)
	}
	return nil
}

func (r *reading) lost(seg *segment, pos int64, from, to record.Offset, reason string) error {
	return &Damage{
		Segment: uint64(seg.epoch), Position: pos, View: r.view, Partition: r.partition,
		Offsets: record.Range{Start: from, End: to}, Reason: reason,
	}
}

// nextFrame finds the next frame header that validates, at or after from; -1
// if there is none. b begins on a multiple of frameAlign.
func nextFrame(b []byte, from int, id *logID, e epoch) int {
	for at := from; at < len(b); at++ {
		i := bytes.Index(b[at:], frameMagicBytes)
		if i < 0 {
			return -1
		}
		at += i
		if at%frameAlign == 0 {
			if _, ok := decodeFrameHeader(b[at:], id, e); ok {
				return at
			}
		}
	}
	return -1
}

var frameMagicBytes = be.AppendUint32(nil, frameMagic)
