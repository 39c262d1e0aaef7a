package test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite"
)

// TestExactlyOnceExamples publishes numbered rows without pause while the
// examples copy them, are killed at any moment, and sometimes wake up after their
// successor has begun; the server is killed as well, and archives every second. In the
// end each example's table has each row once, and each partition's in order.
//
// THERMOCLINE_EXAMPLE_KILLS says how often each is killed.
func TestExactlyOnceExamples(t *testing.T) {
	t.Parallel()
	kills := 25
	if text := os.Getenv("THERMOCLINE_EXAMPLE_KILLS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("THERMOCLINE_EXAMPLE_KILLS=%q: want a number", text)
		}
		kills = n
	}
	rnd := newRand(t)
	s := startServer(t, release)
	st := s.create(t, "numbers", numberedSchema, `{"partitions":3,"keyFields":["group"],"archiveInterval":"1s","hotRetention":"0s"}`)
	examples := []*example{goExample(t, rnd), pythonExample(t, rnd)}

	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	publishing, stopPublishing := context.WithCancel(ctx)
	defer stopPublishing()
	var published atomic.Int64
	var publisher, consumers sync.WaitGroup
	publisher.Go(func() { st.publishOn(publishing, &published) })
	for _, e := range examples {
		consumers.Go(func() { e.torment(ctx, st, kills) })
	}
	tormented := make(chan struct{})
	go func() {
		consumers.Wait()
		close(tormented)
	}()
	serverKills := 0
	for running := true; running; {
		select {
		case <-tormented:
			running = false
		case <-time.After(time.Duration(3000+rnd.IntN(3000)) * time.Millisecond):
			s.kill(t)
			serverKills++
			s.start(t)
		}
	}
	stopPublishing()
	publisher.Wait()
	places := st.places(t, published.Load())
	for _, e := range examples {
		e.finish(ctx, st, int64(len(places)))
		e.check(t, places)
		t.Logf("%s: killed %d times, %d of them after its successor had begun, %d rows; the server was killed %d times",
			e.name, e.kills, e.zombies, len(places), serverKills)
		if e.kills < kills {
			t.Errorf("%s was killed %d times, want %d", e.name, e.kills, kills)
		}
	}
	if serverKills == 0 {
		t.Error("the server was never killed")
	}
	s.stop(t)
}

// publishOn appends rows until ctx ends, through kills of the server, and counts
// them.
func (s *stream) publishOn(ctx context.Context, published *atomic.Int64) {
	const each = 20
	for sequence := 0; ; sequence++ {
		header := http.Header{"Content-Type": {"application/x-ndjson"}, "Producer-Id": {"p"}, "Producer-Sequence": {strconv.Itoa(sequence)}}
		rows := numbered(published.Load(), each)
		for {
			if ctx.Err() != nil {
				return
			}
			// Not with ctx: what was sent is published, and counted.
			if _, err := s.send(context.WithoutCancel(ctx), http.MethodPost, s.path+"/rows", header, []byte(rows)); err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		published.Add(each)
		time.Sleep(2 * time.Millisecond)
	}
}

// places reads where each of at least n rows stands. The last request may have
// been appended although its answer never came.
func (s *stream) places(t *testing.T, n int64) map[int64]place {
	t.Helper()
	all := map[int64]place{}
	s.scan(t, "system=true&columns=number", func(line []byte) {
		var row struct {
			place
			Number int64
		}
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if _, twice := all[row.Number]; twice {
			t.Errorf("the stream has row %d twice", row.Number)
		}
		all[row.Number] = row.place
	})
	if int64(len(all)) < n {
		t.Fatalf("the stream has %d rows, %d were published", len(all), n)
	}
	return all
}

// example is one of the two consumers, with its database.
type example struct {
	name    string
	command []string
	db      string
	rnd     *rand.Rand
	log     *logFile

	kills, zombies int
}

func newExample(t *testing.T, rnd *rand.Rand, name string, command ...string) *example {
	t.Helper()
	e := &example{
		name: name, command: command, db: filepath.Join(t.TempDir(), "rows.db"),
		rnd: rand.New(rand.NewPCG(rnd.Uint64(), rnd.Uint64())), log: &logFile{},
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of what %s said:\n%s", name, e.log.tail(4<<10))
		}
	})
	return e
}

func goExample(t *testing.T, rnd *rand.Rand) *example {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "exactly-once-go")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", binary, "./examples/exactly-once-go")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the example: %v\n%s", err, out)
	}
	return newExample(t, rnd, "exactly-once-go", binary)
}

func pythonExample(t *testing.T, rnd *rand.Rand) *example {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3")
	}
	return newExample(t, rnd, "exactly_once.py", python, "../examples/exactly_once.py")
}

