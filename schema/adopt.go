package schema

import (
	"fmt"
	"strings"

	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
)

// Adopt is Evolve for a schema whose new fields have ids already, because another
// engine gave them to a table, or another branch has them: a new field's id is
// nextID or larger, or one of a field of known (which may be nil).
func Adopt(old, proposed *Schema, nextID int, known *Schema) (*Schema, int, error) {
	if err := proposed.Validate(); err != nil {
		return nil, 0, err
	}
	out := proposed.Clone()
	out.ID = 0
	e := evolution{adopted: func(id int) bool { return id >= nextID }}
	if known != nil {
		ids := map[int]bool{}
		known.walkIDs(func(id int) { ids[id] = true })
		e.adopted = func(id int) bool { return id >= nextID || ids[id] }
	}
	e.fields("", old.Fields, out.Fields)
	if len(e.faults) > 0 {
		return nil, 0, fmt.Errorf("schema: rows of the stream could not be read under the new schema: %s: %w", strings.Join(e.faults, "; "), record.ErrInvalid)
	}
	out, next := out.AssignIDs(max(nextID, old.MaxID()+1, out.MaxID()+1))
	if IsSystemID(next) {
		next = TimestampID + 1
	}
	return out, next, out.Validate()
}

// walkIDs calls f with the id of each field, element, key and value.
func (s *Schema) walkIDs(f func(int)) { walkFieldIDs(s.Fields, f) }

func walkFieldIDs(fields []Field, f func(int)) {
	for i := range fields {
		walkFieldID(&fields[i], f)
	}
}

func walkFieldID(field *Field, f func(int)) {
	f(field.ID)
	t := &field.Type
	walkFieldIDs(t.Fields, f)
	if t.Element != nil {
		walkFieldID(t.Element, f)
	}
	if t.Value != nil {
		f(t.KeyID)
		walkFieldID(t.Value, f)
	}
}

// Follow gives the schema of an Iceberg table that another engine has made of a
// table of ours: FromIceberg, but a field that old has too, and that Iceberg tells
// no difference of, keeps what Iceberg has no word for (BYTE and SHORT, defaults,
// metadata).
func Follow(old *Schema, s *iceberg.Schema) (*Schema, error) {
	out, err := FromIceberg(s)
	if err != nil {
		return nil, err
	}
	follow(old.Fields, out.Fields)
	return out, out.Validate()
}

func follow(old, next []Field) {
	byID := make(map[int]*Field, len(old))
	for i := range old {
		byID[old[i].ID] = &old[i]
	}
	for i := range next {
		if was := byID[next[i].ID]; was != nil {
			followField(was, &next[i])
		}
	}
}

func followField(was, is *Field) {
	if !icebergRequired(was) == is.Nullable {
		// Iceberg says nullable of what has a default.
		is.Nullable, is.Default = was.Nullable, was.Default
	}
	is.Metadata = was.Metadata
	switch {
	case is.Type.Kind == Integer && (was.Type.Kind == Byte || was.Type.Kind == Short):
		is.Type.Kind = was.Type.Kind
	case was.Type.Kind != is.Type.Kind:
	case is.Type.Kind == Array:
		followField(was.Type.Element, is.Type.Element)
	case is.Type.Kind == Map:
		followField(was.Type.Value, is.Type.Value)
	case is.Type.Kind == Struct:
		follow(was.Type.Fields, is.Type.Fields)
	}
}
