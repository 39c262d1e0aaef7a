package schema

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
)

func split(body string) (rows []string, err error) {
	err = SplitJSON([]byte(body), func(i int, raw []byte) error {
		if i != len(rows) {
			panic("index out of order")
		}
		rows = append(rows, string(raw))
		return nil
	})
	return rows, err
}

func TestSplitJSON(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		body string
		want []string
	}{
		{"", nil}, {" \n ", nil}, {"[]", nil}, {" [ ] \n", nil}, {`{"rows":[]}`, nil},
		{`[{"a":1},{"b":[2]} , 3, "x]", null]`, []string{`{"a":1}`, `{"b":[2]}`, "3", `"x]"`, "null"}},
		{`{"rows" : [{"a":"]}\"{"}, {}] } `, []string{`{"a":"]}\"{"}`, `{}`}},
		{`{"rows":[1],"x":2}`, []string{`{"rows":[1],"x":2}`}},
		{`{"x":2,"rows":[1]}`, []string{`{"x":2,"rows":[1]}`}},
		{`{"rows":{"a":1}}`, []string{`{"rows":{"a":1}}`}},
		{"{\"rows\":[1]}\n{\"rows\":[2]}", []string{`{"rows":[1]}`, `{"rows":[2]}`}},
		{"{\"a\":1}\n\n \r\n{\"a\":2}\r\n", []string{`{"a":1}`, `{"a":2}`}},
		{"\uFEFF{\"a\":1}\n", []string{`{"a":1}`}},
		{`{"a":1}{"a":2} {"a":3}`, []string{`{"a":1}`, `{"a":2}`, `{"a":3}`}},
		{`{"a":"}{"}` + "\n" + `{"a":"} {"}`, []string{`{"a":"}{"}`, `{"a":"} {"}`}},
		{"{\n \"a\": 1\n}\n{\n \"a\": 2\n}\n", []string{"{\n \"a\": 1\n}", "{\n \"a\": 2\n}"}},
		// A damaged line spoils no other.
		{"{\"a\":1}\n{\"a\":\n{\"a\":\"x\n{\"a\":4}", []string{`{"a":1}`, `{"a":`, `{"a":"x`, `{"a":4}`}},
		{`{"a":`, []string{`{"a":`}},
		{`}`, []string{`}`}},
		{`nonsense`, []string{`nonsense`}},
	} {
		got, err := split(c.body)
		if err != nil {
			t.Errorf("%q: %v", c.body, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q: %s", c.body, diff)
		}
	}
}

func TestSplitJSONRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		body string
		row  int
		want string
	}{
		{`[{"a":1}`, 1, "byte 8"}, {`[{"a":1},`, 1, "byte 9"}, {`[{"a":1},]`, 1, "no row at byte 9"}, {`[,]`, 0, "byte 1"},
		{`[{"a":1} {"a":2}]`, 1, "byte 9"}, {`[{"a":1}] x`, 1, "after the array at byte 10"}, {`[{"a":`, 0, "byte 1"}, {`[`, 0, "byte 1"},
	} {
		_, err := split(c.body)
		var e *RowError
		if !errors.As(err, &e) || e.Row != c.row || !strings.Contains(err.Error(), c.want) || !errors.Is(err, record.ErrInvalid) {
			t.Errorf("%s: %v", c.body, err)
		}
	}
	stop := errors.New("stop")
	if err := SplitJSON([]byte("{}\n{}"), func(int, []byte) error { return stop }); err != stop {
		t.Errorf("the error of yield became %v", err)
	}
}

func FuzzSplitJSON(f *testing.F) {
	f.Add([]byte(`[{"a":1}]`))
	f.Add([]byte("{\"a\":1}\n{\"a\""))
	f.Add([]byte(`{"rows":[1,{"x":"\""}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		last := 0
		_ = SplitJSON(body, func(i int, raw []byte) error {
			if len(raw) == 0 || isSpace(raw[0]) || isSpace(raw[len(raw)-1]) && raw[0] == '{' && raw[len(raw)-1] == '}' {
				t.Fatalf("row %d is %q", i, raw)
			}
			at := strings.Index(string(body[last:]), string(raw))
			if at < 0 {
				t.Fatalf("row %d %q is not in the body behind the one before", i, raw)
			}
			last += at + len(raw)
			return nil
		})
	})
}
