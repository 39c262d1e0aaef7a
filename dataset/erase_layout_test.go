package dataset_test

import (
	"math/rand/v2"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/dataset"
)

// TestEraseKeepsLayouts: files stay in their partitions and in their order.
func TestEraseKeepsLayouts(t *testing.T) {
	t.Parallel()
	e, s, r := newMemEnv(t), layoutFields(), rand.New(rand.NewPCG(5, 1))
	e.create(s)
	var want []string
	at, all := int64(0), int64(0)
	for i, c := range []struct{ partitioning, order string }{
		{"", ""}, {"bool;short", ""}, {"bucket[4](text);truncate[2](text)", "long desc;text nulls last"}, {"", "dec;double desc;bin"},
		{"day(ts);bucket[3](dec)", ""}, {"year(date);truncate[3](short)", "date;bool"}, {"text", ""}, {"dec", "int"}, {"hour(ts)", "text"},
	} {
		l, to := e.layout(s, c.partitioning, c.order), at+60
		batch := layoutRows(r, s, at, to)
		defer batch.Release()
		of := batch.Column(batch.Schema().FieldIndices("bool")[0]).(*array.Boolean)
		for j, text := range render(batch) {
			if of.IsNull(j) || !of.Value(j) {
				want = append(want, text)
			}
		}
		e.laidOut(s, l, []dataset.Format{dataset.Parquet, dataset.Avro}[i%2], to, batch)
		at, all = to, all+batch.NumRows()
	}
	o := e.eraseOptions()
	o.Where = where(t, "bool = true")
	if w, err := e.d.Erase(t.Context(), o); err != nil || w.Tables[0].Rows != all-int64(len(want)) {
		t.Fatalf("%+v, %v; %d rows are to be left", w, err, len(want))
	}
	got := e.ordered(e.load(), dataset.OrderedOptions{ScanOptions: dataset.ScanOptions{Schema: s.WithSystem(), View: 2}})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}
