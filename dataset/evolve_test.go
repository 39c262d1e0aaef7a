package dataset_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

func field(id int, name string, k schema.Kind) schema.Field {
	return schema.Field{ID: id, Name: name, Nullable: true, Type: schema.Type{Kind: k}}
}

func decimal(id int, name string, precision int) schema.Field {
	return schema.Field{ID: id, Name: name, Nullable: true, Type: schema.Type{Kind: schema.Decimal, Precision: precision, Scale: 2}}
}

func structOf(id int, name string, fields ...schema.Field) schema.Field {
	return schema.Field{ID: id, Name: name, Nullable: true, Type: schema.Type{Kind: schema.Struct, Fields: fields}}
}

func listOf(id int, name string, element schema.Field) schema.Field {
	element.Name = "element"
	return schema.Field{ID: id, Name: name, Nullable: true, Type: schema.Type{Kind: schema.Array, Element: &element}}
}

func mapOf(id int, name string, key int, value schema.Field) schema.Field {
	value.Name = "value"
	return schema.Field{ID: id, Name: name, Nullable: true, Type: schema.Type{Kind: schema.Map, KeyID: key, Value: &value}}
}

func withDefault(f schema.Field, value string) schema.Field {
	f.Default, f.Nullable = json.RawMessage(value), false
	return f
}

// before and after are the two ends of an evolution that does everything that
// is allowed.
func before() *schema.Schema {
	return &schema.Schema{Fields: []schema.Field{
		field(5, "small", schema.Short),
		field(6, "count", schema.Integer),
		field(7, "ratio", schema.Float),
		decimal(8, "price", 5),
		field(9, "gone", schema.String),
		structOf(10, "place", field(11, "lat", schema.Float), field(12, "name", schema.String)),
		listOf(13, "points", structOf(14, "", field(15, "x", schema.Integer))),
		mapOf(16, "tags", 17, structOf(18, "", field(19, "v", schema.Integer), field(20, "w", schema.String))),
		structOf(21, "only", field(22, "old", schema.Integer)),
	}}
}

func after() *schema.Schema {
	return &schema.Schema{Fields: []schema.Field{
		structOf(10, "position", withDefault(field(23, "source", schema.String), `"gps"`), field(12, "label", schema.String), field(11, "lat", schema.Double)),
		field(6, "total", schema.Long),
		field(5, "small", schema.Integer),
		field(7, "ratio", schema.Double),
		decimal(8, "price", 30),
		withDefault(field(24, "kind", schema.String), `"quake"`),
		withDefault(field(25, "at", schema.Timestamp), `"2018-02-05T00:00:00Z"`),
		field(26, "note", schema.String),
		listOf(13, "points", structOf(14, "", field(15, "x", schema.Long), field(27, "y", schema.Double))),
		mapOf(16, "tags", 17, structOf(18, "", field(20, "w", schema.String), field(19, "v", schema.Long))),
		structOf(21, "only", withDefault(field(28, "fresh", schema.Long), `7`)),
		listOf(29, "later", field(30, "", schema.Integer)),
	}}
}

