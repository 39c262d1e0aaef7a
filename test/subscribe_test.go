package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// subscribed is a run of thermocline subscribe and what it prints.
type subscribed struct {
	cmd  *exec.Cmd
	out  logFile
	errs logFile
	done chan error
}

func (s *stream) subscribe(t *testing.T, flags ...string) *subscribed {
	t.Helper()
	r := &subscribed{cmd: s.command(t, append([]string{"subscribe", s.name}, flags...)...), done: make(chan error, 1)}
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.errs
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.done <- r.cmd.Wait() }()
	return r
}

func (r *subscribed) rows() int { return strings.Count(r.out.tail(1<<30), "\n") }

// interrupt ends the run as Ctrl-C does, and wants the exit code 0.
func (r *subscribed) interrupt(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-r.done:
		if err != nil {
			t.Errorf("subscribe: %v\n%s", err, r.errs.tail(2<<10))
		}
	case <-time.After(10 * time.Second):
		t.Error("subscribe goes on after SIGINT")
		_ = r.cmd.Process.Kill()
	}
}

// numbers counts what was printed, by number, and checks each partition's order.
func (r *subscribed) numbers(t *testing.T) map[int64]int {
	t.Helper()
	seen := map[int64]int{}
	last := map[int]int64{}
	for line := range strings.Lines(r.out.tail(1 << 30)) {
		var row struct {
			place
			Number int64
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if before, ok := last[row.Partition]; ok && row.Offset <= before && seen[row.Number] == 0 {
			t.Errorf("partition %d: offset %d is new behind %d", row.Partition, row.Offset, before)
		}
		last[row.Partition] = max(last[row.Partition], row.Offset)
		seen[row.Number]++
	}
	return seen
}

// TestSubscribeSurvivesKills follows a stream with the command line, exactly once
// and at least once, while the server is killed and archives. Within one run each
// row is printed once, in order; a later run goes on where the first was
// interrupted.
func TestSubscribeSurvivesKills(t *testing.T) {
	t.Parallel()
	rnd := newRand(t)
	s := startServer(t, checked)
	st := s.create(t, "numbers", numberedSchema, `{"partitions":3,"archiveInterval":"1s","hotRetention":"0s"}`)
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	runs := map[string]*subscribed{
		"exactly": st.subscribe(t, "--group", "exactly", "--exactly-once", "--system"),
		"least":   st.subscribe(t, "--group", "least", "--system"),
	}
	publishing, stopPublishing := context.WithCancel(ctx)
	defer stopPublishing()
	var published atomic.Int64
	var publisher sync.WaitGroup
	publisher.Go(func() { st.publishOn(publishing, &published) })
	for range 3 {
		time.Sleep(time.Duration(1000+rnd.IntN(2500)) * time.Millisecond)
		s.kill(t)
		s.start(t)
	}
	stopPublishing()
	publisher.Wait()
	places := st.places(t, published.Load())
	for group, r := range runs {
		r.await(t, group, len(places))
		r.interrupt(t)
		seen := r.numbers(t)
		for number := range places {
			if seen[number] != 1 {
				t.Fatalf("%s: row %d of %d was printed %d times", group, number, len(places), seen[number])
			}
		}
		if lag := st.lag(t, group); lag != 0 {
			t.Errorf("%s: a lag of %d rows after a clean end", group, lag)
		}
	}
	first := int64(len(places))
	st.publish(t, numbered(first, 10))
	again := st.subscribe(t, "--group", "exactly", "--system")
	again.await(t, "a later run", 10)
	again.interrupt(t)
	if seen := again.numbers(t); len(seen) != 10 || seen[first] != 1 {
		t.Errorf("a later run printed %d other rows, want the 10 new ones", len(seen))
	}
	s.stop(t)
}

func (r *subscribed) await(t *testing.T, what string, rows int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); r.rows() < rows; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d rows after 30 s, want %d\n%s", what, r.rows(), rows, r.errs.tail(2<<10))
		}
	}
}

// lag is how many rows a subscriber has not committed.
func (s *stream) lag(t *testing.T, group string) int64 {
	t.Helper()
	var info struct {
		LagRows int64
		Members []struct{ Member string }
	}
	s.get(t, s.path+"/subscribers/"+group, &info)
	return info.LagRows
}

