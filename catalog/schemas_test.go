package catalog

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

func TestAddSchema(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	st, main := f.stream(t, "s")
	exp := f.secondBranch(t, main, "exp")

	n := newSchema(schema.FirstUserID, "id", "value", "more")
	n.FirstFieldID = st.NextFieldID
	s, b, err := f.AddSchema(ctx, main.ID, main.Version, n)
	ok(t, err)
	if n.Schema.ID != 0 {
		t.Error("the caller's schema was changed")
	}
	if s.ID != b.SchemaID || s.ID == main.SchemaID || b.SchemaVersion != 2 || b.Version != main.Version+1 || b.View.ID != main.View.ID || b.View.SchemaID != s.ID {
		t.Errorf("schema %d on %+v", s.ID, b)
	}
	if v, err := f.View(ctx, b.View.ID); err != nil || v.SchemaID != s.ID {
		t.Errorf("the view has schema %d, %v; want %d", v.SchemaID, err, s.ID)
	}
	if st, err = f.StreamByID(ctx, st.ID); err != nil || st.NextFieldID != n.NextFieldID {
		t.Errorf("stream %+v, %v; want next field id %d", st, err, n.NextFieldID)
	}

	// Both sides of a race for a branch, and for the field ids of a stream.
	_, _, err = f.AddSchema(ctx, main.ID, main.Version, n)
	wantErr(t, "stale branch version", err, record.ErrConflict)
	_, _, err = f.AddSchema(ctx, exp.ID, exp.Version, n)
	wantErr(t, "field ids that the other branch took", err, record.ErrConflict)
	n.FirstFieldID = n.NextFieldID
	n.NextFieldID += 5
	bad := n
	bad.FirstFieldID++
	_, _, err = f.AddSchema(ctx, exp.ID, exp.Version, bad)
	wantErr(t, "field ids beyond the next", err, record.ErrConflict)
	unknown := newSchema(st.NextFieldID, "never allocated")
	unknown.FirstFieldID = unknown.NextFieldID
	_, _, err = f.AddSchema(ctx, exp.ID, exp.Version, unknown)
	wantErr(t, "an id that was never given out", err, record.ErrConflict)

	// Without new fields another branch's allocation does not matter.
	drop := newSchema(schema.FirstUserID, "id")
	drop.FirstFieldID = drop.NextFieldID
	if _, exp, err = f.AddSchema(ctx, exp.ID, exp.Version, drop); err != nil || exp.SchemaVersion != 2 {
		t.Errorf("drop a field: %+v, %v", exp, err)
	}
	if st, err = f.StreamByID(ctx, st.ID); err != nil || st.NextFieldID != schema.FirstUserID+3 {
		t.Errorf("stream %+v, %v", st, err)
	}
	_, _, err = f.AddSchema(ctx, 99, 1, n)
	wantErr(t, "no branch", err, record.ErrNotFound)
	_, _, err = f.AddSchema(ctx, exp.ID, exp.Version, NewSchema{})
	wantErr(t, "no schema", err, record.ErrInvalid)
	if n := f.count(t, `SELECT count(*) FROM schemas`); n != 3 {
		t.Errorf("%d schemas; refused ones must leave none", n)
	}

	versions, err := f.SchemaVersions(ctx, main.ID, 0, 0)
	ok(t, err)
	want := []SchemaVersion{{2, b.SchemaID, f.clock.Now()}, {1, main.SchemaID, f.clock.Now()}}
	if diff := cmp.Diff(want, versions); diff != "" {
		t.Error(diff)
	}
	if versions, err = f.SchemaVersions(ctx, main.ID, 2, 1); err != nil || len(versions) != 1 || versions[0].Version != 1 {
		t.Errorf("before version 2: %+v, %v", versions, err)
	}
}

