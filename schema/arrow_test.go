package schema

import (
	"errors"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"
	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
)

func sampleWithIDs(t testing.TB) *Schema {
	t.Helper()
	s, _ := mustParse(t, sample).AssignIDs(0)
	return s
}

func TestArrowExternalRoundTrip(t *testing.T) {
	t.Parallel()
	s := sampleWithIDs(t)
	s.Fields[12].Type.Element.Doc = "a word"
	got, err := FromArrow(s.ArrowExternal())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got); diff != "" {
		t.Error(diff)
	}
}

func TestArrowIDs(t *testing.T) {
	t.Parallel()
	user := sampleWithIDs(t)
	s := user.WithSystem()
	seen := map[int]bool{}
	var walk func(fields []arrow.Field)
	walk = func(fields []arrow.Field) {
		for _, f := range fields {
			if f.Type.ID() == arrow.MAP { // its entries are no field of the schema
				walk(f.Type.(*arrow.MapType).Elem().(*arrow.StructType).Fields())
			} else if n, ok := f.Type.(arrow.NestedType); ok {
				walk(n.Fields())
			}
			id := fieldID(f)
			if id == 0 || seen[id] {
				t.Errorf("field %q has id %d", f.Name, id)
			}
			seen[id] = true
		}
	}
	walk(s.Arrow().Fields())
	if want := user.MaxID() + len(systemFields); len(seen) != want {
		t.Errorf("%d ids, want %d", len(seen), want)
	}
}

func TestFromArrowForeign(t *testing.T) {
	t.Parallel()
	foreign := arrow.NewMetadata([]string{FieldIDKey}, []string{"3"})
	in := arrow.NewSchema([]arrow.Field{
		{Name: "u8", Type: arrow.PrimitiveTypes.Uint8, Metadata: foreign},
		{Name: "u16", Type: arrow.PrimitiveTypes.Uint16},
		{Name: "u32", Type: arrow.PrimitiveTypes.Uint32, Nullable: true},
		{Name: "u64", Type: arrow.PrimitiveTypes.Uint64},
		{Name: "half", Type: arrow.FixedWidthTypes.Float16},
		{Name: "dict", Type: &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.LargeString}},
		{Name: "view", Type: arrow.BinaryTypes.StringView},
		{Name: "fsb", Type: &arrow.FixedSizeBinaryType{ByteWidth: 16}},
		{Name: "d64", Type: arrow.FixedWidthTypes.Date64},
		{Name: "ns", Type: &arrow.TimestampType{Unit: arrow.Nanosecond}},
		{Name: "dec", Type: &arrow.Decimal256Type{Precision: 38, Scale: 3}},
		{Name: "ll", Type: arrow.LargeListOf(arrow.PrimitiveTypes.Int8)},
		{Name: "fsl", Type: arrow.FixedSizeListOfNonNullable(2, arrow.PrimitiveTypes.Float32)},
		{Name: "lv", Type: arrow.ListViewOf(arrow.FixedWidthTypes.Boolean)},
		{Name: "m", Type: arrow.MapOf(arrow.BinaryTypes.LargeString, arrow.PrimitiveTypes.Int16)},
	}, nil)
	got, err := FromArrow(in)
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, f := range got.Fields {
		if f.ID != 0 {
			t.Errorf("a foreign id %d was kept", f.ID)
		}
		types = append(types, f.Type.String())
	}
	want := "SHORT INTEGER LONG DECIMAL(20,0) FLOAT STRING STRING BINARY DATE TIMESTAMP DECIMAL(38,3) ARRAY<BYTE> ARRAY<FLOAT> ARRAY<BOOLEAN> MAP<STRING,SHORT>"
	if diff := cmp.Diff(want, strings.Join(types, " ")); diff != "" {
		t.Error(diff)
	}
	if !got.Fields[2].Nullable || got.Fields[12].Type.Element.Nullable || !got.Fields[11].Type.Element.Nullable {
		t.Error("nullability was lost")
	}
}

func TestFromArrowRefuses(t *testing.T) {
	t.Parallel()
	for _, dt := range []arrow.DataType{
		arrow.FixedWidthTypes.Time32ms, arrow.FixedWidthTypes.Time64us, arrow.FixedWidthTypes.Duration_s,
		arrow.FixedWidthTypes.MonthInterval, arrow.Null,
		&arrow.Decimal256Type{Precision: 40, Scale: 3}, &arrow.Decimal128Type{Precision: 5, Scale: -2},
		arrow.MapOf(arrow.PrimitiveTypes.Int32, arrow.PrimitiveTypes.Int16),
		arrow.RunEndEncodedOf(arrow.PrimitiveTypes.Int32, arrow.PrimitiveTypes.Int16),
		arrow.SparseUnionOf([]arrow.Field{{Name: "a", Type: arrow.PrimitiveTypes.Int32}}, []arrow.UnionTypeCode{0}),
	} {
		_, err := FromArrow(arrow.NewSchema([]arrow.Field{{Name: "s", Type: arrow.StructOf(arrow.Field{Name: "x", Type: dt})}}, nil))
		if !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), `"s.x"`) {
			t.Errorf("%s: %v", dt, err)
		}
	}
	var deep arrow.DataType = arrow.PrimitiveTypes.Int32
	for range 10_000 {
		deep = arrow.ListOf(deep)
	}
	if _, err := FromArrow(arrow.NewSchema([]arrow.Field{{Name: "x", Type: deep}}, nil)); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("deep: %v", err)
	}
}

func TestIcebergRoundTrip(t *testing.T) {
	t.Parallel()
	s := sampleWithIDs(t)
	ice := s.WithSystem().Iceberg()
	if f, ok := ice.FindFieldByID(TimestampID); !ok || f.Name != TimestampColumn || f.Type.String() != "timestamptz" || !f.Required {
		t.Errorf("system column %v", f)
	}
	if want := s.WithSystem().MaxID(); ice.HighestFieldID() != want {
		t.Errorf("highest id %d, want %d", ice.HighestFieldID(), want)
	}
	got, err := FromIceberg(ice)
	if err != nil {
		t.Fatal(err)
	}
	// What Iceberg cannot say, and what is documented to change.
	want := s.Clone()
	simplify := func(f *Field) {
		if f.Default != nil {
			f.Nullable = true
		}
		f.Default, f.Metadata = nil, nil
		if f.Type.Kind == Byte || f.Type.Kind == Short {
			f.Type.Kind = Integer
		}
	}
	for i := range want.Fields {
		simplify(&want.Fields[i])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFromIcebergRefuses(t *testing.T) {
	t.Parallel()
	p := iceberg.PrimitiveTypes
	for _, it := range []iceberg.Type{p.Time, p.Timestamp, p.TimestampNs, p.TimestampTzNs, p.UUID, iceberg.FixedTypeOf(4),
		&iceberg.MapType{KeyID: 7, KeyType: p.Int32, ValueID: 8, ValueType: p.String}} {
		_, err := FromIceberg(iceberg.NewSchema(0, iceberg.NestedField{ID: 5, Name: "l", Type: &iceberg.ListType{ElementID: 6, Element: it}}))
		if !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), `"l.element"`) {
			t.Errorf("%s: %v", it, err)
		}
	}
}
