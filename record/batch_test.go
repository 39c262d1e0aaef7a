package record

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

type row struct {
	Offset     Offset
	Key, Value string
	KeyNull    bool
}

// readAll returns the rows of b.
func readAll(t testing.TB, r *Reader, b Batch) []row {
	t.Helper()
	if err := r.Reset(b); err != nil {
		t.Fatal(err)
	}
	var out []row
	for {
		o, k, v, ok := r.Next()
		if !ok {
			break
		}
		out = append(out, row{o, string(k), string(v), k == nil})
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// sample gives n rows that resemble encoded events.
func sample(n int) *Rows {
	rng := rand.New(rand.NewPCG(1, 2))
	var rows Rows
	for i := range n {
		key := fmt.Appendf(nil, "station-%03d", rng.IntN(100))
		value := fmt.Appendf(nil, "\x00\x00\x00\x00\x07%08x earthquake %d km of place %d, magnitude %d.%d, status reviewed, net us",
			rng.Uint32(), i%90, rng.IntN(40), rng.IntN(8), rng.IntN(10))
		rows.Append(key, value)
	}
	return &rows
}

func rowsGen() *rapid.Generator[*Rows] {
	return rapid.Custom(func(t *rapid.T) *Rows {
		var rows Rows
		for range rapid.IntRange(1, 40).Draw(t, "rows") {
			var key []byte
			if !rapid.Bool().Draw(t, "null") {
				key = append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "key")...)
			}
			value := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value")
			if rapid.Bool().Draw(t, "long") {
				value = bytes.Repeat(append(value, 'x'), 100)
			}
			rows.Append(key, value)
		}
		return &rows
	})
}

// TestBatchRoundTrip: what AppendBatch wrote, Reader reads; header fields and
// stamps agree, and what follows the batch is left alone.
func TestBatchRoundTrip(t *testing.T) {
	t.Parallel()
	var r Reader
	rapid.Check(t, func(t *rapid.T) {
		rows := rowsGen().Draw(t, "rows")
		from := rapid.IntRange(0, rows.Len()-1).Draw(t, "from")
		to := rapid.IntRange(from+1, rows.Len()).Draw(t, "to")
		codec := rapid.SampledFrom([]Codec{None, Gzip, Snappy, LZ4, Zstd}).Draw(t, "codec")
		base := Offset(rapid.Int64Range(0, 1<<60).Draw(t, "base"))

		prefix := []byte("prefix")
		b := AppendBatch(prefix, rows, from, to, BatchOptions{Codec: codec, Timestamp: 1, BaseOffset: 5})
		if !bytes.HasPrefix(b, prefix) {
			t.Fatal("the bytes before the batch changed")
		}
		b = b[len(prefix):]
		if bound := MaxEncodedSize(to-from, rows.bytesOf(from, to)); len(b) > bound {
			t.Fatalf("%d bytes are above MaxEncodedSize %d", len(b), bound)
		}
		SetBaseOffset(b, base)
		SetTimestamp(b, 1234567)
		batch, rest, err := ParseBatch(append(b, "rest"...))
		if err != nil || string(rest) != "rest" {
			t.Fatalf("rest %q, %v", rest, err)
		}
		if batch.BaseOffset() != base || batch.Len() != to-from || batch.End() != base+Offset(to-from) || batch.Timestamp() != 1234567 {
			t.Fatalf("header %d %d %d %d", batch.BaseOffset(), batch.Len(), batch.End(), batch.Timestamp())
		}
		if c := batch.Codec(); c != codec && c != None {
			t.Fatalf("codec %v instead of %v", c, codec)
		}
		if err := r.Reset(batch); err != nil {
			t.Fatal(err)
		}
		for i := from; i < to; i++ {
			k, v := rows.Row(i)
			o, gk, gv, ok := r.Next()
			if !ok || o != base+Offset(i-from) || !bytes.Equal(gk, k) || (gk == nil) != (k == nil) || !bytes.Equal(gv, v) || gv == nil {
				t.Fatalf("row %d: %v %q %q %v, %v; want %q %q", i, o, gk, gv, ok, r.Err(), k, v)
			}
		}
		if _, _, _, ok := r.Next(); ok || r.Err() != nil {
			t.Fatal("a row too many", r.Err())
		}
	})
}

