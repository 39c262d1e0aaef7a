package node

import (
	"context"
	"testing"
	"time"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/verify"
)

// interrupted is a hot buffer in which something happens before the at'th read of
// a check; each read gives one batch.
type interrupted struct {
	hotbuffer.Buffer
	at, reads int
	do        func()
}

func (b *interrupted) ReadStored(ctx context.Context, v record.ViewID, p record.Partition, from record.Offset, _ int) ([]record.Batch, error) {
	if b.reads++; b.reads == b.at {
		b.do()
	}
	return b.Buffer.Read(ctx, v, p, from, 1)
}

// TestVerifyWhileRowsGo takes the rows away under a check, at every read: archived
// and released, and by a reset. It must find nothing, and miss no row.
func TestVerifyWhileRowsGo(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(w *world){
		"archive": func(w *world) {
			hot := time.Duration(0)
			if _, err := w.b.Streams.UpdateSettings(w.t.Context(), "default.s", "main", api.SettingsPatch{HotRetention: &hot}); err != nil {
				w.t.Fatal(err)
			}
			w.archive()
		},
		"reset": func(w *world) {
			w.reset()
			w.publish(3)
			w.archive()
		},
		"reset and no archive": func(w *world) {
			w.reset()
			w.publish(3)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings := catalog.Settings{Partitions: 2, HotRetention: time.Hour, Partitioning: []string{"bucket[2](k)"}, SortOrder: []string{"k desc"}}
			w := newWorldWith(t, settings, Options{})
			restarts, ends := int64(0), false
			for at := 1; !ends; at += (stride + 1) / 2 {
				if at > 1 {
					w.reset()
					w.archive()
				}
				hot := time.Hour
				if _, err := w.b.Streams.UpdateSettings(t.Context(), "default.s", "main", api.SettingsPatch{HotRetention: &hot}); err != nil {
					t.Fatal(err)
				}
				for range 3 {
					w.publish(3)
				}
				w.archive()
				for range 2 {
					w.publish(3)
				}
				b := &interrupted{Buffer: w.node.log, at: at, do: func() { take(w) }}
				var sum verify.Summary
				v := verify.New(verify.Options{Catalog: w.node.catalog, Buffer: b, Store: w.store()})
				err := v.Branch(t.Context(), "s", "main", verify.Request{}, func(e verify.Event) error {
					if e.Finding != nil {
						t.Errorf("interrupted at read %d: %v", at, e.Finding)
					}
					if e.Summary != nil {
						sum = *e.Summary
					}
					return nil
				})
				if err != nil {
					t.Fatalf("interrupted at read %d: %v", at, err)
				}
				restarts += sum.Restarts
				if ends = b.reads < at; ends && at < 8 {
					t.Errorf("a check reads only %d times", b.reads)
				}
			}
			t.Logf("begun again %d times", restarts)
			if (restarts > 0) != (name == "reset") { // a view that drains can still be read
				t.Errorf("begun again %d times", restarts)
			}
		})
	}
}
