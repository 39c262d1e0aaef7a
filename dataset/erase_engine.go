package dataset

import (
	"context"

	"github.com/apache/iceberg-go"
)

// shares is how many may share files between tables at a time.
const shares = 64

// Share begins what makes one table name files of another: a fork, up to its
// pointer, or a merge. Erase waits until it is ended, and begins nothing before:
// a file that goes would else come into a table that nobody looks at.
func (d *Datasets) Share(ctx context.Context) (end func(), err error) {
	select {
	case d.sharing <- struct{}{}:
		return func() { <-d.sharing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// alone waits until nobody shares files, and keeps others from it.
func (d *Datasets) alone(ctx context.Context) (end func(), err error) {
	n := 0
	end = func() {
		for range n {
			<-d.sharing
		}
	}
	for range shares {
		select {
		case d.sharing <- struct{}{}:
			n++
		case <-ctx.Done():
			end()
			return nil, ctx.Err()
		}
	}
	return end, nil
}

// notErased makes sure that a client's change does not bring back what was erased
// since the client loaded the table: manifests of old versions, and files that
// others stand in the place of.
func (r *restaging) notErased(ctx context.Context) error {
	if r.w.base.Property(erasedKey) == "" {
		return nil
	}
	const why = "rows of the table were erased since it was loaded (%s is of a version of before); load it again"
	var is map[string]int64
	for path, m := range r.theirs {
		if r.base[path] != nil {
			continue
		}
		if !r.w.fresh[m.SnapshotID()] {
			return unmet(why, path)
		}
		if m.ManifestContent() != iceberg.ManifestContentData || m.ExistingDataFiles() == 0 && m.DeletedDataFiles() == 0 {
			continue
		}
		entries, err := r.w.entriesOf(ctx, m)
		if err != nil {
			return err
		}
		if is == nil {
			if is, err = r.livePaths(ctx, r.base); err != nil {
				return err
			}
		}
		for _, e := range entries {
			if _, ok := is[e.DataFile().FilePath()]; !ok && e.Status() != iceberg.EntryStatusADDED {
				return unmet(why, e.DataFile().FilePath())
			}
		}
	}
	return nil
}
