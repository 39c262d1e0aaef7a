package writer

import "testing"

// The values are Kafka's own, from the tests of its Utils.murmur2 (signed there).
func TestMurmur2IsKafkas(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(murmur2([]byte(in))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", in, got, want)
		}
	}
}

func TestPartitionStaysInRange(t *testing.T) {
	t.Parallel()
	seen := map[int]int{}
	for i := range 10_000 {
		p := int(partitionOf([]byte{byte(i), byte(i >> 8)}, 7))
		if p < 0 || p >= 7 {
			t.Fatalf("partition %d of 7", p)
		}
		seen[p]++
	}
	for p := range 7 {
		if seen[p] < 10_000/7/2 {
			t.Errorf("partition %d got %d of 10000 keys", p, seen[p])
		}
	}
}
