package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/subscriber"
	"github.com/thermocline/thermocline/writer"
)

// fork makes a branch of "s".
func (w *world) fork(name string, from branch.From) *branch.State {
	w.t.Helper()
	st, err := w.node.directory.CreateBranch(w.t.Context(), "s", branch.NewBranch{Name: name, From: from})
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

func (w *world) on(branch string) *branch.State {
	w.t.Helper()
	st, err := w.node.directory.Resolve("s", branch)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// put publishes rows with the given n to a branch.
func (w *world) put(branch string, ns ...int64) {
	w.t.Helper()
	var b strings.Builder
	for _, n := range ns {
		fmt.Fprintf(&b, `{"k":"key-%d","n":%d}`+"\n", n%7, n)
	}
	if _, err := w.node.writer.Publish(w.t.Context(), writer.Request{Stream: "s", Branch: branch, Format: writer.JSON, Body: []byte(b.String())}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) archiveOn(branch string) {
	w.t.Helper()
	if _, err := w.b.Archiver.ArchiveNow(w.t.Context(), "s", branch); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) tableOn(branch string) *dataset.Table {
	w.t.Helper()
	t, err := w.node.datasets.Load(w.t.Context(), w.on(branch).Branch.TableUUID)
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

// cold is the column n of a branch's dataset, sorted; guests and own rows.
func (w *world) cold(branch string) []int64 {
	w.t.Helper()
	all := []int64{}
	for b, err := range w.tableOn(branch).Scan(w.t.Context(), dataset.ScanOptions{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, b.Column(b.Schema().FieldIndices("n")[0]).(*array.Int64).Int64Values()...)
	}
	slices.Sort(all)
	return all
}

// wantCold archives a branch and checks that its dataset holds the given rows.
func (w *world) wantCold(branch string, ns ...int64) {
	w.t.Helper()
	w.archiveOn(branch)
	if diff := cmp.Diff(sorted(ns), w.cold(branch)); diff != "" {
		w.t.Fatalf("rows of %s: %s", branch, diff)
	}
}

func sorted(ns []int64) []int64 {
	out := append([]int64{}, ns...)
	slices.Sort(out)
	return out
}

// upTo is 0 to n-1 and then more.
func upTo(n int64, more ...int64) []int64 {
	var out []int64
	for i := range n {
		out = append(out, i)
	}
	return append(out, more...)
}

// objects is what the warehouse holds.
func (w *world) sizes() map[string]int64 {
	w.t.Helper()
	out := map[string]int64{}
	for o, err := range w.store().List(w.t.Context(), "") {
		if err != nil {
			w.t.Fatal(err)
		}
		out[o.Key] = o.Size
	}
	return out
}

// A branch begins with every row that was acknowledged before, hot or cold, costs
// no data, and both sides go on by themselves, over restarts.
func TestBranch(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{Partitions: 2, KeyFields: []string{"k"}}, Options{})
	w.put("main", upTo(50)...)
	w.archiveOn("main")
	w.put("main", 50, 51, 52) // hot
	st := w.fork("exp", branch.From{})
	if st.Name() != "default.s@exp" || st.Branch.View.Number != 2 || st.Branch.Settings.Partitions != 2 || st.Branch.SchemaID != w.on("main").Branch.SchemaID {
		t.Errorf("branch %+v", st.Branch)
	}
	head, _ := w.tableOn("main").Head()
	if want := (catalog.Origin{Branch: "main", Table: w.on("main").Branch.TableUUID, Snapshot: head.ID}); st.Branch.Origin != want {
		t.Errorf("origin %+v, want %+v", st.Branch.Origin, want)
	}
	if diff := cmp.Diff(upTo(53), w.cold("exp")); diff != "" {
		t.Fatal(diff)
	}
	before := w.sizes()
	w.fork("idle", branch.From{Branch: "exp"})
	var bytes int64
	for key, size := range w.sizes() {
		if _, old := before[key]; !old {
			bytes += size
			if strings.Contains(key, "/data/") || strings.Contains(key, "-m0.") {
				t.Errorf("a branch made %s", key)
			}
		}
	}
	if bytes > 32<<10 {
		t.Errorf("a branch cost %d bytes", bytes)
	}
	for range 2 {
		w.put("main", 53)
		w.put("exp", 100)
		w.restart()
		w.put("main", 54)
		w.put("exp", 101)
	}
	w.wantCold("main", upTo(53, 53, 54, 53, 54)...)
	w.wantCold("exp", upTo(53, 100, 101, 100, 101)...)
	w.wantCold("idle", upTo(53)...)
	off, err := w.b.Archiver.Offsets(t.Context(), "s", "exp")
	if err != nil || off.View != 2 || off.End.RowsSince(nil) != 4 || off.Lag.Rows != 0 {
		t.Errorf("offsets of the branch: %+v, %v", off, err)
	}
}

// A branch may begin at a snapshot, a tag, a time, or a cursor, and has the schema
// of that place.
func TestBranchFromAPlace(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	ctx := t.Context()
	began := time.Now()
	time.Sleep(2 * time.Millisecond)
	w.put("main", upTo(10)...)
	w.archiveOn("main")
	first, _ := w.tableOn("main").Head()
	if _, err := w.node.directory.CreateTag(ctx, "s", "main", "v1.0", 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Millisecond)
	then := time.Now()
	time.Sleep(2 * time.Millisecond)
	old := w.on("main")
	wide := old.Schema.Clone()
	wide.Fields = append(wide.Fields, schema.Field{Name: "x", Type: schema.Type{Kind: schema.Long}, Nullable: true})
	if _, err := w.node.directory.Evolve(ctx, "s", "main", wide); err != nil {
		t.Fatal(err)
	}
	w.put("main", 10, 11)
	w.archiveOn("main")
	w.put("main", 12)
	at := func(next ...record.Offset) branch.From {
		return branch.From{Position: &branch.Position{View: old.Branch.View.ID, Next: next}}
	}
	for name, c := range map[string]struct {
		from branch.From
		rows int64
		wide bool
	}{
		"snapshot":         {branch.From{Snapshot: first.ID}, 10, false},
		"tag":              {branch.From{Tag: "v1.0"}, 10, false},
		"time":             {branch.From{Time: then}, 10, false},
		"cursor":           {at(10), 10, false},
		"cursor-later":     {at(12), 12, true},
		"cursor-of-hot":    {at(13), 13, true},
		"cursor-between":   {at(11), 11, true},
		"cursor-early":     {at(5), 5, false},
		"cursor-at-first":  {at(0), 0, false},
		"now":              {branch.From{}, 13, true},
		"time-before-it":   {branch.From{Time: time.Now()}, 12, true},
		"snapshot-of-fork": {branch.From{Branch: "main", Snapshot: first.ID}, 10, false},
	} {
		if c.from.Position == nil && c.rows == 13 {
			w.archiveOn("main")
		}
		st := w.fork(name, c.from)
		if got := int64(len(w.cold(name))); got != c.rows {
			t.Errorf("%s: %d rows, want %d", name, got, c.rows)
		}
		if (len(st.Schema.Fields) == 3) != c.wide {
			t.Errorf("%s: schema %v", name, st.Schema.Fields)
		}
		same, err := w.tableOn(name).HasSchema(st.Schema)
		if err != nil || !same {
			t.Errorf("%s: the table has another schema: %v", name, err)
		}
		w.put(name, 1000)
		w.archiveOn(name)
		if got := int64(len(w.cold(name))); got != c.rows+1 {
			t.Errorf("%s: %d rows behind an archive, want %d", name, got, c.rows+1)
		}
	}
	for name, c := range map[string]struct {
		n    branch.NewBranch
		want error
	}{
		"taken":           {branch.NewBranch{Name: "tag"}, record.ErrExists},
		"main":            {branch.NewBranch{Name: "main"}, record.ErrExists},
		"name":            {branch.NewBranch{Name: "a@b"}, record.ErrInvalid},
		"no source":       {branch.NewBranch{Name: "z", From: branch.From{Branch: "none"}}, record.ErrNotFound},
		"no snapshot":     {branch.NewBranch{Name: "z", From: branch.From{Snapshot: 99}}, record.ErrNotFound},
		"no tag":          {branch.NewBranch{Name: "z", From: branch.From{Tag: "v9"}}, record.ErrNotFound},
		"reserved tag":    {branch.NewBranch{Name: "z", From: branch.From{Tag: "thermocline-marker"}}, record.ErrNotFound},
		"too early":       {branch.NewBranch{Name: "z", From: branch.From{Time: began.Add(-time.Hour)}}, record.ErrNotFound},
		"to come":         {branch.NewBranch{Name: "z", From: branch.From{Time: time.Now().Add(time.Hour)}}, record.ErrInvalid},
		"behind the end":  {branch.NewBranch{Name: "z", From: at(14)}, record.ErrOutOfRange},
		"of another view": {branch.NewBranch{Name: "z", From: branch.From{Position: &branch.Position{View: 77}}}, record.ErrNotFound},
		"two places":      {branch.NewBranch{Name: "z", From: branch.From{Tag: "v1.0", Snapshot: first.ID}}, record.ErrInvalid},
		"key field gone": {branch.NewBranch{Name: "z", From: branch.From{Tag: "v1.0"}, Settings: func(s catalog.Settings) catalog.Settings {
			s.KeyFields = []string{"x"}
			return s
		}}, record.ErrInvalid},
		"policy": {branch.NewBranch{Name: "z", Policy: catalog.Policy{MaxSnapshotAge: 1}}, record.ErrInvalid},
	} {
		_, err := w.node.directory.CreateBranch(ctx, "s", c.n)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	_, err := w.node.directory.CreateBranch(ctx, "nope", branch.NewBranch{Name: "z"})
	if !errors.Is(err, record.ErrNotFound) {
		t.Error(err)
	}
}

// Two branches evolve, reset and archive by themselves; field ids never mean two
// things.
func TestBranchesEvolveApart(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	w.put("main", upTo(5)...)
	w.fork("exp", branch.From{})
	add := func(name, field string, kind schema.Kind) {
		t.Helper()
		s := w.on(name).Schema.Clone()
		s.Fields = append(s.Fields, schema.Field{Name: field, Type: schema.Type{Kind: kind}, Nullable: true})
		if _, err := w.node.directory.Evolve(t.Context(), "s", name, s); err != nil {
			t.Fatal(err)
		}
	}
	add("main", "a", schema.Long)
	add("exp", "b", schema.String)
	add("main", "c", schema.String)
	add("exp", "a", schema.Double)
	ids := map[int]string{}
	for _, name := range []string{"main", "exp"} {
		for _, f := range w.on(name).Schema.Fields[2:] {
			if other, taken := ids[f.ID]; taken {
				t.Errorf("field id %d is %s and %s.%s", f.ID, other, name, f.Name)
			}
			ids[f.ID] = name + "." + f.Name
		}
	}
	w.put("main", 5)
	w.put("exp", 105)
	w.wantCold("main", upTo(6)...)
	w.wantCold("exp", upTo(5, 105)...)
	if _, err := w.node.directory.Reset(t.Context(), "s", "exp", nil, same); err != nil {
		t.Fatal(err)
	}
	w.put("exp", 200)
	w.put("main", 6)
	w.restart()
	w.wantCold("exp", 200)
	w.wantCold("main", upTo(7)...)
	w.fork("back", branch.From{Branch: "exp"})
	w.wantCold("back", 200)
}

// A deleted branch is gone with its hot rows, its name is free, and its subscribers
// go only when that is asked for; main and protected branches stay.
func TestDeleteBranch(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	ctx := t.Context()
	w.put("main", upTo(5)...)
	w.fork("exp", branch.From{})
	w.put("exp", 100)
	remove := func(name string, o branch.DeleteBranch) error {
		return w.node.directory.DeleteBranch(ctx, "s", name, o)
	}
	if err := remove("main", branch.DeleteBranch{}); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("delete main: %v", err)
	}
	if err := remove("none", branch.DeleteBranch{}); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("delete none: %v", err)
	}
	protect := func(on bool) {
		t.Helper()
		b, err := w.node.directory.SetPolicy(ctx, "s", "exp", func(p catalog.Policy) catalog.Policy { p.Protected = on; return p })
		if err != nil || b.Policy.Protected != on {
			t.Fatal(b, err)
		}
	}
	protect(true)
	w.restart()
	if err := remove("exp", branch.DeleteBranch{}); !errors.Is(err, record.ErrConflict) {
		t.Errorf("delete a protected branch: %v", err)
	}
	if err := w.node.directory.Delete(ctx, "s"); !errors.Is(err, record.ErrConflict) {
		t.Errorf("delete a stream with a protected branch: %v", err)
	}
	if _, err := w.node.directory.Reset(ctx, "s", "exp", nil, same); !errors.Is(err, record.ErrConflict) {
		t.Errorf("reset a protected branch: %v", err)
	}
	w.put("exp", 101)
	protect(false)
	ref := subscriber.Ref{Stream: "default.s", Branch: "exp"}
	if _, err := w.node.subscribers.Create(ctx, ref, subscriber.Spec{Name: "g"}); err != nil {
		t.Fatal(err)
	}
	if err := remove("exp", branch.DeleteBranch{}); !errors.Is(err, record.ErrConflict) {
		t.Errorf("delete a branch with subscribers: %v", err)
	}
	kept := errors.New("kept")
	if err := remove("exp", branch.DeleteBranch{Subscribers: true, If: func(*branch.State) error { return kept }}); !errors.Is(err, kept) {
		t.Errorf("delete under a condition: %v", err)
	}
	w.put("exp", 102)
	view := w.on("exp").Branch.View.ID
	if err := remove("exp", branch.DeleteBranch{Subscribers: true}); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(w.node.log.Views(), view) {
		t.Error("the hot buffer still has the view")
	}
	if _, err := w.node.directory.Resolve("s", "exp"); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("resolve: %v", err)
	}
	if _, err := w.node.writer.Publish(ctx, writer.Request{Stream: "s", Branch: "exp", Format: writer.JSON, Body: []byte(`{"k":"a","n":1}`)}); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("publish: %v", err)
	}
	w.restart()
	again := w.fork("exp", branch.From{})
	if again.Branch.View.Number != 3 || again.Branch.View.ID == view {
		t.Errorf("view %+v", again.Branch.View)
	}
	w.wantCold("exp", upTo(5)...)
	w.wantCold("main", upTo(5)...)
}

