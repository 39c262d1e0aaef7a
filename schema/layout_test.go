package schema_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

func layoutSchema() *schema.Schema {
	s := &schema.Schema{Fields: []schema.Field{
		{Name: "user", Type: schema.Type{Kind: schema.String}},
		{Name: "ts", Type: schema.Type{Kind: schema.Timestamp}, Nullable: true},
		{Name: "day", Type: schema.Type{Kind: schema.Date}},
		{Name: "x", Type: schema.Type{Kind: schema.Double}},
		{Name: "ok", Type: schema.Type{Kind: schema.Boolean}},
		{Name: "whole", Type: schema.Type{Kind: schema.Decimal, Precision: 18}},
		{Name: "at", Nullable: true, Type: schema.Type{Kind: schema.Struct, Fields: []schema.Field{{Name: "zone", Type: schema.Type{Kind: schema.Long}}}}},
		{Name: "tags", Type: schema.Type{Kind: schema.Array, Element: &schema.Field{Name: "element", Type: schema.Type{Kind: schema.String}}}},
	}}
	s, _ = s.FreshIDs(100)
	return s
}

func TestCompileLayout(t *testing.T) {
	t.Parallel()
	s := layoutSchema()
	l, err := schema.CompileLayout(s,
		[]string{"day(ts)", " Bucket[16]( user )", "truncate[10](at.zone)", "day", "hour(_timestamp)"},
		[]string{"user", "ts desc", "x asc nulls last", "at.zone DESC NULLS FIRST"}, []string{"user", "at.zone"})
	if err != nil {
		t.Fatal(err)
	}
	id := func(path string) string {
		f, _, ok := s.WithSystem().Lookup(path)
		if !ok {
			t.Fatal(path)
		}
		return strconv.Itoa(f.ID)
	}
	want := "day(" + id("ts") + ");bucket[16](" + id("user") + ");truncate[10](" + id("at.zone") + ");identity(" + id("day") + ");hour(" + id("_timestamp") + ");|" +
		id("user") + " asc nulls first;" + id("ts") + " desc nulls last;" + id("x") + " asc nulls last;" + id("at.zone") + " desc nulls first;|" +
		id("user") + ";" + id("at.zone") + ";"
	if diff := cmp.Diff(want, l.String()); diff != "" {
		t.Error(diff)
	}
	none, err := schema.CompileLayout(s, nil, nil, nil)
	if err != nil || !none.IsPlain() || none.String() != (&schema.Layout{}).String() {
		t.Errorf("no layout: %v, %v", none, err)
	}
}

func TestCompileLayoutRefuses(t *testing.T) {
	t.Parallel()
	s := layoutSchema()
	for _, c := range []struct {
		part, sort, bloom string
		says              string
	}{
		{part: "days(ts)", says: "no such transform"},
		{part: "day(ts", says: "parentheses"},
		{part: "day()", says: "parentheses"},
		{part: " ", says: "empty"},
		{part: "bucket(user)", says: "width from 1 to 10000"},
		{part: "bucket[0](user)", says: "width"},
		{part: "bucket[16(user)", says: "width"},
		{part: "bucket[10001](user)", says: "width"},
		{part: "day[3](ts)", says: "has no width"},
		{part: "day(user)", says: "day does not take STRING"},
		{part: "hour(day)", says: "hour does not take DATE"},
		{part: "x", says: "identity does not take DOUBLE"},
		{part: "bucket[4](ok)", says: "bucket does not take BOOLEAN"},
		{part: "truncate[4](ts)", says: "truncate does not take TIMESTAMP"},
		{part: "truncate[10](whole)", says: "use bucket[N](whole)"},
		{part: "nope", says: "there is no column"},
		{part: "_offset", says: "or name _timestamp"},
		{part: "at", says: "is STRUCT"},
		{part: "tags.element", says: "lies in the ARRAY"},
		{part: "day(ts);hour(ts)", says: "redundant"},
		{part: "user;identity(user)", says: "twice"},
		{sort: "user;user desc", says: "twice"},
		{sort: "user upwards", says: "one column"},
		{sort: "user nulls", says: "one column"},
		{sort: "user nulls middle", says: "first or last"},
		{sort: " ", says: "one column"},
		{sort: "at", says: "is STRUCT"},
		{bloom: "ok", says: "no Bloom filters"},
		{bloom: "user;user", says: "twice"},
		{bloom: " ", says: "empty"},
		{bloom: strings.Repeat("a;", 16) + "a", says: "at most 16"},
	} {
		list := func(text string) []string {
			if text == "" {
				return nil
			}
			return strings.Split(text, ";")
		}
		_, err := schema.CompileLayout(s, list(c.part), list(c.sort), list(c.bloom))
		if !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
