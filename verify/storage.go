package verify

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// maxObjects bounds the files of a table that are remembered, at some sixty bytes
// each.
const maxObjects = 4 << 20

// objectID stands for a key: what is remembered does not grow with its length.
type objectID [16]byte

func idOf(key string) objectID {
	sum := sha256.Sum256([]byte(key))
	return objectID(sum[:16])
}

// object is a file that the store lists.
type object struct {
	size    int64
	reached bool
}

// storage holds the files that the table's metadata leads to against those that
// are there. What leads where is looked up twice, before the files are listed and
// behind: a commit or an expiry in between belongs to one of the two.
func (v *Verifier) storage(ctx context.Context, p *pinned, q Request, r *report) error {
	if p.table == nil {
		return nil
	}
	r.progress.Phase = "storage"
	prefix := p.branch.TableUUID + "/"
	objects := map[objectID]*object{}
	for o, err := range v.o.Store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		r.sum.Objects++
		if len(objects) == maxObjects {
			return fmt.Errorf("the table %s has more than %d files: %w", p.branch.TableUUID, maxObjects, record.ErrTooLarge)
		}
		objects[idOf(o.Key)] = &object{size: o.Size}
		if err := r.advance(); err != nil {
			return err
		}
	}
	w := &reach{v: v, r: r, p: p, objects: objects}
	if err := w.table(ctx, p.table, false); err != nil {
		return err
	}
	// Other branches may share files, and commits have gone on.
	for after := catalog.BranchID(0); ; {
		page, err := v.o.Catalog.Branches(ctx, p.stream.ID, after, catalog.MaxPage)
		if err != nil {
			return err
		}
		for _, b := range page {
			after = b.ID
			t, err := v.tables().Load(ctx, b.TableUUID)
			switch {
			case err == nil:
				if err := w.table(ctx, t, true); err != nil {
					return err
				}
			case errors.Is(err, record.ErrCorrupt), errors.Is(err, record.ErrInvalid):
				w.blind = true // told where that branch is checked
			case !errors.Is(err, record.ErrNotFound):
				return err
			}
		}
		if len(page) < catalog.MaxPage {
			break
		}
	}
	return w.orphans(ctx, prefix, q.Grace)
}

// reach marks what tables lead to.
type reach struct {
	v       *Verifier
	r       *report
	p       *pinned
	objects map[objectID]*object
	// blind: some metadata could not be read, and with it what it leads to. Then
	// nothing may be called forgotten: somebody could delete it.
	blind bool
}

// table marks what one table leads to. Of the pinned one (not of others), what
// cannot be read or is not there is told.
func (w *reach) table(ctx context.Context, t *dataset.Table, other bool) error {
	for f := range t.Reach(ctx) {
		if err := w.r.advance(); err != nil {
			return err
		}
		if f.Err != nil && !f.Former {
			w.blind = true
		}
		key, err := objstore.Key(w.v.o.Store, f.Location)
		if err != nil {
			continue // registered from elsewhere: not ours to look after
		}
		o := w.objects[idOf(key)]
		if o != nil {
			o.reached = true
		}
		if other || f.Former {
			continue
		}
		if err := w.check(ctx, f, o); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// check tells a file that is missing, or metadata that cannot be read.
func (w *reach) check(ctx context.Context, f dataset.Reached, o *object) error {
	if f.Err != nil && ctx.Err() == nil && !errors.Is(f.Err, record.ErrCorrupt) && !errors.Is(f.Err, record.ErrInvalid) {
		return f.Err
	}
	if o != nil && f.Err == nil {
		return nil
	}
	there, err := w.v.exists(ctx, f.Location)
	if err != nil {
		return err
	}
	if there && f.Err == nil {
		return nil // newer than the list of files
	}
	still, err := w.v.leads(ctx, w.p, f.Location)
	if err != nil {
		return err
	}
	if !still {
		return nil // expired meanwhile
	}
	found := Finding{Code: Missing, Place: f.Location, Detail: fmt.Sprintf("the table names this %s, but it is not there", f.What)}
	if there {
		found.Code, found.Detail = Metadata, fmt.Sprintf("the %s cannot be read: %v", f.What, f.Err)
	}
	w.r.add(found)
	return nil
}

// leads tells whether the table as it is now still leads to a location.
func (v *Verifier) leads(ctx context.Context, p *pinned, location string) (bool, error) {
	t, err := v.tables().Load(ctx, p.branch.TableUUID)
	if err != nil {
		return false, moved(err)
	}
	for f := range t.Reach(ctx) {
		if f.Location == location && !f.Former {
			return true, nil
		}
	}
	return false, ctx.Err()
}

// orphans tells the files that nothing leads to.
func (w *reach) orphans(ctx context.Context, prefix string, grace time.Duration) error {
	if w.blind {
		return nil
	}
	now := w.v.o.Now()
	for o, err := range w.v.o.Store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		known := w.objects[idOf(o.Key)]
		if known == nil || known.reached {
			continue // came since, or is in use
		}
		if there, err := w.v.exists(ctx, objstore.URI(w.v.o.Store, o.Key)); err != nil {
			return err
		} else if !there {
			continue
		}
		age := now.Sub(o.Modified)
		f := Finding{Code: Orphan, Place: objstore.URI(w.v.o.Store, o.Key), Detail: fmt.Sprintf("%d bytes, %v old; no snapshot leads to it", o.Size, age.Round(time.Second))}
		if age < grace {
			f.Severity = Notice
			f.Remedy = "leave it: it may belong to a commit under way"
		}
		w.r.add(f)
	}
	return nil
}
