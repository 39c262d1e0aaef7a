package verify

import (
	"fmt"

	"github.com/thermocline/thermocline/record"
)

// Code names a kind of finding. Codes are stable: programs may rely on them.
type Code string

// The codes. A branch in order has none of them, but for notices.
const (
	// The data files.
	Damaged  Code = "DAMAGED"   // a data file or stored batch fails its checksum or does not decode
	Missing  Code = "MISSING"   // a file that the table names is not there
	RowCount Code = "ROW_COUNT" // a data file holds more or fewer rows than its manifest says
	Bounds   Code = "BOUNDS"    // rows lie outside the bounds that the manifest or the file's name gives
	Metadata Code = "METADATA"  // table metadata, a manifest list or a manifest cannot be read

	// The rows, hot and cold.
	Gap         Code = "GAP"          // offsets that are archived or acknowledged have no row
	Duplicate   Code = "DUPLICATE"    // an offset has more than one row
	Order       Code = "ORDER"        // rows do not stand in the order (timestamp, partition, offset)
	WrongView   Code = "WRONG_VIEW"   // a row of another view
	Unarchived  Code = "UNARCHIVED"   // the dataset holds rows beyond the offsets that it says it holds
	Marker      Code = "MARKER"       // what the dataset says of its archive contradicts the catalog
	Mismatch    Code = "MISMATCH"     // a row is not the same in the data file and in the hot log
	Undecodable Code = "UNDECODABLE"  // a hot row does not fit the schema that it names
	Checkpoint  Code = "CHECKPOINT"   // checkpoints go back, are missing, or cut through a commit
	ViewState   Code = "VIEW_STATE"   // the life of a view is not in step with the dataset and the hot buffer
	OutOfRange  Code = "OUT_OF_RANGE" // a subscriber stands where no row can be

	// The producers' sequences.
	Lost       Code = "LOST"       // sequences between a producer's first and last have no row
	Duplicated Code = "DUPLICATED" // a sequence has more than one row
	Disordered Code = "DISORDERED" // a producer's sequences go back within a partition

	// The storage.
	Orphan Code = "ORPHAN" // a file that nothing leads to
)

// Severity tells damage from what only deserves a look.
type Severity string

const (
	// Failure: a promise is broken, or will be.
	Failure Severity = "FAILURE"
	// Notice: nothing is wrong as it is.
	Notice Severity = "NOTICE"
)

// remedies say what to do, in one sentence.
var remedies = map[Code]string{
	Damaged:     "restore the file from a copy, or roll the dataset back to a snapshot without it; hot rows that are still there are archived again after that",
	Missing:     "restore the file from a copy, or roll the dataset back to a snapshot without it",
	RowCount:    "restore the file from a copy: it is not the one that was committed",
	Bounds:      "restore the file from a copy, or rewrite it: reads with a predicate may skip its rows",
	Metadata:    "restore the file from a copy, or point the table at an older metadata file",
	Gap:         "restore the files or the log that held these rows from a copy; retries of their producers will not bring them back",
	Duplicate:   "roll the dataset back to the snapshot before the second copy; readers refuse rows that come again",
	Order:       "roll the dataset back, or sort its files by _timestamp, _partition_id, _offset; readers refuse disordered rows",
	WrongView:   "roll the dataset back to the snapshot before these rows, or delete them by their _view",
	Unarchived:  "roll the dataset back to the snapshot before these rows: they will be archived a second time",
	Marker:      "restore the catalog and the dataset from the same moment",
	Mismatch:    "keep the log and compare both rows with their source before it is released; then restore the one that is wrong",
	Undecodable: "restore the log and the catalog from the same moment; the archive stops before this row",
	Checkpoint:  "restore the catalog that belongs to this log, or reset the stream",
	ViewState:   "start the server and archive the stream; if it stays, restore catalog, log and dataset from the same moment",
	OutOfRange:  "reset the subscriber to a position that exists: thermocline subscriber reset",
	Lost:        "look for the requests of these sequences in the producer's own log and send them again under a new producer id",
	Duplicated:  "find out why the producer gave a sequence twice: by another id, another epoch, or without idempotence",
	Disordered:  "send the requests of one producer one after the other, or with Producer-Sequence",
	Orphan:      "nothing reads it: delete it when no other server works on this warehouse",
}

// Finding is one thing that is not as it should be.
type Finding struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	// Place is the file, the segment and position, or the entry of the catalog.
	Place string `json:"place"`
	// View is the view's number, 0 where the finding is of none.
	View record.ViewNumber `json:"view,omitempty"`
	// Partition and Offsets are set where rows are concerned.
	Partition *record.Partition `json:"partition,omitempty"`
	Offsets   *record.Range     `json:"offsets,omitempty"`
	// Detail says what was found and what was expected, Remedy what to do.
	Detail string `json:"detail"`
	Remedy string `json:"remedy"`
}

// Error is the finding as one line.
func (f Finding) Error() string {
	s := fmt.Sprintf("%s %s", f.Code, f.Place)
	if f.View != 0 {
		s += fmt.Sprintf(" view %d", f.View)
	}
	if f.Partition != nil {
		s += fmt.Sprintf(" partition %v", *f.Partition)
	}
	if f.Offsets != nil {
		s += fmt.Sprintf(" offsets %v", *f.Offsets)
	}
	return s + ": " + f.Detail
}

// at adds where the rows are.
func (f Finding) at(v record.ViewNumber, p record.Partition, r record.Range) Finding {
	f.View, f.Partition, f.Offsets = v, &p, &r
	return f
}

// key tells findings apart: a check that begins again finds the same again.
type findingKey struct {
	code      Code
	place     string
	view      record.ViewNumber
	partition record.Partition
	offsets   record.Range
	detail    string
}

func (f Finding) key() findingKey {
	if f.Code == Missing {
		return findingKey{code: f.Code, place: f.Place} // once, whoever looked for it
	}
	k := findingKey{code: f.Code, place: f.Place, view: f.View, partition: -1}
	if f.Partition != nil {
		k.partition = *f.Partition
	}
	if f.Offsets != nil {
		k.offsets = *f.Offsets
	} else if f.Code != Damaged && f.Code != Metadata {
		k.detail = f.Detail
	}
	return k
}
