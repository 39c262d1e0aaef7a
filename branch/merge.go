package branch

import (
	"context"
	"errors"
	"fmt"

	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Merge says what to merge a branch into, and how.
type Merge struct {
	Into     string
	Strategy dataset.Strategy // "": see dataset.MergeOptions
	DryRun   bool
}

// Merge brings what a branch got since it parted from another, or was merged into
// it last, into that branch: its rows, with every one that was acknowledged before
// the call, and its schema. No data is copied. Both branches go on meanwhile.
//
// Errors: *dataset.Conflicts, which nothing was changed for; record.ErrNotFound;
// record.ErrConflict (the strategy is not possible, the target is protected);
// others as of dataset.Datasets.Merge and of an archive. A merge of which the
// outcome is unknown may be repeated: it brings nothing twice.
func (d *Directory) Merge(ctx context.Context, stream, branch string, m Merge) (dataset.Merged, error) {
	fail := func(err error) (dataset.Merged, error) {
		return dataset.Merged{}, fmt.Errorf("merge branch %q of %s into %q: %w", branch, stream, m.Into, err)
	}
	s, source, err := d.lookup(ctx, stream, branch)
	if err != nil {
		return fail(err)
	}
	_, target, err := d.lookup(ctx, stream, m.Into)
	if err != nil {
		return fail(err)
	}
	if source.ID == target.ID {
		return fail(fmt.Errorf("a branch is not merged into itself: %w", record.ErrInvalid))
	}
	if m.Strategy == dataset.Replace && target.Policy.Protected && !m.DryRun {
		return fail(fmt.Errorf("%q is protected, and %s would drop rows that only it has; take the protection off, or merge with the strategy %s: %w", m.Into, dataset.Replace, dataset.Replay, record.ErrConflict))
	}
	o := dataset.MergeOptions{Strategy: m.Strategy, DryRun: m.DryRun}
	if s.Kind == catalog.KindStream {
		if err := d.o.Archive(ctx, source.ID); err != nil {
			return fail(fmt.Errorf("archive the rows of %q: %w", branch, err))
		}
		// Replacing drops what the target has archived, so that must be all it has;
		// and who asks for a fast-forward wants to know of hot rows, too.
		if m.Strategy == dataset.Replace || m.Strategy == dataset.FastForward {
			if err := d.o.Archive(ctx, target.ID); err != nil {
				return fail(fmt.Errorf("archive the rows of %q: %w", m.Into, err))
			}
		}
		if err := d.mergeSchemas(ctx, stream, source, target, &o); err != nil {
			return fail(err)
		}
	}
	out, err := d.o.Datasets.Merge(ctx, source.TableUUID, target.TableUUID, o)
	if err != nil {
		return fail(err)
	}
	return out, nil
}

// mergeSchemas gives the target branch the schema that it is to have, in the
// catalog: its table follows with the merge. It does so only if nothing stands
// against the merge.
//
// A crash behind it leaves a branch with a new schema and without the rows; to
// merge again brings them.
func (d *Directory) mergeSchemas(ctx context.Context, stream string, source, target catalog.Branch, o *dataset.MergeOptions) error {
	theirs, err := d.o.Catalog.SchemaByID(ctx, source.SchemaID)
	if err != nil {
		return err
	}
	ours, err := d.o.Catalog.SchemaByID(ctx, target.SchemaID)
	if err != nil {
		return err
	}
	base, err := d.commonSchema(ctx, source, target, o.Strategy)
	if err != nil {
		return err
	}
	merged, conflicts, err := dataset.MergeStreamSchemas(base, theirs, ours)
	if err != nil {
		return err
	}
	try := *o
	try.DryRun, try.Schema = true, func(context.Context) (*schema.Schema, []dataset.Conflict, error) { return merged, conflicts, nil }
	if o.DryRun {
		*o = try
		return nil
	}
	would, err := d.o.Datasets.Merge(ctx, source.TableUUID, target.TableUUID, try)
	if err != nil {
		return err
	}
	if would.Conflicts.Count > 0 {
		return &would.Conflicts
	}
	st, err := d.Adopt(ctx, stream, target.Name, theirs, func(now *schema.Schema) (*schema.Schema, error) {
		merged, conflicts, err := dataset.MergeStreamSchemas(base, theirs, now)
		if err == nil && len(conflicts) > 0 {
			err = fmt.Errorf("%s: %w", conflicts[0], record.ErrConflict)
		}
		return merged, err
	})
	if err != nil {
		return err
	}
	o.Schema = func(ctx context.Context) (*schema.Schema, []dataset.Conflict, error) {
		// The newest: the archiver may have brought a newer one into the table.
		b, err := d.o.Catalog.Branch(ctx, st.Stream.ID, target.Name)
		if err != nil {
			return nil, nil, err
		}
		s, err := d.o.Catalog.SchemaByID(ctx, b.SchemaID)
		return s, nil, err
	}
	return nil
}

// commonSchema is the schema of the branches' tables when they were last the
// same; nil where the strategy needs none.
func (d *Directory) commonSchema(ctx context.Context, source, target catalog.Branch, strategy dataset.Strategy) (*iceberg.Schema, error) {
	if strategy == dataset.Replace {
		return nil, nil
	}
	base, err := d.o.Datasets.CommonSchema(ctx, source.TableUUID, target.TableUUID)
	if errors.Is(err, record.ErrConflict) {
		return nil, fmt.Errorf("%w; the strategy %s needs no common ancestor", err, dataset.Replace)
	}
	return base, err
}
