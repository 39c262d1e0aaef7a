package catalog

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

func TestCreateStream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, b, err := f.CreateStream(t.Context(), NewStream{
		Namespace: "geo", Name: "quakes", Settings: Settings{Partitions: 3}, Schema: newSchema(schema.FirstUserID, "id", "mag"),
	})
	ok(t, err)
	want := Branch{
		ID: 1, Stream: s.ID, Name: "main", Version: 1, Settings: Settings{Partitions: 3}.WithDefaults(),
		View:     View{ID: 1, Stream: s.ID, Branch: 1, Number: 1, State: Active, Partitions: 3, SchemaID: 1, Created: f.clock.Now()},
		SchemaID: 1, SchemaVersion: 1, TableUUID: b.TableUUID, Created: f.clock.Now(), Changed: f.clock.Now(),
	}
	if diff := cmp.Diff(want, b); diff != "" {
		t.Error(diff)
	}
	if s.NextFieldID != schema.FirstUserID+2 || s.FullName() != "geo.quakes" || !s.Deleted.IsZero() {
		t.Errorf("stream %+v", s)
	}
	// Every way of reading gives the same, here and in another process.
	for _, c := range []*Catalog{f.Catalog, f.open(t)} {
		s2, b2, err := c.Resolve(t.Context(), "geo", "quakes", "main")
		ok(t, err)
		s3, err := c.Stream(t.Context(), "geo", "quakes")
		ok(t, err)
		s4, err := c.StreamByID(t.Context(), s.ID)
		ok(t, err)
		b3, err := c.Branch(t.Context(), s.ID, "main")
		ok(t, err)
		b4, err := c.BranchByID(t.Context(), b.ID)
		ok(t, err)
		all, err := c.Branches(t.Context(), s.ID, 0, 10)
		ok(t, err)
		v, err := c.View(t.Context(), b.View.ID)
		ok(t, err)
		if diff := cmp.Diff([]any{s, s, s, b, b, b, []Branch{b}, b.View}, []any{s2, s3, s4, b2, b3, b4, all, v}); diff != "" {
			t.Error(diff)
		}
		got, err := c.SchemaByID(t.Context(), b.SchemaID)
		ok(t, err)
		if got.ID != b.SchemaID || got.Fields[1].Name != "mag" || got.Fields[1].ID != schema.FirstUserID+1 {
			t.Errorf("schema %+v", got)
		}
	}
	_, _, err = f.CreateStream(t.Context(), NewStream{Namespace: "geo", Name: "quakes", Schema: newSchema(schema.FirstUserID, "x")})
	wantErr(t, "taken name", err, record.ErrExists)
	for _, name := range []string{"geo.quakes", "*"} {
		if strings.Count(err.Error(), name) > 1 {
			t.Errorf("error repeats itself: %v", err)
		}
	}
	if n := f.count(t, `SELECT count(*) FROM streams`); n != 1 {
		t.Errorf("%d streams after a refused one", n)
	}
	for what, n := range map[string]NewStream{
		"name":       {Name: "a b", Schema: newSchema(5, "x")},
		"namespace":  {Namespace: "é", Name: "a", Schema: newSchema(5, "x")},
		"settings":   {Name: "a", Settings: Settings{Partitions: 5000}, Schema: newSchema(5, "x")},
		"no schema":  {Name: "a"},
		"field ids":  {Name: "a", Schema: NewSchema{Schema: newSchema(5, "x", "y").Schema, NextFieldID: 6}},
		"system ids": {Name: "a", Schema: NewSchema{Schema: &schema.Schema{}, NextFieldID: 4}},
	} {
		_, _, err := f.CreateStream(t.Context(), n)
		wantErr(t, what, err, record.ErrInvalid)
	}
	for _, err := range []error{
		second(f.Stream(t.Context(), "geo", "none")),
		second(f.Stream(t.Context(), "quakes", "geo")),
		second(f.StreamByID(t.Context(), 99)),
		second(f.Branch(t.Context(), s.ID, "exp")),
		second(f.BranchByID(t.Context(), 99)),
		second(f.View(t.Context(), 99)),
		second(f.SchemaByID(t.Context(), 99)),
	} {
		wantErr(t, "absent object", err, record.ErrNotFound)
	}
	_, _, err = f.Resolve(t.Context(), "geo", "quakes", "exp")
	wantErr(t, "absent branch", err, record.ErrNotFound)
}

func second[T any](_ T, err error) error { return err }

