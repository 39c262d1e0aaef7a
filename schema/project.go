package schema

import (
	"fmt"
	"slices"
	"strings"

	"github.com/thermocline/thermocline/record"
)

// systemFields are the columns behind the user's in every data file.
var systemFields = []Field{
	{ID: ViewID, Name: ViewColumn, Type: Type{Kind: Integer}, Doc: "number of the view within its stream"},
	{ID: PartitionID, Name: PartitionColumn, Type: Type{Kind: Integer}, Doc: "partition of the view"},
	{ID: OffsetID, Name: OffsetColumn, Type: Type{Kind: Long}, Doc: "offset in the partition"},
	{ID: TimestampID, Name: TimestampColumn, Type: Type{Kind: Timestamp}, Doc: "append time"},
}

// WithSystem returns a copy of s with the four system columns after the
// user's fields. The copy does not pass Validate.
func (s *Schema) WithSystem() *Schema {
	c := s.Clone()
	c.Fields = append(c.Fields, cloneFields(systemFields)...)
	return c
}

// Lookup finds a field by its dotted path ("location.depth"). An array's
// element is the step "element", a map's value the step "value". The indexes
// are the positions at every step: of the field among its siblings, 0 for an
// element, 1 for a value (0 is the key, which has no Field).
func (s *Schema) Lookup(path string) (*Field, []int, bool) {
	return lookupIn(s.Fields, path, nil)
}

func lookupIn(fields []Field, path string, at []int) (*Field, []int, bool) {
	for i := range fields {
		if f, ix, ok := lookupField(&fields[i], fields[i].Name, path, append(slices.Clone(at), i)); ok {
			return f, ix, true
		}
	}
	return nil, nil, false
}

// lookupField follows path if it begins with the step name; a name may hold
// dots itself, so that more than one field can be worth a try.
func lookupField(f *Field, name, path string, at []int) (*Field, []int, bool) {
	rest, ok := strings.CutPrefix(path, name)
	if !ok {
		return nil, nil, false
	}
	if rest == "" {
		return f, at, true
	}
	if rest[0] != '.' {
		return nil, nil, false
	}
	rest = rest[1:]
	switch f.Type.Kind {
	case Array:
		return lookupField(f.Type.Element, "element", rest, append(at, 0))
	case Map:
		return lookupField(f.Type.Value, "value", rest, append(at, 1))
	case Struct:
		return lookupIn(f.Type.Fields, rest, at)
	}
	return nil, nil, false
}

// Project returns the schema of the named columns, in the order in which they
// are named. A dotted path picks a part of a struct: the struct then holds
// only the parts that are named. Columns that do not exist are ErrInvalid.
func (s *Schema) Project(columns []string) (*Schema, error) {
	if len(columns) == 0 {
		return nil, fmt.Errorf("schema: no columns asked for; name at least one: %w", record.ErrInvalid)
	}
	out := &Schema{ID: s.ID}
	for _, c := range columns {
		_, at, ok := s.Lookup(c)
		if !ok {
			return nil, fmt.Errorf("schema: there is no column %q; the columns are %s: %w", excerpt(c), s.columnList(), record.ErrInvalid)
		}
		out.Fields = addProjected(out.Fields, s.Fields, at)
	}
	return out, nil
}

// addProjected merges the field at position at of from into fields. Fields
// are recognised by name, so schemas without ids can be projected too.
func addProjected(fields, from []Field, at []int) []Field {
	src := &from[at[0]]
	i := slices.IndexFunc(fields, func(f Field) bool { return f.Name == src.Name })
	if i < 0 {
		i = len(fields)
		fields = append(fields, hollow(src))
	}
	addPart(&fields[i], src, at[1:])
	return fields
}

func addPart(dst, src *Field, at []int) {
	if len(at) == 0 {
		dst.Type = src.clone().Type
		return
	}
	switch src.Type.Kind {
	case Array:
		if dst.Type.Element == nil {
			e := hollow(src.Type.Element)
			dst.Type.Element = &e
		}
		addPart(dst.Type.Element, src.Type.Element, at[1:])
	case Map:
		if dst.Type.Value == nil {
			v := hollow(src.Type.Value)
			dst.Type.Value = &v
		}
		addPart(dst.Type.Value, src.Type.Value, at[1:])
	case Struct:
		dst.Type.Fields = addProjected(dst.Type.Fields, src.Type.Fields, at)
	}
}

// hollow copies a field without the parts of its type, and without the default
// when it has parts: a default of the whole does not fit a selection.
func hollow(f *Field) Field {
	h := f.clone()
	h.Type.Element, h.Type.Value, h.Type.Fields = nil, nil, nil
	return h
}

// columnList names the top-level columns, bounded.
func (s *Schema) columnList() string {
	var names []string
	for i := range s.Fields {
		if len(names) == 20 {
			names = append(names, "…")
			break
		}
		names = append(names, s.Fields[i].Name)
	}
	return strings.Join(names, ", ")
}
