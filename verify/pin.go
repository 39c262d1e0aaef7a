package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// pinned is a branch as it stood at one moment, as far as that can be said of
// parts that move one by one.
type pinned struct {
	stream catalog.Stream
	branch catalog.Branch
	views  []pinnedView // draining ones first, the active one last

	tables *dataset.Datasets
	table  *dataset.Table    // nil: its metadata cannot be read, as was told
	files  *dataset.FileRows // nil: there is no list of files, or no marker to hold it against, as was told
	marker *dataset.Marker   // nil: none, or not readable
}

// pinnedView is a view that may hold hot rows.
type pinnedView struct {
	catalog.View
	progress catalog.ViewProgress
	newest   *catalog.Checkpoint // nil: none
	// hot: the hot buffer has the view.
	hot bool
	// start is older than the dataset that was loaded, end is newer: start ≤
	// archived ≤ end must hold of a sound view.
	start, end record.Offsets
	// archived is what the dataset says it holds of the view.
	archived record.Offsets
	// past: the dataset has moved on to a later view; only Retire is missing.
	past bool
}

// pin reads a branch's parts in the order in which they follow one another:
//
//  1. the views, their checkpoints: rows are durable before a checkpoint has them
//  2. the starts of the hot rows: they are archived before they are released
//  3. the dataset
//  4. the ends of the hot rows: they were durable before they were archived
//  5. the views once more: a reset in between begins it all again
func (v *Verifier) pin(ctx context.Context, namespace, name, branch string, r *report) (*pinned, error) {
	patience := time.Now().Add(openTime)
	for try := 0; try < maxRestarts; {
		p, err := v.look(ctx, namespace, name, branch)
		if err != nil {
			return nil, err
		}
		before := make([]hotbuffer.Ends, len(p.views))
		for i := range p.views {
			before[i], _ = v.o.Buffer.Ends(p.views[i].ID)
		}
		findings, err := v.load(ctx, p)
		if err != nil {
			return nil, err
		}
		for i := range p.views {
			w := &p.views[i]
			ends, err := v.o.Buffer.Ends(w.ID)
			if err != nil && !errors.Is(err, record.ErrNotFound) {
				return nil, err
			}
			w.hot = err == nil && before[i].End != nil
			w.start, w.end = before[i].Start, ends.End
		}
		again, err := v.look(ctx, namespace, name, branch)
		if err != nil {
			return nil, err
		}
		if !slices.EqualFunc(p.views, again.views, func(a, b pinnedView) bool { return a.ID == b.ID && a.State == b.State }) {
			try++
			continue
		}
		if p.unopened() && time.Now().Before(patience) {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		// The schema and the partitions of now hold for all rows below end.
		p.branch = again.branch
		for i := range p.views {
			w := &p.views[i]
			w.View = again.views[i].View
			// The epoch of a lease is taken before it stands in the dataset.
			w.progress.LeaseEpoch = again.views[i].progress.LeaseEpoch
			if m := p.marker; m != nil {
				switch {
				case m.View == w.ID:
					w.archived = m.Offsets
				case m.ViewNumber > w.Number:
					w.past = true
				}
			}
		}
		for _, f := range findings {
			r.add(f)
		}
		return p, nil
	}
	return nil, errMoved
}

// openTime is how long a view may be in the catalog before the hot buffer has it: a
// reset does one after the other.
const openTime = 3 * time.Second

// unopened tells whether the hot buffer lacks the active view.
func (p *pinned) unopened() bool { return !p.views[len(p.views)-1].hot }

// look reads the catalog.
func (v *Verifier) look(ctx context.Context, namespace, name, branch string) (*pinned, error) {
	p := &pinned{}
	var err error
	if p.stream, p.branch, err = v.o.Catalog.Resolve(ctx, namespace, name, branch); err != nil {
		return nil, err
	}
	if p.stream.Kind != catalog.KindStream {
		return nil, fmt.Errorf("%s is a dataset without a stream, whose rows have no offsets to verify: %w", p.stream.FullName(), record.ErrInvalid)
	}
	draining, err := v.o.Catalog.DrainingViews(ctx, p.branch.ID, catalog.MaxPage)
	if err != nil {
		return nil, err
	}
	for _, w := range append(draining, p.branch.View) {
		pv := pinnedView{View: w}
		if pv.progress, err = v.o.Catalog.ViewProgress(ctx, w.ID); err != nil {
			return nil, moved(err)
		}
		cp, err := v.o.Catalog.LatestCheckpoint(ctx, w.ID)
		switch {
		case err == nil:
			pv.newest = &cp
		case !errors.Is(err, record.ErrNotFound) && !errors.Is(err, record.ErrCorrupt):
			return nil, err
		}
		p.views = append(p.views, pv)
	}
	return p, nil
}

// moved turns "not found" of what was there a moment ago into errMoved.
func moved(err error) error {
	if errors.Is(err, record.ErrNotFound) {
		return fmt.Errorf("%w: %w", errMoved, err)
	}
	return err
}

// load reads the dataset past all caches. What it cannot read are findings.
func (v *Verifier) load(ctx context.Context, p *pinned) (findings []Finding, err error) {
	p.tables = v.tables()
	bad := func(place string, err error) ([]Finding, error) {
		if ctx.Err() != nil || !errors.Is(err, record.ErrCorrupt) && !errors.Is(err, record.ErrInvalid) {
			return nil, err
		}
		return []Finding{v.unreadable(ctx, place, err)}, nil
	}
	location, err := v.o.Pointers.TablePointer(ctx, p.branch.TableUUID)
	if errors.Is(err, record.ErrNotFound) {
		return []Finding{{Code: Missing, Place: "catalog: table " + p.branch.TableUUID, Detail: "the branch's table has no pointer", Remedy: "start the server, which makes an empty table, or restore the catalog"}}, nil
	}
	if err != nil {
		return nil, err
	}
	table, err := p.tables.LoadAt(ctx, p.branch.TableUUID, location)
	if err != nil {
		// A newer commit may have deleted it since the pointer was read.
		if now, err2 := v.o.Pointers.TablePointer(ctx, p.branch.TableUUID); err2 == nil && now != location {
			return nil, errMoved
		}
		return bad(location, err)
	}
	if id := table.Metadata().TableUUID().String(); id != p.branch.TableUUID {
		return []Finding{{Code: Metadata, Place: location, Detail: fmt.Sprintf("the pointer of table %s stands at the metadata of table %s", p.branch.TableUUID, id),
			Remedy: "restore the catalog from a copy"}}, nil
	}
	p.table = table
	if p.marker, err = table.Marker(); err != nil {
		// Without it nothing says which rows there must be.
		if findings, err = bad(location, err); err == nil {
			findings[0].Code = Marker
		}
		return findings, err
	}
	if p.files, err = table.FileRows(ctx, 0); err != nil {
		p.files = nil
		_, err = bad(location, err) // the walk over the storage names the file
	}
	return nil, err
}

// unreadable says of a file that the table names whether it is missing or
// damaged.
func (v *Verifier) unreadable(ctx context.Context, location string, cause error) Finding {
	f := Finding{Code: Metadata, Place: location, Detail: cause.Error()}
	if there, err := v.exists(ctx, location); err == nil && !there {
		f.Code, f.Detail = Missing, "the table names the file, but it is not there"
	}
	return f
}

// named tells whether the table still lists the snapshot that is being read, and
// so names its files.
func (v *Verifier) named(ctx context.Context, p *pinned) (bool, error) {
	head, ok := p.table.Head()
	if !ok {
		return false, nil
	}
	now, err := v.tables().Load(ctx, p.branch.TableUUID)
	if err != nil {
		return false, moved(err)
	}
	_, ok = now.Snapshot(head.ID)
	return ok, nil
}
