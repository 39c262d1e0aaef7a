package writer

import (
	"errors"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/record"
)

// Limits on the columns that a request makes us allocate: alive at a time, and
// over the whole request, which bounds the time that it takes.
const (
	maxArrowMemory = 256 << 20
	maxArrowTotal  = 1 << 30
)

// boundedAllocator refuses to hold more than the limits, by a panic: that is
// the only way an Allocator has. The IPC reader turns it into its error,
// recoverMemory does for builders. Not safe for concurrent use.
type boundedAllocator struct {
	memory.GoAllocator
	left, total int
}

func newBoundedAllocator() *boundedAllocator {
	return &boundedAllocator{left: maxArrowMemory, total: maxArrowTotal}
}

// reset begins another request.
func (a *boundedAllocator) reset() { a.total = maxArrowTotal }

var errMemory = fmt.Errorf("as columns the rows need more than %d bytes of memory at a time, or %d in all; send smaller batches: %w",
	maxArrowMemory, maxArrowTotal, record.ErrTooLarge)

func (a *boundedAllocator) take(n int) {
	if n > a.left || n > a.total {
		panic(errMemory)
	}
	a.left -= n
	a.total -= max(n, 0)
}

func (a *boundedAllocator) Allocate(size int) []byte {
	a.take(size)
	return a.GoAllocator.Allocate(size)
}

func (a *boundedAllocator) Reallocate(size int, b []byte) []byte {
	a.take(size - len(b))
	return a.GoAllocator.Reallocate(size, b)
}

func (a *boundedAllocator) Free(b []byte) {
	a.left += len(b)
	a.GoAllocator.Free(b)
}

// recoverMemory turns a boundedAllocator's panic into the error of a function.
func recoverMemory(err *error) {
	switch r := recover().(type) {
	case nil:
	case error:
		if !errors.Is(r, errMemory) {
			panic(r)
		}
		*err = r
	default:
		panic(r)
	}
}
