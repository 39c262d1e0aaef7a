package schema

import (
	"bytes"
	"encoding/binary"
	"math"
	"unicode/utf8"
)

// jsonScan converts rows as machines write them, without a tokenizer. At
// anything else (escapes, unusual numbers, ignored nested fields, damage) it gives
// up and the row goes to jsonReference: it never decides that a row is wrong,
// and what it accepts, the reference accepts with the same result, which
// FuzzJSONRow checks.
//
// Its methods take a position in src and return the one after what they read,
// or bad.
type jsonScan struct {
	*rowWriter
	src    []byte
	ignore bool
	names  [][]byte // of maps being read and of ignored fields, to find repetitions
}

// maxScannedNames bounds the linear search for repeated keys.
const maxScannedNames = 16

func (p *jsonScan) row(w *rowWriter, root *jsonNode, src []byte, ignoreUnknown bool) bool {
	p.rowWriter, p.src, p.ignore, p.names = w, src, ignoreUnknown, p.names[:0]
	i := p.space(0)
	ok := i < len(src) && src[i] == '{'
	if ok {
		i = p.object(root, i+1)
		ok = i >= 0 && p.space(i) == len(src) && !p.tooLarge()
	}
	p.rowWriter, p.src = nil, nil
	clear(p.names[:cap(p.names)])
	return ok
}

// space skips white space.
func (p *jsonScan) space(i int) int {
	for i < len(p.src) && (p.src[i] == ' ' || p.src[i] == '\n' || p.src[i] == '\t' || p.src[i] == '\r') {
		i++
	}
	return i
}

// object reads a struct from behind its brace.
func (p *jsonScan) object(n *jsonNode, i int) int {
	o := p.open(n)
	names := len(p.names)
	src := p.src
	if i = p.space(i); i < len(src) && src[i] == '}' {
		return p.endObject(&o, n, i+1)
	}
	for {
		f := o.next
		if f < len(n.fields) && len(src)-i > len(n.fields[f].quoted) && string(src[i:i+len(n.fields[f].quoted)]) == string(n.fields[f].quoted) {
			i += len(n.fields[f].quoted)
		} else {
			var name []byte
			if name, i = p.key(i); i < 0 {
				return bad
			}
			if f = n.field(name); f < 0 {
				if i = p.ignored(name, names, i); i < 0 {
					return bad
				}
				goto delimiter
			}
		}
		if !p.field(&o, n, f) {
			return bad
		}
		if i = p.value(&n.fields[f].jsonNode, i); i < 0 {
			return bad
		}
		p.fieldDone(&o, f)
	delimiter:
		if i < len(src) && src[i] <= ' ' {
			i = p.space(i)
		}
		if i >= len(src) {
			return bad
		}
		switch src[i] {
		case ',':
			if i++; i < len(src) && src[i] <= ' ' {
				i = p.space(i)
			}
		case '}':
			p.names = p.names[:names]
			return p.endObject(&o, n, i+1)
		default:
			return bad
		}
	}
}

func (p *jsonScan) endObject(o *openStruct, n *jsonNode, i int) int {
	if p.close(o, n) >= 0 || p.tooLarge() {
		return bad
	}
	return i
}

// key reads a name and its colon.
func (p *jsonScan) key(i int) ([]byte, int) {
	name, i := p.text(i)
	if i < 0 {
		return nil, bad
	}
	if i = p.space(i); i >= len(p.src) || p.src[i] != ':' {
		return nil, bad
	}
	return name, i + 1
}

// unseen notes a name; false if it stood among those from position first, or
// if there are too many to look through.
func (p *jsonScan) unseen(name []byte, first int) bool {
	if len(p.names)-first >= maxScannedNames {
		return false
	}
	for _, s := range p.names[first:] {
		if bytes.Equal(s, name) {
			return false
		}
	}
	p.names = append(p.names, name)
	return true
}

// ignored skips a plain value of an unknown field.
func (p *jsonScan) ignored(name []byte, first, i int) int {
	if !p.ignore || !p.unseen(name, first) {
		return bad
	}
	if i = p.space(i); i >= len(p.src) {
		return bad
	}
	switch c := p.src[i]; {
	case c == '"':
		_, i = p.text(i)
		return i
	case c == '-' || isDigit(c):
		t, end := p.number(i)
		if _, ok := scanNumber(t); !ok {
			return bad
		}
		return end
	case c == 'n':
		return p.literal(i, "null")
	case c == 't':
		return p.literal(i, "true")
	case c == 'f':
		return p.literal(i, "false")
	}
	return bad
}

