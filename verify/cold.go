package verify

import (
	"context"
	"errors"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// cold reads every data file of the head snapshot, in the order of a reader.
func (c *viewCheck) cold(ctx context.Context) error {
	files := c.pin.files
	c.r.progress.Phase, c.r.progress.TotalFiles = "cold", int64(files.Len())
	if head, ok := c.pin.table.Head(); ok {
		c.r.sum.SnapshotID = head.ID
	}
	erased, err := c.pin.table.Erased(ctx, c.view.Number)
	if err != nil {
		if errors.Is(err, record.ErrCorrupt) && ctx.Err() == nil {
			c.r.add(c.finding(Metadata, c.pin.table.MetadataLocation(), "what was erased cannot be read: %v", err))
		} else {
			return err
		}
	}
	for p, ranges := range erased {
		for _, r := range ranges {
			c.rows.excuse(p, r)
		}
	}
	c.laidOut = files.LaidOut()
	c.rows.merged = files.Arrange(c.view.Number) && !c.laidOut
	for i := range files.Len() {
		if err := c.file(ctx, i); err != nil {
			return err
		}
		c.r.progress.Files++
		c.r.sum.Files++
	}
	if c.laidOut {
		if err := c.inOrder(ctx); err != nil {
			return err
		}
	}
	c.rows.place, c.rows.merged = c.head(), false
	if err := c.rows.reach(c.view.archived); err != nil {
		return err
	}
	c.removed()
	return nil
}

// head names the snapshot that is checked.
func (c *viewCheck) head() string {
	if c.pin.marker == nil {
		return c.pin.table.MetadataLocation()
	}
	return c.markerPlace()
}

// coldFile is the data file that is being read.
type coldFile struct {
	info   dataset.FileInfo
	rows   int64 // read
	bounds rowBounds
	users  columnBounds
}

// file reads a data file to its end. One that is damaged is told once; the rows
// that it was to hold are then excused.
func (c *viewCheck) file(ctx context.Context, i int) error {
	f := coldFile{info: c.pin.files.File(i)}
	f.bounds, f.users = newRowBounds(f.info), newColumnBounds(f.info, c.schema)
	c.rows.place = f.info.Path
	c.r.sum.ColdBytes += f.info.Bytes
	failed, err := damage(ctx, c.checkSums(ctx, &f))
	if err != nil {
		return err
	}
	if failed == nil {
		if failed, err = c.fileRows(ctx, i, &f); err != nil {
			return err
		}
	}
	c.r.flush()
	if failed != nil {
		if c.lost == nil {
			c.lost = map[int]bool{}
		}
		c.lost[i] = true
		return c.lostFile(ctx, &f, failed)
	}
	if f.rows != f.info.Rows && !c.pin.files.Deletes() {
		c.r.add(c.finding(RowCount, f.info.Path, "it holds %d rows, its manifest says %d", f.rows, f.info.Rows))
	}
	return nil
}

// checkSums reads the whole file: a scan leaves out the columns that were dropped,
// and what stands between columns.
func (c *viewCheck) checkSums(ctx context.Context, f *coldFile) error {
	if !f.info.HasChecksums() {
		return nil // only the scan tells
	}
	return c.pin.table.CheckFile(ctx, f.info)
}

// fileRows reads the rows; failed is why the file has no more that can be read.
func (c *viewCheck) fileRows(ctx context.Context, i int, f *coldFile) (failed, err error) {
	for rows, err := range c.pin.files.Rows(ctx, i, dataset.ScanOptions{Schema: c.schema}) {
		if err != nil {
			return damage(ctx, err)
		}
		if err := c.coldBatch(ctx, f, rows); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// damage tells what is wrong with a file from what is wrong with reading it.
func damage(ctx context.Context, err error) (failed, other error) {
	if ctx.Err() == nil && (errors.Is(err, record.ErrCorrupt) || errors.Is(err, record.ErrInvalid)) {
		return err, nil
	}
	return nil, err
}

// inOrder follows the rows in the order of the view, across the files, which are
// whole by now: those that are not are left out, and their rows excused.
func (c *viewCheck) inOrder(ctx context.Context) error {
	c.rows.place = c.head()
	s := (&schema.Schema{}).WithSystem()
	if c.labels != nil {
		s = c.schema
	}
	leaveOut := func(i int) bool { return c.lost[i] }
	o := dataset.OrderedOptions{ScanOptions: dataset.ScanOptions{Schema: s, View: c.view.Number}}
	for piece, err := range c.pin.files.Ordered(ctx, leaveOut, o) {
		if err != nil {
			return err
		}
		rows := piece.Rows
		sys, err := systemOf(rows)
		if err != nil {
			return err
		}
		if c.labels != nil {
			c.labels.bind(rows)
		}
		for i := range sys.offsets {
			p, o := record.Partition(sys.partitions[i]), record.Offset(sys.offsets[i])
			if record.ViewNumber(sys.views[i]) != c.view.Number || p < 0 || int(p) >= c.view.Partitions || o < 0 || o >= c.view.archived.At(p) {
				continue // was told
			}
			if err := c.next(i, p, o, sys.micros[i]); err != nil {
				return err
			}
		}
		if err := c.r.advance(); err != nil {
			return err
		}
	}
	return nil
}

// lostFile tells why a file could not be read, unless it has rightly gone: its
// snapshot expired while we were at it.
func (c *viewCheck) lostFile(ctx context.Context, f *coldFile, cause error) error {
	found := Finding{Code: Damaged, Place: f.info.Path, View: c.view.Number, Detail: fmt.Sprintf("after %d of %d rows: %v", f.rows, f.info.Rows, cause)}
	there, err := c.v.exists(ctx, f.info.Path)
	if err != nil {
		return err
	}
	if !there {
		named, err := c.v.named(ctx, c.pin)
		if err != nil {
			return err
		}
		if !named {
			return errMoved
		}
		found.Code, found.Detail = Missing, "the table names the file, but it is not there"
	}
	ranges := f.ranges()
	if len(ranges) == 1 {
		found = found.at(c.view.Number, ranges[0].Partition, ranges[0].Range)
	} else if len(ranges) > 1 {
		found.Detail += fmt.Sprintf("; its rows are among %s", rangesText(ranges))
	}
	c.r.add(found)
	for _, r := range ranges {
		c.rows.excuse(r.Partition, r.Range)
	}
	return nil
}

func rangesText(ranges []dataset.PartRange) string {
	const most = 8
	s := ""
	for i, r := range ranges {
		if i == most {
			return s + fmt.Sprintf(" and %d more partitions", len(ranges)-most)
		}
		if i > 0 {
			s += ", "
		}
		s += fmt.Sprintf("partition %v %v", r.Partition, r.Range)
	}
	return s
}

// ranges are the offsets of a file as far as its name or its bounds tell. A name
// promises only an upper limit, and not at all for many partitions.
func (f *coldFile) ranges() []dataset.PartRange {
	part, off := f.bounds.partition, f.bounds.offset
	bounded := part.known && off.known
	if len(f.info.Ranges) > 0 {
		out := make([]dataset.PartRange, 0, len(f.info.Ranges))
		for _, r := range f.info.Ranges {
			if bounded {
				r.Start, r.End = max(r.Start, record.Offset(off.lo)), min(r.End, record.Offset(off.hi)+1)
			}
			if r.Len() > 0 {
				out = append(out, r)
			}
		}
		return out
	}
	if !bounded {
		return nil
	}
	var out []dataset.PartRange
	for p := max(0, part.lo); p <= min(part.hi, record.MaxPartitions-1); p++ {
		out = append(out, dataset.PartRange{Partition: record.Partition(p), Range: record.Range{Start: record.Offset(off.lo), End: record.Offset(off.hi) + 1}})
	}
	return out
}

// systemColumns are the identity columns of a batch.
type systemColumns struct {
	views, partitions []int32
	offsets, micros   []int64
}

func systemOf(rows arrow.RecordBatch) (s systemColumns, err error) {
	at := int(rows.NumCols()) - 4
	if at >= 0 {
		v, ok1 := rows.Column(at).(*array.Int32)
		p, ok2 := rows.Column(at + 1).(*array.Int32)
		o, ok3 := rows.Column(at + 2).(*array.Int64)
		t, ok4 := rows.Column(at + 3).(*array.Timestamp)
		if ok1 && ok2 && ok3 && ok4 {
			ts := t.TimestampValues()
			s = systemColumns{v.Int32Values(), p.Int32Values(), o.Int64Values(), make([]int64, len(ts))}
			for i, x := range ts {
				s.micros[i] = int64(x)
			}
			return s, nil
		}
	}
	return s, fmt.Errorf("verify: the system columns are not where they should be: %w", record.ErrCorrupt)
}

// coldBatch checks rows of a data file.
func (c *viewCheck) coldBatch(ctx context.Context, f *coldFile, rows arrow.RecordBatch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := systemOf(rows)
	if err != nil {
		return err
	}
	if c.labels != nil {
		c.labels.bind(rows)
	}
	place := f.info.Path
	for i, view := range s.views {
		p, o := record.Partition(s.partitions[i]), record.Offset(s.offsets[i])
		switch {
		case view == 0:
			c.r.sum.Foreign++
			continue
		case record.ViewNumber(view) != c.view.Number:
			if why := f.bounds.outside(f.info, s, i); why != "" {
				c.r.row(Bounds, place, record.ViewNumber(view), p, o, why)
			}
			c.guest(f, record.ViewNumber(view), p, o)
			continue
		case p < 0 || int(p) >= c.view.Partitions || o < 0:
			c.r.row(Bounds, place, c.view.Number, p, o, fmt.Sprintf("the view has %d partitions", c.view.Partitions))
			continue
		case o >= c.view.archived.At(p):
			c.r.row(Unarchived, place, c.view.Number, p, o, fmt.Sprintf("the dataset says that it holds the partition's rows up to %v", c.view.archived.At(p)))
			continue
		}
		if why := f.bounds.outside(f.info, s, i); why != "" {
			c.r.row(Bounds, place, c.view.Number, p, o, why)
		}
		if c.laidOut {
			continue // inOrder comes to it
		}
		if err := c.next(i, p, o, s.micros[i]); err != nil {
			return err
		}
	}
	f.users.check(rows, func(i int, why string) {
		c.r.row(Bounds, place, record.ViewNumber(s.views[i]), record.Partition(s.partitions[i]), record.Offset(s.offsets[i]), why)
	})
	f.rows += rows.NumRows()
	c.r.progress.ColdRows += rows.NumRows()
	c.r.sum.ColdRows += rows.NumRows()
	if err := c.compare(ctx, place, rows, s); err != nil {
		return err
	}
	return c.r.advance()
}

// rowBounds are the bounds of the system columns in a manifest.
type rowBounds struct {
	view, partition, offset, micros interval
}

type interval struct {
	lo, hi int64
	known  bool
}

func newRowBounds(f dataset.FileInfo) rowBounds {
	return rowBounds{bound(f, schema.ViewID), bound(f, schema.PartitionID), bound(f, schema.OffsetID), bound(f, schema.TimestampID)}
}

// bound reads a manifest's bounds of an integer column, by field id.
func bound(f dataset.FileInfo, id int) interval {
	lo, ok1 := wholeBound(f.Lower[id])
	hi, ok2 := wholeBound(f.Upper[id])
	return interval{lo, hi, ok1 && ok2}
}

func (i interval) misses(x int64) bool { return i.known && (x < i.lo || x > i.hi) }

// outside says why row i of a batch cannot be of this file; "" if it can.
func (b *rowBounds) outside(f dataset.FileInfo, s systemColumns, i int) string {
	switch {
	case b.view.misses(int64(s.views[i])):
		return fmt.Sprintf("the manifest bounds _view by [%d,%d]", b.view.lo, b.view.hi)
	case b.partition.misses(int64(s.partitions[i])):
		return fmt.Sprintf("the manifest bounds _partition_id by [%d,%d]", b.partition.lo, b.partition.hi)
	case b.offset.misses(s.offsets[i]):
		return fmt.Sprintf("the manifest bounds _offset by [%d,%d]", b.offset.lo, b.offset.hi)
	case b.micros.misses(s.micros[i]):
		return fmt.Sprintf("the manifest bounds _timestamp by [%s,%s]", stamp(b.micros.lo), stamp(b.micros.hi))
	}
	for _, r := range f.Ranges {
		if r.Partition == record.Partition(s.partitions[i]) {
			if o := record.Offset(s.offsets[i]); o < r.Start || o >= r.End {
				return fmt.Sprintf("the file's name promises offsets %v", r.Range)
			}
			return ""
		}
	}
	if len(f.Ranges) > 0 {
		return "the file's name does not promise rows of this partition"
	}
	return ""
}
