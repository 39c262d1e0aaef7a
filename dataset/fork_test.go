package dataset_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// stored is every object with its size.
func (e *env) stored() map[string]int64 {
	e.t.Helper()
	out := map[string]int64{}
	for o, err := range e.store.List(e.t.Context(), "") {
		if err != nil {
			e.t.Fatal(err)
		}
		out[o.Key] = o.Size
	}
	return out
}

// fork makes a table from one and returns its id.
func (e *env) fork(t *dataset.Table, snapshot int64, m *dataset.Marker) string {
	e.t.Helper()
	id := uuid.NewString()
	at, err := t.Fork(e.t.Context(), dataset.ForkOptions{ID: id, Snapshot: snapshot, Marker: m, Properties: map[string]string{"thermocline.branch": "exp"}})
	if err != nil {
		e.t.Fatal(err)
	}
	if err := e.pointers.CreateTablePointer(e.t.Context(), id, at); err != nil {
		e.t.Fatal(err)
	}
	return id
}

func (e *env) loadID(id string) *dataset.Table {
	e.t.Helper()
	t, err := e.other().Load(e.t.Context(), id)
	if err != nil {
		e.t.Fatal(err)
	}
	return t
}

// forkMarker is the first marker of view 9, number 3.
func forkMarker() *dataset.Marker {
	return &dataset.Marker{View: 9, ViewNumber: 3, CommitID: uuid.NewString(), Cluster: "c"}
}

