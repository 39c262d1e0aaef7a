package disk

import (
	"fmt"

	"github.com/thermocline/thermocline/record"
)

// Damage is a loss that the start of the log found: stored bytes that do not
// validate although they were durable. Reads of the offsets fail with
// ErrCorrupt until they are released; everything else goes on.
type Damage struct {
	// Segment is the file's number, Position where in it; -1 if the rows are
	// missing without a trace.
	Segment  uint64
	Position int64
	// View and Partition are 0 and Offsets is empty where no rows are lost,
	// but only what the log keeps for itself.
	View      record.ViewID
	Partition record.Partition
	Offsets   record.Range
	Reason    string
	// File is set where the damage is not in a segment.
	File string
	// Unknown: rows that were written last may be lost, and nothing is left
	// that tells which.
	Unknown bool
}

func (d *Damage) Error() string {
	place := fmt.Sprintf("segment %v position %d", epoch(d.Segment), d.Position)
	if d.Position < 0 {
		place = fmt.Sprintf("segment %v", epoch(d.Segment))
	}
	if d.File != "" {
		place = "file " + d.File
	}
	if d.Unknown {
		return fmt.Sprintf("%s: %s: rows written last may be lost, of views that cannot be told: %v", place, d.Reason, record.ErrCorrupt)
	}
	if d.Offsets.Len() == 0 {
		return fmt.Sprintf("%s: %s: %v", place, d.Reason, record.ErrCorrupt)
	}
	return fmt.Sprintf("%s: %s: rows %v of %v partition %v are lost: %v", place, d.Reason, d.Offsets, d.View, d.Partition, record.ErrCorrupt)
}

// Unwrap makes a Damage an ErrCorrupt.
func (d *Damage) Unwrap() error { return record.ErrCorrupt }
