package verify

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/apache/iceberg-go/table"

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

// orphans tells the files that nothing leads to. Three kinds are as they should be:
// young ones, which may belong to a commit under way; those older than the
// history that is kept, which expiry leaves behind; and those that the collection of
// files has on its list.
func (w *reach) orphans(ctx context.Context, prefix string, grace time.Duration) error {
	if w.blind {
		return nil
	}
	now, kept := w.v.o.Now(), keptSince(w.p.table)
	var listed map[string]bool
	for o, err := range w.v.o.Store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		known := w.objects[idOf(o.Key)]
		if known == nil || known.reached {
			continue // came since, or is in use
		}
		location := objstore.URI(w.v.o.Store, o.Key)
		if there, err := w.v.exists(ctx, location); err != nil {
			return err
		} else if !there {
			continue
		}
		age := now.Sub(o.Modified)
		f := Finding{Code: Orphan, Place: location, Detail: fmt.Sprintf("%d bytes, %v old; no snapshot leads to it", o.Size, age.Round(time.Second))}
		switch {
		case age < grace:
			f.Severity, f.Remedy = Notice, "leave it: it may belong to a commit under way"
		case o.Modified.Before(kept):
			f.Severity, f.Remedy = Notice, "nothing: expiry of old snapshots leaves such files, and a collection deletes them"
		default:
			if listed == nil {
				if listed, err = w.collected(ctx); err != nil {
					return err
				}
			}
			if listed[o.Key] {
				f.Severity, f.Remedy = Notice, "nothing: the collection of files has it on its list"
			}
		}
		w.r.add(f)
	}
	return nil
}

// keptSince is the time from which on all snapshots are kept: what older ones left
// behind may have no owner. The zero time: none was ever dropped. Snapshots that a
// tag holds may be older.
func keptSince(t *dataset.Table) time.Time {
	tagged := map[int64]bool{}
	for name, ref := range t.Metadata().Refs() {
		if name != table.MainBranch {
			tagged[ref.SnapshotID] = true
		}
	}
	head, _ := t.Head()
	for _, s := range t.Snapshots() { // oldest first
		if s.Parent == 0 {
			return time.Time{}
		}
		if !tagged[s.ID] || s.ID == head.ID {
			return s.Time
		}
	}
	return head.Time
}

// collected returns the files that an earlier collection has found.
func (w *reach) collected(ctx context.Context) (map[string]bool, error) {
	begun := w.v.o.Now()
	c, err := w.v.tables().Collect(ctx, w.p.branch.TableUUID, dataset.CollectOptions{DryRun: true})
	if errors.Is(err, record.ErrInvalid) || errors.Is(err, record.ErrCorrupt) || errors.Is(err, record.ErrNotFound) {
		return map[string]bool{}, nil // it has no list, or cannot go on with it
	}
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, o := range c.Orphans {
		known[o.Key] = o.Since.Before(begun.Truncate(time.Millisecond))
	}
	return known, nil
}
