package dataset

import (
	"context"
	"fmt"
	"slices"

	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/schema"
)

// baseSchema is the schema of the newest common ancestor, nil if it is not known.
func (m *merger) baseSchema() *iceberg.Schema {
	for _, b := range slices.Backward(m.from) {
		if b.Snapshot == nil || b.SchemaID == nil {
			continue
		}
		for _, s := range b.t.meta.Schemas() {
			if s.ID == *b.SchemaID {
				return s
			}
		}
	}
	return nil
}

// mergeSchema plans the target's schema.
func (m *merger) mergeSchema(ctx context.Context) error {
	now := m.target.Schema()
	var next *iceberg.Schema
	var faults []Conflict
	if m.o.Schema != nil {
		s, conflicts, err := m.o.Schema(ctx)
		if err != nil {
			return err
		}
		faults = conflicts
		if next, err = icebergSchema(s); err != nil {
			return err
		}
	} else {
		base := m.baseSchema()
		switch {
		case m.out.Strategy == Replace:
			base = now // the source's counts, where both changed
		case base == nil:
			base = iceberg.NewSchema(0) // nothing was there, so nothing was dropped
		}
		next, faults = MergeSchemas(base, m.source.Schema(), now)
	}
	for _, f := range faults {
		m.conflicts.add(f)
	}
	if next.Equals(now) {
		return nil
	}
	m.edit.schema = next
	was, err1 := schema.FromIceberg(now)
	is, err2 := schema.FromIceberg(next)
	if err1 == nil && err2 == nil { // else of types that only engines know
		m.out.Schema = schema.Diff(was, is)
	}
	return nil
}

// MergeSchemas gives the target what the source changed since base: fields are
// the same by their ids. Fields that the source added come last; one that both
// sides changed, each differently, is a conflict. The order is the target's.
func MergeSchemas(base, source, target *iceberg.Schema) (*iceberg.Schema, []Conflict) {
	m := schemaMerge{base: fieldsByID(base), source: fieldsByID(source), target: fieldsByID(target)}
	fields := m.fields("", base.Fields(), source.Fields(), target.Fields())
	return iceberg.NewSchema(0, fields...), m.faults
}

type schemaMerge struct {
	base, source, target map[int]placed
	faults               []Conflict
}

func (m *schemaMerge) fault(path, format string, args ...any) {
	m.faults = append(m.faults, Conflict{Path: path, Reason: fmt.Sprintf(format, args...), Remedy: "change the schema of one branch to that of the other"})
}

// fields merges the fields of one struct.
func (m *schemaMerge) fields(path string, base, source, target []iceberg.NestedField) []iceberg.NestedField {
	in := func(fields []iceberg.NestedField, id int) *iceberg.NestedField {
		if i := slices.IndexFunc(fields, func(f iceberg.NestedField) bool { return f.ID == id }); i >= 0 {
			return &fields[i]
		}
		return nil
	}
	var out []iceberg.NestedField
	names := map[string]bool{}
	put := func(f iceberg.NestedField) {
		if names[f.Name] {
			m.fault(join(path, f.Name), "both sides have a field of this name, and they are not the same")
			return
		}
		names[f.Name] = true
		out = append(out, f)
	}
	for i := range target {
		t := &target[i]
		s, b := in(source, t.ID), in(base, t.ID)
		switch {
		case s != nil:
			put(m.field(join(path, t.Name), b, s, t))
		case b == nil: // the target's own
			put(*t)
		case !sameField(b, t):
			m.fault(join(path, t.Name), "the source dropped it, the target changed it")
		}
	}
	// System columns stay last, for those who look for them there.
	at := len(out)
	for at > 0 && schema.IsSystemID(out[at-1].ID) && path == "" {
		at--
	}
	for i := range source {
		s := &source[i]
		if in(target, s.ID) != nil {
			continue
		}
		if b := in(base, s.ID); b != nil {
			if !sameField(b, s) {
				m.fault(join(path, s.Name), "the target dropped it, the source changed it")
			}
			continue
		}
		if names[s.Name] {
			m.fault(join(path, s.Name), "both sides added a field of this name, and they are not the same")
			continue
		}
		names[s.Name] = true
		out = slices.Insert(out, at, *s)
		at++
	}
	return out
}

// field merges one field that both sides have. base may be nil: then the wider
// of the two holds.
func (m *schemaMerge) field(path string, base, source, target *iceberg.NestedField) iceberg.NestedField {
	out := *target
	if base == nil {
		base = &iceberg.NestedField{ID: target.ID, Name: target.Name, Doc: target.Doc, Required: target.Required, Type: bare(target.Type)}
	}
	if source.Name != base.Name && source.Name != target.Name {
		if target.Name != base.Name {
			m.fault(path, "the source renamed it to %q, the target from %q to %q", source.Name, base.Name, target.Name)
		}
		out.Name = source.Name
	}
	if source.Doc != base.Doc && target.Doc == base.Doc {
		out.Doc = source.Doc
	}
	// What one side allows to be missing may be missing.
	out.Required = source.Required && target.Required
	out.Type = m.typ(path, base.Type, source.Type, target.Type)
	return out
}

// bare is a type without the fields of its structs.
func bare(t iceberg.Type) iceberg.Type {
	switch t := t.(type) {
	case *iceberg.StructType:
		return &iceberg.StructType{}
	case *iceberg.ListType:
		return &iceberg.ListType{ElementID: t.ElementID, Element: bare(t.Element), ElementRequired: t.ElementRequired}
	case *iceberg.MapType:
		return &iceberg.MapType{KeyID: t.KeyID, KeyType: t.KeyType, ValueID: t.ValueID, ValueType: bare(t.ValueType), ValueRequired: t.ValueRequired}
	}
	return t
}

func (m *schemaMerge) typ(path string, base, source, target iceberg.Type) iceberg.Type {
	switch t := target.(type) {
	case *iceberg.StructType:
		s, ok1 := source.(*iceberg.StructType)
		b, ok2 := base.(*iceberg.StructType)
		if ok1 && ok2 {
			return &iceberg.StructType{FieldList: m.fields(path, b.FieldList, s.FieldList, t.FieldList)}
		}
	case *iceberg.ListType:
		s, ok1 := source.(*iceberg.ListType)
		b, ok2 := base.(*iceberg.ListType)
		if ok1 && ok2 {
			se, be, te := s.ElementField(), b.ElementField(), t.ElementField()
			e := m.field(join(path, "element"), &be, &se, &te)
			return &iceberg.ListType{ElementID: t.ElementID, Element: e.Type, ElementRequired: e.Required}
		}
	case *iceberg.MapType:
		s, ok1 := source.(*iceberg.MapType)
		b, ok2 := base.(*iceberg.MapType)
		if ok1 && ok2 {
			sv, bv, tv := s.ValueField(), b.ValueField(), t.ValueField()
			v := m.field(join(path, "value"), &bv, &sv, &tv)
			return &iceberg.MapType{KeyID: t.KeyID, KeyType: t.KeyType, ValueID: t.ValueID, ValueType: v.Type, ValueRequired: v.Required}
		}
	}
	switch {
	case source.Equals(target), widens(source, target):
		return target // rows of the source read under it as well
	case widens(target, source):
		return source
	}
	m.fault(path, "the source has the type %s, the target %s, and neither reads as the other", source, target)
	return target
}

func sameField(a, b *iceberg.NestedField) bool { return a.Equals(*b) }

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
