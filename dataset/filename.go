package dataset

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/record"
)

// FileName is what the name of a data file tells: enough to see from a
// listing which archive round wrote it. The zero value names a file that does
// not come from a stream.
type FileName struct {
	View   record.ViewNumber
	Epoch  int64
	Ranges []PartRange
}

// PartRange is an offset range of one partition.
type PartRange struct {
	Partition record.Partition `json:"partition"`
	record.Range
}

// maxNamedRanges bounds the name; the file's own metadata lists all ranges.
const maxNamedRanges = 4

// format returns the name with the file's id:
//
//	v<view>-e<epoch>[-p<partition>.<start>.<end>]…-<uuid>    at most four ranges
//	v<view>-e<epoch>-n<partitions>-<uuid>                     more
func (n FileName) format(id uuid.UUID) string {
	var b strings.Builder
	fmt.Fprintf(&b, "v%d-e%d", n.View, n.Epoch)
	if len(n.Ranges) > maxNamedRanges {
		fmt.Fprintf(&b, "-n%d", len(n.Ranges))
	} else {
		for _, r := range n.Ranges {
			fmt.Fprintf(&b, "-p%d.%d.%d", r.Partition, r.Start, r.End)
		}
	}
	b.WriteByte('-')
	b.WriteString(id.String())
	return b.String()
}

func (n FileName) check() error {
	if n.View < 0 || n.Epoch < 0 {
		return fmt.Errorf("dataset: file name with view %d, epoch %d: %w", n.View, n.Epoch, record.ErrInvalid)
	}
	for _, r := range n.Ranges {
		if r.Partition < 0 || r.Partition >= record.MaxPartitions || r.Start < 0 || r.End < r.Start {
			return fmt.Errorf("dataset: file name with partition %d, range %s: %w", r.Partition, r.Range, record.ErrInvalid)
		}
	}
	return nil
}

// parseFileName reads the ranges back from the name of a data file; nil if it
// is none of ours or lists none.
func parseFileName(location string) []PartRange {
	name := location[strings.LastIndexByte(location, '/')+1:]
	parts := strings.Split(name, "-")
	if len(parts) < 3 || !strings.HasPrefix(parts[0], "v") || !strings.HasPrefix(parts[1], "e") {
		return nil
	}
	var out []PartRange
	for _, s := range parts[2:] {
		rest, ok := strings.CutPrefix(s, "p")
		if !ok {
			break
		}
		n := strings.Split(rest, ".")
		if len(n) != 3 {
			return nil
		}
		p, err1 := strconv.ParseInt(n[0], 10, 32)
		start, err2 := strconv.ParseInt(n[1], 10, 64)
		end, err3 := strconv.ParseInt(n[2], 10, 64)
		if err1 != nil || err2 != nil || err3 != nil {
			return nil
		}
		out = append(out, PartRange{record.Partition(p), record.Range{Start: record.Offset(start), End: record.Offset(end)}})
	}
	return slices.Clip(out)
}
