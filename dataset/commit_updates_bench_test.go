package dataset_test

import (
	"fmt"
	"testing"

	"github.com/thermocline/thermocline/record"
)

// BenchmarkCommitUpdates is an engine's append of one file, made by iceberg-go and
// committed in JSON: on the head, and on a head of before, when it is made anew.
func BenchmarkCommitUpdates(b *testing.B) {
	for _, behind := range []int{0, 1} {
		b.Run(fmt.Sprintf("%d commits behind", behind), func(b *testing.B) {
			e := newMemEnv(b)
			e.create(numbers())
			e.addNumbers(0, 10)
			to := record.Offset(10)
			for b.Loop() {
				b.StopTimer()
				g := e.engine()
				tx := g.tx()
				if err := tx.AppendTable(b.Context(), plainRows(-1), 1000, nil); err != nil {
					b.Fatal(err)
				}
				for range behind {
					e.addNumbers(to, to+1)
					to++
				}
				b.StartTimer()
				if err := g.commit(tx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
