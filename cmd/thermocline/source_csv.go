package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/thermocline/thermocline/schema"
)

// cell is a value of a CSV record. Quoted tells an empty string from nothing.
type cell struct {
	text   []byte
	quoted bool
}

// csvReader reads RFC 4180 records, with \n or \r\n. encoding/csv does not tell
// "" from nothing, which here is the difference between text and null.
type csvReader struct {
	r     *bufio.Reader
	comma byte
	line  int // of the last record's first line, from 1
	lines int
	buf   []byte
	spans []span
	cells []cell
}

// span is where a value lies in the record, without its quotes.
type span struct {
	start, end int
	quoted     bool
}

// next returns the cells of the next record, valid until the next call. Blank
// lines are left out.
func (c *csvReader) next() ([]cell, error) {
	for {
		var err error
		if c.buf, err = appendLine(c.buf[:0], c.r); err != nil && err != io.EOF {
			return nil, fmt.Errorf("line %d: %w", c.lines+1, err)
		}
		c.lines++
		c.line = c.lines
		if !blank(c.buf) {
			return c.record()
		}
		if err == io.EOF {
			return nil, io.EOF
		}
	}
}

func (c *csvReader) record() ([]cell, error) {
	c.spans = c.spans[:0]
	pos := 0
	for {
		v := span{start: pos}
		if pos < len(c.buf) && c.buf[pos] == '"' {
			end, err := c.quotedEnd(pos + 1)
			if err != nil {
				return nil, err
			}
			v = span{pos + 1, end, true}
			pos = end + 1
			if pos < len(c.buf) && c.buf[pos] != c.comma && c.buf[pos] != '\n' && c.buf[pos] != '\r' {
				return nil, fmt.Errorf("line %d: text behind a closing quote; quotes inside a quoted value are doubled", c.line)
			}
		} else {
			for pos < len(c.buf) && c.buf[pos] != c.comma && c.buf[pos] != '\n' {
				pos++
			}
			v.end = pos
			if (pos == len(c.buf) || c.buf[pos] == '\n') && v.end > v.start && c.buf[v.end-1] == '\r' {
				v.end--
			}
		}
		c.spans = append(c.spans, v)
		if pos >= len(c.buf) || c.buf[pos] != c.comma {
			break
		}
		pos++
	}
	c.cells = c.cells[:0]
	for _, v := range c.spans {
		text := c.buf[v.start:v.end]
		if v.quoted && bytes.Contains(text, []byte(`""`)) {
			text = bytes.ReplaceAll(text, []byte(`""`), []byte(`"`))
		}
		c.cells = append(c.cells, cell{text, v.quoted})
	}
	return c.cells, nil
}

// quotedEnd returns the position of the closing quote, reading more lines as
// needed.
func (c *csvReader) quotedEnd(pos int) (int, error) {
	for {
		for ; pos < len(c.buf); pos++ {
			if c.buf[pos] != '"' {
				continue
			}
			if pos+1 >= len(c.buf) || c.buf[pos+1] != '"' {
				return pos, nil
			}
			pos++
		}
		if len(c.buf) > maxLine {
			return 0, fmt.Errorf("line %d: a quoted value does not end within %d bytes", c.line, maxLine)
		}
		before := len(c.buf)
		var err error
		if c.buf, err = appendLine(c.buf, c.r); err != nil && err != io.EOF {
			return 0, fmt.Errorf("line %d: %w", c.line, err)
		}
		if len(c.buf) == before {
			return 0, fmt.Errorf("line %d: a quoted value does not end", c.line)
		}
		c.lines++
	}
}

// csvSource makes JSON rows of CSV records, typed by the stream's schema.
type csvSource struct {
	r      csvReader
	fields []csvField
	rows   int64
}

// csvField is a column of the file.
type csvField struct {
	name     []byte // as a JSON name with its colon
	kind     schema.Kind
	nullable bool
	unknown  bool // the schema has no such field
}

func newCSVSource(in *input, s *schema.Schema) (*csvSource, error) {
	src := &csvSource{r: csvReader{r: in.r, comma: in.comma}}
	head, err := src.r.header()
	if err != nil {
		return nil, err
	}
	for _, name := range head {
		f := csvField{unknown: true}
		if f.name, err = jsontext.AppendQuote(nil, name); err != nil {
			return nil, fmt.Errorf("the header line: name %q is not UTF-8", name)
		}
		f.name = append(f.name, ':')
		for i := range s.Fields {
			if s.Fields[i].Name == name {
				f.kind, f.nullable, f.unknown = s.Fields[i].Type.Kind, s.Fields[i].Nullable, false
			}
		}
		src.fields = append(src.fields, f)
	}
	return src, nil
}

