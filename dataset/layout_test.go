package dataset_test

import (
	gocmp "cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// layoutFields has a column of each kind that a layout can name, some in a struct.
func layoutFields() *schema.Schema {
	null := func(name string, t schema.Type) schema.Field {
		return schema.Field{Name: name, Type: t, Nullable: true}
	}
	s := &schema.Schema{Fields: []schema.Field{
		null("bool", schema.Type{Kind: schema.Boolean}),
		null("short", schema.Type{Kind: schema.Short}),
		null("int", schema.Type{Kind: schema.Integer}),
		null("long", schema.Type{Kind: schema.Long}),
		null("double", schema.Type{Kind: schema.Double}),
		null("dec", schema.Type{Kind: schema.Decimal, Precision: 20, Scale: 2}),
		null("text", schema.Type{Kind: schema.String}),
		null("bin", schema.Type{Kind: schema.Binary}),
		null("date", schema.Type{Kind: schema.Date}),
		null("ts", schema.Type{Kind: schema.Timestamp}),
		null("rec", schema.Type{Kind: schema.Struct, Fields: []schema.Field{null("key", schema.Type{Kind: schema.Long})}}),
		null("tags", schema.Type{Kind: schema.Array, Element: &schema.Field{Name: "element", Type: schema.Type{Kind: schema.String}, Nullable: true}}),
	}}
	s, _ = s.FreshIDs(schema.FirstUserID)
	return s
}

// layoutRows are rows of the offsets [from, to) over two partitions, in the order of
// the view; several have the same time.
func layoutRows(r *rand.Rand, s *schema.Schema, from, to int64) arrow.RecordBatch {
	b := array.NewRecordBuilder(memory.DefaultAllocator, s.WithSystem().Arrow())
	defer b.Release()
	for o := from; o < to; o += 5 {
		ts := 1_600_000_000_000_000 + o*1000
		for p := range int32(2) {
			for x := o; x < min(o+5, to); x++ {
				for c, f := range s.Fields {
					appendValue(r, b.Field(c), &f)
				}
				n := len(s.Fields)
				b.Field(n).(*array.Int32Builder).Append(2)
				b.Field(n + 1).(*array.Int32Builder).Append(p)
				b.Field(n + 2).(*array.Int64Builder).Append(x)
				b.Field(n + 3).(*array.TimestampBuilder).Append(arrow.Timestamp(ts))
			}
		}
	}
	return b.NewRecordBatch()
}

func appendValue(r *rand.Rand, b array.Builder, f *schema.Field) {
	if f.Nullable && r.IntN(8) == 0 {
		b.AppendNull()
		return
	}
	small := int64(r.IntN(7) - 3)
	text := []string{"", "a", "ab", "abc", "äöü", "äö", "€uro", "a\x00b", "a\x00", "\U0001F600x"}[r.IntN(10)]
	switch b := b.(type) {
	case *array.BooleanBuilder:
		b.Append(small > 0)
	case *array.Int32Builder:
		b.Append(int32(small))
	case *array.Int64Builder:
		b.Append(small * 1_000_000_007)
	case *array.Float64Builder:
		b.Append(float64(small) / 3)
	case *array.Decimal128Builder:
		b.Append(decimal128.FromI64(small * 12345678901))
	case *array.StringBuilder:
		b.Append(text)
	case *array.BinaryBuilder:
		b.Append([]byte(text + "\xff"))
	case *array.Date32Builder:
		b.Append(arrow.Date32(small * 200))
	case *array.TimestampBuilder:
		b.Append(arrow.Timestamp(small * 40 * 86_400_000_000 / 3))
	case *array.StructBuilder:
		b.Append(true)
		for i := range f.Type.Fields {
			appendValue(r, b.FieldBuilder(i), &f.Type.Fields[i])
		}
	case *array.ListBuilder:
		b.Append(true)
		for range r.IntN(3) {
			appendValue(r, b.ValueBuilder(), f.Type.Element)
		}
	default:
		panic(fmt.Sprintf("%T", b))
	}
}

// laidOut writes the rows of batches as one archive.
func (e *env) laidOut(s *schema.Schema, l *schema.Layout, format dataset.Format, to int64, batches ...arrow.RecordBatch) *dataset.Table {
	e.t.Helper()
	e.commit(dataset.Commit{Schema: s, Layout: l})
	t := e.load()
	name := dataset.FileName{View: 2, Epoch: 1}
	for p := range record.Partition(2) {
		name.Ranges = append(name.Ranges, dataset.PartRange{Partition: p, Range: record.Range{End: record.Offset(to)}})
	}
	files, spread, err := t.WriteFiles(e.t.Context(), name, s, format, l, batches)
	if err != nil || spread {
		e.t.Fatal(spread, err)
	}
	return e.commit(dataset.Commit{Base: t, Add: files, Marker: marker(record.Offset(to), record.Offset(to))})
}

func (e *env) layout(s *schema.Schema, partitioning, order string) *schema.Layout {
	e.t.Helper()
	list := func(text string) []string {
		if text == "" {
			return nil
		}
		return strings.Split(text, ";")
	}
	l, err := schema.CompileLayout(s, list(partitioning), list(order), nil)
	if err != nil {
		e.t.Fatal(err)
	}
	return l
}

// TestLayouts writes rows under one layout after the other into one table. Each
// file must hold rows of its partition only, as the transforms of the library have it,
// in its order, and an ordered scan must give back all rows in theirs.
func TestLayouts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			e, s, r := newMemEnv(t), layoutFields(), rand.New(rand.NewPCG(seed, 1))
			e.create(s)
			var want []string
			at := int64(0)
			for _, c := range []struct{ partitioning, order string }{
				{"", ""},
				{"bool;short", ""},
				{"bucket[4](text);truncate[2](text)", "long desc;text nulls last"},
				{"", "dec;double desc;bin"},
				{"day(ts);bucket[3](dec)", ""},
				{"month(ts);bucket[3](bin)", "rec.key desc nulls first"},
				{"year(date);truncate[3](short)", "date;bool"},
				{"hour(_timestamp);rec.key", "_timestamp desc"},
				{"truncate[100000](dec)", "ts"},
				{"truncate[2](bin)", ""},
				{"text", ""}, {"dec", "int"}, {"date", ""}, {"bucket[5](int);bucket[5](long);bucket[5](date)", ""}, {"hour(ts)", "text"},
				{"", ""},
			} {
				l, to := e.layout(s, c.partitioning, c.order), at+60
				batch := layoutRows(r, s, at, to)
				defer batch.Release()
				want = append(want, render(batch)...)
				format := []dataset.Format{dataset.Parquet, dataset.Avro}[r.IntN(2)]
				tab := e.laidOut(s, l, format, to, batch.NewSlice(0, 51), batch.NewSlice(51, batch.NumRows()))
				checkFiles(t, e, tab, s, l)
				at = to
			}
			for _, window := range []int64{64 << 10, 32 << 20} {
				d := e.other()
				d.SetWindowBytes(window)
				tab, err := d.Load(t.Context(), e.id)
				if err != nil {
					t.Fatal(err)
				}
				o := dataset.ScanOptions{Schema: s.WithSystem(), View: 2, BatchRows: 1 + r.IntN(100), BatchBytes: int(window / 8)}
				if diff := cmp.Diff(want, e.ordered(tab, dataset.OrderedOptions{ScanOptions: o})); diff != "" {
					t.Fatalf("windows of %d bytes: %s", window, diff)
				}
				if diff := cmp.Diff(want, e.resumed(r, tab, o)); diff != "" {
					t.Fatalf("windows of %d bytes, as guests, resumed: %s", window, diff)
				}
			}
		})
	}
}

