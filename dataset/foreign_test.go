package dataset_test

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/predicate"
)

// foreign is another engine on the same table: iceberg-go with its own way of
// committing.
type foreign struct{ e *env }

func (f foreign) LoadTable(ctx context.Context, _ table.Identifier) (*table.Table, error) {
	t, err := f.e.other().Load(ctx, f.e.id)
	if err != nil {
		return nil, err
	}
	open := func(ctx context.Context) (iceio.IO, error) { return dataset.IO(ctx, f.e.store), nil }
	return table.New(table.Identifier{"t"}, t.Metadata(), t.MetadataLocation(), open, f), nil
}

func (f foreign) CommitTable(ctx context.Context, _ table.Identifier, _ []table.Requirement, updates []table.Update) (table.Metadata, string, error) {
	t, err := f.e.other().Load(ctx, f.e.id)
	if err != nil {
		return nil, "", err
	}
	m, err := table.UpdateTableMetadata(t.Metadata(), updates, t.MetadataLocation())
	if err != nil {
		return nil, "", err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, "", err
	}
	location := m.Location() + "/metadata/00001-" + uuid.NewString() + ".metadata.json"
	key, err := objstore.Key(f.e.store, location)
	if err != nil {
		return nil, "", err
	}
	if err := objstore.Put(ctx, f.e.store, key, b); err != nil {
		return nil, "", err
	}
	return m, location, f.e.pointers.SwapTablePointer(ctx, f.e.id, t.MetadataLocation(), location)
}

// table opens the table in the other engine.
func (f foreign) table() *table.Table {
	f.e.t.Helper()
	t, err := f.LoadTable(f.e.t.Context(), nil)
	if err != nil {
		f.e.t.Fatal(err)
	}
	return t
}

// append commits rows that know nothing of the system columns.
func (f foreign) append(values ...int64) {
	f.e.t.Helper()
	s := arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.PrimitiveTypes.Int64}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	defer b.Release()
	b.Field(0).(*array.Int64Builder).AppendValues(values, nil)
	rec := b.NewRecordBatch()
	defer rec.Release()
	rows := array.NewTableFromRecords(s, []arrow.RecordBatch{rec})
	defer rows.Release()
	if _, err := f.table().AppendTable(f.e.t.Context(), rows, 1000, iceberg.Properties{}); err != nil {
		f.e.t.Fatal(err)
	}
}

func TestMarkerBelowForeignCommits(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(numbers())
	e.addNumbers(0, 10)
	want, err := e.addNumbers(10, 20).Marker()
	if err != nil {
		t.Fatal(err)
	}
	other := foreign{e}
	other.append(-1, -2)
	other.append(-3)

	now := e.load()
	if head, _ := now.Head(); head.Marker != nil || head.AddedRows != 1 {
		t.Fatalf("the head is not the foreign commit: %+v", head)
	}
	got, err := now.Marker()
	if err != nil || got == nil || got.CommitID != want.CommitID || !got.Offsets.Equal(record.Offsets{20}) || got.SnapshotID != want.SnapshotID {
		t.Fatalf("marker %+v, %v; want %+v", got, err, want)
	}
	if got.View != 7 || got.ViewNumber != 2 || got.Epoch != 1 || got.Cluster != "c" || got.ValidThroughMs != 1000 {
		t.Errorf("marker %+v", got)
	}
	if s, ok := now.FindCommit(want.CommitID); !ok || s.ID != want.SnapshotID {
		t.Errorf("commit found: %v, %+v", ok, s)
	}
	if _, ok := now.FindCommit("nobody's"); ok {
		t.Error("found a commit that never was")
	}

	// Our next commit stands on theirs and keeps their rows, as of view 0.
	e.addNumbers(20, 21)
	rows := e.rows(e.load(), dataset.ScanOptions{})
	if len(rows) != 24 || rows[20] != "n=-1 _view=0 _partition_id=0 _offset=0 _timestamp=1970-01-01T00:00:00Z" || rows[23][:5] != "n=200" {
		t.Errorf("%d rows: %v", len(rows), rows)
	}
}

func TestForeignEngineReadsOurTable(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(numbers())
	e.addNumbers(0, 1000)
	e.addNumbers(1000, 1500)
	rows, err := foreign{e}.table().Scan(table.WithRowFilter(iceberg.EqualTo(iceberg.Reference("n"), int64(14_990)))).ToArrowTable(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Release()
	if rows.NumRows() != 1 {
		t.Errorf("%d rows have the exact maximum, want 1", rows.NumRows())
	}
}

func TestForeignDeletes(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"copy-on-write", "merge-on-read"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			table, err := e.d.Create(t.Context(), e.id, numbers(), map[string]string{"write.delete.mode": mode})
			if err != nil {
				t.Fatal(err)
			}
			_ = table
			e.addNumbers(0, 1000)
			ft := foreign{e}.table()
			txn := ft.NewTransaction()
			if err := txn.Delete(t.Context(), iceberg.LessThan(iceberg.Reference("n"), int64(9_000)), nil); err != nil {
				t.Fatal(err)
			}
			if _, err := txn.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			e.addNumbers(1000, 1010)
			want := []int64{}
			for o := int64(900); o < 1010; o++ {
				want = append(want, o)
			}
			got := e.offsetsOf(e.load())
			slices.Sort(got) // copy-on-write gives the rewritten file a new place
			if !slices.Equal(got, want) {
				t.Errorf("offsets %s, want 900 to 1009", brief(got))
			}
			if m, err := e.load().Marker(); err != nil || !m.Offsets.Equal(record.Offsets{1010}) {
				t.Errorf("marker %+v, %v", m, err)
			}
			// A reset drops the delete files too.
			e.commit(dataset.Commit{RemoveAll: true})
			e.addNumbers(0, 3)
			e.wantOffsets(e.load(), 3)
		})
	}
}

