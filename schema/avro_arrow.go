package schema

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/thermocline/thermocline/record"
)

// AvroToArrow decodes rows written under one schema into the columns of
// another: a program of one step per field on the wire, run without
// allocation. It is immutable and safe for concurrent use (with a Builder each).
type AvroToArrow struct {
	reader *Schema
	steps  []step
}

// CompileAvroToArrow compiles the reading of rows of writer as reader, fields
// matched by id: renamed and reordered ones follow their id, widened ones are
// converted, dropped ones skipped, missing ones get their default or null.
// System columns of reader are left to Builder.AppendSystem. A reader that
// cannot hold what the writer could write is ErrInvalid.
func CompileAvroToArrow(writer, reader *Schema) (*AvroToArrow, error) {
	user := &Schema{}
	var cols []int // of each field of user, its first column in a Builder of reader
	at := 0
	for i := range reader.Fields {
		f := &reader.Fields[i]
		if systemIndex(f) < 0 {
			user.Fields = append(user.Fields, *f)
			cols = append(cols, at)
		}
		at += columnCount(f)
	}
	r, err := resolve(writer, user)
	if err != nil {
		return nil, err
	}
	return &AvroToArrow{reader: reader, steps: compileFields("", r, func(slot int) int { return cols[slot] })}, nil
}

// columnCount is the number of columns that a Builder has for f.
func columnCount(f *Field) int {
	switch f.Type.Kind {
	case Array:
		return 1 + columnCount(f.Type.Element)
	case Map:
		return 2 + columnCount(f.Type.Value)
	case Struct:
		n := 1
		for i := range f.Type.Fields {
			n += columnCount(&f.Type.Fields[i])
		}
		return n
	}
	return 1
}

// stepOp is what a step does with the bytes of one field.
type stepOp uint8

const (
	opSkip stepOp = iota
	opBool
	opInt4 // into 4 bytes, BYTE to INTEGER and DATE
	opInt8 // into 8 bytes, BYTE to LONG and TIMESTAMP
	opFloat
	opDouble
	opWidenFloat
	opDecimal
	opText // STRING and BINARY
	opArray
	opMap
	opStruct
	opDefault
)

type step struct {
	op stepOp
	// branch: the writer's field is nullable.
	branch bool
	// col is the column to fill.
	col int
	// least and most bound the writer's integers.
	least, most int64
	precision   int    // opDecimal: the writer's
	parts       []step // element, value, fields; what reads the default
	writer      *Field // opSkip
	datum       []byte // opDefault
	path        string
}

func compileFields(path string, r *resolved, column func(slot int) int) []step {
	steps := make([]step, 0, len(r.fields)+len(r.absent))
	for i := range r.fields {
		f := &r.fields[i]
		col := -1
		if f.reader != nil {
			col = column(f.slot)
		}
		steps = append(steps, compileStep(join(path, f.writer.Name), f, col))
	}
	for i := range r.absent {
		a := &r.absent[i]
		p := join(path, a.reader.Name)
		steps = append(steps, step{op: opDefault, path: p, datum: a.datum, parts: []step{compileStep(p, a.read, column(a.slot))}})
	}
	return steps
}

func compileStep(path string, r *resolved, col int) step {
	s := step{path: path, branch: r.writer.Nullable, col: col, writer: r.writer}
	if r.reader == nil {
		return s
	}
	w := &r.writer.Type
	switch w.Kind {
	case Boolean:
		s.op = opBool
	case Byte, Short, Integer, Long, Date, Timestamp:
		s.op = opInt4
		if k := r.reader.Type.Kind; k == Long || k == Timestamp {
			s.op = opInt8
		}
		s.least, s.most = intBounds(w.Kind)
	case Float:
		s.op = opFloat
		if r.reader.Type.Kind == Double {
			s.op = opWidenFloat
		}
	case Double:
		s.op = opDouble
	case Decimal:
		s.op, s.precision = opDecimal, w.Precision
	case String, Binary:
		s.op = opText
	case Array:
		s.op = opArray
		s.parts = []step{compileStep(join(path, "element"), r.part, col+1)}
	case Map:
		s.op = opMap
		s.parts = []step{compileStep(join(path, "value"), r.part, col+2)}
	case Struct:
		s.op = opStruct
		cols := make([]int, len(r.reader.Type.Fields))
		next := col + 1
		for i := range cols {
			cols[i] = next
			next += columnCount(&r.reader.Type.Fields[i])
		}
		s.parts = compileFields(path, r, func(slot int) int { return cols[slot] })
	}
	return s
}

// intBounds are the least and the most of an integer kind's values.
func intBounds(k Kind) (least, most int64) {
	switch k {
	case Byte:
		return math.MinInt8, math.MaxInt8
	case Short:
		return math.MinInt16, math.MaxInt16
	case Integer, Date:
		return math.MinInt32, math.MaxInt32
	}
	return math.MinInt64, math.MaxInt64
}

