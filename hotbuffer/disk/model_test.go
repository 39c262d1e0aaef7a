package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// model is the oracle: what was acknowledged, and what is under way. A log that
// is opened on whatever a crash left must agree with it.
type model struct {
	mu    sync.Mutex
	views map[record.ViewID]*modelView
	keys  byte // given out
}

type modelView struct {
	rows     [][]string // acknowledged, by partition
	released record.Offsets
	sent     []sentRequest // acknowledged, with a producer
	dropped  bool
	// Under way: may be there, as a whole, or not.
	pending         []modelPart
	pendingProducer *hotbuffer.Producer
	pendingRelease  record.Offsets
	pendingDrop     bool
}

type modelPart struct {
	partition record.Partition
	values    []string
}

type sentRequest struct {
	producer hotbuffer.Producer
	ranges   []hotbuffer.PartRange
}

// How a request is made safe to repeat.
type retryBy int

const (
	nothing retryBy = iota
	sequence
	key
)

func newModel() *model { return &model{views: make(map[record.ViewID]*modelView)} }

// snapshot is a copy that later steps do not change.
func (m *model) snapshot() *model {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := newModel()
	c.keys = m.keys
	for id, v := range m.views {
		w := *v
		w.rows = slices.Clone(v.rows)
		w.released = v.released.Clone()
		c.views[id] = &w
	}
	return c
}

func (m *model) view(id record.ViewID, partitions int) *modelView {
	v := m.views[id]
	if v == nil {
		v = &modelView{}
		m.views[id] = v
	}
	for len(v.rows) < partitions {
		v.rows, v.released = append(v.rows, nil), append(v.released, 0)
	}
	return v
}

// open opens a view with at least that many partitions.
func (m *model) open(l *Log, id record.ViewID, partitions int) error {
	m.mu.Lock()
	v := m.view(id, partitions)
	s := hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: len(v.rows), Compressed: id%2 == 0}
	m.mu.Unlock()
	return l.Open(context.Background(), id, s)
}

// openAll opens the views 1 to newest that are not dropped.
func (m *model) openAll(l *Log, newest record.ViewID) error {
	for id := record.ViewID(1); id <= newest; id++ {
		m.mu.Lock()
		dropped := m.view(id, 2).dropped
		m.mu.Unlock()
		if dropped {
			continue
		}
		if err := m.open(l, id, 2); err != nil {
			return err
		}
	}
	return nil
}

var modelProducer = hotbuffer.ProducerID{9}

// nextSequence of the view's only producer with one.
func (v *modelView) nextSequence() int64 {
	for _, r := range slices.Backward(v.sent) {
		if !r.producer.Once {
			return r.producer.Sequence + 1
		}
	}
	return 0
}

func appendOf(p *hotbuffer.Producer, parts []modelPart) hotbuffer.Append {
	a := hotbuffer.Append{Producer: p}
	for _, p := range parts {
		var rows record.Rows
		for _, s := range p.values {
			rows.Append([]byte("key"), []byte(s))
		}
		a.Parts = append(a.Parts, hotbuffer.Part{Partition: p.partition, Rows: &rows})
	}
	return a
}

// append appends rows to partitions and notes the outcome.
func (m *model) append(l *Log, id record.ViewID, by retryBy, parts ...modelPart) error {
	m.mu.Lock()
	v := m.views[id]
	v.pendingProducer = nil
	switch by {
	case sequence:
		v.pendingProducer = &hotbuffer.Producer{ID: modelProducer, Sequence: v.nextSequence()}
	case key:
		m.keys++
		v.pendingProducer = &hotbuffer.Producer{ID: hotbuffer.ProducerID{m.keys, 1}, Once: true}
	}
	v.pending = parts
	m.mu.Unlock()
	return m.send(l, id)
}

