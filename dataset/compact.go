package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/ocf"
)

// CompactOptions say how small files become large ones.
type CompactOptions struct {
	// Schema is what the rows are rewritten under: the user's fields of the
	// table's current schema, with their defaults, which Iceberg does not hold.
	// Nil: the table's, without defaults.
	Schema *schema.Schema
	// Format of the new file; Parquet by default.
	Format Format
	// TargetBytes is about how large a file becomes: 128 to 512 MiB, 256 MiB by
	// default. Files of at least half of it stay as they are.
	TargetBytes int64
	// Progress, if set, is told now and then how many bytes of the files to be
	// replaced were read, about.
	Progress func(done int64)
}

// Bounds of CompactOptions.TargetBytes.
const (
	minTargetBytes     = 128 << 20
	maxTargetBytes     = 512 << 20
	defaultTargetBytes = 256 << 20
)

// Compaction is what a call of Compact did; the zero value: there was nothing
// to do.
type Compaction struct {
	Files    int   // replaced by one
	Rows     int64 // in the new file
	Before   int64 // bytes of the old files
	After    int64 // bytes of the new one
	Path     string
	Snapshot int64 // that replaced them
}

// CompactionPlan is what Compact would do until there is nothing more to do.
type CompactionPlan struct {
	Files, Written int   // so many would become so many
	Rows           int64 // as manifests count them
	Bytes          int64 // of the files to be replaced, each once
}

// PlanCompaction tells what calling Compact again and again would do. Sizes are
// guessed: rows take as much room together as apart.
func (d *Datasets) PlanCompaction(ctx context.Context, id string, target int64) (CompactionPlan, error) {
	var plan CompactionPlan
	if target == 0 {
		target = defaultTargetBytes
	}
	t, err := d.Load(ctx, id)
	if err != nil || t.head == nil {
		return plan, err
	}
	live, err := t.liveFiles(ctx, 0)
	if err != nil {
		return plan, fmt.Errorf("dataset: plan a compaction of table %s: %w", id, err)
	}
	files := make([]candidate, len(live.data))
	rows := make([]int64, len(files))
	made := make([]bool, len(files)) // by the plan
	for i, e := range live.data {
		files[i], rows[i] = candidate{smallView(e, target, t.plain()), e.DataFile().FileSizeBytes(), e.SequenceNum()}, e.DataFile().Count()
	}
	for {
		from, to := chooseRun(files, target)
		if from == to {
			return plan, nil
		}
		one, sum := files[to-1], int64(0)
		one.bytes = 0
		for i := from; i < to; i++ {
			one.bytes += files[i].bytes
			sum += rows[i]
			if made[i] {
				plan.Written--
				continue
			}
			plan.Files++
			plan.Rows += rows[i]
			plan.Bytes += files[i].bytes
		}
		if one.bytes >= target/2 {
			one.view = 0
		}
		plan.Written++
		files, rows, made = slices.Replace(files, from, to, one), slices.Replace(rows, from, to, sum), slices.Replace(made, from, to, true)
	}
}

// HasSchema tells whether s is the table's current schema.
func (t *Table) HasSchema(s *schema.Schema) (bool, error) {
	i, err := icebergSchema(s)
	if err != nil {
		return false, err
	}
	return i.Equals(t.Schema()), nil
}

// Compact rewrites one run of small files that follow each other into one file,
// which takes their place in the order of scans: the rows, their order and the
// system columns stay as they are, rows that position deletes name go. It holds
// some batches in memory, whatever the files' size, and for sorted files a window of
// rows. Files of a layout are joined with others of their partition, spec and order
// only, sorted ones up to 128 MiB. Call it again until it has nothing more to do. Old
// files stay until expiry and collection.
//
// The commit is a snapshot with the operation replace that carries the newest
// marker on. Commits of others in between, such as archives, cost it another
// attempt at the metadata, never at the rows, and cost them the same.
//
// Errors: ErrConflict: somebody replaced, removed or deleted from the files
// meanwhile, or the schema is not the table's; ErrCorrupt: a file is damaged, and
// none is replaced; others as of Commit. After an error the table is as it was,
// except after ErrOutcomeUnknown. An interruption at any point leaves at most a
// file that nothing names.
func (d *Datasets) Compact(ctx context.Context, id string, o CompactOptions) (Compaction, error) {
	if o.TargetBytes == 0 {
		o.TargetBytes = defaultTargetBytes
	}
	if o.TargetBytes < minTargetBytes || o.TargetBytes > maxTargetBytes {
		return Compaction{}, fmt.Errorf("dataset: compact table %s: a target of %d bytes; %d to %d are allowed: %w", id, o.TargetBytes, minTargetBytes, maxTargetBytes, record.ErrInvalid)
	}
	t, err := d.Load(ctx, id)
	if err != nil {
		return Compaction{}, err
	}
	out, err := t.compact(ctx, o)
	if err != nil {
		return Compaction{}, fmt.Errorf("dataset: compact table %s: %w", id, err)
	}
	return out, nil
}

