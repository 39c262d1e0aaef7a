package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// backstage is a server of one subscriber whose push reads are written by a
// test, one after the other; the last stays open.
type backstage struct {
	consistency string
	reads       []string

	mu      sync.Mutex
	joins   []string // member and resume of each read
	commits []string
	refuse  int // status of commits; 0: they succeed
}

func (b *backstage) serve(w http.ResponseWriter, r *http.Request) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := r.URL.Query()
	switch {
	case strings.HasSuffix(r.URL.Path, "/rows"):
		n := len(b.joins)
		b.joins = append(b.joins, q.Get("member")+" "+q.Get("resume"))
		fmt.Fprint(w, b.reads[min(n, len(b.reads)-1)])
		_ = http.NewResponseController(w).Flush()
		if n >= len(b.reads)-1 {
			b.mu.Unlock()
			<-r.Context().Done()
			b.mu.Lock()
		}
	case strings.HasSuffix(r.URL.Path, "/commit"):
		var c struct {
			Session, Checkpoint int
			Cursor              string
		}
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
			panic(err)
		}
		if b.refuse != 0 {
			w.WriteHeader(b.refuse)
			return true
		}
		b.commits = append(b.commits, fmt.Sprintf("%d %d%s", c.Session, c.Checkpoint, c.Cursor))
		fmt.Fprint(w, "{}")
	default:
		fmt.Fprintf(w, `{"id":"g","consistency":%q}`, b.consistency)
	}
	return true
}

// subscribe runs until the output has the given number of lines and the last
// commit is the given one, is interrupted, and returns the output.
func (b *backstage) subscribe(t *testing.T, lines int, lastCommit string, flags ...string) string {
	t.Helper()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var out, errs buffer
	done := make(chan result, 1)
	args := append([]string{"subscribe", "x", "--group", "g", "--server", front(t, b.serve)}, flags...)
	go func() { done <- result{code: run(ctx, terminal{nil, &out, &errs}, args)} }()
	eventually(t, "rows and commits", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		last := ""
		if n := len(b.commits); n > 0 {
			last = b.commits[n-1]
		}
		return strings.Count(out.String(), "\n") == lines && last == lastCommit
	})
	interrupt()
	if r := ended(t, done); r.code != exitOK {
		t.Errorf("exit code %d: %s", r.code, errs.String())
	}
	return out.String()
}

func rowsEvent(id string, from, to int) string {
	var b strings.Builder
	b.WriteString("event: rows\n")
	if id != "" {
		b.WriteString("id: " + id + "\n")
	}
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "data: {\"n\":%d}\n", i)
	}
	return b.String() + "\n"
}

func assignmentEvent(session int) string {
	return fmt.Sprintf("event: assignment\ndata: {\"session\":%d,\"member\":\"m\",\"partitions\":[0],\"cursor\":\"A\"}\n\n", session)
}

func checkpointEvent(n int) string {
	return fmt.Sprintf("event: checkpoint\nid: C%d\ndata: {\"checkpoint\":%d,\"cursor\":\"C%d\"}\n\n", n, n, n)
}

// Rows of an epoch are written when it is complete, and what an assignment or a
// lost connection voids is not written at all.
func TestSubscribeExactlyOnce(t *testing.T) {
	t.Parallel()
	b := &backstage{consistency: "EXACTLY_ONCE", reads: []string{
		assignmentEvent(1) + rowsEvent("", 0, 2) + checkpointEvent(1) + rowsEvent("", 2, 4), // cut within the second epoch
		assignmentEvent(2) + rowsEvent("", 2, 3) + assignmentEvent(2) + rowsEvent("", 2, 4) + rowsEvent("", 4, 6) + checkpointEvent(2) + checkpointEvent(3) + rowsEvent("", 6, 7),
	}}
	out := b.subscribe(t, 6, "2 0C3", "--exactly-once", "--member", "m")
	checkNumbers(t, out, 6)
	if diff := cmp.Diff([]string{"m ", "m C1"}, b.joins); diff != "" {
		t.Errorf("joins (-want +got):\n%s", diff)
	}
}

// An epoch that does not fit into memory goes through a file.
func TestSubscribeSpoolsLargeEpochs(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1<<20)
	var read strings.Builder
	read.WriteString(assignmentEvent(1))
	for i := range 40 {
		fmt.Fprintf(&read, "event: rows\ndata: {\"n\":%d,\"text\":%q}\n\n", i, long)
	}
	b := &backstage{consistency: "EXACTLY_ONCE", reads: []string{read.String() + checkpointEvent(1) + rowsEvent("", 40, 42) + checkpointEvent(2)}}
	out := b.subscribe(t, 42, "1 0C2")
	checkNumbers(t, out, 42)
	if want := 40 << 20; len(out) < want {
		t.Errorf("%d bytes, want more than %d", len(out), want)
	}
}

