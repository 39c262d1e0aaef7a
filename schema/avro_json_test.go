package schema

import (
	"errors"
	"strings"
	"testing"

	"github.com/thermocline/thermocline/record"
)

func TestNumbersAsText(t *testing.T) {
	t.Parallel()
	s := mustParse(t, `{"fields":[{"name":"a","type":"LONG"},{"name":"b","type":"LONG"},{"name":"c","type":"LONG"},{"name":"d","type":"DECIMAL","precision":3,"scale":1},{"name":"e","type":"INTEGER"}]}`)
	in, _ := CompileJSONToAvro(s, JSONOptions{})
	out, _ := CompileAvroToJSON(s, s, JSONOutOptions{NumbersAsText: true})
	datum, err := in.Row(nil, []byte(`{"a":9007199254740992,"b":9007199254740993,"c":-9007199254740993,"d":1,"e":5}`))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"a":9007199254740992,"b":"9007199254740993","c":"-9007199254740993","d":"1.0","e":5}`
	if got, err := out.Row(nil, datum); err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
}

// TestProjectedRows reads parts of a struct, in another order.
func TestProjectedRows(t *testing.T) {
	t.Parallel()
	s, _ := mustParse(t, quakeSchema).AssignIDs(0)
	p, err := s.Project([]string{"sources", "location.depth_km", "location.longitude", "id"})
	if err != nil {
		t.Fatal(err)
	}
	in, _ := CompileJSONToAvro(s, JSONOptions{})
	out, err := CompileAvroToJSON(s, p, JSONOutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	datum, err := in.Row(nil, quakes(t)[0])
	if err != nil {
		t.Fatal(err)
	}
	want := `{"sources":["uw"],"location":{"depth_km":3.28,"longitude":-122.197},"id":"uw61345682"}`
	if got, err := out.Row(nil, datum); err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	// Every cut of the row is damage, wherever it falls.
	for n := range datum {
		if got, err := out.Row([]byte("x"), datum[:n]); !errors.Is(err, record.ErrCorrupt) || string(got) != "x" {
			t.Errorf("%d bytes of %d: %s, %v", n, len(datum), got, err)
		}
	}
	if _, err := out.Row(nil, append(datum, 0)); !errors.Is(err, record.ErrCorrupt) {
		t.Errorf("a byte too many: %v", err)
	}
}

// TestDamagedRows: the error names the field; nothing is allocated for what
// the row only claims.
func TestDamagedRows(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ field, datum, place string }{
		{`"type":"BOOLEAN","nullable":false`, "\x02", "x"}, {`"type":"BOOLEAN"`, "\x04\x00", "x"}, {`"type":"BYTE","nullable":false`, "\x80\x02", "x"},
		{`"type":"INTEGER","nullable":false`, "\xff\xff\xff\xff\xff\x01", "x"}, {`"type":"LONG","nullable":false`, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "x"},
		{`"type":"FLOAT","nullable":false`, "\x00\x00\x80\x7f", "x"}, {`"type":"DOUBLE","nullable":false`, "\x00\x00\x00\x00\x00\x00\xf8\x7f", "x"},
		{`"type":"STRING","nullable":false`, "\x02\xff", "x"}, {`"type":"STRING","nullable":false`, "\xfe\xff\xff\xff\x0fa", "x"}, {`"type":"STRING","nullable":false`, "\x01", "x"},
		{`"type":"DECIMAL","precision":2,"nullable":false`, "\x02\x64", "x"}, {`"type":"DECIMAL","precision":2,"nullable":false`, "\x00", "x"},
		{`"type":"ARRAY","nullable":false,"element":{"type":"BOOLEAN","nullable":false}`, "\xfe\xff\xff\xff\x0f\x00", "x"},
		{`"type":"ARRAY","nullable":false,"element":{"type":"BOOLEAN","nullable":false}`, "\x01\x08\x00\x00", "x"},
		{`"type":"ARRAY","nullable":false,"element":{"type":"BOOLEAN","nullable":false}`, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02\x00\x00", "x"},
		{`"type":"STRUCT","nullable":false,"fields":[{"name":"y","type":"DATE","nullable":false}]`, "\x80\x80\x80\x80\x80\x01", "x.y"},
	} {
		s := oneField(t, c.field)
		out, err := CompileAvroToJSON(s, s, JSONOutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := out.Row(nil, []byte(c.datum))
		if !errors.Is(err, record.ErrCorrupt) || !strings.Contains(err.Error(), `"`+c.place+`"`) {
			t.Errorf("%s %x: %s, %v", c.field, c.datum, got, err)
		}
	}
}

// TestBlockLimits: a count that the bytes cannot hold is refused before anyone
// allocates for it.
func TestBlockLimits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		bytes             string
		count, size, next int
	}{
		{"\x00", 0, -1, 1}, {"\x04ab", 2, -1, 1}, {"\x03\x04ab", 2, 2, 2},
		{"\x06ab", 0, 0, bad}, {"\x03\x06ab", 0, 0, bad}, {"\x03\x01ab", 0, 0, bad}, {"", 0, 0, bad}, {"\x03", 0, 0, bad},
		{"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", 0, 0, bad}, {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00", 0, 0, bad},
	} {
		if count, size, next := readBlock([]byte(c.bytes), 0); count != c.count || size != c.size || next != c.next {
			t.Errorf("%x: %d, %d, %d", c.bytes, count, size, next)
		}
	}
}

func TestHeader(t *testing.T) {
	t.Parallel()
	b := append(AppendHeader(nil, 0x01020304), "datum"...)
	if string(b) != "\x00\x01\x02\x03\x04datum" {
		t.Errorf("%x", b)
	}
	id, datum, err := SplitHeader(b)
	if id != 0x01020304 || string(datum) != "datum" || err != nil {
		t.Error(id, datum, err)
	}
	for _, bad := range []string{"", "\x00\x00\x00\x00", "\x01\x00\x00\x00\x05x"} {
		if _, _, err := SplitHeader([]byte(bad)); !errors.Is(err, record.ErrCorrupt) {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

// FuzzAvroRow: any bytes are a row or an error, for every program; a row that
// reads gives JSON that reads.
func FuzzAvroRow(f *testing.F) {
	s, next := mustParse(f, sample).AssignIDs(0)
	reader := s.Clone()
	reader.Fields[4].Type.Kind = Long
	reader.Fields = append(reader.Fields[3:], Field{Name: "new", Type: Type{Kind: Long}, Default: []byte("3")}, reader.Fields[1], reader.Fields[0])
	reader, _ = reader.AssignIDs(next)
	in, err := CompileJSONToAvro(s, JSONOptions{})
	if err != nil {
		f.Fatal(err)
	}
	back, err := CompileJSONToAvro(reader, JSONOptions{MaxRowBytes: maxJSONRow})
	if err != nil {
		f.Fatal(err)
	}
	for _, row := range []string{`{"id":"a"}`, `{"id":"b","b":1,"s":2,"i":3,"l":4,"f":1.5,"d":2.5,"price":1,"raw":"AQI=","day":5,"at":6,"tags":["x",null],"attrs":{"k":1},"place":{"lon":1,"marks":[{"x":1},null]}}`} {
		d, err := in.Row(nil, []byte(row))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(d)
	}
	same, err := CompileAvroToJSON(s, s, JSONOutOptions{})
	if err != nil {
		f.Fatal(err)
	}
	later, err := CompileAvroToJSON(s, reader, JSONOutOptions{NumbersAsText: true})
	if err != nil {
		f.Fatal(err)
	}
	key, err := CompileKey(s, []string{"place.lat", "id", "at"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, datum []byte) {
		_, err := same.Row(nil, datum)
		text, laterErr := later.Row(nil, datum)
		_, keyErr := key.Append(nil, datum)
		if err == nil && (laterErr != nil || keyErr != nil) {
			t.Fatalf("reads as written, but %v, %v", laterErr, keyErr)
		}
		if err != nil && !errors.Is(err, record.ErrCorrupt) {
			t.Fatal(err)
		}
		if laterErr != nil {
			return
		}
		// Others can have stored a key twice, or times beyond the year 9999.
		if _, err := back.Row(nil, text); err != nil && !isForeign(err) {
			t.Fatalf("%s: %v", text, err)
		}
	})
}

func isForeign(err error) bool {
	var e *RowError
	return errors.As(err, &e) && (e.Code == CodeDuplicateField || e.Code == CodeWrongType || e.Code == CodeOutOfRange || e.Code == CodeLossy) &&
		(e.Code == CodeDuplicateField || e.Path == "at" || e.Path == "day")
}

func BenchmarkAvroToJSON(b *testing.B) {
	for _, c := range []struct {
		name, schema string
		rows         [][]byte
	}{{"quakes", quakeSchema, quakes(b)}, {"flights", flightSchema, [][]byte{[]byte(flightRow)}}} {
		s := mustParse(b, c.schema)
		in, _ := CompileJSONToAvro(s, JSONOptions{})
		out, _ := CompileAvroToJSON(s, s, JSONOutOptions{})
		key, _ := CompileKey(s, []string{s.Fields[len(s.Fields)-2].Name})
		var data [][]byte
		size := 0
		for _, r := range c.rows {
			d, err := in.Row(nil, r)
			if err != nil {
				b.Fatal(err)
			}
			data = append(data, d)
			size += len(r)
		}
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(size / len(data)))
			var dst []byte
			for i := range b.N {
				dst, _ = out.Row(dst[:0], data[i%len(data)])
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
		b.Run(c.name+"/key", func(b *testing.B) {
			b.ReportAllocs()
			var dst []byte
			for i := range b.N {
				dst, _ = key.Append(dst[:0], data[i%len(data)])
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
