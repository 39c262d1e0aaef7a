package hotbuffertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

func openSettings(e *env) {
	for name, s := range map[string]hotbuffer.Settings{
		"no type":             {Partitions: 1},
		"unknown type":        {Type: "FAST", Partitions: 1},
		"no partitions":       {Type: hotbuffer.LowLatency},
		"too many partitions": {Type: hotbuffer.LowLatency, Partitions: record.MaxPartitions + 1},
		"negative linger":     {Type: hotbuffer.HighThroughput, Partitions: 1, Linger: -1},
	} {
		if err := e.b.Open(e.ctx, view, s); !errors.Is(err, record.ErrInvalid) {
			e.Errorf("%s: %v", name, err)
		}
	}
	if _, err := e.b.Ends(view); !errors.Is(err, record.ErrNotFound) {
		e.Errorf("ends of a view that was not opened: %v", err)
	}
	if _, err := e.b.Stats(view); !errors.Is(err, record.ErrNotFound) {
		e.Errorf("stats of a view that was not opened: %v", err)
	}
	e.openView(view, 2)
	ends := e.ends(view)
	if !slices.Equal(ends.Start, record.Offsets{0, 0}) || !slices.Equal(ends.End, record.Offsets{0, 0}) || ends.LastTimestamp != 0 {
		e.Errorf("ends of a new view: %+v", ends)
	}
}

func openAgain(e *env) {
	e.openView(view, 2)
	e.append(view, nil, part(0, "a"), part(1, "b"))
	before := e.ends(view)
	e.restart()
	if _, err := e.b.Append(e.ctx, view, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, "early")}}); !errors.Is(err, record.ErrNotFound) {
		e.Errorf("append before Open: %v", err)
	}
	e.openView(view, 2)
	if after := e.ends(view); !slices.Equal(after.End, before.End) || after.LastTimestamp != before.LastTimestamp {
		e.Errorf("ends %+v, before the restart %+v", after, before)
	}
	e.wantRows(view, 0, "a")
	e.wantRows(view, 1, "b")
}

func partitionsGrow(e *env) {
	e.openView(view, 1)
	e.append(view, nil, part(0, "a"))
	e.openView(view, 4)
	e.append(view, nil, part(3, "b"))
	e.wantEnds(view, 1, 0, 0, 1)
	if err := e.b.Open(e.ctx, view, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 3}); !errors.Is(err, record.ErrInvalid) {
		e.Errorf("fewer partitions: %v", err)
	}
	e.restart()
	e.openView(view, 5)
	e.wantEnds(view, 1, 0, 0, 1, 0)
	e.wantRows(view, 3, "b")
}

func drop(e *env) {
	e.openView(view, 1)
	e.openView(view+1, 1)
	e.append(view, seq(0), part(0, "a"))
	e.append(view+1, nil, part(0, "stays"))
	waited := make(chan error, 1)
	go func() { waited <- e.b.Wait(e.ctx, view, record.Offsets{1}) }()
	time.Sleep(5 * time.Millisecond)
	if err := e.b.Drop(e.ctx, view); err != nil {
		e.Fatal(err)
	}
	if err := <-waited; !errors.Is(err, record.ErrNotFound) {
		e.Errorf("a waiter on a dropped view got %v", err)
	}
	check := func() {
		e.Helper()
		if slices.Contains(e.b.Views(), view) {
			e.Error("a dropped view is listed")
		}
		_, appendErr := e.b.Append(e.ctx, view, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, "b")}})
		_, readErr := e.b.Read(e.ctx, view, 0, 0, 100)
		_, endsErr := e.b.Ends(view)
		_, cutErr := e.b.Cut(e.ctx, view)
		for i, err := range []error{appendErr, readErr, endsErr, cutErr, e.b.Wait(e.ctx, view, nil), e.b.Release(e.ctx, view, nil)} {
			if !errors.Is(err, record.ErrNotFound) {
				e.Errorf("call %d on a dropped view: %v", i, err)
			}
		}
		e.wantRows(view+1, 0, "stays")
	}
	check()
	if err := e.b.Drop(e.ctx, view); err != nil {
		e.Errorf("drop again: %v", err)
	}
	e.restart()
	e.openView(view+1, 1)
	check()
}

