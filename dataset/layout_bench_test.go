package dataset_test

import (
	"testing"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/thermocline/thermocline/dataset"
)

// BenchmarkLayouts is what layouts cost: to write an archive, and to read it in the
// order of the view.
func BenchmarkLayouts(b *testing.B) {
	for _, c := range []struct{ name, partitioning, order string }{
		{"plain", "", ""}, {"partitions", "bucket[8](tail)", ""}, {"sorted", "", "origin;tail"}, {"both", "bucket[8](tail)", "origin;tail"}, {"many", "bucket[64](tail)", ""},
	} {
		e := newMemEnv(b)
		s := flights()
		e.create(s)
		l := e.layout(s, c.partitioning, c.order)
		table := e.commit(dataset.Commit{Layout: l})
		var batches []arrow.RecordBatch
		for i := 0; i < benchRows; i += benchBatch {
			batches = append(batches, flightBatch(s, i, benchBatch))
		}
		rows := float64(len(batches) * benchBatch)
		var files []dataset.DataFile
		b.Run("write/"+c.name, func(b *testing.B) {
			for b.Loop() {
				var err error
				if files, _, err = table.WriteFiles(b.Context(), fileName(0, 0, benchRows), s, dataset.Parquet, l, batches); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
		if files == nil {
			continue
		}
		table = e.commit(dataset.Commit{Add: files, Marker: marker(benchRows)})
		b.Run("read/"+c.name, func(b *testing.B) {
			for b.Loop() {
				n := int64(0)
				for p, err := range table.Ordered(b.Context(), dataset.OrderedOptions{ScanOptions: dataset.ScanOptions{Schema: s.WithSystem(), View: 1}}) {
					if err != nil {
						b.Fatal(err)
					}
					n += p.Rows.NumRows()
				}
				if float64(n) != rows {
					b.Fatal(n)
				}
			}
			b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
