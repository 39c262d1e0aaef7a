package schema

import (
	"encoding/json"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
)

// Metadata keys of Arrow fields. FieldIDKey is the one that Parquet libraries
// agree on; the others carry what Arrow's types cannot say, so that FromArrow
// gets back the schema that ArrowExternal wrote.
const (
	FieldIDKey      = "PARQUET:field_id"
	arrowTypeKey    = "thermocline.type"
	arrowDocKey     = "thermocline.doc"
	arrowDefaultKey = "thermocline.default"
	arrowCustomKey  = "thermocline.metadata"
)

// Arrow is the storage mapping: the Arrow schema of the batches that Builder
// makes of hot rows and of the Parquet files.
//
//	BOOLEAN             bool          DECIMAL(p,s)  decimal128(p,s)
//	BYTE SHORT INTEGER  int32         STRING        utf8
//	LONG                int64         BINARY        binary
//	FLOAT               float         DATE          date32
//	DOUBLE              double        TIMESTAMP     timestamp[us, UTC]
//	ARRAY  list<element>   MAP  map<utf8 key, value>   STRUCT  struct
//
// Iceberg knows no 8 and 16 bit integers, hence int32. Every level (list
// elements, map keys and values too) carries its field id and nullability.
func (s *Schema) Arrow() *arrow.Schema {
	return arrow.NewSchema(arrowFields(s.Fields, false), nil)
}

// ArrowExternal is the mapping that clients see. It differs from Arrow in BYTE
// (int8) and SHORT (int16), and each field's metadata holds type name, doc,
// default and custom metadata. See ToExternal for the batches.
func (s *Schema) ArrowExternal() *arrow.Schema {
	return arrow.NewSchema(arrowFields(s.Fields, true), nil)
}

func arrowFields(fields []Field, external bool) []arrow.Field {
	out := make([]arrow.Field, len(fields))
	for i := range fields {
		out[i] = arrowField(&fields[i], fields[i].Name, external)
	}
	return out
}

func arrowField(f *Field, name string, external bool) arrow.Field {
	a := arrow.Field{Name: name, Type: arrowType(&f.Type, external), Nullable: f.Nullable}
	var keys, values []string
	put := func(k, v string) { keys, values = append(keys, k), append(values, v) }
	if f.ID != 0 {
		put(FieldIDKey, strconv.Itoa(f.ID))
	}
	if external {
		put(arrowTypeKey, f.Type.Kind.String())
		if f.Doc != "" {
			put(arrowDocKey, f.Doc)
		}
		if f.Default != nil {
			put(arrowDefaultKey, string(f.Default))
		}
		if len(f.Metadata) > 0 {
			b, _ := json.Marshal(f.Metadata) // a map of strings always encodes
			put(arrowCustomKey, string(b))
		}
	}
	if keys != nil {
		a.Metadata = arrow.NewMetadata(keys, values)
	}
	return a
}

var timestampMicros = &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}

// leafTypes are the storage types of the kinds without parameters.
var leafTypes = [...]arrow.DataType{
	Boolean: arrow.FixedWidthTypes.Boolean,
	Byte:    arrow.PrimitiveTypes.Int32, Short: arrow.PrimitiveTypes.Int32,
	Integer: arrow.PrimitiveTypes.Int32, Long: arrow.PrimitiveTypes.Int64,
	Float: arrow.PrimitiveTypes.Float32, Double: arrow.PrimitiveTypes.Float64,
	String: arrow.BinaryTypes.String, Binary: arrow.BinaryTypes.Binary,
	Date: arrow.FixedWidthTypes.Date32, Timestamp: timestampMicros,
}

func arrowType(t *Type, external bool) arrow.DataType {
	switch t.Kind {
	case Decimal:
		return &arrow.Decimal128Type{Precision: int32(t.Precision), Scale: int32(t.Scale)}
	case Array:
		return arrow.ListOfField(arrowField(t.Element, "element", external))
	case Map:
		key := Field{ID: t.KeyID, Type: Type{Kind: String}}
		return arrow.MapOfFields(arrowField(&key, "key", external), arrowField(t.Value, "value", external))
	case Struct:
		return arrow.StructOf(arrowFields(t.Fields, external)...)
	}
	if external && t.Kind == Byte {
		return arrow.PrimitiveTypes.Int8
	}
	if external && t.Kind == Short {
		return arrow.PrimitiveTypes.Int16
	}
	return leafTypes[t.Kind]
}

// fieldID is the id that an Arrow field carries; 0 if none or malformed.
func fieldID(f arrow.Field) int {
	v, ok := f.Metadata.GetValue(FieldIDKey)
	if !ok {
		return 0
	}
	id, err := strconv.ParseInt(v, 10, 32)
	if err != nil || id < 0 {
		return 0
	}
	return int(id)
}
