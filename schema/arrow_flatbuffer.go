package schema

import "encoding/binary"

// flatBuffer reads FlatBuffers metadata without trust. What does not fit into
// the buffer sets failed and reads as absent.
//
//	table:   int32 distance back to its vtable, then the fields
//	vtable:  uint16 its size, uint16 size of the table, uint16 per field: the
//	         field's place in the table, 0 if absent
//	vector:  uint32 count, then the elements; those that are tables are uint32
//	         distances forward from where they stand
type flatBuffer struct {
	b      []byte
	tables int // visited so far
	failed bool
}

type flatTable struct {
	v      *flatBuffer
	at     int // 0: absent
	size   int
	fields int // position of the vtable's fields
	n      int // number of them
}

func (v *flatBuffer) root() flatTable {
	if len(v.b) < 4 {
		v.failed = true
		return flatTable{v: v}
	}
	return v.table(0)
}

// table follows the forward offset that stands at position at.
func (v *flatBuffer) table(at int) flatTable {
	none := flatTable{v: v}
	at += int(binary.LittleEndian.Uint32(v.b[at:]))
	v.tables++
	if v.failed || v.tables > maxStreamTables || at < 4 || at > len(v.b)-4 {
		v.failed = true
		return none
	}
	vt := at - int(int32(binary.LittleEndian.Uint32(v.b[at:])))
	if vt < 0 || vt > len(v.b)-4 {
		v.failed = true
		return none
	}
	vsize, size := int(binary.LittleEndian.Uint16(v.b[vt:])), int(binary.LittleEndian.Uint16(v.b[vt+2:]))
	// An odd size would leave a last field that readers see and fields do not.
	if vsize < 4 || vsize&1 != 0 || vsize > len(v.b)-vt || size < 4 || size > len(v.b)-at {
		v.failed = true
		return none
	}
	return flatTable{v: v, at: at, size: size, fields: vt + 4, n: (vsize - 4) / 2}
}

// place is the position of a field of so many bytes, 0 if it is absent.
func (t flatTable) place(field, size int) int {
	if t.at == 0 || field >= t.n {
		return 0
	}
	o := int(binary.LittleEndian.Uint16(t.v.b[t.fields+2*field:]))
	if o == 0 {
		return 0
	}
	if o+size > t.size {
		t.v.failed = true
		return 0
	}
	return t.at + o
}

func (t flatTable) has(field int) bool { return t.place(field, 1) != 0 }

func (t flatTable) byte(field int) byte {
	if p := t.place(field, 1); p != 0 {
		return t.v.b[p]
	}
	return 0
}

func (t flatTable) int64(field int) int64 {
	if p := t.place(field, 8); p != 0 {
		return int64(binary.LittleEndian.Uint64(t.v.b[p:]))
	}
	return 0
}

func (t flatTable) table(field int) flatTable {
	if p := t.place(field, 4); p != 0 {
		return t.v.table(p)
	}
	return flatTable{v: t.v}
}

// vector returns the position and number of the elements, of so many bytes
// each, of a vector.
func (t flatTable) vector(field, size int) (first, n int) {
	p := t.place(field, 4)
	if p == 0 {
		return 0, 0
	}
	p += int(binary.LittleEndian.Uint32(t.v.b[p:]))
	if p > len(t.v.b)-4 {
		t.v.failed = true
		return 0, 0
	}
	n = int(binary.LittleEndian.Uint32(t.v.b[p:]))
	if n > (len(t.v.b)-p-4)/size {
		t.v.failed = true
		return 0, 0
	}
	return p + 4, n
}

// eachTable calls visit, if there is one, for each element of a vector of tables.
func (t flatTable) eachTable(field int, visit func(flatTable)) {
	first, n := t.vector(field, 4)
	for i := 0; i < n && !t.v.failed; i++ {
		if e := t.v.table(first + 4*i); visit != nil && e.at != 0 {
			visit(e)
		}
	}
}
