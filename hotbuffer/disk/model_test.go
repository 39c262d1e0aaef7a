package disk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// model is the oracle: what was acknowledged, and what is under way. A log that
// is opened on whatever a crash left must agree with it.
type model struct {
	mu    sync.Mutex
	views map[record.ViewID]*modelView
}

type modelView struct {
	rows     [][]string // acknowledged, by partition
	released record.Offsets
	sequence int64 // next one of the view's only producer
	last     hotbuffer.Appended
	dropped  bool
	// Under way: may be there, as a whole, or not.
	pending         []modelPart
	pendingRelease  record.Offsets
	pendingDrop     bool
	pendingSequence bool
}

type modelPart struct {
	partition record.Partition
	values    []string
}

func newModel() *model { return &model{views: make(map[record.ViewID]*modelView)} }

// snapshot is a copy that later steps do not change.
func (m *model) snapshot() *model {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := newModel()
	for id, v := range m.views {
		w := *v
		w.rows = slices.Clone(v.rows)
		c.views[id] = &w
	}
	return c
}

func (m *model) view(id record.ViewID, partitions int) *modelView {
	v := m.views[id]
	if v == nil {
		v = &modelView{rows: make([][]string, partitions), released: make(record.Offsets, partitions)}
		m.views[id] = v
	}
	return v
}

var modelProducer = hotbuffer.ProducerID{9}

// append appends rows of a size to partitions and notes the outcome.
func (m *model) append(l *Log, id record.ViewID, producer bool, parts ...modelPart) error {
	m.mu.Lock()
	v := m.views[id]
	a := hotbuffer.Append{}
	if producer {
		a.Producer = &hotbuffer.Producer{ID: modelProducer, Sequence: v.sequence}
	}
	for _, p := range parts {
		var rows record.Rows
		for _, s := range p.values {
			rows.Append([]byte("key"), []byte(s))
		}
		a.Parts = append(a.Parts, hotbuffer.Part{Partition: p.partition, Rows: &rows})
	}
	v.pending, v.pendingSequence = parts, producer
	m.mu.Unlock()

	out, err := l.Append(context.Background(), id, a)

	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		if errors.Is(err, record.ErrFull) || errors.Is(err, record.ErrBusy) {
			v.pending, v.pendingSequence = nil, false // promised: nothing appended
		}
		return err
	}
	for i, p := range parts {
		want := hotbuffer.PartRange{Partition: p.partition, Range: record.Range{
			Start: record.Offset(len(v.rows[p.partition])), End: record.Offset(len(v.rows[p.partition]) + len(p.values)),
		}}
		if out.Ranges[i] != want {
			return fmt.Errorf("appended %v, want %v", out.Ranges[i], want)
		}
		v.rows[p.partition] = append(v.rows[p.partition][:want.Start:want.Start], p.values...)
	}
	v.pending = nil
	if producer {
		v.sequence++
		v.last = out
		v.pendingSequence = false
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

// check compares a log that was just opened with the model. acked was taken
// before the crash, latest after it: what was under way in either may be there.
func check(t testing.TB, l *Log, acked, latest *model) {
	t.Helper()
	if d := l.LogStats().Damage; len(d) > 0 {
		t.Fatalf("a crash was taken for damage: %v", &d[0])
	}
	ctx := context.Background()
	known := l.Views()
	for id, v := range acked.views {
		now := latest.views[id]
		if v.dropped {
			if slices.Contains(known, id) {
				t.Fatalf("%v was dropped and is back", id)
			}
			continue
		}
		if !slices.Contains(known, id) {
			if now.dropped || now.pendingDrop || len(v.rows[0]) == 0 && len(v.rows[1]) == 0 {
				continue
			}
			t.Fatalf("%v is gone", id)
		}
		if err := l.Open(ctx, id, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: len(v.rows)}); err != nil {
			t.Fatal(err)
		}
		ends, err := l.Ends(id)
		if err != nil {
			t.Fatal(err)
		}
		arrived := 0
		for p := range v.rows {
			partition := record.Partition(p)
			limit := max(now.released[p], now.pendingRelease.At(partition))
			if ends.Start[p] > limit {
				t.Fatalf("%v partition %d starts at %v, only %v were released", id, p, ends.Start[p], limit)
			}
			rows := readFrom(t, l, id, partition, ends.Start[p])
			want := v.rows[p]
			got := int(ends.Start[p]) + len(rows)
			if got < len(want) || record.Offset(got) != ends.End[p] {
				t.Fatalf("%v partition %d ends at %d, end %v; %d rows were acknowledged", id, p, got, ends.End[p], len(want))
			}
			// What came after the snapshot: acknowledged since, or under way.
			all := now.rows[p]
			for _, part := range now.pending {
				if part.partition == partition {
					all = append(all[:len(all):len(all)], part.values...)
				}
			}
			if got > len(all) || !slices.Equal(rows, all[ends.Start[p]:got]) {
				t.Fatalf("%v partition %d holds other rows than were sent", id, p)
			}
			for _, part := range now.pending {
				if part.partition != partition {
					continue
				}
				switch got {
				case len(now.rows[p]) + len(part.values):
					arrived++
				case len(now.rows[p]):
				default:
					if got > len(now.rows[p]) {
						t.Fatalf("%v partition %d holds a part of a request", id, p)
					}
				}
			}
		}
		if arrived != 0 && arrived != len(now.pending) {
			t.Fatalf("%v holds %d of %d parts of a request", id, arrived, len(now.pending))
		}
		if v.sequence > 0 && v.sequence == now.sequence {
			retry, err := l.Append(ctx, id, hotbuffer.Append{Producer: &hotbuffer.Producer{ID: modelProducer, Sequence: v.sequence - 1}})
			last := slices.Clone(v.last.Ranges)
			slices.SortFunc(last, func(a, b hotbuffer.PartRange) int { return int(a.Partition - b.Partition) })
			if err != nil || !retry.Duplicate || !slices.Equal(retry.Ranges, last) {
				t.Fatalf("%v retry of %d: %+v, %v, want %v", id, v.sequence-1, retry, err, last)
			}
			if now.pendingSequence && len(now.pending) > 0 {
				var rows record.Rows
				rows.Append(nil, []byte("again"))
				retry, err := l.Append(ctx, id, hotbuffer.Append{Parts: []hotbuffer.Part{{Rows: &rows}}, Producer: &hotbuffer.Producer{ID: modelProducer, Sequence: v.sequence}})
				if err != nil || retry.Duplicate != (arrived > 0) {
					t.Fatalf("%v retry of what was under way (there: %v): %+v, %v", id, arrived > 0, retry, err)
				}
			}
		}
		// It goes on where it ended, later than everything before.
		before, err := l.Ends(id)
		if err != nil {
			t.Fatal(err)
		}
		var rows record.Rows
		rows.Append(nil, []byte("next"))
		out, err := l.Append(ctx, id, hotbuffer.Append{Parts: []hotbuffer.Part{{Rows: &rows}}})
		if err != nil || out.Ranges[0].Start != before.End[0] {
			t.Fatalf("%v append after recovery: %v, %v; want offset %v", id, out.Ranges, err, before.End[0])
		}
		after, err := l.Ends(id)
		if err != nil || after.LastTimestamp < ends.LastTimestamp || ends.LastTimestamp > 0 && before.LastTimestamp == ends.LastTimestamp && after.LastTimestamp == ends.LastTimestamp {
			t.Fatalf("%v timestamps %d, then %d; %v", id, ends.LastTimestamp, after.LastTimestamp, err)
		}
	}
}

