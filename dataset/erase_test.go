package dataset_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/ocf"
	"github.com/thermocline/thermocline/schema/predicate"
)

// people is the schema {who STRING, n LONG}.
func people() *schema.Schema {
	return &schema.Schema{Fields: []schema.Field{
		{ID: 5, Name: "who", Type: schema.Type{Kind: schema.String}, Nullable: true},
		{ID: 6, Name: "n", Type: schema.Type{Kind: schema.Long}},
	}}
}

// theErased is who is erased: a value that nothing else looks like.
const theErased = "zz-erased-person"

// addPeople commits a file of rows [from, to) of partition 0, of which each
// tenth is about the one to be erased.
func (e *env) addPeople(format dataset.Format, from, to record.Offset) *dataset.Table {
	e.t.Helper()
	s := people()
	b := array.NewRecordBuilder(memory.DefaultAllocator, s.WithSystem().Arrow())
	defer b.Release()
	for o := from; o < to; o++ {
		who := fmt.Sprintf("person %d", o)
		if o%10 == 3 {
			who = theErased
		}
		b.Field(0).(*array.StringBuilder).Append(who)
		b.Field(1).(*array.Int64Builder).Append(int64(o) * 10)
		appendSystem(b, 2, 2, 0, o)
	}
	batch := b.NewRecordBatch()
	defer batch.Release()
	f := e.fileAs(format, e.load(), s, fileName(0, from, to), batch)
	return e.commit(dataset.Commit{Add: []dataset.DataFile{f}, Marker: marker(to)})
}

