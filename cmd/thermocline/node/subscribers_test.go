package node

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/subscriber"
)

var streamS = subscriber.Ref{Stream: "default.s", Branch: catalog.MainBranch}

// coordinate runs the coordinator of subscribers until stop is called, or the
// test ends.
func (w *world) coordinate() (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan struct{})
	c := w.node.subscribers
	go func() {
		defer close(done)
		_ = c.Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	w.t.Cleanup(stop)
	return stop
}

// members read one subscriber together, and commit all that they get.
type members struct {
	w     *world
	group string
	wait  sync.WaitGroup

	mu   sync.Mutex
	rows []row
}

func (m *members) read(session api.SubscriberSession, exactly bool) {
	var open []row
	number := int64(0)
	for ev, err := range session.Events() {
		if err != nil {
			return
		}
		if ev.Assignment != nil {
			open, number = nil, ev.Assignment.Session
			continue
		}
		if open = append(open, rowsOf(ev.Batch)...); exactly && !ev.Batch.EpochEnd {
			continue
		}
		m.mu.Lock()
		m.rows = append(m.rows, open...)
		m.mu.Unlock()
		open = nil
		if _, err := m.w.b.Subscribers.Commit(m.w.t.Context(), streamS, m.group, subscriber.Commit{Session: number, Cursor: &ev.Batch.Next}); err != nil {
			m.w.t.Errorf("commit of %s: %v", m.group, err)
		}
	}
}

func (m *members) join(ctx context.Context, exactly bool) {
	m.w.t.Helper()
	s, err := m.w.b.Subscribers.Join(ctx, streamS, m.group, subscriber.Join{Request: reader.Request{System: true}})
	if err != nil {
		m.w.t.Fatal(err)
	}
	m.wait.Go(func() { m.read(s, exactly) })
}

func (m *members) stored() []row {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.rows)
}

// TestSubscribersAcrossArchives: members of both consistencies share partitions
// while rows come and are archived and partitions are added; one joins in the
// midst; then the server starts again. As nobody dies with rows that were not
// committed, each row comes to each group once.
func TestSubscribersAcrossArchives(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{Partitions: 4, KeyFields: []string{"k"}})
	groups := map[bool]*members{false: {w: w, group: "least"}, true: {w: w, group: "exactly"}}
	for exactly, m := range groups {
		spec := subscriber.Spec{Name: m.group, Consistency: catalog.AtLeastOnce, Hold: time.Millisecond}
		if exactly {
			spec.Consistency = catalog.ExactlyOnce
		}
		if _, err := w.b.Subscribers.Create(t.Context(), streamS, spec); err != nil {
			t.Fatal(err)
		}
	}
	grow := 6
	for round := range 3 {
		stop := w.coordinate()
		reading, cancel := context.WithCancel(t.Context())
		for exactly, m := range groups {
			m.join(reading, exactly)
			m.join(reading, exactly)
		}
		for i := range 30 {
			w.publish(1 + i%7)
			switch {
			case i%10 == 4:
				w.archive()
			case i == 15:
				for exactly, m := range groups {
					m.join(reading, exactly)
				}
			case i == 20 && round == 1:
				if _, err := w.b.Streams.UpdateSettings(t.Context(), "default.s", "main", api.SettingsPatch{Partitions: &grow}); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, m := range groups {
			eventually(t, "all rows of "+m.group+" committed", func() bool {
				i, err := w.b.Subscribers.Get(t.Context(), streamS, m.group)
				return err == nil && i.Lag.Rows == 0
			})
		}
		cancel()
		for _, m := range groups {
			m.wait.Wait()
		}
		stop()
		w.restart()
	}
	for _, m := range groups {
		rows := m.stored()
		// Members take turns in the list; offsets of a partition are in order as
		// they were committed before they were handed over.
		slices.SortStableFunc(rows, func(a, b row) int {
			if a.part != b.part {
				return int(a.part - b.part)
			}
			return int(a.offset - b.offset)
		})
		var ends record.Offsets
		for i, r := range rows {
			if want := int64(ends.At(record.Partition(r.part))); r.offset != want {
				t.Fatalf("%s: row %d is %+v, want offset %d", m.group, i, r, want)
			}
			ends = ends.With(record.Partition(r.part), record.Offset(r.offset+1))
		}
		if int64(len(rows)) != w.next {
			t.Fatalf("%s: %d rows of %d", m.group, len(rows), w.next)
		}
	}
}

// TestSubscriberFigures: lags of the current view's subscribers, of all branches.
func TestSubscriberFigures(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{})
	w.publish(3)
	for name, start := range map[string]subscriber.Start{"old": {}, "new": {Latest: true}} {
		if _, err := w.b.Subscribers.Create(t.Context(), streamS, subscriber.Spec{Name: name, Start: start}); err != nil {
			t.Fatal(err)
		}
	}
	w.publish(2)
	lags := func() map[string]subscriber.Lag {
		all, err := w.b.Figures.Branches(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatalf("%d figures, %v", len(all), err)
		}
		lags := map[string]subscriber.Lag{}
		for _, s := range all[0].Subscribers {
			lags[s.Name] = s.Lag
		}
		return lags
	}
	if got := lags(); len(got) != 2 || got["old"].Rows != 5 || got["new"].Rows != 2 || got["old"].Age < got["new"].Age || got["new"].Age <= 0 {
		t.Fatalf("lags %+v", got)
	}
	if _, err := w.b.Streams.Reset(t.Context(), "default.s", "main", nil, api.SettingsPatch{}); err != nil {
		t.Fatal(err)
	}
	if got := lags(); len(got) != 0 {
		t.Fatalf("lags in a view that has passed: %+v", got)
	}
}
