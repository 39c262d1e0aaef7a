package schema

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/thermocline/thermocline/record"
)

// Infer makes a schema of sample rows, each one JSON object (see SplitJSON):
//
//	true, false                      BOOLEAN
//	integers                         LONG; DECIMAL(38,0) if some need more than 64 bits
//	numbers with fraction, exponent  DOUBLE, also where others are integers
//	strings                          TIMESTAMP if all are timestamps with an offset,
//	                                 DATE if all are dates, else STRING
//	arrays, objects                  ARRAY, STRUCT; their parts are inferred alike
//	only null, or empty arrays       STRING, ARRAY<STRING>
//	only empty objects               MAP<STRING,STRING>
//
// Fields stand in the order in which they first appear. Every one is nullable,
// since a sample proves nothing about the rows to come. A field that is, say, a
// number here and a string there is ErrInvalid, naming both rows: such data
// needs a schema written by hand.
func Infer(samples ...[]byte) (*Schema, error) {
	root := &inferred{}
	in := inferrer{}
	for row, raw := range samples {
		in.row = row
		in.dec = jsontext.NewDecoder(bytes.NewReader(raw))
		if k := in.dec.PeekKind(); k != '{' {
			if _, err := in.dec.ReadToken(); err != nil {
				return nil, in.syntax(err)
			}
			return nil, fmt.Errorf("schema: sample row %d is no JSON object: %w", row, record.ErrInvalid)
		}
		if err := in.value("", root, 0); err != nil {
			return nil, err
		}
		if _, err := in.dec.ReadToken(); err != io.EOF {
			return nil, fmt.Errorf("schema: sample row %d holds more than one JSON object: %w", row, record.ErrInvalid)
		}
	}
	if len(root.names) == 0 {
		return nil, fmt.Errorf("schema: the sample holds no fields; give at least one row with a field: %w", record.ErrInvalid)
	}
	s := &Schema{Fields: root.schemaFields()}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return s, nil
}

// sampleKind is what a field has been in a sample.
type sampleKind uint8

const (
	sampleNone sampleKind = iota // only null so far
	sampleBool
	sampleNumber
	sampleString
	sampleArray
	sampleObject
)

func (k sampleKind) String() string {
	return [...]string{"null", "true or false", "a number", "a string", "an array", "an object"}[k]
}

// inferred is what the samples have shown of one field.
type inferred struct {
	kind           sampleKind
	row            int  // that showed kind first
	fractions, big bool // numbers: some are no integers, some need more than 64 bits
	huge           bool // numbers: some need more than 38 digits
	text           bool // strings: some are neither date nor timestamp
	dates, times   bool
	part           *inferred
	names          []string
	members        map[string]*inferred
}

type inferrer struct {
	dec   *jsontext.Decoder
	row   int
	count int
}

func (in *inferrer) syntax(err error) error {
	var s *jsontext.SyntacticError
	if errors.As(err, &s) && errors.Is(err, jsontext.ErrDuplicateName) {
		return fmt.Errorf("schema: sample row %d has the key %q twice: %w", in.row, excerpt(s.JSONPointer.LastToken()), record.ErrInvalid)
	}
	return fmt.Errorf("schema: sample row %d is not valid JSON: %w: %w", in.row, err, record.ErrInvalid)
}

func (in *inferrer) value(path string, f *inferred, depth int) error {
	if depth > MaxDepth {
		return invalidf(path, "is nested deeper than %d levels", MaxDepth)
	}
	var kind sampleKind
	switch in.dec.PeekKind() {
	case 'n':
		_, err := in.dec.ReadToken()
		return in.syntaxOf(err)
	case 't', 'f':
		kind = sampleBool
	case '0':
		kind = sampleNumber
	case '"':
		kind = sampleString
	case '[':
		kind = sampleArray
	case '{':
		kind = sampleObject
	}
	if f.kind != sampleNone && f.kind != kind && kind != sampleNone {
		return invalidf(path, "is %s in sample row %d and %s in row %d; write a schema by hand, or clean the sample", f.kind, f.row, kind, in.row)
	}
	if f.kind == sampleNone {
		f.kind, f.row = kind, in.row
	}
	switch kind {
	case sampleArray:
		return in.array(path, f, depth)
	case sampleObject:
		return in.object(path, f, depth)
	}
	raw, err := in.dec.ReadValue()
	if err != nil {
		return in.syntax(err)
	}
	switch kind {
	case sampleNumber:
		f.number(raw)
	case sampleString:
		text, err := jsontext.AppendUnquote(nil, raw)
		if err != nil {
			return in.syntax(err)
		}
		f.string(text)
	}
	return nil
}

