package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// All checks every branch of every stream, one after the other, then what belongs
// to none of them: its events have an empty Stream. A stream that is deleted
// meanwhile is passed over; one without the producer and sequence columns is checked
// without them. Errors are those of Branch.
func (v *Verifier) All(ctx context.Context, q Request, emit func(Event) error) error {
	q, err := q.validate()
	if err != nil {
		return err
	}
	for token := ""; ; {
		page, err := v.o.Catalog.ListStreams(ctx, catalog.StreamQuery{Kind: catalog.KindStream, Limit: catalog.MaxPage, PageToken: token})
		if err != nil {
			return err
		}
		for _, s := range page.Streams {
			if err := v.stream(ctx, s, q, emit); err != nil {
				return err
			}
		}
		if token = page.Next; token == "" {
			return v.common(ctx, q, emit)
		}
	}
}

func (v *Verifier) stream(ctx context.Context, s catalog.Stream, q Request, emit func(Event) error) error {
	for after := catalog.BranchID(0); ; {
		page, err := v.o.Catalog.Branches(ctx, s.ID, after, catalog.MaxPage)
		if err != nil {
			return err
		}
		for _, b := range page {
			after = b.ID
			own := q
			if sc, err := v.o.Catalog.SchemaByID(ctx, b.SchemaID); err == nil && q.ProducerColumn != "" {
				if producer, sequence := labelColumns(sc, q); producer < 0 || sequence < 0 {
					own.ProducerColumn, own.SequenceColumn = "", ""
				}
			}
			err := v.Branch(ctx, s.FullName(), b.Name, own, emit)
			if errors.Is(err, record.ErrNotFound) {
				if _, gone := v.o.Catalog.BranchByID(ctx, b.ID); errors.Is(gone, record.ErrNotFound) {
					continue
				}
			}
			if err != nil {
				return err
			}
		}
		if len(page) < catalog.MaxPage {
			return nil
		}
	}
}

// common checks what no branch has: folders of the warehouse, views of the hot
// buffer, and the hot log's own records.
func (v *Verifier) common(ctx context.Context, q Request, emit func(Event) error) error {
	r := newReport("", "", emit)
	begin := v.o.Now()
	if err := v.strays(ctx, q, r); err != nil {
		return err
	}
	if err := v.unknownViews(ctx, r); err != nil {
		return err
	}
	for _, d := range v.o.Damage() {
		if d.Offsets.Len() == 0 {
			r.add(Finding{Code: Damaged, Severity: Notice, Place: damagePlace(&d), Detail: d.Error(),
				Remedy: "nothing of a stream is lost; look at the disk"})
		}
	}
	r.sum.Seconds = v.o.Now().Sub(begin).Seconds()
	r.send(Event{Summary: &r.sum})
	return r.err
}

// folder is a folder of the warehouse.
type folder struct {
	files, bytes int64
	newest       time.Time
}

// strays tells folders that no branch has, and that are in no trash.
func (v *Verifier) strays(ctx context.Context, q Request, r *report) error {
	folders := map[string]*folder{}
	for o, err := range v.o.Store.List(ctx, "") {
		if err != nil {
			return err
		}
		// The list of a table's forgotten files is kept in gc/<table>.
		name, _, _ := strings.Cut(strings.TrimPrefix(o.Key, "gc/"), "/")
		f := folders[name]
		if f == nil {
			if len(folders) == maxObjects {
				return fmt.Errorf("the warehouse has more than %d folders: %w", maxObjects, record.ErrTooLarge)
			}
			f = &folder{}
			folders[name] = f
		}
		f.files, f.bytes = f.files+1, f.bytes+o.Size
		if o.Modified.After(f.newest) {
			f.newest = o.Modified
		}
		r.sum.Objects++
		if err := r.advance(); err != nil {
			return err
		}
	}
	// Streams that came since only take folders away.
	if err := v.eachTable(ctx, func(table string) { delete(folders, table) }); err != nil {
		return err
	}
	names := make([]string, 0, len(folders))
	for name := range folders {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f := folders[name]
		age := v.o.Now().Sub(f.newest)
		found := Finding{Code: Orphan, Place: v.o.Store.Base() + name,
			Detail: fmt.Sprintf("%d files with %d bytes, the newest %v old; no branch has this table", f.files, f.bytes, age.Round(time.Second))}
		if age < q.Grace {
			found.Severity = Notice
		}
		r.add(found)
	}
	return nil
}

// eachTable calls do with the tables of all branches, and of those in the trash.
func (v *Verifier) eachTable(ctx context.Context, do func(table string)) error {
	for token := ""; ; {
		page, err := v.o.Catalog.ListStreams(ctx, catalog.StreamQuery{Limit: catalog.MaxPage, PageToken: token})
		if err != nil {
			return err
		}
		for _, s := range page.Streams {
			for after := catalog.BranchID(0); ; {
				branches, err := v.o.Catalog.Branches(ctx, s.ID, after, catalog.MaxPage)
				if err != nil {
					return err
				}
				for _, b := range branches {
					after = b.ID
					do(b.TableUUID)
				}
				if len(branches) < catalog.MaxPage {
					break
				}
			}
		}
		if token = page.Next; token == "" {
			break
		}
	}
	// The trash last: a stream that is deleted now goes from there to here.
	trash, err := v.o.Catalog.TrashDue(ctx, time.UnixMilli(math.MaxInt64/2), catalog.MaxPage)
	if err != nil {
		return err
	}
	for _, t := range trash {
		do(t.TableUUID)
	}
	if len(trash) == catalog.MaxPage {
		return fmt.Errorf("more than %d deleted tables wait for their files to go; verify again when they have: %w", catalog.MaxPage-1, record.ErrTooLarge)
	}
	return nil
}

// unknownViews tells views of the hot buffer that the catalog does not know. Those
// of a deleted stream are dropped a moment later, or at the next start.
func (v *Verifier) unknownViews(ctx context.Context, r *report) error {
	newest, err := v.o.Catalog.NewestView(ctx)
	if err != nil {
		return err
	}
	for _, id := range v.o.Buffer.Views() {
		_, err := v.o.Catalog.View(ctx, id)
		if err == nil {
			continue
		}
		if !errors.Is(err, record.ErrNotFound) {
			return err
		}
		f := Finding{Code: ViewState, Place: fmt.Sprintf("%s view %v", hotPlace, id), Detail: "the catalog does not have this view; a start of the server drops it", Severity: Notice}
		if id > newest {
			// Read behind the views: ids are given out before views are opened.
			if now, err := v.o.Catalog.NewestView(ctx); err != nil {
				return err
			} else if id > now {
				f.Severity, f.Detail = Failure, fmt.Sprintf("the newest view that the catalog ever gave out is %v: it is another one, or an older copy", now)
				f.Remedy = "restore the catalog that belongs to this log"
			}
		}
		r.add(f)
	}
	return nil
}
