package dataset

import (
	"context"
	"iter"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
)

// Reached is a file that a table's metadata leads to.
type Reached struct {
	Location string
	// What it is: "metadata", "manifest list", "manifest", "data file",
	// "delete file", "statistics" or "note on erasures".
	What string
	// Former: only an older metadata file that is still listed leads to it; its
	// snapshots may have expired, and the file be gone.
	Former bool
	// Bytes is its size as the metadata tells it, 0 where that does not.
	Bytes int64
	// Err is why a metadata file, manifest list or manifest cannot be read:
	// record.ErrCorrupt if it is missing or damaged. What it leads to is then
	// not yielded.
	Err error
}

// Reach yields every file that the table's metadata leads to, from all
// snapshots and all metadata files that it still lists; manifests and their files
// once for each manifest. It reads what it yields, but for data files and
// delete files. Metadata and manifests that Datasets has cached are not read
// again.
func (t *Table) Reach(ctx context.Context) iter.Seq[Reached] {
	return func(yield func(Reached) bool) {
		w := reachWalk{t: t, yield: yield, seen: map[string]bool{}}
		if !yield(Reached{Location: t.location, What: "metadata"}) || !w.metadata(ctx, t.meta, false) {
			return
		}
		for _, l := range t.previousFiles() {
			if ctx.Err() != nil {
				return
			}
			old, err := t.d.loadMetadata(ctx, t.id, l)
			if !yield(Reached{Location: l, What: "metadata", Former: true, Err: err}) {
				return
			}
			if err == nil && !w.metadata(ctx, old.meta, true) {
				return
			}
		}
	}
}

// reachWalk is one Reach.
type reachWalk struct {
	t     *Table
	yield func(Reached) bool
	seen  map[string]bool // manifest lists and manifests
}

// first tells whether a location is new.
func (w *reachWalk) first(location string) bool {
	if w.seen[location] {
		return false
	}
	w.seen[location] = true
	return true
}

func (w *reachWalk) metadata(ctx context.Context, m table.Metadata, former bool) bool {
	if note := m.Properties()[erasedKey]; note != "" && !w.yield(Reached{Location: note, What: "note on erasures", Former: former}) {
		return false
	}
	for s := range m.Statistics() {
		if !w.yield(Reached{Location: s.StatisticsPath, What: "statistics", Former: former, Bytes: s.FileSizeInBytes}) {
			return false
		}
	}
	for s := range m.PartitionStatistics() {
		if !w.yield(Reached{Location: s.StatisticsPath, What: "statistics", Former: former, Bytes: s.FileSizeInBytes}) {
			return false
		}
	}
	for _, s := range m.Snapshots() {
		if ctx.Err() != nil {
			return false
		}
		if w.first(s.ManifestList) && !w.snapshot(ctx, &s, former) {
			return false
		}
	}
	return true
}

func (w *reachWalk) snapshot(ctx context.Context, s *table.Snapshot, former bool) bool {
	manifests, err := w.t.d.readManifests(ctx, s)
	if !w.yield(Reached{Location: s.ManifestList, What: "manifest list", Former: former, Err: err}) {
		return false
	}
	for _, m := range manifests {
		if !w.first(m.FilePath()) {
			continue
		}
		if ctx.Err() != nil {
			return false
		}
		entries, err := w.t.d.readEntries(ctx, m)
		if !w.yield(Reached{Location: m.FilePath(), What: "manifest", Former: former, Bytes: m.Length(), Err: err}) {
			return false
		}
		for _, e := range entries {
			f := e.DataFile()
			what := "data file"
			if f.ContentType() != iceberg.EntryContentData {
				what = "delete file"
			}
			if !w.yield(Reached{Location: f.FilePath(), What: what, Former: former, Bytes: f.FileSizeBytes()}) {
				return false
			}
		}
	}
	return true
}
