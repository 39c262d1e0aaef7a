package predicate

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
)

// compare sets in t the rows whose value passes the test; what it sets for
// nulls means nothing.
func (l *leaf) compare(a arrow.Array, t []uint64) {
	switch a := a.(type) {
	case *array.Boolean:
		l.booleans(a, t)
	case *array.Int32:
		numbers(l, a.Int32Values(), t, func(v Value) int64 { return v.i })
	case *array.Int64:
		numbers(l, a.Int64Values(), t, func(v Value) int64 { return v.i })
	case *array.Date32:
		numbers(l, a.Date32Values(), t, func(v Value) int64 { return v.i })
	case *array.Timestamp:
		numbers(l, a.TimestampValues(), t, func(v Value) int64 { return v.i })
	case *array.Float32:
		numbers(l, a.Float32Values(), t, func(v Value) float64 { return v.f })
	case *array.Float64:
		numbers(l, a.Float64Values(), t, func(v Value) float64 { return v.f })
	case *array.Decimal128:
		l.decimals(a.Values(), t)
	case *array.String:
		l.texts(a.Len(), func(i int) string { return a.Value(i) }, t)
	case *array.Binary:
		l.texts(a.Len(), a.ValueString, t)
	}
}

func (l *leaf) booleans(a *array.Boolean, t []uint64) {
	clear(t)
	for i := range a.Len() {
		v := int64(0)
		if a.Value(i) {
			v = 1
		}
		if l.test == oneOf {
			if slices.ContainsFunc(l.values, func(o Value) bool { return o.i == v }) {
				t[i>>6] |= 1 << (i & 63)
			}
		} else if (v == l.value.i) == (l.op == eq) {
			t[i>>6] |= 1 << (i & 63)
		}
	}
}

// numbers compares in the wide type W, which holds both the column's values
// and the literals.
func numbers[T interface {
	~int32 | ~int64 | ~float32 | ~float64
}, W int64 | float64](l *leaf, vs []T, t []uint64, wide func(Value) W) {
	if l.test == oneOf {
		clear(t)
		set := make([]W, len(l.values))
		for i, v := range l.values {
			set[i] = wide(v)
		}
		for i, v := range vs {
			w := W(v)
			lo, hi := 0, len(set)
			for lo < hi { // a NaN is not less than anything and ends at 0
				if mid := (lo + hi) / 2; set[mid] < w {
					lo = mid + 1
				} else {
					hi = mid
				}
			}
			if lo < len(set) && set[lo] == w {
				t[i>>6] |= 1 << (i & 63)
			}
		}
		return
	}
	x := wide(l.value)
	for k := range t {
		part := vs[64*k : min(64*k+64, len(vs))]
		w := uint64(0)
		switch l.op {
		case eq:
			for i, v := range part {
				w |= bit(W(v) == x) << i
			}
		case ne:
			for i, v := range part {
				w |= bit(W(v) != x) << i
			}
		case lt:
			for i, v := range part {
				w |= bit(W(v) < x) << i
			}
		case le:
			for i, v := range part {
				w |= bit(W(v) <= x) << i
			}
		case gt:
			for i, v := range part {
				w |= bit(W(v) > x) << i
			}
		case ge:
			for i, v := range part {
				w |= bit(W(v) >= x) << i
			}
		}
		t[k] = w
	}
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func (l *leaf) decimals(vs []decimal128.Num, t []uint64) {
	clear(t)
	for i, v := range vs {
		ok := false
		if l.test == oneOf {
			_, ok = slices.BinarySearchFunc(l.values, v, func(o Value, v decimal128.Num) int { return o.d.Cmp(v) })
		} else {
			ok = l.op.holds(v.Cmp(l.value.d))
		}
		t[i>>6] |= bit(ok) << (i & 63)
	}
}

func (l *leaf) texts(n int, at func(int) string, t []uint64) {
	clear(t)
	for i := range n {
		v, ok := at(i), false
		switch {
		case l.test == oneOf:
			_, ok = slices.BinarySearchFunc(l.values, v, func(o Value, v string) int { return strings.Compare(o.s, v) })
		case l.op == eq || l.op == ne:
			ok = (v == l.value.s) == (l.op == eq)
		default:
			ok = l.op.holds(strings.Compare(v, l.value.s))
		}
		t[i>>6] |= bit(ok) << (i & 63)
	}
}

// holds tells whether a op b is true where compare says how a stands to b.
func (o op) holds(compare int) bool {
	switch o {
	case eq:
		return compare == 0
	case ne:
		return compare != 0
	case lt:
		return compare < 0
	case le:
		return compare <= 0
	case gt:
		return compare > 0
	}
	return compare >= 0
}

func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
