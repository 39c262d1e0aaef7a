package schema

import (
	"fmt"
	"sync"

	"github.com/thermocline/thermocline/record"
)

// maxJSONRow bounds the JSON of one row: what a damaged datum and the defaults
// of its schema could blow up.
const maxJSONRow = 64 << 20

// JSONOutOptions say how rows are written as JSON. The zero value is the
// default.
type JSONOutOptions struct {
	// NumbersAsText writes every DECIMAL, and LONGs beyond ±2^53, as strings, for
	// readers that keep numbers as doubles. Without it they are exact JSON
	// numbers.
	NumbersAsText bool
}

// AvroToJSON turns Avro data of one schema into JSON rows of another, which
// may be a later version or a projection. It is safe for concurrent use.
//
// Rows are compact, with every field of the reader in its order: nulls as
// null, BINARY in padded standard base64, DATE as 2020-01-31, TIMESTAMP as
// 2020-01-31T12:00:00Z with three or six digits of a fraction where it has one.
// CompileJSONToAvro reads them back without loss.
type AvroToJSON struct {
	root *outNode
	pool sync.Pool // of *[]int
}

// CompileAvroToJSON compiles the program that reads data of writer as reader
// (see Evolve). It fails if reader cannot hold what writer could write.
func CompileAvroToJSON(writer, reader *Schema, o JSONOutOptions) (*AvroToJSON, error) {
	r, err := resolve(writer, reader)
	if err != nil {
		return nil, err
	}
	root, err := compileOut(r, o)
	if err != nil {
		return nil, err
	}
	return &AvroToJSON{root: root, pool: sync.Pool{New: func() any { return new([]int) }}}, nil
}

// Row appends the row that the Avro datum (without header) holds to dst. A
// datum that is not one of the writer's schema is ErrCorrupt and leaves dst
// as it was.
func (c *AvroToJSON) Row(dst, avro []byte) ([]byte, error) {
	at := c.pool.Get().(*[]int)
	w := outWriter{src: avro, dst: dst, limit: len(dst) + maxJSONRow, positions: (*at)[:0]}
	i := w.object(c.root, 0)
	*at = w.positions
	c.pool.Put(at)
	switch {
	case i >= 0 && i == len(avro):
		return w.dst, nil
	case len(w.dst) > w.limit:
		return dst, fmt.Errorf("schema: row of %d bytes has more than %d bytes of JSON: %w", len(avro), maxJSONRow, record.ErrTooLarge)
	case i >= 0:
		return dst, corruptf("", "%d bytes follow the last field", len(avro)-i)
	}
	return dst, corruptf(w.place, "not a value of its type")
}

// outNode is the compiled form of a value.
type outNode struct {
	typ      *Type // the writer's
	nullable bool  // on the wire
	form     scalarForm
	part     *outNode
	steps    []outStep
	// shuffled: the fields are not in the writer's order; of then holds all
	// of the writer's fields, to find where each begins.
	shuffled bool
	of       []*Field
}

// outStep is a step through a struct: text is written, then a value follows or
// is skipped.
type outStep struct {
	text  []byte
	value *outNode
	skip  *Field
	// from is the position among the writer's fields of value.
	from int
}

func compileOut(r *resolved, o JSONOutOptions) (*outNode, error) {
	n := &outNode{typ: &r.writer.Type, nullable: r.writer.Nullable,
		form: scalarForm{asText: o.NumbersAsText, double: r.reader.Type.Kind == Double}}
	var err error
	switch n.typ.Kind {
	case Array, Map:
		n.part, err = compileOut(r.part, o)
	case Struct:
		err = n.compileFields(r, o)
	}
	return n, err
}

// compileFields lists the steps in the reader's order.
func (n *outNode) compileFields(r *resolved, o JSONOutOptions) error {
	steps := make([]outStep, len(r.reader.Type.Fields))
	last := -1
	for i := range r.fields {
		f := &r.fields[i]
		n.of = append(n.of, f.writer)
		if f.reader == nil {
			continue
		}
		v, err := compileOut(f, o)
		if err != nil {
			return err
		}
		steps[f.slot] = outStep{value: v, from: i}
		if f.slot < last {
			n.shuffled = true
		}
		last = f.slot
	}
	for i := range r.absent {
		a := &r.absent[i]
		v, err := compileOut(a.read, o)
		if err != nil {
			return err
		}
		w := outWriter{src: a.datum, limit: maxJSONRow}
		if w.value(v, 0) != len(a.datum) {
			return invalidf(a.reader.Name, "has a default that cannot be read back")
		}
		steps[a.slot] = outStep{text: w.dst}
	}
	for i := range steps {
		head := []byte{','}
		if i == 0 {
			head = []byte{'{'}
		}
		head = append(appendJSONString(head, r.reader.Type.Fields[i].Name), ':')
		steps[i].text = append(head, steps[i].text...)
	}
	n.steps = steps
	if !n.shuffled {
		n.steps = withSkips(steps, n.of)
	}
	return nil
}

