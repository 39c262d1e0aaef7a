package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

func (w *world) merge(from, into string, strategy dataset.Strategy) dataset.Merged {
	w.t.Helper()
	out, err := w.node.directory.Merge(w.t.Context(), "s", from, branch.Merge{Into: into, Strategy: strategy})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// A merge brings every acknowledged row, hot ones as well, once, and copies no
// data; merging again brings only what is new, back and forth nothing twice.
func TestMergeBranches(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{Partitions: 2, KeyFields: []string{"k"}}, Options{})
	w.put("main", upTo(20)...)
	w.fork("exp", branch.From{})
	w.put("exp", 100, 101, 102)
	w.archiveOn("exp")
	before := w.sizes()
	if m := w.merge("exp", "main", ""); m.Strategy != dataset.FastForward || m.AddedRows != 3 || m.RemovedRows != 0 {
		t.Fatalf("merged %+v", m)
	}
	var bytes int64
	for key, size := range w.sizes() {
		if _, old := before[key]; !old {
			bytes += size
			if strings.Contains(key, "/data/") {
				t.Errorf("the merge wrote %s", key)
			}
		}
	}
	if bytes > 64<<10 {
		t.Errorf("the merge cost %d bytes", bytes)
	}
	w.wantCold("main", upTo(20, 100, 101, 102)...)
	if m := w.merge("exp", "main", ""); !m.UpToDate {
		t.Fatalf("merged again: %+v", m)
	}
	for i := range int64(3) {
		w.put("main", 20+i) // hot
		w.put("exp", 103+i) // hot
		if m := w.merge("exp", "main", ""); m.AddedRows != 1 || m.Strategy == dataset.Replace {
			t.Fatalf("merge %d into main: %+v", i, m)
		}
		w.archiveOn("main")
		if m := w.merge("main", "exp", ""); m.AddedRows != 1 {
			t.Fatalf("merge %d into exp: %+v", i, m)
		}
		if i == 1 {
			w.restart()
		}
	}
	want := upTo(23, 100, 101, 102, 103, 104, 105)
	w.wantCold("main", want...)
	w.wantCold("exp", want...)
	// Rows keep their identity: view 1 is main's, view 2 exp's, whichever table has them.
	for _, name := range []string{"main", "exp"} {
		for f, err := range w.tableOn(name).Files(t.Context(), 0) {
			if err != nil || f.View != 1 && f.View != 2 {
				t.Errorf("%s has %+v, %v", name, f, err)
			}
		}
	}
	// Both go on archiving, and a third branch that brings the same rows brings none.
	w.fork("third", branch.From{Branch: "exp"})
	w.put("third", 200)
	if m := w.merge("third", "main", ""); m.AddedRows != 1 {
		t.Errorf("merged %+v", m)
	}
	w.put("main", 23)
	w.wantCold("main", append(want, 23, 200)...)
}

// A merge carries the schema of the source, in the catalog before the table; rows
// of both sides read under it. What does not fit is a conflict, and changes
// nothing.
func TestMergeCarriesTheSchema(t *testing.T) {
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
	add("exp", "depth", schema.Double)
	add("main", "place", schema.String)
	w.put("exp", 100)
	w.put("main", 5)
	if dry, err := w.node.directory.Merge(t.Context(), "s", "exp", branch.Merge{Into: "main", DryRun: true}); err != nil || len(dry.Schema) == 0 || dry.AddedRows != 1 {
		t.Fatalf("dry run %+v, %v", dry, err)
	}
	names := func(name string) (out []string) {
		for _, f := range w.on(name).Schema.Fields {
			out = append(out, f.Name)
		}
		return out
	}
	if diff := cmp.Diff([]string{"k", "n", "place"}, names("main")); diff != "" {
		t.Errorf("after the dry run: %s", diff)
	}
	w.merge("exp", "main", "")
	if diff := cmp.Diff([]string{"k", "n", "place", "depth"}, names("main")); diff != "" {
		t.Error(diff)
	}
	if same, err := w.tableOn("main").HasSchema(w.on("main").Schema); err != nil || !same {
		t.Errorf("the table has another schema: %v", err)
	}
	w.put("main", 6)
	w.wantCold("main", upTo(7, 100)...)
	w.wantCold("exp", upTo(5, 100)...)

	// The same name, and not the same field.
	add("exp", "felt", schema.Long)
	add("main", "felt", schema.Long)
	w.put("exp", 101)
	w.archiveOn("main")
	head, _ := w.tableOn("main").Head()
	_, err := w.node.directory.Merge(t.Context(), "s", "exp", branch.Merge{Into: "main"})
	var c *dataset.Conflicts
	if !errors.As(err, &c) || !errors.Is(err, record.ErrConflict) || c.Count != 1 || c.List[0].Path != "felt" {
		t.Fatalf("error %v", err)
	}
	dry, err := w.node.directory.Merge(t.Context(), "s", "exp", branch.Merge{Into: "main", DryRun: true})
	if err != nil || dry.Conflicts.Count != 1 {
		t.Errorf("dry run %+v, %v", dry, err)
	}
	if now, _ := w.tableOn("main").Head(); now.ID != head.ID {
		t.Error("a merge with conflicts changed the table")
	}
}

