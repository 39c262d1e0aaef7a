package node

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/subscriber"
)

// Versions of before a reset and of an older schema are read with their columns,
// or with those that the stream has now.
func TestReadVersions(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	w.publish(5)
	w.archive()
	old, _ := w.table().Head()
	more, err := schema.Parse([]byte(`{"fields":[{"name":"k","type":"STRING","nullable":false},{"name":"n","type":"LONG","nullable":false},
		{"name":"m","type":"LONG","default":7,"nullable":false}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.node.directory.Evolve(t.Context(), "s", "main", more); err != nil {
		t.Fatal(err)
	}
	w.publishBody(`{"k":"a","n":5,"m":8}`)
	w.archive()
	columns := func(v reader.Version) []string {
		t.Helper()
		res, err := w.b.Reader.Read(t.Context(), "s", "main", reader.Request{Version: &v})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range res.Schema.Fields {
			names = append(names, f.Name)
		}
		rows := 0
		for b, err := range res.Batches {
			if err != nil {
				t.Fatal(err)
			}
			if b.Rows != nil {
				rows += int(b.Rows.NumRows())
			}
		}
		if v.Snapshot == old.ID && rows != 5 {
			t.Errorf("%d rows in snapshot %d", rows, old.ID)
		}
		return names
	}
	if got := columns(reader.Version{Snapshot: old.ID}); !slices.Equal(got, []string{"k", "n"}) {
		t.Errorf("the version's columns: %v", got)
	}
	if got := columns(reader.Version{Snapshot: old.ID, CurrentSchema: true}); !slices.Equal(got, []string{"k", "n", "m"}) {
		t.Errorf("the current columns: %v", got)
	}
	rows, _ := w.read(reader.Request{Version: &reader.Version{CurrentSchema: true}, Where: "m = 7"})
	check(t, rows, 0, 5)
	w.reset()
	w.archive()
	rows, _ = w.read(reader.Request{Version: &reader.Version{Snapshot: old.ID}})
	check(t, rows, 0, 5)
	if _, err := w.b.Reader.Read(t.Context(), "s", "main", reader.Request{Version: &reader.Version{Snapshot: 99}}); !errors.Is(err, dataset.ErrExpired) {
		t.Errorf("snapshot 99: %v", err)
	}
}

// A dataset without a stream whose columns are not all ours is read as far as they
// are.
func TestReadForeignDataset(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	id := uuid.NewString()
	m, err := w.node.datasets.Draft(id, dataset.NewTable{Schema: iceberg.NewSchema(0,
		iceberg.NestedField{ID: 1, Name: "n", Type: iceberg.PrimitiveTypes.Int64},
		iceberg.NestedField{ID: 2, Name: "at", Type: iceberg.PrimitiveTypes.Time},
		iceberg.NestedField{ID: 3, Name: "u", Type: iceberg.PrimitiveTypes.UUID},
	)})
	if err != nil {
		t.Fatal(err)
	}
	location, err := w.node.datasets.WriteMetadata(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.node.catalog.CreateDataset(t.Context(), catalog.NewDataset{Name: "theirs", TableUUID: id, Location: location}); err != nil {
		t.Fatal(err)
	}
	e := tableEngine{w, id}
	table, err := e.LoadTable(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.PrimitiveTypes.Int64}, {Name: "at", Type: arrow.FixedWidthTypes.Time64us}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	defer b.Release()
	for i := range 3 {
		b.Field(0).(*array.Int64Builder).Append(int64(i))
		b.Field(1).(*array.Time64Builder).Append(5)
	}
	rec := b.NewRecordBatch()
	defer rec.Release()
	rows := array.NewTableFromRecords(s, []arrow.RecordBatch{rec})
	defer rows.Release()
	if _, err := table.AppendTable(t.Context(), rows, 1000, iceberg.Properties{}); err != nil {
		t.Fatal(err)
	}
	_, err = w.b.Reader.Read(t.Context(), "theirs", "main", reader.Request{})
	if !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), `column "at"`) || !strings.Contains(err.Error(), "ask for columns that can: n") {
		t.Fatalf("a column of type time: %v", err)
	}
	if _, err = w.b.Reader.Read(t.Context(), "theirs", "main", reader.Request{Columns: []string{"n", "u"}}); !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), "uuid") {
		t.Fatalf("a column of type uuid: %v", err)
	}
	res, err := w.b.Reader.Read(t.Context(), "theirs", "main", reader.Request{Columns: []string{"n"}, Where: "n > 0"})
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	for b, err := range res.Batches {
		if err != nil {
			t.Fatal(err)
		}
		if b.Rows != nil {
			got = append(got, b.Rows.Column(0).(*array.Int64).Int64Values()...)
		}
	}
	if !slices.Equal(got, []int64{1, 2}) {
		t.Errorf("rows %v", got)
	}
	if _, err := w.b.Reader.Tail(t.Context(), "theirs", "main", reader.Request{}); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("tail: %v", err)
	}
}

// A subscriber is given guests once, by the member that has partition 0, and again
// only where they were not committed; its lag counts them.
func TestSubscribersGetGuests(t *testing.T) {
	t.Parallel()
	for _, consistency := range []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce} {
		t.Run(string(consistency), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, catalog.Settings{Partitions: 2, KeyFields: []string{"k"}})
			go func() { _ = w.node.subscribers.Run(t.Context()) }()
			ref := subscriber.Ref{Stream: "s", Branch: "main"}
			if _, err := w.b.Subscribers.Create(t.Context(), ref, subscriber.Spec{Name: "g", Consistency: consistency}); err != nil {
				t.Fatal(err)
			}
			w.publish(10)
			engine{w}.append(3)
			engine{w}.append(2)
			lag := func() int64 {
				t.Helper()
				info, err := w.b.Subscribers.Get(t.Context(), ref, "g")
				if err != nil {
					t.Fatal(err)
				}
				return info.Lag.Rows
			}
			if got := lag(); got != 15 {
				t.Errorf("lag %d, want 15", got)
			}
			// take reads until it has rows, and commits all but what commit says.
			take := func(own, guests int, commit bool) {
				t.Helper()
				s, err := w.b.Subscribers.Join(t.Context(), ref, "g", subscriber.Join{Member: "m", Request: reader.Request{System: true}})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				var number int64
				for e, err := range s.Events() {
					if err != nil {
						t.Fatal(err)
					}
					if e.Assignment != nil {
						number = e.Assignment.Session
						continue
					}
					for _, r := range rowsOf(e.Batch) {
						if r.n == -1 {
							guests--
						} else {
							own--
						}
					}
					if own < 0 || guests < 0 {
						t.Fatalf("more than was expected: %d, %d", own, guests)
					}
					done := own == 0 && guests == 0 && e.Batch.Next.Within == nil && (consistency == catalog.AtLeastOnce || e.Batch.EpochEnd)
					if !done {
						continue
					}
					if commit {
						if _, err := w.b.Subscribers.Commit(t.Context(), ref, "g", subscriber.Commit{Session: number, Cursor: &e.Batch.Next}); err != nil {
							t.Fatal(err)
						}
					}
					return
				}
			}
			take(10, 5, false)
			take(10, 5, true)
			if got := lag(); got != 0 {
				t.Errorf("lag %d behind the commit", got)
			}
			engine{w}.append(4)
			w.publish(2)
			take(2, 4, true)
			w.restart()
			go func() { _ = w.node.subscribers.Run(t.Context()) }()
			w.publish(1)
			engine{w}.append(1)
			take(1, 1, true)
			if got := lag(); got != 0 {
				t.Errorf("lag %d at the end", got)
			}
		})
	}
}
