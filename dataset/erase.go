package dataset

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/predicate"
)

// EraseTable is one of the tables that rows are erased from.
type EraseTable struct {
	ID string
	// Schema is the user's fields of the table's current schema, with their
	// defaults; nil: the table's, without defaults.
	Schema *schema.Schema
}

// EraseOptions say what is erased.
type EraseOptions struct {
	// Tables lists all that may share files with each other, those of all branches:
	// at the beginning, and again before anything is deleted.
	Tables func(context.Context) ([]EraseTable, error)
	// Trash lists tables whose pointers are gone and whose files may not be. Those
	// that nothing else leads to go, whatever their age. Nil: none.
	Trash func(context.Context) ([]string, error)
	// Where selects the rows. Its columns are looked up in the schema of the
	// first table that has them all, and found by their field ids in the others.
	Where predicate.Expr
	// Grace is how old a file that nothing leads to must be to be deleted at the
	// end. Younger ones may belong to a commit under way. Default an hour.
	Grace time.Duration
	// DryRun only counts.
	DryRun bool
	// Progress, if set, is called now and then, by one goroutine at a time.
	Progress func(EraseProgress)
}

// defaultEraseGrace is longer than our own commits take.
const defaultEraseGrace = time.Hour

// EraseProgress is where an erasure stands.
type EraseProgress struct {
	Phase string // "examine", "rewrite", "commit", "delete"
	// Files and Bytes of Total were looked at.
	Files, TotalFiles int
	Bytes, TotalBytes int64
}

// Erasure is what a call of Erase did, or would do.
type Erasure struct {
	Tables []TableErasure
	// DeletedFiles of DeletedBytes went at once, and with them all that they held.
	DeletedFiles int
	DeletedBytes int64
	// RemainingFiles of RemainingBytes lead nowhere but are younger than the
	// grace: they may belong to commits under way, and may hold erased rows.
	RemainingFiles int
	RemainingBytes int64
}

// TableErasure is the part of one table, over all its retained snapshots.
type TableErasure struct {
	ID string
	// Examined data files, of which Matched held Rows that matched.
	Examined, Matched int
	Rows              int64
	// Bytes of the files that matched, and BytesAfter of those in their place.
	Bytes, BytesAfter int64
	// Snapshots that led to them.
	Snapshots int
}

// Erase removes the rows that match from all data files of all retained
// snapshots of the tables, and deletes the old files at once. Snapshots keep
// their ids, sequence numbers and times; other rows keep their places; the
// offsets of erased rows stay empty, and Erased tells which they are. Statistics
// of other engines go.
//
// One commit per table: the tables change one after the other. What is committed
// meanwhile is examined as well. After an error or a crash some tables may be
// done and some not, and old files may be left; calling again with the same
// options does the rest. Readers that still hold an old version get ErrBusy for
// a file that is gone, and read again.
//
// Errors: ErrInvalid (a column that no table has, or a file that cannot be
// rewritten: of a format or with deletes that are not read), ErrConflict (others
// kept committing), ErrCorrupt (a file is damaged), those of Commit.
func (d *Datasets) Erase(ctx context.Context, o EraseOptions) (Erasure, error) {
	if o.Grace < 0 {
		return Erasure{}, fmt.Errorf("dataset: erase rows: grace %v: %w", o.Grace, record.ErrInvalid)
	}
	if o.Grace == 0 {
		o.Grace = defaultEraseGrace
	}
	select {
	case d.erasing <- struct{}{}:
		defer func() { <-d.erasing }()
	case <-ctx.Done():
		return Erasure{}, fmt.Errorf("dataset: erase rows: %w", ctx.Err())
	}
	e := &eraser{d: d, o: o, files: map[string]*erasedFile{}, deletes: map[string]*erasedFile{}}
	out, err := e.run(ctx)
	if err != nil {
		return out, fmt.Errorf("dataset: erase rows: %w", err)
	}
	return out, nil
}

