package schema

import (
	"fmt"
	"strings"

	"github.com/thermocline/thermocline/record"
)

// The codes of a RowError. They are stable: clients may act on them.
const (
	CodeInvalidJSON    = "invalid_json"    // not JSON, or not valid UTF-8
	CodeDuplicateField = "duplicate_field" // an object has a key twice
	CodeUnknownField   = "unknown_field"   // the schema has no such field
	CodeMissingField   = "missing_field"   // a required field without default is not there
	CodeNull           = "null"            // null for a required field
	CodeWrongType      = "wrong_type"      // a value of another type
	CodeOutOfRange     = "out_of_range"    // too large or too small for the type
	CodeLossy          = "lossy"           // has digits that the type would drop
	CodeTooLarge       = "too_large"       // the row exceeds its size limit
)

// RowError says why a row was refused. It is ErrInvalid; with CodeTooLarge it
// is ErrTooLarge as well.
type RowError struct {
	// Row is the index of the row in its request. Codecs, which see one row,
	// leave it 0; whoever splits the request sets it.
	Row int
	// Path is the field: location.depth[3].x, attrs["key"]; "" is the whole row.
	Path string
	// Expected says what the schema asks for, Got what came instead, bounded.
	Expected, Got string
	// Code is one of the Code constants.
	Code string
}

func (e *RowError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "row %d", e.Row)
	if e.Path != "" {
		fmt.Fprintf(&b, ", field %s", e.Path)
	}
	fmt.Fprintf(&b, ": expected %s, got %s", e.Expected, e.Got)
	return b.String()
}

// Is makes every RowError a record.ErrInvalid, and one of a row that is too large
// a record.ErrTooLarge as well.
func (e *RowError) Is(target error) bool {
	return target == record.ErrInvalid || target == record.ErrTooLarge && e.Code == CodeTooLarge
}

// in adds the step that leads to e's place from outside: a name or an [index].
func (e *RowError) in(step string) *RowError {
	switch {
	case len(e.Path) > maxPathBytes:
	case e.Path == "" || e.Path[0] == '[':
		e.Path = step + e.Path
	default:
		e.Path = step + "." + e.Path
	}
	return e
}

// maxPathBytes bounds a path; deeper steps of a longer one are kept, since
// they tell more than the outer ones.
const maxPathBytes = 4096

// expected describes a type for an error.
func expected(t *Type) string {
	switch t.Kind {
	case Boolean:
		return "BOOLEAN (true or false)"
	case Byte, Short, Integer, Long:
		lo, hi := intRange(t.Kind)
		or := ""
		if t.Kind == Long {
			or = ", a number or a string"
		}
		return fmt.Sprintf("%s (an integer from %d to %d%s)", t.Kind, lo, hi, or)
	case Float, Double:
		return t.Kind.String() + " (a finite number)"
	case Decimal:
		return t.String() + " (a number or a string)"
	case String:
		return "STRING"
	case Binary:
		return "BINARY (a string in base64)"
	case Date:
		return `DATE ("2020-01-31" or days since 1970-01-01; years 1 to 9999)`
	case Timestamp:
		return `TIMESTAMP ("2020-01-31T12:00:00Z", or with an offset like +01:00, to the microsecond; or epoch milliseconds; years 1 to 9999)`
	case Array:
		return t.String() + " (a JSON array)"
	}
	return t.String() + " (a JSON object)"
}

// intRange is the range of a type that is an integer on the wire.
func intRange(k Kind) (lo, hi int64) {
	switch k {
	case Byte:
		return -1 << 7, 1<<7 - 1
	case Short:
		return -1 << 15, 1<<15 - 1
	case Integer:
		return -1 << 31, 1<<31 - 1
	case Date:
		return minDays, maxDays
	case Timestamp:
		return minMicros, maxMicros
	}
	return -1 << 63, 1<<63 - 1
}
