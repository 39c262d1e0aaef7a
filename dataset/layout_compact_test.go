package dataset_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// TestCompactLayouts compacts archives of several layouts and formats in one table: only
// files of one partition, spec and order are joined, those are sorted, and the rows
// of the view stay what they were.
func TestCompactLayouts(t *testing.T) {
	t.Parallel()
	e, s, r := newMemEnv(t), layoutFields(), rand.New(rand.NewPCG(1, 2))
	e.create(s)
	var want []string
	at := int64(0)
	for i := range 18 {
		c := []struct{ partitioning, order string }{{"bool", ""}, {"bucket[2](long)", "text desc;ts"}, {"", "int"}}[i/6]
		l := e.layout(s, c.partitioning, c.order)
		b := layoutRows(r, s, at, at+40)
		defer b.Release()
		want = append(want, render(b)...)
		at += 40
		e.laidOut(s, l, []dataset.Format{dataset.Parquet, dataset.Avro}[i%2], at, b)
	}
	type place struct {
		spec, order int
		tuple       string
	}
	count := func() map[place]int {
		out := map[place]int{}
		for f, err := range e.load().Files(t.Context(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			out[place{f.SpecID, f.SortOrderID, fmt.Sprint(f.Partition)}]++
		}
		return out
	}
	before := count()
	for {
		// Small windows, so that rows come in several.
		d := e.other()
		d.SetWindowBytes(16 << 10)
		c, err := d.Compact(t.Context(), e.id, dataset.CompactOptions{Schema: s})
		if err != nil {
			t.Fatal(err)
		}
		if c.Files == 0 {
			break
		}
		head, _ := e.load().Head()
		for f, err := range e.load().Files(t.Context(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			if f.Snapshot != head.ID {
				continue
			}
			for _, o := range e.load().Metadata().SortOrders() {
				if o.OrderID() == f.SortOrderID && f.SortOrderID == 2 {
					checkSorted(t, e, s, f.Path, e.layout(s, "", "int"))
				}
				if o.OrderID() == f.SortOrderID && f.SortOrderID == 1 {
					checkSorted(t, e, s, f.Path, e.layout(s, "", "text desc;ts"))
				}
			}
		}
		if diff := cmp.Diff(want, e.ordered(e.load(), dataset.OrderedOptions{ScanOptions: dataset.ScanOptions{Schema: s.WithSystem(), View: 2}})); diff != "" {
			t.Fatal(diff)
		}
	}
	after := count()
	if len(after) != len(before) {
		t.Errorf("compaction changed the partitions: %v, then %v", before, after)
	}
	for p, n := range after {
		if n >= 4 {
			t.Errorf("%d files of %v were left", n, p)
		}
	}
}

func checkSorted(t *testing.T, e *env, s *schema.Schema, path string, l *schema.Layout) {
	t.Helper()
	set, err := e.load().FileRows(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range set.Len() {
		if set.File(i).Path != path {
			continue
		}
		var last arrow.RecordBatch
		for b, err := range set.Rows(t.Context(), i, dataset.ScanOptions{Schema: s.WithSystem(), BatchRows: 1}) {
			if err != nil {
				t.Fatal(err)
			}
			if last != nil {
				if !inOrder(s, l, last, b) {
					t.Fatalf("row\n%s stands before\n%s", render(last)[0], render(b)[0])
				}
				last.Release()
			}
			b.Retain()
			last = b
		}
		last.Release()
	}
}

// TestLayoutColumnsEvolve: the columns of a layout are widened, renamed and, once it is
// gone, dropped; what was written before keeps its partition and order.
func TestLayoutColumnsEvolve(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	s := &schema.Schema{Fields: []schema.Field{
		{ID: 1, Name: "a", Type: schema.Type{Kind: schema.Integer}}, {ID: 2, Name: "b", Type: schema.Type{Kind: schema.Integer}},
	}}
	e.create(s)
	rows := func(s *schema.Schema, from, to int64) arrow.RecordBatch {
		b := array.NewRecordBuilder(memory.DefaultAllocator, s.WithSystem().Arrow())
		defer b.Release()
		for o := from; o < to; o++ {
			for c := range s.Fields {
				switch f := b.Field(c).(type) {
				case *array.Int32Builder:
					f.Append(int32(o % 3))
				case *array.Int64Builder:
					f.Append(o%3 + 1<<40*(o%2))
				}
			}
			appendSystem(b, len(s.Fields), 2, 0, record.Offset(o))
		}
		return b.NewRecordBatch()
	}
	at := int64(0)
	archive := func(s *schema.Schema, l *schema.Layout, times int) {
		t.Helper()
		for range times {
			b := rows(s, at, at+12)
			at += 12
			e.laidOut(s, l, dataset.Parquet, at, b)
			b.Release()
		}
	}
	tuples := func() map[string]int {
		out := map[string]int{}
		for f, err := range e.load().Files(t.Context(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range f.Partition {
				out[fmt.Sprint(v)]++
			}
		}
		return out
	}
	whole := func(s *schema.Schema) {
		t.Helper()
		got := e.ordered(e.load(), dataset.OrderedOptions{ScanOptions: dataset.ScanOptions{Schema: s.WithSystem(), View: 2}})
		for i, row := range got {
			if !strings.Contains(row, fmt.Sprintf("_offset=%d ", i)) {
				t.Fatalf("row %d is %s", i, row)
			}
		}
		if int64(len(got)) != at {
			t.Fatalf("%d rows, want %d", len(got), at)
		}
	}
	archive(s, e.layout(s, "a", "b"), 20) // manifests are merged
	whole(s)

	wide := s.Clone()
	wide.Fields[0].Type.Kind, wide.Fields[1].Type.Kind, wide.Fields[0].Name = schema.Long, schema.Long, "renamed"
	archive(wide, e.layout(wide, "renamed", "b"), 20)
	whole(wide)
	for _, v := range []string{"0", "1", "2", fmt.Sprint(1<<40 + 1)} {
		if tuples()[v] == 0 {
			t.Errorf("no file with %s: %v", v, tuples())
		}
	}
	before := tuples()
	specs := len(e.load().Metadata().PartitionSpecs())
	if specs != 2 {
		t.Errorf("%d specs, want the unpartitioned one and one", specs)
	}

	less := &schema.Schema{Fields: []schema.Field{{ID: 3, Name: "c", Type: schema.Type{Kind: schema.Long}, Nullable: true}}}
	archive(less, &schema.Layout{}, 20)
	whole(less)
	for v, n := range before {
		if tuples()[v] != n {
			t.Errorf("files with %s: %d, were %d: the column was dropped", v, tuples()[v], n)
		}
	}
	// Compaction rewrites manifests and files of the spec whose column is gone.
	for {
		c, err := e.other().Compact(t.Context(), e.id, dataset.CompactOptions{Schema: less})
		if err != nil {
			t.Fatal(err)
		}
		if c.Files == 0 {
			break
		}
	}
	whole(less)
	for v := range before {
		if tuples()[v] == 0 {
			t.Errorf("no file with %s is left: %v", v, tuples())
		}
	}
}

// TestLayoutSpread: rows of too many partitions go to files of none.
func TestLayoutSpread(t *testing.T) {
	t.Parallel()
	e, s := newMemEnv(t), numbers()
	e.create(s)
	l := e.layout(s, "n", "n desc")
	e.commit(dataset.Commit{Layout: l})
	b := numberBatch(s, 0, 0, 300)
	defer b.Release()
	files, spread, err := e.load().WriteFiles(t.Context(), fileName(0, 0, 300), s, dataset.Parquet, l, []arrow.RecordBatch{b})
	if err != nil || !spread || len(files) != 1 {
		t.Fatalf("%d files, spread %v, %v", len(files), spread, err)
	}
	if i := files[0].Info(); len(i.Partition) != 0 || i.SortOrderID == 0 || i.Rows != 300 {
		t.Errorf("the file is %+v", i)
	}
	e.commit(dataset.Commit{Add: files, Marker: marker(300)})
	got := e.ordered(e.load(), dataset.OrderedOptions{ScanOptions: dataset.ScanOptions{Schema: s.WithSystem(), View: 2}})
	if diff := cmp.Diff(render(b), got); diff != "" {
		t.Error(diff)
	}
}
