package dataset

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
)

// erasing is the part of a commit that takes rows out of retained snapshots: what
// names old files is written anew, with the same ids and sequence numbers.
type erasing struct {
	e *eraser
	// settle only takes the list of old files out of the note.
	settle bool
}

// errUnexamined: the table has files that nobody has looked at.
var errUnexamined = errors.New("files came meanwhile")

// commitAll changes the tables one after the other. A crash in between leaves
// some of them changed; the others still lead to the old files.
func (e *eraser) commitAll(ctx context.Context) error {
	for _, t := range e.tables {
		e.tell("commit")
		_, err := e.d.Commit(ctx, t.id, Commit{erase: &erasing{e: e}})
		if err != nil && !errors.Is(err, record.ErrNotFound) {
			return err
		}
	}
	return nil
}

// rewriting is one attempt of erasing on one head.
type rewriting struct {
	*change
	e         *eraser
	manifests map[string]rewrittenManifest // by old location
	kept      map[string]bool              // locations that the new metadata leads to
	changed   bool
	// headManifests are those of the head's rows now.
	headManifests []iceberg.ManifestFile
}

// rewrittenManifest is what takes the place of a manifest.
type rewrittenManifest struct {
	file    iceberg.ManifestFile // nil: nothing is left of it
	changed bool
	// What has gone, of files that it holds as live.
	live tally
	// Of these, and of files that it removes, by the snapshot that did it.
	added, removed map[int64]*tally
}

// tally counts what has gone.
type tally struct {
	files, rows, bytes  int64
	deletes, posDeletes int64
}

func (t *tally) add(o tally) {
	t.files, t.rows, t.bytes = t.files+o.files, t.rows+o.rows, t.bytes+o.bytes
	t.deletes, t.posDeletes = t.deletes+o.deletes, t.posDeletes+o.posDeletes
}

// eraseMetadata builds the metadata without the rows; nil if nothing changes.
func (c *change) eraseMetadata(ctx context.Context, x *erasing) (table.Metadata, error) {
	doc, err := newMetadataDocument(c.base.meta)
	if err != nil {
		return nil, err
	}
	note, err := c.base.erasureNote(ctx)
	if err != nil {
		return nil, err
	}
	if x.settle {
		if note == nil || len(note.Old) == 0 {
			return nil, nil
		}
		note.Old, note.Replaced = nil, nil
		if err := doc.logged(c.base); err != nil {
			return nil, err
		}
		return c.withNote(doc, *note)
	}
	r := &rewriting{change: c, e: x.e, manifests: map[string]rewrittenManifest{}, kept: map[string]bool{}}
	for i, s := range c.base.meta.Snapshots() {
		list, gone, err := r.snapshot(ctx, &s)
		if err != nil {
			return nil, err
		}
		if list == s.ManifestList {
			continue
		}
		if err := doc.snapshot(i, list, &s, gone); err != nil {
			return nil, err
		}
	}
	if !r.changed {
		return nil, nil
	}
	if err := r.head(doc); err != nil {
		return nil, err
	}
	old := r.old(ctx)
	erased := newRowSet(slices.Clone(x.e.erased.ranges)).plus(x.e.known)
	replaced := map[string]string{}
	if note != nil {
		erased = erased.plus(note.rows())
		old = append(old, note.Old...)
		maps.Copy(replaced, note.Replaced)
	}
	for path, f := range x.e.files {
		if f.changed() && f.new != nil {
			replaced[path] = f.new.FilePath()
		}
	}
	slices.Sort(old)
	doc.withoutHistory()
	n := newErasureNote(erased)
	n.Old, n.Replaced = slices.Compact(old), replaced
	return c.withNote(doc, n)
}

