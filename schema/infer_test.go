package schema

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
)

func TestInfer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rows string
		want string // name TYPE …
	}{
		{`{"b":true,"l":1,"d":1.5,"s":"x","n":null,"t":"2020-01-31T00:00:00+01:00","day":"2020-01-31"}`, "b BOOLEAN, l LONG, d DOUBLE, s STRING, n STRING, t TIMESTAMP, day DATE"},
		{`{"a":1} {"a":2.5} {"a":null}`, "a DOUBLE"}, {`{"a":1.0}`, "a DOUBLE"}, {`{"a":1} {"a":9223372036854775808}`, "a DECIMAL(38,0)"},
		{`{"a":1e5}`, "a DOUBLE"}, {`{"a":` + strings.Repeat("9", 39) + `}`, "a DOUBLE"},
		{`{"a":"2020-01-31"} {"a":"2020-01-31T00:00:00Z"}`, "a STRING"}, {`{"a":"2020-01-31"} {"a":"soon"}`, "a STRING"}, {`{"a":"2020-01-31T00:00:00"}`, "a STRING"},
		{`{"a":[]}`, "a ARRAY<STRING>"}, {`{"a":[null,1]} {"a":[2.5]}`, "a ARRAY<DOUBLE>"}, {`{"a":[[1]]}`, "a ARRAY<ARRAY<LONG>>"},
		{`{"a":{}}`, "a MAP<STRING,STRING>"}, {`{"a":{"x":1}} {"b":1} {"a":{"y":"z"}} {"a":{}}`, "a STRUCT<x LONG, y STRING>, b LONG"},
		{`{"a.b":1,"ü":"v"}`, "a.b LONG, ü STRING"},
	} {
		dec := json.NewDecoder(strings.NewReader(c.rows))
		var rows [][]byte
		for dec.More() {
			var r json.RawMessage
			if err := dec.Decode(&r); err != nil {
				t.Fatal(err)
			}
			rows = append(rows, r)
		}
		s, err := Infer(rows...)
		if err != nil {
			t.Errorf("%s: %v", c.rows, err)
			continue
		}
		if diff := cmp.Diff(c.want, outline(s.Fields)); diff != "" {
			t.Errorf("%s: %s", c.rows, diff)
		}
		in, err := CompileJSONToAvro(s, JSONOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if _, err := in.Row(nil, r); err != nil {
				t.Errorf("the inferred schema refuses its sample: %v", err)
			}
		}
	}
}

func outline(fields []Field) string {
	var parts []string
	for _, f := range fields {
		text := f.Name + " " + f.Type.String()
		if f.Type.Kind == Struct {
			text += "<" + outline(f.Type.Fields) + ">"
		}
		if !f.Nullable {
			text += " required"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

func TestInferRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rows []string
		want string
	}{
		{nil, "no fields"}, {[]string{"{}"}, "no fields"}, {[]string{`{"a":1}`, `[]`}, "sample row 1 is no JSON object"}, {[]string{`{"a":1`}, "sample row 0 is not valid JSON"}, {[]string{``}, "not valid JSON"},
		{[]string{`{"a":1}{}`}, "more than one"}, {[]string{`{"a":1,"a":2}`}, `the key "a" twice`},
		{[]string{`{"a":{"b":1}}`, `{"a":{"b":"x"}}`}, `field "a.b" is a number in sample row 0 and a string in row 1`},
		{[]string{`{"a":[1,"x"]}`}, `field "a[1]" is a number`}, {[]string{`{"a":1,"A":1}`}, "only in case"}, {[]string{`{"":1}`}, "no name"}, {[]string{`{"_offset":1}`}, "system column"},
		{[]string{`{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`}, "deeper"},
	} {
		var rows [][]byte
		for _, r := range c.rows {
			rows = append(rows, []byte(r))
		}
		if _, err := Infer(rows...); !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: %v, want %s", c.rows, err, c.want)
		}
	}
}

func TestInferQuakes(t *testing.T) {
	t.Parallel()
	rows := quakes(t)
	s, err := Infer(rows...)
	if err != nil {
		t.Fatal(err)
	}
	want := "id STRING, time TIMESTAMP, updated TIMESTAMP, magnitude DOUBLE, magnitude_type STRING, place STRING, kind STRING, status STRING, tsunami BOOLEAN, significance LONG, network STRING, " +
		"location STRUCT<longitude DOUBLE, latitude DOUBLE, depth_km DOUBLE>, stations LONG, rms DOUBLE, gap_deg DOUBLE, felt LONG, sources ARRAY<STRING>"
	if diff := cmp.Diff(want, outline(s.Fields)); diff != "" {
		t.Error(diff)
	}
	in, _ := CompileJSONToAvro(s, JSONOptions{})
	for _, r := range rows {
		if _, err := in.Row(nil, r); err != nil {
			t.Fatal(err)
		}
	}
}
