package schema

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
)

const evolveOld = `{"fields":[
 {"name":"id","type":"LONG","nullable":false},
 {"name":"b","type":"BYTE"},{"name":"f","type":"FLOAT"},{"name":"p","type":"DECIMAL","precision":5,"scale":2},
 {"name":"st","type":"STRUCT","fields":[{"name":"x","type":"INTEGER","nullable":false},{"name":"y","type":"STRING","default":"q"}]},
 {"name":"ar","type":"ARRAY","element":{"type":"SHORT","nullable":false}},
 {"name":"mp","type":"MAP","value":{"type":"STRUCT","fields":[{"name":"z","type":"DATE"}]}}]}`

// TestEvolve: allowed changes, with an old row as it reads under the new schema.
func TestEvolve(t *testing.T) {
	t.Parallel()
	old, next := mustParse(t, evolveOld).AssignIDs(0)
	row := `{"id":1,"b":-5,"f":0.1,"p":123.45,"st":{"x":7,"y":null},"ar":[1,-2],"mp":{"k":{"z":"2020-01-31"},"n":null}}`
	for _, c := range []struct{ name, edit, proposed, want string }{
		{"same", "", "", row},
		{"add", `{"name":"b",`, `{"name":"new","type":"STRUCT","nullable":false,"default":{"n":[1]},"fields":[{"name":"n","type":"ARRAY","element":{"type":"LONG"}}]},{"name":"nul","type":"LONG"},{"name":"b",`,
			`{"id":1,"new":{"n":[1]},"nul":null,"b":-5,` + row[len(`{"id":1,"b":-5,`):]},
		{"add nested", `{"name":"z","type":"DATE"}`, `{"name":"w","type":"TIMESTAMP","default":0},{"name":"z","type":"DATE"}`,
			strings.Replace(row, `{"z"`, `{"w":"1970-01-01T00:00:00Z","z"`, 1)},
		{"drop", `{"name":"b","type":"BYTE"},{"name":"f","type":"FLOAT"},`, ``, strings.Replace(row, `"b":-5,"f":0.1,`, ``, 1)},
		{"drop nested", `{"name":"x","type":"INTEGER","nullable":false},`, ``, strings.Replace(row, `"x":7,`, ``, 1)},
		{"rename by id", `{"name":"b","type":"BYTE"}`, `{"name":"bee","id":2,"type":"BYTE"}`, strings.Replace(row, `"b"`, `"bee"`, 1)},
		{"swap names", `{"name":"b","type":"BYTE"},{"name":"f",`, `{"name":"f","id":2,"type":"BYTE"},{"name":"b","id":3,`, strings.Replace(row, `"b":-5,"f":0.1`, `"f":-5,"b":0.1`, 1)},
		{"reuse a name", `{"name":"b","type":"BYTE"}`, `{"name":"b2","id":2,"type":"BYTE"},{"name":"b","type":"STRING"}`, strings.Replace(row, `"b":-5`, `"b2":-5,"b":null`, 1)},
		{"reorder", `{"name":"b","type":"BYTE"},{"name":"f","type":"FLOAT"}`, `{"name":"f","type":"FLOAT"},{"name":"b","type":"BYTE"}`, strings.Replace(row, `"b":-5,"f":0.1`, `"f":0.1,"b":-5`, 1)},
		{"widen", `"type":"BYTE"`, `"type":"LONG"`, row},
		{"widen float", `"type":"FLOAT"`, `"type":"DOUBLE"`, strings.Replace(row, `0.1,`, `0.10000000149011612,`, 1)},
		{"widen decimal", `"precision":5`, `"precision":38`, row},
		{"widen element", `"type":"SHORT","nullable":false`, `"type":"LONG"`, row},
		{"widen nested", `"type":"INTEGER","nullable":false`, `"type":"LONG"`, row},
		{"doc", `{"name":"b",`, `{"name":"b","doc":"a byte","metadata":{"k":"v"},`, row},
		{"spell a default differently", `"default":"q"`, `"default":"\u0071"`, row},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(evolveOld, c.edit, c.proposed, 1)
			if c.edit != "" && text == evolveOld {
				t.Fatal("the edit does not apply")
			}
			got, after, err := Evolve(old, mustParse(t, text), next+10)
			if err != nil {
				t.Fatal(err)
			}
			if err := got.Validate(); err != nil {
				t.Fatal(err)
			}
			if c.name == "same" && (!got.Equal(old) || after != next+10) {
				t.Errorf("an unchanged schema became %+v, next id %d", got, after)
			}
			if strings.HasPrefix(c.name, "add") {
				if f, _, _ := got.Lookup("new"); f != nil && f.ID < next+10 {
					t.Errorf("new field has the id %d below the next free %d", f.ID, next+10)
				}
			}
			if m := got.MaxID(); m >= after {
				t.Errorf("next id %d is in use", after)
			}
			in, err := CompileJSONToAvro(old, JSONOptions{})
			if err != nil {
				t.Fatal(err)
			}
			datum, err := in.Row(nil, []byte(row))
			if err != nil {
				t.Fatal(err)
			}
			out, err := CompileAvroToJSON(old, got, JSONOutOptions{})
			if err != nil {
				t.Fatal(err)
			}
			line, err := out.Row(nil, datum)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(line)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEvolveRefuses(t *testing.T) {
	t.Parallel()
	old, next := mustParse(t, evolveOld).AssignIDs(0)
	for _, c := range []struct{ edit, proposed, want string }{
		{`{"name":"b",`, `{"name":"n","type":"LONG","nullable":false},{"name":"b",`, `"n" is new and required`},
		{`{"name":"b","type":"BYTE"}`, `{"name":"b","type":"BYTE","nullable":false}`, `"b" was nullable`},
		{`"type":"BYTE"`, `"type":"STRING"`, `"b" cannot change from BYTE to STRING`},
		{`"type":"INTEGER"`, `"type":"SHORT"`, `"st.x" cannot change from INTEGER to SHORT (it can become a wider integer)`},
		{`"type":"FLOAT"`, `"type":"LONG"`, `"f" cannot change`},
		{`"precision":5,"scale":2`, `"precision":6,"scale":3`, `"p" cannot change from DECIMAL(5,2) to DECIMAL(6,3)`},
		{`"precision":5`, `"precision":4`, `"p" cannot change`},
		{`"element":{"type":"SHORT"`, `"element":{"type":"BYTE"`, `"ar.element" cannot change`},
		{`"type":"DATE"`, `"type":"TIMESTAMP"`, `"mp.value.z" cannot change`},
		{`{"name":"b","type":"BYTE"}`, `{"name":"b","type":"BYTE","id":99}`, `"b" has the id 99, which no field has there`},
		{`{"name":"b","type":"BYTE"}`, `{"name":"b","type":"BYTE","id":14}`, `"b" has the id 14, which no field has there`},
		{`{"name":"b",`, `{"name":"n","type":"STRUCT","fields":[{"name":"x","type":"LONG","id":77}]},{"name":"b",`, `"n.x" is part of a new field`},
		{`"default":"q"`, `"default":"r"`, `"st.y" has the default "q", which cannot be changed to "r"`},
		{`,"default":"q"`, ``, `"st.y" has the default "q", which cannot be changed to none`},
		{`{"name":"b",`, `{"name":"b","default":1,`, `"b" has the default none`},
		{`"element":{`, `"element":{"id":99,`, `"ar.element" has the id 99`},
	} {
		text := strings.Replace(evolveOld, c.edit, c.proposed, 1)
		_, _, err := Evolve(old, mustParse(t, text), next)
		if !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "reset the stream") {
			t.Errorf("%s\n got %v\nwant %s", c.proposed, err, c.want)
		}
	}
	all := strings.NewReplacer(`"type":"BYTE"`, `"type":"DATE"`, `"type":"SHORT"`, `"type":"DATE"`).Replace(evolveOld)
	if _, _, err := Evolve(old, mustParse(t, all), next); err == nil || !strings.Contains(err.Error(), `"b" cannot`) || !strings.Contains(err.Error(), `"ar.element" cannot`) {
		t.Errorf("not every fault is listed: %v", err)
	}
}

// TestResolveRefuses: readers that cannot hold what was written.
func TestResolveRefuses(t *testing.T) {
	t.Parallel()
	w := mustParse(t, `{"fields":[{"name":"a","type":"LONG","id":5},{"name":"s","type":"STRUCT","id":6,"fields":[{"name":"x","type":"LONG","id":7}]}]}`)
	for _, c := range []struct{ reader, want string }{
		{`{"name":"a","type":"INTEGER","id":5}`, `"a" was written as LONG`},
		{`{"name":"a","type":"LONG","id":5,"nullable":false}`, `"a" was written as nullable`},
		{`{"name":"n","type":"LONG","id":9,"nullable":false}`, `"n" is required and has no default`},
		{`{"name":"s","type":"STRUCT","id":6,"fields":[{"name":"x","type":"STRING","id":7}]}`, `"s.x" was written as LONG`},
	} {
		_, err := CompileAvroToJSON(w, mustParse(t, `{"fields":[`+c.reader+`]}`), JSONOutOptions{})
		if !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.reader, err)
		}
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	old, _ := mustParse(t, evolveOld).AssignIDs(0)
	text := strings.NewReplacer(
		`{"name":"b","type":"BYTE"},{"name":"f","type":"FLOAT"}`, `{"name":"f","type":"DOUBLE"},{"name":"bee","id":2,"type":"SHORT","doc":"d"},{"name":"n","type":"DATE","default":5}`,
		`"type":"SHORT","nullable":false`, `"type":"INTEGER"`,
		`,{"name":"y","type":"STRING","default":"q"}`, ``,
	).Replace(evolveOld)
	next, _, err := Evolve(old, mustParse(t, text), 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range Diff(old, next) {
		got = append(got, c.String())
	}
	want := []string{
		"retyped f: FLOAT → DOUBLE", "renamed bee: b → bee", "doc bee: d", "retyped bee: BYTE → SHORT", "added n: DATE nullable",
		"dropped st.y: STRING nullable", "nullability ar.element: required → nullable", "retyped ar.element: SHORT → INTEGER", "reordered ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// Without ids, by name.
	a := mustParse(t, `{"fields":[{"name":"x","type":"LONG"},{"name":"y","type":"LONG"}]}`)
	b := mustParse(t, `{"fields":[{"name":"y","type":"LONG"},{"name":"z","type":"LONG"}]}`)
	if diff := cmp.Diff([]Change{{Kind: Added, Path: "z", To: "LONG nullable"}, {Kind: Dropped, Path: "x", From: "LONG nullable"}}, Diff(a, b)); diff != "" {
		t.Error(diff)
	}
	if c := Diff(old, old); len(c) > 0 {
		t.Error(fmt.Sprint("no change is ", c))
	}
}
