package predicate

import (
	"context"
	"fmt"
	"unsafe"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/compute"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// Select returns a batch of the selected rows of rec, in order, which the
// caller releases. When all are selected it is rec itself. Memory comes from the
// allocator of ctx (compute.WithAllocator).
func Select(ctx context.Context, rec arrow.RecordBatch, sel *Selection) (arrow.RecordBatch, error) {
	switch n := sel.Count(); {
	case int64(sel.Len()) != rec.NumRows():
		return nil, fmt.Errorf("where: a selection of %d rows on a batch of %d", sel.Len(), rec.NumRows())
	case n == sel.Len():
		rec.Retain()
		return rec, nil
	case n == 0:
		return rec.NewSlice(0, 0), nil
	}
	// Words of bits are bytes of bits on the little-endian machines that
	// Arrow's own bitmaps need as well. The mask only lives within this call.
	bits := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(sel.truth))), 8*len(sel.truth))
	d := array.NewData(arrow.FixedWidthTypes.Boolean, sel.Len(), []*memory.Buffer{nil, memory.NewBufferBytes(bits)}, nil, 0, 0)
	defer d.Release()
	mask := array.NewBooleanData(d)
	defer mask.Release()
	out, err := compute.FilterRecordBatch(ctx, rec, mask, compute.DefaultFilterOptions())
	if err != nil {
		return nil, fmt.Errorf("where: select rows: %w", err)
	}
	return out, nil
}
