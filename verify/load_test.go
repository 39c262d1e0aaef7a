package verify_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/cmd/thermocline/node"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/verify"
)

// TestNoFalseFindingsUnderLoad checks a stream over and over while it is published
// to, archived, released, compacted, expired, collected, evolved and reset: none of
// it may look like damage.
func TestNoFalseFindingsUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n, err := node.Open(t.Context(), node.Options{Dir: dir, SegmentBytes: 256 << 10, LogBytes: 256 << 20, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	c, err := catalog.Open(t.Context(), catalog.Options{Path: filepath.Join(dir, "catalog.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	// The node does not run: its archiver would not wait for the collection below.
	defer func() {
		stop()
		running.Wait()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}()
	f, err := newFeed(n, "load", 0, "PARQUET")
	if err != nil {
		t.Fatal(err)
	}
	b := n.Backend()
	// Every action of the feed's producer waits for the one before, so that a
	// reset is seen by the next publish; the checks do not wait.
	var feeding sync.Mutex
	work := func(pause time.Duration, do func() error) {
		running.Go(func() {
			for ctx.Err() == nil {
				if err := do(); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
			}
		})
	}
	resets := 0
	work(time.Millisecond, func() error {
		feeding.Lock()
		defer feeding.Unlock()
		return f.publish(1, 20)
	})
	// A collection without grace takes whatever no snapshot reaches at the moment:
	// no archive may be under way, but checks may, and their version may go.
	var tidying sync.RWMutex
	work(15*time.Millisecond, func() error {
		tidying.RLock()
		defer tidying.RUnlock()
		return f.archive()
	})
	_, branch, err := c.Resolve(t.Context(), "default", "load", "main")
	if err != nil {
		t.Fatal(err)
	}
	store, err := objstore.NewFS(filepath.Join(dir, "warehouse"))
	if err != nil {
		t.Fatal(err)
	}
	tables := dataset.New(store, c, dataset.Options{})
	compacted, collected := 0, 0
	tidy := func() error {
		tidying.Lock()
		defer tidying.Unlock()
		out, err := tables.Compact(ctx, branch.TableUUID, dataset.CompactOptions{})
		if err != nil {
			return err
		}
		if out.Files > 0 {
			compacted++
		}
		if _, err := tables.Expire(ctx, branch.TableUUID, dataset.ExpireOptions{MaxAge: time.Millisecond}); err != nil {
			return err
		}
		for range 2 {
			out, err := tables.Collect(ctx, branch.TableUUID, dataset.CollectOptions{Grace: time.Nanosecond})
			if err != nil {
				return err
			}
			collected += out.Deleted
			time.Sleep(2 * time.Millisecond)
		}
		return nil
	}
	work(150*time.Millisecond, tidy)
	work(600*time.Millisecond, func() error {
		feeding.Lock()
		defer feeding.Unlock()
		resets++
		hot := []time.Duration{0, 200 * time.Millisecond}[resets%2]
		if _, err := b.Streams.UpdateSettings(ctx, f.stream, "main", api.SettingsPatch{HotRetention: &hot}); err != nil {
			return err
		}
		if _, err := b.Streams.Reset(ctx, f.stream, "main", nil, api.SettingsPatch{}); err != nil {
			return err
		}
		f.next = 0
		return nil
	})
	work(230*time.Millisecond, func() error {
		current, err := b.Schemas.Schema(ctx, f.stream, "main")
		if err != nil {
			return err
		}
		s := current.Schema.Clone()
		name := "more" + time.Now().Format("150405000000")
		if len(s.Fields) > 4 {
			s.Fields = s.Fields[:4]
		} else {
			s.Fields = append(s.Fields, schema.Field{Name: name, Type: schema.Type{Kind: schema.Long}, Nullable: true})
		}
		_, err = b.Schemas.Evolve(ctx, f.stream, "main", s)
		return err
	})
	var checks, restarts, cold, hot, compared int64
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); checks++ {
		out, err := check(t.Context(), b.Verifier.(*verify.Verifier), f.stream, labelled)
		if err != nil {
			t.Fatalf("check %d: %v", checks, err)
		}
		for _, x := range out.findings {
			if x.Severity != verify.Notice {
				t.Errorf("check %d: %s", checks, x.Error())
			}
		}
		if t.Failed() {
			break
		}
		s := out.summary
		restarts, cold, hot, compared = restarts+s.Restarts, cold+s.ColdRows, hot+s.HotRows, compared+s.Compared
	}
	t.Logf("%d checks, begun again %d times, %d rows cold, %d hot, %d compared, over %d resets, %d compactions, %d files collected",
		checks, restarts, cold, hot, compared, resets, compacted, collected)
}