// TestSplit: a range is as long as it can be, its size is exact, and one row
// always fits.
func TestSplit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rows := rowsGen().Draw(t, "rows")
		from := rapid.IntRange(0, rows.Len()-1).Draw(t, "from")
		limit := rapid.IntRange(0, 5000).Draw(t, "limit")
		to, size := rows.Split(from, limit)
		if to <= from || len(AppendBatch(nil, rows, from, to, BatchOptions{})) != size {
			t.Fatalf("[%d,%d) of size %d", from, to, size)
		}
		if size > limit && to > from+1 {
			t.Fatalf("%d rows of %d bytes are above %d", to-from, size, limit)
		}
		if to < rows.Len() && len(AppendBatch(nil, rows, from, to+1, BatchOptions{})) <= limit {
			t.Fatalf("another row would have fitted")
		}
	})
}

// TestKafkaReadsOurs: franz-go's generated decoder agrees field by field.
func TestKafkaReadsOurs(t *testing.T) {
	t.Parallel()
	rows := sample(50)
	rows.Append(nil, []byte("no key"))
	rows.Append([]byte{}, nil)
	b := AppendBatch(nil, rows, 0, rows.Len(), BatchOptions{Timestamp: 1520000000123, BaseOffset: 77})
	var k kmsg.RecordBatch
	if err := k.ReadFrom(b); err != nil {
		t.Fatal(err)
	}
	got := k
	got.Records, got.CRC = nil, 0
	want := kmsg.RecordBatch{
		FirstOffset: 77, Length: int32(len(b) - 12), PartitionLeaderEpoch: -1, Magic: 2,
		Attributes: 8, LastOffsetDelta: 51, FirstTimestamp: 1520000000123, MaxTimestamp: 1520000000123,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: 52,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if sum := crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)); uint32(k.CRC) != sum {
		t.Errorf("checksum %x instead of %x", k.CRC, sum)
	}
	rest := k.Records
	for i := range rows.Len() {
		var rec kmsg.Record
		n, width := binary.Varint(rest)
		if err := rec.ReadFrom(rest[:width+int(n)]); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		rest = rest[width+int(n):]
		key, value := rows.Row(i)
		if int(rec.OffsetDelta) != i || rec.TimestampDelta64 != 0 || !bytes.Equal(rec.Key, key) || (rec.Key == nil) != (key == nil) || !bytes.Equal(rec.Value, value) {
			t.Fatalf("record %d: %+v", i, rec)
		}
	}
	if len(rest) != 0 {
		t.Errorf("%d bytes left", len(rest))
	}
}

