package schema

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/record"
)

const avroFlightSchema = `{"fields":[
 {"name":"date","type":"TIMESTAMP","nullable":false},
 {"name":"delay","type":"INTEGER"},
 {"name":"distance","type":"INTEGER"},
 {"name":"origin","type":"STRING","nullable":false},
 {"name":"destination","type":"STRING","nullable":false}]}`

// avroFlight is the Avro datum of row i of the flights schema.
func avroFlight(dst []byte, i int) []byte {
	dst = appendLong(dst, 978307200000000+int64(i)*60_000_000)
	dst = append(dst, 2)
	dst = appendLong(dst, int64(i%200-20))
	dst = append(dst, 2)
	dst = appendLong(dst, int64(i%3000))
	for _, a := range []string{"SFO", "JFK"} {
		dst = append(appendLong(dst, int64(len(a))), a...)
	}
	return dst
}

func TestAvroToArrowRollsBack(t *testing.T) {
	t.Parallel()
	s := sampleWithIDs(t)
	p, err := CompileAvroToArrow(s, s)
	if err != nil {
		t.Fatal(err)
	}
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	b := NewBuilder(s.WithSystem(), mem)
	defer b.Release()
	sys, err := CompileAvroToArrow(s, s.WithSystem())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Append(b, nil); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("another schema's builder: %v", err)
	}
	rows := [][]byte{sampleRow(1), sampleRow(2), sampleRow(3)}
	for i, r := range rows {
		for n := range r { // every prefix of the row fails and leaves nothing
			if err := sys.Append(b, r[:n]); !errors.Is(err, record.ErrCorrupt) {
				t.Fatalf("prefix %d of row %d: %v", n, i, err)
			}
		}
		if err := sys.Append(b, append(r[:len(r):len(r)], 0)); !errors.Is(err, record.ErrCorrupt) {
			t.Fatalf("a byte too many: %v", err)
		}
		if err := sys.Append(b, r); err != nil {
			t.Fatal(err)
		}
		if err := sys.Append(b, r); !errors.Is(err, record.ErrInvalid) {
			t.Fatalf("without AppendSystem: %v", err)
		}
		b.AppendSystem(7, 1, record.Offset(i), 1000)
	}
	got := b.NewBatch()
	defer got.Release()
	if b.Len() != 0 || b.Bytes() != 0 {
		t.Errorf("the builder keeps %d rows, %d bytes", b.Len(), b.Bytes())
	}
	for _, r := range rows {
		if err := sys.Append(b, r); err != nil {
			t.Fatal(err)
		}
		b.AppendSystem(7, 1, record.Offset(b.Len()-1), 1000)
	}
	want := b.NewBatch()
	defer want.Release()
	if err := array.ValidateRecordFull(got); err != nil {
		t.Error(err)
	}
	if !array.RecordEqual(want, got) {
		t.Errorf("failed rows left something behind:\n%v\n%v", got, want)
	}
	if ts := got.Column(len(s.Fields) + 3).(*array.Timestamp).Value(0); ts != 1_000_000 {
		t.Errorf("append time %d", ts)
	}
}

// sampleRow is a row of the sample schema; seed decides which values are null.
func sampleRow(seed int) []byte {
	str := func(b []byte, s string) []byte { return append(appendLong(b, int64(len(s))), s...) }
	b := str(nil, "id")
	opt := func(present bool, value ...byte) {
		if !present {
			b = append(b, 0)
			return
		}
		b = append(append(b, 2), value...)
	}
	opt(seed != 1, 1)
	opt(seed != 2, appendLong(nil, -128)...)
	opt(seed != 1, appendLong(nil, 32767)...)
	opt(seed != 2, appendLong(nil, math.MinInt32)...)
	b = appendLong(b, math.MaxInt64)
	opt(seed != 3, binary.LittleEndian.AppendUint32(nil, math.Float32bits(1.5))...)
	opt(seed == 3, binary.LittleEndian.AppendUint64(nil, math.Float64bits(-2.5))...)
	opt(seed != 1, appendDecimal(nil, -1, math.MaxUint64-12344)...)
	opt(seed != 2, 4, 0xff, 0)
	opt(seed != 1, appendLong(nil, 17567)...)
	opt(seed != 2, appendLong(nil, 1517363399650000)...)
	tags := appendLong(nil, 2)
	tags = str(append(tags, 2), "uw")
	opt(seed != 1, append(tags, 0, 0)...)
	attrs := str(appendLong(nil, 1), "rms")
	attrs = binary.LittleEndian.AppendUint64(attrs, math.Float64bits(0.25))
	opt(seed != 3, append(attrs, 0)...)
	place := binary.LittleEndian.AppendUint64(nil, math.Float64bits(7))
	place = append(place, 0, 2)                                  // lat null, marks present
	marks := []byte{2, 2, 2, 2, 4, 2, 0, 2, 6}                   // {x:1,y:2}, {x:null,y:3}
	place = appendLong(appendLong(place, -2), int64(len(marks))) // a block with its size
	place = append(append(place, marks...), 0)
	opt(seed != 2, place...)
	return b
}

