package main

import (
	"testing"
	"time"

	"github.com/thermocline/thermocline/dataset"
)

// TestGrowthIsBounded archives for many times as long as snapshots are kept: from
// the second time on, nothing of the metadata grows any more.
func TestGrowthIsBounded(t *testing.T) {
	t.Parallel()
	const snapshots, every = 40, 60
	g, err := newGrowth(t.Context(), t.TempDir(), dataset.Options{MaxSnapshots: snapshots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.close() })
	g.grace = time.Hour // of the table's clock
	var first grown
	err = g.run(t.Context(), 5*every, every, func(s grown) {
		t.Logf("%+v", s)
		if s.snapshots > snapshots || s.manifests > 8 || s.live > 8 {
			t.Errorf("after %d archives: %d snapshots, %d manifests, %d live files", s.archives, s.snapshots, s.manifests, s.live)
		}
		switch {
		case s.archives < 3*every: // until what expired is collected
		case s.archives == 3*every:
			first = s
		case s.metadata > first.metadata*11/10 || s.list > first.list*3/2 || s.files > first.files*11/10:
			t.Errorf("after %d archives there are %+v; after %d there were %+v", s.archives, s, first.archives, first)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
