package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// erasedKey is the table property that says where the note on erasures is.
const erasedKey = "thermocline.erased"

// erasureNote says what erasures took out of a table, and what is left to do. It
// is an object beside the metadata files, named like a manifest with its
// checksum; the table's property thermocline.erased names the newest one:
//
//	<table>/metadata/erased-<uuid>.json
//	{"version":1,
//	 "ranges":{"<view>":{"<partition>":[<first>,<count>,<skipped>,<count>,…]}},
//	 "old":["<key>",…],
//	 "replaced":{"<location>":"<location>",…}}
//
// Ranges are the offsets of erased rows: from the first on so many, then so many
// that were not erased, and so on. Old files hold erased rows and are to be
// deleted as soon as no table leads to them; replaced says which new data file has
// the rows that are left of an old one. Both are empty when all is done.
type erasureNote struct {
	Version  int                           `json:"version"`
	Ranges   map[string]map[string][]int64 `json:"ranges"`
	Old      []string                      `json:"old,omitempty"`
	Replaced map[string]string             `json:"replaced,omitempty"`
}

const noteVersion = 1

func newErasureNote(erased rowSet) erasureNote {
	n := erasureNote{Version: noteVersion, Ranges: map[string]map[string][]int64{}}
	end := record.Offset(0)
	for i, r := range erased {
		view, part := strconv.Itoa(int(r.view)), strconv.Itoa(int(r.partition))
		if i == 0 || !erased[i-1].sameLog(r) {
			end = 0
		}
		if n.Ranges[view] == nil {
			n.Ranges[view] = map[string][]int64{}
		}
		n.Ranges[view][part] = append(n.Ranges[view][part], int64(r.Start-end), r.Len())
		end = r.End
	}
	return n
}

// rows are the erased ones; numbers that make no sense are left out.
func (n *erasureNote) rows() rowSet {
	var out []rowRange
	for v, parts := range n.Ranges {
		view, err := strconv.ParseInt(v, 10, 32)
		if err != nil {
			continue
		}
		for p, steps := range parts {
			part, err := strconv.ParseInt(p, 10, 32)
			if err != nil || part < 0 || part >= record.MaxPartitions {
				continue
			}
			at := int64(0)
			for i := 0; i+1 < len(steps) && steps[i] >= 0 && steps[i+1] >= 0 && at <= maxOffset-steps[i]-steps[i+1]; i += 2 {
				start := at + steps[i]
				at = start + steps[i+1]
				out = append(out, rowRange{record.ViewNumber(view), record.Partition(part), record.Range{Start: record.Offset(start), End: record.Offset(at)}})
			}
		}
	}
	return newRowSet(out)
}

// maxOffset keeps sums of what a note says in range.
const maxOffset = int64(1) << 61

// erasureNote reads the table's note; nil if nothing was ever erased.
func (t *Table) erasureNote(ctx context.Context) (*erasureNote, error) {
	location := t.Property(erasedKey)
	if location == "" {
		return nil, nil
	}
	data, err := t.d.readMeta(ctx, location)
	if err != nil {
		return nil, err
	}
	var n erasureNote
	if err := json.Unmarshal(data, &n); err != nil || n.Version != noteVersion {
		return nil, fmt.Errorf("dataset: %s does not say what was erased from table %s: %w", location, t.id, record.ErrCorrupt)
	}
	return &n, nil
}

// Erased returns, by partition and in order, which offsets of a view were erased
// from the table: no row of it has them any more.
func (t *Table) Erased(ctx context.Context, view record.ViewNumber) (map[record.Partition][]record.Range, error) {
	n, err := t.erasureNote(ctx)
	if n == nil || err != nil {
		return nil, err
	}
	out := map[record.Partition][]record.Range{}
	for _, r := range n.rows() {
		if r.view == view {
			out[r.partition] = append(out[r.partition], r.Range)
		}
	}
	return out, nil
}