// send sends what is pending, for the first time or again.
func (m *model) send(l *Log, id record.ViewID) error {
	m.mu.Lock()
	v := m.views[id]
	parts, producer := v.pending, v.pendingProducer
	m.mu.Unlock()
	out, err := l.Append(context.Background(), id, appendOf(producer, parts))

	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		if errors.Is(err, record.ErrFull) || errors.Is(err, record.ErrBusy) {
			v.pending, v.pendingProducer = nil, nil // promised: nothing appended
		}
		return err
	}
	return v.acknowledged(out)
}

// acknowledged notes the outcome of what is pending.
func (v *modelView) acknowledged(out hotbuffer.Appended) error {
	want := rangesOfParts(v.rows, v.pending)
	if got := byPartition(out.Ranges); !slices.Equal(got, want) {
		return fmt.Errorf("appended %v, want %v", got, want)
	}
	for _, p := range v.pending {
		n := len(v.rows[p.partition])
		v.rows[p.partition] = append(v.rows[p.partition][:n:n], p.values...)
	}
	if v.pendingProducer != nil {
		n := len(v.sent)
		v.sent = append(v.sent[:n:n], sentRequest{producer: *v.pendingProducer, ranges: want})
	}
	v.pending, v.pendingProducer = nil, nil
	return nil
}

// rangesOfParts is where rows go behind others.
func rangesOfParts(rows [][]string, parts []modelPart) []hotbuffer.PartRange {
	var out []hotbuffer.PartRange
	for _, p := range parts {
		if n := len(rows[p.partition]); len(p.values) > 0 {
			out = append(out, hotbuffer.PartRange{Partition: p.partition, Range: record.Range{Start: record.Offset(n), End: record.Offset(n + len(p.values))}})
		}
	}
	return byPartition(out)
}

func byPartition(ranges []hotbuffer.PartRange) []hotbuffer.PartRange {
	return slices.SortedFunc(slices.Values(ranges), func(a, b hotbuffer.PartRange) int { return cmp.Compare(a.Partition, b.Partition) })
}

// repeat sends every acknowledged request with a producer again, with other
// rows in other partitions, as a producer does that has lost an answer and
// meanwhile sees more partitions: what is remembered gets the first answer.
func (v *modelView) repeat(l *Log, id record.ViewID) error {
	next := v.nextSequence()
	for _, r := range v.sent {
		var rows record.Rows
		rows.Append(nil, []byte("again"))
		a := hotbuffer.Append{Producer: &r.producer, Parts: []hotbuffer.Part{{Partition: record.Partition(len(v.rows) - 1), Rows: &rows}}}
		out, err := l.Append(context.Background(), id, a)
		if errors.Is(err, record.ErrOutOfSequence) && v.pendingProducer != nil && r.producer.Sequence == next-hotbuffer.RememberedSequences {
			continue // what was under way has taken its place
		}
		if !r.producer.Once && r.producer.Sequence < next-hotbuffer.RememberedSequences {
			if !errors.Is(err, record.ErrOutOfSequence) {
				return fmt.Errorf("%v retry of %+v, which is forgotten: %+v, %w", id, r.producer, out, err)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("%v retry of %+v: %w", id, r.producer, err)
		}
		if !out.Duplicate || !slices.Equal(byPartition(out.Ranges), r.ranges) {
			return fmt.Errorf("%v retry of %+v got %+v, first it was %v", id, r.producer, out, r.ranges)
		}
	}
	return nil
}

// repeatAll repeats what was acknowledged to open views.
func (m *model) repeatAll(l *Log) error {
	s := m.snapshot()
	for id, v := range s.views {
		if v.dropped {
			continue
		}
		if err := v.repeat(l, id); err != nil {
			return err
		}
	}
	return nil
}

func (m *model) release(l *Log, id record.ViewID, through record.Offsets) error {
	m.mu.Lock()
	v := m.views[id]
	v.pendingRelease = through
	m.mu.Unlock()
	err := l.Release(context.Background(), id, through)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		v.released, v.pendingRelease = through, nil
	}
	return err
}

