package archiver

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// leases takes back what it is given.
type leases struct {
	Leases
	back []catalog.Lease
}

func (l *leases) ReleaseLease(ctx context.Context, lease catalog.Lease) error {
	if _, bounded := ctx.Deadline(); !bounded {
		return errors.New("without a bound in time")
	}
	if ctx.Err() == nil {
		l.back = append(l.back, lease)
	}
	return ctx.Err()
}

// Leases are given back also when the time to archive is over.
func TestLeasesAreGivenBackLate(t *testing.T) {
	t.Parallel()
	var there leases
	a := &Archiver{o: Options{Leases: &there, Logger: slog.New(slog.DiscardHandler)}, branches: map[catalog.BranchID]*branchState{}}
	for v := range record.ViewID(3) {
		a.state(catalog.BranchID(v)).leases[v] = catalog.Lease{View: v, Epoch: 1}
	}
	over, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	<-over.Done()
	begun := time.Now()
	a.releaseLeases(over)
	if len(there.back) != 3 || time.Since(begun) > releasing {
		t.Errorf("%d leases given back in %v, want 3", len(there.back), time.Since(begun))
	}
}
