package predicate

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/record/recordtest"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a = 1":                            "a = 1",
		"a==1 and b<>'x' OR not c is null": "a = 1 AND b != 'x' OR NOT c IS NULL",
		"(a < -1.5e-3)":                    "a < -1.5e-3",
		"a=1 or b=2 or (c=3 or d=4)":       "a = 1 OR b = 2 OR c = 3 OR d = 4",
		"(a=1 or b=2) and c=3":             "(a = 1 OR b = 2) AND c = 3",
		"not (a=1 or b=2)":                 "NOT (a = 1 OR b = 2)",
		"not not a>=+.5":                   "NOT NOT a >= +.5",
		`"my place"."and".x in (1,2,3)`:    `"my place"."and".x IN (1, 2, 3)`,
		`x not in ('it''s', 'b')`:          `x NOT IN ('it''s', 'b')`,
		`x IS NOT NULL AND x'00fF' = y`:    "",
		`y = x'00fF'`:                      "y = X'00FF'",
		`"a""b" = True`:                    `"a""b" = TRUE`,
		"größe <= 1":                       "größe <= 1",
		"x = 'a\nb'":                       "x = 'a\nb'",
		strings.Repeat("(", 99) + "a=1" + strings.Repeat(")", 99): "a = 1",
	} {
		e, err := Parse(text)
		if want == "" {
			if err == nil {
				t.Errorf("%q parses", text)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, e.String()); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                  "character 1: expected a column, got the end\n  \n  ^",
		"magnitude >":                       "character 12: expected a value, got the end\n  magnitude >\n             ^",
		"größe = AND":                       "character 9: expected a value, got the name AND; texts need single quotes, as in 'a text'\n  größe = AND\n          ^",
		"a = null":                          "nothing equals NULL; use IS NULL",
		"a = 1 b":                           "expected AND, OR or the end, got b",
		"a = 'x":                            "never closed",
		"a = 1x":                            "goes on with 'x'",
		"a = 1.2.3":                         "goes on with '.'",
		"a = 1e":                            "no digits",
		"a = X'0'":                          "pairs of hexadecimal digits",
		"a ~ 1":                             "unexpected character '~'",
		"a in 1":                            "expected ( after IN",
		"a in ()":                           "expected a value, got )",
		"a in (1 2)":                        "expected ) or a comma",
		"a is 1":                            "expected NULL after IS",
		"a not 1":                           "expected IN after NOT",
		"a":                                 "expected a comparison",
		"(a = 1":                            "expected ) to close",
		"not":                               "expected a column, got the end",
		"and = 1":                           "expected a column, got and",
		`"" = 1`:                            "is empty",
		"a = -":                             "expected a number",
		"\xff = 1":                          "not valid UTF-8",
		strings.Repeat("x", 70000):          "too long",
		strings.Repeat("not ", 101) + "a=1": "nested deeper",
		strings.Repeat("(", 100000):         "too long",
		strings.Repeat("(", 101) + "a=1":    "nested deeper",
	} {
		_, err := Parse(text)
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v\nwant %s", text, err, want)
		}
	}
}

func TestErrorExcerpt(t *testing.T) {
	t.Parallel()
	_, err := Parse(strings.Repeat("a = 'ä' AND ", 20) + "b ? 3 OR " + strings.Repeat("c = 'ä' OR ", 20))
	if err == nil {
		t.Fatal("parsed")
	}
	lines := strings.Split(err.Error(), "\n")
	caret := []rune(lines[1])[len([]rune(lines[2]))-1]
	if caret != '?' || len(lines) != 3 || !strings.HasPrefix(lines[1], "  …") || !strings.HasSuffix(lines[1], "…") {
		t.Errorf("no excerpt with a caret below the place:\n%v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a = 1", `"x".y IN (1, -2.5e3, 'a''b', X'00', TRUE) AND NOT (b IS NULL OR c != 3)`, "((a<1)) OR NOT NOT b>=2", "é='\x00'", `"`, "'"} {
		f.Add(s)
	}
	f.Add("l > 1e99999 AND dec = -.1 AND at < '2018-02-05' AND \"in\".deep.x != 3 OR f IN (0.1)")
	s := allTypesSchema(f)
	rec := batch(f, s, []string{`{"l":1,"dec":2,"at":3}`, `{}`})
	f.Fuzz(func(t *testing.T, text string) {
		var e Expr
		var err error
		recordtest.Bounded(t, 64<<10+256*len(text), func() { e, err = Parse(text) })
		if err != nil {
			_ = err.Error()
			return
		}
		if b, err := e.Bind(s); err == nil {
			var sel Selection
			if err := b.Filter(rec, &sel); err != nil {
				t.Fatal(err)
			}
			if !b.MayMatch(fileStats{}) && sel.Count() > 0 {
				t.Fatalf("%q selects %d rows, but may not match", text, sel.Count())
			}
		}
		printed := e.String()
		if len(printed) > MaxText {
			return // quotes around long texts of names may need more room
		}
		again, err := Parse(printed)
		if err != nil {
			t.Fatalf("%q was printed as %q: %v", text, printed, err)
		}
		if again.String() != printed {
			t.Fatalf("%q is printed as %q and then as %q", text, printed, again)
		}
	})
}