// ordered renders the rows of an ordered scan.
func (e *env) ordered(t *dataset.Table, o dataset.OrderedOptions) []string {
	e.t.Helper()
	out := []string{}
	for p, err := range t.Ordered(e.t.Context(), o) {
		if err != nil {
			e.t.Fatal(err)
		}
		out = append(out, render(p.Rows)...)
	}
	return out
}

// resumed renders the rows as guests of another view, in scans of which each goes on
// where the one before was left.
func (e *env) resumed(r *rand.Rand, t *dataset.Table, o dataset.ScanOptions) []string {
	e.t.Helper()
	head, _ := t.Head()
	g := dataset.OrderedOptions{ScanOptions: o, Guests: true, Through: head.Sequence}
	g.View, g.SnapshotID = 3, head.ID
	out := []string{}
	for more := true; more; {
		more = false
		left := 1 + r.IntN(1200)
		for p, err := range t.Ordered(e.t.Context(), g) {
			if err != nil {
				e.t.Fatal(err)
			}
			n := min(left, int(p.Rows.NumRows()))
			out = append(out, render(p.Rows)[:n]...)
			g.At = p.Behind(n)
			if left -= n; left == 0 {
				more = true
				break
			}
		}
	}
	return out
}

// checkFiles checks the newest files against specs and orders.
func checkFiles(t *testing.T, e *env, tab *dataset.Table, s *schema.Schema, l *schema.Layout) {
	t.Helper()
	head, _ := tab.Head()
	m := tab.Metadata()
	spec, order := m.PartitionSpec(), m.SortOrder()
	set, err := e.load().FileRows(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for at := range set.Len() {
		f := set.File(at)
		if f.Snapshot != head.ID {
			continue
		}
		files++
		if f.SpecID != spec.ID() || len(f.Partition) != spec.NumFields() || spec.NumFields() != len(l.Partitioning) {
			t.Fatalf("%s: a file of spec %d with %v, the table's is %v", l, f.SpecID, f.Partition, spec)
		}
		if f.SortOrderID != order.OrderID() || order.Len() != len(l.SortOrder) {
			t.Fatalf("%s: a file of order %v, the table's is %v", l, f.SortOrderID, order)
		}
		var last arrow.RecordBatch
		for b, err := range set.Rows(t.Context(), at, dataset.ScanOptions{Schema: s.WithSystem(), BatchRows: 1}) {
			if err != nil {
				t.Fatal(err)
			}
			for k := range spec.NumFields() {
				pf := spec.Field(k)
				want := pf.Transform.Apply(valueOf(s, b, pf.SourceID()))
				got := f.Partition[pf.FieldID]
				if !want.Valid && got != nil || want.Valid && (got == nil || plain(want.Val.Any()) != plain(got)) {
					t.Fatalf("%s: row %s in a file of %v %v, want %v", l, render(b)[0], pf, got, want)
				}
			}
			if last != nil {
				if !inOrder(s, l, last, b) {
					t.Fatalf("%s: row\n%s stands before\n%s", l, render(last)[0], render(b)[0])
				}
				last.Release()
			}
			b.Retain()
			last = b
		}
		last.Release()
	}
	if files == 0 {
		t.Fatal("no files")
	}
}

// inOrder tells whether one row may stand before another.
func inOrder(s *schema.Schema, l *schema.Layout, a, b arrow.RecordBatch) bool {
	for _, f := range l.SortOrder {
		x, y := valueOf(s, a, f.ID), valueOf(s, b, f.ID)
		c := 0
		switch {
		case !x.Valid && !y.Valid:
		case !x.Valid || !y.Valid:
			return x.Valid == f.NullsLast
		default:
			if c = compare(x.Val.Any(), y.Val.Any()); f.Descending {
				c = -c
			}
		}
		if c != 0 {
			return c < 0
		}
	}
	n := int(a.NumCols())
	ts := func(r arrow.RecordBatch) int64 { return int64(r.Column(n - 1).(*array.Timestamp).Value(0)) }
	return ts(a) <= ts(b)
}

func compare(a, b any) int {
	switch a := a.(type) {
	case bool:
		return cmp2(fmt.Sprint(a), fmt.Sprint(b))
	case int32:
		return cmp2(a, b.(int32))
	case int64:
		return cmp2(a, b.(int64))
	case float64:
		return cmp2(a, b.(float64))
	case string:
		return cmp2(a, b.(string))
	case []byte:
		return cmp2(string(a), string(b.([]byte)))
	case iceberg.Date:
		return cmp2(a, b.(iceberg.Date))
	case iceberg.Timestamp:
		return cmp2(a, b.(iceberg.Timestamp))
	case iceberg.Decimal:
		return a.Val.Cmp(b.(iceberg.Decimal).Val)
	}
	panic(fmt.Sprintf("%T", a))
}

func cmp2[T gocmp.Ordered](a, b T) int { return gocmp.Compare(a, b) }

func plain(v any) string {
	switch v := v.(type) {
	case iceberg.Decimal:
		return v.Val.ToString(int32(v.Scale))
	case iceberg.DecimalLiteral:
		return v.Val.ToString(int32(v.Scale))
	case []byte:
		return string(v)
	}
	return fmt.Sprint(v)
}

// valueOf is a value of a row as the library has it.
func valueOf(s *schema.Schema, b arrow.RecordBatch, id int) iceberg.Optional[iceberg.Literal] {
	all := s.WithSystem()
	none := iceberg.Optional[iceberg.Literal]{}
	var find func(fields []schema.Field, column func(int) arrow.Array) arrow.Array
	isNull, row := false, 0
	find = func(fields []schema.Field, column func(int) arrow.Array) arrow.Array {
		for i := range fields {
			if fields[i].ID == id {
				return column(i)
			}
			if fields[i].Type.Kind == schema.Struct {
				st := column(i).(*array.Struct)
				if a := find(fields[i].Type.Fields, st.Field); a != nil {
					isNull = isNull || st.IsNull(row)
					return a
				}
			}
		}
		return nil
	}
	a := find(all.Fields, b.Column)
	if isNull || a.IsNull(row) {
		return none
	}
	some := func(l iceberg.Literal) iceberg.Optional[iceberg.Literal] {
		return iceberg.Optional[iceberg.Literal]{Valid: true, Val: l}
	}
	switch a := a.(type) {
	case *array.Boolean:
		return some(iceberg.NewLiteral(a.Value(row)))
	case *array.Int32:
		return some(iceberg.NewLiteral(a.Value(row)))
	case *array.Int64:
		return some(iceberg.NewLiteral(a.Value(row)))
	case *array.Float64:
		return some(iceberg.NewLiteral(a.Value(row)))
	case *array.Decimal128:
		return some(iceberg.NewLiteral(iceberg.Decimal{Val: a.Value(row), Scale: 2}))
	case *array.String:
		return some(iceberg.NewLiteral(a.Value(row)))
	case *array.Binary:
		return some(iceberg.NewLiteral(slices.Clone(a.Value(row))))
	case *array.Date32:
		return some(iceberg.NewLiteral(iceberg.Date(a.Value(row))))
	case *array.Timestamp:
		return some(iceberg.NewLiteral(iceberg.Timestamp(a.Value(row))))
	}
	panic(a.DataType().String())
}
