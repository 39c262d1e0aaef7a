package dataset

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path"
	"regexp"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema/ocf"
)

// Parquet footers, page headers and Avro headers have no checksum, and what
// checksums the formats have are optional. So each data file carries a table of
// its own, at a place where other readers see nothing, and every byte that a
// scan reads is checked below the decoders (checked.go), page by page, without
// reading the whole file:
//
//	    Parquet                     Avro
//	0   +---------------------------+---------------------------+
//	    | "PAR1", row groups        | header, blocks of rows    |
//	D   +---------------------------+---------------------------+
//	    |                           | head of a block of 0 rows |
//	    +---------------------------+---------------------------+
//	    | CRC-32C of each 16 KiB of [0, D), uint32 each         |
//	    +-------------------------------------------------------+
//	    | trailer                                               |
//	    +---------------------------+---------------------------+
//	    | footer, length, "PAR1"    | empty zstd frame, sync    |
//	end +---------------------------+---------------------------+
//
// The trailer, all numbers big-endian:
//
//	0        8                  24       32       40    44
//	+--------+------------------+--------+--------+-----+-----+
//	| magic  | UUID in the name | D      | end    | 0   | CRC |
//	+--------+------------------+--------+--------+-----+-----+
//
// The last byte of the magic is the version. CRC is the CRC-32C of [D, end)
// without the CRC itself, so that it covers the table, the trailer and the
// footer. The UUID ties the file to its name: a file in another's place is
// found out. A file that has the table is told from one that has none (of an
// early version, or of another engine) by the version of that UUID, 8, and so
// not by anything in the file that damage could remove.
const (
	sumChunk    = 16 << 10
	sumBytes    = 4
	trailerSize = 48
	// parquetTail is the footer's length and the magic behind it.
	parquetTail = 8
)

var sumMagic = [8]byte{'T', 'C', 's', 'u', 'm', 's', 0, 1}

var checkedName = regexp.MustCompile(`^v\d+-e\d+-(?:.*-)?([0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12})\.(?:parquet|avro)$`)

// checkedID returns the UUID in the name of a data file that carries
// checksums; ok is false for the others.
func checkedID(location string) (id uuid.UUID, ok bool) {
	m := checkedName.FindStringSubmatch(path.Base(location))
	if m == nil {
		return id, false
	}
	id, err := uuid.Parse(m[1])
	return id, err == nil
}

// newCheckedID returns a fresh UUID for the name of a file with checksums.
func newCheckedID() uuid.UUID {
	u := uuid.New()
	u[6] = u[6]&0x0f | 0x80
	return u
}

// sums makes the checksums of [0, D) while it is written.
type sums struct {
	done    []byte // finished chunks, as they stand in the file
	current uint32
	n       int // bytes in the current chunk
}

func (s *sums) write(p []byte) {
	for len(p) > 0 {
		k := min(len(p), sumChunk-s.n)
		s.current = crc32.Update(s.current, castagnoli, p[:k])
		s.n += k
		p = p[k:]
		if s.n == sumChunk {
			s.endChunk()
		}
	}
}

func (s *sums) endChunk() {
	s.done = binary.BigEndian.AppendUint32(s.done, s.current)
	s.current, s.n = 0, 0
}

// size is what table will return in bytes.
func (s *sums) size() int {
	n := len(s.done) + trailerSize
	if s.n > 0 {
		n += sumBytes
	}
	return n
}

// table returns the checksums and the trailer, whose CRC is still missing,
// when d bytes are written and rest bytes will stand around the table.
func (s *sums) table(id uuid.UUID, d int64, rest int) []byte {
	if s.n > 0 {
		s.endChunk()
	}
	t := append(s.done, sumMagic[:]...)
	t = append(t, id[:]...)
	t = binary.BigEndian.AppendUint64(t, uint64(d))
	t = binary.BigEndian.AppendUint64(t, uint64(d)+uint64(len(s.done)+trailerSize+rest))
	return append(t, 0, 0, 0, 0, 0, 0, 0, 0)
}

// seal fills in the CRC of the end of a file, whose trailer ends at.
func seal(end []byte, at int) {
	binary.BigEndian.PutUint32(end[at-4:], endSum(end, at))
}

// endSum is the CRC of the end of a file without the CRC in the trailer.
func endSum(end []byte, at int) uint32 {
	return crc32.Update(crc32.Checksum(end[:at-4], castagnoli), castagnoli, end[at:])
}

// trailer says where the checksums of a file are.
type trailer struct {
	data int64 // D
	at   int64 // where the checksums begin
	end  int64 // where the trailer ends
	sum  uint32
}

// trailerEnd finds where the trailer ends in a file of size bytes, of which
// tail is the end.
func trailerEnd(location string, size int64, tail []byte) (int64, error) {
	after := int64(ocf.AnnexTail)
	if path.Ext(location) == ".parquet" {
		if len(tail) < parquetTail || string(tail[len(tail)-4:]) != "PAR1" {
			return 0, fmt.Errorf("it does not end in \"PAR1\": %w", record.ErrCorrupt)
		}
		after = int64(binary.LittleEndian.Uint32(tail[len(tail)-parquetTail:])) + parquetTail
	}
	if after > size-trailerSize {
		return 0, fmt.Errorf("%d bytes are said to stand behind the checksums of a file of %d: %w", after, size, record.ErrCorrupt)
	}
	return size - after, nil
}

// parseTrailer validates a trailer that ends at end in a file of size bytes.
func parseTrailer(b []byte, id uuid.UUID, size, end int64) (trailer, error) {
	t := trailer{end: end, sum: binary.BigEndian.Uint32(b[44:])}
	if [8]byte(b[:8]) != sumMagic {
		return t, fmt.Errorf("there are no checksums before byte %d: %w", end, record.ErrCorrupt)
	}
	if found := uuid.UUID(b[8:24]); found != id {
		return t, fmt.Errorf("this is the file %s in its place: %w", found, record.ErrCorrupt)
	}
	d, whole := binary.BigEndian.Uint64(b[24:]), binary.BigEndian.Uint64(b[32:])
	if whole != uint64(size) {
		return t, fmt.Errorf("it has %d bytes and says that it has %d: %w", size, whole, record.ErrCorrupt)
	}
	if d > uint64(end) {
		return t, fmt.Errorf("its data ends at byte %d, behind its checksums at %d: %w", d, end, record.ErrCorrupt)
	}
	t.data = int64(d)
	t.at = end - trailerSize - (t.data+sumChunk-1)/sumChunk*sumBytes
	if t.at < t.data {
		return t, fmt.Errorf("%d bytes of data leave no room for their checksums before byte %d: %w", t.data, end, record.ErrCorrupt)
	}
	return t, nil
}
