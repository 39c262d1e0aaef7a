package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/thermocline/thermocline/archiver"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/dataset/objstore/objstoretest"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// sweepFaults lets one request between the parts of a node and its stores meet
// a fault: the at-th from arm on.
type sweepFaults struct {
	mu     sync.Mutex
	at, n  int
	fault  objstoretest.Fault
	cancel func() // the caller gives up when its request hangs
	struck string
}

func (f *sweepFaults) arm(at int, fault objstoretest.Fault, cancel func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.n, f.fault, f.cancel, f.struck = at, 0, fault, cancel, ""
}

// disarm returns the request that was hit, "" if there were fewer.
func (f *sweepFaults) disarm() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = 0
	return f.struck
}

func (f *sweepFaults) plan(name, _ string) objstoretest.Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == 0 {
		return objstoretest.None
	}
	if f.n++; f.n != f.at {
		return objstoretest.None
	}
	f.struck = name
	if f.fault == objstoretest.Stall || f.fault == objstoretest.Late {
		f.cancel()
	}
	return f.fault
}

func (f *sweepFaults) call(ctx context.Context, name string, do func(context.Context) error) error {
	return f.plan(name, "").Deliver(ctx, name, do)
}

// seams puts f before object store and catalog.
func (f *sweepFaults) seams() seams {
	return seams{
		pointers: func(p dataset.Pointers) dataset.Pointers { return sweptPointers{p, f} },
		store:    func(s objstore.Store) objstore.Store { return &objstoretest.Faulty{Store: s, Plan: f.plan} },
		checks:   func(s reader.CheckpointStore) reader.CheckpointStore { return sweptChecks{s, f} },
		archiver: func(o *archiver.Options) { o.Leases = sweptLeases{o.Leases, f} },
	}
}

type sweptPointers struct {
	dataset.Pointers
	f *sweepFaults
}

func (p sweptPointers) TablePointer(ctx context.Context, id string) (out string, err error) {
	err = p.f.call(ctx, "TablePointer", func(ctx context.Context) error { out, err = p.Pointers.TablePointer(ctx, id); return err })
	return out, err
}

func (p sweptPointers) CreateTablePointer(ctx context.Context, id, location string) error {
	return p.f.call(ctx, "CreateTablePointer", func(ctx context.Context) error { return p.Pointers.CreateTablePointer(ctx, id, location) })
}

func (p sweptPointers) SwapTablePointer(ctx context.Context, id, from, to string) error {
	return p.f.call(ctx, "SwapTablePointer", func(ctx context.Context) error { return p.Pointers.SwapTablePointer(ctx, id, from, to) })
}

func (p sweptPointers) TablePointerReferenced(ctx context.Context, location string) (out bool, err error) {
	err = p.f.call(ctx, "TablePointerReferenced", func(ctx context.Context) error {
		out, err = p.Pointers.(dataset.PointerReferences).TablePointerReferenced(ctx, location)
		return err
	})
	return out, err
}

func (p sweptPointers) TablesSharing(ctx context.Context, id string) (out map[string]string, err error) {
	err = p.f.call(ctx, "TablesSharing", func(ctx context.Context) error {
		out, err = p.Pointers.(dataset.PointerSharing).TablesSharing(ctx, id)
		return err
	})
	return out, err
}

type sweptChecks struct {
	reader.CheckpointStore
	f *sweepFaults
}

func (c sweptChecks) AddCheckpoints(ctx context.Context, cs []catalog.Checkpoint) error {
	return c.f.call(ctx, "AddCheckpoints", func(ctx context.Context) error { return c.CheckpointStore.AddCheckpoints(ctx, cs) })
}

func (c sweptChecks) LatestCheckpoint(ctx context.Context, v record.ViewID) (out catalog.Checkpoint, err error) {
	err = c.f.call(ctx, "LatestCheckpoint", func(ctx context.Context) error { out, err = c.CheckpointStore.LatestCheckpoint(ctx, v); return err })
	return out, err
}

func (c sweptChecks) CheckpointsAfter(ctx context.Context, v record.ViewID, number int64, limit int) (out []catalog.Checkpoint, err error) {
	err = c.f.call(ctx, "CheckpointsAfter", func(ctx context.Context) error {
		out, err = c.CheckpointStore.CheckpointsAfter(ctx, v, number, limit)
		return err
	})
	return out, err
}

type sweptLeases struct {
	archiver.Leases
	f *sweepFaults
}

func (l sweptLeases) AcquireLease(ctx context.Context, v record.ViewID, owner string, ttl time.Duration) (out catalog.Lease, err error) {
	err = l.f.call(ctx, "AcquireLease", func(ctx context.Context) error { out, err = l.Leases.AcquireLease(ctx, v, owner, ttl); return err })
	return out, err
}

func (l sweptLeases) RenewLease(ctx context.Context, in catalog.Lease, ttl time.Duration) (out catalog.Lease, err error) {
	err = l.f.call(ctx, "RenewLease", func(ctx context.Context) error { out, err = l.Leases.RenewLease(ctx, in, ttl); return err })
	return out, err
}

