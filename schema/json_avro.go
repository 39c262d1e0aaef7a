package schema

import (
	"fmt"
	"sync"

	"github.com/thermocline/thermocline/record"
)

// MaxRowBytes is the default limit of a row, in JSON as well as in Avro.
const MaxRowBytes = 1 << 20

// UnknownFields says what happens to a JSON field that the schema does not have.
type UnknownFields uint8

const (
	Reject UnknownFields = iota // the row is refused
	Ignore                      // the field is dropped
)

// JSONOptions say how JSON rows are read. The zero value is the default.
type JSONOptions struct {
	UnknownFields UnknownFields
	// MaxRowBytes limits a row's JSON and its Avro datum. 0: MaxRowBytes.
	MaxRowBytes int
}

// JSONToAvro turns JSON rows into Avro data of one schema. It is safe for
// concurrent use.
//
// What is accepted, by type:
//
//	BOOLEAN                   true, false
//	BYTE SHORT INTEGER LONG   numbers without a fraction (1.0 and 1e2 have none);
//	                          LONG also as a string that holds such a number
//	FLOAT DOUBLE              numbers, rounded to the nearest value; neither beyond
//	                          the largest nor, unless 0, so small that 0 comes out
//	DECIMAL(p,s)              numbers, or strings that hold one, with no more than
//	                          s decimals (trailing zeros aside) and p digits
//	STRING                    strings
//	BINARY                    strings in base64, standard or URL-safe alphabet, with
//	                          or without padding
//	DATE                      "2020-01-31", or days since 1970-01-01
//	TIMESTAMP                 "2020-01-31T12:00:00.123456+01:00" or Z, or a number of
//	                          milliseconds since 1970 UTC; nothing below a microsecond
//	ARRAY MAP STRUCT          arrays, objects, objects
//
// A field that is missing becomes its default, else null, else it is an error;
// null is for nullable fields only, also where there is a default. Repeated
// keys, invalid UTF-8 and anything that would change a value are errors.
// Fields may come in any order.
type JSONToAvro struct {
	root    *jsonNode
	options JSONOptions
	pool    sync.Pool // of *jsonRow
}

// CompileJSONToAvro compiles the program for s.
func CompileJSONToAvro(s *Schema, o JSONOptions) (*JSONToAvro, error) {
	if o.MaxRowBytes == 0 {
		o.MaxRowBytes = MaxRowBytes
	}
	if o.MaxRowBytes < 0 || o.MaxRowBytes > 1<<30 || o.UnknownFields > Ignore {
		return nil, fmt.Errorf("schema: JSON options %+v: %w", o, record.ErrInvalid)
	}
	root, err := compileJSON("", &Field{Type: Type{Kind: Struct, Fields: s.Fields}})
	if err != nil {
		return nil, err
	}
	c := &JSONToAvro{root: root, options: o}
	c.pool.New = func() any { return &jsonRow{options: o} }
	return c, nil
}

// Row appends the Avro datum (without header) of the row src to dst. On an
// error, a *RowError, it returns dst as it was.
func (c *JSONToAvro) Row(dst, src []byte) ([]byte, error) {
	if len(src) > c.options.MaxRowBytes {
		return dst, &RowError{Code: CodeTooLarge, Got: fmt.Sprintf("%d bytes", len(src)),
			Expected: fmt.Sprintf("a row of at most %d bytes", c.options.MaxRowBytes)}
	}
	r := c.pool.Get().(*jsonRow)
	out, err := r.encode(c.root, dst, src)
	c.pool.Put(r)
	if err != nil {
		return dst, err
	}
	return out, nil
}

// jsonNode is the compiled form of a value's type.
type jsonNode struct {
	kind     Kind
	nullable bool
	typ      *Type
	lo, hi   int64       // integers and DATE
	part     *jsonNode   // ARRAY: element; MAP: value
	fields   []jsonField // STRUCT
	byName   map[string]int
}

type jsonField struct {
	jsonNode
	name   string
	quoted []byte // "name": as it begins the field in compact JSON
	// absent is the datum of a row that lacks the field, nil if it must not.
	absent []byte
}

func compileJSON(path string, f *Field) (*jsonNode, error) {
	n := &jsonNode{kind: f.Type.Kind, nullable: f.Nullable, typ: &f.Type}
	n.lo, n.hi = intRange(n.kind)
	var err error
	switch n.kind {
	case Array:
		n.part, err = compileJSON(join(path, "element"), f.Type.Element)
	case Map:
		n.part, err = compileJSON(join(path, "value"), f.Type.Value)
	case Struct:
		n.fields = make([]jsonField, len(f.Type.Fields))
		n.byName = make(map[string]int, len(f.Type.Fields))
		for i := range f.Type.Fields {
			if n.fields[i], err = compileJSONField(path, &f.Type.Fields[i]); err != nil {
				return nil, err
			}
			n.byName[n.fields[i].name] = i
		}
	}
	return n, err
}

func compileJSONField(path string, f *Field) (jsonField, error) {
	path = join(path, f.Name)
	n, err := compileJSON(path, f)
	if err != nil {
		return jsonField{}, err
	}
	out := jsonField{jsonNode: *n, name: f.Name}
	out.quoted = append(appendJSONString(nil, f.Name), ':')
	if f.Nullable || f.Default != nil {
		// With the program of this very field: compiling it anew for its
		// default would double the work at every level.
		out.absent, err = n.encodeDefault(path, f, Ignore)
	}
	return out, err
}

// field is the position of the field of that name, -1 if there is none.
func (n *jsonNode) field(name []byte) int {
	if i, ok := n.byName[string(name)]; ok {
		return i
	}
	return -1
}

// jsonRow is the scratch memory of one conversion at a time.
type jsonRow struct {
	options JSONOptions
	rowWriter
	fast      jsonScan
	reference jsonReference
}

// encode tries the fast scanner, which gives up at anything unusual, and
// then the reference, which alone decides what is an error.
func (r *jsonRow) encode(root *jsonNode, dst, src []byte) ([]byte, error) {
	start := len(dst)
	r.begin(dst, r.options.MaxRowBytes)
	if r.fast.row(&r.rowWriter, root, src, r.options.UnknownFields == Ignore) {
		return r.take(), nil
	}
	r.begin(dst[:start], r.options.MaxRowBytes)
	if err := r.reference.row(&r.rowWriter, root, src, r.options.UnknownFields == Ignore); err != nil {
		r.take()
		return nil, err
	}
	return r.take(), nil
}
