package dataset

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/ocf"
)

// avroReader decodes the rows of an Avro file into the columns that are
// wanted, in the types of the file; projection does the rest.
type avroReader struct {
	foreign *schema.ForeignAvro
	program *schema.AvroToArrow
	build   *schema.Builder
	have    *arrow.Schema // of the decoded columns, with the file's field ids
	names   names
}

// notSystem is added to the ids of system columns while they are decoded:
// here they are columns like others, not for Builder.AppendSystem.
const notSystem = 1 << 29

// newAvroReader chooses the columns of want.
func newAvroReader(avsc []byte, want *schema.Schema, mapping iceberg.NameMapping) (*avroReader, error) {
	foreign, err := schema.CompileForeignAvro(avsc)
	if err != nil {
		return nil, err
	}
	file := foreign.Schema()
	all := file.Arrow()
	n := names{}
	if withoutIDs(file) {
		n = names{byName: true, level: mapping}
	}
	writer := &schema.Schema{Fields: make([]schema.Field, len(file.Fields))}
	chosen, decoded := &schema.Schema{}, &schema.Schema{}
	for i, f := range file.Fields {
		shifted := f
		if schema.IsSystemID(f.ID) {
			shifted.ID += notSystem
		}
		writer.Fields[i] = shifted
		id := n.id(all.Field(i))
		for k := range want.Fields {
			if id > 0 && want.Fields[k].ID == id {
				chosen.Fields = append(chosen.Fields, f)
				decoded.Fields = append(decoded.Fields, shifted)
			}
		}
	}
	r := &avroReader{foreign: foreign, have: chosen.Arrow(), names: n}
	if r.program, err = schema.CompileAvroToArrow(writer, decoded); err != nil {
		return nil, err
	}
	r.build = schema.NewBuilder(decoded, memory.DefaultAllocator)
	return r, nil
}

// avroReader compiles the reading of a file; files in a row mostly have the
// same schema.
func (s *scanner) avroReader(avsc []byte) (*avroReader, error) {
	if s.avro == nil || s.avsc != string(avsc) {
		r, err := newAvroReader(avsc, s.schema, s.t.mapping())
		if err != nil {
			return nil, err
		}
		s.avro, s.avsc = r, string(avsc)
	}
	return s.avro, nil
}

func withoutIDs(s *schema.Schema) bool {
	for i := range s.Fields {
		if s.Fields[i].ID > 0 {
			return false
		}
	}
	return true
}

// batch takes the rows decoded so far; the caller releases it.
func (r *avroReader) batch() arrow.RecordBatch {
	n := int64(r.build.Len())
	b := r.build.NewBatch()
	defer b.Release()
	return array.NewRecordBatch(r.have, b.Columns(), n)
}

func (s *scanner) avroFile(ctx context.Context, f iceberg.DataFile, deleted []int64) error {
	o, err := s.t.d.openData(ctx, f.FilePath(), f.FileSizeBytes())
	if err != nil {
		return err
	}
	defer o.Close()
	file, err := ocf.NewReader(io.NewSectionReader(storeReader{o}, 0, o.Size()))
	if err != nil {
		return damaged(ctx, err)
	}
	r, err := s.avroReader(file.Schema())
	if err != nil {
		return fmt.Errorf("the file's schema: %w", err)
	}
	defer r.build.Release()
	p, err := compileProjection(s.schema, r.have, r.names)
	if err != nil {
		return err
	}
	defer p.release()
	first := int64(0)
	flush := func() error {
		raw := r.batch()
		defer raw.Release()
		batch, err := p.project(ctx, raw)
		if err != nil {
			return err
		}
		if batch, err = withoutDeleted(ctx, batch, deleted, first); err != nil {
			return err
		}
		at := first
		first += raw.NumRows()
		return s.send(ctx, batch, at, raw.NumRows(), deleted)
	}
	var buf []byte
	for {
		count, data, err := file.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damaged(ctx, err)
		}
		for range count {
			var datum []byte
			if datum, buf, data, err = r.foreign.Next(buf, data); err == nil {
				err = r.program.Append(r.build, datum)
			}
			if err != nil {
				return damaged(ctx, fmt.Errorf("row %d: %w", first+int64(r.build.Len()), err))
			}
			// Counting bytes walks the columns, so not for each row.
			if n := r.build.Len(); n >= s.o.BatchRows || n&15 == 0 && r.build.Bytes() >= s.o.BatchBytes {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		if len(data) > 0 {
			return fmt.Errorf("%d bytes are left behind the %d rows of a block: %w", len(data), count, record.ErrCorrupt)
		}
	}
	if r.build.Len() > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	if first != f.Count() {
		return fmt.Errorf("the file holds %d rows, its manifest says %d: %w", first, f.Count(), record.ErrCorrupt)
	}
	return nil
}

// damaged classifies errors over the bytes of a stored file: what is bad
// input elsewhere is damage here.
func damaged(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, errStore) || errors.Is(err, record.ErrCorrupt) {
		return err
	}
	return fmt.Errorf("%s: %w", err.Error(), record.ErrCorrupt)
}
