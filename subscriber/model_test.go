package subscriber_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/subscriber"
)

// TestModel lets members join, leave, crash, stall, take names over and commit at
// random, while rows come, partitions are added, rows are archived and the
// coordinator starts again. Whatever happens, no position may stand behind a row
// that no member has stored, every row arrives, and exactly once none comes
// where it is not expected. A failure prints its seed; THERMOCLINE_SEED replays
// its choices.
func TestModel(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if text := os.Getenv("THERMOCLINE_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	for i, m := range []*model{
		{consistency: catalog.AtLeastOnce, members: 5},
		{consistency: catalog.ExactlyOnce, members: 5},
		{consistency: catalog.ExactlyOnce, members: 1},
	} {
		t.Run(fmt.Sprint(m.consistency, m.members), func(t *testing.T) {
			t.Parallel()
			t.Logf("replay with THERMOCLINE_SEED=%d", seed)
			m.rnd = rand.New(rand.NewPCG(seed, uint64(i)))
			m.run(t)
		})
	}
}

type model struct {
	consistency reader.Consistency
	members     int
	rnd         *rand.Rand
	e           *env
	partitions  int
	live        []*consumer
	dead        []*consumer
	out         output
	n           counts
}

// counts of what happened, so that one sees that it did.
type counts struct{ joins, crashes, leaves, restarts, rows, repeated, commits, fenced int }

// output is what all members store into, each in transactions.
type output struct {
	mu     sync.Mutex
	single bool
	// next is how far each partition is stored; beyond are rows further on, which
	// at least once may come first.
	next   record.Offsets
	beyond map[row]bool
	values map[int64]bool
	cuts   []record.Offsets // by checkpoint number
	wrong  error
	n      counts
}

func (o *output) fail(format string, args ...any) {
	if o.wrong == nil {
		o.wrong = fmt.Errorf(format, args...)
	}
}

// store takes rows of epoch (0: at least once). mu is held.
func (o *output) store(rows []row, epoch int64) {
	for _, r := range rows {
		o.n.rows++
		if epoch > 0 && int(epoch) < len(o.cuts) {
			if from, to := o.cuts[epoch-1].At(r.p), o.cuts[epoch].At(r.p); r.o < from || r.o >= to {
				o.fail("row %v in epoch %d, which is [%v,%v)", r, epoch, from, to)
			}
		}
		next := o.next.At(r.p)
		if r.o < next || o.beyond[row{r.p, r.o, 0}] {
			o.n.repeated++
			if o.single && epoch > 0 {
				o.fail("row %v came again, stored up to %v", r, next)
			}
			continue
		}
		if epoch > 0 && r.o > next {
			o.fail("row %v came, but %v is missing", r, next)
		}
		if o.values[r.n] {
			o.fail("value %d of row %v is stored already", r.n, r)
		}
		o.values[r.n] = true
		o.beyond[row{r.p, r.o, 0}] = true
		for o.beyond[row{r.p, o.next.At(r.p), 0}] {
			delete(o.beyond, row{r.p, o.next.At(r.p), 0})
			o.next = o.next.With(r.p, o.next.At(r.p)+1)
		}
	}
}

// committed checks a position that the server believes.
func (o *output) committed(at reader.Cursor) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.next.Covers(at.Next) {
		o.fail("committed up to %v, but only %v is stored", at.Next, o.next)
	}
}

// consumer is a member that stores what it gets, and commits now and then.
type consumer struct {
	m       *model
	e       *env
	name    string
	s       *subscriber.Session
	cancel  context.CancelFunc
	done    chan struct{}
	rnd     *rand.Rand
	often   int // it commits one time in so many
	stalls  bool
	cursor  reader.Cursor
	last    bool // commits everything
	session int64
	err     error // why it ended; when done is closed
}

