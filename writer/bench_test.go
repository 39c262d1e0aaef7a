package writer_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/writer"
)

// discard is a hot buffer that takes rows and forgets them.
type discard struct{ hotbuffer.Buffer }

func (discard) Append(_ context.Context, _ record.ViewID, a hotbuffer.Append) (hotbuffer.Appended, error) {
	var out hotbuffer.Appended
	for _, p := range a.Parts {
		out.Ranges = append(out.Ranges, hotbuffer.PartRange{Partition: p.Partition, Range: record.Range{End: record.Offset(p.Rows.Len())}})
	}
	return out, nil
}

// BenchmarkPublish is what the writer itself costs per row of the earthquakes:
// decoding, checking, partitioning; without the hot buffer.
func BenchmarkPublish(b *testing.B) {
	lines := bytes.SplitAfter(bytes.TrimSpace(quakes(b)), []byte("\n"))
	inferred, err := schema.Infer(lines...)
	if err != nil {
		b.Fatal(err)
	}
	s := withIDs(inferred, 11)
	for _, c := range []struct {
		name string
		rows int
		key  []string
	}{{"1", 1, nil}, {"100", 100, nil}, {"1707", len(lines), nil}, {"1707-keyed", len(lines), []string{"network"}}} {
		rows := bytes.Join(lines[:c.rows], nil)
		rec := arrowRecord(b, s, rows)
		defer rec.Release()
		bodies := map[writer.Format][]byte{writer.JSON: rows, writer.Avro: avroBody(b, s, rows), writer.Arrow: stream(b, []arrow.RecordBatch{rec})}
		for _, f := range []writer.Format{writer.JSON, writer.Avro, writer.Arrow} {
			b.Run(fmt.Sprintf("%s/%s", f, c.name), func(b *testing.B) {
				w := writer.New(&branches{target: writer.Target{View: view, Schema: s, Partitions: 8, KeyFields: c.key, Version: 1}}, discard{})
				q := writer.Request{Stream: "s", Format: f, Body: bodies[f]}
				b.ReportAllocs()
				b.SetBytes(int64(len(bodies[f])))
				n := 0
				for b.Loop() {
					out, err := w.Publish(b.Context(), q)
					if err != nil {
						b.Fatal(err)
					}
					n += int(out.Rows)
				}
				b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
			})
		}
	}
}
