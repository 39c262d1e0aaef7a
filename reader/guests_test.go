package reader_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// guest is a row of another view, or, of view 0, of another engine.
type guest struct {
	view   int32
	time   int64 // milliseconds
	part   int32
	offset int64
	n      int64
}

// guestFile writes guests as they are given.
func (e *env) guestFile(rows ...guest) dataset.DataFile {
	e.t.Helper()
	s := e.target.Schema.WithSystem()
	b := array.NewRecordBuilder(memory.DefaultAllocator, s.Arrow())
	defer b.Release()
	for _, r := range rows {
		b.Field(0).(*array.StringBuilder).Append("guest")
		b.Field(1).(*array.Int64Builder).Append(r.n)
		b.Field(2).(*array.StructBuilder).AppendNull()
		b.Field(3).(*array.Int32Builder).Append(r.view)
		b.Field(4).(*array.Int32Builder).Append(r.part)
		b.Field(5).(*array.Int64Builder).Append(r.offset)
		b.Field(6).(*array.TimestampBuilder).Append(arrow.Timestamp(r.time * 1000))
	}
	return e.write(b.NewRecordBatch())
}

// join commits files as an engine or a merge does: without a marker.
func (e *env) join(files ...dataset.DataFile) {
	e.t.Helper()
	if _, err := e.datasets.Commit(e.t.Context(), e.target.Table, dataset.Commit{Add: files}); err != nil {
		e.t.Fatal(err)
	}
}

// mark has the table say that it is the target's.
func (e *env) mark() {
	e.t.Helper()
	e.commit(dataset.Marker{View: view, ViewNumber: number, Offsets: record.Offsets{}})
}

func run(view int32, part int32, from, to int64) []guest {
	var rows []guest
	for o := from; o < to; o++ {
		rows = append(rows, guest{view, 1000 + o, part, o, int64(view)*1_000_000 + int64(part)*10_000 + o})
	}
	return rows
}

func numbersOf(rows []guest) []int64 {
	ns := make([]int64, len(rows))
	for i, r := range rows {
		ns[i] = r.n
	}
	return ns
}

// Guests come first, by view and time, those of no view last, and then own rows.
func TestGuestsComeFirst(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2)
	e.mark()
	two, one := run(2, 0, 0, 30), run(1, 0, 0, 20)
	e.join(e.guestFile(two[10:20]...)) // files in any order
	e.join(e.guestFile(guest{n: -1}, guest{n: -2}))
	e.join(e.guestFile(two[:10]...), e.guestFile(one...))
	// An engine has mixed what lay apart.
	e.join(e.guestFile(two[20], two[22], two[24]), e.guestFile(two[21], two[23], guest{n: -3}))
	e.publish(0, 5)
	e.flush()
	e.publish(1, 5)
	// A row of no view among others comes where it stands.
	want := slices.Concat(numbersOf(one), numbersOf(two[:24]), []int64{-3}, numbersOf(two[24:25]), []int64{-1, -2}, count(10))
	got, end := e.read(reader.Request{})
	e.want(got, want)
	if end.Guests == 0 || end.Within != nil {
		t.Fatalf("the read closes at %+v", end)
	}
	if again, same := e.read(reader.Request{From: reader.Start{Cursor: &end}}); len(again) != 0 || same.Guests != end.Guests {
		t.Fatalf("rows behind the end: %v", again)
	}
	// Filters and system columns are theirs as well.
	got, _ = e.read(reader.Request{Where: "n < 0 OR _view = 1", Columns: []string{"n"}})
	e.want(got, slices.Concat(numbersOf(one), []int64{-3, -1, -2}))
	res, err := e.r.Read(t.Context(), e.target, reader.Request{Where: "_view = 2 and n >= 2000022", System: true})
	if err != nil {
		t.Fatal(err)
	}
	rows := int64(0)
	for b, err := range res.Batches {
		if err != nil {
			t.Fatal(err)
		}
		if b.Rows != nil {
			at := b.Rows.Schema().FieldIndices(schema.OffsetColumn)
			if o := b.Rows.Column(at[0]).(*array.Int64).Value(0); o < 22 {
				t.Errorf("offset %d", o)
			}
			rows += b.Rows.NumRows()
		}
	}
	if rows != 3 {
		t.Errorf("%d rows", rows)
	}
	// What joins later is behind every cursor before.
	e.join(e.guestFile(run(1, 1, 0, 3)...))
	got, _ = e.read(reader.Request{From: reader.Start{Cursor: &end}})
	e.want(got, numbersOf(run(1, 1, 0, 3)))
	// Guests come with partition 0.
	zero, _ := e.read(reader.Request{Partitions: []record.Partition{0}})
	rest, _ := e.read(reader.Request{Partitions: []record.Partition{1}})
	e.want(rest, count(10)[5:])
	if len(zero) != len(want)-5+3 {
		t.Errorf("partition 0 has %d rows", len(zero))
	}
}

