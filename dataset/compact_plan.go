package dataset

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
)

// minRun is the least number of files that are worth a rewrite while more may
// come.
const minRun = 4

// candidate is what planning needs to know of a live file.
type candidate struct {
	view     record.ViewNumber // 0: it stays as it is
	bytes    int64
	sequence int64
}

// maxSortedBytes bounds the files that compaction makes of sorted ones: reads
// bring their rows back into the view's order, which takes time in proportion to
// the square of their size.
const maxSortedBytes = minTargetBytes

// planCompaction chooses the first run of files that is worth rewriting; none if
// none is. own is the view whose rows have their place by offset, 0 if there is
// none: its files may be joined across commits, and across guest files that lie
// between, which have a place of their own. Guest files are only joined with those
// of the same sequence number and view, because that number is their place. In a
// plain table files of all commits may be joined, whoever wrote them. Files of a
// layout are joined with others of their partition and sort order, in the order of
// their times.
func planCompaction(files []iceberg.ManifestEntry, target int64, own record.ViewNumber, plain bool) []iceberg.ManifestEntry {
	var log, rest []iceberg.ManifestEntry
	var c []candidate
	laid := map[layoutGroup][]iceberg.ManifestEntry{}
	var order []layoutGroup
	for _, e := range files {
		view := smallView(e, target, plain)
		if isLaidOut(e.DataFile()) {
			if view > 0 && !plain {
				g := groupOf(e, view, own)
				if laid[g] == nil {
					order = append(order, g)
				}
				laid[g] = append(laid[g], e)
			}
			view = 0
		}
		if s := spanOf(e); plain || own > 0 && (view == own || view == 0 && s.holds(own)) {
			log = append(log, e)
			c = append(c, candidate{view, e.DataFile().FileSizeBytes(), e.SequenceNum()})
		} else if view > 0 {
			rest = append(rest, e)
		}
	}
	if from, to := chooseRun(c, target); to > from {
		return log[from:to]
	}
	for _, g := range order {
		if run := planGroup(laid[g], g, target); len(run) > 0 {
			return run
		}
	}
	return chooseGuests(rest, target)
}

// layoutGroup is what files must have in common to be joined.
type layoutGroup struct {
	view        record.ViewNumber
	sequence    int64 // of guests: their place
	spec, order int
	tuple       string
}

func isLaidOut(f iceberg.DataFile) bool { return len(f.Partition()) > 0 || isSorted(f) }

func groupOf(e iceberg.ManifestEntry, view, own record.ViewNumber) layoutGroup {
	f := e.DataFile()
	g := layoutGroup{view: view, spec: int(f.SpecID())}
	if view != own {
		g.sequence = e.SequenceNum()
	}
	if isSorted(f) {
		g.order = *f.SortOrderID()
	}
	tuple := f.Partition()
	for _, id := range slices.Sorted(maps.Keys(tuple)) {
		g.tuple += fmt.Sprintf("%d=%q;", id, fmt.Sprint(tuple[id]))
	}
	return g
}

// planGroup chooses a run of files of one group. Other files of their commits stay
// where they are: the order of rows is not that of commits here.
func planGroup(files []iceberg.ManifestEntry, g layoutGroup, target int64) []iceberg.ManifestEntry {
	if g.order > 0 {
		target = min(target, maxSortedBytes)
	}
	slices.SortStableFunc(files, func(a, b iceberg.ManifestEntry) int { return cmp.Compare(spanOf(a).timeLo, spanOf(b).timeLo) })
	c := make([]candidate, len(files))
	for i, e := range files {
		c[i] = candidate{smallView(e, target, false), e.DataFile().FileSizeBytes(), int64(i)}
	}
	from, to := chooseRun(c, target)
	return files[from:to]
}

// chooseGuests returns files of one view that came with one commit, of which one
// follows the other in the order of rows, and that together stay below the target.
// No more will come with that commit, so two are enough.
func chooseGuests(files []iceberg.ManifestEntry, target int64) []iceberg.ManifestEntry {
	type place struct {
		sequence int64
		view     record.ViewNumber
	}
	open := map[place][]iceberg.ManifestEntry{}
	bytes := map[place]int64{}
	for _, e := range files {
		p := place{e.SequenceNum(), smallView(e, target, false)}
		n := e.DataFile().FileSizeBytes()
		if bytes[p]+n > target {
			continue // what is left of it comes with the next call
		}
		open[p], bytes[p] = append(open[p], e), bytes[p]+n
	}
	for _, e := range files { // in order, so that each call finds the same
		p := place{e.SequenceNum(), smallView(e, target, false)}
		spans := make([]span, len(open[p]))
		for i, e := range open[p] {
			spans[i] = spanOf(e)
		}
		delete(open, p)
		chains, _ := chained(spans, false, func(*span) bool { return true }) // sorted files are not joined here
		// In the last one of so many, order may be lost.
		for _, run := range chains[:min(len(chains), maxChains-1)] {
			if len(run) > 1 {
				return run
			}
		}
	}
	return nil
}

// smallView is the view of a file that may be part of a run, 0 for others: large
// ones, and those of other engines, which have no place in a view's order.
func smallView(e iceberg.ManifestEntry, target int64, plain bool) record.ViewNumber {
	f := e.DataFile()
	if f.FileSizeBytes() >= target/2 {
		return 0
	}
	if ext := path.Ext(f.FilePath()); ext != ".parquet" && ext != ".avro" {
		return 0
	}
	if plain {
		return 1
	}
	n, _, ok := parseFileName(f.FilePath())
	if !ok || n.View <= 0 || fileInfo(f, 0, 0).View != n.View {
		return 0
	}
	return n.View
}

// chooseRun returns the first run worth rewriting: files of one view that follow
// each other and together stay below the target. At the end of the table, where
// more will come, at least minRun, none of which is larger than all others
// together, so that a row is rewritten a logarithmic number of times. Before a
// file that does not fit in, two are enough: their rows are rewritten for the
// last time. The new file gets the sequence number of the run's last commit;
// for the order to stay, no file outside of the run may have it too.
func chooseRun(files []candidate, target int64) (from, to int) {
	for from = range files {
		if files[from].view == 0 {
			continue
		}
		total := int64(0)
		for to = from; to < len(files) && files[to].view == files[from].view && total+files[to].bytes <= target; to++ {
			total += files[to].bytes
		}
		ends := to < len(files)
		if to = wholeCommits(files, from, to); ends && to-from >= 2 {
			return from, to
		}
		for to-from >= minRun {
			at := dominant(files[from:to])
			if at < 0 {
				return from, to
			}
			to = wholeCommits(files, from, from+at) // perhaps those before it
		}
	}
	return 0, 0
}

// wholeCommits shortens a run until it ends with a commit and shares that with
// no file before it.
func wholeCommits(files []candidate, from, to int) int {
	for to > from && to < len(files) && files[to].sequence == files[to-1].sequence {
		to--
	}
	if from > 0 && to > from && files[from-1].sequence == files[to-1].sequence {
		return from
	}
	return to
}

// dominant is the index of a file that is larger than all others together, -1
// if none is.
func dominant(run []candidate) int {
	total, largest := int64(0), 0
	for i, f := range run {
		total += f.bytes
		if f.bytes > run[largest].bytes {
			largest = i
		}
	}
	if l := run[largest].bytes; l > total-l {
		return largest
	}
	return -1
}
