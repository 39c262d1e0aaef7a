package schema

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/avro"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/record/recordtest"
)

// TestAvroText pins the .avsc: rows in the log and data files depend on it.
func TestAvroText(t *testing.T) {
	t.Parallel()
	s, _ := mustParse(t, `{"fields":[{"name":"id","type":"LONG","nullable":false,"doc":"d","default":7,"metadata":{"k":"v"}},
	 {"name":"a-b","type":"BYTE"},{"name":"9","type":"DECIMAL","precision":5,"scale":2,"nullable":false,"default":"1.5"},
	 {"name":"m","type":"MAP","value":{"type":"STRUCT","fields":[{"name":"at","type":"TIMESTAMP","default":0}]}},
	 {"name":"l","type":"ARRAY","element":{"type":"DATE","nullable":false,"doc":"e"}}]}`).AssignIDs(0)
	want := `{"type":"record","name":"row","fields":[
{"name":"id","doc":"d","type":"long","default":7,"thermocline.default":"7","field-id":1,"thermocline.metadata":{"k":"v"}},
{"name":"a_x2Db","type":["null",{"type":"int","thermocline.type":"BYTE"}],"default":null,"field-id":2,"iceberg-field-name":"a-b"},
{"name":"_9","type":{"type":"bytes","logicalType":"decimal","precision":5,"scale":2},"default":"\u0000` + "\u0096" + `","thermocline.default":"\"1.5\"","field-id":3,"iceberg-field-name":"9"},
{"name":"m","type":["null",{"type":"map","values":["null",{"type":"record","name":"r7","fields":[
{"name":"at","type":["null",{"type":"long","logicalType":"timestamp-micros","adjust-to-utc":true}],"default":null,"thermocline.default":"0","field-id":8}]}],"key-id":6,"value-id":7}],"default":null,"field-id":4},
{"name":"l","type":["null",{"type":"array","items":{"type":"int","logicalType":"date"},"element-id":9,"thermocline.doc":"e"}],"default":null,"field-id":5}]}`
	if diff := cmp.Diff(strings.ReplaceAll(want, "\n", ""), s.Avro()); diff != "" {
		t.Error(diff)
	}
	if _, err := avro.Parse(s.Avro()); err != nil {
		t.Error(err)
	}
}

func TestAvroNames(t *testing.T) {
	t.Parallel()
	fields := []Field{{Name: "a_x2Db"}, {Name: "a-b"}, {Name: "a_x2Db_2"}, {Name: "é"}, {Name: "1"}, {Name: "_1"}, {Name: "a.b c"}, {Name: "Ok_9"}}
	want := []string{"a_x2Db", "a_x2Db_3", "a_x2Db_2", "_xE9", "_1_2", "_1", "a_x2Eb_x20c", "Ok_9"}
	if diff := cmp.Diff(want, avroNames(fields)); diff != "" {
		t.Error(diff)
	}
}

func TestFromAvro(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ field, want string }{ // want: our form, without the name
		{`"type":"int"`, `"type":"INTEGER","nullable":false`},
		{`"type":["null","long"],"default":null`, `"type":"LONG"`},
		{`"type":["string","null"],"default":"x"`, `"type":"STRING","default":"x"`},
		{`"type":["int"]`, `"type":"INTEGER","nullable":false`},
		{`"type":{"type":"enum","name":"e","symbols":["A","B"]},"default":"B"`, `"type":"STRING","nullable":false,"default":"B"`},
		{`"type":{"type":"fixed","name":"f","size":2},"default":"\u0001\u00ff"`, `"type":"BINARY","nullable":false,"default":"Af8="`},
		{`"type":{"type":"fixed","name":"f","size":3,"logicalType":"decimal","precision":6,"scale":2}`, `"type":"DECIMAL","precision":6,"scale":2,"nullable":false`},
		{`"type":{"type":"bytes","logicalType":"decimal","precision":6,"scale":2},"default":"\u0001\u00ff"`, `"type":"DECIMAL","precision":6,"scale":2,"nullable":false,"default":"5.11"`},
		{`"type":{"type":"long","logicalType":"timestamp-millis"},"default":1500`, `"type":"TIMESTAMP","nullable":false,"default":"1970-01-01T00:00:01.500Z"`},
		{`"type":{"type":"long","logicalType":"timestamp-micros"},"default":-1`, `"type":"TIMESTAMP","nullable":false,"default":"1969-12-31T23:59:59.999999Z"`},
		{`"type":{"type":"long","logicalType":"timestamp-nanos"}`, `"type":"TIMESTAMP","nullable":false`},
		{`"type":{"type":"int","logicalType":"date"},"default":1`, `"type":"DATE","nullable":false,"default":"1970-01-02"`},
		{`"type":{"type":"int","logicalType":"time-millis"}`, `"type":"INTEGER","nullable":false,"metadata":{"avro.logicalType":"time-millis"}`},
		{`"type":["null",{"type":"string","logicalType":"uuid"}]`, `"type":"STRING","metadata":{"avro.logicalType":"uuid"}`},
		{`"type":{"type":"array","items":["null","float"]},"default":[]`, `"type":"ARRAY","nullable":false,"default":[],"element":{"type":"FLOAT"}`},
		{`"type":{"type":"map","values":"boolean"},"default":{"b":true,"a":false}`, `"type":"MAP","nullable":false,"default":{"a":false,"b":true},"value":{"type":"BOOLEAN","nullable":false}`},
		{`"type":{"type":"record","name":"r","namespace":"n","fields":[{"name":"y","type":"double","default":0.5,"doc":"d"},{"name":"z","type":{"type":"fixed","name":"f","size":1}},{"name":"w","type":"f"},{"name":"v","type":"n.f"}]}`,
			`"type":"STRUCT","nullable":false,"fields":[{"name":"y","type":"DOUBLE","nullable":false,"default":0.5,"doc":"d"},{"name":"z","type":"BINARY","nullable":false},{"name":"w","type":"BINARY","nullable":false},{"name":"v","type":"BINARY","nullable":false}]`},
		{`"type":"long","field-id":9,"doc":"d"`, `"type":"LONG","nullable":false,"id":9,"doc":"d"`},
	} {
		got, err := FromAvro([]byte(`{"type":"record","name":"anyone","namespace":"x.y","fields":[{"name":"f1",` + c.field + `}]}`))
		if err != nil {
			t.Errorf("%s: %v", c.field, err)
			continue
		}
		want := mustParse(t, `{"fields":[{"name":"f1",`+c.want+`}]}`)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", c.field, diff)
		}
	}
}

func TestFromAvroRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ avsc, want string }{
		{`"string"`, "a row is a record"}, {`{`, "avro schema"}, {`{"type":"record","name":"r","fields":[]}`, "no fields"},
		{field(`["int","string"]`), `field "x" is a union of int and string`}, {field(`"null"`), `field "x" is null`}, {field(`["null"]`), "only be null"},
		{field(`{"type":"record","name":"q","fields":[{"name":"y","type":["null","q"]}]}`), `field "x.y" is of the type "q" that contains it`},
		{field(`{"type":"long","logicalType":"local-timestamp-millis"}`), "no time zone"}, {field(`{"type":"long","logicalType":"timestamp-micros","adjust-to-utc":false}`), "without time zone"},
		{field(`{"type":"bytes","logicalType":"decimal","precision":39,"scale":0}`), "39 digits"},
		{field(`{"type":"record","name":"q","fields":[]}`), `field "x" is a STRUCT without fields`},
		{`{"type":"record","name":"r","fields":[{"name":"x","type":"double","default":"NaN"}]}`, ""},
		{bomb(), "more than"},
	} {
		if _, err := FromAvro([]byte(c.avsc)); err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, record.ErrInvalid) && !errors.Is(err, record.ErrTooLarge) {
			t.Errorf("%.100s: %v, want %s", c.avsc, err, c.want)
		}
	}
	// The system columns are those of data files, not of users.
	s, _ := mustParse(t, sample).AssignIDs(0)
	text := []byte(s.WithSystem().Avro())
	if got, err := FromAvro(text); err != nil || !got.Equal(s.WithSystem()) {
		t.Errorf("schema of a data file: %v", err)
	}
	if _, err := ParseAny(text); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("system columns from a user: %v", err)
	}
}

func field(typ string) string {
	return `{"type":"record","name":"r","fields":[{"name":"x","type":` + typ + `}]}`
}

// bomb doubles its fields with every level.
func bomb() string {
	text := `{"type":"record","name":"r0","fields":[{"name":"a","type":"int"},{"name":"b","type":"int"}]}`
	for i := range 30 {
		n, _ := json.Marshal(i)
		m, _ := json.Marshal(i + 1)
		text = `{"type":"record","name":"r` + string(m) + `","fields":[{"name":"a","type":` + text + `},{"name":"b","type":"r` + string(n) + `"}]}`
	}
	return text
}

// FuzzAvroSchema: what FromAvro takes survives Avro and FromAvro.
func FuzzAvroSchema(f *testing.F) {
	s, _ := mustParse(f, sample).AssignIDs(0)
	f.Add(s.Avro())
	f.Add(field(`{"type":"record","name":"q","fields":[{"name":"y","type":["null","int"]}]}`))
	f.Add(field(`["null",{"type":"fixed","name":"f","size":3,"logicalType":"decimal","precision":6,"scale":2}]`))
	f.Add(field(`{"type":"array","items":{"type":"enum","name":"e","symbols":["A"]},"element-id":7}`))
	f.Fuzz(func(t *testing.T, avsc string) {
		var s *Schema
		var err error
		recordtest.Bounded(t, 256<<10+1024*len(avsc), func() { s, err = FromAvro([]byte(avsc)) })
		if err != nil {
			return
		}
		again, err := FromAvro([]byte(s.Avro()))
		if err != nil {
			t.Fatalf("%s: %v", s.Avro(), err)
		}
		if diff := cmp.Diff(s, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

// FuzzSchema: what Parse takes survives both forms and compiles.
func FuzzSchema(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte(evolveOld))
	f.Add([]byte(quakeSchema))
	f.Fuzz(func(t *testing.T, text []byte) {
		var s *Schema
		var err error
		recordtest.Bounded(t, 256<<10+1024*len(text), func() { s, err = ParseAny(text) })
		if err != nil {
			return
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(b)
		if err != nil || !again.Equal(s) {
			t.Fatalf("%s: %v", b, err)
		}
		if again, err = FromAvro([]byte(s.Avro())); err != nil || !again.Equal(s) {
			t.Fatalf("%s: %v", s.Avro(), err)
		}
		if _, err := CompileJSONToAvro(s, JSONOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := CompileAvroToJSON(s, s, JSONOutOptions{}); err != nil {
			t.Fatal(err)
		}
	})
}
