package test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCursorSurvivesArchiving takes cursors while all rows are hot. The rows
// behind them must be the same, and in the same order, when some are cold, when
// all are, and after a crash.
func TestCursorSurvivesArchiving(t *testing.T) {
	t.Parallel()
	s := startServer(t, checked)
	st := s.create(t, "rows", numberedSchema, `{"partitions":3,"keyFields":["group"],"archiveInterval":"1h","hotRetention":"0s"}`)
	var rows int64
	publish := func() {
		for range 10 {
			st.publish(t, numbered(rows, 50))
			rows += 50
		}
	}
	publish()
	cursors := []string{}
	for _, limit := range []string{"1", "123", "499", "500"} {
		_, cursor := st.read(t, "limit="+limit)
		cursors = append(cursors, cursor)
	}
	publish()
	continuations := func() (all [][]string) {
		for _, cursor := range cursors {
			lines, _ := st.read(t, "system=true&from="+cursor)
			all = append(all, lines)
		}
		return all
	}
	hot := continuations()
	for i, n := range []int{999, 877, 501, 500} {
		if len(hot[i]) != n {
			t.Fatalf("%d rows behind cursor %d, want %d", len(hot[i]), i, n)
		}
	}
	check := func(when string) {
		t.Helper()
		for i, lines := range continuations() {
			if !slices.Equal(lines, hot[i]) {
				t.Errorf("%s, the rows behind cursor %d are not what they were", when, i)
			}
		}
	}
	st.archive(t)
	check("archived")
	s.kill(t)
	s.start(t)
	check("archived and restarted")

	// The same with a cursor into cold rows that goes on into hot ones.
	publish()
	before := continuations()
	st.archive(t)
	s.stop(t)
	s.start(t)
	for i, lines := range continuations() {
		if !slices.Equal(lines, before[i]) {
			t.Errorf("half cold and all cold, the rows behind cursor %d differ", i)
		}
	}
}

// TestEpochsAreFixed reads a stream exactly once, three times: hot, archived, and
// after a crash. Each numbered epoch must hold the same bytes.
func TestEpochsAreFixed(t *testing.T) {
	t.Parallel()
	s := startServer(t, checked)
	st := s.create(t, "rows", numberedSchema, `{"partitions":2,"archiveInterval":"1h"}`)
	const rows, each = 1200, 100
	for first := int64(0); first < rows; first += each {
		st.publish(t, numbered(first, each))
		time.Sleep(400 * time.Millisecond) // some checkpoints long
	}
	hot := st.epochs(t, rows)
	if len(hot) < 2 {
		t.Errorf("%d epochs in 5 s, want some", len(hot))
	}
	st.archive(t)
	for _, state := range []string{"cold", "cold, behind a crash"} {
		cold := st.epochs(t, rows)
		if len(hot) != len(cold) {
			t.Errorf("%d epochs hot, %d %s", len(hot), len(cold), state)
		}
		for number, lines := range hot {
			if !slices.Equal(lines, cold[number]) {
				t.Errorf("epoch %d had %d rows hot and has others, %d, %s", number, len(lines), len(cold[number]), state)
			}
		}
		s.kill(t)
		s.start(t)
	}
}

// epochs follows the stream from its beginning until it has seen n rows, and
// returns the rows of each checkpoint.
func (s *stream) epochs(t *testing.T, n int) map[int64][]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"http://"+s.address+s.path+"/tail?from=earliest&consistency=EXACTLY_ONCE&cursors=line&system=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("tail: %s", resp.Status)
	}
	all := map[int64][]string{}
	var open []string
	seen := 0
	lines := bufio.NewScanner(resp.Body)
	for seen < n && lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, `{"_thermocline":`) {
			if line != "" { // a heartbeat
				open = append(open, line)
			}
			continue
		}
		var mark struct {
			Kind       string `json:"_thermocline"`
			Checkpoint int64
		}
		if err := json.Unmarshal([]byte(line), &mark); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		switch mark.Kind {
		case "checkpoint":
			if _, twice := all[mark.Checkpoint]; twice {
				t.Fatalf("epoch %d came twice", mark.Checkpoint)
			}
			all[mark.Checkpoint] = open
			seen += len(open)
			open = nil
		case "cursor":
		default:
			t.Fatalf("tail: %s", line)
		}
	}
	if seen != n {
		t.Fatalf("%d rows within checkpoints, want %d (%v)", seen, n, lines.Err())
	}
	return all
}
