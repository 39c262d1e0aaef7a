package schema

import (
	"fmt"
	"math"
	"strings"

	"github.com/twmb/avro"

	"github.com/thermocline/thermocline/record"
)

// avroKind is a type of Avro's own, as it lies on the wire.
type avroKind uint8

const (
	avroNull avroKind = iota + 1
	avroBoolean
	avroInt
	avroLong
	avroFloat
	avroDouble
	avroBytes
	avroString
	avroFixed
	avroEnum
	avroArray
	avroMap
	avroRecord
	avroUnion
)

var avroKinds = map[string]avroKind{
	"null": avroNull, "boolean": avroBoolean, "int": avroInt, "long": avroLong, "float": avroFloat,
	"double": avroDouble, "bytes": avroBytes, "string": avroString, "fixed": avroFixed, "enum": avroEnum,
	"array": avroArray, "map": avroMap, "record": avroRecord, "error": avroRecord, "union": avroUnion,
}

// avroType is an .avsc type with its references resolved. Named types that are
// referred to more than once are shared; there are no cycles.
type avroType struct {
	name             string
	kind             avroKind
	logical          string
	precision, scale int
	size             int // fixed
	symbols          []string
	part             *avroType // array, map
	branches         []*avroType
	fields           []avroField
	props            map[string]any
}

type avroField struct {
	name       string // as the user knows it
	avroName   string
	typ        *avroType
	doc        string
	hasDefault bool
	fallback   any // the default, in twmb/avro's Go types
	props      map[string]any
}

// parseAvro reads .avsc text whose type is a record.
func parseAvro(avsc []byte) (*avroType, error) {
	if len(avsc) > MaxSchemaBytes {
		return nil, fmt.Errorf("avro schema: text of %d bytes; the limit is %d: %w", len(avsc), MaxSchemaBytes, record.ErrTooLarge)
	}
	s, err := avro.Parse(string(avsc))
	if err != nil {
		return nil, fmt.Errorf("avro schema: %w: %w", err, record.ErrInvalid)
	}
	p := avroParser{named: map[string]*avroType{}}
	t, err := p.parse("", "", s.Root(), 1)
	if err != nil {
		return nil, err
	}
	if t.kind != avroRecord {
		return nil, fmt.Errorf("avro schema: is %s; a row is a record: %w", t.name, record.ErrInvalid)
	}
	return t, nil
}

type avroParser struct {
	// named holds the types by full name; nil while one is being parsed.
	named map[string]*avroType
}

func (p *avroParser) parse(path, namespace string, n *avro.SchemaNode, depth int) (*avroType, error) {
	if depth > 2*MaxDepth { // unions and records each count
		return nil, invalidf(path, "is nested deeper than %d levels; flatten the schema", MaxDepth)
	}
	kind, ok := avroKinds[n.Type]
	if !ok {
		return p.reference(path, namespace, n)
	}
	t := &avroType{name: n.Type, kind: kind, logical: n.LogicalType, precision: n.Precision, scale: n.Scale,
		size: n.Size, symbols: n.Symbols, props: n.Props}
	full := ""
	if kind == avroRecord || kind == avroEnum || kind == avroFixed {
		full, namespace = fullName(n)
		p.named[full] = nil
	}
	var err error
	switch kind {
	case avroArray:
		t.part, err = p.parse(join(path, "element"), namespace, n.Items, depth+1)
	case avroMap:
		t.part, err = p.parse(join(path, "value"), namespace, n.Values, depth+1)
	case avroUnion:
		t.branches = make([]*avroType, len(n.Branches))
		for i := range n.Branches {
			if t.branches[i], err = p.parse(path, namespace, &n.Branches[i], depth+1); err != nil {
				return nil, err
			}
		}
	case avroRecord:
		err = p.fields(path, namespace, n, t, depth)
	}
	if err != nil {
		return nil, err
	}
	if full != "" {
		p.named[full] = t
	}
	return t, nil
}

func (p *avroParser) fields(path, namespace string, n *avro.SchemaNode, t *avroType, depth int) error {
	t.fields = make([]avroField, len(n.Fields))
	for i := range n.Fields {
		f := &n.Fields[i]
		name := f.Name
		if original, ok := f.Props[attrName].(string); ok {
			name = original
		}
		typ, err := p.parse(join(path, name), namespace, &f.Type, depth+1)
		if err != nil {
			return err
		}
		t.fields[i] = avroField{name: name, avroName: f.Name, typ: typ, doc: f.Doc, hasDefault: f.HasDefault, fallback: f.Default, props: f.Props}
	}
	return nil
}

// fullName returns the full name and the namespace of a named type.
func fullName(n *avro.SchemaNode) (full, namespace string) {
	if i := strings.LastIndexByte(n.Name, '.'); i >= 0 {
		return n.Name, n.Name[:i]
	}
	if n.Namespace == "" {
		return n.Name, ""
	}
	return n.Namespace + "." + n.Name, n.Namespace
}

func (p *avroParser) reference(path, namespace string, n *avro.SchemaNode) (*avroType, error) {
	name := n.Type
	t, ok := p.named[name]
	if namespace != "" && !strings.Contains(name, ".") {
		if inner, found := p.named[namespace+"."+name]; found {
			t, ok = inner, true
		}
	}
	if !ok {
		return nil, invalidf(path, "refers to %q, which is not defined before it", excerpt(name))
	}
	if t == nil {
		return nil, invalidf(path, "is of the type %q that contains it; recursive types cannot be columns: use STRING and store JSON, or flatten it", excerpt(name))
	}
	return t, nil
}

// intProp is an attribute that is an id or another int; 0 if it is none.
func intProp(props map[string]any, name string) int {
	if v, ok := props[name].(int64); ok && v > 0 && v <= math.MaxInt32 {
		return int(v)
	}
	return 0
}

// optional splits a union with null into the other branch and the wire's
// branch number of null. A type that is no union is not nullable.
func (t *avroType) optional(path string) (inner *avroType, null int, err error) {
	if t.kind != avroUnion {
		return t, -1, nil
	}
	null = -1
	for i, b := range t.branches {
		switch {
		case b.kind == avroNull:
			null = i
		case inner == nil:
			inner = b
		default:
			return nil, 0, invalidf(path, "is a union of %s and %s; only a union of null and one type can be a column: give each type a field of its own", inner.name, b.name)
		}
	}
	if inner == nil {
		return nil, 0, invalidf(path, "can only be null; leave it out, or give it a type")
	}
	return inner, null, nil
}