// Branches can go in any order, the first one too, without another one losing a
// row; when all but main are gone, nothing of theirs is left.
func TestFilesOfBranchesAreCollected(t *testing.T) {
	t.Parallel()
	for name, order := range map[string][]string{"parent first": {"a", "b", "c"}, "child first": {"c", "b", "a"}, "middle first": {"b", "a", "c"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorldWith(t, catalog.Settings{}, Options{})
			want := map[string][]int64{}
			parent := "main"
			next := int64(0)
			for _, b := range []string{"main", "a", "b", "c"} {
				if b != "main" {
					w.fork(b, branch.From{Branch: parent})
				}
				want[b] = append(slices.Clone(want[parent]), next, next+1)
				w.put(b, next, next+1)
				w.archiveOn(b)
				next += 2
				parent = b
			}
			for _, gone := range order {
				if err := w.node.directory.DeleteBranch(t.Context(), "s", gone, branch.DeleteBranch{}); err != nil {
					t.Fatal(err)
				}
				delete(want, gone)
				for range 3 {
					w.emptyTrash(time.Nanosecond)
				}
				for b, rows := range want {
					w.wantCold(b, rows...)
				}
			}
			main := w.on("main").Branch.TableUUID
			for key := range w.sizes() {
				if !strings.Contains(key, main) {
					t.Errorf("left: %s", key)
				}
			}
			if due, err := w.node.catalog.TrashDue(t.Context(), time.Now().Add(1000*time.Hour), 10); err != nil || len(due) != 0 {
				t.Errorf("in the trash: %v, %v", due, err)
			}
		})
	}
}

