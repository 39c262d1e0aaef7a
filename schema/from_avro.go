package schema

import (
	"encoding/base64"
	stdjson "encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/thermocline/thermocline/record"
)

// ParseAny reads a schema in either form, ours or Avro's, and validates it.
func ParseAny(b []byte) (*Schema, error) {
	var head struct {
		Type jsontext.Value `json:"type"`
	}
	if len(b) > MaxSchemaBytes || json.Unmarshal(b, &head) != nil || head.Type == nil {
		return Parse(b) // which also words the errors
	}
	s, err := FromAvro(b)
	if err != nil {
		return nil, err
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return s, nil
}

// FromAvro reads .avsc text of a record, ours or anyone's. Beside what Avro
// writes it takes:
//
//	null and one type in either order    nullable
//	enum                                 STRING
//	fixed                                BINARY, with logical type decimal DECIMAL
//	timestamp-millis, timestamp-nanos    TIMESTAMP
//	time-millis, time-micros, uuid, …    the type they are based on, with the logical
//	                                     type in the metadata "avro.logicalType"
//
// Other unions, null alone, local (zoneless) timestamps, decimals beyond 38
// digits and recursive types are refused with path and reason. Unlike Validate
// it accepts the system columns, so that it reads schemas of data files too.
func FromAvro(avsc []byte) (*Schema, error) {
	t, err := parseAvro(avsc)
	if err != nil {
		return nil, err
	}
	c := avroConverter{}
	fields, err := c.fields("", t, 1)
	if err != nil {
		return nil, err
	}
	s := &Schema{Fields: fields}
	if err := s.validate(true); err != nil {
		return nil, err
	}
	return s, nil
}

// metaLogicalType is the metadata under which FromAvro keeps a logical type
// that has no type of its own here.
const metaLogicalType = "avro.logicalType"

// avroConverter counts the fields it makes: shared types are expanded, and a
// small text could describe a schema that is huge.
type avroConverter struct{ count int }

func (c *avroConverter) fields(path string, t *avroType, depth int) ([]Field, error) {
	out := make([]Field, len(t.fields))
	for i := range t.fields {
		in := &t.fields[i]
		p := join(path, in.name)
		f, err := c.value(p, in.typ, depth)
		if err != nil {
			return nil, err
		}
		f.Name, f.Doc, f.ID = in.name, in.doc, intProp(in.props, attrFieldID)
		f.addMetadata(in.props)
		if err := f.takeDefault(p, in); err != nil {
			return nil, err
		}
		out[i] = f
	}
	return out, nil
}

// value converts a type that may be a union with null.
func (c *avroConverter) value(path string, t *avroType, depth int) (Field, error) {
	if c.count++; c.count > MaxFields || depth > MaxDepth {
		return Field{}, fmt.Errorf("avro schema: field %q: more than %d fields or %d levels of nesting: %w", excerpt(path), MaxFields, MaxDepth, record.ErrTooLarge)
	}
	inner, null, err := t.optional(path)
	if err != nil {
		return Field{}, err
	}
	f := Field{Nullable: null >= 0}
	f.Type, err = c.typ(path, inner, depth)
	if err != nil {
		return Field{}, err
	}
	switch inner.logical {
	case "", "decimal", "date", "timestamp-micros", "timestamp-millis", "timestamp-nanos":
	default:
		f.Metadata = map[string]string{metaLogicalType: inner.logical}
	}
	return f, nil
}

func (c *avroConverter) typ(path string, t *avroType, depth int) (Type, error) {
	switch t.kind {
	case avroBoolean:
		return Type{Kind: Boolean}, nil
	case avroInt:
		return avroIntType(t), nil
	case avroLong:
		return avroLongType(path, t)
	case avroFloat:
		return Type{Kind: Float}, nil
	case avroDouble:
		return Type{Kind: Double}, nil
	case avroBytes, avroFixed:
		if t.logical != "decimal" {
			return Type{Kind: Binary}, nil
		}
		if t.precision > MaxPrecision {
			return Type{}, invalidf(path, "is a decimal of %d digits; the limit is %d", t.precision, MaxPrecision)
		}
		return Type{Kind: Decimal, Precision: t.precision, Scale: t.scale}, nil
	case avroString, avroEnum:
		return Type{Kind: String}, nil
	case avroArray:
		e, err := c.value(join(path, "element"), t.part, depth+1)
		e.describePart("element", t.props, attrElementID)
		return Type{Kind: Array, Element: &e}, err
	case avroMap:
		v, err := c.value(join(path, "value"), t.part, depth+1)
		v.describePart("value", t.props, attrValueID)
		return Type{Kind: Map, Value: &v, KeyID: intProp(t.props, attrKeyID)}, err
	case avroRecord:
		fields, err := c.fields(path, t, depth+1)
		return Type{Kind: Struct, Fields: fields}, err
	}
	return Type{}, invalidf(path, "is %s, which cannot be a column", t.name)
}

func avroIntType(t *avroType) Type {
	if t.logical == "date" {
		return Type{Kind: Date}
	}
	if name, ok := t.props[attrType].(string); ok {
		if k, err := ParseKind(name); err == nil && (k == Byte || k == Short) {
			return Type{Kind: k}
		}
	}
	return Type{Kind: Integer}
}

func avroLongType(path string, t *avroType) (Type, error) {
	switch t.logical {
	case "timestamp-millis", "timestamp-micros", "timestamp-nanos":
		if utc, ok := t.props["adjust-to-utc"].(bool); ok && !utc {
			return Type{}, invalidf(path, "is a timestamp without time zone (adjust-to-utc false); send it as UTC, or as a LONG")
		}
		return Type{Kind: Timestamp}, nil
	case "local-timestamp-millis", "local-timestamp-micros", "local-timestamp-nanos":
		return Type{}, invalidf(path, "is a %s, which has no time zone; use timestamp-micros in UTC, or a plain long", t.logical)
	}
	return Type{Kind: Long}, nil
}

// describePart takes what an array or map says about its element or value.
func (f *Field) describePart(name string, props map[string]any, idAttr string) {
	f.Name, f.ID = name, intProp(props, idAttr)
	f.Doc, _ = props[attrDoc].(string)
	f.addMetadata(props)
}

func (f *Field) addMetadata(props map[string]any) {
	m, _ := props[attrMetadata].(map[string]any)
	for k, v := range m {
		if text, ok := v.(string); ok {
			if f.Metadata == nil {
				f.Metadata = map[string]string{}
			}
			f.Metadata[k] = text
		}
	}
}

// takeDefault takes the default that we wrote, or Avro's.
func (f *Field) takeDefault(path string, in *avroField) error {
	if ours, ok := in.props[attrDefault].(string); ok {
		var err error
		if f.Default, err = plainDefault(jsontext.Value(ours)); err != nil {
			return invalidf(path, "has an unreadable %s: %s", attrDefault, err)
		}
		return nil
	}
	if !in.hasDefault || in.fallback == nil {
		return nil
	}
	text, err := avroDefault(nil, in.typ, in.fallback)
	if err != nil {
		return invalidf(path, "has a default that cannot be kept: %s", err)
	}
	f.Default = stdjson.RawMessage(text)
	return nil
}

// avroDefault writes the Go value of an Avro default in the JSON of our rows.
func avroDefault(dst []byte, t *avroType, v any) ([]byte, error) {
	inner, _, err := t.optional("")
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case int32:
		return avroDefaultInt(dst, inner, int64(v))
	case int64:
		return avroDefaultInt(dst, inner, v)
	case float32:
		return avroDefaultFloat(dst, float64(v), 32)
	case float64:
		return avroDefaultFloat(dst, v, 64)
	case string:
		return appendJSONString(dst, v), nil
	case []byte:
		if inner.logical == "decimal" {
			hi, lo, ok := parseDecimal(v)
			if !ok {
				return nil, fmt.Errorf("decimal of %d bytes", len(v))
			}
			return append(appendDecimalText(append(dst, '"'), hi, lo, inner.scale), '"'), nil
		}
		return append(base64.StdEncoding.AppendEncode(append(dst, '"'), v), '"'), nil
	case []any:
		dst = append(dst, '[')
		for i := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = avroDefault(dst, inner.part, v[i]); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	case map[string]any:
		return avroDefaultObject(dst, inner, v)
	}
	return nil, fmt.Errorf("a %T", v)
}