// header reads the names of the columns.
func (c *csvReader) header() ([]string, error) {
	if bom, _ := c.r.Peek(3); string(bom) == "\uFEFF" {
		_, _ = c.r.Discard(3)
	}
	cells, err := c.next()
	if err == io.EOF {
		return nil, errors.New("the file is empty; a CSV file begins with a line of column names")
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, len(cells))
	for i, v := range cells {
		if names[i] = strings.TrimSpace(string(v.text)); names[i] == "" {
			return nil, fmt.Errorf("the header line: column %d has no name", i+1)
		}
	}
	return names, nil
}

func (s *csvSource) next(context.Context) (batch, error) {
	b := batch{contentType: "application/x-ndjson", first: s.rows, body: make([]byte, 0, batchBytes+4096)}
	for b.rows < batchRows && len(b.body) < batchBytes {
		cells, err := s.r.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return batch{}, err
		}
		if len(cells) != len(s.fields) {
			return batch{}, fmt.Errorf("line %d: %d values, the header has %d names", s.r.line, len(cells), len(s.fields))
		}
		b.body = s.appendRow(b.body, cells)
		b.rows++
		s.rows++
	}
	if b.rows == 0 {
		return batch{}, io.EOF
	}
	return b, nil
}

func (s *csvSource) appendRow(dst []byte, cells []cell) []byte {
	dst = append(dst, '{')
	for i := range cells {
		f, v := &s.fields[i], cells[i]
		if len(v.text) == 0 && !v.quoted && !f.nullable && !f.unknown && f.kind != schema.String {
			continue // nothing: the field's default, or the server says that it is missing
		}
		if dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = append(dst, f.name...)
		dst = f.appendValue(dst, v)
	}
	return append(dst, '}', '\n')
}

func (f *csvField) appendValue(dst []byte, v cell) []byte {
	if len(v.text) == 0 && !v.quoted {
		if f.nullable || f.unknown {
			return append(dst, "null"...)
		}
		return append(dst, `""`...)
	}
	switch f.kind {
	case schema.Byte, schema.Short, schema.Integer, schema.Long, schema.Float, schema.Double, schema.Decimal, schema.Date, schema.Timestamp:
		if t := bytes.TrimSpace(v.text); isNumber(t) {
			return append(dst, t...)
		}
	case schema.Boolean:
		switch t := strings.ToLower(string(bytes.TrimSpace(v.text))); t {
		case "true", "false":
			return append(dst, t...)
		}
	case schema.Array, schema.Map, schema.Struct:
		if jsontext.Value(v.text).IsValid() {
			return appendOneLine(dst, v.text)
		}
	}
	return appendText(dst, v.text)
}

// appendText appends a JSON string. Text that is not UTF-8 goes as it is, so
// that the server refuses the row and names it.
func appendText(dst, text []byte) []byte {
	if !utf8.Valid(text) {
		return append(dst, '"', 0xff, '"')
	}
	dst, _ = jsontext.AppendQuote(dst, text) // cannot fail on UTF-8
	return dst
}

// appendOneLine appends valid JSON without line ends, which there can only
// stand between its tokens.
func appendOneLine(dst, text []byte) []byte {
	for _, c := range text {
		if c == '\n' || c == '\r' {
			c = ' '
		}
		dst = append(dst, c)
	}
	return dst
}

// isNumber tells whether t is a number in JSON's form.
func isNumber(t []byte) bool {
	if len(t) > 0 && t[0] == '-' {
		t = t[1:]
	}
	whole := digits(t)
	if whole == 0 || whole > 1 && t[0] == '0' {
		return false
	}
	if t = t[whole:]; len(t) > 0 && t[0] == '.' {
		n := digits(t[1:])
		if n == 0 {
			return false
		}
		t = t[1+n:]
	}
	if len(t) > 0 && (t[0] == 'e' || t[0] == 'E') {
		if t = t[1:]; len(t) > 0 && (t[0] == '+' || t[0] == '-') {
			t = t[1:]
		}
		n := digits(t)
		return n > 0 && n == len(t)
	}
	return len(t) == 0
}

// digits counts the digits that t begins with.
func digits(t []byte) int {
	n := 0
	for n < len(t) && t[n] >= '0' && t[n] <= '9' {
		n++
	}
	return n
}
