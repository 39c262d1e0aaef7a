package disk

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

const (
	// batchLimit is what a batch may grow to before compression; a larger row
	// gets a batch of its own.
	batchLimit = 1 << 20
	// maxAppend bounds the rows of one request: the API's 64 MB of JSON, and
	// room for rows that are longer in Avro.
	maxAppend = 96 << 20
	// maxRow leaves room for the batch around it.
	maxRow = record.MaxBatchBytes - 1024
	// rowOverhead is what the queue's bounds count for each row beside its bytes.
	rowOverhead = 12
)

// bufPool holds the memory of encoded batches on their way to the committer.
var bufPool = sync.Pool{New: func() any { return new([]byte) }}

const maxPooled = 4 << 20

// Append implements hotbuffer.Buffer.
func (l *Log) Append(ctx context.Context, id record.ViewID, a hotbuffer.Append) (hotbuffer.Appended, error) {
	out, err := l.append(ctx, id, a)
	if err != nil {
		return hotbuffer.Appended{}, fmt.Errorf("append to %v: %w", id, err)
	}
	return out, nil
}

func (l *Log) append(ctx context.Context, id record.ViewID, a hotbuffer.Append) (hotbuffer.Appended, error) {
	begin := time.Now()
	if err := ctx.Err(); err != nil {
		return hotbuffer.Appended{}, err
	}
	v, err := l.opened(id)
	if err != nil {
		return hotbuffer.Appended{}, err
	}
	s, ok := v.currentSettings()
	if !ok {
		return hotbuffer.Appended{}, fmt.Errorf("the view was dropped: %w", record.ErrNotFound)
	}
	rows, bytes, err := checkAppend(a, s)
	if err != nil {
		return hotbuffer.Appended{}, err
	}
	if rows == 0 && a.Producer == nil {
		return hotbuffer.Appended{}, nil
	}
	reserved := int64(bytes + rows*rowOverhead)
	if err := l.queue.reserve(reserved); err != nil {
		return hotbuffer.Appended{}, err
	}

	var g *group
	var shares []share
	if s.Type == hotbuffer.HighThroughput && rows > 0 {
		g, shares, err = l.lingering(v, s, a, reserved)
	} else {
		g = encode(v, a, s, reserved)
		err = l.queue.push(g)
	}
	if err != nil {
		l.queue.unreserve(1, reserved)
		return hotbuffer.Appended{}, err
	}
	select {
	case <-g.done:
	case <-ctx.Done():
		return hotbuffer.Appended{}, fmt.Errorf("the outcome is unknown: %w", ctx.Err())
	}
	if g.err != nil {
		return hotbuffer.Appended{}, g.err
	}
	out := hotbuffer.Appended{Ranges: g.ranges, Duplicate: g.duplicate}
	if shares != nil {
		out.Ranges = rangesOf(shares, g.ranges)
	}
	v.stats.append.observe(time.Since(begin))
	v.stats.requests.Add(1)
	if out.Duplicate {
		v.stats.duplicates.Add(1)
	} else {
		v.stats.rows.Add(int64(rows))
		v.stats.bytes.Add(int64(bytes))
	}
	return out, nil
}

// checkAppend refuses what can never be appended, before memory is used for it.
func checkAppend(a hotbuffer.Append, s hotbuffer.Settings) (rows, bytes int, err error) {
	var seen [record.MaxPartitions / 64]uint64
	for _, p := range a.Parts {
		if p.Partition < 0 || int(p.Partition) >= s.Partitions {
			return 0, 0, fmt.Errorf("partition %v, but there are %d: %w", p.Partition, s.Partitions, record.ErrInvalid)
		}
		if seen[p.Partition/64]&(1<<(p.Partition%64)) != 0 {
			return 0, 0, fmt.Errorf("partition %v appears twice: %w", p.Partition, record.ErrInvalid)
		}
		seen[p.Partition/64] |= 1 << (p.Partition % 64)
		if p.Rows == nil {
			continue
		}
		rows += p.Rows.Len()
		bytes += p.Rows.Bytes()
		if n := p.Rows.Largest(); n > maxRow {
			return 0, 0, fmt.Errorf("partition %v has a row of %d bytes, the limit is %d: %w", p.Partition, n, maxRow, record.ErrTooLarge)
		}
	}
	if bytes+rows*rowOverhead > maxAppend {
		return 0, 0, fmt.Errorf("%d rows of %d bytes in one request, the limit is %d with %d for each row; send fewer at a time: %w", rows, bytes, maxAppend, rowOverhead, record.ErrTooLarge)
	}
	if p := a.Producer; p != nil {
		switch {
		case p.Epoch < 0, p.Sequence < 0, p.Sequence >= 1<<61:
			return 0, 0, fmt.Errorf("producer epoch %d, sequence %d: both count from 0: %w", p.Epoch, p.Sequence, record.ErrInvalid)
		case p.Once && p.Sequence != 0:
			return 0, 0, fmt.Errorf("a request by key has sequence %d instead of 0: %w", p.Sequence, record.ErrInvalid)
		}
	}
	return rows, bytes, nil
}

// encode makes the group of one request.
func encode(v *view, a hotbuffer.Append, s hotbuffer.Settings, reserved int64) *group {
	g := &group{view: v, buf: bufPool.Get().(*[]byte), requests: 1, reserved: reserved, done: make(chan struct{})}
	if a.Producer != nil {
		p := *a.Producer // the caller may change it once its context ended
		g.producer = &p
	}
	for _, p := range a.Parts {
		if p.Rows != nil {
			g.encode(p.Partition, p.Rows, s.Compressed)
		}
	}
	return g
}

// encode adds rows as batches of at most batchLimit.
func (g *group) encode(p record.Partition, rows *record.Rows, compressed bool) {
	o := record.BatchOptions{}
	if compressed {
		o.Codec = record.DefaultCodec
	}
	buf := (*g.buf)[:0]
	if n := len(g.batches); n > 0 {
		buf = *g.buf
	}
	for from := 0; from < rows.Len(); {
		to, size := rows.Split(from, batchLimit)
		start := len(buf)
		buf = record.AppendBatch(buf, rows, from, to, o)
		g.batches = append(g.batches, encoded{partition: p, data: buf[start:len(buf):len(buf)], rows: to - from, plain: size})
		from = to
	}
	*g.buf = buf
}

// finish publishes the outcome of a group and gives back what it held.
func (l *Log) finish(g *group) {
	if cap(*g.buf) <= maxPooled {
		*g.buf = (*g.buf)[:0]
		bufPool.Put(g.buf)
	}
	g.buf, g.batches = nil, nil
	l.queue.unreserve(g.requests, g.reserved)
	close(g.done)
}
