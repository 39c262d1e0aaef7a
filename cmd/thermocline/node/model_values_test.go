package node

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/schema"
)

// The model's values: nil, bool, int64 (all integers, days, microseconds, and a
// decimal's digits), float64, string, modelBytes, []any, map[string]any for maps, and
// modelFields, by field id, for structs: what a row was written with, whatever its
// fields are called later.
type (
	modelBytes  string
	modelFields map[int]any
)

// modelAbsent stands for a field that a row was written without.
type modelAbsent struct{}

// randomValue returns a value of a type. Few different ones, so that predicates
// find some.
func randomValue(r *rand.Rand, t *schema.Type) any {
	switch t.Kind {
	case schema.Boolean:
		return r.IntN(2) == 0
	case schema.Byte:
		return int64(r.IntN(256) - 128)
	case schema.Short:
		return int64(r.IntN(1<<16) - 1<<15)
	case schema.Integer:
		return int64(int32(r.Uint32()))
	case schema.Long:
		return int64(r.Uint64())
	case schema.Float:
		return float64(r.IntN(4000)-2000) / 8
	case schema.Double:
		return r.NormFloat64()
	case schema.Decimal:
		limit := int64(1)
		for range min(t.Precision, 18) {
			limit *= 10
		}
		return r.Int64N(2*limit-1) - limit + 1
	case schema.String:
		if r.IntN(60) == 0 {
			return strings.Repeat("long", 2000)
		}
		return strings.Repeat(fmt.Sprintf("text-%d ü ", r.IntN(20)), 1+r.IntN(3))
	case schema.Binary:
		b := make([]byte, r.IntN(20))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return modelBytes(b)
	case schema.Date:
		return int64(r.IntN(40_000))
	case schema.Timestamp:
		return int64(r.IntN(1 << 50))
	case schema.Array:
		list := make([]any, r.IntN(4))
		for i := range list {
			list[i] = randomField(r, t.Element)
		}
		return list
	case schema.Map:
		m := map[string]any{}
		for range r.IntN(3) {
			m["m"+strconv.Itoa(r.IntN(5))] = randomField(r, t.Value)
		}
		return m
	case schema.Struct:
		m := modelFields{}
		for i := range t.Fields {
			m[t.Fields[i].ID] = randomField(r, &t.Fields[i])
		}
		return m
	}
	panic(t.String())
}

func randomField(r *rand.Rand, f *schema.Field) any {
	if f.Nullable && r.IntN(4) == 0 {
		return nil
	}
	return randomValue(r, &f.Type)
}

// valueJSON writes a value as clients send it.
func valueJSON(b []byte, t *schema.Type, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case int64:
		switch t.Kind {
		case schema.Decimal:
			return append(b, decimalText(v, t.Scale)...)
		case schema.Date:
			return fmt.Appendf(b, "%q", time.Unix(v*86_400, 0).UTC().Format(time.DateOnly))
		case schema.Timestamp:
			return fmt.Appendf(b, "%q", time.UnixMicro(v).UTC().Format("2006-01-02T15:04:05.000000Z"))
		}
		return strconv.AppendInt(b, v, 10)
	case float64:
		return strconv.AppendFloat(b, v, 'g', -1, 64)
	case string:
		q, _ := json.Marshal(v)
		return append(b, q...)
	case modelBytes:
		return fmt.Appendf(b, "%q", base64.StdEncoding.EncodeToString([]byte(v)))
	case []any:
		b = append(b, '[')
		for i, e := range v {
			b = valueJSON(comma(b, i), &t.Element.Type, e)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, k := range slices.Sorted(maps.Keys(v)) {
			b = valueJSON(fmt.Appendf(comma(b, i), "%q:", k), &t.Value.Type, v[k])
		}
		return append(b, '}')
	case modelFields:
		return append(fieldsJSON(append(b, '{'), t.Fields, v), '}')
	}
	panic(fmt.Sprintf("%T", v))
}

// fieldsJSON writes the fields that are there.
func fieldsJSON(b []byte, fields []schema.Field, row modelFields) []byte {
	first := 0
	for i := range fields {
		v, ok := row[fields[i].ID]
		if _, gone := v.(modelAbsent); !ok || gone {
			continue
		}
		b = valueJSON(fmt.Appendf(comma(b, first), "%q:", fields[i].Name), &fields[i].Type, v)
		first++
	}
	return b
}