// withSkips puts the fields that are passed over between the steps.
func withSkips(steps []outStep, of []*Field) []outStep {
	var out []outStep
	next := 0
	skipTo := func(i int) {
		for ; next < i; next++ {
			out = append(out, outStep{skip: of[next]})
		}
	}
	for _, s := range steps {
		if s.value != nil {
			skipTo(s.from)
			next++
		}
		out = append(out, s)
	}
	skipTo(len(of))
	return out
}

// outWriter writes one row. Its methods take a position in src and return the
// one after what they read, or bad.
type outWriter struct {
	src, dst  []byte
	limit     int // of len(dst)
	positions []int
	place     string // of the damage that made a method return bad
}

func (w *outWriter) value(n *outNode, i int) int {
	if n.nullable {
		null, next := readBranch(w.src, i)
		if next < 0 {
			return bad
		}
		if null {
			w.dst = append(w.dst, "null"...)
			return next
		}
		i = next
	}
	switch n.typ.Kind {
	case Struct:
		return w.object(n, i)
	case Array:
		w.dst = append(w.dst, '[')
		i = w.blocks(n, i)
		w.dst = append(w.dst, ']')
		return i
	case Map:
		w.dst = append(w.dst, '{')
		i = w.blocks(n, i)
		w.dst = append(w.dst, '}')
		return i
	}
	w.dst, i = appendJSONScalar(w.dst, n.typ, n.form, w.src, i)
	return i
}

func (w *outWriter) object(n *outNode, i int) int {
	if n.shuffled {
		return w.shuffledObject(n, i)
	}
	for s := range n.steps {
		step := &n.steps[s]
		if step.skip != nil {
			if i = skipField(step.skip, w.src, i); i < 0 {
				return w.damaged(step.skip.Name)
			}
			continue
		}
		w.dst = append(w.dst, step.text...)
		if step.value != nil {
			if i = w.value(step.value, i); i < 0 {
				return w.damaged(n.of[step.from].Name)
			}
		}
	}
	return w.end(i)
}

func (w *outWriter) shuffledObject(n *outNode, i int) int {
	base := len(w.positions)
	for _, f := range n.of {
		w.positions = append(w.positions, i)
		if i = skipField(f, w.src, i); i < 0 {
			return w.damaged(f.Name)
		}
	}
	for s := range n.steps {
		step := &n.steps[s]
		w.dst = append(w.dst, step.text...)
		if step.value != nil && w.value(step.value, w.positions[base+step.from]) < 0 {
			return w.damaged(n.of[step.from].Name)
		}
	}
	w.positions = w.positions[:base]
	return w.end(i)
}

func (w *outWriter) end(i int) int {
	w.dst = append(w.dst, '}')
	if len(w.dst) > w.limit {
		return bad
	}
	return i
}

func (w *outWriter) damaged(name string) int {
	if w.place != "" {
		name = join(name, w.place)
	}
	w.place = name
	return bad
}

func (w *outWriter) blocks(n *outNode, i int) int {
	for first := true; ; {
		count, size, next := readBlock(w.src, i)
		if next < 0 || count == 0 {
			return next
		}
		i = next
		for range count {
			if !first {
				w.dst = append(w.dst, ',')
			}
			first = false
			if n.typ.Kind == Map {
				if w.dst, i = appendJSONScalar(w.dst, &keyType, scalarForm{}, w.src, i); i < 0 {
					return bad
				}
				w.dst = append(w.dst, ':')
			}
			if i = w.value(n.part, i); i < 0 {
				return bad
			}
		}
		if size >= 0 && i != next+size {
			return bad
		}
	}
}

// keyType is the type of the keys of a MAP.
var keyType = Type{Kind: String}