// eraser is one Erase.
type eraser struct {
	d       *Datasets
	o       EraseOptions
	tables  []*Table
	given   []EraseTable // as tables
	primary *predicate.Bound
	want    *schema.Schema   // its columns
	schemas []*schema.Schema // that files may have been written with, oldest first
	// files and deletes are what was found out about files, by location; those
	// without matching rows stay as they are.
	files   map[string]*erasedFile
	deletes map[string]*erasedFile
	live    map[string]look // of the tables as they were loaded
	erased  rowSetBuilder
	known   rowSet // that were erased before
	earlier []erasureNote
	p       EraseProgress
}

// maxEraseRounds bounds how often files that came meanwhile are looked at.
const maxEraseRounds = 50

func (e *eraser) run(ctx context.Context) (out Erasure, err error) {
	for round := 1; ; round++ {
		if err := e.load(ctx); err != nil {
			return out, err
		}
		if err := e.bind(); err != nil {
			return out, err
		}
		if err := e.examine(ctx); err != nil {
			return out, err
		}
		if round == 1 || e.o.DryRun {
			if out.Tables, err = e.count(ctx); err != nil || e.o.DryRun {
				return out, err
			}
		}
		err := e.apply(ctx, &out)
		switch {
		case err == nil:
			return out, nil
		case !errors.Is(err, errUnexamined):
			return out, err
		case round == maxEraseRounds:
			return out, fmt.Errorf("%d times others committed files first: %w: %w", round, err, record.ErrConflict)
		}
	}
}

// apply makes what was found out true, while no table gets files of another.
func (e *eraser) apply(ctx context.Context, out *Erasure) error {
	end, err := e.d.alone(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := e.commitAll(ctx); err != nil {
		return err
	}
	// A crash here leaves the old files, which each table lists.
	if err := e.deleteOld(ctx, out); err != nil {
		return err
	}
	// A crash here leaves lists of files that are gone.
	return e.settle(ctx)
}

func (e *eraser) tell(phase string) {
	e.p.Phase = phase
	if e.o.Progress != nil {
		e.o.Progress(e.p)
	}
}

// load reads the tables as they are now, and what earlier erasures left to do.
// Tables that are gone are left out.
func (e *eraser) load(ctx context.Context) error {
	list, err := e.o.Tables(ctx)
	if err != nil {
		return err
	}
	e.tables, e.given, e.earlier = nil, nil, nil
	for _, g := range list {
		t, err := e.d.Load(ctx, g.ID)
		if errors.Is(err, record.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		e.tables, e.given = append(e.tables, t), append(e.given, g)
		note, err := t.erasureNote(ctx)
		if err != nil {
			return err
		}
		if note != nil {
			e.known = e.known.plus(note.rows())
			e.earlier = append(e.earlier, *note)
		}
	}
	return nil
}

// bind resolves the predicate, and gathers the schemas that files may have.
func (e *eraser) bind() error {
	var first error
	e.schemas = nil
	for i, t := range e.tables {
		s := e.given[i].Schema
		if s == nil {
			var err error
			if s, err = schema.FromIceberg(t.Schema()); err != nil {
				return err
			}
		}
		b, err := e.o.Where.Bind(s)
		switch {
		case err != nil && first == nil:
			first = err
		case err == nil && e.primary == nil:
			e.primary = b
			paths := make([]string, 0, len(b.Columns()))
			for _, c := range b.Columns() {
				paths = append(paths, c.Path)
			}
			if e.want, err = s.Project(paths); err != nil {
				return err
			}
		}
		for _, old := range t.meta.Schemas() {
			if s, err := schema.FromIceberg(old); err == nil {
				e.schemas = append(e.schemas, s)
			}
		}
	}
	if e.primary != nil {
		return nil
	}
	if first == nil {
		first = fmt.Errorf("none of the tables exists: %w", record.ErrNotFound)
	}
	return first
}

// key is the key of a file in the store; ok is false for files elsewhere.
func (d *Datasets) key(location string) (key string, ok bool) {
	key, err := objstore.Key(d.store, location)
	return key, err == nil
}
