package schema

import (
	"bytes"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/twmb/avro"

	"github.com/thermocline/thermocline/record"
)

const foreignSchema = `{"type":"record","name":"anyone","namespace":"x","fields":[
 {"name":"a","type":["string","null"]},
 {"name":"e","type":{"type":"enum","name":"color","symbols":["RED","GREEN"]}},
 {"name":"f","type":["null",{"type":"fixed","name":"two","size":2}]},
 {"name":"d","type":{"type":"fixed","name":"dec","size":5,"logicalType":"decimal","precision":9,"scale":2}},
 {"name":"ms","type":[{"type":"long","logicalType":"timestamp-millis"},"null"]},
 {"name":"ns","type":{"type":"long","logicalType":"timestamp-nanos"}},
 {"name":"us","type":{"type":"long","logicalType":"timestamp-micros"}},
 {"name":"one","type":["int"]},
 {"name":"l","type":{"type":"array","items":["double","null"]}},
 {"name":"m","type":{"type":"map","values":{"type":"record","name":"in","fields":[{"name":"c","type":"color"},{"name":"day","type":{"type":"int","logicalType":"date"}}]}}}]}`

func foreignRow(t testing.TB, edit map[string]any) []byte {
	t.Helper()
	at := time.Date(2020, 1, 31, 12, 0, 0, 123_000_000, time.UTC)
	row := map[string]any{
		"a": "ä", "e": "GREEN", "f": [2]byte{1, 2}, "d": big.NewRat(-12345, 100), "ms": at, "ns": at, "us": at.Add(time.Microsecond), "one": 7,
		"l": []any{1.5, nil}, "m": map[string]any{"k": map[string]any{"c": "RED", "day": at}},
	}
	for k, v := range edit {
		row[k] = v
	}
	b, err := avro.MustParse(foreignSchema).Encode(row)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestForeignAvro reads what another library wrote with a schema that is far
// from ours.
func TestForeignAvro(t *testing.T) {
	t.Parallel()
	p, err := CompileForeignAvro([]byte(foreignSchema))
	if err != nil {
		t.Fatal(err)
	}
	out, err := CompileAvroToJSON(p.Schema(), p.Schema(), JSONOutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	block := append(foreignRow(t, nil), foreignRow(t, map[string]any{"a": nil, "f": nil, "ms": nil, "l": []any{}, "m": map[string]any{}})...)
	block = append(block, foreignRow(t, map[string]any{"ns": time.Unix(0, 1)})...)
	block = append(block, foreignRow(t, nil)...)
	first := `{"a":"ä","e":"GREEN","f":"AQI=","d":-123.45,"ms":"2020-01-31T12:00:00.123Z","ns":"2020-01-31T12:00:00.123Z","us":"2020-01-31T12:00:00.123001Z","one":7,"l":[1.5,null],"m":{"k":{"c":"RED","day":"2020-01-31"}}}`
	var buf []byte
	for _, want := range []string{
		first,
		`{"a":null,"e":"GREEN","f":null,"d":-123.45,"ms":null,"ns":"2020-01-31T12:00:00.123Z","us":"2020-01-31T12:00:00.123001Z","one":7,"l":[],"m":{}}`,
		"", // nanoseconds: refused, and the rows after it are good
		first,
	} {
		var datum []byte
		datum, buf, block, err = p.Next(buf, block)
		if want == "" {
			var e *RowError
			if !errors.As(err, &e) || e.Code != CodeLossy || e.Path != "ns" {
				t.Errorf("a nanosecond: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, err := out.Row(nil, datum); err != nil || string(text) != want {
			t.Errorf("%s, %v; want %s", text, err, want)
		}
	}
	if len(block) > 0 {
		t.Errorf("%d bytes left", len(block))
	}
	whole := foreignRow(t, nil)
	for n := range whole {
		if _, _, _, err := p.Next(nil, whole[:n]); !errors.Is(err, record.ErrInvalid) {
			t.Errorf("%d bytes of %d: %v", n, len(whole), err)
		}
	}
}

// TestForeignAvroAsIs: data that have our form are not copied.
func TestForeignAvroAsIs(t *testing.T) {
	t.Parallel()
	s := mustParse(t, sample)
	p, err := CompileForeignAvro([]byte(s.Avro()))
	if err != nil {
		t.Fatal(err)
	}
	in, _ := CompileJSONToAvro(s, JSONOptions{})
	one, err := in.Row(nil, []byte(`{"id":"a","place":{"lon":1,"marks":[{"x":1}]},"attrs":{"k":2}}`))
	if err != nil {
		t.Fatal(err)
	}
	datum, _, rest, err := p.Next(nil, append(bytes.Clone(one), one...))
	if err != nil || !bytes.Equal(datum, one) || !bytes.Equal(rest, one) {
		t.Errorf("%x, rest %x, %v; want %x twice", datum, rest, err, one)
	}
}

// FuzzForeignAvro: any block ends in an error or in data that others can read.
func FuzzForeignAvro(f *testing.F) {
	f.Add(foreignRow(f, nil))
	f.Add(append(foreignRow(f, map[string]any{"a": nil}), foreignRow(f, nil)...))
	p, err := CompileForeignAvro([]byte(foreignSchema))
	if err != nil {
		f.Fatal(err)
	}
	out, err := CompileAvroToJSON(p.Schema(), p.Schema(), JSONOutOptions{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, block []byte) {
		var buf []byte
		for len(block) > 0 {
			datum, grown, rest, err := p.Next(buf, block)
			if err == nil {
				if _, err := out.Row(nil, datum); err != nil && !errors.Is(err, record.ErrCorrupt) {
					t.Fatal(err)
				}
			}
			if len(rest) >= len(block) {
				t.Fatalf("no progress at %x", block)
			}
			buf, block = grown, rest
		}
	})
}
