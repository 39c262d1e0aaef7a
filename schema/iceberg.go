package schema

import (
	"fmt"
	"slices"

	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
)

// Iceberg maps s to an Iceberg schema (format v2) with the same ids and docs;
// BYTE and SHORT become int, TIMESTAMP timestamptz. The schema's id is 0: table
// metadata numbers its schemas itself. Every field must have an id (AssignIDs).
//
// A field that is not nullable but has a default is optional in Iceberg: it
// may have been added after files were written that lack it, and format v2 has
// no defaults. Other engines read null there, where we read the default.
func (s *Schema) Iceberg() *iceberg.Schema {
	return iceberg.NewSchema(0, icebergFields(s.Fields)...)
}

func icebergFields(fields []Field) []iceberg.NestedField {
	out := make([]iceberg.NestedField, len(fields))
	for i := range fields {
		f := &fields[i]
		out[i] = iceberg.NestedField{ID: f.ID, Name: f.Name, Type: icebergType(&f.Type), Required: icebergRequired(f), Doc: f.Doc}
	}
	return out
}

func icebergRequired(f *Field) bool { return !f.Nullable && f.Default == nil }

var icebergLeaves = [...]iceberg.Type{
	Boolean: iceberg.PrimitiveTypes.Bool,
	Byte:    iceberg.PrimitiveTypes.Int32, Short: iceberg.PrimitiveTypes.Int32,
	Integer: iceberg.PrimitiveTypes.Int32, Long: iceberg.PrimitiveTypes.Int64,
	Float: iceberg.PrimitiveTypes.Float32, Double: iceberg.PrimitiveTypes.Float64,
	String: iceberg.PrimitiveTypes.String, Binary: iceberg.PrimitiveTypes.Binary,
	Date: iceberg.PrimitiveTypes.Date, Timestamp: iceberg.PrimitiveTypes.TimestampTz,
}

func icebergType(t *Type) iceberg.Type {
	switch t.Kind {
	case Decimal:
		return iceberg.DecimalTypeOf(t.Precision, t.Scale)
	case Array:
		e := t.Element
		return &iceberg.ListType{ElementID: e.ID, Element: icebergType(&e.Type), ElementRequired: icebergRequired(e)}
	case Map:
		v := t.Value
		return &iceberg.MapType{KeyID: t.KeyID, KeyType: iceberg.PrimitiveTypes.String,
			ValueID: v.ID, ValueType: icebergType(&v.Type), ValueRequired: icebergRequired(v)}
	case Struct:
		return &iceberg.StructType{FieldList: icebergFields(t.Fields)}
	}
	return icebergLeaves[t.Kind]
}

// FromIceberg gives the schema of an Iceberg table, ids included; the system
// columns are left out (see WithSystem). Types that we
// have no counterpart for (time, timestamp without zone or in nanoseconds,
// uuid, fixed, unknown, variant, geo types, maps whose keys are not strings)
// are ErrInvalid.
func FromIceberg(s *iceberg.Schema) (*Schema, error) {
	fields, err := fromIcebergFields("", s.Fields())
	if err != nil {
		return nil, err
	}
	out := &Schema{Fields: slices.DeleteFunc(fields, isSystem)}
	if err := out.Validate(); err != nil {
		return nil, err
	}
	return out, nil
}

// ReadableFromIceberg is FromIceberg for tables of which not every column can be
// read: those that have no counterpart are left out, with the reason by name.
func ReadableFromIceberg(s *iceberg.Schema) (*Schema, map[string]error, error) {
	out, foreign := &Schema{}, map[string]error{}
	for i, in := range s.Fields() {
		f, err := fromIcebergField(in.Name, &s.Fields()[i])
		switch {
		case err != nil:
			foreign[in.Name] = err
		case !isSystem(f):
			out.Fields = append(out.Fields, f)
		}
	}
	return out, foreign, out.Validate()
}

// isSystem tells whether f is a system column. Engines that add columns put
// them behind ours, so these may stand anywhere.
func isSystem(f Field) bool {
	return IsSystemID(f.ID) && f.Name == systemFields[f.ID-ViewID].Name &&
		f.Type.Kind == systemFields[f.ID-ViewID].Type.Kind
}

func fromIcebergFields(path string, in []iceberg.NestedField) ([]Field, error) {
	out := make([]Field, len(in))
	for i := range in {
		f, err := fromIcebergField(join(path, in[i].Name), &in[i])
		if err != nil {
			return nil, err
		}
		out[i] = f
	}
	return out, nil
}

func fromIcebergField(path string, in *iceberg.NestedField) (Field, error) {
	t, err := fromIcebergType(path, in.Type)
	return Field{ID: in.ID, Name: in.Name, Type: t, Nullable: !in.Required, Doc: in.Doc}, err
}

func fromIcebergType(path string, in iceberg.Type) (Type, error) {
	switch t := in.(type) {
	case iceberg.DecimalType:
		return Type{Kind: Decimal, Precision: t.Precision(), Scale: t.Scale()}, nil
	case *iceberg.ListType:
		in := t.ElementField()
		e, err := fromIcebergField(join(path, "element"), &in)
		e.Name = "element"
		return Type{Kind: Array, Element: &e}, err
	case *iceberg.MapType:
		if _, ok := t.KeyType.(iceberg.StringType); !ok {
			return Type{}, foreignIceberg(path, in, "map keys are strings")
		}
		in := t.ValueField()
		v, err := fromIcebergField(join(path, "value"), &in)
		v.Name = "value"
		return Type{Kind: Map, KeyID: t.KeyID, Value: &v}, err
	case *iceberg.StructType:
		fields, err := fromIcebergFields(path, t.FieldList)
		return Type{Kind: Struct, Fields: fields}, err
	}
	for k := Boolean; k < Array; k++ {
		// Byte and Short come before Integer and share its Iceberg type.
		if l := icebergLeaves[k]; k != Decimal && k != Byte && k != Short && l.Equals(in) {
			return Type{Kind: k}, nil
		}
	}
	hint := "cast it to one of the 15 types"
	if _, ok := in.(iceberg.TimestampType); ok {
		hint = "only timestamptz (UTC) is a TIMESTAMP"
	}
	return Type{}, foreignIceberg(path, in, hint)
}

func foreignIceberg(path string, in iceberg.Type, hint string) error {
	return fmt.Errorf("schema: Iceberg field %q has type %s, which no field type holds; %s: %w", excerpt(path), excerpt(in.String()), hint, record.ErrInvalid)
}
