package node

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/archiver"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// leaseTime is beyond every archive lease.
const leaseTime = 40 * time.Second

// archive archives a stream to the end, against other archivers' leases.
func (m *machine) archive(s *modelStream) {
	before, err := m.b.Archiver.Offsets(m.ctx, s.name, "main")
	m.must("offsets", err)
	_, err = m.b.Archiver.ArchiveNow(m.ctx, s.name, "main")
	if errors.Is(err, record.ErrBusy) {
		m.pass(leaseTime)
		m.count("archive waits for a lease")
		_, err = m.b.Archiver.ArchiveNow(m.ctx, s.name, "main")
	}
	m.must("archive "+s.name, err)
	m.woken(s)
	off, err := m.b.Archiver.Offsets(m.ctx, s.name, "main")
	m.must("offsets", err)
	if off.Lag.Rows != 0 || !off.Archived.Equal(s.view.ends) || !off.End.Equal(s.view.ends) || off.View != s.view.number {
		m.fail("archived %s, whose rows end at %v: %+v", s.name, s.view.ends, off)
	}
	m.released(s, before.Start, off.Start)
	s.archived = true
}

// woken notes that archivers which sleep over s come too late.
func (m *machine) woken(s *modelStream) {
	for _, o := range m.sleepers {
		if o.asleep() && o.stream == s {
			o.late = true
		}
	}
}

// released checks what an archive has let the hot buffer forget.
func (m *machine) released(s *modelStream, before, after record.Offsets) {
	keep := s.settings.HotRetention
	if len(s.groups) > 0 {
		return // they hold rows, or have not noticed yet that they need not
	}
	if keep == 0 {
		if !after.Equal(s.view.ends) {
			m.fail("archived %s: the hot buffer begins at %v, its rows end at %v", s.name, after, s.view.ends)
		}
		return
	}
	young := m.now().Add(-keep).UnixMilli()
	m.settle(s)
	for _, row := range s.view.order {
		switch {
		case row.ts > young && row.off >= before.At(row.part) && row.off < after.At(row.part):
			m.fail("row %d of %s is %d ms younger than its hot retention, and was released", row.n, s.name, row.ts-young)
		case row.ts < young-patience.Milliseconds() && row.off >= after.At(row.part):
			m.fail("row %d of %s is %d ms older than its hot retention, and is still hot", row.n, s.name, young-row.ts)
		}
	}
}

func (m *machine) opArchive(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	if r.IntN(4) == 0 {
		m.archiveBroken(r, s)
	}
	m.archive(s)
	if r.IntN(3) == 0 {
		m.audit(s)
	}
	return true
}

// An archive in the midst of which others are at work on the stream.
func (m *machine) opArchiveMidst(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	at := archiver.Steps[r.IntN(len(archiver.Steps))]
	m.midst = func(step archiver.Step) {
		if step != at {
			return
		}
		m.midst, m.calm, m.only = nil, true, s
		for range 1 + r.IntN(3) {
			others := []func(*machine, *rand.Rand) bool{
				(*machine).opPublish, (*machine).opPublish, (*machine).opEvolve, (*machine).opEvolve, (*machine).opSettings,
				(*machine).opReset, (*machine).opCheckpoint, (*machine).opSelect, (*machine).opCursor,
			}
			others[r.IntN(len(others))](m, r)
		}
		if r.IntN(2) == 0 { // rows of a schema that the archive had not seen
			m.opEvolve(r)
			m.publish(r, s)
		}
		m.calm, m.only = false, nil
	}
	_, err := m.b.Archiver.ArchiveNow(m.ctx, s.name, "main")
	m.midst = nil
	if err != nil && !errors.Is(err, record.ErrBusy) && !errors.Is(err, record.ErrFenced) {
		m.fail("archive %s with others in its midst, at %s: %w", s.name, at, err)
	}
	m.settle(s)
	m.audit(s)
	m.archive(s)
	m.audit(s)
	return true
}

