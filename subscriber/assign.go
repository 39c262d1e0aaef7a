package subscriber

import "slices"

// assign divides partitions among members: evenly (no member has two more than
// another), totally (every partition has one, if there are members), and with as
// few moves as that allows. has[p] is the session that has partition p now, 0 or
// one that is not among members for none. Members are in the order of their
// sessions, and the first ones get what does not divide. The result depends on
// nothing else.
func assign(members []int64, has []int64) []int64 {
	out := make([]int64, len(has))
	if len(members) == 0 {
		return out
	}
	base, extra := len(has)/len(members), len(has)%len(members)
	// What each has, in order of the partitions.
	held := make(map[int64][]int, len(members))
	for _, m := range members {
		held[m] = nil
	}
	var free []int
	for p, m := range has {
		if mine, ok := held[m]; ok {
			held[m] = append(mine, p)
		} else {
			free = append(free, p)
		}
	}
	// Every member may keep base; extra of those that have more keep one more.
	room := make([]int, len(members))
	for i, m := range members {
		keep := min(len(held[m]), base)
		if len(held[m]) > base && extra > 0 {
			keep++
			extra--
		}
		for _, p := range held[m][:keep] {
			out[p] = m
		}
		free = append(free, held[m][keep:]...)
		room[i] = max(0, base-keep)
	}
	// Who has exactly base may still get one more.
	for i, m := range members {
		if extra > 0 && len(held[m]) <= base {
			room[i]++
			extra--
		}
	}
	slices.Sort(free)
	for i, m := range members {
		for range room[i] {
			out[free[0]], free = m, free[1:]
		}
	}
	return out
}
