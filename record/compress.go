package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

var errTooLong = fmt.Errorf("more than %d bytes decompressed", MaxBatchBytes)

// zstdEncoder and zstdDecoder are safe for concurrent use and start no
// goroutines when used with EncodeAll and DecodeAll. The batch has a checksum
// of its own, so the frame needs none. An option error is impossible: they are
// constants.
var (
	zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
		if err != nil {
			panic(err)
		}
		return e
	})
	zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxBatchBytes), zstd.WithDecoderConcurrency(0))
		if err != nil {
			panic(err)
		}
		return d
	})
)

// lz4Writers hold frame writers: independent blocks of 64 KiB, as Kafka's Java
// client requires and writes.
var lz4Writers = sync.Pool{New: func() any {
	w := lz4.NewWriter(io.Discard)
	if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false)); err != nil {
		panic(err) // constants
	}
	return w
}}

// appendCompressed appends the compressed form of plain. A codec that is not
// written (None, Gzip, unknown) appends plain as it is, which the caller takes
// for a batch that did not shrink.
func appendCompressed(dst []byte, c Codec, plain []byte) []byte {
	switch c {
	case Snappy:
		n := len(dst)
		dst = slices.Grow(dst, s2.MaxEncodedLen(len(plain)))
		return dst[:n+len(s2.EncodeSnappy(dst[n:cap(dst)], plain))]
	case LZ4:
		w := lz4Writers.Get().(*lz4.Writer)
		defer lz4Writers.Put(w)
		out := sliceWriter{dst}
		w.Reset(&out)
		// Writing to memory cannot fail.
		_, _ = w.Write(plain)
		_ = w.Close()
		return out.b
	case Zstd:
		return zstdEncoder().EncodeAll(plain, dst)
	}
	return append(dst, plain...)
}

type sliceWriter struct{ b []byte }

func (w *sliceWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// decompressor owns what decompression needs between batches.
type decompressor struct {
	buf  []byte
	src  bytes.Reader
	lz4  *lz4.Reader
	gzip *gzip.Reader
}

// decompress returns the plain form of b, at most MaxBatchBytes long, valid
// until the next call.
func (d *decompressor) decompress(c Codec, b []byte) ([]byte, error) {
	switch c {
	case Snappy:
		return d.snappy(b)
	case Zstd:
		plain, err := zstdDecoder().DecodeAll(b, d.buf[:0])
		if err != nil {
			return nil, err
		}
		d.buf = plain
		return plain, nil
	case LZ4:
		d.src.Reset(b)
		if d.lz4 == nil {
			d.lz4 = lz4.NewReader(&d.src)
		} else {
			d.lz4.Reset(&d.src)
		}
		return d.readAll(d.lz4)
	case Gzip:
		d.src.Reset(b)
		if d.gzip == nil {
			d.gzip = new(gzip.Reader)
		}
		if err := d.gzip.Reset(&d.src); err != nil {
			return nil, err
		}
		return d.readAll(d.gzip)
	}
	return nil, errors.New("unknown codec")
}

// readAll reads r into d.buf, up to MaxBatchBytes.
func (d *decompressor) readAll(r io.Reader) ([]byte, error) {
	b := d.buf[:0]
	for {
		if len(b) == cap(b) {
			b = slices.Grow(b, max(64<<10, cap(b)))
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		d.buf = b
		switch {
		case len(b) > MaxBatchBytes:
			return nil, errTooLong
		case err == io.EOF:
			return b, nil
		case err != nil:
			return nil, err
		}
	}
}

// xerialMagic begins the framing that Kafka's Java client puts around snappy
// blocks: magic, two int32 version numbers, then blocks of an int32 length and
// raw snappy. Other clients write one raw block.
var xerialMagic = []byte("\x82SNAPPY\x00")

const xerialHeaderSize = 16

func (d *decompressor) snappy(b []byte) ([]byte, error) {
	d.buf = d.buf[:0]
	if !bytes.HasPrefix(b, xerialMagic) {
		if err := d.snappyBlock(b); err != nil {
			return nil, err
		}
		return d.buf, nil
	}
	if len(b) < xerialHeaderSize {
		return nil, io.ErrUnexpectedEOF
	}
	for b = b[xerialHeaderSize:]; len(b) > 0; {
		if len(b) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		n := int64(int32(binary.BigEndian.Uint32(b)))
		b = b[4:]
		if n < 0 || n > int64(len(b)) {
			return nil, io.ErrUnexpectedEOF
		}
		if err := d.snappyBlock(b[:n]); err != nil {
			return nil, err
		}
		b = b[n:]
	}
	return d.buf, nil
}

// snappyBlock appends one decoded block to d.buf.
func (d *decompressor) snappyBlock(b []byte) error {
	n, err := s2.DecodedLen(b)
	if err != nil {
		return err
	}
	at := len(d.buf)
	if n > MaxBatchBytes-at {
		return errTooLong
	}
	d.buf = slices.Grow(d.buf, n)
	out, err := s2.Decode(d.buf[at:at+n:at+n], b)
	if err != nil {
		return err
	}
	d.buf = d.buf[:at+len(out)]
	return nil
}
