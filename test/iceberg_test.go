package test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// TestPyIcebergWrites has PyIceberg change main and a branch (change_table.py) while
// rows are published to both and archived every second. In the end each has what a
// model has.
func TestPyIcebergWrites(t *testing.T) {
	t.Parallel()
	python := pythonPath(t)
	t.Run("files", func(t *testing.T) {
		t.Parallel()
		pyIcebergWrites(t, python, startServer(t, release))
	})
	t.Run("bucket", func(t *testing.T) {
		t.Parallel()
		pyIcebergWrites(t, python, startInBucket(t))
	})
}

func pyIcebergWrites(t *testing.T, python string, s *server) {
	t.Helper()
	main := s.create(t, "events", eventsSchema, `{"partitions":2,"archiveInterval":"1s","hotRetention":"0s"}`)
	inherited := make(map[int64]event)
	var lines strings.Builder
	for id := range int64(1000) {
		inherited[id] = publishedEvent(id)
		fmt.Fprintln(&lines, inherited[id])
	}
	main.publish(t, lines.String())
	main.archive(t)
	branches := map[string]*stream{"main": main, "exp": main.branchOf(t, "exp")}
	published := map[string]map[int64]event{}
	publishing, stop := context.WithCancel(t.Context())
	defer stop()
	var publishers sync.WaitGroup
	for name, b := range branches {
		rows := make(map[int64]event)
		published[name] = rows
		publishers.Go(func() { b.publishEvents(publishing, t, 1_000_000, rows) })
	}
	var changers sync.WaitGroup
	for name := range branches {
		changers.Go(func() {
			// No keys of the bucket: they come with the table.
			cmd := exec.CommandContext(t.Context(), python, "python/change_table.py", "http://"+s.address+"/iceberg", "default.events", "--warehouse", name)
			cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "AWS_EC2_METADATA_DISABLED=true")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
			t.Logf("%s", out)
		})
	}
	changers.Wait()
	stop()
	publishers.Wait()
	if t.Failed() {
		return
	}
	s.kill(t)
	s.start(t)
	for name, b := range branches {
		b.archive(t)
		want := maps.Clone(inherited)
		changeLikePython(want)
		maps.Copy(want, published[name])
		compareEvents(t, "branch "+name, b.events(t), want)
		t.Logf("branch %s: %d rows, %d of them published meanwhile", name, len(want), len(published[name]))
	}
	// No row of the stream is missing but those that were deleted.
	if out, err := s.command(t, "verify", "--all").CombinedOutput(); err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
}

// changeLikePython makes the changes of change_table.py.
func changeLikePython(rows map[int64]event) {
	add := func(from, to int64, region string, magnitude float64) {
		for id := from; id < to; id++ {
			rows[id] = event{ID: id, Region: &region, Magnitude: &magnitude}
		}
	}
	add(2000, 2100, "west", 1.5)
	for id := int64(100); id < 200; id++ {
		delete(rows, id)
	}
	add(200, 300, "over", 2.5)
	add(2100, 2110, "west", 3.5)
	add(2110, 2140, "west", 4.5)
	delete(rows, 50)
}
