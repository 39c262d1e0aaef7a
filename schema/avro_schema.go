package schema

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// The attributes by which an .avsc keeps what Avro does not know. The ids and
// names are Iceberg's.
const (
	attrFieldID   = "field-id"
	attrElementID = "element-id"
	attrKeyID     = "key-id"
	attrValueID   = "value-id"
	attrName      = "iceberg-field-name"   // the name, where it is no Avro name
	attrType      = "thermocline.type"     // BYTE or SHORT, which are ints in Avro
	attrDefault   = "thermocline.default"  // the JSON text of the default
	attrDoc       = "thermocline.doc"      // of an element or value
	attrMetadata  = "thermocline.metadata" // of a field, element or value
)

// avroRecordName is the name of the record that is a row.
const avroRecordName = "row"

// Avro returns the schema of the rows' Avro data as .avsc text:
//
//	BOOLEAN          boolean
//	BYTE, SHORT      int with the attribute thermocline.type
//	INTEGER, LONG    int, long
//	FLOAT, DOUBLE    float, double
//	DECIMAL          bytes, logical type decimal
//	STRING, BINARY   string, bytes
//	DATE             int, logical type date
//	TIMESTAMP        long, logical type timestamp-micros, adjust-to-utc true
//	ARRAY, MAP       array, map, with the ids of their parts
//	STRUCT           record, named r and its field id
//
// A nullable value is the union ["null", T]; a nullable field has the default
// null. A required field's default is its Avro default, unless it holds a
// value for a nullable part, which Avro cannot express; every default also
// stands, as it is, in the attribute thermocline.default. A name that is no
// Avro name is written as Iceberg does (a-b as a_x2Db), and the name itself in
// iceberg-field-name. FromAvro restores the schema without loss, but for its ID.
func (s *Schema) Avro() string {
	w := avroWriter{}
	w.record(avroRecordName, s.Fields)
	return string(w.b)
}

type avroWriter struct {
	b       []byte
	unnamed int // records of fields without an id
}

func (w *avroWriter) key(name string) {
	if c := w.b[len(w.b)-1]; c != '{' {
		w.b = append(w.b, ',')
	}
	w.b = append(appendJSONString(w.b, name), ':')
}

func (w *avroWriter) text(name, value string) {
	w.key(name)
	w.b = appendJSONString(w.b, value)
}

func (w *avroWriter) int(name string, value int) {
	w.key(name)
	w.b = strconv.AppendInt(w.b, int64(value), 10)
}

// id writes an id that is assigned.
func (w *avroWriter) id(name string, id int) {
	if id != 0 {
		w.int(name, id)
	}
}

func (w *avroWriter) record(name string, fields []Field) {
	w.b = append(w.b, '{')
	w.text("type", "record")
	w.text("name", name)
	w.key("fields")
	w.b = append(w.b, '[')
	names := avroNames(fields)
	for i := range fields {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.field(names[i], &fields[i])
	}
	w.b = append(w.b, ']', '}')
}

func (w *avroWriter) field(name string, f *Field) {
	w.b = append(w.b, '{')
	w.text("name", name)
	if f.Doc != "" {
		w.text("doc", f.Doc)
	}
	w.key("type")
	w.value(f)
	w.fieldDefault(f)
	w.id(attrFieldID, f.ID)
	if name != f.Name {
		w.text(attrName, f.Name)
	}
	w.metadata(f.Metadata)
	w.b = append(w.b, '}')
}

func (w *avroWriter) fieldDefault(f *Field) {
	if f.Nullable {
		w.key("default")
		w.b = append(w.b, "null"...)
	} else if f.Default != nil {
		if datum, err := defaultDatum(f.Name, f); err == nil {
			if d, _, ok := appendAvroJSON(nil, f, datum, 0); ok {
				w.key("default")
				w.b = append(w.b, d...)
			}
		}
	}
	if f.Default != nil {
		w.text(attrDefault, string(f.Default))
	}
}

func (w *avroWriter) metadata(m map[string]string) {
	if len(m) == 0 {
		return
	}
	w.key(attrMetadata)
	w.b = append(w.b, '{')
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		w.text(k, m[k])
	}
	w.b = append(w.b, '}')
}

// value writes the type of a field, element or value.
func (w *avroWriter) value(f *Field) {
	if f.Nullable {
		w.b = append(w.b, `["null",`...)
		defer func() { w.b = append(w.b, ']') }()
	}
	t := &f.Type
	switch t.Kind {
	case Boolean:
		w.b = append(w.b, `"boolean"`...)
	case Byte, Short:
		w.b = append(w.b, `{"type":"int"`...)
		w.text(attrType, t.Kind.String())
		w.b = append(w.b, '}')
	case Integer:
		w.b = append(w.b, `"int"`...)
	case Long:
		w.b = append(w.b, `"long"`...)
	case Float:
		w.b = append(w.b, `"float"`...)
	case Double:
		w.b = append(w.b, `"double"`...)
	case Decimal:
		w.b = append(w.b, `{"type":"bytes","logicalType":"decimal"`...)
		w.int("precision", t.Precision)
		w.int("scale", t.Scale)
		w.b = append(w.b, '}')
	case String:
		w.b = append(w.b, `"string"`...)
	case Binary:
		w.b = append(w.b, `"bytes"`...)
	case Date:
		w.b = append(w.b, `{"type":"int","logicalType":"date"}`...)
	case Timestamp:
		w.b = append(w.b, `{"type":"long","logicalType":"timestamp-micros","adjust-to-utc":true}`...)
	case Array:
		w.b = append(w.b, `{"type":"array"`...)
		w.key("items")
		w.value(t.Element)
		w.id(attrElementID, t.Element.ID)
		w.part(t.Element)
	case Map:
		w.b = append(w.b, `{"type":"map"`...)
		w.key("values")
		w.value(t.Value)
		w.id(attrKeyID, t.KeyID)
		w.id(attrValueID, t.Value.ID)
		w.part(t.Value)
	case Struct:
		name := "r" + strconv.Itoa(f.ID)
		if f.ID == 0 {
			w.unnamed++
			name = "s" + strconv.Itoa(w.unnamed)
		}
		w.record(name, t.Fields)
	}
}

