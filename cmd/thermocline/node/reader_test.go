package node

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/writer"
)

// TestReadsAgreeWithAModel publishes at random, archives at random moments, with
// and without hot retention, restarts, grows, and compares reads of every sort
// with a list in memory. A failure prints its seed; THERMOCLINE_SEED replays it.
func TestReadsAgreeWithAModel(t *testing.T) {
	t.Parallel()
	seeds := make([]uint64, 4)
	for i := range seeds {
		seeds[i] = rand.Uint64()
	}
	if text := os.Getenv("THERMOCLINE_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = []uint64{seed}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			t.Logf("replay with THERMOCLINE_SEED=%d", seed)
			m := &model{world: newWorld(t, catalog.Settings{Partitions: 3, KeyFields: []string{"k"}}), rnd: rand.New(rand.NewPCG(seed, 1)), epochRows: map[int64][]row{}}
			for end := time.Now().Add(4 * time.Second); m.steps < 40 || time.Now().Before(end) && m.steps < 400; m.steps++ {
				m.step()
			}
			m.everything()
		})
	}
}

// model is a world and what it must hold: every acknowledged row in the view's
// total order, as the log (and not the reader) says.
type model struct {
	*world
	rnd       *rand.Rand
	steps     int
	rows      []modelRow
	cursors   []saved
	cut       record.Offsets  // of the newest checkpoint that we know of
	epochRows map[int64][]row // by the model's cuts
}

type modelRow struct {
	row
	ts int64
}

// saved is a cursor that a read gave, and what the same read would go on with.
type saved struct {
	where  *where
	cursor reader.Cursor
	seen   []row // all rows before it, of a read that began at the earliest
}

type where struct {
	text string
	is   func(modelRow) bool
}

func (m *model) where() *where {
	n := int64(len(m.rows))
	a, b := m.rnd.Int64N(n+10), m.rnd.Int64N(n+10)
	k := m.rnd.IntN(7)
	list := []*where{
		{"", func(modelRow) bool { return true }},
		{fmt.Sprintf("k = 'key-%d'", k), func(r modelRow) bool { return r.k == fmt.Sprintf("key-%d", k) }},
		{fmt.Sprintf("n >= %d", a), func(r modelRow) bool { return r.n >= a }},
		{fmt.Sprintf("n < %d", a), func(r modelRow) bool { return r.n < a }},
		{fmt.Sprintf("n >= %d and n < %d or k = 'key-%d'", a, b, k), func(r modelRow) bool { return r.n >= a && r.n < b || r.k == fmt.Sprintf("key-%d", k) }},
		{fmt.Sprintf("n in (%d, %d)", a, b), func(r modelRow) bool { return r.n == a || r.n == b }},
		{fmt.Sprintf("_partition_id = %d and _offset >= %d", k%4, a/3), func(r modelRow) bool { return r.part == int64(k%4) && r.offset >= a/3 }},
		{"n is null", func(modelRow) bool { return false }},
	}
	return list[m.rnd.IntN(len(list))]
}

func (m *model) step() {
	m.t.Helper()
	switch m.rnd.IntN(20) {
	case 0, 1, 2, 3, 4:
		m.publishRows(1 + m.rnd.IntN(40))
	case 5, 6, 7:
		m.archive()
	case 8:
		m.take()
	case 9:
		keep := []time.Duration{0, 30 * time.Millisecond, time.Hour}[m.rnd.IntN(3)]
		m.update(api.SettingsPatch{HotRetention: &keep})
	case 10:
		if n := m.ends().End; len(n) < 6 && m.rnd.IntN(3) == 0 {
			grown := len(n) + 1
			m.update(api.SettingsPatch{Partitions: &grown})
		}
	case 11:
		if m.rnd.IntN(4) == 0 {
			m.restart()
		}
	case 12:
		m.epochsFromAnywhere()
	default:
		m.readSomething()
	}
}

func (m *model) update(p api.SettingsPatch) {
	m.t.Helper()
	if _, err := m.b.Streams.UpdateSettings(m.t.Context(), "s", "main", p); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) take() {
	m.t.Helper()
	cp, err := m.node.checks.Take(m.t.Context(), m.view())
	if err != nil {
		m.t.Fatal(err)
	}
	m.cut = cp.Cut
}

