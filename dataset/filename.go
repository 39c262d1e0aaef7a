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

// parseFileName reads back what the name of a data file of ours tells, and of
// how many partitions it has rows: more than it has ranges if it lists none.
func parseFileName(location string) (n FileName, partitions int, ok bool) {
	name := location[strings.LastIndexByte(location, '/')+1:]
	parts := strings.Split(name, "-")
	if len(parts) < 3 {
		return n, 0, false
	}
	view, err1 := parseNumber(parts[0], "v", 32)
	epoch, err2 := parseNumber(parts[1], "e", 64)
	if err1 != nil || err2 != nil {
		return n, 0, false
	}
	n.View, n.Epoch = record.ViewNumber(view), epoch
	if count, err := parseNumber(parts[2], "n", 32); err == nil {
		return n, int(count), true
	}
	for _, s := range parts[2:] {
		rest, ok := strings.CutPrefix(s, "p")
		if !ok {
			break
		}
		v := strings.Split(rest, ".")
		if len(v) != 3 {
			return FileName{}, 0, false
		}
		p, err1 := parseNumber(v[0], "", 32)
		start, err2 := parseNumber(v[1], "", 64)
		end, err3 := parseNumber(v[2], "", 64)
		if err1 != nil || err2 != nil || err3 != nil {
			return FileName{}, 0, false
		}
		n.Ranges = append(n.Ranges, PartRange{record.Partition(p), record.Range{Start: record.Offset(start), End: record.Offset(end)}})
	}
	n.Ranges = slices.Clip(n.Ranges)
	return n, len(n.Ranges), n.check() == nil
}

func parseNumber(s, prefix string, bits int) (int64, error) {
	digits, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseInt(digits, 10, bits)
}

// ParseFileName reads what the path of a data file tells: view, epoch, and, if
// it has rows of at most four partitions, the ranges that its offsets lie in.
// ok is false for files that are not ours.
func ParseFileName(location string) (n FileName, ok bool) {
	n, _, ok = parseFileName(location)
	return n, ok
}