func dropUnopened(e *env) {
	e.openView(view, 1)
	e.openView(view+1, 1)
	e.append(view, nil, part(0, "a"))
	e.append(view+1, nil, part(0, "b"))
	e.restart()
	if err := e.b.Drop(e.ctx, view); err != nil {
		e.Fatal(err)
	}
	if got := e.b.Views(); slices.Contains(got, view) || !slices.Contains(got, view+1) {
		e.Errorf("views %v", got)
	}
}

func views(e *env) {
	if got := e.b.Views(); len(got) != 0 {
		e.Fatalf("views of an empty buffer: %v", got)
	}
	for v := record.ViewID(1); v <= 3; v++ {
		e.openView(v, 1)
		e.append(v, nil, part(0, "a"))
	}
	// Also a view whose rows are all released holds state: its offsets.
	if err := e.b.Release(e.ctx, 2, record.Offsets{1}); err != nil {
		e.Fatal(err)
	}
	for range 2 {
		got := e.b.Views()
		slices.Sort(got)
		if !slices.Equal(got, []record.ViewID{1, 2, 3}) {
			e.Errorf("views %v", got)
		}
		e.restart()
	}
}

func wait(e *env) {
	e.openView(view, 2)
	// Rows that are there need no waiting.
	e.append(view, nil, part(1, "a"))
	if err := e.b.Wait(e.ctx, view, record.Offsets{0, 0}); err != nil {
		e.Fatal(err)
	}
	if err := e.b.Wait(e.ctx, view, nil); err != nil {
		e.Fatal(err)
	}
	const waiters = 5
	got := make(chan error, waiters)
	after := e.ends(view).End
	for range waiters {
		go func() {
			if err := e.b.Wait(e.ctx, view, after); err != nil {
				got <- err
				return
			}
			ends, err := e.b.Ends(view)
			if err == nil && ends.End[0] != 1 {
				err = fmt.Errorf("woken at %v", ends.End)
			}
			got <- err
		}()
	}
	time.Sleep(10 * time.Millisecond)
	select {
	case err := <-got:
		e.Fatalf("woken without rows: %v", err)
	default:
	}
	e.append(view, nil, part(0, "b"))
	for range waiters {
		if err := <-got; err != nil {
			e.Error(err)
		}
	}
}

func waitEnds(e *env) {
	if err := e.b.Wait(e.ctx, view, nil); !errors.Is(err, record.ErrNotFound) {
		e.Errorf("wait on a view that was not opened: %v", err)
	}
	e.openView(view, 1)
	ctx, cancel := context.WithTimeout(e.ctx, 10*time.Millisecond)
	defer cancel()
	if err := e.b.Wait(ctx, view, nil); !errors.Is(err, context.DeadlineExceeded) {
		e.Errorf("wait until the context ended: %v", err)
	}
}

