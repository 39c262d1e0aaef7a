package reader

import (
	"cmp"
	"context"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// hotRows and hotBytes bound a chunk of hot rows.
const (
	hotRows  = 16 << 10
	hotBytes = 8 << 20
)

// hot yields the rows of [pos, to) from the hot buffer and moves pos behind
// what it yielded. record.ErrOutOfRange: they were released meanwhile.
func (r *Reader) hot(ctx context.Context, t Target, p *plan, pos, to record.Offsets, yield func(chunk, error) bool) error {
	if p.decoder == nil {
		p.decoder = schema.NewRowDecoder(p.scan, t.Number, r.schemas.SchemaByID, memory.DefaultAllocator)
	}
	dec := p.decoder
	defer dec.Release() // its columns; the programs stay for the next rows
	flush := func() error {
		rows := dec.Take()
		if rows == nil {
			return nil
		}
		defer rows.Release()
		_, partitions, offsets, err := p.system(rows)
		if err != nil {
			return err
		}
		c := chunk{rows, partitions, offsets}
		c.behind(pos)
		if !yield(c, nil) {
			return errStopped
		}
		return nil
	}
	for b, err := range hotbuffer.Scan(ctx, r.buffer, t.View, pos.Clone(), to) {
		if err != nil {
			err = gone(t, err)
		} else if err = dec.AppendBatch(ctx, b.Partition, b.Batch, b.Skip, b.Limit); err != nil {
			err = fmt.Errorf("read view %s: %w", t.View, err)
		}
		if err != nil {
			// What came before the error is good, and pos must know of it.
			return cmp.Or(flush(), err)
		}
		if dec.Len() >= hotRows || dec.Bytes() >= hotBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
