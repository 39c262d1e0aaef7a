package dataset

import (
	"container/list"
	"sync"
)

// lru keeps what immutable files say, parsed, by location: an entry is never
// stale. The least recently used go when their bytes exceed the limit. Values
// are shared and read-only. Safe for concurrent use.
type lru[V any] struct {
	mu    sync.Mutex
	limit int64
	bytes int64
	order *list.List // of *lruEntry[V], most recently used first
	byLoc map[string]*list.Element
}

type lruEntry[V any] struct {
	location string
	value    V
	bytes    int64
}

func newLRU[V any](limit int64) *lru[V] {
	return &lru[V]{limit: limit, order: list.New(), byLoc: map[string]*list.Element{}}
}

func (c *lru[V]) get(location string) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byLoc[location]
	if !ok {
		return value, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*lruEntry[V]).value, true
}

// drop forgets an entry that will hardly be asked for again.
func (c *lru[V]) drop(location string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byLoc[location]; ok {
		c.removeLocked(e)
	}
}

func (c *lru[V]) put(location string, v V, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byLoc[location]; ok || bytes > c.limit {
		return
	}
	c.byLoc[location] = c.order.PushFront(&lruEntry[V]{location, v, bytes})
	c.bytes += bytes
	for c.bytes > c.limit {
		c.removeLocked(c.order.Back())
	}
}

func (c *lru[V]) removeLocked(e *list.Element) {
	entry := c.order.Remove(e).(*lruEntry[V])
	delete(c.byLoc, entry.location)
	c.bytes -= entry.bytes
}
