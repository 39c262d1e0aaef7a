package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// tortureGroup is a subscriber that members share, with one table for all of
// them. Exactly once, an epoch's rows of the partitions that a member has and
// the position behind them are stored in one step, and the commit to the server
// comes after it: a member that dies between leaves an epoch that is delivered
// again, and is recognised. At least once, a member that dies leaves rows that
// are stored again.
type tortureGroup struct {
	l       *ledger
	name    string
	exactly bool
	members []*tortureMember
	perturb atomic.Int64 // sessions that ended by the test's own doing
	zombies atomic.Int64 // commits of earlier sessions, which were refused

	mu        sync.Mutex
	table     table
	next      []int64 // stored, by partition
	committed []int64 // acknowledged as committed by the server
	rows      int64
	again     int64 // rows delivered that were stored already
	commits   int64
	fenced    int64
}

// tortureMember is one member: it joins, reads and commits until it is killed,
// and joins again under the same name.
type tortureMember struct {
	g    *tortureGroup
	from *remote
	name string
	rnd  *rand.Rand
	kill killable

	session int64  // the last one
	last    []byte // its last commit
}

func newTortureGroup(t *testing.T, l *ledger, proxy, name string, members int, exactly bool, random func() *rand.Rand) *tortureGroup {
	t.Helper()
	g := &tortureGroup{
		l: l, name: name, exactly: exactly,
		table: newTable(l.partitions), next: make([]int64, l.partitions), committed: make([]int64, l.partitions),
	}
	consistency := "AT_LEAST_ONCE"
	if exactly {
		consistency = "EXACTLY_ONCE"
	}
	l.st.post(t, l.st.path+"/subscribers", map[string]any{"id": name, "consistency": consistency, "start": map[string]string{"type": "earliest"}}, nil)
	for i := range members {
		g.members = append(g.members, &tortureMember{g: g, from: newRemote(proxy, l.st), name: fmt.Sprintf("m%d", i), rnd: random()})
	}
	return g
}

func (g *tortureGroup) ledger() *ledger { return g.l }

func (g *tortureGroup) crash() {
	for i, m := range g.members {
		if i%2 == 0 {
			m.kill.crash()
		}
	}
}

