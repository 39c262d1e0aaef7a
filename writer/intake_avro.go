package writer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/ocf"
)

// avroBatch is how many rows go through Arrow at a time.
const avroBatch = 4096

// decodeAvro reads an object container file whose schema is the client's own.
// Its rows become columns first, because matching columns by name, widening
// them and checking their values is there already (ArrowToAvro).
func (in *intake) decodeAvro(ctx context.Context, q Request) error {
	file, err := ocf.NewReader(bytes.NewReader(q.Body))
	if err != nil {
		return err
	}
	foreign, err := schema.CompileForeignAvro(file.Schema())
	if err != nil {
		return err
	}
	theirs, _ := foreign.Schema().FreshIDs(schema.FirstUserID)
	columns, err := schema.CompileAvroToArrow(theirs, theirs)
	if err != nil {
		return err
	}
	encode, err := schema.CompileArrowToAvro(theirs.Arrow(), in.p.Schema, schema.ArrowOptions{UnknownFields: q.unknownFields()})
	if err != nil {
		return err
	}
	build := schema.NewBuilder(theirs, memory.DefaultAllocator)
	defer build.Release()
	flush := func() error {
		if build.Len() == 0 {
			return ctx.Err()
		}
		batch := build.NewBatch()
		defer batch.Release()
		rows, err := encode.Bind(batch)
		if err != nil {
			return err
		}
		for i := range rows.Len() {
			in.value = schema.AppendHeader(in.value[:0], in.p.Schema.ID)
			in.value, err = rows.Row(in.value, i)
			if err := in.take(err); err != nil {
				return err
			}
		}
		return ctx.Err()
	}
	var buf []byte
	for {
		count, data, err := file.Next()
		if errors.Is(err, io.EOF) {
			return flush()
		}
		if err != nil {
			return err
		}
		for i := range count {
			var datum []byte
			datum, buf, data, err = foreign.Next(buf, data)
			if err == nil {
				err = refused(columns.Append(build, datum))
			}
			if err != nil {
				// The rows before it come first, so that it gets its own index.
				if err := flush(); err != nil {
					return err
				}
				if err := in.take(err); err != nil {
					return fmt.Errorf("row %d (datum %d of its block): %w", in.row, i, err)
				}
				continue
			}
			if build.Len() == avroBatch {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		if len(data) > 0 {
			return fmt.Errorf("%d bytes follow the last datum of an Avro block: %w", len(data), record.ErrInvalid)
		}
	}
}

// refused turns what the columns cannot take (text that is no UTF-8, an int
// beyond 32 bits) into the row's error.
func refused(err error) error {
	var row *schema.RowError
	if err == nil || errors.As(err, &row) {
		return err
	}
	if errors.Is(err, record.ErrCorrupt) {
		return &schema.RowError{Expected: "a datum of the declared schema", Got: err.Error(), Code: schema.CodeWrongType}
	}
	return err
}
