package predicate

import (
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/thermocline/thermocline/record"
)

// Limits of a predicate's text. The depth counts parentheses and NOTs.
const (
	MaxText  = 64 << 10
	MaxDepth = 100
)

// Error is a predicate that cannot be understood, or that does not fit the
// schema. It is ErrInvalid.
type Error struct {
	Text    string
	Pos     int // byte in Text
	Message string
}

func (e *Error) Unwrap() error { return record.ErrInvalid }

// Error gives the message, the character (counted from 1) and, on two further
// lines, the place in the text with a caret below it.
func (e *Error) Error() string {
	const before, after = 40, 30
	start, end := max(0, e.Pos-before), min(len(e.Text), e.Pos+after)
	for start < e.Pos && !utf8.RuneStart(e.Text[start]) {
		start++
	}
	for end < len(e.Text) && !utf8.RuneStart(e.Text[end]) {
		end--
	}
	lead, trail := "", ""
	if start > 0 {
		lead = "…"
	}
	if end < len(e.Text) {
		trail = "…"
	}
	oneLine := strings.NewReplacer("\n", " ", "\r", " ", "\t", " ").Replace
	head := lead + oneLine(e.Text[start:e.Pos])
	return fmt.Sprintf("where: character %d: %s\n  %s%s%s\n  %s^", utf8.RuneCountInString(e.Text[:e.Pos])+1, e.Message,
		head, oneLine(e.Text[e.Pos:end]), trail, strings.Repeat(" ", utf8.RuneCountInString(head)))
}

type tokenKind uint8

const (
	end tokenKind = iota
	name
	quotedName
	number
	text
	blob
	symbol
)

type token struct {
	kind tokenKind
	pos  int
	// text is the name, the number as written, the decoded text or binary,
	// the symbol.
	text string
}

// is tells whether t is the keyword.
func (t token) is(keyword string) bool { return t.kind == name && strings.EqualFold(t.text, keyword) }

func (t token) String() string {
	switch t.kind {
	case end:
		return "the end"
	case text:
		return "a text"
	case blob:
		return "a binary"
	}
	if len(t.text) > 40 {
		return "a long " + map[tokenKind]string{name: "name", quotedName: "name", number: "number"}[t.kind]
	}
	return t.text
}

type lexer struct {
	text string
	pos  int
}

func (l *lexer) fail(pos int, format string, args ...any) error {
	return &Error{Text: l.text, Pos: pos, Message: fmt.Sprintf(format, args...)}
}

func (l *lexer) next() (token, error) {
	for l.pos < len(l.text) && strings.IndexByte(" \t\r\n", l.text[l.pos]) >= 0 {
		l.pos++
	}
	t := token{pos: l.pos}
	if l.pos == len(l.text) {
		return t, nil
	}
	rest := l.text[l.pos:]
	c := rest[0]
	r, _ := utf8.DecodeRuneInString(rest)
	var err error
	switch {
	case (c == 'x' || c == 'X') && len(rest) > 1 && rest[1] == '\'':
		l.pos++
		t.kind = blob
		if t.text, err = l.quoted('\''); err == nil {
			t.text, err = l.unhex(t)
		}
	case c == '\'':
		t.kind = text
		t.text, err = l.quoted('\'')
	case c == '"':
		t.kind = quotedName
		t.text, err = l.quoted('"')
		if err == nil && t.text == "" {
			err = l.fail(t.pos, "a name between quotes is empty")
		}
	case nameStart(r):
		t.kind = name
		t.text = rest[:prefixLen(rest, func(r rune) bool { return nameStart(r) || unicode.IsDigit(r) })]
		l.pos += len(t.text)
	case c >= '0' && c <= '9', c == '-', c == '+', c == '.' && len(rest) > 1 && isDigit(rest[1]):
		t.kind = number
		t.text, err = l.number(rest)
		l.pos += len(t.text)
	default:
		t.kind = symbol
		t.text, err = l.symbol(rest)
		l.pos += len(t.text)
	}
	return t, err
}

func nameStart(r rune) bool { return r == '_' || unicode.IsLetter(r) }
func isDigit(c byte) bool   { return c >= '0' && c <= '9' }

func prefixLen(s string, ok func(rune) bool) int {
	for i, r := range s {
		if !ok(r) {
			return i
		}
	}
	return len(s)
}

// quoted reads from the opening quote to the closing one; a doubled quote
// stands for itself.
func (l *lexer) quoted(q byte) (string, error) {
	start := l.pos
	var b strings.Builder
	for i := start + 1; i < len(l.text); i++ {
		if l.text[i] != q {
			b.WriteByte(l.text[i])
			continue
		}
		if i+1 < len(l.text) && l.text[i+1] == q {
			b.WriteByte(q)
			i++
			continue
		}
		l.pos = i + 1
		return b.String(), nil
	}
	return "", l.fail(start, "this quote is never closed; a quote inside is written twice")
}

func (l *lexer) unhex(t token) (string, error) {
	b, err := hex.DecodeString(t.text)
	if err != nil {
		return "", l.fail(t.pos, "a binary is written as pairs of hexadecimal digits, as in X'00ff'")
	}
	return string(b), nil
}

// number reads [+-] digits [. digits] [e [+-] digits].
func (l *lexer) number(s string) (string, error) {
	i := 0
	if s[0] == '-' || s[0] == '+' {
		i++
	}
	digits := func() (n int) {
		for i < len(s) && isDigit(s[i]) {
			i++
			n++
		}
		return n
	}
	n := digits()
	if i < len(s) && s[i] == '.' {
		i++
		n += digits()
	}
	if n == 0 {
		return "", l.fail(l.pos, "expected a number")
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '-' || s[i] == '+') {
			i++
		}
		if digits() == 0 {
			return "", l.fail(l.pos, "the exponent of this number has no digits")
		}
	}
	if r, _ := utf8.DecodeRuneInString(s[i:]); i < len(s) && (nameStart(r) || r == '.') {
		return "", l.fail(l.pos, "this number goes on with %q; texts need quotes, as in '1a'", r)
	}
	return s[:i], nil
}

func (l *lexer) symbol(s string) (string, error) {
	for _, op := range [...]string{"==", "!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", ",", "."} {
		if strings.HasPrefix(s, op) {
			return op, nil
		}
	}
	r, _ := utf8.DecodeRuneInString(s)
	return "", l.fail(l.pos, "unexpected character %q", r)
}