func (g *tortureGroup) run(ctx context.Context) error {
	failed := make(chan error, len(g.members))
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, m := range g.members {
		all.Go(func() {
			if err := m.run(ctx); err != nil {
				failed <- fmt.Errorf("%s of %s, member %s: %w", g.name, g.l.st.name, m.name, err)
				cancel()
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func (m *tortureMember) run(ctx context.Context) error {
	for ctx.Err() == nil {
		life := m.kill.begin(ctx)
		err := m.read(life)
		crashed := errors.Is(err, errCrash) || life.Err() != nil
		m.kill.crash()
		if crashed {
			m.g.perturb.Add(1)
		}
		if bad := (*wrong)(nil); errors.As(err, &bad) || !crashed && !passing(err) && !fenced(err) {
			return err
		}
		rest(ctx, time.Duration(10+m.rnd.IntN(300))*time.Millisecond)
	}
	return nil
}

func fenced(err error) bool {
	p := (*problem)(nil)
	return errors.As(err, &p) && p.Code == "SUBSCRIBER_FENCED"
}

// membership is one session of a member.
type membership struct {
	session  int64
	assigned int           // how often
	mine     []int         // partitions
	next     map[int]int64 // where delivery stands, of those that had any
	epoch    int64
	floor    []int64 // committed before it joined: nothing below comes again
	open     []tortureRow
}

func (m *tortureMember) read(ctx context.Context) error {
	g := m.g
	g.mu.Lock()
	s := &membership{next: map[int]int64{}, floor: slices.Clone(g.committed)}
	g.mu.Unlock()
	row := func(r *tortureRow) error {
		if err := g.l.see(r); err != nil {
			return &wrong{err}
		}
		return s.take(r)
	}
	mark := func(k *heldMark) error {
		switch k.Kind {
		case "assignment":
			if err := s.assign(k, g.exactly); err != nil {
				return err
			}
			return m.haunt(ctx, s.session)
		case "checkpoint":
			if !g.exactly {
				return wrongf("a checkpoint in a read at least once")
			}
			if k.Checkpoint <= s.epoch {
				return wrongf("epoch %d came after epoch %d", k.Checkpoint, s.epoch)
			}
			s.epoch = k.Checkpoint
			if err := g.l.epoch(s.epoch, partitionsOf(s.open), s.open); err != nil {
				return &wrong{err}
			}
		case "cursor":
			if g.exactly {
				if len(s.open) > 0 {
					return wrongf("a cursor within an epoch of a read exactly once")
				}
				return nil
			}
		default:
			return wrongf("an unknown mark %+v", k)
		}
		return m.store(ctx, s, k)
	}
	path := "/subscribers/" + url.PathEscape(g.name) + "/rows?system=true&member=" + m.name
	err := m.from.held(ctx, path, row, mark)
	return err
}

// partitionsOf leaves out partitions without rows: one that the member was given
// a moment ago may have been ahead of the others.
func partitionsOf(rows []tortureRow) (all []int) {
	for i := range rows {
		if p := rows[i].Partition; !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// haunt commits again for the session before this one, as a process does that
// was asleep while its successor joined. It must be told that it is dead.
func (m *tortureMember) haunt(ctx context.Context, session int64) error {
	if m.session == session {
		return nil
	}
	before, last := m.session, m.last
	m.session, m.last = session, nil
	if last == nil {
		return nil
	}
	err := m.commit(ctx, last)
	switch {
	case err == nil:
		return wrongf("session %d has begun, and a commit of session %d was taken", session, before)
	case fenced(err):
		m.g.zombies.Add(1)
		return nil
	case passing(err):
		return nil
	}
	return err
}

func (m *tortureMember) commit(ctx context.Context, body []byte) error {
	_, err := m.from.call(ctx, http.MethodPost, "/subscribers/"+url.PathEscape(m.g.name)+"/commit", http.Header{"Content-Type": {"application/json"}}, body)
	return err
}

func (s *membership) assign(k *heldMark, exactly bool) error {
	if s.session != 0 && k.Session != s.session {
		return wrongf("session %d became session %d", s.session, k.Session)
	}
	s.session, s.mine = k.Session, slices.Clone(k.Partitions)
	s.assigned++
	if exactly {
		// An epoch that is not complete is void. Partitions that were kept go on
		// behind the last whole one, others may be some epochs behind.
		for i := range s.open {
			r := &s.open[i]
			if at, ok := s.next[r.Partition]; ok && r.Offset < at {
				s.next[r.Partition] = r.Offset
			}
		}
		s.open, s.epoch = nil, 0
	}
	for p := range s.next {
		if !slices.Contains(s.mine, p) {
			delete(s.next, p) // it may come back at another place
		}
	}
	return nil
}

func (s *membership) take(r *tortureRow) error {
	if !slices.Contains(s.mine, r.Partition) {
		return wrongf("session %d has partitions %v and got the row at %+v", s.session, s.mine, r.place)
	}
	if at, ok := s.next[r.Partition]; ok && r.Offset != at {
		return wrongf("session %d: after the rows below %d of partition %d came that at %d", s.session, at, r.Partition, r.Offset)
	}
	if floor := s.floor[r.Partition]; r.Offset < floor {
		return wrongf("session %d: the rows below %d of partition %d had been committed before it joined, and that at %d came", s.session, floor, r.Partition, r.Offset)
	}
	s.next[r.Partition] = r.Offset + 1
	s.open = append(s.open, *r)
	return nil
}

// store puts the open rows into the group's table, and then commits.
func (m *tortureMember) store(ctx context.Context, s *membership, k *heldMark) error {
	g := m.g
	rows := s.open
	s.open = nil
	if err := g.keep(s, rows, m.rnd.IntN(60) == 0 && len(rows) > 0); err != nil {
		return err
	}
	if m.rnd.IntN(60) == 0 && len(rows) > 0 {
		return errCrash // stored and not committed
	}
	body := map[string]any{"session": s.session, "cursor": k.Cursor}
	// An epoch's number says less than its cursor once partitions were given
	// later: for those it may have been sent again.
	if g.exactly && s.assigned == 1 && m.rnd.IntN(2) == 0 {
		body = map[string]any{"session": s.session, "checkpoint": k.Checkpoint}
	}
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	m.last = text
	err = m.commit(ctx, text)
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err == nil:
		g.commits++
		for p, at := range s.next {
			g.committed[p] = max(g.committed[p], at)
		}
	case fenced(err):
		g.fenced++
	case passing(err):
		// Its outcome is unknown. A later one covers it, or the rows come again.
		return nil
	}
	return err
}

// keep is the transaction of the group's table: rows, and how far they go.
func (g *tortureGroup) keep(s *membership, rows []tortureRow, crash bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if crash && g.exactly {
		return errCrash // neither
	}
	var fresh []tortureRow
	for i := range rows {
		r := &rows[i]
		switch at := g.next[r.Partition]; {
		case r.Offset > at:
			return wrongf("session %d: the row at %d of partition %d came, and the group has stored those below %d", s.session, r.Offset, r.Partition, at)
		case r.Offset < at && g.exactly:
			g.again++ // an epoch that was stored and whose commit was lost
		case r.Offset < at:
			g.again++
			fresh = append(fresh, *r)
		default:
			g.next[r.Partition]++
			fresh = append(fresh, *r)
		}
	}
	g.rows += int64(len(rows))
	g.table.store(fresh)
	if crash {
		return errCrash // the rows are stored and will come again
	}
	return nil
}

func (g *tortureGroup) behind(ends []int64) (n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p, end := range ends {
		n += max(0, end-g.next[p])
	}
	return n
}

func (g *tortureGroup) check(ends []int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.table.check(ends, g.exactly); err != nil {
		return fmt.Errorf("%s of %s: %w", g.name, g.l.st.name, err)
	}
	return nil
}

func (g *tortureGroup) said() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return fmt.Sprintf("subscriber %s of %s, %d members: %d rows delivered, %d of them again, %d commits, %d fenced, %d zombies refused, %d members killed",
		g.name, strings.TrimPrefix(g.l.st.name, "default."), len(g.members), g.rows, g.again, g.commits, g.fenced, g.zombies.Load(), g.perturb.Load())
}
