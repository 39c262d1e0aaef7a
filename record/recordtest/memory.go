// Package recordtest is for tests of decoders, in whichever package they are.
// It knows no format.
package recordtest

import (
	"runtime"
	"testing"
)

// Bounded fails the test if f allocates more than limit bytes in all, freed
// ones included: what an input of a few bytes may cost. Nothing else may
// allocate at the same time, so that it is for fuzz targets, which run alone.
func Bounded(t testing.TB, limit int, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > uint64(limit) {
		t.Errorf("%d bytes were allocated, the limit is %d", n, limit)
	}
}
