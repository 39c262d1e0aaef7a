package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/writer"
)

// TestProducerSurvivesEverything: a producer whose requests are cut off at any
// moment and who repeats each until it is answered, while partitions are added,
// rows are archived and released, the log's files are recycled and the process
// starts again, has each row exactly once; and what it sent last is answered as
// it was first.
func TestProducerSurvivesEverything(t *testing.T) {
	t.Parallel()
	o := Options{CheckpointEvery: 20 * time.Millisecond}
	o.seams.log = func(o *disk.Options) { o.SegmentBytes = 64 << 10 }
	w := newWorldWith(t, catalog.Settings{KeyFields: []string{"k"}, HotRetention: time.Millisecond}, o)
	rng := rand.New(rand.NewPCG(5, 6))
	producer := writer.Producer{Name: "p"}
	type sent struct {
		body   string
		ranges []hotbuffer.PartRange
	}
	var all []sent
	lost, duplicates := 0, 0
	publish := func(body string, sequence int64) (writer.Result, error) {
		p := producer
		p.Sequence = sequence
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(4000))*time.Microsecond)
			out, err := w.node.writer.Publish(ctx, writer.Request{Stream: "s", Branch: "main", Format: writer.JSON, Body: []byte(body), Producer: &p})
			cancel()
			if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
				lost++
				continue
			}
			return out, err
		}
	}
	partitions, rounds := 1, 160
	if raceEnabled {
		rounds = 60
	}
	for n := range int64(rounds) {
		var b strings.Builder
		for range 1 + rng.IntN(100) {
			fmt.Fprintf(&b, `{"k":"key-%d","n":%d}`+"\n", w.next%7, w.next)
			w.next++
		}
		out, err := publish(b.String(), n)
		if err != nil {
			t.Fatalf("sequence %d: %v", n, err)
		}
		if out.Duplicate {
			duplicates++
		}
		all = append(all, sent{b.String(), out.Ranges})
		switch n % 20 {
		case 5:
			partitions++
			if _, err := w.node.directory.UpdateSettings(t.Context(), "s", "main", func(s catalog.Settings) catalog.Settings {
				s.Partitions = partitions
				return s
			}); err != nil {
				t.Fatal(err)
			}
		case 9:

			w.archive()
		case 13:
			w.restart()
		case 17:
			w.archive()
			time.Sleep(2 * time.Millisecond)
			w.archive() // releases
			w.restart()
		default:
			continue
		}
		for i := max(0, n-hotbuffer.RememberedSequences+1); i <= n; i++ {
			out, err := publish(all[i].body, i)
			if err != nil || !out.Duplicate || !slices.Equal(byPart(out.Ranges), byPart(all[i].ranges)) {
				t.Fatalf("sequence %d again, behind %d: %+v, %v; first %v", i, n, out, err, all[i].ranges)
			}
		}
		if n > hotbuffer.RememberedSequences {
			if _, err := publish(all[0].body, 0); !errors.Is(err, record.ErrOutOfSequence) {
				t.Fatalf("a sequence that is forgotten: %v", err)
			}
		}
	}
	t.Logf("%d requests, %d given up and repeated, %d of them had arrived; %d partitions", rounds, lost, duplicates, partitions)
	rows, _ := w.read(reader.Request{})
	if int64(len(rows)) != w.next {
		t.Fatalf("%d rows of %d", len(rows), w.next)
	}
	seen := map[int64]bool{}
	for _, r := range rows {
		if seen[r.n] {
			t.Fatalf("row %d is there twice", r.n)
		}
		seen[r.n] = true
	}
	w.audit()
}

func byPart(r []hotbuffer.PartRange) []hotbuffer.PartRange {
	return slices.SortedFunc(slices.Values(r), func(a, b hotbuffer.PartRange) int { return int(a.Partition - b.Partition) })
}
