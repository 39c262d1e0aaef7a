package schema

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
)

// sample uses every type and every property of a field.
const sample = `{"fields":[
 {"name":"id","type":"STRING","nullable":false,"doc":"event id","metadata":{"a":"1","b":"2"}},
 {"name":"flag","type":"BOOLEAN","default":true},
 {"name":"b","type":"byte"},{"name":"s","type":"SHORT"},{"name":"i","type":"INTEGER"},{"name":"l","type":"LONG","nullable":false,"default":7},
 {"name":"f","type":"FLOAT"},{"name":"d","type":"DOUBLE"},
 {"name":"price","type":"DECIMAL","precision":10,"scale":2},
 {"name":"raw","type":"BINARY"},{"name":"day","type":"DATE"},{"name":"at","type":"TIMESTAMP"},
 {"name":"tags","type":"ARRAY","element":{"type":"STRING"}},
 {"name":"attrs","type":"MAP","value":{"type":"DOUBLE","nullable":false}},
 {"name":"place","type":"STRUCT","fields":[
   {"name":"lon","type":"DOUBLE","nullable":false},{"name":"lat","type":"DOUBLE"},
   {"name":"marks","type":"ARRAY","element":{"type":"STRUCT","fields":[{"name":"x","type":"INTEGER"},{"name":"y","type":"INTEGER"}]}}]}
]}`

