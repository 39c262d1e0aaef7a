package schema

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/record/recordtest"
)

// oneField is a schema of one field "x" with these properties.
func oneField(t testing.TB, props string) *Schema {
	return mustParse(t, `{"fields":[{"name":"x",`+props+`}]}`)
}

// TestJSONValues: what each type takes, by the value that comes out again, and
// what it refuses, by code.
func TestJSONValues(t *testing.T) {
	t.Parallel()
	const (
		boolean   = `"type":"BOOLEAN"`
		byt       = `"type":"BYTE"`
		short     = `"type":"SHORT"`
		integer   = `"type":"INTEGER"`
		long      = `"type":"LONG"`
		float     = `"type":"FLOAT"`
		double    = `"type":"DOUBLE"`
		dec       = `"type":"DECIMAL","precision":5,"scale":2`
		dec38     = `"type":"DECIMAL","precision":38,"scale":38`
		str       = `"type":"STRING"`
		bin       = `"type":"BINARY"`
		date      = `"type":"DATE"`
		timestamp = `"type":"TIMESTAMP"`
		array     = `"type":"ARRAY","element":{"type":"LONG","nullable":false}`
		mapping   = `"type":"MAP","value":{"type":"LONG","nullable":false}`
		structure = `"type":"STRUCT","fields":[{"name":"y","type":"LONG","nullable":false}]`
	)
	for _, c := range []struct{ typ, in, out string }{ // out: "" as in, "!code" refused
		{boolean, `true`, ""}, {boolean, `false`, ""}, {boolean, `1`, "!wrong_type"}, {boolean, `"true"`, "!wrong_type"}, {boolean, `tru`, "!invalid_json"},
		{byt, `127`, ""}, {byt, `-128`, ""}, {byt, `128`, "!out_of_range"}, {byt, `-129`, "!out_of_range"},
		{short, `32767`, ""}, {short, `-32769`, "!out_of_range"},
		{integer, `2147483647`, ""}, {integer, `2147483648`, "!out_of_range"}, {integer, `"5"`, "!wrong_type"},
		{integer, `1.0`, "1"}, {integer, `1e3`, "1000"}, {integer, `120e-1`, "12"}, {integer, `1.5`, "!lossy"}, {integer, `-0`, "0"}, {integer, `0e99999999999`, "0"},
		{integer, `1e400`, "!out_of_range"}, {integer, `1e-400`, "!lossy"}, {integer, `01`, "!invalid_json"}, {integer, `+1`, "!invalid_json"}, {integer, `1.`, "!invalid_json"},
		{long, `9223372036854775807`, ""}, {long, `-9223372036854775808`, ""}, {long, `9223372036854775808`, "!out_of_range"}, {long, `-9223372036854775809`, "!out_of_range"},
		{long, `"9223372036854775807"`, "9223372036854775807"}, {long, `"-12"`, "-12"}, {long, `"1.0"`, "1"}, {long, `""`, "!wrong_type"}, {long, `" 1"`, "!wrong_type"}, {long, `"+1"`, "!wrong_type"}, {long, `"0x1"`, "!wrong_type"}, {long, `"1_0"`, "!wrong_type"}, {long, `1e38`, "!out_of_range"},
		{float, `0.1`, ""}, {float, `-0`, "-0"}, {float, `3.4028235e38`, "3.4028235e+38"}, {float, `3.5e38`, "!out_of_range"}, {float, `1e-50`, "!lossy"}, {float, `0e-50`, "0"}, {float, `"1"`, "!wrong_type"},
		{double, `0.1`, ""}, {double, `-122.197`, ""}, {double, `-0.0`, "-0"}, {double, `1e999`, "!out_of_range"}, {double, `-1e999`, "!out_of_range"}, {double, `1e-999`, "!lossy"}, {double, `NaN`, "!invalid_json"}, {double, `Infinity`, "!invalid_json"}, {double, `"NaN"`, "!wrong_type"}, {double, `123456789012345678901234567890`, "1.2345678901234568e+29"}, {double, `.5`, "!invalid_json"}, {double, `1.e5`, "!invalid_json"}, {double, `00.5`, "!invalid_json"},
		{dec, `123.45`, ""}, {dec, `"123.45"`, "123.45"}, {dec, `-0.01`, ""}, {dec, `1`, "1.00"}, {dec, `1.500`, "1.50"}, {dec, `1.5e1`, "15.00"}, {dec, `1.234`, "!lossy"}, {dec, `1000`, "!out_of_range"}, {dec, `999.99`, ""}, {dec, `"x"`, "!wrong_type"}, {dec, `"1,5"`, "!wrong_type"}, {dec, `""`, "!wrong_type"}, {dec, `-0`, "0.00"}, {dec, `true`, "!wrong_type"},
		{dec38, `0.99999999999999999999999999999999999999`, ""}, {dec38, `-0.99999999999999999999999999999999999999`, ""}, {dec38, `1`, "!out_of_range"}, {dec38, `0.000000000000000000000000000000000000001`, "!lossy"},
		{str, `"a\u0000\n😀\ud83d\ude00\"\\/"`, `"a\u0000\n😀😀\"\\/"`}, {str, `""`, ""}, {str, `1`, "!wrong_type"}, {str, `"\ud800"`, "!invalid_json"}, {str, "\"\xff\"", "!invalid_json"}, {str, "\"\x01\"", "!invalid_json"}, {str, "\"\x1f\"", "!invalid_json"}, {str, "\"a\nb\"", "!invalid_json"}, {str, "\"eight or\x1f more\"", "!invalid_json"}, {str, `"a`, "!invalid_json"}, {str, `{}`, "!wrong_type"}, {str, `[]`, "!wrong_type"},
		{bin, `"AQI="`, ""}, {bin, `"AQI"`, `"AQI="`}, {bin, `"-_8="`, `"+/8="`}, {bin, `"+/8"`, `"+/8="`}, {bin, `""`, ""}, {bin, `"AQJ="`, "!wrong_type"}, {bin, `"+_8="`, "!wrong_type"}, {bin, `"AQ\nI="`, "!wrong_type"}, {bin, `"A"`, "!wrong_type"}, {bin, `"AQID\n"`, "!wrong_type"}, {bin, `"AQID\r"`, "!wrong_type"}, {bin, `"===="`, "!wrong_type"}, {bin, `"AQI=AQI="`, "!wrong_type"}, {bin, `1`, "!wrong_type"},
		{date, `"2020-02-29"`, ""}, {date, `0`, `"1970-01-01"`}, {date, `-719162`, `"0001-01-01"`}, {date, `"9999-12-31"`, ""}, {date, `2932897`, "!out_of_range"}, {date, `"2021-02-29"`, "!wrong_type"}, {date, `"1900-02-29"`, "!wrong_type"}, {date, `"2000-02-29"`, ""}, {date, `"2020-13-01"`, "!wrong_type"}, {date, `"2020-00-01"`, "!wrong_type"}, {date, `"2020-01-00"`, "!wrong_type"}, {date, `"2020-1-01"`, "!wrong_type"}, {date, `"0000-01-01"`, "!out_of_range"}, {date, `"2020-01-01T00:00:00Z"`, "!wrong_type"}, {date, `1.5`, "!lossy"},
		{timestamp, `"2018-01-31T01:49:59.650Z"`, ""}, {timestamp, `"2018-01-31T01:49:59Z"`, ""}, {timestamp, `"2018-01-31T01:49:59.000001Z"`, ""}, {timestamp, `"2018-01-31T01:49:59.123456000Z"`, `"2018-01-31T01:49:59.123456Z"`}, {timestamp, `"2018-01-31T01:49:59.1234567Z"`, "!lossy"}, {timestamp, `"2018-01-31T01:49:59.0000000000Z"`, "!lossy"},
		{timestamp, `"2018-01-31T01:49:59+01:30"`, `"2018-01-31T00:19:59Z"`}, {timestamp, `"2018-01-31 01:49:59-0800"`, `"2018-01-31T09:49:59Z"`}, {timestamp, `"2018-01-31t01:49:59z"`, `"2018-01-31T01:49:59Z"`}, {timestamp, `"2018-01-31T01:49:59+02"`, `"2018-01-30T23:49:59Z"`},
		{timestamp, `"2018-01-31T01:49:59"`, "!wrong_type"}, {timestamp, `"2018-01-31"`, "!wrong_type"}, {timestamp, `"2018-01-31T24:00:00Z"`, "!wrong_type"}, {timestamp, `"2018-01-31T01:49:60Z"`, "!wrong_type"}, {timestamp, `"2018-01-31T01:49:59.Z"`, "!wrong_type"}, {timestamp, `"2018-01-31T01:49:59+1:00"`, "!wrong_type"}, {timestamp, `"2018-01-31T01:49:59+24:00"`, "!wrong_type"}, {timestamp, `"now"`, "!wrong_type"},
		{timestamp, `1517363399650`, `"2018-01-31T01:49:59.650Z"`}, {timestamp, `1517363399650.5`, `"2018-01-31T01:49:59.650500Z"`}, {timestamp, `1517363399650.0001`, "!lossy"}, {timestamp, `-1`, `"1969-12-31T23:59:59.999Z"`}, {timestamp, `1517363399650000`, "!out_of_range"}, {timestamp, `"0001-01-01T00:00:00+01:00"`, "!out_of_range"}, {timestamp, `253402300799999`, `"9999-12-31T23:59:59.999Z"`}, {timestamp, `253402300800000`, "!out_of_range"}, {timestamp, `1e99`, "!out_of_range"},
		{array, `[]`, ""}, {array, `[1,2]`, ""}, {array, `[1,null]`, "!null"}, {array, `[1,]`, "!invalid_json"}, {array, `[1 2]`, "!invalid_json"}, {array, `[1`, "!invalid_json"}, {array, `{}`, "!wrong_type"},
		{mapping, `{}`, ""}, {mapping, `{"b":1,"a":2}`, ""}, {mapping, `{"a":1,"a":2}`, "!duplicate_field"}, {mapping, `{"a":1,"\u0061":2}`, "!duplicate_field"}, {mapping, `{"a":null}`, "!null"}, {mapping, `[]`, "!wrong_type"}, {mapping, `{a:1}`, "!invalid_json"},
		{structure, `{"y":1}`, ""}, {structure, `{}`, "!missing_field"}, {structure, `{"y":1,"y":1}`, "!duplicate_field"}, {structure, `{"y":1,"z":1}`, "!unknown_field"}, {structure, `{"Y":1}`, "!unknown_field"}, {structure, `{"y":1,}`, "!invalid_json"}, {structure, `{"y" 1}`, "!invalid_json"},
	} {
		for _, required := range []bool{true, false} {
			s := oneField(t, c.typ+fmt.Sprintf(`,"nullable":%v`, !required))
			in := `{"x":` + c.in + `}`
			got, err := roundTrip(t, s, in)
			code, refused := strings.CutPrefix(c.out, "!")
			want := `{"x":` + c.out + `}`
			if c.out == "" {
				want = in
			}
			var e *RowError
			switch {
			case refused && (!errors.As(err, &e) || e.Code != code || !errors.Is(err, record.ErrInvalid)):
				t.Errorf("%s %s: %q, %v; want code %s", c.typ, c.in, got, err, code)
			case refused && e.Code != CodeInvalidJSON && !strings.HasPrefix(e.Path, "x"):
				t.Errorf("%s %s: path %q", c.typ, c.in, e.Path)
			case !refused && (err != nil || got != want):
				t.Errorf("%s %s: %s, %v; want %s", c.typ, c.in, got, err, want)
			}
			if got, err = roundTrip(t, s, `{"x":null}`); required {
				if !errors.As(err, &e) || e.Code != CodeNull {
					t.Errorf("null for required %s: %s, %v", c.typ, got, err)
				}
			} else if err != nil || got != `{"x":null}` {
				t.Errorf("null for %s: %s, %v", c.typ, got, err)
			}
		}
	}
}

