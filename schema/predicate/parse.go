package predicate

import (
	"strings"
	"unicode/utf8"
)

// Parse reads a predicate. Errors are *Error.
func Parse(where string) (Expr, error) {
	p := parser{lexer: lexer{text: where}}
	if len(where) > MaxText {
		return Expr{}, &Error{Text: where[:64], Pos: 0, Message: "the predicate is too long; split the read, or join with a table of values"}
	}
	if !utf8.ValidString(where) {
		return Expr{}, &Error{Message: "the predicate is not valid UTF-8"}
	}
	if err := p.advance(); err != nil {
		return Expr{}, err
	}
	root, err := p.or()
	if err != nil {
		return Expr{}, err
	}
	if p.tok.kind != end {
		return Expr{}, p.fail(p.tok.pos, "expected AND, OR or the end, got %s", p.tok)
	}
	return Expr{text: where, root: root}, nil
}

type parser struct {
	lexer
	tok   token
	depth int
}

func (p *parser) advance() error {
	t, err := p.next()
	p.tok = t
	return err
}

// accept skips the keyword if it comes next.
func (p *parser) accept(keyword string) (bool, error) {
	if !p.tok.is(keyword) {
		return false, nil
	}
	return true, p.advance()
}

func (p *parser) symbol(s string) (bool, error) {
	if p.tok.kind != symbol || p.tok.text != s {
		return false, nil
	}
	return true, p.advance()
}

func (p *parser) expect(s, where string) error {
	ok, err := p.symbol(s)
	if err == nil && !ok {
		err = p.fail(p.tok.pos, "expected %s %s, got %s", s, where, p.tok)
	}
	return err
}

func (p *parser) or() (node, error)  { return p.junction("OR", false, p.and) }
func (p *parser) and() (node, error) { return p.junction("AND", true, p.not) }

func (p *parser) junction(word string, all bool, term func() (node, error)) (node, error) {
	j := &junction{all: all}
	for {
		t, err := term()
		if err != nil {
			return nil, err
		}
		if inner, ok := t.(*junction); ok && inner.all == all {
			j.terms = append(j.terms, inner.terms...)
		} else {
			j.terms = append(j.terms, t)
		}
		more, err := p.accept(word)
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
	}
	if len(j.terms) == 1 {
		return j.terms[0], nil
	}
	return j, nil
}

func (p *parser) not() (node, error) {
	start := p.tok.pos
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > MaxDepth {
		return nil, p.fail(start, "nested deeper than %d levels", MaxDepth)
	}
	negated, err := p.accept("NOT")
	if err != nil {
		return nil, err
	}
	if negated {
		t, err := p.not()
		if err != nil {
			return nil, err
		}
		return &negation{term: t}, nil
	}
	open, err := p.symbol("(")
	if err != nil {
		return nil, err
	}
	if !open {
		return p.condition()
	}
	t, err := p.or()
	if err != nil {
		return nil, err
	}
	return t, p.expect(")", "to close the parenthesis")
}

func (p *parser) condition() (node, error) {
	col, err := p.column()
	if err != nil {
		return nil, err
	}
	if o, ok := ops[p.tok.text]; ok && p.tok.kind == symbol {
		if err := p.advance(); err != nil {
			return nil, err
		}
		v, err := p.literal()
		if err != nil {
			return nil, err
		}
		return &comparison{column: col, op: o, value: v}, nil
	}
	is, err := p.accept("IS")
	if err != nil {
		return nil, err
	}
	not, err := p.accept("NOT")
	if err != nil {
		return nil, err
	}
	if is {
		null, err := p.accept("NULL")
		if err == nil && !null {
			err = p.fail(p.tok.pos, "expected NULL after IS, got %s", p.tok)
		}
		return &nullTest{column: col, negated: not}, err
	}
	in, err := p.accept("IN")
	if err != nil {
		return nil, err
	}
	if !in {
		if not {
			return nil, p.fail(p.tok.pos, "expected IN after NOT, got %s", p.tok)
		}
		return nil, p.fail(p.tok.pos, "expected a comparison (= != < <= > >=), IN, or IS NULL after the column, got %s", p.tok)
	}
	vs, err := p.list()
	return &membership{column: col, negated: not, values: vs}, err
}

func (p *parser) list() ([]literal, error) {
	if err := p.expect("(", "after IN"); err != nil {
		return nil, err
	}
	var vs []literal
	for {
		v, err := p.literal()
		if err != nil {
			return nil, err
		}
		vs = append(vs, v)
		more, err := p.symbol(",")
		if err != nil {
			return nil, err
		}
		if !more {
			return vs, p.expect(")", "or a comma in the list")
		}
	}
}

func (p *parser) column() (columnRef, error) {
	c := columnRef{pos: p.tok.pos}
	for {
		if p.tok.kind != quotedName && (p.tok.kind != name || keyword(p.tok)) {
			return c, p.fail(p.tok.pos, "expected a column, got %s", p.tok)
		}
		c.path = append(c.path, p.tok.text)
		if err := p.advance(); err != nil {
			return c, err
		}
		dot, err := p.symbol(".")
		if err != nil {
			return c, err
		}
		if !dot {
			return c, nil
		}
	}
}

func keyword(t token) bool {
	switch strings.ToUpper(t.text) {
	case "AND", "OR", "NOT", "IN", "IS", "NULL", "TRUE", "FALSE":
		return true
	}
	return false
}

func (p *parser) literal() (literal, error) {
	v := literal{pos: p.tok.pos, text: p.tok.text}
	switch {
	case p.tok.kind == number:
		v.kind = numberLiteral
	case p.tok.kind == text:
		v.kind = textLiteral
	case p.tok.kind == blob:
		v.kind = binaryLiteral
	case p.tok.is("TRUE"), p.tok.is("FALSE"):
		v.kind, v.text = boolLiteral, strings.ToUpper(v.text)
	case p.tok.is("NULL"):
		return v, p.fail(v.pos, "nothing equals NULL; use IS NULL or IS NOT NULL")
	case p.tok.kind == name || p.tok.kind == quotedName:
		return v, p.fail(v.pos, `expected a value, got the name %s; texts need single quotes, as in 'a text'`, p.tok)
	default:
		return v, p.fail(v.pos, "expected a value, got %s", p.tok)
	}
	return v, p.advance()
}
