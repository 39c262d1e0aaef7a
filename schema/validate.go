package schema

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/thermocline/thermocline/record"
)

// Limits of a schema. They keep compiled programs, Parquet footers and error
// messages at a size that can be bounded.
const (
	MaxDepth     = 64     // levels of nesting
	MaxFields    = 10_000 // fields, elements, keys and values in all
	MaxNameBytes = 255
	MaxPathBytes = 2048 // of a field's dotted path
	MaxPrecision = 38
)

// reserved are names that no top-level field may have: our system columns, what
// marks begin with in NDJSON (a row must not look like one), and the metadata
// columns of Iceberg engines.
var reserved = map[string]string{
	ViewColumn: "a system column", PartitionColumn: "a system column",
	OffsetColumn: "a system column", TimestampColumn: "a system column",
	"_thermocline": "the marks between rows",
	"_file":        "an Iceberg metadata column", "_pos": "an Iceberg metadata column",
	"_deleted": "an Iceberg metadata column", "_spec_id": "an Iceberg metadata column",
	"_partition": "an Iceberg metadata column",
}

// Validate checks a user's schema: at least one field; names that are
// non-empty, printable UTF-8, unique in their struct (ignoring case, as SQL
// engines do) and not reserved; dotted paths that are unambiguous; decimals of
// precision 1 to 38 and a scale up to it; ids that are unique and not those of
// the system columns; defaults that fit their type; and the limits above.
// Errors are ErrInvalid and name the field.
//
// Names need not be Avro names: any JSON name is accepted, see Avro for how
// it is encoded there.
func (s *Schema) Validate() error { return s.validate(false) }

// validate is Validate, or the same for a schema with system columns.
func (s *Schema) validate(system bool) error {
	if len(s.Fields) == 0 {
		return fmt.Errorf("schema: has no fields; add at least one: %w", record.ErrInvalid)
	}
	v := validator{ids: map[int]string{}, paths: map[string]bool{}, system: system}
	for i := range s.Fields {
		f := &s.Fields[i]
		if what, ok := reserved[strings.ToLower(f.Name)]; ok && !system {
			return invalidf(f.Name, "has the name of %s; choose another name", what)
		}
	}
	return v.fields("", s.Fields, 1)
}

type validator struct {
	ids   map[int]string
	paths map[string]bool
	count int
	// defaults is the size of all of them as data.
	defaults int
	// system: the schema may hold the system columns and their ids.
	system bool
}

func (v *validator) fields(path string, fields []Field, depth int) error {
	seen := make(map[string]string, len(fields))
	for i := range fields {
		f := &fields[i]
		if err := checkName(path, i, f.Name); err != nil {
			return err
		}
		p := join(path, f.Name)
		folded := strings.ToLower(f.Name)
		if other, ok := seen[folded]; ok {
			if other == f.Name {
				return invalidf(p, "is defined twice; remove or rename one")
			}
			return invalidf(p, "differs from field %q only in case, which SQL engines cannot tell apart; rename one", other)
		}
		seen[folded] = f.Name
		if err := v.field(p, f, depth); err != nil {
			return err
		}
	}
	return nil
}

