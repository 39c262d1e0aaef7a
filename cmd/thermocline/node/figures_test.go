package node

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
)

// Figures of many branches load few datasets per scrape, none once the archiver
// knows, and read the age of a lag once.
func TestFiguresAreCheap(t *testing.T) {
	t.Parallel()
	c := &counts{}
	w := newWorldWith(t, catalog.Settings{}, Options{seams: seams{
		pointers: func(p dataset.Pointers) dataset.Pointers { return countedPointers{p, c} },
	}})
	const streams = loads + 20
	for i := range streams {
		name := fmt.Sprintf("t%d", i)
		if _, err := w.node.directory.Create(t.Context(), name, mustParse(t, worldSchema), catalog.Settings{ArchiveInterval: catalog.MaxArchiveInterval}); err != nil {
			t.Fatal(err)
		}
	}
	w.publish(10)
	w.archive()
	w.publish(10)
	w.restart()
	lag := func() api.Lag {
		all, err := w.b.Figures.Branches(t.Context())
		if err != nil || len(all) != streams+1 {
			t.Fatalf("%d figures, %v", len(all), err)
		}
		for _, b := range all {
			if b.Stream == "default.s" {
				return b.Lag
			}
		}
		t.Fatal("no figures of the stream")
		return api.Lag{}
	}
	for left := streams + 1; left > 0; left -= loads {
		c.loads.Store(0)
		lag()
		if got := c.loads.Load(); got > loads {
			t.Errorf("a scrape loaded %d datasets", got)
		}
	}
	c.loads.Store(0)
	if l := lag(); l.Rows != 10 || l.Age <= 0 {
		t.Errorf("lag %+v, want 10 rows", l)
	}
	if got := c.loads.Load(); got != 0 {
		t.Errorf("a later scrape loaded %d datasets", got)
	}
	one, err := w.b.Figures.Branch(t.Context(), "s", "main")
	if err != nil || one.Lag.Rows != 10 {
		t.Errorf("%+v, %v", one.Lag, err)
	}
	w.archive()
	if l := lag(); l.Rows != 0 || l.Age != 0 {
		t.Errorf("lag %+v, want none", l)
	}
	w.publish(1)
	if l := lag(); l.Rows != 1 {
		t.Errorf("lag %+v, want a row", l)
	}
	if err := w.node.directory.Delete(t.Context(), "t0"); err != nil {
		t.Fatal(err)
	}
	if all, err := w.b.Figures.Branches(t.Context()); err != nil || len(all) != streams {
		t.Errorf("%d figures, %v", len(all), err)
	}
}

type counts struct{ loads atomic.Int64 }

type countedPointers struct {
	dataset.Pointers
	c *counts
}

func (p countedPointers) TablePointer(ctx context.Context, id string) (string, error) {
	p.c.loads.Add(1)
	return p.Pointers.TablePointer(ctx, id)
}
