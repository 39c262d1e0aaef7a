package writer

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// intake is the working memory of one request; recycled, so that a stream of
// small requests allocates next to nothing.
type intake struct {
	p *program
	// sticky is the partition of a request without keys.
	sticky record.Partition
	// shards holds the rows by partition, or all of them in the first.
	shards []shard
	value  []byte
	key    []byte

	bytes    int   // encoded, with rowOverhead each
	row      int64 // rows seen
	rejected int64
	listed   []*schema.RowError
}

type shard struct {
	rows record.Rows
	most int // that it ever held: about the memory it has
}

var intakes = sync.Pool{New: func() any { return new(intake) }}

// keepBytes bounds what a recycled intake may keep: large requests are rare and
// must not pin their memory.
const keepBytes = 4 << 20

// rowOverhead is what a row costs beside its bytes, in memory and in the bound
// on a request.
const rowOverhead = 12

func (in *intake) begin(p *program) {
	in.p = p
	in.bytes, in.row, in.rejected, in.listed = 0, 0, 0, nil
	n := p.Partitions
	if p.key == nil {
		n = 1
		in.sticky = p.nextPartition()
	}
	for len(in.shards) < n {
		in.shards = append(in.shards, shard{})
	}
}

// recycle gives the memory to a later request, if it is not too much.
func (in *intake) recycle() {
	if in.reset() <= keepBytes {
		intakes.Put(in)
	}
}

// reset forgets the request, whatever became of it: nothing of it may be seen by
// a later one. It returns about how much memory in holds.
func (in *intake) reset() (size int) {
	in.p, in.listed = nil, nil
	size = cap(in.value) + cap(in.key)
	for i := range in.shards {
		s := &in.shards[i]
		s.most = max(s.most, s.rows.Bytes()+rowOverhead*s.rows.Len())
		size += s.most
		s.rows.Reset()
	}
	return size
}

// parts lists the partitions that got rows.
func (in *intake) parts() []hotbuffer.Part {
	if in.p.key == nil {
		return []hotbuffer.Part{{Partition: in.sticky, Rows: &in.shards[0].rows}}
	}
	var parts []hotbuffer.Part
	for p := range in.shards {
		if rows := &in.shards[p].rows; rows.Len() > 0 {
			parts = append(parts, hotbuffer.Part{Partition: record.Partition(p), Rows: rows})
		}
	}
	return parts
}

func (in *intake) decode(ctx context.Context, q Request) error {
	switch q.Format {
	case JSON:
		return in.decodeJSON(ctx, q)
	case Avro:
		return in.decodeAvro(ctx, q)
	case Arrow:
		return in.decodeArrow(ctx, q)
	}
	return fmt.Errorf("format %q is not one of json, avro, arrow: %w", q.Format, record.ErrInvalid)
}

func (in *intake) decodeJSON(ctx context.Context, q Request) error {
	program := in.p.strict
	if q.IgnoreUnknown {
		program = in.p.lenient
	}
	return schema.SplitJSON(q.Body, func(_ int, raw []byte) error {
		if err := in.next(ctx); err != nil {
			return err
		}
		var err error
		in.value, err = program.Row(in.header(), raw)
		return in.take(err)
	})
}

const (
	// checkEvery is how many rows are decoded between two looks at the context.
	checkEvery = 1024
	// maxRows bounds the rows of a request, good and bad: more could not be
	// appended, if each had no more than its overhead.
	maxRows = MaxRequestBytes / rowOverhead
)

// next begins a row.
func (in *intake) next(ctx context.Context) error {
	if in.row%checkEvery == 0 && ctx.Err() != nil {
		return ctx.Err()
	}
	if in.row == maxRows {
		return fmt.Errorf("more than %d rows in one request; send fewer at a time: %w", int64(maxRows), record.ErrTooLarge)
	}
	return nil
}

// header returns in.value with the head of a stored row in it.
func (in *intake) header() []byte { return schema.AppendHeader(in.value[:0], in.p.Schema.ID) }

// take files the row whose stored form stands in in.value, or rejects it for
// err. Errors that are not the row's own end the request.
func (in *intake) take(err error) error {
	row := in.row
	in.row++
	if err == nil {
		err = in.file()
	}
	if err == nil {
		return nil
	}
	var bad *schema.RowError
	if !errors.As(err, &bad) {
		return err
	}
	bad.Row = int(row)
	in.rejected++
	if len(in.listed) < MaxListed {
		in.listed = append(in.listed, bad)
	}
	return nil
}

func (in *intake) file() error {
	var key []byte
	to := &in.shards[0]
	if in.p.key != nil {
		_, datum, err := schema.SplitHeader(in.value)
		if err != nil {
			return err
		}
		if in.key, err = in.p.key.Append(in.key[:0], datum); err != nil {
			return err
		}
		key = in.key
		to = &in.shards[partitionOf(key, in.p.Partitions)]
	}
	n := len(key) + len(in.value)
	if n > MaxRowBytes {
		return &schema.RowError{Expected: fmt.Sprintf("a row of at most %d bytes with its key", MaxRowBytes), Got: fmt.Sprintf("%d bytes", n), Code: schema.CodeTooLarge}
	}
	if in.bytes += n + rowOverhead; in.bytes > MaxRequestBytes {
		return fmt.Errorf("the rows of the request take more than %d bytes; send fewer at a time: %w", MaxRequestBytes, record.ErrTooLarge)
	}
	to.rows.Append(key, in.value)
	return nil
}
