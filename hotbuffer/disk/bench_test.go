package disk

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// BenchmarkAppend measures durable rows of 128 bytes on the real file system:
// appenders × rows in each request. The rows are released as it goes.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct{ appenders, rows int }{{1, 100}, {1, 1000}, {256, 1}, {256, 100}} {
		for _, compressed := range []bool{false, true} {
			name := fmt.Sprintf("%dx%d", c.appenders, c.rows)
			if compressed {
				name += "/compressed"
			}
			b.Run(name, func(b *testing.B) {
				l, err := Open(b.TempDir(), Options{Logger: quiet()})
				if err != nil {
					b.Fatal(err)
				}
				defer l.Close()
				ctx := context.Background()
				if err := l.Open(ctx, 1, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 1, Compressed: compressed}); err != nil {
					b.Fatal(err)
				}
				var rows record.Rows
				value := bytes.Repeat([]byte("0123456789abcdef"), 8)
				for i := range c.rows {
					copy(value, fmt.Sprintf("%08d", i))
					rows.Append(nil, value)
				}
				a := hotbuffer.Append{Parts: []hotbuffer.Part{{Rows: &rows}}}
				b.SetBytes(int64(rows.Bytes()))
				b.ReportAllocs()
				var n atomic.Int64
				b.SetParallelism((c.appenders + 1) / 2)
				if c.appenders == 1 {
					for b.Loop() {
						n.Add(1)
						if _, err := l.Append(ctx, 1, a); err != nil {
							b.Fatal(err)
						}
						drain(b, l, n.Load(), c.rows)
					}
				} else {
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							if _, err := l.Append(ctx, 1, a); err != nil {
								b.Error(err)
								return
							}
							drain(b, l, n.Add(1), c.rows)
						}
					})
				}
				b.ReportMetric(float64(n.Load())*float64(c.rows)/b.Elapsed().Seconds(), "rows/s")
				s := l.LogStats()
				b.ReportMetric(float64(n.Load())/float64(s.Commits), "requests/commit")
			})
		}
	}
}

// drain releases everything now and then, so that segments are recycled.
func drain(b *testing.B, l *Log, n int64, rows int) {
	if n%int64(1+200_000/rows) != 0 {
		return
	}
	e, err := l.Ends(1)
	if err == nil {
		err = l.Release(context.Background(), 1, e.End)
	}
	if err != nil {
		b.Error(err)
	}
}

// BenchmarkRead reads 100,000 rows of 128 bytes, from memory and from the file.
func BenchmarkRead(b *testing.B) {
	for _, cache := range []int{64 << 20, -1} {
		name := "memory"
		if cache < 0 {
			name = "file"
		}
		b.Run(name, func(b *testing.B) {
			l, err := Open(b.TempDir(), Options{Logger: quiet(), CacheBytes: cache})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			ctx := context.Background()
			if err := l.Open(ctx, 1, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 1}); err != nil {
				b.Fatal(err)
			}
			var rows record.Rows
			for range 100 {
				rows.Append(nil, bytes.Repeat([]byte("v"), 128))
			}
			for range 1000 {
				if _, err := l.Append(ctx, 1, hotbuffer.Append{Parts: []hotbuffer.Part{{Rows: &rows}}}); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(100_000 * 128)
			for b.Loop() {
				for next := record.Offset(0); next < 100_000; {
					batches, err := l.Read(ctx, 1, 0, next, 1<<20)
					if err != nil {
						b.Fatal(err)
					}
					next = batches[len(batches)-1].End()
				}
			}
			b.ReportMetric(100_000*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
