package schema

import (
	"encoding/binary"
	"math"
	"sync"
	"unicode/utf8"
)

// ForeignRows turns Avro data of anyone's schema straight into rows of ours, where
// the schemas differ in no more than the order of fields, absent ones, unions,
// and widths. It never decides that a row is wrong: what it does not take goes
// the long way, through columns (ForeignAvro, AvroToArrow, ArrowToAvro), which
// alone says what is wrong, and of which it gives the same bytes. It is safe for
// concurrent use.
type ForeignRows struct {
	root  foreignNode
	limit int
	pool  sync.Pool // of *foreignScan
}

// CompileForeignRows compiles the way from data of p to rows of s, of at most
// maxRowBytes (0: MaxRowBytes). It returns nil where the schemas differ too much,
// or do not fit: CompileArrowToAvro tells.
func CompileForeignRows(p *ForeignAvro, s *Schema, maxRowBytes int) *ForeignRows {
	if maxRowBytes == 0 {
		maxRowBytes = MaxRowBytes
	}
	to, err := compileJSON("", &Field{Type: Type{Kind: Struct, Fields: s.Fields}})
	if err != nil {
		return nil
	}
	from := &Field{Type: Type{Kind: Struct, Fields: p.schema.Fields}}
	r := &ForeignRows{limit: maxRowBytes}
	if !r.root.compile(p.root, from, to) {
		return nil
	}
	r.pool.New = func() any { return new(foreignScan) }
	return r
}

// Row appends to dst the datum of the first row that src holds, and returns what
// follows it. ok is false where the row has to go the long way; dst is then as
// it was.
func (p *ForeignRows) Row(dst, src []byte) (out, rest []byte, ok bool) {
	r := p.pool.Get().(*foreignScan)
	r.begin(dst, p.limit)
	r.src, r.names = src, r.names[:0]
	i := r.value(&p.root, 0)
	ok = i >= 0 && !r.tooLarge()
	out = r.take()
	r.src = nil
	clear(r.names[:cap(r.names)])
	p.pool.Put(r)
	if !ok {
		return dst, src, false
	}
	return out, src[i:], true
}

// foreignNode is a value on the foreign wire and what it becomes.
type foreignNode struct {
	wire  *foreign
	to    *jsonNode
	least int64 // integers, dates, timestamps in microseconds
	most  int64
	// digits are those of the narrower decimal.
	digits  int
	symbols [][]byte // of an enum, encoded as strings
	parts   []foreignNode
	slots   []int // of the fields of a record, their places in the target
}

// compile tells whether values of from can become values of to here.
func (n *foreignNode) compile(wire *foreign, from *Field, to *jsonNode) bool {
	*n = foreignNode{wire: wire, to: to, least: to.lo, most: to.hi}
	least, most := intBounds(from.Type.Kind)
	n.least, n.most = max(n.least, least), min(n.most, most)
	switch to.kind {
	case Boolean:
		return wire.kind == avroBoolean
	case Byte, Short, Integer, Long:
		return wire.kind == avroInt && from.Type.Kind != Date || wire.kind == avroLong && from.Type.Kind == Long
	case Date, Timestamp:
		return from.Type.Kind == to.kind
	case Float:
		return wire.kind == avroFloat
	case Double:
		return wire.kind == avroFloat || wire.kind == avroDouble
	case String:
		if wire.kind == avroEnum {
			for _, s := range wire.symbols {
				n.symbols = append(n.symbols, append(appendLong(nil, int64(len(s))), s...))
			}
			return true
		}
		return wire.kind == avroString
	case Binary:
		return from.Type.Kind == Binary
	case Decimal:
		n.digits = min(from.Type.Precision, to.typ.Precision)
		return from.Type.Kind == Decimal && from.Type.Scale == to.typ.Scale
	case Array:
		return wire.kind == avroArray && n.compilePart(from.Type.Element)
	case Map:
		return wire.kind == avroMap && n.compilePart(from.Type.Value)
	case Struct:
		return wire.kind == avroRecord && n.compileFields(from.Type.Fields)
	}
	return false
}

func (n *foreignNode) compilePart(from *Field) bool {
	n.parts = make([]foreignNode, 1)
	return n.parts[0].compile(&n.wire.parts[0], from, n.to.part)
}

func (n *foreignNode) compileFields(from []Field) bool {
	n.parts, n.slots = make([]foreignNode, len(from)), make([]int, len(from))
	found := make([]bool, len(n.to.fields))
	for i := range from {
		slot := n.to.field([]byte(from[i].Name))
		if slot < 0 || !n.parts[i].compile(&n.wire.parts[i], &from[i], &n.to.fields[slot].jsonNode) {
			return false
		}
		n.slots[i], found[slot] = slot, true
	}
	for slot := range found {
		if !found[slot] && n.to.fields[slot].absent == nil {
			return false
		}
	}
	return true
}

// foreignScan is the scratch memory of one row. Its methods take a position in src
// and return the one behind what they read, or bad.
type foreignScan struct {
	rowWriter
	src   []byte
	names [][]byte // keys of the maps being read
}