func TestAvroToArrowRefuses(t *testing.T) {
	t.Parallel()
	s := func(field string) *Schema {
		return &Schema{Fields: mustParse(t, `{"fields":[{"name":"x","id":5,`+field+`}]}`).Fields}
	}
	for _, c := range []struct{ writer, reader string }{
		{`"type":"LONG"`, `"type":"INTEGER"`},
		{`"type":"LONG"`, `"type":"LONG","nullable":false`},
		{`"type":"DOUBLE"`, `"type":"FLOAT"`},
		{`"type":"ARRAY","element":{"type":"LONG"}`, `"type":"ARRAY","element":{"type":"BYTE"}`},
	} {
		if _, err := CompileAvroToArrow(s(c.writer), s(c.reader)); !errors.Is(err, record.ErrInvalid) {
			t.Errorf("%s read as %s: %v", c.writer, c.reader, err)
		}
	}
	for _, c := range []struct {
		field string
		datum []byte
	}{
		{`"type":"BYTE","nullable":false`, appendLong(nil, 128)},
		{`"type":"SHORT","nullable":false`, appendLong(nil, -32769)},
		{`"type":"INTEGER","nullable":false`, appendLong(nil, 1<<31)},
		{`"type":"BOOLEAN","nullable":false`, []byte{2}},
		{`"type":"LONG"`, []byte{4}},
		{`"type":"LONG","nullable":false`, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}},
		{`"type":"DECIMAL","precision":2,"scale":0,"nullable":false`, appendDecimal(nil, 0, 100)},
		{`"type":"STRING","nullable":false`, appendLong(nil, -1)},
		{`"type":"ARRAY","element":{"type":"LONG"},"nullable":false`, append(appendLong(nil, 1<<40), 0, 0)},
		{`"type":"ARRAY","element":{"type":"LONG"},"nullable":false`, appendLong(nil, math.MinInt64)},
	} {
		schema := s(c.field)
		p, err := CompileAvroToArrow(schema, schema)
		if err != nil {
			t.Fatal(err)
		}
		b := NewBuilder(schema, nil)
		if err := p.Append(b, c.datum); !errors.Is(err, record.ErrCorrupt) || b.Len() != 0 {
			t.Errorf("%s of % x: %v", c.field, c.datum, err)
		}
	}
}

func TestBuilderSomeSystemColumns(t *testing.T) {
	t.Parallel()
	all := sampleWithIDs(t)
	reader, err := all.WithSystem().Project([]string{OffsetColumn, "l"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := CompileAvroToArrow(all, reader)
	if err != nil {
		t.Fatal(err)
	}
	b := NewBuilder(reader, nil)
	for i := range 2 {
		if err := p.Append(b, sampleRow(1)); err != nil {
			t.Fatal(err)
		}
		b.AppendSystem(1, 2, record.Offset(10+i), 5)
	}
	rec := b.NewBatch()
	if o := rec.Column(0).(*array.Int64).Int64Values(); o[0] != 10 || o[1] != 11 {
		t.Errorf("offsets %v", o)
	}
	if l := rec.Column(1).(*array.Int64).Value(1); l != math.MaxInt64 {
		t.Errorf("l is %d", l)
	}
	if err := p.Append(b, sampleRow(1)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("NewBatch takes a row without its system columns")
		}
	}()
	b.NewBatch()
}

func TestExternalOutOfRange(t *testing.T) {
	t.Parallel()
	s := mustParse(t, `{"fields":[{"name":"x","type":"ARRAY","element":{"type":"BYTE"}},{"name":"y","type":"LONG"}]}`)
	wide := mustParse(t, `{"fields":[{"name":"x","type":"ARRAY","element":{"type":"INTEGER"}},{"name":"y","type":"LONG"}]}`)
	p, err := CompileAvroToArrow(wide, wide)
	if err != nil {
		t.Fatal(err)
	}
	b := NewBuilder(wide, nil)
	row := append(appendLong([]byte{2, 2, 2}, 300), 0, 0) // x is [300], y null
	if err := p.Append(b, row); err != nil {
		t.Fatal(err)
	}
	rec := b.NewBatch()
	if _, err := NewExternal(s).Convert(rec); !errors.Is(err, record.ErrCorrupt) {
		t.Errorf("300 as a BYTE: %v", err)
	}
	if _, err := NewExternal(mustParse(t, avroFlightSchema)).Convert(rec); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("another schema's batch: %v", err)
	}
	swapped := &Schema{Fields: []Field{s.Fields[1], s.Fields[0]}}
	if _, err := NewExternal(swapped).Convert(rec); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("another schema's batch: %v", err)
	}
}

