package schema

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
)

// batchOf builds a batch of one column x from JSON.
func batchOf(t testing.TB, dt arrow.DataType, values string) arrow.RecordBatch {
	t.Helper()
	s := arrow.NewSchema([]arrow.Field{{Name: "x", Type: dt, Nullable: true}}, nil)
	a, _, err := array.FromJSON(memory.DefaultAllocator, dt, strings.NewReader(values))
	if err != nil {
		t.Fatalf("%s: %v", dt, err)
	}
	return array.NewRecordBatch(s, []arrow.Array{a}, int64(a.Len()))
}

// arrowToJSON encodes row i of a batch as a row of s, and that as JSON.
func arrowToJSON(t testing.TB, s *Schema, rec arrow.RecordBatch, o ArrowOptions, i int) (string, error) {
	t.Helper()
	p, err := CompileArrowToAvro(rec.Schema(), s, o)
	if err != nil {
		return "", err
	}
	rows, err := p.Bind(rec)
	if err != nil {
		return "", err
	}
	datum, err := rows.Row([]byte("kept"), i)
	if string(datum[:4]) != "kept" || err != nil && len(datum) != 4 {
		t.Errorf("dst is %q after error %v", datum, err)
	}
	if err != nil {
		return "", err
	}
	j, err := CompileAvroToJSON(s, s, JSONOutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := j.Row(nil, datum[4:])
	if err != nil {
		t.Fatal(err)
	}
	return string(text), nil
}

func TestArrowToAvroForeign(t *testing.T) {
	t.Parallel()
	dict := func(v arrow.DataType) arrow.DataType {
		return &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Uint8, ValueType: v}
	}
	ts := func(u arrow.TimeUnit) arrow.DataType { return &arrow.TimestampType{Unit: u, TimeZone: "Europe/Berlin"} }
	for _, c := range []struct {
		field  string
		dt     arrow.DataType
		values string
		want   string // of the rows, joined by a blank; or the error's code
	}{
		{`"type":"BYTE"`, arrow.PrimitiveTypes.Int64, `[-128, 127, null]`, `-128 127 null`},
		{`"type":"BYTE"`, arrow.PrimitiveTypes.Int64, `[128]`, CodeOutOfRange},
		{`"type":"BYTE"`, arrow.PrimitiveTypes.Int16, `[-129]`, CodeOutOfRange},
		{`"type":"SHORT"`, arrow.PrimitiveTypes.Uint16, `[32767]`, `32767`},
		{`"type":"SHORT"`, arrow.PrimitiveTypes.Uint16, `[32768]`, CodeOutOfRange},
		{`"type":"INTEGER"`, arrow.PrimitiveTypes.Uint32, `[4294967295]`, CodeOutOfRange},
		{`"type":"LONG"`, arrow.PrimitiveTypes.Uint64, `[9223372036854775807]`, `9223372036854775807`},
		{`"type":"LONG"`, arrow.PrimitiveTypes.Uint64, `[9223372036854775808]`, CodeOutOfRange},
		{`"type":"LONG"`, arrow.PrimitiveTypes.Int8, `[-7]`, `-7`},
		{`"type":"LONG"`, arrow.PrimitiveTypes.Float64, `[1]`, "does not fit"},
		{`"type":"DOUBLE"`, arrow.PrimitiveTypes.Int64, `[9007199254740992]`, `9007199254740992`},
		{`"type":"DOUBLE"`, arrow.PrimitiveTypes.Int64, `[9007199254740993]`, CodeLossy},
		{`"type":"DOUBLE"`, arrow.FixedWidthTypes.Float16, `[1.5]`, `1.5`},
		{`"type":"DOUBLE"`, arrow.PrimitiveTypes.Float32, `[0.5]`, `0.5`},
		{`"type":"FLOAT"`, arrow.PrimitiveTypes.Float64, `[0.5]`, `0.5`},
		{`"type":"FLOAT"`, arrow.PrimitiveTypes.Float64, `[0.1]`, CodeLossy},
		{`"type":"FLOAT"`, arrow.PrimitiveTypes.Float64, `[1e300]`, CodeOutOfRange},
		{`"type":"FLOAT"`, arrow.PrimitiveTypes.Int32, `[16777217]`, CodeLossy},
		{`"type":"DECIMAL","precision":5,"scale":2`, arrow.PrimitiveTypes.Int32, `[-999]`, `-999.00`},
		{`"type":"DECIMAL","precision":5,"scale":2`, arrow.PrimitiveTypes.Int32, `[1000]`, CodeOutOfRange},
		{`"type":"DECIMAL","precision":20,"scale":0`, arrow.PrimitiveTypes.Uint64, `[18446744073709551615]`, `18446744073709551615`},
		{`"type":"DECIMAL","precision":5,"scale":2`, &arrow.Decimal128Type{Precision: 10, Scale: 4}, `["1.2300"]`, `1.23`},
		{`"type":"DECIMAL","precision":5,"scale":2`, &arrow.Decimal128Type{Precision: 10, Scale: 4}, `["1.2301"]`, CodeLossy},
		{`"type":"DECIMAL","precision":5,"scale":2`, &arrow.Decimal64Type{Precision: 10, Scale: 1}, `["-99.5"]`, `-99.50`},
		{`"type":"DECIMAL","precision":5,"scale":2`, &arrow.Decimal32Type{Precision: 9, Scale: 1}, `["1000.0"]`, CodeOutOfRange},
		{`"type":"DECIMAL","precision":38,"scale":0`, &arrow.Decimal256Type{Precision: 76, Scale: 38}, `["12345678901234567890.0"]`, `12345678901234567890`},
		{`"type":"DECIMAL","precision":5,"scale":2`, &arrow.Decimal256Type{Precision: 76, Scale: 2}, `["1000.00"]`, CodeOutOfRange},
		{`"type":"DECIMAL","precision":5,"scale":2`, &arrow.Decimal256Type{Precision: 76, Scale: 3}, `["0.001"]`, CodeLossy},
		{`"type":"STRING"`, arrow.BinaryTypes.LargeString, `["a", "b"]`, `"a" "b"`},
		{`"type":"STRING"`, arrow.BinaryTypes.StringView, `["a", "a text of more than twelve bytes", null]`, `"a" "a text of more than twelve bytes" null`},
		{`"type":"STRING"`, dict(arrow.BinaryTypes.String), `["a", null, "b", "a"]`, `"a" null "b" "a"`},
		{`"type":"STRING"`, arrow.BinaryTypes.Binary, `["YQ=="]`, "does not fit"},
		{`"type":"BINARY"`, arrow.BinaryTypes.BinaryView, `["/w=="]`, `"/w=="`},
		{`"type":"BINARY"`, arrow.BinaryTypes.LargeBinary, `["/w=="]`, `"/w=="`},
		{`"type":"BINARY"`, &arrow.FixedSizeBinaryType{ByteWidth: 2}, `["/wA=", "AP8="]`, `"/wA=" "AP8="`},
		{`"type":"DATE"`, arrow.FixedWidthTypes.Date64, `[86400000]`, `"1970-01-02"`},
		{`"type":"DATE"`, arrow.FixedWidthTypes.Date64, `[86400001]`, CodeLossy},
		{`"type":"DATE"`, arrow.FixedWidthTypes.Date32, `[2932897]`, CodeOutOfRange},
		{`"type":"TIMESTAMP"`, ts(arrow.Second), `[-1]`, `"1969-12-31T23:59:59Z"`},
		{`"type":"TIMESTAMP"`, ts(arrow.Second), `[9223372036854775807]`, CodeOutOfRange},
		{`"type":"TIMESTAMP"`, ts(arrow.Millisecond), `[1517363399650]`, `"2018-01-31T01:49:59.650Z"`},
		{`"type":"TIMESTAMP"`, ts(arrow.Nanosecond), `[1000]`, `"1970-01-01T00:00:00.000001Z"`},
		{`"type":"TIMESTAMP"`, ts(arrow.Nanosecond), `[1001]`, CodeLossy},
		{`"type":"ARRAY","element":{"type":"BYTE","nullable":false}`, arrow.LargeListOf(arrow.PrimitiveTypes.Int64), `[[1,2],[],null]`, `[1,2] [] null`},
		{`"type":"ARRAY","element":{"type":"BYTE","nullable":false}`, arrow.ListOf(arrow.PrimitiveTypes.Int64), `[[1,null]]`, CodeNull},
		{`"type":"ARRAY","element":{"type":"BYTE"}`, arrow.FixedSizeListOf(2, arrow.PrimitiveTypes.Int8), `[[1,2],null,[3,null]]`, `[1,2] null [3,null]`},
		{`"type":"MAP","value":{"type":"LONG"}`, arrow.MapOf(arrow.BinaryTypes.String, arrow.PrimitiveTypes.Int8), `[[{"key":"a","value":1},{"key":"b","value":null}]]`, `{"a":1,"b":null}`},
		{`"type":"MAP","value":{"type":"LONG"}`, arrow.MapOf(dict(arrow.BinaryTypes.String), arrow.PrimitiveTypes.Int8), `[[{"key":"a","value":1}]]`, `{"a":1}`},
		{`"type":"MAP","value":{"type":"LONG"}`, arrow.MapOf(arrow.BinaryTypes.String, arrow.PrimitiveTypes.Int8), `[[{"key":"a","value":1},{"key":"a","value":2}]]`, CodeDuplicateField},
		{`"type":"STRUCT","fields":[{"name":"b","type":"LONG","default":5},{"name":"a","type":"LONG"}]`, arrow.StructOf(arrow.Field{Name: "a", Type: arrow.PrimitiveTypes.Int32, Nullable: true}), `[{"a":1},null]`, `{"b":5,"a":1} null`},
		{`"type":"STRUCT","fields":[{"name":"a","type":"LONG"}]`, arrow.StructOf(arrow.Field{Name: "b", Type: arrow.PrimitiveTypes.Int32}), `[{"b":1}]`, `"x.b" is not in the schema`},
		{`"type":"STRUCT","fields":[{"name":"a","type":"LONG","nullable":false}]`, arrow.StructOf(), `[{}]`, "is required"},
		{`"type":"LONG"`, arrow.Null, `[null]`, `null`},
		{`"type":"LONG","nullable":false`, arrow.Null, `[null]`, "does not fit"},
		{`"type":"LONG","nullable":false`, arrow.PrimitiveTypes.Int64, `[null]`, CodeNull},
		{`"type":"BOOLEAN"`, arrow.FixedWidthTypes.Boolean, `[true,false,null]`, `true false null`},
	} {
		s := mustParse(t, `{"fields":[{"name":"x",`+c.field+`}]}`)
		rec := batchOf(t, c.dt, c.values)
		var got []string
		for i := range int(rec.NumRows()) {
			text, err := arrowToJSON(t, s, rec, ArrowOptions{}, i)
			var re *RowError
			if errors.As(err, &re) {
				got = append(got, re.Code)
				if re.Row != i || !strings.HasPrefix(re.Path, "x") || re.Got == "" || re.Expected == "" {
					t.Errorf("%s from %s: %#v", c.field, c.dt, re)
				}
			} else if err != nil {
				if !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s from %s: %v", c.field, c.dt, err)
				}
				got = append(got, c.want)
			} else {
				got = append(got, strings.TrimSuffix(strings.TrimPrefix(text, `{"x":`), "}"))
			}
		}
		if diff := cmp.Diff(c.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%s from %s of %s: %s", c.field, c.dt, c.values, diff)
		}
	}
}

