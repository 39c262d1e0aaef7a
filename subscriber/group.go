package subscriber

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// slotState is where a partition is on its way from one member to another:
//
//	      give               another shall have it
//	free ------> owned -------------------------------> revoking
//	 ^             |                                        |
//	 |   its member goes          all committed, or timeout, or its member goes
//	 +-------------+----------------------------------------+
//
// A partition that is revoked and then meant for its member again is owned again.
type slotState uint8

const (
	// free: nobody has it.
	free slotState = iota
	// owned: it is delivered to its owner.
	owned
	// revoking: it is no longer delivered to its owner, who may still commit.
	revoking
)

// slot is a partition of a group.
type slot struct {
	state    slotState
	owner    *member   // nil: free
	wanted   int64     // the session that shall have it, 0: none
	deadline time.Time // revoking: it is handed over then, whatever is committed
	// busy counts the commits under way that move it. While there are any it is
	// given to nobody: who gets it begins behind them.
	busy      int
	committed record.Offset // durable
}

// group is a subscriber that is being read: its members and who has what. It
// stands on one generation of the subscriber and on one view; when either
// passes, it ends with all its sessions, and the next to join makes another.
//
// Guest rows (see reader.Cursor) come with partition 0: who owns that is given them,
// and may commit them.
//
// mu is a leaf: no other lock is taken and nothing waited for while it is held.
type group struct {
	ref      Ref
	sub      catalog.Subscriber // as it was loaded; the position moves in slots
	handover time.Duration
	patience time.Duration // for commits

	mu      sync.Mutex
	over    error // why it ended; nil while it lives
	slots   []slot
	members []*member // by session
	guests  int64     // the guest sequence that is committed
	epoch   int64     // a checkpoint that the position covers, exactly once
}

// member is one session. Guarded by its group's mu, but for what never changes.
type member struct {
	session int64
	name    string
	joined  time.Time
	resume  reader.Cursor // what the client said it has

	// end is why the session is over; nil while it lives.
	end error
	// version counts the changes of what is delivered to it. stop wakes its
	// reading of the version before; nil while it reads none.
	version int
	stop    func()

	// delivered is how far it was sent rows, exactly once only whole epochs, in
	// the partitions that it has; it may commit that far. dirty is where rows
	// that it has to commit end.
	delivered []record.Offset
	dirty     []record.Offset
	// cleared is where it stood in a partition that it gave away with all rows
	// committed: its cursors may stand there still, and mean no commit.
	cleared []record.Offset
	// guests are the same for guest rows. Rows of a part that is not complete are no
	// reason to commit: within says how far they go, for the next turn.
	guests struct {
		delivered, dirty, cleared, begun int64
		within                           *reader.Within
		rows                             bool // of that part
	}
	// waiting is when what it has to commit began to wait, or when it last
	// committed; zero: there is nothing.
	waiting time.Time

	// Exactly once.
	open      bool   // rows of an epoch that is not complete were sent
	marks     []mark // the newest complete epochs, oldest first
	newest    int64  // the largest number among all that were sent
	repeating int64  // numbers up to this one may be sent more than once
	// begun is delivered when the turn began: in these partitions the ends of
	// epochs of the others stand there.
	begun []record.Offset
}

// mark is the end of an epoch as a session was sent it.
type mark struct {
	epoch  int64
	next   record.Offsets
	guests int64
	again  bool // the number may have been sent before
	whole  bool // the session had all partitions
}

// maxMarks bounds what a session remembers of its epochs; the catalog knows the
// cuts of older ones.
const maxMarks = 32

func newGroup(ref Ref, s catalog.Subscriber, handover, patience time.Duration) *group {
	return &group{ref: ref, sub: s, handover: handover, patience: patience, guests: s.Guests, epoch: s.Checkpoint}
}

func (g *group) exactly() bool { return g.sub.Consistency == catalog.ExactlyOnce }

// fencedErr explains why a session is over.
func (g *group) fencedErr(session int64, why string) error {
	return fmt.Errorf("session %d of subscriber %q of %s: %s: %w", session, g.sub.Name, g.ref, why, ErrSessionFenced)
}

// grow takes the partitions that the view has gained.
func (g *group) grow(partitions int, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over != nil || partitions <= len(g.slots) {
		return
	}
	for p := len(g.slots); p < partitions; p++ {
		g.slots = append(g.slots, slot{committed: g.sub.Next.At(record.Partition(p))})
	}
	for _, m := range g.members {
		m.fit(len(g.slots))
	}
	g.rebalance(now)
}