// A read in pages of any size, through cursors as text, gives each row once,
// wherever guests overlap, are deleted, or more come.
func TestGuestsInPages(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	e.mark()
	var all []guest
	r := rand.New(rand.NewPCG(1, 2))
	for v := range int32(2) {
		rows := run(v+1, 0, 0, 200)
		parts := make([][]guest, 5)
		for _, g := range rows {
			i := r.IntN(5)
			parts[i] = append(parts[i], g)
		}
		for _, p := range parts {
			e.join(e.guestFile(p...))
		}
		all = append(all, rows...)
	}
	e.join(e.guestFile(guest{n: -1}, guest{n: -2}, guest{n: -3}))
	want := append(numbersOf(all), -1, -2, -3)
	for limit := range int64(5) {
		limit = limit*7 + 3
		var got []int64
		var from reader.Start
		for pages := 0; ; pages++ {
			if pages == 3 {
				e.publish(0, 1) // what comes meanwhile is behind
			}
			ns, end := e.read(reader.Request{From: from, Limit: limit})
			got = append(got, ns...)
			again, err := reader.ParseCursor(end.String())
			if err != nil {
				t.Fatal(err)
			}
			from.Cursor = &again
			if int64(len(ns)) < limit {
				break
			}
		}
		e.want(got, append(slices.Clone(want), count(limit/7+1)...))
	}
}

// After a reset a table shows nothing until it was emptied; rows that an engine
// gave to a stream before its first archive are there at once.
func TestGuestsOfAnotherView(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	e.join(e.guestFile(run(1, 0, 0, 3)...))
	got, _ := e.read(reader.Request{})
	e.want(got, nil)
	first := e.target
	first.Number = 1
	e.target = first
	e.join(e.guestFile(guest{n: -1}))
	got, _ = e.read(reader.Request{})
	e.want(got, []int64{-1})
	e.target.Number = number
	e.commit(dataset.Marker{View: view - 1, ViewNumber: number - 1, Offsets: record.Offsets{}})
	got, _ = e.read(reader.Request{})
	e.want(got, nil)
	e.mark()
	got, _ = e.read(reader.Request{})
	e.want(got, append(numbersOf(run(1, 0, 0, 3)), -1))
}