// part ends an array or map with what describes its part.
func (w *avroWriter) part(f *Field) {
	if f.Doc != "" {
		w.text(attrDoc, f.Doc)
	}
	w.metadata(f.Metadata)
	w.b = append(w.b, '}')
}

// avroNames gives each field of a record an Avro name of its own: its name if
// it is one.
func avroNames(fields []Field) []string {
	taken := make(map[string]bool, len(fields))
	for i := range fields {
		if isAvroName(fields[i].Name) {
			taken[fields[i].Name] = true
		}
	}
	names := make([]string, len(fields))
	for i := range fields {
		name := fields[i].Name
		if !isAvroName(name) {
			name = encodeAvroName(name)
			for base, n := name, 2; taken[name]; n++ {
				name = base + "_" + strconv.Itoa(n)
			}
			taken[name] = true
		}
		names[i] = name
	}
	return names
}

func isAvroName(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || !isDigit(c)) {
			return false
		}
	}
	return s != ""
}

// encodeAvroName writes a name as Iceberg does: characters other than ASCII
// letters, digits and _ as _x and their code in hexadecimal, a leading digit
// behind a _.
func encodeAvroName(s string) string {
	var b []byte
	for i, r := range s {
		switch {
		case r < utf8.RuneSelf && (r == '_' || r|0x20 >= 'a' && r|0x20 <= 'z'):
			b = append(b, byte(r))
		case r < utf8.RuneSelf && isDigit(byte(r)):
			if i == 0 {
				b = append(b, '_')
			}
			b = append(b, byte(r))
		default:
			b = fmt.Appendf(b, "_x%X", r)
		}
	}
	return string(b)
}

// appendAvroJSON appends an Avro datum in Avro's JSON encoding of defaults;
// false if it has a value for a nullable part. The datum is sound.
func appendAvroJSON(dst []byte, f *Field, b []byte, i int) ([]byte, int, bool) {
	if f.Nullable {
		null, next := readBranch(b, i)
		return append(dst, "null"...), next, null
	}
	t := &f.Type
	switch t.Kind {
	case Boolean:
		return strconv.AppendBool(dst, b[i] != 0), i + 1, true
	case Byte, Short, Integer, Long, Date, Timestamp:
		v, i := readLong(b, i)
		return strconv.AppendInt(dst, v, 10), i, true
	case Float:
		v := math.Float32frombits(binary.LittleEndian.Uint32(b[i:]))
		return jsontext.AppendFloat(dst, float64(v), 32), i + 4, true
	case Double:
		v := math.Float64frombits(binary.LittleEndian.Uint64(b[i:]))
		return jsontext.AppendFloat(dst, v, 64), i + 8, true
	case String:
		v, i := readBytes(b, i)
		return appendJSONString(dst, v), i, true
	case Decimal, Binary:
		v, i := readBytes(b, i)
		text := make([]rune, len(v))
		for j, c := range v {
			text[j] = rune(c)
		}
		return appendJSONString(dst, string(text)), i, true
	case Struct:
		names := avroNames(t.Fields)
		dst = append(dst, '{')
		for j := range t.Fields {
			if j > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendJSONString(dst, names[j]), ':')
			var ok bool
			if dst, i, ok = appendAvroJSON(dst, &t.Fields[j], b, i); !ok {
				return dst, i, false
			}
		}
		return append(dst, '}'), i, true
	}
	return appendAvroJSONBlock(dst, t, b, i)
}

func appendAvroJSONBlock(dst []byte, t *Type, b []byte, i int) ([]byte, int, bool) {
	part, open, end := t.Element, byte('['), byte(']')
	if t.Kind == Map {
		part, open, end = t.Value, '{', '}'
	}
	dst = append(dst, open)
	count, _, i := readBlock(b, i) // our writer makes one block
	for j := range count {
		if j > 0 {
			dst = append(dst, ',')
		}
		if t.Kind == Map {
			var key []byte
			key, i = readBytes(b, i)
			dst = append(appendJSONString(dst, key), ':')
		}
		var ok bool
		if dst, i, ok = appendAvroJSON(dst, part, b, i); !ok {
			return dst, i, false
		}
	}
	if count > 0 {
		i++ // the block of 0 that ends it
	}
	return append(dst, end), i, true
}
