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

func appendOffsets(e *env) {
	e.openView(view, 3)
	e.wantRanges(e.append(view, nil, part(1, "a", "b")), false, rng(1, 0, 2))
	// In the order of Parts, not of partitions; empty parts get no range.
	e.wantRanges(e.append(view, nil, part(2, "c"), part(0), part(1, "d", "e", "f")), false, rng(2, 0, 1), rng(1, 2, 5))
	e.wantEnds(view, 0, 5, 1)
	e.wantRows(view, 0)
	e.wantRows(view, 1, "a", "b", "d", "e", "f")
	e.wantRows(view, 2, "c")
	e.restart()
	e.openView(view, 3)
	e.wantEnds(view, 0, 5, 1)
	e.wantRanges(e.append(view, nil, part(1, "g")), false, rng(1, 5, 6))
	e.wantRows(view, 1, "a", "b", "d", "e", "f", "g")
}

func appendRefuses(e *env) {
	e.openView(view, 2)
	e.append(view, nil, part(0, "x"))
	for name, c := range map[string]struct {
		view record.ViewID
		a    hotbuffer.Append
		want error
	}{
		"view not open":       {view + 1, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, "a")}}, record.ErrNotFound},
		"no such partition":   {view, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, "a"), part(2, "a")}}, record.ErrInvalid},
		"negative partition":  {view, hotbuffer.Append{Parts: []hotbuffer.Part{part(-1, "a")}}, record.ErrInvalid},
		"partition twice":     {view, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, "a"), part(1, "b"), part(0, "c")}}, record.ErrInvalid},
		"negative sequence":   {view, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, "a")}, Producer: &hotbuffer.Producer{Sequence: -1}}, record.ErrInvalid},
		"negative epoch":      {view, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, "a")}, Producer: &hotbuffer.Producer{Epoch: -1}}, record.ErrInvalid},
		"once with sequence":  {view, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, "a")}, Producer: &hotbuffer.Producer{Once: true, Sequence: 1}}, record.ErrInvalid},
		"more than it can do": {view, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, strings.Repeat("x", 130<<20))}}, record.ErrTooLarge},
	} {
		if _, err := e.b.Append(e.ctx, c.view, c.a); !errors.Is(err, c.want) {
			e.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	e.wantEnds(view, 1, 0)
	e.wantRows(view, 0, "x")
}

func appendKeepsNothing(e *env) {
	for i, s := range []hotbuffer.Settings{
		{Type: hotbuffer.LowLatency, Partitions: 1},
		{Type: hotbuffer.HighThroughput, Partitions: 1, Linger: time.Millisecond},
		{Type: hotbuffer.HighThroughput, Partitions: 1, Linger: time.Millisecond, Compressed: true},
	} {
		v := view + record.ViewID(i)
		e.openWith(v, s)
		rows := values("first", "second")
		a := hotbuffer.Append{Parts: []hotbuffer.Part{{Partition: 0, Rows: rows}}}
		for range 2 {
			if _, err := e.b.Append(e.ctx, v, a); err != nil {
				e.Fatal(err)
			}
			if rows.Len() != 2 {
				e.Fatalf("the caller's rows changed: %d", rows.Len())
			}
		}
		// The caller may use the memory again at once.
		rows.Reset()
		rows.Append(nil, []byte("WRONG"))
		rows.Append(nil, []byte("WRONG!"))
		e.wantRows(v, 0, "first", "second", "first", "second")
	}
}

func appendEmpty(e *env) {
	e.openView(view, 2)
	e.wantRanges(e.append(view, nil), false)
	e.wantRanges(e.append(view, nil, part(0), hotbuffer.Part{Partition: 1}), false)
	e.wantEnds(view, 0, 0)
	// Rows that are empty are rows all the same, and null keys stay null.
	var rows record.Rows
	rows.Append(nil, nil)
	rows.Append([]byte{}, []byte("v"))
	rows.Append([]byte("k"), []byte{})
	e.append(view, nil, hotbuffer.Part{Partition: 1, Rows: &rows})
	batches, err := e.b.Read(e.ctx, view, 1, 0, 1<<20)
	if err != nil {
		e.Fatal(err)
	}
	var got []string
	var r record.Reader
	for _, b := range batches {
		if err := r.Reset(b); err != nil {
			e.Fatal(err)
		}
		for {
			_, k, v, ok := r.Next()
			if !ok {
				break
			}
			got = append(got, fmt.Sprintf("%v %q %q", k == nil, k, v))
		}
	}
	if want := []string{`true "" ""`, `false "" "v"`, `false "k" ""`}; !slices.Equal(got, want) {
		e.Errorf("rows %v, want %v", got, want)
	}
}

// appendLarge: a request of many megabytes is one request.
func appendLarge(e *env) {
	e.openView(view, 2)
	e.append(view, nil, part(0, "before"))
	big := make([]string, 40)
	for i := range big {
		big[i] = strings.Repeat(fmt.Sprintf("%03d.", i), 64<<10/4)
	}
	small := numbered("small", 3000)
	e.wantRanges(e.append(view, nil, part(0, big...), part(1, small...)), false, rng(0, 1, 41), rng(1, 0, 3000))
	check := func() {
		e.Helper()
		e.wantRows(view, 0, append([]string{"before"}, big...)...)
		e.wantRows(view, 1, small...)
	}
	check()
	e.restart()
	e.openView(view, 2)
	check()
}

func appendContext(e *env) {
	e.openView(view, 1)
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	if _, err := e.b.Append(ctx, view, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, "a")}}); !errors.Is(err, context.Canceled) {
		e.Errorf("append with an ended context: %v", err)
	}
	e.openWith(view, hotbuffer.Settings{Type: hotbuffer.HighThroughput, Partitions: 1, Linger: 200 * time.Millisecond})
	ctx, cancel = context.WithTimeout(e.ctx, 5*time.Millisecond)
	defer cancel()
	// Only that it returns soon is certain; the rows may become durable.
	if _, err := e.b.Append(ctx, view, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, "b")}}); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		e.Errorf("append with a short context: %v", err)
	}
}

