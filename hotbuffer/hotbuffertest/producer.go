package hotbuffertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

var producerID = hotbuffer.ProducerID{1, 2, 3}

func seq(n int64) *hotbuffer.Producer { return &hotbuffer.Producer{ID: producerID, Sequence: n} }

func (e *env) refused(want error, p *hotbuffer.Producer) {
	e.Helper()
	_, err := e.b.Append(e.ctx, view, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, "refused")}, Producer: p})
	if !errors.Is(err, want) {
		e.Fatalf("producer %+v: %v, want %v", *p, err, want)
	}
}

func producerDuplicate(e *env) {
	for i, typ := range []hotbuffer.Type{hotbuffer.LowLatency, hotbuffer.HighThroughput} {
		v := view + record.ViewID(i)
		open := func() {
			e.openWith(v, hotbuffer.Settings{Type: typ, Partitions: 3, Linger: time.Millisecond})
		}
		open()
		e.append(v, nil, part(2, "other"))
		e.wantRanges(e.append(v, seq(100), part(2, "a", "b"), part(0, "c")), false, rng(2, 1, 3), rng(0, 0, 1))
		// By partition for a duplicate, whatever the retry holds.
		e.wantRanges(e.append(v, seq(100), part(2, "a", "b"), part(0, "c")), true, rng(0, 0, 1), rng(2, 1, 3))
		e.wantRanges(e.append(v, seq(101), part(0, "d")), false, rng(0, 1, 2))
		e.restart()
		open()
		e.wantRanges(e.append(v, seq(100), part(0, "changed")), true, rng(0, 0, 1), rng(2, 1, 3))
		e.wantRanges(e.append(v, seq(101), part(0, "d")), true, rng(0, 1, 2))
		e.wantRanges(e.append(v, seq(102), part(0, "e")), false, rng(0, 2, 3))
		e.wantRows(v, 0, "c", "d", "e")
		e.wantRows(v, 2, "other", "a", "b")
	}
}

func producerWindow(e *env) {
	e.openView(view, 1)
	const n = hotbuffer.RememberedSequences
	for i := range int64(n + 3) {
		e.append(view, seq(i), part(0, fmt.Sprint(i)))
	}
	check := func() {
		e.Helper()
		for i := int64(3); i < n+3; i++ {
			e.wantRanges(e.append(view, seq(i), part(0, "again")), true, rng(0, record.Offset(i), record.Offset(i+1)))
		}
		for i := range int64(3) {
			e.refused(record.ErrOutOfSequence, seq(i))
		}
		e.wantEnds(view, n+3)
	}
	check()
	e.restart()
	e.openView(view, 1)
	check()
}

func producerGap(e *env) {
	e.openView(view, 1)
	e.append(view, seq(41), part(0, "first may be any"))
	for range 2 {
		e.refused(record.ErrOutOfSequence, seq(43))
		e.refused(record.ErrOutOfSequence, seq(40))
		e.restart()
		e.openView(view, 1)
	}
	e.append(view, seq(42), part(0, "next"))
	e.wantRows(view, 0, "first may be any", "next")
}

func producerEpoch(e *env) {
	e.openView(view, 1)
	at := func(epoch int32, n int64) *hotbuffer.Producer {
		return &hotbuffer.Producer{ID: producerID, Epoch: epoch, Sequence: n}
	}
	e.append(view, at(1, 5), part(0, "a"))
	e.append(view, at(3, 0), part(0, "b")) // any sequence
	e.refused(record.ErrFenced, at(1, 6))
	e.refused(record.ErrFenced, at(2, 0))
	e.restart()
	e.openView(view, 1)
	e.refused(record.ErrFenced, at(1, 5))
	e.wantRanges(e.append(view, at(3, 0), part(0, "b")), true, rng(0, 1, 2))
	e.append(view, at(3, 1), part(0, "c"))
	e.wantRows(view, 0, "a", "b", "c")
}

