package dataset

import (
	"container/list"
	"sync"

	"github.com/apache/iceberg-go/table"
)

// metaCache keeps parsed metadata files by location. A location's file never
// changes, so an entry is never stale; the least recently used go when the
// bytes exceed the limit.
type metaCache struct {
	mu    sync.Mutex
	limit int64
	bytes int64
	order *list.List // of *metaEntry, most recently used first
	byLoc map[string]*list.Element
}

type metaEntry struct {
	location string
	meta     table.Metadata
	bytes    int64
}

func newMetaCache(limit int64) *metaCache {
	return &metaCache{limit: limit, order: list.New(), byLoc: map[string]*list.Element{}}
}

func (c *metaCache) get(location string) (table.Metadata, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byLoc[location]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*metaEntry).meta, true
}

// drop forgets an entry that will hardly be asked for again.
func (c *metaCache) drop(location string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byLoc[location]; ok {
		c.removeLocked(e)
	}
}

func (c *metaCache) put(location string, m table.Metadata, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byLoc[location]; ok || bytes > c.limit {
		return
	}
	c.byLoc[location] = c.order.PushFront(&metaEntry{location, m, bytes})
	c.bytes += bytes
	for c.bytes > c.limit {
		c.removeLocked(c.order.Back())
	}
}

func (c *metaCache) removeLocked(e *list.Element) {
	entry := c.order.Remove(e).(*metaEntry)
	delete(c.byLoc, entry.location)
	c.bytes -= entry.bytes
}
