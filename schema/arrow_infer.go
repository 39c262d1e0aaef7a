package schema

import (
	"encoding/json"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/thermocline/thermocline/record"
)

// FromArrow gives the schema that holds batches of an Arrow schema without
// loss. What ArrowExternal wrote comes back exactly, ids included; field ids of
// others are dropped, since they were given for other tables.
//
// Of foreign types, unsigned integers become the next wider type (uint64:
// DECIMAL(20,0)), half floats FLOAT, dictionaries their values' type, extension
// types their storage type, large, view and fixed-size lists, strings and
// binaries plain ones, date64 DATE, and timestamps of any unit TIMESTAMP, those
// without a zone read as UTC. Times, durations, intervals, unions and columns
// of only nulls have no counterpart: ErrInvalid. Values that a type of ours
// cannot hold (nanoseconds, say) are found row by row, see ArrowToAvro.
func FromArrow(a *arrow.Schema) (*Schema, error) {
	fields, err := fromArrowFields("", a.Fields(), 1)
	if err != nil {
		return nil, err
	}
	s := &Schema{Fields: fields}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return s, nil
}

func fromArrowFields(path string, in []arrow.Field, depth int) ([]Field, error) {
	out := make([]Field, len(in))
	for i := range in {
		f, err := fromArrowField(join(path, in[i].Name), in[i], depth)
		if err != nil {
			return nil, err
		}
		out[i] = f
	}
	return out, nil
}

func fromArrowField(path string, a arrow.Field, depth int) (Field, error) {
	f := Field{Name: a.Name, Nullable: a.Nullable}
	if depth > MaxDepth {
		return f, invalidf(path, "is nested deeper than %d levels; flatten the schema", MaxDepth)
	}
	if ours(a) {
		f.ID = fieldID(a)
		f.Doc, _ = a.Metadata.GetValue(arrowDocKey)
		if v, ok := a.Metadata.GetValue(arrowDefaultKey); ok {
			if !json.Valid([]byte(v)) {
				return f, invalidf(path, "has Arrow metadata %s that is not JSON: %s", arrowDefaultKey, excerpt(v))
			}
			f.Default = json.RawMessage(v)
		}
		if v, ok := a.Metadata.GetValue(arrowCustomKey); ok {
			if err := json.Unmarshal([]byte(v), &f.Metadata); err != nil {
				return f, invalidf(path, "has Arrow metadata %s that is not a JSON object of strings: %v", arrowCustomKey, err)
			}
		}
	}
	var err error
	f.Type, err = fromArrowType(path, a.Type, depth)
	return f, err
}

// ours tells whether ArrowExternal wrote the field.
func ours(a arrow.Field) bool { return a.Metadata.FindKey(arrowTypeKey) >= 0 }

func fromArrowType(path string, dt arrow.DataType, depth int) (Type, error) {
	switch t := plainType(dt).(type) {
	case arrow.DecimalType:
		p, s := int(t.GetPrecision()), int(t.GetScale())
		if p < 1 || p > MaxPrecision || s < 0 || s > p {
			return Type{}, unheld(path, dt, fmt.Sprintf("DECIMAL has 1 to %d digits and a scale between 0 and their number", MaxPrecision))
		}
		return Type{Kind: Decimal, Precision: p, Scale: s}, nil
	case *arrow.MapType:
		return fromArrowMap(path, t, depth)
	case *arrow.StructType:
		fields, err := fromArrowFields(path, t.Fields(), depth+1)
		return Type{Kind: Struct, Fields: fields}, err
	case arrow.ListLikeType:
		e, err := fromArrowField(join(path, "element"), t.ElemField(), depth+1)
		e.Name = "element"
		return Type{Kind: Array, Element: &e}, err
	default:
		if k, ok := inferredKinds[t.ID()]; ok {
			return k, nil
		}
		hint := "cast it to one of the 15 types"
		if t.ID() == arrow.NULL {
			hint = "a column of only nulls has no type: give it one, or leave it out"
		}
		return Type{}, unheld(path, dt, hint)
	}
}

func fromArrowMap(path string, t *arrow.MapType, depth int) (Type, error) {
	key := t.KeyField()
	if !isString(plainType(key.Type)) {
		return Type{}, unheld(path, t, "map keys are strings; cast them")
	}
	v, err := fromArrowField(join(path, "value"), t.ItemField(), depth+1)
	v.Name = "value"
	out := Type{Kind: Map, Value: &v}
	if ours(key) {
		out.KeyID = fieldID(key)
	}
	return out, err
}

func unheld(path string, dt arrow.DataType, hint string) error {
	return fmt.Errorf("schema: Arrow field %q has type %s, which no field type holds; %s: %w", excerpt(path), excerpt(dt.String()), hint, record.ErrInvalid)
}

// plainType unwraps dictionaries and extension types, which only say how or
// why values of another type are stored.
func plainType(dt arrow.DataType) arrow.DataType {
	for range MaxDepth {
		switch t := dt.(type) {
		case *arrow.DictionaryType:
			dt = t.ValueType
		case arrow.ExtensionType:
			dt = t.StorageType()
		default:
			return dt
		}
	}
	return dt
}

func isString(dt arrow.DataType) bool {
	switch dt.ID() {
	case arrow.STRING, arrow.LARGE_STRING, arrow.STRING_VIEW:
		return true
	}
	return false
}

// inferredKinds are the types for Arrow types without parameters that matter.
var inferredKinds = map[arrow.Type]Type{
	arrow.BOOL: {Kind: Boolean},
	arrow.INT8: {Kind: Byte}, arrow.INT16: {Kind: Short}, arrow.INT32: {Kind: Integer}, arrow.INT64: {Kind: Long},
	arrow.UINT8: {Kind: Short}, arrow.UINT16: {Kind: Integer}, arrow.UINT32: {Kind: Long},
	arrow.UINT64:  {Kind: Decimal, Precision: 20},
	arrow.FLOAT16: {Kind: Float}, arrow.FLOAT32: {Kind: Float}, arrow.FLOAT64: {Kind: Double},
	arrow.STRING: {Kind: String}, arrow.LARGE_STRING: {Kind: String}, arrow.STRING_VIEW: {Kind: String},
	arrow.BINARY: {Kind: Binary}, arrow.LARGE_BINARY: {Kind: Binary}, arrow.BINARY_VIEW: {Kind: Binary},
	arrow.FIXED_SIZE_BINARY: {Kind: Binary},
	arrow.DATE32:            {Kind: Date}, arrow.DATE64: {Kind: Date},
	arrow.TIMESTAMP: {Kind: Timestamp},
}
