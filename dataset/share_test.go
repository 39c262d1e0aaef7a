package dataset_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// shared is a model of tables that share files: for each one, the rows of every
// snapshot that it still holds.
type shared struct {
	*env
	t      *rapid.T
	tables []string // live
	trash  []string // without a pointer, and not empty yet
	rows   map[int64]int64
	next   record.Offset
	names  int
}

// grace of all collections.
const grace = time.Millisecond

func (s *shared) pick() string { return rapid.SampledFrom(s.tables).Draw(s.t, "table") }

func (s *shared) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shared) load1(id string) *dataset.Table {
	s.t.Helper()
	t, err := s.d.Load(s.t.Context(), id)
	s.must(err)
	return t
}

// append adds a file of some rows, from an offset that was never used.
func (s *shared) append(id string) {
	n := record.Offset(rapid.IntRange(1, 5).Draw(s.t, "rows"))
	t := s.load1(id)
	b := numberBatch(numbers(), 0, s.next, s.next+n)
	defer b.Release()
	f := s.fileAs(dataset.Parquet, t, numbers(), fileName(0, s.next, s.next+n), b)
	m := marker(s.next + n)
	before := int64(0)
	if h, ok := t.Head(); ok {
		before = s.rows[h.ID]
	}
	t, err := s.d.Commit(s.t.Context(), id, dataset.Commit{Base: t, Add: []dataset.DataFile{f}, Marker: m})
	s.must(err)
	h, _ := t.Head()
	s.rows[h.ID] = before + int64(n)
	s.next += n
}

func (s *shared) empty(id string) {
	t, err := s.d.Commit(s.t.Context(), id, dataset.Commit{RemoveAll: true})
	s.must(err)
	if h, ok := t.Head(); ok {
		if _, known := s.rows[h.ID]; !known {
			s.rows[h.ID] = 0
		}
	}
}

func (s *shared) branch(id string) {
	t := s.load1(id)
	at := int64(0)
	if all := t.Snapshots(); len(all) > 0 && rapid.Bool().Draw(s.t, "old") {
		at = rapid.SampledFrom(all).Draw(s.t, "snapshot").ID
	}
	was := at
	if h, ok := t.Head(); ok && at == 0 {
		was = h.ID
	}
	var m *dataset.Marker
	if rapid.Bool().Draw(s.t, "marker") {
		m = forkMarker()
	}
	next := uuid.NewString()
	location, err := t.Fork(s.t.Context(), dataset.ForkOptions{ID: next, Snapshot: at, Marker: m})
	s.must(err)
	s.must(s.pointers.CreateTablePointer(s.t.Context(), next, location))
	s.tables = append(s.tables, next)
	if h, ok := s.load1(next).Head(); ok && m != nil {
		s.rows[h.ID] = s.rows[was]
	}
}

func (s *shared) drop(id string) {
	if len(s.tables) == 1 {
		return
	}
	s.pointers.mu.Lock()
	delete(s.pointers.at, id)
	s.pointers.mu.Unlock()
	s.tables = slices.DeleteFunc(s.tables, func(o string) bool { return o == id })
	s.trash = append(s.trash, id)
}

func (s *shared) sweep() {
	for _, id := range slices.Clone(s.trash) {
		left, err := s.d.Purge(s.t.Context(), id, grace)
		s.must(err)
		if left == 0 {
			s.trash = slices.DeleteFunc(s.trash, func(o string) bool { return o == id })
		}
	}
}

func (s *shared) compact(id string) {
	before := int64(0)
	if h, ok := s.load1(id).Head(); ok {
		before = s.rows[h.ID]
	}
	out, err := s.d.Compact(s.t.Context(), id, dataset.CompactOptions{})
	s.must(err)
	if out.Files > 0 {
		h, _ := s.load1(id).Head()
		s.rows[h.ID] = before
	}
}

