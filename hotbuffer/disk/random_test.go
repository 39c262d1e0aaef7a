package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/record"
)

// TestRandom: whatever is appended, released and dropped, in whatever order,
// with crashes and restarts in between, the log agrees with the model.
func TestRandom(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		mem := vfs.NewCrashableMem()
		m := newModel()
		newest := record.ViewID(2)
		var l *Log
		open := func(fs *vfs.MemFS) {
			mem = fs
			var err error
			o := Options{FS: mem, Logger: quiet(), SegmentBytes: 64 << 10, MaxBytes: 512 << 10}
			if l, err = Open("/log", o); err != nil {
				rt.Fatalf("open: %v", err)
			}
			if d := l.LogStats().Damage; len(d) > 0 {
				rt.Fatalf("damage: %v", &d[0])
			}
			if err := m.openAll(l, newest); err != nil {
				rt.Fatal(err)
			}
		}
		open(mem)
		defer func() { _ = l.Close() }()
		pick := func() record.ViewID {
			var ids []record.ViewID
			for id := record.ViewID(1); id <= newest; id++ {
				if !m.views[id].dropped {
					ids = append(ids, id)
				}
			}
			return rapid.SampledFrom(ids).Draw(rt, "view")
		}
		n := 0
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				n++
				var parts []modelPart
				first := record.Partition(rapid.IntRange(0, 1).Draw(rt, "first"))
				for i := range record.Partition(rapid.IntRange(1, 2).Draw(rt, "parts")) {
					parts = append(parts, modelPart{(first + i) % 2, sized(fmt.Sprint(n), rapid.IntRange(1, 5).Draw(rt, "rows"), rapid.SampledFrom([]int{0, 10, 3000, 9000}).Draw(rt, "size"))})
				}
				if err := m.append(l, pick(), rapid.SampledFrom([]retryBy{nothing, sequence, key}).Draw(rt, "retry by"), parts...); err != nil && !errors.Is(err, record.ErrFull) {
					rt.Fatal(err)
				}
			},
			"release": func(rt *rapid.T) {
				id := pick()
				e, err := l.Ends(id)
				if err != nil {
					rt.Fatal(err)
				}
				through := e.Start.Clone()
				for p := range through {
					through[p] += record.Offset(rapid.Int64Range(0, int64(e.End[p]-e.Start[p])).Draw(rt, "through"))
				}
				if err := m.release(l, id, through); err != nil {
					rt.Fatal(err)
				}
			},
			"drop": func(rt *rapid.T) {
				if rapid.IntRange(0, 3).Draw(rt, "seldom") > 0 {
					return
				}
				id := pick()
				newest++
				if err := m.open(l, newest, 2); err != nil {
					rt.Fatal(err)
				}
				if err := m.drop(l, id); err != nil {
					rt.Fatal(err)
				}
			},
			"grow": func(rt *rapid.T) {
				id := pick()
				if n := len(m.views[id].rows); n < 5 {
					if err := m.open(l, id, n+1); err != nil {
						rt.Fatal(err)
					}
				}
			},
			"repeat": func(rt *rapid.T) {
				if err := m.repeatAll(l); err != nil {
					rt.Fatal(err)
				}
			},
			"restart": func(rt *rapid.T) {
				if err := l.Close(); err != nil {
					rt.Fatal(err)
				}
				open(mem)
			},
			"crash": func(rt *rapid.T) {
				cfg := vfs.CrashCloneCfg{
					UnsyncedDataPercent: rapid.SampledFrom([]int{0, 50, 100}).Draw(rt, "unsynced"),
					RNG:                 rand.New(rand.NewPCG(uint64(n), 1)),
				}
				left := mem.CrashClone(cfg)
				_ = l.Close()
				probe, err := Open("/log", Options{FS: left.CrashClone(vfs.CrashCloneCfg{}), Logger: quiet(), SegmentBytes: scriptSegment, MaxBytes: 4 << 20})
				if err != nil {
					rt.Fatalf("open after a crash: %v", err)
				}
				if err := compare(probe, m, m); err != nil {
					rt.Fatal(err)
				}
				if err := probe.Close(); err != nil {
					rt.Fatal(err)
				}
				open(left)
			},
		})
	})
}
