package catalog

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
)

func TestAddCheckpoints(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	_, b1 := f.stream(t, "a")
	_, b2 := f.stream(t, "b")
	v, w := b1.View.ID, b2.View.ID
	_, err := f.LatestCheckpoint(ctx, v)
	wantErr(t, "latest of a new view", err, record.ErrNotFound)
	ok(t, f.AddCheckpoints(ctx, nil))

	first := []Checkpoint{
		{View: v, Number: 1, Cut: record.Offsets{10}, Timestamp: 100},
		{View: w, Number: 1, Cut: record.Offsets{0, 3}, Timestamp: 90},
		{View: v, Number: 2, Cut: record.Offsets{10, 4}, Timestamp: 100},
	}
	ok(t, f.AddCheckpoints(ctx, first))
	for i := range first {
		first[i].Created = f.clock.Now()
	}
	for _, c := range []*Catalog{f.Catalog, f.open(t)} {
		got, err := c.LatestCheckpoint(ctx, v)
		ok(t, err)
		one, err := c.Checkpoint(ctx, v, 1)
		ok(t, err)
		all, err := c.CheckpointsAfter(ctx, v, 0, 0)
		ok(t, err)
		rest, err := c.CheckpointsAfter(ctx, v, 1, 5)
		ok(t, err)
		if diff := cmp.Diff([]any{first[2], first[0], []Checkpoint{first[0], first[2]}, []Checkpoint{first[2]}}, []any{got, one, all, rest}); diff != "" {
			t.Error(diff)
		}
	}

	// One bad checkpoint: none is stored, and the error names its view.
	good := Checkpoint{View: w, Number: 2, Cut: record.Offsets{1, 3}, Timestamp: 91}
	for what, c := range map[string]struct {
		bad  Checkpoint
		want error
	}{
		"same number":         {Checkpoint{View: v, Number: 2, Cut: record.Offsets{11, 4}, Timestamp: 101}, record.ErrConflict},
		"gap":                 {Checkpoint{View: v, Number: 4, Cut: record.Offsets{11, 4}, Timestamp: 101}, record.ErrConflict},
		"number 0":            {Checkpoint{View: v, Number: 0, Cut: record.Offsets{11, 4}, Timestamp: 101}, record.ErrConflict},
		"cut goes back":       {Checkpoint{View: v, Number: 3, Cut: record.Offsets{12, 3}, Timestamp: 101}, record.ErrInvalid},
		"cut loses partition": {Checkpoint{View: v, Number: 3, Cut: record.Offsets{12}, Timestamp: 101}, record.ErrInvalid},
		"time goes back":      {Checkpoint{View: v, Number: 3, Cut: record.Offsets{12, 4}, Timestamp: 99}, record.ErrInvalid},
		"negative offset":     {Checkpoint{View: v, Number: 3, Cut: record.Offsets{12, -4}, Timestamp: 101}, record.ErrInvalid},
		"no cut":              {Checkpoint{View: v, Number: 3, Timestamp: 101}, record.ErrInvalid},
		"too many partitions": {Checkpoint{View: v, Number: 3, Cut: make(record.Offsets, record.MaxPartitions+1)}, record.ErrInvalid},
		"no view":             {Checkpoint{View: 99, Number: 1, Cut: record.Offsets{12}, Timestamp: 101}, record.ErrNotFound},
	} {
		err := f.AddCheckpoints(ctx, []Checkpoint{good, c.bad})
		wantErr(t, what, err, c.want)
		var refused *CheckpointError
		if !errors.As(err, &refused) || refused.View != c.bad.View {
			t.Errorf("%s: error %v does not name view %v", what, err, c.bad.View)
		}
		if got, err := f.LatestCheckpoint(ctx, w); err != nil || got.Number != 1 {
			t.Fatalf("%s: the good one was stored: %+v, %v", what, got, err)
		}
	}
	ok(t, f.AddCheckpoints(ctx, []Checkpoint{good}))
	_, err = f.Checkpoint(ctx, v, 3)
	wantErr(t, "not taken yet", err, record.ErrNotFound)

	// A cut of every partition there can be survives.
	wide := make(record.Offsets, record.MaxPartitions)
	for i := range wide {
		wide[i] = record.Offset(rand.Int64())
	}
	wide[0] += 10
	wide[0], wide[1] = max(wide[0], 10), max(wide[1], 4)
	ok(t, f.AddCheckpoints(ctx, []Checkpoint{{View: v, Number: 3, Cut: wide, Timestamp: 100}}))
	got, err := f.LatestCheckpoint(ctx, v)
	ok(t, err)
	if diff := cmp.Diff(wide, got.Cut); diff != "" {
		t.Error(diff)
	}
	_, err = f.writer.ExecContext(ctx, `UPDATE checkpoints SET cut = '[1,-5]' WHERE number = 3`)
	ok(t, err)
	_, err = f.LatestCheckpoint(ctx, v)
	wantErr(t, "damaged cut", err, record.ErrCorrupt)
}

