package dataset

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
)

// A client makes a snapshot on the head that it has loaded. By the time it commits
// the archiver, or another client, may have moved the head on. Then the server
// makes the snapshot anew: the same id and the same change of files, on the head as
// it is.
//
// Where every manifest that the client left out is still in the head's list, the
// new list is the head's without these and with the client's. Where one is gone,
// because manifests were merged, the change is made file by file: what the client
// removed must be live as it was, and is removed from whichever manifest has it.
//
// What it promises is snapshot isolation: the client decided by what it had loaded.
// Two changes that touch the same file, or deletes that meet a rewritten file, are
// a conflict. A table whose properties ask for serializable isolation gets appends
// made anew, and nothing else.

// restaged is a snapshot of this change that was made anew.
type restaged struct {
	client  []iceberg.ManifestFile // as the client had made it
	summary *table.Summary         // the same
	server  []iceberg.ManifestFile
}

// restage makes s anew on onto (nil: as the first of its line).
func (w *stagingWork) restage(ctx context.Context, s, onto *table.Snapshot) error {
	base, err := w.clientManifests(ctx, s.ParentSnapshotID)
	if err != nil {
		return err
	}
	now, err := w.serverManifests(ctx, onto)
	if err != nil {
		return err
	}
	theirs, err := w.base.d.readManifests(ctx, &table.Snapshot{SnapshotID: s.SnapshotID, ManifestList: s.ManifestList})
	if err != nil {
		return unreadable(err)
	}
	w.snapshotID = s.SnapshotID
	r := restaging{w: w, s: s, base: byPath(base), now: byPath(now), theirs: byPath(theirs)}
	if err := r.notErased(ctx); err != nil {
		return fmt.Errorf("snapshot %d of table %s: %w", s.SnapshotID, w.base.id, err)
	}
	if err := r.conflicts(ctx, onto); err != nil {
		return fmt.Errorf("snapshot %d of table %s: %w", s.SnapshotID, w.base.id, err)
	}
	list, err := r.manifests(ctx, theirs, now)
	if err != nil {
		return fmt.Errorf("snapshot %d of table %s: %w", s.SnapshotID, w.base.id, err)
	}
	w.made[s.SnapshotID] = restaged{client: theirs, summary: s.Summary, server: list}
	return w.renew(s, onto, list)
}

func (w *stagingWork) clientManifests(ctx context.Context, parent *int64) ([]iceberg.ManifestFile, error) {
	if parent == nil {
		return nil, nil
	}
	if m, ok := w.made[*parent]; ok {
		return m.client, nil
	}
	s, err := w.builder.SnapshotByID(*parent)
	if err != nil {
		return nil, err
	}
	return w.base.d.readManifests(ctx, s)
}

func (w *stagingWork) serverManifests(ctx context.Context, onto *table.Snapshot) ([]iceberg.ManifestFile, error) {
	if onto == nil {
		return nil, nil
	}
	if m, ok := w.made[onto.SnapshotID]; ok {
		return m.server, nil
	}
	return w.base.d.readManifests(ctx, onto)
}

// renew writes the manifest list and puts what is new into s.
func (w *stagingWork) renew(s, onto *table.Snapshot, manifests []iceberg.ManifestFile) error {
	var parent *int64
	if onto != nil {
		parent = &onto.SnapshotID
	}
	sequence := w.sequence
	var buf bytes.Buffer
	if err := iceberg.WriteManifestList(formatVersion, &buf, s.SnapshotID, parent, &sequence, 0, manifests); err != nil {
		return fmt.Errorf("dataset: write manifest list: %w", err)
	}
	data := bytes.Clone(buf.Bytes())
	location := fmt.Sprintf("%s/metadata/snap-%d-%s.avro", w.base.meta.Location(), s.SnapshotID, sumName(data))
	w.puts = append(w.puts, pending{location, data})
	summary := maps.Clone(s.Summary.Properties)
	if summary == nil {
		summary = iceberg.Properties{}
	}
	w.renewTotals(summary, s.ParentSnapshotID, onto)
	summary[restagedKey] = s.ManifestList
	s.Summary = &table.Summary{Operation: s.Summary.Operation, Properties: summary}
	s.ManifestList, s.ParentSnapshotID, s.SequenceNumber = location, parent, sequence
	if onto != nil {
		s.TimestampMs = max(s.TimestampMs, onto.TimestampMs, w.base.meta.LastUpdatedMillis())
	}
	return nil
}

