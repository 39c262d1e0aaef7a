package schema

import (
	"bytes"
	"maps"
	"slices"
)

// Clone returns a copy that shares nothing with s.
func (s *Schema) Clone() *Schema {
	return &Schema{ID: s.ID, Fields: cloneFields(s.Fields)}
}

func cloneFields(fields []Field) []Field {
	if fields == nil {
		return nil
	}
	out := make([]Field, len(fields))
	for i := range fields {
		out[i] = fields[i].clone()
	}
	return out
}

func (f Field) clone() Field {
	f.Default = slices.Clone(f.Default)
	f.Metadata = maps.Clone(f.Metadata)
	f.Type.Fields = cloneFields(f.Type.Fields)
	if f.Type.Element != nil {
		e := f.Type.Element.clone()
		f.Type.Element = &e
	}
	if f.Type.Value != nil {
		v := f.Type.Value.clone()
		f.Type.Value = &v
	}
	return f
}

// Equal tells whether s and o have the same fields in the same order: ids,
// names, types, nullability, docs, defaults and metadata. The schemas' own IDs
// do not count.
func (s *Schema) Equal(o *Schema) bool { return slices.EqualFunc(s.Fields, o.Fields, fieldEqual) }

func fieldEqual(a, b Field) bool {
	return a.ID == b.ID && a.Name == b.Name && a.Nullable == b.Nullable && a.Doc == b.Doc &&
		bytes.Equal(a.Default, b.Default) && maps.Equal(a.Metadata, b.Metadata) && typeEqual(&a.Type, &b.Type)
}

func typeEqual(a, b *Type) bool {
	return a.Kind == b.Kind && a.Precision == b.Precision && a.Scale == b.Scale && a.KeyID == b.KeyID &&
		partEqual(a.Element, b.Element) && partEqual(a.Value, b.Value) && slices.EqualFunc(a.Fields, b.Fields, fieldEqual)
}

func partEqual(a, b *Field) bool {
	if a == nil || b == nil {
		return a == b
	}
	return fieldEqual(*a, *b)
}
