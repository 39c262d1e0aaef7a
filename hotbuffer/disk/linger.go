package disk

import (
	"fmt"
	"sync"
	"time"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// linger collects requests to a HIGH_THROUGHPUT view until the linger time or
// size is reached, so that their rows share batches and their commit.
type linger struct {
	mu      sync.Mutex
	closed  bool
	pending *pending
}

// pending is what lingers together.
type pending struct {
	settings hotbuffer.Settings
	timer    *time.Timer
	shared   *group        // rows without a producer
	rows     []record.Rows // of shared, by partition
	own      []*group      // requests with a producer: batches of their own
	begins   []time.Time   // of each request
	bytes    int
}

// share is where rows of one request lie within the rows of their partition in
// the shared group.
type share struct {
	partition   record.Partition
	first, rows int
}

// lingering adds a request, whose rows are copied. It returns the group that
// carries it and, in a shared group, its shares.
func (l *Log) lingering(v *view, s hotbuffer.Settings, a hotbuffer.Append, reserved int64) (*group, []share, error) {
	begin := time.Now()
	var own *group
	if a.Producer != nil {
		own = encode(v, a, s, reserved)
	}
	v.linger.mu.Lock()
	if v.linger.closed {
		v.linger.mu.Unlock()
		if l.shut.Load() {
			return nil, nil, fmt.Errorf("the hot log is %w", record.ErrClosed)
		}
		return nil, nil, fmt.Errorf("the view was dropped: %w", record.ErrNotFound)
	}
	p := v.linger.pending
	if p == nil {
		p = &pending{settings: s, shared: &group{view: v, done: make(chan struct{})}}
		v.linger.pending = p
		l.work.Add(1)
		p.timer = time.AfterFunc(s.Linger, func() {
			defer l.work.Done()
			v.linger.mu.Lock()
			due := v.linger.pending == p
			if due {
				v.linger.pending = nil
			}
			v.linger.mu.Unlock()
			if due {
				l.submit(v, p)
			}
		})
	}
	p.begins = append(p.begins, begin)
	g, shares := own, []share(nil)
	if own != nil {
		p.own = append(p.own, own)
	} else {
		g = p.shared
		g.requests++
		g.reserved += reserved
	}
	for _, part := range a.Parts {
		if part.Rows == nil || part.Rows.Len() == 0 {
			continue
		}
		p.bytes += part.Rows.Bytes()
		if own != nil {
			continue
		}
		for int(part.Partition) >= len(p.rows) {
			p.rows = append(p.rows, record.Rows{})
		}
		rows := &p.rows[part.Partition]
		shares = append(shares, share{part.Partition, rows.Len(), part.Rows.Len()})
		rows.AppendRows(part.Rows)
	}
	full := p.bytes >= s.LingerBytes
	if full {
		v.linger.pending = nil
	}
	v.linger.mu.Unlock()
	if full {
		l.stopTimer(p)
		l.submit(v, p)
	}
	return g, shares, nil
}

func (l *Log) stopTimer(p *pending) {
	if p.timer.Stop() {
		l.work.Done()
	}
}

// submit encodes what lingered, on the goroutine that ended the wait, and
// queues it.
func (l *Log) submit(v *view, p *pending) {
	groups := p.own
	if p.shared.requests > 0 {
		g := p.shared
		g.buf = bufPool.Get().(*[]byte)
		for i := range p.rows {
			if p.rows[i].Len() > 0 {
				g.encode(record.Partition(i), &p.rows[i], p.settings.Compressed)
			}
		}
		groups = append(groups, g)
	}
	p.rows = nil
	now := time.Now()
	for _, begin := range p.begins {
		v.stats.linger.observe(now.Sub(begin))
	}
	if err := l.queue.push(groups...); err != nil {
		for _, g := range groups {
			g.err = err
			l.finish(g)
		}
	}
}

// flush submits what lingers now.
func (l *Log) flush(v *view) { l.detach(v, false) }

// closeLinger submits what lingers and lets nothing linger any more.
func (l *Log) closeLinger(v *view) { l.detach(v, true) }

func (l *Log) detach(v *view, closed bool) {
	v.linger.mu.Lock()
	p := v.linger.pending
	v.linger.pending = nil
	v.linger.closed = v.linger.closed || closed
	v.linger.mu.Unlock()
	if p != nil {
		l.stopTimer(p)
		l.submit(v, p)
	}
}

// rangesOf gives a request its part of what the shared group got.
func rangesOf(shares []share, ranges []hotbuffer.PartRange) []hotbuffer.PartRange {
	out := make([]hotbuffer.PartRange, len(shares))
	for i, s := range shares {
		for _, r := range ranges {
			if r.Partition == s.partition {
				start := r.Start + record.Offset(s.first)
				out[i] = hotbuffer.PartRange{Partition: s.partition, Range: record.Range{Start: start, End: start + record.Offset(s.rows)}}
			}
		}
	}
	return out
}
