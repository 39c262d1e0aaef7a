package predicate

import (
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Filter evaluates the predicate on the rows of rec and leaves in sel those for
// which it is true. rec must be in the storage form (schema.Arrow) of the schema
// that the predicate is bound to, and hold at least the predicate's columns,
// which are found by name. It works column by column; sel's memory is reused.
func (b *Bound) Filter(rec arrow.RecordBatch, sel *Selection) error {
	sel.reset(int(rec.NumRows()))
	var few [16]operand
	ops := few[:0]
	for i := range b.columns {
		o, err := b.columns[i].find(rec)
		if err != nil {
			return err
		}
		ops = append(ops, o)
	}
	e := evaluation{sel: sel, columns: ops}
	untrue := sel.borrow()
	e.eval(&b.root, sel.truth, untrue)
	sel.giveBack(untrue)
	return nil
}

// operand is a column of a batch, and the structs that it lies in, outermost
// first: a value is null if any of them is.
type operand struct {
	values arrow.Array
	within []arrow.Array
}

func (c *Column) find(rec arrow.RecordBatch) (operand, error) {
	var o operand
	at := rec.Schema().FieldIndices(c.names[0])
	if len(at) != 1 {
		return o, fmt.Errorf("where: the batch lacks the column %s: %w", c.Path, record.ErrInvalid)
	}
	o.values = rec.Column(at[0])
	for _, name := range c.names[1:] {
		st, ok := o.values.(*array.Struct)
		if !ok {
			return o, fmt.Errorf("where: in the batch, %s is no struct: %w", c.Path, record.ErrInvalid)
		}
		k, ok := st.DataType().(*arrow.StructType).FieldIdx(name)
		if !ok {
			return o, fmt.Errorf("where: the batch lacks the column %s: %w", c.Path, record.ErrInvalid)
		}
		o.within = append(o.within, st)
		o.values = st.Field(k)
	}
	if !c.fits(o.values) {
		return o, fmt.Errorf("where: in the batch, %s is %s, which is not how %s is stored: %w", c.Path, o.values.DataType(), c.Type, record.ErrInvalid)
	}
	return o, nil
}

// fits tells whether the array is how the column's type is stored.
func (c *Column) fits(a arrow.Array) bool {
	ok := false
	switch c.Type.Kind {
	case schema.Boolean:
		_, ok = a.(*array.Boolean)
	case schema.Byte, schema.Short, schema.Integer:
		_, ok = a.(*array.Int32)
	case schema.Long:
		_, ok = a.(*array.Int64)
	case schema.Float:
		_, ok = a.(*array.Float32)
	case schema.Double:
		_, ok = a.(*array.Float64)
	case schema.Decimal:
		var d *array.Decimal128
		if d, ok = a.(*array.Decimal128); ok {
			ok = int(d.DataType().(*arrow.Decimal128Type).Scale) == c.Type.Scale
		}
	case schema.String:
		_, ok = a.(*array.String)
	case schema.Binary:
		_, ok = a.(*array.Binary)
	case schema.Date:
		_, ok = a.(*array.Date32)
	case schema.Timestamp:
		var t *array.Timestamp
		if t, ok = a.(*array.Timestamp); ok {
			ok = t.DataType().(*arrow.TimestampType).Unit == arrow.Microsecond
		}
	default: // only its nulls count
		ok = true
	}
	return ok
}

type evaluation struct {
	sel     *Selection
	columns []operand
}

// eval sets in t the rows for which the term is true and in f those for which
// it is false; in neither are those for which it is null.
func (e *evaluation) eval(n *term, t, f []uint64) {
	switch n.form {
	case leafTerm:
		e.leaf(&n.leaf, t, f)
	case notOf:
		e.eval(&n.terms[0], f, t)
	default:
		e.eval(&n.terms[0], t, f)
		t2, f2 := e.sel.borrow(), e.sel.borrow()
		for i := 1; i < len(n.terms); i++ {
			e.eval(&n.terms[i], t2, f2)
			if n.form == allOf {
				and(t, t2)
				or(f, f2)
			} else {
				or(t, t2)
				and(f, f2)
			}
		}
		e.sel.giveBack(f2)
		e.sel.giveBack(t2)
	}
}

func and(a, b []uint64) {
	for i := range a {
		a[i] &= b[i]
	}
}

func or(a, b []uint64) {
	for i := range a {
		a[i] |= b[i]
	}
}

func (e *evaluation) leaf(l *leaf, t, f []uint64) {
	o := &e.columns[l.column]
	if l.test == isNull {
		o.validity(f, e.sel.n)
		not(t, f, e.sel.n)
		return
	}
	switch l.test {
	case always:
		fill(t, e.sel.n)
	case never:
		clear(t)
	default:
		l.compare(o.values, t)
	}
	valid := e.sel.borrow()
	o.validity(valid, e.sel.n)
	and(t, valid)
	for i := range f {
		f[i] = valid[i] &^ t[i]
	}
	e.sel.giveBack(valid)
}

// fill sets the first n bits and clears the rest.
func fill(b []uint64, n int) {
	for i := range b {
		b[i] = ^uint64(0)
	}
	if n&63 != 0 {
		b[len(b)-1] = 1<<(n&63) - 1
	}
}

// not sets a to the complement of b.
func not(a, b []uint64, n int) {
	fill(a, n)
	for i := range a {
		a[i] &^= b[i]
	}
}

// validity sets the bits of the rows where the operand is not null.
func (o *operand) validity(b []uint64, n int) {
	fill(b, n)
	for _, s := range o.within {
		andValidity(b, s)
	}
	andValidity(b, o.values)
}

func andValidity(b []uint64, a arrow.Array) {
	if a.NullN() == 0 {
		return
	}
	bytes := a.NullBitmapBytes()
	if len(bytes) == 0 { // the null type
		clear(b)
		return
	}
	at := a.Data().Offset()
	for i := range b {
		b[i] &= word(bytes, at+64*i)
	}
}

// word is the 64 bits from bit at on; bits behind the end are 0.
func word(b []byte, at int) uint64 {
	k, shift := at>>3, uint(at&7)
	if k+9 <= len(b) {
		w := le64(b[k:]) >> shift
		if shift > 0 {
			w |= uint64(b[k+8]) << (64 - shift)
		}
		return w
	}
	var w uint64
	for i := 0; i < 9 && k+i < len(b); i++ {
		if i < 8 {
			w |= uint64(b[k+i]) << (8 * i) >> shift
		} else if shift > 0 {
			w |= uint64(b[k+i]) << (64 - shift)
		}
	}
	return w
}
