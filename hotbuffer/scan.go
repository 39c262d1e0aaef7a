package hotbuffer

import (
	"context"
	"fmt"
	"iter"

	"github.com/thermocline/thermocline/record"
)

// PartBatch is a batch of one partition and the part of it that a scan covers.
type PartBatch struct {
	Partition record.Partition
	Batch     record.Batch
	// Rows [Skip, Limit) of the batch belong to the scan: earlier ones lie
	// below its beginning, later ones at or beyond its end.
	Skip, Limit int
}

// A scan holds about ScanMemory bytes of batches that it has read and not yet
// yielded, shared by the partitions, within these limits for each.
const (
	ScanMemory   = 32 << 20
	minReadAhead = 64 << 10
	maxReadAhead = 1 << 20
)

// Scan yields the rows of a view in [from, to), batch by batch in the view's
// total order (timestamp, partition, offset). All rows of a batch share a
// timestamp and timestamps of a partition never go back, so that merging
// batches merges rows. to is a cut below or at the durable ends; partitions
// where from is at or beyond to are left out.
//
// It stops after the first error, which is one of Buffer.Read's: ErrOutOfRange
// where rows below the start are asked for (they have been archived) or rows
// that are not durable, ErrCorrupt, ErrNotFound, ErrClosed or the context's.
func Scan(ctx context.Context, b Buffer, v record.ViewID, from, to record.Offsets) iter.Seq2[PartBatch, error] {
	return ScanWithin(ctx, b, v, from, to, ScanMemory)
}

// ScanWithin is Scan that holds about so many bytes instead of ScanMemory, where
// many scans wait for slow consumers.
func ScanWithin(ctx context.Context, b Buffer, v record.ViewID, from, to record.Offsets, bytes int) iter.Seq2[PartBatch, error] {
	return func(yield func(PartBatch, error) bool) {
		var parts []*partScan
		for p := range to {
			next, end := from.At(record.Partition(p)), to[p]
			if next < end {
				parts = append(parts, &partScan{partition: record.Partition(p), next: next, end: end})
			}
		}
		if len(parts) == 0 {
			return
		}
		readAhead := min(max(bytes/len(parts), minReadAhead), maxReadAhead)
		for {
			// parts is in partition order: the first of equal timestamps wins.
			var first *partScan
			for _, s := range parts {
				if err := s.fill(ctx, b, v, readAhead); err != nil {
					yield(PartBatch{}, err)
					return
				}
				if len(s.ahead) > 0 && (first == nil || s.ahead[0].Timestamp() < first.ahead[0].Timestamp()) {
					first = s
				}
			}
			if first == nil {
				return
			}
			if !yield(first.take(), nil) {
				return
			}
		}
	}
}

// partScan is where a scan stands in one partition.
type partScan struct {
	partition record.Partition
	next, end record.Offset  // rows still to be yielded
	ahead     []record.Batch // the first one holds next
}

// fill makes sure that the next batch is there unless the partition is done.
func (s *partScan) fill(ctx context.Context, b Buffer, v record.ViewID, maxBytes int) error {
	if len(s.ahead) > 0 || s.next >= s.end {
		return nil
	}
	batches, err := b.Read(ctx, v, s.partition, s.next, maxBytes)
	if err != nil {
		return fmt.Errorf("scan %v partition %v from %v: %w", v, s.partition, s.next, err)
	}
	if len(batches) == 0 {
		return fmt.Errorf("scan %v partition %v: row %v of [..,%v) is not durable yet: %w", v, s.partition, s.next, s.end, record.ErrOutOfRange)
	}
	s.ahead = batches
	return nil
}

// take removes the next batch.
func (s *partScan) take() PartBatch {
	batch := s.ahead[0]
	s.ahead[0] = record.Batch{} // no longer ours to keep in memory
	s.ahead = s.ahead[1:]
	pb := PartBatch{
		Partition: s.partition,
		Batch:     batch,
		Skip:      int(max(0, s.next-batch.BaseOffset())),
		Limit:     int(min(batch.End(), s.end) - batch.BaseOffset()),
	}
	s.next = batch.End()
	if s.next >= s.end {
		s.ahead = nil
	}
	return pb
}
