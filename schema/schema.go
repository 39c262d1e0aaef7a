// Package schema holds the field types, the schemas built of them, the rules by
// which a schema may evolve, and the compiled codecs between JSON, Avro, Arrow
// and Iceberg that make ingest, archive and read fast.
//
// It knows rows and columns; no storage, no network, no catalog.
package schema

import "encoding/json"

// Kind is one of the 15 field types.
type Kind uint8

const (
	Boolean   Kind = iota + 1
	Byte           // int8
	Short          // int16
	Integer        // int32
	Long           // int64
	Float          // IEEE 754, 32 bits, finite
	Double         // IEEE 754, 64 bits, finite
	Decimal        // Precision up to 38, Scale from 0 to Precision
	String         // UTF-8
	Binary         // bytes
	Date           // days since 1970-01-01
	Timestamp      // microseconds since 1970-01-01T00:00:00Z
	Array          // Element
	Map            // string keys, Value
	Struct         // Fields
)

// Type is the type of a field, an array element or a map value.
type Type struct {
	Kind             Kind
	Precision, Scale int     // Decimal
	Element          *Field  // Array: its ID, Type and Nullable count; Name is "element"
	KeyID            int     // Map: the Iceberg field id of the key
	Value            *Field  // Map: like Element; Name is "value"
	Fields           []Field // Struct
}

// Field is a named, typed column or struct member.
type Field struct {
	// ID is the Iceberg field id: allocated once per dataset, never changed,
	// never reused. 0 means not yet assigned (see AssignIDs).
	ID       int
	Name     string
	Type     Type
	Nullable bool
	Doc      string
	// Default is the JSON value that rows written before the field existed,
	// and JSON rows that lack it, get. Nil: none (null if nullable).
	Default json.RawMessage
	// Metadata is custom; it is kept and not interpreted.
	Metadata map[string]string
}

// Schema is an ordered list of fields. A Schema that is in use (compiled,
// registered) is immutable.
type Schema struct {
	// ID is the global schema id in the catalog (the one in the Confluent
	// header of each row); 0 while it is not registered.
	ID     int32
	Fields []Field
}

// System columns stand behind the user's fields in every data file.
const (
	ViewColumn      = "_view"         // int
	PartitionColumn = "_partition_id" // int; Iceberg engines have a _partition of their own
	OffsetColumn    = "_offset"       // long
	TimestampColumn = "_timestamp"    // timestamptz: append time
)

// FirstUserID is the first id of a user's field. The system columns' ids lie
// far above, so that a table that another engine made, with ids from 1, can
// become a stream.
const FirstUserID = 1

// Ids of the system columns.
const (
	ViewID = 1<<30 + 1 + iota
	PartitionID
	OffsetID
	TimestampID
)

// IsSystemID tells whether id is that of a system column.
func IsSystemID(id int) bool { return id >= ViewID && id <= TimestampID }