func comma(b []byte, i int) []byte {
	if i > 0 {
		b = append(b, ',')
	}
	return b
}

func decimalText(digits int64, scale int) string {
	sign := ""
	if digits < 0 {
		sign, digits = "-", -digits
	}
	s := strconv.FormatInt(digits, 10)
	if scale == 0 {
		return sign + s
	}
	for len(s) <= scale {
		s = "0" + s
	}
	return sign + s[:len(s)-scale] + "." + s[len(s)-scale:]
}

// cell is how a field of a row must read under a schema, in the form that
// arrowCell gives: a field that the row was written without has its default.
func cell(f *schema.Field, row modelFields) string {
	v, ok := row[f.ID]
	if _, gone := v.(modelAbsent); ok && !gone {
		return valueCell(&f.Type, v)
	}
	if f.Default == nil {
		return "null"
	}
	return defaultCell(f)
}

// The model gives defaults to fields of these kinds only.
func defaultCell(f *schema.Field) string {
	switch f.Type.Kind {
	case schema.String:
		var s string
		if err := json.Unmarshal(f.Default, &s); err != nil {
			panic(err)
		}
		return strconv.Quote(s)
	case schema.Float, schema.Double:
		v, err := strconv.ParseFloat(string(f.Default), 64)
		if err != nil {
			panic(err)
		}
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return string(f.Default) // integers, booleans, null
}

func valueCell(t *schema.Type, v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case string:
		return strconv.Quote(v)
	case modelBytes:
		return fmt.Sprintf("%x!", string(v))
	case []any:
		cells := make([]string, len(v))
		for i, e := range v {
			cells[i] = valueCell(&t.Element.Type, e)
		}
		return "[" + strings.Join(cells, " ") + "]"
	case map[string]any:
		var cells []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			cells = append(cells, k+":"+valueCell(&t.Value.Type, v[k]))
		}
		return "<" + strings.Join(cells, " ") + ">"
	case modelFields:
		cells := make([]string, len(t.Fields))
		for i := range t.Fields {
			cells[i] = t.Fields[i].Name + ":" + cell(&t.Fields[i], v)
		}
		return "{" + strings.Join(cells, " ") + "}"
	}
	panic(fmt.Sprintf("%T", v))
}

// arrowCell is the value of a column at i.
func arrowCell(a arrow.Array, i int) string {
	if a.IsNull(i) {
		return "null"
	}
	switch a := a.(type) {
	case *array.Boolean:
		return strconv.FormatBool(a.Value(i))
	case *array.Int8:
		return strconv.Itoa(int(a.Value(i)))
	case *array.Int16:
		return strconv.Itoa(int(a.Value(i)))
	case *array.Int32:
		return strconv.Itoa(int(a.Value(i)))
	case *array.Int64:
		return strconv.FormatInt(a.Value(i), 10)
	case *array.Float32:
		return strconv.FormatFloat(float64(a.Value(i)), 'g', -1, 64)
	case *array.Float64:
		return strconv.FormatFloat(a.Value(i), 'g', -1, 64)
	case *array.Decimal128:
		return new(big.Int).Set(a.Value(i).BigInt()).String()
	case *array.String:
		return strconv.Quote(a.Value(i))
	case *array.Binary:
		return fmt.Sprintf("%x!", a.Value(i))
	case *array.Date32:
		return strconv.Itoa(int(a.Value(i)))
	case *array.Timestamp:
		return strconv.FormatInt(int64(a.Value(i)), 10)
	case *array.Map: // before List, which it holds
		from, to := a.ValueOffsets(i)
		var cells []string
		for j := from; j < to; j++ {
			cells = append(cells, a.Keys().(*array.String).Value(int(j))+":"+arrowCell(a.Items(), int(j)))
		}
		slices.Sort(cells)
		return "<" + strings.Join(cells, " ") + ">"
	case *array.List:
		from, to := a.ValueOffsets(i)
		var cells []string
		for j := from; j < to; j++ {
			cells = append(cells, arrowCell(a.ListValues(), int(j)))
		}
		return "[" + strings.Join(cells, " ") + "]"
	case *array.Struct:
		t := a.DataType().(*arrow.StructType)
		cells := make([]string, a.NumField())
		for j := range cells {
			cells[j] = t.Field(j).Name + ":" + arrowCell(a.Field(j), i)
		}
		return "{" + strings.Join(cells, " ") + "}"
	}
	panic(fmt.Sprintf("%T", a))
}

