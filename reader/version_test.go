package reader_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

func (e *env) head() dataset.SnapshotInfo {
	e.t.Helper()
	head, ok := e.table().Head()
	if !ok {
		e.t.Fatal("no snapshot")
	}
	return head
}

// A version holds what its snapshot does, guests first, by id, tag, time and
// cursor; its closing cursor goes on with what came behind.
func TestVersions(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 2)
	e.mark()
	e.publish(0, 5)
	e.flush()
	one := e.head()
	_, atOne := e.read(reader.Request{})
	e.join(e.guestFile(run(2, 0, 0, 3)...))
	two := e.head()
	e.publish(1, 5)
	e.flush()
	e.join(e.guestFile(run(1, 0, 0, 2)...))
	e.publish(0, 2)
	if _, err := e.datasets.CreateTag(t.Context(), e.target.Table, "first", one.ID); err != nil {
		t.Fatal(err)
	}
	whole, _ := e.read(reader.Request{})
	guests := numbersOf(run(2, 0, 0, 3))
	for name, c := range map[string]struct {
		v    reader.Version
		want []int64
	}{
		"snapshot": {reader.Version{Snapshot: one.ID}, count(5)},
		"guests":   {reader.Version{Snapshot: two.ID}, append(slices.Clone(guests), count(5)...)},
		"tag":      {reader.Version{Tag: "first"}, count(5)},
		"cursor":   {reader.Version{Until: &atOne}, count(5)},
		"head":     {reader.Version{}, slices.Concat(numbersOf(run(1, 0, 0, 2)), guests, count(10))},
	} {
		got, end := e.read(reader.Request{Version: &c.v})
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		var paged []int64
		var from reader.Start
		for {
			ns, next := e.read(reader.Request{Version: &c.v, Limit: 2, From: from})
			if paged = append(paged, ns...); len(ns) < 2 {
				if next.String() != end.String() {
					t.Errorf("%s in pages closes at %v, whole at %v", name, next, end)
				}
				break
			}
			from.Cursor = &next
		}
		if !slices.Equal(paged, c.want) {
			t.Errorf("%s in pages: %v, want %v", name, paged, c.want)
		}
		rest, _ := e.read(reader.Request{From: reader.Start{Cursor: &end}})
		if both := append(slices.Clone(got), rest...); len(both) != len(whole) {
			t.Errorf("%s: %d rows, and %d behind its cursor, of %d", name, len(got), len(rest), len(whole))
		}
	}
	got, _ := e.read(reader.Request{Version: &reader.Version{AsOf: two.Time}})
	e.want(got, append(slices.Clone(guests), count(5)...)[:len(got)]) // a millisecond may hold two
	got, _ = e.read(reader.Request{Version: &reader.Version{AsOf: time.Now()}, Where: "n < 3", Columns: []string{"n"}})
	e.want(got, count(3))

	for name, v := range map[string]reader.Version{
		"snapshot": {Snapshot: 5}, "time": {AsOf: time.UnixMilli(5)},
	} {
		_, _, err := e.tryRead(reader.Request{Version: &v})
		if !errors.Is(err, dataset.ErrExpired) || !strings.Contains(err.Error(), "kept are") {
			t.Errorf("%s that is none: %v", name, err)
		}
	}
	if _, _, err := e.tryRead(reader.Request{Version: &reader.Version{Tag: "none"}}); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("a tag that is none: %v", err)
	}
	if _, _, err := e.tryRead(reader.Request{Version: &reader.Version{Tag: "first", Snapshot: one.ID}}); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("two versions: %v", err)
	}
	if _, err := e.r.Tail(t.Context(), e.target, reader.Request{Version: &reader.Version{}}); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("tail of a version: %v", err)
	}
}

// What a reset has replaced is read by its snapshots and cursors.
func TestVersionsBeforeAReset(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	e.publish(0, 10)
	_, at := e.read(reader.Request{Limit: 6})
	e.flush()
	old := e.head()
	e.epoch++
	if _, err := e.datasets.Commit(t.Context(), e.target.Table, dataset.Commit{RemoveAll: true, Marker: &dataset.Marker{
		View: view + 1, ViewNumber: number + 1, Epoch: e.epoch, CommitID: uuid.NewString(), Offsets: record.Offsets{},
	}}); err != nil {
		t.Fatal(err)
	}
	now := e.target
	now.View, now.Number = view+1, number+1
	e.target = now
	e.open(view+1, 1)
	got, _ := e.read(reader.Request{})
	e.want(got, nil)
	got, _ = e.read(reader.Request{Version: &reader.Version{Snapshot: old.ID}})
	e.want(got, count(10))
	got, _ = e.read(reader.Request{Version: &reader.Version{Until: &at}})
	e.want(got, count(6))
	got, _ = e.read(reader.Request{Version: &reader.Version{Snapshot: old.ID}, From: reader.Start{Cursor: &at}})
	e.want(got, count(10)[6:])
	if _, _, err := e.tryRead(reader.Request{From: reader.Start{Cursor: &at}}); !errors.Is(err, reader.ErrOtherView) {
		t.Errorf("a cursor of before the reset: %v", err)
	}
}

// A dataset without a stream is all guests.
func TestReadDataset(t *testing.T) {
	t.Parallel()
	e := newEnv(t, 1)
	stream := e.target
	e.target = reader.Target{Table: stream.Table}
	got, end := e.read(reader.Request{})
	e.want(got, nil)
	e.target.Schema = stream.Schema // for guestFile
	files := []dataset.DataFile{e.guestFile(run(2, 0, 0, 3)...), e.guestFile(guest{n: -1}, guest{n: -2})}
	e.target.Schema = nil
	e.join(files...)
	want := append(numbersOf(run(2, 0, 0, 3)), -1, -2)
	got, _ = e.read(reader.Request{From: reader.Start{Cursor: &end}})
	e.want(got, want)
	got, end = e.read(reader.Request{Limit: 4})
	e.want(got, want[:4])
	again, err := reader.ParseCursor(end.String())
	if err != nil {
		t.Fatal(err)
	}
	got, end = e.read(reader.Request{From: reader.Start{Cursor: &again}})
	e.want(got, want[4:])
	if got, _ = e.read(reader.Request{From: reader.Start{Cursor: &end}}); len(got) != 0 {
		t.Errorf("rows behind the end: %v", got)
	}
	got, _ = e.read(reader.Request{Where: "_view = 0", Columns: []string{"n", schema.ViewColumn}})
	e.want(got, want[3:])
	if _, err := e.r.Tail(t.Context(), e.target, reader.Request{}); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("tail: %v", err)
	}
}