func release(e *env) {
	e.openView(view, 2)
	for range 10 {
		e.append(view, nil, part(0, "a", "b", "c"), part(1, "x"))
	}
	if err := e.b.Release(e.ctx, view, record.Offsets{4, 2}); err != nil {
		e.Fatal(err)
	}
	// Going back is no error and changes nothing.
	if err := e.b.Release(e.ctx, view, record.Offsets{1}); err != nil {
		e.Fatal(err)
	}
	for _, beyond := range []record.Offsets{{31, 0}, {0, 11}, {0, 0, 1}} {
		if err := e.b.Release(e.ctx, view, beyond); !errors.Is(err, record.ErrOutOfRange) {
			e.Errorf("release through %v: %v", beyond, err)
		}
	}
	check := func() {
		e.Helper()
		ends := e.ends(view)
		if ends.Start[0] > 4 || ends.Start[1] > 2 {
			e.Fatalf("start %v beyond what was released", ends.Start)
		}
		for p, start := range ends.Start {
			if start > 0 {
				if _, err := e.b.Read(e.ctx, view, record.Partition(p), start-1, 100); !errors.Is(err, record.ErrOutOfRange) {
					e.Errorf("read below the start: %v", err)
				}
			}
			if n := len(e.all(view, record.Partition(p), start)); n != int(ends.End[p]-start) {
				e.Errorf("%d rows in [%v,%v)", n, start, ends.End[p])
			}
		}
		if got := e.all(view, 0, 4); len(got) != 26 || got[0] != "b" {
			e.Errorf("%d rows from 4 on", len(got))
		}
	}
	check()
	e.restart()
	e.openView(view, 2)
	check()
	if err := e.b.Release(e.ctx, view, e.ends(view).End); err != nil {
		e.Fatal(err)
	}
	e.restart()
	e.openView(view, 2)
	// Offsets go on, whatever is left of the rows.
	e.wantRanges(e.append(view, nil, part(0, "new")), false, rng(0, 30, 31))
}

func stats(e *env) {
	e.openWith(view, hotbuffer.Settings{Type: hotbuffer.HighThroughput, Partitions: 2, Linger: 30 * time.Millisecond})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := e.b.Append(e.ctx, view, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, "12345", "12345")}}); err != nil {
				e.Errorf("append: %v", err)
			}
		})
	}
	wg.Wait()
	e.append(view, seq(0), part(1, "1234567890"))
	e.append(view, seq(0), part(1, "1234567890"))
	e.all(view, 0, 0)
	s, err := e.b.Stats(view)
	if err != nil {
		e.Fatal(err)
	}
	if s.Requests != 6 || s.Duplicates != 1 || s.Rows != 9 || s.Bytes != 50 {
		e.Errorf("%d requests, %d duplicates, %d rows, %d bytes", s.Requests, s.Duplicates, s.Rows, s.Bytes)
	}
	if s.Batches < 2 || s.Batches > 5 || s.MaxBatchRows < 2 || s.StoredBytes < s.Bytes || s.MaxBatchBytes < 61 || s.BatchLimitBytes < s.MaxBatchBytes {
		e.Errorf("batches: %+v", s)
	}
	if s.ReadRows < 8 || s.ReadBytes < 40 {
		e.Errorf("read %d rows, %d bytes", s.ReadRows, s.ReadBytes)
	}
	for name, h := range map[string]hotbuffer.Histogram{"append": s.AppendSeconds, "linger": s.LingerSeconds} {
		var n uint64
		for _, c := range h.Counts {
			n += c
		}
		if len(h.Counts) != len(h.Bounds)+1 || n != 6 || h.Sum <= 0 || !slices.IsSorted(h.Bounds) {
			e.Errorf("%s histogram: %+v", name, h)
		}
	}
}

