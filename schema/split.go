package schema

import (
	"bytes"
	"fmt"
)

// SplitJSON calls yield with index and bytes of each row of a request body:
//
//	[{…}, {…}]            an array of rows
//	{"rows": [{…}, {…}]}  an object that has this one key, and its array
//	{…}                   rows one after the other: NDJSON, one or more rows a
//	{…}                   line, blank lines skipped; or rows over several lines
//
// It finds where rows end and leaves the rest to the codec: a raw row may be no
// valid JSON. When the first line holds whole rows, every line does, so that a
// damaged one spoils no other. An error of yield ends the split and is
// returned. A body that cannot be split is a *RowError with index and byte
// position.
func SplitJSON(body []byte, yield func(i int, raw []byte) error) error {
	body = bytes.TrimPrefix(body, []byte("\uFEFF"))
	s := splitter{body: body, yield: yield}
	i := s.space(0)
	if i == len(body) {
		return nil
	}
	if body[i] == '[' {
		i, err := s.array(i)
		if err != nil {
			return err
		}
		return s.end(i)
	}
	if at := s.envelope(i); at >= 0 {
		_, err := s.array(at)
		return err
	}
	line := s.lineEnd(i)
	if s.whole(body[i:line]) {
		return s.lines(i)
	}
	return s.values(i, len(body))
}

type splitter struct {
	body  []byte
	row   int
	yield func(i int, raw []byte) error
}

func (s *splitter) space(i int) int {
	for i < len(s.body) && isSpace(s.body[i]) {
		i++
	}
	return i
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

func (s *splitter) emit(raw []byte) error {
	err := s.yield(s.row, raw)
	s.row++
	return err
}

func (s *splitter) errorf(at int, format string, args ...any) error {
	return &RowError{Row: s.row, Code: CodeInvalidJSON, Expected: "rows as a JSON array, {\"rows\":[…]} or NDJSON",
		Got: fmt.Sprintf(format, args...) + fmt.Sprintf(" at byte %d of the body", at)}
}

// array yields the elements of the array at i and returns the position after it.
func (s *splitter) array(i int) (int, error) {
	if i = s.space(i + 1); i < len(s.body) && s.body[i] == ']' {
		return i + 1, nil
	}
	for {
		i = s.space(i)
		end := valueEnd(s.body, i)
		if end < 0 {
			return 0, s.errorf(i, "a row without an end")
		}
		if end == i {
			return 0, s.errorf(i, "no row")
		}
		if err := s.emit(s.body[i:end]); err != nil {
			return 0, err
		}
		i = s.space(end)
		switch {
		case i < len(s.body) && s.body[i] == ',':
			i++
		case i < len(s.body) && s.body[i] == ']':
			return i + 1, nil
		default:
			return 0, s.errorf(i, "neither a comma nor the end of the array")
		}
	}
}

func (s *splitter) end(i int) error {
	if i = s.space(i); i < len(s.body) {
		return s.errorf(i, "%q after the array", excerpt(s.body[i:min(len(s.body), i+20)]))
	}
	return nil
}

// envelope returns the position of the array in {"rows":[…]}, -1 if the body
// is not that and nothing else.
func (s *splitter) envelope(i int) int {
	const key = `"rows"`
	if s.body[i] != '{' {
		return -1
	}
	if i = s.space(i + 1); !bytes.HasPrefix(s.body[i:], []byte(key)) {
		return -1
	}
	if i = s.space(i + len(key)); i == len(s.body) || s.body[i] != ':' {
		return -1
	}
	if i = s.space(i + 1); i == len(s.body) || s.body[i] != '[' {
		return -1
	}
	end := valueEnd(s.body, i)
	if end < 0 {
		return -1
	}
	if end = s.space(end); end == len(s.body) || s.body[end] != '}' || s.space(end+1) != len(s.body) {
		return -1
	}
	return i
}

func (s *splitter) lineEnd(i int) int {
	if n := bytes.IndexByte(s.body[i:], '\n'); n >= 0 {
		return i + n
	}
	return len(s.body)
}

// whole tells whether b consists of whole values.
func (s *splitter) whole(b []byte) bool {
	for len(b) > 0 {
		end := valueEnd(b, 0)
		if end <= 0 {
			return false
		}
		b = bytes.TrimLeft(b[end:], " \t\r\n")
	}
	return true
}

// lines yields rows from i on that do not run across lines.
func (s *splitter) lines(i int) error {
	for i < len(s.body) {
		end := s.lineEnd(i)
		line := bytes.Trim(s.body[i:end], " \t\r")
		var err error
		switch {
		case len(line) == 0:
		case bytes.Contains(line, []byte("}{")) || bytes.Contains(line, []byte("} {")):
			err = s.values(i, end)
		default:
			err = s.emit(line)
		}
		if err != nil {
			return err
		}
		i = end + 1
	}
	return nil
}

// values yields the values in body[i:end]; if one does not end there, what
// is left is one row, for the codec to refuse.
func (s *splitter) values(i, end int) error {
	body := s.body[:end]
	for {
		for i < end && isSpace(body[i]) {
			i++
		}
		if i == end {
			return nil
		}
		next := valueEnd(body, i)
		if next <= i {
			next = end
		}
		if err := s.emit(body[i:next]); err != nil {
			return err
		}
		i = next
	}
}

// jsonClass tells the bytes that matter to valueEnd from the others.
var jsonClass = func() (t [256]uint8) {
	t['"'], t['{'], t['['], t['}'], t[']'] = 1, 2, 2, 3, 3
	return t
}()

// valueEnd returns the position after the JSON value at b[i]: behind the
// bracket that balances the first, the closing quote, or the last byte of a
// literal. It returns -1 if there is none. Kinds of brackets are not compared.
func valueEnd(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch jsonClass[b[i]] {
	case 0:
		for i < len(b) && !isSpace(b[i]) && b[i] != ',' && jsonClass[b[i]] == 0 {
			i++
		}
		return i
	case 1:
		return stringEnd(b, i)
	case 3:
		return i
	}
	for depth := 0; i < len(b); i++ {
		switch jsonClass[b[i]] {
		case 1:
			if i = stringEnd(b, i); i < 0 {
				return -1
			}
			i--
		case 2:
			depth++
		case 3:
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// stringEnd returns the position after the string that begins at b[i].
func stringEnd(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return -1
}