func where(t testing.TB, text string) predicate.Expr {
	t.Helper()
	x, err := predicate.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func (e *env) eraseOptions(ids ...string) dataset.EraseOptions {
	return dataset.EraseOptions{
		Where: where(e.t, "who = '"+theErased+"'"), Grace: 1,
		Tables: func(context.Context) (out []dataset.EraseTable, err error) {
			for _, id := range append(ids, e.id) {
				out = append(out, dataset.EraseTable{ID: id})
			}
			return out, nil
		},
	}
}

// holding names the objects that hold a text: as they are, and decompressed.
func (e *env) holding(text string) (keys []string) {
	e.t.Helper()
	for info, err := range e.store.List(e.t.Context(), "") {
		if err != nil {
			e.t.Fatal(err)
		}
		data, err := objstore.Get(e.t.Context(), e.store, info.Key, 1<<30)
		if err != nil {
			e.t.Fatal(err)
		}
		if bytes.Contains(data, []byte(text)) || strings.Contains(decoded(e.t, info.Key, data), text) {
			keys = append(keys, info.Key)
		}
	}
	return keys
}

func decoded(t testing.TB, key string, data []byte) string {
	t.Helper()
	var out strings.Builder
	switch {
	case strings.HasSuffix(key, ".avro"):
		r, err := ocf.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		for {
			_, block, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", key, err)
			}
			out.Write(block)
		}
	case strings.HasSuffix(key, ".parquet"):
		pf, err := file.NewParquetReader(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		fr, err := pqarrow.NewFileReader(pf, pqarrow.ArrowReadProperties{}, memory.DefaultAllocator)
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		all, err := fr.ReadTable(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		defer all.Release()
		for _, c := range all.Column(0).Data().Chunks() {
			out.WriteString(c.String())
		}
	}
	return out.String()
}

// offsets are the offsets of a snapshot's rows, in the order of a scan.
func (e *env) offsets(t *dataset.Table, snapshot int64) (out []int64) {
	e.t.Helper()
	for b, err := range t.Scan(e.t.Context(), dataset.ScanOptions{SnapshotID: snapshot}) {
		if err != nil {
			e.t.Fatal(err)
		}
		who, n := b.Column(0).(*array.String), b.Column(1).(*array.Int64)
		offsets := b.Column(int(b.NumCols()) - 2).(*array.Int64).Int64Values()
		for i, o := range offsets {
			if n.Value(i) != o*10 || (who.Value(i) != fmt.Sprintf("person %d", o) && who.Value(i) != theErased) {
				e.t.Fatalf("offset %d holds %q, %d", o, who.Value(i), n.Value(i))
			}
		}
		out = append(out, offsets...)
	}
	return out
}

// kept are the offsets below end without those that are erased.
func kept(end int64) (out []int64) {
	for o := range end {
		if o%10 != 3 {
			out = append(out, o)
		}
	}
	return out
}

// TestErase: no byte of what is erased is left in any file, all versions are as
// they were without it, and what was erased can be told from what is lost.
func TestErase(t *testing.T) {
	t.Parallel()
	for _, format := range []dataset.Format{dataset.Parquet, dataset.Avro} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			e := newMemEnv(t)
			e.create(people())
			for i := range record.Offset(6) {
				e.addPeople(format, 20*i, 20*i+20)
			}
			e.compactAll(dataset.CompactOptions{Format: format})
			for i := record.Offset(6); i < 8; i++ {
				e.addPeople(format, 20*i, 20*i+20)
			}
			before := e.load()
			if len(e.holding(theErased)) < 9 {
				t.Fatalf("only %v hold the value", e.holding(theErased))
			}
			dry := e.eraseOptions()
			dry.DryRun = true
			planned, err := e.d.Erase(t.Context(), dry)
			if err != nil {
				t.Fatal(err)
			}
			if now := e.load(); now.MetadataLocation() != before.MetadataLocation() {
				t.Error("a dry run changed the table")
			}
			out, err := e.d.Erase(t.Context(), e.eraseOptions())
			if err != nil {
				t.Fatal(err)
			}
			if found := e.holding(theErased); len(found) > 0 {
				t.Errorf("%v still hold the value", found)
			}
			got, want := out.Tables[0], planned.Tables[0]
			// Six files, the one that they became, and two.
			if got.Rows != 28 || got.Matched != 9 || got.Examined != 9 || got.Snapshots != len(before.Snapshots()) || got.BytesAfter == 0 ||
				want.Rows != got.Rows || want.Matched != got.Matched || want.Snapshots != got.Snapshots || out.DeletedFiles == 0 || out.RemainingFiles > 0 {
				t.Errorf("erased %+v; planned %+v", out, planned)
			}
			now := e.load()
			e.wantErased(before, now)
			gone, err := now.Erased(t.Context(), 2)
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range gone[0] {
				if want := record.Offset(10*i + 3); r.Start != want || r.Len() != 1 {
					t.Fatalf("erased range %d is %v", i, r)
				}
			}
			if len(gone[0]) != 16 || len(gone) != 1 {
				t.Errorf("erased ranges %v", gone)
			}
			// Once more: nothing to do. And the table goes on.
			if again, err := e.d.Erase(t.Context(), e.eraseOptions()); err != nil || again.Tables[0].Rows != 0 || again.DeletedFiles != 0 {
				t.Errorf("once more: %+v, %v", again, err)
			}
			e.addPeople(format, 160, 163)
			e.compactAll(dataset.CompactOptions{Format: format})
			if got, want := e.offsets(e.load(), 0), append(kept(160), 160, 161, 162); !slices.Equal(got, want) {
				t.Errorf("later there are offsets %v", got)
			}
			if _, err := e.d.Collect(t.Context(), e.id, dataset.CollectOptions{}); err != nil {
				t.Error(err)
			}
			if gone, err := e.load().Erased(t.Context(), 2); err != nil || len(gone[0]) != 16 {
				t.Errorf("later, erased ranges are %v, %v", gone, err)
			}
		})
	}
}