// closes: Close finishes what is under way, wakes everyone, and stays closed.
func closes(e *env) {
	e.openWith(view, hotbuffer.Settings{Type: hotbuffer.HighThroughput, Partitions: 1, Linger: time.Hour})
	e.openView(view+1, 1)
	errs := make(chan error, 6)
	for range 3 {
		go func() { errs <- e.b.Wait(e.ctx, view+1, nil) }()
	}
	var accepted atomic.Int64
	for range 3 {
		go func() {
			_, err := e.b.Append(e.ctx, view, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, "lingers")}})
			if err == nil {
				accepted.Add(1)
				err = record.ErrClosed // what the waiters get
			}
			errs <- err
		}()
	}
	time.Sleep(20 * time.Millisecond)
	if err := e.b.Close(); err != nil {
		e.Fatal(err)
	}
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, record.ErrClosed) {
			e.Errorf("woken with %v", err)
		}
	}
	if err := e.b.Close(); err != nil {
		e.Errorf("close again: %v", err)
	}
	_, appendErr := e.b.Append(e.ctx, view, hotbuffer.Append{Parts: []hotbuffer.Part{part(0, "b")}})
	_, readErr := e.b.Read(e.ctx, view, 0, 0, 100)
	_, cutErr := e.b.Cut(e.ctx, view)
	openErr := e.b.Open(e.ctx, view+2, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 1})
	for i, err := range []error{appendErr, readErr, cutErr, openErr, e.b.Wait(e.ctx, view, nil), e.b.Release(e.ctx, view, nil), e.b.Drop(e.ctx, view)} {
		if !errors.Is(err, record.ErrClosed) {
			e.Errorf("call %d on a closed buffer: %v", i, err)
		}
	}
	e.b = e.open()
	e.openView(view, 1)
	if n := int64(e.ends(view).End[0]); n != accepted.Load() {
		e.Errorf("%d rows, %d appends were acknowledged", n, accepted.Load())
	}
}

// concurrent: writers, readers, waiters, cuts and releases at the same time,
// over several restarts; no row is lost, doubled or out of order.
func concurrent(e *env) {
	const rounds, writers, requests, partitions = 3, 6, 30, 3
	for round := range rounds {
		e.openWith(view, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: partitions})
		start := e.ends(view)
		ctx, cancel := context.WithCancel(e.ctx)
		var writing, reading sync.WaitGroup
		for w := range writers {
			writing.Go(func() {
				for i := range requests {
					value := fmt.Sprintf("%d/%d/%03d", round, w, i)
					if _, err := e.b.Append(e.ctx, view, hotbuffer.Append{
						Parts:    []hotbuffer.Part{part(record.Partition(w%partitions), value, value)},
						Producer: &hotbuffer.Producer{ID: hotbuffer.ProducerID{byte(w)}, Sequence: int64(round*requests + i)},
					}); err != nil {
						e.Errorf("append: %v", err)
						return
					}
				}
			})
		}
		for p := range record.Partition(partitions) {
			reading.Go(func() {
				next := start.End[p]
				last := make(map[byte]string)
				var r record.Reader
				for {
					batches, err := e.b.Read(e.ctx, view, p, next, 1000)
					if err != nil {
						e.Errorf("read %v from %v: %v", p, next, err)
						return
					}
					for _, b := range batches {
						if err := r.Reset(b); err != nil {
							e.Error(err)
							return
						}
						for {
							o, _, v, ok := r.Next()
							if !ok {
								break
							}
							if o != next {
								e.Errorf("row %v instead of %v", o, next)
								return
							}
							next++
							if s := string(v); s < last[v[2]] {
								e.Errorf("%s after %s", s, last[v[2]])
							} else {
								last[v[2]] = s
							}
						}
					}
					if next == start.End[p]+writers/partitions*requests*2 {
						return
					}
					after := record.Offsets{1 << 40, 1 << 40, 1 << 40}
					after[p] = next
					if err := e.b.Wait(e.ctx, view, after); err != nil {
						e.Errorf("wait: %v", err)
						return
					}
				}
			})
		}
		reading.Go(func() {
			for ctx.Err() == nil {
				if _, err := e.b.Cut(e.ctx, view); err != nil {
					e.Errorf("cut: %v", err)
				}
				// Only rows of earlier rounds: readers are behind.
				if err := e.b.Release(e.ctx, view, start.End); err != nil {
					e.Errorf("release: %v", err)
				}
				time.Sleep(time.Millisecond)
			}
		})
		writing.Wait()
		cancel()
		reading.Wait()
		e.restart()
	}
	e.openView(view, partitions)
	n := record.Offset(rounds * writers / partitions * requests * 2)
	e.wantEnds(view, n, n, n)
}
