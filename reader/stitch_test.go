package reader_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// Rows that are in both halves are read once, whichever half begins.
func TestOverlapIsReadOnce(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2)
	for range 10 {
		e.publish(0, 3)
		e.publish(1, 2)
	}
	e.archive(e.take().Cut)
	got, _ := e.read(reader.Request{}) // all hot
	e.want(got, count(50))
	e.release(record.Offsets{15, 8}) // not where the archive ends: the hot half begins amid it
	got, _ = e.read(reader.Request{})
	e.want(got, count(50))
	e.publish(1, 5)
	got, _ = e.read(reader.Request{})
	e.want(got, count(55))
}

// Rows in neither half are never passed over.
func TestGapBetweenTheHalvesIsCorrupt(t *testing.T) {
	t.Parallel()
	for name, archived := range map[string]record.Offsets{
		"nothing archived":    nil,
		"one row missing":     {10, 9},
		"a partition missing": {10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, 2)
			e.publish(0, 10)
			e.publish(1, 10)
			e.publish(0, 1)
			if archived != nil {
				e.archive(archived)
			}
			e.release(record.Offsets{10, 10})
			_, _, err := e.tryRead(reader.Request{})
			if !errors.Is(err, record.ErrCorrupt) {
				t.Fatalf("got %v, want ErrCorrupt", err)
			}
			contains(t, err, "view v7", "partition", "neither half")
			// What lies behind the gap can be read.
			got, _ := e.read(reader.Request{From: reader.Start{Cursor: &reader.Cursor{View: view, Next: record.Offsets{10, 10}}}})
			e.want(got, []int64{20})
		})
	}
}

// The rows leave the hot buffer while they are read: at each position once.
func TestReleaseWhileReading(t *testing.T) {
	t.Parallel()
	for stop := range record.Offset(9) {
		e := newEnv(t, 2)
		for range 5 {
			e.publish(0, 20)
			e.publish(1, 20)
		}
		res, err := e.r.Read(t.Context(), e.target, reader.Request{})
		if err != nil {
			t.Fatal(err)
		}
		// Batches of the hot half are larger than all of this: so the first
		// rows come from the dataset, and the second half is moved under way.
		e.archive(record.Offsets{20 * min(stop, 5), 20 * max(0, min(stop-4, 5))})
		e.release(record.Offsets{20 * min(stop, 5), 0})
		var got []int64
		moved := false
		for b, err := range res.Batches {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, numbers(b)...)
			if !moved {
				e.flush()
				moved = true
			}
		}
		slices.Sort(got) // the archives above are no intervals of the order
		e.want(got, count(200))
	}
}

// A view that a reset has begun does not mistake rows or offsets of the one
// before for its own.
func TestMarkerOfAnOlderView(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	e.publish(0, 10)
	f := e.file(nil, record.Offsets{10})
	e.commit(dataset.Marker{View: view - 1, ViewNumber: number - 1, Offsets: record.Offsets{1000}}, f)
	got, _ := e.read(reader.Request{})
	e.want(got, count(10))
	e.release(record.Offsets{1})
	if _, _, err := e.tryRead(reader.Request{}); !errors.Is(err, record.ErrCorrupt) {
		t.Fatalf("a row in neither half: %v, want ErrCorrupt", err)
	}
}

// A reader of a view that the dataset has left behind is told so.
func TestMarkerOfANewerView(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	e.publish(0, 10)
	e.flush()
	e.publish(0, 1)
	e.commit(dataset.Marker{View: view + 1, ViewNumber: number + 1, Offsets: record.Offsets{}})
	_, _, err := e.tryRead(reader.Request{})
	if !errors.Is(err, reader.ErrViewGone) || !errors.Is(err, record.ErrNotFound) {
		t.Fatalf("got %v, want ErrViewGone", err)
	}
	contains(t, err, "reset", "earliest")
}

