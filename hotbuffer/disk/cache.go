package disk

import (
	"sort"
	"sync"
)

// cache keeps the newest commits in memory, just as they were written, so that
// readers near the end never touch the disk and nothing is copied for them.
type cache struct {
	limit int

	mu      sync.RWMutex
	commits []cached // ascending by (epoch, pos)
	bytes   int
}

type cached struct {
	epoch epoch
	pos   int64
	buf   []byte
}

// add takes a commit; buf is immutable from now on.
func (c *cache) add(e epoch, pos int64, buf []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commits = append(c.commits, cached{e, pos, buf})
	c.bytes += len(buf)
	drop := 0
	for drop < len(c.commits) && c.bytes > c.limit {
		c.bytes -= len(c.commits[drop].buf)
		c.commits[drop] = cached{} // so that the array does not keep it
		drop++
	}
	c.commits = c.commits[drop:]
}

// get returns n bytes of a segment if they are in memory.
func (c *cache) get(e epoch, pos int64, n int) ([]byte, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	i := sort.Search(len(c.commits), func(i int) bool {
		k := &c.commits[i]
		return k.epoch > e || k.epoch == e && k.pos > pos
	}) - 1
	if i < 0 || c.commits[i].epoch != e {
		return nil, false
	}
	at := pos - c.commits[i].pos
	if at+int64(n) > int64(len(c.commits[i].buf)) {
		return nil, false
	}
	return c.commits[i].buf[at : at+int64(n) : at+int64(n)], true
}

// clear forgets everything: readers take it from the files.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commits, c.bytes = nil, 0
}
