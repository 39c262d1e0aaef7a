package ocf

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/thermocline/thermocline/record"
)

// Limits on what a file from outside may make us allocate.
const (
	// MaxBlockBytes bounds a block, stored and decompressed.
	MaxBlockBytes = 64 << 20
	maxMetaBytes  = 4 << 20
	maxMetaKeys   = 1024
)

// Reader reads the blocks of a container. Not safe for concurrent use.
type Reader struct {
	r      *bufio.Reader
	codec  Codec
	meta   map[string][]byte
	sync   [16]byte
	stored []byte
	plain  []byte
	block  int
}

// NewReader reads the header. Anything that is not a container with a codec
// we know is record.ErrInvalid.
func NewReader(r io.Reader) (*Reader, error) {
	f := &Reader{r: bufio.NewReaderSize(r, 64<<10), meta: map[string][]byte{}}
	if err := f.header(); err != nil {
		return nil, fmt.Errorf("read Avro container header: %w", err)
	}
	return f, nil
}

// Schema is the writer's schema, as text.
func (f *Reader) Schema() []byte { return f.meta["avro.schema"] }

// Metadata is the value of a metadata key, nil where there is none.
func (f *Reader) Metadata(key string) []byte { return f.meta[key] }

func (f *Reader) header() error {
	var m [4]byte
	if _, err := io.ReadFull(f.r, m[:]); err != nil {
		return ended(err)
	}
	if m != magic {
		return fmt.Errorf("it begins with % x, not with \"Obj\" 1: %w", m, record.ErrInvalid)
	}
	left := maxMetaBytes
	for {
		n, err := f.varint()
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if n < 0 { // a count with the block's size behind it, which we need not know
			if _, err := f.varint(); err != nil {
				return err
			}
			n = -n
		}
		if n < 0 || n > maxMetaKeys || len(f.meta)+int(n) > maxMetaKeys {
			return fmt.Errorf("more than %d metadata entries: %w", maxMetaKeys, record.ErrTooLarge)
		}
		for range n {
			k, err := f.bytes(&left)
			if err != nil {
				return err
			}
			v, err := f.bytes(&left)
			if err != nil {
				return err
			}
			f.meta[string(k)] = v
		}
	}
	if _, err := io.ReadFull(f.r, f.sync[:]); err != nil {
		return ended(err)
	}
	if len(f.Schema()) == 0 {
		return fmt.Errorf("there is no avro.schema: %w", record.ErrInvalid)
	}
	var ok bool
	if f.codec, ok = codecNamed(string(f.meta["avro.codec"])); !ok {
		return fmt.Errorf("the codec %q is not one of null, deflate, snappy, zstandard: %w", f.meta["avro.codec"], record.ErrInvalid)
	}
	return nil
}

func (f *Reader) bytes(left *int) ([]byte, error) {
	n, err := f.varint()
	if err != nil {
		return nil, err
	}
	if n < 0 || n > int64(*left) {
		return nil, fmt.Errorf("metadata larger than %d bytes: %w", maxMetaBytes, record.ErrTooLarge)
	}
	*left -= int(n)
	b := make([]byte, n)
	if _, err := io.ReadFull(f.r, b); err != nil {
		return nil, ended(err)
	}
	return b, nil
}

// Next returns the next block: the number of datums and their bytes, end to
// end, valid until the next call. At the end of the file it returns io.EOF; a
// file that ends in the middle of a block is record.ErrInvalid.
func (f *Reader) Next() (count int, data []byte, err error) {
	if _, err := f.r.Peek(1); errors.Is(err, io.EOF) {
		return 0, nil, io.EOF
	}
	count, data, err = f.next()
	if err != nil {
		return 0, nil, fmt.Errorf("read Avro container, block %d: %w", f.block, err)
	}
	f.block++
	return count, data, nil
}

func (f *Reader) next() (int, []byte, error) {
	n, err := f.varint()
	if err != nil {
		return 0, nil, err
	}
	size, err := f.varint()
	if err != nil {
		return 0, nil, err
	}
	if n < 0 || size < 0 {
		return 0, nil, fmt.Errorf("negative count %d or size %d: %w", n, size, record.ErrInvalid)
	}
	if size > MaxBlockBytes {
		return 0, nil, fmt.Errorf("%d bytes, at most %d are read; write smaller blocks: %w", size, MaxBlockBytes, record.ErrTooLarge)
	}
	// Read in steps, so that a size without bytes behind it allocates little.
	f.stored = f.stored[:0]
	for len(f.stored) < int(size) {
		step := min(int(size)-len(f.stored), 1<<20)
		at := len(f.stored)
		f.stored = append(f.stored, make([]byte, step)...)
		if _, err := io.ReadFull(f.r, f.stored[at:]); err != nil {
			return 0, nil, ended(err)
		}
	}
	var sync [16]byte
	if _, err := io.ReadFull(f.r, sync[:]); err != nil {
		return 0, nil, ended(err)
	}
	if !bytes.Equal(sync[:], f.sync[:]) {
		return 0, nil, fmt.Errorf("the sync marker behind it does not match: %w", record.ErrInvalid)
	}
	data, err := f.codec.decompress(f.plain[:0], f.stored)
	if err != nil {
		return 0, nil, err
	}
	if f.codec != Null {
		f.plain = data
	}
	// A datum of no bytes is possible (a record without fields), but a count
	// beyond any block is a lie that callers would loop over.
	if n > MaxBlockBytes {
		return 0, nil, fmt.Errorf("it claims %d datums: %w", n, record.ErrInvalid)
	}
	return int(n), data, nil
}

// varint reads a zigzag-encoded number. (binary.ReadVarint does not let one
// that is too long be told from a failure to read.)
func (f *Reader) varint() (int64, error) {
	var u uint64
	for shift := 0; shift < 64; shift += 7 {
		b, err := f.r.ReadByte()
		if err != nil {
			return 0, ended(err)
		}
		if shift == 63 && b > 1 {
			break
		}
		u |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return int64(u>>1) ^ -int64(u&1), nil
		}
	}
	return 0, fmt.Errorf("a number has more than 64 bits: %w", record.ErrInvalid)
}

// ended turns the end of the file in the wrong place into an input error and
// passes other read errors on.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the file ends too early: %w", record.ErrInvalid)
	}
	return err
}
