package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/record"
)

// stretch is rows [from, from+n) of a batch of the dataset, which are hot as well.
type stretch struct {
	from, n int
}

// compare holds rows of a data file against the same rows in the hot log, column
// by column in the form that readers get.
func (c *viewCheck) compare(ctx context.Context, place string, cold arrow.RecordBatch, s systemColumns) error {
	if !c.view.hot {
		return nil
	}
	var both []stretch
	dec := c.hot.decoder()
	for i := 0; i < len(s.offsets); {
		p, o := record.Partition(s.partitions[i]), record.Offset(s.offsets[i])
		n := 1
		for i+n < len(s.offsets) && s.partitions[i+n] == s.partitions[i] && s.offsets[i+n] == s.offsets[i]+int64(n) && s.views[i+n] == s.views[i] {
			n++
		}
		if record.ViewNumber(s.views[i]) == c.view.Number && p >= 0 && int(p) < len(c.hot.parts) {
			found, err := c.hot.decodeRange(ctx, p, o, o+record.Offset(n), i)
			if err != nil {
				dec.Release()
				c.hot.dec = nil
				return err
			}
			both = append(both, found...)
		}
		i += n
	}
	hot := dec.Take()
	if hot == nil {
		return nil
	}
	defer hot.Release()
	at := 0
	for _, st := range both {
		c.equal(place, cold, s, st, hot, at)
		at += st.n
		c.r.sum.Compared += int64(st.n)
	}
	return nil
}

// equal compares a stretch with the hot rows from at on.
func (c *viewCheck) equal(place string, cold arrow.RecordBatch, s systemColumns, st stretch, hot arrow.RecordBatch, at int) {
	var differ []int
	for col := range int(cold.NumCols()) {
		// Arrow also compares what stands below null structs, where anything may
		// stand: that it says no is not yet a difference.
		if !array.SliceEqual(cold.Column(col), int64(st.from), int64(st.from+st.n), hot.Column(col), int64(at), int64(at+st.n)) {
			differ = append(differ, col)
		}
	}
	if differ == nil {
		return
	}
	for i := range st.n {
		var names []string
		for _, col := range differ {
			if !same(cold.Column(col), st.from+i, hot.Column(col), at+i) {
				names = append(names, cold.ColumnName(col))
			}
		}
		if names != nil {
			row := st.from + i
			c.r.row(Mismatch, place, c.view.Number, record.Partition(s.partitions[row]), record.Offset(s.offsets[row]),
				fmt.Sprintf("the data file and the hot log differ in %s", strings.Join(names, ", ")))
		}
	}
}

// same tells whether two values are equal, however they are stored.
func same(a arrow.Array, i int, b arrow.Array, j int) bool {
	if a.IsNull(i) || b.IsNull(j) {
		return a.IsNull(i) && b.IsNull(j)
	}
	switch a := a.(type) {
	case *array.Struct:
		b, ok := b.(*array.Struct)
		if !ok || a.NumField() != b.NumField() {
			return false
		}
		for k := range a.NumField() {
			if !same(a.Field(k), i, b.Field(k), j) {
				return false
			}
		}
		return true
	case array.ListLike: // maps too, whose entries keep their order
		b, ok := b.(array.ListLike)
		if !ok {
			return false
		}
		from, to := a.ValueOffsets(i)
		other, end := b.ValueOffsets(j)
		if to-from != end-other {
			return false
		}
		for k := range to - from {
			if !same(a.ListValues(), int(from+k), b.ListValues(), int(other+k)) {
				return false
			}
		}
		return true
	}
	return array.SliceEqual(a, int64(i), int64(i+1), b, int64(j), int64(j+1))
}

// decodeRange decodes what the hot buffer has of rows [o, end) of a partition, of
// which o is row i of a batch of the dataset.
func (h *hotView) decodeRange(ctx context.Context, p record.Partition, o, end record.Offset, i int) (found []stretch, err error) {
	part := &h.parts[p]
	end = min(end, part.end)
	if start := h.c.view.start.At(p); o < start {
		i += int(start - o)
		o = start
	}
	// A window of its own: the pass over the hot rows begins at their start.
	for o < end {
		b, ok := part.holding(o)
		if !ok {
			batches, lost, err := h.fetch(ctx, p, o, part.end)
			switch {
			case errors.Is(err, errReleased):
				// Released since: nothing to compare with up to there.
				ends, err := h.c.v.o.Buffer.Ends(h.c.view.ID)
				if err != nil {
					return found, moved(err)
				}
				next := max(ends.Start.At(p), o+1)
				i += int(next - o)
				o = next
				continue
			case err != nil:
				return found, err
			case lost.Len() > 0:
				i += int(lost.End - o)
				o = lost.End
				continue
			}
			part.batches, b = batches, batches[0]
		}
		skip, limit := int(o-b.BaseOffset()), int(min(b.End(), end)-b.BaseOffset())
		dec := h.decoder()
		before := dec.Len()
		// A row that does not decode is told by the pass over the hot rows; the
		// rest of its batch is not compared.
		_ = dec.AppendBatch(ctx, p, b, skip, limit)
		if n := dec.Len() - before; n > 0 {
			found = append(found, stretch{i, n})
		}
		if ctx.Err() != nil {
			return found, ctx.Err()
		}
		i += limit - skip
		o += record.Offset(limit - skip)
	}
	return found, nil
}

// holding returns the batch that holds o, if it was read already.
func (p *hotPart) holding(o record.Offset) (record.Batch, bool) {
	for len(p.batches) > 0 && p.batches[0].End() <= o {
		p.batches = p.batches[1:]
	}
	if len(p.batches) > 0 && p.batches[0].BaseOffset() <= o {
		return p.batches[0], true
	}
	return record.Batch{}, false
}