// Replace makes a branch what another is; a protected one is spared, a reset
// source is a conflict of a replay.
func TestMergeReplaces(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	w.put("main", upTo(5)...)
	w.fork("exp", branch.From{})
	w.put("main", 5)
	w.put("exp", 100)
	if _, err := w.node.directory.SetPolicy(t.Context(), "s", "main", func(p catalog.Policy) catalog.Policy { p.Protected = true; return p }); err != nil {
		t.Fatal(err)
	}
	if _, err := w.node.directory.Merge(t.Context(), "s", "exp", branch.Merge{Into: "main", Strategy: dataset.Replace}); !errors.Is(err, record.ErrConflict) {
		t.Fatalf("error %v", err)
	}
	// A hot row of the target counts.
	if _, err := w.node.directory.Merge(t.Context(), "s", "exp", branch.Merge{Into: "main", Strategy: dataset.FastForward}); !errors.Is(err, record.ErrConflict) {
		t.Fatalf("error %v", err)
	}
	if _, err := w.node.directory.SetPolicy(t.Context(), "s", "main", func(p catalog.Policy) catalog.Policy { p.Protected = false; return p }); err != nil {
		t.Fatal(err)
	}
	w.merge("exp", "main", dataset.Replace)
	w.put("main", 6) // goes on behind what it had
	w.wantCold("main", upTo(5, 6, 100)...)

	if _, err := w.node.directory.Reset(t.Context(), "s", "exp", nil, same); err != nil {
		t.Fatal(err)
	}
	w.put("exp", 200)
	var c *dataset.Conflicts
	if _, err := w.node.directory.Merge(t.Context(), "s", "exp", branch.Merge{Into: "main", Strategy: dataset.Replay}); !errors.As(err, &c) || !strings.Contains(err.Error(), "reset") {
		t.Fatalf("error %v", err)
	}
	w.merge("exp", "main", dataset.Replace)
	w.wantCold("main", 200)
}

// Merges go on while rows are published to and archived on both sides, and
// compacted: in the end every row is there once.
func TestMergeBesideArchives(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{Partitions: 2}, Options{})
	w.put("main", 0)
	w.fork("exp", branch.From{})
	const rounds = 12
	g, ctx := errgroup.WithContext(t.Context())
	for i, name := range []string{"main", "exp"} {
		g.Go(func() error {
			for n := range int64(rounds) {
				w.put(name, 1000*int64(i+1)+n)
				if _, err := w.b.Archiver.ArchiveNow(ctx, "s", name); err != nil {
					return fmt.Errorf("archive %s: %w", name, err)
				}
			}
			return nil
		})
	}
	for _, dir := range [][2]string{{"exp", "main"}, {"main", "exp"}} {
		g.Go(func() error {
			for range rounds / 2 {
				if _, err := w.node.directory.Merge(ctx, "s", dir[0], branch.Merge{Into: dir[1]}); err != nil {
					return fmt.Errorf("merge %s into %s: %w", dir[0], dir[1], err)
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		for range rounds / 2 {
			for _, name := range []string{"main", "exp"} {
				if _, err := w.b.Maintainer.Compact(ctx, "s", name, false); err != nil && !errors.Is(err, record.ErrConflict) {
					return fmt.Errorf("compact %s: %w", name, err)
				}
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	w.merge("exp", "main", "")
	w.merge("main", "exp", "")
	want := []int64{0}
	for n := range int64(rounds) {
		want = append(want, 1000+n, 2000+n)
	}
	slices.Sort(want)
	for _, name := range []string{"main", "exp"} {
		w.wantCold(name, want...)
	}
}

// A comparison counts what each side did, hot rows as well, and shows rows.
func TestCompareBranches(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	w.put("main", upTo(5)...)
	w.fork("exp", branch.From{})
	w.put("main", 5)
	w.put("exp", 100, 101)
	compare := func(c branch.Compare) dataset.Comparison {
		t.Helper()
		out, err := w.node.directory.Compare(context.WithoutCancel(t.Context()), "s", "main", "exp", c)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if c := compare(branch.Compare{Sample: 10, Archived: true}); c.A.AddedRows != 0 || c.B.AddedRows != 0 || len(c.Bases) != 1 || !c.Rows.Whole {
		t.Errorf("archived only: %+v", c)
	}
	c := compare(branch.Compare{Sample: 1})
	if c.A.AddedRows != 1 || c.B.AddedRows != 2 || c.A.RemovedRows+c.B.RemovedRows != 0 || len(c.Rows.Added) != 1 || len(c.Rows.Removed) != 1 || c.Rows.Whole {
		t.Errorf("%+v", c)
	}
	if r := c.Rows.Removed[0]; r.View != 1 || r.Offset != 5 || string(r.Row) != `{"k":"key-5","n":5}` {
		t.Errorf("row %+v %s", r, r.Row)
	}
	w.merge("exp", "main", "")
	if c := compare(branch.Compare{Sample: 10}); c.A.AddedRows != 1 || c.B.AddedRows != 0 || len(c.Rows.Removed) != 1 || len(c.Rows.Added) != 0 {
		t.Errorf("after the merge: %+v", c)
	}
	if _, err := w.node.directory.Compare(t.Context(), "s", "main", "nobody", branch.Compare{}); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("error %v", err)
	}
}
