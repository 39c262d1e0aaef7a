package reader_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// partRow is a row with the partition that it lies in.
type partRow struct {
	p record.Partition
	n int64
}

// partRows are the rows of a batch that was read with System.
func partRows(b reader.Batch) []partRow {
	if b.Rows == nil {
		return nil
	}
	ps := b.Rows.Column(b.Rows.Schema().FieldIndices("_partition_id")[0]).(*array.Int32)
	ns := b.Rows.Column(b.Rows.Schema().FieldIndices("n")[0]).(*array.Int64)
	rows := make([]partRow, ps.Len())
	for i := range rows {
		rows[i] = partRow{record.Partition(ps.Value(i)), ns.Value(i)}
	}
	return rows
}

func of(rows []partRow, parts []record.Partition) []partRow {
	return slices.DeleteFunc(slices.Clone(rows), func(r partRow) bool { return !slices.Contains(parts, r.p) })
}

// readParts collects a bounded read.
func (e *env) readParts(q reader.Request) (rows []partRow, end reader.Cursor) {
	e.t.Helper()
	q.System = true
	res, err := e.r.Read(e.t.Context(), e.target, q)
	if err != nil {
		e.t.Fatalf("%+v: %v", q, err)
	}
	for b, err := range res.Batches {
		if err != nil {
			e.t.Fatalf("%+v: %v", q, err)
		}
		rows, end = append(rows, partRows(b)...), b.Next
	}
	return rows, end
}

// epochsOf tails partitions exactly once until they stand behind a checkpoint.
func (e *env) epochsOf(q reader.Request, last catalog.Checkpoint) map[int64][]partRow {
	e.t.Helper()
	q.System, q.Consistency = true, catalog.ExactlyOnce
	got := map[int64][]partRow{}
	behind := func(at record.Offsets) bool {
		for _, p := range q.Partitions {
			if at.At(p) < last.Cut.At(p) {
				return false
			}
		}
		return true
	}
	if at := q.From.Cursor.Next; behind(at) {
		return got
	}
	ctx, cancel := context.WithTimeout(e.t.Context(), 20*time.Second)
	defer cancel()
	res, err := e.r.Tail(ctx, e.target, q)
	if err != nil {
		e.t.Fatalf("%+v: %v", q, err)
	}
	open := int64(0)
	for b, err := range res.Batches {
		if err != nil {
			e.t.Fatalf("%+v: %v", q, err)
		}
		if open != 0 && b.Epoch != open || open == 0 && got[b.Epoch] != nil {
			e.t.Fatalf("%+v: epoch %d while %d is not over, or again", q, b.Epoch, open)
		}
		open = b.Epoch
		got[b.Epoch] = append(got[b.Epoch], partRows(b)...)
		if !b.EpochEnd {
			continue
		}
		open = 0
		for p := range record.Partition(len(last.Cut)) {
			if !slices.Contains(q.Partitions, p) && b.Next.Next.At(p) != q.From.Cursor.Next.At(p) {
				e.t.Fatalf("%+v: partition %v moved to %v", q, p, b.Next)
			}
		}
		if behind(b.Next.Next) {
			return got
		}
	}
	e.t.Fatalf("%+v: the tail ended", q)
	return nil
}

// history does something to the branch, as its life may: rows in any partitions,
// checkpoints, archives that are intervals of the order or not, releases, growth.
func (e *env) history(rnd *rand.Rand, partitions *int, cuts *[]catalog.Checkpoint) {
	switch rnd.IntN(10) {
	case 0, 1, 2, 3, 4:
		for range 1 + rnd.IntN(4) {
			e.publish(record.Partition(rnd.IntN(*partitions)), 1+rnd.IntN(12))
		}
	case 5, 6:
		if cp := e.take(); cp.Number > 0 && (len(*cuts) == 0 || (*cuts)[len(*cuts)-1].Number < cp.Number) {
			*cuts = append(*cuts, cp)
		}
	case 7:
		if len(*cuts) > 0 {
			cut := (*cuts)[len(*cuts)-1].Cut
			if m, err := e.table().Marker(); err != nil || m == nil || !m.Offsets.Covers(cut) {
				e.archive(cut)
			}
		}
	case 8:
		if m, err := e.table().Marker(); err == nil && m != nil {
			through := m.Offsets.Clone()
			for i := range through { // as holds do: a partition here, a partition there
				through[i] = record.Offset(rnd.Int64N(int64(through[i]) + 1))
			}
			e.release(through)
		}
	case 9:
		if *partitions < 6 {
			*partitions++
			e.open(view, *partitions)
		}
	}
}

// split divides partitions into groups at random.
func split(rnd *rand.Rand, partitions int) [][]record.Partition {
	groups := make([][]record.Partition, 1+rnd.IntN(partitions))
	for i := range groups {
		groups[i] = []record.Partition{}
	}
	for _, p := range rnd.Perm(partitions) {
		g := rnd.IntN(len(groups))
		groups[g] = append(groups[g], record.Partition(p))
	}
	return groups
}

// However the partitions are divided, wherever the rows lie and wherever a read
// begins: what the parts read is what the whole reads, in its order, epoch by
// epoch, and nothing of others moves.
func TestReadsOfPartitionsMakeTheWhole(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 1))
			partitions := 1 + rnd.IntN(3)
			e := newEnv(t, partitions)
			var cuts []catalog.Checkpoint
			for range 50 {
				e.history(rnd, &partitions, &cuts)
				if rnd.IntN(4) > 0 || len(cuts) == 0 {
					continue
				}
				ends := e.ends().End
				from := reader.Cursor{View: view, Next: make(record.Offsets, rnd.IntN(partitions+1))}
				for i := range from.Next {
					from.Next[i] = record.Offset(rnd.Int64N(int64(ends[i]) + 1))
				}
				if rnd.IntN(3) == 0 { // an epoch's end
					cp := cuts[rnd.IntN(len(cuts))]
					from.Next, from.Checkpoint = cp.Cut, cp.Number
				}
				e.compareSplit(rnd, from, cuts[len(cuts)-1], split(rnd, partitions))
			}
		})
	}
}

