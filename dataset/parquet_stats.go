package dataset

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/metadata"
	pqschema "github.com/apache/arrow-go/v18/parquet/schema"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// leaf is a Parquet column: a field without parts, in the order of the file.
type leaf struct {
	id       int
	kind     schema.Kind
	repeated bool // below a list or map: has no bounds
}

func leaves(s *schema.Schema) []leaf { return addLeaves(nil, s.Fields, false) }

func addLeaves(out []leaf, fields []schema.Field, repeated bool) []leaf {
	for i := range fields {
		out = addLeaf(out, &fields[i], repeated)
	}
	return out
}

func addLeaf(out []leaf, f *schema.Field, repeated bool) []leaf {
	switch f.Type.Kind {
	case schema.Array:
		return addLeaf(out, f.Type.Element, true)
	case schema.Map:
		return addLeaf(append(out, leaf{f.Type.KeyID, schema.String, true}), f.Type.Value, true)
	case schema.Struct:
		return addLeaves(out, f.Type.Fields, repeated)
	}
	return append(out, leaf{f.ID, f.Type.Kind, repeated})
}

// parquetMetrics sums up the footer for the manifest.
func parquetMetrics(cols []leaf, meta *metadata.FileMetaData) (metrics, error) {
	m := metrics{
		sizes: map[int]int64{}, values: map[int]int64{}, nulls: map[int]int64{},
		lower: map[int][]byte{}, upper: map[int][]byte{},
	}
	if meta.Schema.NumColumns() != len(cols) {
		return m, fmt.Errorf("the file has %d columns, the schema %d: %w", meta.Schema.NumColumns(), len(cols), record.ErrCorrupt)
	}
	for rg := range meta.NumRowGroups() {
		chunk, err := meta.RowGroup(rg).ColumnChunk(0)
		if err != nil {
			return m, err
		}
		at := chunk.DataPageOffset()
		if chunk.HasDictionaryPage() && chunk.DictionaryPageOffset() > 0 {
			at = min(at, chunk.DictionaryPageOffset())
		}
		m.splits = append(m.splits, at)
	}
	for i, l := range cols {
		var whole columnRange
		for rg := range meta.NumRowGroups() {
			chunk, err := meta.RowGroup(rg).ColumnChunk(i)
			if err != nil {
				return m, err
			}
			m.sizes[l.id] += chunk.TotalCompressedSize()
			m.values[l.id] += chunk.NumValues()
			r := chunkRange(l.kind, meta, rg, i)
			if r.nullsKnown {
				m.nulls[l.id] += r.nulls
			}
			if rg == 0 {
				whole = r
			} else {
				whole = whole.join(l.kind, r)
			}
		}
		if !whole.nullsKnown {
			delete(m.nulls, l.id)
		}
		if l.repeated || !whole.bounded {
			continue
		}
		if b := encodeBound(l.kind, whole.lower, false); b != nil {
			m.lower[l.id] = b
		}
		if b := encodeBound(l.kind, whole.upper, true); b != nil {
			m.upper[l.id] = b
		}
	}
	return m, nil
}

// columnRange is what is known of a column in a file or row group.
type columnRange struct {
	values     int64 // nulls included
	nulls      int64
	nullsKnown bool
	// bounded: every value that is not null lies in [lower, upper]. Not
	// bounded and not empty: nothing is known.
	bounded      bool
	empty        bool // no value that is not null
	lower, upper bound
}

// join is what is known of two parts together.
func (r columnRange) join(k schema.Kind, o columnRange) columnRange {
	out := columnRange{
		values: r.values + o.values, nulls: r.nulls + o.nulls,
		nullsKnown: r.nullsKnown && o.nullsKnown, empty: r.empty && o.empty,
	}
	switch {
	case r.empty:
		out.bounded, out.lower, out.upper = o.bounded, o.lower, o.upper
	case o.empty:
		out.bounded, out.lower, out.upper = r.bounded, r.lower, r.upper
	case r.bounded && o.bounded:
		out.bounded, out.lower, out.upper = true, r.lower, r.upper
		if compareBounds(k, o.lower, r.lower) < 0 {
			out.lower = o.lower
		}
		if compareBounds(k, o.upper, r.upper) > 0 {
			out.upper = o.upper
		}
	}
	return out
}

