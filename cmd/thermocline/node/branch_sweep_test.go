package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset/objstore/objstoretest"
	"github.com/thermocline/thermocline/record"
)

// TestSweepBranches lets each request that the life of a branch makes of object
// store and pointers meet each fault in turn, like TestSweepArchive: a branch is
// there whole, with every row acknowledged before, or not at all, in this process
// and in the next one; the same again succeeds; and when it is deleted, nothing of
// it is left.
func TestSweepBranches(t *testing.T) {
	if raceEnabled || testing.Short() {
		t.Skip("takes minutes under the race detector; make sweep runs it without")
	}
	t.Parallel()
	for _, fault := range objstoretest.Faults {
		t.Run(fault.String(), func(t *testing.T) {
			t.Parallel()
			f := &sweepFaults{}
			w := newWorldWith(t, catalog.Settings{Partitions: 2, KeyFields: []string{"k"}}, Options{seams: f.seams()})
			w.put("main", upTo(5)...)
			places := 0
			hit := map[string]int{}
			for at := 1; ; at++ {
				rows := upTo(5)
				for i := range at {
					rows = append(rows, int64(1000+i))
				}
				w.put("main", int64(1000+at-1)) // hot
				name := fmt.Sprintf("b%d", at)
				ctx, cancel := context.WithCancel(t.Context())
				f.arm(at, fault, cancel)
				_, err := w.node.directory.CreateBranch(ctx, "s", branch.NewBranch{Name: name})
				if err == nil {
					err = w.node.directory.DeleteBranch(ctx, "s", name, branch.DeleteBranch{})
					if err == nil {
						_, err = w.purge(ctx, time.Nanosecond)
					}
				}
				cancel()
				call := f.disarm()
				if err != nil && !errors.Is(err, objstoretest.ErrInjected) && !errors.Is(err, context.Canceled) && !refusedTwice(fault, err) {
					t.Fatalf("request %d, %s: %v", at, call, err)
				}
				if call != "" {
					hit[call]++
					places++
				}
				if at%3 == 0 {
					w.restart()
				}
				if _, err := w.node.directory.Resolve("s", name); errors.Is(err, record.ErrNotFound) {
					w.fork(name, branch.From{})
				}
				w.wantCold(name, rows...)
				w.put(name, 5)
				w.wantCold(name, append(rows, 5)...)
				w.wantCold("main", rows...)
				if err := w.node.directory.DeleteBranch(t.Context(), "s", name, branch.DeleteBranch{}); err != nil {
					t.Fatal(err)
				}
				for range 3 {
					w.emptyTrash(time.Nanosecond)
				}
				main := w.on("main").Branch.TableUUID
				for key := range w.sizes() {
					if !strings.Contains(key, main) && !strings.HasPrefix(key, "gc/") {
						t.Fatalf("request %d, %s: left: %s", at, call, key)
					}
				}
				if call == "" {
					break
				}
			}
			t.Logf("sweep: %s: %d requests: %v", t.Name(), places, hit)
			if places < 12 {
				t.Errorf("only %d requests met the fault", places)
			}
		})
	}
}
