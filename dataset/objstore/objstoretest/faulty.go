package objstoretest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/thermocline/thermocline/dataset/objstore"
)

// Fault is what may happen to a request on its way to a server and back.
type Fault int

const (
	// None: it is answered.
	None Fault = iota
	// Fail: it fails before it took effect.
	Fail
	// Lost: it takes effect, and its answer is lost.
	Lost
	// Stall: it hangs until the caller gives up, and never takes effect.
	Stall
	// Late: it hangs until the caller gives up, and takes effect then.
	Late
	// Twice: it is delivered twice, and the first answer arrives.
	Twice
	// TwiceSecond: it is delivered twice, and the second answer arrives.
	TwiceSecond
)

// Faults lists all but None.
var Faults = []Fault{Fail, Lost, Stall, Late, Twice, TwiceSecond}

func (f Fault) String() string {
	return [...]string{"none", "error", "lost answer", "stalled", "late", "twice", "twice, second answer"}[f]
}

// ErrInjected is the cause of every error that a Fault makes up.
var ErrInjected = errors.New("injected")

// patience is how long a stalled request waits for a caller that has no
// deadline of its own.
const patience = 20 * time.Millisecond

// Deliver makes a call with a fault. do must be repeatable: delivered twice, it
// runs twice.
func (f Fault) Deliver(ctx context.Context, name string, do func(context.Context) error) error {
	switch f {
	case Fail:
		return fmt.Errorf("%s: %w", name, ErrInjected)
	case Lost:
		if err := do(ctx); err != nil {
			return err
		}
		return fmt.Errorf("%s, behind it: %w", name, ErrInjected)
	case Stall, Late:
		select {
		case <-ctx.Done():
		case <-time.After(patience):
		}
		if f == Late {
			_ = do(context.WithoutCancel(ctx))
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: %w: %w", name, ErrInjected, err)
		}
		return fmt.Errorf("%s: %w: %w", name, ErrInjected, context.DeadlineExceeded)
	case Twice, TwiceSecond:
		first := do(ctx)
		second := do(ctx)
		if f == TwiceSecond {
			return second
		}
		return first
	default:
		return do(ctx)
	}
}

// Faulty is a Store whose calls meet the faults that Plan says. The bytes of an
// object arrive with Commit, as with a real object store: one that is delivered
// twice is answered by the first delivery, because a store must not call its
// own object taken.
type Faulty struct {
	objstore.Store
	// Plan is asked once per call; it must be safe for concurrent use.
	Plan func(name, key string) Fault
}

func (s *Faulty) deliver(ctx context.Context, name, key string, do func(context.Context) error) error {
	return s.Plan(name, key).Deliver(ctx, name, do)
}

// Create implements objstore.Store.
func (s *Faulty) Create(ctx context.Context, key string) (objstore.Writer, error) {
	var made []objstore.Writer
	err := s.deliver(ctx, "Store.Create", key, func(ctx context.Context) error {
		w, err := s.Store.Create(ctx, key)
		if err == nil {
			made = append(made, w)
		}
		return err
	})
	if err != nil || len(made) == 0 {
		for _, w := range made {
			w.Abort()
		}
		return nil, err
	}
	for _, w := range made[1:] {
		w.Abort()
	}
	return &faultyWriter{Writer: made[0], s: s, ctx: ctx, key: key}, nil
}

type faultyWriter struct {
	objstore.Writer
	s   *Faulty
	ctx context.Context //nolint:containedctx // Commit belongs to the call that created the writer
	key string

	once sync.Once
	err  error
}

func (w *faultyWriter) Write(p []byte) (n int, err error) {
	f := w.s.Plan("Writer.Write", w.key)
	if f == Twice || f == TwiceSecond {
		f = None // the stream below keeps bytes in order
	}
	err = f.Deliver(w.ctx, "Writer.Write", func(context.Context) error { n, err = w.Writer.Write(p); return err })
	if err != nil {
		n = 0
	}
	return n, err
}

func (w *faultyWriter) Commit() error {
	return w.s.deliver(w.ctx, "Writer.Commit", w.key, func(context.Context) error {
		w.once.Do(func() { w.err = w.Writer.Commit() })
		return w.err
	})
}

// Open implements objstore.Store.
func (s *Faulty) Open(ctx context.Context, key string) (objstore.Object, error) {
	var opened []objstore.Object
	err := s.deliver(ctx, "Store.Open", key, func(context.Context) error {
		o, err := s.Store.Open(ctx, key)
		if err == nil {
			opened = append(opened, o)
		}
		return err
	})
	keep := 1
	if err != nil {
		keep = 0
	}
	for _, o := range opened[min(keep, len(opened)):] {
		_ = o.Close()
	}
	if err != nil {
		return nil, err
	}
	return &faultyObject{Object: opened[0], s: s, ctx: ctx, key: key}, nil
}

type faultyObject struct {
	objstore.Object
	s   *Faulty
	ctx context.Context //nolint:containedctx // it ends the reads, as Store says
	key string
}

func (o *faultyObject) ReadAt(p []byte, off int64) (n int, err error) {
	f := o.s.Plan("Object.ReadAt", o.key)
	if f == None {
		return o.Object.ReadAt(p, off)
	}
	var eof error
	err = f.Deliver(o.ctx, "Object.ReadAt", func(context.Context) error {
		n, eof = o.Object.ReadAt(p, off)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, eof
}

// Stat implements objstore.Store.
func (s *Faulty) Stat(ctx context.Context, key string) (info objstore.Info, err error) {
	err = s.deliver(ctx, "Store.Stat", key, func(ctx context.Context) error { info, err = s.Store.Stat(ctx, key); return err })
	return info, err
}

// List implements objstore.Store. A fault ends the listing before its first
// object, or behind its last one.
func (s *Faulty) List(ctx context.Context, prefix string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		f := s.Plan("Store.List", prefix)
		if f == Fail || f == Stall || f == Late {
			yield(objstore.Info{}, f.Deliver(ctx, "Store.List", func(context.Context) error { return nil }))
			return
		}
		for info, err := range s.Store.List(ctx, prefix) {
			if !yield(info, err) {
				return
			}
		}
		if f == Lost {
			yield(objstore.Info{}, fmt.Errorf("Store.List, behind it: %w", ErrInjected))
		}
	}
}

// Delete implements objstore.Store.
func (s *Faulty) Delete(ctx context.Context, key string) error {
	return s.deliver(ctx, "Store.Delete", key, func(ctx context.Context) error { return s.Store.Delete(ctx, key) })
}