func mustParse(t testing.TB, text string) *Schema {
	t.Helper()
	s, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParseRoundTrip(t *testing.T) {
	t.Parallel()
	s := mustParse(t, sample)
	s, next := s.AssignIDs(0)
	s.ID = 12
	if next != s.MaxID()+1 {
		t.Errorf("next id %d after the highest %d", next, s.MaxID())
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	again := mustParse(t, string(text))
	if diff := cmp.Diff(s, again); diff != "" {
		t.Error(diff)
	}
	if !s.Equal(again) || !s.Equal(s.Clone()) {
		t.Error("a copy is not equal")
	}
	c := s.Clone()
	c.Fields[14].Type.Fields[2].Type.Element.Type.Fields[1].Doc = "changed"
	if s.Equal(c) {
		t.Error("Equal overlooks a nested difference, or Clone shares memory")
	}
}

func TestAssignIDs(t *testing.T) {
	t.Parallel()
	s := mustParse(t, `{"fields":[{"name":"a","type":"LONG","id":9},{"name":"m","type":"MAP","value":{"type":"STRUCT","fields":[{"name":"x","type":"LONG"}]}},{"name":"z","type":"LONG"}]}`)
	c, next := s.AssignIDs(3)
	m := c.Fields[1]
	got := []int{c.Fields[0].ID, m.ID, c.Fields[2].ID, m.Type.KeyID, m.Type.Value.ID, m.Type.Value.Type.Fields[0].ID, next}
	if diff := cmp.Diff([]int{9, 10, 11, 12, 13, 14, 15}, got); diff != "" {
		t.Error(diff)
	}
	if s.Fields[1].ID != 0 {
		t.Error("AssignIDs changed its receiver")
	}
	fresh, _ := mustParse(t, `{"fields":[{"name":"a","type":"LONG"}]}`).AssignIDs(0)
	if fresh.Fields[0].ID != FirstUserID {
		t.Errorf("first id %d", fresh.Fields[0].ID)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{`{"fields":[]}`, "no fields"},
		{`{"fields":[{"name":"a","type":"LONG","typo":1}]}`, "typo"},
		{`{"fields":[{"name":"a","name":"b","type":"LONG"}]}`, "duplicate"},
		{`{"fields":[{"type":"LONG"}]}`, "no name"},
		{`{"fields":[{"name":"a","type":"INT"}]}`, `field "a" unknown type "INT"`},
		{`{"fields":[{"name":"a","type":"DECIMAL"}]}`, "precision"},
		{`{"fields":[{"name":"a","type":"DECIMAL","precision":39}]}`, "precision 39"},
		{`{"fields":[{"name":"a","type":"DECIMAL","precision":3,"scale":4}]}`, "scale 4"},
		{`{"fields":[{"name":"a","type":"LONG","precision":3}]}`, "cannot have"},
		{`{"fields":[{"name":"a","type":"ARRAY"}]}`, "element"},
		{`{"fields":[{"name":"a","type":"MAP"}]}`, "value"},
		{`{"fields":[{"name":"a","type":"STRUCT","fields":[]}]}`, "without fields"},
		{`{"fields":[{"name":"a","type":"STRUCT"}]}`, "fields"},
		{`{"fields":[{"name":"a","type":"LONG"},{"name":"a","type":"LONG"}]}`, "twice"},
		{`{"fields":[{"name":"a","type":"LONG"},{"name":"A","type":"LONG"}]}`, "only in case"},
		{`{"fields":[{"name":"a.b","type":"LONG"},{"name":"a","type":"STRUCT","fields":[{"name":"b","type":"LONG"}]}]}`, "dot in its name"},
		{`{"fields":[{"name":"_Offset","type":"LONG"}]}`, "system column"},
		{`{"fields":[{"name":"_file","type":"LONG"}]}`, "Iceberg metadata"},
		{`{"fields":[{"name":"_thermocline","type":"LONG"}]}`, "marks between rows"},
		{`{"fields":[{"name":"a\u0000","type":"LONG"}]}`, "U+0000"},
		{`{"fields":[{"name":"` + strings.Repeat("n", 256) + `","type":"LONG"}]}`, "256 bytes"},
		{`{"fields":[{"name":"a","type":"LONG","id":1073741825}]}`, "a system column"},
		{`{"fields":[{"name":"a","type":"LONG","id":-4}]}`, "-4"},
		{`{"fields":[{"name":"a","type":"LONG","id":9},{"name":"b","type":"LONG","id":9}]}`, `that of "a"`},
		{`{"fields":[{"name":"a","type":"LONG","nullable":false,"default":null}]}`, "not nullable"},
		{`{"fields":[` + strings.Repeat(`{"name":"a","type":"STRUCT","fields":[`, 65) + strings.Repeat(`]}`, 65) + `]}`, "deeper than 64"},
		{`[1]`, "not a schema"},
		{`{`, "not a schema"},
	} {
		_, err := Parse([]byte(c.text))
		if !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80s: error %v, want one with %q", c.text, err, c.want)
		}
	}
	if _, err := Parse(make([]byte, MaxSchemaBytes+1)); !errors.Is(err, record.ErrTooLarge) {
		t.Errorf("a text beyond the limit: %v", err)
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	s := mustParse(t, `{"fields":[{"name":"a","type":"LONG"},{"name":"http","type":"STRUCT","fields":[{"name":"x.y","type":"LONG"},{"name":"x","type":"MAP","value":{"type":"ARRAY","element":{"type":"DATE"}}}]},{"name":"http.code","type":"SHORT"}]}`)
	for path, want := range map[string][]int{
		"a": {0}, "http": {1}, "http.code": {2}, "http.x.y": {1, 0}, "http.x": {1, 1},
		"http.x.value": {1, 1, 1}, "http.x.value.element": {1, 1, 1, 0},
	} {
		f, at, ok := s.Lookup(path)
		if !ok || !cmp.Equal(at, want) || !strings.HasSuffix(path, f.Name) {
			t.Errorf("%s: %v at %v, want %v", path, f, at, want)
		}
	}
	for _, path := range []string{"", "b", "a.", "a.b", "http.x.key", "htt", "http."} {
		if _, _, ok := s.Lookup(path); ok {
			t.Errorf("%q found", path)
		}
	}
}

func TestProject(t *testing.T) {
	t.Parallel()
	s, _ := mustParse(t, sample).AssignIDs(0)
	p, err := s.WithSystem().Project([]string{"_offset", "place.marks.element.y", "l", "place.lon", "l"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range p.Fields {
		names = append(names, f.Name)
	}
	if diff := cmp.Diff([]string{"_offset", "place", "l"}, names); diff != "" {
		t.Error(diff)
	}
	place := p.Fields[1].Type
	if len(place.Fields) != 2 || place.Fields[0].Name != "marks" || place.Fields[1].Name != "lon" ||
		len(place.Fields[0].Type.Element.Type.Fields) != 1 {
		t.Errorf("projected struct %+v", place)
	}
	if len(s.Fields[14].Type.Fields) != 3 || p.Fields[1].ID != s.Fields[14].ID {
		t.Error("projection changed the schema or lost an id")
	}
	whole, err := s.Project([]string{"place.lat", "place"})
	if err != nil || !whole.Equal(&Schema{Fields: s.Fields[14:15]}) {
		t.Errorf("whole after part: %v %v", whole, err)
	}
	for _, cols := range [][]string{nil, {"nope"}, {"id.x"}} {
		if _, err := s.Project(cols); !errors.Is(err, record.ErrInvalid) {
			t.Errorf("%v: %v", cols, err)
		}
	}
}

// TestSchemaBombs: small texts that describe much work or memory.
func TestSchemaBombs(t *testing.T) {
	t.Parallel()
	nest := func(head, tail string, depth int, leaf string) string {
		return `{"fields":[` + strings.Repeat(head, depth) + leaf + strings.Repeat(tail, depth) + `]}`
	}
	// A default at every level: compiled once, not 2^60 times.
	if _, err := Parse([]byte(nest(`{"name":"a","type":"STRUCT","default":{},"fields":[`, `]}`, 60, `{"name":"x","type":"LONG"}`))); err != nil {
		t.Error(err)
	}
	// Defaults that multiply.
	text := nest(`{"name":"a","type":"ARRAY","nullable":false,"default":[{},{},{},{}],"element":{"type":"STRUCT","fields":[`, `]}}`, 12, `{"name":"x","type":"LONG"}`)
	if _, err := Parse([]byte(text)); !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), "default") {
		t.Errorf("defaults that multiply: %v", err)
	}
	var many []string
	for i := range 200 {
		many = append(many, `{"name":"a`+string(rune('A'+i%20))+strings.Repeat("b", i/20)+`","type":"STRING","default":"`+strings.Repeat("x", 30_000)+`"}`)
	}
	if _, err := Parse([]byte(`{"fields":[` + strings.Join(many[:100], ",") + `]}`)); err != nil {
		t.Error(err)
	}
	if _, err := Parse([]byte(`{"fields":[` + strings.Join(many[:140], ",") + `]}`)); !errors.Is(err, record.ErrTooLarge) {
		t.Errorf("%d bytes of defaults: %v", 140*30_000, err)
	}
	name := strings.Repeat("n", 200)
	if _, err := Parse([]byte(nest(`{"name":"`+name+`","type":"STRUCT","fields":[`, `]}`, 60, `{"name":"x","type":"LONG"}`))); !errors.Is(err, record.ErrInvalid) || len(err.Error()) > 4096 {
		t.Errorf("a long path: %.200s", err)
	}
}
