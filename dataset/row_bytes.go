package dataset

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// rowBytesKey is the metadata of a Parquet file that says how many bytes a row has
// in memory, in the batch of the writer whose rows were largest. The sizes in
// the footer say nothing of that where a dictionary holds each value once: a
// small file could become many gigabytes in one batch of a scan.
const rowBytesKey = "thermocline.row-bytes"

// memoryBytes is about what the rows of an array take in memory. Unlike the sizes
// of its buffers that is true of a slice.
func memoryBytes(a arrow.Array) (n int64) {
	if a.Len() == 0 {
		return 0
	}
	switch a := a.(type) {
	case *array.String:
		return int64(4*a.Len() + len(a.ValueBytes()))
	case *array.Binary:
		return int64(4*a.Len() + len(a.ValueBytes()))
	case *array.Struct:
		for i := range a.NumField() {
			n += memoryBytes(a.Field(i))
		}
		return n
	case array.ListLike: // a map is one, too
		first, _ := a.ValueOffsets(0)
		_, end := a.ValueOffsets(a.Len() - 1)
		values := array.NewSlice(a.ListValues(), first, end)
		defer values.Release()
		return int64(4*a.Len()) + memoryBytes(values)
	}
	if t, ok := a.DataType().(arrow.FixedWidthDataType); ok {
		return int64(a.Len()) * int64(t.BitWidth()) / 8
	}
	return int64(a.Data().SizeInBytes())
}