func TestReadOfWhatIsGone(t *testing.T) {
	t.Parallel()
	drop := func(e *env) {
		if err := e.log.Drop(e.t.Context(), view); err != nil {
			e.t.Fatal(err)
		}
	}
	t.Run("view before", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t, 1)
		drop(e)
		for _, c := range []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce} {
			if _, _, err := e.tryRead(reader.Request{Consistency: c}); !errors.Is(err, reader.ErrViewGone) {
				t.Errorf("%s: got %v, want ErrViewGone", c, err)
			}
		}
	})
	t.Run("view meanwhile", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t, 1)
		e.publish(0, 10)
		res, err := e.r.Read(t.Context(), e.target, reader.Request{})
		if err != nil {
			t.Fatal(err)
		}
		drop(e)
		for _, err := range res.Batches {
			if !errors.Is(err, reader.ErrViewGone) {
				t.Errorf("got %v, want ErrViewGone", err)
			}
		}
	})
	t.Run("table", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t, 1)
		e.publish(0, 10)
		e.release(record.Offsets{10})
		if _, err := e.datasets.Load(t.Context(), uuid.NewString()); !errors.Is(err, record.ErrNotFound) {
			t.Fatal(err)
		}
		e.target.Table = uuid.NewString()
		if _, _, err := e.tryRead(reader.Request{}); !errors.Is(err, reader.ErrViewGone) {
			t.Errorf("got %v, want ErrViewGone", err)
		}
	})
	t.Run("schema", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t, 1)
		e.publish(0, 10)
		delete(e.schemas, 1)
		_, _, err := e.tryRead(reader.Request{})
		if !errors.Is(err, record.ErrCorrupt) || errors.Is(err, record.ErrNotFound) {
			t.Errorf("rows of an unknown schema: %v, want ErrCorrupt", err)
		}
	})
}

// Files may stand in any order, but rows that another engine has put in another
// order within a file, or copied, are refused: rows would be skipped or come twice.
func TestDisorderIsRefused(t *testing.T) {
	t.Parallel()
	all := record.Offsets{20, 20}
	for name, files := range map[string]func(e *env) []dataset.DataFile{
		"order": func(e *env) []dataset.DataFile {
			as := func(p record.Partition) record.Partition { return p }
			return []dataset.DataFile{e.write(e.decode(record.Offsets{10, 10}, all, number, as), e.decode(nil, record.Offsets{10, 10}, number, as))}
		},
		"copy": func(e *env) []dataset.DataFile {
			return []dataset.DataFile{e.file(nil, all), e.file(record.Offsets{10, 10}, all)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, 2)
			e.publish(0, 20)
			e.publish(1, 20)
			e.commit(dataset.Marker{View: view, ViewNumber: number, Offsets: all}, files(e)...)
			e.release(all)
			_, _, err := e.tryRead(reader.Request{})
			if !errors.Is(err, record.ErrCorrupt) {
				t.Fatalf("got %v, want ErrCorrupt", err)
			}
			contains(t, err, "out of order", "of partition")
		})
	}
}

// Rows of an epoch that is over cannot follow it.
func TestDisorderAcrossEpochsIsRefused(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2)
	e.publish(0, 10)
	e.take()
	e.publish(1, 10)
	e.take()
	e.publish(0, 10)
	end := e.take()
	// Per partition in order, but not across the checkpoints.
	as := func(p record.Partition) record.Partition { return p }
	e.commit(dataset.Marker{View: view, ViewNumber: number, Offsets: end.Cut},
		e.write(e.decode(nil, record.Offsets{20, 0}, number, as), e.decode(record.Offsets{20, 0}, record.Offsets{20, 10}, number, as)))
	e.release(end.Cut)
	res, err := e.r.Tail(t.Context(), e.target, reader.Request{Consistency: catalog.ExactlyOnce})
	if err != nil {
		t.Fatal(err)
	}
	for b, err := range res.Batches {
		if err != nil {
			if !errors.Is(err, record.ErrCorrupt) {
				t.Fatalf("got %v, want ErrCorrupt", err)
			}
			return
		}
		if b.EpochEnd && b.Epoch == 3 {
			break
		}
	}
	t.Fatal("all epochs were delivered, one with rows of another")
}

// Partitions that are added later are at 0 in older cursors.
func TestPartitionsGrow(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	e.publish(0, 10)
	_, at := e.read(reader.Request{Limit: 5})
	e.open(view, 3)
	e.publish(2, 5)
	e.publish(1, 5)
	for range 2 { // hot, then cold
		got, end := e.read(reader.Request{From: reader.Start{Cursor: &at}})
		slices.Sort(got)
		e.want(got, count(20)[5:])
		if !end.Next.Equal(record.Offsets{10, 5, 5}) {
			t.Fatalf("the read closes at %v", end.Next)
		}
		e.flush()
	}
}

