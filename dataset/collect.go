package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// PointerSharing is what Pointers may offer in addition. Branches share files; only
// who knows all of them may delete any: without it Collect and Purge refuse.
type PointerSharing interface {
	// TablesSharing returns the metadata locations of all tables that may share
	// files with table id, by their ids, as they were at one moment. The table id
	// is among them if it has a pointer. record.ErrNotFound if nothing is known of it.
	TablesSharing(ctx context.Context, id string) (locations map[string]string, err error)
}

// CollectOptions say which files may be deleted.
type CollectOptions struct {
	// Grace is how long a file must be known to be unreached before it is
	// deleted: longer than any reader holds a version and any writer takes from
	// its first byte to its commit. Default 24 hours.
	Grace time.Duration
	// DryRun deletes and writes nothing.
	DryRun bool
	// Progress, if set, is told now and then how many files were listed, or deleted
	// of how many.
	Progress func(phase string, done, total int)
}

// tellEvery is after how many files progress is told.
const tellEvery = 256

func (o *CollectOptions) tell(phase string, done, total int) {
	if o.Progress != nil && done%tellEvery == 0 {
		o.Progress(phase, done, total)
	}
}

const defaultGrace = 24 * time.Hour

// maxOrphans bounds the unreached files that one call remembers; those behind
// them have their turn later.
const maxOrphans = 100_000

// Orphan is a file below a table's location that no retained snapshot of any
// branch reaches.
type Orphan struct {
	Key   string
	Bytes int64
	Since time.Time // known to be unreached
	Due   bool      // for longer than the grace: deleted, but for a dry run
}

// Collection is what a call of Collect found and did.
type Collection struct {
	Listed  int // files below the table's location
	Orphans []Orphan
	// Deleted and DeletedBytes count the orphans that were due; with DryRun,
	// those that would be deleted now.
	Deleted      int
	DeletedBytes int64
}

// List yields the objects below a table's location, in the order of keys. After
// an error it ends.
func (d *Datasets) List(ctx context.Context, id string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		if err := checkID(id); err != nil {
			yield(objstore.Info{}, err)
			return
		}
		for o, err := range d.store.List(ctx, id+"/") {
			if !yield(o, err) || err != nil {
				return
			}
		}
	}
}

// Collect deletes files of a table that nothing leads to: those of failed
// commits and compactions, and of expired snapshots. A file is deleted when two
// calls at least a grace apart found that no retained snapshot of any table that
// may share files with this one reaches it; what is reached, is listed among the
// older metadata files, or is younger stays. In between, a ledger in the store
// remembers what was found when. The table must have a pointer.
//
// Errors: ErrNotFound (no such table), ErrInvalid (the pointers cannot be
// listed), ErrCorrupt (metadata of a table cannot be read: then nothing is
// deleted). An interruption leaves files for the next call. Calls at the same
// time are safe.
func (d *Datasets) Collect(ctx context.Context, id string, o CollectOptions) (Collection, error) {
	if o.Grace < 0 {
		return Collection{}, fmt.Errorf("dataset: collect files of table %s: grace %v: %w", id, o.Grace, record.ErrInvalid)
	}
	if o.Grace == 0 {
		o.Grace = defaultGrace
	}
	if _, err := d.Load(ctx, id); err != nil {
		return Collection{}, err
	}
	out, err := d.collect(ctx, id, o)
	if err != nil {
		return out, fmt.Errorf("dataset: collect files of table %s: %w", id, err)
	}
	return out, nil
}

func (d *Datasets) collect(ctx context.Context, id string, o CollectOptions) (out Collection, err error) {
	reached, _, err := d.reached(ctx, id)
	if err != nil {
		return out, err
	}
	unreached := map[string]objstore.Info{}
	for f, err := range d.List(ctx, id) {
		if err != nil {
			return out, err
		}
		out.Listed++
		o.tell("list", out.Listed, 0)
		if !reached[f.Key] && len(unreached) < maxOrphans {
			unreached[f.Key] = f
		}
	}
	// Once more behind the listing: a commit in between may have brought in what
	// it listed. From here on nothing unreached becomes reached but files of
	// commits under way, which are younger than the grace.
	if reached, _, err = d.reached(ctx, id); err != nil {
		return out, err
	}
	old, ledgers, err := d.readLedger(ctx, id)
	if err != nil {
		return out, err
	}
	now := d.now()
	next := map[string]int64{}
	for _, key := range slices.Sorted(maps.Keys(unreached)) {
		if reached[key] {
			continue
		}
		since, ok := old[key]
		if !ok || since > now.UnixMilli() {
			since = now.UnixMilli()
		}
		f := Orphan{Key: key, Bytes: unreached[key].Size, Since: time.UnixMilli(since).UTC()}
		f.Due = ok && now.Sub(f.Since) >= o.Grace
		out.Orphans = append(out.Orphans, f)
		if !f.Due {
			next[key] = since
			continue
		}
		if !o.DryRun {
			if err := d.store.Delete(ctx, key); err != nil {
				return out, err
			}
			o.tell("delete", out.Deleted, len(unreached))
		}
		out.Deleted++
		out.DeletedBytes += f.Bytes
	}
	// A crash up to here leaves the old ledger, which names files that are gone.
	if o.DryRun {
		return out, nil
	}
	return out, d.writeLedger(ctx, id, next, ledgers, now)
}