// emptyTrash looks at all of the trash once, as the directory does.
func (w *world) emptyTrash(grace time.Duration) {
	w.t.Helper()
	if _, err := w.purge(w.t.Context(), grace); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(2 * time.Millisecond)
}

func (w *world) purge(ctx context.Context, grace time.Duration) (left int, err error) {
	due, err := w.node.catalog.TrashDue(ctx, time.Now().Add(1000*time.Hour), catalog.MaxPage)
	for _, e := range due {
		if err != nil {
			return left, err
		}
		var n int
		if n, err = w.node.datasets.Purge(ctx, e.TableUUID, grace); err == nil && n == 0 {
			err = w.node.catalog.RemoveTrash(ctx, e.ID)
		}
		left += n
	}
	return left, err
}

// A dataset without a stream has branches, tags and policies like a stream has.
func TestBranchesOfADataset(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	ctx := t.Context()
	_, main, err := w.node.catalog.CreateDataset(ctx, catalog.NewDataset{Name: "d"})
	if err != nil {
		t.Fatal(err)
	}
	sc, _ := mustParse(t, worldSchema).AssignIDs(schema.FirstUserID)
	table, err := w.node.datasets.Create(ctx, main.TableUUID, sc, nil)
	if err != nil {
		t.Fatal(err)
	}
	add := func(table *dataset.Table, n int64) {
		t.Helper()
		f, err := table.NewFileWriter(ctx, dataset.FileName{View: 1, Epoch: 1, Ranges: []dataset.PartRange{{Range: record.Range{Start: record.Offset(n), End: record.Offset(n + 1)}}}}, sc, dataset.Parquet)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Abort()
		b := array.NewRecordBuilder(memory.DefaultAllocator, sc.WithSystem().Arrow())
		defer b.Release()
		b.Field(0).(*array.StringBuilder).Append("k")
		b.Field(1).(*array.Int64Builder).Append(n)
		b.Field(2).(*array.Int32Builder).Append(1)
		b.Field(3).(*array.Int32Builder).Append(0)
		b.Field(4).(*array.Int64Builder).Append(n)
		b.Field(5).(*array.TimestampBuilder).Append(1)
		rows := b.NewRecordBatch()
		defer rows.Release()
		if err := f.Write(rows); err != nil {
			t.Fatal(err)
		}
		file, err := f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.node.datasets.Commit(ctx, table.ID(), dataset.Commit{Add: []dataset.DataFile{file}}); err != nil {
			t.Fatal(err)
		}
	}
	add(table, 0)
	if _, err := w.node.directory.CreateTag(ctx, "d", "main", "one", 0); err != nil {
		t.Fatal(err)
	}
	add(table, 1)
	made := map[string]string{}
	for name, from := range map[string]branch.From{"exp": {}, "old": {Tag: "one"}} {
		st, err := w.node.directory.CreateBranch(ctx, "d", branch.NewBranch{Name: name, From: from})
		if err != nil {
			t.Fatal(err)
		}
		made[name] = st.Branch.TableUUID
	}
	w.restart()
	for name, want := range map[string]int64{"exp": 2, "old": 1} {
		t2, err := w.node.datasets.Load(ctx, made[name])
		if err != nil {
			t.Fatal(err)
		}
		if head, _ := t2.Head(); head.TotalRows != want || head.Marker != nil {
			t.Errorf("%s: %+v", name, head)
		}
	}
	if _, err := w.node.directory.Resolve("d", "exp"); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("the directory has opened a branch of a dataset: %v", err)
	}
	list, _, err := w.b.Branches.ListBranches(ctx, "d", api.Page{Size: 10})
	if err != nil || len(list) != 3 {
		t.Errorf("listed: %v, %v", list, err)
	}
	if b, err := w.b.Branches.Branch(ctx, "d", "exp"); err != nil || b.From != "main" || b.Settings != nil || b.Schema != nil {
		t.Errorf("shown: %+v, %v", b, err)
	}
	if name, err := w.b.Branches.Pick(ctx, "d", []string{"none", "old", "main"}); err != nil || name != "old" {
		t.Errorf("picked %q, %v", name, err)
	}
	on := true
	if b, err := w.b.Branches.UpdatePolicy(ctx, "d", "exp", api.PolicyPatch{Protected: &on}); err != nil || !b.Policy.Protected {
		t.Errorf("policy: %+v, %v", b, err)
	}
	if err := w.b.Branches.DeleteBranch(ctx, "d", "exp", false); !errors.Is(err, record.ErrConflict) {
		t.Errorf("delete a protected branch: %v", err)
	}
	if err := w.b.Branches.DeleteBranch(ctx, "d", "old", false); err != nil {
		t.Error(err)
	}
	if err := w.b.Branches.DeleteBranch(ctx, "d", "main", false); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("delete main: %v", err)
	}
}

