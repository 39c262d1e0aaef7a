package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// dir is the contents of a log's directory.
type dir map[string][]byte

func dirOf(t testing.TB, mem *vfs.MemFS) dir {
	t.Helper()
	names, err := mem.List("/log")
	if err != nil {
		t.Fatal(err)
	}
	d := dir{}
	for _, name := range names {
		if name == "LOCK" {
			continue
		}
		b, err := mem.UnsafeGetFileDataBuffer("/log/" + name)
		if err != nil {
			t.Fatal(err)
		}
		d[name] = bytes.Clone(b)
	}
	return d
}

func (d dir) fs(t testing.TB) *vfs.MemFS {
	t.Helper()
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/log", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, b := range d {
		f, err := mem.Create("/log/"+name, writeCategory)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(bytes.Clone(b)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return mem
}

// with returns the directory with one file changed; nil removes it.
func (d dir) with(name string, b []byte) dir {
	c := maps.Clone(d)
	if b == nil {
		delete(c, name)
	} else {
		c[name] = b
	}
	return c
}

// place is where a frame of rows stands.
type placed struct {
	partKey
	rows   record.Range
	file   string
	pos    int64
	len    int
	commit uint64
}

// damages is a log, and what may be done to its files.
type damages struct {
	good   dir
	stale  []byte // a segment as it was before it was recycled
	rows   map[partKey][]string
	ends   map[record.ViewID]hotbuffer.Ends
	frames []placed
	newest string // the segment that was written to last
	last   uint64 // the last commit with rows
	closed bool
	areas  map[string][]int // positions worth a flipped bit, by file
}

// damaged is one kind of damage.
type damaged struct {
	kind, what string
	files      dir
}

func newDamages(t testing.TB, closed bool) *damages {
	h := newHarness(t, Options{CacheBytes: -1})
	d := &damages{rows: map[partKey][]string{}, ends: map[record.ViewID]hotbuffer.Ends{}, closed: closed, areas: map[string][]int{}}
	add := func(id record.ViewID, p record.Partition, producer *hotbuffer.Producer, values ...string) {
		if _, err := h.try(id, producer, p, values...); err != nil {
			t.Fatal(err)
		}
		key := partKey{id, p}
		d.rows[key] = append(d.rows[key], values...)
	}
	// Segments that are recycled.
	for i := range 40 {
		add(1, record.Partition(i%2), nil, sized(fmt.Sprint("old", i), 2, 2500)...)
		if i == 20 {
			d.stale = h.file(h.active().name)
		}
	}
	e, err := h.Ends(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Release(context.Background(), 1, e.End); err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		var producer *hotbuffer.Producer
		if i%5 == 0 {
			producer = &hotbuffer.Producer{ID: hotbuffer.ProducerID{byte(i)}, Once: true}
		}
		add(record.ViewID(1+i%3), record.Partition(i/3%2), producer, sized(fmt.Sprint(i), 2, []int{100, 1500, 4000}[i/7%3])...)
	}
	for id := range record.ViewID(3) {
		if d.ends[id+1], err = h.Ends(id + 1); err != nil {
			t.Fatal(err)
		}
	}
	d.newest, d.last = h.active().name, h.commit
	oldest := h.segments[0].name
	h.alone()
	eventually(t, "footers are written", func() bool {
		for _, seg := range h.segments[:len(h.segments)-1] {
			if b := h.file(seg.name); be.Uint32(b[len(b)-blockSize:]) != trailerMagic {
				return false
			}
		}
		return true
	})
	left := h.mem.CrashClone(vfs.CrashCloneCfg{})
	if closed {
		h.close()
		left = h.mem
	}
	d.good = dirOf(t, left)
	for name, b := range d.good {
		if strings.HasSuffix(name, segmentSuffix) && name >= oldest {
			d.look(t, name, b)
		}
	}
	for _, name := range []string{identityName, endName} {
		for pos := range d.good[name] {
			d.areas[name] = append(d.areas[name], pos)
		}
	}
	return d
}

// look finds the frames and the areas of a segment.
func (d *damages) look(t testing.TB, name string, b []byte) {
	head, err := decodeSegmentHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	var at []int
	for pos := 0; pos < 64; pos++ {
		at = append(at, pos)
	}
	at = append(at, 100, blockSize-1)
	s := scanner{
		id: &head.id, epoch: head.epoch, buf: b, last: true,
		frame: func(f *frameHeader, _ record.Batch, payload []byte, pos int64) error {
			if f.kind == rowsFrame {
				d.frames = append(d.frames, placed{
					partKey: partKey{f.view, f.partition}, rows: record.Range{Start: f.base, End: f.base + record.Offset(f.rows)},
					file: name, pos: pos, len: frameHeaderSize + len(payload), commit: f.commit,
				})
			}
			start, end := int(pos), int(pos)+frameHeaderSize+len(payload)
			for p := start; p < start+frameHeaderSize; p += 4 {
				at = append(at, p+p/4%4)
			}
			if len(payload) > 0 {
				at = append(at, start+frameHeaderSize, start+frameHeaderSize+len(payload)/2, end-1)
			}
			if end%blockSize != 0 {
				at = append(at, end) // padding
			}
			return nil
		},
		end: func(commitHeader) error { return nil }, lost: func(d Damage) { t.Fatal(&d) },
	}
	end, err := s.scan()
	if err != nil {
		t.Fatal(err)
	}
	for pos := blockSize; pos < int(end); pos += blockSize {
		if _, ok := decodeCommitHeader(b[pos:], &head.id, head.epoch); ok {
			for p := pos; p < pos+commitHeaderSize+tocEntrySize; p += 4 {
				at = append(at, p+p/4%4)
			}
		}
	}
	for p := int(end); p < int(end)+256; p += 8 {
		at = append(at, p) // footer, or the tail
	}
	for p := range trailerSize {
		at = append(at, len(b)-blockSize+p)
	}
	d.areas[name] = at
}

// all yields every damage.
func (d *damages) all(yield func(damaged) bool) {
	names := slices.Sorted(maps.Keys(d.good))
	for _, name := range names {
		b := d.good[name]
		for i, pos := range d.areas[name] {
			c := bytes.Clone(b)
			c[pos] ^= 1 << (i % 8)
			if !yield(damaged{"flipped bits", fmt.Sprintf("%s byte %d bit %d", name, pos, i%8), d.good.with(name, c)}) {
				return
			}
		}
		if !yield(damaged{"missing files", name, d.good.with(name, nil)}) ||
			!yield(damaged{"zeroed files", name, d.good.with(name, make([]byte, len(b)))}) {
			return
		}
		for size := 0; size < len(b); size += blockSize {
			if !yield(damaged{"truncated files", fmt.Sprintf("%s at %d", name, size), d.good.with(name, b[:size:size])}) {
				return
			}
		}
		for _, other := range names {
			if other <= name {
				continue
			}
			c := d.good.with(name, d.good[other]).with(other, b)
			if !yield(damaged{"exchanged files", name + " and " + other, c}) {
				return
			}
		}
		for pos := 0; pos+blockSize <= len(b); pos += blockSize {
			block := func(at int) []byte { return b[at : at+blockSize] }
			put := func(kind string, with []byte) bool {
				if bytes.Equal(with, block(pos)) {
					return true
				}
				c := bytes.Clone(b)
				copy(c[pos:], with)
				return yield(damaged{kind, fmt.Sprintf("%s block %d", name, pos/blockSize), d.good.with(name, c)})
			}
			if !put("zeroed blocks", make([]byte, blockSize)) || !put("stale blocks", d.stale[pos:pos+blockSize]) {
				return
			}
			for at := pos + blockSize; at+blockSize <= len(b) && at <= pos+2*blockSize; at += blockSize {
				if bytes.Equal(block(at), block(pos)) {
					continue
				}
				c := bytes.Clone(b)
				copy(c[pos:], block(at))
				copy(c[at:], block(pos))
				if !yield(damaged{"swapped blocks", fmt.Sprintf("%s %d and %d", name, pos/blockSize, at/blockSize), d.good.with(name, c)}) {
					return
				}
			}
		}
	}
}

// intact tells whether a frame stands where it did.
func (d *damages) intact(f placed, in dir) bool {
	b := in[f.file]
	return int64(len(b)) >= f.pos+int64(f.len) && bytes.Equal(b[f.pos:f.pos+int64(f.len)], d.good[f.file][f.pos:f.pos+int64(f.len)])
}

// survey opens the damaged log and returns what is wrong with how it takes it.
func (d *damages) survey(t testing.TB, in dir) (lost int, cut bool, noticed bool, err error) {
	o := Options{FS: in.fs(t), Logger: quiet(), SegmentBytes: scriptSegment, MaxBytes: 4 << 20, CacheBytes: -1}
	l, err := Open("/log", o)
	if err != nil {
		return 0, false, true, fmt.Errorf("open: %w", err)
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	damage := l.LogStats().Damage
	unknown := slices.ContainsFunc(damage, func(x Damage) bool { return x.Unknown })
	read := map[partKey][]bool{}
	told := map[partKey][]record.Offset{} // by an error of the read
	for id, want := range d.ends {
		if err := l.Open(context.Background(), id, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 2}); err != nil {
			return 0, false, true, err
		}
		now, err := l.Ends(id)
		if err != nil {
			return 0, false, true, err
		}
		for p := range record.Partition(2) {
			key := partKey{id, p}
			read[key] = make([]bool, want.End[p])
			if now.End[p] > want.End[p] || now.Start[p] > want.Start[p] {
				return 0, false, true, fmt.Errorf("%v partition %v is [%v,%v), it was [%v,%v)", id, p, now.Start[p], now.End[p], want.Start[p], want.End[p])
			}
			rows, missing := salvage(t, l, id, p)
			told[key] = missing
			for i, row := range rows {
				off := now.Start[p] + record.Offset(i)
				switch {
				case slices.Contains(missing, off):
				case row != d.rows[key][off]:
					return 0, false, true, fmt.Errorf("%v partition %v row %v is wrong", id, p, off)
				default:
					read[key][off] = true
				}
			}
		}
	}
	for _, f := range d.frames {
		start := d.ends[f.view].Start[f.partition]
		for off := max(f.rows.Start, start); off < f.rows.End; off++ {
			if read[f.partKey][off] {
				continue
			}
			lost++
			named := slices.Contains(told[f.partKey], off) || slices.ContainsFunc(damage, func(x Damage) bool {
				return x.View == f.view && x.Partition == f.partition && x.Offsets.Start <= off && off < x.Offsets.End
			})
			torn := !d.closed && f.commit == d.last
			switch {
			case d.intact(f, in) && !torn:
				return lost, cut, true, fmt.Errorf("row %v of %v partition %v is lost, although its bytes are whole", off, f.view, f.partition)
			case named, unknown:
			case torn:
				cut = true
			default:
				return lost, cut, true, fmt.Errorf("row %v of %v partition %v is lost without a word; damage %v", off, f.view, f.partition, damage)
			}
		}
	}
	// Appends go on: behind what was there, where that is known.
	for id, want := range d.ends {
		for p := range record.Partition(2) {
			var next record.Rows
			next.Append(nil, []byte("next"))
			out, err := l.Append(context.Background(), id, hotbuffer.Append{Parts: []hotbuffer.Part{{Partition: p, Rows: &next}}})
			if err != nil {
				return lost, cut, true, fmt.Errorf("append: %w", err)
			}
			if at := out.Ranges[0].Start; at != want.End[p] && !cut && !unknown {
				return lost, cut, true, fmt.Errorf("appended to %v partition %v at %v, want %v", id, p, at, want.End[p])
			}
		}
	}
	if err := l.Close(); err != nil {
		return lost, cut, true, err
	}
	if l, err = Open("/log", o); err != nil {
		return lost, cut, true, fmt.Errorf("the start after it: %w", err)
	}
	for id := range d.ends {
		if err := l.Open(context.Background(), id, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 2}); err != nil {
			return lost, cut, true, err
		}
		for p := range record.Partition(2) {
			rows, missing := salvage(t, l, id, p)
			if n := len(rows); n == 0 || rows[n-1] != "next" {
				return lost, cut, true, fmt.Errorf("%v partition %v lost what was appended behind the damage (%d lost)", id, p, len(missing))
			}
		}
	}
	return lost, cut, len(damage) > 0, nil
}

