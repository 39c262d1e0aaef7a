package disk

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// TestGroupCommit: what arrives while a sync runs shares the next one.
func TestGroupCommit(t *testing.T) {
	t.Parallel()
	g := newGate(vfs.NewCrashableMem())
	h := newHarness(t, Options{FS: g.fs})
	h.add(1, 0, "first")
	before := h.LogStats()
	release := g.hold()
	var wg sync.WaitGroup
	const n = 40
	for i := range n {
		wg.Go(func() {
			if _, err := h.try(record.ViewID(1+i%3), nil, record.Partition(i%2), fmt.Sprint(i)); err != nil {
				t.Errorf("append: %v", err)
			}
		})
	}
	eventually(t, "all wait", func() bool {
		h.queue.mu.Lock()
		defer h.queue.mu.Unlock()
		return h.queue.requests == n
	})
	release()
	wg.Wait()
	after := h.LogStats()
	if commits := after.Commits - before.Commits; commits > 2 {
		t.Errorf("%d commits for %d requests", commits, n)
	}
	var syncs uint64
	for _, c := range after.FsyncSeconds.Counts {
		syncs += c
	}
	if syncs != uint64(after.Commits) || after.BytesWritten <= before.BytesWritten {
		t.Errorf("%d syncs for %d commits", syncs, after.Commits)
	}
}

// TestLinger: rows of concurrent requests to a HIGH_THROUGHPUT view share
// batches, until the time or the size is reached; those to a LOW_LATENCY view
// do not; those with a producer share the commit.
func TestLinger(t *testing.T) {
	t.Parallel()
	h := newHarness(t, Options{})
	const n = 20
	run := func(id record.ViewID, s hotbuffer.Settings, producers bool) (hotbuffer.Stats, int64, time.Duration) {
		t.Helper()
		if err := h.Log.Open(context.Background(), id, s); err != nil {
			t.Fatal(err)
		}
		commits, begin := h.LogStats().Commits, time.Now()
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				var p *hotbuffer.Producer
				if producers {
					p = &hotbuffer.Producer{ID: hotbuffer.ProducerID{byte(i)}}
				}
				if _, err := h.try(id, p, record.Partition(i%2), fmt.Sprintf("%0100d", i)); err != nil {
					t.Errorf("append: %v", err)
				}
			})
		}
		wg.Wait()
		took := time.Since(begin)
		st, err := h.Stats(id)
		if err != nil {
			t.Fatal(err)
		}
		return st, h.LogStats().Commits - commits, took
	}
	linger := hotbuffer.Settings{Type: hotbuffer.HighThroughput, Partitions: 2, Linger: 300 * time.Millisecond}

	s, commits, took := run(11, linger, false)
	if s.Batches != 2 || s.MaxBatchRows != n/2 || commits != 1 || took < linger.Linger {
		t.Errorf("shared: %d batches, largest %d rows, %d commits in %v", s.Batches, s.MaxBatchRows, commits, took)
	}
	if s.LingerSeconds.Sum < 0.1 || s.AppendSeconds.Sum < s.LingerSeconds.Sum {
		t.Errorf("lingered for %vs of %vs", s.LingerSeconds.Sum, s.AppendSeconds.Sum)
	}
	if s, commits, _ = run(12, linger, true); s.Batches != n || commits != 1 {
		t.Errorf("with producers: %d batches, %d commits", s.Batches, commits)
	}
	bySize := linger
	bySize.Linger, bySize.LingerBytes = time.Hour, 100*n/2
	if s, commits, _ = run(13, bySize, false); s.Batches > 4 || commits > 2 {
		t.Errorf("by size: %d batches, %d commits", s.Batches, commits)
	}
	if s, _, _ = run(14, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 2}, false); s.Batches != n || s.LingerSeconds.Sum != 0 {
		t.Errorf("low latency: %d batches, lingered %v s", s.Batches, s.LingerSeconds.Sum)
	}
	compressed := linger
	compressed.Compressed = true
	c, _, _ := run(15, compressed, false)
	if s, _, _ = run(16, linger, false); c.StoredBytes*2 > s.StoredBytes || c.MaxBatchBytes != s.MaxBatchBytes {
		t.Errorf("compressed: %d bytes of %d, largest batch %d and %d", c.StoredBytes, s.StoredBytes, c.MaxBatchBytes, s.MaxBatchBytes)
	}
	batches, err := h.Read(context.Background(), 15, 0, 0, 1<<20)
	if err != nil || batches[0].Codec() != record.DefaultCodec {
		t.Errorf("codec %v, %v", batches[0].Codec(), err)
	}
}

// TestBatchLimit: a large request is split into batches of 1 MiB.
func TestBatchLimit(t *testing.T) {
	t.Parallel()
	h := newHarness(t, Options{SegmentBytes: 1 << 20})
	h.add(1, 0, sized("row", 5000, 700)...)
	s, err := h.Stats(1)
	if err != nil || s.Batches != 4 || s.MaxBatchBytes > s.BatchLimitBytes || s.MaxBatchBytes < s.BatchLimitBytes*9/10 {
		t.Errorf("%+v, %v", s, err)
	}
	if got := readFrom(t, h.Log, 1, 0, 0); len(got) != 5000 {
		t.Errorf("%d rows", len(got))
	}
}
