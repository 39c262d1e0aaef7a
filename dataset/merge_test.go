package dataset_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// branchOf forks the env's table for view 3 and returns the env of the branch.
func (e *env) branchOf(view record.ViewNumber) *env {
	e.t.Helper()
	b := *e
	b.id = e.fork(e.load(), 0, &dataset.Marker{View: record.ViewID(view) + 100, ViewNumber: view, CommitID: uuid.NewString(), Cluster: "c"})
	return &b
}

// addRows archives rows [from, to) of a view, n = base + offset, as many files.
func (e *env) addRows(view record.ViewNumber, base int64, files int, from, to record.Offset) {
	e.t.Helper()
	t := e.load()
	var added []dataset.DataFile
	for i := range files {
		lo, hi := from+(to-from)*record.Offset(i)/record.Offset(files), from+(to-from)*record.Offset(i+1)/record.Offset(files)
		var rows []modelRow
		for o := lo; o < hi; o++ {
			rows = append(rows, modelRow{view: int32(view), offset: int64(o), value: base + int64(o)})
		}
		b := modelBatch(rows)
		added = append(added, e.file(t, numbers(), dataset.FileName{View: view, Epoch: 1, Ranges: []dataset.PartRange{{Range: record.Range{Start: lo, End: hi}}}}, b))
		b.Release()
	}
	e.commit(dataset.Commit{Base: t, Add: added, Marker: &dataset.Marker{
		View: record.ViewID(view) + 100, ViewNumber: view, Epoch: 1, Offsets: record.Offsets{to}, CommitID: uuid.NewString(), Cluster: "c",
	}})
}

func (e *env) mergeFrom(source *env, o dataset.MergeOptions) dataset.Merged {
	e.t.Helper()
	m, err := e.d.Merge(e.t.Context(), source.id, e.id, o)
	if err != nil {
		e.t.Fatal(err)
	}
	return m
}

// merged is the column n, sorted.
func (e *env) merged() []int64 {
	e.t.Helper()
	var out []int64
	for b, err := range e.load().Scan(e.t.Context(), dataset.ScanOptions{}) {
		if err != nil {
			e.t.Fatal(err)
		}
		for _, r := range modelRows(b) {
			out = append(out, r.value)
		}
	}
	slices.Sort(out)
	return out
}

func (e *env) wantMerged(want ...int64) {
	e.t.Helper()
	slices.Sort(want)
	if got := e.merged(); !slices.Equal(got, want) {
		e.t.Fatalf("values %s, want %s", brief(got), brief(want))
	}
}

// seq is from to to-1.
func seq(from, to int64, more ...int64) []int64 {
	var out []int64
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return append(out, more...)
}