func TestDamagedMarkerIsNotPassedOver(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(numbers())
	e.addNumbers(0, 10)
	ft := foreign{e}.table()
	rows := array.NewTableFromRecords(arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.PrimitiveTypes.Int64}}, nil), nil)
	defer rows.Release()
	if _, err := ft.AppendTable(t.Context(), rows, 10, iceberg.Properties{"thermocline.offsets": `{"0":`}); err != nil {
		t.Fatal(err)
	}
	_, err := e.load().Marker()
	wantIs(t, err, record.ErrCorrupt)
}

func TestMarkerSurvivesExpiry(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(numbers())
	e.addNumbers(0, 10)
	other := foreign{e}
	for i := range int64(4) {
		other.append(-i)
	}
	txn := other.table().NewTransaction()
	if err := txn.ExpireSnapshots(table.WithRetainLast(1), table.WithOlderThan(0), table.WithPostCommit(false)); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := e.load()
	if n := len(now.Snapshots()); n != 2 {
		t.Fatalf("%d snapshots are left, want the head and the tagged one", n)
	}
	m, err := now.Marker()
	if err != nil || m == nil || !m.Offsets.Equal(record.Offsets{10}) {
		t.Errorf("marker %+v, %v", m, err)
	}
}

// TestForeignFileWithoutIDs reads a file that another engine added as it was:
// columns by name, in other types, timestamps in milliseconds.
func TestForeignFileWithoutIDs(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s := &schema.Schema{Fields: []schema.Field{
		field(5, "n", schema.Long), field(6, "at", schema.Timestamp), structOf(7, "place", field(8, "name", schema.String)),
	}}
	e.create(s)
	theirs := arrow.NewSchema([]arrow.Field{
		{Name: "extra", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
		{Name: "at", Type: &arrow.TimestampType{Unit: arrow.Millisecond, TimeZone: "UTC"}, Nullable: true},
		{Name: "place", Type: arrow.StructOf(arrow.Field{Name: "name", Type: arrow.BinaryTypes.String, Nullable: true}), Nullable: true},
		{Name: "n", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
	}, nil)
	b, _, err := array.RecordFromJSON(memory.DefaultAllocator, theirs, strings.NewReader(
		`[{"extra":1,"at":"2020-01-01T00:00:00Z","place":{"name":"x"},"n":7},{"extra":2,"at":null,"place":null,"n":null}]`))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	var buf bytes.Buffer
	w, err := pqarrow.NewFileWriter(theirs, &buf, nil, pqarrow.DefaultWriterProps())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	key := e.id + "/data/theirs.parquet"
	if err := objstore.Put(t.Context(), e.store, key, buf.Bytes()); err != nil {
		t.Fatal(err)
	}
	df, err := iceberg.NewDataFileBuilder(*iceberg.UnpartitionedSpec, iceberg.EntryContentData, objstore.URI(e.store, key), iceberg.ParquetFile, nil, nil, nil, 2, int64(buf.Len()))
	if err != nil {
		t.Fatal(err)
	}
	txn := foreign{e}.table().NewTransaction()
	if err := txn.AddDataFiles(t.Context(), []iceberg.DataFile{df.Build()}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	expr, err := predicate.Parse("at = '2020-01-01T00:00:00Z' OR n IS NULL")
	if err != nil {
		t.Fatal(err)
	}
	filter, err := expr.Bind(s)
	if err != nil {
		t.Fatal(err)
	}
	wantRows(t, e.rows(e.load(), dataset.ScanOptions{Schema: s, Filter: filter}), []string{
		`n=7 at=2020-01-01T00:00:00Z place={"name":"x"}`,
		`n=(null) at=(null) place=(null)`,
	})
	for _, one := range []string{"at = '2020-01-01T00:00:00Z'", "n = 7"} {
		expr, err := predicate.Parse(one)
		if err != nil {
			t.Fatal(err)
		}
		if filter, err = expr.Bind(s); err != nil {
			t.Fatal(err)
		}
		if rows := e.rows(e.load(), dataset.ScanOptions{Schema: s, Filter: filter}); len(rows) != 2 {
			t.Errorf("where %s: %v", one, rows)
		}
	}
}

func TestRolledBackBehindTheMarker(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(numbers())
	other := foreign{e}
	other.append(-1)
	other.append(-2)
	back, _ := e.load().Head()
	e.addNumbers(0, 10)
	first := e.load().Snapshots()[0]
	// The head goes back behind the marker, and what came before expires.
	for _, u := range []table.Update{
		table.NewSetSnapshotRefUpdate(table.MainBranch, back.ID, table.BranchRef, 0, 0, 0),
		table.NewRemoveSnapshotsUpdate([]int64{first.ID}, false),
	} {
		if _, _, err := other.CommitTable(t.Context(), nil, nil, []table.Update{u}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := e.load().Marker()
	wantIs(t, err, record.ErrCorrupt)
}