// wantErased compares a table with what it was before the erasure.
func (e *env) wantErased(before, now *dataset.Table) {
	e.t.Helper()
	was := before.Snapshots()
	is := now.Snapshots()
	if len(is) < len(was) {
		e.t.Fatalf("%d snapshots of %d are left", len(is), len(was))
	}
	for i, s := range was {
		n := is[i]
		if n.ID != s.ID || n.Sequence != s.Sequence || !n.Time.Equal(s.Time) || n.Operation != s.Operation || n.Parent != s.Parent || n.SchemaID != s.SchemaID {
			e.t.Fatalf("snapshot %d became %+v", i, n)
		}
		got := e.offsets(now, s.ID)
		if int64(len(got)) != n.TotalRows {
			e.t.Errorf("snapshot %d has %d rows and says %d", i, len(got), n.TotalRows)
		}
		if want := kept(int64(s.Marker.Offsets[0])); !slices.Equal(got, want) {
			e.t.Errorf("snapshot %d of %s has offsets %v, want %v", i, s.Operation, got, want)
		}
		var files, bytes int64
		for f, err := range now.Files(e.t.Context(), s.ID) {
			if err != nil {
				e.t.Fatal(err)
			}
			files++
			bytes += f.Bytes
		}
		if files != n.TotalFiles || bytes != n.TotalBytes {
			e.t.Errorf("snapshot %d has %d files of %d bytes, and says %d of %d", i, files, bytes, n.TotalFiles, n.TotalBytes)
		}
	}
	m, err := now.Marker()
	if err != nil {
		e.t.Fatal(err)
	}
	old, err := before.Marker()
	if err != nil {
		e.t.Fatal(err)
	}
	if !m.Offsets.Equal(old.Offsets) || m.View != old.View || m.Epoch != old.Epoch {
		e.t.Errorf("the marker %+v became %+v", old, m)
	}
	if head, _ := now.Head(); head.ID == is[len(is)-1].ID && len(is) > len(was) && now.Metadata().SnapshotByName("thermocline-marker").SnapshotID != head.ID {
		e.t.Error("the tag does not follow the marker")
	}
}

// TestEraseCrashAtEveryStep: whatever operation fails, and whatever a power loss
// leaves, calling again does the rest.
func TestEraseCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	base := newCrashBase(t, 0)
	e := base.env(t, base.mem, &pointers{at: base.at})
	base.id = uuid.NewString()
	e.id = base.id
	e.create(people())
	for i := range record.Offset(3) {
		e.addPeople(dataset.Avro, 20*i, 20*i+20)
	}
	e.compactAll(dataset.CompactOptions{})
	e.addPeople(dataset.Parquet, 60, 80)
	stride := 11
	if os.Getenv("THERMOCLINE_LONG") != "" {
		stride = 1
	} else if raced {
		stride = 41
	}
	for at := 1; ; at += stride {
		for _, crash := range []bool{false, true} {
			e, crashed, failed := base.point(t, at, func(e *env) error {
				_, err := e.d.Erase(t.Context(), e.eraseOptions())
				return err
			})
			if !failed {
				if at < 40 {
					t.Fatalf("only %d operations; the sweep misses steps", at)
				}
				t.Logf("sweep: %s: %d crashes at a file operation of an erasure", t.Name(), at-1)
				return
			}
			if crash {
				e = crashed
			}
			before := e.load()
			if _, err := before.Marker(); err != nil {
				t.Fatalf("operation %d: %v", at, err)
			}
			if _, err := e.d.Erase(t.Context(), e.eraseOptions()); err != nil {
				t.Fatalf("operation %d: %v", at, err)
			}
			if found := e.holding(theErased); len(found) > 0 {
				t.Fatalf("operation %d: %v still hold the value", at, found)
			}
			now := e.load()
			if got := e.offsets(now, 0); !slices.Equal(got, kept(80)) {
				t.Fatalf("operation %d: offsets %v", at, got)
			}
			e.wantErased(before, now)
			if gone, err := now.Erased(t.Context(), 2); err != nil || len(gone[0]) != 8 {
				t.Fatalf("operation %d: erased %v, %v", at, gone, err)
			}
		}
	}
}

