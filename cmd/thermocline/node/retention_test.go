package node

import (
	"errors"
	"testing"
	"time"

	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// A branch whose policy says so is deleted when nothing has changed it for that
// long: rows that wait to be archived, commits and protection keep it.
func TestBranchesExpire(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{Upkeep: UpkeepOptions{CompactEvery: -1, ExpireEvery: 20 * time.Millisecond}})
	w.put("main", upTo(5)...)
	create := func(name string, p catalog.Policy) {
		t.Helper()
		p.ExpireAfter = time.Second
		if _, err := w.node.directory.CreateBranch(t.Context(), "s", branch.NewBranch{Name: name, Policy: p}); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	create("idle", catalog.Policy{})
	create("kept", catalog.Policy{Protected: true})
	create("waiting", catalog.Policy{})
	w.put("waiting", 100)
	there := func(name string) bool {
		_, err := w.node.directory.Resolve("s", name)
		if err != nil && !errors.Is(err, record.ErrNotFound) {
			t.Fatal(err)
		}
		return err == nil
	}
	stop := w.background(w.node.upkeep.run)
	defer stop()
	eventually(t, "the end of the idle branch", func() bool { return !there("idle") })
	if age := time.Since(began); age < time.Second {
		t.Errorf("it was gone after %v", age)
	}
	time.Sleep(100 * time.Millisecond)
	if !there("kept") || !there("waiting") || !there("main") {
		t.Error("a branch is gone that is protected, or has rows that wait")
	}
	w.archiveOn("waiting")
	last := time.Now()
	eventually(t, "the end of the branch that was archived", func() bool { return !there("waiting") })
	if age := time.Since(last); age < 900*time.Millisecond {
		t.Errorf("it was gone %v after its last commit", age)
	}
	eventually(t, "both deletions in the figures", func() bool { return w.b.Figures.Maintenance().ExpiredBranches == 2 })
	if f := w.b.Figures.Maintenance(); f.Failures != 0 {
		t.Errorf("figures %+v", f)
	}
	w.wantCold("kept", upTo(5)...)
}

// The policy of a branch says how many snapshots stay, and for how long.
func TestRetentionPolicy(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	for i := range int64(6) {
		w.put("main", i)
		w.archiveOn("main")
	}
	w.fork("exp", branch.From{})
	set := func(name string, p catalog.Policy) {
		t.Helper()
		if _, err := w.node.directory.SetPolicy(t.Context(), "s", name, func(catalog.Policy) catalog.Policy { return p }); err != nil {
			t.Fatal(err)
		}
	}
	set("main", catalog.Policy{MinSnapshots: 4})
	set("exp", catalog.Policy{MaxSnapshotAge: time.Hour})
	w.node.upkeep.o.MaxAge = time.Nanosecond
	for name, want := range map[string]int{"main": 4, "exp": 0} {
		before := len(w.tableOn(name).Snapshots())
		if want == 0 {
			want = before
		}
		w.node.upkeep.expireDue(t.Context(), w.on(name))
		if got := len(w.tableOn(name).Snapshots()); got != want {
			t.Errorf("%s: %d of %d snapshots are left, want %d", name, got, before, want)
		}
	}
	if o := retention(catalog.Policy{MaxSnapshotAge: time.Hour, MinSnapshots: 3}, dataset.ExpireOptions{MaxAge: 1, KeepLast: 5}); o.MaxAge != time.Hour || o.KeepLast != 5 {
		t.Errorf("%+v", o)
	}
}
