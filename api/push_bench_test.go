package api_test

import (
	"context"
	"io"
	"testing"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/subscriber"
)

// BenchmarkPush measures a push read over a real connection, in batches of 1,000
// rows of 100 bytes; an operation is a row.
func BenchmarkPush(b *testing.B) {
	for _, format := range []string{"ndjson", "sse", "arrow"} {
		b.Run(format, func(b *testing.B) {
			backend := shared
			backend.Subscribers = &sessions{yield: func(_ context.Context, yield func(subscriber.Event, error) bool) {
				batch := rows(1000, 100)
				defer batch.Release()
				for i := 0; i < b.N; i += 1000 {
					if !yield(subscriber.Event{Batch: reader.Batch{Rows: batch, Next: next(i)}}, nil) {
						return
					}
				}
			}}
			s := serve(b, backend, api.Options{})
			b.ResetTimer()
			resp, err := s.Client().Do(s.request("GET", branchPath("x", "subscribers/g/rows?format="+format), nil))
			if err != nil {
				b.Fatal(err)
			}
			defer resp.Body.Close()
			n, err := io.Copy(io.Discard, resp.Body)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(n / int64(b.N))
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