// releaseAll releases all rows but the last few of each partition.
func (m *model) releaseAll(l *Log, id record.ViewID, but record.Offset) error {
	m.mu.Lock()
	through := m.views[id].released.Clone()
	for p, rows := range m.views[id].rows {
		through[p] = max(through[p], record.Offset(len(rows))-but)
	}
	m.mu.Unlock()
	return m.release(l, id, through)
}

func (m *model) drop(l *Log, id record.ViewID) error {
	m.mu.Lock()
	v := m.views[id]
	v.pendingDrop = true
	m.mu.Unlock()
	err := l.Drop(context.Background(), id)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		v.dropped = true
	}
	return err
}

// readAll reads every row that is hot, and compares.
func (m *model) readAll(l *Log) error {
	s := m.snapshot()
	for id, v := range s.views {
		for p := range v.rows {
			if v.dropped {
				continue
			}
			rows, err := rowsFrom(l, id, record.Partition(p), v.released[p])
			if err != nil {
				return err
			}
			if !slices.Equal(rows, v.rows[p][v.released[p]:]) {
				return fmt.Errorf("%v partition %d: %d rows from %v on are not those that were appended", id, p, len(rows), v.released[p])
			}
		}
	}
	return nil
}

// compare looks whether a log that was just opened holds what the model says.
// acked was taken before the crash, latest after it: what was under way in
// either may be there. It goes on from there: retries get the first answers,
// and later requests the next offsets.
func compare(l *Log, acked, latest *model) error {
	if d := l.LogStats().Damage; len(d) > 0 {
		return fmt.Errorf("a crash was taken for damage: %w", &d[0])
	}
	known := l.Views()
	for id, v := range acked.views {
		now := latest.views[id]
		switch {
		case v.dropped && slices.Contains(known, id):
			return fmt.Errorf("%v was dropped and is back", id)
		case v.dropped:
		case !slices.Contains(known, id):
			if empty := !slices.ContainsFunc(v.rows, func(r []string) bool { return len(r) > 0 }); !now.dropped && !now.pendingDrop && !empty {
				return fmt.Errorf("%v is gone", id)
			}
		default:
			if err := compareView(l, id, v, now); err != nil {
				return fmt.Errorf("%v: %w", id, err)
			}
		}
	}
	return nil
}

