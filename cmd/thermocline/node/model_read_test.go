package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// gotRows takes the rows of a batch with system columns.
func gotRows(b reader.Batch, into []gotRow) []gotRow {
	if b.Rows == nil {
		return into
	}
	names := b.Rows.Schema()
	at := func(name string) int {
		if i := names.FieldIndices(name); len(i) == 1 {
			return i[0]
		}
		return -1
	}
	view, part := b.Rows.Column(at(schema.ViewColumn)).(*array.Int32), b.Rows.Column(at(schema.PartitionColumn)).(*array.Int32)
	off, ts := b.Rows.Column(at(schema.OffsetColumn)).(*array.Int64), b.Rows.Column(at(schema.TimestampColumn)).(*array.Timestamp)
	for i := range int(b.Rows.NumRows()) {
		g := gotRow{
			view: record.ViewNumber(view.Value(i)), part: record.Partition(part.Value(i)),
			off: record.Offset(off.Value(i)), ts: int64(ts.Value(i)) / 1000,
		}
		for c := range int(b.Rows.NumCols()) {
			if name := names.Field(c).Name; !strings.HasPrefix(name, "_") {
				g.cells = append(g.cells, arrowCell(b.Rows.Column(c), i))
				if name == "n" {
					g.n = b.Rows.Column(c).(*array.Int64).Value(i)
				}
			}
		}
		into = append(into, g)
	}
	return into
}

// read runs a bounded read with system columns.
func (m *machine) read(s *modelStream, q reader.Request) (rows []gotRow, columns []schema.Field, end reader.Cursor, err error) {
	q.System = true
	res, err := m.b.Reader.Read(m.ctx, s.name, "main", q)
	if err != nil {
		return nil, nil, end, err
	}
	for _, f := range res.Schema.Fields {
		if !strings.HasPrefix(f.Name, "_") {
			columns = append(columns, f)
		}
	}
	for b, err := range res.Batches {
		if err != nil {
			return nil, nil, end, err
		}
		rows = gotRows(b, rows)
		end = b.Next
	}
	return rows, columns, end, nil
}

// settle reads a whole stream and compares all of it with the model.
func (m *machine) settle(s *modelStream) {
	rows, columns, end, err := m.read(s, reader.Request{Consistency: catalog.AtLeastOnce})
	m.must("read "+s.name, err)
	want := s.view.guestsIn(0, s.view.guestEnd())
	m.compare("guests of "+s.name, rows[:min(len(want), len(rows))], columns, want)
	rows = rows[len(want):]
	m.must("read "+s.name, s.view.settle(rows))
	if !end.Next.Equal(s.view.ends) {
		m.fail("a read of all of %s ends at %v, want %v", s.name, end.Next, s.view.ends)
	}
}

// learn takes note of new checkpoints.
func (m *machine) learn(s *modelStream) {
	m.settle(s)
	cs, err := m.node.catalog.CheckpointsAfter(m.ctx, s.view.id, 0, catalog.MaxPage)
	m.must("checkpoints", err)
	m.must("checkpoints of "+s.name, s.view.learn(cs))
}

func (m *machine) opRead(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	m.settle(s)
	return true
}

// where is a predicate and what it means.
type modelWhere struct {
	text string
	keep func(*expectedRow) bool
}

// plainWhere asks for n and k only, which no evolution touches.
func plainWhere(r *rand.Rand, v *modelView) modelWhere {
	at := int64(0)
	if len(v.order) > 0 {
		at = v.order[r.IntN(len(v.order))].n
	}
	key := fmt.Sprintf("key-%d", r.IntN(7))
	switch r.IntN(5) {
	case 0:
		return modelWhere{fmt.Sprintf("n >= %d", at), func(row *expectedRow) bool { return row.n >= at }}
	case 1:
		return modelWhere{fmt.Sprintf("n < %d", at), func(row *expectedRow) bool { return row.n < at }}
	case 2:
		return modelWhere{fmt.Sprintf("k = '%s'", key), func(row *expectedRow) bool { return row.key == key }}
	case 3:
		return modelWhere{fmt.Sprintf("k = '%s' or n = %d", key, at), func(row *expectedRow) bool { return row.key == key || row.n == at }}
	}
	return modelWhere{"", func(*expectedRow) bool { return true }}
}

