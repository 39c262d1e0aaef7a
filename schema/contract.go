package schema

// SKELETON: the signatures other packages build on; bodies are being written in files of
// their own (this file disappears).
//
//
//
// arrow.go / avro_arrow.go / arrow_avro.go
//   func (s *Schema) Arrow() *arrow.Schema      storage mapping, shared by hot and cold: BYTE/SHORT/INTEGER -> int32 ... with PARQUET:field_id metadata
//   func (s *Schema) ArrowExternal() *arrow.Schema  what clients get: BYTE->int8, SHORT->int16, ...
//   func NewBuilder(reader *Schema, mem memory.Allocator) *Builder        builds arrow.RecordBatch of s.WithSystem().Arrow() or s.Arrow()
//   func CompileAvroToArrow(writer, reader *Schema) (*AvroToArrow, error); (*AvroToArrow).Append(b *Builder, datum []byte) error
//   type ArrowOptions struct { ByID bool; UnknownFields UnknownFields; MaxRowBytes int }   ByID: batches of our own files; clients' batches match by name (their field ids mean nothing to us)
//   func CompileArrowToAvro(from *arrow.Schema, s *Schema, o ArrowOptions) (*ArrowToAvro, error); (*ArrowToAvro).Bind(rec arrow.RecordBatch) (*ArrowRows, error); (*ArrowRows).Row(dst []byte, i int) ([]byte, error)
//   func (s *Schema) Iceberg() *iceberg.Schema; func FromIceberg(*iceberg.Schema) (*Schema, error)