// An archive during which a call between the parts fails, before or behind its
// effect, and perhaps the process with it.
func (m *machine) archiveBroken(r *rand.Rand, s *modelStream) {
	m.faults.arm(1+r.IntN(60), r.IntN(2) == 0, "")
	_, err := m.b.Archiver.ArchiveNow(m.ctx, s.name, "main")
	struck := m.faults.disarm()
	if err != nil && !errors.Is(err, errInjected) && !errors.Is(err, record.ErrBusy) {
		m.fail("archive %s, with %q failing: %w", s.name, struck, err)
	}
	if err == nil {
		return
	}
	m.count("archive with a fault")
	if r.IntN(2) == 0 {
		m.reopen(r, r.IntN(2) == 0)
	}
	m.settle(s)
	m.audit(s)
}

// opPrune removes old checkpoints: readers get what they missed in the oldest
// epoch that is left.
func (m *machine) opPrune(r *rand.Rand) bool {
	for _, name := range m.names3() {
		m.learn(m.streams[name])
	}
	keep := 1 + r.IntN(6)
	m.pass(time.Second)
	if !m.quiet { // so that none comes in between
		for _, name := range m.names3() {
			_, err := m.node.checks.Take(m.ctx, m.streams[name].view.id)
			m.must("checkpoint", err)
			m.learn(m.streams[name])
		}
	}
	_, err := m.node.catalog.PruneCheckpoints(m.ctx, m.now(), keep)
	m.must("prune", err)
	for _, name := range m.names3() {
		v := m.streams[name].view
		least := max(0, len(v.epochs)-keep)
		for _, g := range m.streams[name].groups { // epochs that one has yet to read stay
			if g.view == v && g.consistency == catalog.ExactlyOnce {
				if i := slices.IndexFunc(v.epochs, func(cp catalog.Checkpoint) bool { return !g.done.Covers(cp.Cut) }); i >= 0 {
					least = min(least, i)
				}
			}
		}
		v.epochs = v.epochs[least:]
		m.learn(m.streams[name])
	}
	return true
}

// audit holds the cold half alone against the model: every row below the marker
// once, no other.
func (m *machine) audit(s *modelStream) {
	st := m.state(s)
	t, err := m.node.datasets.Load(m.ctx, st.Branch.TableUUID)
	m.must("load", err)
	marker, err := t.Marker()
	m.must("marker", err)
	last := map[record.ViewID]int64{}
	for _, snap := range t.Snapshots() {
		if mk := snap.Marker; mk != nil {
			if mk.Epoch < last[mk.View] {
				m.fail("the dataset of %s carries epoch %d of view %s behind %d", s.name, mk.Epoch, mk.View, last[mk.View])
			}
			last[mk.View] = mk.Epoch
		}
	}
	if marker == nil {
		if h, ok := t.Head(); ok && h.TotalRows > 0 {
			m.fail("the dataset of %s holds rows and no marker", s.name)
		}
		return
	}
	v := s.view
	for _, old := range s.old {
		if old.id == marker.View {
			v = old
		}
	}
	if v.id != marker.View {
		m.fail("the dataset of %s carries view %v", s.name, marker.View)
	}
	if v == s.view {
		m.settle(s)
	}
	m.scan(s, t, 0, v, marker.Offsets)
}

// scan compares a snapshot with the rows of a view up to a position.
func (m *machine) scan(s *modelStream, t *dataset.Table, snapshot int64, v *modelView, to record.Offsets) {
	type place struct {
		part record.Partition
		off  record.Offset
	}
	rows := map[place]*expectedRow{}
	for _, row := range v.visible(nil, to) {
		rows[place{row.part, row.off}] = row
	}
	if int64(len(rows)) != to.RowsSince(nil) {
		m.fail("the dataset of %s says that it holds rows up to %v; %d such are there", s.name, to, len(rows))
	}
	for b, err := range t.Scan(m.ctx, dataset.ScanOptions{SnapshotID: snapshot, Schema: v.schema.WithSystem()}) {
		m.must("scan", err)
		at := func(name string) int { return b.Schema().FieldIndices(name)[0] }
		views := b.Column(at(schema.ViewColumn)).(*array.Int32)
		parts := b.Column(at(schema.PartitionColumn)).(*array.Int32)
		offs := b.Column(at(schema.OffsetColumn)).(*array.Int64)
		for i := range int(b.NumRows()) {
			p := place{record.Partition(parts.Value(i)), record.Offset(offs.Value(i))}
			if at := views.Value(i); slices.ContainsFunc(v.guests, func(g *modelGuest) bool { return g.view == at }) {
				continue
			}
			row := rows[p]
			if row == nil || record.ViewNumber(views.Value(i)) != v.number {
				m.fail("the dataset of %s holds row %+v of view %d twice, or beyond its marker %v of view %d", s.name, p, views.Value(i), to, v.number)
			}
			delete(rows, p)
			for c := range v.schema.Fields {
				if got, want := arrowCell(b.Column(c), i), row.under(v.schema)[c]; got != want {
					m.fail("the dataset of %s holds row %d with %s = %s, want %s", s.name, row.n, v.schema.Fields[c].Name, got, want)
				}
			}
		}
	}
	for p, row := range rows {
		m.fail("the dataset of %s lacks row %d, %+v, below its marker %v of view %d", s.name, row.n, p, to, v.number)
	}
}