// chunkRange reads the statistics of a column chunk. It looks at the thrift
// structure itself, because the library's typed statistics claim both ends as
// soon as one is there, and long maxima are left out alone.
func chunkRange(k schema.Kind, meta *metadata.FileMetaData, rg, col int) columnRange {
	var r columnRange
	column := meta.RowGroups[rg].Columns[col]
	if column == nil || column.MetaData == nil {
		return r
	}
	r.values = column.MetaData.NumValues
	st := column.MetaData.Statistics
	if st == nil {
		return r
	}
	if st.IsSetNullCount() {
		r.nulls, r.nullsKnown = st.GetNullCount(), true
		r.empty = r.nulls == r.values
	}
	descr := meta.Schema.Column(col)
	if r.empty || !st.IsSetMinValue() || !st.IsSetMaxValue() || descr.ColumnOrder() != parquet.ColumnOrders.TypeDefinedOrder || !sameUnit(k, descr) {
		return r
	}
	lower, ok1 := parquetBound(k, descr.PhysicalType(), st.MinValue)
	upper, ok2 := parquetBound(k, descr.PhysicalType(), st.MaxValue)
	if ok1 && ok2 {
		r.bounded, r.lower, r.upper = true, lower, upper
	}
	return r
}

// sameUnit tells whether the integers of a column mean what they mean in kind
// k: other engines may store timestamps in milliseconds.
func sameUnit(k schema.Kind, c *pqschema.Column) bool {
	switch t := c.LogicalType().(type) {
	case pqschema.TimestampLogicalType:
		return k == schema.Timestamp && t.TimeUnit() == pqschema.TimeUnitMicros
	case pqschema.IntLogicalType:
		return t.IsSigned() && k != schema.Timestamp
	}
	return k != schema.Timestamp
}

// parquetBound decodes a minimum or maximum (PLAIN) of a column that is read
// as kind k.
func parquetBound(k schema.Kind, t parquet.Type, b []byte) (bound, bool) {
	var v bound
	switch t {
	case parquet.Types.Boolean:
		if len(b) != 1 || k != schema.Boolean {
			return v, false
		}
		v.i = int64(b[0])
		return v, true
	case parquet.Types.Int32:
		if len(b) != 4 {
			return v, false
		}
		v.i = int64(int32(binary.LittleEndian.Uint32(b)))
	case parquet.Types.Int64:
		if len(b) != 8 {
			return v, false
		}
		v.i = int64(binary.LittleEndian.Uint64(b))
	case parquet.Types.Float:
		if len(b) != 4 {
			return v, false
		}
		v.f = float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
		return v, (k == schema.Float || k == schema.Double) && !math.IsNaN(v.f)
	case parquet.Types.Double:
		if len(b) != 8 {
			return v, false
		}
		v.f = math.Float64frombits(binary.LittleEndian.Uint64(b))
		return v, k == schema.Double && !math.IsNaN(v.f)
	case parquet.Types.ByteArray, parquet.Types.FixedLenByteArray:
		if k == schema.Decimal {
			v.d = fromTwosComplement(b)
			return v, len(b) > 0 && len(b) <= 16
		}
		v.b = b
		return v, k == schema.String || k == schema.Binary
	default:
		return v, false
	}
	switch k {
	case schema.Decimal:
		v.d = big.NewInt(v.i)
		return v, true
	case schema.Byte, schema.Short, schema.Integer, schema.Long, schema.Date, schema.Timestamp:
		return v, true
	}
	return v, false
}
