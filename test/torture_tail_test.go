package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// silence is how long a held-open read may say nothing, not even that it lives.
const silence = 15 * time.Second

// held reads a held-open answer line by line until ctx ends, the connection
// breaks, or each fails. A row is given as it is, a mark decoded. Its errors are
// those of each, *problem, or the connection's.
func (r *remote) held(ctx context.Context, path string, row func(*tortureRow) error, mark func(*heldMark) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+path, nil)
	if err != nil {
		return err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	idle := time.AfterFunc(silence, cancel)
	defer idle.Stop()
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		return problemIn(resp, text)
	}
	lines := bufio.NewReader(resp.Body)
	for {
		// A line without its end is a piece of one.
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		idle.Reset(silence)
		switch line = bytes.TrimSuffix(line, []byte{'\n'}); {
		case len(line) == 0: // a heartbeat
		case bytes.HasPrefix(line, []byte(`{"_thermocline":`)):
			m := &heldMark{}
			if err := json.Unmarshal(line, m); err != nil {
				return &wrong{fmt.Errorf("%w in %q", err, line)}
			}
			if m.Problem != nil {
				return m.Problem
			}
			if err := mark(m); err != nil {
				return err
			}
		default:
			got, err := parseTortureRow(line)
			if err != nil {
				return &wrong{err}
			}
			if err := row(&got); err != nil {
				return err
			}
		}
	}
}

// heldMark is a line that is no row.
type heldMark struct {
	Kind       string `json:"_thermocline"`
	Cursor     string
	Checkpoint int64
	Session    int64
	Partitions []int
	Problem    *problem
}

// wrong is what the test is looking for, unlike a broken connection.
type wrong struct{ err error }

func (w *wrong) Error() string { return w.err.Error() }

func wrongf(format string, args ...any) error { return &wrong{fmt.Errorf(format, args...)} }

// errCrash: the consumer was killed where it is most interesting.
var errCrash = errors.New("the consumer crashes here")

// tortureTail follows a stream by itself: what it reads goes into a table, and a
// cursor is stored with it. Table and position survive its crashes, the rest does
// not. Exactly once both are stored in one step, else one after the other.
type tortureTail struct {
	l       *ledger
	from    *remote
	name    string
	exactly bool
	// forgets begins again somewhere behind where it was: it reads epochs again
	// and again, from cursors old and new.
	forgets bool
	memory  []position
	rnd     *rand.Rand
	kill    killable

	mu       sync.Mutex // what is stored
	at       position
	table    table
	crashes  atomic.Int64
	sessions atomic.Int64
	rows     atomic.Int64
}

// position is what is stored beside the table.
type position struct {
	cursor string
	next   []int64 // by partition, what cursor should mean
	epoch  int64
}

func (p position) clone() position { return position{p.cursor, slices.Clone(p.next), p.epoch} }

// killable ends what a consumer is doing.
type killable struct {
	mu     sync.Mutex
	cancel context.CancelFunc
}

func (k *killable) begin(ctx context.Context) context.Context {
	k.mu.Lock()
	defer k.mu.Unlock()
	ctx, k.cancel = context.WithCancel(ctx)
	return ctx
}

func (k *killable) crash() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cancel != nil {
		k.cancel()
	}
}

func (c *tortureTail) run(ctx context.Context) error {
	for ctx.Err() == nil {
		c.sessions.Add(1)
		life := c.kill.begin(ctx)
		err := c.follow(life)
		crashed := errors.Is(err, errCrash) || life.Err() != nil
		c.kill.crash()
		if crashed {
			c.crashes.Add(1)
		}
		if bad := (*wrong)(nil); errors.As(err, &bad) || !crashed && !passing(err) {
			return fmt.Errorf("%s of %s: %w", c.name, c.l.st.name, err)
		}
		rest(ctx, time.Duration(10+c.rnd.IntN(150))*time.Millisecond)
	}
	return nil
}

func (c *tortureTail) follow(ctx context.Context) error {
	c.mu.Lock()
	if c.at.next == nil {
		c.at = position{"earliest", make([]int64, c.l.partitions), 0}
		c.table = newTable(c.l.partitions)
		c.memory = []position{c.at.clone()}
	}
	if c.forgets {
		c.at = c.memory[c.rnd.IntN(len(c.memory))].clone()
	}
	at := c.at.clone()
	from := at.cursor
	c.mu.Unlock()
	consistency := "AT_LEAST_ONCE"
	if c.exactly {
		consistency = "EXACTLY_ONCE"
	}
	var open []tortureRow
	row := func(r *tortureRow) error {
		if err := c.l.see(r); err != nil {
			return &wrong{err}
		}
		if want := at.next[r.Partition]; r.Offset != want {
			return wrongf("from cursor %s: after the rows below %d of partition %d came that at %d", from, want, r.Partition, r.Offset)
		}
		at.next[r.Partition]++
		c.rows.Add(1)
		open = append(open, *r)
		return nil
	}
	mark := func(m *heldMark) error {
		if c.exactly != (m.Kind == "checkpoint") {
			return wrongf("a mark %q within a read with %s", m.Kind, consistency)
		}
		if c.exactly {
			if m.Checkpoint <= at.epoch {
				return wrongf("epoch %d came after epoch %d", m.Checkpoint, at.epoch)
			}
			at.epoch = m.Checkpoint
			if err := c.l.epoch(at.epoch, partitionsTo(c.l.partitions), open); err != nil {
				return &wrong{err}
			}
		}
		at.cursor = m.Cursor
		err := c.store(open, at)
		open = open[:0]
		return err
	}
	return c.from.held(ctx, "/tail?cursors=line&system=true&consistency="+consistency+"&from="+from, row, mark)
}

func partitionsTo(n int) (all []int) {
	for p := range n {
		all = append(all, p)
	}
	return all
}

func (c *tortureTail) store(rows []tortureRow, at position) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	crash := len(rows) > 0 && c.rnd.IntN(50) == 0
	if c.exactly && crash {
		return errCrash
	}
	c.table.store(rows)
	if crash {
		return errCrash // stored, but the position is not: the rows come again
	}
	c.at = at.clone()
	if c.forgets && c.rnd.IntN(4) == 0 {
		if len(c.memory) == 32 {
			c.memory = slices.Delete(c.memory, 1, 2)
		}
		c.memory = append(c.memory, at.clone())
	}
	return nil
}

// behind tells how many rows below ends are not stored yet.
func (c *tortureTail) behind(ends []int64) (n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, end := range ends {
		at := int64(0)
		if p < len(c.at.next) {
			at = c.at.next[p]
		}
		n += max(0, end-at)
	}
	return n
}

func (c *tortureTail) check(ends []int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.table.check(ends, c.exactly && !c.forgets); err != nil {
		return fmt.Errorf("%s of %s: %w", c.name, c.l.st.name, err)
	}
	return nil
}

func (c *tortureTail) said() string {
	return fmt.Sprintf("%s of %s: %d rows delivered in %d sessions, %d crashes", c.name, strings.TrimPrefix(c.l.st.name, "default."), c.rows.Load(), c.sessions.Load(), c.crashes.Load())
}
