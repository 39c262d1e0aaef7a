package verify_test

import (
	"testing"
	"time"

	"github.com/thermocline/thermocline/cmd/thermocline/node"
	"github.com/thermocline/thermocline/verify"
)

// BenchmarkBranch checks 200,000 rows: all archived, half of them still hot as
// well, so that 100,000 are compared.
func BenchmarkBranch(b *testing.B) {
	n, err := node.Open(b.Context(), node.Options{Dir: b.TempDir(), SegmentBytes: 4 << 20, LogBytes: 256 << 20, Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	f, err := newFeed(n, "bench", 0, "PARQUET")
	if err == nil {
		err = f.publish(25, 4000)
	}
	if err == nil {
		err = f.archive()
	}
	if err == nil {
		err = f.keep(time.Hour)
	}
	if err == nil {
		err = f.publish(25, 4000)
	}
	if err == nil {
		err = f.archive()
	}
	if err != nil {
		b.Fatal(err)
	}
	for name, q := range map[string]verify.Request{"plain": {}, "producers": labelled} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				out, err := check(b.Context(), n.Backend().Verifier.(*verify.Verifier), f.stream, q)
				if err != nil || len(out.findings) > 0 || out.summary.ColdRows != 200_000 || out.summary.Compared != 100_000 {
					b.Fatalf("%+v, %v", out, err)
				}
			}
			b.ReportMetric(200_000*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
