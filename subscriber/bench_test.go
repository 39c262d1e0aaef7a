package subscriber_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/subscriber"
)

// BenchmarkCommit is a thousand subscribers that each commit one position after
// the other, and one alone: commits/s over all, and how many share a
// transaction.
func BenchmarkCommit(b *testing.B) {
	for _, subscribers := range []int{1, 1000} {
		b.Run(fmt.Sprint(subscribers), func(b *testing.B) {
			counting := &countingStore{}
			e := newEnv(b, 1, subscriber.Options{Store: counting})
			counting.Catalog = e.catalog
			rows := b.N/subscribers + 1
			for left := rows; left > 0; left -= 1000 {
				e.publish(0, min(left, 1000))
			}
			sessions := make([]*subscriber.Session, subscribers)
			var readers sync.WaitGroup
			reading, cancel := context.WithCancel(ctx)
			var ready sync.WaitGroup
			for i := range sessions {
				name := fmt.Sprint("g", i)
				e.create(name, catalog.AtLeastOnce)
				s, err := e.c.Join(reading, ref, name, subscriber.Join{})
				if err != nil {
					b.Fatal(err)
				}
				sessions[i] = s
				ready.Add(1)
				readers.Go(func() {
					got := record.Offset(0)
					for ev, err := range s.Events() {
						if err != nil {
							return
						}
						if next := ev.Batch.Next.Next.At(0); got < record.Offset(rows) && next >= record.Offset(rows) {
							got = next
							ready.Done()
						}
					}
				})
			}
			ready.Wait()
			counting.n.Store(0)
			b.ResetTimer()
			var clients sync.WaitGroup
			var next atomic.Int64
			for i, s := range sessions {
				clients.Go(func() {
					for at := record.Offset(1); next.Add(1) <= int64(b.N) && int(at) <= rows; at++ {
						q := subscriber.Commit{Session: s.Number(), Cursor: &reader.Cursor{View: e.target().View, Next: record.Offsets{at}}}
						if _, err := e.c.Commit(ctx, ref, fmt.Sprint("g", i), q); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			clients.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
			b.ReportMetric(float64(b.N)/float64(max(1, counting.n.Load())), "commits/transaction")
			cancel()
			readers.Wait()
		})
	}
}

// countingStore counts transactions.
type countingStore struct {
	*catalog.Catalog
	n atomic.Int64
}

func (s *countingStore) CommitSubscribers(ctx context.Context, commits []catalog.SubscriberCommit) ([]error, error) {
	s.n.Add(1)
	return s.Catalog.CommitSubscribers(ctx, commits)
}
