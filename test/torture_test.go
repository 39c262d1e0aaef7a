package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// torture is a server under load and faults, with everything that watches it.
type torture struct {
	s     *server
	proxy *flaky
	rnd   *rand.Rand // of the faults alone
	gate  sync.RWMutex
	stop  context.CancelCauseFunc // ends everything, with a reason

	ledgers   []*ledger
	producers []*tortureProducer
	consumers []consumer
	batch     *batchReader

	faults tally
	peak   int64
}

// consumer follows a stream and keeps what it reads.
type consumer interface {
	run(ctx context.Context) error
	crash()
	behind(ends []int64) int64
	check(ends []int64) error
	ledger() *ledger
	said() string
}

func (c *tortureTail) crash()          { c.kill.crash() }
func (c *tortureTail) ledger() *ledger { return c.l }

// TestTorture holds the one promise that all others serve: whatever happens to
// the server, its connections and its clients, each acknowledged row is there
// once, where the answer said, in order; every reader sees the same; and each
// consumer's table has each row, exactly once where that was asked for.
//
// `make torture` runs it long: THERMOCLINE_TORTURE_CYCLES says how many cycles,
// and THERMOCLINE_TORTURE_SEED repeats the faults of an earlier run (though not
// the moments at which they meet the server).
func TestTorture(t *testing.T) {
	t.Parallel()
	cycles, every := 13, 1000
	if text := os.Getenv("THERMOCLINE_TORTURE_CYCLES"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("THERMOCLINE_TORTURE_CYCLES=%q: want a number of cycles", text)
		}
		cycles, every = n, 25
	}
	seed := rand.Uint64()
	if text := os.Getenv("THERMOCLINE_TORTURE_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("THERMOCLINE_TORTURE_SEED=%q: want the number that an earlier run printed", text)
		}
	}
	t.Logf("THERMOCLINE_TORTURE_SEED=%d", seed)
	x := newTorture(t, seed)

	begun := time.Now()
	ctx, stop := context.WithCancelCause(t.Context())
	defer stop(nil)
	x.stop = stop
	var running sync.WaitGroup
	work := func(run func(context.Context) error) {
		running.Go(func() {
			if err := run(ctx); err != nil {
				stop(err)
			}
		})
	}
	for _, p := range x.producers {
		work(p.run)
	}
	for _, c := range x.consumers {
		work(c.run)
	}
	work(x.batch.run)

	for i, f := range planFaults(x.rnd, cycles) {
		x.wait(1200)
		if ctx.Err() != nil {
			break
		}
		f.do(x, t)
		x.faults[f.name]++
		if t.Failed() {
			break
		}
		if i%every == every-1 && i < cycles-1 {
			x.audit(ctx, t)
			t.Logf("%d cycles, %d rows, %s", i+1, x.rows(), time.Since(begun).Round(time.Second))
		}
	}
	if ctx.Err() == nil && !t.Failed() {
		x.audit(ctx, t)
	}
	failed := context.Cause(ctx)
	stop(nil)
	running.Wait()
	if failed != nil {
		t.Error(failed)
	}
	x.peak = max(x.peak, x.s.peakMemory(t))
	x.s.stop(t)
	x.report(t, time.Since(begun))
	if x.peak > maxMemory && !raced {
		t.Errorf("the server held %d MiB, %d are the most", x.peak>>20, maxMemory>>20)
	}
}

func newTorture(t *testing.T, seed uint64) *torture {
	t.Helper()
	source := uint64(0)
	random := func() *rand.Rand {
		source++
		return rand.New(rand.NewPCG(seed, source))
	}
	x := &torture{s: startServer(t, checked), rnd: random(), faults: tally{}}
	x.proxy = newFlaky(t, x.s.address)
	x.batch = &batchReader{}
	for _, d := range []struct {
		name       string
		partitions int
		settings   string
		ordered    bool
	}{
		{"low", 5, `"type":"LOW_LATENCY"`, false},
		{"keyed", 4, `"type":"LOW_LATENCY","keyFields":["producer"]`, true},
		{"high", 7, `"type":"HIGH_THROUGHPUT","compressed":true`, false},
		{"avro", 1, `"datasetFormat":"AVRO","hotRetention":"3s"`, true},
	} {
		st := x.s.create(t, d.name, tortureSchema, fmt.Sprintf(`{"archiveInterval":"1s","partitions":%d,%s}`, d.partitions, d.settings))
		l := newLedger(st, d.partitions, d.ordered)
		x.ledgers = append(x.ledgers, l)
		for i := range 3 {
			name := fmt.Sprintf("%s-%d", d.name, i)
			x.producers = append(x.producers, &tortureProducer{
				l: l, to: newRemote(x.proxy.address(), st), name: name, number: l.addProducer(name), rnd: random(), gate: &x.gate,
			})
		}
		for _, c := range []*tortureTail{
			{name: "tail"},
			{name: "exactly-once tail", exactly: true},
			{name: "forgetful tail", exactly: true, forgets: true},
		} {
			c.l, c.from, c.rnd = l, newRemote(x.proxy.address(), st), random()
			x.consumers = append(x.consumers, c)
		}
		for _, exactly := range []bool{false, true} {
			name := "group"
			if exactly {
				name = "exactly-once-group"
			}
			x.consumers = append(x.consumers, newTortureGroup(t, l, x.proxy.address(), name, 1+d.partitions/2, exactly, random))
		}
		x.batch.ledgers = append(x.batch.ledgers, l)
		x.batch.from = append(x.batch.from, newRemote(x.proxy.address(), st))
		x.batch.ends = append(x.batch.ends, make([]int64, d.partitions))
	}
	return x
}

