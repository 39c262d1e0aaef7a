package branch

import (
	"context"
	"fmt"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// CreateTag gives a snapshot of a branch a name that expiry heeds. Snapshot 0: the
// branch as it is now, with every row acknowledged before the call. Errors as of
// dataset.Datasets.CreateTag, or those of an archive.
func (d *Directory) CreateTag(ctx context.Context, stream, branch, tag string, snapshot int64) (dataset.Tag, error) {
	if err := catalog.ValidateTagName(tag); err != nil {
		return dataset.Tag{}, fmt.Errorf("create tag: %w", err)
	}
	s, b, err := d.lookup(ctx, stream, branch)
	if err != nil {
		return dataset.Tag{}, fmt.Errorf("create tag %s: %w", tag, err)
	}
	fail := func(err error) (dataset.Tag, error) {
		return dataset.Tag{}, fmt.Errorf("create tag %s on %s: %w", tag, displayName(s.FullName(), branch), err)
	}
	if s.Kind == catalog.KindStream && snapshot == 0 {
		if err := d.o.Archive(ctx, b.ID); err != nil {
			return fail(fmt.Errorf("archive the rows that it names: %w", err))
		}
	}
	t, err := d.o.Datasets.CreateTag(ctx, b.TableUUID, tag, snapshot)
	if err != nil {
		return fail(err)
	}
	return t, nil
}

// Tags lists the tags of a branch by name.
func (d *Directory) Tags(ctx context.Context, stream, branch string) ([]dataset.Tag, error) {
	t, name, err := d.tableOf(ctx, stream, branch)
	if err != nil {
		return nil, fmt.Errorf("list the tags of %s: %w", name, err)
	}
	return t.Tags(), nil
}

// Tag finds a tag of a branch. record.ErrNotFound.
func (d *Directory) Tag(ctx context.Context, stream, branch, tag string) (dataset.Tag, error) {
	t, name, err := d.tableOf(ctx, stream, branch)
	if err == nil {
		var found dataset.Tag
		if found, err = t.Tag(tag); err == nil {
			return found, nil
		}
	}
	return dataset.Tag{}, fmt.Errorf("tag %q of %s: %w", tag, name, err)
}

// DeleteTag takes a tag from a branch. record.ErrNotFound.
func (d *Directory) DeleteTag(ctx context.Context, stream, branch, tag string) error {
	s, b, err := d.lookup(ctx, stream, branch)
	if err != nil {
		return fmt.Errorf("delete tag %q: %w", tag, err)
	}
	if err := d.o.Datasets.DeleteTag(ctx, b.TableUUID, tag); err != nil {
		return fmt.Errorf("delete tag %q of %s: %w", tag, displayName(s.FullName(), branch), err)
	}
	return nil
}

func (d *Directory) tableOf(ctx context.Context, stream, branch string) (t *dataset.Table, name string, err error) {
	s, b, err := d.lookup(ctx, stream, branch)
	if err != nil {
		return nil, stream, err
	}
	t, err = d.o.Datasets.Load(ctx, b.TableUUID)
	return t, displayName(s.FullName(), branch), err
}

// Pick returns the first branch of a chain that the stream, or the dataset
// without one, has: a read on a branch that was not made here falls back to the
// next. record.ErrNotFound if it has none of them.
func (d *Directory) Pick(ctx context.Context, stream string, chain []string) (string, error) {
	for _, name := range chain {
		if _, _, err := d.find(stream, name); err == nil {
			return name, nil
		}
	}
	// A dataset without a stream, or none at all.
	ns, short, err := catalog.ParseName(stream)
	if err != nil {
		return "", err
	}
	s, err := d.o.Catalog.Stream(ctx, ns, short)
	if err != nil {
		return "", fmt.Errorf("%s.%s: %w", ns, short, err)
	}
	if s.Kind == catalog.KindDataset {
		for _, name := range chain {
			if _, _, err := d.lookup(ctx, stream, name); err == nil {
				return name, nil
			}
		}
	}
	return "", fmt.Errorf("%s.%s has none of the branches %q: %w", ns, short, chain, record.ErrNotFound)
}