// anyWhere asks for any column.
func anyWhere(r *rand.Rand, v *modelView) modelWhere {
	fields := v.schema.Fields
	i := r.IntN(len(fields))
	f := &fields[i]
	is := func(row *expectedRow) string { return row.under(v.schema)[i] }
	sample := "null"
	if len(v.order) > 0 {
		sample = is(v.order[r.IntN(len(v.order))])
	}
	switch kind := f.Type.Kind; {
	case r.IntN(4) == 0:
		return modelWhere{f.Name + " is null", func(row *expectedRow) bool { return is(row) == "null" }}
	case r.IntN(4) == 0:
		return modelWhere{f.Name + " is not null", func(row *expectedRow) bool { return is(row) != "null" }}
	case sample == "null":
	case kind >= schema.Byte && kind <= schema.Long:
		var limit int64
		_, _ = fmt.Sscan(sample, &limit)
		below := func(row *expectedRow) bool {
			var x int64
			_, err := fmt.Sscan(is(row), &x)
			return err == nil && x < limit
		}
		if r.IntN(2) == 0 {
			return modelWhere{fmt.Sprintf("%s < %s", f.Name, sample), below}
		}
		return modelWhere{fmt.Sprintf("%s >= %s", f.Name, sample), func(row *expectedRow) bool { return is(row) != "null" && !below(row) }}
	case kind == schema.Boolean:
		return modelWhere{f.Name + " = " + sample, func(row *expectedRow) bool { return is(row) == sample }}
	case kind == schema.String && len(sample) < 100:
		return modelWhere{fmt.Sprintf("%s = '%s'", f.Name, strings.Trim(sample, `"`)), func(row *expectedRow) bool { return is(row) == sample }}
	}
	return plainWhere(r, v)
}

// compare holds the rows of a read against those that the model wants.
func (m *machine) compare(what string, got []gotRow, columns []schema.Field, want []*expectedRow) {
	for i, g := range got {
		if i >= len(want) {
			m.fail("%s: %d rows, want %d; the first too many is at partition %d offset %d", what, len(got), len(want), g.part, g.off)
		}
		w := want[i]
		if g.part != w.part || g.off != w.off || g.ts != w.ts {
			m.fail("%s: row %d is at partition %d offset %d time %d, want %d %d %d (row %d)", what, i, g.part, g.off, g.ts, w.part, w.off, w.ts, w.n)
		}
		for c := range columns {
			if cell := cell(&columns[c], w.values); g.cells[c] != cell {
				m.fail("%s: row %d reads %s as %s, want %s", what, w.n, columns[c].Name, g.cells[c], cell)
			}
		}
	}
	if len(got) < len(want) {
		m.fail("%s: %d rows, want %d; the first that is missing is %d at partition %d offset %d", what, len(got), len(want), want[len(got)].n, want[len(got)].part, want[len(got)].off)
	}
}

// consistency draws one, perhaps the stream's own by leaving it out, and
// returns what reads of it see.
func (m *machine) consistency(r *rand.Rand, s *modelStream) (catalog.Consistency, record.Offsets) {
	c := []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce, ""}[r.IntN(3)]
	means := cmp.Or(c, s.settings.Consistency)
	if means == catalog.AtLeastOnce {
		m.settle(s)
		return c, s.view.ends
	}
	if !m.quiet { // or a checkpoint might come in between
		_, err := m.node.checks.Take(m.ctx, s.view.id)
		m.must("checkpoint", err)
	}
	m.learn(s)
	return c, s.view.newest().Cut
}

// A read of some columns of some rows.
func (m *machine) opSelect(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	q := reader.Request{}
	var to record.Offsets
	q.Consistency, to = m.consistency(r, s)
	w := anyWhere(r, s.view)
	q.Where = w.text
	if r.IntN(2) == 0 {
		for _, f := range s.view.schema.Fields {
			if r.IntN(2) == 0 {
				name := f.Name
				if f.Type.Kind == schema.Struct && r.IntN(2) == 0 {
					name += "." + f.Type.Fields[r.IntN(len(f.Type.Fields))].Name
				}
				q.Columns = append(q.Columns, name)
			}
		}
	}
	exactly := cmp.Or(q.Consistency, s.settings.Consistency) == catalog.ExactlyOnce
	all := append(s.view.guestsIn(0, m.seenBy(s.view, exactly)), s.view.visible(nil, to)...)
	want := slices.DeleteFunc(all, func(row *expectedRow) bool { return !w.keep(row) })
	if r.IntN(3) == 0 {
		q.Limit = 1 + r.Int64N(20)
		want = want[:min(len(want), int(q.Limit))]
	}
	rows, columns, _, err := m.read(s, q)
	what := fmt.Sprintf("read %s of %v where %q limit %d, %s", s.name, q.Columns, q.Where, q.Limit, q.Consistency)
	m.must(what, err)
	m.compare(what, rows, columns, want)
	return true
}

