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
	columns []source
	n       int
	limit   int // of a row
	// keys are those of the map that is being encoded, when it is large.
	keys map[string]struct{}

	// Of the row that is being encoded: the length that dst may reach, and
	// why it failed.
	max int
	err *RowError
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
		return nil, fmt.Errorf("schema: malformed Arrow batch: %w: %w", err, record.ErrInvalid)
	}
	rows = &ArrowRows{n: int(rec.NumRows()), limit: p.limit}
	for i := range p.parts {
		part := &p.parts[i]
		if part.column < 0 {
			rows.columns = append(rows.columns, absentSource(part))
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
		rows.columns = append(rows.columns, s)
	}
	return rows, nil
}

// Len is the number of rows.
func (r *ArrowRows) Len() int { return r.n }

// Row appends the Avro datum of row i (without the Confluent header) to dst. A
// value that the field cannot hold is a *RowError, whose Row is i, and dst is
// returned as it was.
func (r *ArrowRows) Row(dst []byte, i int) ([]byte, error) {
	if i < 0 || i >= r.n {
		return dst, fmt.Errorf("schema: row %d of a batch of %d: %w", i, r.n, record.ErrInvalid)
	}
	start := len(dst)
	r.max, r.err = start+r.limit, nil
	dst, ok := r.encodeFields(dst, r.columns, i)
	if ok && len(dst) > r.max {
		ok = r.tooLarge()
	}
	if !ok {
		r.err.Row = i
		return dst[:start], r.err
	}
	return dst, nil
}
