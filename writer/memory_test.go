package writer

import (
	"errors"
	"testing"

	"github.com/thermocline/thermocline/record"
)

// The allocator refuses what exceeds either limit, and only that.
func TestBoundedAllocator(t *testing.T) {
	t.Parallel()
	try := func(f func()) (err error) {
		defer recoverMemory(&err)
		f()
		return nil
	}
	a := newBoundedAllocator()
	a.left, a.total = 1000, 3000
	var b []byte
	for range 3 {
		if err := try(func() { b = a.Allocate(900) }); err != nil {
			t.Fatal(err)
		}
		if err := try(func() { a.Allocate(101) }); !errors.Is(err, record.ErrTooLarge) {
			t.Fatalf("beyond what may be alive: %v", err)
		}
		if err := try(func() { b = a.Reallocate(950, b) }); err != nil {
			t.Fatal(err)
		}
		a.Free(b)
	}
	if err := try(func() { a.Allocate(900) }); !errors.Is(err, record.ErrTooLarge) {
		t.Fatalf("beyond what a request may take in all: %v", err)
	}
	a.reset()
	if err := try(func() { a.Allocate(900) }); err != nil {
		t.Fatalf("the next request: %v", err)
	}
	// Other panics are not its business.
	for _, other := range []any{"text", errors.New("other")} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("the panic %v was swallowed", other)
				}
			}()
			_ = try(func() { panic(other) })
		}()
	}
}