func TestArrowToAvroNonFinite(t *testing.T) {
	t.Parallel()
	s := mustParse(t, `{"fields":[{"name":"x","type":"DOUBLE"}]}`)
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		b := array.NewFloat64Builder(memory.DefaultAllocator)
		b.Append(v)
		rec := array.NewRecordBatch(arrow.NewSchema([]arrow.Field{{Name: "x", Type: arrow.PrimitiveTypes.Float64}}, nil), []arrow.Array{b.NewArray()}, 1)
		var re *RowError
		if _, err := arrowToJSON(t, s, rec, ArrowOptions{}, 0); !errors.As(err, &re) || re.Code != CodeOutOfRange {
			t.Errorf("%v: %v", v, err)
		}
	}
}

// TestArrowToAvroStored reads what other engines may have written into our
// tables, and rows of any size.
func TestArrowToAvroStored(t *testing.T) {
	t.Parallel()
	s := mustParse(t, `{"fields":[{"name":"d","type":"DOUBLE","id":5},{"name":"f","type":"FLOAT","id":6},{"name":"t","type":"TIMESTAMP","id":7},{"name":"day","type":"DATE","id":8},{"name":"s","type":"STRING","id":9}]}`)
	b := array.NewRecordBuilder(memory.DefaultAllocator, s.Arrow())
	b.Field(0).(*array.Float64Builder).Append(math.Inf(-1))
	b.Field(1).(*array.Float32Builder).Append(float32(math.NaN()))
	b.Field(2).(*array.TimestampBuilder).Append(math.MaxInt64)
	b.Field(3).(*array.Date32Builder).Append(math.MinInt32)
	b.Field(4).(*array.StringBuilder).Append(strings.Repeat("x", 2*MaxRowBytes))
	rec := b.NewRecordBatch()
	p, err := CompileArrowToAvro(rec.Schema(), s, ArrowOptions{ByID: true})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := p.Bind(rec)
	if err != nil {
		t.Fatal(err)
	}
	datum, err := rows.Row(nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	back, err := CompileAvroToArrow(s, s)
	if err != nil {
		t.Fatal(err)
	}
	bld := NewBuilder(s, nil)
	if err := back.Append(bld, datum); err != nil {
		t.Fatal(err)
	}
	got := bld.NewBatch()
	if !array.RecordApproxEqual(rec, got, array.WithNaNsEqual(true)) {
		t.Errorf("stored %v, read %v", rec, got)
	}
}

func TestArrowToAvroErrorPath(t *testing.T) {
	t.Parallel()
	s := mustParse(t, `{"fields":[{"name":"x","type":"MAP","value":{"type":"ARRAY","element":{"type":"STRUCT","fields":[{"name":"y","type":"BYTE"}]}}}]}`)
	y := arrow.StructOf(arrow.Field{Name: "y", Type: arrow.PrimitiveTypes.Int32, Nullable: true})
	rec := batchOf(t, arrow.MapOf(arrow.BinaryTypes.String, arrow.ListOf(y)),
		`[null, [{"key":"k","value":[{"y":1}]},{"key":"l","value":[{"y":1},{"y":300}]}]]`)
	_, err := arrowToJSON(t, s, rec, ArrowOptions{}, 1)
	want := `row 1, field x["l"][1].y: expected BYTE (an integer from -128 to 127), got 300`
	if fmt.Sprint(err) != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

func TestArrowToAvroMatching(t *testing.T) {
	t.Parallel()
	s := mustParse(t, `{"fields":[{"name":"new","type":"LONG","id":5},{"name":"b","type":"LONG","id":6}]}`)
	id := func(v string) arrow.Metadata { return arrow.NewMetadata([]string{FieldIDKey}, []string{v}) }
	i64 := arrow.PrimitiveTypes.Int64
	batch := func(fields ...arrow.Field) arrow.RecordBatch {
		var cols []arrow.Array
		for i := range fields {
			b := array.NewInt64Builder(memory.DefaultAllocator)
			b.Append(int64(i + 1))
			cols = append(cols, b.NewArray())
		}
		return array.NewRecordBatch(arrow.NewSchema(fields, nil), cols, 1)
	}
	swapped := batch(arrow.Field{Name: "b", Type: i64, Metadata: id("5")}, arrow.Field{Name: "new", Type: i64, Metadata: id("6")})
	older := batch(arrow.Field{Name: "old", Type: i64, Metadata: id("5")}, arrow.Field{Name: "dropped", Type: i64, Metadata: id("7")})
	for _, c := range []struct {
		name string
		rec  arrow.RecordBatch
		o    ArrowOptions
		want string
	}{
		{"a client's ids mean nothing", swapped, ArrowOptions{}, `{"new":2,"b":1}`},
		{"our ids decide", swapped, ArrowOptions{ByID: true}, `{"new":1,"b":2}`},
		{"renamed, dropped and added", older, ArrowOptions{ByID: true}, `{"new":1,"b":null}`},
		{"unknown", older, ArrowOptions{}, `"old" is not in the schema`},
		{"unknown ignored", older, ArrowOptions{UnknownFields: Ignore}, `{"new":null,"b":null}`},
		{"twice", batch(arrow.Field{Name: "b", Type: i64}, arrow.Field{Name: "b", Type: i64}), ArrowOptions{}, "twice"},
		{"no id", batch(arrow.Field{Name: "b", Type: i64}), ArrowOptions{ByID: true}, "no field id"},
		{"too large", swapped, ArrowOptions{MaxRowBytes: 3}, "at most 3 bytes"},
		{"options", swapped, ArrowOptions{MaxRowBytes: -1}, "options"},
	} {
		got, err := arrowToJSON(t, s, c.rec, c.o, 0)
		if err != nil && (!errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), c.want)) || err == nil && got != c.want {
			t.Errorf("%s: %s, %v, want %s", c.name, got, err, c.want)
		}
	}
}
