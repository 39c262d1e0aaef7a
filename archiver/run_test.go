package archiver

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// After failures the pauses grow to a bound, and a success ends them.
func TestBackoff(t *testing.T) {
	t.Parallel()
	var n noteState
	now := time.UnixMilli(1_700_000_000_000)
	last := time.Duration(0)
	for i := range 10 {
		if !n.begin(now) {
			t.Fatalf("failure %d: not begun although the pause is over", i)
		}
		n.record(lastSeen{begun: now}, Result{}, errors.New("no"))
		n.end()
		pause := time.Duration(0)
		for ; !n.begin(now.Add(pause)); pause += leastPause {
			if pause > mostPause {
				t.Fatalf("failure %d: the pause is longer than %v", i, mostPause)
			}
		}
		n.end()
		if pause < leastPause || pause < last {
			t.Errorf("failure %d: a pause of %v after one of %v", i, pause, last)
		}
		last = pause
		now = now.Add(pause)
	}
	if last != mostPause {
		t.Errorf("the last pause is %v, want %v", last, mostPause)
	}
	n.record(lastSeen{begun: now}, Result{Rows: 3}, nil)
	if !n.begin(now) || n.begin(now) {
		t.Error("after a success: not at once, or twice at a time")
	}
	if s := n.status(); s.Runs != 11 || s.Failures != 10 || s.LastError != "" || s.Rows != 3 || !s.LastSuccess.Equal(now) {
		t.Errorf("status %+v", s)
	}
}

// ends is a hot buffer of which only the figures are asked.
type ends struct {
	hotbuffer.Buffer
	ends  hotbuffer.Ends
	stats hotbuffer.Stats
	gone  bool
}

func (e *ends) Ends(record.ViewID) (hotbuffer.Ends, error) {
	if e.gone {
		return hotbuffer.Ends{}, record.ErrNotFound
	}
	return e.ends, nil
}

func (e *ends) Stats(record.ViewID) (hotbuffer.Stats, error) { return e.stats, nil }

func TestDue(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_700_000_000_000)
	long := now.Add(-24 * time.Hour)
	at := func(start, end record.Offset) hotbuffer.Ends {
		return hotbuffer.Ends{Start: record.Offsets{start}, End: record.Offsets{end}}
	}
	archived := func(o record.Offset) *noteState {
		return &noteState{view: 1, archived: record.Offsets{o}, seen: lastSeen{begun: now.Add(-time.Second), view: 1, bytes: 50}}
	}
	for name, c := range map[string]struct {
		ends  hotbuffer.Ends
		bytes int64
		note  *noteState
		views []View
		keep  time.Duration
		gone  bool
		due   bool // for an archive
		free  bool // for a release
		full  bool // the log
	}{
		"no rows":                               {ends: at(0, 0), note: &noteState{}, views: []View{{ID: 1, Created: long}}},
		"a new view, rows":                      {ends: at(0, 9), note: &noteState{}, views: []View{{ID: 1, Created: now.Add(-time.Second)}}},
		"a view of an earlier process, rows":    {ends: at(0, 9), note: &noteState{}, views: []View{{ID: 1, Created: long}}, due: true},
		"an earlier process released them all":  {ends: at(9, 9), note: &noteState{}, views: []View{{ID: 1, Created: long}}},
		"archived, nothing new":                 {ends: at(9, 9), note: archived(9), views: []View{{ID: 1, Created: long}}},
		"the interval is not over":              {ends: at(9, 19), note: archived(9), views: []View{{ID: 1, Created: long}}},
		"the interval is not over, much waits":  {ends: at(9, 19), bytes: 150, note: archived(9), views: []View{{ID: 1, Created: long}}, due: true},
		"almost as much":                        {ends: at(9, 19), bytes: 149, note: archived(9), views: []View{{ID: 1, Created: long}}},
		"what another view had does not count":  {ends: at(0, 9), bytes: 100, note: &noteState{view: 7, seen: lastSeen{begun: now, view: 7, bytes: 1 << 40}}, views: []View{{ID: 1, Created: now}}, due: true},
		"a reset is to be finished":             {ends: at(0, 0), note: archived(9), views: []View{{ID: 1, Created: long}, {ID: 2, Created: now}}, due: true},
		"archived, kept for the hot retention":  {ends: at(0, 9), note: &noteState{view: 1, archived: record.Offsets{9}}, views: []View{{ID: 1, Created: long}}, keep: time.Hour, free: true},
		"kept a while longer":                   {ends: at(0, 9), note: &noteState{view: 1, archived: record.Offsets{9}, kept: now.Add(time.Millisecond)}, views: []View{{ID: 1, Created: long}}},
		"kept up to now":                        {ends: at(0, 9), note: &noteState{view: 1, archived: record.Offsets{9}, kept: now}, views: []View{{ID: 1, Created: long}}, free: true},
		"kept, and more than half full":         {ends: at(0, 9), note: &noteState{view: 1, archived: record.Offsets{9}, kept: now.Add(time.Hour)}, views: []View{{ID: 1, Created: long}}, full: true, free: true},
		"kept, and new rows wait":               {ends: at(3, 19), note: archived(9), views: []View{{ID: 1, Created: long}}, free: true},
		"full of rows that wait":                {ends: at(9, 19), note: archived(9), views: []View{{ID: 1, Created: long}}, full: true},
		"all is released, with a hot retention": {ends: at(9, 9), note: &noteState{view: 1, archived: record.Offsets{9}}, views: []View{{ID: 1, Created: long}}, keep: time.Hour},
		"the view is gone":                      {gone: true, note: &noteState{}, views: []View{{ID: 1, Created: long}}},
		"no view":                               {note: &noteState{}},
	} {
		b := &ends{ends: c.ends, stats: hotbuffer.Stats{Bytes: c.bytes}, gone: c.gone}
		a := &Archiver{o: Options{Buffer: b, WaitingBytes: 100, Now: func() time.Time { return now }}}
		s := &branchState{note: noteState{view: c.note.view, archived: c.note.archived, seen: c.note.seen, kept: c.note.kept}}
		if due, free := a.due(s, Target{Views: c.views, Settings: catalog.Settings{ArchiveInterval: time.Minute, HotRetention: c.keep}}, c.full); due != c.due || free != c.free {
			t.Errorf("%s: archive %v, release %v", name, due, free)
		}
	}
}

// State of branches that are gone is dropped, and asking for figures makes none.
func TestStateIsBounded(t *testing.T) {
	t.Parallel()
	a := &Archiver{branches: map[catalog.BranchID]*branchState{}}
	for b := range catalog.BranchID(100) {
		a.state(b)
	}
	a.keep([]catalog.BranchID{3, 4})
	if len(a.branches) != 2 {
		t.Errorf("%d states, want 2", len(a.branches))
	}
	if s := a.Status(50); s.Runs != 0 || len(s.Seconds.Counts) != len(s.Seconds.Bounds)+1 {
		t.Errorf("status %+v", s)
	}
	if _, ok := a.Archived(50, 1); ok || len(a.branches) != 2 {
		t.Errorf("%d states, want 2", len(a.branches))
	}
}

func TestNewNeedsItsParts(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{}); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("%v, want ErrInvalid", err)
	}
}

func TestLockEndsWithTheContext(t *testing.T) {
	t.Parallel()
	a := &Archiver{branches: map[catalog.BranchID]*branchState{}}
	s := a.state(1)
	if err := s.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.lock(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	s.unlock()
}