// fit makes room for n partitions.
func (m *member) fit(n int) {
	for len(m.delivered) < n {
		m.delivered = append(m.delivered, 0)
		m.dirty = append(m.dirty, 0)
		m.cleared = append(m.cleared, 0)
	}
}

// room tells whether one more may join under a name.
func (g *group) room(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.members) < MaxMembers || slices.ContainsFunc(g.members, func(m *member) bool { return m.name == name })
}

// admit makes m a member, in the place of one of its name. Sessions are admitted
// in the order of their numbers.
func (g *group) admit(m *member, now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over != nil {
		return g.over
	}
	m.joined = now
	m.fit(len(g.slots))
	for _, old := range g.members {
		if old.name != m.name {
			continue
		}
		for p := range g.slots {
			if s := &g.slots[p]; s.wanted == old.session {
				s.wanted = m.session // what it has stays with the name
			}
		}
		g.remove(old, g.fencedErr(old.session, fmt.Sprintf("session %d has joined as the same member, %q", m.session, m.name)))
		break
	}
	g.members = append(g.members, m)
	g.rebalance(now)
	return nil
}

// leave ends a session; the others get its partitions.
func (g *group) leave(m *member, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.end != nil {
		return
	}
	g.remove(m, g.fencedErr(m.session, "its read has ended"))
	g.rebalance(now)
}

// close ends all sessions, and the group.
func (g *group) close(why func(session int64) error, over error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over != nil {
		return
	}
	g.over = over
	for len(g.members) > 0 {
		m := g.members[0]
		g.remove(m, why(m.session))
	}
}

// remove takes m's partitions from it. mu is held; the caller rebalances.
func (g *group) remove(m *member, why error) {
	m.end = why
	m.wake()
	g.members = slices.DeleteFunc(g.members, func(o *member) bool { return o == m })
	for p := range g.slots {
		if s := &g.slots[p]; s.owner == m {
			s.state, s.owner = free, nil
		}
	}
}

// wake has m's session look again.
func (m *member) wake() {
	m.version++
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
}

// rebalance decides who shall have which partition. mu is held.
func (g *group) rebalance(now time.Time) {
	sessions := make([]int64, len(g.members))
	for i, m := range g.members {
		sessions[i] = m.session
	}
	has := make([]int64, len(g.slots))
	for p := range g.slots {
		has[p] = g.slots[p].wanted
	}
	for p, session := range assign(sessions, has) {
		g.slots[p].wanted = session
	}
	g.settle(now)
}

// settle brings partitions on their way to whom they are meant for. mu is held.
func (g *group) settle(now time.Time) {
	for p := range g.slots {
		s := &g.slots[p]
		if s.state == owned && s.owner.session != s.wanted {
			s.state, s.deadline = revoking, now.Add(g.handover)
			s.owner.wake()
		}
		if s.state == revoking {
			switch {
			case s.owner.session == s.wanted:
				s.state = owned
				s.owner.wake()
			case s.committed >= s.owner.dirty[p] && (p > 0 || g.guests >= s.owner.guests.dirty):
				s.owner.cleared[p] = s.owner.delivered[p]
				if p == 0 {
					s.owner.guests.cleared = s.owner.guests.delivered
				}
				s.state, s.owner = free, nil
			case !now.Before(s.deadline):
				s.owner.wake() // its cursors must not stand ahead of what is committed
				s.state, s.owner = free, nil
			}
		}
		if s.state == free && s.busy == 0 && s.wanted != 0 {
			g.give(p, s)
		}
	}
}

// give makes the one who shall have a partition its owner. mu is held.
func (g *group) give(p int, s *slot) {
	i := slices.IndexFunc(g.members, func(m *member) bool { return m.session == s.wanted })
	m := g.members[i] // wanted is 0 or a member: see assign
	s.state, s.owner = owned, m
	m.delivered[p], m.dirty[p] = max(s.committed, m.resume.Next.At(record.Partition(p))), s.committed
	if p == 0 {
		m.guests.delivered, m.guests.dirty, m.guests.within, m.guests.rows = max(g.guests, m.resume.Guests), g.guests, nil, false
	}
	// It may stand further back than what the session has: its epochs will come
	// again with other rows.
	m.repeating = m.newest
	m.wake()
}

// turn is one reading of a session: between two assignments.
type turn struct {
	version    int
	partitions []record.Partition
	from       reader.Cursor
}