// TestSubscribersShareAStream has two members of one subscriber read a stream,
// each its partitions. One is killed: the other gets its partitions, and what it had
// not committed.
func TestSubscribersShareAStream(t *testing.T) {
	t.Parallel()
	s := startServer(t, checked)
	st := s.create(t, "numbers", numberedSchema, `{"partitions":4,"keyFields":["group"],"archiveInterval":"1h"}`)
	members := []*subscribed{
		st.subscribe(t, "--group", "g", "--member", "a", "--system"),
		st.subscribe(t, "--group", "g", "--member", "b", "--system"),
	}
	type info struct {
		Members []struct {
			Member     string
			Partitions []int
		}
	}
	owned := func(want string) {
		t.Helper()
		got := ""
		for deadline := time.Now().Add(20 * time.Second); got != want; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the members own %s, want %s", got, want)
			}
			var i info
			answer, err := s.send(t.Context(), "GET", st.path+"/subscribers/g", nil, nil)
			var p *problem
			if errors.As(err, &p) && p.Status == 404 {
				continue // not created yet
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(answer, &i); err != nil {
				t.Fatal(err)
			}
			counts := map[string]int{}
			for _, m := range i.Members {
				counts[m.Member] = len(m.Partitions)
			}
			got = fmt.Sprint(counts)
		}
	}
	owned("map[a:2 b:2]")
	st.publish(t, numbered(0, 500))
	for deadline := time.Now().Add(20 * time.Second); st.lag(t, "g") > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a lag of %d rows after 20 s", st.lag(t, "g"))
		}
	}
	if a, b := members[0].rows(), members[1].rows(); a == 0 || b == 0 || a+b != 500 {
		t.Errorf("a printed %d rows and b %d, want 500 shared by both", a, b)
	}
	if err := members[1].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-members[1].done
	owned("map[a:4]")
	st.publish(t, numbered(500, 500))
	members[0].await(t, "a alone", 1000-members[1].rows())
	members[0].interrupt(t)
	all := members[0].numbers(t)
	for number, n := range members[1].numbers(t) {
		all[number] += n
	}
	for number := range int64(1000) {
		if all[number] != 1 {
			t.Fatalf("row %d was printed %d times", number, all[number])
		}
	}
	if list := s.run(t, "subscriber", "list", "numbers"); !strings.Contains(list, "AT_LEAST_ONCE") {
		t.Errorf("list:\n%s", list)
	}
	if show := s.run(t, "subscriber", "reset", "numbers", "g", "--from", "earliest"); !strings.Contains(show, "1,000 rows") {
		t.Errorf("reset:\n%s", show)
	}
	s.run(t, "subscriber", "delete", "numbers", "g")
	s.stop(t)
}

// TestSecondInterrupt has a run write into a pipe that nobody reads: it cannot end
// cleanly, and a second signal ends it all the same.
func TestSecondInterrupt(t *testing.T) {
	t.Parallel()
	s := startServer(t, release)
	st := s.create(t, "numbers", numberedSchema, `{}`)
	st.publish(t, numbered(0, 5000)) // more than a pipe holds
	cmd := s.command(t, "subscribe", "numbers", "--group", "g")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := pipe.Read(make([]byte, 1)); err != nil { // it writes
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for i := range 2 {
		time.Sleep(300 * time.Millisecond)
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil && i == 0 {
			t.Fatal(err)
		}
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("it goes on after two signals")
		_ = cmd.Process.Kill()
		<-ended
	}
	s.stop(t)
}

// TestPyArrowReadsMarks reads a push read in Arrow IPC with PyArrow, which must
// find the rows and, in the batches' own metadata, the marks.
func TestPyArrowReadsMarks(t *testing.T) {
	t.Parallel()
	python := pythonPath(t)
	s := startServer(t, release)
	st := s.create(t, "all", allTypesSchema, `{"partitions":2}`)
	st.publish(t, strings.Join(allTypesRows(t, 100), ""))
	for consistency, last := range map[string]string{"EXACTLY_ONCE": "checkpoint", "AT_LEAST_ONCE": "cursor"} {
		group := strings.ToLower(consistency)
		s.post(t, st.path+"/subscribers", map[string]string{"id": group, "consistency": consistency}, nil)
		cmd := exec.CommandContext(t.Context(), python, "python/read_marks.py", "http://"+s.address+st.path+"/subscribers/"+group+"/rows?columns=number,map,small&member=m", "100")
		out, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				t.Fatalf("%v\n%s", err, exit.Stderr)
			}
			t.Fatal(err)
		}
		var rows int
		var session int64
		var mark struct {
			Kind       string `json:"_thermocline"`
			Session    int64
			Checkpoint int64
			Cursor     string
		}
		for line := range bytes.Lines(out) {
			var piece struct {
				Rows []json.RawMessage
				Mark json.RawMessage
			}
			if err := json.Unmarshal(line, &piece); err != nil {
				t.Fatalf("%v in %s", err, line)
			}
			rows += len(piece.Rows)
			if string(piece.Mark) == "null" {
				continue
			}
			mark.Kind = ""
			if err := json.Unmarshal(piece.Mark, &mark); err != nil {
				t.Fatalf("%v in %s", err, line)
			}
			session = max(session, mark.Session)
		}
		if rows != 100 || mark.Kind != last || mark.Cursor == "" || session == 0 || (mark.Checkpoint > 0) != (last == "checkpoint") {
			t.Errorf("%s: %d rows, session %d, last mark %+v", consistency, rows, session, mark)
		}
	}
	s.stop(t)
}
