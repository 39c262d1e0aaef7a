package schema

import (
	"errors"
	"strings"
	"testing"

	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
)

const adoptOld = `{"fields":[
	{"name":"id","type":"LONG","nullable":false},
	{"name":"b","type":"BYTE","metadata":{"unit":"m"}},
	{"name":"s","type":"SHORT","default":3,"nullable":false},
	{"name":"place","type":"STRUCT","fields":[{"name":"lat","type":"DOUBLE"},{"name":"n","type":"BYTE"}]}
]}`

// TestFollow: what an engine does to the Iceberg schema becomes the stream's, and
// what Iceberg has no word for stays.
func TestFollow(t *testing.T) {
	t.Parallel()
	old, next := mustParse(t, adoptOld).AssignIDs(0)
	same, err := Follow(old, old.WithSystem().Iceberg())
	if err != nil || !same.Equal(old) {
		t.Fatalf("unchanged: %v\n%+v\n%+v", err, same, old)
	}
	fields := old.Iceberg().Fields()
	edit := func(f func([]iceberg.NestedField) []iceberg.NestedField) *iceberg.Schema {
		return iceberg.NewSchema(0, f(append([]iceberg.NestedField(nil), fields...))...)
	}
	p := iceberg.PrimitiveTypes
	for _, c := range []struct {
		name string
		to   *iceberg.Schema
		want string // part of the schema, or of the error
		bad  bool
	}{
		{"add", edit(func(f []iceberg.NestedField) []iceberg.NestedField {
			return append(f, iceberg.NestedField{ID: 99, Name: "new", Type: p.String})
		}), `{"id":99,"name":"new","type":"STRING"`, false},
		{"widen", edit(func(f []iceberg.NestedField) []iceberg.NestedField { f[1].Type = p.Int64; return f }), `"id":2,"name":"b","type":"LONG"`, false},
		{"rename", edit(func(f []iceberg.NestedField) []iceberg.NestedField { f[1].Name = "bee"; return f }), `"id":2,"name":"bee","type":"BYTE"`, false},
		{"drop", edit(func(f []iceberg.NestedField) []iceberg.NestedField { return append(f[:1:1], f[2:]...) }), `"id":3,"name":"s","type":"SHORT"`, false},
		{"relax", edit(func(f []iceberg.NestedField) []iceberg.NestedField { f[0].Required = false; return f }), `"id":1,"name":"id","type":"LONG","nullable":true`, false},
		{"add below", edit(func(f []iceberg.NestedField) []iceberg.NestedField {
			f[3].Type = &iceberg.StructType{FieldList: append(f[3].Type.(*iceberg.StructType).FieldList, iceberg.NestedField{ID: 99, Name: "lon", Type: p.Float64})}
			return f
		}), `"id":99,"name":"lon","type":"DOUBLE"`, false},
		{"taken before", edit(func(f []iceberg.NestedField) []iceberg.NestedField {
			return append(f, iceberg.NestedField{ID: 50, Name: "new", Type: p.String})
		}), `id`, true},
		{"narrow", edit(func(f []iceberg.NestedField) []iceberg.NestedField { f[0].Type = p.Int32; return f }), `cannot change from LONG to INTEGER`, true},
		{"require", edit(func(f []iceberg.NestedField) []iceberg.NestedField { f[1].Required = true; return f }), `cannot become required`, true},
		{"no type of ours", edit(func(f []iceberg.NestedField) []iceberg.NestedField {
			return append(f, iceberg.NestedField{ID: 100, Name: "new", Type: p.UUID})
		}), `no field type holds`, true},
		{"new and required", edit(func(f []iceberg.NestedField) []iceberg.NestedField {
			return append(f, iceberg.NestedField{ID: 100, Name: "new", Type: p.String, Required: true})
		}), `is new and required`, true},
	} {
		got, err := Follow(old, c.to)
		var after int
		if err == nil {
			first := next
			if c.name == "taken before" {
				first = 51
			}
			got, after, err = Adopt(old, got, first, nil)
		}
		if c.bad {
			if !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: error %v, want %q", c.name, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		text, err := got.MarshalJSON()
		if err != nil || !strings.Contains(strings.NewReplacer(" ", "", "\n", "").Replace(string(text)), c.want) || after <= got.MaxID() {
			t.Errorf("%s: %s, next id %d, %v; want %s", c.name, text, after, err, c.want)
		}
	}
}

// TestAdoptKnown: a field of another branch comes with the id that it has there.
func TestAdoptKnown(t *testing.T) {
	t.Parallel()
	old, next := mustParse(t, adoptOld).AssignIDs(0)
	other := old.Clone()
	other.Fields = append(other.Fields, Field{ID: next, Name: "theirs", Type: Type{Kind: Array, Element: &Field{ID: next + 1, Name: "element", Type: Type{Kind: Date}, Nullable: true}}, Nullable: true})
	if _, _, err := Adopt(old, other, next+2, nil); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("an id that another branch has: %v", err)
	}
	got, after, err := Adopt(old, other, next+2, other)
	if err != nil || after != next+2 || !got.Equal(other) {
		t.Errorf("%+v, next %d, %v", got, after, err)
	}
}