// TestFork: a fork holds the rows of the chosen snapshot, has a place, an id and a
// history of its own, and costs two small files, however much data there is.
func TestFork(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(numbers())
	var at []*dataset.Table
	for i := range record.Offset(5) {
		at = append(at, e.addNumbers(i*100, i*100+100))
	}
	wider := numbers()
	wider.Fields = append(wider.Fields, schema.Field{ID: 6, Name: "m", Nullable: true, Type: schema.Type{Kind: schema.String}})
	if _, err := e.d.SetSchema(t.Context(), e.id, wider); err != nil {
		t.Fatal(err)
	}
	last := e.addNumbers(500, 600)
	before := e.stored()

	middle := at[2]
	info, _ := middle.Head()
	id := e.fork(last, info.ID, forkMarker())
	added := map[string]int64{}
	bytes := int64(0)
	for key, size := range e.stored() {
		if before[key] != size {
			added[key] = size
			bytes += size
		}
	}
	if len(added) != 2 || bytes > 16<<10 {
		t.Errorf("a fork put %v", added)
	}
	for key := range added {
		if !strings.HasPrefix(key, id+"/metadata/") {
			t.Errorf("a fork put %s outside of its own place", key)
		}
	}
	f := e.loadID(id)
	e.wantOffsets(f, 300)
	e.wantOffsets(e.load(), 600)
	head, _ := f.Head()
	m, err := f.Marker()
	if err != nil || m == nil || m.View != 9 || m.ViewNumber != 3 || m.Epoch != 0 || len(m.Offsets) != 0 || m.SnapshotID != head.ID || head.Parent != info.ID {
		t.Errorf("marker %+v, %v; head %+v", m, err, head)
	}
	if head.TotalRows != 300 || head.AddedRows != 0 || head.AddedFiles != 0 || head.Sequence <= info.Sequence {
		t.Errorf("head %+v", head)
	}
	var ids, want []int64
	for _, s := range f.History()[1:] {
		ids = append(ids, s.ID)
	}
	for _, s := range middle.History() {
		want = append(want, s.ID)
	}
	if diff := cmp.Diff(want, ids); diff != "" {
		t.Error(diff)
	}
	meta := f.Metadata()
	if meta.TableUUID().String() != id || !strings.HasSuffix(meta.Location(), "/"+id) || f.Property("thermocline.branch") != "exp" {
		t.Errorf("uuid %s, location %s, properties %v", meta.TableUUID(), meta.Location(), meta.Properties())
	}
	if len(meta.Schemas()) != len(last.Metadata().Schemas()) || !f.Schema().Equals(middle.Schema()) {
		t.Errorf("schema %v, all %v", f.Schema(), meta.Schemas())
	}
	if names := f.Property("schema.name-mapping.default"); strings.Contains(names, `"m"`) || names == "" {
		t.Errorf("name mapping %s", names)
	}
	var refs []string
	for name := range meta.Refs() {
		refs = append(refs, name)
	}
	slices.Sort(refs)
	if diff := cmp.Diff([]string{"main", "thermocline-fork-0", "thermocline-marker", "thermocline-merged"}, refs); diff != "" {
		t.Error(diff)
	}
	for range meta.PreviousFiles() {
		t.Error("the fork lists metadata files of its source")
	}

	// Both go on, and neither sees the other.
	b := numberBatch(numbers(), 0, 0, 50)
	defer b.Release()
	name := fileName(0, 0, 50)
	name.View = 3
	end := forkMarker()
	end.Offsets, end.Epoch = record.Offsets{50}, 1
	if _, err := e.d.Commit(t.Context(), id, dataset.Commit{Base: f, Add: []dataset.DataFile{e.file(f, numbers(), name, b)}, Marker: end}); err != nil {
		t.Fatal(err)
	}
	e.addNumbers(600, 700)
	e.wantOffsets(e.load(), 700)
	if got := len(e.offsetsOf(e.loadID(id))); got != 350 {
		t.Errorf("the fork has %d rows", got)
	}
	if _, err := e.d.Compact(t.Context(), id, dataset.CompactOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := len(e.offsetsOf(e.loadID(id))); got != 350 {
		t.Errorf("the fork has %d rows after a compaction", got)
	}
	e.wantOffsets(e.load(), 700)

	// A fork of a fork at a snapshot of its source.
	second := e.fork(e.loadID(id), info.ID, nil)
	e.wantOffsets(e.loadID(second), 300)
	if h, _ := e.loadID(second).Head(); h.ID != info.ID {
		t.Errorf("without a marker the head is %d, want %d", h.ID, info.ID)
	}
	_, err = e.load().Fork(t.Context(), dataset.ForkOptions{ID: uuid.NewString(), Snapshot: 12345})
	wantIs(t, err, record.ErrNotFound)
	_, err = e.load().Fork(t.Context(), dataset.ForkOptions{ID: "../x"})
	wantIs(t, err, record.ErrInvalid)
}

// TestForkOfEmpty: a table without a snapshot can be forked, with and without a
// marker, and the fork takes rows.
func TestForkOfEmpty(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	source := e.create(numbers())
	for _, m := range []*dataset.Marker{nil, forkMarker()} {
		id := e.fork(source, 0, m)
		f := e.loadID(id)
		if _, ok := f.Head(); ok != (m != nil) {
			t.Errorf("head %v", ok)
		}
		b := numberBatch(numbers(), 0, 0, 10)
		if _, err := e.d.Commit(t.Context(), id, dataset.Commit{Add: []dataset.DataFile{e.file(f, numbers(), fileName(0, 0, 10), b)}}); err != nil {
			t.Fatal(err)
		}
		b.Release()
		e.wantOffsets(e.loadID(id), 10)
	}
}

// TestForkAt: the snapshot of a time is the one that was the head then.
func TestForkAt(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	now := time.Now().Truncate(time.Second) // a table is never older than the clock
	e.d = dataset.New(e.store, e.pointers, dataset.Options{Now: func() time.Time { return now }})
	e.create(numbers())
	for i := range record.Offset(3) {
		now = now.Add(time.Hour)
		e.addNumbers(i*10, i*10+10)
	}
	table := e.load()
	all := table.Snapshots()
	for _, c := range []struct {
		back time.Duration
		want int // -1: none
	}{{0, 2}, {time.Minute, 1}, {time.Hour, 1}, {2 * time.Hour, 0}, {2*time.Hour + time.Millisecond, -1}} {
		s, ok := table.At(now.Add(-c.back).UnixMilli())
		if ok != (c.want >= 0) || ok && s.ID != all[c.want].ID {
			t.Errorf("%v ago: %+v, %v", c.back, s, ok)
		}
	}
}
