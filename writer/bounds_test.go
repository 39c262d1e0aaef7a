package writer

import (
	"errors"
	"fmt"
	"testing"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
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

// What an intake keeps is counted over all requests and partitions that it has
// seen: a partition's memory stays when the next request fills another.
func TestIntakesAreBounded(t *testing.T) {
	t.Parallel()
	s, err := schema.Parse([]byte(`{"fields":[{"name":"k","type":"LONG"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	s, _ = s.AssignIDs(schema.FirstUserID)
	keyed, err := compile(Target{Schema: s, Partitions: 64, KeyFields: []string{"k"}})
	if err != nil {
		t.Fatal(err)
	}
	in := new(intake)
	row := make([]byte, 1000)
	for p := range 64 {
		in.begin(keyed)
		for range 100 {
			in.shards[p].rows.Append(nil, row)
		}
		size := in.reset()
		if want := (p + 1) * 100 * (1000 + rowOverhead); size < want || size > want+want/10 {
			t.Fatalf("after %d requests the intake counts %d bytes, it holds %d", p+1, size, want)
		}
	}
	// Without keys there is one shard, whichever partition's turn it is.
	plain, err := compile(Target{Schema: s, Partitions: 64})
	if err != nil {
		t.Fatal(err)
	}
	in = new(intake)
	for range 100 {
		in.begin(plain)
		in.shards[0].rows.Append(nil, row)
		if n := len(in.parts()); n != 1 || len(in.shards) != 1 {
			t.Fatalf("%d parts, %d shards", n, len(in.shards))
		}
		in.reset()
	}
}

func TestRowsAreBounded(t *testing.T) {
	t.Parallel()
	in := &intake{row: maxRows}
	if err := in.next(t.Context()); !errors.Is(err, record.ErrTooLarge) {
		t.Errorf("row %d of a request: %v", in.row, err)
	}
	in.row--
	if err := in.next(t.Context()); err != nil {
		t.Errorf("row %d of a request: %v", in.row, err)
	}
}

// A program keeps few client schemas, those met last, and small ones only.
func TestForeignsAreBounded(t *testing.T) {
	t.Parallel()
	s, err := schema.Parse([]byte(`{"fields":[{"name":"x","type":"STRING"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	s, _ = s.AssignIDs(schema.FirstUserID)
	p, err := compile(Target{Schema: s, Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	avsc := func(i, doc int) []byte {
		return fmt.Appendf(nil, `{"type":"record","name":"r%d","doc":"%0*d","fields":[{"name":"x","type":"string"}]}`, i, doc, i)
	}
	first, err := p.foreign.find(p, avsc(0, 1), schema.Reject)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if _, err := p.foreign.find(p, avsc(i, 1), schema.Reject); err != nil {
			t.Fatal(err)
		}
		if again, err := p.foreign.find(p, avsc(0, 1), schema.Reject); err != nil || again != first {
			t.Fatalf("the schema that is met all the time was forgotten: %v", err)
		}
	}
	if _, err := p.foreign.find(p, avsc(99, maxForeignText), schema.Reject); err != nil {
		t.Fatal(err)
	}
	if n := len(p.foreign.list); n != maxForeigns {
		t.Errorf("%d schemas are kept, want %d", n, maxForeigns)
	}
	for _, e := range p.foreign.list {
		if len(e.avsc) > maxForeignText {
			t.Errorf("a schema of %d bytes is kept", len(e.avsc))
		}
	}
	// Columns that are given back begin anew.
	c := first.newColumns()
	c.mem.total, c.bytes = 0, 5
	first.giveBack(c)
	if c.mem.total != maxArrowTotal || c.bytes != 0 {
		t.Errorf("given back: %+v", c)
	}
}