// renewTotals moves the totals from the client's parent to the new one; a total
// that cannot be told is left out.
func (w *stagingWork) renewTotals(summary iceberg.Properties, parent *int64, onto *table.Snapshot) {
	var was *table.Snapshot // as the client saw it
	if parent != nil {
		if m, ok := w.made[*parent]; ok {
			was = &table.Snapshot{Summary: m.summary}
		} else {
			was, _ = w.builder.SnapshotByID(*parent)
		}
	}
	total := func(of *table.Snapshot, key string) (int64, bool) {
		if of == nil {
			return 0, true
		}
		if of.Summary == nil {
			return 0, false
		}
		n, err := strconv.ParseInt(of.Summary.Properties[key], 10, 64)
		return n, err == nil
	}
	for _, key := range []string{totalFilesKey, totalRowsKey, totalBytesKey, totalDeletesKey, totalPosDeletesKey, totalEqDeletesKey} {
		said, err := strconv.ParseInt(summary[key], 10, 64)
		old, ok := total(was, key)
		now, ok2 := total(onto, key)
		if err != nil || !ok || !ok2 {
			delete(summary, key)
			continue
		}
		summary[key] = strconv.FormatInt(said-old+now, 10)
	}
}

// restaging is one snapshot being made anew.
type restaging struct {
	w                 *stagingWork
	s                 *table.Snapshot
	base, now, theirs map[string]iceberg.ManifestFile // by path
}

func byPath(manifests []iceberg.ManifestFile) map[string]iceberg.ManifestFile {
	out := make(map[string]iceberg.ManifestFile, len(manifests))
	for _, m := range manifests {
		out[m.FilePath()] = m
	}
	return out
}

// dropped are the manifests of the client's base that it did not keep.
func (r *restaging) dropped() []iceberg.ManifestFile {
	var out []iceberg.ManifestFile
	for path, m := range r.base {
		if r.theirs[path] == nil && live(m) {
			out = append(out, m)
		}
	}
	return out
}

// conflicts finds what forbids to make the change on another head than the
// client's. A head that is the same, but for sequence numbers, has none.
func (r *restaging) conflicts(ctx context.Context, onto *table.Snapshot) error {
	if maps.EqualFunc(r.base, r.now, func(a, b iceberg.ManifestFile) bool { return a.FilePath() == b.FilePath() }) {
		return nil
	}
	if r.s.Summary.Operation != table.OpAppend && serializable(r.w.base.meta.Properties()) {
		return unmet("%s has moved on, and the table's properties ask for serializable isolation", table.MainBranch)
	}
	removes, deletes := len(r.dropped()) > 0, false
	for path, m := range r.theirs {
		if r.base[path] == nil && m.ManifestContent() == iceberg.ManifestContentDeletes && m.AddedDataFiles() != 0 {
			deletes = true
		}
	}
	if removes {
		for path, m := range r.now {
			if r.base[path] == nil && m.ManifestContent() == iceberg.ManifestContentDeletes && m.AddedDataFiles() != 0 {
				return unmet("rows were deleted meanwhile (manifest %s), and the commit rewrites files", path)
			}
		}
	}
	if !deletes {
		return nil
	}
	// Deletes name files by path, and must find them.
	was, err := r.livePaths(ctx, r.base)
	if err != nil {
		return err
	}
	is, err := r.livePaths(ctx, r.now)
	if err != nil {
		return err
	}
	for path := range was {
		if _, ok := is[path]; !ok {
			return unmet("%s was rewritten meanwhile, and the commit may delete rows of it", path)
		}
	}
	return nil
}

