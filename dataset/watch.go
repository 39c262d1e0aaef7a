package dataset

import (
	"sync"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
)

// watches tells who waits of commits to tables. mu is a leaf, but for the functions
// that Watch was given.
type watches struct {
	mu     sync.Mutex
	tables map[string]*watched
}

type watched struct {
	commits uint64
	wake    map[*func()]func()
}

// Commits counts the commits to table id by this process that may have changed
// which rows it holds: all but archives, compactions and expiries. A commit counts
// as soon as it may be visible, also where its outcome is unknown.
func (d *Datasets) Commits(id string) uint64 {
	d.watches.mu.Lock()
	defer d.watches.mu.Unlock()
	if w := d.watches.tables[id]; w != nil {
		return w.commits
	}
	return 0
}

// Watch has wake called behind each commit that Commits counts, until stop is
// called. wake must return at once and call nothing of Datasets.
func (d *Datasets) Watch(id string, wake func()) (stop func()) {
	key := &wake
	d.watches.mu.Lock()
	defer d.watches.mu.Unlock()
	w := d.watches.of(id)
	w.wake[key] = wake
	return func() {
		d.watches.mu.Lock()
		defer d.watches.mu.Unlock()
		delete(w.wake, key)
		if len(w.wake) == 0 && w.commits == 0 && d.watches.tables[id] == w {
			delete(d.watches.tables, id)
		}
	}
}

// Committed tells those who watch table id of a commit that another way than
// Commit has made.
func (d *Datasets) Committed(id string) {
	d.watches.mu.Lock()
	defer d.watches.mu.Unlock()
	w := d.watches.of(id)
	w.commits++
	for _, wake := range w.wake {
		wake()
	}
}

// of is called with mu held.
func (w *watches) of(id string) *watched {
	if w.tables == nil {
		w.tables = map[string]*watched{}
	}
	t := w.tables[id]
	if t == nil {
		t = &watched{wake: map[*func()]func(){}}
		w.tables[id] = t
	}
	return t
}

// forget drops a table that is gone.
func (w *watches) forget(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.tables[id]; t != nil && len(t.wake) == 0 {
		delete(w.tables, id)
	}
}

// plain tells whether the way from head to next only added rows of its marker's
// view, rewrote files, or changed no rows at all.
func (c *Commit) plain(head, next *Table) bool {
	now := next.head
	switch {
	case now == nil || head.head != nil && now.SnapshotID == head.head.SnapshotID:
		return true
	case head.head != nil && (now.ParentSnapshotID == nil || *now.ParentSnapshotID != head.head.SnapshotID), now.Summary == nil:
		return false
	case now.Summary.Operation == table.OpReplace:
		return true
	case now.Summary.Operation != table.OpAppend || c.Marker == nil:
		return false
	}
	rows := int64(0)
	for _, f := range c.Add {
		if s := spanOf(iceberg.NewManifestEntry(iceberg.EntryStatusADDED, nil, nil, nil, f.file)); s.guests(c.Marker.ViewNumber) {
			return false
		}
		rows += f.Rows()
	}
	before, err := head.Marker()
	if err != nil || before != nil && before.View != c.Marker.View || before == nil && c.Marker.ViewNumber != 1 {
		return false
	}
	return snapshotInfo(now).AddedRows == rows
}
