package reader

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/thermocline/thermocline/record"
)

// Cursor is a position in a view: every row below Next has been delivered, and
// no other. It says nothing about where rows lie, so it stays good when they
// move from hot to cold, and across restarts.
//
// Checkpoint is the number of the newest checkpoint that is known to lie at or
// below Next, 0 if none is: a hint where to look for the next one. A cursor of
// either consistency is good for reads of both.
type Cursor struct {
	View       record.ViewID
	Next       record.Offsets
	Checkpoint int64
}

// The encoded form, before base64url without padding:
//
//	0        1..      then    then       then          end-4
//	+--------+--------+-------+----------+- - - - - - -+---------+
//	| 1      | view   | check | n        | n offsets   | CRC-32C |
//	+--------+--------+-------+----------+- - - - - - -+---------+
//	version  uvarint  uvarint uvarint    uvarint each   little endian
//
// The checksum covers all bytes before it: a cursor cut short or mistyped is
// refused rather than read as another position.
const cursorVersion = 1

// maxCursorText bounds what ParseCursor looks at: the longest valid cursor has
// record.MaxPartitions offsets of at most ten bytes.
const maxCursorText = (record.MaxPartitions + 4) * 14

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// String is the opaque token that clients keep.
func (c Cursor) String() string {
	b := []byte{cursorVersion}
	b = binary.AppendUvarint(b, uint64(c.View))
	b = binary.AppendUvarint(b, uint64(c.Checkpoint))
	b = binary.AppendUvarint(b, uint64(len(c.Next)))
	for _, o := range c.Next {
		b = binary.AppendUvarint(b, uint64(o))
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
	if body[0] != cursorVersion {
		return bad(fmt.Sprintf("has version %d, this server knows %d", body[0], cursorVersion))
	}
	body = body[1:]
	next := func() (int64, bool) {
		v, n := binary.Uvarint(body)
		if n <= 0 || v > 1<<63-1 {
			return 0, false
		}
		body = body[n:]
		return int64(v), true
	}
	view, ok1 := next()
	check, ok2 := next()
	n, ok3 := next()
	if !ok1 || !ok2 || !ok3 || n > record.MaxPartitions {
		return bad("is malformed")
	}
	c := Cursor{View: record.ViewID(view), Checkpoint: check, Next: make(record.Offsets, n)}
	for i := range c.Next {
		o, ok := next()
		if !ok {
			return bad("is malformed")
		}
		c.Next[i] = record.Offset(o)
	}
	if len(body) != 0 {
		return bad("is malformed")
	}
	return c, nil
}
