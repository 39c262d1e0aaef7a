package dataset_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// TestMergeModel holds random operations on three branches (archives, engines
// that append, rewrite and delete, compactions, merges in all directions)
// against sets of rows.
func TestMergeModel(t *testing.T) {
	t.Parallel()
	runs, most := 0, 10
	if os.Getenv("THERMOCLINE_LONG") != "" {
		most = 1 << 20
	}
	rapid.Check(t, func(r *rapid.T) {
		if runs++; runs > most && !t.Failed() {
			return
		}
		m := newMergeModel(t, r)
		r.Repeat(map[string]func(*rapid.T){
			"archive": m.archive, "append": m.append, "rewrite": m.rewrite, "delete": m.delete,
			"compact": m.compact, "compare": m.compare, "merge": m.merge, "merge again": m.merge, "": m.check,
		})
	})
}

// modelRow is a row: its identity, all 0 if it has none, and its value, which no
// other row has.
type modelRow struct {
	view, partition int32
	offset          int64
	value           int64
}

type rowsOf map[modelRow]bool

// version is a state of a branch in the model, with what it came from.
type version struct {
	parents []*version
	rows    rowsOf
	changed bool // by an engine that rewrote or deleted rows
}

func (v *version) ancestors(out map[*version]bool) map[*version]bool {
	if !out[v] {
		out[v] = true
		for _, p := range v.parents {
			p.ancestors(out)
		}
	}
	return out
}

// mergeBranch is a branch under test.
type mergeBranch struct {
	name string
	id   string
	view record.ViewNumber
	next record.Offset
	now  *version
}

type mergeModel struct {
	e        *env
	branches []*mergeBranch
	value    int64
}

func newMergeModel(t *testing.T, r *rapid.T) *mergeModel {
	m := &mergeModel{e: newMemEnv(t)}
	m.e.create(numbers())
	main := &mergeBranch{name: "main", id: m.e.id, view: 1, now: &version{rows: rowsOf{}}}
	m.branches = []*mergeBranch{main}
	m.archive(r)
	m.archive(r)
	for v := record.ViewNumber(2); v <= 3; v++ {
		from := m.branches[rapid.IntRange(0, len(m.branches)-1).Draw(r, "from")]
		id := m.e.fork(m.e.loadID(from.id), 0, &dataset.Marker{View: record.ViewID(v), ViewNumber: v, CommitID: uuid.NewString(), Cluster: "c"})
		m.branches = append(m.branches, &mergeBranch{name: fmt.Sprintf("branch%d", v), id: id, view: v, now: from.now})
	}
	return m
}

func (m *mergeModel) pick(r *rapid.T, name string) *mergeBranch {
	return m.branches[rapid.IntRange(0, len(m.branches)-1).Draw(r, name)]
}

// on is the env with the branch's table.
func (m *mergeModel) on(b *mergeBranch) *env {
	e := *m.e
	e.id = b.id
	return &e
}

func (m *mergeModel) fresh(view int32, o int64) modelRow {
	m.value++
	return modelRow{view: view, offset: o, value: m.value}
}

func modelBatch(rows []modelRow) arrow.RecordBatch {
	b := array.NewRecordBuilder(memory.DefaultAllocator, numbers().WithSystem().Arrow())
	defer b.Release()
	for _, r := range rows {
		b.Field(0).(*array.Int64Builder).Append(r.value)
		appendSystem(b, 1, record.ViewNumber(r.view), record.Partition(r.partition), record.Offset(r.offset))
	}
	return b.NewRecordBatch()
}

// step is the branch's next version.
func (b *mergeBranch) step(changed bool, rows rowsOf, also ...*version) {
	b.now = &version{parents: append([]*version{b.now}, also...), rows: rows, changed: changed}
}