func (v *validator) field(path string, f *Field, depth int) error {
	if depth > MaxDepth {
		return invalidf(path, "is nested deeper than %d levels; flatten the schema", MaxDepth)
	}
	if v.paths[path] {
		return invalidf(path, "is the path of two fields, one of them with a dot in its name; rename one")
	}
	v.paths[path] = true
	if v.count++; v.count > MaxFields {
		return fmt.Errorf("schema: more than %d fields; split the stream or use a MAP: %w", MaxFields, record.ErrTooLarge)
	}
	if err := v.id(path, f.ID); err != nil {
		return err
	}
	t := &f.Type
	if !t.Kind.valid() {
		return invalidf(path, "has no type")
	}
	if err := checkShape(path, t); err != nil {
		return err
	}
	var err error
	switch t.Kind {
	case Decimal:
		if t.Precision < 1 || t.Precision > MaxPrecision {
			err = invalidf(path, "has precision %d; DECIMAL has 1 to %d digits", t.Precision, MaxPrecision)
		} else if t.Scale < 0 || t.Scale > t.Precision {
			err = invalidf(path, "has scale %d; it must lie between 0 and the precision %d", t.Scale, t.Precision)
		}
	case Array:
		err = v.part(join(path, "element"), t.Element, depth+1)
	case Map:
		v.count++
		if err = v.id(join(path, "key"), t.KeyID); err == nil {
			err = v.part(join(path, "value"), t.Value, depth+1)
		}
	case Struct:
		if len(t.Fields) == 0 {
			return invalidf(path, "is a STRUCT without fields, which Parquet cannot hold; add a field or drop it")
		}
		err = v.fields(path, t.Fields, depth+1)
	}
	if err != nil {
		return err
	}
	n, err := checkDefault(path, f)
	if v.defaults += n; v.defaults > maxDefaultsBytes {
		return fmt.Errorf("schema: the defaults take more than %d bytes in all; shorten them: %w", maxDefaultsBytes, record.ErrTooLarge)
	}
	return err
}

// part checks an element or a value.
func (v *validator) part(path string, f *Field, depth int) error {
	if f.Default != nil {
		return invalidf(path, "has a default, which an element or a value can never need; remove it")
	}
	return v.field(path, f, depth)
}

func (v *validator) id(path string, id int) error {
	switch {
	case id == 0:
		return nil
	case id < 0 || id > maxFieldID:
		return invalidf(path, "has the id %d; ids lie between %d and %d", id, FirstUserID, maxFieldID)
	case IsSystemID(id) && !v.system:
		return invalidf(path, "has the id %d, which belongs to a system column: leave ids out, or choose another", id)
	}
	if other, ok := v.ids[id]; ok {
		return invalidf(path, "has the id %d, which is that of %q; give each field its own id, or none", id, other)
	}
	v.ids[id] = path
	return nil
}

// maxFieldID is the highest id Iceberg leaves to users: those above are
// reserved for its metadata columns.
const maxFieldID = 1<<31 - 1 - 201

func checkName(path string, i int, name string) error {
	at := join(path, fmt.Sprintf("fields[%d]", i))
	switch {
	case name == "":
		return invalidf(at, "has no name; add one")
	case len(path)+1+len(name) > MaxPathBytes:
		return invalidf(excerpt(path)+"…", "and what it holds have dotted paths beyond %d bytes; shorten the names", MaxPathBytes)
	case len(name) > MaxNameBytes:
		return invalidf(at, "has a name of %d bytes; the limit is %d", len(name), MaxNameBytes)
	case !utf8.ValidString(name):
		return invalidf(at, "has a name that is not valid UTF-8")
	}
	for _, r := range name {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return invalidf(at, "has a name with the character %U; names hold printable characters", r)
		}
	}
	return nil
}

// checkShape checks that a Type built in code holds the parts of its kind and
// no others.
func checkShape(path string, t *Type) error {
	for _, p := range [...]struct {
		name     string
		have, of bool
	}{
		{"Element", t.Element != nil, t.Kind == Array},
		{"Value", t.Value != nil, t.Kind == Map},
		{"Fields", t.Fields != nil, t.Kind == Struct},
	} {
		if p.have != p.of {
			return invalidf(path, "is %s; only %s types have %s, and they must", t.Kind, map[string]Kind{"Element": Array, "Value": Map, "Fields": Struct}[p.name], p.name)
		}
	}
	if t.Kind != Map && t.KeyID != 0 {
		return invalidf(path, "is %s and has a key id", t.Kind)
	}
	return nil
}

// join appends a step to a dotted path.
func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// invalidf is an ErrInvalid about one field of a schema.
func invalidf(path, format string, args ...any) error {
	return fmt.Errorf("schema: field %q %s: %w", path, fmt.Sprintf(format, args...), record.ErrInvalid)
}
