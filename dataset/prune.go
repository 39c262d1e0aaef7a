package dataset

import (
	"math"

	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/predicate"
)

// fileMayMatch tells by its manifest entry whether a file can hold rows that
// the scan is after.
func (s *scanner) fileMayMatch(f iceberg.DataFile) bool {
	if f.Count() == 0 {
		return false
	}
	if s.o.Filter == nil || len(f.Partition()) == 0 || s.t == nil {
		return s.mayMatch(func(id int, k schema.Kind) columnRange { return manifestRange(k, f, id) }, nil)
	}
	p := s.partitionOf(f)
	return s.mayMatch(func(id int, k schema.Kind) columnRange {
		if r := manifestRange(k, f, id); r.bounded || r.empty {
			return r
		}
		return p.columnRange(id, k)
	}, p.mayHold)
}

// mayMatch decides over a file or row group of which column ranges are known, and
// perhaps which values a column may hold.
func (s *scanner) mayMatch(column func(id int, k schema.Kind) columnRange, holds func(id int, v predicate.Value) bool) bool {
	if r := systemBounds(column); r.known && !s.overlaps(r) {
		return false
	}
	if s.window != nil && !s.window.mayHold(column(schema.TimestampID, schema.Timestamp)) {
		return false
	}
	return s.o.Filter == nil || s.o.Filter.MayMatch(pruneStats{s.filterColumns, s.filled, column, holds})
}

// overlaps tells whether the view and some partition's offsets [From, To)
// meet the range, or, for guests, whether rows of other views may be in it. The
// range holds for all partitions together, so a file of several partitions is kept
// when in doubt.
func (s *scanner) overlaps(r systemRange) bool {
	if s.o.guests {
		v := int64(s.o.View)
		return v == 0 || r.viewLo != v || r.viewHi != v
	}
	if v := int64(s.o.View); v != 0 && (v < r.viewLo || v > r.viewHi) {
		return false
	}
	if s.o.From == nil && s.o.To == nil {
		return true
	}
	for p := r.partLo; p <= r.partHi; p++ {
		if p < 0 || p >= record.MaxPartitions {
			return true
		}
		to := int64(math.MaxInt64)
		if s.o.To != nil {
			to = int64(s.o.To.At(record.Partition(p)))
		}
		if int64(s.o.From.At(record.Partition(p))) <= r.offsetHi && r.offsetLo < to {
			return true
		}
	}
	return false
}

// pruneStats shows column ranges to the predicate.
type pruneStats struct {
	columns map[int]*predicate.Column
	// filled are the fields in which a scan replaces nulls by the default: its
	// value may lie outside of what the statistics say.
	filled map[int]bool
	column func(id int, k schema.Kind) columnRange
	holds  func(id int, v predicate.Value) bool // nil: not known
}

// MayHold tells whether a column may hold a value.
func (p pruneStats) MayHold(id int, v predicate.Value) bool {
	if p.holds == nil || p.columns[id] == nil {
		return true
	}
	if p.filled[id] {
		if r := p.column(id, p.columns[id].Type.Kind); !r.nullsKnown || r.nulls > 0 {
			return true // the default, perhaps
		}
	}
	return p.holds(id, v)
}

func (p pruneStats) Column(id int) (predicate.ColumnStats, bool) {
	c, ok := p.columns[id]
	if !ok {
		return predicate.ColumnStats{}, false
	}
	r := p.column(id, c.Type.Kind)
	if p.filled[id] && (!r.nullsKnown || r.nulls > 0) {
		return predicate.ColumnStats{}, false
	}
	st := predicate.ColumnStats{Nulls: -1, Values: -1}
	if r.nullsKnown {
		st.Nulls, st.Values = r.nulls, r.values
	}
	if r.bounded {
		st.Min, st.Max = predicateValue(c.Type.Kind, r.lower), predicateValue(c.Type.Kind, r.upper)
	}
	return st, r.nullsKnown || r.bounded
}

func predicateValue(k schema.Kind, b bound) predicate.Value {
	switch k {
	case schema.Boolean:
		return predicate.BoolValue(b.i != 0)
	case schema.Float, schema.Double:
		return predicate.FloatValue(b.f)
	case schema.Decimal:
		return predicate.DecimalValue(decimal128.FromBigInt(b.d))
	case schema.String, schema.Binary:
		return predicate.BytesValue(b.b)
	}
	return predicate.IntValue(b.i)
}

// filledFields are the ids of the fields that are not nullable.
func filledFields(out map[int]bool, fields []schema.Field) {
	for i := range fields {
		if !fields[i].Nullable {
			out[fields[i].ID] = true
		}
		filledFields(out, fields[i].Type.Fields)
	}
}
