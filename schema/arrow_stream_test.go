package schema

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/record"
)

func streamOf(t testing.TB, recs []arrow.RecordBatch, o ...ipc.Option) []byte {
	t.Helper()
	var b bytes.Buffer
	w := ipc.NewWriter(&b, append(o, ipc.WithSchema(recs[0].Schema()))...)
	for _, r := range recs {
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// longTexts is a batch whose one buffer of text compresses well.
func longTexts(t testing.TB) arrow.RecordBatch {
	t.Helper()
	b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{{Name: "x", Type: arrow.BinaryTypes.String}}, nil))
	for range 10_000 {
		b.Field(0).(*array.StringBuilder).Append("the same text again and again")
	}
	return b.NewRecordBatch()
}

func TestCheckArrowStream(t *testing.T) {
	t.Parallel()
	rec := foreignBatch(t)
	for name, stream := range map[string][]byte{
		"plain":   streamOf(t, []arrow.RecordBatch{rec, rec}),
		"lz4":     streamOf(t, []arrow.RecordBatch{rec, rec}, ipc.WithLZ4()),
		"zstd":    streamOf(t, []arrow.RecordBatch{longTexts(t)}, ipc.WithZstd()),
		"ours":    streamOf(t, []arrow.RecordBatch{externalSample(t)}),
		"trailer": append(streamOf(t, []arrow.RecordBatch{rec}), "ignored"...),
		"empty":   nil,
	} {
		if err := CheckArrowStream(stream); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, n := range []int{1, 4, 7, len(stream) / 3, len(stream) / 2} {
			if n < len(stream) {
				if err := CheckArrowStream(stream[:n]); !errors.Is(err, record.ErrInvalid) {
					t.Errorf("%s cut at %d: %v", name, n, err)
				}
			}
		}
	}
}

// externalSample is a batch of the sample schema in external form.
func externalSample(t testing.TB) arrow.RecordBatch {
	t.Helper()
	s := sampleWithIDs(t)
	p, err := CompileAvroToArrow(s, s)
	if err != nil {
		t.Fatal(err)
	}
	b := NewBuilder(s, nil)
	for i := range 3 {
		if err := p.Append(b, sampleRow(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	rec := b.NewBatch()
	defer rec.Release()
	x, err := NewExternal(s).Convert(rec)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestCheckArrowStreamHostile(t *testing.T) {
	t.Parallel()
	// The schema message of one column; its parts are found by their content.
	one := streamOf(t, []arrow.RecordBatch{batchOf(t, arrow.PrimitiveTypes.Int64, `[1]`)})
	fields := bytes.Clone(one)
	metadata := 8 + int(binary.LittleEndian.Uint32(one[4:]))
	patched := 0
	for i := 8; i+4 <= metadata; i += 4 { // every count of one may be the fields'
		if binary.LittleEndian.Uint32(fields[i:]) == 1 {
			binary.LittleEndian.PutUint32(fields[i:], 0x1000_0000)
			patched++
		}
	}
	if patched == 0 {
		t.Fatal("no count found")
	}
	window := streamOf(t, []arrow.RecordBatch{longTexts(t)}, ipc.WithZstd())
	at := bytes.Index(window, []byte{0x28, 0xb5, 0x2f, 0xfd})
	window[at+4] &^= 0x20 | 0xc0 // no single segment, no content size: a window descriptor
	window[at+5] = 0xf8          // of terabytes
	size := streamOf(t, []arrow.RecordBatch{longTexts(t)}, ipc.WithZstd())
	binary.LittleEndian.PutUint64(size[bytes.Index(size, []byte{0x28, 0xb5, 0x2f, 0xfd})-8:], 1<<40)

	dict := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}
	first, second := batchOf(t, dict, `["a","b"]`), batchOf(t, dict, `["a","b","c"]`)
	for name, c := range map[string]struct {
		stream []byte
		want   string
	}{
		"4 billion fields": {fields, "metadata is damaged"},
		"zstd window":      {window, "zstd"},
		"zstd size":        {size, "decompressed"},
		"delta":            {streamOf(t, []arrow.RecordBatch{first, second}, ipc.WithDictionaryDeltas(true)), "delta"},
		"file":             {[]byte("ARROW1\x00\x00"), "too early"},
	} {
		if err := CheckArrowStream(c.stream); !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCheckArrowStreamShared has metadata in which every field has the same two
// children: a tree of 2^40 fields in a few kilobytes.
func TestCheckArrowStreamShared(t *testing.T) {
	t.Parallel()
	if err := CheckArrowStream(sharedMetadata(5)); err != nil {
		t.Errorf("32 fields: %v", err)
	}
	if err := CheckArrowStream(sharedMetadata(40)); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("2^40 fields: %v", err)
	}
}

func sharedMetadata(levels int) []byte {
	var b []byte
	u32 := func(v int) { b = binary.LittleEndian.AppendUint32(b, uint32(v)) }
	u16 := func(v ...int) {
		for _, v := range v {
			b = binary.LittleEndian.AppendUint16(b, uint16(v))
		}
	}
	u32(16)
	u16(10, 12, 0, 4, 8, 0)      // at 4
	u32(12)                      // at 16: the vtable is at 4
	u32(1)                       // Schema
	u32(4 + 8)                   // header: at 24+12 = 36
	u16(8, 8, 0, 4)              // at 28: vtable of Schema, fields at 4
	u32(8)                       // at 36
	u32(4)                       // fields: a vector at 44
	u32(1)                       // at 44
	u32(4 + 16)                  // at 48: the first field at 68
	u16(16, 8, 0, 0, 0, 0, 0, 4) // at 52: vtable of Field, children at 4
	for i := range levels {
		u32(len(b) - 52) // the table
		u32(4)
		u32(2)
		if i == levels-1 {
			b = b[:len(b)-4]
			u32(0)
			break
		}
		u32(8) // both the table behind this vector
		u32(4)
	}
	stream := binary.LittleEndian.AppendUint32([]byte{0xff, 0xff, 0xff, 0xff}, uint32(len(b)))
	return append(stream, b...)
}

func BenchmarkCheckArrowStream(b *testing.B) {
	s := streamOf(b, []arrow.RecordBatch{foreignBatch(b)})
	b.SetBytes(int64(len(s)))
	for b.Loop() {
		if err := CheckArrowStream(s); err != nil {
			b.Fatal(err)
		}
	}
}
