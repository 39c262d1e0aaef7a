package predicate

import "testing"

// A filled selection has the rows that were asked for, also where its memory held
// another one before.
func TestFill(t *testing.T) {
	t.Parallel()
	var s Selection
	for _, n := range []int{200, 3, 64, 65, 0, 129} {
		s.Fill(n, func(i int) bool { return i%3 == 1 })
		want := (n + 1) / 3
		if s.Len() != n || s.Count() != want {
			t.Fatalf("%d rows, %d of them selected; want %d, %d", s.Len(), s.Count(), n, want)
		}
		for i := range n {
			if s.Has(i) != (i%3 == 1) {
				t.Fatalf("row %d of %d: %v", i, n, s.Has(i))
			}
			if next := s.Next(i); next >= 0 && next != i+(4-i%3)%3 {
				t.Fatalf("behind row %d of %d comes %d", i, n, next)
			}
		}
	}
}
