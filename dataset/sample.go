package dataset

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// RowSample is some of the rows in which two tables differ.
type RowSample struct {
	Added, Removed []SampledRow
	Changed        []ChangedRow
	// Whole: it is all rows in which they differ.
	Whole bool
}

// SampledRow is a row that one side has.
type SampledRow struct {
	View      record.ViewNumber // 0: a row without identity
	Partition record.Partition
	Offset    record.Offset
	Row       json.RawMessage
}

// ChangedRow is a row that both sides have, with other values.
type ChangedRow struct {
	Was SampledRow
	Now json.RawMessage
}

func (r *SampledRow) identity() rowRange {
	return rowRange{r.View, r.Partition, record.Range{Start: r.Offset, End: r.Offset + 1}}
}

const (
	// maxSampled bounds the rows of each side that are held against the other
	// side, and maxSampledBytes what they take.
	maxSampled      = 20_000
	maxSampledBytes = 32 << 20
	// maxLookups bounds the files that are searched for counterparts.
	maxLookups = 64
)

// sampler compares the rows of two tables.
type sampler struct {
	ids   *identities
	rows  *rowText
	o     CompareOptions
	bytes int
	whole bool
}

// sampleRows finds rows in which b differs from a, of which apart is the
// difference in files.
func sampleRows(ctx context.Context, a, b *Table, apart *side, ids *identities, o CompareOptions) (RowSample, error) {
	text, err := newRowText(o.Schema)
	if err != nil {
		return RowSample{}, err
	}
	s := sampler{ids: ids, rows: text, o: o, whole: true}
	now, before, err := apart.publishedRows(ctx, ids)
	if err != nil {
		return RowSample{}, err
	}
	onlyA := slices.Concat(inOrder(apart.lost), inOrder(apart.thinned))
	onlyB := slices.Concat(inOrder(apart.gained), inOrder(apart.thinned))
	was, err := s.collect(ctx, a, onlyA, true, now)
	if err != nil {
		return RowSample{}, err
	}
	is, err := s.collect(ctx, b, onlyB, false, before)
	if err != nil {
		return RowSample{}, err
	}
	// Rows that one side's part of the sample has may stand on the other side
	// beyond what was collected there.
	if err := s.complete(ctx, b, onlyB, false, was, is); err != nil {
		return RowSample{}, err
	}
	if err := s.complete(ctx, a, onlyA, true, is, was); err != nil {
		return RowSample{}, err
	}
	return s.judge(was, is), nil
}

// sampled are rows of one side.
type sampled struct {
	order []SampledRow
	at    map[rowRange]int // identified ones
}

func (s *sampled) put(r SampledRow) {
	if r.View > 0 {
		s.at[r.identity()] = len(s.order)
	}
	s.order = append(s.order, r)
}

// collect reads rows of pieces that the other side does not have as they are:
// published ones that are not among those of the other side, and all others.
func (s *sampler) collect(ctx context.Context, t *Table, pieces []*piece, old bool, other rowSet) (*sampled, error) {
	out := &sampled{at: map[rowRange]int{}}
	for _, p := range pieces {
		pub := published(p.entry.DataFile())
		gone, common := p.gone, p.was
		if old {
			gone, common = p.was, p.gone
		}
		if pub {
			rows, err := s.ids.of(ctx, p.entry, gone)
			if err != nil {
				return nil, err
			}
			if len(rows.minus(other)) == 0 {
				continue
			}
		}
		full, err := s.read(ctx, t, p.entry, gone, func(at int64, r SampledRow) bool {
			if pub && other.has(r.View, r.Partition, r.Offset) {
				return true
			}
			if p.both && !pub {
				// The other side has the row too, unless it deleted it.
				if _, deleted := slices.BinarySearch(common, at); !deleted {
					return true
				}
			}
			if len(out.order) >= maxSampled || s.bytes >= maxSampledBytes {
				return false
			}
			s.bytes += len(r.Row)
			out.put(r)
			return true
		})
		if err != nil {
			return nil, err
		}
		if !full {
			s.whole = false
			break
		}
	}
	return out, nil
}

// complete looks on a side for the counterparts of rows of the other.
func (s *sampler) complete(ctx context.Context, t *Table, pieces []*piece, old bool, of, in *sampled) error {
	missing := map[rowRange]bool{}
	for id := range of.at {
		if _, ok := in.at[id]; !ok {
			missing[id] = true
		}
	}
	for n, p := range pieces {
		if len(missing) == 0 {
			return nil
		}
		if published(p.entry.DataFile()) || !identified(p.entry.DataFile()) {
			continue // looked at as a whole, or nothing to find
		}
		if n >= maxLookups {
			s.whole = false
			return nil
		}
		gone := p.gone
		if old {
			gone = p.was
		}
		if _, err := s.read(ctx, t, p.entry, gone, func(_ int64, r SampledRow) bool {
			if r.View > 0 && missing[r.identity()] {
				delete(missing, r.identity())
				in.put(r)
			}
			return len(missing) > 0
		}); err != nil {
			return err
		}
	}
	return nil
}

