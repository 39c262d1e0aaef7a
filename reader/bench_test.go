package reader_test

import (
	"testing"
	"time"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// BenchmarkRead reads rows of eight partitions that lie mixed, whole and as one of
// eight readers would. Cold, each of those pays for decoding the others' rows.
func BenchmarkRead(b *testing.B) {
	e := newEnv(b, 8)
	for range 200 {
		for p := range record.Partition(8) {
			e.publish(p, 50)
		}
	}
	for _, half := range []string{"hot", "cold"} {
		if half == "cold" {
			e.flush()
		}
		for name, parts := range map[string][]record.Partition{"all": nil, "one of 8": {3}} {
			b.Run(half+"/"+name, func(b *testing.B) {
				rows := 0
				for b.Loop() {
					got, _ := e.read(reader.Request{Columns: []string{"n"}, Partitions: parts})
					rows += len(got)
				}
				b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
			})
		}
	}
}

// BenchmarkSeek looks for the end of the first of many archives.
func BenchmarkSeek(b *testing.B) {
	e := newEnv(b, 4)
	for range 50 {
		for p := range record.Partition(4) {
			e.publish(p, 200)
		}
		e.flush()
	}
	var m *dataset.Marker
	for _, s := range e.table().Snapshots() {
		if s.Marker != nil && m == nil {
			m = s.Marker
		}
	}
	at := time.UnixMilli(m.ValidThroughMs)
	for b.Loop() {
		if _, err := e.r.Seek(b.Context(), e.target, at); err != nil {
			b.Fatal(err)
		}
	}
}
