package disk

import (
	"fmt"
	"sync/atomic"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// viewStats are the counters of a view.
type viewStats struct {
	requests, duplicates, rows, bytes, stored, batches atomic.Int64
	maxBatchRows, maxBatchBytes                        atomic.Int64
	readRows, readBytes                                atomic.Int64
	append, linger                                     histogram
}

func raise(a *atomic.Int64, to int64) {
	for {
		old := a.Load()
		if to <= old || a.CompareAndSwap(old, to) {
			return
		}
	}
}

func (s *viewStats) read(batches []record.Batch) {
	var rows, bytes int64
	for _, b := range batches {
		rows += int64(b.Len())
		bytes += int64(len(b.Bytes()))
	}
	s.readRows.Add(rows)
	s.readBytes.Add(bytes)
}

// Stats implements hotbuffer.Buffer.
func (l *Log) Stats(id record.ViewID) (hotbuffer.Stats, error) {
	v, err := l.opened(id)
	if err != nil {
		return hotbuffer.Stats{}, fmt.Errorf("stats: %w", err)
	}
	s := &v.stats
	return hotbuffer.Stats{
		Requests: s.requests.Load(), Duplicates: s.duplicates.Load(),
		Rows: s.rows.Load(), Bytes: s.bytes.Load(), StoredBytes: s.stored.Load(), Batches: s.batches.Load(),
		MaxBatchRows: s.maxBatchRows.Load(), MaxBatchBytes: s.maxBatchBytes.Load(), BatchLimitBytes: batchLimit,
		ReadRows: s.readRows.Load(), ReadBytes: s.readBytes.Load(),
		AppendSeconds: s.append.snapshot(), LingerSeconds: s.linger.snapshot(),
	}, nil
}

// logStats are the counters of the log.
type logStats struct {
	fsync                   histogram
	commits, written        atomic.Int64
	segments                atomic.Int64
	producers, evictedEarly atomic.Int64
}

// LogStats are figures of the whole log since the process began.
type LogStats struct {
	// FsyncSeconds is the time of each commit's sync.
	FsyncSeconds hotbuffer.Histogram
	// Commits counts syncs that made something durable; BytesWritten is what
	// they wrote, headers and padding included.
	Commits, BytesWritten int64
	// Segments hold rows; SpareSegments are ready or free.
	Segments, SpareSegments int
	// Size is the bytes of all files, Limit what they may grow to.
	Size, Limit int64
	// Stalled is why no segment can be added, nil if one can: the limit, or a
	// full disk. Appends go on while there are SpareSegments.
	Stalled error
	// Producers are remembered for retries; ProducersEvicted were forgotten
	// before hotbuffer.ProducerRetention, because there were too many.
	Producers, ProducersEvicted int64
	// Damage is what the start found lost. Do not change it.
	Damage []Damage
	// Failed is why the log is poisoned, nil if it is not.
	Failed error
}

// LogStats returns figures of the whole log; see also Stats for each view.
func (l *Log) LogStats() LogStats {
	size, spare, stalled := l.stock.sizes()
	return LogStats{
		FsyncSeconds: l.stats.fsync.snapshot(), Commits: l.stats.commits.Load(), BytesWritten: l.stats.written.Load(),
		Segments: int(l.stats.segments.Load()), SpareSegments: spare, Size: size, Limit: l.o.MaxBytes, Stalled: stalled,
		Producers: l.stats.producers.Load(), ProducersEvicted: l.stats.evictedEarly.Load(),
		Damage: l.damage, Failed: l.poison(),
	}
}