func (t *Table) compact(ctx context.Context, o CompactOptions) (Compaction, error) {
	if o.Schema == nil {
		s, err := schema.FromIceberg(t.Schema())
		if err != nil {
			return Compaction{}, err
		}
		o.Schema = s
	} else if same, err := t.HasSchema(o.Schema); err != nil {
		return Compaction{}, err
	} else if !same {
		return Compaction{}, fmt.Errorf("the table has another schema than the one given; commit it first: %w", record.ErrConflict)
	}
	if t.head == nil {
		return Compaction{}, nil
	}
	live, err := t.liveFiles(ctx, 0)
	if err != nil {
		return Compaction{}, err
	}
	marker, err := t.Marker()
	if err != nil {
		return Compaction{}, err
	}
	own := record.ViewNumber(0)
	if marker != nil {
		own = marker.ViewNumber
	}
	run := planCompaction(live.data, o.TargetBytes, own, t.plain())
	if len(run) == 0 {
		return Compaction{}, nil
	}
	var name FileName
	if !t.plain() {
		if name, err = t.runName(ctx, run); err != nil {
			return Compaction{}, err
		}
	}
	f, out, err := t.rewrite(ctx, o, name, fileSet{data: run, deletes: live.deletes})
	if err != nil {
		return Compaction{}, err
	}
	// A crash here leaves a file that no snapshot names.
	c := Commit{Base: t, replace: newReplacement(run, live)}
	if f.file != nil {
		c.Add = []DataFile{f}
	}
	next, err := t.d.Commit(ctx, t.id, c)
	if err != nil {
		if f.file != nil && (errors.Is(err, record.ErrConflict) || errors.Is(err, record.ErrNotFound)) && !errors.Is(err, ErrOutcomeUnknown) {
			// Certainly not committed. Failing leaves an orphan.
			t.d.remove(context.WithoutCancel(ctx), []string{f.Path()})
		}
		return Compaction{}, err
	}
	out.Snapshot = next.head.SnapshotID
	return out, nil
}

// plain tells whether the table has no system columns: no stream writes to it, and
// rows have no order but that of commits.
func (t *Table) plain() bool {
	_, ok := t.Schema().FindFieldByID(schema.ViewID)
	return !ok
}

// rewrite writes the live rows of a run into a new file; none if there are no
// rows.
func (t *Table) rewrite(ctx context.Context, o CompactOptions, name FileName, run fileSet) (f DataFile, out Compaction, err error) {
	out.Files = len(run.data)
	want := int64(0)
	for _, e := range run.data {
		out.Before += e.DataFile().FileSizeBytes()
		want += e.DataFile().Count()
	}
	at, scan, err := t.rewriteAs(o.Schema, run.data[0])
	if err != nil {
		return f, out, err
	}
	begin := func() (FileWriter, error) { return t.newStreamFile(ctx, name, o.Schema, o.Format, at) }
	if t.plain() {
		scan.Schema, begin = o.Schema, func() (FileWriter, error) { return t.NewRowWriter(ctx, o.Schema, o.Format) }
	}
	w, err := begin()
	if err != nil {
		return f, out, err
	}
	defer w.Abort()
	find := func(context.Context) (fileSet, error) { return run, nil }
	for b, err := range t.stream(ctx, scan, find) {
		if err == nil {
			err = w.Write(b)
		}
		if err != nil {
			return f, out, err
		}
		if o.Progress != nil && want > 0 {
			o.Progress(int64(float64(out.Before) * float64(min(w.Rows(), want)) / float64(want)))
		}
	}
	// Scans hold each file against its manifest; this holds the scan.
	if w.Rows() > want || (len(run.deletes) == 0 && w.Rows() != want) {
		return f, out, fmt.Errorf("%d files yielded %d rows, their manifests say %d: %w", len(run.data), w.Rows(), want, record.ErrCorrupt)
	}
	if out.Rows = w.Rows(); out.Rows == 0 {
		return f, out, nil
	}
	if f, err = w.Close(); err != nil {
		return f, out, err
	}
	out.After, out.Path = f.Bytes(), f.Path()
	return f, out, nil
}