func (m *model) join(name string, last bool) {
	e := m.e
	reading, cancel := context.WithCancel(ctx)
	j := subscriber.Join{Member: name, Request: reader.Request{System: true}}
	if m.consistency == catalog.ExactlyOnce {
		m.out.mu.Lock()
		j.Resume = &reader.Cursor{View: e.target().View, Next: m.out.next.Clone()}
		m.out.mu.Unlock()
	}
	s, err := e.c.Join(reading, ref, "g", j)
	if err != nil {
		cancel()
		e.t.Fatal(err)
	}
	m.n.joins++
	c := &consumer{
		m: m, e: e, name: name, s: s, cancel: cancel, done: make(chan struct{}), session: s.Number(),
		rnd: rand.New(rand.NewPCG(m.rnd.Uint64(), 0)), often: 1 + m.rnd.IntN(4), stalls: m.rnd.IntN(8) == 0 && !last, last: last,
	}
	m.live = append(m.live, c)
	go c.run()
}

func (c *consumer) run() {
	defer close(c.done)
	o := &c.m.out
	var open []row
	for ev, err := range c.s.Events() {
		if err != nil {
			c.err = err
			return
		}
		if ev.Assignment != nil {
			open = nil
			// Where it resumes it is done already.
			if c.last || c.rnd.IntN(c.often) == 0 {
				c.cursor = ev.Assignment.Position
				c.commit(0)
			}
			continue
		}
		b := ev.Batch
		rows := rowsOf(b)
		if c.m.consistency == catalog.ExactlyOnce {
			if open = append(open, rows...); !b.EpochEnd {
				continue
			}
			rows, open = open, nil
		}
		o.mu.Lock()
		o.store(rows, b.Epoch)
		o.mu.Unlock()
		c.cursor = b.Next
		if c.stalls {
			<-c.e.later(c.rnd.IntN(200))
		}
		if c.last || c.rnd.IntN(c.often) == 0 {
			c.commit(b.Epoch)
		}
	}
}

// later is a pause of ms milliseconds.
func (e *env) later(ms int) <-chan time.Time { return time.After(time.Duration(ms) * time.Millisecond) }

func (c *consumer) commit(epoch int64) {
	q := subscriber.Commit{Session: c.session, Cursor: &c.cursor}
	if epoch != 0 && c.rnd.IntN(2) == 0 {
		q = subscriber.Commit{Session: c.session, Epoch: epoch}
	}
	at, err := c.m.coordinator().Commit(ctx, ref, "g", q)
	o := &c.m.out
	switch {
	case err == nil:
		o.committed(at)
	case errors.Is(err, subscriber.ErrSessionFenced), errors.Is(err, record.ErrClosed):
	case q.Epoch != 0 && errors.Is(err, record.ErrInvalid): // sent more than once
		q.Epoch, q.Cursor = 0, &c.cursor
		at, err = c.m.coordinator().Commit(ctx, ref, "g", q)
		if err == nil {
			o.committed(at)
			break
		}
		if errors.Is(err, subscriber.ErrSessionFenced) || errors.Is(err, record.ErrClosed) {
			break
		}
		fallthrough
	default:
		o.mu.Lock()
		o.fail("commit of session %d: %w", c.session, err)
		o.mu.Unlock()
	}
	o.mu.Lock()
	o.n.commits++
	if err != nil {
		o.n.fenced++
	}
	o.mu.Unlock()
}

// coordinator is the one that runs now.
func (m *model) coordinator() *subscriber.Coordinator {
	m.out.mu.Lock()
	defer m.out.mu.Unlock()
	return m.e.c
}

