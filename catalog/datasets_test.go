package catalog

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// TestCreateDataset: a dataset is found like a stream, under its kind, and takes
// no part in what is for views with rows.
func TestCreateDataset(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	stream, sb := f.stream(t, "s")
	d, b, err := f.CreateDataset(ctx, NewDataset{Name: "d", Location: "m1"})
	ok(t, err)
	if d.Kind != KindDataset || stream.Kind != KindStream || b.Name != MainBranch || b.View.State != Active {
		t.Errorf("dataset %+v, branch %+v, stream %+v", d, b, stream)
	}
	d2, b2, err := f.Resolve(ctx, DefaultNamespace, "d", MainBranch)
	ok(t, err)
	if diff := cmp.Diff([]any{d, b}, []any{d2, b2}); diff != "" {
		t.Error(diff)
	}
	if at, err := f.TablePointer(ctx, b.TableUUID); err != nil || at != "m1" {
		t.Errorf("pointer at %q, %v", at, err)
	}
	wantErr(t, "schema of a dataset", second(f.SchemaByID(ctx, b.SchemaID)), record.ErrNotFound)
	for kind, want := range map[Kind][]string{"": {"d", "s"}, KindDataset: {"d"}, KindStream: {"s"}} {
		page, err := f.ListStreams(ctx, StreamQuery{Kind: kind})
		ok(t, err)
		var got []string
		for _, s := range page.Streams {
			got = append(got, s.Name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("streams of kind %q: %s", kind, diff)
		}
	}
	live, err := f.LiveViews(ctx, 0, 0)
	ok(t, err)
	if diff := cmp.Diff([]View{sb.View}, live); diff != "" {
		t.Error(diff)
	}
	for what, n := range map[string]NewDataset{
		"name of a stream": {Name: "s"}, "name of a dataset": {Name: "d"}, "table": {Name: "e", TableUUID: b.TableUUID},
	} {
		_, _, err := f.CreateDataset(ctx, n)
		wantErr(t, what, err, record.ErrExists)
	}
	for what, n := range map[string]NewDataset{
		"no name": {}, "name": {Name: "a b"}, "namespace": {Name: "a", Namespace: "a.b"}, "table": {Name: "e", TableUUID: "x"},
		"settings": {Name: "e", Settings: Settings{DatasetFormat: "CSV"}},
	} {
		_, _, err := f.CreateDataset(ctx, n)
		wantErr(t, what, err, record.ErrInvalid)
	}
	_, err = f.DeleteStream(ctx, d.ID, f.clock.Now())
	ok(t, err)
	due, err := f.TrashDue(ctx, f.clock.Now(), 0)
	if err != nil || len(due) != 1 || due[0].TableUUID != b.TableUUID {
		t.Errorf("trash %+v, %v", due, err)
	}
	_, _, err = f.CreateDataset(ctx, NewDataset{Name: "d", TableUUID: b.TableUUID})
	wantErr(t, "table in the trash", err, record.ErrExists)
}

// TestStartStream: a dataset becomes a stream as it was looked at, with all its
// branches, or not at all.
func TestStartStream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	d, b, err := f.CreateDataset(ctx, NewDataset{Name: "d", Location: "m1"})
	ok(t, err)
	exp := f.secondBranch(t, b, "exp")
	ok(t, f.CreateTablePointer(ctx, exp.TableUUID, "e1"))
	settings := Settings{Partitions: 4}.WithDefaults()
	starts := func() []BranchStart {
		return []BranchStart{
			{Branch: b.ID, Version: b.Version, Settings: settings, Schema: newSchema(schema.FirstUserID, "a"), Location: "m1"},
			{Branch: exp.ID, Version: exp.Version, Settings: settings, Schema: newSchema(schema.FirstUserID, "a", "b"), Location: "e1"},
		}
	}
	stream, _ := f.stream(t, "s")
	for what, try := range map[string]struct {
		edit func(s []BranchStart) []BranchStart
		want error
	}{
		"a branch is missing": {func(s []BranchStart) []BranchStart { return s[:1] }, record.ErrConflict},
		"a branch has moved":  {func(s []BranchStart) []BranchStart { s[1].Version++; return s }, record.ErrConflict},
		"a table has moved":   {func(s []BranchStart) []BranchStart { s[1].Location = "e0"; return s }, record.ErrConflict},
		"a branch twice":      {func(s []BranchStart) []BranchStart { return append(s[:1], s[0]) }, record.ErrConflict},
		"a foreign branch": {func(s []BranchStart) []BranchStart {
			s[1].Branch = 99
			return s
		}, record.ErrNotFound},
		"settings": {func(s []BranchStart) []BranchStart { s[0].Settings.Type = "X"; return s }, record.ErrInvalid},
		"schema":   {func(s []BranchStart) []BranchStart { s[0].Schema.Schema = nil; return s }, record.ErrInvalid},
	} {
		_, _, err := f.StartStream(ctx, d.ID, try.edit(starts()))
		wantErr(t, what, err, try.want)
		if got, err := f.StreamByID(ctx, d.ID); err != nil || got != d {
			t.Errorf("%s: the dataset changed: %+v, %v", what, got, err)
		}
	}
	s, branches, err := f.StartStream(ctx, d.ID, starts())
	ok(t, err)
	if s.Kind != KindStream || s.NextFieldID != schema.FirstUserID+2 {
		t.Errorf("stream %+v", s)
	}
	for i, want := range []int{1, 2} {
		got, err := f.BranchByID(ctx, branches[i].ID)
		ok(t, err)
		if diff := cmp.Diff(branches[i], got); diff != "" {
			t.Error(diff)
		}
		sc, err := f.open(t).SchemaByID(ctx, got.SchemaID)
		if err != nil || len(sc.Fields) != want {
			t.Errorf("branch %s: schema %+v, %v", got.Name, sc, err)
		}
		if got.View.Partitions != 4 || got.View.SchemaID != got.SchemaID || got.SchemaVersion != 1 {
			t.Errorf("branch %+v", got)
		}
		versions, err := f.SchemaVersions(ctx, got.ID, 0, 0)
		if err != nil || len(versions) != 1 || versions[0].ID != got.SchemaID {
			t.Errorf("schemas %+v, %v", versions, err)
		}
	}
	if n := f.count(t, `SELECT count(*) FROM schemas`); n != 3 {
		t.Errorf("%d schemas, want those of three branches", n)
	}
	if live, err := f.LiveViews(ctx, 0, 0); err != nil || len(live) != 3 {
		t.Errorf("live views %+v, %v", live, err)
	}
	for _, id := range []StreamID{d.ID, stream.ID} {
		_, _, err = f.StartStream(ctx, id, starts())
		wantErr(t, "a stream", err, record.ErrExists)
	}
}

