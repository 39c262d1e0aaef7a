package catalog

import (
	"strings"
	"testing"

	"github.com/thermocline/thermocline/record"
)

func TestParseName(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", MaxNameLen)
	for _, c := range []struct{ in, namespace, name string }{
		{"quakes", "default", "quakes"},
		{"geo.quakes", "geo", "quakes"},
		{"_a-1.B_2", "_a-1", "B_2"},
		{long + "." + long, long, long},
	} {
		namespace, name, err := ParseName(c.in)
		if err != nil || namespace != c.namespace || name != c.name {
			t.Errorf("ParseName(%q) = %q, %q, %v; want %q, %q", c.in, namespace, name, err, c.namespace, c.name)
		}
	}
	for in, hint := range map[string]string{
		"":           "stream name is empty",
		".":          "namespace is empty",
		"a.":         "stream name is empty",
		".a":         "namespace is empty",
		"a.b.c":      "more than one dot",
		"1a":         "'1' at position 0",
		"-a":         "'-' at position 0",
		"a b":        "' ' at position 1",
		"a/b":        "'/' at position 1",
		"grün":       "'ü' at position 2",
		"n\x00":      `'\x00' at position 1`,
		"a@exp":      "'@' at position 1",
		long + "x":   "129 characters",
		"n." + "a*":  "the stream name",
		"n*" + ".aa": "the namespace",
	} {
		_, _, err := ParseName(in)
		wantErr(t, in, err, record.ErrInvalid)
		if err != nil && !strings.Contains(err.Error(), hint) {
			t.Errorf("ParseName(%q): error %q does not say %q", in, err, hint)
		}
	}
}
