package node

import (
	"context"
	"sync/atomic"

	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// cutViews are the views that checkpoints are taken of, and where their guest rows
// lie.
type cutViews struct {
	n *Node
	// of are the tables of the views that have guest rows: the active ones. The
	// others are in it with none.
	of atomic.Pointer[map[record.ViewID]reader.Target]
}

func (c *cutViews) list() []record.ViewID {
	views := c.n.directory.Views()
	of := make(map[record.ViewID]reader.Target, len(views))
	for _, v := range views {
		of[v] = reader.Target{}
	}
	for _, st := range c.n.directory.All() {
		of[st.Branch.View.ID] = readTarget(st)
	}
	c.of.Store(&of)
	return views
}

func (c *cutViews) guests(ctx context.Context, v record.ViewID, look bool) (end int64, known bool, err error) {
	of := c.of.Load()
	if of == nil {
		c.list()
		of = c.of.Load()
	}
	t, ok := (*of)[v]
	if !ok {
		c.list() // a new one
		t = (*c.of.Load())[v]
	}
	if t.Table == "" {
		return 0, true, nil
	}
	return c.n.reader.GuestEnd(ctx, t, look)
}