func TestRenameStream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	s, _ := f.stream(t, "s")
	d, _, err := f.CreateDataset(ctx, NewDataset{Name: "d"})
	ok(t, err)
	_, err = f.RenameStream(ctx, s.ID, "geo", "s")
	wantErr(t, "no such namespace", err, record.ErrNotFound)
	_, err = f.CreateNamespace(ctx, "geo", nil)
	ok(t, err)
	got, err := f.RenameStream(ctx, s.ID, "geo", "quakes")
	ok(t, err)
	found, err := f.Stream(ctx, "geo", "quakes")
	if err != nil || found != got || found.ID != s.ID || found.Created != s.Created {
		t.Errorf("%+v, want %+v, %v", found, got, err)
	}
	wantErr(t, "old name", second(f.Stream(ctx, DefaultNamespace, "s")), record.ErrNotFound)
	_, err = f.RenameStream(ctx, d.ID, "geo", "quakes")
	wantErr(t, "taken name", err, record.ErrExists)
	_, err = f.RenameStream(ctx, s.ID, "geo", "quakes")
	ok(t, err) // its own
	_, err = f.RenameStream(ctx, s.ID, "geo", "a.b")
	wantErr(t, "bad name", err, record.ErrInvalid)
	_, err = f.DeleteStream(ctx, s.ID, f.clock.Now())
	ok(t, err)
	_, err = f.RenameStream(ctx, s.ID, "geo", "x")
	wantErr(t, "deleted", err, record.ErrNotFound)
	_, err = f.RenameStream(ctx, d.ID, "geo", "quakes")
	ok(t, err) // its name is free
}

