package predicate

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// TestFilterLikeOracle holds the column-wise evaluation against the oracle, and
// Select against the rows that were selected.
func TestFilterLikeOracle(t *testing.T) {
	t.Parallel()
	s := allTypesSchema(t)
	var sel Selection // reused, also after errors and for other sizes
	rapid.Check(t, func(r *rapid.T) {
		texts := make([]string, rapid.IntRange(0, 150).Draw(r, "rows"))
		distinct := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) string { return drawRow(r, s.Fields) }), 1, 12).Draw(r, "distinct")
		for i := range texts {
			texts[i] = distinct[(i*7+i/5)%len(distinct)]
		}
		where := drawWhere(r, s, 3)
		e, err := Parse(where)
		if err != nil {
			r.Fatal(err)
		}
		b, err := e.Bind(s)
		if err != nil {
			r.Fatal(err)
		}
		whole := batch(t, s, texts)
		defer whole.Release()
		from := rapid.IntRange(0, len(texts)).Draw(r, "from")
		to := rapid.IntRange(from, len(texts)).Draw(r, "to")
		rec := whole.NewSlice(int64(from), int64(to))
		defer rec.Release()
		if err := b.Filter(rec, &sel); err != nil {
			r.Fatal(err)
		}
		var want []string
		for i := from; i < to; i++ {
			match := plain(t, s.Fields, texts[i]).eval(e.root, s) == isTrue
			if match {
				want = append(want, texts[i])
			}
			if sel.Has(i-from) != match {
				r.Fatalf("%s is %v for %s", where, sel.Has(i-from), texts[i])
			}
		}
		if sel.Count() != len(want) || sel.Len() != to-from {
			r.Fatalf("%d of %d rows", sel.Count(), sel.Len())
		}
		n := 0
		for i := sel.Next(0); i >= 0; i = sel.Next(i + 1) {
			if n++; !sel.Has(i) {
				r.Fatalf("Next gave row %d", i)
			}
		}
		if n != len(want) {
			r.Fatalf("Next gave %d rows of %d", n, len(want))
		}
		got, err := Select(t.Context(), rec, &sel)
		if err != nil {
			r.Fatal(err)
		}
		defer got.Release()
		wanted := batch(t, s, want)
		defer wanted.Release()
		if !array.RecordEqual(wanted, got) {
			r.Fatalf("selected %v\nwant %v", got, wanted)
		}
	})
}

// TestFilterEveryComparison compares every value with every literal of its type.
func TestFilterEveryComparison(t *testing.T) {
	t.Parallel()
	s := allTypesSchema(t)
	var sel Selection
	for _, f := range s.Fields {
		pool, ok := pools[f.Type.Kind]
		if !ok {
			continue
		}
		var texts []string
		for _, v := range append(pool.values, "null") {
			texts = append(texts, fmt.Sprintf(`{%q:%s}`, f.Name, v))
		}
		rec := batch(t, s, texts)
		for _, l := range pool.literals {
			for _, form := range []string{"= %s", "!= %s", "< %s", "<= %s", "> %s", ">= %s", "IN (%s)", "NOT IN (%s)"} {
				if f.Type.Kind == schema.Boolean && strings.ContainsAny(form, "<>") {
					continue
				}
				where := quoteName(f.Name) + " " + fmt.Sprintf(form, l)
				e, err := Parse(where)
				if err != nil {
					t.Fatal(err)
				}
				if err := mustBind(t, s, where).Filter(rec, &sel); err != nil {
					t.Fatal(err)
				}
				for i := range texts {
					if want := plain(t, s.Fields, texts[i]).eval(e.root, s) == isTrue; sel.Has(i) != want {
						t.Errorf("%s is %v for %s", where, !want, texts[i])
					}
				}
			}
		}
		rec.Release()
	}
}

func TestBindErrors(t *testing.T) {
	t.Parallel()
	s := allTypesSchema(t)
	for where, want := range map[string]string{
		"nope = 1":                               "there is no column nope",
		"TEXT = 'a'":                             "did you mean text?",
		`"in" = 1`:                               "is STRUCT; only IS NULL",
		"list = 1":                               "is ARRAY; only IS NULL",
		"list.element = 1":                       "the parts of list, which is ARRAY",
		"text = 1":                               "expected a text for this STRING column",
		"text = X'00'":                           "expected a text",
		"raw = 'a'":                              "expected a binary",
		"l = '1'":                                "expected a number for this LONG column",
		"l = TRUE":                               "expected a number",
		"dec IN (1, 'a')":                        "expected a number for this DECIMAL column",
		"f = 'NaN'":                              "expected a number",
		"flag = 1":                               "expected TRUE or FALSE",
		"flag < TRUE":                            "neither less nor greater",
		"day = '2018-02-30'":                     "expected a date",
		"day = 17567":                            "expected a date",
		"day = '2018-02-05T00:00Z'":              "expected a date",
		"at = 1517363399650":                     "expected a timestamp",
		"at = '2018-02-05T10:00:00.1234567891Z'": "expected a timestamp",
		"_offset = 1":                            "there is no column _offset",
	} {
		e, err := Parse(where)
		if err != nil {
			t.Fatal(err)
		}
		_, err = e.Bind(s)
		var pe *Error
		if !errors.As(err, &pe) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "^") {
			t.Errorf("%s: %v", where, err)
		}
	}
	b := mustBind(t, s.WithSystem(), "_offset >= 5 AND _timestamp < '2018-01-01' AND _offset < 9 AND \"in\".deep.x = 1")
	var paths []string
	for _, c := range b.Columns() {
		paths = append(paths, c.Path)
	}
	if diff := cmp.Diff([]string{"_offset", "_timestamp", "in.deep.x"}, paths); diff != "" {
		t.Error(diff)
	}
}

