package predicate

import (
	"slices"
	"strings"

	"github.com/thermocline/thermocline/schema"
)

// Bound is a predicate bound to a schema: columns resolved, literals converted
// to their types. It is immutable and safe for concurrent use.
type Bound struct {
	root    term
	columns []Column
}

// Column is a column that a predicate needs.
type Column struct {
	Path  string // dotted, as in the schema
	ID    int    // field id
	Type  schema.Type
	names []string
}

// Columns are the columns that the predicate needs, each once.
func (b *Bound) Columns() []Column { return b.columns }

// term is a bound node: a junction or negation of terms, or a leaf.
type term struct {
	form  termForm
	terms []term
	leaf
}

type termForm uint8

const (
	allOf termForm = iota
	anyOf
	notOf
	leafTerm
)

// leaf is a test of one column.
type leaf struct {
	column int // in Bound.columns
	test   test
	value  Value   // compare
	values []Value // oneOf: sorted, distinct
	op     op
}

type test uint8

const (
	compareTo test = iota
	oneOf
	isNull
	never  // false for every value; null for null
	always // true for every value; null for null
)

// Bind resolves the predicate against s, whose fields need ids. System columns
// are columns like others when s has them. Elements of arrays and values of
// maps cannot be tested; IS NULL works on columns of every type. Errors are *Error.
func (e Expr) Bind(s *schema.Schema) (*Bound, error) {
	b := binder{schema: s, text: e.text, bound: new(Bound)}
	var err error
	b.bound.root, err = b.bind(e.root)
	if err != nil {
		return nil, err
	}
	return b.bound, nil
}

type binder struct {
	schema *schema.Schema
	text   string
	bound  *Bound
}

func (b *binder) fail(pos int, message string) error {
	return &Error{Text: b.text, Pos: pos, Message: message}
}

func (b *binder) bind(n node) (term, error) {
	switch n := n.(type) {
	case *junction:
		t := term{form: anyOf}
		if n.all {
			t.form = allOf
		}
		for _, k := range n.terms {
			bound, err := b.bind(k)
			if err != nil {
				return t, err
			}
			t.terms = append(t.terms, bound)
		}
		return t, nil
	case *negation:
		k, err := b.bind(n.term)
		return negate(k), err
	case *nullTest:
		col, err := b.column(n.column, true)
		t := term{form: leafTerm, leaf: leaf{column: col, test: isNull}}
		if n.negated {
			t = negate(t)
		}
		return t, err
	case *comparison:
		col, err := b.column(n.column, false)
		if err != nil {
			return term{}, err
		}
		t, err := b.comparison(col, n.op, n.value)
		return term{form: leafTerm, leaf: t}, err
	case *membership:
		col, err := b.column(n.column, false)
		if err != nil {
			return term{}, err
		}
		t, err := b.membership(col, n.values)
		if n.negated {
			t = negate(t)
		}
		return t, err
	}
	panic("predicate: the zero Expr cannot be bound")
}

func negate(t term) term { return term{form: notOf, terms: []term{t}} }

// column finds the column in the schema and notes it as needed.
func (b *binder) column(ref columnRef, nested bool) (int, error) {
	path := strings.Join(ref.path, ".")
	f, at, ok := b.schema.Lookup(path)
	if !ok {
		return 0, b.fail(ref.pos, "there is no column "+ref.String()+b.near(path))
	}
	fields := b.schema.Fields
	var names []string
	for i, k := range at {
		names = append(names, fields[k].Name)
		if t := &fields[k].Type; t.Kind == schema.Struct {
			fields = t.Fields
		} else if i < len(at)-1 {
			return 0, b.fail(ref.pos, "the parts of "+strings.Join(names, ".")+", which is "+t.Kind.String()+", cannot be tested in a predicate")
		}
	}
	if f.Type.Kind.Nested() && !nested {
		return 0, b.fail(ref.pos, ref.String()+" is "+f.Type.Kind.String()+"; only IS NULL and IS NOT NULL test it")
	}
	i := slices.IndexFunc(b.bound.columns, func(c Column) bool { return slices.Equal(c.names, names) })
	if i < 0 {
		i = len(b.bound.columns)
		b.bound.columns = append(b.bound.columns, Column{Path: path, ID: f.ID, Type: f.Type, names: names})
	}
	return i, nil
}

// near suggests the column that differs only in case.
func (b *binder) near(path string) string {
	for i := range b.schema.Fields {
		if n := b.schema.Fields[i].Name; strings.EqualFold(n, path) {
			return "; did you mean " + quoteName(n) + "?"
		}
	}
	return ""
}

func (b *binder) comparison(col int, o op, l literal) (leaf, error) {
	t := &b.bound.columns[col].Type
	p, err := place(t, l)
	if err != nil {
		return leaf{}, b.fail(l.pos, err.Error())
	}
	if t.Kind == schema.Boolean && o > ne {
		return leaf{}, b.fail(l.pos, "a BOOLEAN is neither less nor greater than another; use = or !=")
	}
	out := leaf{column: col, op: o, value: p.value}
	switch {
	case p.outside == 0 && !p.between:
		return out, nil
	case o == eq:
		out.test = never
	case o == ne:
		out.test = always
	case p.outside != 0:
		if (p.outside > 0) == (o == lt || o == le) {
			out.test = always
		} else {
			out.test = never
		}
	case o == lt || o == le: // between v and the next value: up to v
		out.op = le
	default:
		out.op = gt
	}
	return out, nil
}

func (b *binder) membership(col int, ls []literal) (term, error) {
	out := leaf{column: col, test: oneOf}
	for _, l := range ls {
		p, err := place(&b.bound.columns[col].Type, l)
		if err != nil {
			return term{}, b.fail(l.pos, err.Error())
		}
		if p.outside == 0 && !p.between { // no value of the type equals others
			out.values = append(out.values, p.value)
		}
	}
	slices.SortFunc(out.values, Value.compare)
	out.values = slices.CompactFunc(out.values, func(a, b Value) bool { return a.compare(b) == 0 })
	if len(out.values) == 0 {
		out.test = never
	}
	return term{form: leafTerm, leaf: out}, nil
}
