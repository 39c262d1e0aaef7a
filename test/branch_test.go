package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// branch is a branch of the stream.
func (s *stream) branch(name string) *stream {
	return &stream{s.server, s.name, strings.TrimSuffix(s.path, "main") + name}
}

// counts is how often each number stands in lines of rows.
func counts(t *testing.T, text string) map[int64]int {
	t.Helper()
	seen := map[int64]int{}
	for line := range strings.Lines(text) {
		var row struct{ Number int64 }
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		seen[row.Number]++
	}
	return seen
}

// wantOnce checks that exactly the rows of both ranges are there, once each; the
// last request may have been appended although its answer never came.
func wantOnce(t *testing.T, what string, seen map[int64]int, ranges ...[2]int64) {
	t.Helper()
	want := 0
	for _, r := range ranges {
		for n := r[0]; n < r[1]; n++ {
			if seen[n] != 1 {
				t.Fatalf("%s: row %d is there %d times", what, n, seen[n])
			}
			want++
		}
	}
	if more := len(seen) - want; more > 20*len(ranges) {
		t.Errorf("%s: %d rows that nobody published", what, more)
	}
	for n, times := range seen {
		if times != 1 {
			t.Fatalf("%s: row %d is there %d times", what, n, times)
		}
	}
}

// TestBranchesSurviveKills has two branches of one stream publish, archive and
// evolve by themselves, with an exactly-once subscriber on each, while the server is
// killed and other branches come and go: each acknowledged row is on its branch
// once, the rows that the second one began with on both, and thermocline verify
// finds nothing.
func TestBranchesSurviveKills(t *testing.T) {
	t.Parallel()
	rnd := newRand(t)
	s := startServer(t, checked)
	main := s.create(t, "numbers", numberedSchema, `{"partitions":2,"archiveInterval":"1s","hotRetention":"0s"}`)
	const base = 200
	main.publish(t, numbered(0, base))
	s.run(t, "branch", "create", "numbers", "exp", "--partitions", "3")
	exp := main.branch("exp")
	runs := map[string]*subscribed{
		"main": main.subscribe(t, "--group", "g", "--exactly-once"),
		"exp":  main.subscribe(t, "--group", "g", "--exactly-once", "--branch", "exp"),
	}
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	publishing, stopPublishing := context.WithCancel(ctx)
	defer stopPublishing()
	var onMain, onExp atomic.Int64
	onMain.Store(base)
	const expFirst = 1_000_000
	onExp.Store(expFirst)
	var work sync.WaitGroup
	work.Go(func() { main.publishOn(publishing, &onMain) })
	work.Go(func() { exp.publishOn(publishing, &onExp) })
	// Others come and go; what a kill interrupts is there or not.
	work.Go(func() {
		for i := 0; publishing.Err() == nil; i++ {
			name := fmt.Sprintf("b%d", i)
			body := fmt.Appendf(nil, `{"name":%q,"from":{"branch":%q}}`, name, []string{"main", "exp"}[i%2])
			_, err := s.send(context.WithoutCancel(ctx), http.MethodPost, "/v1/streams/numbers/branches", http.Header{"Content-Type": {"application/json"}}, body)
			if err == nil && i%3 > 0 {
				_, _ = s.send(context.WithoutCancel(ctx), http.MethodDelete, "/v1/streams/numbers/branches/"+name, nil, nil)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	evolve := func(st *stream, field string) {
		t.Helper()
		var v struct {
			Schema struct{ Fields []json.RawMessage }
		}
		s.get(t, st.path+"/schema", &v)
		fields := append(v.Schema.Fields, json.RawMessage(field))
		body, err := json.Marshal(map[string]any{"fields": fields})
		if err != nil {
			t.Fatal(err)
		}
		s.want(t, http.MethodPut, st.path+"/schema", body, nil)
	}
	evolve(main, `{"name":"a","type":"LONG"}`)
	evolve(exp, `{"name":"b","type":"STRING"}`)
	for i := range 3 {
		time.Sleep(time.Duration(500+rnd.IntN(1500)) * time.Millisecond)
		s.kill(t)
		s.start(t)
		evolve(exp, fmt.Sprintf(`{"name":"c%d","type":"DOUBLE"}`, i))
		evolve(main, fmt.Sprintf(`{"name":"c%d","type":"BOOLEAN"}`, i))
	}
	stopPublishing()
	work.Wait()

	read := func(st *stream) map[int64]int {
		lines, _ := st.read(t, "columns=number")
		return counts(t, strings.Join(lines, "\n"))
	}
	mainRange, expRange := [2]int64{0, onMain.Load()}, [2]int64{expFirst, onExp.Load()}
	wantOnce(t, "main", read(main), mainRange)
	wantOnce(t, "exp", read(exp), [2]int64{0, base}, expRange)
	for name, r := range runs {
		st := main.branch(name)
		r.await(t, name, len(read(st)))
		r.interrupt(t)
		seen := counts(t, r.out.tail(1<<30))
		if name == "main" {
			wantOnce(t, "the subscriber of main", seen, mainRange)
		} else {
			wantOnce(t, "the subscriber of exp", seen, [2]int64{0, base}, expRange)
		}
	}
	s.verifyAll(t)
	// A reset of one branch is none of the other.
	s.run(t, "stream", "reset", "numbers", "--branch", "exp", "--yes")
	exp.publish(t, numbered(5, 3))
	exp.archive(t)
	s.kill(t)
	s.start(t)
	wantOnce(t, "exp after a reset", read(exp), [2]int64{5, 8})
	wantOnce(t, "main after a reset of exp", read(main), mainRange)
	s.verifyAll(t)
	s.stop(t)
	if strings.Contains(s.log.tail(1<<20), "level=ERROR") {
		t.Errorf("errors in the log:\n%s", s.log.tail(4<<10))
	}
}

// verifyAll holds all that is stored against itself.
func (s *server) verifyAll(t *testing.T) {
	t.Helper()
	if out, err := s.command(t, "verify", "--all").CombinedOutput(); err != nil {
		t.Fatalf("verify: %v\n%s", err, out)
	}
}
