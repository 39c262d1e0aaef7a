package dataset

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
)

// pending is an object that a commit will put before it swaps the pointer.
type pending struct {
	location string
	data     []byte
}

// readManifests returns the manifests of a snapshot, in the order of its list.
func (d *Datasets) readManifests(ctx context.Context, s *table.Snapshot) ([]iceberg.ManifestFile, error) {
	if s == nil {
		return nil, nil
	}
	if s.ManifestList == "" {
		return nil, fmt.Errorf("dataset: snapshot %d has no manifest list (Iceberg v1): %w", s.SnapshotID, record.ErrInvalid)
	}
	if manifests, ok := d.lists.get(s.ManifestList); ok {
		return manifests, nil
	}
	data, err := d.readMeta(ctx, s.ManifestList)
	if err != nil {
		return nil, err
	}
	manifests, err := iceberg.ReadManifestList(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("dataset: manifest list %s: %w: %w", s.ManifestList, err, record.ErrCorrupt)
	}
	d.lists.put(s.ManifestList, manifests, int64(len(data)))
	return manifests, nil
}

// readEntries returns the live entries of a manifest, in its order.
func (d *Datasets) readEntries(ctx context.Context, m iceberg.ManifestFile) ([]iceberg.ManifestEntry, error) {
	if entries, ok := d.entries.get(m.FilePath()); ok {
		return entries, nil
	}
	data, err := d.readMeta(ctx, m.FilePath())
	if err != nil {
		return nil, err
	}
	entries, err := iceberg.ReadManifest(m, bytes.NewReader(data), true)
	if err != nil {
		return nil, fmt.Errorf("dataset: manifest %s: %w: %w", m.FilePath(), err, record.ErrCorrupt)
	}
	d.entries.put(m.FilePath(), entries, int64(len(data)))
	return entries, nil
}

// manifestWriter collects entries of one manifest in memory.
type manifestWriter struct {
	buf bytes.Buffer
	w   *iceberg.ManifestWriter
}

func (c *change) newManifest(spec iceberg.PartitionSpec, content iceberg.ManifestContent) (*manifestWriter, error) {
	m := &manifestWriter{}
	w, err := iceberg.NewManifestWriter(formatVersion, &m.buf, spec, schemaOf(c.base.meta, c.schema, spec), c.snapshotID, iceberg.WithManifestWriterContent(content))
	if err != nil {
		return nil, fmt.Errorf("dataset: begin manifest: %w", err)
	}
	m.w = w
	return m, nil
}

// schemaOf is a schema with the columns that a spec partitions by: the current one,
// or, if a column was dropped since, the last that had them all. Without the types
// of its columns, the partitions of files that stay would be lost.
func schemaOf(m table.Metadata, current *iceberg.Schema, spec iceberg.PartitionSpec) *iceberg.Schema {
	has := func(s *iceberg.Schema) bool {
		for i := range spec.NumFields() {
			if _, ok := s.FindFieldByID(spec.Field(i).SourceID()); !ok {
				return false
			}
		}
		return true
	}
	if has(current) {
		return current
	}
	for _, s := range slices.Backward(m.Schemas()) {
		if has(s) {
			return s
		}
	}
	return current
}

// finish names the manifest by its content and adds it to what the commit puts.
func (c *change) finish(m *manifestWriter, content iceberg.ManifestContent) (iceberg.ManifestFile, error) {
	if err := m.w.Close(); err != nil {
		return nil, fmt.Errorf("dataset: end manifest: %w", err)
	}
	data := m.buf.Bytes()
	location := fmt.Sprintf("%s/metadata/%s-m%d.avro", c.base.meta.Location(), sumName(data), len(c.puts))
	f, err := m.w.ToManifestFile(location, int64(len(data)), iceberg.WithManifestFileContent(content))
	if err != nil {
		return nil, fmt.Errorf("dataset: end manifest: %w", err)
	}
	c.puts = append(c.puts, pending{location, data})
	return f, nil
}

