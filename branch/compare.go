package branch

import (
	"context"
	"fmt"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
)

// Compare says how to compare two branches.
type Compare struct {
	Sample int // rows to show of each kind
	// Archived compares what is archived; otherwise both branches are archived
	// first, so that every row that was acknowledged before the call counts.
	Archived bool
}

// Compare says what a branch and another of the same stream have each for
// themselves. Errors: record.ErrNotFound, those of dataset.Datasets.Compare and of
// an archive.
func (d *Directory) Compare(ctx context.Context, stream, branch, other string, c Compare) (dataset.Comparison, error) {
	fail := func(err error) (dataset.Comparison, error) {
		return dataset.Comparison{}, fmt.Errorf("compare branch %q of %s with %q: %w", branch, stream, other, err)
	}
	s, one, err := d.lookup(ctx, stream, branch)
	if err != nil {
		return fail(err)
	}
	_, two, err := d.lookup(ctx, stream, other)
	if err != nil {
		return fail(err)
	}
	o := dataset.CompareOptions{Sample: c.Sample}
	if s.Kind == catalog.KindStream {
		if !c.Archived {
			for _, b := range []catalog.Branch{one, two} {
				if err := d.o.Archive(ctx, b.ID); err != nil {
					return fail(fmt.Errorf("archive the rows of %q: %w", b.Name, err))
				}
			}
		}
		if o.Schema, err = d.o.Catalog.SchemaByID(ctx, two.SchemaID); err != nil {
			return fail(err)
		}
	}
	out, err := d.o.Datasets.Compare(ctx, one.TableUUID, two.TableUUID, o)
	if err != nil {
		return fail(err)
	}
	return out, nil
}
