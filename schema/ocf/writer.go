package ocf

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
)

// blockBytes is the size at which a block is closed: large enough to compress
// well, small enough to split a file for parallel readers.
const blockBytes = 256 << 10

// Writer writes a container. Not safe for concurrent use; nothing is complete
// before Close returned nil.
type Writer struct {
	w       io.Writer
	codec   Codec
	sync    [16]byte
	rows    int
	plain   []byte
	out     []byte
	written int64
}

// NewWriter writes the header: schema is the text of the datums' schema, meta
// further metadata (keys that begin with "avro." are reserved by the format).
func NewWriter(w io.Writer, schema string, codec Codec, meta map[string]string) (*Writer, error) {
	f := &Writer{w: w, codec: codec}
	if _, err := rand.Read(f.sync[:]); err != nil {
		return nil, fmt.Errorf("make a sync marker: %w", err)
	}
	all := maps.Clone(meta)
	if all == nil {
		all = map[string]string{}
	}
	all["avro.schema"], all["avro.codec"] = schema, string(codec)
	h := binary.AppendVarint(magic[:len(magic):len(magic)], int64(len(all)))
	for _, k := range slices.Sorted(maps.Keys(all)) {
		h = append(binary.AppendVarint(h, int64(len(k))), k...)
		h = append(binary.AppendVarint(h, int64(len(all[k]))), all[k]...)
	}
	h = append(h, 0)
	h = append(h, f.sync[:]...)
	if err := f.write(h); err != nil {
		return nil, err
	}
	return f, nil
}

// Append adds one encoded datum.
func (f *Writer) Append(datum []byte) error {
	f.plain = append(f.plain, datum...)
	f.rows++
	if len(f.plain) >= blockBytes {
		return f.flush()
	}
	return nil
}

// Size is the number of bytes written so far, without the open block.
func (f *Writer) Size() int64 { return f.written }

// Close writes the last block. It does not close the underlying writer.
func (f *Writer) Close() error { return f.flush() }

// emptyFrame is a zstd frame of no bytes.
var emptyFrame = [...]byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0x01, 0x00, 0x00}

// skippable begins a zstd frame that decoders skip; its length comes behind.
var skippable = [...]byte{0x50, 0x2a, 0x4d, 0x18}

// AnnexTail is the number of bytes of a container behind its annex.
const AnnexTail = len(emptyFrame) + 16

// Annex returns what must be written before and after n bytes that are not for
// readers of rows, to make a block of them: one of no datums, which holds a
// zstd frame that decoders skip and an empty one. It is for containers with
// the codec Zstd, behind Close, and the last block; the caller writes it.
func (f *Writer) Annex(n int) (before, after []byte) {
	before = binary.AppendVarint(before, 0)
	before = binary.AppendVarint(before, int64(len(skippable)+4+n+len(emptyFrame)))
	before = append(before, skippable[:]...)
	before = binary.LittleEndian.AppendUint32(before, uint32(n))
	return before, append(emptyFrame[:len(emptyFrame):len(emptyFrame)], f.sync[:]...)
}

func (f *Writer) flush() error {
	if f.rows == 0 {
		return nil
	}
	// The size stands before the data, so leave room for both varints.
	const room = 2 * binary.MaxVarintLen64
	if cap(f.out) < room {
		f.out = make([]byte, 0, blockBytes)
	}
	body, err := f.codec.compress(f.out[:room], f.plain)
	if err != nil {
		return fmt.Errorf("compress an Avro block with %s: %w", f.codec, err)
	}
	f.out = append(body, f.sync[:]...)
	var head [room]byte
	h := binary.AppendVarint(head[:0], int64(f.rows))
	h = binary.AppendVarint(h, int64(len(body)-room))
	start := room - len(h)
	copy(f.out[start:], h)
	f.rows, f.plain = 0, f.plain[:0]
	return f.write(f.out[start:])
}

func (f *Writer) write(b []byte) error {
	n, err := f.w.Write(b)
	f.written += int64(n)
	if err != nil {
		return fmt.Errorf("write an Avro container: %w", err)
	}
	return nil
}