// archive adds rows of the branch's own view.
func (m *mergeModel) archive(r *rapid.T) {
	b := m.pick(r, "branch")
	e := m.on(b)
	next := maps.Clone(b.now.rows)
	var rows []modelRow
	from := b.next
	for range rapid.IntRange(1, 5).Draw(r, "rows") {
		row := m.fresh(int32(b.view), int64(b.next))
		b.next++
		rows = append(rows, row)
		next[row] = true
	}
	t := e.load()
	batch := modelBatch(rows)
	defer batch.Release()
	name := dataset.FileName{View: b.view, Epoch: 1, Ranges: []dataset.PartRange{{Range: record.Range{Start: from, End: b.next}}}}
	e.commit(dataset.Commit{Base: t, Add: []dataset.DataFile{e.file(t, numbers(), name, batch)}, Marker: &dataset.Marker{
		View: record.ViewID(b.view), ViewNumber: b.view, Epoch: 1, Offsets: record.Offsets{b.next}, CommitID: uuid.NewString(), Cluster: "c",
	}})
	b.step(false, next)
}

// foreignFile writes rows into a file that is named as engines name theirs.
func (m *mergeModel) foreignFile(e *env, rows []modelRow) dataset.DataFile {
	t := e.load()
	batch := modelBatch(rows)
	defer batch.Release()
	f, err := t.WithoutChecksums(e.t.Context(), e.file(t, numbers(), dataset.FileName{}, batch))
	if err != nil {
		e.t.Fatal(err)
	}
	return f
}

// append adds rows without identity.
func (m *mergeModel) append(r *rapid.T) {
	b := m.pick(r, "branch")
	e := m.on(b)
	next := maps.Clone(b.now.rows)
	var rows []modelRow
	for range rapid.IntRange(1, 3).Draw(r, "rows") {
		row := m.fresh(0, 0)
		rows = append(rows, row)
		next[row] = true
	}
	e.commit(dataset.Commit{Add: []dataset.DataFile{m.foreignFile(e, rows)}})
	b.step(false, next)
}

// live reads one file of the branch, with deletes applied.
func (m *mergeModel) pickFile(r *rapid.T, e *env) (f dataset.FileInfo, rows []modelRow, ok bool) {
	t := e.load()
	files, err := t.FileRows(e.t.Context(), 0)
	if err != nil {
		e.t.Fatal(err)
	}
	if files.Len() == 0 {
		return f, nil, false
	}
	i := rapid.IntRange(0, files.Len()-1).Draw(r, "file")
	for batch, err := range files.Rows(e.t.Context(), i, dataset.ScanOptions{}) {
		if err != nil {
			e.t.Fatal(err)
		}
		rows = append(rows, modelRows(batch)...)
	}
	return files.File(i), rows, len(rows) > 0
}

func modelRows(b arrow.RecordBatch) []modelRow {
	out := make([]modelRow, b.NumRows())
	for i := range out {
		out[i] = modelRow{
			value: b.Column(0).(*array.Int64).Value(i), view: b.Column(1).(*array.Int32).Value(i),
			partition: b.Column(2).(*array.Int32).Value(i), offset: b.Column(3).(*array.Int64).Value(i),
		}
	}
	return out
}

// rewrite changes rows of a file as an engine does that copies on write.
func (m *mergeModel) rewrite(r *rapid.T) {
	b := m.pick(r, "branch")
	e := m.on(b)
	f, rows, ok := m.pickFile(r, e)
	if !ok {
		return
	}
	next := maps.Clone(b.now.rows)
	for i := range rows {
		if rapid.Bool().Draw(r, "change") {
			delete(next, rows[i])
			m.value++
			rows[i].value = m.value
			next[rows[i]] = true
		}
	}
	if err := e.d.Edit(e.t.Context(), e.id, []string{f.Path}, nil, m.foreignFile(e, rows)); err != nil {
		e.t.Fatal(err)
	}
	b.step(true, next)
}

// delete deletes some rows of a file by position.
func (m *mergeModel) delete(r *rapid.T) {
	b := m.pick(r, "branch")
	e := m.on(b)
	f, rows, ok := m.pickFile(r, e)
	if !ok {
		return
	}
	next := maps.Clone(b.now.rows)
	at := rapid.IntRange(0, int(f.Rows)-1).Draw(r, "position")
	if err := e.d.Edit(e.t.Context(), e.id, nil, map[string][]int64{f.Path: {int64(at)}}); err != nil {
		e.t.Fatal(err)
	}
	left := rowsOf{}
	for _, row := range m.scan(e) {
		left[row] = true
	}
	for _, row := range rows {
		if !left[row] {
			delete(next, row)
		}
	}
	b.step(true, next)
}