// addFiles writes the manifests of the new files, one for each spec. Those that
// replace others have rows of an older commit, and its sequence number.
func (c *change) addFiles(files []DataFile, r *replacement) ([]iceberg.ManifestFile, error) {
	var sequence *int64 // nil: inherited from the snapshot
	if r != nil {
		sequence = &r.sequence
	}
	var specs []int32
	for i := range files {
		if id := files[i].file.SpecID(); !slices.Contains(specs, id) {
			specs = append(specs, id)
		}
	}
	var out []iceberg.ManifestFile
	for _, id := range specs {
		spec, err := specByID(c.base.meta, id)
		if err != nil {
			return nil, err
		}
		m, err := c.newManifest(spec, iceberg.ManifestContentData)
		if err != nil {
			return nil, err
		}
		for i := range files {
			f := files[i].file
			if f.SpecID() != id {
				continue
			}
			if err := m.w.Add(iceberg.NewManifestEntry(iceberg.EntryStatusADDED, &c.snapshotID, sequence, nil, f)); err != nil {
				return nil, fmt.Errorf("dataset: add %s: %w", f.FilePath(), err)
			}
			c.summary.added(f)
		}
		done, err := c.finish(m, iceberg.ManifestContentData)
		if err != nil {
			return nil, err
		}
		out = append(out, done)
	}
	return out, nil
}

// unpartitioned is the spec that our data files are written under. Another
// engine may have made a partitioned one the default.
func unpartitioned(m table.Metadata) (iceberg.PartitionSpec, error) {
	for _, s := range m.PartitionSpecs() {
		if s.NumFields() == 0 {
			return s, nil
		}
	}
	return iceberg.PartitionSpec{}, fmt.Errorf("dataset: table %s has no unpartitioned spec, so rows of a stream cannot be added: %w", m.TableUUID(), record.ErrInvalid)
}

// removeAll writes, for each manifest with live files, one in which they all
// are deleted.
func (c *change) removeAll(ctx context.Context, manifests []iceberg.ManifestFile) ([]iceberg.ManifestFile, error) {
	var out []iceberg.ManifestFile
	for _, old := range manifests {
		if !live(old) {
			continue
		}
		entries, err := c.base.d.readEntries(ctx, old)
		if err != nil {
			return nil, err
		}
		if len(entries) == 0 {
			continue
		}
		spec, err := specByID(c.base.meta, old.PartitionSpecID())
		if err != nil {
			return nil, err
		}
		m, err := c.newManifest(spec, old.ManifestContent())
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if err := m.w.Delete(e); err != nil {
				return nil, fmt.Errorf("dataset: remove %s: %w", e.DataFile().FilePath(), err)
			}
			c.summary.removed(e.DataFile())
		}
		f, err := c.finish(m, old.ManifestContent())
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

func specByID(m table.Metadata, id int32) (iceberg.PartitionSpec, error) {
	s := m.PartitionSpecByID(int(id))
	if s == nil {
		return iceberg.PartitionSpec{}, fmt.Errorf("dataset: table %s lacks partition spec %d: %w", m.TableUUID(), id, record.ErrCorrupt)
	}
	return *s, nil
}

// live tells whether a manifest holds files that are still in the table. The
// others are not carried on. -1 means that the engine did not count.
func live(m iceberg.ManifestFile) bool {
	return m.AddedDataFiles() != 0 || m.ExistingDataFiles() != 0
}

// Manifests are merged in powers of mergeFan: as soon as as many of one size
// class stand together, they become one of the next class. The list of n files
// thus stays below mergeFan·log(n) manifests, and an entry is rewritten at most
// once per class. Manifests of the last class stay as they are.
const (
	mergeFan     = 16
	mergeClasses = 3 // 16³ = 4096 entries and more
)

func mergeClass(m iceberg.ManifestFile) int {
	class, n := 0, int(m.AddedDataFiles())+int(m.ExistingDataFiles())
	for n >= mergeFan && class < mergeClasses {
		n /= mergeFan
		class++
	}
	return class
}

// mergeable: counted data manifests. Those of other engines with deletes are theirs
// to tend.
func mergeable(m iceberg.ManifestFile) bool {
	return m.ManifestContent() == iceberg.ManifestContentData &&
		m.AddedDataFiles() >= 0 && m.ExistingDataFiles() >= 0 && m.Version() == formatVersion
}

// merge joins the manifests of the first size class of which there are enough that
// are of one spec. One class at a time keeps a commit short. Order inside a sequence
// number is kept, because manifests are merged in the order of their sequence numbers.
func (c *change) merge(ctx context.Context, manifests []iceberg.ManifestFile) ([]iceberg.ManifestFile, error) {
	for class := range mergeClasses {
		for _, spec := range c.base.meta.PartitionSpecs() {
			var same []iceberg.ManifestFile
			for _, m := range manifests {
				if mergeable(m) && mergeClass(m) == class && m.PartitionSpecID() == int32(spec.ID()) {
					same = append(same, m)
				}
			}
			if len(same) < mergeFan {
				continue
			}
			slices.SortStableFunc(same, func(a, b iceberg.ManifestFile) int { return cmp.Compare(a.SequenceNum(), b.SequenceNum()) })
			merged, err := c.mergeInto(ctx, spec, same)
			if err != nil {
				return nil, err
			}
			out := make([]iceberg.ManifestFile, 0, len(manifests)-len(same)+1)
			out = append(out, merged)
			for _, m := range manifests {
				if !slices.Contains(same, m) {
					out = append(out, m)
				}
			}
			return out, nil
		}
	}
	return manifests, nil
}

func (c *change) mergeInto(ctx context.Context, spec iceberg.PartitionSpec, manifests []iceberg.ManifestFile) (iceberg.ManifestFile, error) {
	w, err := c.newManifest(spec, iceberg.ManifestContentData)
	if err != nil {
		return nil, err
	}
	for _, m := range manifests {
		entries, err := c.base.d.readEntries(ctx, m)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			// Existing keeps the entry's explicit sequence numbers and snapshot.
			if err := w.w.Existing(e); err != nil {
				return nil, fmt.Errorf("dataset: merge %s: %w", m.FilePath(), err)
			}
		}
	}
	return c.finish(w, iceberg.ManifestContentData)
}

