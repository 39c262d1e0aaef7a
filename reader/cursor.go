package reader

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// Cursor is a position in a branch: every own row below Next and every guest row
// up to Guests has been delivered, and no other. It says nothing about where rows
// lie, so it stays good when they move from hot to cold, and across restarts.
//
// Checkpoint is the number of the newest checkpoint that is known to lie at or
// below the position, 0 if none is: a hint where to look for the next one. A cursor
// of either consistency is good for reads of both.
type Cursor struct {
	View       record.ViewID
	Next       record.Offsets
	Checkpoint int64
	// Guests is the guest sequence: all guest rows of files with this data sequence
	// number or a smaller one are behind.
	Guests int64
	// Within, if set, says how far the read has come in the guest rows beyond
	// Guests.
	Within *Within
}

// covers tells whether all rows of a checkpoint are behind.
func (c Cursor) covers(cp catalog.Checkpoint) bool {
	return c.Next.Covers(cp.Cut) && c.Guests >= cp.Guests
}

// Within is a position amid guest rows: those of a snapshot's files with data
// sequence numbers up to Through, in the order of dataset.Table.Ordered. It is good
// as long as the snapshot is there.
type Within struct {
	Through, Snapshot int64
	At                dataset.Place
}

// The encoded form, before base64url without padding. Version 1 is written where
// no guest row is behind:
//
//	0        1..      then    then       then          end-4
//	+--------+--------+-------+----------+- - - - - - -+---------+
//	| 1      | view   | check | n        | n offsets   | CRC-32C |
//	+--------+--------+-------+----------+- - - - - - -+---------+
//	version  uvarint  uvarint uvarint    uvarint each   little endian
//
// and version 2 otherwise. k is 0 outside of Within; then nothing stands between
// it and the checksum:
//
//	+---+------+-------+---+-----------+--------+---+---------+----------+-------+- - - - - - - - -+---------+
//	| 2 | view | check | n | n offsets | guests | k | through | snapshot | files | k × (file, row) | CRC-32C |
//	+---+------+-------+---+-----------+--------+---+---------+----------+-------+- - - - - - - - -+---------+
//
// The checksum covers all bytes before it: a cursor cut short or mistyped is
// refused rather than read as another position.
const (
	cursorOfRows   = 1
	cursorOfGuests = 2
)

// maxPlaces bounds the files that an ordered scan stands in.
const maxPlaces = 64

// maxCursorText bounds what ParseCursor looks at: the longest valid cursor has
// record.MaxPartitions offsets and maxPlaces places, in numbers of at most ten bytes.
const maxCursorText = (record.MaxPartitions + 2*maxPlaces + 8) * 14

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// String is the opaque token that clients keep.
func (c Cursor) String() string {
	guests := c.Guests != 0 || c.Within != nil
	b := []byte{cursorOfRows}
	if guests {
		b[0] = cursorOfGuests
	}
	b = binary.AppendUvarint(b, uint64(c.View))
	b = binary.AppendUvarint(b, uint64(c.Checkpoint))
	b = binary.AppendUvarint(b, uint64(len(c.Next)))
	for _, o := range c.Next {
		b = binary.AppendUvarint(b, uint64(o))
	}
	if guests {
		b = binary.AppendUvarint(b, uint64(c.Guests))
		b = c.Within.append(b)
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseCursor reads what String wrote; anything else is record.ErrInvalid.
func ParseCursor(text string) (Cursor, error) {
	bad := func(why string) (Cursor, error) {
		return Cursor{}, fmt.Errorf("cursor %.40q %s: pass a cursor as an earlier answer gave it, or \"earliest\": %w", text, why, record.ErrInvalid)
	}
	if len(text) > maxCursorText {
		return bad("is too long")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return bad("is not base64url")
	}
	if len(b) < 1+3+4 {
		return bad("is too short")
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return bad("fails its checksum")
	}
	version := body[0]
	if version != cursorOfRows && version != cursorOfGuests {
		return bad(fmt.Sprintf("has version %d, this server knows %d and %d", version, cursorOfRows, cursorOfGuests))
	}
	f := fields{rest: body[1:], ok: true}
	c := Cursor{View: record.ViewID(f.next()), Checkpoint: f.next()}
	if n := f.next(); f.ok && n <= record.MaxPartitions {
		c.Next = make(record.Offsets, n)
		for i := range c.Next {
			c.Next[i] = record.Offset(f.next())
		}
	} else {
		f.ok = false
	}
	if version == cursorOfGuests {
		c.Guests = f.next()
		c.Within = f.within()
		f.ok = f.ok && (c.Guests != 0 || c.Within != nil)
	}
	if !f.ok || len(f.rest) != 0 {
		return bad("is malformed")
	}
	return c, nil
}

func (w *Within) append(b []byte) []byte {
	if w == nil {
		return binary.AppendUvarint(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(w.At.Chains)))
	b = binary.AppendUvarint(b, uint64(w.Through))
	b = binary.AppendUvarint(b, uint64(w.Snapshot))
	b = binary.AppendUvarint(b, uint64(w.At.Files))
	for _, p := range w.At.Chains {
		b = binary.AppendUvarint(b, uint64(p.File))
		b = binary.AppendUvarint(b, uint64(p.Row))
	}
	return b
}

// fields reads the numbers of a cursor; ok is false once one was bad.
type fields struct {
	rest []byte
	ok   bool
}

func (f *fields) next() int64 {
	v, n := binary.Uvarint(f.rest)
	if !f.ok || n <= 0 || v > 1<<63-1 {
		f.ok = false
		return 0
	}
	f.rest = f.rest[n:]
	return int64(v)
}

func (f *fields) within() *Within {
	n := f.next()
	if !f.ok || n == 0 {
		return nil
	}
	if n > maxPlaces {
		f.ok = false
		return nil
	}
	w := &Within{Through: f.next(), Snapshot: f.next()}
	files := f.next()
	f.ok = f.ok && files <= math.MaxUint32
	w.At = dataset.Place{Files: uint32(files), Chains: make([]dataset.FilePlace, n)}
	for i := range w.At.Chains {
		w.At.Chains[i] = dataset.FilePlace{File: int(f.next()), Row: f.next()}
	}
	return w
}