// appendTypes: every kind of stream keeps every row, in each caller's order,
// and a change of settings in between loses nothing.
func appendTypes(e *env) {
	settings := []hotbuffer.Settings{
		{Type: hotbuffer.LowLatency, Partitions: 2},
		{Type: hotbuffer.LowLatency, Partitions: 2, Compressed: true},
		{Type: hotbuffer.HighThroughput, Partitions: 2, Linger: 2 * time.Millisecond},
		{Type: hotbuffer.HighThroughput, Partitions: 2, Linger: 2 * time.Millisecond, LingerBytes: 200, Compressed: true},
	}
	e.openWith(view, settings[0])
	const writers, requests = 8, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range requests {
				name := fmt.Sprintf("%d/%03d", w, i)
				out, err := e.b.Append(e.ctx, view, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, name, name), part(1, name)}})
				if err != nil {
					e.Errorf("append: %v", err)
					return
				}
				// The offsets are those of these rows, also in a shared batch.
				for _, r := range out.Ranges {
					rows, err := readAll(e.ctx, e.b, view, r.Partition, r.Start, 1)
					if err != nil || len(rows) < int(r.Len()) || rows[0] != name || rows[r.Len()-1] != name {
						e.Errorf("rows at %v: %v, %v, want %s", r, rows[:min(len(rows), 3)], err, name)
						return
					}
				}
			}
		})
	}
	for i := range 12 {
		time.Sleep(2 * time.Millisecond)
		e.openWith(view, settings[i%len(settings)])
	}
	wg.Wait()
	check := func() {
		e.Helper()
		for p, copies := range []int{2, 1} {
			last := make(map[byte]string)
			rows := e.all(view, record.Partition(p), 0)
			if len(rows) != writers*requests*copies {
				e.Fatalf("partition %d holds %d rows", p, len(rows))
			}
			for _, s := range rows {
				if s < last[s[0]] {
					e.Fatalf("%s after %s", s, last[s[0]])
				}
				last[s[0]] = s
			}
		}
	}
	check()
	e.restart()
	e.openWith(view, settings[2])
	check()
}

// appendAtomic: whoever looks sees all parts of a request or none.
func appendAtomic(e *env) {
	for i, typ := range []hotbuffer.Type{hotbuffer.LowLatency, hotbuffer.HighThroughput} {
		v := view + record.ViewID(i)
		e.openWith(v, hotbuffer.Settings{Type: typ, Partitions: 3, Linger: time.Millisecond})
		done := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for n := range 30 {
					var p *hotbuffer.Producer
					if w == 0 {
						p = &hotbuffer.Producer{ID: hotbuffer.ProducerID{1}, Sequence: int64(n)}
					}
					if _, err := e.b.Append(e.ctx, v, hotbuffer.Append{Producer: p, Parts: []hotbuffer.Part{part(2, "x"), part(0, "y"), part(1, "z")}}); err != nil {
						e.Errorf("append: %v", err)
					}
				}
			})
		}
		go func() {
			wg.Wait()
			close(done)
		}()
		for over := false; !over; {
			select {
			case <-done:
				over = true
			default:
			}
			ends := e.ends(v).End
			cut, err := e.b.Cut(e.ctx, v)
			if err != nil {
				e.Fatal(err)
			}
			for _, o := range []record.Offsets{ends, cut} {
				if o[0] != o[1] || o[1] != o[2] {
					e.Fatalf("%s: a part of a request shows: %v", typ, o)
				}
			}
		}
		e.wantEnds(v, 120, 120, 120)
	}
}
