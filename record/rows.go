package record

// Rows is an arena of encoded rows: one byte slice with the keys and values
// of all rows end to end. It is how rows travel from the codecs to the hot
// buffer without an allocation per row. The zero value is ready for use; it is
// not safe for concurrent use.
type Rows struct {
	buf  []byte
	ends []rowEnd
}

// rowEnd holds where key and value of a row end in buf. The key begins where
// the value before it ended. keyNull tells a missing key from an empty one.
type rowEnd struct {
	key, value uint32
	keyNull    bool
}

// Append adds a row, copying key and value. A nil key is stored as null.
func (r *Rows) Append(key, value []byte) {
	r.buf = append(r.buf, key...)
	k := len(r.buf)
	r.buf = append(r.buf, value...)
	r.ends = append(r.ends, rowEnd{key: uint32(k), value: uint32(len(r.buf)), keyNull: key == nil})
}

// Len is the number of rows.
func (r *Rows) Len() int { return len(r.ends) }

// Bytes is the size of all keys and values.
func (r *Rows) Bytes() int { return len(r.buf) }

// bytesOf is the size of the keys and values of rows [from, to).
func (r *Rows) bytesOf(from, to int) int {
	if from >= to {
		return 0
	}
	n := int(r.ends[to-1].value)
	if from > 0 {
		n -= int(r.ends[from-1].value)
	}
	return n
}

// Split returns the end of the longest range of rows from from on whose plain
// batch has at most maxBytes, at least one row, and the size of that batch.
func (r *Rows) Split(from, maxBytes int) (to, size int) {
	size = HeaderSize
	start := uint32(0)
	if from > 0 {
		start = r.ends[from-1].value
	}
	for to = from; to < len(r.ends); to++ {
		e := r.ends[to]
		n := recordSize(to-from, int(e.key-start), int(e.value-e.key), e.keyNull)
		if to > from && size+n > maxBytes {
			break
		}
		size += n
		start = e.value
	}
	return to, size
}

// Row returns key (nil if null) and value of row i. They point into the arena
// and stay valid until Reset.
func (r *Rows) Row(i int) (key, value []byte) {
	start := uint32(0)
	if i > 0 {
		start = r.ends[i-1].value
	}
	e := r.ends[i]
	if !e.keyNull {
		key = r.buf[start:e.key:e.key]
		if key == nil { // an empty key, and nothing in the arena yet
			key = []byte{}
		}
	}
	return key, r.buf[e.key:e.value:e.value]
}

// AppendRows adds all rows of o.
func (r *Rows) AppendRows(o *Rows) {
	base := uint32(len(r.buf))
	r.buf = append(r.buf, o.buf...)
	for _, e := range o.ends {
		r.ends = append(r.ends, rowEnd{key: base + e.key, value: base + e.value, keyNull: e.keyNull})
	}
}

// Reset empties r and keeps its memory for reuse.
func (r *Rows) Reset() { r.buf, r.ends = r.buf[:0], r.ends[:0] }

// Largest is the size of the largest row: key and value.
func (r *Rows) Largest() int {
	n, start := uint32(0), uint32(0)
	for _, e := range r.ends {
		n = max(n, e.value-start)
		start = e.value
	}
	return int(n)
}