func TestDeleteStream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	kept, keptMain := f.stream(t, "kept")
	s, b := f.stream(t, "gone")
	exp := f.secondBranch(t, b, "exp")
	for _, b := range []Branch{keptMain, b} {
		ok(t, f.CreateTablePointer(ctx, b.TableUUID, "m0-"+b.TableUUID))
		ok(t, f.AddCheckpoints(ctx, []Checkpoint{{View: b.View.ID, Number: 1, Cut: record.Offsets{5}, Timestamp: 1}}))
	}
	lease, err := f.AcquireLease(ctx, b.View.ID, "n1", time.Minute)
	ok(t, err)
	after, err := f.ResetBranch(ctx, b.ID, b.Version, Reset{})
	ok(t, err)
	f.clock.advance(time.Second)

	notBefore := f.clock.Now().Add(time.Hour)
	views, err := f.DeleteStream(ctx, s.ID, notBefore)
	ok(t, err)
	if diff := cmp.Diff([]record.ViewID{b.View.ID, exp.View.ID, after.View.ID}, views); diff != "" {
		t.Error(diff)
	}
	// Whoever is still at work on it learns that it is gone.
	for what, err := range map[string]error{
		"stream":      second(f.Stream(ctx, s.Namespace, s.Name)),
		"branch":      second(f.BranchByID(ctx, b.ID)),
		"view":        second(f.View(ctx, b.View.ID)),
		"pointer":     second(f.TablePointer(ctx, b.TableUUID)),
		"swap":        f.SwapTablePointer(ctx, b.TableUUID, "m0-"+b.TableUUID, "m1"),
		"new pointer": f.CreateTablePointer(ctx, exp.TableUUID, "m0"),
		"lease":       second(f.AcquireLease(ctx, b.View.ID, "n1", time.Minute)),
		"checkpoint":  f.AddCheckpoints(ctx, []Checkpoint{{View: b.View.ID, Number: 2, Cut: record.Offsets{6}, Timestamp: 1}}),
		"settings":    second(f.UpdateSettings(ctx, b.ID, after.Version, b.Settings)),
		"reset":       second(f.ResetBranch(ctx, b.ID, after.Version, Reset{})),
		"retire":      f.RetireView(ctx, b.View.ID),
		"again":       second(f.DeleteStream(ctx, s.ID, notBefore)),
	} {
		wantErr(t, what, err, record.ErrNotFound)
	}
	wantErr(t, "renew", second(f.RenewLease(ctx, lease, time.Minute)), record.ErrFenced)

	// Its schema, and the fact that it was, stay.
	sch, err := f.open(t).SchemaByID(ctx, b.SchemaID)
	if err != nil || sch.ID != b.SchemaID {
		t.Errorf("schema of a deleted stream: %v, %v", sch, err)
	}
	old, err := f.StreamByID(ctx, s.ID)
	if err != nil || !old.Deleted.Equal(f.clock.Now()) {
		t.Errorf("deleted stream: %+v, %v", old, err)
	}
	page, err := f.ListStreams(ctx, StreamQuery{})
	if err != nil || len(page.Streams) != 1 || page.Streams[0].ID != kept.ID {
		t.Errorf("list: %+v, %v", page, err)
	}
	// Others are untouched, and what a deletion leaves is in the trash.
	if _, err := f.LatestCheckpoint(ctx, keptMain.View.ID); err != nil {
		t.Error(err)
	}
	if _, err := f.TablePointer(ctx, keptMain.TableUUID); err != nil {
		t.Error(err)
	}
	due, err := f.TrashDue(ctx, notBefore.Add(-time.Millisecond), 10)
	if err != nil || len(due) != 0 {
		t.Errorf("trash before its time: %v, %v", due, err)
	}
	due, err = f.TrashDue(ctx, notBefore, 10)
	ok(t, err)
	want := []Trash{
		{ID: 1, Stream: s.ID, TableUUID: b.TableUUID, Location: "m0-" + b.TableUUID, NotBefore: notBefore},
		{ID: 2, Stream: s.ID, TableUUID: exp.TableUUID, NotBefore: notBefore},
	}
	if diff := cmp.Diff(want, due); diff != "" {
		t.Error(diff)
	}
	for range 2 { // idempotent
		ok(t, f.RemoveTrash(ctx, due[0].ID))
	}
	due, err = f.TrashDue(ctx, notBefore, 10)
	if err != nil || len(due) != 1 || due[0].ID != 2 {
		t.Errorf("trash: %v, %v", due, err)
	}

	// The name is free; no id comes twice, not even after removals.
	s2, b2 := f.stream(t, "gone")
	if s2.ID <= s.ID || b2.ID <= exp.ID || b2.View.ID <= after.View.ID || b2.SchemaID <= b.SchemaID || b2.TableUUID == b.TableUUID {
		t.Errorf("an id was used again: %+v %+v", s2, b2)
	}
	_, err = f.DeleteStream(ctx, s2.ID, notBefore)
	ok(t, err)
	due, err = f.TrashDue(ctx, notBefore, 10)
	if err != nil || len(due) != 2 || due[1].ID != 3 {
		t.Errorf("trash: %v, %v", due, err)
	}
}

