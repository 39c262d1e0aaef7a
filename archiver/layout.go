package archiver

import (
	"context"
	"fmt"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/schema"
)

// layOut chooses how files are laid out: as the settings say. A view that was reset
// goes into the history, plainly: settings are the new view's. Settings that do
// not fit the schema are refused where they are made; should some come here all
// the same, rows are moved plainly, because the hot log must not fill up over it.
func (w *work) layOut() {
	w.layout = &schema.Layout{}
	if !w.active {
		return
	}
	l, err := w.target.Settings.Layout(w.schema)
	if err != nil {
		w.a.o.Logger.Error("the layout of data files does not fit the schema; files are written without one", "branch", w.target.Name, "err", err)
		return
	}
	w.layout = l
}

// applyLayout makes the layout the table's, with the schema that it is compiled for.
func (w *work) applyLayout(ctx context.Context) error {
	if !w.active || w.table.HasLayout(w.layout) {
		return nil
	}
	table, err := w.a.o.Datasets.Commit(ctx, w.target.Table, dataset.Commit{
		Base: w.table, Schema: w.schema, Layout: w.layout, Check: w.stillOurs,
	})
	if err != nil {
		return fmt.Errorf("change the layout: %w", err)
	}
	w.table = table
	return nil
}