// head adds a snapshot that changes nothing, so that the head is another one:
// what engines have prepared on the old one, with names of files that go, is
// refused.
func (r *rewriting) head(doc *metadataDocument) error {
	if r.base.head == nil {
		return nil
	}
	location, err := r.list(r.headManifests)
	if err != nil {
		return err
	}
	r.kept[location] = true
	props := (&summary{}).properties(r.base.head)
	for _, key := range []string{totalFilesKey, totalRowsKey, totalBytesKey, totalDeletesKey, totalPosDeletesKey, totalEqDeletesKey} {
		delete(props, key)
		if v := doc.figure(r.base.head.SnapshotID, key); v != "" {
			props[key] = v
		}
	}
	props[commitIDKey] = r.commitID
	marker, err := r.carried()
	if err != nil {
		return err
	}
	if marker != nil {
		m, err := marker.properties()
		if err != nil {
			return err
		}
		maps.Copy(props, m)
	}
	schemaID := r.schema.ID
	return doc.head(&table.Snapshot{
		SnapshotID: r.snapshotID, ParentSnapshotID: r.parentID(), SequenceNumber: r.sequence, TimestampMs: r.timestamp(), ManifestList: location,
		Summary: &table.Summary{Operation: table.OpReplace, Properties: props}, SchemaID: &schemaID,
	}, marker != nil)
}

// withNote ends the document with a note on what was erased.
func (c *change) withNote(doc *metadataDocument, n erasureNote) (table.Metadata, error) {
	p, err := n.pending(c.base.meta.Location())
	if err != nil {
		return nil, err
	}
	c.puts = append(c.puts, p)
	if err := doc.property(erasedKey, p.location); err != nil {
		return nil, err
	}
	return doc.finish(c)
}

// old are the files that the table led to, also by its older metadata files, and
// will not any more.
func (r *rewriting) old(ctx context.Context) []string {
	var out []string
	for f := range r.base.Reach(ctx) {
		key, ok := r.base.d.key(f.Location)
		if ok && !r.kept[f.Location] {
			out = append(out, key)
		}
	}
	return out
}

// snapshot returns the manifest list that takes the place of a snapshot's.
func (r *rewriting) snapshot(ctx context.Context, s *table.Snapshot) (string, snapshotTally, error) {
	var gone snapshotTally
	manifests, err := r.base.d.readManifests(ctx, s)
	if err != nil {
		return "", gone, err
	}
	var out []iceberg.ManifestFile
	changed := false
	for _, m := range manifests {
		w, known := r.manifests[m.FilePath()]
		if !known {
			if w, err = r.manifest(ctx, m); err != nil {
				return "", gone, err
			}
			r.manifests[m.FilePath()] = w
		}
		changed = changed || w.changed
		gone.live.add(w.live)
		if t := w.added[s.SnapshotID]; t != nil {
			gone.added.add(*t)
		}
		if t := w.removed[s.SnapshotID]; t != nil {
			gone.removed.add(*t)
		}
		if w.file != nil {
			out = append(out, w.file)
		}
	}
	if r.base.head != nil && s.SnapshotID == r.base.head.SnapshotID {
		r.headManifests = out
	}
	if !changed {
		r.kept[s.ManifestList] = true
		return s.ManifestList, gone, nil
	}
	r.changed = true
	var buf bytes.Buffer
	if err := iceberg.WriteManifestList(formatVersion, &buf, s.SnapshotID, s.ParentSnapshotID, &s.SequenceNumber, 0, out); err != nil {
		return "", gone, fmt.Errorf("dataset: write manifest list: %w", err)
	}
	data := buf.Bytes()
	location := fmt.Sprintf("%s/metadata/snap-%d-%s.avro", r.base.meta.Location(), s.SnapshotID, sumName(data))
	r.puts = append(r.puts, pending{location, data})
	r.kept[location] = true
	return location, gone, nil
}

