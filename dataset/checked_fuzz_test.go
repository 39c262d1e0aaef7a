package dataset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/record/recordtest"
)

// inMemory is an object of some bytes.
type inMemory struct{ *bytes.Reader }

func (inMemory) Close() error { return nil }

// fuzzID is in the name of all files of the fuzzer.
var fuzzID = uuid.MustParse("7d444840-9dc0-81d1-b245-5ffdce74fad2")

// sealed is a file of data with checksums; of either format, as far as
// checksums go.
func sealed(data []byte, parquet bool) []byte {
	var s sums
	s.write(data)
	var before, after []byte
	if parquet {
		after = append([]byte("footer"), 6, 0, 0, 0, 'P', 'A', 'R', '1')
	} else {
		before, after = []byte{0, 90}, make([]byte, 25)
	}
	end := append(before, s.table(fuzzID, int64(len(data)), len(before)+len(after))...)
	at := len(end)
	end = append(end, after...)
	seal(end, at)
	return append(slices.Clone(data), end...)
}

// readChecked reads a file through its checksums: all of it, and once more
// across the borders.
func readChecked(file []byte, parquet bool) ([]byte, error) {
	location := "s/data/v1-e1-" + fuzzID.String() + ".avro"
	if parquet {
		location = "s/data/v1-e1-" + fuzzID.String() + ".parquet"
	}
	c := &checked{Object: inMemory{bytes.NewReader(file)}}
	if err := c.readEnd(location, fuzzID); err != nil {
		return nil, err
	}
	out := make([]byte, len(file))
	if n, err := c.ReadAt(out, 0); n < len(out) {
		return nil, err
	}
	for off := 1; off < len(out); off += 5000 {
		p := make([]byte, min(7000, len(out)-off))
		if n, err := c.ReadAt(p, int64(off)); n < len(p) || !bytes.Equal(p, out[off:off+n]) {
			return nil, err
		}
	}
	return out, nil
}

// FuzzChecked: whatever stands in a file, it is refused as damaged or its bytes
// are what was written; one changed byte of a file that is accepted is found.
func FuzzChecked(f *testing.F) {
	for _, parquet := range []bool{true, false} {
		for _, n := range []int{0, 1, sumChunk - 1, sumChunk, 3*sumChunk + 7} {
			f.Add(sealed(bytes.Repeat([]byte{7}, n), parquet), parquet, uint32(n/2))
		}
		// A trailer that promises more than there is.
		bad := sealed(make([]byte, 100), parquet)
		at := bytes.Index(bad, sumMagic[:])
		binary.BigEndian.PutUint64(bad[at+24:], 1<<62)
		f.Add(bad, parquet, uint32(0))
	}
	f.Fuzz(func(t *testing.T, file []byte, parquet bool, at uint32) {
		recordtest.Bounded(t, 1<<20+8*len(file), func() {
			got, err := readChecked(file, parquet)
			if err != nil {
				if !errors.Is(err, record.ErrCorrupt) {
					t.Fatalf("%v is not ErrCorrupt", err)
				}
				return
			}
			if !bytes.Equal(got, file) {
				t.Fatal("other bytes than the file's were read")
			}
			bad := slices.Clone(file)
			bad[int(at)%len(bad)] ^= 1
			if _, err := readChecked(bad, parquet); !errors.Is(err, record.ErrCorrupt) {
				t.Fatalf("a changed byte at %d of %d: %v", int(at)%len(bad), len(bad), err)
			}
		})
	})
}

// Reads beyond the end end there, and a store that fails is not damage.
func TestCheckedReadAt(t *testing.T) {
	t.Parallel()
	file := sealed(bytes.Repeat([]byte{1, 2, 3}, 20_000), true)
	c := &checked{Object: inMemory{bytes.NewReader(file)}}
	if err := c.readEnd("v1-e1-"+fuzzID.String()+".parquet", fuzzID); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	if n, err := c.ReadAt(p, int64(len(file))-40); n != 40 || !errors.Is(err, io.EOF) || !bytes.Equal(p[:n], file[len(file)-40:]) {
		t.Errorf("across the end: %d, %v", n, err)
	}
	if n, err := c.ReadAt(p, int64(len(file))+1); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("behind the end: %d, %v", n, err)
	}
	if n, err := c.ReadAt(p[:0], 5); n != 0 || err != nil {
		t.Errorf("nothing: %d, %v", n, err)
	}
	if _, err := c.ReadAt(p, -1); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("before the file: %v", err)
	}
}
