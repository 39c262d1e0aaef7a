package reader_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// epoch is what a tail gave of one.
type epoch struct {
	rows []int64
	at   reader.Cursor // its end
}

// epochs tails exactly once from a position until epoch number last has ended.
func (e *env) epochs(q reader.Request, last int64) map[int64]epoch {
	e.t.Helper()
	q.Consistency = catalog.ExactlyOnce
	ctx, cancel := context.WithTimeout(e.t.Context(), 10*time.Second)
	defer cancel()
	res, err := e.r.Tail(ctx, e.target, q)
	if err != nil {
		e.t.Fatal(err)
	}
	got := map[int64]epoch{}
	ended := int64(0)
	for b, err := range res.Batches {
		if err != nil {
			e.t.Fatalf("behind epoch %d: %v", ended, err)
		}
		if b.Epoch <= ended || b.Rows == nil && !b.EpochEnd {
			e.t.Fatalf("epoch %d behind the end of %d, rows %v", b.Epoch, ended, b.Rows)
		}
		of := got[b.Epoch]
		of.rows = append(of.rows, numbers(b)...)
		if b.EpochEnd {
			ended, of.at = b.Epoch, b.Next
			if b.Next.Checkpoint != b.Epoch {
				e.t.Fatalf("epoch %d ends at checkpoint %d", b.Epoch, b.Next.Checkpoint)
			}
		}
		got[b.Epoch] = of
		if ended == last {
			return got
		}
	}
	e.t.Fatal("the tail ended")
	return nil
}

// Epochs are cut where checkpoints are, have the same rows hot, mixed and cold,
// and one can begin at the end of each.
func TestEpochs(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 3)
	var want [][]int64
	var cuts []catalog.Checkpoint
	for i := range int64(12) {
		first := e.next
		for p := range record.Partition(3) {
			e.publish((p+record.Partition(i))%3, int(1+i%3))
		}
		want = append(want, count(e.next)[first:])
		cuts = append(cuts, e.take())
	}
	for _, half := range []string{"hot", "mixed", "overlapping", "cold"} {
		switch half {
		case "mixed":
			e.archive(cuts[4].Cut)
			e.release(cuts[4].Cut)
		case "overlapping":
			e.archive(cuts[8].Cut)
			e.release(cuts[6].Cut)
		case "cold":
			e.flush()
		}
		all := e.epochs(reader.Request{}, 12)
		for i, rows := range want {
			e.want(all[int64(i+1)].rows, rows)
		}
		for i := range int64(11) {
			at := all[i+1].at
			text, err := reader.ParseCursor(at.String())
			if err != nil {
				t.Fatal(err)
			}
			rest := e.epochs(reader.Request{From: reader.Start{Cursor: &text}}, 12)
			if len(rest) != int(11-i) {
				t.Fatalf("%s: %d epochs behind epoch %d", half, len(rest), i+1)
			}
			for n, ep := range rest {
				e.want(ep.rows, want[n-1])
			}
		}
		odd := e.epochs(reader.Request{Where: "n >= 30 and k = 'odd'"}, 12)
		for i, rows := range want {
			rows = slices.DeleteFunc(slices.Clone(rows), func(n int64) bool { return n < 30 || n%2 == 0 })
			e.want(odd[int64(i+1)].rows, rows)
		}
	}
}

// Cursors that stand within an epoch, or beyond it in one partition, lose and
// repeat nothing.
func TestEpochsFromAnyCursor(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2)
	for range 4 {
		e.publish(0, 5)
		e.publish(1, 5)
		e.take()
	}
	for a := range record.Offset(21) {
		for b := range record.Offset(21) {
			if a == 20 && b == 20 {
				continue
			}
			// A wrong hint costs time only.
			from := reader.Cursor{View: view, Next: record.Offsets{a, b}, Checkpoint: int64(5*a+3*b) % 6}
			got := e.epochs(reader.Request{From: reader.Start{Cursor: &from}}, 4)
			for i := range int64(4) {
				// Each epoch is five rows of partition 0, then five of partition 1.
				rows := count(10*i + 10)[10*i:]
				rows = append(rows[min(5, max(0, int64(a)-5*i)):5:5], rows[5+min(5, max(0, int64(b)-5*i)):]...)
				if _, ok := got[i+1]; ok != (len(rows) > 0) {
					t.Fatalf("from %v: epoch %d is there: %v, %d rows are left of it", from, i+1, ok, len(rows))
				}
				e.want(got[i+1].rows, rows)
			}
		}
	}
}