func (p *jsonScan) literal(i int, text string) int {
	if len(p.src)-i < len(text) || string(p.src[i:i+len(text)]) != text {
		return bad
	}
	return i + len(text)
}

func (p *jsonScan) value(n *jsonNode, i int) int {
	src := p.src
	if i < len(src) && src[i] <= ' ' {
		i = p.space(i)
	}
	if i >= len(src) {
		return bad
	}
	c := src[i]
	if n.nullable {
		if c == 'n' {
			p.dst = append(p.dst, 0)
			return p.literal(i, "null")
		}
		p.dst = append(p.dst, 2)
	}
	switch n.kind {
	case Boolean:
		if c == 't' {
			p.dst = append(p.dst, 1)
			return p.literal(i, "true")
		}
		p.dst = append(p.dst, 0)
		return p.literal(i, "false")
	case Byte, Short, Integer, Long:
		return p.integer(n, i)
	case Float, Double:
		return p.float(n, i)
	case Decimal:
		return p.decimal(n, i)
	case String:
		return p.string(i)
	case Binary:
		return p.binary(i)
	case Date:
		if c == '"' {
			return p.date(i)
		}
		return p.integer(n, i)
	case Timestamp:
		if c == '"' {
			return p.timestamp(i)
		}
		return p.millis(n, i)
	case Array:
		if c == '[' {
			return p.array(n, i+1)
		}
	case Map:
		if c == '{' {
			return p.mapping(n, i+1)
		}
	case Struct:
		if c == '{' {
			return p.object(n, i+1)
		}
	}
	return bad
}

// text reads a string without escapes and returns what is between its quotes.
func (p *jsonScan) text(i int) ([]byte, int) {
	src := p.src
	if i >= len(src) || src[i] != '"' {
		return nil, bad
	}
	i++
	start := i
	var high uint64 // bit 7 is set if a byte is not ASCII
	for len(src)-i >= 8 {
		v := binary.LittleEndian.Uint64(src[i:])
		quote, slash := v^0x2222222222222222, v^0x5c5c5c5c5c5c5c5c
		// The top bit of a byte is set where it is a quote, a backslash or
		// a control character; a borrow can set it in later bytes only.
		stop := ((quote-0x0101010101010101)&^quote | (slash-0x0101010101010101)&^slash | (v-0x2020202020202020)&^v) & 0x8080808080808080
		if stop != 0 {
			break
		}
		high |= v
		i += 8
	}
	for i < len(src) {
		c := src[i]
		if c == '"' {
			if high&0x8080808080808080 != 0 && !utf8.Valid(src[start:i]) {
				return nil, bad
			}
			return src[start:i], i + 1
		}
		if c == '\\' || c < ' ' {
			return nil, bad
		}
		high |= uint64(c)
		i++
	}
	return nil, bad
}

func (p *jsonScan) string(i int) int {
	t, i := p.text(i)
	if i < 0 {
		return bad
	}
	p.appendLength(len(t))
	p.dst = append(p.dst, t...)
	return i
}

func (p *jsonScan) binary(i int) int {
	t, i := p.text(i)
	if i < 0 {
		return bad
	}
	var ok bool
	if p.dst, ok = appendBase64(p.dst, t); !ok {
		return bad
	}
	return i
}

func (p *jsonScan) date(i int) int {
	t, i := p.text(i)
	days, fault := parseDate(t)
	if i < 0 || fault != timeFits {
		return bad
	}
	p.dst = appendLong(p.dst, days)
	return i
}

func (p *jsonScan) timestamp(i int) int {
	t, i := p.text(i)
	micros, fault := parseTimestamp(t)
	if i < 0 || fault != timeFits {
		return bad
	}
	p.dst = appendLong(p.dst, micros)
	return i
}

// number finds the end of what may be a number.
func (p *jsonScan) number(i int) ([]byte, int) {
	start := i
	for ; i < len(p.src); i++ {
		c := p.src[i]
		if !isDigit(c) && c != '.' && c|0x20 != 'e' && c != '-' && c != '+' {
			break
		}
	}
	return p.src[start:i], i
}

