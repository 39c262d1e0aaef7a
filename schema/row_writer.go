package schema

import "encoding/binary"

// rowWriter writes the Avro datum of a row whose fields arrive in any order.
//
// Values are appended to dst as they come. slots remembers where the value of
// each field of every open struct lies; if they turn out not to lie in the
// schema's order, the struct is put in order when it ends. Fields that are
// passed over get what stands for an absent field at once, so that rows in
// schema order, with or without gaps, are written once and never moved.
type rowWriter struct {
	dst   []byte
	start int // of the row in dst
	limit int // of len(dst)
	slots []slot
	moved []byte // values being put in order
}

// slot is where in dst the value of a field lies. seen: the row has the field.
type slot struct {
	start, end int
	seen       bool
}

// openStruct is the state of a struct being written.
type openStruct struct {
	start    int // of its first value in dst
	base     int // of its slots
	next     int // the field expected next
	unsorted bool
}

// begin starts a row of at most that many bytes behind dst.
func (w *rowWriter) begin(dst []byte, limit int) {
	w.dst, w.start, w.limit, w.slots = dst, len(dst), len(dst)+limit, w.slots[:0]
}

// take returns dst and forgets it: scratch memory must not keep it alive.
func (w *rowWriter) take() []byte {
	d := w.dst
	w.dst = nil
	if cap(w.moved) > maxScratch {
		w.moved = nil
	}
	return d
}

// maxScratch bounds the scratch memory that is kept between rows.
const maxScratch = 256 << 10

func (w *rowWriter) open(n *jsonNode) openStruct {
	o := openStruct{start: len(w.dst), base: len(w.slots)}
	for range n.fields {
		w.slots = append(w.slots, slot{})
	}
	return o
}

// field prepares for the value of field i; false if the row has it already.
func (w *rowWriter) field(o *openStruct, n *jsonNode, i int) bool {
	s := w.slots[o.base:]
	if s[i].seen {
		return false
	}
	switch {
	case i == o.next:
		o.next++
	case i > o.next:
		w.fill(o, n, i)
		o.next = i + 1
	default:
		o.unsorted = true
	}
	s[i].seen = true
	s[i].start = len(w.dst)
	return true
}

// fieldDone ends the value of field i.
func (w *rowWriter) fieldDone(o *openStruct, i int) { w.slots[o.base+i].end = len(w.dst) }

// fill writes what stands for absent fields from next up to i. A later value
// of such a field replaces it. What it can add to a row beyond its limit is
// bounded (maxDefaultsBytes).
func (w *rowWriter) fill(o *openStruct, n *jsonNode, i int) {
	for j := o.next; j < i; j++ {
		s := &w.slots[o.base+j]
		s.start = len(w.dst)
		w.dst = append(w.dst, n.fields[j].absent...)
		s.end = len(w.dst)
	}
}

// close ends a struct. It returns a required field that the row lacks, or -1.
func (w *rowWriter) close(o *openStruct, n *jsonNode) (missing int) {
	w.fill(o, n, len(n.fields))
	slots := w.slots[o.base:]
	for i := range slots {
		if !slots[i].seen && n.fields[i].absent == nil {
			return i
		}
	}
	if o.unsorted {
		w.moved = append(w.moved[:0], w.dst[o.start:]...)
		w.dst = w.dst[:o.start]
		for _, s := range slots {
			w.dst = append(w.dst, w.moved[s.start-o.start:s.end-o.start]...)
		}
	}
	w.slots = w.slots[:o.base]
	return -1
}

// tooLarge tells whether the row has outgrown its limit.
func (w *rowWriter) tooLarge() bool { return len(w.dst) > w.limit }

// openBlock leaves room for the count of an array or map, one byte, and
// returns where it is.
func (w *rowWriter) openBlock() int {
	w.dst = append(w.dst, 0)
	return len(w.dst) - 1
}

// closeBlock sets the count, moving the elements if it needs more than the
// one byte, and ends the array or map.
func (w *rowWriter) closeBlock(at, count int) {
	if count == 0 {
		return // the one byte is the end
	}
	var head [binary.MaxVarintLen64]byte
	h := appendLong(head[:0], int64(count))
	for range len(h) - 1 {
		w.dst = append(w.dst, 0)
	}
	if len(h) > 1 {
		copy(w.dst[at+len(h):], w.dst[at+1:])
	}
	copy(w.dst[at:], h)
	w.dst = append(w.dst, 0)
}

// appendLength appends the length of a string or of bytes.
func (w *rowWriter) appendLength(n int) { w.dst = appendLong(w.dst, int64(n)) }