func (in *inferrer) syntaxOf(err error) error {
	if err != nil {
		return in.syntax(err)
	}
	return nil
}

// number notes a number; 1.0 is a fraction here, since its writer has them.
func (f *inferred) number(raw []byte) {
	if bytes.ContainsAny(raw, ".eE") {
		f.fractions = true
		return
	}
	hi, lo, fault := scaledInt(raw, 0)
	f.huge = f.huge || fault != fits
	f.big = f.big || hi != int64(lo)>>63
}

func (f *inferred) string(text []byte) {
	if _, fault := parseTimestamp(text); fault == timeFits {
		f.times = true
	} else if _, fault := parseDate(text); fault == timeFits {
		f.dates = true
	} else {
		f.text = true
	}
}

func (in *inferrer) array(path string, f *inferred, depth int) error {
	if _, err := in.dec.ReadToken(); err != nil {
		return in.syntax(err)
	}
	if f.part == nil {
		f.part = &inferred{}
	}
	for i := 0; in.dec.PeekKind() != ']'; i++ {
		if err := in.value(path+"["+strconv.Itoa(i)+"]", f.part, depth+1); err != nil {
			return err
		}
	}
	_, err := in.dec.ReadToken()
	return in.syntaxOf(err)
}

func (in *inferrer) object(path string, f *inferred, depth int) error {
	if _, err := in.dec.ReadToken(); err != nil {
		return in.syntax(err)
	}
	if f.members == nil {
		f.members = map[string]*inferred{}
	}
	for in.dec.PeekKind() == '"' {
		t, err := in.dec.ReadToken()
		if err != nil {
			return in.syntax(err)
		}
		name := t.String()
		m := f.members[name]
		if m == nil {
			if in.count++; in.count > MaxFields {
				return fmt.Errorf("schema: the sample has more than %d different fields; use a MAP in a schema written by hand: %w", MaxFields, record.ErrTooLarge)
			}
			m = &inferred{}
			f.members[name] = m
			f.names = append(f.names, name)
		}
		if err := in.value(join(path, name), m, depth+1); err != nil {
			return err
		}
	}
	_, err := in.dec.ReadToken()
	return in.syntaxOf(err)
}

func (f *inferred) schemaFields() []Field {
	out := make([]Field, len(f.names))
	for i, name := range f.names {
		out[i] = Field{Name: name, Type: f.members[name].schemaType(), Nullable: true}
	}
	return out
}

func (f *inferred) schemaType() Type {
	switch f.kind {
	case sampleBool:
		return Type{Kind: Boolean}
	case sampleNumber:
		switch {
		case f.fractions || f.huge:
			return Type{Kind: Double}
		case f.big:
			return Type{Kind: Decimal, Precision: MaxPrecision}
		}
		return Type{Kind: Long}
	case sampleString:
		switch {
		case f.text || f.times && f.dates:
			return Type{Kind: String}
		case f.times:
			return Type{Kind: Timestamp}
		}
		return Type{Kind: Date}
	case sampleArray:
		return Type{Kind: Array, Element: &Field{Name: "element", Type: f.part.schemaType(), Nullable: true}}
	case sampleObject:
		if len(f.names) == 0 {
			return Type{Kind: Map, Value: &Field{Name: "value", Type: Type{Kind: String}, Nullable: true}}
		}
		return Type{Kind: Struct, Fields: f.schemaFields()}
	}
	return Type{Kind: String}
}