// manifest writes a manifest anew if it names old files. Files that a commit
// removed are left out where they may have had rows that match: their bounds may
// be of those.
func (r *rewriting) manifest(ctx context.Context, m iceberg.ManifestFile) (rewrittenManifest, error) {
	out := rewrittenManifest{file: m, added: map[int64]*tally{}, removed: map[int64]*tally{}}
	entries, err := r.base.d.allEntries(ctx, m)
	if err != nil {
		return out, err
	}
	var next []iceberg.ManifestEntry
	for _, entry := range entries {
		now, gone, err := r.entry(ctx, entry)
		if err != nil {
			return out, err
		}
		by := out.added
		switch entry.Status() {
		case iceberg.EntryStatusDELETED:
			by = out.removed
		default:
			out.live.add(gone)
		}
		if entry.Status() != iceberg.EntryStatusEXISTING && gone != (tally{}) {
			if by[entry.SnapshotID()] == nil {
				by[entry.SnapshotID()] = &tally{}
			}
			by[entry.SnapshotID()].add(gone)
		}
		out.changed = out.changed || now != entry
		if now != nil {
			next = append(next, now)
		}
	}
	if !out.changed {
		r.kept[m.FilePath()] = true
		for _, entry := range entries {
			if entry.Status() != iceberg.EntryStatusDELETED {
				r.kept[entry.DataFile().FilePath()] = true
			}
		}
		return out, nil
	}
	for _, entry := range next {
		if entry.Status() != iceberg.EntryStatusDELETED {
			r.kept[entry.DataFile().FilePath()] = true
		}
	}
	if out.file = nil; len(next) > 0 {
		out.file, err = r.write(m, next)
	}
	return out, err
}

// entry returns what takes the place of an entry (itself, if nothing does, nil
// if it goes), and what has gone with that.
func (r *rewriting) entry(ctx context.Context, entry iceberg.ManifestEntry) (iceberg.ManifestEntry, tally, error) {
	f := entry.DataFile()
	if entry.Status() == iceberg.EntryStatusDELETED {
		known := r.e.files[f.FilePath()]
		harmless := f.ContentType() == iceberg.EntryContentPosDeletes || f.ContentType() == iceberg.EntryContentData && !r.e.mayMatch(r.base, f)
		if known == nil && harmless || known != nil && !known.changed() {
			return entry, tally{}, nil
		}
		gone := tally{}
		if known != nil {
			gone = known.gone()
		}
		return nil, gone, nil
	}
	known := r.e.files[f.FilePath()]
	if f.ContentType() == iceberg.EntryContentPosDeletes {
		var err error
		if known, err = r.e.deleteFile(ctx, r.base, entry); err != nil {
			return nil, tally{}, err
		}
	}
	switch {
	case known == nil:
		return nil, tally{}, fmt.Errorf("%s: %w", f.FilePath(), errUnexamined)
	case !known.changed():
		return entry, tally{}, nil
	case known.new == nil:
		return nil, known.gone(), nil
	}
	snapshot, sequence := entry.SnapshotID(), entry.SequenceNum()
	return iceberg.NewManifestEntry(entry.Status(), &snapshot, &sequence, entry.FileSequenceNum(), known.new), known.gone(), nil
}

// gone counts what a file has lost.
func (f *erasedFile) gone() tally {
	t := tally{bytes: f.old.FileSizeBytes()}
	if f.new != nil {
		t.bytes -= f.new.FileSizeBytes()
	}
	if f.old.ContentType() == iceberg.EntryContentPosDeletes {
		t.posDeletes = f.rows
		if f.new == nil {
			t.deletes = 1
		}
		return t
	}
	t.rows = f.rows
	if f.new == nil {
		t.files = 1
	}
	return t
}