// Cold rows whose partition cannot be are no rows, and no panic; those of another
// view are guests, also where they share a file with own ones.
func TestForeignIdentity(t *testing.T) {
	t.Parallel()
	for as, of := range map[record.Partition]record.ViewNumber{-1: number, 1: number, 1 << 30: number, 0: number - 1} {
		e := newEnv(t, 1)
		e.publish(0, 20)
		theirs := e.decode(nil, record.Offsets{10}, of, func(record.Partition) record.Partition { return as })
		ours := e.decode(nil, record.Offsets{10}, number, func(p record.Partition) record.Partition { return p })
		e.commit(dataset.Marker{View: view, ViewNumber: number, Offsets: record.Offsets{10}}, e.write(theirs, ours))
		e.release(record.Offsets{10})
		want := count(20)
		if of != number {
			want = append(count(10), want...)
		}
		got, _ := e.read(reader.Request{})
		e.want(got, want)
	}
}

func TestReadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for _, cold := range []bool{false, true} {
		e := newEnv(t, 1)
		for range 5 {
			e.publish(0, 1000)
			if cold {
				e.flush()
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		res, err := e.r.Read(ctx, e.target, reader.Request{})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		var last error
		for _, err := range res.Batches {
			last = err
		}
		if !errors.Is(last, context.Canceled) {
			t.Errorf("cold %v: got %v, want Canceled", cold, last)
		}
	}
}

// Leaving the loop early ends everything behind it, at any batch.
func TestLeavingTheLoop(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	for range 4 {
		e.publish(0, 10)
		e.flush()
	}
	e.publish(0, 10)
	for leave := range 6 {
		for _, read := range []func(context.Context, reader.Target, reader.Request) (*reader.Result, error){e.r.Read, e.r.Tail} {
			for _, c := range []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce} {
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				res, err := read(ctx, e.target, reader.Request{Consistency: c})
				if err != nil {
					t.Fatal(err)
				}
				n := 0
				for range res.Batches {
					if n++; n > leave {
						break
					}
				}
				cancel()
			}
		}
	}
}

// Rows that are released again and again between the look at the hot buffer and
// the read of it are found in the dataset; what never can be found ends the read.
func TestReleaseBetweenEndsAndRead(t *testing.T) {
	t.Parallel()
	for stale, good := range map[int]bool{0: true, 1: true, 3: true, 1000: false} {
		e := newEnv(t, 1)
		e.publish(0, 10)
		late := &meddling{Buffer: e.log}
		e.r = reader.New(late, e.datasets, e.schemas, e.checks)
		res, err := e.r.Read(t.Context(), e.target, reader.Request{})
		if err != nil {
			t.Fatal(err)
		}
		e.flush()
		n := 0
		late.ends = func(ends hotbuffer.Ends) hotbuffer.Ends {
			if n++; n <= stale {
				ends.Start = record.Offsets{0}
			}
			return ends
		}
		var got []int64
		var last error
		for b, err := range res.Batches {
			if last = err; err == nil {
				got = append(got, numbers(b)...)
			}
		}
		if good && last != nil || !good && !errors.Is(last, record.ErrOutOfRange) || n > 20 {
			t.Fatalf("%d stale looks: %v after %d looks", stale, last, n)
		}
		if good {
			e.want(got, count(10))
		}
	}
}

// A view that is dropped between two calls is gone too.
func TestDropBetweenEndsAndRead(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	e.publish(0, 10)
	late := &meddling{Buffer: e.log}
	res, err := reader.New(late, e.datasets, e.schemas, e.checks).Read(t.Context(), e.target, reader.Request{})
	if err != nil {
		t.Fatal(err)
	}
	late.ends = func(ends hotbuffer.Ends) hotbuffer.Ends {
		if err := e.log.Drop(t.Context(), view); err != nil {
			t.Error(err)
		}
		return ends
	}
	for _, err := range res.Batches {
		if !errors.Is(err, reader.ErrViewGone) {
			t.Errorf("got %v, want ErrViewGone", err)
		}
	}
}

// What can be read before damage is read, then the damage is told.
func TestDamageInTheHotBuffer(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2)
	for range 5 {
		e.publish(0, 2)
		e.publish(1, 2)
	}
	damage := fmt.Errorf("segment 3: %w", record.ErrCorrupt)
	b := &meddling{Buffer: e.log, read: func(p record.Partition, o record.Offset) error {
		if p == 1 && o >= 6 {
			return damage
		}
		return nil
	}}
	e.r = reader.New(b, e.datasets, e.schemas, e.checks)
	got, _, err := e.tryRead(reader.Request{})
	if !errors.Is(err, damage) {
		t.Fatalf("got %v, want the damage", err)
	}
	e.want(got, count(12))
}