// readOn reads the column n of a branch, in the order of the read.
func (w *world) readOn(branch string, q reader.Request) (ns []int64, end reader.Cursor) {
	w.t.Helper()
	res, err := w.b.Reader.Read(w.t.Context(), "s", branch, q)
	if err != nil {
		w.t.Fatal(err)
	}
	for b, err := range res.Batches {
		if err != nil {
			w.t.Fatal(err)
		}
		if b.Rows != nil {
			ns = append(ns, b.Rows.Column(b.Rows.Schema().FieldIndices("n")[0]).(*array.Int64).Int64Values()...)
		}
		end = b.Next
	}
	return ns, end
}

// A branch from any cursor has the rows that were read up to there, in their order,
// wherever archives and compactions ended; and a merge of it brings its own rows and
// takes none away.
func TestBranchFromAnyCursor(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{Partitions: 3, KeyFields: []string{"k"}}, Options{})
	noise := rand.New(rand.NewPCG(1, 2))
	next := int64(0)
	for range 12 {
		var ns []int64
		for range 5 + noise.IntN(30) {
			ns = append(ns, next)
			next++
		}
		w.put("main", ns...)
		if noise.IntN(4) > 0 {
			w.archiveOn("main")
		}
		if noise.IntN(4) == 0 {
			if err := compact(t.Context(), w); err != nil {
				t.Fatal(err)
			}
		}
	}
	var own []int64
	for i := range 14 {
		limit := 1 + noise.Int64N(next)
		want, cursor := w.readOn("main", reader.Request{Limit: limit})
		if int64(len(want)) != limit {
			t.Fatalf("%d rows, want %d", len(want), limit)
		}
		name := fmt.Sprintf("c%d", i)
		w.fork(name, branch.From{Position: &branch.Position{View: cursor.View, Next: cursor.Next}})
		got, _ := w.readOn(name, reader.Request{})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("a branch from a cursor behind %d rows: %s", limit, diff)
		}
		if i == 13 {
			mine := int64(10_000 + i)
			own = append(own, mine)
			w.put(name, mine)
			w.archiveOn(name)
			merged, err := w.node.directory.Merge(t.Context(), "s", name, branch.Merge{Into: "main"})
			if err != nil {
				t.Fatal(err)
			}
			if merged.RemovedRows != 0 {
				t.Errorf("the merge removed rows: %+v", merged)
			}
			all, _ := w.readOn("main", reader.Request{})
			if diff := cmp.Diff(sorted(upTo(next, own...)), sorted(all)); diff != "" {
				t.Fatalf("main after a merge of %s: %s", name, diff)
			}
		}
	}
	w.restart()
	all, _ := w.readOn("main", reader.Request{})
	if diff := cmp.Diff(sorted(upTo(next, own...)), sorted(all)); diff != "" {
		t.Fatal(diff)
	}
}
