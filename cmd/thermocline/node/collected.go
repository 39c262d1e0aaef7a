package node

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// collected remembers how tables stood when their files were last collected, so
// that those of a table which nothing has changed since need not be listed again:
// there is nothing to be found but what failed uploads leave, which has time. A
// restart forgets it, and each table is listed once more.
type collected map[string]collectedState

type collectedState struct {
	tables  map[string]string // locations of all that share files
	due     time.Time         // when the first waiting file may go; zero: none waits
	skipped int
}

// mostIdle bounds the walks in a row that pass a table over.
const mostIdle = 24

// idle tells whether a table need not be looked at; else how it stands before it
// is.
func (c collected) idle(ctx context.Context, names *catalog.Catalog, table string) (bool, map[string]string) {
	now, err := names.TablesSharing(ctx, table)
	last, ok := c[table]
	if err != nil || !ok || last.skipped >= mostIdle || !last.due.IsZero() && !time.Now().Before(last.due) || !maps.Equal(now, last.tables) {
		return false, now
	}
	last.skipped++
	c[table] = last
	return true, now
}

// done notes a collection that came to its end, of a table that stood so.
func (c collected) done(table string, tables map[string]string, out dataset.Collection, grace time.Duration) {
	s := collectedState{tables: tables}
	for _, f := range out.Orphans {
		if due := f.Since.Add(grace); !f.Due && (s.due.IsZero() || due.Before(s.due)) {
			s.due = due
		}
	}
	c[table] = s
}

// forget drops tables that are gone.
func (c collected) forget(ctx context.Context, names *catalog.Catalog) {
	for table := range c {
		if _, err := names.TablesSharing(ctx, table); errors.Is(err, record.ErrNotFound) {
			delete(c, table)
		}
	}
}
