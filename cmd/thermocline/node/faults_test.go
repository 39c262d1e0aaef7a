package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/thermocline/thermocline/archiver"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

var errInjected = errors.New("injected")

// faults lets one call between the parts of a node fail: the at-th from arm on,
// before it took effect or, if lost, after it, so that only its answer is lost.
type faults struct {
	mu     sync.Mutex
	at, n  int
	lost   bool
	only   string // calls of this name alone count; "": all
	struck string
}

func (f *faults) arm(at int, lost bool, only string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.n, f.lost, f.only, f.struck = at, 0, lost, only, ""
}

// disarm ends the faults and returns the call that was hit, "" if none was.
func (f *faults) disarm() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = 0
	return f.struck
}

func (f *faults) call(name string, do func() error) error {
	f.mu.Lock()
	hit := false
	if f.at > 0 && (f.only == "" || f.only == name) {
		f.n++
		hit = f.n == f.at
	}
	if hit {
		f.struck = name
	}
	lost := f.lost
	f.mu.Unlock()
	if hit && !lost {
		return fmt.Errorf("%s: %w", name, errInjected)
	}
	err := do()
	if hit && err == nil {
		err = fmt.Errorf("%s, behind it: %w", name, errInjected)
	}
	return err
}

// seams puts f between all parts.
func (f *faults) seams() seams {
	return seams{
		buffer:   func(b hotbuffer.Buffer) hotbuffer.Buffer { return faultyBuffer{b, f} },
		pointers: func(p dataset.Pointers) dataset.Pointers { return faultyPointers{p, f} },
		store:    func(s objstore.Store) objstore.Store { return faultyStore{s, f} },
		checks:   func(s reader.CheckpointStore) reader.CheckpointStore { return faultyChecks{s, f} },
		archiver: func(o *archiver.Options) { o.Leases = faultyLeases{o.Leases, f} },
	}
}

// withCatalog lets calls of the catalog fail, too; a change that failed behind its
// commit has an unknown outcome.
func (f *faults) withCatalog() seams {
	s := f.seams()
	s.catalog = func(o *catalog.Options) {
		o.Around = func(op string, do func() error) error {
			done := false
			err := f.call("catalog: "+op, func() error {
				err := do()
				done = err == nil
				return err
			})
			if done && err != nil {
				return fmt.Errorf("%w: %w", catalog.ErrOutcomeUnknown, err)
			}
			return err
		}
	}
	return s
}

type faultyBuffer struct {
	hotbuffer.Buffer
	f *faults
}

func (b faultyBuffer) Open(ctx context.Context, v record.ViewID, s hotbuffer.Settings) error {
	return b.f.call("Buffer.Open", func() error { return b.Buffer.Open(ctx, v, s) })
}

func (b faultyBuffer) Drop(ctx context.Context, v record.ViewID) error {
	return b.f.call("Buffer.Drop", func() error { return b.Buffer.Drop(ctx, v) })
}

func (b faultyBuffer) Read(ctx context.Context, v record.ViewID, p record.Partition, from record.Offset, n int) (out []record.Batch, err error) {
	err = b.f.call("Buffer.Read", func() error { out, err = b.Buffer.Read(ctx, v, p, from, n); return err })
	return out, err
}

func (b faultyBuffer) Ends(v record.ViewID) (out hotbuffer.Ends, err error) {
	err = b.f.call("Buffer.Ends", func() error { out, err = b.Buffer.Ends(v); return err })
	return out, err
}

func (b faultyBuffer) Cut(ctx context.Context, v record.ViewID) (out record.Offsets, err error) {
	err = b.f.call("Buffer.Cut", func() error { out, err = b.Buffer.Cut(ctx, v); return err })
	return out, err
}

func (b faultyBuffer) Release(ctx context.Context, v record.ViewID, through record.Offsets) error {
	return b.f.call("Buffer.Release", func() error { return b.Buffer.Release(ctx, v, through) })
}

type faultyPointers struct {
	dataset.Pointers
	f *faults
}

func (p faultyPointers) TablePointer(ctx context.Context, id string) (out string, err error) {
	err = p.f.call("TablePointer", func() error { out, err = p.Pointers.TablePointer(ctx, id); return err })
	return out, err
}

func (p faultyPointers) CreateTablePointer(ctx context.Context, id, location string) error {
	return p.f.call("CreateTablePointer", func() error { return p.Pointers.CreateTablePointer(ctx, id, location) })
}

func (p faultyPointers) SwapTablePointer(ctx context.Context, id, from, to string) error {
	return p.f.call("SwapTablePointer", func() error { return p.Pointers.SwapTablePointer(ctx, id, from, to) })
}

func (p faultyPointers) TablePointerReferenced(ctx context.Context, location string) (out bool, err error) {
	err = p.f.call("TablePointerReferenced", func() error {
		out, err = p.Pointers.(dataset.PointerReferences).TablePointerReferenced(ctx, location)
		return err
	})
	return out, err
}

type faultyStore struct {
	objstore.Store
	f *faults
}

func (s faultyStore) Create(ctx context.Context, key string) (w objstore.Writer, err error) {
	err = s.f.call("Store.Create", func() error { w, err = s.Store.Create(ctx, key); return err })
	if err != nil {
		if w != nil {
			w.Abort()
		}
		return nil, err
	}
	return faultyWriter{w, s.f}, nil
}

func (s faultyStore) Open(ctx context.Context, key string) (o objstore.Object, err error) {
	err = s.f.call("Store.Open", func() error { o, err = s.Store.Open(ctx, key); return err })
	if err != nil {
		if o != nil {
			_ = o.Close()
		}
		return nil, err
	}
	return o, nil
}

func (s faultyStore) Delete(ctx context.Context, key string) error {
	return s.f.call("Store.Delete", func() error { return s.Store.Delete(ctx, key) })
}

type faultyWriter struct {
	objstore.Writer
	f *faults
}

func (w faultyWriter) Commit() error { return w.f.call("Writer.Commit", w.Writer.Commit) }

type faultyChecks struct {
	reader.CheckpointStore
	f *faults
}

func (c faultyChecks) AddCheckpoints(ctx context.Context, cs []catalog.Checkpoint) error {
	return c.f.call("AddCheckpoints", func() error { return c.CheckpointStore.AddCheckpoints(ctx, cs) })
}

func (c faultyChecks) LatestCheckpoint(ctx context.Context, v record.ViewID) (out catalog.Checkpoint, err error) {
	err = c.f.call("LatestCheckpoint", func() error { out, err = c.CheckpointStore.LatestCheckpoint(ctx, v); return err })
	return out, err
}

type faultyLeases struct {
	archiver.Leases
	f *faults
}

func (l faultyLeases) AcquireLease(ctx context.Context, v record.ViewID, owner string, ttl time.Duration) (out catalog.Lease, err error) {
	err = l.f.call("AcquireLease", func() error { out, err = l.Leases.AcquireLease(ctx, v, owner, ttl); return err })
	return out, err
}

func (l faultyLeases) RenewLease(ctx context.Context, in catalog.Lease, ttl time.Duration) (out catalog.Lease, err error) {
	err = l.f.call("RenewLease", func() error { out, err = l.Leases.RenewLease(ctx, in, ttl); return err })
	return out, err
}

func (l faultyLeases) ReleaseLease(ctx context.Context, in catalog.Lease) error {
	return l.f.call("ReleaseLease", func() error { return l.Leases.ReleaseLease(ctx, in) })
}