// start runs the example.
func (e *example) start(ctx context.Context, st *stream) (*exec.Cmd, error) {
	args := append([]string{}, e.command[1:]...)
	args = append(args, "--server", "http://"+st.address, "--stream", st.name, "--group", e.name, "--db", e.db)
	cmd := exec.CommandContext(ctx, e.command[0], args...)
	cmd.Stdout, cmd.Stderr = e.log, e.log
	return cmd, cmd.Start()
}

// torment runs and kills the example.
func (e *example) torment(ctx context.Context, st *stream, kills int) {
	for e.kills < kills && ctx.Err() == nil {
		cmd, err := e.start(ctx, st)
		if err != nil {
			fmt.Fprintln(e.log, err)
			return
		}
		e.live(ctx)
		if e.rnd.IntN(4) == 0 {
			e.zombie(ctx, st, cmd)
		}
		e.kill(cmd)
	}
}

// live gives a process time: a little, in which it joins, stores what has come
// since the last one, and commits; or some epochs; or up to a place within or
// right behind a transaction, where a careless consumer would be caught.
func (e *example) live(ctx context.Context) {
	most := 400 * time.Millisecond
	switch e.rnd.IntN(4) {
	case 0:
	case 1:
		most = 2500 * time.Millisecond
	default:
		e.awaitTransactions(ctx, 1+e.rnd.IntN(6))
		most = 2 * time.Millisecond
	}
	sleep(ctx, time.Duration(e.rnd.Int64N(int64(most))))
}

// awaitTransactions waits for so many beginnings and ends of transactions of the
// database, or for 3 s. SQLite has a journal file for as long as one is open.
func (e *example) awaitTransactions(ctx context.Context, edges int) {
	open := false
	for deadline := time.Now().Add(3 * time.Second); edges > 0 && ctx.Err() == nil && time.Now().Before(deadline); {
		if _, err := os.Stat(e.db + "-journal"); (err == nil) != open {
			open = !open
			edges--
			continue
		}
		time.Sleep(50 * time.Microsecond)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// zombie stops a process wherever it is, lets a successor work, and wakes it up.
func (e *example) zombie(ctx context.Context, st *stream, old *exec.Cmd) {
	if old.Process.Signal(syscall.SIGSTOP) != nil {
		return
	}
	successor, err := e.start(ctx, st)
	if err != nil {
		return
	}
	e.zombies++
	e.live(ctx)
	_ = old.Process.Signal(syscall.SIGCONT)
	e.live(ctx)
	e.kill(successor)
}

func (e *example) kill(cmd *exec.Cmd) {
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		fmt.Fprintln(e.log, err)
	}
	_ = cmd.Wait() // killed
	if w, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && w.Signal() == syscall.SIGKILL {
		e.kills++
	} else {
		fmt.Fprintln(e.log, "it had ended before it was killed:", cmd.ProcessState)
	}
}

// finish lets the example run until its table has n rows.
func (e *example) finish(ctx context.Context, st *stream, n int64) {
	cmd, err := e.start(ctx, st)
	if err != nil {
		fmt.Fprintln(e.log, err)
		return
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline) && e.count(ctx) < n; time.Sleep(50 * time.Millisecond) {
	}
	time.Sleep(200 * time.Millisecond) // time for rows too many
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func (e *example) open() (*sql.DB, error) {
	return sql.Open("sqlite", "file:"+e.db+"?_pragma=busy_timeout(5000)")
}

func (e *example) count(ctx context.Context) (n int64) {
	db, err := e.open()
	if err != nil {
		return 0
	}
	defer db.Close()
	if err := db.QueryRowContext(ctx, `SELECT count(*) FROM rows`).Scan(&n); err != nil {
		return 0
	}
	return n
}

// check holds the table against the stream.
func (e *example) check(t *testing.T, places map[int64]place) {
	t.Helper()
	db, err := e.open()
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), `SELECT row FROM rows ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	seen := map[int64]bool{}
	last := map[int]int64{}
	doubled, disordered := 0, 0
	for rows.Next() {
		var text string
		var row struct{ Number int64 }
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(text), &row); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		p, ok := places[row.Number]
		if !ok {
			t.Fatalf("%s has row %d, the stream has not", e.name, row.Number)
		}
		if seen[row.Number] {
			doubled++
		}
		seen[row.Number] = true
		if before, ok := last[p.Partition]; ok && p.Offset <= before {
			disordered++
		}
		last[p.Partition] = p.Offset
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if missing := len(places) - len(seen); missing != 0 || doubled != 0 || disordered != 0 {
		t.Errorf("%s, of %d rows: %d are missing, %d came twice, %d out of order", e.name, len(places), missing, doubled, disordered)
	}
}
