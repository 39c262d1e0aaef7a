package node

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// modelStream is what the model knows of a stream that exists.
type modelStream struct {
	name     string
	settings catalog.Settings
	view     *modelView
	old      []*modelView // replaced by resets, their rows known
	groups   []*modelGroup
	// archived: an archive has succeeded since the last reset.
	archived bool
}

// modelView is one generation of a stream's rows.
type modelView struct {
	id     record.ViewID
	number record.ViewNumber
	schema *schema.Schema
	ends   record.Offsets // of acknowledged rows
	rows   map[int64]*expectedRow
	guests []*modelGuest // in the order in which they came
	// acked holds requests in the order of their acknowledgement; those of
	// unknown outcome are in doubt, and are there as a whole or not at all.
	doubt []*modelRequest
	loose []looseRange

	// order is the view's total order, as far as a read has shown it: all rows in
	// it are placed for ever. A row that comes later may still stand before one
	// of the same millisecond, unless a checkpoint or a change of settings came
	// between.
	order []*expectedRow

	epochs    []catalog.Checkpoint // those that are kept, in order
	producers map[string]*modelProducer
	once      []modelOnce
	expired   bool // its versions of the dataset are gone
}

// modelOnce is a request with an idempotency key.
type modelOnce struct {
	key    string
	ranges []hotbuffer.PartRange // by partition
}

// modelRequest is a publish.
type modelRequest struct {
	turn  int64 // requests of an earlier turn were answered before this one was sent
	rows  []*expectedRow
	keyed bool
}

// looseRange is what an acknowledgement said about rows nobody has read yet.
type looseRange struct {
	hotbuffer.PartRange
	request *modelRequest
}

type expectedRow struct {
	n       int64
	key     string
	values  modelFields
	request *modelRequest
	index   int // in the request

	placed   bool
	part     record.Partition
	off      record.Offset
	ts       int64
	cells    []string // under the schema of the id below
	cellsFor int32
}

// under gives the row's cells under a schema.
func (r *expectedRow) under(s *schema.Schema) []string {
	if r.cells == nil || r.cellsFor != s.ID {
		r.cells, r.cellsFor = make([]string, len(s.Fields)), s.ID
		for i := range s.Fields {
			r.cells[i] = cell(&s.Fields[i], r.values)
		}
	}
	return r.cells
}

// modelProducer is a producer of a view, with the requests that can be repeated.
type modelProducer struct {
	name  string
	epoch int32
	next  int64
	last  []modelOutcome // of consecutive sequences, the newest is next-1
}

type modelOutcome struct {
	ranges []hotbuffer.PartRange // by partition
	body   []byte
}

func (p *modelProducer) done(ranges []hotbuffer.PartRange, body []byte) {
	p.next++
	p.last = append(p.last, modelOutcome{byPartition(ranges), body})
	if len(p.last) > hotbuffer.RememberedSequences {
		p.last = p.last[1:]
	}
}

func byPartition(ranges []hotbuffer.PartRange) []hotbuffer.PartRange {
	return slices.SortedFunc(slices.Values(ranges), func(a, b hotbuffer.PartRange) int { return cmp.Compare(a.Partition, b.Partition) })
}

func newModelView(id record.ViewID, number record.ViewNumber, partitions int, s *schema.Schema) *modelView {
	return &modelView{
		id: id, number: number, schema: s, ends: make(record.Offsets, partitions),
		rows: map[int64]*expectedRow{}, producers: map[string]*modelProducer{},
	}
}

// request makes rows that nobody has had yet.
func (m *machine) request(r *rand.Rand, s *modelStream, rows int) *modelRequest {
	m.turn++
	q := &modelRequest{turn: m.turn, keyed: len(s.settings.KeyFields) > 0}
	fields := s.view.schema.Fields
	for i := range rows {
		m.nextN++
		row := &expectedRow{n: m.nextN, key: "key-" + strconv.Itoa(r.IntN(6)), values: modelFields{}, request: q, index: i}
		for j := range fields {
			f := &fields[j]
			switch {
			case f.Name == "n":
				row.values[f.ID] = row.n
			case f.Name == "k":
				row.values[f.ID] = row.key
			case (f.Nullable || f.Default != nil) && r.IntN(5) == 0:
				row.values[f.ID] = modelAbsent{}
			default:
				row.values[f.ID] = randomField(r, f)
			}
		}
		q.rows = append(q.rows, row)
	}
	return q
}

