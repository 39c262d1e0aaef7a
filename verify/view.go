package verify

import (
	"context"
	"errors"
	"fmt"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// viewCheck is the check of one view: of its rows in the dataset, then of those in
// the hot buffer, as one sequence.
type viewCheck struct {
	v       *Verifier
	r       *report
	pin     *pinned
	view    *pinnedView
	request Request

	schema *schema.Schema // by which rows are read, the system columns last
	rows   *rowCheck
	guests guestCheck
	labels *labels // nil: not asked for
	hot    *hotView
	// laidOut: files do not hold stretches of the view's order. lost are those that
	// could not be read.
	laidOut bool
	lost    map[int]bool
}

func (c *viewCheck) finding(code Code, place, format string, args ...any) Finding {
	return Finding{Code: code, Place: place, View: c.view.Number, Detail: fmt.Sprintf(format, args...)}
}

// carried tells whether the dataset's rows are this view's.
func (c *viewCheck) carried() bool {
	m := c.pin.marker
	active := c.view.ID == c.pin.branch.View.ID
	return m != nil && m.View == c.view.ID || active && m == nil
}

func (c *viewCheck) run(ctx context.Context) error {
	s, err := c.v.o.Catalog.SchemaByID(ctx, c.view.SchemaID)
	if err != nil {
		if !errors.Is(err, record.ErrNotFound) && !errors.Is(err, record.ErrCorrupt) {
			return err
		}
		c.r.add(c.finding(ViewState, fmt.Sprintf("catalog: view %v", c.view.ID), "its schema cannot be read: %v", err))
		return nil
	}
	c.schema = s.WithSystem()
	if c.request.ProducerColumn != "" {
		c.labels, err = newLabels(c.r, c.view.Number, s, c.request)
		if err != nil && c.view.ID == c.pin.branch.View.ID {
			return err // an older view may not have had the columns
		}
	}
	e, err := newEpochs(ctx, c.v, c.r, c.view.View)
	if err != nil {
		return err
	}
	c.rows = newRowCheck(c.r, c.view.Number, e)
	c.hot = newHotView(c)
	defer c.hot.close()
	c.bounds()
	switch {
	case c.view.past:
		// The dataset has moved on: the rows are in its history.
		err = c.rows.reach(c.view.start)
		c.rows.excuseAll(c.view.end)
	case c.carried() && c.pin.files != nil:
		err = c.cold(ctx)
	case c.pin.files == nil:
		// What cannot be read was told.
		err = c.rows.reach(c.view.archived)
		c.rows.excuseAll(c.view.archived)
		if c.pin.marker == nil {
			c.rows.excuseAll(c.view.start)
		}
	}
	if err != nil {
		return err
	}
	if c.view.hot {
		if err := c.warm(ctx); err != nil {
			return err
		}
	}
	if c.carried() && c.pin.files != nil {
		if n, unknown := c.pin.table.EngineRemoved(c.view.Number); unknown {
			c.rows.forgive(-1, c.view.archived)
		} else if n > 0 {
			c.rows.forgive(n, c.view.archived)
		}
	}
	c.rows.finish()
	if err := e.drain(); err != nil {
		return err
	}
	c.r.sum.Checkpoints += e.count
	if c.labels != nil {
		c.labels.finish()
	}
	return c.r.err
}

// bounds holds the limits of both halves and of the checkpoints against each
// other.
func (c *viewCheck) bounds() {
	w, m := c.view, c.pin.marker
	entry := fmt.Sprintf("catalog: view %v", w.ID)
	if !w.hot {
		if w.past || w.newest == nil && w.archived.RowsSince(nil) == 0 && w.State != "ACTIVE" {
			return
		}
		c.r.add(c.finding(ViewState, entry, "the view is %s, but the hot buffer does not have it", w.State))
		return
	}
	if n := w.progress; n.LastCheckpoint != n.NewestCheckpoint {
		c.r.add(c.finding(Checkpoint, entry, "checkpoint %d was the last one taken, but the newest that is stored is %d", n.LastCheckpoint, n.NewestCheckpoint))
	}
	c.behind(w.newest != nil, Checkpoint, func() (record.Offsets, string, string) {
		return w.newest.Cut, fmt.Sprintf("catalog: checkpoint %d of view %v", w.newest.Number, w.ID), "the checkpoint covers rows"
	})
	if m == nil || m.View != w.ID {
		return
	}
	c.behind(true, Marker, func() (record.Offsets, string, string) {
		return m.Offsets, c.markerPlace(), "the dataset says that it holds rows"
	})
	switch {
	case m.ViewNumber != w.Number:
		c.r.add(c.finding(Marker, c.markerPlace(), "it calls view %v number %d, the catalog %d", m.View, m.ViewNumber, w.Number))
	case m.Epoch > int64(w.progress.LeaseEpoch):
		c.r.add(c.finding(Marker, c.markerPlace(), "it carries the lease epoch %d, but the catalog has given out only %d", m.Epoch, w.progress.LeaseEpoch))
	}
	if m.Cluster != c.v.o.Catalog.ClusterID() {
		c.r.add(c.finding(Marker, c.markerPlace(), "it was archived by the cluster %q, this one is %q", m.Cluster, c.v.o.Catalog.ClusterID()))
	}
}

func (c *viewCheck) markerPlace() string {
	return fmt.Sprintf("%s snapshot %d", c.pin.table.MetadataLocation(), c.pin.marker.SnapshotID)
}

// behind reports where a cut stands beyond the durable end.
func (c *viewCheck) behind(is bool, code Code, of func() (cut record.Offsets, place, what string)) {
	if !is {
		return
	}
	cut, place, what := of()
	for i := range cut {
		p := record.Partition(i)
		if end := c.view.end.At(p); cut[i] > end {
			c.r.add(c.finding(code, place, "%s that the hot log never had: it ends at %v", what, end).at(c.view.Number, p, record.Range{Start: end, End: cut[i]}))
		}
	}
}

// excuseAll says that no row below end need come.
func (c *rowCheck) excuseAll(end record.Offsets) {
	for i, o := range end {
		if o > 0 {
			c.excuse(record.Partition(i), record.Range{End: o})
		}
	}
}
