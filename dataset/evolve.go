package dataset

import (
	"fmt"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
)

// checkEvolution refuses a schema under which files written under an earlier
// one could not be read: in every schema that the table had, a field id must
// name the same field, of the same type or one that widens to the new one, at
// the same place. It is the last line of defence; the rules for users are in
// schema.Evolve. A table that is empty, or becomes so with the change, has no rows
// that could lack a required field; those of older snapshots have their own schema.
func checkEvolution(m table.Metadata, next *iceberg.Schema, empty bool) error {
	now := fieldsByID(next)
	for _, old := range m.Schemas() {
		for id, was := range fieldsByID(old) {
			is, ok := now[id]
			if !ok {
				continue
			}
			if is.parent != was.parent {
				return fmt.Errorf("dataset: field %d (%q) would move to another struct; give it a new id: %w", id, is.field.Name, record.ErrInvalid)
			}
			if !widens(was.field.Type, is.field.Type) {
				return fmt.Errorf("dataset: field %d (%q) would change from %s to %s; give it a new id, or reset the stream: %w", id, is.field.Name, was.field.Type, is.field.Type, record.ErrInvalid)
			}
		}
	}
	if empty {
		return nil
	}
	current := fieldsByID(m.CurrentSchema())
	for id, is := range now {
		was, ok := current[id]
		if _, whole := current[is.parent]; !ok && is.parent != 0 && !whole {
			continue // part of something new: rows lack that, not this
		}
		if is.field.Required && (!ok || !was.field.Required) {
			return fmt.Errorf("dataset: field %d (%q) would be required, but rows without it may exist; make it nullable or give it a default: %w", id, is.field.Name, record.ErrInvalid)
		}
	}
	return nil
}

// placed is a field and the id of what it is a part of (0: the row).
type placed struct {
	field  iceberg.NestedField
	parent int
}

func fieldsByID(s *iceberg.Schema) map[int]placed {
	out := map[int]placed{}
	addFields(out, s.Fields(), 0)
	return out
}

func addFields(out map[int]placed, fields []iceberg.NestedField, parent int) {
	for _, f := range fields {
		out[f.ID] = placed{f, parent}
		switch t := f.Type.(type) {
		case *iceberg.StructType:
			addFields(out, t.FieldList, f.ID)
		case *iceberg.ListType:
			addFields(out, []iceberg.NestedField{t.ElementField()}, f.ID)
		case *iceberg.MapType:
			addFields(out, []iceberg.NestedField{t.KeyField(), t.ValueField()}, f.ID)
		}
	}
}

// widens tells whether values of type from can be read as type to. The parts
// of nested types are compared by their own ids.
func widens(from, to iceberg.Type) bool {
	switch f := from.(type) {
	case *iceberg.StructType:
		_, ok := to.(*iceberg.StructType)
		return ok
	case *iceberg.ListType:
		_, ok := to.(*iceberg.ListType)
		return ok
	case *iceberg.MapType:
		_, ok := to.(*iceberg.MapType)
		return ok
	case iceberg.Int32Type:
		_, long := to.(iceberg.Int64Type)
		return long || from.Equals(to)
	case iceberg.Float32Type:
		_, double := to.(iceberg.Float64Type)
		return double || from.Equals(to)
	case iceberg.DecimalType:
		t, ok := to.(iceberg.DecimalType)
		return ok && t.Scale() == f.Scale() && t.Precision() >= f.Precision()
	}
	return from.Equals(to)
}
