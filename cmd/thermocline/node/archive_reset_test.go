package node

import (
	"fmt"
	"slices"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Two resets before any archive: each view's rows become a version of their own.
func TestTwoResetsBeforeAnArchive(t *testing.T) {
	t.Parallel()
	for _, archived := range []bool{false, true} {
		w := newWorldWith(t, catalog.Settings{Partitions: 2}, Options{})
		if archived {
			w.publish(3)
			w.archive()
			w.publish(7)
		} else {
			w.publish(10)
		}
		w.reset()
		w.publish(20)
		w.reset()
		w.publish(5)
		w.whole()
		w.restart()
		w.whole()
		w.archived()
		for view, want := range map[record.ViewNumber]int64{1: 10, 2: 20, 3: 5} {
			if got := w.mostRows(view); got != want {
				t.Errorf("the history holds %d rows of view %d, want %d", got, view, want)
			}
		}
		if v := w.node.log.Views(); len(v) != 1 {
			t.Errorf("the hot buffer holds %v", v)
		}
	}
}

// A reset to a schema that no evolution allows: the old view's hot rows are
// archived under the old schema, old versions stay readable, the dataset takes
// the new schema with the new view.
func TestResetWithAnotherSchema(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	w.publish(5)
	w.archive()
	w.publish(5)
	old := w.state().Schema
	other, err := schema.Parse([]byte(`{"fields":[{"name":"k","type":"LONG","nullable":false},{"name":"word","type":"STRING","nullable":false}]}`))
	if err != nil {
		t.Fatal(err)
	}
	st, err := w.node.directory.Reset(t.Context(), "s", "main", other, func(s catalog.Settings) catalog.Settings { return s })
	if err != nil {
		t.Fatal(err)
	}
	if st.Schema.Fields[0].ID == old.Fields[0].ID {
		t.Error("a field of another type kept its id")
	}
	w.restart()
	w.archive() // without rows of the new view
	if n := w.table().Schema().NumFields(); n != 6 {
		t.Errorf("the dataset has %d columns before the new view has rows", n)
	}
	w.publishBody(`{"k":7,"word":"w"}`)
	w.archive()
	w.audit()
	res, err := w.b.Reader.Read(t.Context(), "s", "main", reader.Request{})
	if err != nil {
		t.Fatal(err)
	}
	rows := int64(0)
	for b, err := range res.Batches {
		if err != nil {
			t.Fatal(err)
		}
		if b.Rows != nil {
			rows += b.Rows.NumRows()
		}
	}
	if rows != 1 {
		t.Errorf("%d rows after the reset, want 1", rows)
	}
	var full dataset.SnapshotInfo
	for _, s := range w.table().Snapshots() {
		if s.TotalRows == 10 {
			full = s
		}
	}
	var numbers []int64
	for b, err := range w.table().Scan(t.Context(), dataset.ScanOptions{SnapshotID: full.ID, Schema: old}) {
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, b.Column(1).(*array.Int64).Int64Values()...)
	}
	slices.Sort(numbers)
	if fmt.Sprint(numbers) != "[0 1 2 3 4 5 6 7 8 9]" {
		t.Errorf("the old view's version holds %v", numbers)
	}
}

// A reset to another schema before anything was archived, and a struct that comes
// later with parts that are required.
func TestSchemasThatTheDatasetHasNotSeen(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	other := mustParse(t, `{"fields":[{"name":"n","type":"LONG","nullable":false},{"name":"k","type":"LONG","nullable":false}]}`)
	if _, err := w.node.directory.Reset(t.Context(), "s", "main", other, same); err != nil {
		t.Fatal(err)
	}
	w.publishBody(`{"n":1,"k":2}`)
	w.archive()
	wide := w.state().Schema.Clone()
	wide.Fields = append(wide.Fields, mustParse(t, `{"fields":[{"name":"box","type":"STRUCT","fields":[{"name":"a","type":"LONG","nullable":false}]},
		{"name":"m","type":"MAP","value":{"type":"LONG","nullable":false}}]}`).Fields...)
	if _, err := w.node.directory.Evolve(t.Context(), "s", "main", wide); err != nil {
		t.Fatal(err)
	}
	w.publishBody(`{"n":2,"k":3,"box":{"a":4},"m":{"x":5}}`)
	if out := w.archive(); out.Rows != 1 {
		t.Errorf("archived %+v, want the second row", out)
	}
	w.audit()
}

// Avro and Parquet files lie in one dataset and read as one stream.
func TestAvroFilesBesideParquet(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{Partitions: 2, KeyFields: []string{"k"}, DatasetFormat: catalog.Avro}, Options{})
	for _, format := range []catalog.DatasetFormat{catalog.Avro, catalog.Parquet, catalog.Avro} {
		if _, err := w.node.directory.UpdateSettings(t.Context(), "s", "main", func(s catalog.Settings) catalog.Settings {
			s.DatasetFormat = format
			return s
		}); err != nil {
			t.Fatal(err)
		}
		w.publish(50)
		w.archived()
	}
	formats := map[string]int{}
	for f, err := range w.table().Files(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		formats[f.Format]++
	}
	if formats["AVRO"] != 2 || formats["PARQUET"] != 1 {
		t.Errorf("files %v", formats)
	}
	w.publish(10)
	w.whole()
}
