package disk

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/record/recordtest"
)

// FuzzScan: any bytes in a segment are scanned without a panic and with little
// memory, and what is visited validates.
func FuzzScan(f *testing.F) {
	frame := aFrame()
	commit := make([]byte, 2*blockSize)
	at := commitHeaderSize + tocEntrySize
	copy(commit[at:], frame)
	tocEntry{view: 7, partition: 2, rows: 1, base: 5, pos: at, len: len(frame)}.put(commit[commitHeaderSize:])
	commitHeader{epoch: 3, number: 4, length: at + len(frame), frames: 1}.put(commit, &testID)
	for _, repair := range []bool{false, true} {
		f.Add(commit, true, repair)
		f.Add(append(bytes.Clone(commit), commit...), false, repair)
		f.Add(append(bytes.Repeat([]byte{0xff}, blockSize), commit...), false, repair)
	}
	f.Fuzz(func(t *testing.T, in []byte, last, repair bool) {
		in = bytes.Clone(in)
		if repair {
			repairSums(in)
		}
		buf := append(append(make([]byte, blockSize), in...), make([]byte, blockSize)...)
		recordtest.Bounded(t, 64<<10+16*len(in), func() {
			s := scanner{
				id: &testID, epoch: 3, buf: buf, last: last,
				frame: func(h *frameHeader, b record.Batch, _ []byte, _ int64) error {
					if h.kind == rowsFrame && (b.BaseOffset() != h.base || b.Len() != h.rows) {
						t.Fatal("a frame that does not fit its header")
					}
					return nil
				},
				end: func(commitHeader) error { return nil }, lost: func(Damage) {},
			}
			if _, err := s.scan(); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// repairSums makes the checksums of commits and frames right, so that what
// they protect is looked at.
func repairSums(in []byte) {
	for pos := 0; pos+commitHeaderSize <= len(in); pos += blockSize {
		b := in[pos:]
		if be.Uint32(b) != commitMagic {
			continue
		}
		n := int64(be.Uint32(b[36:]))
		table := commitHeaderSize + n*tocEntrySize
		if table > int64(len(b)) {
			continue
		}
		for i := range int(n) {
			e := tocAt(b, i)
			if e.pos < commitHeaderSize || e.pos+frameHeaderSize > len(b) {
				continue
			}
			frame := b[e.pos:]
			if size := int64(be.Uint32(frame[52:])); frame[36] != byte(rowsFrame) && size <= int64(len(frame)-frameHeaderSize) {
				be.PutUint32(frame[56:], testID.sum(frame[frameHeaderSize:frameHeaderSize+size]))
			}
			be.PutUint32(frame[4:], testID.sum(frame[8:frameHeaderSize]))
		}
		be.PutUint32(b[4:], testID.sum(b[8:table]))
	}
}

// FuzzCheckpoint: any payload of a checkpoint decodes to what encodes to the
// same, or not at all.
func FuzzCheckpoint(f *testing.F) {
	f.Add(appendViews(nil, []viewState{{id: 7, lastTimestamp: 300, next: record.Offsets{1, 2}, released: record.Offsets{0, 1}}, {id: 9}}))
	s := newProducers(1000)
	for i := range int64(5) {
		s.apply(5, keyed(int(i)), nil, 1000+i)
	}
	for _, b := range s.frames() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		recordtest.Bounded(t, 64<<10+64*len(in), func() {
			views, err := decodeViews(in)
			if err != nil {
				if !errors.Is(err, record.ErrCorrupt) {
					t.Fatal(err)
				}
				return
			}
			again, err := decodeViews(appendViews(nil, views))
			if err != nil || len(again) != len(views) {
				t.Fatalf("%+v became %+v, %v", views, again, err)
			}
		})
		recordtest.Bounded(t, 64<<10+512*len(in), func() {
			p := newProducers(1000)
			if err := p.load(in); err != nil && !errors.Is(err, record.ErrCorrupt) {
				t.Fatal(err)
			}
			if p.ranges > 1000 && p.idle.Len() > 1 {
				t.Fatalf("%d offset ranges are remembered", p.ranges)
			}
		})
	})
}

// FuzzFooter: any footer with a right checksum gives an index that encodes to
// the same bytes and stays within the segment, or none.
func FuzzFooter(f *testing.F) {
	seg := &segment{epoch: 3, size: 16 * blockSize, pos: blockSize}
	for i := range record.Offset(5) {
		sp, _ := seg.part(record.ViewID(i%2+1), 0, i)
		sp.add(int64(blockSize*(i+1)), 100, i, i+1)
	}
	f.Add(seg.footer(&testID), int64(8*blockSize))
	f.Add((&segment{epoch: 3}).footer(&testID), int64(blockSize))
	f.Fuzz(func(t *testing.T, in []byte, pos int64) {
		if len(in) < footerHeaderSize || len(in) > 64<<10 || pos < 0 || pos > 1<<20 {
			return
		}
		in = bytes.Clone(in)
		be.PutUint32(in, footerMagic)
		be.PutUint64(in[8:], 3)
		be.PutUint32(in[4:], testID.sum(in[8:]))
		size := align(pos+int64(len(in)), blockSize) + blockSize
		b := make([]byte, size)
		copy(b[pos:], in)
		seg := &segment{epoch: 3, size: size, file: vfs.NewMemFile(b), pos: blockSize}
		copy(b[size-blockSize:], seg.trailer(&testID, pos, len(in)))
		ok := false
		recordtest.Bounded(t, 64<<10+32*len(in), func() { ok = seg.loadFooter(&testID) })
		if !ok {
			if len(seg.parts) > 0 || seg.sealed || seg.live > 0 {
				t.Fatal("half an index is left")
			}
			return
		}
		if got := seg.footer(&testID); !bytes.Equal(got, in) {
			t.Fatalf("footer\n%x became\n%x", in, got)
		}
		for _, p := range seg.parts {
			for _, r := range p.runs {
				if int64(r.pos)+int64(r.len) > pos {
					t.Fatalf("a run of %d bytes at %d lies behind the footer at %d", r.len, r.pos, pos)
				}
			}
		}
	})
}

// FuzzFiles: any bytes in the files LOG and END are what was written, or are
// told from it.
func FuzzFiles(f *testing.F) {
	end := logEnd{commit: 9, views: []viewState{{id: 7, lastTimestamp: 300, next: record.Offsets{1, 2}, released: record.Offsets{0, 1}}}}
	f.Add(end.encode(&testID), true)
	f.Add(end.encode(&testID)[:30], false)
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/log", 0o755); err != nil {
		f.Fatal(err)
	}
	dirFile, err := mem.OpenDir("/log")
	if err != nil {
		f.Fatal(err)
	}
	if err := writeIdentity(mem, "/log", dirFile, &testID); err != nil {
		f.Fatal(err)
	}
	log, err := mem.UnsafeGetFileDataBuffer("/log/" + identityName)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Clone(log), false)
	f.Fuzz(func(t *testing.T, in []byte, repair bool) {
		in = bytes.Clone(in)
		if repair && len(in) >= endHeaderSize {
			be.PutUint32(in[8:], testID.sum(in[12:]))
		}
		if err := writeFile(mem, "/log", dirFile, identityName, in); err != nil {
			t.Fatal(err)
		}
		if err := writeFile(mem, "/log", dirFile, endName, in); err != nil {
			t.Fatal(err)
		}
		recordtest.Bounded(t, 64<<10+64*len(in), func() {
			id, begun, err := readIdentity(mem, "/log")
			if err != nil || !begun {
				t.Fatalf("begun %v, %v", begun, err)
			}
			if id != nil && !bytes.Equal(id[:], in[16:32]) {
				t.Fatalf("another id")
			}
			end, err := readEnd(mem, "/log", &testID)
			if err != nil {
				if !errors.Is(err, record.ErrCorrupt) && !errors.Is(err, record.ErrInvalid) {
					t.Fatal(err)
				}
				return
			}
			again, err := decodeEnd(end.encode(&testID), &testID)
			if err != nil || again.commit != end.commit || len(again.views) != len(end.views) {
				t.Fatalf("%+v became %+v, %v", end, again, err)
			}
		})
	})
}
