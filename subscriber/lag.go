package subscriber

import (
	"context"
	"errors"
	"sort"
	"sync"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// Lag counts what is durable and not committed by s, whose view must be that of its
// branch, t. It is cheap to ask again and again. The age is that of own rows.
func (c *Coordinator) Lag(ctx context.Context, t reader.Target, s catalog.Subscriber) (Lag, error) {
	ends, err := c.o.Log.Ends(s.View)
	if errors.Is(err, record.ErrNotFound) {
		return Lag{}, nil // the view went since we looked
	}
	if err != nil {
		return Lag{}, err
	}
	l := Lag{Rows: ends.End.RowsSince(s.Next)}
	if l.Rows > 0 {
		if l.Age, err = c.age(ctx, s, ends); err != nil {
			return l, err
		}
	}
	guests, err := c.o.Reads.GuestRows(ctx, t, s.Guests)
	l.Rows += guests
	return l, err
}

// age is that of the oldest own row that is not committed.
func (c *Coordinator) age(ctx context.Context, s catalog.Subscriber, ends hotbuffer.Ends) (time.Duration, error) {
	oldest, ok := c.ages.get(s)
	if !ok {
		var err error
		if oldest, err = c.oldest(ctx, s, ends); err != nil {
			return 0, err
		}
		c.ages.put(s, oldest)
	}
	if oldest == 0 {
		return 0, nil
	}
	return max(0, time.Since(time.UnixMilli(oldest))), nil
}

// oldest is the append time of the first row behind what s has committed, in
// milliseconds since 1970; 0: it cannot be told.
func (c *Coordinator) oldest(ctx context.Context, s catalog.Subscriber, ends hotbuffer.Ends) (int64, error) {
	found := int64(0)
	note := func(ts int64) {
		if found == 0 || ts < found {
			found = ts
		}
	}
	cold := false
	for i, end := range ends.End {
		p := record.Partition(i)
		next := s.Next.At(p)
		if next >= end {
			continue
		}
		if next < ends.Start.At(p) {
			cold = true
			continue
		}
		batches, err := c.o.Log.Read(ctx, s.View, p, next, 1)
		switch {
		case errors.Is(err, record.ErrOutOfRange): // released since we looked
			cold = true
		case errors.Is(err, record.ErrCorrupt): // which its readers are told
		case err != nil:
			return 0, err
		case len(batches) > 0:
			note(batches[0].Timestamp())
		}
	}
	if !cold {
		return found, nil
	}
	ts, err := c.oldestCold(ctx, s)
	if err == nil && ts > 0 {
		note(ts)
	}
	return found, err
}

// oldestCold is the time of the first checkpoint beyond the position: the row's
// epoch ends with it. Checkpoints are searched by halves; they are a day's.
func (c *Coordinator) oldestCold(ctx context.Context, s catalog.Subscriber) (int64, error) {
	latest, err := c.o.Checkpoints.Latest(ctx, s.View)
	if err != nil || s.Next.Covers(latest.Cut) {
		return 0, err
	}
	first, err := c.o.History.CheckpointsAfter(ctx, s.View, 0, 1)
	if err != nil || len(first) == 0 {
		return 0, err
	}
	ts := latest.Timestamp
	low := first[0].Number
	var failed error
	// Numbers may be missing: each stands for the first one from it on.
	sort.Search(int(latest.Number-low), func(i int) bool {
		if failed != nil {
			return true
		}
		cs, err := c.o.History.CheckpointsAfter(ctx, s.View, low+int64(i)-1, 1)
		if err != nil || len(cs) == 0 {
			failed = err
			return true
		}
		if s.Next.Covers(cs[0].Cut) {
			return false
		}
		ts = min(ts, cs[0].Timestamp)
		return true
	})
	return ts, failed
}

// ages remembers how old the first row behind a position is, since to find out may
// take reads, and lags are asked for again and again.
type ages struct {
	mu sync.Mutex
	of map[catalog.SubscriberID]age
}

type age struct {
	view   record.ViewID
	next   record.Offsets
	oldest int64
}

// maxAges bounds what is remembered; a full map begins anew.
const maxAges = 16 << 10

func (a *ages) get(s catalog.Subscriber) (int64, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, ok := a.of[s.ID]
	return e.oldest, ok && e.view == s.View && e.next.Equal(s.Next)
}

func (a *ages) put(s catalog.Subscriber, oldest int64) {
	if oldest == 0 {
		return // not known; or nothing was behind, and that passes
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == nil || len(a.of) >= maxAges {
		a.of = map[catalog.SubscriberID]age{}
	}
	a.of[s.ID] = age{s.View, s.Next, oldest}
}
