package dataset

import (
	"math/big"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/iceberg-go"
	"github.com/twmb/murmur3"

	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/predicate"
)

// partition is what the partition of a file says about its rows.
type partition struct {
	s    *scanner
	file iceberg.DataFile
	spec *iceberg.PartitionSpec
}

func (s *scanner) partitionOf(f iceberg.DataFile) partition {
	return partition{s, f, s.t.meta.PartitionSpecByID(int(f.SpecID()))}
}

// each calls f for the fields of the spec with a column for a source, and their values.
func (p partition) each(id int, f func(t iceberg.Transform, value any) (more bool)) {
	if p.spec == nil {
		return
	}
	values := p.file.Partition()
	for i := range p.spec.NumFields() {
		field := p.spec.Field(i)
		if value, ok := values[field.FieldID]; ok && field.SourceID() == id && !f(field.Transform, value) {
			return
		}
	}
}

// columnRange is what the partition says about the range of a column, for files
// without bounds.
func (p partition) columnRange(id int, k schema.Kind) (r columnRange) {
	p.each(id, func(t iceberg.Transform, value any) bool {
		if _, void := t.(iceberg.VoidTransform); void {
			return true
		}
		if value == nil { // transforms give null for null alone
			r = columnRange{values: p.file.Count(), nulls: p.file.Count(), nullsKnown: true, empty: true}
			return false
		}
		v, ok := partitionValue(k, t, value)
		if !ok {
			return true
		}
		r.lower, r.upper, r.bounded = valueRange(k, t, v)
		return !r.bounded
	})
	return r
}

// mayHold tells whether rows of the partition may have a value in a column.
func (p partition) mayHold(id int, v predicate.Value) bool {
	may := true
	p.each(id, func(t iceberg.Transform, value any) bool {
		column := p.s.filterColumns[id]
		if column == nil || value == nil {
			return true
		}
		if b, ok := t.(iceberg.BucketTransform); ok {
			is, ok := value.(int32)
			may = !ok || is == bucketOf(hashValue(column.Type.Kind, v), b.NumBuckets)
			return may
		}
		part, ok := partitionValue(column.Type.Kind, t, value)
		if !ok {
			return true
		}
		if tr, ok := t.(iceberg.TruncateTransform); ok && (column.Type.Kind == schema.String || column.Type.Kind == schema.Binary) {
			may = truncated(column.Type.Kind, v.Text(), tr.Width) == string(part.b)
			return may
		}
		if lower, upper, ok := valueRange(column.Type.Kind, t, part); ok {
			is := boundOf(column.Type.Kind, v)
			may = compareBounds(column.Type.Kind, is, lower) >= 0 && compareBounds(column.Type.Kind, is, upper) <= 0
		}
		return may
	})
	return may
}

// partitionValue is a partition's value in comparable form: as the column's kind where
// the transform keeps it, a number of years to hours otherwise.
func partitionValue(k schema.Kind, t iceberg.Transform, value any) (bound, bool) {
	switch v := value.(type) {
	case bool:
		if v {
			return bound{i: 1}, k == schema.Boolean
		}
		return bound{}, k == schema.Boolean
	case int32:
		return bound{i: int64(v)}, isWhole(k)
	case int64:
		return bound{i: v}, isWhole(k)
	case iceberg.Date:
		return bound{i: int64(v)}, isWhole(k)
	case iceberg.Timestamp:
		return bound{i: int64(v)}, isWhole(k)
	case iceberg.Decimal:
		return bound{d: v.Val.BigInt()}, k == schema.Decimal
	case iceberg.DecimalLiteral:
		return bound{d: v.Val.BigInt()}, k == schema.Decimal
	case string:
		return bound{b: []byte(v)}, k == schema.String
	case []byte:
		return bound{b: v}, k == schema.Binary
	}
	return bound{}, false
}

func isWhole(k schema.Kind) bool {
	return slices.Contains([]schema.Kind{schema.Byte, schema.Short, schema.Integer, schema.Long, schema.Date, schema.Timestamp}, k)
}

// valueRange is the range of a column's values whose transform is v.
func valueRange(k schema.Kind, t iceberg.Transform, v bound) (lower, upper bound, ok bool) {
	switch t := t.(type) {
	case iceberg.IdentityTransform:
		return v, v, true
	case iceberg.TruncateTransform:
		switch {
		case k == schema.Decimal:
			return v, bound{d: new(big.Int).Add(v.d, big.NewInt(int64(t.Width)-1))}, true
		case isWhole(k) && v.i <= v.i+int64(t.Width)-1:
			return v, bound{i: v.i + int64(t.Width) - 1}, true
		}
		return lower, upper, false
	}
	if k != schema.Date && k != schema.Timestamp {
		return lower, upper, false
	}
	from, to, ok := timeRange(t, v.i)
	if !ok {
		return lower, upper, false
	}
	unit := int64(time.Second / time.Microsecond)
	if k == schema.Date {
		const day = 86_400
		return bound{i: floorDiv(from, day)}, bound{i: floorDiv(to-1, day)}, true
	}
	return bound{i: from * unit}, bound{i: to*unit - 1}, true
}

// timeRange is [from, to) of a year, month, day or hour, in seconds.
func timeRange(t iceberg.Transform, n int64) (from, to int64, ok bool) {
	const most = 1 << 28 // beyond it no microseconds since 1970 reach
	if n < -most || n > most {
		return 0, 0, false
	}
	at := func(year int, month time.Month) int64 { return time.Date(year, month, 1, 0, 0, 0, 0, time.UTC).Unix() }
	switch t.(type) {
	case iceberg.YearTransform:
		if n < -290_000 || n > 290_000 {
			return 0, 0, false
		}
		return at(1970+int(n), 1), at(1971+int(n), 1), true
	case iceberg.MonthTransform:
		if n < -12*290_000 || n > 12*290_000 {
			return 0, 0, false
		}
		return at(1970, 1+time.Month(n)), at(1970, 2+time.Month(n)), true
	case iceberg.DayTransform:
		return n * 86_400, (n + 1) * 86_400, n > -106_000_000 && n < 106_000_000
	case iceberg.HourTransform:
		return n * 3600, (n + 1) * 3600, true
	}
	return 0, 0, false
}

func boundOf(k schema.Kind, v predicate.Value) bound {
	switch k {
	case schema.Decimal:
		return bound{d: v.Decimal().BigInt()}
	case schema.String, schema.Binary:
		return bound{b: []byte(v.Text())}
	}
	return bound{i: v.Int()}
}

func hashValue(k schema.Kind, v predicate.Value) uint32 {
	switch k {
	case schema.String, schema.Binary:
		return murmur3.StringSum32(v.Text())
	case schema.Decimal:
		return murmur3.Sum32(decimalBytes(decimal128.Num(v.Decimal())))
	}
	return hashInt(v.Int())
}
