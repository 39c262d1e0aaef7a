package predicate

import (
	"fmt"
	"strings"
)

// Expr is a parsed predicate, not yet bound to a schema. It is immutable.
type Expr struct {
	text string
	root node
}

// String prints the predicate in a normal form that parses to the same one.
func (e Expr) String() string {
	var b strings.Builder
	if e.root != nil {
		e.root.print(&b)
	}
	return b.String()
}

// node is one of *junction, *negation, *comparison, *membership, *nullTest.
type node interface{ print(*strings.Builder) }

// junction is AND (all) or OR of at least two terms, none of them a junction
// of the same sort.
type junction struct {
	all   bool
	terms []node
}

type negation struct{ term node }

type comparison struct {
	column columnRef
	op     op
	value  literal
}

type membership struct {
	column  columnRef
	negated bool
	values  []literal
}

type nullTest struct {
	column  columnRef
	negated bool
}

type columnRef struct {
	pos  int
	path []string
}

type literal struct {
	pos  int
	kind literalKind
	// text is the number as written, or the decoded text or binary, or TRUE or FALSE.
	text string
}

type literalKind uint8

const (
	numberLiteral literalKind = iota
	textLiteral
	binaryLiteral
	boolLiteral
)

type op uint8

const (
	eq op = iota
	ne
	lt
	le
	gt
	ge
)

func (o op) String() string { return [...]string{"=", "!=", "<", "<=", ">", ">="}[o] }

var ops = map[string]op{"=": eq, "==": eq, "!=": ne, "<>": ne, "<": lt, "<=": le, ">": gt, ">=": ge}

func (j *junction) print(b *strings.Builder) {
	for i, t := range j.terms {
		if i > 0 {
			b.WriteString(map[bool]string{true: " AND ", false: " OR "}[j.all])
		}
		if _, nested := t.(*junction); nested && j.all {
			b.WriteByte('(')
			t.print(b)
			b.WriteByte(')')
		} else {
			t.print(b)
		}
	}
}

func (n *negation) print(b *strings.Builder) {
	b.WriteString("NOT ")
	if _, nested := n.term.(*junction); nested {
		b.WriteByte('(')
		n.term.print(b)
		b.WriteByte(')')
		return
	}
	n.term.print(b)
}

func (c *comparison) print(b *strings.Builder) {
	fmt.Fprintf(b, "%s %s %s", c.column, c.op, c.value)
}

func (m *membership) print(b *strings.Builder) {
	b.WriteString(m.column.String())
	if m.negated {
		b.WriteString(" NOT")
	}
	b.WriteString(" IN (")
	for i, v := range m.values {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(v.String())
	}
	b.WriteByte(')')
}

func (n *nullTest) print(b *strings.Builder) {
	b.WriteString(n.column.String())
	if n.negated {
		b.WriteString(" IS NOT NULL")
	} else {
		b.WriteString(" IS NULL")
	}
}

func (c columnRef) String() string {
	parts := make([]string, len(c.path))
	for i, p := range c.path {
		parts[i] = quoteName(p)
	}
	return strings.Join(parts, ".")
}

// quoteName puts quotes around a name that would not be read as one.
func quoteName(s string) string {
	l := lexer{text: s}
	if t, err := l.next(); err == nil && t.kind == name && t.text == s && !keyword(t) {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}

func (l literal) String() string {
	switch l.kind {
	case textLiteral:
		return "'" + strings.ReplaceAll(l.text, "'", "''") + "'"
	case binaryLiteral:
		return fmt.Sprintf("X'%X'", l.text)
	}
	return l.text
}