func (s *shared) tag(id string) {
	all := s.load1(id).Snapshots()
	if len(all) == 0 {
		return
	}
	s.names++
	_, err := s.d.CreateTag(s.t.Context(), id, fmt.Sprintf("t%d", s.names), rapid.SampledFrom(all).Draw(s.t, "snapshot").ID)
	s.must(err)
}

func (s *shared) untag(id string) {
	tags := s.load1(id).Tags()
	if len(tags) > 0 {
		s.must(s.d.DeleteTag(s.t.Context(), id, rapid.SampledFrom(tags).Draw(s.t, "tag").Name))
	}
}

// check reads every snapshot of every table with nothing cached: whatever was
// deleted, none of them has lost a row.
func (s *shared) check() {
	d := s.other()
	for _, id := range s.tables {
		t, err := d.Load(s.t.Context(), id)
		s.must(err)
		for _, snapshot := range t.Snapshots() {
			n := int64(0)
			for b, err := range t.Scan(s.t.Context(), dataset.ScanOptions{SnapshotID: snapshot.ID}) {
				s.must(err)
				n += b.NumRows()
			}
			if n != s.rows[snapshot.ID] {
				s.t.Fatalf("snapshot %d of table %s has %d rows, want %d", snapshot.ID, id, n, s.rows[snapshot.ID])
			}
		}
	}
}

// TestSharedFilesAreCollectedInAnyOrder: whatever is forked, appended, compacted,
// expired, dropped and collected in whatever order, no retained snapshot of any
// table loses a row; and when all is gone, all is collected.
func TestSharedFilesAreCollectedInAnyOrder(t *testing.T) {
	t.Parallel()
	deleted := 0
	rapid.Check(t, func(r *rapid.T) {
		e := newMemEnv(t)
		s := &shared{env: e, t: r, rows: map[int64]int64{}}
		e.create(numbers())
		s.tables = []string{e.id}
		steps := map[string]func(){
			"append":  func() { s.append(s.pick()) },
			"append2": func() { s.append(s.pick()) },
			"empty":   func() { s.empty(s.pick()) },
			"fork":    func() { s.branch(s.pick()) },
			"fork2":   func() { s.branch(s.pick()) },
			"drop":    func() { s.drop(s.pick()) },
			"compact": func() { s.compact(s.pick()) },
			"tag":     func() { s.tag(s.pick()) },
			"untag":   func() { s.untag(s.pick()) },
			"expire": func() {
				_, err := e.d.Expire(r.Context(), s.pick(), dataset.ExpireOptions{MaxAge: time.Nanosecond})
				s.must(err)
			},
			"collect": func() {
				id := s.pick()
				for range rapid.IntRange(1, 2).Draw(r, "looks") {
					out, err := e.d.Collect(r.Context(), id, dataset.CollectOptions{Grace: grace})
					s.must(err)
					deleted += out.Deleted
					time.Sleep(2 * grace)
				}
			},
			"sweep": s.sweep,
			"wait":  func() { time.Sleep(2 * grace) },
		}
		names := slices.Sorted(maps.Keys(steps))
		for range rapid.IntRange(8, 28).Draw(r, "steps") {
			name := rapid.SampledFrom(names).Draw(r, "step")
			steps[name]()
			if name == "collect" || name == "sweep" {
				s.check()
			}
		}
		s.check()
		// One is left, then none.
		for len(s.tables) > 1 {
			s.drop(s.pick())
		}
		for range 3 {
			s.sweep()
			time.Sleep(2 * grace)
		}
		s.check()
		last := s.tables[0]
		_, err := e.d.Expire(r.Context(), last, dataset.ExpireOptions{MaxAge: time.Nanosecond})
		s.must(err)
		s.check()
		s.pointers.mu.Lock()
		delete(s.pointers.at, last)
		s.pointers.mu.Unlock()
		s.trash = append(s.trash, last)
		s.sweep()
		for info, err := range e.store.List(r.Context(), "") {
			r.Errorf("left: %s, %v", info.Key, err)
		}
	})
	if deleted == 0 {
		t.Error("nothing was ever collected")
	}
}