func producerOnce(e *env) {
	e.openView(view, 1)
	key := func(n byte) *hotbuffer.Producer {
		return &hotbuffer.Producer{ID: hotbuffer.ProducerID{n}, Once: true}
	}
	e.wantRanges(e.append(view, key(1), part(0, "a", "b")), false, rng(0, 0, 2))
	e.wantRanges(e.append(view, key(2), part(0, "c")), false, rng(0, 2, 3))
	// A name and a key with the same hash are different things.
	e.append(view, &hotbuffer.Producer{ID: hotbuffer.ProducerID{1}, Sequence: 9}, part(0, "d"))
	for range 2 {
		e.wantRanges(e.append(view, key(1), part(0, "a", "b")), true, rng(0, 0, 2))
		e.wantRanges(e.append(view, key(2), part(0, "c")), true, rng(0, 2, 3))
		e.restart()
		e.openView(view, 1)
	}
	e.wantRows(view, 0, "a", "b", "c", "d")
}

func producerViews(e *env) {
	e.openView(view, 1)
	e.openView(view+1, 1)
	e.append(view, seq(0), part(0, "a"))
	e.wantRanges(e.append(view+1, seq(0), part(0, "b")), false, rng(0, 0, 1))
	e.wantRanges(e.append(view+1, seq(0), part(0, "b")), true, rng(0, 0, 1))
}

func producerNewest(e *env) {
	if _, _, err := e.b.Newest(e.ctx, view, producerID); !errors.Is(err, record.ErrNotFound) {
		e.Errorf("of a view that was not opened: %v", err)
	}
	e.openView(view, 2)
	if _, _, err := e.b.Newest(e.ctx, view, producerID); !errors.Is(err, record.ErrNotFound) {
		e.Errorf("of an unknown producer: %v", err)
	}
	want := hotbuffer.Producer{ID: producerID, Epoch: 2, Sequence: 5}
	for n := range int64(6) {
		p := want
		p.Sequence = n
		e.append(view, &p, part(1, "a"), part(0, "b", "c"))
	}
	// A request by key under the same hash is another thing.
	e.append(view, &hotbuffer.Producer{ID: producerID, Once: true}, part(0, "d"))
	for range 2 {
		p, ranges, err := e.b.Newest(e.ctx, view, producerID)
		if err != nil || p != want || !slices.Equal(ranges, []hotbuffer.PartRange{rng(0, 10, 12), rng(1, 5, 6)}) {
			e.Fatalf("newest %+v, %v, %v", p, ranges, err)
		}
		e.restart()
		e.openView(view, 2)
	}
}

func producerNoRows(e *env) {
	e.openView(view, 1)
	e.append(view, seq(0), part(0, "a"))
	e.wantRanges(e.append(view, seq(1)), false)
	for range 2 {
		e.wantRanges(e.append(view, seq(1)), true)
		e.restart()
		e.openView(view, 1)
	}
	e.wantRanges(e.append(view, seq(2), part(0, "b")), false, rng(0, 1, 2))
}

// producerConcurrent: of many equal requests at the same time one appends.
func producerConcurrent(e *env) {
	for i, typ := range []hotbuffer.Type{hotbuffer.LowLatency, hotbuffer.HighThroughput} {
		v := view + record.ViewID(i)
		e.openWith(v, hotbuffer.Settings{Type: typ, Partitions: 1, Linger: time.Millisecond})
		for n := range int64(5) {
			var wg sync.WaitGroup
			var mu sync.Mutex
			fresh := 0
			for range 8 {
				wg.Go(func() {
					out, err := e.b.Append(e.ctx, v, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, "x")}, Producer: seq(n)})
					mu.Lock()
					defer mu.Unlock()
					if err != nil || len(out.Ranges) != 1 || out.Ranges[0] != rng(0, record.Offset(n), record.Offset(n+1)) {
						e.Errorf("sequence %d: %v, %v", n, out.Ranges, err)
					}
					if !out.Duplicate {
						fresh++
					}
				})
			}
			wg.Wait()
			if fresh != 1 {
				e.Errorf("%d of 8 equal requests appended", fresh)
			}
		}
		e.wantEnds(v, 5)
	}
}