// begin starts a turn of m, which stop will end. The rows of an epoch that is
// not complete are void. The error says that the session is over.
func (g *group) begin(m *member, stop func()) (turn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.end != nil {
		return turn{}, m.end
	}
	m.stop, m.open = stop, false
	m.begun = append(m.begun[:0], m.delivered...)
	m.guests.begun = m.guests.delivered
	t := turn{version: m.version, from: g.position()}
	for p := range g.slots {
		s := &g.slots[p]
		if s.owner != m {
			continue
		}
		// Also what is revoked: later cursors stand there too, and committing them
		// clears it.
		t.from.Next[p] = m.delivered[p]
		if p == 0 {
			t.from.Guests, t.from.Within = m.guests.delivered, m.guests.within
		}
		if s.state == owned {
			t.partitions = append(t.partitions, record.Partition(p))
		}
	}
	return t, nil
}

// deliver notes that b is about to be sent to m: from here on m owes a commit.
// It reports whether to send it, and if not, why the session is over, nil when
// only the turn is.
func (g *group) deliver(m *member, t *turn, b *reader.Batch, now time.Time) (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.end != nil || m.version != t.version {
		return false, m.end
	}
	rows := b.Rows != nil
	mine := slices.Contains(t.partitions, 0)
	if g.exactly() {
		m.open = m.open || rows
		if !b.EpochEnd {
			return true, nil
		}
		rows, m.open = m.open, false
		m.newest = max(m.newest, b.Epoch)
		m.remember(b, len(t.partitions) == len(g.slots))
	}
	for _, p := range t.partitions {
		next := b.Next.Next.At(p)
		if rows && next > m.delivered[p] {
			m.dirty[p] = next
		}
		m.delivered[p] = max(m.delivered[p], next)
	}
	if mine {
		m.deliverGuests(b, rows, g.exactly())
	}
	if rows && m.waiting.IsZero() {
		m.waiting = now
	}
	return true, nil
}

// deliverGuests notes how far guest rows are about to be sent.
func (m *member) deliverGuests(b *reader.Batch, rows, epoch bool) {
	u := &m.guests
	if !epoch {
		u.within = b.Next.Within
		u.rows = u.rows || rows && (b.Next.Within != nil || b.Next.Guests > u.delivered)
		rows = u.rows
	}
	if b.Next.Guests > u.delivered {
		if rows {
			u.dirty = b.Next.Guests
		}
		u.delivered, u.rows = b.Next.Guests, false
	}
}

func (m *member) remember(b *reader.Batch, whole bool) {
	if len(m.marks) == maxMarks {
		m.marks = slices.Delete(m.marks, 0, 1)
	}
	m.marks = append(m.marks, mark{epoch: b.Epoch, next: b.Next.Next, guests: b.Next.Guests, again: b.Epoch <= m.repeating, whole: whole})
}

// owes tells whether m has rows to commit. mu is held.
func (g *group) owes(m *member) bool {
	if len(g.slots) > 0 && g.slots[0].owner == m && m.guests.dirty > g.guests {
		return true
	}
	for p := range g.slots {
		if s := &g.slots[p]; s.owner == m && m.dirty[p] > s.committed {
			return true
		}
	}
	return false
}

// look expels members that do not commit, and hands over what waited too long.
func (g *group) look(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over != nil {
		return
	}
	expelled := false
	for _, m := range slices.Clone(g.members) {
		switch {
		case m.waiting.IsZero():
		case !g.owes(m): // it has lost what it had to commit
			m.waiting = time.Time{}
		case now.Sub(m.waiting) >= g.patience:
			g.remove(m, g.fencedErr(m.session, fmt.Sprintf("it has committed nothing of what it was sent for %v, and was expelled", g.patience)))
			expelled = true
		}
	}
	if expelled {
		g.rebalance(now)
		return
	}
	g.settle(now)
}

// ended is why m's session is over, nil while it lives.
func (g *group) ended(m *member) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return m.end
}

// changed tells whether a turn has passed.
func (g *group) changed(m *member, t *turn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return m.version != t.version
}

// position is what is committed. mu is held.
func (g *group) position() reader.Cursor {
	c := reader.Cursor{View: g.sub.View, Next: make(record.Offsets, len(g.slots)), Checkpoint: g.epoch, Guests: g.guests}
	for p := range g.slots {
		c.Next[p] = g.slots[p].committed
	}
	return c
}

// infos describes the members.
func (g *group) infos() []MemberInfo {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]MemberInfo, 0, len(g.members))
	for _, m := range g.members {
		i := MemberInfo{Name: m.name, Session: m.session, Joined: m.joined, Delivered: make(record.Offsets, len(g.slots))}
		for p := range g.slots {
			s := &g.slots[p]
			i.Delivered[p] = s.committed
			if s.owner == m && s.state == owned {
				i.Partitions = append(i.Partitions, record.Partition(p))
				i.Delivered[p] = m.delivered[p]
			}
		}
		out = append(out, i)
	}
	return out
}
