// Package hotbuffertest is the conformance suite of the hot buffer: what
// hotbuffer.Buffer promises, sentence by sentence. Every engine's tests call
// Run.
package hotbuffertest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// Run tests an engine. start prepares fresh storage for one test and returns
// how to open the buffer on it; the suite opens it again after Close to see
// what a restart keeps.
func Run(t *testing.T, start func(t *testing.T) (open func() hotbuffer.Buffer)) {
	for _, c := range []struct {
		name string
		test func(e *env)
	}{
		{"Open/settings", openSettings},
		{"Open/rows are there again", openAgain},
		{"Open/partitions grow", partitionsGrow},
		{"Drop", drop},
		{"Drop/never opened", dropUnopened},
		{"Views", views},
		{"Append/offsets", appendOffsets},
		{"Append/refuses", appendRefuses},
		{"Append/keeps nothing", appendKeepsNothing},
		{"Append/empty", appendEmpty},
		{"Append/large", appendLarge},
		{"Append/context", appendContext},
		{"Append/types", appendTypes},
		{"Append/atomic", appendAtomic},
		{"Producer/duplicate", producerDuplicate},
		{"Producer/window", producerWindow},
		{"Producer/gap", producerGap},
		{"Producer/epoch", producerEpoch},
		{"Producer/once", producerOnce},
		{"Producer/views apart", producerViews},
		{"Producer/newest", producerNewest},
		{"Producer/no rows", producerNoRows},
		{"Producer/concurrent retries", producerConcurrent},
		{"Producer/partitions grow", producerGrowth},
		{"Producer/released rows", producerReleased},
		{"Producer/abandoned requests", producerAbandoned},
		{"Read/whole batches", readBatches},
		{"Read/range", readRange},
		{"Read/immutable", readImmutable},
		{"Cut/timestamps", cutTimestamps},
		{"Cut/total order", cutTotalOrder},
		{"Wait", wait},
		{"Wait/ends", waitEnds},
		{"Release", release},
		{"Stats", stats},
		{"Close", closes},
		{"Concurrent", concurrent},
		{"Scan/order", scanOrder},
		{"Scan/limits", scanLimits},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			e := &env{T: t, ctx: ctx, open: start(t)}
			e.b = e.open()
			defer func() {
				if err := e.b.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			c.test(e)
		})
	}
}

// env is one test's buffer.
type env struct {
	*testing.T
	ctx  context.Context //nolint:containedctx // ends with the test
	open func() hotbuffer.Buffer
	b    hotbuffer.Buffer
}

const view record.ViewID = 7

// restart closes and opens the buffer again. Views stay to be opened.
func (e *env) restart() {
	e.Helper()
	if err := e.b.Close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	e.b = e.open()
}

func (e *env) openView(v record.ViewID, partitions int) {
	e.Helper()
	e.openWith(v, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: partitions})
}

func (e *env) openWith(v record.ViewID, s hotbuffer.Settings) {
	e.Helper()
	if err := e.b.Open(e.ctx, v, s); err != nil {
		e.Fatalf("open %v: %v", v, err)
	}
}

// values are rows without keys.
func values(v ...string) *record.Rows {
	var r record.Rows
	for _, s := range v {
		r.Append(nil, []byte(s))
	}
	return &r
}

// part is one part of an append.
func part(p record.Partition, v ...string) hotbuffer.Part {
	return hotbuffer.Part{Partition: p, Rows: values(v...)}
}

func (e *env) append(v record.ViewID, p *hotbuffer.Producer, parts ...hotbuffer.Part) hotbuffer.Appended {
	e.Helper()
	out, err := e.b.Append(e.ctx, v, hotbuffer.Append{Parts: parts, Producer: p})
	if err != nil {
		e.Fatalf("append: %v", err)
	}
	return out
}

func rng(p record.Partition, start, end record.Offset) hotbuffer.PartRange {
	return hotbuffer.PartRange{Partition: p, Range: record.Range{Start: start, End: end}}
}

func (e *env) wantRanges(got hotbuffer.Appended, duplicate bool, want ...hotbuffer.PartRange) {
	e.Helper()
	if !slices.Equal(got.Ranges, want) || got.Duplicate != duplicate {
		e.Fatalf("appended %v (duplicate %v), want %v (%v)", got.Ranges, got.Duplicate, want, duplicate)
	}
}

func (e *env) ends(v record.ViewID) hotbuffer.Ends {
	e.Helper()
	ends, err := e.b.Ends(v)
	if err != nil {
		e.Fatalf("ends: %v", err)
	}
	return ends
}

func (e *env) wantEnds(v record.ViewID, want ...record.Offset) {
	e.Helper()
	if got := e.ends(v).End; !slices.Equal(got, record.Offsets(want)) {
		e.Fatalf("durable ends %v, want %v", got, want)
	}
}

// all reads a partition from an offset to its durable end and checks that
// offsets are dense and timestamps never go back.
func (e *env) all(v record.ViewID, p record.Partition, from record.Offset) []string {
	e.Helper()
	out, err := readAll(e.ctx, e.b, v, p, from, 1<<20)
	if err != nil {
		e.Fatal(err)
	}
	return out
}

func readAll(ctx context.Context, b hotbuffer.Buffer, v record.ViewID, p record.Partition, from record.Offset, maxBytes int) ([]string, error) {
	var r record.Reader
	var out []string
	next, last := from, int64(0)
	for {
		batches, err := b.Read(ctx, v, p, next, maxBytes)
		if err != nil {
			return out, fmt.Errorf("read: %w", err)
		}
		if len(batches) == 0 {
			return out, nil
		}
		for _, batch := range batches {
			if batch.BaseOffset() > next || batch.End() <= next {
				return out, fmt.Errorf("batch [%v,%v) instead of one with %v", batch.BaseOffset(), batch.End(), next)
			}
			if batch.Timestamp() < last {
				return out, fmt.Errorf("timestamp %d after %d", batch.Timestamp(), last)
			}
			last = batch.Timestamp()
			if err := r.Reset(batch); err != nil {
				return out, err
			}
			for {
				o, _, value, ok := r.Next()
				if !ok {
					break
				}
				if o < next {
					continue
				}
				if o != next {
					return out, fmt.Errorf("row %v instead of %v", o, next)
				}
				out = append(out, string(value))
				next++
			}
			if err := r.Err(); err != nil {
				return out, err
			}
		}
	}
}

func (e *env) wantRows(v record.ViewID, p record.Partition, want ...string) {
	e.Helper()
	if got := e.all(v, p, e.ends(v).Start.At(p)); !slices.Equal(got, want) {
		e.Fatalf("partition %v holds %q, want %q", p, got, want)
	}
}

// numbered are n values that tell themselves apart.
func numbered(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return out
}