func (m *model) ends() (e struct{ End record.Offsets }) {
	m.t.Helper()
	ends, err := m.node.log.Ends(m.view())
	if err != nil {
		m.t.Fatal(err)
	}
	e.End = ends.End
	return e
}

// publishRows publishes, and adds to the model what the log has then.
func (m *model) publishRows(rows int) {
	m.t.Helper()
	var b strings.Builder
	want := map[string]int{}
	for range rows {
		text := fmt.Sprintf(`{"k":"key-%d","n":%d}`, m.rnd.IntN(7), m.next)
		b.WriteString(text + "\n")
		want[text]++
		m.next++
	}
	out, err := m.node.writer.Publish(m.t.Context(), writer.Request{Stream: "s", Branch: "main", Format: writer.JSON, Body: []byte(b.String())})
	if err != nil {
		m.t.Fatal(err)
	}
	for _, r := range out.Ranges {
		for o := r.Start; o < r.End; {
			batches, err := m.node.log.Read(m.t.Context(), m.view(), r.Partition, o, 1)
			if err != nil {
				m.t.Fatal(err)
			}
			for _, batch := range batches {
				o = m.add(r.Partition, batch, o, r.End, want)
			}
		}
	}
	for text, left := range want {
		if left != 0 {
			m.t.Fatalf("the log holds row %s %d times too few", text, left)
		}
	}
	time.Sleep(time.Millisecond) // so that later rows get a later time, and stand behind these
	slices.SortStableFunc(m.rows, func(a, b modelRow) int {
		return cmp.Or(cmp.Compare(a.ts, b.ts), cmp.Compare(a.part, b.part), cmp.Compare(a.offset, b.offset))
	})
}

// add decodes rows [from, to) of a batch without our codecs.
func (m *model) add(p record.Partition, b record.Batch, from, to record.Offset, want map[string]int) (next record.Offset) {
	m.t.Helper()
	var rows record.Reader
	if err := rows.Reset(b); err != nil {
		m.t.Fatal(err)
	}
	for {
		o, _, value, ok := rows.Next()
		if !ok || o >= to {
			return b.End()
		}
		if o < from {
			continue
		}
		_, datum, err := schema.SplitHeader(value)
		if err != nil {
			m.t.Fatal(err)
		}
		size, at := binary.Varint(datum)
		k := string(datum[at : at+int(size)])
		n, _ := binary.Varint(datum[at+int(size):])
		want[fmt.Sprintf(`{"k":%q,"n":%d}`, k, n)]--
		m.rows = append(m.rows, modelRow{row{k, n, int64(p), int64(o)}, b.Timestamp()})
	}
}

// between lists the model's rows of [from, to) that a predicate selects.
func (m *model) between(from, to record.Offsets, w *where) (rows []row) {
	for _, r := range m.rows {
		p, o := record.Partition(r.part), record.Offset(r.offset)
		if o >= from.At(p) && o < to.At(p) && (w == nil || w.is(r)) {
			rows = append(rows, r.row)
		}
	}
	return rows
}

func (m *model) same(what string, got, want []row) {
	m.t.Helper()
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			m.t.Fatalf("step %d, %s: %d rows, want %d; the first difference is at %d:\ngot  %v\nwant %v", m.steps, what, len(got), len(want), i,
				got[min(i, len(got)):min(i+5, len(got))], want[min(i, len(want)):min(i+5, len(want))])
		}
	}
}

