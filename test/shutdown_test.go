package test

import (
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"
)

// TestShutdownUnderLoad asks the server to end while publishers are at it: it
// ends in time and with exit code 0, and every acknowledged row is there after
// a restart. A request without an answer may have been appended, but not twice.
func TestShutdownUnderLoad(t *testing.T) {
	t.Parallel()
	s := startServer(t, checked)
	st := s.create(t, "rows", numberedSchema, `{"partitions":2,"archiveInterval":"1s"}`)

	const publishers, each = 4, 100
	acked := make([][]int64, publishers) // first row of each acknowledged request
	var all sync.WaitGroup
	for p := range publishers {
		all.Go(func() {
			for first := int64(p) * 1_000_000_000; ; first += each {
				_, err := s.send(t.Context(), http.MethodPost, st.path+"/rows", ndjson, []byte(numbered(first, each)))
				if err == nil {
					acked[p] = append(acked[p], first)
					continue
				}
				// Refused or cut off: the server is on its way out.
				if p := (*problem)(nil); errors.As(err, &p) && p.Status != http.StatusServiceUnavailable {
					t.Errorf("publish during shutdown: %v", err)
				}
				return
			}
		})
	}
	time.Sleep(1500 * time.Millisecond)
	s.stop(t)
	all.Wait()

	s.start(t)
	found := st.numbers(t, false)
	rows := 0
	for p := range publishers {
		for _, first := range acked[p] {
			for i := first; i < first+each; i++ {
				if found[i] != 1 {
					t.Fatalf("row %d was acknowledged and is there %d times", i, found[i])
				}
				rows++
			}
		}
	}
	for number, times := range found {
		if times != 1 {
			t.Errorf("row %d is there %d times", number, times)
		}
	}
	if rows == 0 || len(found)-rows > publishers*each {
		t.Errorf("%d rows were acknowledged, %d are there", rows, len(found))
	}
	t.Logf("%d rows acknowledged, %d there", rows, len(found))
	s.stop(t)
}