// Append decodes datum (without the Confluent header, see SplitHeader) as the
// next row of b, a Builder of the same reader schema. When b has system
// columns, AppendSystem must follow. After an error, which is ErrCorrupt, or
// ErrTooLarge when a column would outgrow its 32-bit offsets, b is as it was
// before.
func (p *AvroToArrow) Append(b *Builder, datum []byte) error {
	if b.fits != p {
		if p.reader != b.schema && !slices.EqualFunc(p.reader.Fields, b.schema.Fields, fieldEqual) {
			return fmt.Errorf("schema: the builder was made for another schema than the program: %w", record.ErrInvalid)
		}
		b.fits = p
	}
	if !b.systemComplete() {
		return fmt.Errorf("schema: row %d of the batch lacks its system columns; call AppendSystem after each row: %w", b.rows, record.ErrInvalid)
	}
	d := decoder{b: b, src: datum}
	i := d.run(p.steps, 0)
	if i != bad && i != len(datum) {
		d.err = corruptf("", "%d bytes follow the last field", len(datum)-i)
		i = bad
	}
	if i == bad {
		for _, at := range b.tops {
			b.truncate(at, b.rows)
		}
		return d.err
	}
	b.rows++
	return nil
}

// decoder is the state of one Append; it stays on the stack.
type decoder struct {
	b   *Builder
	src []byte
	err error
}

// fail notes the error and returns the position that stops every caller.
func (d *decoder) fail(s *step, what string) int {
	d.err = corruptf(s.path, "%s", what)
	return bad
}

// run decodes one value for each step from position i and returns the position
// after the last one, or bad.
func (d *decoder) run(steps []step, i int) int {
	for k := range steps {
		s := &steps[k]
		if s.op == opSkip {
			if i = skipField(s.writer, d.src, i); i < 0 || i > len(d.src) {
				return d.fail(s, "the row ends within it")
			}
			continue
		}
		if s.branch {
			null, next := readBranch(d.src, i)
			if next < 0 {
				return d.fail(s, "neither null nor a value")
			}
			i = next
			if null {
				d.b.appendEmpty(s.col)
				continue
			}
		}
		if i = d.value(s, i); i < 0 {
			return bad
		}
	}
	return i
}

func (d *decoder) value(s *step, i int) int {
	src := d.src
	switch s.op {
	case opInt4, opInt8:
		v, next := readLong(src, i)
		if next < 0 || v < s.least || v > s.most {
			return d.fail(s, "no integer, or one out of range")
		}
		if c := &d.b.cols[s.col]; s.op == opInt8 {
			c.append8(uint64(v))
		} else {
			c.append4(uint32(v))
		}
		return next
	case opText:
		v, next := readBytes(src, i)
		if next < 0 {
			return d.fail(s, "the row ends within it")
		}
		return d.text(s.col, v, next)
	case opFloat, opWidenFloat:
		if len(src)-i < 4 {
			return d.fail(s, "the row ends within it")
		}
		v := binary.LittleEndian.Uint32(src[i:])
		if c := &d.b.cols[s.col]; s.op == opFloat {
			c.append4(v)
		} else {
			c.append8(math.Float64bits(float64(math.Float32frombits(v))))
		}
		return i + 4
	case opDouble:
		if len(src)-i < 8 {
			return d.fail(s, "the row ends within it")
		}
		d.b.cols[s.col].append8(binary.LittleEndian.Uint64(src[i:]))
		return i + 8
	case opBool:
		if i >= len(src) || src[i] > 1 {
			return d.fail(s, "no boolean")
		}
		d.b.cols[s.col].appendBit(src[i] == 1)
		return i + 1
	}
	return d.rare(s, i)
}

// rare decodes the types whose work outweighs one more call.
func (d *decoder) rare(s *step, i int) int {
	switch s.op {
	case opDecimal:
		v, next := readBytes(d.src, i)
		if next < 0 {
			return d.fail(s, "the row ends within it")
		}
		hi, lo, ok := parseDecimal(v)
		if !ok || !withinPrecision(hi, lo, s.precision) {
			return d.fail(s, "no decimal, or one out of range")
		}
		d.b.cols[s.col].append16(lo, uint64(hi))
		return next
	case opStruct:
		if i = d.run(s.parts, i); i >= 0 {
			d.b.cols[s.col].addValid()
		}
		return i
	case opDefault:
		in := d.src
		d.src = s.datum
		end := d.run(s.parts, 0)
		d.src = in
		if end < 0 {
			return bad
		}
		return i
	}
	return d.blocks(s, i) // opArray, opMap
}

// blocks decodes the elements of an array or the entries of a map.
func (d *decoder) blocks(s *step, i int) int {
	child := &d.b.cols[s.col+1]
	for {
		count, _, next := readBlock(d.src, i)
		if next < 0 {
			return d.fail(s, "the row ends within it, or it has an impossible length")
		}
		i = next
		if count == 0 {
			break
		}
		if child.n > math.MaxInt32-count {
			d.err = errFull
			return bad
		}
		for range count {
			if s.op == opMap {
				key, next := readBytes(d.src, i)
				if next < 0 {
					return d.fail(s, "the row ends within a key")
				}
				if i = d.text(s.col+1, key, next); i < 0 {
					return bad
				}
			}
			if i = d.run(s.parts, i); i < 0 {
				return bad
			}
		}
	}
	c := &d.b.cols[s.col]
	c.pushOffset(child.n)
	c.addValid()
	return i
}

func (d *decoder) text(col int, v []byte, next int) int {
	c := &d.b.cols[col]
	if len(c.data.b) > math.MaxInt32-len(v) {
		d.err = errFull
		return bad
	}
	c.appendBytes(v)
	return next
}