// modelCursor is the end of a read that may go on: behind it are the rows that
// the read left, whatever happens to the stream meanwhile.
type modelCursor struct {
	text   string
	stream string
	view   *modelView
	where  modelWhere
	seen   map[*expectedRow]bool
	guests *guestCursor
}

// A read that begins where an earlier one ended, and goes on for a while.
func (m *machine) opCursor(r *rand.Rand) bool {
	if len(m.cursors) > 0 && r.IntN(3) > 0 {
		i := r.IntN(len(m.cursors))
		c := m.cursors[i]
		m.cursors = slices.Delete(m.cursors, i, i+1)
		return m.goOn(r, c)
	}
	s := m.pick(r)
	if s == nil {
		return false
	}
	m.settle(s)
	return m.goOn(r, modelCursor{stream: s.name, view: s.view, where: plainWhere(r, s.view), seen: map[*expectedRow]bool{}, guests: &guestCursor{}})
}

func (m *machine) goOn(r *rand.Rand, c modelCursor) bool {
	q := reader.Request{Where: c.where.text}
	if c.text != "" {
		at, err := reader.ParseCursor(c.text)
		m.must("cursor", err)
		q.From.Cursor = &at
	}
	s := m.streams[c.stream]
	if s == nil || s.view != c.view {
		return m.leftBehind(c, q)
	}
	var to record.Offsets
	q.Consistency, to = m.consistency(r, s)
	exactly := cmp.Or(q.Consistency, s.settings.Consistency) == catalog.ExactlyOnce
	rest, more := c.guests.next(s.view, m.seenBy(s.view, exactly), c.where.keep)
	want := slices.DeleteFunc(s.view.visible(nil, to), func(row *expectedRow) bool { return c.seen[row] || !c.where.keep(row) })
	want = slices.Concat(rest, more, want)
	if r.IntN(4) > 0 {
		q.Limit = 1 + r.Int64N(15)
		want = want[:min(len(want), int(q.Limit))]
	}
	rows, columns, end, err := m.read(s, q)
	what := fmt.Sprintf("read %s where %q limit %d, %s, from cursor %v", s.name, q.Where, q.Limit, q.Consistency, q.From.Cursor)
	if c.guests.amid && errors.Is(err, record.ErrOutOfRange) {
		m.count("cursor amid guests that have expired")
		return true
	}
	m.must(what, err)
	m.compare(what, rows, columns, want)
	m.must(what, c.guests.took(min(len(want), len(rest)+len(more)), rest, more, end))
	if c.guests.amid {
		m.count("cursor amid guests")
	}
	for _, row := range want {
		c.seen[row] = true
	}
	for _, row := range s.view.order {
		if c.where.keep(row) && row.below(end.Next) != c.seen[row] {
			m.fail("%s ends at %v: row %d (partition %d, offset %d) delivered: %v", what, end, row.n, row.part, row.off, c.seen[row])
		}
	}
	if len(m.cursors) < 24 {
		c.text = end.String()
		m.cursors = append(m.cursors, c)
	}
	return true
}

// leftBehind checks what a cursor of a view that is gone gives.
func (m *machine) leftBehind(c modelCursor, q reader.Request) bool {
	if c.text == "" {
		return false
	}
	want := record.ErrNotFound
	if m.streams[c.stream] != nil {
		want = reader.ErrOtherView
	}
	_, _, _, err := m.read(&modelStream{name: c.stream}, q)
	if !errors.Is(err, want) {
		m.fail("a cursor of a view that is gone: %v, want %v", err, want)
	}
	m.count("cursor of a view that is gone")
	return true
}