// TestSweepDamage does to every file of the log whatever may happen to files:
// bits flip, blocks and files are exchanged, come back from an earlier life,
// become zeros, or are gone. Rows are right or named as lost; those whose bytes
// are whole are there; and appends go on where they must. The one exception is
// damage to the last commit before a crash, which looks like a torn tail.
func TestSweepDamage(t *testing.T) {
	t.Parallel()
	for _, closed := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed %v", closed), func(t *testing.T) {
			t.Parallel()
			d := newDamages(t, closed)
			kinds := map[string]*[4]int{}
			n, failures := 0, 0
			for x := range d.all {
				if n++; n%sweepStep != 0 {
					continue
				}
				lost, cut, noticed, err := d.survey(t, x.files)
				k := kinds[x.kind]
				if k == nil {
					k = new([4]int)
					kinds[x.kind] = k
				}
				k[0]++
				switch {
				case err != nil:
					t.Errorf("%s: %s: %v", x.kind, x.what, err)
					if failures++; failures > 20 {
						t.FailNow()
					}
				case cut:
					k[2]++
				case lost > 0:
					k[1]++
				case noticed:
					k[3]++
				}
				if cut && closed {
					t.Errorf("%s: %s: taken for a torn tail", x.kind, x.what)
				}
			}
			for _, kind := range slices.Sorted(maps.Keys(kinds)) {
				k := kinds[kind]
				t.Logf("%s: %d; %d cost rows, %d were taken for a torn tail, %d more were noticed, %d did no harm", kind, k[0], k[1], k[2], k[3], k[0]-k[1]-k[2]-k[3])
			}
			covered(t, "damages", n/sweepStep, 1500)
		})
	}
}
