package dataset_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/predicate"
)

// TestLayoutPruning holds scans with predicates against the rows: whatever is skipped
// by partitions, bounds and Bloom filters, no row that matches is.
func TestLayoutPruning(t *testing.T) {
	t.Parallel()
	s := layoutFields()
	for i, partitioning := range []string{
		"bool;short", "bucket[4](text);truncate[2](text)", "bucket[3](dec);truncate[1000000](dec)", "year(ts)", "month(ts);date", "day(ts);bucket[3](bin)",
		"hour(ts)", "truncate[3](int);bucket[5](long)", "truncate[2](bin);month(date)", "rec.key", "dec", "bin;text",
	} {
		t.Run(partitioning, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(uint64(i), 7))
			e := newMemEnv(t)
			e.create(s)
			l, err := schema.CompileLayout(s, e.list(partitioning), nil, []string{"short", "int", "long", "dec", "text", "bin", "date", "ts", "rec.key"})
			if err != nil {
				t.Fatal(err)
			}
			at := int64(0)
			for k := range 2 {
				b := layoutRows(r, s, at, at+60)
				at += 60
				e.laidOut(s, l, []dataset.Format{dataset.Parquet, dataset.Avro}[k], at, b)
				b.Release()
			}
			tab := e.load()
			all := s.WithSystem()
			skipped := 0
			for range 40 {
				where := randomWhere(r)
				expr, err := predicate.Parse(where)
				if err != nil {
					t.Fatal(err)
				}
				filter, err := expr.Bind(all)
				if err != nil {
					t.Fatal(where, err)
				}
				count := func(f *predicate.Bound) (n int) {
					var stats dataset.ScanStats
					for b, err := range tab.Scan(t.Context(), dataset.ScanOptions{Schema: all, Filter: f, Stats: &stats}) {
						if err != nil {
							t.Fatal(where, err)
						}
						var sel predicate.Selection
						if err := filter.Filter(b, &sel); err != nil {
							t.Fatal(err)
						}
						n += sel.Count()
					}
					skipped += stats.FilesSkipped + stats.RowGroupsSkipped
					return n
				}
				if got, want := count(filter), count(nil); got != want {
					t.Fatalf("%s: %d rows, want %d", where, got, want)
				}
			}
			if skipped == 0 {
				t.Error("nothing was ever skipped")
			}
		})
	}
}

func randomWhere(r *rand.Rand) string {
	small := int64(r.IntN(8) - 4)
	ops := []string{"=", "=", "=", "<", "<=", ">", ">=", "!="}
	text := "'" + []string{"", "a", "ab", "abc", "äö", "äöü", "€uro", "zz"}[r.IntN(8)] + "'"
	op := ops[r.IntN(len(ops))]
	stamp := func(days int64) string {
		return fmt.Sprintf("'%s'", arrow.Timestamp(days*86_400_000_000/3).ToTime(arrow.Microsecond).Format("2006-01-02T15:04:05.999999Z07:00"))
	}
	switch r.IntN(12) {
	case 0:
		return "bool = " + strconv.FormatBool(small > 0)
	case 1:
		return fmt.Sprintf("short %s %d", op, small)
	case 2:
		return fmt.Sprintf("int %s %d", op, small)
	case 3:
		return fmt.Sprintf("long %s %d", op, small*1_000_000_007)
	case 4:
		return fmt.Sprintf("dec %s %s", op, []string{"123456789.01", "-246913578.02", "370370367.03", "0"}[r.IntN(4)])
	case 5:
		return "text " + op + " " + text
	case 6:
		return fmt.Sprintf("bin %s X'%X'", op, []string{"a\xff", "ab\xff", "\xff", "abc\xff", "zz"}[r.IntN(5)])
	case 7:
		return fmt.Sprintf("date %s '%s'", op, arrow.Date32(small*200).ToTime().Format("2006-01-02"))
	case 8:
		return fmt.Sprintf("ts %s %s", op, stamp(small*40))
	case 9:
		return fmt.Sprintf("rec.key %s %d", op, small*1_000_000_007)
	case 10:
		return fmt.Sprintf("int IN (%d, %d) AND text IS NOT NULL", small, small+2)
	}
	return "text IN (" + text + ", 'abc') OR ts IS NULL"
}

func (e *env) list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ";")
}

