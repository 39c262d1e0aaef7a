package schema

import (
	"bytes"
	"errors"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/record/recordtest"
)

// foreignBatch has a column of every layout that clients may send.
func foreignBatch(t testing.TB) arrow.RecordBatch {
	t.Helper()
	dict := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}
	var fields []arrow.Field
	var cols []arrow.Array
	for i, c := range []struct {
		dt     arrow.DataType
		values string
	}{
		{arrow.PrimitiveTypes.Int16, `[1,null,3]`},
		{arrow.FixedWidthTypes.Boolean, `[true,null,false]`},
		{arrow.BinaryTypes.String, `["x",null,"zzz"]`},
		{arrow.BinaryTypes.LargeBinary, `["AA==",null,"/w=="]`},
		{arrow.BinaryTypes.StringView, `["a text of more than twelve bytes",null,"z"]`},
		{dict, `["x",null,"y"]`},
		{arrow.ListOf(dict), `[["x","y"],null,["y",null]]`},
		{arrow.LargeListOf(arrow.ListOf(arrow.PrimitiveTypes.Int32)), `[[[1],[2,3]],null,[]]`},
		{arrow.FixedSizeListOf(2, arrow.PrimitiveTypes.Float32), `[[1,2],null,[3,4]]`},
		{arrow.MapOf(arrow.BinaryTypes.String, arrow.PrimitiveTypes.Uint64), `[[{"key":"k","value":1}],null,[]]`},
		{arrow.StructOf(arrow.Field{Name: "x", Type: &arrow.Decimal256Type{Precision: 38, Scale: 2}, Nullable: true},
			arrow.Field{Name: "y", Type: arrow.BinaryTypes.Binary, Nullable: true}), `[{"x":"1.25","y":"AA=="},null,{"x":null,"y":null}]`},
		{&arrow.FixedSizeBinaryType{ByteWidth: 3}, `["AAAA",null,"////"]`},
		{arrow.FixedWidthTypes.Timestamp_ns, `[0,null,1000]`},
		{arrow.BinaryTypes.BinaryView, `["AA==",null,"AAAAAAAAAAAAAAAAAAAAAAAAAAAA"]`},
	} {
		a, _, err := array.FromJSON(memory.DefaultAllocator, c.dt, bytes.NewReader([]byte(c.values)))
		if err != nil {
			t.Fatal(err)
		}
		fields = append(fields, arrow.Field{Name: string(rune('a' + i)), Type: c.dt, Nullable: true})
		cols = append(cols, a)
	}
	lv := array.NewListViewBuilder(memory.DefaultAllocator, arrow.PrimitiveTypes.Int64)
	for i := range 3 {
		lv.AppendWithSize(i != 1, i%2*2)
		if i == 1 {
			lv.ValueBuilder().(*array.Int64Builder).AppendValues([]int64{1, 2}, nil)
		}
	}
	fields = append(fields, arrow.Field{Name: "o", Type: lv.Type(), Nullable: true})
	cols = append(cols, lv.NewArray())
	return array.NewRecordBatch(arrow.NewSchema(fields, nil), cols, 3)
}

// encodeAll encodes the rows of a batch that may be damaged, and checks that
// what comes out can be read back.
func encodeAll(t testing.TB, rec arrow.RecordBatch) (good int) {
	t.Helper()
	s, err := FromArrow(rec.Schema())
	if err != nil {
		return 0
	}
	p, err := CompileArrowToAvro(rec.Schema(), s, ArrowOptions{MaxRowBytes: 1 << 16})
	if err != nil {
		t.Fatalf("an inferred schema does not take its own batch: %v", err)
	}
	rows, err := p.Bind(rec)
	if err != nil {
		if !errors.Is(err, record.ErrInvalid) {
			t.Fatal(err)
		}
		return 0
	}
	back, err := CompileAvroToArrow(s, s)
	if err != nil {
		t.Fatal(err)
	}
	b := NewBuilder(s, nil)
	defer b.Release()
	for i := range min(rows.Len(), 100) {
		datum, err := rows.Row(nil, i)
		if err != nil {
			if !errors.Is(err, record.ErrInvalid) {
				t.Fatal(err)
			}
			continue
		}
		if err := back.Append(b, datum); err != nil {
			t.Fatalf("row %d cannot be read back: %v", i, err)
		}
		good++
	}
	return good
}

