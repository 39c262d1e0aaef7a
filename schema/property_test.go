package schema_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/avro"
	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/schematest"
)

// TestSchemaForms: neither our JSON form nor the .avsc loses anything, and
// others accept the .avsc.
func TestSchemaForms(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := schematest.Schema(4).Draw(t, "schema")
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := schema.ParseAny(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if diff := cmp.Diff(s, again); diff != "" {
			t.Fatal(diff)
		}
		avsc := s.Avro()
		if _, err := avro.Parse(avsc); err != nil {
			t.Fatalf("%s: %v", avsc, err)
		}
		if again, err = schema.ParseAny([]byte(avsc)); err != nil {
			t.Fatalf("%s: %v", avsc, err)
		}
		if diff := cmp.Diff(s, again); diff != "" {
			t.Fatal(avsc, diff)
		}
	})
}

// TestRows: JSON → Avro → JSON gives what an independent encoder does, for any
// way to write the row; and another Avro library reads our data and writes the
// same.
func TestRows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := schematest.Schema(4).Draw(t, "schema")
		toAvro, err := schema.CompileJSONToAvro(s, schema.JSONOptions{})
		if err != nil {
			t.Fatal(err)
		}
		toJSON, err := schema.CompileAvroToJSON(s, s, schema.JSONOutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		asText, err := schema.CompileAvroToJSON(s, s, schema.JSONOutOptions{NumbersAsText: true})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			row := schematest.Rows(s).Draw(t, "row")
			for _, text := range [][]byte{row.JSON, row.Loose} {
				datum, err := toAvro.Row([]byte("x"), text)
				if err != nil {
					t.Fatalf("%s: %v", text, err)
				}
				if diff := cmp.Diff(row.Avro, datum[1:]); diff != "" {
					t.Fatal(string(text), diff)
				}
			}
			text, err := toJSON.Row([]byte("x"), row.Avro)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(row.JSON), string(text[1:])); diff != "" {
				t.Fatal(diff)
			}
			if text, err = asText.Row(nil, row.Avro); err != nil {
				t.Fatal(err)
			}
			if datum, err := toAvro.Row(nil, text); err != nil || !cmp.Equal(datum, row.Avro) {
				t.Fatalf("%s: %v, want %x", text, err, row.Avro)
			}
			otherReads(t, s, row.Avro)
		}
	})
}

// otherReads has twmb/avro decode a datum and encode it again.
func otherReads(t *rapid.T, s *schema.Schema, datum []byte) {
	other, err := avro.Parse(s.Avro())
	if err != nil {
		t.Fatal(err)
	}
	var v any
	rest, err := other.Decode(datum, &v)
	if err != nil || len(rest) > 0 {
		t.Fatalf("%x: %v, %d bytes left", datum, err, len(rest))
	}
	again, err := other.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	// Maps come back in any order; read both to compare.
	var w any
	if _, err := other.Decode(again, &w); err != nil || len(again) != len(datum) {
		t.Fatalf("%x became %x: %v", datum, again, err)
	}
	toJSON, err := schema.CompileAvroToJSON(s, s, schema.JSONOutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := toJSON.Row(nil, again); err != nil {
		t.Fatalf("%x as others write it: %v", again, err)
	}
}
