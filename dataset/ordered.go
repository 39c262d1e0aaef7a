package dataset

import (
	"cmp"
	"context"
	"fmt"
	"hash/crc32"
	"iter"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// OrderedOptions say what an ordered scan reads.
type OrderedOptions struct {
	// ScanOptions are those of Scan. Schema must hold the system columns.
	ScanOptions
	// Guests asks for the rows that are not of View (0: for all rows), in files
	// whose data sequence numbers are larger than After and at most Through.
	// Otherwise rows of View are asked for, whatever the sequence number.
	Guests         bool
	After, Through int64
	// At goes on behind an earlier scan with the same SnapshotID (which is not 0
	// then), View, Guests, After and Through; the other options may differ. Zero:
	// from the beginning.
	At Place
}

// Place is where an ordered scan stands in a snapshot. It stays good as long as
// the snapshot is there with the same files: an erasure gives it others.
type Place struct {
	Files  uint32 // CRC-32C over the paths of the files, in their order
	Chains []FilePlace
}

// FilePlace is a position of a file in one of the chains of an ordered scan.
type FilePlace struct {
	File int
	Row  int64
}

// Piece is a batch of an ordered scan. Rows belongs to the scan and is released
// when the loop body ends.
type Piece struct {
	Rows  arrow.RecordBatch
	place Place // before Rows
	chain int
	batch scanned
	from  int // of Rows, in the batch
	// windows: Rows came by windows, and its place is the identity of its last row.
	windows *systemColumns
}

// Behind is the place behind the first n rows.
func (p Piece) Behind(n int) Place {
	place := Place{p.place.Files, slices.Clone(p.place.Chains)}
	if w := p.windows; w != nil {
		if i := p.from + n - 1; i >= p.from {
			place.Chains[p.chain] = FilePlace{int(w.views[i]), int64(w.times[i])}
			place.Chains[p.chain+1] = FilePlace{int(w.partitions[i]), w.offsets[i]}
		}
		return place
	}
	row := p.batch.first + p.batch.n
	if at := p.from + n; int64(at) < p.batch.rows.NumRows() {
		row = p.batch.first + int64(at)
		for _, d := range p.batch.deleted {
			if d > row {
				break
			}
			row++
		}
	}
	place.Chains[p.chain] = FilePlace{p.batch.file, row}
	return place
}

// Ordered yields rows by view, append time, partition and offset. Rows of no view
// come last, in the order of Scan; so do files without bounds of the system
// columns, and where such rows share a file with others they come where they
// stand. Rows that are not asked for may still be delivered. Of files that
// another engine wrote, guest rows keep their order as far as each file keeps it, and
// as long as no more than sixteen of them overlap. Otherwise it is as Scan; where files
// overlap, each of them holds two batches, and sorted ones, or those beyond sixteen, a
// window of rows (windows.go).
func (t *Table) Ordered(ctx context.Context, o OrderedOptions) iter.Seq2[Piece, error] {
	return t.ordered(ctx, o, func(ctx context.Context) (fileSet, error) { return t.liveFiles(ctx, o.SnapshotID) })
}

// ordered scans the files that find returns.
func (t *Table) ordered(ctx context.Context, o OrderedOptions, find func(context.Context) (fileSet, error)) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		files, err := find(ctx)
		if err != nil {
			yield(Piece{}, err)
			return
		}
		m := merge{t: t, o: o, deletes: files.deletes, yield: yield}
		if err := m.plan(files.data); err != nil {
			yield(Piece{}, err)
			return
		}
		if m.run(ctx) {
			m.chain(ctx, len(m.chains)-1)
		}
	}
}

// merge is an ordered scan under way.
type merge struct {
	t      *Table
	o      OrderedOptions
	chains [][]iceberg.ManifestEntry // the last one is read behind the others
	// windows is the chain that is read by windows, -1: none. The one behind it is
	// empty: a place in windows takes the room of two.
	windows int
	deletes []iceberg.ManifestEntry
	place   Place
	yield   func(Piece, error) bool
}

func (m *merge) plan(files []iceberg.ManifestEntry) error {
	var spans []span
	var loose []iceberg.ManifestEntry
	own := scanner{o: placedScan{ScanOptions: ScanOptions{View: m.o.View, From: m.o.From, To: m.o.To}}}
	for _, e := range files {
		s := spanOf(e)
		switch {
		case e.DataFile().Count() == 0:
		// Own rows have their offsets for a place, so that what is not needed can be
		// left out before files are put in order.
		case !m.o.Guests && s.holds(m.o.View) && own.fileMayMatch(e.DataFile()):
			spans = append(spans, s)
		case !m.o.Guests || e.SequenceNum() <= m.o.After || e.SequenceNum() > m.o.Through || !s.guests(m.o.View):
		case s.bounded:
			spans = append(spans, s)
		default:
			loose = append(loose, e)
		}
	}
	chains, byWindows := chained(spans, !m.o.Guests, func(s *span) bool {
		// Guest rows must be told apart by what they are, to go on behind one.
		return !m.o.Guests || s.ours && !s.nulls && s.viewLo == s.viewHi
	})
	if m.windows = -1; len(byWindows) > 0 {
		m.windows = len(chains)
		chains = append(chains, byWindows, nil)
	}
	m.chains = append(chains, loose)
	m.place.Chains = make([]FilePlace, len(m.chains))
	if m.o.Guests { // own rows have their offsets for a place
		for _, chain := range m.chains {
			for _, e := range chain {
				m.place.Files = crc32.Update(m.place.Files, castagnoli, []byte(e.DataFile().FilePath()))
			}
		}
	}
	if len(m.o.At.Chains) == 0 {
		return nil
	}
	ok := m.o.At.Files == m.place.Files && len(m.o.At.Chains) == len(m.chains)
	for i := 0; ok && i < len(m.chains); i++ {
		at := m.o.At.Chains[i]
		if m.windows >= 0 && (i == m.windows || i == m.windows+1) {
			continue
		}
		ok = at.File >= 0 && at.File <= len(m.chains[i]) && at.Row >= 0
	}
	if !ok {
		return fmt.Errorf("dataset: table %s: the place is none in the rows (%d, %d] of snapshot %d, perhaps because rows were erased from its files; read again from an earlier place: %w",
			m.t.id, m.o.After, m.o.Through, m.o.SnapshotID, record.ErrOutOfRange)
	}
	m.place = Place{m.place.Files, slices.Clone(m.o.At.Chains)}
	return nil
}