// Cursors of other streams and from the future are refused.
func (m *machine) opBadCursor(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	m.settle(s)
	c := reader.Cursor{View: s.view.id, Next: s.view.ends.Clone()}
	want := record.ErrOutOfRange
	if r.IntN(2) == 0 {
		c.Next[r.IntN(len(c.Next))] += 1 + record.Offset(r.IntN(3))
	} else {
		for _, name := range m.names3() {
			if name != s.name {
				c.View = m.streams[name].view.id
				want = reader.ErrOtherView
			}
		}
		if c.View == s.view.id {
			return false
		}
	}
	if _, _, _, err := m.read(s, reader.Request{From: reader.Start{Cursor: &c}}); !errors.Is(err, want) {
		m.fail("read of %s from %v, where it ends at %v: %v, want %v", s.name, c, s.view.ends, err, want)
	}
	return true
}

func (m *machine) opCheckpoint(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	if !m.calm && r.IntN(4) == 0 {
		m.faults.arm(1, r.IntN(2) == 0, []string{"AddCheckpoints", "Buffer.Cut", "LatestCheckpoint"}[r.IntN(3)])
		_, err := m.node.checks.Take(m.ctx, s.view.id)
		if m.faults.disarm(); err != nil && !errors.Is(err, errInjected) {
			m.fail("checkpoint with a fault: %w", err)
		}
		if err != nil {
			m.count("checkpoint with a fault")
		}
	}
	cp, err := m.node.checks.Take(m.ctx, s.view.id)
	m.must("checkpoint", err)
	m.learn(s)
	if n := s.view.newest(); n.Number != cp.Number || !n.Cut.Covers(s.view.ends) {
		m.fail("a checkpoint of %s is %+v, the newest is %+v, rows end at %v", s.name, cp, n, s.view.ends)
	}
	return true
}

// Epochs, from anywhere, hold what they held whenever they are read.
func (m *machine) opEpochs(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	m.learn(s)
	v := s.view
	var checks []catalog.Checkpoint
	var from reader.Start
	pos, guests := record.Offsets{}, int64(0)
	if n := len(v.epochs); n == 0 {
		return false
	} else if i := r.IntN(n); r.IntN(2) == 0 {
		checks = v.epochs
	} else {
		checks = v.epochs[i:]
		if i > 0 {
			b := v.epochs[i-1]
			pos, guests = b.Cut, b.Guests
			from.Cursor = &reader.Cursor{View: v.id, Next: pos, Guests: guests, Checkpoint: []int64{0, b.Number}[r.IntN(2)]}
		}
	}
	w := plainWhere(r, v)
	ctx, cancel := context.WithTimeout(m.ctx, patience)
	defer cancel()
	res, err := m.b.Reader.Tail(ctx, s.name, "main", reader.Request{Consistency: catalog.ExactlyOnce, System: true, Where: w.text, From: from})
	m.must("epochs", err)
	got := []gotRow{}
	last := checks[len(checks)-1].Number
	for b, err := range res.Batches {
		m.must(fmt.Sprintf("epochs of %s from %v to %d", s.name, from.Cursor, last), err)
		if b.Epoch != checks[0].Number {
			m.fail("epoch %d of %s comes where %d is next", b.Epoch, s.name, checks[0].Number)
		}
		got = gotRows(b, got)
		if !b.EpochEnd {
			continue
		}
		if b.Next.Checkpoint != b.Epoch || !b.Next.Next.Equal(checks[0].Cut) {
			m.fail("epoch %d of %s ends at %v, its checkpoint is %v", b.Epoch, s.name, b.Next, checks[0])
		}
		all := append(v.guestsIn(guests, checks[0].Guests), v.visible(pos, checks[0].Cut)...)
		want := slices.DeleteFunc(all, func(row *expectedRow) bool { return !w.keep(row) })
		m.compare(fmt.Sprintf("epoch %d of %s where %q", b.Epoch, s.name, w.text), got, res.Schema.Fields[:len(res.Schema.Fields)-4], want)
		got, pos, guests, checks = got[:0], checks[0].Cut, checks[0].Guests, checks[1:]
		m.count("epoch")
		if b.Epoch == last {
			return true
		}
	}
	m.fail("epochs of %s ended before %d", s.name, last)
	return false
}