// serializable tells whether the table's properties say that changes must be
// checked against all that was committed meanwhile, which only the client can.
func serializable(props iceberg.Properties) bool {
	for _, what := range []string{"delete", "update", "merge"} {
		if strings.EqualFold(props["write."+what+".isolation-level"], "serializable") {
			return true
		}
	}
	return false
}

// livePaths reads the live data files of manifests with their sequence numbers.
func (r *restaging) livePaths(ctx context.Context, manifests map[string]iceberg.ManifestFile) (map[string]int64, error) {
	out := map[string]int64{}
	for _, m := range manifests {
		if m.ManifestContent() != iceberg.ManifestContentData || !live(m) {
			continue
		}
		entries, err := r.w.entriesOf(ctx, m)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Status() != iceberg.EntryStatusDELETED {
				out[e.DataFile().FilePath()] = e.SequenceNum()
			}
		}
	}
	return out, nil
}

// entriesOf reads a manifest. One of this change is not kept in the cache: what
// sequence number its entries inherit is not settled before the commit is.
func (w *stagingWork) entriesOf(ctx context.Context, m iceberg.ManifestFile) ([]iceberg.ManifestEntry, error) {
	if !w.fresh[m.SnapshotID()] {
		return w.base.d.readEntries(ctx, m)
	}
	for _, p := range w.puts {
		if p.location == m.FilePath() {
			return parseEntries(m, p.data)
		}
	}
	data, err := w.base.d.readMeta(ctx, m.FilePath())
	if err != nil {
		return nil, err
	}
	return parseEntries(m, data)
}

func parseEntries(m iceberg.ManifestFile, data []byte) ([]iceberg.ManifestEntry, error) {
	entries, err := iceberg.ReadManifest(m, bytes.NewReader(data), false)
	if err != nil {
		return nil, fmt.Errorf("dataset: manifest %s: %w: %w", m.FilePath(), err, record.ErrInvalid)
	}
	return entries, nil
}

// manifests are those of the new list.
func (r *restaging) manifests(ctx context.Context, theirs, now []iceberg.ManifestFile) ([]iceberg.ManifestFile, error) {
	for _, m := range r.dropped() {
		if r.now[m.FilePath()] == nil {
			return r.byFiles(ctx, theirs, now)
		}
	}
	var out []iceberg.ManifestFile
	for _, m := range theirs {
		if r.base[m.FilePath()] == nil {
			out = append(out, r.renumber(m))
		}
	}
	for _, m := range now {
		path := m.FilePath()
		if (r.base[path] == nil || r.theirs[path] != nil) && live(m) {
			out = append(out, m)
		}
	}
	return out, nil
}

// renumber gives a manifest of this change the sequence number that the snapshot
// has now; entries that it adds inherit it.
func (r *restaging) renumber(m iceberg.ManifestFile) iceberg.ManifestFile {
	minimum := m.MinSequenceNum()
	if minimum < 0 || minimum == r.s.SequenceNumber || minimum > r.w.sequence {
		minimum = r.w.sequence
	}
	b := iceberg.NewManifestFile(m.Version(), m.FilePath(), m.Length(), m.PartitionSpecID(), m.SnapshotID()).
		Content(m.ManifestContent()).SequenceNum(r.w.sequence, minimum).
		AddedFiles(m.AddedDataFiles()).ExistingFiles(m.ExistingDataFiles()).DeletedFiles(m.DeletedDataFiles()).
		AddedRows(m.AddedRows()).ExistingRows(m.ExistingRows()).DeletedRows(m.DeletedRows()).
		Partitions(m.Partitions()).KeyMetadata(m.KeyMetadata())
	return b.Build()
}

