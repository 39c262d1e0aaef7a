package schema

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/thermocline/thermocline/record"
)

// Evolve checks that a stream with the schema old may go on with proposed, and
// returns proposed with the ids of old carried over, new ids from nextID for
// what is new, and the next free id. Every row of old can be read under it.
//
// A field of proposed that has an id is the field of old with that id in the
// same struct; one without is the field of old with its name, else new.
// Allowed are:
//
//   - to add a field that is nullable or has a default (its id must be left out)
//   - to drop a field; its id is never used again
//   - to rename a field (by its id), and to reorder fields
//   - to widen BYTE→SHORT→INTEGER→LONG, FLOAT→DOUBLE, and a DECIMAL's precision
//   - to make a required field nullable
//   - to change docs and metadata
//
// in structs, elements and values as well. Anything else is ErrInvalid, in one
// error that lists every offending field, and needs a reset of the stream. A
// default cannot be changed either: rows that were archived before would keep
// the old one while others get the new.
func Evolve(old, proposed *Schema, nextID int) (*Schema, int, error) {
	if err := proposed.Validate(); err != nil {
		return nil, 0, err
	}
	out := proposed.Clone()
	out.ID = 0
	var e evolution
	e.fields("", old.Fields, out.Fields)
	if len(e.faults) > 0 {
		return nil, 0, fmt.Errorf("schema: rows of the stream could not be read under the new schema; reset the stream to change it so, or mend: %s: %w",
			strings.Join(e.faults, "; "), record.ErrInvalid)
	}
	out, next := out.AssignIDs(max(nextID, old.MaxID()+1))
	return out, next, nil
}

// maxFaults bounds the faults in one error.
const maxFaults = 50

type evolution struct {
	faults []string
	// adopted, if set, tells which ids new fields may come with.
	adopted func(id int) bool
}

// takes tells whether a new field may have the id.
func (e *evolution) takes(id int) bool { return id == 0 || e.adopted != nil && e.adopted(id) }

func (e *evolution) fault(path, format string, args ...any) {
	switch len(e.faults) {
	case maxFaults:
		e.faults = append(e.faults, "and more")
	case maxFaults + 1:
	default:
		e.faults = append(e.faults, fmt.Sprintf("field %q %s", path, fmt.Sprintf(format, args...)))
	}
}

// fields matches the fields of a struct and gives those of next their ids.
func (e *evolution) fields(path string, old, next []Field) {
	from := matchFields(old, next)
	for i := range next {
		f := &next[i]
		p := join(path, f.Name)
		switch {
		case from[i] >= 0:
			f.ID = old[from[i]].ID
			e.field(p, &old[from[i]], f)
		case !e.takes(f.ID):
			e.fault(p, "has the id %d, which no field has there; leave the id out to add a field, fields cannot move between structs", f.ID)
		default:
			if !f.Nullable && f.Default == nil {
				e.fault(p, "is new and required; make it nullable or give it a default")
			}
			e.fresh(p, &f.Type)
		}
	}
}

// matchFields finds for each field of next the one of old that it continues,
// -1 if it is new: by id where it has one, else by name among those that no id
// has claimed.
func matchFields(old, next []Field) []int {
	byID, byName := make(map[int]int, len(old)), make(map[string]int, len(old))
	for i := range old {
		byID[old[i].ID] = i
		byName[old[i].Name] = i
	}
	from := make([]int, len(next))
	taken := make([]bool, len(old))
	for i := range next {
		from[i] = -1
		if o, ok := byID[next[i].ID]; ok && next[i].ID != 0 {
			from[i], taken[o] = o, true
		}
	}
	for i := range next {
		if o, ok := byName[next[i].Name]; ok && next[i].ID == 0 && !taken[o] {
			from[i], taken[o] = o, true
		}
	}
	return from
}

// field checks one field, element or value that goes on.
func (e *evolution) field(path string, old, next *Field) {
	if old.Nullable && !next.Nullable {
		e.fault(path, "was nullable and cannot become required")
	}
	if !widens(&old.Type, &next.Type) {
		e.fault(path, "cannot change from %s to %s%s", old.Type, next.Type, widenHint(old.Type.Kind))
		return
	}
	if !sameDefault(path, old, next) {
		e.fault(path, "has the default %s, which cannot be changed to %s", defaultText(old), defaultText(next))
	}
	switch next.Type.Kind {
	case Array:
		e.part(join(path, "element"), old.Type.Element, next.Type.Element)
	case Map:
		if id := next.Type.KeyID; id != 0 && id != old.Type.KeyID {
			e.fault(join(path, "key"), "has the id %d, not %d; leave it out", id, old.Type.KeyID)
		}
		next.Type.KeyID = old.Type.KeyID
		e.part(join(path, "value"), old.Type.Value, next.Type.Value)
	case Struct:
		e.fields(path, old.Type.Fields, next.Type.Fields)
	}
}

func (e *evolution) part(path string, old, next *Field) {
	if next.ID != 0 && next.ID != old.ID {
		e.fault(path, "has the id %d, not %d; leave it out", next.ID, old.ID)
	}
	next.ID = old.ID
	e.field(path, old, next)
}

// fresh checks that the parts of a new field claim no ids.
func (e *evolution) fresh(path string, t *Type) {
	claim := func(path string, id int) {
		if !e.takes(id) {
			e.fault(path, "is part of a new field and has the id %d; leave it out", id)
		}
	}
	switch t.Kind {
	case Array:
		claim(join(path, "element"), t.Element.ID)
		e.fresh(join(path, "element"), &t.Element.Type)
	case Map:
		claim(join(path, "key"), t.KeyID)
		claim(join(path, "value"), t.Value.ID)
		e.fresh(join(path, "value"), &t.Value.Type)
	case Struct:
		for i := range t.Fields {
			p := join(path, t.Fields[i].Name)
			claim(p, t.Fields[i].ID)
			e.fresh(p, &t.Fields[i].Type)
		}
	}
}

func widenHint(k Kind) string {
	switch k {
	case Byte, Short, Integer:
		return " (it can become a wider integer)"
	case Float:
		return " (it can become DOUBLE)"
	case Decimal:
		return " (its precision can grow, its scale must stay)"
	}
	return ""
}

// sameDefault compares defaults as values of the new type.
func sameDefault(path string, old, next *Field) bool {
	if old.Default == nil || next.Default == nil {
		return old.Default == nil && next.Default == nil
	}
	if bytes.Equal(old.Default, next.Default) {
		return true
	}
	carried := Field{Name: next.Name, Type: next.Type, Nullable: next.Nullable, Default: old.Default}
	a, errA := encodeDefault(path, &carried, Reject)
	b, errB := encodeDefault(path, next, Reject)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

func defaultText(f *Field) string {
	if f.Default == nil {
		return "none"
	}
	return excerpt(f.Default)
}
