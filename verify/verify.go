// Package verify is the oracle: it reads all that a branch has stored, cold and
// hot, offset by offset, and reports whatever breaks a promise. It works beside a
// running server, or on the parts of a stopped one.
//
// It trusts nothing that it can read again: metadata, manifests and data files are
// read past every cache, hot batches from the log's files. It repairs nothing and
// writes nothing.
//
// # Beside a running server
//
// Archives, releases, resets and expiry go on meanwhile. Each check therefore
// leans on what only grows: pin.go says in which order bounds are read, so that a
// sound branch never shows a contradiction. Where something is taken away under
// the check (released rows, a replaced view, an expired file), it reads on in what
// took its place, or begins again.
//
// # Memory
//
// Rows are held a batch at a time. What is remembered of them are intervals: one
// per partition, and one per producer, of a sound branch. Damage and disorder make
// them more; beyond the stated limits a check ends with record.ErrTooLarge, and says
// so, rather than take the server's memory.
package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/record"
)

// DefaultGrace is how old a file must be before it counts as forgotten.
const DefaultGrace = time.Hour

// Options of New.
type Options struct {
	Catalog *catalog.Catalog
	// Buffer holds the hot rows; every live view must be open in it. Where it
	// offers Stored, that is read.
	Buffer hotbuffer.Buffer
	Store  objstore.Store
	// Pointers are the catalog's if nil.
	Pointers dataset.Pointers
	// Damage lists what the start of the hot log found lost; nil: nothing.
	Damage func() []disk.Damage
	Now    func() time.Time
}

// Stored is what a hot buffer may offer besides Read: the same batches, read from
// where they are kept and not from memory.
type Stored interface {
	ReadStored(ctx context.Context, v record.ViewID, p record.Partition, from record.Offset, maxBytes int) ([]record.Batch, error)
}

// Verifier checks branches. Safe for concurrent use.
type Verifier struct {
	o    Options
	read func(ctx context.Context, v record.ViewID, p record.Partition, from record.Offset, maxBytes int) ([]record.Batch, error)
}

// New returns a Verifier.
func New(o Options) *Verifier {
	if o.Pointers == nil {
		o.Pointers = o.Catalog
	}
	if o.Damage == nil {
		o.Damage = func() []disk.Damage { return nil }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	v := &Verifier{o: o, read: o.Buffer.Read}
	if s, ok := o.Buffer.(Stored); ok {
		v.read = s.ReadStored
	}
	return v
}

// Request says what to check.
type Request struct {
	// ProducerColumn and SequenceColumn, both or neither, name the columns that
	// number each producer's rows: a STRING or integer, and an integer.
	ProducerColumn, SequenceColumn string
	// Grace is the age from which on a file that nothing leads to is a failure;
	// 0: DefaultGrace. Younger ones may belong to a commit under way.
	Grace time.Duration
}

func (q Request) validate() (Request, error) {
	if (q.ProducerColumn == "") != (q.SequenceColumn == "") {
		return q, fmt.Errorf("verify: name the producer column and the sequence column, or neither: %w", record.ErrInvalid)
	}
	if q.Grace < 0 {
		return q, fmt.Errorf("verify: grace %v; use a positive duration, or 0 for %v: %w", q.Grace, DefaultGrace, record.ErrInvalid)
	}
	if q.Grace == 0 {
		q.Grace = DefaultGrace
	}
	return q, nil
}

// maxRestarts bounds how often the check of a branch begins again.
const maxRestarts = 20

// errMoved: something was taken away that the check was reading; begin again.
var errMoved = errors.New("the branch was changed while it was checked")

// Branch checks a branch of a stream (its full name, or without the namespace
// default) and passes what it finds to emit, the summary last. It returns nil when
// the check came to its end, whatever it found.
//
// Errors: record.ErrNotFound (no such branch), record.ErrInvalid (the request),
// record.ErrTooLarge (more to remember than the limits allow), those of emit, of
// ctx, or of the stores where they failed rather than held something wrong: then
// what was found is true, but not all.
func (v *Verifier) Branch(ctx context.Context, stream, branch string, q Request, emit func(Event) error) error {
	q, err := q.validate()
	if err != nil {
		return err
	}
	namespace, name, err := catalog.ParseName(stream)
	if err != nil {
		return err
	}
	begin := v.o.Now()
	r := newReport(namespace+"."+name, branch, emit)
	for r.sum.Restarts = 0; ; r.sum.Restarts++ {
		err = v.branch(ctx, namespace, name, branch, q, r)
		if !errors.Is(err, errMoved) {
			break
		}
		if r.sum.Restarts == maxRestarts {
			err = fmt.Errorf("%w %d times in a row; check it again when fewer resets go on: %w", err, r.sum.Restarts, record.ErrBusy)
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(r.sum.Restarts+1) * 20 * time.Millisecond):
		}
	}
	r.flush()
	if err == nil {
		r.sum.Seconds = v.o.Now().Sub(begin).Seconds()
		if len(r.sum.ByCode) == 0 {
			r.sum.ByCode = nil
		}
		r.send(Event{Summary: &r.sum})
		err = r.err
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", displayName(r.stream, branch), err)
	}
	return nil
}

func displayName(stream, branch string) string {
	if branch == catalog.MainBranch {
		return stream
	}
	return stream + "@" + branch
}

// branch is one attempt.
func (v *Verifier) branch(ctx context.Context, namespace, name, branch string, q Request, r *report) error {
	restarts, failures, notices, codes := r.sum.Restarts, r.sum.Failures, r.sum.Notices, r.sum.ByCode
	r.sum = Summary{Restarts: restarts, Failures: failures, Notices: notices, ByCode: codes}
	r.progress = Progress{}
	p, err := v.pin(ctx, namespace, name, branch, r)
	if err != nil {
		return err
	}
	r.sum.View = p.branch.View.Number
	for i := range p.views {
		w := &viewCheck{v: v, r: r, pin: p, view: &p.views[i], request: q}
		if err := w.run(ctx); err != nil {
			return err
		}
	}
	if err := v.viewStates(ctx, p, r); err != nil {
		return err
	}
	if err := v.subscribers(ctx, p, r); err != nil {
		return err
	}
	if err := v.storage(ctx, p, q, r); err != nil {
		return err
	}
	return r.err
}

// cacheBytes bounds what a check keeps of metadata and manifests.
const cacheBytes = 32 << 20

// tables reads metadata and manifests afresh: a check that looked into the
// server's caches would miss what the disk has lost.
func (v *Verifier) tables() *dataset.Datasets {
	return dataset.New(v.o.Store, v.o.Pointers, dataset.Options{CacheBytes: cacheBytes, Now: v.o.Now})
}

// exists tells whether an object is there.
func (v *Verifier) exists(ctx context.Context, location string) (bool, error) {
	key, err := objstore.Key(v.o.Store, location)
	if err != nil {
		return false, nil // outside the store, where no file of ours can be
	}
	_, err = v.o.Store.Stat(ctx, key)
	if errors.Is(err, record.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
