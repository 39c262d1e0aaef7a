package schema_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/schematest"
)

// TestEvolvedRows: after any allowed changes, at any depth, old rows read with
// the values they had, in the fields that are still there.
func TestEvolvedRows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		old := schematest.Schema(4).Draw(t, "schema")
		proposed := old.Clone()
		added := 0
		proposed.Fields = change(t, proposed.Fields, &added)
		if proposed.Validate() != nil {
			t.Skip("a renamed field collides")
		}
		next := old.MaxID() + 5
		evolved, after, err := schema.Evolve(old, proposed, next)
		if err != nil {
			t.Fatal(err)
		}
		if added > 0 && evolved.MaxID() < next || after <= evolved.MaxID() {
			t.Fatalf("ids up to %d, next %d; %d added from %d", evolved.MaxID(), after, added, next)
		}
		read, err := schema.CompileAvroToJSON(old, evolved, schema.JSONOutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		row := schematest.Rows(old).Draw(t, "row")
		got, err := read.Row(nil, row.Avro)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "", old.Fields, evolved.Fields, object(t, row.JSON), object(t, got))
		// The row is one of the new schema, too.
		write, err := schema.CompileJSONToAvro(evolved, schema.JSONOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := write.Row(nil, got); err != nil {
			t.Fatal(err)
		}
	})
}

// change applies random allowed changes to the fields of one struct.
func change(t *rapid.T, fields []schema.Field, added *int) []schema.Field {
	var out []schema.Field
	for _, f := range rapid.Permutation(fields).Draw(t, "order") {
		switch rapid.IntRange(0, 5).Draw(t, "change") {
		case 0:
			continue // dropped
		case 1:
			f.Name += "_renamed"
		case 2:
			f.Nullable = true
		case 3:
			if f.Default == nil {
				f.Type = widen(f.Type)
			}
		}
		changeParts(t, &f, added)
		out = append(out, f)
	}
	if len(out) == 0 || rapid.Bool().Draw(t, "add") {
		*added++
		out = append(out, schema.Field{Name: fmt.Sprint("added", *added), Type: schema.Type{Kind: schema.Timestamp}, Nullable: true, Default: json.RawMessage(`"2020-01-01T00:00:00Z"`)})
	}
	return out
}

func changeParts(t *rapid.T, f *schema.Field, added *int) {
	if f.Default != nil {
		return // a changed struct would not fit its default
	}
	switch f.Type.Kind {
	case schema.Array:
		changeParts(t, f.Type.Element, added)
	case schema.Map:
		changeParts(t, f.Type.Value, added)
	case schema.Struct:
		f.Type.Fields = change(t, f.Type.Fields, added)
	}
}

func widen(t schema.Type) schema.Type {
	switch t.Kind {
	case schema.Byte, schema.Short, schema.Integer:
		t.Kind++
	case schema.Decimal:
		t.Precision = schema.MaxPrecision
	}
	return t
}

func object(t *rapid.T, text []byte) map[string]json.RawMessage {
	m := map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return m
}

// same compares what old and new schema have in common, by id.
func same(t *rapid.T, path string, old, next []schema.Field, was, is map[string]json.RawMessage) {
	if len(is) != len(next) {
		t.Fatalf("%q has %d fields, want %d", path, len(is), len(next))
	}
	for i := range next {
		n := &next[i]
		p := path + "." + n.Name
		var o *schema.Field
		for j := range old {
			if old[j].ID == n.ID {
				o = &old[j]
			}
		}
		if o == nil {
			if string(is[n.Name]) != `"2020-01-01T00:00:00Z"` {
				t.Fatalf("%q is new and %s", p, is[n.Name])
			}
			continue
		}
		sameValue(t, p, o, n, was[o.Name], is[n.Name])
	}
}

func sameValue(t *rapid.T, path string, o, n *schema.Field, was, is json.RawMessage) {
	if string(was) == "null" || !o.Type.Kind.Nested() {
		if !bytes.Equal(was, is) {
			t.Fatalf("%q was %s and is %s", path, was, is)
		}
		return
	}
	switch o.Type.Kind {
	case schema.Struct:
		same(t, path, o.Type.Fields, n.Type.Fields, object(t, was), object(t, is))
	case schema.Map:
		a, b := object(t, was), object(t, is)
		for k := range a {
			sameValue(t, path+".value", o.Type.Value, n.Type.Value, a[k], b[k])
		}
	case schema.Array:
		var a, b []json.RawMessage
		if json.Unmarshal(was, &a) != nil || json.Unmarshal(is, &b) != nil || len(a) != len(b) {
			t.Fatalf("%q was %s and is %s", path, was, is)
		}
		for i := range a {
			sameValue(t, path+".element", o.Type.Element, n.Type.Element, a[i], b[i])
		}
	}
}
