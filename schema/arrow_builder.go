package schema

import (
	"fmt"
	"math"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/record"
)

// Builder collects rows as columns and hands them out as batches in storage
// form (Schema.Arrow of its reader schema). It is filled by
// AvroToArrow.Append and, when the schema has the system columns, by
// AppendSystem after each row. It is reused after NewBatch: memory is then
// allocated in the sizes that the last batch needed. Not safe for concurrent use.
type Builder struct {
	schema *Schema
	arrow  *arrow.Schema
	cols   []column // in pre-order: a column, then its parts
	tops   []int    // of each top-level field, its index in cols
	system [4]int   // of each system column, its index in cols, or -1
	rows   int
	// fits is the last program that was found to fill this builder's columns.
	fits *AvroToArrow
}

// NewBuilder returns a Builder of reader, which may hold all or some of the
// system columns. A nil mem takes Arrow's default allocator.
func NewBuilder(reader *Schema, mem memory.Allocator) *Builder {
	if mem == nil {
		mem = memory.DefaultAllocator
	}
	b := &Builder{schema: reader, arrow: reader.Arrow(), system: [4]int{-1, -1, -1, -1}}
	for i := range reader.Fields {
		b.tops = append(b.tops, len(b.cols))
		if sys := systemIndex(&reader.Fields[i]); sys >= 0 {
			b.system[sys] = len(b.cols)
		}
		b.addColumns(&reader.Fields[i], mem)
	}
	return b
}

func (b *Builder) addColumns(f *Field, mem memory.Allocator) {
	at := len(b.cols)
	b.cols = append(b.cols, column{nullable: f.Nullable, valid: buffer{mem: mem}, data: buffer{mem: mem}, offsets: buffer{mem: mem}})
	var fm form
	width := 0
	switch f.Type.Kind {
	case Boolean:
		fm = oneBit
	case Byte, Short, Integer, Float, Date:
		fm, width = fixed, 4
	case Long, Double, Timestamp:
		fm, width = fixed, 8
	case Decimal:
		fm, width = fixed, 16
	case String, Binary:
		fm = variable
	case Array:
		fm = list
		b.addColumns(f.Type.Element, mem)
	case Map:
		fm = entries
		b.addColumns(&Field{Type: Type{Kind: String}}, mem)
		b.addColumns(f.Type.Value, mem)
	case Struct:
		fm = group
		for i := range f.Type.Fields {
			b.addColumns(&f.Type.Fields[i], mem)
		}
	}
	c := &b.cols[at]
	c.form, c.width, c.end = fm, width, len(b.cols)
}

// Schema is the schema of the batches: reader.Arrow().
func (b *Builder) Schema() *arrow.Schema { return b.arrow }

// Len is the number of rows since the last batch.
func (b *Builder) Len() int { return b.rows }

// Bytes is the memory that the rows fill so far. It walks the columns: call it
// once per many rows.
func (b *Builder) Bytes() int {
	n := 0
	for i := range b.cols {
		c := &b.cols[i]
		n += len(c.valid.b) + len(c.data.b) + len(c.offsets.b)
	}
	return n
}

// systemIndex tells which system column a top-level field is; -1: a user's.
func systemIndex(f *Field) int {
	if IsSystemID(f.ID) {
		return f.ID - ViewID
	}
	return -1
}

// AppendSystem fills the system columns, those that the schema has, of the row
// that was appended last.
func (b *Builder) AppendSystem(view record.ViewNumber, p record.Partition, o record.Offset, unixMilli int64) {
	if at := b.system[0]; at >= 0 {
		b.cols[at].append4(uint32(view))
	}
	if at := b.system[1]; at >= 0 {
		b.cols[at].append4(uint32(p))
	}
	if at := b.system[2]; at >= 0 {
		b.cols[at].append8(uint64(o))
	}
	if at := b.system[3]; at >= 0 {
		b.cols[at].append8(uint64(unixMilli * 1000))
	}
}

// systemComplete tells whether every row has its system columns.
func (b *Builder) systemComplete() bool {
	for _, at := range b.system {
		if at >= 0 && b.cols[at].n != b.rows {
			return false
		}
	}
	return true
}

// NewBatch returns the rows so far as a batch that the caller releases, and
// empties the builder. It panics if AppendSystem was not called once for each
// row.
func (b *Builder) NewBatch() arrow.RecordBatch {
	if !b.systemComplete() {
		panic("schema: NewBatch of rows without their system columns")
	}
	cols := make([]arrow.Array, len(b.tops))
	for i, at := range b.tops {
		d := b.take(at, b.arrow.Field(i).Type)
		cols[i] = array.MakeFromData(d)
		d.Release()
	}
	rec := array.NewRecordBatch(b.arrow, cols, int64(b.rows))
	for _, c := range cols {
		c.Release()
	}
	b.rows = 0
	return rec
}