func compareView(l *Log, id record.ViewID, v, now *modelView) error {
	ctx := context.Background()
	if err := l.Open(ctx, id, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: len(now.rows)}); err != nil {
		return err
	}
	ends, err := l.Ends(id)
	if err != nil {
		return err
	}
	// All that may be there: acknowledged, some of it since, or under way.
	there := make([][]string, len(now.rows))
	arrived := 0
	for p := range there {
		partition := record.Partition(p)
		if limit := max(now.released[p], now.pendingRelease.At(partition)); ends.Start[p] > limit {
			return fmt.Errorf("partition %d starts at %v, only %v were released", p, ends.Start[p], limit)
		}
		rows, err := rowsFrom(l, id, partition, ends.Start[p])
		if err != nil {
			return err
		}
		got, least := int(ends.Start[p])+len(rows), 0
		if p < len(v.rows) {
			least = len(v.rows[p])
		}
		if got < least || record.Offset(got) != ends.End[p] {
			return fmt.Errorf("partition %d ends at %d, end %v; %d rows were acknowledged", p, got, ends.End[p], least)
		}
		all := now.rows[p]
		for _, part := range now.pending {
			if part.partition == partition {
				all = append(all[:len(all):len(all)], part.values...)
				switch {
				case got == len(all):
					arrived++
				case got > len(now.rows[p]):
					return fmt.Errorf("partition %d holds a part of a request", p)
				}
			}
		}
		if got > len(all) || !slices.Equal(rows, all[ends.Start[p]:got]) {
			return fmt.Errorf("partition %d holds other rows than were sent", p)
		}
		there[p] = all[:got:got]
	}
	if arrived != 0 && arrived != len(now.pending) {
		return fmt.Errorf("%d of %d parts of a request are there", arrived, len(now.pending))
	}
	if sameSize(v, now) {
		if err := now.repeat(l, id); err != nil {
			return err
		}
		if now.pendingProducer != nil {
			out, err := l.Append(ctx, id, appendOf(now.pendingProducer, now.pending))
			if err != nil || len(now.pending) > 0 && out.Duplicate != (arrived > 0) || !slices.Equal(byPartition(out.Ranges), rangesOfParts(now.rows, now.pending)) {
				return fmt.Errorf("retry of what was under way (there: %v): %+v, %w", arrived > 0, out, err)
			}
			for _, part := range now.pending {
				there[part.partition] = append(now.rows[part.partition][:len(now.rows[part.partition]):len(now.rows[part.partition])], part.values...)
			}
		}
	}
	// It goes on where it ended, later than everything before.
	before, err := l.Ends(id)
	if err != nil {
		return err
	}
	var rows record.Rows
	rows.Append(nil, []byte("next"))
	out, err := l.Append(ctx, id, hotbuffer.Append{Parts: []hotbuffer.Part{{Rows: &rows}}})
	if err != nil || out.Ranges[0].Start != before.End[0] {
		return fmt.Errorf("append after recovery: %v, %w; want offset %v", out.Ranges, err, before.End[0])
	}
	there[0] = append(there[0][:len(there[0]):len(there[0])], "next")
	after, err := l.Ends(id)
	if err != nil || after.LastTimestamp < ends.LastTimestamp || ends.LastTimestamp > 0 && before.LastTimestamp == ends.LastTimestamp && after.LastTimestamp == ends.LastTimestamp {
		return fmt.Errorf("timestamps %d, then %d; %w", ends.LastTimestamp, after.LastTimestamp, err)
	}
	for p := range there {
		rows, err := rowsFrom(l, id, record.Partition(p), ends.Start[p])
		if err != nil || !slices.Equal(rows, there[p][ends.Start[p]:]) {
			return fmt.Errorf("partition %d holds %d rows in the end, want %d; %w", p, len(rows), len(there[p])-int(ends.Start[p]), err)
		}
	}
	return nil
}

// sameSize: nothing was acknowledged between two models.
func sameSize(a, b *modelView) bool {
	return len(a.sent) == len(b.sent) && slices.EqualFunc(a.rows, b.rows, func(a, b []string) bool { return len(a) == len(b) })
}

// check is compare for tests that stop at the first error.
func check(t testing.TB, l *Log, acked, latest *model) {
	t.Helper()
	if err := compare(l, acked, latest); err != nil {
		t.Fatal(err)
	}
}

// rowsFrom reads a partition to its end.
func rowsFrom(l *Log, id record.ViewID, p record.Partition, from record.Offset) ([]string, error) {
	var out []string
	var r record.Reader
	for next := from; ; {
		batches, err := l.Read(context.Background(), id, p, next, 1<<20)
		if err != nil || len(batches) == 0 {
			return out, err
		}
		for _, b := range batches {
			if err := r.Reset(b); err != nil {
				return nil, err
			}
			for {
				o, _, v, ok := r.Next()
				if !ok {
					break
				}
				if o < next {
					continue
				}
				if o != next {
					return nil, fmt.Errorf("row %v instead of %v", o, next)
				}
				out = append(out, string(v))
				next++
			}
			if r.Err() != nil {
				return nil, r.Err()
			}
		}
	}
}

func readFrom(t testing.TB, l *Log, id record.ViewID, p record.Partition, from record.Offset) []string {
	t.Helper()
	rows, err := rowsFrom(l, id, p, from)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func sized(name string, n, size int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s/%d/", name, i) + strings.Repeat("x", size)
	}
	return out
}
