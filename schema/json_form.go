package schema

import (
	stdjson "encoding/json"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/thermocline/thermocline/record"
)

// MaxSchemaBytes bounds the text of a schema in any form.
const MaxSchemaBytes = 4 << 20

// schemaForm is the JSON form of a schema, and fieldForm that of a field, an
// array element or a map value (these two without a name):
//
//	{"fields": [
//	  {"name": "id",    "type": "STRING", "nullable": false},
//	  {"name": "price", "type": "DECIMAL", "precision": 10, "scale": 2, "doc": "in euro"},
//	  {"name": "tags",  "type": "ARRAY", "element": {"type": "STRING"}},
//	  {"name": "attrs", "type": "MAP", "value": {"type": "DOUBLE", "nullable": false}},
//	  {"name": "place", "type": "STRUCT", "fields": [{"name": "lon", "type": "DOUBLE"}]}
//	]}
//
// A field without "nullable" is nullable. "id", "keyId", "default" and
// "metadata" are optional; unknown and repeated keys are refused.
type schemaForm struct {
	ID     int32       `json:"id,omitzero"`
	Fields []fieldForm `json:"fields"`
}

type fieldForm struct {
	ID        int               `json:"id,omitzero"`
	Name      string            `json:"name,omitzero"`
	Type      string            `json:"type"`
	Precision *int              `json:"precision,omitzero"`
	Scale     *int              `json:"scale,omitzero"`
	Nullable  *bool             `json:"nullable,omitzero"`
	Doc       string            `json:"doc,omitzero"`
	Default   jsontext.Value    `json:"default,omitzero"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	Element   *fieldForm        `json:"element,omitzero"`
	KeyID     int               `json:"keyId,omitzero"`
	Value     *fieldForm        `json:"value,omitzero"`
	Fields    []fieldForm       `json:"fields,omitempty"`
}

// Parse reads the JSON form of a schema and validates it.
func Parse(b []byte) (*Schema, error) {
	s := new(Schema)
	if err := s.UnmarshalJSON(b); err != nil {
		return nil, err
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return s, nil
}

// MarshalJSON writes the JSON form that Parse reads.
func (s Schema) MarshalJSON() ([]byte, error) {
	f := schemaForm{ID: s.ID, Fields: toForms(s.Fields)}
	return json.Marshal(f, json.Deterministic(true))
}

// UnmarshalJSON reads what MarshalJSON wrote. Unlike Parse it checks the
// structure only, not names, ids and defaults (Validate does).
func (s *Schema) UnmarshalJSON(b []byte) error {
	if len(b) > MaxSchemaBytes {
		return fmt.Errorf("schema: text of %d bytes; the limit is %d: %w", len(b), MaxSchemaBytes, record.ErrTooLarge)
	}
	var f schemaForm
	if err := json.Unmarshal(b, &f, json.RejectUnknownMembers(true)); err != nil {
		return fmt.Errorf("schema: not a schema in JSON form: %w: %w", err, record.ErrInvalid)
	}
	fields, err := fromForms("", f.Fields, 1)
	if err != nil {
		return err
	}
	s.ID, s.Fields = f.ID, fields
	return nil
}

func toForms(fields []Field) []fieldForm {
	out := make([]fieldForm, len(fields))
	for i := range fields {
		out[i] = toForm(&fields[i])
		out[i].Name = fields[i].Name
	}
	return out
}

// toForm leaves out the name, which an element and a value do not have.
func toForm(f *Field) fieldForm {
	out := fieldForm{
		ID: f.ID, Type: f.Type.Kind.String(), Nullable: &f.Nullable, Doc: f.Doc,
		Default: jsontext.Value(f.Default), Metadata: f.Metadata, KeyID: f.Type.KeyID,
	}
	if f.Type.Kind == Decimal {
		out.Precision, out.Scale = &f.Type.Precision, &f.Type.Scale
	}
	if f.Type.Element != nil {
		e := toForm(f.Type.Element)
		out.Element = &e
	}
	if f.Type.Value != nil {
		v := toForm(f.Type.Value)
		out.Value = &v
	}
	if f.Type.Kind == Struct {
		out.Fields = toForms(f.Type.Fields)
	}
	return out
}

func fromForms(path string, forms []fieldForm, depth int) ([]Field, error) {
	out := make([]Field, len(forms))
	for i := range forms {
		name := forms[i].Name
		if name == "" {
			return nil, invalidf(join(path, fmt.Sprintf("fields[%d]", i)), "has no name; add \"name\"")
		}
		f, err := fromForm(join(path, name), &forms[i], depth)
		if err != nil {
			return nil, err
		}
		f.Name = name
		out[i] = f
	}
	return out, nil
}

func fromForm(path string, in *fieldForm, depth int) (Field, error) {
	if depth > MaxDepth {
		return Field{}, invalidf(path, "is nested deeper than %d levels; flatten the schema", MaxDepth)
	}
	kind, err := ParseKind(in.Type)
	if err != nil {
		return Field{}, invalidf(path, "%s", err)
	}
	f := Field{ID: in.ID, Nullable: in.Nullable == nil || *in.Nullable, Doc: in.Doc, Metadata: in.Metadata}
	f.Type.Kind = kind
	if d := in.Default; len(d) > 0 && (d.Kind() != 'n' || !f.Nullable) {
		if f.Default, err = plainDefault(d); err != nil {
			return Field{}, invalidf(path, "default: %s", err)
		}
	}
	if err := in.fits(path, kind); err != nil {
		return Field{}, err
	}
	switch kind {
	case Decimal:
		f.Type.Precision = *in.Precision
		if in.Scale != nil {
			f.Type.Scale = *in.Scale
		}
	case Array:
		e, err := fromForm(join(path, "element"), in.Element, depth+1)
		if err != nil {
			return Field{}, err
		}
		e.Name = "element"
		f.Type.Element = &e
	case Map:
		v, err := fromForm(join(path, "value"), in.Value, depth+1)
		if err != nil {
			return Field{}, err
		}
		v.Name = "value"
		f.Type.Value, f.Type.KeyID = &v, in.KeyID
	case Struct:
		if f.Type.Fields, err = fromForms(path, in.Fields, depth+1); err != nil {
			return Field{}, err
		}
	}
	return f, nil
}

// plainDefault is the text of a default without needless spaces and escapes,
// which encoders on its way may have put in.
func plainDefault(d jsontext.Value) (stdjson.RawMessage, error) {
	return jsontext.AppendFormat(nil, d)
}

// fits checks that the keys which describe a type are those of this kind.
func (in *fieldForm) fits(path string, kind Kind) error {
	for _, k := range [...]struct {
		key            string
		have, of, must bool
	}{
		{"precision", in.Precision != nil, kind == Decimal, true},
		{"scale", in.Scale != nil, kind == Decimal, false},
		{"element", in.Element != nil, kind == Array, true},
		{"keyId", in.KeyID != 0, kind == Map, false},
		{"value", in.Value != nil, kind == Map, true},
		{"fields", in.Fields != nil, kind == Struct, true},
	} {
		if k.have && !k.of {
			return invalidf(path, "is %s and cannot have %q; remove it", kind, k.key)
		}
		if k.must && k.of && !k.have {
			return invalidf(path, "is %s and lacks %q; add it", kind, k.key)
		}
	}
	return nil
}
