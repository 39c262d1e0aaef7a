package test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// place is the identity of a row: the system columns.
type place struct {
	View      int   `json:"_view"`
	Partition int   `json:"_partition_id"`
	Offset    int64 `json:"_offset"`
}

// density checks that the rows of one view fill each partition's offsets
// without gap, none twice.
type density struct {
	seen map[int][]uint64 // by partition, one bit an offset
	rows int64
}

func (d *density) add(p place) error {
	if p.View != 1 || p.Offset < 0 || p.Offset > 1<<32 {
		return fmt.Errorf("no row can have the place %+v", p)
	}
	if d.seen == nil {
		d.seen = map[int][]uint64{}
	}
	bits := d.seen[p.Partition]
	word, bit := int(p.Offset/64), uint64(1)<<(p.Offset%64)
	if word >= len(bits) {
		bits = append(bits, make([]uint64, word-len(bits)+1)...)
		d.seen[p.Partition] = bits
	}
	if bits[word]&bit != 0 {
		return fmt.Errorf("the row at %+v came twice", p)
	}
	bits[word] |= bit
	d.rows++
	return nil
}

// check compares with what the server says of its partitions' ends: as no
// offset came twice, none beyond the end and as many as the end means no gap.
func (d *density) check(t *testing.T, o offsets) {
	t.Helper()
	if d.rows != o.end() {
		t.Errorf("%d rows were read, %d were appended", d.rows, o.end())
	}
	for _, p := range o.Partitions {
		for offset := range p.End {
			bits := d.seen[p.Partition]
			if word := int(offset / 64); word >= len(bits) || bits[word]&(1<<(offset%64)) == 0 {
				t.Fatalf("partition %d has %d rows, that at offset %d was not read", p.Partition, p.End, offset)
			}
		}
	}
}

// numberedSchema is the schema of rows that tests of crashes tell apart by
// number.
const numberedSchema = `{"fields":[
	{"name":"number","type":"LONG","nullable":false},
	{"name":"group","type":"STRING","nullable":false},
	{"name":"text","type":"STRING","nullable":true}
]}`

// numbered makes the rows first to first+n-1, which differ in size.
func numbered(first, n int64) string {
	var b strings.Builder
	for i := first; i < first+n; i++ {
		fmt.Fprintf(&b, `{"number":%d,"group":"g%d","text":%q}`+"\n", i, i%7, strings.Repeat("x", int(i%50)))
	}
	return b.String()
}

// numbers reads a stream of numbered rows and returns how often each is there,
// having checked that they are where they should be: densely, and in the order
// of publishing within a group when one publisher wrote them in ascending order.
func (s *stream) numbers(t *testing.T, ascending bool) map[int64]int {
	t.Helper()
	var d density
	found := map[int64]int{}
	last := map[string]int64{}
	s.scan(t, "system=true", func(line []byte) {
		var row struct {
			place
			Number int64
			Group  string
		}
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if err := d.add(row.place); err != nil {
			t.Fatal(err)
		}
		found[row.Number]++
		if before, ok := last[row.Group]; ascending && ok && before >= row.Number {
			t.Fatalf("row %d of group %s came after row %d", row.Number, row.Group, before)
		}
		last[row.Group] = row.Number
	})
	d.check(t, s.offsets(t))
	return found
}

// wantNumbers fails unless the rows 0 to n-1 are there, each once, in order.
func (s *stream) wantNumbers(t *testing.T, n int64) {
	t.Helper()
	found := s.numbers(t, true)
	for i := range n {
		if found[i] != 1 {
			t.Fatalf("row %d is there %d times, want once", i, found[i])
		}
	}
	if len(found) != int(n) {
		t.Fatalf("%d different rows, want %d", len(found), n)
	}
}

// newRand is different in each run; the log says how to have the run again.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("random seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func TestDensity(t *testing.T) {
	t.Parallel()
	var d density
	for _, offset := range []int64{2, 0, 70, 1} {
		if err := d.add(place{1, 3, offset}); err != nil {
			t.Fatal(err)
		}
	}
	if d.add(place{1, 3, 70}) == nil {
		t.Error("the same place twice must be noticed")
	}
	if d.add(place{2, 3, 71}) == nil {
		t.Error("a second view must be noticed")
	}
}
