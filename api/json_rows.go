package api

import (
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// jsonRows turns batches into JSON rows by the composition of two compiled
// programs: Arrow to Avro, Avro to JSON. So each type has one JSON form,
// wherever its rows come from. Not safe for concurrent use.
type jsonRows struct {
	fromArrow  *schema.ArrowToAvro
	toJSON     *schema.AvroToJSON
	avro, text []byte
}

func newJSONRows(s *schema.Schema, numbersAsText bool) (*jsonRows, error) {
	// With system columns and defaults of later fields a stored row can be
	// larger than it was allowed to be when it came.
	fromArrow, err := schema.CompileArrowToAvro(s.Arrow(), s, schema.ArrowOptions{ByID: true, MaxRowBytes: record.MaxBatchBytes})
	if err != nil {
		return nil, err
	}
	toJSON, err := schema.CompileAvroToJSON(s, s, schema.JSONOutOptions{NumbersAsText: numbersAsText})
	if err != nil {
		return nil, err
	}
	return &jsonRows{fromArrow: fromArrow, toJSON: toJSON}, nil
}

// each yields the rows of rec; a row is valid until the next and may be
// appended to.
func (j *jsonRows) each(rec arrow.RecordBatch, yield func(row []byte) error) error {
	rows, err := j.fromArrow.Bind(rec)
	if err != nil {
		return err
	}
	for i := range rows.Len() {
		if j.avro, err = rows.Row(j.avro[:0], i); err != nil {
			return err
		}
		if j.text, err = j.toJSON.Row(j.text[:0], j.avro); err != nil {
			return err
		}
		if err := yield(j.text); err != nil {
			return err
		}
	}
	return nil
}

// csvEncoder writes RFC 4180 with a header line, lines ended by \n. Values have
// their JSON form without a string's quotes, nested ones are JSON. A null is
// empty and an empty string is "", so that both come back as what they were.
type csvEncoder struct {
	rows   *jsonRows
	s      *schema.Schema
	w      io.Writer
	line   []byte
	text   []byte
	headed bool
}

func newCSVEncoder(w io.Writer, s *schema.Schema) (*csvEncoder, error) {
	rows, err := newJSONRows(s, false)
	return &csvEncoder{rows: rows, s: s, w: w}, err
}

func (e *csvEncoder) header() error {
	if e.headed {
		return nil
	}
	e.headed = true
	e.line = e.line[:0]
	for i, f := range e.s.Fields {
		if i > 0 {
			e.line = append(e.line, ',')
		}
		e.line = appendCSV(e.line, []byte(f.Name))
	}
	_, err := e.w.Write(append(e.line, '\n'))
	return err
}

func (e *csvEncoder) write(rec arrow.RecordBatch) error {
	if err := e.header(); err != nil {
		return err
	}
	return e.rows.each(rec, func(row []byte) error {
		if err := e.convert(row); err != nil {
			return err
		}
		_, err := e.w.Write(e.line)
		return err
	})
}

func (e *csvEncoder) close() error { return e.header() }

// convert makes e.line of a row that jsonRows wrote: a compact object with
// every field, in order.
func (e *csvEncoder) convert(row []byte) error {
	e.line = e.line[:0]
	pos := 1 // behind the brace
	for i := range e.s.Fields {
		if i > 0 {
			pos++ // the comma
			e.line = append(e.line, ',')
		}
		pos = skipJSON(row, pos) + 1 // the name and its colon
		end := skipJSON(row, pos)
		switch value := row[pos:end]; value[0] {
		case 'n': // null
		case '"':
			var err error
			if e.text, err = jsontext.AppendUnquote(e.text[:0], value); err != nil {
				return err
			}
			e.line = appendCSV(e.line, e.text)
		case '{', '[':
			e.line = appendCSV(e.line, value)
		default:
			e.line = append(e.line, value...)
		}
		pos = end
	}
	e.line = append(e.line, '\n')
	return nil
}

// skipJSON returns where the value that begins at pos of compact, valid JSON
// ends.
func skipJSON(b []byte, pos int) int {
	depth := 0
	for ; pos < len(b); pos++ {
		switch b[pos] {
		case '"':
			for pos++; b[pos] != '"'; pos++ {
				if b[pos] == '\\' {
					pos++
				}
			}
			if depth == 0 {
				return pos + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return pos // behind a number or word, at the end of its object
			}
			if depth--; depth == 0 {
				return pos + 1
			}
		case ',':
			if depth == 0 {
				return pos
			}
		}
	}
	return pos
}

// appendCSV appends one value, quoted where a reader could take it for
// something else: an empty string for a null, or a part for a whole.
func appendCSV(dst, value []byte) []byte {
	plain := len(value) > 0 && value[0] != ' ' && value[len(value)-1] != ' '
	for _, c := range value {
		if c == '"' || c == ',' || c == '\n' || c == '\r' {
			plain = false
			break
		}
	}
	if plain {
		return append(dst, value...)
	}
	dst = append(dst, '"')
	for _, c := range value {
		if c == '"' {
			dst = append(dst, '"')
		}
		dst = append(dst, c)
	}
	return append(dst, '"')
}
