package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"
)

// arrowSchema is what a client would declare for row.
func arrowSchema() *arrow.Schema {
	day := arrow.FixedWidthTypes.Date32
	return arrow.NewSchema([]arrow.Field{
		{Name: "number", Type: arrow.PrimitiveTypes.Int64},
		{Name: "boolean", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
		{Name: "byte", Type: arrow.PrimitiveTypes.Int8, Nullable: true},
		{Name: "short", Type: arrow.PrimitiveTypes.Int16, Nullable: true},
		{Name: "integer", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
		{Name: "long", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
		{Name: "float", Type: arrow.PrimitiveTypes.Float32, Nullable: true},
		{Name: "double", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
		{Name: "decimal", Type: &arrow.Decimal128Type{Precision: 38, Scale: decimalScale}, Nullable: true},
		{Name: "string", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "binary", Type: arrow.BinaryTypes.Binary, Nullable: true},
		{Name: "date", Type: day, Nullable: true},
		{Name: "timestamp", Type: &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}, Nullable: true},
		{Name: "array", Type: arrow.ListOf(arrow.BinaryTypes.String), Nullable: true},
		{Name: "map", Type: arrow.MapOf(arrow.BinaryTypes.String, arrow.PrimitiveTypes.Int64), Nullable: true},
		{Name: "struct", Nullable: true, Type: arrow.StructOf(
			arrow.Field{Name: "label", Type: arrow.BinaryTypes.String},
			arrow.Field{Name: "points", Type: arrow.ListOfNonNullable(arrow.StructOf(
				arrow.Field{Name: "x", Type: arrow.PrimitiveTypes.Float64},
				arrow.Field{Name: "day", Type: day, Nullable: true},
			))},
		)},
	}, nil)
}

// streamOf writes rows as an Arrow IPC stream of several batches.
func streamOf(t *testing.T, rows []row, options ...ipc.Option) []byte {
	t.Helper()
	var out bytes.Buffer
	w := ipc.NewWriter(&out, append(options, ipc.WithSchema(arrowSchema()))...)
	b := array.NewRecordBuilder(memory.DefaultAllocator, arrowSchema())
	defer b.Release()
	for len(rows) > 0 {
		n := min(150, len(rows))
		for _, r := range rows[:n] {
			for i, v := range []any{
				r.Number, r.Boolean, r.Byte, r.Short, r.Integer, r.Long, r.Float, r.Double, r.Decimal,
				r.String, r.Binary, r.Date, r.Timestamp, r.Array, r.Map, r.Struct,
			} {
				appendValue(b.Field(i), v)
			}
		}
		rows = rows[n:]
		rec := b.NewRecord()
		if err := w.Write(rec); err != nil {
			t.Fatal(err)
		}
		rec.Release()
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func rowsOfStream(t *testing.T, r io.Reader) []row {
	t.Helper()
	rdr, err := ipc.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	defer rdr.Release()
	return rowsOfBatches(t, rdr)
}

func rowsOfParquet(t *testing.T, content []byte) []row {
	t.Helper()
	pf, err := file.NewParquetReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	defer pf.Close()
	fr, err := pqarrow.NewFileReader(pf, pqarrow.ArrowReadProperties{BatchSize: 100}, memory.DefaultAllocator)
	if err != nil {
		t.Fatal(err)
	}
	rdr, err := fr.GetRecordReader(context.Background(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer rdr.Release()
	return rowsOfBatches(t, rdr)
}

func rowsOfBatches(t *testing.T, rdr array.RecordReader) []row {
	t.Helper()
	var rows []row
	for rdr.Next() {
		rec := rdr.Record()
		c := func(name string) arrow.Array {
			i := rec.Schema().FieldIndices(name)
			if len(i) != 1 {
				t.Fatalf("%d columns are called %s in %s", len(i), name, rec.Schema())
			}
			return rec.Column(i[0])
		}
		for i := range int(rec.NumRows()) {
			rows = append(rows, row{
				Number:  *value[int64](c("number"), i),
				Boolean: value[bool](c("boolean"), i), Byte: small[int8](c("byte"), i), Short: small[int16](c("short"), i),
				Integer: value[int32](c("integer"), i), Long: value[int64](c("long"), i), Float: value[float32](c("float"), i),
				Double: value[float64](c("double"), i), Decimal: decimalAt(c("decimal"), i), String: value[string](c("string"), i),
				Binary: value[[]byte](c("binary"), i), Date: dayAt(c("date"), i), Timestamp: timestampAt(c("timestamp"), i),
				Array: wordsAt(c("array"), i), Map: countsAt(c("map"), i), Struct: nestAt(c("struct"), i),
			})
		}
	}
	// pqarrow's reader calls the end of the file an error.
	if err := rdr.(interface{ Err() error }).Err(); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return rows
}

// value is the value at i of a column whose Go type is T, nil for null. The
// type must be that one: a column of another width is a failure.
func value[T any](a arrow.Array, i int) *T {
	if a.IsNull(i) {
		return nil
	}
	v := a.(interface{ Value(int) T }).Value(i)
	if b, ok := any(v).([]byte); ok {
		v = any(bytes.Clone(b)).(T)
	}
	return &v
}

// small reads BYTE and SHORT, which answers hold in their own width and data
// files, as Iceberg has no such types, in 32 bits.
func small[T int8 | int16](a arrow.Array, i int) *T {
	if a.IsNull(i) {
		return nil
	}
	if wide, ok := a.(*array.Int32); ok {
		v := T(wide.Value(i))
		if int32(v) != wide.Value(i) {
			panic(fmt.Sprintf("%d is out of range", wide.Value(i)))
		}
		return &v
	}
	return value[T](a, i)
}

func dayAt(a arrow.Array, i int) *time.Time {
	if v := value[arrow.Date32](a, i); v != nil {
		return new(v.ToTime())
	}
	return nil
}

func timestampAt(a arrow.Array, i int) *time.Time {
	typ := a.DataType().(*arrow.TimestampType)
	if typ.Unit != arrow.Microsecond || typ.TimeZone != "UTC" {
		panic("timestamps are microseconds in UTC, not " + typ.String())
	}
	if v := value[arrow.Timestamp](a, i); v != nil {
		return new(time.UnixMicro(int64(*v)))
	}
	return nil
}

func wordsAt(a arrow.Array, i int) *[]*string {
	if a.IsNull(i) {
		return nil
	}
	l := a.(*array.List)
	words := []*string{}
	start, end := l.ValueOffsets(i)
	for j := start; j < end; j++ {
		words = append(words, value[string](l.ListValues(), int(j)))
	}
	return &words
}

func countsAt(a arrow.Array, i int) *map[string]*int64 {
	if a.IsNull(i) {
		return nil
	}
	m := a.(*array.Map)
	counts := map[string]*int64{}
	start, end := m.ValueOffsets(i)
	for j := start; j < end; j++ {
		counts[*value[string](m.Keys(), int(j))] = value[int64](m.Items(), int(j))
	}
	return &counts
}

func nestAt(a arrow.Array, i int) *nest {
	if a.IsNull(i) {
		return nil
	}
	s := a.(*array.Struct)
	n := &nest{Label: *value[string](s.Field(0), i)}
	l := s.Field(1).(*array.List)
	p := l.ListValues().(*array.Struct)
	start, end := l.ValueOffsets(i)
	for j := start; j < end; j++ {
		n.Points = append(n.Points, point{*value[float64](p.Field(0), int(j)), dayAt(p.Field(1), int(j))})
	}
	return n
}

func TestRowsThroughArrow(t *testing.T) {
	t.Parallel()
	rows := sampleRows(0, 500)
	compareRows(t, rows, rowsOfStream(t, bytes.NewReader(streamOf(t, rows))))
	compareRows(t, rows, rowsOfStream(t, bytes.NewReader(streamOf(t, rows, ipc.WithZstd()))))
}

func TestRowsThroughParquet(t *testing.T) {
	t.Parallel()
	rows := sampleRows(0, 500)
	rdr, err := ipc.NewReader(bytes.NewReader(streamOf(t, rows)))
	if err != nil {
		t.Fatal(err)
	}
	defer rdr.Release()
	var out bytes.Buffer
	w, err := pqarrow.NewFileWriter(arrowSchema(), &out, nil, pqarrow.DefaultWriterProps())
	if err != nil {
		t.Fatal(err)
	}
	for rdr.Next() {
		if err := w.Write(rdr.Record()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	compareRows(t, rows, rowsOfParquet(t, out.Bytes()))
}