// opHistory looks for the rows of views that resets have replaced.
func (m *machine) opHistory(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil || len(s.old) == 0 || !s.archived {
		return false
	}
	v := s.old[r.IntN(len(s.old))]
	if len(v.order) == 0 || v.expired {
		return false
	}
	t, err := m.node.datasets.Load(m.ctx, m.state(s).Branch.TableUUID)
	m.must("load", err)
	for _, snap := range slices.Backward(t.Snapshots()) {
		if mk := snap.Marker; mk != nil && mk.View == v.id && mk.Offsets.Equal(v.ends) {
			m.scan(s, t, snap.ID, v, v.ends)
			return true
		}
	}
	m.fail("no version of the dataset of %s holds the %d rows of view %d up to %v", s.name, len(v.order), v.number, v.ends)
	return false
}

// opSleep lets another archiver fall asleep in the middle of an archive.
func (m *machine) opSleep(r *rand.Rand) bool {
	s := m.pick(r)
	o := m.sleepers[r.IntN(len(m.sleepers))]
	if s == nil || o.asleep() {
		return false
	}
	m.pass(leaseTime)
	o.mu.Lock()
	o.at, o.after, o.wake = archiver.Steps[r.IntN(len(archiver.Steps))], r.IntN(2)*r.IntN(3), make(chan struct{})
	o.step = o.at
	o.mu.Unlock()
	o.stream, o.late = s, false
	o.answer = make(chan error, 1)
	branch := m.state(s).Branch.ID
	go func() {
		_, err := o.Archive(m.ctx, branch)
		o.answer <- err
	}()
	select {
	case <-o.sleeps:
		m.count("sleep at " + string(o.step))
	case err := <-o.answer: // it did not come there
		o.answer = nil
		m.must("archive by another process", err)
		m.woken(s)
	}
	return true
}

// opWake lets it go on: whatever has happened meanwhile, it does no harm, and if
// another one has archived all that it had in mind, it changes nothing.
func (m *machine) opWake(r *rand.Rand) bool {
	o := m.sleepers[r.IntN(len(m.sleepers))]
	if !o.asleep() {
		return false
	}
	s := m.streams[o.stream.name]
	moved := func() string {
		if s == nil {
			return ""
		}
		at, err := m.node.catalog.TablePointer(m.ctx, m.state(s).Branch.TableUUID)
		m.must("pointer", err)
		return at
	}
	before := moved()
	close(o.wake)
	err := <-o.answer
	o.answer = nil
	harmless := err == nil
	for _, want := range []error{record.ErrFenced, record.ErrNotFound, record.ErrConflict, record.ErrBusy, record.ErrClosed, errInjected} {
		harmless = harmless || errors.Is(err, want)
	}
	if !harmless || errors.Is(err, record.ErrCorrupt) {
		m.fail("an archiver that slept at %s: %w", o.step, err)
	}
	if errors.Is(err, record.ErrFenced) {
		m.count("fenced")
	}
	if o.late && errors.Is(err, record.ErrFenced) && moved() != before && len(s.old) == 0 {
		m.fail("an archiver that slept at %s and was fenced has moved the dataset of %s", o.step, o.stream.name)
	}
	if s != nil {
		if err == nil {
			m.woken(s)
		}
		m.settle(s)
		m.audit(s)
	}
	return true
}
