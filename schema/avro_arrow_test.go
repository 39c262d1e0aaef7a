package schema

import (
	"encoding/binary"
	"errors"
	"math"
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