func TestGuestCursors(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	e.mark()
	e.join(e.guestFile(run(1, 0, 0, 10)...))
	_, at := e.read(reader.Request{Limit: 4})
	if at.Within == nil {
		t.Fatalf("not amid guests: %+v", at)
	}
	future := at
	future.Guests = 1000
	if _, _, err := e.tryRead(reader.Request{From: reader.Start{Cursor: &future}}); !errors.Is(err, record.ErrOutOfRange) {
		t.Errorf("a cursor from the future: %v", err)
	}
	gone := at
	gone.Within = &reader.Within{Through: at.Within.Through, Snapshot: at.Within.Snapshot + 1, At: at.Within.At}
	if _, _, err := e.tryRead(reader.Request{From: reader.Start{Cursor: &gone}}); !errors.Is(err, record.ErrOutOfRange) {
		t.Errorf("a snapshot that has expired: %v", err)
	}
	bad := at
	bad.Within = &reader.Within{Through: at.Within.Through, Snapshot: at.Within.Snapshot, At: dataset.Place{Files: at.Within.At.Files, Chains: []dataset.FilePlace{{File: 5}}}}
	if _, _, err := e.tryRead(reader.Request{From: reader.Start{Cursor: &bad}}); !errors.Is(err, record.ErrOutOfRange) {
		t.Errorf("no place: %v", err)
	}
	bad.Within = &reader.Within{Through: at.Within.Through, Snapshot: at.Within.Snapshot, At: at.Within.At}
	bad.Within.At.Files++
	if _, _, err := e.tryRead(reader.Request{From: reader.Start{Cursor: &bad}}); !errors.Is(err, record.ErrOutOfRange) {
		t.Errorf("other files: %v", err)
	}
}

// tail collects rows of a tail in the background, n of each, and its last cursor.
func (e *env) listen(ctx context.Context, q reader.Request) <-chan reader.Batch {
	e.t.Helper()
	res, err := e.r.Tail(ctx, e.target, q)
	if err != nil {
		e.t.Fatal(err)
	}
	out := make(chan reader.Batch, 1000)
	go func() {
		defer close(out)
		for b, err := range res.Batches {
			if err != nil {
				return
			}
			if b.Rows != nil {
				b.Rows.Retain()
			}
			out <- b
		}
	}()
	return out
}

// wantFrom takes rows from a tail until all are there.
func (e *env) wantFrom(tail <-chan reader.Batch, want []int64) (last reader.Batch) {
	e.t.Helper()
	var got []int64
	for len(got) < len(want) {
		select {
		case b, ok := <-tail:
			if !ok {
				e.t.Fatalf("the tail ended behind %v", got)
			}
			got, last = append(got, numbers(b)...), b
			if b.Rows != nil {
				b.Rows.Release()
			}
		case <-time.After(10 * time.Second):
			e.t.Fatalf("got %v, want %v", got, want)
		}
	}
	e.want(got, want)
	return last
}

