// Package ocf reads and writes Avro object container files as what they are to
// us: blocks of datums that are already encoded. It does not look into the
// datums; the compiled programs of package schema do. (Libraries decode into Go
// values, one allocation and more per row.)
//
// Format: Apache Avro specification 1.12, "Object Container Files".
//
//	file   = "Obj" 1, metadata (a map of bytes), sync marker (16 bytes), block*
//	block  = count (varint), size (varint), size bytes (compressed), sync marker
package ocf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"

	"github.com/thermocline/thermocline/record"
)

var magic = [4]byte{'O', 'b', 'j', 1}

// Codec is the compression of a container's blocks.
type Codec string

const (
	Null    Codec = "null"
	Deflate Codec = "deflate"
	Snappy  Codec = "snappy"
	Zstd    Codec = "zstandard"
)

func codecNamed(name string) (Codec, bool) {
	switch c := Codec(name); c {
	case "":
		return Null, true
	case Null, Deflate, Snappy, Zstd:
		return c, true
	}
	return "", false
}

var zstdReaders = sync.Pool{New: func() any {
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxBlockBytes))
	if err != nil {
		panic(err) // the options are constants
	}
	return r
}}

var zstdWriters = sync.Pool{New: func() any {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err) // the options are constants
	}
	return w
}}

// decompress appends to dst, never more than MaxBlockBytes. For Null it
// returns src itself.
func (c Codec) decompress(dst, src []byte) ([]byte, error) {
	switch c {
	case Null:
		return src, nil
	case Deflate:
		buf := bytes.NewBuffer(dst)
		r := flate.NewReader(bytes.NewReader(src))
		n, err := io.Copy(buf, io.LimitReader(r, MaxBlockBytes+1))
		if err != nil {
			return nil, fmt.Errorf("deflate: %w: %w", err, record.ErrInvalid)
		}
		if n > MaxBlockBytes {
			return nil, tooLarge()
		}
		return buf.Bytes(), nil
	case Snappy:
		if len(src) < 4 {
			return nil, fmt.Errorf("snappy: shorter than its checksum: %w", record.ErrInvalid)
		}
		body, sum := src[:len(src)-4], binary.BigEndian.Uint32(src[len(src)-4:])
		n, err := snappy.DecodedLen(body)
		if err != nil {
			return nil, fmt.Errorf("snappy: %w: %w", err, record.ErrInvalid)
		}
		// No block expands more than about 21 times per stored byte (s2's bound
		// for copies of 64 bytes in 3), so a larger claim is a lie.
		if n > MaxBlockBytes || n > 64+len(body)*32 {
			return nil, tooLarge()
		}
		if cap(dst) < n {
			dst = make([]byte, 0, n)
		}
		out, err := snappy.Decode(dst[:n], body)
		if err != nil {
			return nil, fmt.Errorf("snappy: %w: %w", err, record.ErrInvalid)
		}
		if crc32.ChecksumIEEE(out) != sum {
			return nil, fmt.Errorf("snappy: checksum mismatch: %w", record.ErrInvalid)
		}
		return out, nil
	case Zstd:
		r := zstdReaders.Get().(*zstd.Decoder)
		defer zstdReaders.Put(r)
		out, err := r.DecodeAll(src, dst)
		if err != nil {
			return nil, fmt.Errorf("zstandard: %w: %w", err, record.ErrInvalid)
		}
		if len(out) > MaxBlockBytes {
			return nil, tooLarge()
		}
		return out, nil
	}
	panic("ocf: codec " + string(c))
}

func tooLarge() error {
	return fmt.Errorf("it decompresses to more than %d bytes; write smaller blocks: %w", MaxBlockBytes, record.ErrTooLarge)
}

// compress appends to dst.
func (c Codec) compress(dst, src []byte) ([]byte, error) {
	switch c {
	case Null:
		return append(dst, src...), nil
	case Deflate:
		buf := bytes.NewBuffer(dst)
		w, err := flate.NewWriter(buf, flate.DefaultCompression)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(src); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		return buf.Bytes(), nil
	case Snappy:
		dst = append(dst, s2.EncodeSnappy(nil, src)...)
		return binary.BigEndian.AppendUint32(dst, crc32.ChecksumIEEE(src)), nil
	case Zstd:
		w := zstdWriters.Get().(*zstd.Encoder)
		defer zstdWriters.Put(w)
		return w.EncodeAll(src, dst), nil
	}
	panic("ocf: codec " + string(c))
}