// readSomething runs one bounded read, from the earliest row or a saved cursor.
func (m *model) readSomething() {
	m.t.Helper()
	q := reader.Request{Consistency: []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce}[m.rnd.IntN(2)]}
	if m.rnd.IntN(3) == 0 {
		q.Columns = []string{"n", "k"}
	}
	if m.rnd.IntN(2) == 0 {
		q.Limit = 1 + m.rnd.Int64N(int64(len(m.rows))+10)
	}
	s := saved{where: m.where()}
	if len(m.cursors) > 0 && m.rnd.IntN(3) > 0 {
		s = m.cursors[m.rnd.IntN(len(m.cursors))]
		text, err := reader.ParseCursor(s.cursor.String())
		if err != nil {
			m.t.Fatal(err)
		}
		q.From.Cursor = &text
	}
	q.Where = s.where.text
	least := s.cursor.Next
	if q.Consistency == catalog.ExactlyOnce {
		least = m.cut
	}
	got, end := m.read(q)
	what := fmt.Sprintf("%s, %s, limit %d from %v", q.Consistency, q.Where, q.Limit, s.cursor.Next)
	seen := append(slices.Clone(s.seen), got...)
	if q.Limit == 0 || int64(len(got)) < q.Limit {
		// It was read to the end, which the closing cursor names.
		m.same(what, got, m.between(s.cursor.Next, end.Next, s.where))
		if !m.ends().End.Covers(end.Next) || !end.Next.Covers(least) {
			m.t.Fatalf("%s: closes at %v, the view is at %v, the last checkpoint was at %v", what, end.Next, m.ends().End, least)
		}
		if q.Consistency == catalog.AtLeastOnce && !end.Next.Equal(m.ends().End) {
			m.t.Fatalf("%s: closes at %v, the view is at %v", what, end.Next, m.ends().End)
		}
	} else {
		all := m.between(s.cursor.Next, m.ends().End, s.where)
		m.same(what, got, all[:min(int(q.Limit), len(all))])
	}
	// Head and continuation make up the whole, without a gap.
	whole := m.between(nil, m.ends().End, s.where)
	m.same(what+", with what came before", seen, whole[:min(len(seen), len(whole))])
	if len(m.cursors) < 40 {
		m.cursors = append(m.cursors, saved{s.where, end, seen})
	} else {
		m.cursors[m.rnd.IntN(40)] = saved{s.where, end, seen}
	}
}

// epochsFromAnywhere tails exactly once from a cursor or the earliest row up to
// the newest checkpoint, and compares each epoch with the model's.
func (m *model) epochsFromAnywhere() {
	m.t.Helper()
	m.take()
	last, err := m.node.checks.Latest(m.t.Context(), m.view())
	if err != nil {
		m.t.Fatal(err)
	}
	q := reader.Request{Consistency: catalog.ExactlyOnce, System: true}
	var from record.Offsets
	if len(m.cursors) > 0 && m.rnd.IntN(2) == 0 {
		c := m.cursors[m.rnd.IntN(len(m.cursors))].cursor
		q.From.Cursor, from = &c, c.Next
	}
	if from.Covers(last.Cut) {
		return
	}
	w := m.where()
	q.Where = w.text
	cuts, err := m.node.catalog.CheckpointsAfter(m.t.Context(), m.view(), 0, 1000)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second)
	defer cancel()
	res, err := m.b.Reader.Tail(ctx, "s", "main", q)
	if err != nil {
		m.t.Fatal(err)
	}
	got := map[int64][]row{}
	for b, err := range res.Batches {
		if err != nil {
			m.t.Fatal(err)
		}
		got[b.Epoch] = append(got[b.Epoch], rowsOf(b)...)
		if b.EpochEnd && b.Epoch >= last.Number {
			break
		}
	}
	before := record.Offsets{}
	for _, cp := range cuts {
		if cp.Number > last.Number {
			break
		}
		lower := make(record.Offsets, len(cp.Cut))
		for p := range lower {
			lower[p] = max(before.At(record.Partition(p)), from.At(record.Partition(p)))
		}
		m.same(fmt.Sprintf("epoch %d from %v where %s", cp.Number, from, w.text), got[cp.Number], m.between(lower, cp.Cut, w))
		if whole, ok := m.epochRows[cp.Number]; ok {
			m.same(fmt.Sprintf("epoch %d as it was", cp.Number), m.between(before, cp.Cut, nil), whole)
		} else {
			m.epochRows[cp.Number] = m.between(before, cp.Cut, nil)
		}
		before = cp.Cut
	}
}

// everything reads all rows, in the three states that they can be in.
func (m *model) everything() {
	m.t.Helper()
	for _, state := range []func(){func() {}, func() { m.archive() }, m.restart} {
		state()
		rows, end := m.read(reader.Request{})
		m.same("everything", rows, m.between(nil, m.ends().End, nil))
		if !end.Next.Equal(m.ends().End) {
			m.t.Fatalf("everything closes at %v", end.Next)
		}
	}
}
