package schema

// AssignIDs returns a copy of s in which every field, element, key and value
// with id 0 has an id of its own, counted from next (at least FirstUserID and
// above every id in s), and the next free id. Fields of a struct get their ids
// before their parts do, as Iceberg assigns them.
func (s *Schema) AssignIDs(next int) (*Schema, int) {
	c := s.Clone()
	a := idAssigner{next: max(next, FirstUserID, s.MaxID()+1)}
	a.fields(c.Fields)
	return c, a.next
}

// FreshIDs is AssignIDs with every id new, whatever s came with.
func (s *Schema) FreshIDs(next int) (*Schema, int) {
	c := s.Clone()
	a := idAssigner{next: max(next, FirstUserID), all: true}
	a.fields(c.Fields)
	return c, a.next
}

type idAssigner struct {
	next int
	all  bool // also those that have an id
}

func (a *idAssigner) take(id *int) {
	if *id == 0 || a.all {
		*id = a.next
		a.next++
	}
}

func (a *idAssigner) fields(fields []Field) {
	for i := range fields {
		a.take(&fields[i].ID)
	}
	for i := range fields {
		a.parts(&fields[i].Type)
	}
}

func (a *idAssigner) parts(t *Type) {
	switch t.Kind {
	case Array:
		a.take(&t.Element.ID)
		a.parts(&t.Element.Type)
	case Map:
		a.take(&t.KeyID)
		a.take(&t.Value.ID)
		a.parts(&t.Value.Type)
	case Struct:
		a.fields(t.Fields)
	}
}

// MaxID is the highest id in s, 0 if none is assigned.
func (s *Schema) MaxID() int { return maxID(s.Fields) }

func maxID(fields []Field) int {
	m := 0
	for i := range fields {
		m = max(m, fieldMaxID(&fields[i]))
	}
	return m
}

func fieldMaxID(f *Field) int {
	switch f.Type.Kind {
	case Array:
		return max(f.ID, fieldMaxID(f.Type.Element))
	case Map:
		return max(f.ID, f.Type.KeyID, fieldMaxID(f.Type.Value))
	case Struct:
		return max(f.ID, maxID(f.Type.Fields))
	}
	return f.ID
}
