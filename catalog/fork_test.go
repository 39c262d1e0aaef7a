package catalog

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// TestCreateBranch: a branch comes to be with all that it needs in one step, under
// ids that were reserved; until then it is an entry in the trash.
func TestCreateBranch(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	s, main := f.stream(t, "s")
	ok(t, f.CreateTablePointer(ctx, main.TableUUID, "m0"))
	until := f.clock.Now().Add(time.Hour)
	r, err := f.ReserveBranch(ctx, s.ID, until)
	ok(t, err)
	if r.Number != 2 || r.View <= main.View.ID || r.TableUUID == "" {
		t.Errorf("reserved %+v", r)
	}
	due, err := f.TrashDue(ctx, until, 10)
	if err != nil || len(due) != 1 || due[0].TableUUID != r.TableUUID {
		t.Errorf("trash: %+v, %v", due, err)
	}
	if got, err := f.TablesSharing(ctx, r.TableUUID); err != nil || len(got) != 1 || got[main.TableUUID] != "m0" {
		t.Errorf("sharing with a reserved table: %v, %v", got, err)
	}
	n := NewBranch{
		Stream: s.ID, Kind: KindStream, Name: "exp", Settings: Settings{Partitions: 3}.WithDefaults(), SchemaID: main.SchemaID,
		Policy: Policy{MinSnapshots: 5}, Origin: Origin{Branch: "main", Table: main.TableUUID, Snapshot: 7}, Location: "b0",
	}
	f.clock.advance(time.Minute)
	b, err := f.CreateBranch(ctx, r, n)
	ok(t, err)
	now := f.clock.Now()
	want := Branch{
		ID: b.ID, Stream: s.ID, Name: "exp", Version: 1, Settings: n.Settings, SchemaID: main.SchemaID, SchemaVersion: 1, TableUUID: r.TableUUID,
		View:   View{ID: r.View, Stream: s.ID, Branch: b.ID, Number: 2, State: Active, Partitions: 3, SchemaID: main.SchemaID, Created: now},
		Origin: n.Origin, Policy: n.Policy, Created: now, Changed: now,
	}
	again, err := f.open(t).Branch(ctx, s.ID, "exp")
	ok(t, err)
	for _, got := range []Branch{b, again} {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	if due, err := f.TrashDue(ctx, until, 10); err != nil || len(due) != 0 {
		t.Errorf("trash: %+v, %v", due, err)
	}
	if got, err := f.TablesSharing(ctx, main.TableUUID); err != nil || len(got) != 2 || got[r.TableUUID] != "b0" {
		t.Errorf("sharing: %v, %v", got, err)
	}

	refused := func(what string, r Reserved, n NewBranch, want error) {
		t.Helper()
		before := f.count(t, `SELECT count(*) FROM branches`) + f.count(t, `SELECT count(*) FROM trash`) + f.count(t, `SELECT count(*) FROM views`)
		_, err := f.CreateBranch(ctx, r, n)
		wantErr(t, what, err, want)
		if after := f.count(t, `SELECT count(*) FROM branches`) + f.count(t, `SELECT count(*) FROM trash`) + f.count(t, `SELECT count(*) FROM views`); after != before {
			t.Errorf("%s: something is left", what)
		}
	}
	with := func(edit func(*NewBranch)) NewBranch {
		m := n
		m.Name = "other"
		edit(&m)
		return m
	}
	refused("a reservation twice", r, with(func(*NewBranch) {}), record.ErrConflict)
	next, err := f.ReserveBranch(ctx, s.ID, f.clock.Now().Add(time.Hour))
	ok(t, err)
	if next.Number != 3 || next.View <= r.View || next.TableUUID == r.TableUUID {
		t.Errorf("reserved %+v", next)
	}
	refused("a name twice", next, n, record.ErrExists)
	refused("main", next, with(func(n *NewBranch) { n.Name = "main" }), record.ErrExists)
	refused("a bad name", next, with(func(n *NewBranch) { n.Name = "a.b" }), record.ErrInvalid)
	refused("no location", next, with(func(n *NewBranch) { n.Location = "" }), record.ErrInvalid)
	refused("bad settings", next, with(func(n *NewBranch) { n.Settings.Partitions = 0 }), record.ErrInvalid)
	refused("a bad policy", next, with(func(n *NewBranch) { n.Policy.ExpireAfter = 1 }), record.ErrInvalid)
	refused("another stream's schema", next, with(func(n *NewBranch) { n.SchemaID = 99 }), record.ErrInvalid)
	refused("a dataset", next, with(func(n *NewBranch) { n.Kind = KindDataset }), record.ErrConflict)
	refused("no stream", next, with(func(n *NewBranch) { n.Stream = 99 }), record.ErrNotFound)
	ids := newSchema(schema.FirstUserID, "x")
	refused("field ids that were given out", next, with(func(n *NewBranch) { n.SchemaID, n.Schema = 0, &ids }), record.ErrConflict)
	f.clock.advance(time.Hour)
	refused("a reservation that is over", next, with(func(*NewBranch) {}), record.ErrConflict)
}

// TestDeleteBranch: a branch goes with all that is its own, and nothing else does.
func TestDeleteBranch(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	s, main := f.stream(t, "s")
	exp := f.secondBranch(t, main, "exp")
	for _, b := range []Branch{main, exp} {
		ok(t, f.CreateTablePointer(ctx, b.TableUUID, "m-"+b.Name))
		ok(t, f.AddCheckpoints(ctx, []Checkpoint{{View: b.View.ID, Number: 1, Cut: record.Offsets{5}, Timestamp: 1}}))
		_, err := f.CreateSubscriber(ctx, Subscriber{Branch: b.ID, Name: "g", Consistency: AtLeastOnce, View: b.View.ID})
		ok(t, err)
		_, err = f.AcquireLease(ctx, b.View.ID, "n", time.Minute)
		ok(t, err)
	}
	_, err := f.DeleteBranch(ctx, main.ID, true, f.clock.Now())
	wantErr(t, "main", err, record.ErrInvalid)
	_, err = f.DeleteBranch(ctx, exp.ID, false, f.clock.Now())
	wantErr(t, "with subscribers", err, record.ErrConflict)
	exp, err = f.SetPolicy(ctx, exp.ID, exp.Version, Policy{Protected: true})
	ok(t, err)
	_, err = f.SetPolicy(ctx, exp.ID, exp.Version-1, Policy{})
	wantErr(t, "an old version", err, record.ErrConflict)
	_, err = f.SetPolicy(ctx, main.ID, main.Version, Policy{ExpireAfter: time.Hour})
	wantErr(t, "main expires", err, record.ErrInvalid)
	_, err = f.DeleteBranch(ctx, exp.ID, true, f.clock.Now())
	wantErr(t, "protected", err, record.ErrConflict)
	_, err = f.DeleteStream(ctx, s.ID, f.clock.Now())
	wantErr(t, "the stream of a protected branch", err, record.ErrConflict)
	exp, err = f.SetPolicy(ctx, exp.ID, exp.Version, Policy{ExpireAfter: time.Hour})
	ok(t, err)
	if list, err := f.ExpiringBranches(ctx, 0, 10); err != nil || len(list) != 1 || list[0].Branch.ID != exp.ID || list[0].Stream.ID != s.ID {
		t.Errorf("expiring: %+v, %v", list, err)
	}
	views, err := f.DeleteBranch(ctx, exp.ID, true, f.clock.Now())
	ok(t, err)
	if diff := cmp.Diff([]record.ViewID{exp.View.ID}, views); diff != "" {
		t.Error(diff)
	}
	_, err = f.DeleteBranch(ctx, exp.ID, true, f.clock.Now())
	wantErr(t, "again", err, record.ErrNotFound)
	for _, err := range []error{
		second(f.BranchByID(ctx, exp.ID)), second(f.View(ctx, exp.View.ID)), second(f.TablePointer(ctx, exp.TableUUID)),
		f.SwapTablePointer(ctx, exp.TableUUID, "m-exp", "m2"), second(f.AcquireLease(ctx, exp.View.ID, "n", time.Minute)),
	} {
		wantErr(t, "gone", err, record.ErrNotFound)
	}
	for table, want := range map[string]int{"branches": 1, "views": 1, "checkpoints": 1, "leases": 1, "table_pointers": 1, "branch_schemas": 1, "subscribers": 1} {
		if n := f.count(t, `SELECT count(*) FROM `+table); n != want {
			t.Errorf("%d %s, want %d", n, table, want)
		}
	}
	due, err := f.TrashDue(ctx, f.clock.Now(), 10)
	if err != nil || len(due) != 1 || due[0].TableUUID != exp.TableUUID || due[0].Location != "m-exp" {
		t.Errorf("trash: %+v, %v", due, err)
	}
	// What is left of it shares files with main, until the trash forgets it.
	if got, err := f.TablesSharing(ctx, exp.TableUUID); err != nil || len(got) != 1 || got[main.TableUUID] != "m-main" {
		t.Errorf("sharing: %v, %v", got, err)
	}
	later := f.clock.Now().Add(time.Hour)
	ok(t, f.DeferTrash(ctx, due[0].ID, later))
	if due, err := f.TrashDue(ctx, f.clock.Now(), 10); err != nil || len(due) != 0 {
		t.Errorf("deferred: %+v, %v", due, err)
	}
	// The stream's deletion moves it along: its readers may be at those files.
	_, err = f.DeleteStream(ctx, s.ID, later.Add(time.Hour))
	ok(t, err)
	if due, err := f.TrashDue(ctx, later, 10); err != nil || len(due) != 0 {
		t.Errorf("too early: %+v, %v", due, err)
	}
	if got, err := f.TablesSharing(ctx, exp.TableUUID); err != nil || len(got) != 0 {
		t.Errorf("sharing in a deleted stream: %v, %v", got, err)
	}
	ok(t, f.RemoveTrash(ctx, due[0].ID))
	wantErr(t, "sharing of nothing", second(f.TablesSharing(ctx, exp.TableUUID)), record.ErrNotFound)
}