// plainInt reads an integer of at most 18 digits.
func (p *jsonScan) plainInt(i int) (v int64, next int) {
	src := p.src
	negative := i < len(src) && src[i] == '-'
	if negative {
		i++
	}
	start := i
	for ; i < len(src) && isDigit(src[i]); i++ {
		v = v*10 + int64(src[i]-'0')
		if i-start >= 18 {
			return 0, bad
		}
	}
	if i == start || src[start] == '0' && i > start+1 || i < len(src) && (src[i] == '.' || src[i]|0x20 == 'e') {
		return 0, bad
	}
	if negative {
		v = -v
	}
	return v, i
}

func (p *jsonScan) integer(n *jsonNode, i int) int {
	v, i := p.plainInt(i)
	if i < 0 || v < n.lo || v > n.hi {
		return bad
	}
	p.dst = appendLong(p.dst, v)
	return i
}

func (p *jsonScan) millis(n *jsonNode, i int) int {
	v, i := p.plainInt(i)
	if i < 0 || v < n.lo/1000 || v > n.hi/1000 {
		return bad
	}
	p.dst = appendLong(p.dst, v*1000)
	return i
}

// float reads numbers of at most 15 digits and 22 decimals by one exact
// division, which rounds like the nearest value of the text (Clinger), and
// others with strconv.
func (p *jsonScan) float(n *jsonNode, i int) int {
	src, start := p.src, i
	negative := i < len(src) && src[i] == '-'
	if negative {
		i++
	}
	first := i
	m, decimals := int64(0), 0
	for ; i < len(src) && isDigit(src[i]); i++ {
		m = m*10 + int64(src[i]-'0')
	}
	whole := i - first
	if whole == 0 || src[first] == '0' && whole > 1 {
		return bad
	}
	if i < len(src) && src[i] == '.' {
		point := i
		for i++; i < len(src) && isDigit(src[i]); i++ {
			m = m*10 + int64(src[i]-'0')
		}
		if decimals = i - point - 1; decimals == 0 {
			return bad
		}
	}
	if n.kind == Double && whole+decimals <= 15 && (i >= len(src) || src[i]|0x20 != 'e') {
		f := float64(m) / exactPow10[decimals]
		if negative {
			f = -f
		}
		p.dst = binary.LittleEndian.AppendUint64(p.dst, math.Float64bits(f))
		return i
	}
	text, i := p.number(start)
	size := 64
	if n.kind == Float {
		size = 32
	}
	f, fault := parseFloat(text, size)
	if fault != fits {
		return bad
	}
	if n.kind == Float {
		p.dst = binary.LittleEndian.AppendUint32(p.dst, math.Float32bits(float32(f)))
	} else {
		p.dst = binary.LittleEndian.AppendUint64(p.dst, math.Float64bits(f))
	}
	return i
}

// decimal reads a number, in quotes or not.
func (p *jsonScan) decimal(n *jsonNode, i int) int {
	var text []byte
	if i < len(p.src) && p.src[i] == '"' {
		text, i = p.text(i)
	} else {
		text, i = p.number(i)
	}
	if i < 0 {
		return bad
	}
	hi, lo, fault := scaledInt(text, n.typ.Scale)
	if fault != fits || !withinPrecision(hi, lo, n.typ.Precision) {
		return bad
	}
	p.dst = appendDecimal(p.dst, hi, lo)
	return i
}

func (p *jsonScan) array(n *jsonNode, i int) int {
	at, count := p.openBlock(), 0
	if i = p.space(i); i < len(p.src) && p.src[i] == ']' {
		return i + 1
	}
	for {
		if i = p.value(n.part, i); i < 0 {
			return bad
		}
		count++
		if i = p.space(i); i >= len(p.src) {
			return bad
		}
		switch p.src[i] {
		case ',':
			i++
		case ']':
			p.closeBlock(at, count)
			return i + 1
		default:
			return bad
		}
	}
}

func (p *jsonScan) mapping(n *jsonNode, i int) int {
	at, count := p.openBlock(), 0
	first := len(p.names)
	if i = p.space(i); i < len(p.src) && p.src[i] == '}' {
		return i + 1
	}
	for {
		name, next := p.key(p.space(i))
		if next < 0 || !p.unseen(name, first) {
			return bad
		}
		p.appendLength(len(name))
		p.dst = append(p.dst, name...)
		if i = p.value(n.part, next); i < 0 {
			return bad
		}
		count++
		if i = p.space(i); i >= len(p.src) {
			return bad
		}
		switch p.src[i] {
		case ',':
			i++
		case '}':
			p.names = p.names[:first]
			p.closeBlock(at, count)
			return i + 1
		default:
			return bad
		}
	}
}