func TestPruneCheckpoints(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	_, b1 := f.stream(t, "a")
	_, b2 := f.stream(t, "b")
	v, w := b1.View.ID, b2.View.ID
	// More than one batch of old ones on v, few old ones on w.
	const old = 2*pruneBatch + 50
	var cps []Checkpoint
	for i := range int64(old) {
		cps = append(cps, Checkpoint{View: v, Number: i + 1, Cut: record.Offsets{record.Offset(i)}, Timestamp: i})
	}
	cps = append(cps,
		Checkpoint{View: w, Number: 1, Cut: record.Offsets{1}, Timestamp: 1},
		Checkpoint{View: w, Number: 2, Cut: record.Offsets{1}, Timestamp: 1})
	ok(t, f.AddCheckpoints(ctx, cps))
	f.clock.advance(time.Hour)
	now := f.clock.Now()
	for i := range int64(5) {
		ok(t, f.AddCheckpoints(ctx, []Checkpoint{{View: v, Number: old + 1 + i, Cut: record.Offsets{old}, Timestamp: old}}))
	}

	_, err := f.PruneCheckpoints(ctx, now, 0)
	wantErr(t, "keep none", err, record.ErrInvalid)
	n, err := f.PruneCheckpoints(ctx, now.Add(-2*time.Hour), 3)
	if err != nil || n != 0 {
		t.Errorf("pruned %d before there were any, %v", n, err)
	}
	n, err = f.PruneCheckpoints(ctx, now, 3)
	if err != nil || n != old {
		t.Errorf("pruned %d, %v; want %d", n, err, old)
	}
	left, err := f.CheckpointsAfter(ctx, v, 0, 0)
	if err != nil || len(left) != 5 || left[0].Number != old+1 {
		t.Errorf("left on the busy view: %+v, %v", left, err)
	}
	left, err = f.CheckpointsAfter(ctx, w, 0, 0)
	if err != nil || len(left) != 2 {
		t.Errorf("left on the idle view: %+v, %v", left, err)
	}
	// Whatever its age, the newest stays, and numbers go on from it.
	n, err = f.PruneCheckpoints(ctx, now.Add(time.Hour), 1)
	if err != nil || n != 4+1 {
		t.Errorf("pruned %d, %v; want 5", n, err)
	}
	ok(t, f.AddCheckpoints(ctx, []Checkpoint{
		{View: v, Number: old + 6, Cut: record.Offsets{old}, Timestamp: old},
		{View: w, Number: 3, Cut: record.Offsets{1}, Timestamp: 1},
	}))
	_, err = f.Checkpoint(ctx, w, 1)
	wantErr(t, "pruned", err, record.ErrNotFound)
}

func BenchmarkAddCheckpoints(b *testing.B) {
	for _, views := range []int{1, 100, 1000} {
		b.Run("views="+strconv.Itoa(views), func(b *testing.B) {
			f := newFixture(b)
			cps := make([]Checkpoint, views)
			for i := range cps {
				_, branch := f.stream(b, "s"+strconv.Itoa(i))
				cps[i] = Checkpoint{View: branch.View.ID, Cut: record.Offsets{1 << 40, 1 << 40, 1 << 40}, Timestamp: 1}
			}
			for b.Loop() {
				for i := range cps {
					cps[i].Number++
				}
				ok(b, f.AddCheckpoints(b.Context(), cps))
			}
			b.ReportMetric(float64(b.N)*float64(views)/b.Elapsed().Seconds(), "checkpoints/s")
		})
	}
}
