package ocf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/twmb/avro"
	libocf "github.com/twmb/avro/ocf"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/record/recordtest"
)

const testSchema = `{"type":"record","name":"r","fields":[{"name":"n","type":"long"},{"name":"s","type":"string"}]}`

type row struct {
	N int64  `avro:"n"`
	S string `avro:"s"`
}

func datum(r row) []byte {
	b := binary.AppendVarint(nil, r.N)
	b = binary.AppendVarint(b, int64(len(r.S)))
	return append(b, r.S...)
}

var codecs = []Codec{Null, Deflate, Snappy, Zstd}

func write(t testing.TB, c Codec, rows int) []byte {
	var buf bytes.Buffer
	w, err := NewWriter(&buf, testSchema, c, map[string]string{"k": "v"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if err := w.Append(datum(row{int64(i), strings.Repeat("x", i%100)})); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w.Size() != int64(buf.Len()) {
		t.Errorf("Size() = %d, wrote %d", w.Size(), buf.Len())
	}
	return buf.Bytes()
}

// The library reads what we wrote: several blocks, every codec.
func TestLibraryReadsOurs(t *testing.T) {
	t.Parallel()
	for _, c := range codecs {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			const n = 20_000
			r, err := libocf.NewReader(bytes.NewReader(write(t, c, n)))
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				var got row
				if err := r.Decode(&got); err != nil {
					t.Fatalf("row %d: %v", i, err)
				}
				if got.N != int64(i) || len(got.S) != i%100 {
					t.Fatalf("row %d is %v", i, got)
				}
			}
			if err := r.Decode(&row{}); !errors.Is(err, io.EOF) {
				t.Fatalf("after the last row: %v, want EOF", err)
			}
		})
	}
}

// We read what the library wrote.
func TestWeReadTheLibrarys(t *testing.T) {
	t.Parallel()
	s := avro.MustParse(testSchema)
	lib := map[Codec]libocf.Codec{Deflate: libocf.DeflateCodec(-1), Snappy: libocf.SnappyCodec(), Zstd: libocf.MustZstdCodec(nil, nil)}
	for _, c := range codecs {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			var opts []libocf.WriterOpt
			if lib[c] != nil {
				opts = append(opts, libocf.WithCodec(lib[c]))
			}
			var buf bytes.Buffer
			w, err := libocf.NewWriter(&buf, s, opts...)
			if err != nil {
				t.Fatal(err)
			}
			var want []byte
			for i := range 5000 {
				r := row{int64(i), "abc"}
				want = append(want, datum(r)...)
				if err := w.Encode(&r); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			got, rows := readAll(t, buf.Bytes())
			if rows != 5000 || !bytes.Equal(got, want) {
				t.Fatalf("got %d rows, %d bytes; want 5000, %d", rows, len(got), len(want))
			}
		})
	}
}

func readAll(t testing.TB, file []byte) (all []byte, rows int) {
	r, err := NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	for {
		n, b, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, rows
		}
		if err != nil {
			t.Fatal(err)
		}
		rows += n
		all = append(all, b...)
	}
}

// A file cut anywhere is an error, or (between blocks) has whole blocks only.
func TestCutFile(t *testing.T) {
	t.Parallel()
	for _, c := range codecs {
		file := write(t, c, 10)
		for cut := range len(file) {
			r, err := NewReader(bytes.NewReader(file[:cut]))
			if err == nil {
				_, _, err = r.Next()
				if errors.Is(err, io.EOF) && cut < len(file)-1 {
					continue // right behind the header
				}
			}
			if !errors.Is(err, record.ErrInvalid) {
				t.Fatalf("%s cut to %d of %d: %v, want ErrInvalid", c, cut, len(file), err)
			}
		}
	}
}

func TestDecompressionIsBounded(t *testing.T) {
	t.Parallel()
	bomb := make([]byte, MaxBlockBytes+1)
	for _, c := range codecs[1:] {
		b, err := c.compress(nil, bomb)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.decompress(nil, b); err == nil {
			t.Errorf("%s: a block of %d bytes was accepted", c, len(bomb))
		}
	}
}

func FuzzReader(f *testing.F) {
	for _, c := range codecs {
		f.Add(write(f, c, 10))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		// A block may be large when it is unpacked, but one at a time.
		limit := 1<<20 + 64*len(file) + 4*MaxBlockBytes
		var err error
		recordtest.Bounded(t, limit, func() {
			var r *Reader
			r, err = NewReader(bytes.NewReader(file))
			for err == nil {
				_, _, err = r.Next()
			}
		})
		if !errors.Is(err, io.EOF) && !errors.Is(err, record.ErrInvalid) && !errors.Is(err, record.ErrTooLarge) {
			t.Fatalf("unexpected class of error: %v", err)
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	d := datum(row{123456, "an ordinary row"})
	for _, c := range codecs {
		b.Run(string(c), func(b *testing.B) {
			w, err := NewWriter(io.Discard, testSchema, c, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(d)))
			for b.Loop() {
				if err := w.Append(d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
