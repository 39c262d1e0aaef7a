package writer

import (
	"bytes"
	"context"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Limits on what an IPC stream may make us allocate: its metadata, the body of a
// message, and all that is alive at a time, decompressed.
const (
	maxArrowMetadata = 8 << 20
	maxArrowBody     = 64 << 20
	maxArrowMemory   = 256 << 20
)

func (in *intake) decodeArrow(ctx context.Context, q Request) error {
	invalid := func(err error) error {
		return fmt.Errorf("the body is not a sound Arrow IPC stream: %w: %w", err, record.ErrInvalid)
	}
	// The library allocates what the stream's metadata promise; so it must not
	// see promises that the body cannot keep.
	if err := schema.CheckArrowStream(q.Body); err != nil {
		return err
	}
	r, err := ipc.NewReader(bytes.NewReader(q.Body),
		ipc.WithAllocator(&boundedAllocator{left: maxArrowMemory}),
		ipc.WithMetadataSizeLimit(maxArrowMetadata), ipc.WithBodySizeLimit(maxArrowBody))
	if err != nil {
		return invalid(err)
	}
	defer r.Release()
	program, err := schema.CompileArrowToAvro(r.Schema(), in.p.Schema, schema.ArrowOptions{UnknownFields: q.unknownFields()})
	if err != nil {
		return err
	}
	for r.Next() {
		rows, err := program.Bind(r.RecordBatch())
		if err != nil {
			return err
		}
		for i := range rows.Len() {
			if in.row%checkEvery == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			in.value = schema.AppendHeader(in.value[:0], in.p.Schema.ID)
			in.value, err = rows.Row(in.value, i)
			if err := in.take(err); err != nil {
				return err
			}
		}
	}
	if err := r.Err(); err != nil {
		return invalid(err)
	}
	return nil
}

// boundedAllocator refuses to hold more than a limit, by a panic: that is the
// only way an Allocator has, and the IPC reader turns it into its error.
type boundedAllocator struct {
	memory.GoAllocator
	left int
}

func (a *boundedAllocator) take(n int) {
	if n > a.left {
		panic(fmt.Errorf("it needs more than %d bytes of memory at a time; send smaller batches", maxArrowMemory))
	}
	a.left -= n
}

func (a *boundedAllocator) Allocate(size int) []byte {
	a.take(size)
	return a.GoAllocator.Allocate(size)
}

func (a *boundedAllocator) Reallocate(size int, b []byte) []byte {
	a.take(size - len(b))
	return a.GoAllocator.Reallocate(size, b)
}

func (a *boundedAllocator) Free(b []byte) {
	a.left += len(b)
	a.GoAllocator.Free(b)
}