func (l sweptLeases) ReleaseLease(ctx context.Context, in catalog.Lease) error {
	return l.f.call(ctx, "ReleaseLease", func(ctx context.Context) error { return l.Leases.ReleaseLease(ctx, in) })
}

// swept is what a fault may interrupt.
type swept struct {
	name    string
	prepare func(w *world)
	do      func(ctx context.Context, w *world) error
	floor   int // requests that it makes at least
}

func archiveIt(ctx context.Context, w *world) error {
	_, err := w.b.Archiver.ArchiveNow(ctx, "s", "main")
	return err
}

func compact(ctx context.Context, w *world) error {
	_, err := w.node.archiver.Compact(ctx, w.state().Branch.ID, nil)
	return err
}

// clean forgets old versions and deletes what nothing reaches.
func clean(ctx context.Context, w *world) error {
	table := w.state().Branch.TableUUID
	if _, err := w.node.datasets.Expire(ctx, table, dataset.ExpireOptions{MaxAge: time.Nanosecond}); err != nil {
		return err
	}
	for range 2 {
		if _, err := w.node.datasets.Collect(ctx, table, dataset.CollectOptions{Grace: time.Nanosecond}); err != nil {
			return err
		}
	}
	return nil
}

// TestSweepArchive lets each request that archives, maintenance and readers make
// of object store and catalog meet each fault in turn: an error, a lost answer, a
// delay beyond the caller's patience, with and without effect in the end, and a
// second delivery. Whatever happens, no row is missing and none is there twice,
// in this process and in the next one, and the same again succeeds.
func TestSweepArchive(t *testing.T) {
	if raceEnabled || testing.Short() {
		t.Skip("takes minutes under the race detector; make sweep runs it without")
	}
	t.Parallel()
	laidOut := catalog.Settings{Partitions: 2, Partitioning: []string{"bucket[2](k)"}, SortOrder: []string{"k desc"}, BloomFilters: []string{"k"}}
	sweeps := []swept{
		{"archive", func(w *world) { w.publish(10) }, archiveIt, 20},
		{"archive of a new process", func(w *world) { w.publish(10); w.restart() }, archiveIt, 25},
		{"archive after a reset", func(w *world) { w.publish(10); w.reset(); w.publish(9) }, archiveIt, 40},
		{"expiry and collection", func(w *world) { w.publish(3); w.archive(); w.publish(3); w.archive() }, clean, 25},
		{"archive with a layout", func(w *world) { w.recreate(laidOut); w.publish(10) }, archiveIt, 25},
		{"compaction of a layout", func(w *world) {
			w.recreate(catalog.Settings{SortOrder: []string{"k desc"}})
			for range 4 {
				w.publish(2)
				w.archive()
			}
		}, compact, 25},
		{"compaction", func(w *world) {
			w.recreate(catalog.Settings{})
			for range 4 {
				w.publish(2)
				w.archive()
			}
		}, compact, 25},
	}
	for _, s := range sweeps {
		for _, fault := range objstoretest.Faults {
			t.Run(fmt.Sprintf("%s, %v", s.name, fault), func(t *testing.T) {
				t.Parallel()
				f := &sweepFaults{}
				settings := catalog.Settings{Partitions: 2, KeyFields: []string{"k"}}
				w := newWorldWith(t, settings, Options{seams: f.seams()})
				w.publish(10)
				w.archived()
				places := 0
				hit := map[string]int{}
				for at := 1; ; at += stride {
					if at%8 == 1 && at > 1 { // history makes each round dearer
						w.recreate(settings)
						w.publish(10)
						w.archived()
					}
					s.prepare(w)
					ctx, cancel := context.WithCancel(t.Context())
					f.arm(at, fault, cancel)
					err := s.do(ctx, w)
					cancel()
					call := f.disarm()
					if call == "" {
						if err != nil {
							t.Fatal(err)
						}
						break
					}
					hit[call]++
					places++
					if err != nil && !errors.Is(err, objstoretest.ErrInjected) && !errors.Is(err, context.Canceled) && !refusedTwice(fault, err) {
						t.Fatalf("request %d, %s: %v", at, call, err)
					}
					w.whole()
					if at%2 == 0 {
						w.restart()
						w.whole()
					}
					if err := s.do(t.Context(), w); err != nil {
						t.Fatalf("request %d, %s, done again: %v", at, call, err)
					}
					w.archived()
				}
				t.Logf("sweep: %s: %d requests: %v", t.Name(), places, hit)
				if hit["SwapTablePointer"] == 0 {
					t.Error("nothing was committed")
				}
				if places < s.floor/stride {
					t.Errorf("only %d requests met the fault; the sweep covers less than the %d that it is meant for", places, s.floor/stride)
				}
			})
		}
	}
}

// refusedTwice: whose second delivery answers may be told that he is late.
func refusedTwice(fault objstoretest.Fault, err error) bool {
	return (fault == objstoretest.Twice || fault == objstoretest.TwiceSecond) &&
		(errors.Is(err, record.ErrFenced) || errors.Is(err, record.ErrConflict))
}
