package node

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// modelGuest is a guest row: values of a row that there is, under another identity
// or none.
type modelGuest struct {
	*expectedRow
	view int32 // 0: it has no identity
	seq  int64 // data sequence number of its file
	path string
	at   int // among all guests
	gone bool
}

// guestsIn are the guests that are there and came behind one guest sequence and not
// behind another, in the order of a read.
func (v *modelView) guestsIn(after, through int64) []*expectedRow {
	var in []*modelGuest
	for _, g := range v.guests {
		if !g.gone && g.seq > after && g.seq <= through {
			in = append(in, g)
		}
	}
	slices.SortStableFunc(in, func(a, b *modelGuest) int {
		if (a.view == 0) != (b.view == 0) {
			return cmp.Compare(b.view, a.view)
		}
		return cmp.Or(cmp.Compare(a.view, b.view), cmp.Compare(a.ts, b.ts), cmp.Compare(a.part, b.part), cmp.Compare(a.off, b.off), cmp.Compare(a.at, b.at))
	})
	out := make([]*expectedRow, len(in))
	for i, g := range in {
		out[i] = g.expectedRow
	}
	return out
}

// guestEnd is how far the guests that are there reach.
func (v *modelView) guestEnd() int64 {
	end := int64(0)
	for _, g := range v.guests {
		if !g.gone {
			end = max(end, g.seq)
		}
	}
	return end
}

// own takes the guests out of the rows of a read.
func (v *modelView) own(got []gotRow) (guests, own []gotRow) {
	for _, g := range got {
		if g.view == v.number {
			own = append(own, g)
		} else {
			guests = append(guests, g)
		}
	}
	return guests, own
}

// An engine commits to the table of a stream: it appends rows, drops files with
// guests, or puts own rows into other files.
func (m *machine) opEngine(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	m.archive(s) // own rows to take values from, and the current schema
	m.settle(s)
	id := m.state(s).Branch.TableUUID
	t, err := m.node.datasets.Load(m.ctx, id)
	m.must("load", err)
	marker, err := t.Marker()
	m.must("marker", err)
	if marker == nil || marker.View != s.view.id {
		return false
	}
	var c dataset.Commit
	var brought []*modelGuest
	switch live := m.livePaths(s.view, t); {
	case len(live) > 0 && r.IntN(4) == 0:
		c.Remove = []string{live[r.IntN(len(live))]}
		m.count("engine drops guests")
	case r.IntN(4) == 0:
		if c = m.engineRewrites(r, s, t); len(c.Add) == 0 {
			return false
		}
		m.count("engine rewrites own rows")
	default:
		if c.Add, brought = m.engineAppends(r, s, t); len(c.Add) == 0 {
			return false
		}
		m.count("engine appends")
	}
	t, err = m.node.datasets.Commit(m.ctx, id, c)
	m.must("commit of an engine to "+s.name, err)
	head, _ := t.Head()
	for _, g := range s.view.guests {
		g.gone = g.gone || len(c.Remove) > 0 && g.path == c.Remove[0]
	}
	for _, g := range brought {
		g.seq, g.at = head.Sequence, len(s.view.guests)
		s.view.guests = append(s.view.guests, g)
	}
	if r.IntN(2) == 0 { // or checkpoints learn of it later
		_, _, err := m.node.reader.GuestEnd(m.ctx, readTarget(m.state(s)), true)
		m.must("end of the guests", err)
	}
	m.settle(s)
	m.audit(s)
	return true
}

// livePaths are files with guests that no compaction has joined with others.
func (m *machine) livePaths(v *modelView, t *dataset.Table) []string {
	var live []string
	for f, err := range t.Files(m.ctx, 0) {
		m.must("files", err)
		if slices.ContainsFunc(v.guests, func(g *modelGuest) bool { return g.path == f.Path }) {
			live = append(live, f.Path)
		}
	}
	return live
}

// engineAppends writes files with the values of own rows.
func (m *machine) engineAppends(r *rand.Rand, s *modelStream, t *dataset.Table) (files []dataset.DataFile, guests []*modelGuest) {
	rows := map[[2]int64]*expectedRow{}
	for _, row := range s.view.order {
		rows[[2]int64{int64(row.part), int64(row.off)}] = row
	}
	m.names++
	view := int32(1000 + m.names)
	if r.IntN(3) == 0 {
		view = 0
	}
	o := dataset.ScanOptions{Schema: s.view.schema.WithSystem(), View: s.view.number, BatchRows: 1 + r.IntN(30)}
	for piece, err := range t.Ordered(m.ctx, dataset.OrderedOptions{ScanOptions: o}) {
		m.must("scan", err)
		b := piece.Rows
		if len(files) == 3 {
			break
		}
		system := int(b.NumCols()) - 4
		if r.IntN(2) == 0 || b.Column(system).(*array.Int32).Value(0) != int32(s.view.number) {
			continue
		}
		columns := slices.Clone(b.Columns())
		n := int(b.NumRows())
		columns[system] = int32s(n, view)
		if view == 0 {
			columns[system+1], columns[system+2], columns[system+3] = int32s(n, 0), zeros(n, arrow.PrimitiveTypes.Int64), zeros(n, columns[system+3].DataType())
		}
		w, err := t.NewFileWriter(m.ctx, dataset.FileName{View: record.ViewNumber(view)}, s.view.schema, dataset.Parquet)
		m.must("begin a file", err)
		m.must("write", w.Write(array.NewRecordBatch(b.Schema(), columns, b.NumRows())))
		f, err := w.Close()
		m.must("close a file", err)
		for i := range n {
			part, off := b.Column(system+1).(*array.Int32).Value(i), b.Column(system+2).(*array.Int64).Value(i)
			of := rows[[2]int64{int64(part), off}]
			row := &expectedRow{n: of.n, key: of.key, values: of.values, placed: true}
			if view != 0 {
				row.part, row.off, row.ts = of.part, of.off, of.ts
			}
			guests = append(guests, &modelGuest{expectedRow: row, view: view, path: f.Path()})
		}
		files = append(files, f)
	}
	if len(files) > 1 && view != 0 { // their order says nothing
		slices.Reverse(files)
	}
	return files, guests
}

