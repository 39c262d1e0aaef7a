package dataset

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Rows that stand anywhere in their files (sorted ones), or in more files than can
// be open, are brought into order by windows: of files that overlap in time, pass
// after pass goes over all, one file open at a time, and takes the rows that come
// next in the order, as many as a window holds; files and row groups that lie
// elsewhere in time are skipped. So what is held is bounded whatever the number and
// size of the files. The price is that rows are decoded as often as their row group
// is passed; the sizes of archives and of sorted files keep that small.
const (
	// windowBytes is about what a window holds of rows; in the making it takes up
	// to four times as much. At most maxWindows such windows are held at a time,
	// by scans whose consumers may be slow; the next scan has small ones.
	windowBytes = 32 << 20
	maxWindows  = 8
	// smallWindows is how many batches a small window holds.
	smallWindows = 4
)

// windowed says in which order a scan by windows delivers its rows.
type windowed struct {
	key rowKey
	// timed: the key is that of identities.
	timed bool
	// after, if set, is the key behind which to begin.
	after []byte
	// own, if set, leaves out rows that are not of View, or not of the offsets.
	// guests leaves out those that are.
	own, guests bool
}

func isSorted(f iceberg.DataFile) bool {
	id := f.SortOrderID()
	return id != nil && *id > 0
}

// windows scans files window by window.
func (s *scanner) windows(ctx context.Context, files []iceberg.ManifestEntry, deletes deletes) error {
	var spans []span
	for _, e := range files {
		s.stats.Files++
		if !s.fileMayMatch(e.DataFile()) {
			s.stats.FilesSkipped++
			continue
		}
		sp := spanOf(e)
		if s.o.windowed.own {
			sp.viewLo, sp.viewHi = 0, 0 // one view only
		}
		spans = append(spans, sp)
	}
	slices.SortStableFunc(spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.viewLo, b.viewLo), cmp.Compare(a.timeLo, b.timeLo))
	})
	for len(spans) > 0 {
		n, last := 1, spans[0]
		for n < len(spans) && (!s.o.windowed.timed || spans[n].viewLo < last.viewHi || spans[n].viewLo == last.viewHi && spans[n].timeLo <= last.timeHi) {
			if spans[n].viewHi > last.viewHi {
				last.viewHi, last.timeHi = spans[n].viewHi, math.MinInt64
			}
			last.timeHi = max(last.timeHi, spans[n].timeHi)
			n++
		}
		if err := s.stretch(ctx, spans[:n], deletes); err != nil {
			return err
		}
		spans = spans[n:]
	}
	return nil
}

// stretch yields the rows of overlapping files, window by window.
func (s *scanner) stretch(ctx context.Context, spans []span, deletes deletes) error {
	w := &window{s: s, windowed: *s.o.windowed, fromTime: math.MinInt64}
	for i := range spans {
		if spans[i].viewLo != spans[i].viewHi || spans[i].viewLo != spans[0].viewLo {
			w.mixed = true // times of several views cannot be compared
		}
	}
	for {
		more, err := s.pass(ctx, w, spans, deletes)
		if err != nil || !more {
			return err
		}
	}
}

// pass goes over the files once, for the rows behind w.after.
func (s *scanner) pass(ctx context.Context, w *window, spans []span, deletes deletes) (more bool, err error) {
	w.bytes = min(smallWindows*int64(s.o.BatchBytes), s.t.d.windowBytes)
	select {
	case s.t.d.windows <- struct{}{}:
		w.bytes = s.t.d.windowBytes
		defer func() { <-s.t.d.windows }()
	default:
	}
	w.rows, w.bound, w.toTime = rowBuffer{}, nil, math.MaxInt64
	defer func() { w.rows.drop() }()
	for _, sp := range spans {
		if sp.timeHi < w.fromTime || sp.timeLo > w.toTime {
			continue
		}
		s.window = w
		err := s.entry(ctx, sp.entry, deletes.of(sp.entry))
		s.window = nil
		if err != nil {
			return false, err
		}
	}
	if len(w.rows.rows) == 0 {
		return false, nil
	}
	w.rows.sort()
	if err := w.rows.merge(); err != nil {
		return false, err
	}
	n := int64(len(w.rows.rows))
	per := s.rowsPerBatch(n, w.rows.bytes)
	for at := int64(0); at < n; at += per {
		b, err := w.rows.take(ctx, int(at), int(min(at+per, n)))
		if err != nil {
			return false, err
		}
		if err := s.send(ctx, b, 0, b.NumRows(), nil); err != nil {
			return false, err
		}
	}
	more = w.bound != nil
	w.after, w.fromTime = w.bound, w.toTime
	if !w.timed || w.mixed {
		w.fromTime = math.MinInt64
	}
	return more, nil
}

