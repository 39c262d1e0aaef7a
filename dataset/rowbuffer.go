package dataset

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/compute"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// rowBuffer holds rows in memory and gives them back in the order of their keys.
type rowBuffer struct {
	batches []arrow.RecordBatch
	first   []int64 // of each batch, the number of its first row
	total   int64
	rows    []bufferedRow
	keys    []byte
	bytes   int64 // about what all this takes
}

// bufferedRow is a row by its number in the buffer.
type bufferedRow struct {
	row        int64
	start, end int // of its key
	group      int // leading bytes of the key that say which file it goes to
}

// bufferedRowBytes is what a row takes beside its key and its columns.
const bufferedRowBytes = 32

// hold keeps a batch; its rows are added with add.
func (b *rowBuffer) hold(batch arrow.RecordBatch, bytes int64) {
	batch.Retain()
	b.batches, b.first = append(b.batches, batch), append(b.first, b.total)
	b.total += batch.NumRows()
	b.bytes += bytes
}

// add adds a row of the batch held last; its key is what was appended to b.keys
// from start on.
func (b *rowBuffer) add(row, start, group int) {
	b.rows = append(b.rows, bufferedRow{row: b.first[len(b.first)-1] + int64(row), start: start, end: len(b.keys), group: group})
	b.bytes += int64(len(b.keys)-start) + bufferedRowBytes
}

func (b *rowBuffer) key(i int) []byte { return b.keys[b.rows[i].start:b.rows[i].end] }

func (b *rowBuffer) sort() {
	slices.SortStableFunc(b.rows, func(x, y bufferedRow) int {
		return bytes.Compare(b.keys[x.start:x.end], b.keys[y.start:y.end])
	})
}

// merge makes one batch of all, so that rows can be taken from it.
func (b *rowBuffer) merge() (err error) {
	if len(b.batches) < 2 {
		return nil
	}
	schema, cols := b.batches[0].Schema(), make([]arrow.Array, b.batches[0].NumCols())
	defer func() {
		for _, c := range cols {
			if c != nil {
				c.Release()
			}
		}
	}()
	parts := make([]arrow.Array, len(b.batches))
	for c := range cols {
		for i, batch := range b.batches {
			parts[i] = batch.Column(c)
		}
		if cols[c], err = array.Concatenate(parts, memory.DefaultAllocator); err != nil {
			return fmt.Errorf("join rows: %w", err)
		}
	}
	all := array.NewRecordBatch(schema, cols, b.total)
	b.drop()
	b.batches, b.first = []arrow.RecordBatch{all}, []int64{0}
	return nil
}

// take returns the rows [from, to) in their order; the caller releases them.
// merge comes first.
func (b *rowBuffer) take(ctx context.Context, from, to int) (arrow.RecordBatch, error) {
	all, rows := b.batches[0], b.rows[from:to]
	straight := true
	for i := range rows {
		straight = straight && rows[i].row == rows[0].row+int64(i)
	}
	if straight {
		return all.NewSlice(rows[0].row, rows[0].row+int64(len(rows))), nil
	}
	ib := array.NewInt64Builder(memory.DefaultAllocator)
	defer ib.Release()
	ib.Reserve(len(rows))
	for i := range rows {
		ib.UnsafeAppend(rows[i].row)
	}
	indices := ib.NewArray()
	defer indices.Release()
	cols := make([]arrow.Array, all.NumCols())
	defer func() {
		for _, c := range cols {
			if c != nil {
				c.Release()
			}
		}
	}()
	for c := range cols {
		var err error
		if cols[c], err = compute.TakeArray(ctx, all.Column(c), indices); err != nil {
			return nil, fmt.Errorf("bring rows into order: %w", err)
		}
	}
	return array.NewRecordBatch(all.Schema(), cols, int64(len(rows))), nil
}

// cut keeps the first rows in the order, of about so many bytes, and those with
// the last one's key; it returns that key.
func (b *rowBuffer) cut(ctx context.Context, bytesKept int64) ([]byte, error) {
	b.sort()
	n := int(int64(len(b.rows)) * bytesKept / b.bytes)
	n = min(max(n, 1), len(b.rows))
	for n < len(b.rows) && bytes.Equal(b.key(n), b.key(n-1)) {
		n++
	}
	last := bytes.Clone(b.key(n - 1))
	if err := b.merge(); err != nil {
		return nil, err
	}
	kept, err := b.take(ctx, 0, n)
	if err != nil {
		return nil, err
	}
	defer kept.Release()
	if kept, err = copied(kept); err != nil {
		return nil, err
	}
	defer kept.Release()
	old := *b
	defer old.drop()
	*b = rowBuffer{}
	b.hold(kept, recordBytes(kept))
	for i := range n {
		start := len(b.keys)
		b.keys = append(b.keys, old.key(i)...)
		b.add(i, start, old.rows[i].group)
	}
	return last, nil
}

// copied is a batch that does not hold on to the memory of a larger one; the
// caller releases it.
func copied(b arrow.RecordBatch) (arrow.RecordBatch, error) {
	cols := make([]arrow.Array, b.NumCols())
	defer func() {
		for _, c := range cols {
			if c != nil {
				c.Release()
			}
		}
	}()
	for i := range cols {
		var err error
		if cols[i], err = array.Concatenate([]arrow.Array{b.Column(i)}, memory.DefaultAllocator); err != nil {
			return nil, fmt.Errorf("copy rows: %w", err)
		}
	}
	return array.NewRecordBatch(b.Schema(), cols, b.NumRows()), nil
}

// drop releases what is held.
func (b *rowBuffer) drop() {
	for _, batch := range b.batches {
		batch.Release()
	}
	b.batches, b.first = nil, nil
}

// recordBytes is what a batch takes.
func recordBytes(b arrow.RecordBatch) int64 {
	n := int64(0)
	for _, c := range b.Columns() {
		n += memoryBytes(c)
	}
	return n
}

// thin copies the rows that were added from the batch held last, if they are few,
// so that the others' memory is free.
func (b *rowBuffer) thin(ctx context.Context, before int, batchBytes int64) error {
	last := len(b.batches) - 1
	batch, added := b.batches[last], b.rows[before:]
	if int64(len(added))*2 >= batch.NumRows() {
		return nil
	}
	b.batches, b.first, b.total = b.batches[:last], b.first[:last], b.total-batch.NumRows()
	b.bytes -= batchBytes
	defer batch.Release()
	if len(added) == 0 {
		return nil
	}
	only := rowBuffer{batches: []arrow.RecordBatch{batch}, rows: slices.Clone(added)}
	for i := range added {
		only.rows[i].row -= b.total
	}
	few, err := only.take(ctx, 0, len(added))
	if err != nil {
		return err
	}
	defer few.Release()
	if few, err = copied(few); err != nil {
		return err
	}
	defer few.Release()
	b.hold(few, recordBytes(few))
	for i := range added {
		added[i].row = b.first[last] + int64(i)
	}
	return nil
}