// What a subscriber missed while checkpoints were pruned comes as one epoch.
func TestPrunedEpochsAreMerged(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2)
	for range 6 {
		e.publish(0, 2)
		e.publish(1, 2)
		e.take()
	}
	first := e.epochs(reader.Request{}, 1)[1].at
	if _, err := e.store.PruneCheckpoints(t.Context(), time.Time{}, 2); err != nil {
		t.Fatal(err)
	}
	got := e.epochs(reader.Request{From: reader.Start{Cursor: &first}}, 6)
	if len(got) != 2 {
		t.Fatalf("%d epochs, want those of checkpoints 5 and 6", len(got))
	}
	e.want(got[5].rows, count(20)[4:])
	e.want(got[6].rows, count(24)[20:])
	e.want(e.epochs(reader.Request{}, 6)[5].rows, count(20))
}

// tailing runs a tail and hands out what it gives.
type tailing struct {
	batches chan got
	cancel  context.CancelFunc
}

type got struct {
	rows []int64
	at   reader.Cursor
	err  error
}

func (e *env) tail(q reader.Request) *tailing {
	e.t.Helper()
	ctx, cancel := context.WithCancel(e.t.Context())
	res, err := e.r.Tail(ctx, e.target, q)
	if err != nil {
		e.t.Fatal(err)
	}
	t := &tailing{batches: make(chan got, 1000), cancel: cancel}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b, err := range res.Batches {
			t.batches <- got{numbers(b), b.Next, err}
		}
		close(t.batches)
	}()
	e.t.Cleanup(func() { cancel(); <-done })
	return t
}

// rows waits for that many rows.
func (e *env) rows(t *tailing, n int) []int64 {
	e.t.Helper()
	var all []int64
	late := time.After(10 * time.Second)
	for len(all) < n {
		select {
		case g, ok := <-t.batches:
			if !ok || g.err != nil {
				e.t.Fatalf("the tail ended after %d of %d rows: %v", len(all), n, g.err)
			}
			all = append(all, g.rows...)
		case <-late:
			e.t.Fatalf("%d of %d rows in 10 s", len(all), n)
		}
	}
	return all
}

// fate waits for the error that ends a tail.
func (e *env) fate(t *tailing) error {
	e.t.Helper()
	late := time.After(10 * time.Second)
	for {
		select {
		case g, ok := <-t.batches:
			if !ok {
				e.t.Fatal("the tail ended without an error")
			}
			if g.err != nil {
				return g.err
			}
		case <-late:
			e.t.Fatal("the tail did not end in 10 s")
		}
	}
}

func TestTailBegins(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		q     reader.Request
		first int64
	}{
		{reader.Request{}, 0},
		{reader.Request{From: reader.Start{Latest: true}}, 20},
		{reader.Request{From: reader.Start{Cursor: &reader.Cursor{View: view, Next: record.Offsets{7}}}}, 7},
		{reader.Request{Consistency: catalog.ExactlyOnce}, 0},
		{reader.Request{Consistency: catalog.ExactlyOnce, From: reader.Start{Latest: true}}, 10},
	} {
		t.Run(fmt.Sprint(c.q.Consistency, c.first), func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, 1)
			e.publish(0, 10)
			e.take()
			e.publish(0, 10)
			tail := e.tail(c.q)
			e.publish(0, 5)
			e.take()
			e.want(e.rows(tail, int(25-c.first)), count(25)[c.first:])
			e.publish(0, 1)
			e.take()
			e.want(e.rows(tail, 1), []int64{25})
		})
	}
}

// Rows that leave the hot buffer before a slow consumer gets there come from the
// dataset.
func TestTailFallsBehind(t *testing.T) {
	t.Parallel()
	for _, c := range []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce} {
		e := newEnv(t, 2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		res, err := e.r.Tail(ctx, e.target, reader.Request{Consistency: c})
		if err != nil {
			t.Fatal(err)
		}
		e.publish(0, 1)
		e.take()
		var all []int64
		for b, err := range res.Batches {
			if err != nil {
				t.Fatal(err)
			}
			if rows := numbers(b); len(rows) > 0 {
				all = append(all, rows...)
				if len(all) > 60 {
					break
				}
				for range 3 { // more arrives, and leaves, than is read
					e.publish(0, 3)
					e.publish(1, 2)
					e.flush()
				}
			}
		}
		e.want(all, count(int64(len(all))))
	}
}

