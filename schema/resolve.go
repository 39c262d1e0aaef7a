package schema

import (
	"fmt"

	"github.com/thermocline/thermocline/record"
)

// resolved says how a value that was written as one field is read as another:
// a tree in the order of the bytes on the wire. Every decoder of rows (to JSON,
// to Arrow) compiles it into a program of its own.
//
// Wire form: the writer's. A nullable value begins with its union branch, the
// long 0 (null) or 1. BYTE, SHORT, INTEGER, LONG, DATE and TIMESTAMP are all
// zigzag varints, so that widening needs no conversion; FLOAT has 4 bytes and
// DOUBLE 8; DECIMAL is length + two's complement big-endian.
type resolved struct {
	writer *Field
	// reader is what the value becomes. Nil: the value is skipped, and
	// nothing below is set.
	reader *Field
	// slot is the position of reader among its siblings.
	slot int
	// part is the element of an ARRAY, the value of a MAP.
	part *resolved
	// fields of a STRUCT, one for each of the writer's, in its order.
	fields []resolved
	// absent are the reader's fields of a STRUCT that the writer lacks.
	absent []absentField
}

// absentField is a field that the writer of a row did not know.
type absentField struct {
	reader *Field
	slot   int
	// datum is the default in the reader's wire form, union branch included;
	// the single byte 0 is null. read decodes it.
	datum []byte
	read  *resolved
}

// resolve matches the fields of reader to those of writer by id (by name where
// one side has no id) at every depth. Fields only the writer has are skipped,
// fields only the reader has get their default or null. The root's Fields are
// those of the schemas; its slot has no meaning. A reader that cannot hold
// everything the writer could write is ErrInvalid.
func resolve(writer, reader *Schema) (*resolved, error) {
	w := &Field{Type: Type{Kind: Struct, Fields: writer.Fields}}
	r := &Field{Type: Type{Kind: Struct, Fields: reader.Fields}}
	return resolveField("", w, r, 0)
}

func resolveField(path string, w, r *Field, slot int) (*resolved, error) {
	if !widens(&w.Type, &r.Type) {
		return nil, invalidf(path, "was written as %s and cannot be read as %s", w.Type, r.Type)
	}
	if w.Nullable && !r.Nullable {
		return nil, invalidf(path, "was written as nullable and cannot be read as required")
	}
	out := &resolved{writer: w, reader: r, slot: slot}
	var err error
	switch r.Type.Kind {
	case Array:
		out.part, err = resolveField(join(path, "element"), w.Type.Element, r.Type.Element, 0)
	case Map:
		out.part, err = resolveField(join(path, "value"), w.Type.Value, r.Type.Value, 1)
	case Struct:
		err = out.resolveFields(path, w.Type.Fields, r.Type.Fields)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (out *resolved) resolveFields(path string, writer, reader []Field) error {
	out.fields = make([]resolved, len(writer))
	for i := range writer {
		out.fields[i].writer = &writer[i]
	}
	for slot := range reader {
		r := &reader[slot]
		p := join(path, r.Name)
		i := matchField(writer, r)
		if i < 0 {
			a, err := resolveAbsent(p, r, slot)
			if err != nil {
				return err
			}
			out.absent = append(out.absent, a)
			continue
		}
		if out.fields[i].reader != nil {
			return invalidf(p, "and %q are both read from %q", out.fields[i].reader.Name, writer[i].Name)
		}
		f, err := resolveField(p, &writer[i], r, slot)
		if err != nil {
			return err
		}
		out.fields[i] = *f
	}
	return nil
}

// matchField is the position of the field of writer that r is read from, -1
// if there is none.
func matchField(writer []Field, r *Field) int {
	for i := range writer {
		if r.ID != 0 && writer[i].ID == r.ID {
			return i
		}
	}
	for i := range writer {
		if (r.ID == 0 || writer[i].ID == 0) && writer[i].Name == r.Name {
			return i
		}
	}
	return -1
}

func resolveAbsent(path string, r *Field, slot int) (absentField, error) {
	if r.Default == nil && !r.Nullable {
		return absentField{}, fmt.Errorf("schema: field %q is required and has no default, but older rows do not have it; "+
			"give it a default or make it nullable: %w", path, record.ErrInvalid)
	}
	datum, err := defaultDatum(path, r)
	if err != nil {
		return absentField{}, err
	}
	same, err := resolveField(path, r, r, slot)
	if err != nil {
		return absentField{}, err
	}
	return absentField{reader: r, slot: slot, datum: datum, read: same}, nil
}

// widens tells whether every value of type w is a value of type r. Parts of
// nested types are not compared.
func widens(w, r *Type) bool {
	switch {
	case w.Kind == Decimal && r.Kind == Decimal:
		return w.Scale == r.Scale && w.Precision <= r.Precision
	case w.Kind >= Byte && w.Kind <= Long && r.Kind >= Byte && r.Kind <= Long:
		return w.Kind <= r.Kind
	case w.Kind == Float && r.Kind == Double:
		return true
	}
	return w.Kind == r.Kind
}