// TestSchemaSurvives: what is read from the file is what was registered.
func TestSchemaSurvives(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := &schema.Schema{Fields: []schema.Field{
		{ID: 5, Name: "d", Type: schema.Type{Kind: schema.Decimal, Precision: 38, Scale: 9}, Doc: `a "doc" <&> ü`, Metadata: map[string]string{"k": "v"}},
		{ID: 6, Name: "n", Type: schema.Type{Kind: schema.Integer}, Nullable: true, Default: json.RawMessage(`7`)},
		{ID: 7, Name: "m", Type: schema.Type{Kind: schema.Map, KeyID: 8, Value: &schema.Field{ID: 9, Name: "value", Nullable: true, Type: schema.Type{
			Kind: schema.Array, Element: &schema.Field{ID: 10, Name: "element", Type: schema.Type{
				Kind: schema.Struct, Fields: []schema.Field{{ID: 11, Name: "x", Type: schema.Type{Kind: schema.Timestamp}}}}}}}}},
	}}
	_, b, err := f.CreateStream(t.Context(), NewStream{Name: "s", Schema: NewSchema{Schema: s, NextFieldID: 12}})
	ok(t, err)
	cached, err := f.SchemaByID(t.Context(), b.SchemaID)
	ok(t, err)
	read, err := f.open(t).SchemaByID(t.Context(), b.SchemaID)
	ok(t, err)
	for _, got := range []*schema.Schema{cached, read} {
		if got.ID != b.SchemaID || !got.Equal(s) {
			t.Errorf("got %+v", got)
		}
	}
	if diff := cmp.Diff(cached, read); diff != "" {
		t.Error(diff)
	}
	// A flipped bit in the stored text is noticed, not served.
	_, err = f.writer.ExecContext(t.Context(), `UPDATE schemas SET body = replace(body, '"DECIMAL"', '"DECIMAM"')`)
	ok(t, err)
	_, err = f.open(t).SchemaByID(t.Context(), b.SchemaID)
	wantErr(t, "damaged schema", err, record.ErrCorrupt)
}

func TestSchemaCacheIsBounded(t *testing.T) {
	t.Parallel()
	var c schemaCache
	names := make([]string, 999)
	for i := range names {
		names[i] = "f" + strconv.Itoa(i)
	}
	for id := range int32(300) {
		s := newSchema(5, names...).Schema
		s.ID = id + 1
		c.put(s)
		c.put(s)
		if c.get(s.ID) == nil && c.fields+1000 < maxCachedFields {
			t.Fatalf("schema %d was not kept though there was room", s.ID)
		}
	}
	if want := len(c.byID) * 1000; c.fields != want || want > maxCachedFields || want < maxCachedFields-1000 {
		t.Errorf("%d fields counted, %d held, at most %d allowed", c.fields, want, maxCachedFields)
	}
	nested := &schema.Schema{ID: 1, Fields: []schema.Field{{Type: schema.Type{Kind: schema.Map, Value: &schema.Field{Type: schema.Type{
		Kind: schema.Array, Element: &schema.Field{Type: schema.Type{Kind: schema.Struct, Fields: make([]schema.Field, 10)}}}}}}}}
	if got := cost(nested); got != 14 {
		t.Errorf("cost of a nested schema is %d, want 14", got)
	}
}

func TestSchemaTooLarge(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	n := newSchema(5, "x")
	n.Schema.Fields[0].Doc = strings.Repeat("d", schema.MaxSchemaBytes)
	_, _, err := f.CreateStream(t.Context(), NewStream{Name: "s", Schema: n})
	wantErr(t, "huge schema", err, record.ErrTooLarge)
}

func BenchmarkSchemaByID(b *testing.B) {
	f := newFixture(b)
	_, branch := f.stream(b, "s")
	b.Run("memory", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := f.SchemaByID(b.Context(), branch.SchemaID); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("file", func(b *testing.B) {
		for b.Loop() {
			f.schemas = schemaCache{}
			if _, err := f.SchemaByID(b.Context(), branch.SchemaID); err != nil {
				b.Fatal(err)
			}
		}
	})
}
