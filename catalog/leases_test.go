package catalog

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
)

func TestLease(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := f.open(t)
	ctx := t.Context()
	_, b := f.stream(t, "s")
	v := b.View.ID
	const ttl = 30 * time.Second

	a, err := f.AcquireLease(ctx, v, "a", ttl)
	ok(t, err)
	if diff := cmp.Diff(Lease{View: v, Owner: "a", Epoch: 1, Expires: f.clock.Now().Add(ttl)}, a); diff != "" {
		t.Error(diff)
	}
	_, err = other.AcquireLease(ctx, v, "b", ttl)
	wantErr(t, "held by another", err, record.ErrBusy)
	if !strings.Contains(err.Error(), "a holds it for 30s more") {
		t.Errorf("error %q does not say who holds it and how long", err)
	}

	// Renewing moves the end; without it the time runs out.
	f.clock.advance(ttl - time.Millisecond)
	renewed, err := f.RenewLease(ctx, a, ttl)
	if err != nil || renewed.Epoch != a.Epoch || !renewed.Expires.Equal(f.clock.Now().Add(ttl)) {
		t.Errorf("renewed: %+v, %v", renewed, err)
	}
	f.clock.advance(ttl - time.Millisecond)
	_, err = other.AcquireLease(ctx, v, "b", ttl)
	wantErr(t, "renewed by another", err, record.ErrBusy)
	f.clock.advance(time.Millisecond)
	// Late, but nobody took it.
	_, err = f.RenewLease(ctx, renewed, ttl)
	ok(t, err)
	f.clock.advance(ttl)
	taken, err := other.AcquireLease(ctx, v, "b", ttl)
	if err != nil || taken.Epoch <= a.Epoch {
		t.Errorf("taken over: %+v, %v", taken, err)
	}
	_, err = f.RenewLease(ctx, a, ttl)
	wantErr(t, "renew what was taken over", err, record.ErrFenced)
	wantErr(t, "release what was taken over", f.ReleaseLease(ctx, a), record.ErrFenced)
	_, err = f.AcquireLease(ctx, v, "a", ttl)
	wantErr(t, "the new holder's", err, record.ErrBusy)

	// The same owner after a restart gets it at once, with a new epoch that
	// fences its former self.
	restarted, err := f.open(t).AcquireLease(ctx, v, "b", ttl)
	if err != nil || restarted.Epoch <= taken.Epoch {
		t.Errorf("after a restart: %+v, %v", restarted, err)
	}
	_, err = other.RenewLease(ctx, taken, ttl)
	wantErr(t, "renew by the former self", err, record.ErrFenced)

	// Released: free at once, and the epoch goes on.
	ok(t, f.ReleaseLease(ctx, restarted))
	wantErr(t, "release twice", f.ReleaseLease(ctx, restarted), record.ErrFenced)
	_, err = f.RenewLease(ctx, restarted, ttl)
	wantErr(t, "renew what was released", err, record.ErrFenced)
	_, err = f.RenewLease(ctx, Lease{View: v, Epoch: restarted.Epoch}, ttl)
	wantErr(t, "renew without an owner", err, record.ErrFenced)
	last, err := f.AcquireLease(ctx, v, "a", ttl)
	if err != nil || last.Epoch <= restarted.Epoch {
		t.Errorf("after a release: %+v, %v", last, err)
	}

	for what, err := range map[string]error{
		"no owner":    second(f.AcquireLease(ctx, v, "", ttl)),
		"no time":     second(f.AcquireLease(ctx, v, "a", 0)),
		"renew, none": second(f.RenewLease(ctx, last, time.Microsecond)),
	} {
		wantErr(t, what, err, record.ErrInvalid)
	}
	_, err = f.AcquireLease(ctx, 99, "a", ttl)
	wantErr(t, "no view", err, record.ErrNotFound)
	_, err = f.RenewLease(ctx, Lease{View: 99, Owner: "a", Epoch: 1}, ttl)
	wantErr(t, "never held", err, record.ErrFenced)
}