func (x *torture) rows() (n int64) {
	for _, l := range x.ledgers {
		n += l.rows()
	}
	return n
}

// audit waits until nothing is under way, and then nothing may be missing, in
// the streams, in the consumers' tables, and in the files of a server that was
// stopped.
func (x *torture) audit(ctx context.Context, t *testing.T) {
	t.Helper()
	stuck := time.AfterFunc(2*time.Minute, func() {
		x.stop(errors.New("the server is up and its connections are good, and two minutes later not every publish is acknowledged"))
	})
	x.gate.Lock() // each producer's request is acknowledged now
	defer x.gate.Unlock()
	stuck.Stop()
	if ctx.Err() != nil {
		return
	}
	ends := map[*ledger][]int64{}
	for _, l := range x.ledgers {
		at := make([]int64, l.partitions)
		for _, p := range l.st.offsets(t).Partitions {
			at[p.Partition] = p.End
		}
		ends[l] = at
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if ctx.Err() != nil {
			return
		}
		slow := slices.IndexFunc(x.consumers, func(c consumer) bool { return c.behind(ends[c.ledger()]) > 0 })
		if slow < 0 {
			break
		}
		if c := x.consumers[slow]; time.Now().After(deadline) {
			t.Errorf("a minute behind the last row, %s of %s lacks %d rows", c.said(), c.ledger().st.name, c.behind(ends[c.ledger()]))
			return
		}
	}
	for _, c := range x.consumers {
		if err := c.check(ends[c.ledger()]); err != nil {
			t.Error(err)
		}
	}
	x.wantAll(ctx, t, "at rest")
	for _, l := range x.ledgers {
		l.st.archive(t)
	}
	x.wantAll(ctx, t, "archived")
	for _, l := range x.ledgers {
		l.st.wantArchivedAll(t)
	}
	x.s.verify(t, false)
	x.peak = max(x.peak, x.s.peakMemory(t))
	x.s.stop(t)
	x.s.verify(t, true)
	x.s.start(t)
	x.wantAll(ctx, t, "started again")
}

// wantAll reads each stream in full, past the proxy: every row that was
// acknowledged, and no other.
func (x *torture) wantAll(ctx context.Context, t *testing.T, when string) {
	t.Helper()
	for _, l := range x.ledgers {
		rows, err := l.readAll(ctx, newRemote(x.s.address, l.st), make([]int64, l.partitions))
		if err == nil && rows != l.rows() {
			err = fmt.Errorf("%s: %d rows, %d were acknowledged", l.st.name, rows, l.rows())
		}
		if err != nil && ctx.Err() == nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}

// wantArchivedAll is wantArchived for any number of files.
func (s *stream) wantArchivedAll(t *testing.T) {
	t.Helper()
	o := s.offsets(t)
	if o.LagRows != 0 {
		t.Errorf("%s: %d rows are not archived after an archive", s.name, o.LagRows)
	}
	var list struct {
		Snapshots []struct{ TotalRows int64 }
	}
	s.get(t, "/v1/datasets/"+s.name+"/branches/main/snapshots?limit=1", &list)
	if len(list.Snapshots) != 1 || list.Snapshots[0].TotalRows != o.end() {
		t.Errorf("%s: the newest snapshot is %+v, %d rows were appended", s.name, list.Snapshots, o.end())
	}
}

// verify has the product's own oracle look, at the running server or at the
// files of a stopped one.
func (s *server) verify(t *testing.T, stopped bool) {
	t.Helper()
	args := []string{"verify", "--all", "--producer-column", "producer", "--sequence-column", "sequence"}
	if stopped {
		args = append(args, "--data", s.dir+"/data")
	}
	cmd := s.command(t, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("thermocline %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

var logError = regexp.MustCompile(`level=ERROR .{1,400}`)

// report prints what the run was.
func (x *torture) report(t *testing.T, took time.Duration) {
	var requests, retries, duplicates, asked int64
	for _, p := range x.producers {
		requests, retries = requests+p.requests.Load(), retries+p.retries.Load()
		duplicates, asked = duplicates+p.duplicates.Load(), asked+p.asked.Load()
	}
	cycles, killed := 0, 0
	for kind, n := range x.faults {
		cycles += n
		// A crash within an archive is a kill too; SIGTERM is none.
		if strings.Contains(kind, "kill") && kind != "consumers killed" || strings.HasPrefix(kind, "pause") || kind == "crash in an archive" {
			killed += n
		}
	}
	t.Logf("%d cycles in %s, in %d of them the server was killed or paused: %s", cycles, took.Round(time.Second), killed, x.faults)
	t.Logf("%d rows acknowledged in %d requests, %d retried, %d answered as duplicates, %d times a producer asked for its last", x.rows(), requests, retries, duplicates, asked)
	t.Logf("batch reads: %d whole, %d cut off, %d rows", x.batch.whole, x.batch.cut, x.batch.rows)
	for _, c := range x.consumers {
		t.Log(c.said())
	}
	epochs := 0
	for _, l := range x.ledgers {
		epochs += len(l.epochs)
	}
	t.Logf("%d epochs of partitions; peak memory of the server %d MiB", epochs, x.peak>>20)
	for i, line := range logError.FindAllString(x.s.log.tail(1<<30), 5) {
		t.Logf("error %d in the server's log: %s", i, line)
	}
}