func (e *env) compareSplit(rnd *rand.Rand, from reader.Cursor, last catalog.Checkpoint, groups [][]record.Partition) {
	e.t.Helper()
	where := []string{"", "", "k = 'odd'", "n >= 40", "_partition_id = 1"}[rnd.IntN(5)]
	all := make([]record.Partition, 0, 8)
	for _, g := range groups {
		all = append(all, g...)
	}
	for _, c := range []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce} {
		q := reader.Request{Where: where, From: reader.Start{Cursor: &from}, Consistency: c}
		whole, end := e.readParts(q)
		for _, q.Partitions = range groups {
			want, wantEnd := of(whole, q.Partitions), from
			for _, p := range q.Partitions {
				wantEnd.Next = wantEnd.Next.With(p, end.Next.At(p))
			}
			got, at := e.readParts(q)
			if !slices.Equal(got, want) || !at.Next.Equal(wantEnd.Next) {
				e.t.Fatalf("%s of %v from %v where %q: rows %v up to %v, want %v up to %v", c, q.Partitions, from, where, got, at, want, wantEnd)
			}
			// In two reads.
			if len(want) > 1 {
				q.Limit = 1 + rnd.Int64N(int64(len(want)))
				head, middle := e.readParts(q)
				rest, at := e.readParts(reader.Request{Where: where, From: reader.Start{Cursor: &middle}, Consistency: c, Partitions: q.Partitions})
				if !slices.Equal(append(head, rest...), want) || !at.Next.Equal(wantEnd.Next) {
					e.t.Fatalf("%s of %v from %v where %q, %d rows and the others: %v and %v", c, q.Partitions, from, where, q.Limit, head, rest)
				}
				q.Limit = 0
			}
		}
	}
	if from.Next.Covers(last.Cut) {
		return
	}
	// Epoch by epoch. Where the predicate drops all rows of an epoch, its end is
	// still told.
	q := reader.Request{Where: where, From: reader.Start{Cursor: &from}, Partitions: all}
	whole := e.epochsOf(q, last)
	unfiltered := e.epochsOf(reader.Request{From: q.From, Partitions: all}, last)
	for _, q.Partitions = range groups {
		want := map[int64][]partRow{}
		for n, rows := range unfiltered {
			if len(of(rows, q.Partitions)) > 0 {
				want[n] = of(whole[n], q.Partitions)
			}
		}
		got := e.epochsOf(q, last)
		if !maps.EqualFunc(got, want, slices.Equal) {
			e.t.Fatalf("epochs of %v from %v where %q:\n%v, want\n%v", q.Partitions, from, where, got, want)
		}
	}
}

// A tail of some partitions is not woken by rows of others, gets its own, and is
// not in the way when the branch grows. One of none waits for its end.
func TestTailOfPartitions(t *testing.T) {
	t.Parallel()
	for _, c := range []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, 2)
			e.publish(1, 4)
			e.take()
			tail := e.tail(reader.Request{Partitions: []record.Partition{1, 3}, Consistency: c})
			none := e.tail(reader.Request{Partitions: []record.Partition{}, Consistency: c})
			e.want(e.rows(tail, 4), count(4))
			quiet := func() {
				t.Helper()
				e.take()
				deadline := time.After(50 * time.Millisecond)
				for {
					select {
					case b, ok := <-tail.batches:
						if !ok || len(b.rows) > 0 || b.err != nil || b.at.Next.At(0) != 0 || b.at.Next.At(2) != 0 {
							t.Fatalf("told of other partitions: %+v", b)
						}
						continue // the end of the epoch before
					case b := <-none.batches:
						t.Fatalf("a tail of nothing: %+v", b)
					case <-deadline:
					}
					return
				}
			}
			e.publish(0, 5)
			quiet()
			e.open(view, 3)
			e.publish(2, 5)
			quiet()
			e.open(view, 4)
			e.publish(3, 2)
			e.take()
			e.want(e.rows(tail, 2), []int64{14, 15})
			e.flush()
			e.publish(2, 1)
			quiet()
			e.publish(1, 1)
			e.take()
			e.want(e.rows(tail, 1), []int64{17})
		})
	}
}

func TestPartitionsThatCannotBe(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2)
	for _, parts := range [][]record.Partition{{-1}, {record.MaxPartitions}, {1, 0, 1}} {
		_, err := e.r.Read(t.Context(), e.target, reader.Request{Partitions: parts})
		_, err2 := e.r.Tail(t.Context(), e.target, reader.Request{Partitions: parts})
		if !errors.Is(err, record.ErrInvalid) || !errors.Is(err2, record.ErrInvalid) {
			t.Errorf("partitions %v: %v, %v; want ErrInvalid", parts, err, err2)
		}
	}
}

// A hot read of some partitions asks for no batch of others.
func TestOtherPartitionsAreNotRead(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 3)
	for range 5 {
		for p := range record.Partition(3) {
			e.publish(p, 10)
		}
	}
	b := &meddling{Buffer: e.log, read: func(p record.Partition, _ record.Offset) error {
		if p != 1 {
			return fmt.Errorf("partition %v is read", p)
		}
		return nil
	}}
	e.r = reader.New(hotbuffer.Buffer(b), e.datasets, e.schemas, e.checks)
	if got, _ := e.readParts(reader.Request{Partitions: []record.Partition{1}}); len(got) != 50 {
		t.Errorf("%d rows, want 50", len(got))
	}
}
