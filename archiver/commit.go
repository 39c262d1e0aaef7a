package archiver

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

func (w *work) newMarker(offsets record.Offsets, throughMs int64) *dataset.Marker {
	return &dataset.Marker{
		View: w.view.ID, ViewNumber: w.view.Number, Epoch: w.epoch, Offsets: offsets,
		CommitID: uuid.NewString(), Cluster: w.a.o.Cluster, ValidThroughMs: throughMs,
	}
}

func (w *work) fence(ctx context.Context, reset bool) error {
	old := w.marker
	c := dataset.Commit{Base: w.table, Check: func(t *dataset.Table) error {
		m, err := t.Marker()
		switch {
		case err != nil:
			return err
		case m == nil && old == nil:
			return nil
		case m == nil || old == nil || m.View != old.View || !m.Offsets.Equal(old.Offsets):
			return fmt.Errorf("another archiver moved the dataset meanwhile: %w", record.ErrFenced)
		case m.View == w.view.ID && m.Epoch >= w.epoch:
			return fmt.Errorf("the dataset carries epoch %d, ours is %d: %w", m.Epoch, w.epoch, record.ErrFenced)
		}
		return nil
	}}
	through := int64(0)
	if reset {
		// The columns of the old layout may be gone.
		c.RemoveAll, c.Schema, c.Layout = true, w.schema, w.layout
	} else if old != nil {
		through = old.ValidThroughMs
	}
	c.Marker = w.newMarker(w.start, through)
	table, err := w.a.o.Datasets.Commit(ctx, w.target.Table, c)
	if err != nil {
		return fmt.Errorf("fence: %w", err)
	}
	w.table = table
	return nil
}

func (w *work) commit(ctx context.Context, files []dataset.DataFile) error {
	// The checkpoint's time, not the clock's: a row whose append was under way
	// at the cut may have an earlier time than the clock showed.
	table, err := w.a.o.Datasets.Commit(ctx, w.target.Table, dataset.Commit{
		Base: w.table, Add: files, Marker: w.newMarker(w.end.Cut, w.end.Timestamp), Schema: w.schema,
		Check: w.stillOurs,
	})
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	w.table, w.start = table, w.end.Cut
	w.s.note.moved(w.view.ID, w.start)
	return nil
}

// stillOurs makes sure that no other archiver has been at work on the dataset.
func (w *work) stillOurs(t *dataset.Table) error {
	m, err := t.Marker()
	switch {
	case err != nil:
		return err
	case m == nil || m.View != w.view.ID || m.Epoch != w.epoch:
		return fmt.Errorf("the dataset no longer carries our epoch %d of view %d: %w", w.epoch, w.view.Number, record.ErrFenced)
	case !m.Offsets.Equal(w.start):
		return fmt.Errorf("the dataset stands at %v, our archive began at %v: %w", m.Offsets, w.start, record.ErrFenced)
	}
	return nil
}