func roundTrip(t testing.TB, s *Schema, row string) (string, error) {
	t.Helper()
	in, err := CompileJSONToAvro(s, JSONOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := CompileAvroToJSON(s, s, JSONOutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	datum, err := in.Row(nil, []byte(row))
	if err != nil {
		if len(datum) > 0 {
			t.Errorf("%s: %d bytes beside the error", row, len(datum))
		}
		return "", err
	}
	text, err := out.Row(nil, datum)
	return string(text), err
}

// TestRowErrors: what a person sees.
func TestRowErrors(t *testing.T) {
	t.Parallel()
	s := mustParse(t, `{"fields":[{"name":"id","type":"LONG","nullable":false},
	 {"name":"location","type":"STRUCT","fields":[{"name":"depth","type":"ARRAY","element":{"type":"STRUCT","fields":[{"name":"x","type":"INTEGER"}]}}]},
	 {"name":"attrs","type":"MAP","value":{"type":"ARRAY","element":{"type":"BOOLEAN"}}}]}`)
	c, err := CompileJSONToAvro(s, JSONOptions{})
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("ä", 1000)
	for _, e := range []struct {
		row, want string
	}{
		{`{"id":1,"location":{"depth":[{},{"x":1},null,{"x":"deep"}]}}`,
			`row 0, field location.depth[3].x: expected INTEGER (an integer from -2147483648 to 2147483647), got "deep"`},
		{`{"id":1,"attrs":{"a b":[true,0]}}`, `row 0, field attrs["a b"][1]: expected BOOLEAN (true or false), got 0`},
		{`{"location":null}`, `row 0, field id: expected LONG (an integer from -9223372036854775808 to 9223372036854775807, a number or a string), got no such field`},
		{`{"id":1,"location":{"dept":1}}`, `row 0, field location.dept: expected a field of the schema (or unknownFields=ignore), got an unknown field`},
		{`{"id":1,"location":{"depth":[],"depth":[]}}`, `row 0, field location.depth: expected each key once, got a second one`},
		{`{"id":1`, `row 0: expected one JSON object, got invalid JSON at byte 7: unexpected EOF`},
		{``, `row 0: expected one JSON object, got an end of input`},
		{`{"id":1} {"id":2}`, `row 0: expected one JSON object, got more than one value`},
		{`{"id":1}x`, `row 0: expected one JSON object, got invalid JSON at byte 8: invalid character 'x' at start of value`},
		{`[{"id":1}]`, `row 0: expected STRUCT (a JSON object), got [{"id":1}]`},
		{`null`, `row 0: expected STRUCT (a JSON object), not null, got null`},
		{`{"id":"` + long + `"}`, `row 0, field id: expected LONG (an integer from -9223372036854775808 to 9223372036854775807, a number or a string), got "` + long[:62] + `…`},
		{`{"` + long + `":1}`, `row 0, field ` + long[:64] + `…: expected a field of the schema (or unknownFields=ignore), got an unknown field`},
	} {
		_, err := c.Row(nil, []byte(e.row))
		if err == nil || err.Error() != e.want {
			t.Errorf("%.100s\n got %v\nwant %s", e.row, err, e.want)
		}
	}
}

func TestJSONAbsentAndUnknown(t *testing.T) {
	t.Parallel()
	s := mustParse(t, `{"fields":[{"name":"a","type":"LONG","nullable":false,"default":7},{"name":"b","type":"STRING"},
	 {"name":"c","type":"TIMESTAMP","default":"2020-01-01T00:00:00Z"},{"name":"d","type":"STRUCT","nullable":false,"default":{"y":[1]},"fields":[{"name":"x","type":"LONG"},{"name":"y","type":"ARRAY","element":{"type":"LONG"}}]}]}`)
	for _, c := range []struct{ in, out string }{
		{`{}`, `{"a":7,"b":null,"c":"2020-01-01T00:00:00Z","d":{"x":null,"y":[1]}}`},
		{`{"d":{},"c":null,"b":"z","a":1}`, `{"a":1,"b":"z","c":null,"d":{"x":null,"y":null}}`},
		{`{"c":null,"a":1}`, `{"a":1,"b":null,"c":null,"d":{"x":null,"y":[1]}}`},
	} {
		if got, err := roundTrip(t, s, c.in); err != nil || got != c.out {
			t.Errorf("%s: %s, %v", c.in, got, err)
		}
	}
	lenient, err := CompileJSONToAvro(s, JSONOptions{UnknownFields: Ignore})
	if err != nil {
		t.Fatal(err)
	}
	strict, _ := CompileJSONToAvro(s, JSONOptions{})
	want, _ := strict.Row(nil, []byte(`{"b":"z"}`))
	for _, in := range []string{`{"b":"z","u":1}`, `{"u":"é","v":true,"b":"z","w":null}`, `{"u":{"x":[1,{}]},"b":"z"}`, `{"\u0075":1,"b":"z"}`} {
		if got, err := lenient.Row(nil, []byte(in)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %x, %v; want %x", in, got, err, want)
		}
	}
	for _, in := range []string{`{"u":1,"u":2}`, `{"u":01}`, `{"u":nul}`, "{\"u\":\"\xff\"}", `{"u":{"x":1,"x":2}}`, `{"u":1.}`} {
		if got, err := lenient.Row(nil, []byte(in)); err == nil {
			t.Errorf("%s: accepted as %x", in, got)
		}
	}
}

func TestJSONLimits(t *testing.T) {
	t.Parallel()
	s := mustParse(t, `{"fields":[{"name":"x","type":"ARRAY","element":{"type":"STRUCT","fields":[{"name":"y","type":"STRING","nullable":false,"default":"`+strings.Repeat("d", 100)+`"}]}}]}`)
	c, err := CompileJSONToAvro(s, JSONOptions{MaxRowBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]string{
		"text":     `{"x":[` + strings.Repeat(" ", 1000) + `]}`,
		"defaults": `{"x":[{}` + strings.Repeat(",{}", 20) + `]}`,
	} {
		_, err := c.Row(make([]byte, 5000), []byte(in))
		if !errors.Is(err, record.ErrTooLarge) || !errors.Is(err, record.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Row(nil, []byte(`{"x":[{},{"y":"z"}]}`)); err != nil {
		t.Error(err)
	}
	// It stops as soon as the row has outgrown its limit.
	big := mustParse(t, `{"fields":[{"name":"x","type":"ARRAY","element":{"type":"STRUCT","fields":[{"name":"y","type":"STRING","nullable":false,"default":"`+strings.Repeat("d", 30_000)+`"}]}}]}`)
	c2, err := CompileJSONToAvro(big, JSONOptions{MaxRowBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	bomb := []byte(`{"x":[{}` + strings.Repeat(",{}", 300) + `]}`)
	var w rowWriter
	var ref jsonReference
	w.begin(nil, 1000)
	if err := ref.row(&w, c2.root, bomb, false); !errors.Is(err, record.ErrTooLarge) || cap(w.dst) > 100_000 {
		t.Errorf("reference: %d bytes, %v", cap(w.dst), err)
	}
	w.begin(nil, 1000)
	if new(jsonScan).row(&w, c2.root, bomb, false) || cap(w.dst) > 100_000 {
		t.Errorf("scanner: %d bytes", cap(w.dst))
	}
	// Arrays whose count needs more than one byte.
	for _, n := range []int{63, 64, 65, 300, 9000} {
		in := `{"x":[` + strings.TrimSuffix(strings.Repeat("1,", n), ",") + `]}`
		if got, err := roundTrip(t, oneField(t, `"type":"ARRAY","element":{"type":"LONG"}`), in); err != nil || got != in {
			t.Errorf("%d elements: %v", n, err)
		}
	}
	wide := make([]string, 0, 40)
	for i := range 40 {
		wide = append(wide, fmt.Sprintf(`"k%d":%d`, i, i))
	}
	in := `{"x":{` + strings.Join(wide, ",") + `}}`
	if got, err := roundTrip(t, oneField(t, `"type":"MAP","value":{"type":"LONG"}`), in); err != nil || got != in {
		t.Errorf("a map of 40: %s, %v", got, err)
	}
}

// TestQuakes: the fast scanner reads the whole sample, as the reference does.
func TestQuakes(t *testing.T) {
	t.Parallel()
	s := mustParse(t, quakeSchema)
	c, err := CompileJSONToAvro(s, JSONOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := CompileAvroToJSON(s, s, JSONOutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range quakes(t) {
		fast, ok := scanRow(c, row)
		if !ok {
			t.Fatalf("row %d is not for the scanner: %s", i, row)
		}
		slow, err := c.slowRow(nil, row)
		if err != nil || !bytes.Equal(fast, slow) {
			t.Fatalf("row %d: %x or %x, %v", i, fast, slow, err)
		}
		text, err := out.Row(nil, fast)
		if err != nil {
			t.Fatal(err)
		}
		// Whole seconds lose their zeros.
		want := strings.ReplaceAll(string(row), ".000Z", "Z")
		if diff := cmp.Diff(want, string(text)); diff != "" {
			t.Fatal(diff)
		}
	}
}

// scanRow converts with the scanner alone.
func scanRow(c *JSONToAvro, src []byte) ([]byte, bool) {
	r := c.pool.Get().(*jsonRow)
	defer c.pool.Put(r)
	r.begin(nil, c.options.MaxRowBytes)
	ok := r.fast.row(&r.rowWriter, c.root, src, c.options.UnknownFields == Ignore)
	return r.take(), ok
}

// FuzzJSONRow: what the scanner accepts the reference accepts, with the same
// result; a row that was accepted comes back as one that gives the same datum.
func FuzzJSONRow(f *testing.F) {
	s := mustParse(f, sample)
	for _, seed := range []string{
		`{"id":"a","l":1}`, `{"l":"12","id":"ä","flag":null,"price":"1.50","raw":"AQI=","day":"2020-01-31","at":"2020-01-31T00:00:00.5+01:00"}`,
		`{"id":"","b":-128,"s":1.0,"i":1e2,"f":1.5,"d":-0.0,"tags":["a",null],"attrs":{"k":1},"place":{"lon":1,"marks":[{"x":1},{"y":null}]}}`,
		`{ "id" : "\u0041" , "u" : [ { } ] , "at" : 1517363399650.5, "day": -5 }`,
		`{"u":1,"u":2,"id":"x"}`, "{\"id\":\"\xff\"}", `{"id":"x","price":12345678.901}`, `{"id":"x","attrs":{"a":1,"a":2}}`,
		`{"id":"x","d":1e308,"f":3.4028236e38}`, `{"place":{"lat":1},"id":"x"}`,
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	programs := map[bool]*JSONToAvro{}
	for _, ignore := range []bool{false, true} {
		o := JSONOptions{MaxRowBytes: 64 << 10}
		if ignore {
			o.UnknownFields = Ignore
		}
		c, err := CompileJSONToAvro(s, o)
		if err != nil {
			f.Fatal(err)
		}
		programs[ignore] = c
	}
	out, err := CompileAvroToJSON(s, s, JSONOutOptions{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, row []byte, ignore bool) {
		c := programs[ignore]
		fast, ok := scanRow(c, row)
		slow, err := c.slowRow(nil, row)
		if ok && (err != nil || !bytes.Equal(fast, slow)) {
			t.Fatalf("scanner %x, reference %x, %v", fast, slow, err)
		}
		var got []byte
		var rowErr error
		recordtest.Bounded(t, 64<<10+128*len(row), func() { got, rowErr = c.Row(nil, row) })
		if len(row) <= c.options.MaxRowBytes && (rowErr == nil) != (err == nil) {
			t.Fatalf("row: %v, reference: %v", rowErr, err)
		}
		if rowErr != nil {
			var e *RowError
			if !errors.As(rowErr, &e) || e.Code == "" || len(e.Error()) > 2*maxPathBytes {
				t.Fatalf("error %v", rowErr)
			}
			return
		}
		text, err := out.Row(nil, got)
		if err != nil {
			t.Fatalf("%x: %v", got, err)
		}
		again, err := c.Row(nil, text)
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("%s: %x, %v; want %x", text, again, err, got)
		}
	})
}