// reached returns the keys that table id, and all that may share files with it,
// lead to: their metadata files, and all that their retained snapshots need; and
// how many tables these are.
func (d *Datasets) reached(ctx context.Context, id string) (keys map[string]bool, tables int, err error) {
	sharing, ok := d.pointers.(PointerSharing)
	if !ok {
		return nil, 0, fmt.Errorf("the keeper of the tables' pointers does not tell which ones share files: %w", record.ErrInvalid)
	}
	// First: what is committed between the two looks is seen by the second.
	out, err := d.staged(ctx, id)
	if err != nil {
		return nil, 0, err
	}
	all, err := sharing.TablesSharing(ctx, id)
	if err != nil {
		return nil, 0, err
	}
	for other, location := range all {
		t, err := d.loadMetadata(ctx, other, location)
		if errors.Is(err, record.ErrCorrupt) {
			// Perhaps the table has moved on, and the file was dropped meanwhile.
			t, err = d.Load(ctx, other)
		}
		if errors.Is(err, record.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, 0, err
		}
		if err := t.reachKeys(ctx, out); err != nil {
			return nil, 0, err
		}
	}
	return out, len(all), nil
}

// reachKeys adds what t leads to.
func (t *Table) reachKeys(ctx context.Context, out map[string]bool) (err error) {
	add := func(location string) {
		// Files elsewhere, which an engine may have added, are not ours to tend.
		if key, err := objstore.Key(t.d.store, location); err == nil {
			out[key] = true
		}
	}
	add(t.location)
	for _, l := range t.previousFiles() {
		add(l)
	}
	w := reachWalk{t: t, seen: map[string]bool{}, yield: func(r Reached) bool {
		add(r.Location)
		if r.Err != nil {
			err = fmt.Errorf("table %s: %w", t.id, r.Err)
		}
		return err == nil
	}}
	if w.metadata(ctx, t.meta, false); err != nil {
		return err
	}
	return ctx.Err()
}

// The ledger of a table says since when files are known to be unreached. It is
// an object below gc/<table>/, named like a manifest with its checksum and
// replaced as a whole:
//
//	gc/<table>/<ms since 1970, 16 digits>-<uuid>.json
//	{"version":1,"since":{"<key>":<ms since 1970>,…}}
type ledger struct {
	Version int              `json:"version"`
	Since   map[string]int64 `json:"since"`
}

const ledgerVersion = 1

func ledgerPrefix(id string) string { return "gc/" + id + "/" }

// readLedger returns what the newest ledger says, and the keys of all. One that
// is damaged counts for nothing: that only delays.
func (d *Datasets) readLedger(ctx context.Context, id string) (since map[string]int64, keys []string, err error) {
	for f, err := range d.store.List(ctx, ledgerPrefix(id)) {
		if err != nil {
			return nil, nil, err
		}
		keys = append(keys, f.Key)
	}
	if len(keys) == 0 {
		return nil, nil, nil
	}
	data, err := d.readMeta(ctx, objstore.URI(d.store, keys[len(keys)-1]))
	if errors.Is(err, record.ErrCorrupt) {
		return nil, keys, nil // damaged, or another call replaced it
	}
	if err != nil {
		return nil, nil, err
	}
	var l ledger
	if json.Unmarshal(data, &l) != nil || l.Version != ledgerVersion {
		return nil, keys, nil
	}
	return l.Since, keys, nil
}

// writeLedger puts the ledger in the place of the old ones. A crash in between
// leaves several, of which the newest counts.
func (d *Datasets) writeLedger(ctx context.Context, id string, since map[string]int64, old []string, now time.Time) error {
	if len(since) > 0 {
		data, err := json.Marshal(ledger{ledgerVersion, since})
		if err != nil {
			return err
		}
		ms := now.UnixMilli()
		if len(old) > 0 { // the order of names must hold whatever the clock does
			var last int64
			if _, err := fmt.Sscanf(strings.TrimPrefix(old[len(old)-1], ledgerPrefix(id)), "%d-", &last); err == nil {
				ms = max(ms, last+1)
			}
		}
		if err := d.put(ctx, objstore.URI(d.store, fmt.Sprintf("%s%016d-%s.json", ledgerPrefix(id), ms, sumName(data))), data); err != nil {
			return err
		}
	}
	for _, key := range old {
		if err := d.store.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}
