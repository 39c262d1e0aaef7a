package writer

import (
	"context"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// Decoded are the rows of a request's body that fit a schema, and what is wrong
// with the others.
type Decoded struct {
	// Rows as they are stored: Confluent header and Avro datum of the schema. Valid
	// in the call only.
	Rows *record.Rows
	// Seen counts all rows; Rejected lists the first MaxListed of RejectedRows.
	Seen, RejectedRows int64
	Rejected           []*schema.RowError
}

// Decode turns the rows of q's body into stored form under s, by the rules of
// Publish but without a branch, and hands them to use, whose error it returns.
// Of q it heeds Format, Body, SkipInvalid and IgnoreUnknown. RejectedError unless
// SkipInvalid where rows are bad.
func Decode(ctx context.Context, s *schema.Schema, q Request, use func(Decoded) error) error {
	p, err := compile(Target{Schema: s, Partitions: 1})
	if err != nil {
		return err
	}
	in := intakes.Get().(*intake)
	defer in.recycle()
	in.begin(p)
	if err := in.decode(ctx, q); err != nil {
		return err
	}
	if in.rejected > 0 && !q.SkipInvalid {
		return &RejectedError{Rows: in.listed, Total: in.rejected, Of: in.row}
	}
	return use(Decoded{Rows: &in.shards[0].rows, Seen: in.row, RejectedRows: in.rejected, Rejected: in.listed})
}