// cancel drops rows without identity that both sides have alike: an engine wrote
// them into another file.
func cancel(was, is *sampled) {
	left := map[string]int{}
	for _, r := range was.order {
		if r.View == 0 {
			left[string(r.Row)]++
		}
	}
	both := map[string]int{}
	keep := func(in []SampledRow, from, to map[string]int) []SampledRow {
		return slices.DeleteFunc(in, func(r SampledRow) bool {
			if r.View > 0 || from[string(r.Row)] == 0 {
				return false
			}
			from[string(r.Row)]--
			to[string(r.Row)]++
			return true
		})
	}
	index := func(x *sampled) {
		clear(x.at)
		for i := range x.order {
			if x.order[i].View > 0 {
				x.at[x.order[i].identity()] = i
			}
		}
	}
	is.order = keep(is.order, left, both)
	was.order = keep(was.order, both, map[string]int{})
	index(is)
	index(was)
}

// judge sorts rows into added, removed and changed ones.
func (s *sampler) judge(was, is *sampled) RowSample {
	cancel(was, is)
	out := RowSample{Whole: s.whole}
	for _, r := range was.order {
		if i, ok := is.at[r.identity()]; ok && r.View > 0 {
			if now := is.order[i].Row; string(now) != string(r.Row) {
				if len(out.Changed) < s.o.Sample {
					out.Changed = append(out.Changed, ChangedRow{r, now})
				} else {
					out.Whole = false
				}
			}
			continue
		}
		if len(out.Removed) < s.o.Sample {
			out.Removed = append(out.Removed, r)
		} else {
			out.Whole = false
		}
	}
	for _, r := range is.order {
		if _, ok := was.at[r.identity()]; ok && r.View > 0 {
			continue
		}
		if len(out.Added) < s.o.Sample {
			out.Added = append(out.Added, r)
		} else {
			out.Whole = false
		}
	}
	return out
}

// read visits the rows of a file that are not gone, until visit says that it has
// enough; full is then false.
func (s *sampler) read(ctx context.Context, t *Table, e iceberg.ManifestEntry, gone []int64, visit func(at int64, r SampledRow) bool) (full bool, err error) {
	one := func(context.Context) (fileSet, error) { return fileSet{data: []iceberg.ManifestEntry{e}}, nil }
	at := int64(0)
	for b, err := range t.stream(ctx, ScanOptions{Schema: s.o.Schema.WithSystem(), BatchRows: 4096}, one) {
		if err != nil {
			return false, err
		}
		more, err := s.rows.each(b, func(i int, r SampledRow) bool {
			if _, deleted := slices.BinarySearch(gone, at+int64(i)); deleted {
				return true
			}
			return visit(at+int64(i), r)
		})
		if err != nil || !more {
			return false, err
		}
		at += b.NumRows()
	}
	return true, nil
}

// rowText gives rows of a scan as JSON.
type rowText struct {
	user      *schema.Schema
	arrow     *arrow.Schema
	fromArrow *schema.ArrowToAvro
	toJSON    *schema.AvroToJSON
	avro      []byte
}

func newRowText(s *schema.Schema) (*rowText, error) {
	from, err := schema.CompileArrowToAvro(s.Arrow(), s, schema.ArrowOptions{ByID: true, MaxRowBytes: record.MaxBatchBytes})
	if err != nil {
		return nil, err
	}
	to, err := schema.CompileAvroToJSON(s, s, schema.JSONOutOptions{NumbersAsText: true})
	if err != nil {
		return nil, err
	}
	return &rowText{user: s, arrow: s.Arrow(), fromArrow: from, toJSON: to}, nil
}

// each visits the rows of a batch, whose last four columns are the system's.
func (t *rowText) each(b arrow.RecordBatch, visit func(i int, r SampledRow) bool) (more bool, err error) {
	n := len(t.user.Fields)
	views, partitions, offsets := b.Column(n).(*array.Int32), b.Column(n+1).(*array.Int32), b.Column(n+2).(*array.Int64)
	user := array.NewRecordBatch(t.arrow, b.Columns()[:n], b.NumRows())
	defer user.Release()
	rows, err := t.fromArrow.Bind(user)
	if err != nil {
		return false, err
	}
	for i := range rows.Len() {
		if t.avro, err = rows.Row(t.avro[:0], i); err != nil {
			return false, err
		}
		text, err := t.toJSON.Row(nil, t.avro)
		if err != nil {
			return false, err
		}
		if !visit(i, SampledRow{
			View: record.ViewNumber(views.Value(i)), Partition: record.Partition(partitions.Value(i)), Offset: record.Offset(offsets.Value(i)), Row: text,
		}) {
			return false, nil
		}
	}
	return true, nil
}
