package disk

import (
	"encoding/binary"
	"fmt"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// The first commit of every segment is a checkpoint: all that must outlive the
// segments before it. It holds the views frame twice, at its beginning and its
// end, because a log whose offsets are lost cannot go on, and between them the
// producers in frames of about producersChunk bytes.
//
// Views frame, all numbers uvarints:
//
//	count │ per view: id │ last timestamp │ partitions │ per partition: next offset │ released offset
//
// Producers frame, all numbers uvarints but the id:
//
//	count │ per producer, longest idle first: view │ id (16 bytes) │ once (0, 1) │ epoch │ last used
//	      │ outcomes │ first sequence │ per outcome: ranges │ per range: partition │ start │ rows
const producersChunk = 1 << 20

// viewState is what a views frame says of a view.
type viewState struct {
	id            record.ViewID
	lastTimestamp int64
	next          record.Offsets // one entry per partition
	released      record.Offsets // as long as next
}

func appendViews(b []byte, views []viewState) []byte {
	b = binary.AppendUvarint(b, uint64(len(views)))
	for _, v := range views {
		b = binary.AppendUvarint(b, uint64(v.id))
		b = binary.AppendUvarint(b, uint64(v.lastTimestamp))
		b = binary.AppendUvarint(b, uint64(len(v.next)))
		for p := range v.next {
			b = binary.AppendUvarint(b, uint64(v.next[p]))
			b = binary.AppendUvarint(b, uint64(v.released[p]))
		}
	}
	return b
}

// decoder reads uvarints until something is wrong.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) num() int64 {
	x, n := binary.Uvarint(d.b)
	if n <= 0 || x > 1<<62 {
		d.b, d.bad = nil, true
		return 0
	}
	d.b = d.b[n:]
	return int64(x)
}

// count reads the number of things that follow, each at least size bytes.
func (d *decoder) count(size int) int {
	n := d.num()
	if n > int64(len(d.b)/size) {
		d.b, d.bad = nil, true
		return 0
	}
	return int(n)
}

func (d *decoder) err(what string) error {
	if d.bad || len(d.b) > 0 {
		return fmt.Errorf("%s frame does not decode: %w", what, record.ErrCorrupt)
	}
	return nil
}

func decodeViews(b []byte) ([]viewState, error) {
	d := decoder{b: b}
	views := make([]viewState, d.count(3))
	for i := range views {
		v := &views[i]
		v.id, v.lastTimestamp = record.ViewID(d.num()), d.num()
		n := d.count(2)
		v.next, v.released = make(record.Offsets, n), make(record.Offsets, n)
		for p := range n {
			v.next[p], v.released[p] = record.Offset(d.num()), record.Offset(d.num())
		}
	}
	return views, d.err("views")
}

// frames encodes all producers, longest idle first, in chunks.
func (s *producers) frames() [][]byte {
	var out [][]byte
	var b []byte
	n := 0
	flush := func() {
		if n > 0 {
			out = append(out, append(binary.AppendUvarint(nil, uint64(n)), b...))
			b, n = b[:0], 0
		}
	}
	for e := s.idle.Front(); e != nil; e = e.Next() {
		p := e.Value.(*producer)
		once := uint64(0)
		if p.once {
			once = 1
		}
		b = binary.AppendUvarint(b, uint64(p.view))
		b = append(b, p.id[:]...)
		b = binary.AppendUvarint(b, once)
		b = binary.AppendUvarint(b, uint64(p.epoch))
		b = binary.AppendUvarint(b, uint64(p.lastUsed))
		b = binary.AppendUvarint(b, uint64(len(p.outcomes)))
		b = binary.AppendUvarint(b, uint64(p.outcomes[0].sequence))
		for _, o := range p.outcomes {
			b = binary.AppendUvarint(b, uint64(len(o.ranges)))
			for _, r := range o.ranges {
				b = binary.AppendUvarint(b, uint64(r.Partition))
				b = binary.AppendUvarint(b, uint64(r.Start))
				b = binary.AppendUvarint(b, uint64(r.Len()))
			}
		}
		if n++; len(b) >= producersChunk {
			flush()
		}
	}
	flush()
	return out
}

// load adds what a producers frame says.
func (s *producers) load(b []byte) error {
	d := decoder{b: b}
	for range d.count(6 + len(hotbuffer.ProducerID{})) {
		p := hotbuffer.Producer{}
		view := record.ViewID(d.num())
		d.b = d.b[copy(p.ID[:], d.b):]
		p.Once = d.num() == 1
		p.Epoch = int32(d.num())
		used := d.num()
		n := d.count(1)
		first := d.num()
		for i := range n {
			p.Sequence = first + int64(i)
			ranges := make([]hotbuffer.PartRange, d.count(3))
			for j := range ranges {
				r := &ranges[j]
				r.Partition, r.Start = record.Partition(d.num()), record.Offset(d.num())
				r.End = r.Start + record.Offset(d.num())
			}
			if d.bad {
				break
			}
			s.apply(view, &p, ranges, used)
		}
	}
	return d.err("producers")
}
