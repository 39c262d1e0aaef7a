package schema

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// jsonReference converts rows with the tokenizer of jsontext. It decides what
// is an error; jsonScan is the fast way for rows that are none.
type jsonReference struct {
	*rowWriter
	dec      *jsontext.Decoder
	in       bytes.Buffer
	unquoted []byte
	ignore   bool
}

func (r *jsonReference) row(w *rowWriter, root *jsonNode, src []byte, ignoreUnknown bool) error {
	r.rowWriter, r.ignore = w, ignoreUnknown
	r.in = *bytes.NewBuffer(src)
	if r.dec == nil {
		r.dec = jsontext.NewDecoder(&r.in)
	} else {
		r.dec.Reset(&r.in)
	}
	err := r.value(root)
	if err == nil {
		err = r.end()
	}
	r.in = bytes.Buffer{}
	r.dec.Reset(&r.in)
	r.rowWriter = nil
	if cap(r.unquoted) > maxScratch {
		r.unquoted = nil
	}
	if err != nil {
		return err
	}
	return nil
}

// end checks that the row is not too large and that nothing follows it.
func (r *jsonReference) end() *RowError {
	if r.tooLarge() {
		return r.sizeError()
	}
	switch _, err := r.dec.ReadToken(); {
	case err == io.EOF:
		return nil
	case err != nil:
		return r.syntaxError(err)
	}
	return &RowError{Code: CodeInvalidJSON, Expected: "one JSON object", Got: "more than one value"}
}

func (r *jsonReference) sizeError() *RowError {
	return &RowError{Code: CodeTooLarge, Expected: fmt.Sprintf("a row of at most %d bytes", r.limit-r.start),
		Got: "more, as stored"}
}

func (r *jsonReference) value(n *jsonNode) *RowError {
	kind := r.dec.PeekKind()
	switch {
	case kind == 'n':
		return r.null(n)
	case n.kind == Array && kind == '[' || (n.kind == Map || n.kind == Struct) && kind == '{':
		if n.nullable {
			r.dst = append(r.dst, 2)
		}
		if _, err := r.dec.ReadToken(); err != nil {
			return r.syntaxError(err)
		}
		switch n.kind {
		case Array:
			return r.array(n)
		case Map:
			return r.mapping(n)
		}
		return r.object(n)
	}
	raw, err := r.dec.ReadValue()
	if err != nil {
		return r.syntaxError(err)
	}
	if n.nullable {
		r.dst = append(r.dst, 2)
	}
	if code := r.scalar(n, raw); code != "" {
		return &RowError{Code: code, Expected: expected(n.typ), Got: excerpt(raw)}
	}
	return nil
}

func (r *jsonReference) null(n *jsonNode) *RowError {
	if _, err := r.dec.ReadToken(); err != nil {
		return r.syntaxError(err)
	}
	if !n.nullable {
		return &RowError{Code: CodeNull, Expected: expected(n.typ) + ", not null", Got: "null"}
	}
	r.dst = append(r.dst, 0)
	return nil
}

func (r *jsonReference) object(n *jsonNode) *RowError {
	o := r.open(n)
	for r.dec.PeekKind() == '"' {
		name, err := r.name()
		if err != nil {
			return r.syntaxError(err)
		}
		i := n.field(name)
		if i < 0 {
			if !r.ignore {
				e := &RowError{Code: CodeUnknownField, Expected: "a field of the schema (or unknownFields=ignore)", Got: "an unknown field"}
				return e.in(excerpt(name))
			}
			if err := r.dec.SkipValue(); err != nil {
				return r.syntaxError(err)
			}
			continue
		}
		if !r.field(&o, n, i) {
			return (&RowError{Code: CodeDuplicateField, Expected: "each field once", Got: "a second one"}).in(n.fields[i].name)
		}
		if e := r.value(&n.fields[i].jsonNode); e != nil {
			return r.at(e, n.fields[i].name)
		}
		r.fieldDone(&o, i)
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return r.syntaxError(err)
	}
	if i := r.close(&o, n); i >= 0 {
		return (&RowError{Code: CodeMissingField, Expected: expected(n.fields[i].typ), Got: "no such field"}).in(n.fields[i].name)
	}
	if r.tooLarge() {
		return r.sizeError()
	}
	return nil
}