func TestNamespaces(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	names := func() []string {
		t.Helper()
		var got []string
		for after := ""; ; {
			page, err := f.ListNamespaces(ctx, after, 2)
			ok(t, err)
			for _, n := range page {
				got = append(got, n.Name)
			}
			if len(page) < 2 {
				return got
			}
			after = got[len(got)-1]
		}
	}
	f.stream(t, "s")
	geo, err := f.CreateNamespace(ctx, "geo", map[string]string{"owner": "me", "x": "1"})
	ok(t, err)
	_, err = f.CreateNamespace(ctx, "geo", nil)
	wantErr(t, "taken", err, record.ErrExists)
	_, err = f.CreateNamespace(ctx, "a.b", nil)
	wantErr(t, "levels", err, record.ErrInvalid)
	// Made by the first in it; a refused one makes none.
	d, _, err := f.CreateDataset(ctx, NewDataset{Namespace: "made", Name: "d"})
	ok(t, err)
	_, _, err = f.CreateDataset(ctx, NewDataset{Namespace: "unmade", Name: "d", TableUUID: f.tableOf(t, d)})
	wantErr(t, "refused", err, record.ErrExists)
	if diff := cmp.Diff([]string{"default", "geo", "made"}, names()); diff != "" {
		t.Error(diff)
	}
	got, err := f.Namespace(ctx, "geo")
	ok(t, err)
	if diff := cmp.Diff(geo, got); diff != "" {
		t.Error(diff)
	}
	updated, err := f.UpdateNamespaceProperties(ctx, "geo", []string{"x", "unknown"}, map[string]string{"owner": "you", "y": "2"})
	ok(t, err)
	got, err = f.Namespace(ctx, "geo")
	ok(t, err)
	want := Namespace{Name: "geo", Properties: map[string]string{"owner": "you", "y": "2"}, Created: geo.Created}
	if diff := cmp.Diff([]Namespace{want, want}, []Namespace{updated, got}); diff != "" {
		t.Error(diff)
	}
	_, err = f.UpdateNamespaceProperties(ctx, "geo", []string{"x"}, map[string]string{"x": "1"})
	wantErr(t, "removed and set", err, record.ErrInvalid)
	_, err = f.UpdateNamespaceProperties(ctx, "none", nil, nil)
	wantErr(t, "absent", err, record.ErrNotFound)
	many := map[string]string{}
	for i := range MaxProperties {
		many[string(rune('a'+i%26))+string(rune('a'+i/26))] = ""
	}
	_, err = f.UpdateNamespaceProperties(ctx, "geo", nil, many)
	wantErr(t, "too many", err, record.ErrTooLarge)

	wantErr(t, "in use", f.DeleteNamespace(ctx, "made"), record.ErrConflict)
	wantErr(t, "default", f.DeleteNamespace(ctx, "default"), record.ErrInvalid)
	wantErr(t, "absent", f.DeleteNamespace(ctx, "none"), record.ErrNotFound)
	if errors.Is(f.DeleteNamespace(ctx, "made"), record.ErrNotFound) {
		t.Error("a refused deletion took the namespace")
	}
	_, err = f.DeleteStream(ctx, d.ID, f.clock.Now())
	ok(t, err)
	ok(t, f.DeleteNamespace(ctx, "made"))
	ok(t, f.DeleteNamespace(ctx, "geo"))
	if diff := cmp.Diff([]string{"default"}, names()); diff != "" {
		t.Error(diff)
	}
}

func (f *fixture) tableOf(t *testing.T, s Stream) string {
	t.Helper()
	b, err := f.Branch(t.Context(), s.ID, MainBranch)
	ok(t, err)
	return b.TableUUID
}

// TestMigrateToDatasets: what a catalog held before is streams, and their
// namespaces are there.
func TestMigrateToDatasets(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, _, err := f.CreateStream(t.Context(), NewStream{Namespace: "geo", Name: "a", Schema: newSchema(schema.FirstUserID, "x")})
	ok(t, err)
	s, _ := f.stream(t, "b")
	gone, _, err := f.CreateStream(t.Context(), NewStream{Namespace: "gone", Name: "a", Schema: newSchema(schema.FirstUserID, "x")})
	ok(t, err)
	_, err = f.DeleteStream(t.Context(), gone.ID, f.clock.Now())
	ok(t, err)
	downTo(t, f, 2)
	ok(t, f.Close())
	f.Catalog = f.open(t)
	if got, err := f.StreamByID(t.Context(), s.ID); err != nil || got != s {
		t.Errorf("%+v, want %+v, %v", got, s, err)
	}
	all, err := f.ListNamespaces(t.Context(), "", 0)
	if err != nil || len(all) != 2 || all[0].Name != "default" || all[1].Name != "geo" || all[1].Created != f.clock.Now() {
		t.Errorf("%+v, %v", all, err)
	}
}
