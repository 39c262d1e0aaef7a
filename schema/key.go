package schema

import (
	"fmt"
	"slices"
	"strings"

	"github.com/thermocline/thermocline/record"
)

// MaxKeyFields bounds the fields of a key.
const MaxKeyFields = 16

// Key takes the record key out of a row's Avro datum: the Avro data of the key
// fields, in the order in which they were named. Rows with equal key fields
// have equal keys (0.0 and -0.0 are not equal here). Safe for concurrent use.
type Key struct {
	steps  []keyStep
	fields []Field
	// prefixed: a field that is not nullable itself but lies in a nullable
	// struct, so that it needs a union branch in the key.
	prefixed []bool
}

// keyStep is a step over one field of a datum.
type keyStep struct {
	field *Field
	slot  int       // of the key field that this is; -1 otherwise
	steps []keyStep // into a struct that holds key fields
}

// CompileKey compiles the program for the key fields, each a dotted path
// ("location.station") to a field that is neither ARRAY, MAP nor STRUCT and
// lies in no ARRAY or MAP. No fields means no key: Append appends nothing.
func CompileKey(s *Schema, fields []string) (*Key, error) {
	if len(fields) > MaxKeyFields {
		return nil, fmt.Errorf("schema: key of %d fields; the limit is %d: %w", len(fields), MaxKeyFields, record.ErrInvalid)
	}
	k := &Key{}
	paths := make([][]int, len(fields))
	for slot, path := range fields {
		f, at, ok := s.Lookup(path)
		if !ok {
			return nil, fmt.Errorf("schema: key field %q does not exist; the columns are %s: %w", excerpt(path), s.columnList(), record.ErrInvalid)
		}
		if slices.ContainsFunc(paths[:slot], func(o []int) bool { return slices.Equal(o, at) }) {
			return nil, invalidf(path, "stands twice in the key; name it once")
		}
		if f.Type.Kind.Nested() {
			return nil, invalidf(path, "is %s and cannot be a key; name a field that is no ARRAY, MAP or STRUCT", f.Type)
		}
		inNullable, err := keyParents(s.Fields, at, path)
		if err != nil {
			return nil, err
		}
		paths[slot] = at
		kf := f.clone()
		kf.Name = path
		kf.Nullable = f.Nullable || inNullable
		kf.Default = nil
		k.fields = append(k.fields, kf)
		k.prefixed = append(k.prefixed, inNullable && !f.Nullable)
	}
	k.steps = keySteps(s.Fields, paths, 0)
	return k, nil
}

// keyParents checks the way to a key field: structs only. It tells whether one
// of them is nullable.
func keyParents(fields []Field, at []int, path string) (nullable bool, err error) {
	for _, i := range at[:len(at)-1] {
		f := &fields[i]
		if f.Type.Kind != Struct {
			return false, invalidf(path, "lies in the %s %q and cannot be a key", f.Type, f.Name)
		}
		nullable = nullable || f.Nullable
		fields = f.Type.Fields
	}
	return nullable, nil
}

// keySteps lists the steps over fields up to the last one that matters.
// paths[slot][depth:] is the way to a key field from here; nil paths are
// elsewhere.
func keySteps(fields []Field, paths [][]int, depth int) []keyStep {
	last := -1
	for _, p := range paths {
		if p != nil {
			last = max(last, p[depth])
		}
	}
	steps := make([]keyStep, last+1)
	for i := range steps {
		steps[i] = keyStep{field: &fields[i], slot: -1}
		inside := make([][]int, len(paths))
		enter := false
		for slot, p := range paths {
			switch {
			case p == nil || p[depth] != i:
			case len(p) == depth+1:
				steps[i].slot = slot
			default:
				inside[slot], enter = p, true
			}
		}
		if enter {
			steps[i].steps = keySteps(fields[i].Type.Fields, inside, depth+1)
		}
	}
	return steps
}

// Schema describes the key: its fields are named by their paths, and nullable
// where they or a struct around them are.
func (k *Key) Schema() *Schema { return &Schema{Fields: cloneFields(k.fields)} }

// String lists the key fields.
func (k *Key) String() string {
	names := make([]string, len(k.fields))
	for i := range k.fields {
		names[i] = k.fields[i].Name
	}
	return strings.Join(names, ",")
}

// Append appends the key of the row with this Avro datum (without header) to
// dst. It allocates nothing but dst. A damaged datum is ErrCorrupt.
func (k *Key) Append(dst, avro []byte) ([]byte, error) {
	var at [MaxKeyFields][2]int // the zero value: null, in a null struct
	if walkKey(k.steps, &at, avro, 0) < 0 {
		return dst, corruptf(k.String(), "the row ends or errs before its key fields")
	}
	for slot := range k.fields {
		a := at[slot]
		switch {
		case a[1] == 0:
			dst = append(dst, 0)
			continue
		case k.prefixed[slot]:
			dst = append(dst, 2)
		}
		dst = append(dst, avro[a[0]:a[1]]...)
	}
	return dst, nil
}

func walkKey(steps []keyStep, at *[MaxKeyFields][2]int, b []byte, i int) int {
	for s := range steps {
		step := &steps[s]
		if step.steps != nil {
			if step.field.Nullable {
				null, next := readBranch(b, i)
				if next < 0 {
					return bad
				}
				if i = next; null {
					continue
				}
			}
			if i = walkKey(step.steps, at, b, i); i < 0 {
				return bad
			}
			// The rest of the struct lies behind its last key field.
			for f := len(step.steps); f < len(step.field.Type.Fields); f++ {
				if i = skipField(&step.field.Type.Fields[f], b, i); i < 0 {
					return bad
				}
			}
			continue
		}
		next := skipField(step.field, b, i)
		if next < 0 {
			return bad
		}
		if step.slot >= 0 {
			at[step.slot] = [2]int{i, next}
		}
		i = next
	}
	return i
}