// At least once, a run goes on behind what it has written, whatever was committed.
func TestSubscribeAtLeastOnce(t *testing.T) {
	t.Parallel()
	b := &backstage{consistency: "AT_LEAST_ONCE", reads: []string{
		assignmentEvent(1) + rowsEvent("P1", 0, 2) + rowsEvent("P2", 2, 3),
		assignmentEvent(2) + rowsEvent("P3", 3, 5) + "event: cursor\nid: P4\ndata: {\"cursor\":\"P4\"}\n\n",
	}}
	out := b.subscribe(t, 5, "2 0P4")
	checkNumbers(t, out, 5)
	member, resume, _ := strings.Cut(b.joins[1], " ")
	if first, _, _ := strings.Cut(b.joins[0], " "); resume != "P2" || member != first || member == "" {
		t.Errorf("joins: %q", b.joins)
	}
}

// With --commit none, marks are printed and nothing is committed.
func TestSubscribeRaw(t *testing.T) {
	t.Parallel()
	b := &backstage{consistency: "EXACTLY_ONCE", reads: []string{assignmentEvent(1) + rowsEvent("", 0, 2) + checkpointEvent(1)}}
	want := `{"_thermocline":"assignment","session":1,"member":"m","partitions":[0],"cursor":"A"}
{"n":0}
{"n":1}
{"_thermocline":"checkpoint","checkpoint":1,"cursor":"C1"}
`
	if diff := cmp.Diff(want, b.subscribe(t, 4, "", "--commit", "none")); diff != "" {
		t.Errorf("exactly once (-want +got):\n%s", diff)
	}
	b = &backstage{consistency: "AT_LEAST_ONCE", reads: []string{rowsEvent("P1", 0, 1)}}
	if diff := cmp.Diff("{\"n\":0}\n{\"_thermocline\":\"cursor\",\"cursor\":\"P1\"}\n", b.subscribe(t, 2, "", "--commit", "none")); diff != "" {
		t.Errorf("at least once (-want +got):\n%s", diff)
	}
}

// A commit that the server cannot take now is tried again, and one that is
// fenced is left to the read, which says why.
func TestSubscribeCommitsAgain(t *testing.T) {
	t.Parallel()
	for _, status := range []int{503, 409} {
		b := &backstage{consistency: "AT_LEAST_ONCE", reads: []string{assignmentEvent(1) + rowsEvent("P1", 0, 1)}, refuse: status}
		go func() {
			time.Sleep(300 * time.Millisecond)
			b.mu.Lock()
			b.refuse = 0
			b.mu.Unlock()
		}()
		want := "1 0P1"
		if status == 409 {
			want = ""
		}
		checkNumbers(t, b.subscribe(t, 1, want), 1)
	}
}

func TestSubscribeEndsWhenFenced(t *testing.T) {
	t.Parallel()
	b := &backstage{consistency: "AT_LEAST_ONCE", reads: []string{
		assignmentEvent(1) + "event: problem\ndata: {\"code\":\"SUBSCRIBER_FENCED\",\"status\":409,\"detail\":\"another read took the name\"}\n\n",
	}}
	r := cli(t.Context(), front(t, b.serve), nil, "subscribe", "x", "--group", "g")
	if r.code != exitFail || !strings.Contains(r.err, "another read took the name") {
		t.Errorf("%+v", r)
	}
	r = cli(t.Context(), front(t, b.serve), nil, "subscribe", "x", "--group", "g", "--exactly-once")
	if r.code != exitFail || !strings.Contains(r.err, "AT_LEAST_ONCE") {
		t.Errorf("another consistency: %+v", r)
	}
}

func TestSubscribeUsage(t *testing.T) {
	t.Parallel()
	for args, text := range map[string]string{
		"subscribe x":                         "--group",
		"subscribe x --group g --commit some": "--commit",
		"subscriber reset x g":                "--from",
		"subscriber show x":                   "arg",
		"subscriber nosuch":                   "nosuch",
	} {
		r := cli(t.Context(), shared.address, nil, strings.Fields(args)...)
		if r.code != exitUsage || !strings.Contains(r.err, text) {
			t.Errorf("%s: %+v", args, r)
		}
	}
}

func TestStartOf(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{
		"earliest": `{"type":"earliest"}`, "latest": `{"type":"latest"}`, "AQEAAQe9T05n": `{"cursor":"AQEAAQe9T05n","type":"cursor"}`,
		"2026-03-01": `{"time":"2026-03-01T00:00:00Z","type":"time"}`, "2026-03-01T12:00:00+01:00": `{"time":"2026-03-01T12:00:00+01:00","type":"time"}`,
		"2026-03-01 12:00:00": `{"time":"2026-03-01T12:00:00Z","type":"time"}`,
	} {
		got, err := json.Marshal(startOf(from))
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v", from, got, err)
		}
	}
}

func TestSpool(t *testing.T) {
	t.Parallel()
	var s spool
	defer s.close()
	piece := []byte(strings.Repeat("y", spoolMemory/3))
	for range 2 { // the second time over the same file
		n := 0
		for range 10 {
			if err := s.add(piece); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.release(func(b []byte) error { n += len(b); return nil }); err != nil || n != 10*len(piece) {
			t.Errorf("%d bytes of %d, %v", n, 10*len(piece), err)
		}
	}
	if _, err := os.Stat(s.file.Name()); err == nil {
		t.Error("the file would outlive a kill")
	}
	if err := s.add(piece); err != nil {
		t.Fatal(err)
	}
	s.drop()
	if err := s.release(func([]byte) error { t.Error("dropped rows come"); return nil }); err != nil {
		t.Fatal(err)
	}
}