// byFiles makes the change file by file.
func (r *restaging) byFiles(ctx context.Context, theirs, now []iceberg.ManifestFile) ([]iceberg.ManifestFile, error) {
	gone := map[string]int64{} // what the client removed, with sequence numbers
	for _, m := range r.dropped() {
		entries, err := r.w.entriesOf(ctx, m)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Status() != iceberg.EntryStatusDELETED {
				gone[e.DataFile().FilePath()] = e.SequenceNum()
			}
		}
	}
	var out []iceberg.ManifestFile
	for _, m := range theirs {
		if r.base[m.FilePath()] != nil {
			continue
		}
		entries, err := r.w.entriesOf(ctx, m)
		if err != nil {
			return nil, err
		}
		var added []iceberg.ManifestEntry
		for _, e := range entries {
			path := e.DataFile().FilePath()
			_, was := gone[path]
			switch e.Status() {
			case iceberg.EntryStatusEXISTING:
				delete(gone, path)
			case iceberg.EntryStatusADDED:
				if !was {
					added = append(added, e)
				}
			}
		}
		switch {
		case len(added) == len(entries):
			out = append(out, r.renumber(m))
		case len(added) > 0:
			f, err := r.write(m, added, func(*manifestWriter, iceberg.ManifestEntry) func(iceberg.ManifestEntry) error { return nil })
			if err != nil {
				return nil, err
			}
			out = append(out, f)
		}
	}
	for _, m := range now {
		kept, err := r.without(ctx, m, gone)
		if err != nil {
			return nil, err
		}
		if kept != nil {
			out = append(out, kept)
		}
	}
	for path := range gone {
		return nil, unmet("%s, which the commit removes, is no longer in the table", path)
	}
	return out, nil
}

// without is a manifest of the head without the files that the client removed,
// which it takes out of gone; nil if it has no live files.
func (r *restaging) without(ctx context.Context, m iceberg.ManifestFile, gone map[string]int64) (iceberg.ManifestFile, error) {
	if !live(m) || len(gone) == 0 {
		if live(m) {
			return m, nil
		}
		return nil, nil
	}
	entries, err := r.w.entriesOf(ctx, m)
	if err != nil {
		return nil, err
	}
	hit := map[string]bool{}
	for _, e := range entries {
		path := e.DataFile().FilePath()
		if sequence, ok := gone[path]; ok && e.Status() != iceberg.EntryStatusDELETED {
			if sequence != e.SequenceNum() {
				return nil, unmet("%s was rewritten meanwhile", path)
			}
			hit[path] = true
			delete(gone, path)
		}
	}
	if len(hit) == 0 {
		return m, nil
	}
	return r.write(m, entries, func(w *manifestWriter, e iceberg.ManifestEntry) func(iceberg.ManifestEntry) error {
		if hit[e.DataFile().FilePath()] {
			return w.w.Delete
		}
		return w.w.Existing
	})
}

// write makes a manifest of entries in the place of like. how chooses what becomes
// of an entry; nil adds it, with the sequence number that the client gave it, if any.
func (r *restaging) write(like iceberg.ManifestFile, entries []iceberg.ManifestEntry,
	how func(*manifestWriter, iceberg.ManifestEntry) func(iceberg.ManifestEntry) error,
) (iceberg.ManifestFile, error) {
	spec, err := r.w.builder.GetSpecByID(int(like.PartitionSpecID()))
	if err != nil {
		return nil, refused("manifest %s: %v", like.FilePath(), err)
	}
	m, err := r.w.newManifest(*spec, like.ManifestContent())
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Status() == iceberg.EntryStatusDELETED {
			continue
		}
		put := how(m, e)
		if put == nil {
			var sequence *int64
			if n := e.SequenceNum(); n != r.s.SequenceNumber {
				sequence = &n // a rewrite that keeps the place of its rows
			}
			e = iceberg.NewManifestEntry(iceberg.EntryStatusADDED, &r.s.SnapshotID, sequence, nil, e.DataFile())
			put = m.w.Add
		}
		if err := put(e); err != nil {
			return nil, fmt.Errorf("dataset: restage %s: %w", e.DataFile().FilePath(), err)
		}
	}
	f, err := r.w.finish(m, like.ManifestContent())
	if err != nil {
		return nil, err
	}
	return r.renumber(f), nil
}
