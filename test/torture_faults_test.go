package test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A fault is what happens in one cycle. It ends with the server at work and its
// connections good.
type fault struct {
	name   string
	weight int
	do     func(*torture, *testing.T)
}

// faults are drawn by weight; a quarter of the cycles has none. Each of those
// that every run must have is drawn once before the lot decides.
var faults = []fault{
	{"none", 32, func(x *torture, t *testing.T) { x.wait(1500) }},
	{"kill", 20, func(x *torture, t *testing.T) {
		x.kill(t)
		x.wait(400)
		x.s.start(t)
	}},
	{"kill while starting", 9, func(x *torture, t *testing.T) {
		x.kill(t)
		for range 1 + x.rnd.IntN(2) {
			x.startAndKill(t)
		}
		x.s.start(t)
	}},
	{"crash in an archive", 10, func(x *torture, t *testing.T) { x.crashInArchive(t) }},
	{"pause", 8, func(x *torture, t *testing.T) { x.pause(t, time.Duration(50+x.rnd.IntN(400))*time.Millisecond) }},
	{"pause beyond patience", 3, func(x *torture, t *testing.T) { x.pause(t, patience+time.Second) }},
	{"pause and kill", 6, func(x *torture, t *testing.T) {
		x.signal(t, syscall.SIGSTOP)
		x.wait(600)
		x.kill(t)
		x.s.start(t)
	}},
	{"SIGTERM", 7, func(x *torture, t *testing.T) {
		x.peak = max(x.peak, x.s.peakMemory(t))
		x.s.stop(t)
		x.s.start(t)
	}},
	{"cut", 6, func(x *torture, t *testing.T) { x.proxy.cut() }},
	{"half close", 3, func(x *torture, t *testing.T) { x.proxy.halfClose() }},
	{"lost answers", 6, func(x *torture, t *testing.T) {
		x.proxy.swallow.Store(true)
		x.wait(300)
		// An answer with a hole must not go on.
		x.proxy.cut()
		x.proxy.swallow.Store(false)
		x.proxy.cut()
	}},
	{"delay", 3, func(x *torture, t *testing.T) {
		x.proxy.delay.Store(int64(20 * time.Millisecond))
		x.wait(800)
		x.proxy.delay.Store(0)
	}},
	{"consumers killed", 4, func(x *torture, t *testing.T) {
		for _, c := range x.consumers {
			if x.rnd.IntN(2) == 0 {
				c.crash()
			}
		}
	}},
}

// pauseBeyondLeases comes a few times in a long run: the leases of a process
// that slept have expired.
var pauseBeyondLeases = fault{"pause beyond leases", 0, func(x *torture, t *testing.T) { x.pause(t, 32*time.Second) }}

func drawFault(r *rand.Rand) fault {
	total := 0
	for _, f := range faults {
		total += f.weight
	}
	n := r.IntN(total)
	for _, f := range faults {
		if n -= f.weight; n < 0 {
			return f
		}
	}
	panic("unreachable")
}

// plan draws the faults of a run: each kind once while there is room, a pause
// beyond the leases every 50 cycles, and else as the lot falls.
func planFaults(r *rand.Rand, cycles int) []fault {
	plan := slices.Clone(faults)
	for len(plan) < cycles {
		if len(plan)%50 == 49 {
			plan = append(plan, pauseBeyondLeases)
		} else {
			plan = append(plan, drawFault(r))
		}
	}
	r.Shuffle(len(plan), func(i, j int) { plan[i], plan[j] = plan[j], plan[i] })
	return plan[:cycles]
}

// wait takes up to that many milliseconds.
func (x *torture) wait(most int) { time.Sleep(time.Duration(x.rnd.IntN(most+1)) * time.Millisecond) }

func (x *torture) kill(t *testing.T) {
	t.Helper()
	x.peak = max(x.peak, x.s.peakMemory(t))
	x.s.kill(t)
}

func (x *torture) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := x.s.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func (x *torture) pause(t *testing.T, d time.Duration) {
	t.Helper()
	x.signal(t, syscall.SIGSTOP)
	time.Sleep(d)
	x.signal(t, syscall.SIGCONT)
}

// startAndKill starts the server and kills it at a random moment of its start,
// or shortly behind.
func (x *torture) startAndKill(t *testing.T) {
	t.Helper()
	cmd, ended, err := x.s.launch()
	if err != nil {
		t.Fatal(err)
	}
	x.wait(250)
	select {
	case <-ended:
		t.Fatalf("the server ended while it started: %s", cmd.ProcessState)
	default:
	}
	x.s.cmd, x.s.ended = cmd, ended
	x.s.kill(t)
}

// crashInArchive has the server kill itself behind a step of an archive, which
// comes soon: every stream is archived each second.
func (x *torture) crashInArchive(t *testing.T) {
	t.Helper()
	x.kill(t)
	step := archiveSteps[x.rnd.IntN(len(archiveSteps))]
	switch err := x.s.tryStart("THERMOCLINE_CRASH_AT=" + step); {
	case err == nil:
		x.s.awaitCrash(t)
	case !errors.Is(err, errEnded): // else it archived before it served
		t.Fatal(err)
	}
	x.s.start(t)
}

// tally counts faults by kind.
type tally map[string]int

func (n tally) String() string {
	var said []string
	for _, f := range append(faults[:len(faults):len(faults)], pauseBeyondLeases) {
		if n[f.name] > 0 {
			said = append(said, fmt.Sprintf("%s %d", f.name, n[f.name]))
		}
	}
	return strings.Join(said, ", ")
}