func jsonBatch(t testing.TB, s *schema.Schema, rows string) arrow.RecordBatch {
	t.Helper()
	b, _, err := array.RecordFromJSON(memory.DefaultAllocator, s.WithSystem().Arrow(), strings.NewReader(rows))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOldFilesUnderANewSchema(t *testing.T) {
	t.Parallel()
	for _, format := range []dataset.Format{dataset.Parquet, dataset.Avro} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			table := e.create(before())
			old := jsonBatch(t, before(), `[
				{"small":1,"count":2,"ratio":0.5,"price":"1.25","gone":"x","place":{"lat":1.5,"name":"a"},
				 "points":[{"x":1},null,{"x":null}],"tags":[{"key":"k","value":{"v":3,"w":"four"}},{"key":"l","value":null}],"only":{"old":1},
				 "_view":2,"_partition_id":0,"_offset":0,"_timestamp":"1970-01-01T00:00:00Z"},
				{"small":null,"count":null,"ratio":null,"price":null,"gone":null,"place":null,"points":null,"tags":null,"only":null,
				 "_view":2,"_partition_id":0,"_offset":1,"_timestamp":"1970-01-01T00:00:00Z"}]`)
			defer old.Release()
			first := e.commit(dataset.Commit{Add: []dataset.DataFile{e.fileAs(format, table, before(), fileName(0, 0, 2), old)}})

			table, err := e.d.SetSchema(t.Context(), e.id, after())
			if err != nil {
				t.Fatal(err)
			}
			if len(table.Snapshots()) != 1 {
				t.Error("a change of schema alone made a snapshot")
			}
			recent := jsonBatch(t, after(), `[
				{"position":{"source":"radio","label":"b","lat":2.5},"total":5000000000,"small":70000,"ratio":0.1,"price":"12345678901234567890.12",
				 "kind":"blast","at":"2020-01-01T00:00:00Z","note":"n","points":[{"x":6000000000,"y":0.5}],"tags":[],"only":{"fresh":8},"later":[1,null],
				 "_view":2,"_partition_id":0,"_offset":2,"_timestamp":"1970-01-01T00:00:00Z"}]`)
			defer recent.Release()
			e.commit(dataset.Commit{Add: []dataset.DataFile{e.fileAs(format, table, after(), fileName(0, 2, 3), recent)}})

			want := jsonBatch(t, after(), `[
				{"position":{"source":"gps","label":"a","lat":1.5},"total":2,"small":1,"ratio":0.5,"price":"1.25",
				 "kind":"quake","at":"2018-02-05T00:00:00Z","note":null,"points":[{"x":1,"y":null},null,{"x":null,"y":null}],
				 "tags":[{"key":"k","value":{"w":"four","v":3}},{"key":"l","value":null}],"only":{"fresh":7},"later":null,
				 "_view":2,"_partition_id":0,"_offset":0,"_timestamp":"1970-01-01T00:00:00Z"},
				{"position":null,"total":null,"small":null,"ratio":null,"price":null,
				 "kind":"quake","at":"2018-02-05T00:00:00Z","note":null,"points":null,"tags":null,"only":null,"later":null,
				 "_view":2,"_partition_id":0,"_offset":1,"_timestamp":"1970-01-01T00:00:00Z"}]`)
			defer want.Release()
			wantRows(t, e.rows(e.load(), dataset.ScanOptions{Schema: after().WithSystem()}), append(render(want), render(recent)...))

			// Projections of it, down to columns that no old file has.
			for _, columns := range [][]string{{"note"}, {"kind", "at"}, {"only"}, {"position.source"}, {"position.lat", "total"}, {"points"}, {"later", "tags"}} {
				s, err := after().Project(columns)
				if err != nil {
					t.Fatal(err)
				}
				got := e.rows(e.load(), dataset.ScanOptions{Schema: s, BatchRows: 1})
				if len(got) != 3 {
					t.Errorf("%v: %v", columns, got)
				}
				if columns[0] == "kind" && got[1] != "kind=quake at=2018-02-05T00:00:00Z" {
					t.Errorf("%v: %v", columns, got)
				}
				if columns[0] == "position.source" && (!strings.Contains(got[0], "gps") || got[1] != "position=(null)") {
					t.Errorf("%v: %v", columns, got)
				}
			}

			// The old version still reads under its own schema.
			info, _ := first.Head()
			wantRows(t, e.rows(e.load(), dataset.ScanOptions{SnapshotID: info.ID, Schema: before().WithSystem()}), render(old))
		})
	}
}

func TestSchemaInMetadata(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	created := e.create(before())
	if id := created.Schema().ID; id != 0 || created.Metadata().LastColumnID() != schema.TimestampID {
		t.Errorf("schema %d, last column %d", id, created.Metadata().LastColumnID())
	}
	// In the same swap as rows.
	b := jsonBatch(t, after(), `[]`)
	defer b.Release()
	table := e.commit(dataset.Commit{Schema: after(), Marker: marker(0)})
	head, ok := table.Head()
	if !ok || head.SchemaID != 1 || table.Schema().ID != 1 || len(table.Metadata().Schemas()) != 2 || table.Metadata().LastColumnID() != schema.TimestampID {
		t.Errorf("schema %d, head's %d, last column %d", table.Schema().ID, head.SchemaID, table.Metadata().LastColumnID())
	}
	f, ok := table.Schema().FindFieldByName("position.lat")
	if !ok || f.ID != 11 {
		t.Errorf("position.lat is %+v", f)
	}
	for _, name := range []string{"_view", "_partition_id", "_offset", "_timestamp"} {
		if f, ok := table.Schema().FindFieldByName(name); !ok || f.Required || !schema.IsSystemID(f.ID) {
			t.Errorf("%s is %+v", name, f)
		}
	}
	mapping := table.Property("schema.name-mapping.default")
	// The name of before is still that of columns in files without field ids.
	if !strings.Contains(mapping, `["position","place"]`) || strings.Contains(mapping, `"gone"`) {
		t.Errorf("name mapping %s", mapping)
	}
	// The same schema again changes nothing; an old one gets its id back.
	again := e.commit(dataset.Commit{Schema: after()})
	if again.MetadataLocation() != table.MetadataLocation() {
		t.Error("an equal schema moved the pointer")
	}
}