func (m *mergeModel) compact(r *rapid.T) {
	b := m.pick(r, "branch")
	m.on(b).compactAll(dataset.CompactOptions{})
}

// merge merges one branch into another.
func (m *mergeModel) merge(r *rapid.T) {
	from, to := m.pick(r, "source"), m.pick(r, "target")
	if from == to {
		return
	}
	strategy := rapid.SampledFrom([]dataset.Strategy{"", "", "", dataset.Replay, dataset.FastForward, dataset.Replace}).Draw(r, "strategy")
	e := m.on(to)
	before, before0 := m.dataFiles(), to.now.rows
	dry, err := e.d.Merge(e.t.Context(), from.id, to.id, dataset.MergeOptions{Strategy: strategy, DryRun: true})
	if err != nil && !errors.Is(err, record.ErrConflict) {
		r.Fatal(err)
	}
	got, err := e.d.Merge(e.t.Context(), from.id, to.id, dataset.MergeOptions{Strategy: strategy})
	for f := range m.dataFiles() {
		if !before[f] && !strings.Contains(f, "v0-e0-deletes-") {
			r.Fatalf("the merge wrote %s", f)
		}
	}
	bases, ours, theirs := m.bases(from, to)
	if err != nil {
		var c *dataset.Conflicts
		switch {
		case !errors.Is(err, record.ErrConflict):
			r.Fatal(err)
		case errors.As(err, &c) && (ours && theirs || len(dry.Bases) > 1 || strings.Contains(err.Error(), "again that were deleted")) && dry.Conflicts.Count == c.Count:
			return // both rewrote or deleted, or merges crossed
		case strategy == dataset.FastForward && !errors.As(err, &c) && (theirs || !m.untouched(bases, to)):
			return
		}
		r.Fatalf("merge %s into %s (%s): %v", from.name, to.name, strategy, err)
	}
	if strategy == dataset.FastForward && !m.untouched(bases, to) {
		r.Fatalf("fast-forward of %s to %s, which has rows of its own", to.name, from.name)
	}
	if dry.AddedRows != got.AddedRows || dry.RemovedRows != got.RemovedRows || dry.Strategy != got.Strategy || dry.UpToDate != got.UpToDate {
		r.Fatalf("dry run %+v, merge %+v", dry, got)
	}
	next := maps.Clone(from.now.rows)
	if got.Strategy != dataset.Replace {
		next = maps.Clone(to.now.rows)
		for row := range from.now.rows {
			if !inAny(bases, row) {
				next[row] = true
			}
		}
		for _, b := range bases {
			for row := range b.rows {
				if !from.now.rows[row] {
					delete(next, row)
				}
			}
		}
	}
	if !got.UpToDate {
		to.step(got.Strategy == dataset.Replace, next, from.now)
	} else if !maps.Equal(next, to.now.rows) {
		r.Fatalf("nothing was merged from %s into %s, want %s", from.name, to.name, diffRows(to.now.rows, next))
	}
	m.check(r)
	if want := int64(len(next)); got.AddedRows-got.RemovedRows != want-int64(len(before0)) {
		r.Fatalf("merge %s into %s says %+v; it has %d rows, had %d", from.name, to.name, got, want, len(before0))
	}
}