// The source was compacted between two merges: the file that it made holds rows
// that the first one brought. They are covered by position deletes, which other
// engines apply as well, and which go when the target is compacted.
func TestMergeCoversKnownRows(t *testing.T) {
	t.Parallel()
	main := newEnv(t)
	main.create(numbers())
	main.addRows(2, 0, 1, 0, 10)
	exp := main.branchOf(3)
	exp.addRows(3, 1000, 2, 0, 20)
	if m := main.mergeFrom(exp, dataset.MergeOptions{}); m.Strategy != dataset.FastForward || m.AddedRows != 20 || m.AddedFiles != 2 {
		t.Fatalf("merged %+v", m)
	}
	exp.addRows(3, 1000, 2, 20, 30)
	exp.compactAll(dataset.CompactOptions{})
	dry := main.mergeFrom(exp, dataset.MergeOptions{DryRun: true})
	m := main.mergeFrom(exp, dataset.MergeOptions{})
	if m.AddedRows != 10 || m.AddedFiles != 1 || m.LeftOutRows != 20 || dry.AddedRows != m.AddedRows || dry.LeftOutRows != m.LeftOutRows || dry.Snapshot != 0 {
		t.Fatalf("merged %+v, dry run %+v", m, dry)
	}
	want := append(seq(0, 10), seq(1000, 1030)...)
	main.wantMerged(want...)
	head, _ := main.load().Head()
	if head.Summary["total-delete-files"] != "1" || head.Summary["total-position-deletes"] != "20" || head.Summary["added-position-deletes"] != "20" {
		t.Errorf("summary %v", head.Summary)
	}
	// iceberg-go's scan, which knows nothing of us, sees the same.
	rows, err := foreign{main}.table().Scan().ToArrowTable(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Release()
	if int(rows.NumRows()) != len(want) {
		t.Errorf("another engine reads %d rows, want %d", rows.NumRows(), len(want))
	}
	// A flipped bit in the delete file is found, and brings no row back.
	for key := range main.stored() {
		if strings.Contains(key, "v0-e0-deletes-") && !strings.HasPrefix(key, main.id+"/data/") {
			t.Errorf("the delete file is %s", key)
		}
	}
	// A merge and a compaction later nothing of it is left.
	main.addRows(2, 0, 4, 10, 20)
	main.compactAll(dataset.CompactOptions{})
	main.wantMerged(append(seq(0, 20), seq(1000, 1030)...)...)
	if m := exp.mergeFrom(main, dataset.MergeOptions{}); m.AddedRows != 10 {
		t.Errorf("merged back: %+v", m)
	}
	exp.wantMerged(append(seq(0, 20), seq(1000, 1030)...)...)
}

// Compaction joins guest files only if they came with one commit, and the new file
// has the number of that commit.
func TestCompactKeepsGuestsApart(t *testing.T) {
	t.Parallel()
	main := newMemEnv(t)
	main.create(numbers())
	main.addRows(2, 0, 1, 0, 10)
	exp := main.branchOf(3)
	scan := func() map[int64]int64 {
		out := map[int64]int64{}
		files, err := main.load().FileRows(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := range files.Len() {
			for b, err := range files.Rows(t.Context(), i, dataset.ScanOptions{}) {
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range modelRows(b) {
					if r.view != 2 {
						out[r.value] = files.File(i).Sequence
					}
				}
			}
		}
		return out
	}
	for i := range record.Offset(5) {
		exp.addRows(3, 1000, 3, i*9, i*9+9)
		main.mergeFrom(exp, dataset.MergeOptions{})
		main.addRows(2, 0, 1, 10+i, 11+i)
	}
	places := scan() // value → sequence number
	if n := main.compactAll(dataset.CompactOptions{}); n != 15+6 {
		t.Errorf("%d files were replaced, want 15 of guests and 6 of its own", n)
	}
	if n := len(main.files(main.load())); n != 6 {
		t.Errorf("%d files are left, want 5 of guests and 1 of its own", n)
	}
	now := scan()
	if len(now) != 45 {
		t.Fatalf("%d guests", len(now))
	}
	for v, s := range places {
		if now[v] != s {
			t.Fatalf("row %d had its place at %d, now at %d", v, s, now[v])
		}
	}
	if m := main.mergeFrom(exp, dataset.MergeOptions{}); !m.UpToDate {
		t.Errorf("merged again: %+v", m)
	}
	if m := exp.mergeFrom(main, dataset.MergeOptions{}); m.AddedRows != 5 || m.RemovedRows != 0 {
		t.Errorf("merged back: %+v", m)
	}
	exp.wantMerged(append(seq(0, 15), seq(1000, 1045)...)...)
}

// What a merge needs of the history is kept from expiry: where the branches
// parted, and what was merged last.
func TestMergeSurvivesExpiry(t *testing.T) {
	t.Parallel()
	main := newMemEnv(t)
	now := time.Now()
	main.d = dataset.New(main.store, main.pointers, dataset.Options{Now: func() time.Time { now = now.Add(time.Second); return now }})
	main.create(numbers())
	main.addRows(2, 0, 1, 0, 10)
	exp := main.branchOf(3)
	side := exp.branchOf(4)
	expire := func() {
		t.Helper()
		for _, e := range []*env{main, exp, side} {
			if _, err := e.d.Expire(t.Context(), e.id, dataset.ExpireOptions{MaxAge: 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	want, own := seq(0, 10), record.Offset(10)
	for i := range record.Offset(4) {
		for range 2 {
			main.addRows(2, 0, 1, own, own+1)
			want = append(want, int64(own))
			own++
		}
		exp.addRows(3, 1000, 1, i*2, i*2+1)
		exp.addRows(3, 1000, 1, i*2+1, i*2+2)
		want = append(want, 1000+int64(i)*2, 1001+int64(i)*2)
		expire()
		if m := main.mergeFrom(exp, dataset.MergeOptions{}); m.AddedRows != 2 {
			t.Fatalf("merge %d: %+v", i, m)
		}
		main.wantMerged(want...)
		if i%2 == 1 {
			expire()
			exp.mergeFrom(main, dataset.MergeOptions{})
			exp.wantMerged(want...)
		}
	}
	side.addRows(4, 2000, 1, 0, 1)
	expire()
	if m := main.mergeFrom(side, dataset.MergeOptions{}); m.AddedRows != 1 || m.RemovedRows != 0 {
		t.Fatalf("merged %+v", m)
	}
	main.wantMerged(append(want, 2000)...)
	for _, e := range []*env{main, exp} {
		tags := 0
		for name := range e.load().Metadata().Refs() {
			if strings.HasPrefix(name, "thermocline-merged-into-") {
				tags++
			}
		}
		if tags > 2 {
			t.Errorf("%d pins", tags)
		}
	}
}

// Both sides changed the same rows: nothing is done, and the file is named.
func TestMergeConflicts(t *testing.T) {
	t.Parallel()
	main := newMemEnv(t)
	main.create(numbers())
	main.addRows(2, 0, 1, 0, 10)
	main.addRows(2, 0, 1, 10, 20)
	exp := main.branchOf(3)
	m := &mergeModel{e: main}
	first := main.files(main.load())[0]
	rewrite := func(e *env, to int64) {
		t.Helper()
		var rows []modelRow
		for o := range int64(10) {
			rows = append(rows, modelRow{view: 2, offset: o, value: to + o})
		}
		if err := e.d.Edit(t.Context(), e.id, []string{first.Path}, nil, m.foreignFile(e, rows)); err != nil {
			t.Fatal(err)
		}
	}
	rewrite(exp, 500)
	if m := main.mergeFrom(exp, dataset.MergeOptions{DryRun: true}); m.AddedRows != 10 || m.RemovedRows != 10 || m.Conflicts.Count != 0 {
		t.Fatalf("dry run %+v", m)
	}
	rewrite(main, 700)
	before, _ := main.load().Head()
	_, err := main.d.Merge(t.Context(), exp.id, main.id, dataset.MergeOptions{})
	var c *dataset.Conflicts
	if !errors.As(err, &c) || !errors.Is(err, record.ErrConflict) || c.Count != 1 || c.List[0].Path != first.Path || c.List[0].Rows != 10 || c.List[0].Remedy == "" {
		t.Fatalf("error %v", err)
	}
	if after, _ := main.load().Head(); after.ID != before.ID {
		t.Error("the table was changed")
	}
	main.mergeFrom(exp, dataset.MergeOptions{Strategy: dataset.Replace})
	main.wantMerged(append(seq(10, 20), seq(500, 510)...)...)

	stranger := newMemEnv(t)
	stranger.store, stranger.d, stranger.pointers = main.store, main.d, main.pointers
	stranger.create(numbers())
	stranger.addRows(7, 0, 1, 0, 1)
	if _, err := main.d.Merge(t.Context(), stranger.id, main.id, dataset.MergeOptions{}); !errors.Is(err, record.ErrConflict) || !strings.Contains(err.Error(), "replace") {
		t.Errorf("error %v", err)
	}
	if _, err := main.d.Merge(t.Context(), main.id, main.id, dataset.MergeOptions{}); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("error %v", err)
	}
	if _, err := main.d.Merge(t.Context(), exp.id, main.id, dataset.MergeOptions{Strategy: "ours"}); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("error %v", err)
	}
}

// Schemas are merged field by field, by id.
func TestMergeSchemas(t *testing.T) {
	t.Parallel()
	f := func(id int, name string, typ iceberg.Type) iceberg.NestedField {
		return iceberg.NestedField{ID: id, Name: name, Type: typ}
	}
	long, integer, text := iceberg.PrimitiveTypes.Int64, iceberg.PrimitiveTypes.Int32, iceberg.PrimitiveTypes.String
	of := func(fields ...iceberg.NestedField) *iceberg.Schema { return iceberg.NewSchema(0, fields...) }
	base := of(f(1, "a", integer), f(2, "b", text), f(3, "c", &iceberg.StructType{FieldList: []iceberg.NestedField{f(4, "x", long)}}))
	for name, c := range map[string]struct {
		source, target, want *iceberg.Schema
		conflict             string
	}{
		"nothing":         {base, base, base, ""},
		"added, dropped":  {of(f(1, "a", integer), f(3, "c", base.Field(2).Type), f(5, "e", text)), of(base.Field(0), base.Field(1), base.Field(2), f(6, "own", text)), of(base.Field(0), base.Field(2), f(6, "own", text), f(5, "e", text)), ""},
		"renamed, wider":  {of(f(1, "z", long), base.Field(1), base.Field(2)), of(base.Field(1), base.Field(0), base.Field(2)), of(base.Field(1), f(1, "z", long), base.Field(2)), ""},
		"target is wider": {base, of(f(1, "a", long), base.Field(1), base.Field(2)), of(f(1, "a", long), base.Field(1), base.Field(2)), ""},
		"below a struct": {
			of(base.Field(0), base.Field(1), f(3, "c", &iceberg.StructType{FieldList: []iceberg.NestedField{f(4, "x", long), f(7, "y", text)}})), base,
			of(base.Field(0), base.Field(1), f(3, "c", &iceberg.StructType{FieldList: []iceberg.NestedField{f(4, "x", long), f(7, "y", text)}})), "",
		},
		"renamed twice":    {of(f(1, "z", integer), base.Field(1), base.Field(2)), of(f(1, "y", integer), base.Field(1), base.Field(2)), nil, "y"},
		"same name":        {of(base.Field(0), base.Field(1), base.Field(2), f(5, "n", text)), of(base.Field(0), base.Field(1), base.Field(2), f(6, "n", text)), nil, "n"},
		"types":            {of(f(1, "a", text), base.Field(1), base.Field(2)), base, nil, "a"},
		"dropped, changed": {of(base.Field(1), base.Field(2)), of(f(1, "q", integer), base.Field(1), base.Field(2)), nil, "q"},
		"changed, dropped": {of(f(1, "q", integer), base.Field(1), base.Field(2)), of(base.Field(1), base.Field(2)), nil, "q"},
	} {
		got, conflicts := dataset.MergeSchemas(base, c.source, c.target)
		if c.conflict == "" && (len(conflicts) > 0 || !got.Equals(c.want)) {
			t.Errorf("%s: %v, %v; want %v", name, got, conflicts, c.want)
		}
		if c.conflict != "" && (len(conflicts) != 1 || conflicts[0].Path != c.conflict) {
			t.Errorf("%s: conflicts %v, want one about %s", name, conflicts, c.conflict)
		}
	}
	old := schema.Schema{Fields: []schema.Field{{ID: 1, Name: "a", Type: schema.Type{Kind: schema.Byte}}}}
	wide, def := old.Clone(), old.Clone()
	wide.Fields[0].Type.Kind = schema.Short
	def.Fields = append(def.Fields, schema.Field{ID: 2, Name: "d", Type: schema.Type{Kind: schema.Long}, Default: []byte("7")})
	got, conflicts, err := dataset.MergeStreamSchemas(old.WithSystem().Iceberg(), def, wide)
	if err != nil || len(conflicts) > 0 || len(got.Fields) != 2 || got.Fields[0].Type.Kind != schema.Short || string(got.Fields[1].Default) != "7" || got.Fields[1].Nullable {
		t.Errorf("merged %+v, %v, %v", got, conflicts, err)
	}
}

// Tables without a stream are merged by files alone.
func TestMergeTablesWithoutStream(t *testing.T) {
	t.Parallel()
	main := newMemEnv(t)
	location, err := main.d.Prepare(t.Context(), main.id, numbers(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := main.pointers.CreateTablePointer(t.Context(), main.id, location); err != nil {
		t.Fatal(err)
	}
	foreign{main}.append(1, 2)
	exp := *main
	exp.id = main.fork(main.load(), 0, nil)
	foreign{&exp}.append(3)
	read := func(e *env) (out []string) {
		out = e.rows(e.load(), dataset.ScanOptions{})
		slices.Sort(out)
		return out
	}
	want := func(e *env, values ...int) {
		t.Helper()
		var rows []string
		for _, v := range values {
			rows = append(rows, fmt.Sprintf("n=%d", v))
		}
		if got := read(e); !slices.Equal(trim(got), rows) {
			t.Errorf("rows %v, want %v", got, rows)
		}
	}
	if m := main.mergeFrom(&exp, dataset.MergeOptions{}); m.Strategy != dataset.FastForward || m.AddedRows != 1 {
		t.Fatalf("merged %+v", m)
	}
	foreign{main}.append(4)
	foreign{&exp}.append(5)
	txn := foreign{&exp}.table().NewTransaction()
	if err := txn.Delete(t.Context(), iceberg.EqualTo(iceberg.Reference("n"), int64(1)), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m := main.mergeFrom(&exp, dataset.MergeOptions{}); m.Strategy != dataset.Replay || m.AddedRows-m.RemovedRows != 0 {
		t.Fatalf("merged %+v", m)
	}
	want(main, 2, 3, 4, 5)
	exp.mergeFrom(main, dataset.MergeOptions{})
	want(&exp, 2, 3, 4, 5)
	if m := main.mergeFrom(&exp, dataset.MergeOptions{}); !m.UpToDate {
		t.Errorf("merged again: %+v", m)
	}
	if _, ok := exp.load().Metadata().Properties()[table.DefaultNameMappingKey]; !ok {
		t.Error("no name mapping")
	}
}

func trim(rows []string) []string {
	out := make([]string, len(rows))
	for i, r := range rows {
		out[i], _, _ = strings.Cut(r, " ")
	}
	return out
}