// scan reads one chain.
func (m *merge) scan(ctx context.Context, chain int, batchBytes int) iter.Seq2[scanned, error] {
	o := placedScan{ScanOptions: m.o.ScanOptions, guests: m.o.Guests, begin: m.place.Chains[chain]}
	o.BatchBytes = batchBytes
	if chain == m.windows {
		o.begin = FilePlace{}
		key, err := identityKey(m.o.Schema)
		if err != nil {
			return func(yield func(scanned, error) bool) { yield(scanned{}, err) }
		}
		o.windowed = &windowed{key: key, timed: true, own: !m.o.Guests, guests: m.o.Guests, after: m.behind()}
	}
	o.find = func(context.Context) (fileSet, error) { return fileSet{data: m.chains[chain], deletes: m.deletes}, nil }
	return m.t.placed(ctx, o)
}

// behind is the key of the identity that the place in windows is; nil at the
// beginning, because no view has the number 0.
func (m *merge) behind() []byte {
	first, second := m.place.Chains[m.windows], m.place.Chains[m.windows+1]
	if first.File == 0 {
		return nil
	}
	var key []byte
	for _, v := range []int64{int64(first.File), first.Row, int64(second.File), second.Row} {
		key = appendInt(append(key, 1), v)
	}
	return key
}

// chain yields the rows of one chain, and reports whether to go on.
func (m *merge) chain(ctx context.Context, i int) bool {
	if len(m.chains[i]) == 0 {
		return true
	}
	for b, err := range m.scan(ctx, i, m.o.BatchBytes) {
		if err != nil {
			m.yield(Piece{}, err)
			return false
		}
		p := Piece{Rows: b.rows, place: m.place, chain: i, batch: b}
		if !m.yield(p, nil) {
			return false
		}
		m.place = p.Behind(int(b.rows.NumRows()))
	}
	return true
}

// run yields the rows of all chains but the last, in order.
func (m *merge) run(ctx context.Context) bool {
	n := len(m.chains) - 1
	if n == 1 {
		return m.chain(ctx, 0)
	}
	each := cmp.Or(m.o.BatchBytes, defaultBatchBytes) / max(n, 1)
	heads := make([]*head, 0, n)
	defer func() {
		for _, h := range heads {
			h.stop()
		}
	}()
	for i := range n {
		if len(m.chains[i]) == 0 {
			continue
		}
		h := &head{chain: i, windows: i == m.windows}
		h.next, h.stop = iter.Pull2(m.scan(ctx, i, each))
		heads = append(heads, h)
		if err := h.advance(m.o.Schema); err != nil {
			m.yield(Piece{}, err)
			return false
		}
	}
	for {
		first, second := least(heads)
		if first == nil {
			return true
		}
		from := first.at
		for first.at++; first.at < first.len() && (second == nil || first.compare(second) < 0); {
			first.at++
		}
		if !m.slice(first, from) {
			return false
		}
		if first.at == first.len() {
			if err := first.advance(m.o.Schema); err != nil {
				m.yield(Piece{}, err)
				return false
			}
		}
	}
}

// slice yields the rows of h's batch from one on, up to where h stands.
func (m *merge) slice(h *head, from int) bool {
	rows := h.batch.rows.NewSlice(int64(from), int64(h.at))
	defer rows.Release()
	p := Piece{Rows: rows, place: m.place, chain: h.chain, batch: h.batch, from: from}
	if h.windows {
		sys := h.systemColumns
		p.windows = &sys
	}
	if !m.yield(p, nil) {
		return false
	}
	m.place = p.Behind(h.at - from)
	return true
}

// head is the front of a chain.
type head struct {
	chain int
	next  func() (scanned, error, bool)
	stop  func()
	batch scanned
	at    int // in the batch
	done  bool
	// windows: it is the chain that is read by windows.
	windows bool
	systemColumns
}

func (h *head) len() int { return len(h.offsets) }

// advance takes the next batch.
func (h *head) advance(s *schema.Schema) error {
	b, err, ok := h.next()
	if !ok || err != nil {
		h.done, h.offsets = true, nil
		return err
	}
	h.batch, h.at = b, 0
	h.systemColumns, err = systemOf(s, b.rows)
	return err
}

// compare orders the rows at which two chains stand; equal ones by chain.
func (h *head) compare(o *head) int {
	i, k := h.at, o.at
	return cmp.Or(cmp.Compare(h.views[i], o.views[k]), cmp.Compare(h.times[i], o.times[k]),
		cmp.Compare(h.partitions[i], o.partitions[k]), cmp.Compare(h.offsets[i], o.offsets[k]), cmp.Compare(h.chain, o.chain))
}

// least returns the chain with the least row, and the one with the next.
func least(heads []*head) (first, second *head) {
	for _, h := range heads {
		switch {
		case h.done:
		case first == nil || h.compare(first) < 0:
			first, second = h, first
		case second == nil || h.compare(second) < 0:
			second = h
		}
	}
	return first, second
}