// rewriteAs says where the rows of a run like e go and how they are scanned: into a
// file of the same partition and order.
func (t *Table) rewriteAs(s *schema.Schema, e iceberg.ManifestEntry) (at placement, scan ScanOptions, err error) {
	f := e.DataFile()
	scan = ScanOptions{Schema: s.WithSystem()}
	if !isLaidOut(f) {
		at, err = t.plainPlacement()
		return at, scan, err
	}
	if at.spec, err = specByID(t.meta, f.SpecID()); err != nil {
		return at, scan, err
	}
	at.tuple = f.Partition()
	if !isSorted(f) {
		return at, scan, nil // the run is in the order of times
	}
	identity, err := identityKey(scan.Schema)
	if err != nil {
		return at, scan, err
	}
	fields := t.sortFields(*f.SortOrderID(), s)
	if fields == nil { // a column is gone: from now on in the view's order
		scan.windowed = &windowed{key: identity, timed: true}
		return at, scan, nil
	}
	key, err := sortKey(scan.Schema, fields)
	if err != nil {
		return at, scan, err
	}
	at.order = *f.SortOrderID()
	scan.windowed = &windowed{key: rowKey{append(key.fields, identity.fields...)}}
	return at, scan, nil
}

// sortFields are the columns of a sort order in a schema; nil if it lacks one, or
// if the order is one of another engine that we cannot follow.
func (t *Table) sortFields(order int, s *schema.Schema) []schema.SortField {
	var out []schema.SortField
	all := s.WithSystem()
	for _, o := range t.meta.SortOrders() {
		if o.OrderID() != order {
			continue
		}
		for _, f := range o.Fields() {
			col, _ := fieldPath(all.Fields, f.SourceID())
			if col == nil || col.Type.Kind.Nested() || !f.Transform.Equals(iceberg.IdentityTransform{}) {
				return nil
			}
			out = append(out, schema.SortField{
				LayoutColumn: schema.LayoutColumn{Path: col.Name, ID: col.ID, Type: col.Type},
				Descending:   f.Direction == table.SortDESC, NullsLast: f.NullOrder == table.NullsLast,
			})
		}
	}
	return out
}

// runName names the file that takes the place of a run: with all offsets that
// its files promise.
func (t *Table) runName(ctx context.Context, run []iceberg.ManifestEntry) (FileName, error) {
	var name FileName
	at := map[record.Partition]int{}
	for _, e := range run {
		n, err := t.fullName(ctx, e.DataFile())
		if err != nil {
			return name, fmt.Errorf("%s: %w", e.DataFile().FilePath(), err)
		}
		name.View, name.Epoch = n.View, max(name.Epoch, n.Epoch)
		for _, r := range n.Ranges {
			i, ok := at[r.Partition]
			if !ok {
				i = len(name.Ranges)
				at[r.Partition] = i
				name.Ranges = append(name.Ranges, r)
			}
			have := &name.Ranges[i]
			have.Start, have.End = min(have.Start, r.Start), max(have.End, r.End)
		}
	}
	return name, nil
}

// fullName is the name of a file, with the ranges from its metadata if the name
// does not list them.
func (t *Table) fullName(ctx context.Context, f iceberg.DataFile) (n FileName, err error) {
	n, partitions, ok := parseFileName(f.FilePath())
	if !ok {
		return n, fmt.Errorf("this is no name of ours: %w", record.ErrInvalid)
	}
	if partitions == len(n.Ranges) {
		return n, nil
	}
	defer guard(&err)
	o, err := t.d.openData(ctx, f.FilePath(), f.FileSizeBytes())
	if err != nil {
		return n, err
	}
	defer o.Close()
	var ranges string
	if f.FileFormat() == iceberg.AvroFile {
		r, err := ocf.NewReader(io.NewSectionReader(storeReader{o}, 0, o.Size()))
		if err != nil {
			return n, damaged(ctx, err)
		}
		ranges = string(r.Metadata(fileRangesKey))
	} else {
		pf, err := openParquet(o)
		if err != nil {
			return n, corrupt(ctx, err)
		}
		if v := pf.MetaData().KeyValueMetadata().FindValue(fileRangesKey); v != nil {
			ranges = *v
		}
	}
	if err := json.Unmarshal([]byte(ranges), &n.Ranges); err != nil || len(n.Ranges) != partitions || n.check() != nil {
		return n, fmt.Errorf("the %s in its metadata are not those of %d partitions: %w", fileRangesKey, partitions, record.ErrCorrupt)
	}
	return n, nil
}
