package writer

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow/ipc"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Limits on what an IPC stream may make us allocate beside columns: its
// metadata, and the body of a message.
const (
	maxArrowMetadata = 8 << 20
	maxArrowBody     = 64 << 20
)

func (in *intake) decodeArrow(ctx context.Context, q Request) error {
	if bytes.HasPrefix(q.Body, []byte("ARROW1")) {
		return fmt.Errorf("the body is an Arrow file; send the streaming format (in PyArrow, ipc.new_stream instead of ipc.new_file): %w", record.ErrInvalid)
	}
	// The library allocates what the stream's metadata promise; so it must not
	// see promises that the body cannot keep.
	if err := schema.CheckArrowStream(q.Body); err != nil {
		return err
	}
	invalid := func(err error) error {
		if errors.Is(err, errMemory) {
			return errMemory
		}
		return fmt.Errorf("the body is not a sound Arrow IPC stream: %w: %w", err, record.ErrInvalid)
	}
	body := bytes.NewReader(q.Body)
	r, err := ipc.NewReader(body, ipc.WithAllocator(newBoundedAllocator()),
		ipc.WithMetadataSizeLimit(maxArrowMetadata), ipc.WithBodySizeLimit(maxArrowBody))
	if err != nil {
		return invalid(err)
	}
	defer r.Release()
	program, err := schema.CompileArrowToAvro(r.Schema(), in.p.Schema, schema.ArrowOptions{UnknownFields: q.unknownFields()})
	if err != nil {
		return fmt.Errorf("the stream's Arrow schema does not fit: %w", err)
	}
	for r.Next() {
		rows, err := program.Bind(r.RecordBatch())
		if err != nil {
			return err
		}
		if err := in.takeArrow(ctx, rows); err != nil {
			return err
		}
	}
	if err := r.Err(); err != nil {
		return invalid(err)
	}
	if n := body.Len(); n > 0 {
		return fmt.Errorf("%d bytes follow the end of the Arrow IPC stream; send one stream in a request: %w", n, record.ErrInvalid)
	}
	return nil
}

// takeArrow files the rows of a batch.
func (in *intake) takeArrow(ctx context.Context, rows *schema.ArrowRows) error {
	for i := range rows.Len() {
		if err := in.next(ctx); err != nil {
			return err
		}
		var err error
		in.value, err = rows.Row(in.header(), i)
		if err := in.take(err); err != nil {
			return err
		}
	}
	return nil
}
