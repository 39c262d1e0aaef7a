package node

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	icetable "github.com/apache/iceberg-go/table"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/archiver"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/verify"
)

// engine is another engine on the stream's table: iceberg-go, which commits in
// its own way and knows nothing of markers.
type engine struct{ w *world }

func (e engine) LoadTable(ctx context.Context, name icetable.Identifier) (*icetable.Table, error) {
	return e.on().LoadTable(ctx, name)
}

func (e engine) CommitTable(ctx context.Context, name icetable.Identifier, all []icetable.Requirement, updates []icetable.Update) (icetable.Metadata, string, error) {
	return e.on().CommitTable(ctx, name, all, updates)
}

func (e engine) on() tableEngine { return tableEngine{e.w, e.w.state().Branch.TableUUID} }

// tableEngine is an engine on any table.
type tableEngine struct {
	w  *world
	id string
}

func (e tableEngine) LoadTable(ctx context.Context, _ icetable.Identifier) (*icetable.Table, error) {
	t, err := e.w.node.datasets.Load(ctx, e.id)
	if err != nil {
		return nil, err
	}
	open := func(ctx context.Context) (iceio.IO, error) { return dataset.IO(ctx, e.w.store()), nil }
	return icetable.New(icetable.Identifier{"t"}, t.Metadata(), t.MetadataLocation(), open, e), nil
}

func (e tableEngine) CommitTable(ctx context.Context, _ icetable.Identifier, _ []icetable.Requirement, updates []icetable.Update) (icetable.Metadata, string, error) {
	t, err := e.w.node.datasets.Load(ctx, e.id)
	if err != nil {
		return nil, "", err
	}
	m, err := icetable.UpdateTableMetadata(t.Metadata(), updates, t.MetadataLocation())
	if err != nil {
		return nil, "", err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, "", err
	}
	location := m.Location() + "/metadata/00001-" + uuid.NewString() + ".metadata.json"
	key, err := objstore.Key(e.w.store(), location)
	if err != nil {
		return nil, "", err
	}
	if err := objstore.Put(ctx, e.w.store(), key, b); err != nil {
		return nil, "", err
	}
	if err := e.w.node.catalog.SwapTablePointer(ctx, t.ID(), t.MetadataLocation(), location); err != nil {
		return nil, "", err
	}
	e.w.node.datasets.Committed(t.ID())
	return m, location, nil
}