func TestListStreams(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	const total = 60
	var gone Stream
	for i := range total {
		namespace := []string{"alpha", "beta", "Zeta"}[i%3]
		s, _, err := f.CreateStream(ctx, NewStream{Namespace: namespace, Name: "s_" + strconv.Itoa(i), Schema: newSchema(5, "x")})
		ok(t, err)
		if i == 30 {
			gone = s
		}
	}
	var names []string
	q := StreamQuery{Limit: 7}
	for pages := 0; ; pages++ {
		page, err := f.ListStreams(ctx, q)
		ok(t, err)
		for _, s := range page.Streams {
			names = append(names, s.FullName())
		}
		switch pages {
		case 1: // changes between pages do not shift the others
			_, err := f.DeleteStream(ctx, gone.ID, f.clock.Now())
			ok(t, err)
			_, _, err = f.CreateStream(ctx, NewStream{Namespace: "AAA", Name: "before", Schema: newSchema(5, "x")})
			ok(t, err)
		}
		if page.Next == "" {
			break
		}
		if len(page.Streams) != q.Limit {
			t.Fatalf("page of %d streams has a next one", len(page.Streams))
		}
		q.PageToken = page.Next
	}
	seen := map[string]bool{}
	for i, n := range names {
		if seen[n] || i > 0 && names[i-1] >= n {
			t.Errorf("%s is out of order after %s, or twice", n, names[i-1])
		}
		seen[n] = true
	}
	// The deleted one may or may not have been passed before it went.
	if len(names) != total && len(names) != total-1 {
		t.Errorf("%d of %d streams", len(names), total)
	}

	for _, c := range []struct {
		q    StreamQuery
		want int
	}{
		{StreamQuery{Namespace: "beta"}, 20},
		{StreamQuery{Namespace: "none"}, 0},
		{StreamQuery{Search: "zeTA"}, 20},
		{StreamQuery{Search: "S_1"}, 11},                   // s_1, s_10 … s_19
		{StreamQuery{Search: "_1", Namespace: "alpha"}, 3}, // 12, 15, 18
		{StreamQuery{Search: "%"}, 0},
		{StreamQuery{Search: `\`}, 0},
		{StreamQuery{Search: "' OR 1=1 --"}, 0},
		{StreamQuery{Limit: MaxPage + 1}, total},
	} {
		page, err := f.ListStreams(ctx, c.q)
		if err != nil || len(page.Streams) != c.want || page.Next != "" {
			t.Errorf("%+v: %d streams, next %q, %v; want %d", c.q, len(page.Streams), page.Next, err, c.want)
		}
	}
	for _, token := range []string{"x", "!!", "W10", "WyJhIl0", "e30"} {
		_, err := f.ListStreams(ctx, StreamQuery{PageToken: token})
		wantErr(t, token, err, record.ErrInvalid)
	}
}

// TestListUsesIndex: a page costs its own length, not that of the list before it.
func TestListUsesIndex(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for query, index := range map[string]string{
		`SELECT ` + streamColumns + ` FROM streams s WHERE s.deleted_ms = 0 AND (s.namespace, s.name) > ('a', 'b') ORDER BY s.namespace, s.name LIMIT 10`: "USING INDEX streams_live_name ((namespace,name)>(?,?))",
		`SELECT ` + viewColumns + ` FROM views v WHERE v.state <> 'RETIRED' AND v.id > 1 ORDER BY v.id LIMIT 10`:                                          "USING INDEX views_live (id>?)",
		`SELECT ` + branchColumns + branchFrom + `WHERE b.stream_id = 1 AND b.name = 'a'`:                                                                 "USING INDEX views_active (branch_id=?)",
		checkpointQuery + `WHERE view_id = 1 ORDER BY number DESC LIMIT 1`:                                                                                "(view_id=?)",
	} {
		plan := f.plan(t, query)
		if !strings.Contains(plan, index) || strings.Contains(plan, "TEMP B-TREE") {
			t.Errorf("%s\nplan: %s\nwant %s", query, plan, index)
		}
	}
}

func (f *fixture) plan(t testing.TB, query string) string {
	t.Helper()
	steps, err := collect(t.Context(), f.readers, func(row scanner) (string, error) {
		var id, parent, unused int
		var detail string
		err := row.Scan(&id, &parent, &unused, &detail)
		return detail, err
	}, `EXPLAIN QUERY PLAN `+query)
	ok(t, err)
	return strings.Join(steps, "; ")
}

func BenchmarkListStreams(b *testing.B) {
	f := newFixture(b)
	const total = 10_000
	fillStreams(b, f, total)
	ctx := b.Context()
	for _, q := range []StreamQuery{{Limit: 100}, {Limit: 100, PageToken: pageToken{"default", "s09000"}.String()}, {Limit: 100, Search: "s099"}} {
		name := "first"
		if q.PageToken != "" {
			name = "late"
		} else if q.Search != "" {
			name = "search"
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				page, err := f.ListStreams(ctx, q)
				if err != nil || len(page.Streams) != 100 {
					b.Fatal(len(page.Streams), err)
				}
			}
		})
	}
}

// fillStreams makes many streams in one transaction.
func fillStreams(b *testing.B, f *fixture, total int) {
	b.Helper()
	err := f.write(b.Context(), "fill", func(ctx context.Context, tx *sql.Tx) error {
		for i := range total {
			_, err := tx.ExecContext(ctx, `INSERT INTO streams (id, namespace, name, next_field_id, last_view_number, created_ms, deleted_ms)
				VALUES ($1, 'default', $2, 5, 0, 1, 0)`, i+1, "s"+strconv.Itoa(100000 + i)[1:])
			if err != nil {
				return err
			}
		}
		return nil
	})
	ok(b, err)
}
