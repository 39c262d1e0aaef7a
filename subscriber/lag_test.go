package subscriber_test

import (
	"testing"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/subscriber"
)

// TestLag: rows and age, while the rows are hot, cold, and half and half.
func TestLag(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2, subscriber.Options{})
	e.create("g", catalog.AtLeastOnce)
	if lag := e.get("g").Lag; lag != (subscriber.Lag{}) {
		t.Fatalf("nothing is there: %+v", lag)
	}
	born := time.Now()
	e.publish(0, 4)
	e.publish(1, 4)
	check := func(rows int64, youngest time.Duration) {
		t.Helper()
		lag := e.get("g").Lag
		if lag.Rows != rows {
			t.Fatalf("%d rows, want %d", lag.Rows, rows)
		}
		// The log's clock goes a millisecond with each commit.
		if most := time.Since(born) + time.Second; lag.Age > most || lag.Age < youngest {
			t.Fatalf("%v old, want %v to %v", lag.Age, youngest, most)
		}
	}
	time.Sleep(30 * time.Millisecond)
	check(8, 10*time.Millisecond)
	hot := e.get("g").Lag.Age
	e.archive()
	check(8, hot)
	e.restart() // nothing is remembered
	check(8, 10*time.Millisecond)
	e.publish(0, 1)
	check(9, 10*time.Millisecond)

	c := e.join("g", subscriber.Join{Member: "m"})
	c.has(9)
	if _, err := c.tryCommit(reader.Cursor{View: e.target().View, Next: record.Offsets{4, 4}}); err != nil {
		t.Fatal(err)
	}
	check(1, 0)
	if age := e.get("g").Lag.Age; age > hot+time.Since(born)/2+time.Second {
		t.Fatalf("the last row is %v old", age)
	}
	c.commit()
	check(0, 0)
}

// TestLagFindsTheCheckpoint among many, of which some are gone.
func TestLagFindsTheCheckpoint(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1, subscriber.Options{})
	e.create("g", catalog.AtLeastOnce)
	var cps []catalog.Checkpoint
	for range 40 {
		e.publish(0, 1)
		cps = append(cps, e.checkpoint())
	}
	e.archive()
	c := e.join("g", subscriber.Join{Member: "m"})
	c.has(40)
	for _, at := range []int{1, 7, 20, 38, 39} {
		if _, err := c.tryCommit(reader.Cursor{View: e.target().View, Next: record.Offsets{record.Offset(at)}}); err != nil {
			t.Fatal(err)
		}
		before := time.Now()
		lag := e.get("g").Lag
		// Row at was cut by checkpoint number at+1.
		want := before.Sub(time.UnixMilli(cps[at].Timestamp))
		if lag.Rows != int64(40-at) || lag.Age < max(0, want) || lag.Age > max(0, want)+time.Second {
			t.Fatalf("behind %d: %+v, want %v", at, lag, want)
		}
	}
}

func TestCreateListGet(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2, subscriber.Options{})
	e.publish(0, 2)
	e.publish(1, 1)
	cp := e.checkpoint()
	e.publish(1, 1)
	cursor := reader.Cursor{View: e.target().View, Next: record.Offsets{1, 1}}
	at := time.UnixMilli(cp.Timestamp) // of the last row before the checkpoint, which partition 1 has
	for name, c := range map[string]struct {
		start subscriber.Start
		c     reader.Consistency
		want  record.Offsets
	}{
		"earliest":     {subscriber.Start{}, catalog.AtLeastOnce, nil},
		"latest":       {subscriber.Start{Latest: true}, catalog.AtLeastOnce, e.ends()},
		"latest-epoch": {subscriber.Start{Latest: true}, catalog.ExactlyOnce, e.ends()},
		"time":         {subscriber.Start{Time: &at}, catalog.AtLeastOnce, record.Offsets{2, 0}},
		"cursor":       {subscriber.Start{Cursor: &cursor}, catalog.ExactlyOnce, record.Offsets{1, 1}},
	} {
		got, err := e.c.Create(ctx, ref, subscriber.Spec{Name: name, Start: c.start, Consistency: c.c})
		if err != nil {
			t.Fatal(err)
		}
		if !got.Position.Next.Equal(c.want) || got.Consistency != c.c || !got.CurrentView || got.Hold != subscriber.DefaultHold || got.Generation != 1 {
			t.Fatalf("%s: %+v, want %v", name, got, c.want)
		}
	}
	if got := e.get("latest-epoch").Position.Checkpoint; got != cp.Number+1 {
		t.Fatalf("latest: checkpoint %d, want one behind every row, %d", got, cp.Number+1)
	}
	_, err := e.c.Create(ctx, ref, subscriber.Spec{Name: "latest"})
	refused(t, err, record.ErrExists)
	_, err = e.c.Create(ctx, ref, subscriber.Spec{Name: "a b"})
	refused(t, err, record.ErrInvalid)
	_, err = e.c.Create(ctx, ref, subscriber.Spec{Name: "x", Hold: 2 * time.Hour})
	refused(t, err, record.ErrInvalid, "1h")
	_, err = e.c.Create(ctx, ref, subscriber.Spec{Name: "x", Hold: -1})
	refused(t, err, record.ErrInvalid)
	_, err = e.c.Create(ctx, ref, subscriber.Spec{Name: "x", Start: subscriber.Start{Latest: true, Cursor: &cursor}})
	refused(t, err, record.ErrInvalid, "one of")
	_, err = e.c.Create(ctx, ref, subscriber.Spec{Name: "x", Start: subscriber.Start{Cursor: &reader.Cursor{View: 99}}})
	refused(t, err, reader.ErrOtherView)
	_, err = e.c.Create(ctx, ref, subscriber.Spec{Name: "x", Start: subscriber.Start{Cursor: &reader.Cursor{View: 1, Next: record.Offsets{9}}}})
	refused(t, err, record.ErrOutOfRange)

	var names []string
	for after := ""; ; {
		list, next, err := e.c.List(ctx, ref, after, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			names = append(names, i.Name)
		}
		if after = next; next == "" {
			break
		}
	}
	if len(names) != 5 || names[0] != "cursor" || names[4] != "time" {
		t.Fatalf("listed %v", names)
	}
	// An exactly-once reader that begins inside an epoch gets the rest of it.
	c := e.join("cursor", subscriber.Join{})
	c.has(2)
	c.commit()
	if at := e.get("cursor").Position; !at.Next.Equal(e.ends()) {
		t.Fatalf("committed %v", at)
	}
}