func FuzzAvroToArrow(f *testing.F) {
	for i := range 3 {
		f.Add(sampleRow(i + 1))
	}
	s := sampleWithIDs(f)
	newer, _, err := Evolve(s, mustParse(f, `{"fields":[{"name":"i","type":"LONG"},{"name":"place","type":"STRUCT","fields":[
		{"name":"marks","type":"ARRAY","element":{"type":"STRUCT","fields":[{"name":"y","type":"LONG"},{"name":"z","type":"STRING","default":"?"}]}}]},
		{"name":"attrs","type":"MAP","value":{"type":"DOUBLE"}}]}`), s.MaxID()+1)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, datum []byte) {
		for _, reader := range []*Schema{s, newer} {
			p, err := CompileAvroToArrow(s, reader)
			if err != nil {
				t.Fatal(err)
			}
			b := NewBuilder(reader, nil)
			good := p.Append(b, sampleRow(3)) == nil
			if err := p.Append(b, datum); err != nil && (!errors.Is(err, record.ErrCorrupt) || b.Len() != 1) {
				t.Fatalf("%d rows, %v", b.Len(), err)
			}
			good = p.Append(b, sampleRow(3)) == nil && good
			rec := b.NewBatch()
			defer rec.Release()
			if !good {
				t.Fatal("sound rows beside it are refused")
			}
			if err := array.ValidateRecordFull(rec); err != nil && !strings.Contains(err.Error(), "utf8") {
				t.Fatal(err)
			}
			first, last := rec.NewSlice(0, 1), rec.NewSlice(rec.NumRows()-1, rec.NumRows())
			if !array.RecordEqual(first, last) {
				t.Fatalf("the rows before and after differ: %v %v", first, last)
			}
		}
	})
}

func BenchmarkArrowToAvro(b *testing.B) {
	for _, c := range []struct {
		name   string
		schema string
		row    func([]byte, int) []byte
	}{
		{"flights", avroFlightSchema, avroFlight},
		{"nested", sample, func(dst []byte, i int) []byte { return append(dst, sampleRow(i%3+1)...) }},
	} {
		parsed := mustParse(b, c.schema)
		s, _ := parsed.AssignIDs(0)
		in, err := CompileAvroToArrow(s, s)
		if err != nil {
			b.Fatal(err)
		}
		bld := NewBuilder(s, nil)
		for i := range 10_000 {
			if err := in.Append(bld, c.row(nil, i)); err != nil {
				b.Fatal(err)
			}
		}
		rec := bld.NewBatch()
		p, err := CompileArrowToAvro(rec.Schema(), s, ArrowOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.name, func(b *testing.B) {
			rows, err := p.Bind(rec)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			var dst []byte
			n := 0
			for b.Loop() {
				if dst, err = rows.Row(dst[:0], n%rows.Len()); err != nil {
					b.Fatal(err)
				}
				n++
			}
			b.SetBytes(int64(len(dst)))
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

func BenchmarkAvroToArrow(b *testing.B) {
	for _, c := range []struct {
		name   string
		schema string
		row    func([]byte, int) []byte
	}{
		{"flights", avroFlightSchema, avroFlight},
		{"nested", sample, func(dst []byte, i int) []byte { return append(dst, sampleRow(i%3+1)...) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			parsed := mustParse(b, c.schema)
			s, _ := parsed.AssignIDs(0)
			p, err := CompileAvroToArrow(s, s.WithSystem())
			if err != nil {
				b.Fatal(err)
			}
			var rows record.Rows
			for i := range 10_000 {
				rows.Append(nil, c.row(nil, i))
			}
			bld := NewBuilder(s.WithSystem(), nil)
			b.SetBytes(int64(rows.Bytes() / rows.Len()))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				_, v := rows.Row(n % rows.Len())
				n++
				if err := p.Append(bld, v); err != nil {
					b.Fatal(err)
				}
				bld.AppendSystem(1, 0, record.Offset(n), 1517363399650)
				if bld.Len() == 64<<10 {
					bld.NewBatch().Release()
				}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