// window takes the rows of a pass: those with keys in (after, bound].
type window struct {
	windowed
	s     *scanner
	bytes int64 // to hold
	rows  rowBuffer
	// bound is the last key that is held, once rows had to be left for later.
	bound []byte
	// Rows from fromTime to toTime are those between after and bound, unless the key
	// is not by time, or rows of several views are mixed.
	fromTime, toTime int64
	mixed            bool
}

// mayHold tells whether a file or row group with these times can have rows for
// the pass.
func (w *window) mayHold(times columnRange) bool {
	return !times.bounded || times.upper.i >= w.fromTime && times.lower.i <= w.toTime
}

// add takes the rows of a batch that belong to the pass.
func (w *window) add(ctx context.Context, b arrow.RecordBatch) error {
	if b.NumRows() == 0 {
		return nil
	}
	key, err := w.key.bind(b)
	if err != nil {
		return err
	}
	ours, err := w.ours(b)
	if err != nil {
		return err
	}
	bytesOf := recordBytes(b)
	buf := &w.rows
	buf.hold(b, bytesOf)
	before := len(buf.rows)
	for row := range int(b.NumRows()) {
		if !ours(row) {
			continue
		}
		start := len(buf.keys)
		buf.keys = key.append(buf.keys, row)
		if k := buf.keys[start:]; w.after != nil && bytes.Compare(k, w.after) <= 0 || w.bound != nil && bytes.Compare(k, w.bound) > 0 {
			buf.keys = buf.keys[:start]
			continue
		}
		buf.add(row, start, 0)
	}
	if err := buf.thin(ctx, before, bytesOf); err != nil {
		return err
	}
	if buf.bytes <= 2*w.bytes {
		return nil
	}
	if w.bound, err = buf.cut(ctx, w.bytes); err != nil || !w.timed || w.mixed {
		return err
	}
	w.toTime, err = w.lastTime()
	return err
}

// lastTime is the time of the last row held.
func (w *window) lastTime() (int64, error) {
	all := w.rows.batches[0]
	sys, err := w.s.system(all)
	if err != nil {
		return 0, err
	}
	return int64(sys.times[all.NumRows()-1]), nil
}

// ours tells which rows of a batch are asked for.
func (w *window) ours(b arrow.RecordBatch) (func(row int) bool, error) {
	if !w.own && !w.guests {
		return func(int) bool { return true }, nil
	}
	sys, err := w.s.system(b)
	if err != nil {
		return nil, err
	}
	o, view := &w.s.o, int32(w.s.o.View)
	if w.guests {
		return func(i int) bool { return sys.views[i] != view }, nil
	}
	return func(i int) bool {
		if sys.views[i] != view {
			return false
		}
		p, at := record.Partition(sys.partitions[i]), record.Offset(sys.offsets[i])
		return (o.From == nil || at >= o.From.At(p)) && (o.To == nil || at < o.To.At(p))
	}, nil
}

// systemColumns are the identities of the rows of a batch.
type systemColumns struct {
	views, partitions []int32
	offsets           []int64
	times             []arrow.Timestamp
}

// system finds the system columns of a batch of the scan.
func (s *scanner) system(b arrow.RecordBatch) (c systemColumns, err error) {
	return systemOf(s.schema, b)
}

func systemOf(s *schema.Schema, b arrow.RecordBatch) (c systemColumns, err error) {
	found := 0
	for i := range s.Fields {
		var ok bool
		switch col := b.Column(i); s.Fields[i].ID {
		case schema.ViewID:
			var v *array.Int32
			if v, ok = col.(*array.Int32); ok {
				c.views = v.Int32Values()
			}
		case schema.PartitionID:
			var v *array.Int32
			if v, ok = col.(*array.Int32); ok {
				c.partitions = v.Int32Values()
			}
		case schema.OffsetID:
			var v *array.Int64
			if v, ok = col.(*array.Int64); ok {
				c.offsets = v.Int64Values()
			}
		case schema.TimestampID:
			var v *array.Timestamp
			if v, ok = col.(*array.Timestamp); ok {
				c.times = v.TimestampValues()
			}
		default:
			continue
		}
		if ok {
			found++
		}
	}
	if found != 4 {
		return c, fmt.Errorf("dataset: rows in the order of their view need the system columns in the schema of the scan: %w", record.ErrInvalid)
	}
	return c, nil
}
