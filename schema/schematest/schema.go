// Package schematest generates random schemas and rows for property tests of
// packages that handle rows. It writes rows with the standard library, not with
// the codecs of package schema, so that it can judge them.
package schematest

import (
	"fmt"

	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/schema"
)

// Schema generates valid schemas of up to 8 columns with ids, nested up to
// depth levels (1: flat), with names of all sorts.
func Schema(depth int) *rapid.Generator[*schema.Schema] {
	return rapid.Custom(func(t *rapid.T) *schema.Schema {
		s := &schema.Schema{Fields: fields(t, depth, 8)}
		s, _ = s.AssignIDs(0)
		return s
	}).Filter(func(s *schema.Schema) bool { return s.Validate() == nil })
}

var names = rapid.OneOf(
	rapid.StringMatching(`[a-z][a-z0-9_]{0,8}`),
	rapid.SampledFrom([]string{"id", "time", "Großer Name", "a-b", "a_x2Db", "x.y", "0", "9lives", "名前", "emoji 🌡", "quote\"d", "back\\slash", "$", "_", "element", "value"}),
)

func fields(t *rapid.T, depth, most int) []schema.Field {
	n := rapid.IntRange(1, most).Draw(t, "fields")
	out := make([]schema.Field, n)
	for i := range out {
		out[i] = field(t, depth)
		// Almost always unique; Schema discards the rest.
		out[i].Name = names.Draw(t, "name")
		if i > 0 && rapid.IntRange(0, 3).Draw(t, "number it") > 0 {
			out[i].Name += fmt.Sprint(i)
		}
		out[i].Doc = rapid.SampledFrom([]string{"", "a doc", "with \"quotes\"\n"}).Draw(t, "doc")
		if rapid.IntRange(0, 9).Draw(t, "metadata") == 0 {
			out[i].Metadata = map[string]string{"unit": "m/s", "a.b": ""}
		}
		if rapid.IntRange(0, 4).Draw(t, "default") == 0 {
			if v := value(t, &out[i]); v.v != nil {
				out[i].Default = v.json(nil)
			}
		}
	}
	return out
}

func field(t *rapid.T, depth int) schema.Field {
	last := schema.Struct
	if depth <= 1 {
		last = schema.Timestamp
	}
	f := schema.Field{Nullable: rapid.Bool().Draw(t, "nullable")}
	f.Type.Kind = schema.Kind(rapid.IntRange(int(schema.Boolean), int(last)).Draw(t, "kind"))
	switch f.Type.Kind {
	case schema.Decimal:
		f.Type.Precision = rapid.IntRange(1, schema.MaxPrecision).Draw(t, "precision")
		f.Type.Scale = rapid.IntRange(0, f.Type.Precision).Draw(t, "scale")
	case schema.Array:
		e := field(t, depth-1)
		e.Name = "element"
		f.Type.Element = &e
	case schema.Map:
		v := field(t, depth-1)
		v.Name = "value"
		f.Type.Value = &v
	case schema.Struct:
		f.Type.Fields = fields(t, depth-1, 4)
	}
	return f
}