// pending is the note as an object to be put.
func (n erasureNote) pending(table string) (pending, error) {
	data, err := json.Marshal(n)
	if err != nil {
		return pending{}, fmt.Errorf("dataset: encode what was erased: %w", err)
	}
	return pending{table + "/metadata/erased-" + sumName(data) + ".json", data}, nil
}

// deleteOld deletes what the tables list as old, and what is left of earlier
// versions and of failed commits, as far as no table leads to it. A crash here
// leaves the rest for another call: the lists are still there.
func (e *eraser) deleteOld(ctx context.Context, out *Erasure) error {
	e.tell("delete")
	done := map[string]bool{}
	for _, t := range e.tables {
		done[t.id] = true
	}
	// Anew: the tables list what is old, and what leads where is asked of all.
	if err := e.load(ctx); err != nil {
		return err
	}
	old := map[string]bool{}
	for _, n := range e.earlier {
		for _, key := range n.Old {
			old[key] = true
		}
	}
	for _, t := range e.tables {
		if !done[t.id] {
			return fmt.Errorf("table %s: %w", t.id, errUnexamined)
		}
	}
	reached, err := e.reached(ctx)
	if err != nil {
		return err
	}
	var unreached []objstore.Info
	listed := map[string]bool{}
	list := func(id string, trash bool) error {
		for f, err := range e.d.List(ctx, id) {
			if err != nil {
				return err
			}
			if listed[f.Key] = true; !reached[f.Key] {
				unreached = append(unreached, f)
				old[f.Key] = old[f.Key] || trash
			}
		}
		return nil
	}
	for _, t := range e.tables {
		if err := list(t.id, false); err != nil {
			return err
		}
	}
	if e.o.Trash != nil {
		trash, err := e.o.Trash(ctx)
		if err != nil {
			return err
		}
		for _, id := range trash {
			if done[id] {
				continue
			}
			if err := list(id, true); err != nil {
				return err
			}
		}
	}
	for key := range old {
		// Perhaps in a place that nobody lists.
		if listed[key] || reached[key] {
			continue
		}
		f, err := e.d.store.Stat(ctx, key)
		if err == nil {
			unreached = append(unreached, f)
		} else if !errors.Is(err, record.ErrNotFound) {
			return err
		}
	}
	// Once more behind the listing, as a collection does.
	if err := e.load(ctx); err != nil {
		return err
	}
	if reached, err = e.reached(ctx); err != nil {
		return err
	}
	now := e.d.now()
	for _, f := range unreached {
		switch {
		case reached[f.Key]:
		case old[f.Key] || now.Sub(f.Modified) >= e.o.Grace:
			if err := e.d.store.Delete(ctx, f.Key); err != nil {
				return err
			}
			out.DeletedFiles++
			out.DeletedBytes += f.Size
		default:
			out.RemainingFiles++
			out.RemainingBytes += f.Size
		}
	}
	return nil
}

// reached are the keys that must stay: what these tables, and all that may share
// files with them, lead to.
func (e *eraser) reached(ctx context.Context) (map[string]bool, error) {
	out := map[string]bool{}
	for i, t := range e.tables {
		keys, err := map[string]bool(nil), error(nil)
		if i == 0 { // all that share with one share with each other
			keys, _, err = e.d.reached(ctx, t.id)
		} else if keys, err = e.d.staged(ctx, t.id); err == nil {
			err = t.reachKeys(ctx, keys)
		}
		if err != nil {
			return nil, err
		}
		maps.Copy(out, keys)
	}
	return out, nil
}

// settle takes the lists of old files out of the tables: where another engine
// chose their names, these may tell something.
func (e *eraser) settle(ctx context.Context) error {
	for _, t := range e.tables {
		was := t.Property(erasedKey)
		next, err := e.d.Commit(ctx, t.id, Commit{erase: &erasing{settle: true}})
		if errors.Is(err, record.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if was != "" && next.Property(erasedKey) != was {
			// A crash before leaves a file that nothing names.
			e.d.remove(ctx, []string{was})
		}
	}
	return nil
}