func int32s(n int, v int32) arrow.Array {
	b := array.NewInt32Builder(memory.DefaultAllocator)
	defer b.Release()
	for range n {
		b.Append(v)
	}
	return b.NewArray()
}

func zeros(n int, t arrow.DataType) arrow.Array {
	b := array.NewBuilder(memory.DefaultAllocator, t)
	defer b.Release()
	for range n {
		b.AppendEmptyValue()
	}
	return b.NewArray()
}

// engineRewrites puts the rows of a file with own rows into another one.
func (m *machine) engineRewrites(r *rand.Rand, s *modelStream, t *dataset.Table) (c dataset.Commit) {
	files, err := t.FileRows(m.ctx, 0)
	m.must("files", err)
	if files.Len() == 0 {
		return c
	}
	i := r.IntN(files.Len())
	info := files.File(i)
	if info.View != s.view.number {
		return c
	}
	w, err := t.NewFileWriter(m.ctx, dataset.FileName{}, s.view.schema, dataset.Parquet)
	m.must("begin a file", err)
	last := arrow.Timestamp(0)
	for b, err := range files.Rows(m.ctx, i, dataset.ScanOptions{Schema: s.view.schema.WithSystem()}) {
		m.must("read a file", err)
		times := b.Column(int(b.NumCols()) - 1).(*array.Timestamp).TimestampValues()
		if !slices.IsSorted(times) || times[0] < last { // a sorted file: an engine would say so of its own
			w.Abort()
			return c
		}
		last = times[len(times)-1]
		m.must("write", w.Write(b))
	}
	f, err := w.Close()
	m.must("close a file", err)
	return dataset.Commit{Add: []dataset.DataFile{f}, Remove: []string{info.Path}}
}

// guestCursor is what a paged read has yet to give of guests: pinned are those of the
// window that it stands in, nil: none.
type guestCursor struct {
	pinned  []*expectedRow
	amid    bool
	through int64
}

// next are the guests of the read that goes on, up to a guest sequence.
func (c *guestCursor) next(v *modelView, through int64, keep func(*expectedRow) bool) (rest, more []*expectedRow) {
	dropped := func(row *expectedRow) bool { return !keep(row) }
	return slices.DeleteFunc(slices.Clone(c.pinned), dropped), slices.DeleteFunc(v.guestsIn(c.through, through), dropped)
}

// took moves the cursor behind n rows of a read that was to give rest and more, and
// ended at end.
func (c *guestCursor) took(n int, rest, more []*expectedRow, end reader.Cursor) error {
	if c.amid = end.Within != nil; !c.amid {
		if n < len(rest)+len(more) {
			return fmt.Errorf("%d of %d guests were read, and the cursor is behind all: %+v", n, len(rest)+len(more), end)
		}
		c.pinned, c.through = nil, max(c.through, end.Guests)
		return nil
	}
	if n <= len(rest) && end.Within.Through == c.through {
		c.pinned = rest[n:]
		return nil
	}
	if n < len(rest) || n > len(rest)+len(more) {
		return fmt.Errorf("%d rows were read, the guests are %d and %d, and the cursor stands at %+v", n, len(rest), len(more), end)
	}
	c.pinned, c.through = more[n-len(rest):], end.Within.Through
	return nil
}

// seenBy is the guest sequence that reads of a consistency see.
func (m *machine) seenBy(v *modelView, exactly bool) int64 {
	if exactly {
		return v.newest().Guests
	}
	return v.guestEnd()
}

// guestsOfTail checks the guests that a tail got: none twice, none that is none, and
// those that are there and came behind its beginning, up to a guest sequence.
func (m *machine) guestsOfTail(t *modelTail, got []gotRow, through int64, all bool) {
	type place struct {
		view record.ViewNumber
		part record.Partition
		off  record.Offset
		n    int64
	}
	key := func(g *modelGuest) place { return place{record.ViewNumber(g.view), g.part, g.off, g.n} }
	known := map[place]int{}
	for _, g := range t.view.guests {
		known[key(g)]++
	}
	for _, g := range got {
		p := place{g.view, g.part, g.off, g.n}
		if known[p]--; known[p] < 0 {
			m.fail("a tail (%s) of %s from %+v got guest %+v too often", t.consistency, t.stream, t.from, p)
		}
	}
	if !all || t.from.Within != nil {
		return
	}
	have := map[place]int{}
	for _, g := range got {
		have[place{g.view, g.part, g.off, g.n}]++
	}
	for _, g := range t.view.guests {
		if g.gone || g.seq <= t.from.Guests || g.seq > through {
			continue
		}
		if have[key(g)]--; have[key(g)] < 0 {
			m.fail("a tail (%s) of %s from %+v up to %d lacks guest %+v of commit %d", t.consistency, t.stream, t.from, through, key(g), g.seq)
		}
	}
}