// A predicate that lets the scan skip the last files must not make the tail look
// at them again and again.
func TestTailBehindSkippedRowsWaits(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2)
	for range 3 {
		e.publish(0, 10)
		e.publish(1, 10)
		e.flush()
	}
	loads := &countingTables{Tables: e.datasets}
	e.r = reader.New(e.log, loads, e.schemas, e.checks)
	tail := e.tail(reader.Request{Where: "n < 5 or n > 60"})
	e.want(e.rows(tail, 5), count(5))
	var at reader.Cursor
	for g := range tail.batches { // then the position is told
		if at = g.at; at.Next.Equal(record.Offsets{30, 30}) {
			break
		}
	}
	time.Sleep(50 * time.Millisecond)
	if n := loads.n.Load(); n > 2 {
		t.Fatalf("the table was loaded %d times with nothing to read", n)
	}
	e.publish(0, 2)
	e.want(e.rows(tail, 1), []int64{61})
}

// Rows that the predicate drops move the position that the consumer is told, if
// not for each of them.
func TestTailTellsItsPosition(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	tail := e.tail(reader.Request{Where: "n = 50"})
	e.publish(0, 20)
	if g := <-tail.batches; g.rows != nil || !g.at.Next.Equal(record.Offsets{20}) {
		t.Fatalf("got %+v, want the position 20", g)
	}
	begun := time.Now()
	told := 0
	for e.next < 50 {
		e.publish(0, 1)
		time.Sleep(time.Millisecond) // so that each wakes the tail
	}
	e.publish(0, 1)
	for g := range tail.batches {
		if g.rows != nil {
			e.want(g.rows, []int64{50})
			break
		}
		told++
	}
	if most := 1 + int(time.Since(begun)/time.Second); told > most {
		t.Fatalf("%d positions, want at most %d", told, most)
	}
}

// How a tail ends: it says why, for both consistencies.
func TestTailEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do    func(e *env, tail *tailing) error
		is    error
		words []string
	}{
		"context": {func(_ *env, tail *tailing) error { tail.cancel(); return nil }, context.Canceled, nil},
		"reset": {func(e *env, _ *tailing) error { return e.log.Drop(e.t.Context(), view) }, reader.ErrViewGone,
			[]string{"reset", "deleted", "view v7", "earliest"}},
		"closed": {func(e *env, _ *tailing) error { return e.log.Close() }, record.ErrClosed, nil},
	} {
		for _, consistency := range []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce} {
			t.Run(name+" "+string(consistency), func(t *testing.T) {
				t.Parallel()
				e := newEnv(t, 1)
				tail := e.tail(reader.Request{Consistency: consistency})
				e.publish(0, 10)
				e.take()
				e.want(e.rows(tail, 10), count(10))
				if err := c.do(e, tail); err != nil {
					t.Fatal(err)
				}
				err := e.fate(tail)
				if !errors.Is(err, c.is) {
					t.Fatalf("got %v, want %v", err, c.is)
				}
				contains(t, err, c.words...)
			})
		}
	}
}

// A tail that is behind when its view is replaced learns that too, whichever
// half it is in.
func TestTailBehindAReset(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	for range 3 {
		e.publish(0, 10)
		e.flush()
	}
	res, err := e.r.Tail(t.Context(), e.target, reader.Request{})
	if err != nil {
		t.Fatal(err)
	}
	e.publish(0, 10)
	e.commit(dataset.Marker{View: view + 1, ViewNumber: number + 1, Offsets: record.Offsets{}})
	for _, err := range res.Batches {
		if !errors.Is(err, reader.ErrViewGone) {
			t.Fatalf("got %v, want ErrViewGone", err)
		}
	}
}

// Every tail is woken by every append and checkpoint.
func TestManyTails(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	var tails []*tailing
	for i := range 60 {
		tails = append(tails, e.tail(reader.Request{Consistency: []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce}[i%2]}))
	}
	for round := range int64(3) {
		e.publish(0, 10)
		e.take()
		for _, tail := range tails {
			e.want(e.rows(tail, 10), count(10 * (round + 1))[10*round:])
		}
	}
}