// TestEraseBesideCommits: what others commit meanwhile is erased from as well.
func TestEraseBesideCommits(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(people())
	for i := range record.Offset(4) {
		e.addPeople(dataset.Parquet, 20*i, 20*i+20)
	}
	other := &env{t: t, store: e.store, pointers: e.pointers, d: e.other(), id: e.id}
	o := e.eraseOptions()
	o.Grace = time.Hour
	once := false
	o.Progress = func(p dataset.EraseProgress) {
		if p.Phase == "commit" && !once {
			once = true
			other.compactAll(dataset.CompactOptions{})
			other.addPeople(dataset.Parquet, 80, 100)
		}
	}
	if _, err := e.d.Erase(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if found := e.holding(theErased); len(found) > 0 || !once {
		t.Errorf("%v still hold the value", found)
	}
	if got := e.offsets(e.load(), 0); !slices.Equal(got, kept(100)) {
		t.Errorf("offsets %v", got)
	}
}

// TestEraseUnderReaders: a reader of an old version ends with an error that says
// to read again, never with rows that are missing in silence.
func TestEraseUnderReaders(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(people())
	for i := range record.Offset(3) {
		e.addPeople(dataset.Parquet, 20*i, 20*i+20)
	}
	old := e.load()
	if _, err := e.d.Erase(t.Context(), e.eraseOptions()); err != nil {
		t.Fatal(err)
	}
	for _, err := range old.Scan(t.Context(), dataset.ScanOptions{}) {
		if err == nil {
			t.Fatal("an old version was read")
		}
		if !errors.Is(err, record.ErrBusy) || errors.Is(err, record.ErrCorrupt) {
			t.Errorf("error %v", err)
		}
	}
	if got := e.offsets(e.load(), 0); !slices.Equal(got, kept(60)) {
		t.Errorf("offsets %v", got)
	}
}

// TestEraseKeepsColumnsAndDeletes: a file keeps the columns that it was written
// with, for versions that have them, and rows that were deleted by position stay
// deleted.
func TestEraseKeepsColumnsAndDeletes(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	if _, err := e.d.Create(t.Context(), e.id, people(), map[string]string{"write.delete.mode": "merge-on-read"}); err != nil {
		t.Fatal(err)
	}
	e.addPeople(dataset.Parquet, 0, 40)
	first, _ := e.load().Head()
	txn := foreign{e}.table().NewTransaction()
	if err := txn.Delete(t.Context(), iceberg.GreaterThanEqual(iceberg.Reference("n"), int64(300)), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	deleted, _ := e.load().Head()
	// The column n goes, another comes.
	narrow := people()
	narrow.Fields[1] = schema.Field{ID: 9, Name: "m", Type: schema.Type{Kind: schema.String}, Nullable: true}
	if _, err := e.d.SetSchema(t.Context(), e.id, narrow); err != nil {
		t.Fatal(err)
	}
	if _, err := e.d.Erase(t.Context(), e.eraseOptions()); err != nil {
		t.Fatal(err)
	}
	if found := e.holding(theErased); len(found) > 0 {
		t.Errorf("%v still hold the value", found)
	}
	now := e.load()
	read := func(snapshot int64) (offsets, ns []int64) {
		o := dataset.ScanOptions{SnapshotID: snapshot, Schema: people().WithSystem()}
		for b, err := range now.Scan(t.Context(), o) {
			if err != nil {
				t.Fatal(err)
			}
			ns = append(ns, b.Column(1).(*array.Int64).Int64Values()...)
			offsets = append(offsets, b.Column(4).(*array.Int64).Int64Values()...)
		}
		return offsets, ns
	}
	for snapshot, want := range map[int64][]int64{first.ID: kept(40), deleted.ID: kept(30), 0: kept(30)} {
		offsets, ns := read(snapshot)
		if !slices.Equal(offsets, want) {
			t.Errorf("offsets %v, want %v", offsets, want)
		}
		for i, n := range ns {
			if n != offsets[i]*10 {
				t.Errorf("offset %d has n = %d", offsets[i], n)
			}
		}
	}
}

// TestEraseFromBranches: tables that share files lose the rows together, share the
// new files as they did the old ones, also when the first try was cut short, and
// nobody can make another one from what is about to go.
func TestEraseFromBranches(t *testing.T) {
	t.Parallel()
	for _, cut := range []bool{false, true} {
		e := newMemEnv(t)
		e.create(people())
		for i := range record.Offset(3) {
			e.addPeople(dataset.Parquet, 20*i, 20*i+20)
		}
		fork := &env{t: t, store: e.store, pointers: e.pointers, d: e.d, id: uuid.NewString()}
		at, err := e.load().Fork(t.Context(), dataset.ForkOptions{ID: fork.id, Marker: marker(60)})
		if err == nil {
			err = e.pointers.CreateTablePointer(t.Context(), fork.id, at)
		}
		if err != nil {
			t.Fatal(err)
		}
		fork.addPeople(dataset.Parquet, 60, 80)
		before, forkBefore := e.load(), fork.load()
		o := e.eraseOptions(fork.id)
		if cut {
			// The second table is not reached.
			ctx, cancel := context.WithCancel(t.Context())
			swaps := 0
			e.pointers.beforeSwap = func(string, string, string) error {
				if swaps++; swaps == 2 {
					cancel()
					return context.Canceled
				}
				return nil
			}
			if _, err := e.d.Erase(ctx, o); err == nil {
				t.Fatal("not cut short")
			}
			cancel()
			e.pointers.beforeSwap = nil
			if len(e.holding(theErased)) == 0 {
				t.Fatal("the first try did it all")
			}
		}
		o.Progress = func(p dataset.EraseProgress) {
			if p.Phase != "commit" {
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if end, err := e.d.Share(ctx); err == nil {
				end()
				t.Error("a table could be forked")
			}
		}
		out, err := e.d.Erase(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if found := e.holding(theErased); len(found) > 0 {
			t.Errorf("cut %v: %v still hold the value", cut, found)
		}
		if !cut && (out.Tables[0].Rows != 8 || out.Tables[1].Rows != 6) {
			t.Errorf("%+v", out)
		}
		e.wantErased(before, e.load())
		fork.wantErased(forkBefore, fork.load())
		shared := 0
		for _, f := range e.files(e.load()) {
			if slices.ContainsFunc(fork.files(fork.load()), func(o dataset.FileInfo) bool { return o.Path == f.Path }) {
				shared++
			}
		}
		if shared != 3 {
			t.Errorf("cut %v: %d files are shared", cut, shared)
		}
	}
}

// TestErasedStaysErased: an engine that had loaded the table before cannot bring
// back old manifests or files, and one that loads it again goes on.
func TestErasedStaysErased(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*table.Transaction) error{
		"append": func(tx *table.Transaction) error { return tx.AppendTable(t.Context(), plainRows(7), 10, nil) },
		"rewrite": func(tx *table.Transaction) error {
			return tx.Delete(t.Context(), iceberg.LessThan(iceberg.Reference("n"), int64(20)), nil)
		},
	} {
		e := newMemEnv(t)
		e.create(numbers())
		for i := range record.Offset(3) {
			e.addNumbers(10*i, 10*i+10)
		}
		g := e.engine()
		tx := g.tx()
		if err := prepare(tx); err != nil {
			t.Fatal(err)
		}
		o := e.eraseOptions()
		o.Where, o.Grace = where(t, "n IN (50, 150)"), time.Hour
		if _, err := e.d.Erase(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		if err := g.commit(tx); !errors.Is(err, record.ErrConflict) {
			t.Errorf("%s: a commit on the version before: %v", name, err)
		}
		e.wantNumbers(30, []int64{50, 150}, nil)
		if err := e.engine().append(7); err != nil {
			t.Errorf("%s: loaded again: %v", name, err)
		}
		e.wantNumbers(30, []int64{50, 150}, []int64{7})
	}
}
