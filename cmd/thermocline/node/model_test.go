package node

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// modelOp is what a sequence consists of. It draws from its own seed, so that
// a sequence from which others were taken out still does the same, as far as
// there is something to do it with.
type modelOp struct {
	name string
	seed uint64
}

var operations = []struct {
	name   string
	weight int
	run    func(*machine, *rand.Rand) bool
}{
	{"create", 6, (*machine).opCreate},
	{"delete", 1, (*machine).opDelete},
	{"publish", 14, (*machine).opPublish},
	{"publish bad rows", 3, (*machine).opPublishBad},
	{"publish together", 5, (*machine).opPublishTogether},
	{"publish, answer lost", 3, (*machine).opPublishLost},
	{"producer", 10, (*machine).opProducer},
	{"producer again", 10, (*machine).opProducerAgain},
	{"producer state", 4, (*machine).opProducerState},
	{"idempotency key", 5, (*machine).opIdempotencyKey},
	{"settings", 5, (*machine).opSettings},
	{"evolve", 7, (*machine).opEvolve},
	{"reset", 2, (*machine).opReset},
	{"archive", 9, (*machine).opArchive},
	{"archive with others", 5, (*machine).opArchiveMidst},
	{"checkpoint", 8, (*machine).opCheckpoint},
	{"prune", 2, (*machine).opPrune},
	{"read", 6, (*machine).opRead},
	{"select", 12, (*machine).opSelect},
	{"cursor", 14, (*machine).opCursor},
	{"bad cursor", 3, (*machine).opBadCursor},
	{"epochs", 6, (*machine).opEpochs},
	{"tail", 4, (*machine).opTail},
	{"tails", 5, (*machine).opTails},
	{"history", 3, (*machine).opHistory},
	{"compact", 3, (*machine).opCompact},
	{"expire", 3, (*machine).opExpire},
	{"engine", 4, (*machine).opEngine},
	{"subscriber", 7, (*machine).opSubscriber},
	{"subscriber state", 3, (*machine).opSubscriberState},
	{"sleep", 4, (*machine).opSleep},
	{"wake", 5, (*machine).opWake},
	{"clock", 3, (*machine).opClock},
	{"restart", 3, (*machine).opRestart},
	{"crash", 4, (*machine).opCrash},
	{"crash under load", 3, (*machine).opCrashUnderLoad},
}

// whatMatters are things that must happen within the operations.
var whatMatters = []string{
	"archive waits for a lease", "archive with a fault", "collect of files", "commit of a subscriber", "commit of a zombie",
	"compact of files", "cursor of a view that is gone", "epoch", "evolve: add", "evolve: drop", "evolve: rename", "evolve: reorder",
	"evolve: reuse", "evolve: widen", "expire of versions", "fenced", "gap", "new producer epoch", "old producer epoch",
	"publish arrow", "publish avro", "publish json", "retry", "retry by key", "retry of a lost answer", "sequence too old",
	"settings with a fault", "tail AT_LEAST_ONCE", "tail EXACTLY_ONCE", "tail of a view that is gone",
}

// sequence returns the operations of a seed.
func sequence(seed uint64, length int) []modelOp {
	r := rand.New(rand.NewPCG(seed, 1))
	total := 0
	for _, o := range operations {
		total += o.weight
	}
	out := make([]modelOp, length)
	for i := range out {
		w := r.IntN(total)
		for _, o := range operations {
			if w -= o.weight; w < 0 {
				out[i] = modelOp{o.name, r.Uint64()}
				break
			}
		}
	}
	return out
}

// runSequence runs operations in an empty directory. It returns what was done,
// which operation failed, if any, and how.
func runSequence(t *testing.T, seed uint64, ops []modelOp, dir string) (done map[string]int, at int, err error) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m := newMachine(ctx, t, dir, rand.New(rand.NewPCG(seed, 2)))
	defer func() {
		if p := recover(); p != nil {
			f, ok := p.(modelFailure)
			if !ok {
				f = modelFailure{fmt.Errorf("panic: %v\n%s", p, debug.Stack())}
			}
			done, err = m.done, f.error
		}
		m.end()
	}()
	m.open()
	m.opCreate(rand.New(rand.NewPCG(seed, 3)))
	for i, o := range ops {
		at = i
		r := rand.New(rand.NewPCG(o.seed, 4))
		for _, known := range operations {
			if known.name == o.name && known.run(m, r) {
				m.count(o.name)
			}
		}
	}
	at = len(ops)
	m.finally()
	return m.done, at, nil
}

