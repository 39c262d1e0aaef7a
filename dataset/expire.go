package dataset

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/thermocline/thermocline/record"
)

// ExpireOptions say which versions of a table may go. The head, what a ref (a
// branch or tag, such as the one on the newest marker) names, and the rows of
// all versions that stay are never touched.
type ExpireOptions struct {
	// MaxAge is how long a snapshot is kept after it ceased to be the head:
	// readers and archives that began on it are done by then. Default 5 days.
	MaxAge time.Duration
	// KeepLast is how many of the newest versions are kept whatever their age,
	// the head among them. Default 1.
	KeepLast int
	// DryRun only tells what would go.
	DryRun bool
}

const defaultMaxAge = 5 * 24 * time.Hour

// Expiry is what a call of Expire did, or would do.
type Expiry struct {
	Expired []int64 // snapshots, oldest first
	Kept    int
}

// Expire drops old snapshots from a table's metadata. It deletes no file: what
// only they reached is left to Collect, after its grace. Time travel to them
// ends with record.ErrNotFound. Errors as of Commit; after any error some or
// none may have gone, and calling again is safe.
func (d *Datasets) Expire(ctx context.Context, id string, o ExpireOptions) (Expiry, error) {
	if o.MaxAge < 0 || o.KeepLast < 0 {
		return Expiry{}, fmt.Errorf("dataset: expire snapshots of table %s: maximal age %v, keep the last %d: %w", id, o.MaxAge, o.KeepLast, record.ErrInvalid)
	}
	if o.MaxAge == 0 {
		o.MaxAge = defaultMaxAge
	}
	o.KeepLast = max(o.KeepLast, 1)
	if o.DryRun {
		t, err := d.Load(ctx, id)
		if err != nil {
			return Expiry{}, err
		}
		return t.expirable(d.now().Add(-o.MaxAge), o.KeepLast), nil
	}
	var out Expiry
	// Anew on each attempt: the head moves, and refs may come.
	_, err := d.Commit(ctx, id, Commit{expire: func(t *Table) []int64 {
		out = t.expirable(d.now().Add(-o.MaxAge), o.KeepLast)
		return out.Expired
	}})
	if err != nil {
		return Expiry{}, err
	}
	return out, nil
}

// expirable finds the snapshots that ceased to be the head before the time,
// except the newest keep versions and those that refs name.
func (t *Table) expirable(before time.Time, keep int) Expiry {
	kept := map[int64]bool{}
	for _, ref := range t.meta.Refs() {
		kept[ref.SnapshotID] = true
	}
	replaced := map[int64]int64{} // when a version got a successor, ms
	newer, n := int64(0), 0
	for s := range t.ancestors() {
		if n < keep {
			kept[s.SnapshotID] = true
		}
		if n > 0 {
			replaced[s.SnapshotID] = newer
		}
		newer = s.TimestampMs
		n++
	}
	all := t.Snapshots()
	var out Expiry
	for _, s := range all {
		// One that is not in the head's history was rolled back, at a time that
		// is not known but later than its own.
		since, ok := replaced[s.ID]
		if !ok {
			since = s.Time.UnixMilli()
		}
		if !kept[s.ID] && since <= before.UnixMilli() {
			out.Expired = append(out.Expired, s.ID)
		}
	}
	out.Expired = slices.Clip(out.Expired)
	out.Kept = len(all) - len(out.Expired)
	return out
}
