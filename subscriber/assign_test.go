package subscriber

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestAssign: even, total, and no other division that is even moves less.
func TestAssign(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		members := rapid.SliceOfNDistinct(rapid.Int64Range(1, 40), 0, 12, rapid.ID[int64]).Draw(t, "members")
		slices.Sort(members)
		has := rapid.SliceOfN(rapid.Int64Range(0, 40), 0, 24).Draw(t, "has")
		before := slices.Clone(has)
		got := assign(members, has)
		if !slices.Equal(has, before) {
			t.Fatal("assign changed its argument")
		}
		if len(got) != len(has) {
			t.Fatalf("%d partitions became %d", len(has), len(got))
		}
		if len(members) == 0 {
			if slices.ContainsFunc(got, func(m int64) bool { return m != 0 }) {
				t.Fatalf("nobody is there, and %v have partitions", got)
			}
			return
		}
		counts, had := map[int64]int{}, map[int64]int{}
		kept := 0
		for p, m := range got {
			if !slices.Contains(members, m) {
				t.Fatalf("partition %d went to %d, who is not there", p, m)
			}
			counts[m]++
			had[has[p]]++
			if has[p] == m {
				kept++
			}
		}
		base, extra := len(has)/len(members), len(has)%len(members)
		most := 0
		for _, m := range members {
			if counts[m] < base || counts[m] > base+1 {
				t.Fatalf("uneven: %v over %v", got, members)
			}
			most += min(had[m], base)
			if had[m] > base && extra > 0 {
				most++
				extra--
			}
		}
		if kept != most {
			t.Fatalf("%d stayed where they were, %d could have: %v from %v over %v", kept, most, got, has, members)
		}
	})
}

// TestAssignIsStable: what is even already stays.
func TestAssignIsStable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		members := rapid.SliceOfNDistinct(rapid.Int64Range(1, 40), 1, 12, rapid.ID[int64]).Draw(t, "members")
		slices.Sort(members)
		first := assign(members, rapid.SliceOfN(rapid.Int64Range(0, 40), 0, 24).Draw(t, "has"))
		if again := assign(members, first); !slices.Equal(first, again) {
			t.Fatalf("%v became %v", first, again)
		}
	})
}

func BenchmarkAssign(b *testing.B) {
	members := make([]int64, MaxMembers)
	for i := range members {
		members[i] = int64(i + 1)
	}
	has := assign(members[1:], make([]int64, 1024))
	for b.Loop() {
		assign(members, has)
	}
}
