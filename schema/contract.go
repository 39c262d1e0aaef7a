package schema

// SKELETON: the signatures other packages build on; bodies are being written in files of
// their own (this file disappears).
//
// schema.go / json_form.go / validate.go
//   func ParseAny(b []byte) (*Schema, error)           our form, or an Avro record schema
//   func FromAvro(avsc []byte) (*Schema, error)
//   func (s *Schema) Avro() string                     .avsc with logical types, field-id/element-id/key-id/value-id attributes
//   func Infer(samples ...[]byte / rows) (*Schema, error)
//   func Evolve(old, proposed *Schema, nextID int) (*Schema, int, error)  checks the rules and carries ids over: by field id where given, else by name
//
// json_avro.go
//   func CompileAvroToJSON(writer, reader *Schema, o JSONOutOptions) (*AvroToJSON, error); .Row(dst, avro []byte) ([]byte, error)
//   func CompileKey(s *Schema, fields []string) (*Key, error); (*Key).Append(dst, avro []byte) ([]byte, error)   Avro of the key fields
//
// arrow.go / avro_arrow.go / arrow_avro.go
//   func (s *Schema) Arrow() *arrow.Schema      storage mapping, shared by hot and cold: BYTE/SHORT/INTEGER -> int32 ... with PARQUET:field_id metadata
//   func (s *Schema) ArrowExternal() *arrow.Schema  what clients get: BYTE->int8, SHORT->int16, ...
//   func NewBuilder(reader *Schema, mem memory.Allocator) *Builder        builds arrow.RecordBatch of s.WithSystem().Arrow() or s.Arrow()
//   func CompileAvroToArrow(writer, reader *Schema) (*AvroToArrow, error); (*AvroToArrow).Append(b *Builder, datum []byte) error
//   type ArrowOptions struct { ByID bool; UnknownFields UnknownFields; MaxRowBytes int }   ByID: batches of our own files; clients' batches match by name (their field ids mean nothing to us)
//   func CompileArrowToAvro(from *arrow.Schema, s *Schema, o ArrowOptions) (*ArrowToAvro, error); (*ArrowToAvro).Bind(rec arrow.RecordBatch) (*ArrowRows, error); (*ArrowRows).Row(dst []byte, i int) ([]byte, error)
//   func (s *Schema) Iceberg() *iceberg.Schema; func FromIceberg(*iceberg.Schema) (*Schema, error)
