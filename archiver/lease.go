package archiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// lease makes sure that this process holds the lease of v. A lease once won is
// kept over many archives, so that the dataset needs one fence per owner and not
// one per archive; it is renewed here even when it has expired, as long as
// nobody else took it.
func (a *Archiver) lease(ctx context.Context, s *branchState, v record.ViewID) (catalog.Lease, error) {
	if l, ok := s.leases[v]; ok {
		l, err := a.o.Leases.RenewLease(ctx, l, a.o.LeaseTTL)
		if err == nil || !errors.Is(err, record.ErrFenced) {
			return l, err
		}
		delete(s.leases, v)
	}
	l, err := a.o.Leases.AcquireLease(ctx, v, a.o.Owner, a.o.LeaseTTL)
	if err != nil {
		return catalog.Lease{}, err
	}
	s.leases[v] = l
	return l, nil
}

// keepLease renews the lease while an archive runs, and ends the returned
// context when it is lost. stop ends the renewing and waits for it.
func (a *Archiver) keepLease(ctx context.Context, l catalog.Lease) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(a.o.LeaseTTL / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if _, err := a.o.Leases.RenewLease(ctx, l, a.o.LeaseTTL); errors.Is(err, record.ErrFenced) {
				cancel(fmt.Errorf("lost the archive lease: %w", err))
				return
			}
			// Any other failure may pass; if it does not, the lease runs out
			// and the fence decides.
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// releasing bounds the time to give up all leases at the end.
const releasing = 5 * time.Second

// releaseLeases gives up all leases, so that another process need not wait. It
// has a time of its own: most often it is asked for because that of ctx is over.
func (a *Archiver) releaseLeases(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releasing)
	defer cancel()
	a.mu.Lock()
	states := make([]*branchState, 0, len(a.branches))
	for _, s := range a.branches {
		states = append(states, s)
	}
	a.mu.Unlock()
	for _, s := range states {
		if err := s.lock(ctx); err != nil {
			return // they run out by themselves, as those of a process that died
		}
		for v, l := range s.leases {
			if err := a.o.Leases.ReleaseLease(ctx, l); err != nil && !errors.Is(err, record.ErrFenced) {
				a.o.Logger.Warn("release archive lease", "view", v, "error", err)
			}
			delete(s.leases, v)
		}
		s.unlock()
	}
}
