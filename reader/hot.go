package reader

import (
	"cmp"
	"context"
	"fmt"

	arrowmem "github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// hotRows bounds a chunk of hot rows; memory.chunk does, too.
const hotRows = 16 << 10

// memory says how much a read may hold while its consumer is slow, in bytes and
// about: a chunk of decoded rows, hot batches read ahead, and batches of cold
// rows, of which a scan has three.
type memory struct{ chunk, ahead, cold int }

var (
	// Bounded reads are few.
	readMemory = memory{chunk: 2 << 20, ahead: hotbuffer.ScanMemory, cold: 4 << 20}
	// Tails are many, and may all stand still far behind the end.
	tailMemory = memory{chunk: 256 << 10, ahead: 256 << 10, cold: 512 << 10}
)

// hot yields the rows of [pos, to) from the hot buffer and moves pos behind
// what it yielded. record.ErrOutOfRange: they were released meanwhile.
func (r *Reader) hot(ctx context.Context, t Target, p *plan, pos, to record.Offsets, yield func(chunk, error) bool) error {
	if p.decoder == nil {
		p.decoder = schema.NewRowDecoder(p.scan, t.Number, r.schemas.SchemaByID, arrowmem.DefaultAllocator)
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
	for b, err := range hotbuffer.ScanWithin(ctx, r.buffer, t.View, pos.Clone(), to, p.memory.ahead) {
		if err != nil {
			err = gone(t, err)
		} else if err = dec.AppendBatch(ctx, b.Partition, b.Batch, b.Skip, b.Limit); err != nil {
			err = fmt.Errorf("read view %s: %w", t.View, err)
		}
		if err != nil {
			// What came before the error is good, and pos must know of it.
			return cmp.Or(flush(), err)
		}
		if dec.Len() >= hotRows || dec.Bytes() >= p.memory.chunk {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
