package catalog

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

func TestUpdateSettings(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	_, b := f.stream(t, "s")
	s := b.Settings
	s.Partitions, s.KeyFields, s.Type = 4, []string{"id"}, HighThroughput
	b2, err := f.UpdateSettings(ctx, b.ID, b.Version, s)
	ok(t, err)
	if b2.Version != b.Version+1 || b2.View.Partitions != 4 || b2.View.ID != b.View.ID {
		t.Errorf("after the update: %+v", b2)
	}
	stored, err := f.BranchByID(ctx, b.ID)
	ok(t, err)
	if diff := cmp.Diff(b2, stored); diff != "" {
		t.Error(diff)
	}
	_, err = f.UpdateSettings(ctx, b.ID, b.Version, s)
	wantErr(t, "second update based on the same version", err, record.ErrConflict)
	s.Partitions = 3
	_, err = f.UpdateSettings(ctx, b.ID, b2.Version, s)
	wantErr(t, "fewer partitions", err, record.ErrInvalid)
	if !strings.Contains(err.Error(), "reset") {
		t.Errorf("error without remedy: %v", err)
	}
	s.Partitions = 0
	_, err = f.UpdateSettings(ctx, b.ID, b2.Version, s)
	wantErr(t, "invalid settings", err, record.ErrInvalid)
	stored, err = f.BranchByID(ctx, b.ID)
	ok(t, err)
	if diff := cmp.Diff(b2, stored); diff != "" {
		t.Errorf("refused updates changed the branch: %s", diff)
	}
}

func TestResetBranch(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	st, main := f.stream(t, "s")
	exp := f.secondBranch(t, main, "exp")
	if main.View.Number != 1 || exp.View.Number != 2 {
		t.Fatalf("view numbers %d, %d: they must count over all branches", main.View.Number, exp.View.Number)
	}
	wide := main.Settings
	wide.Partitions = 8
	main, err := f.UpdateSettings(ctx, main.ID, main.Version, wide)
	ok(t, err)

	// Another schema, which no evolution allows, and fewer partitions.
	narrow := wide
	narrow.Partitions = 2
	n := newSchema(st.NextFieldID, "other")
	reset, err := f.ResetBranch(ctx, main.ID, main.Version, Reset{Settings: &narrow, Schema: &n})
	ok(t, err)
	if reset.View.Number != 3 || reset.View.ID == main.View.ID || reset.View.Partitions != 2 || reset.Settings.Partitions != 2 ||
		reset.SchemaVersion != 2 || reset.SchemaID == main.SchemaID || reset.Version != main.Version+1 || reset.TableUUID != main.TableUUID {
		t.Errorf("after the reset: %+v", reset)
	}
	stored, err := f.BranchByID(ctx, main.ID)
	ok(t, err)
	if diff := cmp.Diff(reset, stored); diff != "" {
		t.Error(diff)
	}
	// The old view drains with the partitions that it had.
	old := main.View
	old.State = Draining
	draining, err := f.DrainingViews(ctx, main.ID, 0)
	ok(t, err)
	if diff := cmp.Diff([]View{old}, draining); diff != "" {
		t.Error(diff)
	}
	// A second reset decided on the same state is refused and leaves nothing.
	n = newSchema(reset.SchemaVersion+100, "more")
	_, err = f.ResetBranch(ctx, main.ID, main.Version, Reset{Schema: &n})
	wantErr(t, "stale version", err, record.ErrConflict)
	_, err = f.ResetBranch(ctx, main.ID, reset.Version, Reset{Schema: &n})
	wantErr(t, "foreign field ids", err, record.ErrConflict)
	_, err = f.ResetBranch(ctx, main.ID, reset.Version, Reset{Settings: &Settings{}})
	wantErr(t, "invalid settings", err, record.ErrInvalid)
	_, err = f.ResetBranch(ctx, main.ID, reset.Version, Reset{Schema: &NewSchema{}})
	wantErr(t, "no schema", err, record.ErrInvalid)
	_, err = f.ResetBranch(ctx, 99, 1, Reset{})
	wantErr(t, "no branch", err, record.ErrNotFound)
	views, err := f.Views(ctx, main.ID, 0, 0)
	ok(t, err)
	if diff := cmp.Diff([]View{old, reset.View}, views); diff != "" {
		t.Error(diff)
	}

	// A plain reset keeps settings and schema.
	again, err := f.ResetBranch(ctx, main.ID, reset.Version, Reset{})
	ok(t, err)
	if again.View.Number != 4 || again.SchemaID != reset.SchemaID || again.SchemaVersion != reset.SchemaVersion {
		t.Errorf("after a plain reset: %+v", again)
	}
	if newest, err := f.NewestView(ctx); err != nil || newest != again.View.ID {
		t.Errorf("newest view %v, %v; want %v", newest, err, again.View.ID)
	}
	if views, err = f.Views(ctx, main.ID, 1, 1); err != nil || len(views) != 1 || views[0].Number != 3 {
		t.Errorf("views after 1, one of them: %+v, %v", views, err)
	}

	// Retiring: only what a reset has replaced; then it is no longer live.
	wantErr(t, "retire an active view", f.RetireView(ctx, again.View.ID), record.ErrConflict)
	wantErr(t, "retire nothing", f.RetireView(ctx, 99), record.ErrNotFound)
	for range 2 {
		ok(t, f.RetireView(ctx, old.ID))
	}
	live, err := f.LiveViews(ctx, 0, 0)
	ok(t, err)
	var ids []record.ViewID
	for _, v := range live {
		ids = append(ids, v.ID)
	}
	if diff := cmp.Diff([]record.ViewID{exp.View.ID, reset.View.ID, again.View.ID}, ids); diff != "" {
		t.Error(diff)
	}
	if live, err = f.LiveViews(ctx, exp.View.ID, 1); err != nil || len(live) != 1 || live[0].ID != reset.View.ID {
		t.Errorf("live views after %v: %+v, %v", exp.View.ID, live, err)
	}
	if n := f.count(t, `SELECT count(*) FROM views WHERE branch_id = $1 AND state = 'ACTIVE'`, main.ID); n != 1 {
		t.Errorf("%d active views", n)
	}
	if st, err := f.StreamByID(ctx, st.ID); err != nil || st.NextFieldID != schema.FirstUserID+3 {
		t.Errorf("stream %+v, %v", st, err)
	}
}

func TestBranchesArePaged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	st, main := f.stream(t, "s")
	exp := f.secondBranch(t, main, "exp")
	for _, c := range []struct {
		after BranchID
		limit int
		want  []Branch
	}{{0, 1, []Branch{main}}, {main.ID, 5, []Branch{exp}}, {exp.ID, 5, nil}, {0, 0, []Branch{main, exp}}} {
		got, err := f.Branches(t.Context(), st.ID, c.after, c.limit)
		ok(t, err)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("after %v, %d: %s", c.after, c.limit, diff)
		}
	}
}