// kafkaBatch is a batch as another client would write it, records with
// headers and their own timestamps.
func kafkaBatch(codec int16, compress func([]byte) []byte, records ...kmsg.Record) []byte {
	var body []byte
	for i, r := range records {
		r.OffsetDelta = int32(i)
		r.TimestampDelta64 = int64(i) * 300
		r.Length = 0
		one := r.AppendTo(nil) // begins with the varint 0
		r.Length = int32(len(one) - 1)
		body = r.AppendTo(body)
	}
	if compress != nil {
		body = compress(body)
	}
	k := kmsg.RecordBatch{
		FirstOffset: 9, PartitionLeaderEpoch: 3, Magic: 2, Attributes: codec, Length: int32(len(body) + 49),
		LastOffsetDelta: int32(len(records) - 1), FirstTimestamp: 100, MaxTimestamp: 4000,
		ProducerID: 5, ProducerEpoch: 1, FirstSequence: 8, NumRecords: int32(len(records)), Records: body,
	}
	b := k.AppendTo(nil)
	k.CRC = int32(crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return k.AppendTo(nil)
}

func xerial(chunk int) func([]byte) []byte {
	return func(b []byte) []byte {
		out := append([]byte("\x82SNAPPY\x00"), 0, 0, 0, 1, 0, 0, 0, 1)
		for len(b) > 0 {
			n := min(chunk, len(b))
			c := s2.EncodeSnappy(nil, b[:n])
			out = append(binary.BigEndian.AppendUint32(out, uint32(len(c))), c...)
			b = b[n:]
		}
		return out
	}
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

// TestReadKafkas: batches of other clients, every codec they use.
func TestReadKafkas(t *testing.T) {
	t.Parallel()
	records := []kmsg.Record{
		{Key: []byte("a"), Value: []byte("first")},
		{Key: nil, Value: []byte(strings.Repeat("second ", 90)), Headers: []kmsg.Header{{Key: "h", Value: []byte("v")}, {Key: "", Value: nil}}},
		{Key: []byte{}, Value: nil},
	}
	want := []row{
		{Offset: 9, Key: "a", Value: "first"},
		{Offset: 10, Value: strings.Repeat("second ", 90), KeyNull: true},
		{Offset: 11},
	}
	for name, c := range map[string]struct {
		codec    int16
		compress func([]byte) []byte
	}{
		"plain":        {0, nil},
		"gzip":         {1, gzipped},
		"snappy raw":   {2, func(b []byte) []byte { return s2.EncodeSnappy(nil, b) }},
		"snappy java":  {2, xerial(100)},
		"lz4":          {3, func(b []byte) []byte { return appendCompressed(nil, LZ4, b) }},
		"zstd":         {4, func(b []byte) []byte { return appendCompressed(nil, Zstd, b) }},
		"transaction":  {1 << 4, nil},
		"append time":  {1 << 3, nil},
		"with horizon": {1 << 6, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var r Reader
			b, rest, err := ParseBatch(kafkaBatch(c.codec, c.compress, records...))
			if err != nil || len(rest) != 0 {
				t.Fatal(len(rest), err)
			}
			for range 2 { // a Reader can be used again
				if d := cmp.Diff(want, readAll(t, &r, b)); d != "" {
					t.Fatal(d)
				}
			}
		})
	}
}

// TestGoldenBatch pins the format: these bytes are on people's disks.
func TestGoldenBatch(t *testing.T) {
	t.Parallel()
	var rows Rows
	rows.Append([]byte("k"), []byte("value"))
	rows.Append(nil, []byte{})
	got := hex.EncodeToString(AppendBatch(nil, &rows, 0, 2, BatchOptions{Timestamp: 0x0102030405, BaseOffset: 3}))
	want := "0000000000000003" + "00000045" + "ffffffff" + "02" + "002b285f" + "0008" + "00000001" +
		"0000000102030405" + "0000000102030405" + "ffffffffffffffff" + "ffff" + "ffffffff" + "00000002" +
		"18" + "00" + "00" + "00" + "02" + "6b" + "0a" + "76616c7565" + "00" +
		"0c" + "00" + "00" + "02" + "01" + "00" + "00"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestBitFlips: every flipped bit under the checksum is found by ParseBatch;
// those outside it change only the base offset, leader epoch or length.
func TestBitFlips(t *testing.T) {
	t.Parallel()
	b := AppendBatch(nil, sample(3), 0, 3, BatchOptions{Timestamp: 5})
	for i := range len(b) * 8 {
		c := bytes.Clone(b)
		c[i/8] ^= 1 << (i % 8)
		_, _, err := ParseBatch(c)
		outside := i/8 < 16 && (i/8 < 8 || i/8 >= 12)
		if err == nil && !outside {
			t.Fatalf("flip of bit %d was not found", i)
		}
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("bit %d: %v is not ErrCorrupt", i, err)
		}
	}
}

func TestParseBatchRefuses(t *testing.T) {
	t.Parallel()
	good := AppendBatch(nil, sample(3), 0, 3, BatchOptions{})
	change := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
		return b
	}
	for name, b := range map[string][]byte{
		"nothing":         nil,
		"half a header":   good[:30],
		"torn":            good[:len(good)-1],
		"length huge":     change(func(b []byte) { binary.BigEndian.PutUint32(b[8:], MaxBatchBytes) }),
		"length negative": change(func(b []byte) { b[8] = 0xff }),
		"length small":    change(func(b []byte) { binary.BigEndian.PutUint32(b[8:], 48) }),
		"magic 1":         change(func(b []byte) { b[16] = 1 }),
		"control batch":   change(func(b []byte) { b[22] |= 1 << 5 }),
		"codec 5":         change(func(b []byte) { b[22] |= 5 }),
		"no rows":         change(func(b []byte) { copy(b[57:61], "\x00\x00\x00\x00"); copy(b[23:27], "\xff\xff\xff\xff") }),
		"thinned out":     change(func(b []byte) { b[26] = 9 }),
		"too many rows":   change(func(b []byte) { copy(b[57:61], "\x00\x10\x00\x00"); copy(b[23:27], "\x00\x0f\xff\xff") }),
		"negative offset": change(func(b []byte) { b[0] = 0x80 }),
	} {
		if _, _, err := ParseBatch(b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestReaderRefuses: a matching checksum does not make the records right.
func TestReaderRefuses(t *testing.T) {
	t.Parallel()
	var rows Rows
	rows.Append([]byte("k"), []byte("v"))
	rows.Append([]byte("l"), []byte("w"))
	good := AppendBatch(nil, &rows, 0, 2, BatchOptions{})
	// Each record is 9 bytes: length, attributes, timestamp, offset, key
	// length, key, value length, value, headers.
	for name, f := range map[string]func(b []byte){
		"record length":    func(b []byte) { b[61] = 0x7e },
		"negative length":  func(b []byte) { b[61] = 0x01 },
		"offset delta":     func(b []byte) { b[70+3] = 0 },
		"key length":       func(b []byte) { b[61+4] = 40 },
		"key length -2":    func(b []byte) { b[61+4] = 3 },
		"value length":     func(b []byte) { b[61+6] = 40 },
		"headers":          func(b []byte) { b[61+8] = 2 },
		"fewer than count": func(b []byte) { b[60], b[26] = 1, 0 },
	} {
		b := bytes.Clone(good)
		f(b)
		SetTimestamp(b, 0)
		batch, _, err := ParseBatch(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var r Reader
		if err := r.Reset(batch); err != nil {
			t.Fatal(err)
		}
		for {
			if _, _, _, ok := r.Next(); !ok {
				break
			}
		}
		if !errors.Is(r.Err(), ErrCorrupt) {
			t.Errorf("%s: %v", name, r.Err())
		}
	}
}

// TestDecompressionLimits: a small batch that would unfold beyond
// MaxBatchBytes is refused before that much is allocated.
func TestDecompressionLimits(t *testing.T) {
	t.Parallel()
	big := make([]byte, MaxBatchBytes+1)
	record := kmsg.Record{Value: []byte("x")}
	for name, c := range map[string]struct {
		codec int16
		bomb  []byte
	}{
		"gzip":        {1, gzipped(big)},
		"snappy":      {2, s2.EncodeSnappy(nil, big)},
		"snappy java": {2, xerial(MaxBatchBytes)(big)},
		"snappy lies": {2, []byte("\xff\xff\xff\xff\x0f")},
		"lz4":         {3, appendCompressed(nil, LZ4, big)},
		"zstd":        {4, appendCompressed(nil, Zstd, big)},
	} {
		b, _, err := ParseBatch(kafkaBatch(c.codec, func([]byte) []byte { return c.bomb }, record))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var r Reader
		if err := r.Reset(b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, _, ok := r.Next(); ok {
			t.Errorf("%s: a row after an error", name)
		}
	}
}

// TestNoAllocationPerRow: neither encoding nor reading allocates in steady state.
func TestNoAllocationPerRow(t *testing.T) {
	rows := sample(500)
	for _, codec := range []Codec{None, Snappy, Zstd} {
		var r Reader
		buf := AppendBatch(nil, rows, 0, rows.Len(), BatchOptions{Codec: codec})
		n := testing.AllocsPerRun(50, func() {
			buf = AppendBatch(buf[:0], rows, 0, rows.Len(), BatchOptions{Codec: codec})
			b, _, err := ParseBatch(buf)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Reset(b); err != nil {
				t.Fatal(err)
			}
			for {
				if _, _, _, ok := r.Next(); !ok {
					break
				}
			}
		})
		if n > 5 {
			t.Errorf("%v: %.0f allocations for 500 rows", codec, n)
		}
	}
}