func (r *jsonReference) mapping(n *jsonNode) *RowError {
	at, count := r.openBlock(), 0
	for ; r.dec.PeekKind() == '"'; count++ {
		name, err := r.name()
		if err != nil {
			return r.syntaxError(err)
		}
		r.appendLength(len(name))
		key := len(r.dst)
		r.dst = append(r.dst, name...)
		end := len(r.dst)
		if e := r.value(n.part); e != nil {
			return r.at(e, "["+strconv.Quote(excerpt(r.dst[key:end]))+"]")
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return r.syntaxError(err)
	}
	r.closeBlock(at, count)
	return nil
}

func (r *jsonReference) array(n *jsonNode) *RowError {
	at, count := r.openBlock(), 0
	for ; ; count++ {
		if k := r.dec.PeekKind(); k == ']' {
			break
		}
		if e := r.value(n.part); e != nil {
			return r.at(e, "["+strconv.Itoa(count)+"]")
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return r.syntaxError(err)
	}
	r.closeBlock(at, count)
	return nil
}

// at adds a step to the path of a value's error; errors about the row as a
// whole have none.
func (r *jsonReference) at(e *RowError, step string) *RowError {
	if e.Code == CodeInvalidJSON || e.Code == CodeTooLarge {
		return e
	}
	return e.in(step)
}

// name reads the name of a member, unquoted, valid until the next one.
func (r *jsonReference) name() ([]byte, error) {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return nil, err
	}
	r.unquoted, err = jsontext.AppendUnquote(r.unquoted[:0], raw)
	return r.unquoted, err
}

func (r *jsonReference) syntaxError(err error) *RowError {
	e := &RowError{Code: CodeInvalidJSON, Expected: "one JSON object", Got: err.Error()}
	var s *jsontext.SyntacticError
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName) && errors.As(err, &s):
		e.Code, e.Expected, e.Got = CodeDuplicateField, "each key once", "a second one"
		e.Path = excerpt(s.JSONPointer.LastToken())
	case errors.As(err, &s):
		e.Got = fmt.Sprintf("invalid JSON at byte %d: %v", s.ByteOffset, s.Err)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		e.Got = "an end of input"
	}
	return e
}

// scalar appends a value that is neither null nor nested. It returns the code
// of what is wrong, "" if nothing is.
func (r *jsonReference) scalar(n *jsonNode, raw jsontext.Value) (code string) {
	text, isString := []byte(raw), raw.Kind() == '"'
	isNumber := raw.Kind() == '0'
	if isString {
		var err error
		if r.unquoted, err = jsontext.AppendUnquote(r.unquoted[:0], raw); err != nil {
			return CodeInvalidJSON
		}
		text = r.unquoted
	}
	switch n.kind {
	case Boolean:
		if raw.Kind() != 't' && raw.Kind() != 'f' {
			return CodeWrongType
		}
		r.dst = append(r.dst, b2i(raw.Kind() == 't'))
		return ""
	case Byte, Short, Integer, Long:
		if isNumber || isString && n.kind == Long {
			return r.integer(n, text, 0)
		}
	case Float, Double:
		if isNumber {
			return r.float(n, text)
		}
	case Decimal:
		if isNumber || isString {
			return r.decimal(n, text)
		}
	case String:
		if isString {
			r.appendLength(len(text))
			r.dst = append(r.dst, text...)
			return ""
		}
	case Binary:
		if isString {
			var ok bool
			if r.dst, ok = appendBase64(r.dst, text); ok {
				return ""
			}
		}
	case Date:
		if isNumber {
			return r.integer(n, text, 0)
		}
		if isString {
			days, fault := parseDate(text)
			r.dst = appendLong(r.dst, days)
			return timeCode(fault)
		}
	case Timestamp:
		if isNumber {
			return r.integer(n, text, 3)
		}
		if isString {
			micros, fault := parseTimestamp(text)
			r.dst = appendLong(r.dst, micros)
			return timeCode(fault)
		}
	}
	return CodeWrongType
}

func b2i(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// integer appends text × 10^scale.
func (r *jsonReference) integer(n *jsonNode, text []byte, scale int) string {
	hi, lo, fault := scaledInt(text, scale)
	v := int64(lo)
	if fault == fits && (hi != v>>63 || v < n.lo || v > n.hi) {
		fault = outOfRange
	}
	r.dst = appendLong(r.dst, v)
	return numberCode(fault)
}

func (r *jsonReference) float(n *jsonNode, text []byte) string {
	if n.kind == Float {
		f, fault := parseFloat(text, 32)
		r.dst = binary.LittleEndian.AppendUint32(r.dst, math.Float32bits(float32(f)))
		return numberCode(fault)
	}
	f, fault := parseFloat(text, 64)
	r.dst = binary.LittleEndian.AppendUint64(r.dst, math.Float64bits(f))
	return numberCode(fault)
}

func (r *jsonReference) decimal(n *jsonNode, text []byte) string {
	hi, lo, fault := scaledInt(text, n.typ.Scale)
	if fault == fits && !withinPrecision(hi, lo, n.typ.Precision) {
		fault = outOfRange
	}
	r.dst = appendDecimal(r.dst, hi, lo)
	return numberCode(fault)
}

func numberCode(f numberFault) string {
	switch f {
	case notNumber:
		return CodeWrongType
	case lossy:
		return CodeLossy
	case outOfRange:
		return CodeOutOfRange
	}
	return ""
}

func timeCode(f timeFault) string {
	switch f {
	case notTime, noOffset:
		return CodeWrongType
	case subMicro:
		return CodeLossy
	case timeBeyond:
		return CodeOutOfRange
	}
	return ""
}