func (r *foreignScan) value(n *foreignNode, i int) int {
	if n.wire.union {
		var branch int64
		if branch, i = readLong(r.src, i); i < 0 || branch < 0 || branch >= n.wire.branches {
			return bad
		}
		if branch == n.wire.null {
			if !n.to.nullable {
				return bad
			}
			r.dst = append(r.dst, 0)
			return i
		}
	}
	if n.to.nullable {
		r.dst = append(r.dst, 2)
	}
	switch n.to.kind {
	case Byte, Short, Integer, Long, Date, Timestamp:
		return r.integer(n, i)
	case String, Binary:
		return r.text(n, i)
	case Double:
		return r.double(n, i)
	case Struct:
		return r.record(n, i)
	case Boolean:
		if i >= len(r.src) || r.src[i] > 1 {
			return bad
		}
		r.dst = append(r.dst, r.src[i])
		return i + 1
	case Float:
		v, next := readFloat(r.src, i)
		if next < 0 || !finite(float64(v)) {
			return bad
		}
		r.dst = append(r.dst, r.src[i:next]...)
		return next
	case Decimal:
		return r.decimal(n, i)
	}
	return r.blocks(n, i) // Array, Map
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func (r *foreignScan) integer(n *foreignNode, i int) int {
	v, i := readLong(r.src, i)
	if i < 0 {
		return bad
	}
	switch {
	case n.wire.millis:
		if v < n.least/1000 || v > n.most/1000 {
			return bad
		}
		v *= 1000
	case n.wire.nanos:
		if v%1000 != 0 {
			return bad
		}
		v /= 1000
	}
	if v < n.least || v > n.most {
		return bad
	}
	r.dst = appendLong(r.dst, v)
	return i
}

func (r *foreignScan) double(n *foreignNode, i int) int {
	if n.wire.kind == avroDouble {
		v, next := readDouble(r.src, i)
		if next < 0 || !finite(v) {
			return bad
		}
		r.dst = append(r.dst, r.src[i:next]...)
		return next
	}
	v, next := readFloat(r.src, i)
	if next < 0 || !finite(float64(v)) {
		return bad
	}
	r.dst = binary.LittleEndian.AppendUint64(r.dst, math.Float64bits(float64(v)))
	return next
}

// bytes reads bytes, a string or a fixed.
func (r *foreignScan) bytes(n *foreignNode, i int) ([]byte, int) {
	if n.wire.kind != avroFixed {
		return readBytes(r.src, i)
	}
	end := skipN(r.src, i, n.wire.size)
	if end < 0 {
		return nil, bad
	}
	return r.src[i:end], end
}

func (r *foreignScan) text(n *foreignNode, i int) int {
	if n.symbols != nil {
		v, i := readLong(r.src, i)
		if i < 0 || v < 0 || v >= int64(len(n.symbols)) {
			return bad
		}
		r.dst = append(r.dst, n.symbols[v]...)
		return i
	}
	v, i := r.bytes(n, i)
	if i < 0 || n.to.kind == String && !utf8.Valid(v) {
		return bad
	}
	r.appendLength(len(v))
	r.dst = append(r.dst, v...)
	return i
}

func (r *foreignScan) decimal(n *foreignNode, i int) int {
	v, i := r.bytes(n, i)
	if i < 0 {
		return bad
	}
	hi, lo, ok := parseDecimal(v)
	if !ok || !withinPrecision(hi, lo, n.digits) {
		return bad
	}
	r.dst = appendDecimal(r.dst, hi, lo)
	return i
}

func (r *foreignScan) record(n *foreignNode, i int) int {
	o := r.open(n.to)
	for k := range n.parts {
		slot := n.slots[k]
		if !r.field(&o, n.to, slot) {
			return bad
		}
		if i = r.value(&n.parts[k], i); i < 0 {
			return bad
		}
		r.fieldDone(&o, slot)
	}
	if r.close(&o, n.to) >= 0 || r.tooLarge() {
		return bad
	}
	return i
}

// blocks reads an array or map, and writes it as one block.
func (r *foreignScan) blocks(n *foreignNode, i int) int {
	at, total, first := r.openBlock(), 0, len(r.names)
	for {
		count, size, next := readBlock(r.src, i)
		if next < 0 {
			return bad
		}
		if i = next; count == 0 {
			break
		}
		for range count {
			if n.to.kind == Map {
				key, next := readBytes(r.src, i)
				if next < 0 || !utf8.Valid(key) || !r.unseen(key, first) {
					return bad
				}
				r.appendLength(len(key))
				r.dst = append(r.dst, key...)
				i = next
			}
			if i = r.value(&n.parts[0], i); i < 0 || r.tooLarge() {
				return bad
			}
		}
		if size >= 0 && i != next+size {
			return bad
		}
		total += count
	}
	r.names = r.names[:first]
	r.closeBlock(at, total)
	return i
}

// unseen notes a key; false if it stood among those from position first, or if
// there are too many to look through.
func (r *foreignScan) unseen(key []byte, first int) bool {
	if len(r.names)-first >= maxScannedNames {
		return false
	}
	for _, s := range r.names[first:] {
		if string(s) == string(key) {
			return false
		}
	}
	r.names = append(r.names, key)
	return true
}