func TestFilterRefuses(t *testing.T) {
	t.Parallel()
	s := allTypesSchema(t)
	rec := batch(t, s, []string{"{}"})
	defer rec.Release()
	other, err := schema.Parse([]byte(`{"fields":[{"name":"l","type":"INTEGER"},{"name":"in","type":"LONG"},{"name":"dec","type":"DECIMAL","precision":20,"scale":3},{"name":"gone","type":"LONG"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{"l = 1", `"in" = 1`, "dec = 1", "gone = 1"} {
		var sel Selection
		if err := mustBind(t, other, where).Filter(rec, &sel); !errors.Is(err, record.ErrInvalid) {
			t.Errorf("%s: %v", where, err)
		}
	}
}

func BenchmarkFilter(b *testing.B) {
	s := allTypesSchema(b)
	texts := make([]string, 64<<10)
	for i := range texts {
		texts[i] = fmt.Sprintf(`{"l":%d,"d":%d.5,"text":"station %d","at":%d,"in":{"deep":{"x":%d}}}`, i, i, i%100, i, i)
		if i%10 == 0 {
			texts[i] = "{}"
		}
	}
	rec := batch(b, s, texts)
	for _, where := range []string{"l >= 32768", "d < 1e4 AND l != 7", "text = 'station 17'", "text IN ('station 1', 'station 2', 'station 3')", `"in".deep.x > 60000 OR at IS NULL`} {
		b.Run(where, func(b *testing.B) {
			bound := mustBind(b, s, where)
			var sel Selection
			b.ReportAllocs()
			for b.Loop() {
				if err := bound.Filter(rec, &sel); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(texts))*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mrows/s")
		})
	}
}

func BenchmarkSelect(b *testing.B) {
	s := allTypesSchema(b)
	texts := make([]string, 64<<10)
	for i := range texts {
		texts[i] = fmt.Sprintf(`{"l":%d,"d":%d.5,"text":"station %d","at":%d,"in":{"deep":{"x":%d}},"list":[%d]}`, i, i, i%100, i, i, i)
	}
	rec := batch(b, s, texts)
	for _, where := range []string{"text = 'station 17'", "l >= 32768", "text != 'station 17'"} {
		b.Run(where, func(b *testing.B) {
			var sel Selection
			if err := mustBind(b, s, where).Filter(rec, &sel); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				out, err := Select(b.Context(), rec, &sel)
				if err != nil {
					b.Fatal(err)
				}
				out.Release()
			}
			b.ReportMetric(float64(len(texts))*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mrows/s")
		})
	}
}

func TestFilterNaN(t *testing.T) {
	t.Parallel()
	s, err := schema.Parse([]byte(`{"fields":[{"name":"x","type":"DOUBLE","id":5}]}`))
	if err != nil {
		t.Fatal(err)
	}
	b := array.NewRecordBuilder(memory.DefaultAllocator, s.Arrow())
	b.Field(0).(*array.Float64Builder).AppendValues([]float64{math.NaN(), 1}, nil)
	rec := b.NewRecordBatch()
	for where, want := range map[string]bool{
		"x = 1": false, "x != 1": true, "x < 1": false, "x >= 1": false, "NOT x < 1": true,
		"x IN (1, 2)": false, "x NOT IN (1, 2)": true, "x IS NULL": false, "x > -1e400": false,
	} {
		bound := mustBind(t, s, where)
		var sel Selection
		if err := bound.Filter(rec, &sel); err != nil {
			t.Fatal(err)
		}
		if sel.Has(0) != want {
			t.Errorf("%s is %v for NaN", where, sel.Has(0))
		}
		if stats := (oneColumn{Min: FloatValue(1), Max: FloatValue(1), Values: 2}); want && !bound.MayMatch(stats) {
			t.Errorf("%s prunes a NaN", where)
		}
	}
}

type oneColumn ColumnStats

func (c oneColumn) Column(int) (ColumnStats, bool) { return ColumnStats(c), true }

func mustBind(t testing.TB, s *schema.Schema, where string) *Bound {
	t.Helper()
	e, err := Parse(where)
	if err != nil {
		t.Fatal(err)
	}
	b, err := e.Bind(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