func (m *model) run(t *testing.T) {
	m.e = newEnv(t, 2, subscriber.Options{HandoverTimeout: 20 * time.Millisecond, CommitTimeout: 150 * time.Millisecond})
	m.partitions = 2
	m.out = output{single: m.members == 1, beyond: map[row]bool{}, values: map[int64]bool{}, cuts: []record.Offsets{nil}}
	e := m.e
	e.create("g", m.consistency)
	for step := range 400 {
		m.step(step)
		<-e.later(m.rnd.IntN(4))
	}
	for len(m.live) > 0 {
		m.end(0, false)
	}
	m.take()
	m.join("last", true)
	for limit := time.Now().Add(20 * time.Second); !e.get("g").Position.Next.Equal(e.ends()); <-e.later(5) {
		m.out.mu.Lock()
		wrong := m.out.wrong
		m.out.mu.Unlock()
		last := m.live[0]
		select {
		case <-last.done: // expelled, on a slow machine
			if !errors.Is(last.err, subscriber.ErrSessionFenced) {
				t.Fatalf("the last member ended with %v", last.err)
			}
			m.end(0, false)
			m.join("last", true)
		default:
		}
		if wrong != nil || time.Now().After(limit) {
			t.Fatalf("%v; committed %v, stored %v, ends %v", wrong, e.get("g").Position, m.out.next, e.ends())
		}
	}
	m.end(0, false)
	m.zombies()
	m.out.mu.Lock()
	defer m.out.mu.Unlock()
	if m.out.wrong != nil {
		t.Fatal(m.out.wrong)
	}
	if !m.out.next.Equal(e.ends()) || int64(len(m.out.values)) != e.next.Load() {
		t.Fatalf("stored %v of %v", m.out.next, e.ends())
	}
	t.Logf("%d partitions, %d rows sent, %d repeated, %d commits, %d of them fenced; %+v", m.partitions, m.out.n.rows, m.out.n.repeated, m.out.n.commits, m.out.n.fenced, m.n)
}

// take makes a checkpoint, and remembers it for the contents of epochs.
func (m *model) take() {
	m.out.mu.Lock()
	defer m.out.mu.Unlock()
	if cp := m.e.checkpoint(); int(cp.Number) == len(m.out.cuts) {
		m.out.cuts = append(m.out.cuts, cp.Cut)
	}
}

func (m *model) step(step int) {
	e := m.e
	switch k := m.rnd.IntN(100); {
	case k < 40:
		e.publish(record.Partition(m.rnd.IntN(m.partitions)), 1+m.rnd.IntN(20))
	case k < 60:
		m.take()
	case k < 65:
		m.take()
		e.archive()
	case k < 67 && m.partitions < 8:
		m.partitions++
		e.grow(m.partitions)
	case k < 80:
		name := fmt.Sprint("m", m.rnd.IntN(m.members))
		if m.members == 1 {
			// A client has one life at a time; that is what makes its store its own.
			for len(m.live) > 0 {
				m.end(0, true)
			}
		}
		m.join(name, false)
	case k < 90 && len(m.live) > 0:
		m.end(m.rnd.IntN(len(m.live)), m.rnd.IntN(2) == 0)
	case k < 92:
		m.n.restarts++
		m.out.mu.Lock()
		e.stop()
		e.start()
		m.out.mu.Unlock()
	case k < 95:
		m.zombies()
	}
}

// end has a member go: well, with a commit of what it has, or by a crash.
func (m *model) end(i int, crash bool) {
	c := m.live[i]
	m.live = slices.Delete(m.live, i, i+1)
	m.dead = append(m.dead, c)
	if crash {
		m.n.crashes++
	} else {
		m.n.leaves++
	}
	c.cancel()
	<-c.done
}

// zombies try what they can. They are fenced, or have nothing to say.
func (m *model) zombies() {
	before := m.e.get("g").Position
	for _, c := range m.dead {
		at := c.cursor
		if at.View == 0 {
			continue
		}
		_, err := m.e.c.Commit(ctx, ref, "g", subscriber.Commit{Session: c.session, Cursor: &at})
		if !errors.Is(err, subscriber.ErrSessionFenced) {
			m.e.t.Fatalf("the commit of session %d, which is over: %v (position %v)", c.session, err, before)
		}
	}
	if len(m.dead) > 20 {
		m.dead = slices.Delete(m.dead, 0, len(m.dead)-20)
	}
}