func readFrom(t testing.TB, l *Log, id record.ViewID, p record.Partition, from record.Offset) []string {
	t.Helper()
	var out []string
	var r record.Reader
	for next := from; ; {
		batches, err := l.Read(context.Background(), id, p, next, 1<<20)
		if err != nil {
			t.Fatalf("%v", err)
		}
		if len(batches) == 0 {
			return out
		}
		for _, b := range batches {
			if err := r.Reset(b); err != nil {
				t.Fatal(err)
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
					t.Fatalf("row %v instead of %v", o, next)
				}
				out = append(out, string(v))
				next++
			}
			if r.Err() != nil {
				t.Fatal(r.Err())
			}
		}
	}
}

func sized(name string, n, size int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s/%d/", name, i) + strings.Repeat("x", size)
	}
	return out
}

// script is a run that meets every kind of commit: rows, several partitions,
// producers, requests without rows, releases that free segments at the front
// and in the middle, a drop, a request larger than a segment, a clean restart.
// It stops at the first error.
func script(fs vfs.FS, m *model, o Options) error {
	ctx := context.Background()
	o.FS, o.Logger, o.SegmentBytes = fs, quiet(), 64<<10
	if o.MaxBytes == 0 {
		o.MaxBytes = 2 << 20
	}
	run := func(name string, f func(l *Log) error) error {
		l, err := Open("/log", o)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		m.mu.Lock()
		var ids []record.ViewID
		for id := range record.ViewID(4) {
			if id > 0 && !m.view(id, 2).dropped {
				ids = append(ids, id)
			}
		}
		m.mu.Unlock()
		for _, id := range ids {
			s := hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 2, Compressed: id == 2}
			if err := l.Open(ctx, id, s); err != nil {
				return errors.Join(err, l.Close())
			}
		}
		return errors.Join(f(l), l.Close())
	}
	fill := func(l *Log, name string, id record.ViewID, n int) error {
		for i := range n {
			s := fmt.Sprintf("%s%d", name, i)
			if err := m.append(l, id, i%2 == 0, modelPart{record.Partition(i % 2), sized(s, 1+i%3, 2500)}, modelPart{record.Partition(1 - i%2), sized(s, 1, 10)}); err != nil {
				return err
			}
		}
		return nil
	}
	if err := run("first", func(l *Log) error {
		if err := m.append(l, 3, false, modelPart{0, sized("old", 3, 100)}); err != nil {
			return err
		}
		if err := fill(l, "a", 1, 12); err != nil {
			return err
		}
		if err := fill(l, "b", 2, 5); err != nil {
			return err
		}
		if err := m.release(l, 1, record.Offsets{10, 8}); err != nil {
			return err
		}
		if _, err := l.Cut(ctx, 1); err != nil {
			return err
		}
		return m.append(l, 2, true)
	}); err != nil {
		return err
	}
	if err := run("second", func(l *Log) error {
		if err := m.append(l, 1, true, modelPart{0, sized("big", 3, 40<<10)}, modelPart{1, sized("big", 1, 1)}); err != nil {
			return err
		}
		if err := fill(l, "c", 1, 10); err != nil {
			return err
		}
		if err := m.drop(l, 2); err != nil {
			return err
		}
		ends, err := l.Ends(1)
		if err != nil {
			return err
		}
		if err := m.release(l, 1, record.Offsets{ends.End[0] - 3, ends.End[1] - 1}); err != nil {
			return err
		}
		return fill(l, "d", 3, 12)
	}); err != nil {
		return err
	}
	return run("third", func(l *Log) error { return fill(l, "e", 1, 3) })
}