// A tail is given guests as they are committed, each once, also by one that goes on
// from any of its cursors.
func TestTailGivesGuests(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	e.mark()
	e.join(e.guestFile(run(1, 0, 0, 5)...))
	e.join(e.guestFile(run(1, 0, 5, 9)...))
	e.publish(0, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tail := e.listen(ctx, reader.Request{})
	e.wantFrom(tail, append(numbersOf(run(1, 0, 0, 9)), count(3)...))
	begun := time.Now()
	e.join(e.guestFile(run(2, 0, 0, 4)...))
	last := e.wantFrom(tail, numbersOf(run(2, 0, 0, 4)))
	if late := time.Since(begun); late > 5*time.Second {
		t.Errorf("guests came after %v", late)
	}
	e.publish(0, 1)
	e.wantFrom(tail, []int64{3})
	// An archive brings none.
	e.flush()
	e.publish(0, 1)
	e.wantFrom(tail, []int64{4})

	// From the middle of a window, and from the latest row.
	other := e.listen(ctx, reader.Request{From: reader.Start{Cursor: &last.Next}})
	e.wantFrom(other, []int64{3, 4})
	latest := e.listen(ctx, reader.Request{From: reader.Start{Latest: true}})
	if b := <-latest; b.Rows != nil || b.Next.Guests == 0 {
		t.Errorf("the first batch of a tail from the latest row: %+v", b)
	}
	e.join(e.guestFile(guest{n: -7}))
	for _, tail := range []<-chan reader.Batch{tail, other, latest} {
		e.wantFrom(tail, []int64{-7})
	}
	// Who does not read partition 0 hears nothing of it.
	none := e.listen(ctx, reader.Request{Partitions: []record.Partition{1}})
	select {
	case b := <-none:
		t.Errorf("partition 1 has %+v", b)
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	for range none {
	}
}

// Epochs have guests as well, and the same ones whenever they are read.
func TestEpochsHaveGuests(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2)
	e.mark()
	e.join(e.guestFile(run(1, 0, 0, 5)...))
	want := map[int64][]int64{1: numbersOf(run(1, 0, 0, 5))}
	if cp := e.take(); cp.Number != 1 || cp.Guests == 0 {
		t.Fatalf("a checkpoint of guests alone: %+v", cp)
	}
	e.publish(0, 2)
	e.publish(1, 2)
	e.take()
	want[2] = count(4)
	e.join(e.guestFile(run(2, 0, 3, 5)...), e.guestFile(run(2, 0, 0, 3)...))
	e.publish(0, 1)
	e.flush()
	want[3] = append(numbersOf(run(2, 0, 0, 5)), 4)
	e.publish(1, 1)
	e.take()
	want[4] = []int64{5}
	e.join(e.guestFile(guest{n: -1}))
	e.take()
	want[5] = []int64{-1}
	if cp := e.take(); cp.Number != 5 {
		t.Errorf("a checkpoint of nothing: %+v", cp)
	}
	var cursors []reader.Cursor
	for from := range 5 {
		var start reader.Start
		if from > 0 {
			start.Cursor = &cursors[from-1]
		}
		ctx, cancel := context.WithCancel(t.Context())
		res, err := e.r.Tail(ctx, e.target, reader.Request{Consistency: catalog.ExactlyOnce, From: start})
		if err != nil {
			t.Fatal(err)
		}
		got := map[int64][]int64{}
		for b, err := range res.Batches {
			if err != nil {
				t.Fatal(err)
			}
			got[b.Epoch] = append(got[b.Epoch], numbers(b)...)
			if b.EpochEnd && from == 0 {
				cursors = append(cursors, b.Next)
			}
			if b.EpochEnd && b.Epoch == 5 {
				break
			}
		}
		cancel()
		for n := int64(from + 1); n <= 5; n++ {
			if !slices.Equal(got[n], want[n]) {
				t.Errorf("from %d, epoch %d: %v, want %v", from, n, got[n], want[n])
			}
		}
		if len(got) != 5-from {
			t.Errorf("from %d: %d epochs", from, len(got))
		}
	}
	// A bounded read ends at the newest checkpoint.
	e.join(e.guestFile(guest{n: -2}))
	got, _ := e.read(reader.Request{Consistency: catalog.ExactlyOnce})
	e.want(got, slices.Concat(numbersOf(run(1, 0, 0, 5)), numbersOf(run(2, 0, 0, 5)), []int64{-1}, count(6)))
}

func TestCursorOfGuests(t *testing.T) {
	t.Parallel()
	for i, c := range []reader.Cursor{
		{View: 1, Guests: 1},
		{View: 7, Next: record.Offsets{0, 5}, Checkpoint: 9, Guests: 1 << 62},
		{View: 7, Next: record.Offsets{3}, Within: &reader.Within{Through: 9, Snapshot: 1<<63 - 1, At: dataset.Place{Files: 1<<32 - 1, Chains: []dataset.FilePlace{{File: 1, Row: 2}, {}}}}},
	} {
		got, err := reader.ParseCursor(c.String())
		if err != nil {
			t.Fatal(err)
		}
		if got.View != c.View || got.Checkpoint != c.Checkpoint || !got.Next.Equal(c.Next) || got.Guests != c.Guests || (got.Within == nil) != (c.Within == nil) {
			t.Errorf("%d: got %+v, want %+v", i, got, c)
		}
		if w := got.Within; w != nil && (w.Through != 9 || w.Snapshot != 1<<63-1 || w.At.Files != 1<<32-1 || !slices.Equal(w.At.Chains, c.Within.At.Chains)) {
			t.Errorf("%d: got %+v, want %+v", i, w, c.Within)
		}
	}
}