// write writes a manifest that says the same as m, with other entries.
func (r *rewriting) write(m iceberg.ManifestFile, entries []iceberg.ManifestEntry) (iceberg.ManifestFile, error) {
	spec, err := specByID(r.base.meta, m.PartitionSpecID())
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w, err := iceberg.NewManifestWriter(formatVersion, &buf, spec, schemaOf(r.base.meta, r.base.Schema(), spec), m.SnapshotID(), iceberg.WithManifestWriterContent(m.ManifestContent()))
	if err != nil {
		return nil, fmt.Errorf("dataset: begin manifest: %w", err)
	}
	for _, entry := range entries {
		put := w.Existing
		switch entry.Status() {
		case iceberg.EntryStatusADDED:
			put = w.Add
		case iceberg.EntryStatusDELETED:
			put = w.Delete
		}
		if err := put(entry); err != nil {
			return nil, fmt.Errorf("dataset: rewrite manifest %s: %w", m.FilePath(), err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("dataset: end manifest: %w", err)
	}
	data := buf.Bytes()
	location := fmt.Sprintf("%s/metadata/%s-m%d.avro", r.base.meta.Location(), sumName(data), len(r.puts))
	f, err := w.ToManifestFile(location, int64(len(data)), iceberg.WithManifestFileContent(m.ManifestContent()))
	if err != nil {
		return nil, fmt.Errorf("dataset: end manifest: %w", err)
	}
	r.puts = append(r.puts, pending{location, data})
	r.kept[location] = true
	// The sequence number is that of the commit that wrote m, not of this one.
	return iceberg.NewManifestFile(formatVersion, location, int64(len(data)), m.PartitionSpecID(), m.SnapshotID()).
		SequenceNum(m.SequenceNum(), m.MinSequenceNum()).Content(m.ManifestContent()).
		AddedFiles(f.AddedDataFiles()).ExistingFiles(f.ExistingDataFiles()).DeletedFiles(f.DeletedDataFiles()).
		AddedRows(f.AddedRows()).ExistingRows(f.ExistingRows()).DeletedRows(f.DeletedRows()).Partitions(f.Partitions()).Build(), nil
}

// snapshotTally is what a snapshot has lost: of its live files, and of those that
// it added and removed.
type snapshotTally struct{ live, added, removed tally }

// metadataDocument is a metadata file as JSON, in which single values change and
// all others stay as they are.
type metadataDocument struct {
	fields    map[string]json.RawMessage
	snapshots []map[string]json.RawMessage
}

func newMetadataDocument(m table.Metadata) (*metadataDocument, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("dataset: encode table metadata: %w", err)
	}
	d := &metadataDocument{}
	if err := json.Unmarshal(data, &d.fields); err != nil {
		return nil, fmt.Errorf("dataset: read table metadata: %w", err)
	}
	if raw := d.fields["snapshots"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &d.snapshots); err != nil {
			return nil, fmt.Errorf("dataset: read snapshots: %w", err)
		}
	}
	if len(d.snapshots) != len(m.Snapshots()) {
		return nil, fmt.Errorf("dataset: %d snapshots are encoded as %d", len(m.Snapshots()), len(d.snapshots))
	}
	return d, nil
}

// snapshot gives snapshot i another manifest list, and takes what is gone from
// its figures.
func (d *metadataDocument) snapshot(i int, list string, s *table.Snapshot, gone snapshotTally) error {
	location, err := json.Marshal(list)
	if err != nil {
		return err
	}
	d.snapshots[i]["manifest-list"] = location
	if s.Summary == nil {
		return nil
	}
	summary := map[string]string{}
	if err := json.Unmarshal(d.snapshots[i]["summary"], &summary); err != nil {
		return fmt.Errorf("dataset: read the summary of snapshot %d: %w", s.SnapshotID, err)
	}
	for key, n := range map[string]int64{
		totalFilesKey: gone.live.files, totalRowsKey: gone.live.rows, totalBytesKey: gone.live.bytes,
		totalDeletesKey: gone.live.deletes, totalPosDeletesKey: gone.live.posDeletes,
		addedFilesKey: gone.added.files, addedRowsKey: gone.added.rows, addedBytesKey: gone.added.bytes,
		removedFilesKey: gone.removed.files, removedRowsKey: gone.removed.rows, removedBytesKey: gone.removed.bytes,
	} {
		if v, err := strconv.ParseInt(summary[key], 10, 64); err == nil && n != 0 {
			summary[key] = strconv.FormatInt(max(0, v-n), 10)
		}
	}
	d.snapshots[i]["summary"], err = json.Marshal(summary)
	return err
}

