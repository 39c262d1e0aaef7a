package node

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/thermocline/thermocline/dataset"
)

// Compaction changes no row, no order and no cursor, whatever fails in it.
func (m *machine) opCompact(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	branch := m.state(s).Branch.ID
	for range r.IntN(6) { // files that are worth it
		m.publish(r, s)
		m.archive(s)
	}
	if r.IntN(4) == 0 {
		m.faults.arm(1+r.IntN(40), r.IntN(2) == 0, "")
		_, err := m.node.archiver.Compact(m.ctx, branch, nil)
		struck := m.faults.disarm()
		if err != nil && !errors.Is(err, errInjected) {
			m.fail("compact %s, with %q failing: %w", s.name, struck, err)
		}
		if err != nil {
			m.count("compact with a fault")
			if r.IntN(2) == 0 {
				m.reopen(r, r.IntN(2) == 0)
			}
		}
	}
	out, err := m.node.archiver.Compact(m.ctx, branch, nil)
	m.must("compact "+s.name, err)
	if out.Replaced > 0 {
		m.count("compact of files")
		if out.Written == 0 || out.Rows == 0 {
			m.fail("compaction of %s: %+v", s.name, out)
		}
	}
	m.settle(s)
	m.audit(s)
	return true
}

// Expiry takes old versions, and the files that nothing reaches any more: the head,
// its marker and every cursor go on.
func (m *machine) opExpire(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	table := m.state(s).Branch.TableUUID
	time.Sleep(2 * time.Millisecond) // ages are in milliseconds
	out, err := m.node.datasets.Expire(m.ctx, table, dataset.ExpireOptions{MaxAge: time.Millisecond, KeepLast: 1 + r.IntN(3)})
	m.must("expire "+s.name, err)
	if len(out.Expired) > 0 {
		m.count("expire of versions")
		for _, v := range s.old {
			v.expired = true
		}
	}
	m.settle(s)
	m.audit(s)
	for _, o := range m.sleepers {
		if o.asleep() && o.stream.name == s.name {
			return true // its files may look like nobody's
		}
	}
	m.opTails(r) // none is at the files
	for range 2 {
		deleted, err := m.node.datasets.Collect(m.ctx, table, dataset.CollectOptions{Grace: time.Millisecond})
		m.must("collect files of "+s.name, err)
		if deleted.Deleted > 0 {
			m.count("collect of files")
		}
		time.Sleep(2 * time.Millisecond)
	}
	m.settle(s)
	m.audit(s)
	return true
}
