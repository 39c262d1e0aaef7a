package test

import (
	"encoding/json"
	"math"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// quake is what the experiment looks at of an event.
type quake struct {
	ID        string   `json:"id"`
	Kind      string   `json:"magnitude_type"`
	Magnitude float64  `json:"magnitude"`
	Original  *float64 `json:"original"`
}

// TestExperiment does what docs/BRANCHING.md tells: earthquakes keep arriving on
// main and on a branch while PyIceberg and DuckDB add a column on the branch and
// correct magnitudes there; then the branch is compared, merged and dropped.
func TestExperiment(t *testing.T) {
	t.Parallel()
	python := pythonPath(t)
	s := startServer(t, release)
	text, err := os.ReadFile("../testdata/earthquakes.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	quakes := slices.Collect(strings.Lines(string(text)))
	sent := map[string]quake{}
	for _, line := range quakes {
		q := parseQuake(t, line)
		sent[q.ID] = q
	}
	const before, onMain = 1000, 1400 // then those for the branch
	s.run(t, "stream", "create", "quakes", "--infer", "../testdata/earthquakes.ndjson", "--key", "network", "--partitions", "2")
	main := s.stream("quakes")
	main.publishAndArchive(t, quakes[:before-100], 2)
	main.publish(t, strings.Join(quakes[before-100:before], "")) // hot when the branch begins

	s.run(t, "branch", "create", "quakes", "exp")
	exp := main.on("exp")
	if n := len(exp.quakes(t)); n != before {
		t.Fatalf("the new branch has %d rows, want %d", n, before)
	}

	arrived := make(chan struct{})
	go func() {
		defer close(arrived)
		for i := 0; i < onMain-before; i += 50 {
			for _, x := range []struct {
				s     *stream
				lines []string
			}{{main, quakes[before:onMain]}, {exp, quakes[onMain:]}} {
				if _, err := s.send(t.Context(), "POST", x.s.path+"/rows", ndjson, []byte(strings.Join(x.lines[min(i, len(x.lines)):min(i+50, len(x.lines))], ""))); err != nil {
					t.Errorf("publish: %v", err)
				}
				if _, err := s.send(t.Context(), "POST", x.s.path+"/archive", nil, nil); err != nil {
					t.Errorf("archive: %v", err)
				}
			}
		}
	}()
	s.engine(t, python, "exp", "add-column")
	s.engine(t, python, "exp", "correct")
	<-arrived

	corrected := 0
	for id, q := range exp.quakes(t) {
		if q.Original != nil {
			corrected++
		} else if i := slices.IndexFunc(quakes[:before], func(l string) bool { return strings.Contains(l, `"id":"`+id+`"`) }); i >= 0 && q.Kind == "ml" {
			t.Errorf("%s of before the branch was not corrected", id)
		}
	}
	for id, q := range main.quakes(t) {
		if q != sent[id] {
			t.Errorf("before the merge main has %+v", q)
		}
	}

	var compared struct {
		Theirs, Ours json.RawMessage
	}
	s.get(t, "/v1/streams/quakes/branches/exp/compare/main", &compared)
	s.run(t, "branch", "compare", "quakes", "exp", "main")
	dry := s.run(t, "branch", "merge", "quakes", "exp", "--into", "main", "--dry-run")
	if n := len(main.quakes(t)); n != onMain {
		t.Errorf("after a dry run main has %d rows, want %d:\n%s", n, onMain, dry)
	}
	t.Log(s.run(t, "branch", "merge", "quakes", "exp", "--into", "main"))

	check := func(what string) {
		t.Helper()
		got := main.quakes(t)
		if len(got) != len(sent) {
			t.Errorf("%s: main has %d rows, want %d", what, len(got), len(sent))
		}
		changed := 0
		for id, q := range got {
			want := sent[id]
			if q.Original != nil {
				changed++
				want.Magnitude, want.Original = math.Round((0.85*want.Magnitude+0.6)*100)/100, q.Original
				if *q.Original != sent[id].Magnitude || math.Abs(q.Magnitude-want.Magnitude) > 0.0101 || q.Kind != "ml" {
					t.Errorf("%s: %s is %v, of %v, was sent as %+v", what, id, q.Magnitude, *q.Original, sent[id])
				}
			} else if q != want {
				t.Errorf("%s: main has %+v, want %+v", what, q, want)
			}
		}
		if changed != corrected {
			t.Errorf("%s: main has %d corrected magnitudes, the branch had %d", what, changed, corrected)
		}
	}
	check("merged")
	s.run(t, "branch", "merge", "quakes", "exp", "--into", "main")
	check("merged twice")
	s.run(t, "branch", "delete", "quakes", "exp")
	s.run(t, "dataset", "gc", "quakes")
	main.archive(t)
	check("without the branch")
	if n := len(s.engineQuakes(t, python, "main")); n != len(sent) {
		t.Errorf("PyIceberg reads %d rows of main, want %d", n, len(sent))
	}
	t.Logf("%d of %d magnitudes corrected", corrected, len(sent))
	s.run(t, "verify", "quakes")
}

// on is another branch of the stream.
func (s *stream) on(branch string) *stream {
	return &stream{s.server, s.name, "/v1/streams/" + url.PathEscape(s.name) + "/branches/" + url.PathEscape(branch)}
}

func parseQuake(t *testing.T, line string) quake {
	t.Helper()
	var q quake
	if err := json.Unmarshal([]byte(line), &q); err != nil {
		t.Fatalf("%v in %s", err, line)
	}
	return q
}

// quakes reads all events, each of which must be there once.
func (s *stream) quakes(t *testing.T) map[string]quake {
	t.Helper()
	all := map[string]quake{}
	lines, _ := s.read(t, "")
	for _, line := range lines {
		q := parseQuake(t, line)
		if _, twice := all[q.ID]; twice {
			t.Errorf("%s: %s is there twice", s.path, q.ID)
		}
		all[q.ID] = q
	}
	return all
}

// engine runs test/python/experiment.py on a branch.
func (s *server) engine(t *testing.T, python, branch, what string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), python, "python/experiment.py", "--uri", "http://"+s.address+"/iceberg",
		"--branch", branch, "--table", "default.quakes", what)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s on %s: %v\n%s", what, branch, err, out)
	}
	return string(out)
}

func (s *server) engineQuakes(t *testing.T, python, branch string) map[string]quake {
	t.Helper()
	all := map[string]quake{}
	for line := range strings.Lines(s.engine(t, python, branch, "read")) {
		q := parseQuake(t, line)
		all[q.ID] = q
	}
	return all
}