func (q *modelRequest) body(s *schema.Schema) []byte {
	var b []byte
	for _, row := range q.rows {
		b = append(fieldsJSON(append(b, '{'), s.Fields, row.values), "}\n"...)
	}
	return b
}

// ack takes what a publish answered.
func (v *modelView) ack(q *modelRequest, ranges []hotbuffer.PartRange) error {
	total := int64(0)
	for _, p := range ranges {
		total += p.Len()
		// Other requests may have been under way.
		if p.Start < v.ends.At(p.Partition) || int(p.Partition) >= len(v.ends) {
			return fmt.Errorf("rows were appended at %+v, where %v had been acknowledged", p, v.ends)
		}
		v.loose = append(v.loose, looseRange{p, q})
	}
	if total != int64(len(q.rows)) {
		return fmt.Errorf("%d rows were published, and %d appended", len(q.rows), total)
	}
	for _, row := range q.rows {
		v.rows[row.n] = row
	}
	return nil
}

// grow moves the ends behind acknowledged ranges.
func (v *modelView) grow(ranges []hotbuffer.PartRange) {
	v.ends = v.ends.Clone()
	for _, p := range ranges {
		v.ends[p.Partition] = max(v.ends[p.Partition], p.End)
	}
}

// gotRow is a row as a read gave it, with the cells of all columns asked for.
type gotRow struct {
	n     int64
	view  record.ViewNumber
	part  record.Partition
	off   record.Offset
	ts    int64
	cells []string
}

// settle compares a read of a whole view with the model, which learns from it
// what only the node could know: where rows lie, when they were appended, and
// what has become of requests in doubt.
func (v *modelView) settle(got []gotRow) error {
	next := make(record.Offsets, len(v.ends))
	arrived := map[*modelRequest]int{}
	lastOfKey := map[string]*expectedRow{}
	inRequest := map[*modelRequest]map[record.Partition]int{}
	order := make([]*expectedRow, 0, len(got))
	for i, g := range got {
		if i > 0 {
			b := got[i-1]
			if c := cmp.Or(cmp.Compare(b.ts, g.ts), cmp.Compare(b.part, g.part), cmp.Compare(b.off, g.off)); c >= 0 {
				return fmt.Errorf("row %d of partition %d offset %d time %d is read behind partition %d offset %d time %d", g.n, g.part, g.off, g.ts, b.part, b.off, b.ts)
			}
		}
		if int(g.part) >= len(next) || g.off != next[g.part] {
			return fmt.Errorf("row %d is read at offset %d of partition %d, where %d is next", g.n, g.off, g.part, next.At(g.part))
		}
		next[g.part]++
		row := v.rows[g.n]
		if row == nil {
			if row = v.inDoubt(g.n); row == nil {
				return fmt.Errorf("row %d at partition %d offset %d was never acknowledged in view %d, or is there although its request was not", g.n, g.part, g.off, v.number)
			}
			arrived[row.request]++
		}
		if row.placed && (row.part != g.part || row.off != g.off || row.ts != g.ts) {
			return fmt.Errorf("row %d is read at partition %d offset %d time %d, and was at %d %d %d", g.n, g.part, g.off, g.ts, row.part, row.off, row.ts)
		}
		if g.view != v.number {
			return fmt.Errorf("row %d is read with view %d, want %d", g.n, g.view, v.number)
		}
		if want := row.under(v.schema); !slices.Equal(g.cells, want) {
			return fmt.Errorf("row %d is read as\n%q, want\n%q", g.n, g.cells, want)
		}
		row.placed, row.part, row.off, row.ts = true, g.part, g.off, g.ts
		if row.request.keyed {
			if last := lastOfKey[row.key]; last != nil && (last.request.turn > row.request.turn || last.request == row.request && last.index > row.index) {
				return fmt.Errorf("row %d is read behind row %d, which has the same key and came later", row.n, last.n)
			}
			lastOfKey[row.key] = row
		}
		parts := inRequest[row.request]
		if parts == nil {
			parts = map[record.Partition]int{}
			inRequest[row.request] = parts
		}
		if last, ok := parts[g.part]; ok && last > row.index {
			return fmt.Errorf("row %d of a request is read behind its row %d", row.index, last)
		}
		parts[g.part] = row.index
		order = append(order, row)
	}
	for q, rows := range arrived {
		if rows != len(q.rows) {
			return fmt.Errorf("%d of the %d rows of one request are there", rows, len(q.rows))
		}
	}
	if len(order) != len(v.rows)+total(arrived) {
		return v.missing(order)
	}
	for _, l := range v.loose {
		for o := l.Start; o < l.End; o++ {
			if !slices.ContainsFunc(l.request.rows, func(r *expectedRow) bool { return r.part == l.Partition && r.off == o }) {
				return fmt.Errorf("offset %d of partition %d was acknowledged for another request than lies there", o, l.Partition)
			}
		}
	}
	for _, q := range v.doubt {
		if arrived[q] > 0 {
			for _, row := range q.rows {
				v.rows[row.n] = row
			}
		}
	}
	v.loose, v.doubt, v.order, v.ends = nil, nil, order, next
	return nil
}