// producerGrowth: a request that is repeated after the view gained partitions,
// and so with its rows elsewhere, is the one that was appended.
func producerGrowth(e *env) {
	for i, typ := range []hotbuffer.Type{hotbuffer.LowLatency, hotbuffer.HighThroughput} {
		v := view + record.ViewID(i)
		open := func(partitions int) {
			e.openWith(v, hotbuffer.Settings{Type: typ, Partitions: partitions, Linger: time.Millisecond})
		}
		open(1)
		e.append(v, seq(7), part(0, "a", "b"))
		open(4)
		e.wantRanges(e.append(v, seq(7), part(3, "a"), part(1, "b")), true, rng(0, 0, 2))
		e.wantRanges(e.append(v, seq(8), part(3, "c"), part(0, "d")), false, rng(3, 0, 1), rng(0, 2, 3))
		e.restart()
		open(9)
		e.wantRanges(e.append(v, seq(7), part(8, "a", "b")), true, rng(0, 0, 2))
		e.wantRanges(e.append(v, seq(8), part(8, "c", "d")), true, rng(0, 2, 3), rng(3, 0, 1))
		e.wantRanges(e.append(v, seq(9), part(8, "e")), false, rng(8, 0, 1))
		e.wantEnds(v, 3, 0, 0, 1, 0, 0, 0, 0, 1)
	}
}

// producerReleased: what a producer sent last is remembered when its rows have
// left the buffer, and the files they were in hold other rows.
func producerReleased(e *env) {
	const other = view + 1
	e.openView(view, 2)
	e.openView(other, 1)
	once := &hotbuffer.Producer{ID: hotbuffer.ProducerID{5}, Once: true}
	e.append(view, once, part(1, "key"))
	const n = hotbuffer.RememberedSequences
	for i := range int64(n + 2) {
		e.append(view, seq(i), part(record.Partition(i%2), fmt.Sprint(i)))
	}
	large := numbered(strings.Repeat("x", 8<<10), 8)
	for round := range 2 {
		if err := e.b.Release(e.ctx, view, e.ends(view).End); err != nil {
			e.Fatal(err)
		}
		for range 16 {
			e.append(other, nil, part(0, large...))
			if err := e.b.Release(e.ctx, other, e.ends(other).End); err != nil {
				e.Fatal(err)
			}
		}
		for i := int64(2); i < n+2; i++ {
			p, at := record.Partition(i%2), record.Offset(i/2+i%2)
			e.wantRanges(e.append(view, seq(i), part(0, "again")), true, rng(p, at, at+1))
		}
		e.refused(record.ErrOutOfSequence, seq(1))
		e.refused(record.ErrOutOfSequence, seq(n+3))
		e.wantRanges(e.append(view, once, part(0, "again")), true, rng(1, 0, 1))
		if round == 0 {
			e.restart()
			e.openView(view, 2)
			e.openView(other, 1)
		}
	}
	e.wantRanges(e.append(view, seq(n+2), part(0, "next")), false, rng(0, n/2+1, n/2+2))
}

// producerAbandoned: whoever gives up waiting and asks again, as often as he
// likes, appends once.
func producerAbandoned(e *env) {
	for i, typ := range []hotbuffer.Type{hotbuffer.LowLatency, hotbuffer.HighThroughput} {
		v := view + record.ViewID(i)
		e.openWith(v, hotbuffer.Settings{Type: typ, Partitions: 1, Linger: time.Millisecond})
		const n = 40
		for s := range int64(n) {
			for try := 0; ; try++ {
				ctx, cancel := context.WithTimeout(e.ctx, time.Duration(try*try)*50*time.Microsecond)
				out, err := e.b.Append(ctx, v, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, fmt.Sprint(s))}, Producer: seq(s)})
				cancel()
				if errors.Is(err, context.DeadlineExceeded) {
					continue
				}
				if err != nil {
					e.Fatal(err)
				}
				e.wantRanges(out, out.Duplicate, rng(0, record.Offset(s), record.Offset(s+1)))
				break
			}
		}
		want := make([]string, n)
		for s := range want {
			want[s] = fmt.Sprint(s)
		}
		e.wantRows(v, 0, want...)
	}
}