// compare compares two branches.
func (m *mergeModel) compare(r *rapid.T) {
	a, b := m.pick(r, "a"), m.pick(r, "b")
	got, err := m.e.d.Compare(m.e.t.Context(), a.id, b.id, dataset.CompareOptions{Sample: dataset.MaxSample})
	if err != nil {
		r.Fatal(err)
	}
	row := func(s dataset.SampledRow, text []byte) modelRow {
		var v struct {
			N int64 `json:"n"`
		}
		if err := json.Unmarshal(text, &v); err != nil {
			r.Fatal(err)
		}
		return modelRow{int32(s.View), int32(s.Partition), int64(s.Offset), v.N}
	}
	now, was := rowsOf{}, rowsOf{}
	for _, s := range got.Rows.Added {
		now[row(s, s.Row)] = true
	}
	for _, s := range got.Rows.Removed {
		was[row(s, s.Row)] = true
	}
	for _, c := range got.Rows.Changed {
		was[row(c.Was, c.Was.Row)] = true
		now[row(c.Was, c.Now)] = true
	}
	less := func(x, y rowsOf) rowsOf {
		out := maps.Clone(x)
		for row := range y {
			delete(out, row)
		}
		return out
	}
	if want := less(b.now.rows, a.now.rows); !got.Rows.Whole || !maps.Equal(now, want) {
		r.Fatalf("from %s to %s (whole: %v) rows come: %s", a.name, b.name, got.Rows.Whole, diffRows(now, want))
	}
	if want := less(a.now.rows, b.now.rows); !maps.Equal(was, want) {
		r.Fatalf("from %s to %s rows go: %s", a.name, b.name, diffRows(was, want))
	}
	if bases, _, _ := m.bases(a, b); len(bases) == 1 && len(got.Bases) == 1 {
		for _, x := range []struct {
			side dataset.ComparedSide
			b    *mergeBranch
		}{{got.A, a}, {got.B, b}} {
			if n := x.side.AddedRows - x.side.RemovedRows; n != int64(len(x.b.now.rows)-len(bases[0].rows)) {
				r.Fatalf("%s: %+v, has %d rows, the common ancestor %d", x.b.name, x.side, len(x.b.now.rows), len(bases[0].rows))
			}
		}
	}
}

func inAny(versions []*version, row modelRow) bool {
	return slices.ContainsFunc(versions, func(v *version) bool { return v.rows[row] })
}

// bases are the newest common ancestors, and whether each side has rewritten or
// deleted rows that the other does not know of.
func (m *mergeModel) bases(a, b *mergeBranch) (bases []*version, ours, theirs bool) {
	ofA, ofB := a.now.ancestors(map[*version]bool{}), b.now.ancestors(map[*version]bool{})
	newest := map[*version]bool{}
	for v := range ofA {
		if ofB[v] {
			newest[v] = true
		} else {
			ours = ours || v.changed
		}
	}
	for v := range ofB {
		theirs = theirs || (!ofA[v] && v.changed)
	}
	for v := range maps.Clone(newest) {
		for _, p := range v.parents {
			for old := range p.ancestors(map[*version]bool{}) {
				delete(newest, old)
			}
		}
	}
	return slices.Collect(maps.Keys(newest)), ours, theirs
}

func (m *mergeModel) untouched(bases []*version, to *mergeBranch) bool {
	return len(bases) == 1 && maps.Equal(bases[0].rows, to.now.rows)
}

func (m *mergeModel) scan(e *env) []modelRow {
	var out []modelRow
	for b, err := range e.load().Scan(e.t.Context(), dataset.ScanOptions{}) {
		if err != nil {
			e.t.Fatal(err)
		}
		out = append(out, modelRows(b)...)
	}
	return out
}

func (m *mergeModel) dataFiles() map[string]bool {
	out := map[string]bool{}
	for o := range m.e.stored() {
		if strings.Contains(o, "/data/") {
			out[o] = true
		}
	}
	return out
}

// check compares all branches with the model.
func (m *mergeModel) check(r *rapid.T) {
	for _, b := range m.branches {
		e := m.on(b)
		got := rowsOf{}
		for _, row := range m.scan(e) {
			if got[row] {
				r.Fatalf("%s has %v twice", b.name, row)
			}
			got[row] = true
		}
		if !maps.Equal(got, b.now.rows) {
			r.Fatalf("%s: %s", b.name, diffRows(got, b.now.rows))
		}
		t := e.load()
		mark, err := t.Marker()
		if err != nil || mark == nil || mark.ViewNumber != b.view || mark.Offsets.At(0) != b.next {
			r.Fatalf("%s: marker %+v, %v; want offset %d of view %d", b.name, mark, err, b.next, b.view)
		}
	}
}

func diffRows(got, want rowsOf) string {
	var more, missing []modelRow
	for r := range got {
		if !want[r] {
			more = append(more, r)
		}
	}
	for r := range want {
		if !got[r] {
			missing = append(missing, r)
		}
	}
	return fmt.Sprintf("too many: %v, missing: %v", more, missing)
}
