package dataset

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/record"
)

// TestRowSets holds sets of ranges against sets of rows.
func TestRowSets(t *testing.T) {
	t.Parallel()
	type id struct {
		v record.ViewNumber
		p record.Partition
		o record.Offset
	}
	const views, parts, offsets = 2, 2, 12
	draw := func(t *rapid.T, name string) (rowSet, map[id]bool) {
		rows := map[id]bool{}
		var b rowSetBuilder
		var ranges []rowRange
		for range rapid.IntRange(0, 8).Draw(t, name) {
			r := rowRange{record.ViewNumber(rapid.IntRange(1, views).Draw(t, "view")), record.Partition(rapid.IntRange(0, parts-1).Draw(t, "partition")),
				record.Range{Start: record.Offset(rapid.IntRange(0, offsets).Draw(t, "start")), End: record.Offset(rapid.IntRange(0, offsets).Draw(t, "end"))}}
			ranges = append(ranges, r)
			for o := r.Start; o < r.End; o++ {
				rows[id{r.view, r.partition, o}] = true
				if err := b.add(r.view, r.partition, o); err != nil {
					t.Fatal(err)
				}
			}
		}
		s := newRowSet(ranges)
		if got := b.set(); len(got.minus(s)) > 0 || len(s.minus(got)) > 0 {
			t.Fatalf("one by one: %v, want %v", got, s)
		}
		return s, rows
	}
	rapid.Check(t, func(t *rapid.T) {
		a, inA := draw(t, "a")
		b, inB := draw(t, "b")
		check := func(what string, s rowSet, want func(id) bool) {
			n := int64(0)
			for v := record.ViewNumber(1); v <= views; v++ {
				for p := record.Partition(0); p < parts; p++ {
					for o := record.Offset(0); o < offsets; o++ {
						x := id{v, p, o}
						if want(x) {
							n++
						}
						if s.has(v, p, o) != want(x) {
							t.Fatalf("%s of %v and %v: %v, wrong about %v", what, a, b, s, x)
						}
					}
				}
			}
			if s.rows() != n {
				t.Fatalf("%s of %v and %v: %v has %d rows, want %d", what, a, b, s, s.rows(), n)
			}
			for i := 1; i < len(s); i++ {
				if s[i].sameLog(s[i-1]) && s[i].Start <= s[i-1].End || compareRanges(s[i-1], s[i]) >= 0 {
					t.Fatalf("%s: ranges touch: %v", what, s)
				}
			}
		}
		check("plus", a.plus(b), func(x id) bool { return inA[x] || inB[x] })
		check("minus", a.minus(b), func(x id) bool { return inA[x] && !inB[x] })
		check("and", a.and(b), func(x id) bool { return inA[x] && inB[x] })
	})
}
