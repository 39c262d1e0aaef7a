package schema

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/thermocline/thermocline/record"
)

const keySchema = `{"fields":[{"name":"a","type":"LONG","nullable":false},{"name":"m","type":"MAP","value":{"type":"STRING"}},
 {"name":"s","type":"STRUCT","fields":[{"name":"x","type":"STRING","nullable":false},{"name":"l","type":"ARRAY","element":{"type":"LONG"}},{"name":"y","type":"DATE"},{"name":"rest","type":"STRING"}]},
 {"name":"b","type":"STRING"},{"name":"tail","type":"DOUBLE"}]}`

func TestKey(t *testing.T) {
	t.Parallel()
	s := mustParse(t, keySchema)
	in, _ := CompileJSONToAvro(s, JSONOptions{})
	row := func(text string) []byte {
		d, err := in.Row(nil, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	full := row(`{"a":5,"m":{"k":"v"},"s":{"x":"deep","l":[1,2],"y":"2020-01-31","rest":"r"},"b":"bee","tail":1.5}`)
	empty := row(`{"a":5}`)
	for _, c := range []struct{ fields, full, empty string }{
		{"", `{}`, `{}`}, {"a", `{"a":5}`, `{"a":5}`}, {"b,a", `{"b":"bee","a":5}`, `{"b":null,"a":5}`},
		{"s.y,b,s.x,a", `{"s.y":"2020-01-31","b":"bee","s.x":"deep","a":5}`, `{"s.y":null,"b":null,"s.x":null,"a":5}`},
		{"s.x", `{"s.x":"deep"}`, `{"s.x":null}`}, {"tail,s.rest", `{"tail":1.5,"s.rest":"r"}`, `{"tail":null,"s.rest":null}`},
	} {
		var fields []string
		if c.fields != "" {
			fields = strings.Split(c.fields, ",")
		}
		k, err := CompileKey(s, fields)
		if err != nil {
			t.Fatal(err)
		}
		if k.String() != c.fields {
			t.Errorf("key %q is called %q", c.fields, k)
		}
		if c.fields == "" {
			continue
		}
		out, err := CompileAvroToJSON(k.Schema(), k.Schema(), JSONOutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for datum, want := range map[*[]byte]string{&full: c.full, &empty: c.empty} {
			key, err := k.Append([]byte("x"), *datum)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := out.Row(nil, key[1:]); err != nil || string(got) != want {
				t.Errorf("key %s: %s, %v; want %s", c.fields, got, err, want)
			}
		}
		for n := range full {
			if key, err := k.Append(nil, full[:n]); err != nil && !errors.Is(err, record.ErrCorrupt) {
				t.Errorf("%x: %v", key, err)
			}
		}
	}
	k, _ := CompileKey(s, []string{"b"})
	if _, err := k.Append(nil, full[:len(full)-20]); !errors.Is(err, record.ErrCorrupt) {
		t.Errorf("a cut row: %v", err)
	}
	one, _ := k.Append(nil, full)
	two, _ := k.Append(nil, row(`{"a":6,"b":"bee"}`))
	if !bytes.Equal(one, two) {
		t.Errorf("equal key fields, keys %x and %x", one, two)
	}
}

func TestKeyRefuses(t *testing.T) {
	t.Parallel()
	s := mustParse(t, keySchema)
	for _, c := range []struct{ fields, want string }{
		{"nope", "does not exist"}, {"a,a", "twice"}, {"s", "cannot be a key"}, {"m", "cannot be a key"}, {"m.value", "lies in the MAP"}, {"s.l.element", "lies in the ARRAY"},
		{strings.Repeat("a,", 16) + "a", "the limit is 16"},
	} {
		if _, err := CompileKey(s, strings.Split(c.fields, ",")); !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.fields, err)
		}
	}
}