// TestBloomFilters: a value that is nowhere, but within the bounds, costs no row group;
// every value that is there is found, also under a wider type.
func TestBloomFilters(t *testing.T) {
	t.Parallel()
	s := &schema.Schema{Fields: []schema.Field{
		{ID: 1, Name: "i", Type: schema.Type{Kind: schema.Integer}}, {ID: 2, Name: "t", Type: schema.Type{Kind: schema.String}, Nullable: true},
		{ID: 3, Name: "d", Type: schema.Type{Kind: schema.Decimal, Precision: 9, Scale: 1}}, {ID: 4, Name: "w", Type: schema.Type{Kind: schema.Decimal, Precision: 30, Scale: 1}},
	}}
	e := newMemEnv(t)
	e.d.SetRowGroupRows(100)
	e.create(s)
	l, err := schema.CompileLayout(s, nil, nil, []string{"i", "t", "d", "w"})
	if err != nil {
		t.Fatal(err)
	}
	e.commit(dataset.Commit{Schema: s, Layout: l})
	b := array.NewRecordBuilder(memory.DefaultAllocator, s.WithSystem().Arrow())
	defer b.Release()
	const rows = 1000
	for i := range int64(rows) {
		v := (i*7919)%rows*2 - rows // even, in no order
		b.Field(0).(*array.Int32Builder).Append(int32(v))
		b.Field(1).(*array.StringBuilder).Append(fmt.Sprintf("user-%04d", v+rows))
		b.Field(2).(*array.Decimal128Builder).Append(decimal128.FromI64(v))
		b.Field(3).(*array.Decimal128Builder).Append(decimal128.FromI64(v))
		appendSystem(b, 4, 2, 0, record.Offset(i))
	}
	batch := b.NewRecordBatch()
	defer batch.Release()
	tab, err := e.d.Load(t.Context(), e.id)
	if err != nil {
		t.Fatal(err)
	}
	e.commit(dataset.Commit{Base: tab, Add: []dataset.DataFile{e.file(tab, s, fileName(0, 0, rows), batch)}, Marker: marker(rows)})
	wide := s.Clone()
	wide.Fields[0].Type.Kind, wide.Fields[2].Type.Precision = schema.Long, 20
	e.commit(dataset.Commit{Schema: wide})
	if got := e.load().Metadata().Properties()["write.parquet.bloom-filter-enabled.column.t"]; got != "true" {
		t.Errorf("other engines are told %q of the Bloom filter", got)
	}
	read := func(where string) (groups int, found int) {
		t.Helper()
		expr, err := predicate.Parse(where)
		if err != nil {
			t.Fatal(err)
		}
		f, err := expr.Bind(wide.WithSystem())
		if err != nil {
			t.Fatal(err)
		}
		var stats dataset.ScanStats
		for b, err := range e.load().Scan(t.Context(), dataset.ScanOptions{Schema: wide.WithSystem(), Filter: f, Stats: &stats}) {
			if err != nil {
				t.Fatal(err)
			}
			var sel predicate.Selection
			if err := f.Filter(b, &sel); err != nil {
				t.Fatal(err)
			}
			found += sel.Count()
		}
		return stats.RowGroups - stats.RowGroupsSkipped, found
	}
	r := rand.New(rand.NewPCG(3, 3))
	for _, where := range []func(v int64) string{
		func(v int64) string { return fmt.Sprintf("i = %d", v) },
		func(v int64) string { return fmt.Sprintf("t = 'user-%04d'", v+rows) },
		func(v int64) string { return fmt.Sprintf("d = %.1f", float64(v)/10) },
		func(v int64) string { return fmt.Sprintf("w IN (%.1f, 5000.5)", float64(v)/10) },
	} {
		missing := 0
		for range 40 {
			v := int64(r.IntN(rows))*2 - rows
			if groups, found := read(where(v)); found != 1 || groups > 4 {
				t.Fatalf("%s: %d rows in %d row groups", where(v), found, groups)
			}
			groups, found := read(where(v + 1)) // odd
			if found != 0 {
				t.Fatalf("%s: %d rows", where(v+1), found)
			}
			missing += groups
		}
		if missing > 40 { // of 400
			t.Errorf("%s: %d row groups were read for values that are nowhere", where(1), missing)
		}
	}
}
