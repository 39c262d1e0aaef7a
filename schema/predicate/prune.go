package predicate

import "slices"

// Stats are what is known of the columns of a file or row group.
type Stats interface {
	// Column returns what is known of the column with a field id; ok is false
	// if nothing is.
	Column(fieldID int) (s ColumnStats, ok bool)
}

// Members is what Stats may offer in addition, where more is known of single values
// than bounds say: by Bloom filters, or by partitions.
type Members interface {
	// MayHold tells whether a column may hold a value. v is of the column's type.
	MayHold(fieldID int, v Value) bool
}

// ColumnStats are what is known of one column. Min and Max bound the values
// that are neither null nor NaN: no value is below Min or above Max, though none
// may equal them (truncated texts). A zero Value is an unknown bound.
type ColumnStats struct {
	Min, Max Value
	// Nulls and Values count the nulls, and all values including nulls;
	// negative if unknown.
	Nulls, Values int64
}

// MayMatch tells whether a row for which the predicate is true may lie where
// the statistics come from. It is false only when there can be none.
func (b *Bound) MayMatch(s Stats) bool {
	return b.may(&b.root, s).beTrue
}

// outcomes are the outcomes that some row may have. (Null is of no interest.)
type outcomes struct{ beTrue, beFalse bool }

func (b *Bound) may(t *term, s Stats) outcomes {
	switch t.form {
	case allOf:
		out := outcomes{beTrue: true}
		for i := range t.terms {
			o := b.may(&t.terms[i], s)
			out.beTrue = out.beTrue && o.beTrue
			out.beFalse = out.beFalse || o.beFalse
		}
		return out
	case anyOf:
		out := outcomes{beFalse: true}
		for i := range t.terms {
			o := b.may(&t.terms[i], s)
			out.beTrue = out.beTrue || o.beTrue
			out.beFalse = out.beFalse && o.beFalse
		}
		return out
	case notOf:
		o := b.may(&t.terms[0], s)
		return outcomes{beTrue: o.beFalse, beFalse: o.beTrue}
	}
	c, ok := s.Column(b.columns[t.column].ID)
	if !ok {
		c = ColumnStats{Nulls: -1, Values: -1}
	}
	out := t.leaf.may(c)
	if m, ok := s.(Members); ok && out.beTrue {
		out.beTrue = t.leaf.mayBeOneOf(func(v Value) bool { return m.MayHold(b.columns[t.column].ID, v) })
	}
	return out
}

// mayBeOneOf tells whether a column that holds only some values may hold one for which
// the leaf is true.
func (l *leaf) mayBeOneOf(holds func(Value) bool) bool {
	switch {
	case l.test == compareTo && l.op == eq:
		return holds(l.value)
	case l.test == oneOf:
		return slices.ContainsFunc(l.values, holds)
	}
	return true
}

func (l *leaf) may(c ColumnStats) outcomes {
	some := c.Nulls < 0 || c.Values < 0 || c.Values > c.Nulls // values that are not null
	switch {
	case l.test == isNull:
		return outcomes{beTrue: c.Nulls != 0, beFalse: some}
	case !some:
		return outcomes{}
	case l.test == never:
		return outcomes{beFalse: true}
	case l.test == always:
		return outcomes{beTrue: true}
	}
	first := l.value
	if l.test == oneOf {
		first = l.values[0]
	}
	if c.Min.class != first.class {
		c.Min = Value{}
	}
	if c.Max.class != first.class {
		c.Max = Value{}
	}
	out := l.within(c.Min, c.Max)
	if first.class == floating {
		// A NaN lies outside every bound. It equals nothing and is neither
		// less nor greater: != is true for it, the rest false.
		if l.test == compareTo && l.op == ne {
			out.beTrue = true
		} else {
			out.beFalse = true
		}
	}
	return out
}

// within gives the outcomes that values from least to most may have.
func (l *leaf) within(least, most Value) outcomes {
	reaches := func(v Value) bool { return most.class == none || most.compare(v) >= 0 }     // some value may be ≥ v
	exceeds := func(v Value) bool { return most.class == none || most.compare(v) > 0 }      // … > v
	sinksTo := func(v Value) bool { return least.class == none || least.compare(v) <= 0 }   // … ≤ v
	sinksBelow := func(v Value) bool { return least.class == none || least.compare(v) < 0 } // … < v
	one := least.class != none && most.class != none && least.compare(most) == 0
	v := l.value
	if l.test == oneOf {
		var o outcomes
		for _, v := range l.values {
			o.beTrue = o.beTrue || sinksTo(v) && reaches(v)
		}
		_, found := slices.BinarySearchFunc(l.values, least, Value.compare)
		o.beFalse = !one || !found
		return o
	}
	switch l.op {
	case eq:
		return outcomes{beTrue: sinksTo(v) && reaches(v), beFalse: !one || least.compare(v) != 0}
	case ne:
		return outcomes{beTrue: !one || least.compare(v) != 0, beFalse: sinksTo(v) && reaches(v)}
	case lt:
		return outcomes{beTrue: sinksBelow(v), beFalse: reaches(v)}
	case le:
		return outcomes{beTrue: sinksTo(v), beFalse: exceeds(v)}
	case gt:
		return outcomes{beTrue: exceeds(v), beFalse: sinksTo(v)}
	default: // ge
		return outcomes{beTrue: reaches(v), beFalse: sinksBelow(v)}
	}
}
