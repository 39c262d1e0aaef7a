package test

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// maxMemory is a bound that any amount of rows must keep; the test prints what
// it was.
const maxMemory = 1 << 30

// TestIngestSurvivesKills ingests flights with the command line while the
// server is killed again and again and comes back. Each row must be there
// once, in the hot buffer or in the dataset.
func TestIngestSurvivesKills(t *testing.T) {
	t.Parallel()
	all := allFlights(t)
	r := newRand(t)
	s := startServer(t, release)
	st := s.create(t, "flights", flightSchema, `{"partitions":3,"archiveInterval":"1s","type":"HIGH_THROUGHPUT"}`)

	ingest := s.command(t, "ingest", "flights", all.file)
	var said strings.Builder
	ingest.Stdout, ingest.Stderr = &said, &said
	begun := time.Now()
	if err := ingest.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- ingest.Wait() }()
	var outcome error
	running := true
	wait := func(d time.Duration) {
		if !running {
			return
		}
		select {
		case outcome = <-done:
			running = false
		case <-time.After(d):
		}
	}

	const most = 6
	kills := 0
	var peak int64
	for kills < most {
		// Kill somewhere in the stretch of rows that is this kill's.
		goal := all.rows * (int64(kills)*100 + r.Int64N(100)) / (most * 100)
		for running && st.progress(t) < goal {
			wait(time.Millisecond)
		}
		wait(time.Duration(r.IntN(20)) * time.Millisecond)
		if !running {
			break
		}
		peak = max(peak, s.peakMemory(t))
		s.kill(t)
		kills++
		wait(time.Duration(r.IntN(500)) * time.Millisecond)
		s.start(t)
	}
	for deadline := time.Now().Add(20 * time.Minute); running && time.Now().Before(deadline); {
		wait(time.Second)
	}
	if running || outcome != nil {
		ingest.Process.Kill()
		t.Fatalf("ingest failed or hung: %v\n%s", outcome, said.String())
	}
	t.Logf("%d rows in %s, the server was killed %d times", all.rows, time.Since(begun).Round(time.Millisecond), kills)
	if kills < 2 {
		t.Errorf("the ingest was over after %d kills; it needs more rows to be a test", kills)
	}

	all.want(t, st)
	st.archive(t)
	all.want(t, st)
	st.wantArchived(t, all.rows)
	peak = max(peak, s.peakMemory(t))
	s.kill(t)
	s.start(t)
	all.want(t, st)
	s.stop(t)

	t.Logf("peak memory of the server: %d MiB", peak>>20)
	if peak > maxMemory {
		t.Errorf("the server held %d MiB, %d are the most", peak>>20, maxMemory>>20)
	}
}

// progress is how many rows are durable by now, or 0 if there is no answer.
func (s *stream) progress(t *testing.T) int64 {
	t.Helper()
	answer, err := s.send(t.Context(), http.MethodGet, s.path+"/offsets", nil, nil)
	var o offsets
	if err == nil {
		err = json.Unmarshal(answer, &o)
	}
	if err != nil {
		return 0
	}
	return o.end()
}

// TestIngestCanBeRepeated kills the command line instead of the server, and runs
// it again under the same producer's name, and once more when all is there.
func TestIngestCanBeRepeated(t *testing.T) {
	t.Parallel()
	all := makeFlights(t, 100_000)
	s := startServer(t, release)
	st := s.create(t, "flights", flightSchema, `{"archiveInterval":"1h"}`)
	args := []string{"ingest", "flights", all.file, "--producer", "nightly"}

	first := s.command(t, args...)
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); st.progress(t) < all.rows/4; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no quarter of the rows within a minute")
		}
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // killed
	if rows := st.offsets(t).end(); rows == all.rows {
		t.Errorf("the ingest was over before it was killed; it needs more rows to be a test")
	}
	for range 2 {
		s.run(t, args...)
		all.want(t, st)
	}
	s.stop(t)
}

// TestIngestEarthquakes feeds the command line from a file and from standard
// input, and reads what came in.
func TestIngestEarthquakes(t *testing.T) {
	t.Parallel()
	s := startServer(t, checked)
	const sample = "../testdata/earthquakes.ndjson"
	s.run(t, "stream", "create", "quakes", "--infer", sample, "--key", "network")
	s.run(t, "ingest", "quakes", sample)

	piped := s.command(t, "ingest", "quakes", "-")
	in, err := os.Open(sample)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	piped.Stdin = in
	if out, err := piped.CombinedOutput(); err != nil {
		t.Fatalf("ingest from standard input: %v\n%s", err, out)
	}

	const quakes = 1707
	csv := s.run(t, "read", "quakes", "--format", "csv", "--columns", "id,magnitude")
	if lines := strings.Count(csv, "\n"); lines != 2*quakes+1 {
		t.Errorf("%d lines of CSV, want a heading and %d rows twice", lines, quakes)
	}
	s.run(t, "archive", "quakes")
	strong := s.run(t, "read", "quakes", "--where", "magnitude >= 6 and location.depth_km < 20")
	if strings.Count(strong, "\n") != 2*strongQuakes(t) {
		t.Errorf("strong and shallow earthquakes, each twice:\n%swant %d", strong, strongQuakes(t))
	}
	s.stop(t)
}

func strongQuakes(t *testing.T) (n int) {
	t.Helper()
	text, err := os.ReadFile("../testdata/earthquakes.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var q struct {
			Magnitude float64
			Location  struct {
				Depth float64 `json:"depth_km"`
			}
		}
		if err := json.Unmarshal([]byte(line), &q); err != nil {
			t.Fatal(err)
		}
		if q.Magnitude >= 6 && q.Location.Depth < 20 {
			n++
		}
	}
	if n == 0 {
		t.Fatal("there was no such earthquake")
	}
	return n
}
