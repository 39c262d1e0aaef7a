package verify

import (
	"context"
	"errors"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// hotMemory is about how many bytes of batches are read ahead, shared by the
// partitions, within the limits for each.
const (
	hotMemory    = 32 << 20
	minReadAhead = 64 << 10
	maxReadAhead = 1 << 20
	hotRows      = 16 << 10
	hotBytes     = 8 << 20
)

// errReleased: the rows that were to be read have left the hot buffer.
var errReleased = errors.New("released")

// hotView reads the hot rows of a view, and goes on behind what is damaged.
type hotView struct {
	c     *viewCheck
	ahead int // bytes to read ahead per partition
	parts []hotPart
	dec   *schema.RowDecoder
}

// hotPart is where the reading of a partition stands.
type hotPart struct {
	next, end record.Offset
	batches   []record.Batch // the first one holds next
	micros    int64          // of the batch before
}

const hotPlace = "hot log"

func newHotView(c *viewCheck) *hotView {
	n := max(1, len(c.view.end))
	h := &hotView{c: c, ahead: min(max(hotMemory/n, minReadAhead), maxReadAhead)}
	for p := range c.view.end {
		h.parts = append(h.parts, hotPart{next: c.view.start.At(record.Partition(p)), end: c.view.end[p]})
	}
	return h
}

func (h *hotView) decoder() *schema.RowDecoder {
	if h.dec == nil {
		h.dec = schema.NewRowDecoder(h.c.schema, h.c.view.Number, h.c.v.o.Catalog.SchemaByID, memory.DefaultAllocator)
	}
	return h.dec
}

func (h *hotView) close() {
	if h.dec != nil {
		h.dec.Release()
		h.dec = nil
	}
}

// fetch reads the batch that holds offset o of partition p; lost is not empty
// where it cannot be read any more, as was told.
func (h *hotView) fetch(ctx context.Context, p record.Partition, o, end record.Offset) (batches []record.Batch, lost record.Range, err error) {
	c := h.c
	batches, err = c.v.read(ctx, c.view.ID, p, o, h.ahead)
	switch {
	case err == nil && len(batches) > 0 && (batches[0].BaseOffset() > o || batches[0].End() <= o):
		// An engine that gives other rows than it was asked for.
		lost = record.Range{Start: o, End: min(max(batches[0].BaseOffset(), o+1), end)}
		c.r.add(c.finding(Gap, hotPlace, "asked for offset %v, the log gives %v to %v", o, batches[0].BaseOffset(), batches[0].End()).at(c.view.Number, p, lost))
	case err == nil && len(batches) == 0:
		lost = record.Range{Start: o, End: end}
		c.r.add(c.finding(Gap, hotPlace, "the log ends before its durable end").at(c.view.Number, p, lost))
	case err == nil:
		return batches, lost, nil
	case errors.Is(err, record.ErrOutOfRange):
		return nil, lost, errReleased
	case errors.Is(err, record.ErrNotFound):
		return nil, lost, moved(err)
	case errors.Is(err, record.ErrCorrupt):
		lost, err = h.damaged(ctx, p, o, end, err)
		return nil, lost, err
	default:
		return nil, lost, err
	}
	c.rows.excuse(p, lost)
	return nil, lost, nil
}

// damaged reports a batch that does not validate and finds where the next one
// begins.
func (h *hotView) damaged(ctx context.Context, p record.Partition, o, end record.Offset, cause error) (record.Range, error) {
	c := h.c
	place := hotPlace
	lost := record.Range{Start: o}
	var d *disk.Damage
	if errors.As(cause, &d) {
		place = damagePlace(d)
		lost.End = min(d.Offsets.End, end)
		lost.Start = min(d.Offsets.Start, o)
	}
	if lost.End <= o {
		var err error
		if lost.End, err = h.readable(ctx, p, o, end); err != nil {
			return lost, err
		}
	}
	f := c.finding(Damaged, place, "%v", cause).at(c.view.Number, p, lost)
	f.Remedy = "restore the log from a copy; these rows were acknowledged and are nowhere else"
	if lost.End <= c.view.archived.At(p) {
		f.Remedy = "nothing is lost: the rows are archived, and this copy goes with the next release"
	}
	c.r.add(f)
	c.rows.excuse(p, lost)
	return record.Range{Start: o, End: lost.End}, nil
}

func damagePlace(d *disk.Damage) string {
	if d.Position < 0 {
		return fmt.Sprintf("%s segment %016x", hotPlace, d.Segment)
	}
	return fmt.Sprintf("%s segment %016x position %d", hotPlace, d.Segment, d.Position)
}

// readable finds the next offset behind o that can be read: the damaged batch ends
// there. Rows one by one first, then in growing steps.
func (h *hotView) readable(ctx context.Context, p record.Partition, o, end record.Offset) (record.Offset, error) {
	step := record.Offset(1)
	for at := o + 1; at < end; at += step {
		batches, err := h.c.v.read(ctx, h.c.view.ID, p, at, 1)
		switch {
		case err == nil && len(batches) > 0:
			return min(max(at, batches[0].BaseOffset()), end), nil
		case errors.Is(err, record.ErrCorrupt):
		case errors.Is(err, record.ErrOutOfRange):
			return at, errReleased
		case err != nil:
			return at, err
		}
		if at-o >= 4096 {
			step = min(2*step, 1<<20)
		}
	}
	return end, nil
}

// warm reads the hot rows in the view's order. Those below archived were checked
// in the dataset, and here only as batches; those behind go on where the dataset
// ends.
func (c *viewCheck) warm(ctx context.Context) error {
	c.r.progress.Phase = "hot"
	c.rows.place = hotPlace
	h := c.hot
	for p := range h.parts {
		h.parts[p].batches = nil // those of the comparison
	}
	for {
		err := h.scan(ctx)
		if !errors.Is(err, errReleased) {
			return err
		}
		if err := h.followArchive(ctx); err != nil {
			return err
		}
	}
}

// scan takes batches in the order (timestamp, partition) until all partitions are
// at their ends.
func (h *hotView) scan(ctx context.Context) error {
	for {
		first := -1
		for p := range h.parts {
			part := &h.parts[p]
			for len(part.batches) == 0 && part.next < part.end {
				batches, lost, err := h.fetch(ctx, record.Partition(p), part.next, part.end)
				if err != nil {
					if ferr := h.flush(); ferr != nil {
						return ferr
					}
					return err
				}
				if part.batches = batches; lost.Len() > 0 {
					part.next = lost.End
				}
			}
			if len(part.batches) > 0 && (first < 0 || part.batches[0].Timestamp() < h.parts[first].batches[0].Timestamp()) {
				first = p
			}
		}
		if first < 0 {
			return h.flush()
		}
		if err := h.take(ctx, record.Partition(first)); err != nil {
			return err
		}
	}
}

// take checks the next batch of a partition.
func (h *hotView) take(ctx context.Context, p record.Partition) error {
	part := &h.parts[p]
	b := part.batches[0]
	if b.BaseOffset() > part.next || b.End() <= part.next {
		// Not the next rows: fetch says so.
		part.batches = nil
		return nil
	}
	micros := b.Timestamp() * 1000
	if micros < part.micros {
		h.c.r.add(h.c.finding(Order, hotPlace, "the batch of %s stands behind one of %s", stamp(micros), stamp(part.micros)).
			at(h.c.view.Number, p, record.Range{Start: b.BaseOffset(), End: b.End()}))
	}
	part.micros = micros
	skip, limit := int(part.next-b.BaseOffset()), int(min(b.End(), part.end)-b.BaseOffset())
	if err := h.decode(ctx, p, b, skip, limit); err != nil {
		return err
	}
	part.next = b.BaseOffset() + record.Offset(limit)
	if part.batches = part.batches[1:]; part.next >= part.end {
		part.batches = nil
	}
	return nil
}

// decode checks that rows fit the schemas that they name. A row that does not is
// told, and counts as one that is there.
func (h *hotView) decode(ctx context.Context, p record.Partition, b record.Batch, skip, limit int) error {
	c := h.c
	for skip < limit {
		dec := h.decoder()
		before := dec.Len()
		err := dec.AppendBatch(ctx, p, b, skip, limit)
		skip += dec.Len() - before
		switch {
		case err == nil:
			skip = limit
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, record.ErrConflict), errors.Is(err, record.ErrCorrupt), errors.Is(err, record.ErrInvalid):
			// Rows below end were written with the schema that was pinned, or
			// with one before it.
			if err := h.flush(); err != nil {
				return err
			}
			o := b.BaseOffset() + record.Offset(skip)
			c.r.row(Undecodable, hotPlace, c.view.Number, p, o, err.Error())
			if o >= c.view.archived.At(p) {
				if _, err := c.rows.row(p, o, b.Timestamp()*1000); err != nil {
					return err
				}
			}
			skip++
		default:
			return err
		}
		if dec := h.decoder(); dec.Len() >= hotRows || dec.Bytes() >= hotBytes {
			if err := h.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush checks the rows that were decoded.
func (h *hotView) flush() error {
	if h.dec == nil {
		return nil
	}
	rows := h.dec.Take()
	if rows == nil {
		return nil
	}
	defer rows.Release()
	h.c.r.progress.HotRows += rows.NumRows()
	h.c.r.sum.HotRows += rows.NumRows()
	return h.c.follow(rows, h.c.view.archived, nil, hotPlace)
}

// follow takes the rows of a batch that lie in [from, to) of the view (nil to: no
// end).
func (c *viewCheck) follow(rows arrow.RecordBatch, from, to record.Offsets, place string) error {
	s, err := systemOf(rows)
	if err != nil {
		return err
	}
	if c.labels != nil {
		c.labels.bind(rows)
	}
	c.rows.place = place
	for i := range s.offsets {
		p, o := record.Partition(s.partitions[i]), record.Offset(s.offsets[i])
		if record.ViewNumber(s.views[i]) != c.view.Number || p < 0 || o < from.At(p) || to != nil && o >= to.At(p) {
			continue
		}
		if err := c.next(i, p, o, s.micros[i]); err != nil {
			return err
		}
	}
	return c.r.advance()
}

// next takes row i of the bound batch as the next one of the view.
func (c *viewCheck) next(i int, p record.Partition, o record.Offset, micros int64) error {
	first, err := c.rows.row(p, o, micros)
	if err != nil || !first || c.labels == nil {
		return err
	}
	return c.labels.row(i, c.rows.place, p, o)
}

// followArchive reads the rows that were archived and released while we were at
// them from where they are now: a later snapshot of the dataset. Rows below the
// first pin's archived were read there already.
func (h *hotView) followArchive(ctx context.Context) error {
	c := h.c
	if err := h.flush(); err != nil {
		return err
	}
	ends, err := c.v.o.Buffer.Ends(c.view.ID)
	if err != nil {
		return moved(err)
	}
	table, err := c.v.tables().Load(ctx, c.pin.branch.TableUUID)
	if err != nil {
		return moved(err)
	}
	m, err := table.Marker()
	if err != nil {
		return err
	}
	if m == nil || m.View != c.view.ID {
		return errMoved // the dataset carries the next view: its history has ours
	}
	from, to := make(record.Offsets, len(h.parts)), make(record.Offsets, len(h.parts))
	for i := range h.parts {
		p, part := record.Partition(i), &h.parts[i]
		from[i] = max(part.next, c.view.archived.At(p))
		to[i] = max(from[i], min(m.Offsets.At(p), part.end))
		part.batches = nil
		if start := min(ends.Start.At(p), part.end); start > max(to[i], part.next) {
			c.r.add(c.finding(Gap, fmt.Sprintf("%s snapshot %d", table.MetadataLocation(), m.SnapshotID), "the hot rows begin at %v, and the dataset ends at %v", start, m.Offsets.At(p)).
				at(c.view.Number, p, record.Range{Start: max(to[i], part.next), End: start}))
			c.rows.excuse(p, record.Range{Start: to[i], End: start})
			to[i] = max(to[i], start)
		}
		part.next = max(part.next, to[i])
	}
	o := dataset.OrderedOptions{ScanOptions: dataset.ScanOptions{Schema: c.schema, View: c.view.Number, From: from, To: to}}
	for piece, err := range table.Ordered(ctx, o) {
		if errors.Is(err, record.ErrCorrupt) {
			return errMoved // the next attempt names the file
		}
		if err != nil {
			return err
		}
		if err := c.follow(piece.Rows, from, to, "dataset "+c.pin.branch.TableUUID); err != nil {
			return err
		}
	}
	c.rows.place = hotPlace
	return nil
}