func TestSchemasThatFilesCouldNotBeReadUnder(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.holdsRow()
	change := func(f func(s *schema.Schema)) *schema.Schema {
		s := before()
		f(s)
		return s
	}
	bad := map[string]*schema.Schema{
		"narrowed":        change(func(s *schema.Schema) { s.Fields[3].Type.Precision = 4 }),
		"another type":    change(func(s *schema.Schema) { s.Fields[1].Type.Kind = schema.String }),
		"double to float": nil,
		"moved into struct": change(func(s *schema.Schema) {
			s.Fields[5].Type.Fields[0].ID = s.Fields[1].ID
			s.Fields = slices.Delete(s.Fields, 1, 2)
		}),
		"nullable no more": change(func(s *schema.Schema) { s.Fields[1].Nullable = false }),
		"new and required": change(func(s *schema.Schema) {
			s.Fields = append(s.Fields, schema.Field{ID: 40, Name: "z", Type: schema.Type{Kind: schema.Long}})
		}),
		"without ids": change(func(s *schema.Schema) { s.Fields[0].ID = 0 }),
	}
	for name, s := range bad {
		if s == nil {
			continue
		}
		if _, err := e.d.SetSchema(t.Context(), e.id, s); !errors.Is(err, record.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wide := change(func(s *schema.Schema) { s.Fields[2].Type.Kind = schema.Double })
	if _, err := e.d.SetSchema(t.Context(), e.id, wide); err != nil {
		t.Fatal(err)
	}
	if _, err := e.d.SetSchema(t.Context(), e.id, before()); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("double to float: %v", err)
	}
	if n := len(e.load().Metadata().Schemas()); n != 2 {
		t.Errorf("%d schemas, want those two that were accepted", n)
	}
}

// A field that is new may be null as a whole, whatever its parts require; what is
// new in a field that rows have may not be required.
func TestNewFieldsWithRequiredParts(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.holdsRow()
	required := func(id int, name string) schema.Field {
		return schema.Field{ID: id, Name: name, Type: schema.Type{Kind: schema.Long}}
	}
	s := before()
	s.Fields = append(s.Fields,
		structOf(40, "box", required(41, "a"), structOf(42, "inner", required(43, "b"))),
		mapOf(44, "labels", 45, required(46, "")), listOf(47, "list", required(48, "")))
	if _, err := e.d.SetSchema(t.Context(), e.id, s); err != nil {
		t.Fatal(err)
	}
	place := slices.IndexFunc(s.Fields, func(f schema.Field) bool { return f.Name == "place" })
	s = s.Clone()
	s.Fields[place].Type.Fields = append(s.Fields[place].Type.Fields, required(49, "height"))
	if _, err := e.d.SetSchema(t.Context(), e.id, s); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("a required field in a struct that rows have: %v", err)
	}
}

// holdsRow makes a table of before that holds a row.
func (e *env) holdsRow() {
	e.t.Helper()
	table := e.create(before())
	row := jsonBatch(e.t, before(), `[{"_view":1,"_partition_id":0,"_offset":0,"_timestamp":"1970-01-01T00:00:00Z"}]`)
	defer row.Release()
	e.commit(dataset.Commit{Add: []dataset.DataFile{e.file(table, before(), fileName(0, 0, 1), row)}})
}

// A table without rows takes any schema: nothing could lack a field.
func TestEmptyTableTakesAnySchema(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(before())
	for id := 50; id < 52; id++ {
		other := &schema.Schema{Fields: []schema.Field{{ID: id, Name: "n", Type: schema.Type{Kind: schema.Long}}}}
		if _, err := e.d.SetSchema(t.Context(), e.id, other); err != nil {
			t.Fatal(err)
		}
		e.commit(dataset.Commit{Marker: marker(1, 0)}) // a snapshot without rows
	}
}