func avroDefaultInt(dst []byte, t *avroType, v int64) ([]byte, error) {
	per := int64(0) // units of a microsecond
	switch t.logical {
	case "date":
		return append(appendDate(append(dst, '"'), v), '"'), nil
	case "timestamp-micros":
		per = 1
	case "timestamp-millis":
		if v < math.MinInt64/1000 || v > math.MaxInt64/1000 {
			return nil, fmt.Errorf("the time %d lies outside the years 1 to 9999", v)
		}
		v, per = v*1000, 1
	case "timestamp-nanos":
		per = 1000
	}
	if per == 0 || t.kind != avroLong {
		return strconv.AppendInt(dst, v, 10), nil
	}
	if v%per != 0 {
		return nil, fmt.Errorf("the time %d ns has digits below a microsecond", v)
	}
	return append(appendTimestamp(append(dst, '"'), v/per), '"'), nil
}

func avroDefaultFloat(dst []byte, v float64, size int) ([]byte, error) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil, fmt.Errorf("%v is not finite", v)
	}
	return jsontext.AppendFloat(dst, v, size), nil
}

func avroDefaultObject(dst []byte, t *avroType, v map[string]any) ([]byte, error) {
	keys := make([]string, 0, len(v))
	for k := range v {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	dst = append(dst, '{')
	for i, k := range keys {
		part := t.part
		name := k
		if t.kind == avroRecord {
			j := slices.IndexFunc(t.fields, func(f avroField) bool { return f.avroName == k })
			if j < 0 {
				return nil, fmt.Errorf("an object with the key %q, which is no field", excerpt(k))
			}
			part, name = t.fields[j].typ, t.fields[j].name
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = avroDefault(append(appendJSONString(dst, name), ':'), part, v[k]); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}
