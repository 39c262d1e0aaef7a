package verify

import (
	"testing"

	"github.com/thermocline/thermocline/record"
)

// TestForgive: as many rows may be missing as engines have removed. One more, and all
// are told; rows that are not archived are no engine's to remove.
func TestForgive(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		rows    int64
		missing []record.Offset
		want    int64
	}{
		{"none removed", 0, []record.Offset{3}, 1},
		{"as many", 2, []record.Offset{3, 5}, 0},
		{"fewer", 3, []record.Offset{3, 5}, 0},
		{"one more", 2, []record.Offset{3, 5, 6}, 3},
		{"any number", -1, []record.Offset{0, 1, 2, 3}, 0},
		{"hot", 5, []record.Offset{11}, 1},
	} {
		r := &report{emit: func(Event) error { return nil }, seen: map[findingKey]bool{}}
		r.sum.ByCode = map[Code]int64{}
		check := newRowCheck(r, 1, &epochs{})
		check.disordered = true // of epochs there is nothing to say here
		gone := map[record.Offset]bool{}
		for _, o := range c.missing {
			gone[o] = true
		}
		for o := range record.Offset(15) {
			if gone[o] {
				continue
			}
			if _, err := check.row(0, o, int64(o)); err != nil {
				t.Fatal(err)
			}
		}
		check.forgive(c.rows, record.Offsets{10})
		left := int64(0)
		for _, g := range check.parts[0].gaps {
			for _, rest := range without(g.Range, sorted(check.parts[0].excused)) {
				left += rest.Len()
			}
		}
		if left != c.want {
			t.Errorf("%s: %d rows are missed, want %d", c.name, left, c.want)
		}
	}
}
