package schema

import "fmt"

// ChangeKind says what a Change did.
type ChangeKind string

const (
	Added       ChangeKind = "added"
	Dropped     ChangeKind = "dropped"
	Renamed     ChangeKind = "renamed"
	Retyped     ChangeKind = "retyped"
	Nullability ChangeKind = "nullability"
	Defaulted   ChangeKind = "default"
	Documented  ChangeKind = "doc"
	Reordered   ChangeKind = "reordered"
)

// Change is one difference between two schemas. Path is the field's in the new
// schema (in the old one if it was dropped; of the struct, "" for the row, if
// its fields were reordered). From and To are texts for people.
type Change struct {
	Kind ChangeKind `json:"kind"`
	Path string     `json:"path"`
	From string     `json:"from,omitempty"`
	To   string     `json:"to,omitempty"`
}

func (c Change) String() string {
	switch {
	case c.From != "" && c.To != "":
		return fmt.Sprintf("%s %s: %s → %s", c.Kind, c.Path, c.From, c.To)
	case c.From+c.To != "":
		return fmt.Sprintf("%s %s: %s", c.Kind, c.Path, c.From+c.To)
	}
	return fmt.Sprintf("%s %s", c.Kind, c.Path)
}

// Diff lists what changed from old to next, matching fields by id, or by name
// where next has no ids. It judges nothing; Evolve does.
func Diff(old, next *Schema) []Change { return diffFields(nil, "", old.Fields, next.Fields) }

func diffFields(out []Change, path string, old, next []Field) []Change {
	from := matchFields(old, next)
	kept := make([]bool, len(old))
	last, reordered := -1, false
	for i := range next {
		p := join(path, next[i].Name)
		if from[i] < 0 {
			out = append(out, Change{Kind: Added, Path: p, To: describe(&next[i])})
			continue
		}
		o := &old[from[i]]
		kept[from[i]] = true
		reordered = reordered || from[i] < last
		last = from[i]
		if o.Name != next[i].Name {
			out = append(out, Change{Kind: Renamed, Path: p, From: o.Name, To: next[i].Name})
		}
		out = diffField(out, p, o, &next[i])
	}
	for i := range old {
		if !kept[i] {
			out = append(out, Change{Kind: Dropped, Path: join(path, old[i].Name), From: describe(&old[i])})
		}
	}
	if reordered {
		out = append(out, Change{Kind: Reordered, Path: path})
	}
	return out
}

func diffField(out []Change, path string, old, next *Field) []Change {
	if old.Nullable != next.Nullable {
		out = append(out, Change{Kind: Nullability, Path: path, From: nullability(old), To: nullability(next)})
	}
	if !sameDefault(path, old, next) {
		out = append(out, Change{Kind: Defaulted, Path: path, From: defaultText(old), To: defaultText(next)})
	}
	if old.Doc != next.Doc {
		out = append(out, Change{Kind: Documented, Path: path, From: old.Doc, To: next.Doc})
	}
	o, n := &old.Type, &next.Type
	switch {
	case o.Kind != n.Kind || o.Precision != n.Precision || o.Scale != n.Scale:
		return append(out, Change{Kind: Retyped, Path: path, From: o.String(), To: n.String()})
	case n.Kind == Array:
		return diffField(out, join(path, "element"), o.Element, n.Element)
	case n.Kind == Map:
		return diffField(out, join(path, "value"), o.Value, n.Value)
	case n.Kind == Struct:
		return diffFields(out, path, o.Fields, n.Fields)
	}
	return out
}

func nullability(f *Field) string {
	if f.Nullable {
		return "nullable"
	}
	return "required"
}

func describe(f *Field) string { return f.Type.String() + " " + nullability(f) }
