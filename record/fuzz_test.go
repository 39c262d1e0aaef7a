package record

import (
	"bytes"
	"errors"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/thermocline/thermocline/record/recordtest"
)

func seeds(f *testing.F) {
	for _, codec := range []Codec{None, Snappy, LZ4, Zstd} {
		f.Add(AppendBatch(nil, sample(20), 0, 20, BatchOptions{Codec: codec, Timestamp: 7, BaseOffset: 3}))
	}
	rec := kmsg.Record{Key: []byte("k"), Value: []byte("v"), Headers: []kmsg.Header{{Key: "h"}}}
	f.Add(kafkaBatch(1, gzipped, rec, rec))
	f.Add(kafkaBatch(2, xerial(8), rec, rec))
	f.Add(kafkaBatch(2, func(b []byte) []byte { return s2.EncodeSnappy(nil, b) }, rec))
	f.Add([]byte{})
}

// FuzzParseBatch: any bytes give a batch that is consistent or ErrCorrupt.
func FuzzParseBatch(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		var b Batch
		var rest []byte
		var err error
		recordtest.Bounded(t, 16<<10, func() { b, rest, err = ParseBatch(in) })
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v is not ErrCorrupt", err)
			}
			return
		}
		if !bytes.Equal(append(bytes.Clone(b.Bytes()), rest...), in) {
			t.Fatal("batch and rest are not the input")
		}
		if b.Len() < 1 || b.End() <= b.BaseOffset() || b.BaseOffset() < 0 {
			t.Fatalf("offsets [%d,%d) for %d rows", b.BaseOffset(), b.End(), b.Len())
		}
	})
}

// FuzzReader: any records under a right checksum give all rows, in order,
// that encode again to the same rows, or ErrCorrupt; never a panic.
func FuzzReader(f *testing.F) {
	seeds(f)
	var r, again Reader
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < HeaderSize {
			return
		}
		in = bytes.Clone(in)
		SetTimestamp(in, 1) // makes the checksum right, so that records are reached
		b, _, err := ParseBatch(in)
		if err != nil {
			return
		}
		if err := r.Reset(b); err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v is not ErrCorrupt", err)
			}
			return
		}
		var rows Rows
		for {
			o, k, v, ok := r.Next()
			if !ok {
				break
			}
			if o != b.BaseOffset()+Offset(rows.Len()) {
				t.Fatalf("row %d has offset %d", rows.Len(), o)
			}
			rows.Append(k, v)
		}
		if r.Err() != nil {
			if !errors.Is(r.Err(), ErrCorrupt) {
				t.Fatalf("%v is not ErrCorrupt", r.Err())
			}
			return
		}
		if rows.Len() != b.Len() {
			t.Fatalf("%d rows of %d without an error", rows.Len(), b.Len())
		}
		c, _, err := ParseBatch(AppendBatch(nil, &rows, 0, rows.Len(), BatchOptions{Codec: Snappy, BaseOffset: b.BaseOffset()}))
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Reset(c); err != nil {
			t.Fatal(err)
		}
		for i := range rows.Len() {
			k, v := rows.Row(i)
			_, gk, gv, ok := again.Next()
			if !ok || !bytes.Equal(k, gk) || !bytes.Equal(v, gv) {
				t.Fatalf("row %d changed: %v", i, again.Err())
			}
		}
	})
}

// FuzzOffsets: offsets as JSON, as they stand in snapshots and come with
// requests, are taken whole or refused.
func FuzzOffsets(f *testing.F) {
	f.Add([]byte(`{"0":1,"3":5}`))
	f.Add([]byte(`{"0":1,"00":2,"+0":3}`))
	f.Add([]byte(`{"8191":9223372036854775807}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		recordtest.Bounded(t, 256<<10+64*len(in), func() {
			var o, again Offsets
			if o.UnmarshalJSON(in) != nil {
				return
			}
			b, err := o.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			if err := again.UnmarshalJSON(b); err != nil || !again.Equal(o) {
				t.Fatalf("%v became %v, %v", o, again, err)
			}
		})
	})
}
