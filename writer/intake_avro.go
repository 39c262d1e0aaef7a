package writer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/ocf"
)

const (
	// columnRows and columnBytes bound what is held as columns at a time.
	columnRows  = 1024
	columnBytes = 1 << 20
	// maxAvroBytes bounds a request's blocks, decompressed: time, not memory.
	maxAvroBytes = 512 << 20
)

// decodeAvro reads an object container file whose schema is the client's own.
func (in *intake) decodeAvro(ctx context.Context, q Request) error {
	file, err := ocf.NewReader(bytes.NewReader(q.Body))
	if err != nil {
		return bodysFault(err)
	}
	f, err := in.p.foreign.find(in.p, file.Schema(), q.unknownFields())
	if err != nil {
		return err
	}
	d := avroIntake{intake: in, foreign: f, direct: f.direct}
	defer d.end()
	total := 0
	for {
		count, data, err := file.Next()
		if errors.Is(err, io.EOF) {
			return d.flush(ctx)
		}
		if err != nil {
			return bodysFault(err)
		}
		if total += len(data); total > maxAvroBytes {
			return fmt.Errorf("the Avro blocks decompress to more than %d bytes; send fewer rows at a time: %w", maxAvroBytes, record.ErrTooLarge)
		}
		if err := d.block(ctx, count, data); err != nil {
			return err
		}
	}
}

// bodysFault: what is read lies in memory, so that no error is the reading's.
func bodysFault(err error) error {
	if errors.Is(err, record.ErrInvalid) || errors.Is(err, record.ErrTooLarge) {
		return err
	}
	return fmt.Errorf("%w: %w", err, record.ErrInvalid)
}

// avroIntake is the state of one container being read.
type avroIntake struct {
	*intake
	foreign *foreign
	direct  *schema.ForeignRows // nil: all rows go through columns
	detours int                 // rows that direct did not take
	columns *columns            // nil: none is needed yet
	datum   []byte
}

// maxDetours is how many rows of a container are sent through the columns one by
// one: beyond it, all of them go there together.
const maxDetours = 16

// block files the rows of a block.
func (d *avroIntake) block(ctx context.Context, count int, data []byte) error {
	for i := range count {
		if d.direct != nil {
			out, rest, ok := d.direct.Row(d.header(), data)
			if d.value = out; ok {
				data = rest
				if err := d.next(ctx); err != nil {
					return err
				}
				if err := d.take(nil); err != nil {
					return err
				}
				continue
			}
			if d.detours++; d.detours == maxDetours {
				d.direct = nil
			}
		}
		var datum []byte
		var err error
		datum, d.datum, data, err = d.foreign.wire.Next(d.datum, data)
		if err == nil {
			err = d.append(datum)
		}
		if err != nil || d.direct != nil || d.columns.full() {
			// The rows before it come first, so that it gets its own index.
			if err := d.flush(ctx); err != nil {
				return err
			}
		}
		if err != nil {
			if err := d.next(ctx); err != nil {
				return err
			}
			if err := d.take(err); err != nil {
				return fmt.Errorf("row %d (datum %d of its Avro block): %w", d.row-1, i, err)
			}
		}
	}
	if len(data) > 0 {
		return fmt.Errorf("%d bytes follow the last datum of an Avro block: %w", len(data), record.ErrInvalid)
	}
	return nil
}

// append adds a datum in our wire form to the columns.
func (d *avroIntake) append(datum []byte) (err error) {
	if len(datum) > MaxRowBytes {
		return &schema.RowError{Expected: fmt.Sprintf("a row of at most %d bytes", MaxRowBytes), Got: fmt.Sprintf("%d bytes", len(datum)), Code: schema.CodeTooLarge}
	}
	if d.columns == nil {
		d.columns = d.foreign.newColumns()
	}
	// Columns that ran out of memory are not used again.
	c := d.columns
	d.columns = nil
	defer recoverMemory(&err)
	err = d.foreign.toColumns.Append(c.build, datum)
	d.columns = c
	if err == nil {
		c.bytes += len(datum)
		return nil
	}
	// What the columns cannot take (an int beyond 32 bits, a boolean of 2) is
	// the row's fault.
	var row *schema.RowError
	if !errors.As(err, &row) && errors.Is(err, record.ErrCorrupt) {
		return &schema.RowError{Expected: "a datum of the declared Avro schema", Got: err.Error(), Code: schema.CodeWrongType}
	}
	return err
}

// flush files the rows that stand in columns.
func (d *avroIntake) flush(ctx context.Context) error {
	if d.columns == nil || d.columns.build.Len() == 0 {
		return nil
	}
	batch := d.columns.take()
	defer batch.Release()
	rows, err := d.foreign.toRows.Bind(batch)
	if err != nil {
		return err
	}
	return d.takeArrow(ctx, rows)
}

func (d *avroIntake) end() {
	if d.columns != nil {
		d.foreign.giveBack(d.columns)
	}
}
