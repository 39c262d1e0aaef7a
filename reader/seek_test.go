package reader_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// appended is when the rows of each partition were appended, by offset.
func (e *env) appended() map[record.Partition][]int64 {
	e.t.Helper()
	res, err := e.r.Read(e.t.Context(), e.target, reader.Request{System: true, Columns: []string{"_partition_id"}})
	if err != nil {
		e.t.Fatal(err)
	}
	all := map[record.Partition][]int64{}
	for b, err := range res.Batches {
		if err != nil {
			e.t.Fatal(err)
		}
		if b.Rows == nil {
			continue
		}
		column := func(name string) int { return b.Rows.Schema().FieldIndices(name)[0] }
		ps := b.Rows.Column(column("_partition_id")).(*array.Int32)
		times := b.Rows.Column(column("_timestamp")).(*array.Timestamp)
		for i := range ps.Len() {
			p := record.Partition(ps.Value(i))
			all[p] = append(all[p], int64(times.Value(i))/1000)
		}
	}
	return all
}

// Seek gives what counting rows gives, wherever they lie, with all checkpoints and
// with almost none.
func TestSeek(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 2))
			partitions := 1 + rnd.IntN(3)
			e := newEnv(t, partitions)
			var cuts []catalog.Checkpoint
			e.compareSeek(time.UnixMilli(1_700_000_000_000), nil, record.Offsets{})
			for range 80 {
				e.history(rnd, &partitions, &cuts)
				if rnd.IntN(25) == 0 {
					if _, err := e.store.PruneCheckpoints(t.Context(), time.Time{}, 1+rnd.IntN(3)); err != nil {
						t.Fatal(err)
					}
				}
				if rnd.IntN(5) > 0 {
					continue
				}
				all := e.appended()
				last := int64(1_700_000_000_000)
				for _, times := range all {
					last = max(last, times[len(times)-1])
				}
				for range 6 {
					at := time.UnixMilli(1_700_000_000_000 - 2 + rnd.Int64N(last-1_700_000_000_000+6))
					if rnd.IntN(3) == 0 {
						at = at.Add(time.Duration(1 + rnd.IntN(999_999)))
					}
					want := make(record.Offsets, partitions)
					for p, times := range all {
						for _, ms := range times {
							if time.UnixMilli(ms).Before(at) {
								want[p]++
							}
						}
					}
					e.compareSeek(at, cuts, want)
				}
				e.compareSeek(time.Unix(0, 0), cuts, record.Offsets{})
				e.compareSeek(time.Time{}, cuts, record.Offsets{})
				e.compareSeek(time.UnixMilli(last).AddDate(20_000, 0, 0), cuts, e.ends().End)
			}
		})
	}
}

func (e *env) compareSeek(at time.Time, cuts []catalog.Checkpoint, want record.Offsets) {
	e.t.Helper()
	c, err := e.r.Seek(e.t.Context(), e.target, at)
	if err != nil || c.View != view || !c.Next.Equal(want) {
		e.t.Fatalf("at %v: %v, %v; want %v", at.UnixMilli(), c.Next, err, want)
	}
	for _, cp := range cuts {
		if cp.Number == c.Checkpoint && !c.Next.Covers(cp.Cut) {
			e.t.Fatalf("at %v: %v is before checkpoint %d at %v", at.UnixMilli(), c.Next, cp.Number, cp.Cut)
		}
	}
}

// After a reset times are looked for among the rows of the new view only, and one
// that is gone has none.
func TestSeekInAResetView(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2)
	e.publish(0, 10)
	e.publish(1, 10)
	old := e.file(nil, record.Offsets{10, 10})
	before := dataset.Marker{View: view - 1, ViewNumber: number - 1, Offsets: record.Offsets{3, 3}, ValidThroughMs: 1}
	e.commit(before, old)
	before.ValidThroughMs, before.Offsets = 1<<50, record.Offsets{4, 4}
	e.commit(before)
	e.take()
	e.publish(0, 1)
	e.take()
	if _, err := e.store.PruneCheckpoints(t.Context(), time.Time{}, 1); err != nil {
		t.Fatal(err)
	}
	times := e.appended()
	e.compareSeek(time.UnixMilli(times[0][0]), nil, record.Offsets{})
	e.compareSeek(time.UnixMilli(times[1][0]), nil, record.Offsets{10, 0})
	e.compareSeek(time.UnixMilli(times[1][0]+1), nil, record.Offsets{10, 10})
	if err := e.log.Drop(t.Context(), view); err != nil {
		t.Fatal(err)
	}
	if _, err := e.r.Seek(t.Context(), e.target, time.UnixMilli(times[0][0])); !errors.Is(err, reader.ErrViewGone) {
		t.Errorf("got %v, want ErrViewGone", err)
	}
}

// opens counts the data files that are opened.
type opens struct {
	objstore.Store
	n atomic.Int64
}

func (o *opens) Open(ctx context.Context, key string) (objstore.Object, error) {
	if strings.HasSuffix(key, ".parquet") {
		o.n.Add(1)
	}
	return o.Store.Open(ctx, key)
}

// Among many archives one is read, also where the checkpoints of that time are
// gone.
func TestSeekReadsOneArchive(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2)
	files, err := objstore.NewFS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	counted := &opens{Store: files}
	e.datasets = dataset.New(counted, &pointers{}, dataset.Options{})
	e.target.Table = uuid.NewString()
	if _, err := e.datasets.Create(t.Context(), e.target.Table, e.target.Schema, nil); err != nil {
		t.Fatal(err)
	}
	e.r = reader.New(e.log, e.datasets, e.schemas, e.checks)
	for i := range 7 {
		for range 3 {
			e.publish(0, 5)
			if i%3 == 0 { // a partition that is idle for a while
				e.publish(1, 5)
			}
			e.take()
		}
		e.flush()
	}
	times := e.appended()
	for _, pruned := range []bool{false, true} {
		if pruned {
			if _, err := e.store.PruneCheckpoints(t.Context(), time.Time{}, 1); err != nil {
				t.Fatal(err)
			}
		}
		for i, ms := range times[0] {
			if i%5 > 1 {
				continue // of one append
			}
			counted.n.Store(0)
			c, err := e.r.Seek(t.Context(), e.target, time.UnixMilli(ms))
			if err != nil {
				t.Fatal(err)
			}
			if want := record.Offset(i / 5 * 5); c.Next.At(0) != want {
				t.Fatalf("at %d: %v, want %v of partition 0", ms, c.Next, want)
			}
			if n := counted.n.Load(); n > 1 {
				t.Fatalf("checkpoints pruned: %v; at %d, row %d: %d data files opened", pruned, ms, i, n)
			}
		}
	}
}