// list writes the manifest list and returns its location.
func (c *change) list(manifests []iceberg.ManifestFile) (string, error) {
	var buf bytes.Buffer
	if err := iceberg.WriteManifestList(formatVersion, &buf, c.snapshotID, c.parentID(), &c.sequence, 0, manifests); err != nil {
		return "", fmt.Errorf("dataset: write manifest list: %w", err)
	}
	data := buf.Bytes()
	location := fmt.Sprintf("%s/metadata/snap-%d-%s.avro", c.base.meta.Location(), c.snapshotID, sumName(data))
	c.puts = append(c.puts, pending{location, data})
	return location, nil
}

// summary counts what a snapshot changes.
type summary struct {
	addedFiles, addedRows, addedBytes       int64
	removedFiles, removedRows, removedBytes int64
	removedDeletes                          int64
	removedPos, removedEq                   int64
	addedDeletes, addedPos                  int64
}

func (s *summary) added(f iceberg.DataFile) {
	s.addedFiles++
	s.addedRows += f.Count()
	s.addedBytes += f.FileSizeBytes()
}

func (s *summary) addedDelete(f iceberg.DataFile) {
	s.addedDeletes++
	s.addedPos += f.Count()
	s.addedBytes += f.FileSizeBytes()
}

func (s *summary) removed(f iceberg.DataFile) {
	s.removedBytes += f.FileSizeBytes()
	switch f.ContentType() {
	case iceberg.EntryContentPosDeletes:
		s.removedDeletes++
		s.removedPos += f.Count()
	case iceberg.EntryContentEqDeletes:
		s.removedDeletes++
		s.removedEq += f.Count()
	default:
		s.removedFiles++
		s.removedRows += f.Count()
	}
}

// properties gives Iceberg's figures. Totals continue those of the parent;
// where the parent has none there are none.
func (s *summary) properties(parent *table.Snapshot) map[string]string {
	p := map[string]string{}
	put := func(key string, n int64) {
		if n != 0 {
			p[key] = strconv.FormatInt(n, 10)
		}
	}
	put(addedFilesKey, s.addedFiles)
	put(addedRowsKey, s.addedRows)
	put(addedBytesKey, s.addedBytes)
	put(removedFilesKey, s.removedFiles)
	put(removedRowsKey, s.removedRows)
	put(removedBytesKey, s.removedBytes)
	put(addedDeletesKey, s.addedDeletes)
	put(addedPosDeletesKey, s.addedPos)
	put(removedDeletesKey, s.removedDeletes)
	put(removedPosDeletesKey, s.removedPos)
	put(removedEqDeletesKey, s.removedEq)
	total := func(key string, change int64) {
		var n int64
		if parent != nil {
			var err error
			if parent.Summary == nil {
				return
			}
			if n, err = strconv.ParseInt(parent.Summary.Properties[key], 10, 64); err != nil {
				return
			}
		}
		p[key] = strconv.FormatInt(n+change, 10)
	}
	total(totalFilesKey, s.addedFiles-s.removedFiles)
	total(totalRowsKey, s.addedRows-s.removedRows)
	total(totalBytesKey, s.addedBytes-s.removedBytes)
	total(totalDeletesKey, s.addedDeletes-s.removedDeletes)
	total(totalPosDeletesKey, s.addedPos-s.removedPos)
	total(totalEqDeletesKey, -s.removedEq)
	return p
}
