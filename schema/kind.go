package schema

import (
	"fmt"
	"strings"
)

// kindNames are the names of the types in schemas and messages, by Kind.
var kindNames = [...]string{
	Boolean: "BOOLEAN", Byte: "BYTE", Short: "SHORT", Integer: "INTEGER", Long: "LONG",
	Float: "FLOAT", Double: "DOUBLE", Decimal: "DECIMAL", String: "STRING", Binary: "BINARY",
	Date: "DATE", Timestamp: "TIMESTAMP", Array: "ARRAY", Map: "MAP", Struct: "STRUCT",
}

func (k Kind) String() string {
	if k.valid() {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

func (k Kind) valid() bool { return k >= Boolean && k <= Struct }

// Nested tells whether the type has parts of its own: ARRAY, MAP or STRUCT.
func (k Kind) Nested() bool { return k >= Array }

// ParseKind reads a type name, in any case.
func ParseKind(name string) (Kind, error) {
	for k := Boolean; k <= Struct; k++ {
		if strings.EqualFold(kindNames[k], name) {
			return k, nil
		}
	}
	return 0, fmt.Errorf("unknown type %q; the types are %s", excerpt(name), strings.Join(kindNames[Boolean:], ", "))
}

// String names the type for people: DECIMAL(10,2), ARRAY<LONG>,
// MAP<STRING,DOUBLE>, STRUCT.
func (t Type) String() string {
	switch {
	case t.Kind == Decimal:
		return fmt.Sprintf("DECIMAL(%d,%d)", t.Precision, t.Scale)
	case t.Kind == Array && t.Element != nil:
		return "ARRAY<" + t.Element.Type.String() + ">"
	case t.Kind == Map && t.Value != nil:
		return "MAP<STRING," + t.Value.Type.String() + ">"
	}
	return t.Kind.String()
}

// excerptBytes bounds what of foreign input is quoted in an error.
const excerptBytes = 64

// excerpt shortens foreign input for a message, on a rune border.
func excerpt[T ~string | ~[]byte](s T) string {
	if len(s) <= excerptBytes {
		return strings.ToValidUTF8(string(s), "\uFFFD")
	}
	return strings.ToValidUTF8(string(s[:excerptBytes]), "") + "…"
}