// finally checks everything once more: as it is, archived, and after a restart.
func (m *machine) finally() {
	r := rand.New(rand.NewPCG(5, 5))
	for _, o := range m.sleepers {
		if o.asleep() {
			m.opWake(r)
		}
	}
	for range 2 {
		m.opTails(r)
		for _, name := range m.names3() {
			s := m.streams[name]
			m.settle(s)
			m.archive(s)
			m.settle(s)
			m.audit(s)
			m.learn(s)
		}
		m.reopen(r, false)
	}
}

// shrink takes operations out of a sequence as long as it fails all the same.
func shrink(t *testing.T, seed uint64, ops []modelOp, until time.Time) ([]modelOp, error) {
	var last error
	fails := func(ops []modelOp) bool {
		_, _, err := runSequence(t, seed, ops, modelDir(t))
		if err != nil {
			last = err
		}
		return err != nil
	}
	for n := (len(ops) + 1) / 2; n > 0 && time.Now().Before(until); {
		smaller := false
		for i := 0; i+n <= len(ops) && time.Now().Before(until); {
			if fewer := slices.Delete(slices.Clone(ops), i, i+n); fails(fewer) {
				ops, smaller = fewer, true
			} else {
				i += n
			}
		}
		if !smaller {
			n /= 2
		}
	}
	return ops, last
}

// TestModel runs random operations against a node and against a model of what it
// must hold, and compares them all the time.
//
//	THERMOCLINE_MODEL_SEED=7          only the sequence with this seed
//	THERMOCLINE_MODEL_KEEP=3,8,20     only these of its operations
//	THERMOCLINE_TORTURE=10m           new sequences for so long
func TestModel(t *testing.T) {
	t.Parallel()
	const length = 150
	var mu sync.Mutex
	done, sequences := map[string]int{}, 0
	run := func(t *testing.T, seed uint64, ops []modelOp) {
		got, at, err := runSequence(t, seed, ops, modelDir(t))
		mu.Lock()
		defer mu.Unlock()
		sequences++
		for name, n := range got {
			done[name] += n
		}
		if err == nil {
			return
		}
		var log strings.Builder
		whole := ops
		ops = ops[:min(at+1, len(ops))]
		if os.Getenv("THERMOCLINE_MODEL_KEEP") == "" {
			small, serr := shrink(t, seed, ops, time.Now().Add(30*time.Second))
			if serr != nil {
				ops = small
				fmt.Fprintf(&log, "with fewer operations: %v\n", serr)
			}
		}
		var keep []string
		for _, o := range ops {
			i := slices.Index(whole, o)
			keep = append(keep, strconv.Itoa(i))
			fmt.Fprintf(&log, "%4d %s\n", i, o.name)
		}
		t.Fatalf("operation %d of seed %d: %v\n%sTHERMOCLINE_MODEL_SEED=%d THERMOCLINE_MODEL_KEEP=%s", at, seed, err, log.String(), seed, strings.Join(keep, ","))
	}
	if text := os.Getenv("THERMOCLINE_MODEL_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ops := sequence(seed, length)
		if text := os.Getenv("THERMOCLINE_MODEL_KEEP"); text != "" {
			var kept []modelOp
			for _, s := range strings.Split(text, ",") {
				i, err := strconv.Atoi(s)
				if err != nil || i < 0 || i >= len(ops) {
					t.Fatalf("no operation %q", s)
				}
				kept = append(kept, ops[i])
			}
			ops = kept
		}
		run(t, seed, ops)
		return
	}
	first, last, until := uint64(1), uint64(40), time.Time{}
	if raceEnabled {
		last = 16
	}
	if text := os.Getenv("THERMOCLINE_TORTURE"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		first, last, until = uint64(time.Now().UnixNano()), ^uint64(0), time.Now().Add(d)
	}
	var workers sync.WaitGroup
	seeds := make(chan uint64)
	for range 2 {
		workers.Go(func() {
			for seed := range seeds {
				t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { run(t, seed, sequence(seed, length)) })
			}
		})
	}
	for seed := first; seed <= last && !t.Failed() && (until.IsZero() || time.Now().Before(until)); seed++ {
		seeds <- seed
	}
	close(seeds)
	workers.Wait()
	if t.Failed() {
		return
	}
	sum := 0
	for _, name := range slices.Sorted(maps.Keys(done)) {
		t.Logf("%6d %s", done[name], name)
	}
	for _, name := range whatMatters {
		if done[name] == 0 {
			t.Errorf("%q never happened", name)
		}
	}
	for _, o := range operations {
		sum += done[o.name]
		if done[o.name] == 0 {
			t.Errorf("%q was never done", o.name)
		}
	}
	t.Logf("%6d operations in %d sequences", sum, sequences)
}

// modelDir is a directory in memory where there is one: the catalog syncs at every
// commit, and no test could tell whether that worked.
func modelDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "model-") //nolint:usetesting // t.TempDir is on disk
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