func total(counts map[*modelRequest]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

func (v *modelView) inDoubt(n int64) *expectedRow {
	for _, q := range v.doubt {
		for _, row := range q.rows {
			if row.n == n {
				return row
			}
		}
	}
	return nil
}

func (v *modelView) missing(order []*expectedRow) error {
	seen := map[*expectedRow]bool{}
	for _, r := range order {
		seen[r] = true
	}
	for _, row := range v.rows {
		if !seen[row] {
			return fmt.Errorf("row %d of view %d (placed %v: partition %d, offset %d) was acknowledged and is gone; %d rows are read of %d", row.n, v.number, row.placed, row.part, row.off, len(order), len(v.rows))
		}
	}
	return fmt.Errorf("%d rows are read, %d are there", len(order), len(v.rows))
}

// below tells whether a cut covers a row.
func (r *expectedRow) below(cut record.Offsets) bool { return r.off < cut.At(r.part) }

// visible are the rows of a read: from a position on, up to a cut.
func (v *modelView) visible(from, to record.Offsets) []*expectedRow {
	var out []*expectedRow
	for _, r := range v.order {
		if !r.below(from) && r.below(to) {
			out = append(out, r)
		}
	}
	return out
}

// learn compares the checkpoints that the node has with those that it had.
func (v *modelView) learn(now []catalog.Checkpoint) error {
	for i, cp := range now {
		if i > 0 && cp.Number != now[i-1].Number+1 {
			return fmt.Errorf("checkpoint %d of view %d comes after %d", cp.Number, v.number, now[i-1].Number)
		}
		if i > 0 && (!cp.Cut.Covers(now[i-1].Cut) || cp.Timestamp < now[i-1].Timestamp || cp.Guests < now[i-1].Guests) {
			return fmt.Errorf("checkpoint %d of view %d goes back: %v, before %v", cp.Number, v.number, cp, now[i-1])
		}
		if !v.ends.Covers(cp.Cut) {
			return fmt.Errorf("checkpoint %d of view %d stands at %v, rows up to %v are there", cp.Number, v.number, cp.Cut, v.ends)
		}
	}
	if len(now) < len(v.epochs) {
		return fmt.Errorf("view %d has %d checkpoints and had %d", v.number, len(now), len(v.epochs))
	}
	for i, cp := range v.epochs {
		if now[i].Number != cp.Number || !now[i].Cut.Equal(cp.Cut) || now[i].Guests != cp.Guests || now[i].Timestamp != cp.Timestamp {
			return fmt.Errorf("checkpoint %d of view %d is now %+v", cp.Number, v.number, now[i])
		}
	}
	for _, row := range v.order {
		for i, cp := range now {
			if row.below(cp.Cut) != (row.ts <= cp.Timestamp) {
				return fmt.Errorf("row %d (partition %d, offset %d, time %d) and checkpoint %d (%v, time %d) do not fit", row.n, row.part, row.off, row.ts, now[i].Number, cp.Cut, cp.Timestamp)
			}
		}
	}
	v.epochs = slices.Clone(now)
	return nil
}

func (v *modelView) newest() catalog.Checkpoint {
	if len(v.epochs) == 0 {
		return catalog.Checkpoint{}
	}
	return v.epochs[len(v.epochs)-1]
}