// TestArrowToAvroDamaged overwrites and cuts buffers of valid batches.
func TestArrowToAvroDamaged(t *testing.T) {
	t.Parallel()
	rec := foreignBatch(t)
	if n := encodeAll(t, rec); n != 3 {
		t.Fatalf("%d of 3 rows of the undamaged batch", n)
	}
	rapid.Check(t, func(r *rapid.T) {
		for range 20 {
			at := rapid.IntRange(0, int(rec.NumCols())-1).Draw(r, "column")
			d := damaged(r, rec.Column(at).Data())
			a, ok := makeArray(d)
			if !ok {
				continue // as the IPC reader does, which recovers
			}
			cols := append([]arrow.Array(nil), rec.Columns()...)
			cols[at] = a
			encodeAll(t, array.NewRecordBatch(rec.Schema(), cols, 3))
		}
	})
}

func makeArray(d arrow.ArrayData) (a arrow.Array, ok bool) {
	defer func() { ok = recover() == nil }()
	return array.MakeFromData(d), true
}

// damaged copies d with one buffer, of it or of what lies below it, spoilt.
func damaged(r *rapid.T, d arrow.ArrayData) arrow.ArrayData {
	children := append([]arrow.ArrayData(nil), d.Children()...)
	bufs := append([]*memory.Buffer(nil), d.Buffers()...)
	dict, _ := d.Dictionary().(*array.Data)
	switch k := rapid.IntRange(0, len(bufs)+len(children)).Draw(r, "part"); {
	case k < len(bufs) && bufs[k] != nil && bufs[k].Len() > 0:
		b := bytes.Clone(bufs[k].Bytes())
		if rapid.IntRange(0, 4).Draw(r, "cut") == 0 {
			b = b[:rapid.IntRange(0, len(b)-1).Draw(r, "length")]
		} else {
			i := rapid.IntRange(0, min(len(b)-1, 40)).Draw(r, "byte")
			b[i] = rapid.Byte().Draw(r, "value")
		}
		bufs[k] = memory.NewBufferBytes(b)
	case k >= len(bufs) && k-len(bufs) < len(children):
		children[k-len(bufs)] = damaged(r, children[k-len(bufs)])
	case dict != nil:
		dict = damaged(r, dict).(*array.Data)
	}
	if dict != nil {
		return array.NewDataWithDictionary(d.DataType(), d.Len(), bufs, d.NullN(), d.Offset(), dict)
	}
	return array.NewData(d.DataType(), d.Len(), bufs, children, d.NullN(), d.Offset())
}

func FuzzArrowToAvro(f *testing.F) {
	rec := foreignBatch(f)
	for i := range rec.NumCols() { // streams of one column each: small ones mutate better
		one := array.NewRecordBatch(arrow.NewSchema([]arrow.Field{rec.Schema().Field(int(i))}, nil), []arrow.Array{rec.Column(int(i))}, 3)
		var b bytes.Buffer
		w := ipc.NewWriter(&b, ipc.WithSchema(one.Schema()))
		if err := w.Write(one); err != nil {
			f.Fatal(err)
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var err error
		recordtest.Bounded(t, 64<<10+64*len(in), func() { err = CheckArrowStream(in) })
		if err != nil {
			if !errors.Is(err, record.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		r, err := ipc.NewReader(bytes.NewReader(in))
		if err != nil {
			return
		}
		defer r.Release()
		for r.Next() {
			encodeAll(t, r.RecordBatch())
		}
	})
}
