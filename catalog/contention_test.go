package catalog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// TestSwapContention: swaps from several handles and another process form one
// chain: as many as succeeded, none lost and none twice.
func TestSwapContention(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, b := f.stream(t, "s")
	ok(t, f.CreateTablePointer(t.Context(), b.TableUUID, "0"))
	child := f.startChild(t, taskSwap)
	other := f.open(t)
	var wg sync.WaitGroup
	for i, c := range []*Catalog{f.Catalog, f.Catalog, other, other} {
		wg.Go(func() {
			if err := swapMany(t.Context(), c, b.TableUUID, strconv.Itoa(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	ok(t, child.Wait())
	at, err := f.TablePointer(t.Context(), b.TableUUID)
	ok(t, err)
	if n := chainLength(at); n != 5*swapsEach {
		t.Errorf("the chain has %d links, %d swaps succeeded", n, 5*swapsEach)
	}
}

const swapsEach = 25

// swapMany appends links to the chain that a table's pointer stands for, until
// swapsEach have succeeded. A location is "length/worker/try".
func swapMany(ctx context.Context, c *Catalog, table, worker string) error {
	for wins, try := 0, 0; wins < swapsEach; try++ {
		at, err := c.TablePointer(ctx, table)
		if err != nil {
			return err
		}
		err = c.SwapTablePointer(ctx, table, at, fmt.Sprintf("%d/%s/%d", chainLength(at)+1, worker, try))
		switch {
		case err == nil:
			wins++
		case !errors.Is(err, record.ErrConflict):
			return err
		}
	}
	return nil
}

func chainLength(location string) int {
	length, _, _ := strings.Cut(location, "/")
	n, _ := strconv.Atoi(length)
	return n
}

func TestLeaseContention(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := f.open(t)
	_, b := f.stream(t, "s")
	_, shared := f.stream(t, "t")
	for round := range 5 {
		var won atomic.Int32
		epochs := make([]Epoch, 8)
		var wg sync.WaitGroup
		for i := range epochs {
			c := []*Catalog{f.Catalog, other}[i%2]
			wg.Go(func() {
				_, err := c.AcquireLease(t.Context(), b.View.ID, fmt.Sprintf("owner %d.%d", round, i), time.Minute)
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, record.ErrBusy):
					t.Error(err)
				}
				// Here all are one owner: each gets it, each with its own epoch.
				l, err := c.AcquireLease(t.Context(), shared.View.ID, "owner", time.Minute)
				if err != nil {
					t.Error(err)
				}
				epochs[i] = l.Epoch
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d owners hold the lease", won.Load())
		}
		seen := map[Epoch]bool{}
		for _, e := range epochs {
			if seen[e] {
				t.Errorf("%v was given out twice", e)
			}
			seen[e] = true
		}
		f.clock.advance(time.Hour)
	}
}

// TestSchemaContention: two branches that evolve at once, from two handles, never
// give one field id to two fields.
func TestSchemaContention(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	st, main := f.stream(t, "s")
	exp := f.secondBranch(t, main, "exp")
	other := f.open(t)
	const each = 10
	var wg sync.WaitGroup
	for i, id := range []BranchID{main.ID, exp.ID, main.ID, exp.ID} {
		c := []*Catalog{f.Catalog, other}[i/2]
		wg.Go(func() {
			for wins := 0; wins < each; {
				st, err := c.StreamByID(t.Context(), st.ID)
				if err != nil {
					t.Error(err)
					return
				}
				b, err := c.BranchByID(t.Context(), id)
				if err != nil {
					t.Error(err)
					return
				}
				_, _, err = c.AddSchema(t.Context(), id, b.Version, newSchema(st.NextFieldID, fmt.Sprintf("f%d_%d", i, wins)))
				switch {
				case err == nil:
					wins++
				case !errors.Is(err, record.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	field := map[int]string{}
	for _, id := range []BranchID{main.ID, exp.ID} {
		versions, err := f.SchemaVersions(t.Context(), id, 0, 0)
		ok(t, err)
		if len(versions) != 1+2*each {
			t.Errorf("%d versions on branch %v", len(versions), id)
		}
		for i, v := range versions {
			if v.Version != len(versions)-i {
				t.Errorf("version %d at place %d", v.Version, i)
			}
			s, err := f.SchemaByID(t.Context(), v.ID)
			ok(t, err)
			for _, fl := range s.Fields {
				if was, taken := field[fl.ID]; taken && was != fl.Name {
					t.Errorf("field id %d is both %s and %s", fl.ID, was, fl.Name)
				}
				field[fl.ID] = fl.Name
			}
		}
	}
	if st, err := f.StreamByID(t.Context(), st.ID); err != nil || st.NextFieldID != schema.FirstUserID+2+4*each {
		t.Errorf("stream %+v, %v", st, err)
	}
}
