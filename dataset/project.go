package dataset

import (
	"context"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"
	"github.com/apache/arrow-go/v18/arrow/compute"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// projection turns the batches of a file into batches of the reader's schema:
// fields are found by id, renamed, reordered, widened, and filled with their
// default or null where the file does not have them. Columns that need no
// change are passed on without a copy.
type projection struct {
	schema  *arrow.Schema
	columns []columnPlan
}

// columnPlan is how one field is made.
type columnPlan struct {
	field *schema.Field
	typ   arrow.DataType
	from  int // index in the file's batch or struct; -1: the file lacks it
	same  bool
	parts []columnPlan // of a struct; element of a list; key and value of a map
	fill  *filler      // for what is absent, and nulls that must not be
}

// compileProjection plans for batches of the file's schema.
func compileProjection(want *schema.Schema, have *arrow.Schema, n names) (*projection, error) {
	p := &projection{schema: want.Arrow()}
	for i := range want.Fields {
		c, err := planField(&want.Fields[i], p.schema.Field(i), have.Fields(), n)
		if err != nil {
			p.release()
			return nil, err
		}
		p.columns = append(p.columns, c)
	}
	return p, nil
}

// planField finds the field among have.
func planField(f *schema.Field, out arrow.Field, have []arrow.Field, n names) (columnPlan, error) {
	for i := range have {
		if n.id(have[i]) == f.ID {
			c, err := planValue(f, out, have[i], n.in(have[i].Name))
			c.from = i
			return c, err
		}
	}
	return columnPlan{field: f, typ: out.Type, from: -1, fill: newFiller(f)}, nil
}

// planValue plans a field that the file has. n is the level below.
func planValue(f *schema.Field, out, have arrow.Field, n names) (columnPlan, error) {
	c := columnPlan{field: f, typ: out.Type}
	if !f.Nullable {
		c.fill = newFiller(f)
	}
	mismatch := func() (columnPlan, error) {
		return c, fmt.Errorf("field %q (id %d) is %s in the file and cannot be read as %s: %w", f.Name, f.ID, have.Type, f.Type, record.ErrInvalid)
	}
	switch f.Type.Kind {
	case schema.Struct:
		t, ok := have.Type.(*arrow.StructType)
		if !ok {
			return mismatch()
		}
		for i := range f.Type.Fields {
			part, err := planField(&f.Type.Fields[i], out.Type.(*arrow.StructType).Field(i), t.Fields(), n)
			if err != nil {
				return c, err
			}
			c.parts = append(c.parts, part)
		}
		return c, nil
	case schema.Array:
		t, ok := have.Type.(*arrow.ListType)
		if !ok {
			return mismatch()
		}
		e := t.ElemField()
		part, err := planValue(f.Type.Element, out.Type.(*arrow.ListType).ElemField(), e, n.in(e.Name))
		c.parts = []columnPlan{part}
		return c, err
	case schema.Map:
		t, ok := have.Type.(*arrow.MapType)
		if !ok {
			return mismatch()
		}
		o := out.Type.(*arrow.MapType)
		key, err := planValue(&schema.Field{ID: f.Type.KeyID, Name: "key", Type: schema.Type{Kind: schema.String}}, o.KeyField(), t.KeyField(), n.in("key"))
		if err != nil {
			return c, err
		}
		value, err := planValue(f.Type.Value, o.ItemField(), t.ItemField(), n.in("value"))
		value.from = 1
		c.parts = []columnPlan{key, value}
		return c, err
	}
	if have.Type.ID() == arrow.EXTENSION || arrow.IsNested(have.Type.ID()) || !castable(have.Type, out.Type) {
		return mismatch()
	}
	c.same = arrow.TypeEqual(have.Type, out.Type)
	return c, nil
}

// castable lists what may stand in files: the same values in another storage
// type, or narrower ones.
func castable(from, to arrow.DataType) bool {
	if arrow.TypeEqual(from, to) {
		return true
	}
	switch to.ID() {
	case arrow.INT32:
		return from.ID() == arrow.INT8 || from.ID() == arrow.INT16
	case arrow.INT64:
		return from.ID() == arrow.INT8 || from.ID() == arrow.INT16 || from.ID() == arrow.INT32
	case arrow.FLOAT64:
		return from.ID() == arrow.FLOAT32
	case arrow.STRING:
		return from.ID() == arrow.LARGE_STRING
	case arrow.BINARY:
		return from.ID() == arrow.LARGE_BINARY || from.ID() == arrow.FIXED_SIZE_BINARY
	case arrow.TIMESTAMP:
		t, ok := from.(*arrow.TimestampType)
		// Any zone is the same instant; none at all is not.
		return ok && t.TimeZone != "" && t.Unit != arrow.Nanosecond
	case arrow.DECIMAL128:
		f, ok := from.(arrow.DecimalType)
		t := to.(*arrow.Decimal128Type)
		return ok && f.GetScale() == t.Scale && f.GetPrecision() <= t.Precision
	}
	return false
}

func (p *projection) release() {
	for i := range p.columns {
		p.columns[i].release()
	}
}

func (c *columnPlan) release() {
	if c.fill != nil {
		c.fill.release()
	}
	for i := range c.parts {
		c.parts[i].release()
	}
}

// project makes a batch that the caller releases.
func (p *projection) project(ctx context.Context, rec arrow.RecordBatch) (arrow.RecordBatch, error) {
	cols := make([]arrow.Array, 0, len(p.columns))
	defer func() {
		for _, c := range cols {
			c.Release()
		}
	}()
	for i := range p.columns {
		c := &p.columns[i]
		var in arrow.Array
		if c.from >= 0 {
			in = rec.Column(c.from)
		}
		out, err := c.make(ctx, in, int(rec.NumRows()))
		if err != nil {
			return nil, err
		}
		cols = append(cols, out)
	}
	return array.NewRecordBatch(p.schema, cols, rec.NumRows()), nil
}

// make builds n values of the field, from in where the file has it.
func (c *columnPlan) make(ctx context.Context, in arrow.Array, n int) (arrow.Array, error) {
	if c.from < 0 {
		return c.fill.values(n)
	}
	out, err := c.convert(ctx, in, false)
	if err != nil || out.NullN() == 0 || c.fill == nil {
		return out, err
	}
	defer out.Release()
	return c.fill.nulls(out)
}

// convert brings values of the file into the type wanted. below: a struct around
// them has nulls, and there they may be null whatever they promise.
func (c *columnPlan) convert(ctx context.Context, in arrow.Array, below bool) (arrow.Array, error) {
	switch c.field.Type.Kind {
	case schema.Struct:
		return c.convertStruct(ctx, in.(*array.Struct), below)
	case schema.Array:
		l := in.(*array.List)
		values, err := c.parts[0].make(ctx, l.ListValues(), l.ListValues().Len())
		if err != nil {
			return nil, err
		}
		defer values.Release()
		return c.relist(l.Data(), values), nil
	case schema.Map:
		m := in.(*array.Map)
		entries := m.ListValues().(*array.Struct)
		key, err := c.parts[0].make(ctx, entries.Field(0), entries.Len())
		if err != nil {
			return nil, err
		}
		defer key.Release()
		value, err := c.parts[1].make(ctx, entries.Field(1), entries.Len())
		if err != nil {
			return nil, err
		}
		defer value.Release()
		d := array.NewData(c.typ.(*arrow.MapType).Elem(), entries.Len(), []*memory.Buffer{nil}, []arrow.ArrayData{key.Data(), value.Data()}, 0, 0)
		defer d.Release()
		pairs := array.NewStructData(d)
		defer pairs.Release()
		return c.relist(m.Data(), pairs), nil
	}
	if c.same {
		in.Retain()
		return in, nil
	}
	out, err := compute.CastArray(ctx, in, compute.SafeCastOptions(c.typ))
	if err != nil {
		return nil, fmt.Errorf("field %q (id %d): %w", c.field.Name, c.field.ID, err)
	}
	return out, nil
}

// relist puts other values under the offsets and nulls of a list or map.
func (c *columnPlan) relist(old arrow.ArrayData, values arrow.Array) arrow.Array {
	d := array.NewData(c.typ, old.Len(), old.Buffers(), []arrow.ArrayData{values.Data()}, old.NullN(), old.Offset())
	defer d.Release()
	return array.MakeFromData(d)
}

func (c *columnPlan) convertStruct(ctx context.Context, in *array.Struct, below bool) (arrow.Array, error) {
	below = below || in.NullN() > 0
	parts := make([]arrow.ArrayData, 0, len(c.parts))
	defer func() {
		for _, p := range parts {
			p.Release()
		}
	}()
	for i := range c.parts {
		part := &c.parts[i]
		var have arrow.Array
		if part.from >= 0 {
			have = in.Field(part.from) // already cut to the struct's offset
		}
		var out arrow.Array
		var err error
		if have != nil && below {
			out, err = part.convert(ctx, have, true)
		} else {
			out, err = part.make(ctx, have, in.Len())
		}
		if err != nil {
			return nil, err
		}
		parts = append(parts, out.Data())
		out.Data().Retain()
		out.Release()
	}
	valid := validity(in)
	if valid != nil {
		defer valid.Release()
	}
	d := array.NewData(c.typ, in.Len(), []*memory.Buffer{valid}, parts, in.NullN(), 0)
	defer d.Release()
	return array.NewStructData(d), nil
}

// validity is the array's bitmap from bit 0 on, nil if nothing is null.
func validity(a arrow.Array) *memory.Buffer {
	if a.NullN() == 0 {
		return nil
	}
	src, offset := a.Data().Buffers()[0], a.Data().Offset()
	if offset == 0 {
		src.Retain()
		return src
	}
	dst := memory.NewResizableBuffer(memory.DefaultAllocator)
	dst.Resize(int(bitutil.BytesForBits(int64(a.Len()))))
	bitutil.CopyBitmap(src.Bytes(), offset, a.Len(), dst.Bytes(), 0)
	return dst
}

// filler makes values of a field that a file lacks: the default, null, or 0 in
// a system column.
type filler struct {
	field *schema.Field
	chunk arrow.Array // the longest run made so far; shorter ones are cut of it
}

func newFiller(f *schema.Field) *filler { return &filler{field: f} }

func (f *filler) release() {
	if f.chunk != nil {
		f.chunk.Release()
		f.chunk = nil
	}
}

// values returns n of them.
func (f *filler) values(n int) (arrow.Array, error) {
	if f.chunk == nil || f.chunk.Len() < n {
		c, err := f.build(n)
		if err != nil {
			return nil, err
		}
		f.release()
		f.chunk = c
	}
	return array.NewSlice(f.chunk, 0, int64(n)), nil
}

func (f *filler) build(n int) (arrow.Array, error) {
	one := &schema.Schema{Fields: []schema.Field{*f.field}}
	if schema.IsSystemID(f.field.ID) {
		return zeros(one.Arrow().Field(0).Type, n), nil
	}
	if f.field.Nullable && f.field.Default == nil {
		return array.MakeArrayOfNull(memory.DefaultAllocator, one.Arrow().Field(0).Type, n), nil
	}
	if f.field.Default == nil {
		return nil, fmt.Errorf("field %q (id %d) is not nullable, has no default, and the file lacks it or holds nulls: %w", f.field.Name, f.field.ID, record.ErrInvalid)
	}
	// A row that was written with no field at all reads as all defaults.
	program, err := schema.CompileAvroToArrow(&schema.Schema{}, one)
	if err != nil {
		return nil, err
	}
	b := schema.NewBuilder(one, memory.DefaultAllocator)
	defer b.Release()
	for range n {
		if err := program.Append(b, nil); err != nil {
			return nil, fmt.Errorf("default of field %q: %w", f.field.Name, err)
		}
	}
	rec := b.NewBatch()
	defer rec.Release()
	c := rec.Column(0)
	c.Retain()
	return c, nil
}

// zeros is n times 0 of a fixed-width type.
func zeros(t arrow.DataType, n int) arrow.Array {
	buf := memory.NewResizableBuffer(memory.DefaultAllocator)
	defer buf.Release()
	buf.Resize(n * t.(arrow.FixedWidthDataType).BitWidth() / 8)
	clear(buf.Bytes())
	d := array.NewData(t, n, []*memory.Buffer{nil, buf}, nil, 0, 0)
	defer d.Release()
	return array.MakeFromData(d)
}

// nulls replaces the nulls of a, which another engine wrote into a column
// that has none with us.
func (f *filler) nulls(a arrow.Array) (arrow.Array, error) {
	var runs []arrow.Array
	defer func() {
		for _, r := range runs {
			r.Release()
		}
	}()
	for i := 0; i < a.Len(); {
		null, j := a.IsNull(i), i+1
		for j < a.Len() && a.IsNull(j) == null {
			j++
		}
		if null {
			v, err := f.values(j - i)
			if err != nil {
				return nil, err
			}
			runs = append(runs, v)
		} else {
			runs = append(runs, array.NewSlice(a, int64(i), int64(j)))
		}
		i = j
	}
	return array.Concatenate(runs, memory.DefaultAllocator)
}