// randomType returns the type of a new field.
func randomType(r *rand.Rand, deep bool) schema.Type {
	kinds := []schema.Kind{
		schema.Boolean, schema.Byte, schema.Short, schema.Integer, schema.Long, schema.Float, schema.Double,
		schema.Decimal, schema.String, schema.Binary, schema.Date, schema.Timestamp,
	}
	if deep {
		kinds = append(kinds, schema.Array, schema.Map, schema.Struct, schema.Struct)
	}
	t := schema.Type{Kind: kinds[r.IntN(len(kinds))]}
	part := func() *schema.Field {
		return &schema.Field{Type: randomType(r, false), Nullable: r.IntN(2) == 0}
	}
	switch t.Kind {
	case schema.Decimal:
		t.Precision = 1 + r.IntN(18)
		t.Scale = r.IntN(t.Precision + 1)
	case schema.Array:
		t.Element = part()
		t.Element.Name = "element"
	case schema.Map:
		t.Value = part()
		t.Value.Name = "value"
	case schema.Struct:
		for i := range 1 + r.IntN(3) {
			f := part()
			f.Name = fmt.Sprintf("m%d", i)
			t.Fields = append(t.Fields, *f)
		}
	}
	return t
}

// newField is nullable or has a default.
func newField(r *rand.Rand, name string) schema.Field {
	f := schema.Field{Name: name, Type: randomType(r, true), Nullable: true}
	text := ""
	switch f.Type.Kind {
	case schema.Boolean:
		text = "true"
	case schema.Byte, schema.Short, schema.Integer, schema.Long:
		text = strconv.Itoa(r.IntN(100))
	case schema.Float, schema.Double:
		text = "2.5"
	case schema.String:
		text = `"by default"`
	}
	if text != "" && r.IntN(3) > 0 {
		f.Default, f.Nullable = json.RawMessage(text), r.IntN(2) == 0
	}
	return f
}

// evolved returns s after one allowed change and what it was; "" if none of
// the kind that was drawn is possible.
func evolved(r *rand.Rand, s *schema.Schema, names *int) (*schema.Schema, string) {
	out := s.Clone()
	fields := &out.Fields
	least := 2 // n and k stay as they are
	// Sometimes in a struct.
	for i := least; i < len(out.Fields); i++ {
		if out.Fields[i].Type.Kind == schema.Struct && r.IntN(2) == 0 {
			fields, least = &out.Fields[i].Type.Fields, 0
			break
		}
	}
	*names++
	name := fmt.Sprintf("f%d", *names)
	at := least
	if len(*fields) > least {
		at += r.IntN(len(*fields) - least)
	}
	what := []string{"add", "add", "drop", "rename", "reorder", "widen", "widen", "optional", "reuse"}[r.IntN(9)]
	if what != "add" && at == len(*fields) {
		return nil, ""
	}
	switch what {
	case "add":
		if len(*fields) > 8 {
			return nil, ""
		}
		*fields = slices.Insert(*fields, at, newField(r, name))
	case "drop":
		if len(*fields) == 1 {
			return nil, ""
		}
		*fields = slices.Delete(*fields, at, at+1)
	case "rename":
		(*fields)[at].Name = name
	case "reorder":
		f := (*fields)[at]
		*fields = slices.Insert(slices.Delete(*fields, at, at+1), least, f)
	case "widen":
		if !widen(&(*fields)[at].Type) {
			return nil, ""
		}
	case "optional":
		if (*fields)[at].Nullable {
			return nil, ""
		}
		(*fields)[at].Nullable = true
	case "reuse": // a new field with the name of one that is renamed
		f := newField(r, (*fields)[at].Name)
		(*fields)[at].Name = name
		*fields = append(*fields, f)
	}
	return out, what
}

func widen(t *schema.Type) bool {
	switch t.Kind {
	case schema.Byte, schema.Short, schema.Integer:
		t.Kind++
	case schema.Float:
		t.Kind = schema.Double
	case schema.Decimal:
		if t.Precision >= 18 {
			return false
		}
		t.Precision++
	case schema.Array:
		return widen(&t.Element.Type)
	case schema.Map:
		return widen(&t.Value.Type)
	default:
		return false
	}
	return true
}
