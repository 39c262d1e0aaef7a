package catalog

import (
	"testing"
	"time"

	"github.com/thermocline/thermocline/record"
)

func TestViewProgress(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	_, b := f.stream(t, "s")
	v := b.View.ID
	p, err := f.ViewProgress(ctx, v)
	if err != nil || p != (ViewProgress{}) {
		t.Fatalf("new view: %+v, %v", p, err)
	}
	for n := range int64(2) {
		ok(t, f.AddCheckpoints(ctx, []Checkpoint{{View: v, Number: n + 1, Cut: record.Offsets{record.Offset(n)}}}))
		_, err := f.AcquireLease(ctx, v, "me", time.Minute)
		ok(t, err)
	}
	p, err = f.ViewProgress(ctx, v)
	if want := (ViewProgress{LastCheckpoint: 2, NewestCheckpoint: 2, LeaseEpoch: 2}); err != nil || p != want {
		t.Fatalf("got %+v, %v; want %+v", p, err, want)
	}
	_, err = f.ViewProgress(ctx, 99)
	wantErr(t, "unknown view", err, record.ErrNotFound)
}
