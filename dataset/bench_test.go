package dataset_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// flights resembles real events: numbers, a few short texts, some nulls.
func flights() *schema.Schema {
	s := &schema.Schema{Fields: []schema.Field{
		{Name: "date", Type: schema.Type{Kind: schema.Timestamp}},
		{Name: "delay", Nullable: true, Type: schema.Type{Kind: schema.Integer}},
		{Name: "distance", Nullable: true, Type: schema.Type{Kind: schema.Integer}},
		{Name: "origin", Nullable: true, Type: schema.Type{Kind: schema.String}},
		{Name: "destination", Nullable: true, Type: schema.Type{Kind: schema.String}},
		{Name: "speed", Nullable: true, Type: schema.Type{Kind: schema.Double}},
		{Name: "tail", Type: schema.Type{Kind: schema.String}},
	}}
	s, _ = s.AssignIDs(schema.FirstUserID)
	return s
}

func flightBatch(s *schema.Schema, first, n int) arrow.RecordBatch {
	r := rand.New(rand.NewPCG(1, uint64(first)))
	b := array.NewRecordBuilder(memory.DefaultAllocator, s.WithSystem().Arrow())
	defer b.Release()
	for i := range n {
		b.Field(0).(*array.TimestampBuilder).Append(arrow.Timestamp(1_500_000_000_000_000 + int64(first+i)*60_000_000))
		b.Field(1).(*array.Int32Builder).Append(r.Int32N(300) - 30)
		b.Field(2).(*array.Int32Builder).Append(r.Int32N(3000))
		b.Field(3).(*array.StringBuilder).Append(fmt.Sprintf("A%02d", r.IntN(90)))
		b.Field(4).(*array.StringBuilder).Append(fmt.Sprintf("B%02d", r.IntN(90)))
		if r.IntN(10) == 0 {
			b.Field(5).AppendNull()
		} else {
			b.Field(5).(*array.Float64Builder).Append(r.Float64() * 900)
		}
		b.Field(6).(*array.StringBuilder).Append(fmt.Sprintf("N%05d", r.IntN(5000)))
		appendSystem(b, len(s.Fields), 1, 0, record.Offset(first+i))
	}
	return b.NewRecordBatch()
}

func batchBytes(b arrow.RecordBatch) int64 {
	n := int64(0)
	for _, c := range b.Columns() {
		n += int64(c.Data().SizeInBytes())
	}
	return n
}

const benchRows, benchBatch = 200_000, 8192

func BenchmarkWrite(b *testing.B) {
	for _, format := range []dataset.Format{dataset.Parquet, dataset.Avro} {
		b.Run(string(format), func(b *testing.B) {
			e := newEnv(b)
			s := flights()
			table := e.create(s)
			var batches []arrow.RecordBatch
			size, bytes := int64(0), int64(0)
			for i := 0; i < benchRows; i += benchBatch {
				batches = append(batches, flightBatch(s, i, benchBatch))
				bytes += batchBytes(batches[len(batches)-1])
			}
			b.SetBytes(bytes)
			b.ReportAllocs()
			for b.Loop() {
				w, err := table.NewFileWriter(b.Context(), fileName(0, 0, benchRows), s, format)
				if err != nil {
					b.Fatal(err)
				}
				for _, batch := range batches {
					if err := w.Write(batch); err != nil {
						b.Fatal(err)
					}
				}
				f, err := w.Close()
				if err != nil {
					b.Fatal(err)
				}
				size = f.Bytes()
			}
			rows := float64(len(batches) * benchBatch)
			b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(float64(size)/rows, "B/row")
		})
	}
}

func BenchmarkScan(b *testing.B) {
	for _, format := range []dataset.Format{dataset.Parquet, dataset.Avro} {
		for _, columns := range []string{"all", "one"} {
			b.Run(fmt.Sprintf("%s/%s", format, columns), func(b *testing.B) {
				e := newEnv(b)
				s := flights()
				table := e.create(s)
				var batches []arrow.RecordBatch
				bytes := int64(0)
				for i := 0; i < benchRows; i += benchBatch {
					batches = append(batches, flightBatch(s, i, benchBatch))
					bytes += batchBytes(batches[len(batches)-1])
				}
				table = e.commit(dataset.Commit{Add: []dataset.DataFile{e.fileAs(format, table, s, fileName(0, 0, benchRows), batches...)}})
				want := s.WithSystem()
				if columns == "one" {
					want = &schema.Schema{Fields: s.Fields[1:2]}
				} else {
					b.SetBytes(bytes)
				}
				rows := int64(0)
				b.ReportAllocs()
				b.ResetTimer()
				for b.Loop() {
					for batch, err := range table.Scan(b.Context(), dataset.ScanOptions{Schema: want}) {
						if err != nil {
							b.Fatal(err)
						}
						rows += batch.NumRows()
					}
				}
				b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
			})
		}
	}
}

// BenchmarkScanNothing is what a reader pays to learn that there is nothing new
// in a table of many files.
func BenchmarkScanNothing(b *testing.B) {
	e := newMemEnv(b)
	e.create(numbers())
	for o := range record.Offset(300) {
		e.addNumbers(o, o+1)
	}
	table := e.load()
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range table.Scan(b.Context(), dataset.ScanOptions{View: 2, From: record.Offsets{300}}) {
			b.Fatal(err)
		}
	}
}

// BenchmarkCompact makes one file of 24 small ones.
func BenchmarkCompact(b *testing.B) {
	s := flights()
	rows, bytes := int64(0), int64(0)
	for b.Loop() {
		b.StopTimer()
		e := newEnv(b)
		table := e.create(s)
		for i := 0; i < benchRows; i += benchBatch {
			batch := flightBatch(s, i, benchBatch)
			name := dataset.FileName{View: 1, Epoch: 1, Ranges: []dataset.PartRange{{Range: record.Range{Start: record.Offset(i), End: record.Offset(i + benchBatch)}}}}
			e.commit(dataset.Commit{Add: []dataset.DataFile{e.file(table, s, name, batch)}})
			batch.Release()
		}
		b.StartTimer()
		c := e.compact(dataset.CompactOptions{Schema: s})
		if c.Files == 0 {
			b.Fatal("nothing was compacted")
		}
		rows, bytes = rows+c.Rows, bytes+c.Before
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(bytes)/1e6/b.Elapsed().Seconds(), "MB/s")
}

// BenchmarkFork makes a table from one with a thousand snapshots.
func BenchmarkFork(b *testing.B) {
	e := newEnv(b)
	e.create(numbers())
	for i := range record.Offset(1000) {
		e.addNumbers(i, i+1)
	}
	t := e.load()
	for b.Loop() {
		id := uuid.NewString()
		if _, err := t.Fork(b.Context(), dataset.ForkOptions{ID: id, Marker: forkMarker()}); err != nil {
			b.Fatal(err)
		}
	}
}
