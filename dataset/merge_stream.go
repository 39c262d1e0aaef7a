package dataset

import (
	"context"
	"fmt"
	"slices"

	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/schema"
)

// CommonSchema is the schema that two tables had when they were last the same,
// nil if that is not known.
func (d *Datasets) CommonSchema(ctx context.Context, a, b string) (*iceberg.Schema, error) {
	one, err := d.Load(ctx, a)
	if err != nil {
		return nil, err
	}
	two, err := d.Load(ctx, b)
	if err != nil {
		return nil, err
	}
	m := merger{source: one, target: two}
	if m.from, _, err = bases(ctx, one, two); err != nil {
		return nil, fmt.Errorf("dataset: tables %s and %s: %w", a, b, err)
	}
	if base := m.baseSchema(); base != nil {
		return base, nil
	}
	return iceberg.NewSchema(0), nil
}

// MergeStreamSchemas is MergeSchemas for those of streams (the user's fields),
// which say more than a table does: the defaults and metadata of a field are those
// of the side that has it, the target's if both have. base, a table's, may be nil:
// then what the source has counts, where both differ.
func MergeStreamSchemas(base *iceberg.Schema, source, target *schema.Schema) (*schema.Schema, []Conflict, error) {
	s, err := icebergSchema(source)
	if err != nil {
		return nil, nil, err
	}
	t, err := icebergSchema(target)
	if err != nil {
		return nil, nil, err
	}
	if base == nil {
		base = t
	}
	merged, conflicts := MergeSchemas(base, s, t)
	fields := streamFields(merged.Fields(), source.Fields, target.Fields)
	return &schema.Schema{Fields: slices.DeleteFunc(fields, func(f schema.Field) bool { return schema.IsSystemID(f.ID) })}, conflicts, nil
}

// streamFields gives the merged fields of one struct what the streams say of them.
func streamFields(merged []iceberg.NestedField, source, target []schema.Field) []schema.Field {
	out := make([]schema.Field, len(merged))
	for i := range merged {
		m := &merged[i]
		out[i] = streamField(m, fieldWithID(source, m.ID), fieldWithID(target, m.ID))
	}
	return out
}

func fieldWithID(fields []schema.Field, id int) *schema.Field {
	if i := slices.IndexFunc(fields, func(f schema.Field) bool { return f.ID == id }); i >= 0 {
		return &fields[i]
	}
	return nil
}

func streamField(merged *iceberg.NestedField, source, target *schema.Field) schema.Field {
	have, other := target, source
	if have == nil {
		have, other = source, nil
	}
	if have == nil { // a system column
		return schema.Field{ID: merged.ID, Name: merged.Name}
	}
	out := *have
	out.Name, out.Doc = merged.Name, merged.Doc
	if other == nil {
		return out
	}
	out.Nullable = have.Nullable || other.Nullable
	out.Type = streamType(merged.Type, &other.Type, &have.Type)
	return out
}

func streamType(merged iceberg.Type, source, target *schema.Type) schema.Type {
	out := *target
	switch m := merged.(type) {
	case *iceberg.StructType:
		out.Fields = streamFields(m.FieldList, source.Fields, target.Fields)
	case *iceberg.ListType:
		e := m.ElementField()
		f := streamField(&e, source.Element, target.Element)
		f.Name = target.Element.Name
		out.Element = &f
	case *iceberg.MapType:
		v := m.ValueField()
		f := streamField(&v, source.Value, target.Value)
		f.Name = target.Value.Name
		out.Value = &f
	default:
		// Of the two types one is wider, which is the merged one. Iceberg does not
		// tell BYTE, SHORT and INTEGER apart, which widen in this order.
		small := func(k schema.Kind) bool { return k == schema.Byte || k == schema.Short || k == schema.Integer }
		s := (&schema.Schema{Fields: []schema.Field{{ID: 1, Name: "f", Type: *source, Nullable: true}}}).Iceberg().Field(0).Type
		t := (&schema.Schema{Fields: []schema.Field{{ID: 1, Name: "f", Type: *target, Nullable: true}}}).Iceberg().Field(0).Type
		switch {
		case small(source.Kind) && small(target.Kind):
			out.Kind = max(source.Kind, target.Kind)
		case !t.Equals(merged) && s.Equals(merged):
			out = *source
		}
	}
	return out
}
