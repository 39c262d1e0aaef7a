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
	p     *program
	turn  uint32 // partition of a request without keys, before the modulus
	rows  []*record.Rows
	value []byte
	key   []byte

	row      int64 // rows seen
	rejected int64
	listed   []*schema.RowError
}

var intakes = sync.Pool{New: func() any { return new(intake) }}

// keepBytes bounds what a recycled intake may keep: large requests are rare and
// must not pin their memory.
const keepBytes = 4 << 20

func (in *intake) begin(p *program, turn uint32) {
	in.p, in.turn = p, turn
	in.row, in.rejected, in.listed = 0, 0, nil
	for len(in.rows) < p.Partitions {
		in.rows = append(in.rows, nil)
	}
}

func (in *intake) recycle() {
	in.p, in.listed = nil, nil
	size := cap(in.value)
	for _, r := range in.rows {
		if r != nil {
			size += r.Bytes()
			r.Reset()
		}
	}
	if size <= keepBytes {
		intakes.Put(in)
	}
}

// parts lists the partitions that got rows.
func (in *intake) parts() []hotbuffer.Part {
	var parts []hotbuffer.Part
	for p, r := range in.rows {
		if r != nil && r.Len() > 0 {
			parts = append(parts, hotbuffer.Part{Partition: record.Partition(p), Rows: r})
		}
	}
	return parts
}

// checkEvery is how many rows are decoded between two looks at the context.
const checkEvery = 4096

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
		if in.row%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		var err error
		in.value = schema.AppendHeader(in.value[:0], in.p.Schema.ID)
		in.value, err = program.Row(in.value, raw)
		return in.take(err)
	})
}

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
	partition := record.Partition(int(in.turn) % in.p.Partitions)
	if in.p.key != nil {
		_, datum, err := schema.SplitHeader(in.value)
		if err != nil {
			return err
		}
		if in.key, err = in.p.key.Append(in.key[:0], datum); err != nil {
			return err
		}
		key = in.key
		partition = partitionOf(key, in.p.Partitions)
	}
	if n := len(key) + len(in.value); n > MaxRowBytes {
		return &schema.RowError{Expected: fmt.Sprintf("a row of at most %d bytes", MaxRowBytes), Got: fmt.Sprintf("%d bytes", n), Code: "ROW_TOO_LARGE"}
	}
	r := in.rows[partition]
	if r == nil {
		r = new(record.Rows)
		in.rows[partition] = r
	}
	r.Append(key, in.value)
	return nil
}
