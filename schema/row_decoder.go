package schema

import (
	"context"
	"errors"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/record"
)

// RowDecoder turns stored rows (Confluent header and Avro datum), whatever
// schema each was written with, into columns of one reader schema with the
// system columns behind them. Not safe for concurrent use.
type RowDecoder struct {
	*Builder
	reader   *Schema
	number   record.ViewNumber
	lookup   func(ctx context.Context, id int32) (*Schema, error)
	programs map[int32]*AvroToArrow
	lastID   int32
	last     *AvroToArrow
	rows     record.Reader
}

// NewRowDecoder returns a decoder to reader, which must be WithSystem. lookup
// finds the schema that a row names. Rows of a schema that reader cannot hold
// are ErrConflict: the branch has evolved since reader was taken.
func NewRowDecoder(reader *Schema, number record.ViewNumber, lookup func(ctx context.Context, id int32) (*Schema, error), mem memory.Allocator) *RowDecoder {
	return &RowDecoder{Builder: NewBuilder(reader, mem), reader: reader, number: number, lookup: lookup, programs: map[int32]*AvroToArrow{}}
}

// AppendBatch adds rows [skip, limit) of a batch. Errors name partition and
// offset; rows before the failing one are in the builder.
func (d *RowDecoder) AppendBatch(ctx context.Context, p record.Partition, b record.Batch, skip, limit int) error {
	if err := d.rows.Reset(b); err != nil {
		return fmt.Errorf("partition %v: %w", p, err)
	}
	at := b.Timestamp()
	for i := 0; i < limit; i++ {
		o, _, value, ok := d.rows.Next()
		if !ok {
			break
		}
		if i < skip {
			continue
		}
		if err := d.append(ctx, value); err != nil {
			return fmt.Errorf("partition %v, offset %v: %w", p, o, err)
		}
		d.AppendSystem(d.number, p, o, at)
	}
	if err := d.rows.Err(); err != nil {
		return fmt.Errorf("partition %v: %w", p, err)
	}
	return nil
}

func (d *RowDecoder) append(ctx context.Context, value []byte) error {
	id, datum, err := SplitHeader(value)
	if err != nil {
		return err
	}
	if d.last == nil || id != d.lastID {
		if d.last, err = d.program(ctx, id); err != nil {
			return err
		}
		d.lastID = id
	}
	return d.last.Append(d.Builder, datum)
}

func (d *RowDecoder) program(ctx context.Context, id int32) (*AvroToArrow, error) {
	if p := d.programs[id]; p != nil {
		return p, nil
	}
	w, err := d.lookup(ctx, id)
	if errors.Is(err, record.ErrNotFound) {
		// Not the caller's object is missing: schemas of stored rows stay.
		return nil, fmt.Errorf("the row names schema %d, which the catalog does not have: %w", id, record.ErrCorrupt)
	}
	if err != nil {
		return nil, fmt.Errorf("find schema %d of the row: %w", id, err)
	}
	p, err := CompileAvroToArrow(w, d.reader)
	if err != nil {
		// The branch has evolved since the read began.
		return nil, fmt.Errorf("rows of schema %d do not fit schema %d, by which they are read; read on from here with the newest schema: %s: %w", id, d.reader.ID, err.Error(), record.ErrConflict)
	}
	d.programs[id] = p
	return p, nil
}

// Take returns the rows so far, or nil if there are none.
func (d *RowDecoder) Take() arrow.RecordBatch {
	if d.Len() == 0 {
		return nil
	}
	return d.NewBatch()
}
