package record

import "testing"

func benchCodecs(b *testing.B, f func(b *testing.B, c Codec)) {
	for _, c := range []Codec{None, Snappy, LZ4, Zstd} {
		b.Run(c.String(), func(b *testing.B) { f(b, c) })
	}
}

// BenchmarkAppendBatch encodes 1000 rows of about 110 bytes; ratio is plain
// size to encoded size. The codec of compressed streams is chosen by it.
func BenchmarkAppendBatch(b *testing.B) {
	rows := sample(1000)
	benchCodecs(b, func(b *testing.B, c Codec) {
		var buf []byte
		b.SetBytes(int64(rows.Bytes()))
		b.ReportAllocs()
		for b.Loop() {
			buf = AppendBatch(buf[:0], rows, 0, rows.Len(), BatchOptions{Codec: c})
		}
		b.ReportMetric(float64(rows.Bytes())/float64(len(buf)), "ratio")
		b.ReportMetric(float64(rows.Len())*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	})
}

// BenchmarkReader parses a batch and reads its 1000 rows.
func BenchmarkReader(b *testing.B) {
	rows := sample(1000)
	benchCodecs(b, func(b *testing.B, c Codec) {
		buf := AppendBatch(nil, rows, 0, rows.Len(), BatchOptions{Codec: c})
		var r Reader
		b.SetBytes(int64(rows.Bytes()))
		b.ReportAllocs()
		for b.Loop() {
			batch, _, err := ParseBatch(buf)
			if err != nil {
				b.Fatal(err)
			}
			if err := r.Reset(batch); err != nil {
				b.Fatal(err)
			}
			for {
				if _, _, _, ok := r.Next(); !ok {
					break
				}
			}
		}
		b.ReportMetric(float64(rows.Len())*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	})
}