// append commits n rows without system columns.
func (e engine) append(n int) {
	e.w.t.Helper()
	s := arrow.NewSchema([]arrow.Field{{Name: "k", Type: arrow.BinaryTypes.String}, {Name: "n", Type: arrow.PrimitiveTypes.Int64}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	defer b.Release()
	for range n {
		b.Field(0).(*array.StringBuilder).Append("foreign")
		b.Field(1).(*array.Int64Builder).Append(-1)
	}
	rec := b.NewRecordBatch()
	defer rec.Release()
	rows := array.NewTableFromRecords(s, []arrow.RecordBatch{rec})
	defer rows.Release()
	t, err := e.LoadTable(e.w.t.Context(), nil)
	if err == nil {
		_, err = t.AppendTable(e.w.t.Context(), rows, 1000, iceberg.Properties{})
	}
	if err != nil {
		e.w.t.Fatal(err)
	}
}

// delete removes the rows with n below a bound the way the table says: files are
// rewritten, or positions deleted.
func (e engine) delete(below int64) {
	e.w.t.Helper()
	t, err := e.LoadTable(e.w.t.Context(), nil)
	if err == nil {
		txn := t.NewTransaction()
		if err = txn.Delete(e.w.t.Context(), iceberg.LessThan(iceberg.Reference("n"), below), nil); err == nil {
			_, err = txn.Commit(e.w.t.Context())
		}
	}
	if err != nil {
		e.w.t.Fatal(err)
	}
}

// roll moves the head to a snapshot.
func (e engine) roll(snapshot int64) {
	e.w.t.Helper()
	_, _, err := e.CommitTable(e.w.t.Context(), nil, nil, []icetable.Update{
		icetable.NewSetSnapshotRefUpdate(icetable.MainBranch, snapshot, icetable.BranchRef, 0, 0, 0),
	})
	if err != nil {
		e.w.t.Fatal(err)
	}
}

// Commits of other engines, which carry no marker, may stand on top of ours,
// between archives and in the middle of one.
func TestForeignCommitsAreSurvived(t *testing.T) {
	t.Parallel()
	var w *world
	on := false
	w = newWorldWith(t, catalog.Settings{Partitions: 2, KeyFields: []string{"k"}}, Options{Reached: func(archiver.Step) {
		if on {
			engine{w}.append(2)
		}
	}})
	w.publish(10)
	w.archived()
	engine{w}.append(3)
	w.publish(10)
	w.archived()
	engine{w}.append(1)
	w.restart() // a fence on top of a foreign commit
	w.publish(10)
	on = true
	w.archive()
	on = false
	w.archived()
	foreign := 0
	for b, err := range w.table().Scan(t.Context(), dataset.ScanOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range b.Column(1).(*array.Int64).Int64Values() {
			if n == -1 {
				foreign++
			}
		}
	}
	if foreign < 4 {
		t.Errorf("%d foreign rows", foreign)
	}
	// They are guests: a read gives them first, and those that read on only once.
	all, end := w.read(reader.Request{})
	for _, r := range all[:foreign] {
		if r.n != -1 {
			t.Fatalf("row %+v among the %d guests", r, foreign)
		}
	}
	check(t, all[foreign:], 0, w.next)
	engine{w}.append(2)
	if more, _ := w.read(reader.Request{From: reader.Start{Cursor: &end}}); len(more) != 2 || more[0].n != -1 {
		t.Errorf("behind the cursor: %+v", more)
	}
}

// A rollback by another engine behind rows that only the dataset had is told,
// and nothing is archived over the gap; rolled forward, all goes on.
func TestRollbackIsTold(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	w.publish(10)
	w.archive()
	before, _ := w.table().Head()
	w.publish(10)
	w.archive()
	newest, _ := w.table().Head()
	w.publish(10)
	engine{w}.roll(before.ID)
	for range 2 {
		if err := w.tryArchive(); !errors.Is(err, record.ErrCorrupt) {
			t.Fatalf("archive onto a rollback: %v, want ErrCorrupt", err)
		}
		w.restart()
	}
	if head, _ := w.table().Head(); head.ID != before.ID {
		t.Error("something was committed onto the rollback")
	}
	engine{w}.roll(newest.ID)
	w.archived()
	rows, _ := w.read(reader.Request{})
	check(t, rows, 0, 30)
}

// An engine that deletes rows rewrites files, so that old rows lie in new files, and
// rows of several archives overlap: what is left is read in order, also by those who
// read on from before, epochs stay, and a check finds nothing but what was deleted.
func TestEngineDeletes(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{Partitions: 2, KeyFields: []string{"k"}}, Options{})
	for range 4 {
		w.publish(10)
		w.archive()
	}
	_, at := w.read(reader.Request{Limit: 15})
	engine{w}.append(3)
	engine{w}.delete(5) // also the three rows with -1
	w.publish(10)
	w.archive()
	rows, _ := w.read(reader.Request{})
	if len(rows) != 45 {
		t.Fatalf("%d rows are left", len(rows))
	}
	order := map[int64]int64{}
	for _, r := range rows {
		if r.n < 5 || r.offset < order[r.part] {
			t.Errorf("row %+v behind offset %d of its partition", r, order[r.part])
		}
		order[r.part] = r.offset
	}
	rest, _ := w.read(reader.Request{From: reader.Start{Cursor: &at}})
	if len(rest) != 35 {
		t.Errorf("%d rows behind a cursor from before", len(rest))
	}
	epochs := map[int64]int{}
	res, err := w.b.Reader.Tail(t.Context(), "s", "main", reader.Request{Consistency: catalog.ExactlyOnce, System: true})
	if err != nil {
		t.Fatal(err)
	}
	for b, err := range res.Batches {
		if err != nil {
			t.Fatal(err)
		}
		epochs[b.Epoch] += len(rowsOf(b))
		if b.EpochEnd && b.Epoch == 5 {
			break
		}
	}
	if epochs[1] != 5 || epochs[2] != 10 || epochs[5] != 10 {
		t.Errorf("rows of epochs: %v", epochs)
	}
	var found []verify.Finding
	if err := w.node.verifier.Branch(t.Context(), "default.s", "main", verify.Request{}, func(e verify.Event) error {
		if e.Finding != nil {
			found = append(found, *e.Finding)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].Code != verify.Gap || found[0].Severity != verify.Notice {
		t.Errorf("findings: %+v", found)
	}
}
