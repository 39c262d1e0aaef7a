package api

import (
	"testing"
	"time"

	"github.com/thermocline/thermocline/hotbuffer"
)

func TestQuality(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		accept, want string
		q            float64
	}{
		{"text/csv", "text/csv", 1},
		{"text/*;q=0.5", "text/csv", 0.5},
		{"*/*;q=0.1", "text/csv", 0.1},
		{"*/*, text/csv;q=0", "text/csv", 0},
		{"text/csv;q=0.2, text/*;q=0.9", "text/csv", 0.2},
		{"text/csv;q=2", "text/csv", 0},
		{"nonsense, text/csv", "text/csv", 1},
		{"application/json", "text/csv", 0},
	} {
		if q := quality(c.accept, c.want); q != c.q {
			t.Errorf("quality(%q, %q) = %v, want %v", c.accept, c.want, q, c.q)
		}
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	h := hotbuffer.Histogram{Bounds: []float64{1, 2, 4}, Counts: []uint64{0, 10, 0, 0}}
	if got := summary(h); got.P50 != 1.5 || got.Count != 10 {
		t.Errorf("%+v", got)
	}
	h.Counts = []uint64{50, 0, 49, 1}
	if got := summary(h); got.P50 != 1 || got.P90 <= 2 || got.P90 >= 4 || got.P99 > 4 {
		t.Errorf("%+v", got)
	}
	h.Counts = []uint64{0, 0, 0, 5} // all beyond the last bound
	if got := summary(h); got.P50 != 4 {
		t.Errorf("%+v", got)
	}
	if got := summary(hotbuffer.Histogram{}); got.P99 != 0 || got.Mean != 0 {
		t.Errorf("%+v", got)
	}
}

func TestSkipJSON(t *testing.T) {
	t.Parallel()
	for _, value := range []string{`1`, `-1.5e3`, `null`, `true`, `"a"`, `"a\"b\\"`, `{"a":[1,"]}"],"b":{}}`, `[]`, `["\\",{"x":"}"}]`, `""`} {
		for _, rest := range []string{`,"n":1}`, `}`} {
			if end := skipJSON([]byte(value+rest), 0); end != len(value) {
				t.Errorf("%s: ends at %d, want %d", value+rest, end, len(value))
			}
		}
	}
}

func TestAppendCSV(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"": `""`, "a": "a", "a,b": `"a,b"`, `a"b`: `"a""b"`, "a\nb": "\"a\nb\"", " a": `" a"`, "a ": `"a "`} {
		if got := string(appendCSV(nil, []byte(in))); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestDurationText(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{2 * time.Minute: "2m", time.Hour: "1h", 90 * time.Second: "1m30s", 0: "0s", 100 * time.Minute: "1h40m", time.Hour + time.Second: "1h0m1s", 1500 * time.Millisecond: "1.5s"} {
		got := duration(d)
		if back, err := time.ParseDuration(got); got != want || err != nil || back != d {
			t.Errorf("%v: %s, want %s (%v)", d, got, want, err)
		}
	}
}
