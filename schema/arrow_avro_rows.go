package schema

import (
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/record"
)

// ArrowRows are the rows of one batch, ready to be encoded. It borrows the
// batch, which must not be released before. Not safe for concurrent use.
type ArrowRows struct {
	root source
	n    int
	row  int
	max  int
	err  error
	keys map[string]struct{} // of the map that is being encoded, when it is large
}

// Bind prepares the rows of rec, which must have the schema that p was
// compiled for. The batch may come from anywhere: its buffers and offsets are
// checked here and in Row, and damage is ErrInvalid, never a panic.
func (p *ArrowToAvro) Bind(rec arrow.RecordBatch) (rows *ArrowRows, err error) {
	if rec.Schema() != p.from && !rec.Schema().Equal(p.from) {
		return nil, fmt.Errorf("schema: the batch has another schema than the first of its stream: %w", record.ErrInvalid)
	}
	// Arrow's accessors index buffers unchecked, also while they validate: what
	// slips through the checks ends here.
	defer func() {
		if r := recover(); r != nil {
			rows, err = nil, fmt.Errorf("schema: malformed Arrow batch: %v: %w", r, record.ErrInvalid)
		}
	}()
	if err := array.ValidateRecord(rec); err != nil {
		return nil, fmt.Errorf("schema: malformed Arrow batch: %v: %w", err, record.ErrInvalid)
	}
	rows = &ArrowRows{n: int(rec.NumRows())}
	for i := range p.root.parts {
		part := &p.root.parts[i]
		if part.column < 0 {
			rows.root.parts = append(rows.root.parts, absentSource(part))
			continue
		}
		c := rec.Column(part.column)
		if c.Len() != rows.n {
			return nil, arrowInvalid(part.path, "has %d rows where the batch has %d", c.Len(), rows.n)
		}
		s, err := bindSource(part, c)
		if err != nil {
			return nil, err
		}
		rows.root.parts = append(rows.root.parts, s)
	}
	return rows, nil
}

// Len is the number of rows.
func (r *ArrowRows) Len() int { return r.n }

// Row appends the Avro datum of row i (without the Confluent header) to dst. A
// value that the field cannot hold is a *RowError, and dst is returned as it was.
func (r *ArrowRows) Row(dst []byte, i int) ([]byte, error) {
	if i < 0 || i >= r.n {
		return dst, fmt.Errorf("schema: row %d of a batch of %d: %w", i, r.n, record.ErrInvalid)
	}
	start := len(dst)
	r.row, r.max, r.err = i, start+record.MaxBatchBytes, nil
	for k := range r.root.parts {
		var ok bool
		if dst, ok = r.encode(dst, &r.root.parts[k], i); !ok {
			return dst[:start], r.err
		}
	}
	return dst, nil
}