// figure is a figure of a snapshot's summary, as it is now.
func (d *metadataDocument) figure(id int64, key string) string {
	for _, s := range d.snapshots {
		if string(s["snapshot-id"]) == strconv.FormatInt(id, 10) {
			summary := map[string]string{}
			_ = json.Unmarshal(s["summary"], &summary) // it was read before
			return summary[key]
		}
	}
	return ""
}

// head adds a snapshot and makes it the head; the tag of the marker follows.
func (d *metadataDocument) head(s *table.Snapshot, marker bool) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	d.snapshots = append(d.snapshots, fields)
	id := json.RawMessage(strconv.FormatInt(s.SnapshotID, 10))
	refs := map[string]map[string]json.RawMessage{}
	if raw := d.fields["refs"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &refs); err != nil {
			return fmt.Errorf("dataset: read refs: %w", err)
		}
	}
	name := func(ref string, kind table.RefType) {
		if refs[ref] == nil {
			refs[ref] = map[string]json.RawMessage{"type": json.RawMessage(strconv.Quote(string(kind)))}
		}
		refs[ref]["snapshot-id"] = id
	}
	name(table.MainBranch, table.BranchRef)
	if marker {
		name(markerTag, table.TagRef)
	}
	var log []json.RawMessage
	if raw := d.fields["snapshot-log"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &log); err != nil {
			return fmt.Errorf("dataset: read the snapshot log: %w", err)
		}
	}
	log = append(log, json.RawMessage(fmt.Sprintf(`{"snapshot-id":%d,"timestamp-ms":%d}`, s.SnapshotID, s.TimestampMs)))
	d.fields["current-snapshot-id"] = id
	d.fields["last-sequence-number"] = json.RawMessage(strconv.FormatInt(s.SequenceNumber, 10))
	if d.fields["snapshot-log"], err = json.Marshal(log); err != nil {
		return err
	}
	d.fields["refs"], err = json.Marshal(refs)
	return err
}

// withoutHistory drops what leads to versions with the rows: older metadata
// files, and the statistics of engines, which are about the rows.
func (d *metadataDocument) withoutHistory() {
	d.fields["metadata-log"] = json.RawMessage("[]")
	delete(d.fields, "statistics")
	delete(d.fields, "partition-statistics")
}

// logged enters the metadata file before this one into the log.
func (d *metadataDocument) logged(t *Table) error {
	var log []json.RawMessage
	if raw := d.fields["metadata-log"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &log); err != nil {
			return fmt.Errorf("dataset: read the log of metadata files: %w", err)
		}
	}
	entry, err := json.Marshal(map[string]any{"metadata-file": t.location, "timestamp-ms": t.meta.LastUpdatedMillis()})
	if err != nil {
		return err
	}
	log = append(log, entry)
	d.fields["metadata-log"], err = json.Marshal(log[max(0, len(log)-keptMetadataFiles):])
	return err
}

func (d *metadataDocument) property(key, value string) error {
	all := map[string]string{}
	if raw := d.fields["properties"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &all); err != nil {
			return fmt.Errorf("dataset: read table properties: %w", err)
		}
	}
	all[key] = value
	data, err := json.Marshal(all)
	d.fields["properties"] = data
	return err
}

// finish gives the document back as metadata.
func (d *metadataDocument) finish(c *change) (table.Metadata, error) {
	var err error
	if d.fields["snapshots"], err = json.Marshal(d.snapshots); err != nil {
		return nil, err
	}
	d.fields["last-updated-ms"] = json.RawMessage(strconv.FormatInt(c.timestamp(), 10))
	data, err := json.Marshal(d.fields)
	if err != nil {
		return nil, err
	}
	return parseMetadata("new metadata of table "+c.base.id, data)
}
