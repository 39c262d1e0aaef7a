package dataset

import (
	"cmp"
	"math"
	"slices"

	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// The order of rows is that of view, append time, partition and offset. Archives
// write it, file behind file, so that most tables are read one file after the
// other. Where other engines have rewritten files, or copied rows, the ranges of
// files overlap: then files are put into chains, in each of which one file follows
// the other, and the chains are merged row by row. Inside of a file rows are taken
// in the order in which they stand.

// maxChains bounds the files that are open at a time. Where more overlap, the
// order is kept by windows, see windows.go.
const maxChains = 16

// span is what the bounds of the system columns tell of a file.
type span struct {
	entry iceberg.ManifestEntry
	// bounded: rows of views are in the file, and in which range. Otherwise it has
	// none, where absent is set, or does not tell.
	bounded, absent bool
	nulls           bool // also rows that are of no view, perhaps
	viewLo, viewHi  int64
	timeLo, timeHi  int64 // whole range where there are no bounds
	partLo, partHi  int64
	offLo, offHi    int64
	ours            bool
	// whole: of its archive it has all rows of a stretch, in order. sorted: its rows
	// stand in another order, or are better read by windows.
	whole, sorted bool
}

func spanOf(e iceberg.ManifestEntry) span {
	f := e.DataFile()
	s := span{
		entry: e, viewLo: math.MinInt64, viewHi: math.MaxInt64, timeLo: math.MinInt64, timeHi: math.MaxInt64,
		partLo: math.MinInt64, partHi: math.MaxInt64, offLo: math.MinInt64, offHi: math.MaxInt64,
	}
	view := manifestRange(schema.Integer, f, schema.ViewID)
	// No view has the number 0.
	s.absent = view.empty || view.bounded && view.upper.i <= 0
	s.bounded, s.nulls = view.bounded && !s.absent, !view.nullsKnown || view.nulls > 0
	set := func(id int, k schema.Kind, lo, hi *int64) {
		if r := manifestRange(k, f, id); r.bounded {
			*lo, *hi = r.lower.i, r.upper.i
		}
	}
	set(schema.ViewID, schema.Integer, &s.viewLo, &s.viewHi)
	set(schema.TimestampID, schema.Timestamp, &s.timeLo, &s.timeHi)
	set(schema.PartitionID, schema.Integer, &s.partLo, &s.partHi)
	set(schema.OffsetID, schema.Long, &s.offLo, &s.offHi)
	name, _, ok := parseFileName(f.FilePath())
	s.ours = ok && name.View > 0
	// Where another engine has rewritten rows, they may stand in any order.
	// Small files of partitions lie side by side: rather than row by row, they are
	// merged by windows, which they fit in.
	s.sorted = isSorted(f) || !s.ours || len(f.Partition()) > 0 && f.FileSizeBytes() <= windowBytes/4
	s.whole = s.ours && !s.sorted && len(f.Partition()) == 0
	return s
}

// holds tells whether rows of the view may be in the file.
func (s *span) holds(v record.ViewNumber) bool {
	return !s.absent && s.viewLo <= int64(v) && int64(v) <= s.viewHi
}

// guests tells whether rows may be in the file that are not of the view.
func (s *span) guests(v record.ViewNumber) bool {
	return v == 0 || s.absent || s.nulls || s.viewLo != int64(v) || s.viewHi != int64(v)
}

// follows tells whether all rows of s come behind all those of a. archived: they are
// rows of an active view, which only archives and compactions bring.
func (s *span) follows(a *span, archived bool) bool {
	switch {
	case s.viewLo != a.viewHi:
		return s.viewLo > a.viewHi
	case s.timeLo != a.timeHi:
		return s.timeLo > a.timeHi
	case archived && s.whole && a.whole && s.entry.SequenceNum() == a.entry.SequenceNum():
		return true // one archive, in the order in which it wrote
	case s.partLo != a.partHi:
		return s.partLo > a.partHi
	}
	return s.partLo == s.partHi && a.partLo == a.partHi && s.offLo > a.offHi
}

// chained puts files, given in the order of commits, into chains. It opens as few
// as there are files that overlap at one place. Those for which windows are needed are
// given back beside them; mayWindow tells for which these can be.
func chained(files []span, archived bool, mayWindow func(*span) bool) (chains [][]iceberg.ManifestEntry, windowed []iceberg.ManifestEntry) {
	sorted := make([]*span, len(files))
	for i := range files {
		sorted[i] = &files[i]
	}
	slices.SortStableFunc(sorted, func(a, b *span) int {
		return cmp.Or(cmp.Compare(a.viewLo, b.viewLo), cmp.Compare(a.timeLo, b.timeLo), cmp.Compare(a.partLo, b.partLo))
	})
	var ends []*span
	for _, s := range sorted {
		if s.sorted && mayWindow(s) {
			windowed = append(windowed, s.entry)
			continue
		}
		i := slices.IndexFunc(ends, func(end *span) bool { return s.follows(end, archived) })
		switch {
		case i >= 0:
		case len(chains) < maxChains:
			chains, ends, i = append(chains, nil), append(ends, nil), len(chains)
		case mayWindow(s):
			windowed = append(windowed, s.entry)
			continue
		default:
			i = len(chains) - 1
		}
		chains[i], ends[i] = append(chains[i], s.entry), s
	}
	return chains, windowed
}