// Release gives up the rows that no batch has taken. The builder may be used
// again.
func (b *Builder) Release() {
	for i := range b.cols {
		c := &b.cols[i]
		c.valid.drop()
		c.data.drop()
		c.offsets.drop()
		c.n, c.nulls = 0, 0
	}
	b.rows = 0
}

// take moves the buffers of column at and its parts into array data.
func (b *Builder) take(at int, dt arrow.DataType) arrow.ArrayData {
	c := &b.cols[at]
	n, nulls := c.n, c.nulls
	c.n, c.nulls = 0, 0
	valid := c.valid.take()
	if nulls == 0 && valid != nil { // the nulls were of rows that failed
		valid.Release()
		valid = nil
	}
	bufs := []*memory.Buffer{valid}
	var children []arrow.ArrayData
	switch c.form {
	case oneBit, fixed:
		bufs = append(bufs, c.data.takeSome())
	case variable:
		bufs = append(bufs, c.takeOffsets(), c.data.takeSome())
	case list:
		bufs = append(bufs, c.takeOffsets())
		children = []arrow.ArrayData{b.take(at+1, dt.(*arrow.ListType).Elem())}
	case entries:
		bufs = append(bufs, c.takeOffsets())
		pair := dt.(*arrow.MapType).Elem().(*arrow.StructType)
		key := b.take(at+1, pair.Field(0).Type)
		kv := []arrow.ArrayData{key, b.take(at+2, pair.Field(1).Type)}
		children = []arrow.ArrayData{array.NewData(pair, key.Len(), []*memory.Buffer{nil}, kv, 0, 0)}
		releaseData(kv)
	case group:
		fields := dt.(*arrow.StructType).Fields()
		for child := at + 1; child < c.end; child = b.cols[child].end {
			children = append(children, b.take(child, fields[len(children)].Type))
		}
	}
	d := array.NewData(dt, n, bufs, children, nulls, 0)
	releaseData(children)
	for _, m := range bufs {
		if m != nil {
			m.Release()
		}
	}
	return d
}

func releaseData(ds []arrow.ArrayData) {
	for _, d := range ds {
		d.Release()
	}
}

// truncate cuts column at and its parts back to n values: how a row that
// failed half way is undone.
func (b *Builder) truncate(at, n int) {
	c := &b.cols[at]
	switch c.form {
	case oneBit:
		c.data.cutBits(n)
	case fixed:
		c.data.cut(n * c.width)
	case variable:
		c.data.cut(c.cutOffsets(n))
	case list:
		b.truncate(at+1, c.cutOffsets(n))
	case entries:
		m := c.cutOffsets(n)
		b.truncate(at+1, m)
		b.truncate(at+2, m)
	case group:
		for child := at + 1; child < c.end; child = b.cols[child].end {
			b.truncate(child, n)
		}
	}
	if c.nulls > 0 {
		c.valid.cutBits(min(n, c.n))
		c.nulls = min(n, c.n) - bitutil.CountSetBits(c.valid.b, 0, min(n, c.n))
		if c.nulls == 0 {
			c.valid.cut(0)
		}
	}
	c.n = min(n, c.n)
}

// appendEmpty adds a null to column at, or the zero value where a null is not
// allowed: the place of a part whose struct is null.
func (b *Builder) appendEmpty(at int) {
	c := &b.cols[at]
	switch c.form {
	case oneBit:
		c.data.pushBit(c.n, false)
	case fixed:
		c.data.zero(c.width)
	case variable, list, entries:
		c.pushOffset(c.lastOffset())
	case group:
		for child := at + 1; child < c.end; child = b.cols[child].end {
			b.appendEmpty(child)
		}
	}
	// arrow-go (18.8) forgets that structs above a decimal of more than 18
	// digits may be null, unless it has nulls itself: it then writes values to
	// Parquet in the wrong rows. Hence nulls also where the field is required;
	// nobody sees them below a null struct.
	if c.nullable || c.form == fixed && c.width == 16 {
		c.addNull()
	} else {
		c.addValid()
	}
}

// errFull: a column's offsets are 32 bits wide.
var errFull = fmt.Errorf("schema: a column of the batch would exceed %d bytes or values; take smaller batches: %w", math.MaxInt32, record.ErrTooLarge)
