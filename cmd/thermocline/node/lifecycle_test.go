package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/writer"
)

func same(s catalog.Settings) catalog.Settings { return s }

// Publishers, resets and archives at once: every acknowledged row is in exactly
// one view, those acknowledged before a reset in an older one than those sent
// after it, and every older view's rows are in the dataset's history.
func TestResetsLoseNoAcknowledgedRow(t *testing.T) {
	t.Parallel()
	for _, kind := range []catalog.StreamType{catalog.LowLatency, catalog.HighThroughput} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			w := newWorldWith(t, catalog.Settings{Type: kind, Partitions: 2}, Options{})
			var (
				stop    atomic.Bool
				resets  atomic.Int64 // finished ones
				mu      sync.Mutex
				acked   = map[int64][2]int64{} // n → finished resets before it was sent, begun ones when it was acknowledged
				begun   atomic.Int64
				workers sync.WaitGroup
				next    atomic.Int64
			)
			for range 8 {
				workers.Go(func() {
					for !stop.Load() {
						n, before := next.Add(1), resets.Load()
						_, err := w.node.writer.Publish(t.Context(), writer.Request{Stream: "s", Branch: "main", Format: writer.JSON, Body: fmt.Appendf(nil, `{"k":"a","n":%d}`, n)})
						if err != nil {
							t.Error(err)
							return
						}
						after := begun.Load()
						mu.Lock()
						acked[n] = [2]int64{before, after}
						mu.Unlock()
					}
				})
			}
			workers.Go(func() {
				for !stop.Load() {
					if err := w.tryArchive(); err != nil {
						t.Error(err)
						return
					}
				}
			})
			const count = 8
			for range count {
				time.Sleep(15 * time.Millisecond)
				begun.Add(1)
				w.reset()
				resets.Add(1)
			}
			stop.Store(true)
			workers.Wait()
			w.archive()
			found := map[int64]int64{} // n → view
			last := map[record.ViewNumber]int64{}
			for _, s := range w.table().Snapshots() {
				if s.Marker != nil && s.TotalRows > 0 {
					last[s.Marker.ViewNumber] = s.ID
				}
			}
			for view, id := range last {
				rows, err := w.rowsOf(id)
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range rows {
					if other, twice := found[n]; twice {
						t.Errorf("row %d is in views %d and %d, or twice", n, other, view)
					}
					found[n] = int64(view)
				}
			}
			for n, a := range acked {
				if view := found[n]; view < a[0]+1 || view > a[1]+1 {
					t.Errorf("row %d is in view %d; sent after reset %d, acknowledged before reset %d", n, view, a[0], a[1]+1)
				}
			}
			if len(acked) < count {
				t.Errorf("only %d rows", len(acked))
			}
			w.restart()
			if off, err := w.b.Archiver.Offsets(t.Context(), "s", "main"); err != nil || off.View != count+1 || off.Lag.Rows != 0 {
				t.Errorf("after a restart: %+v, %v", off, err)
			}
		})
	}
}

// A reset and a delete wait for appends under way; a publish that comes meanwhile
// waits for them.
func TestChangesWaitForAppends(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"reset", "delete", "evolve"} {
		b := &slowBuffer{begun: make(chan struct{}), resume: make(chan struct{})}
		w := newWorldWith(t, catalog.Settings{}, Options{seams: seams{buffer: func(real hotbuffer.Buffer) hotbuffer.Buffer { b.Buffer = real; return b }}})
		published := make(chan error, 2)
		publish := func() {
			_, err := w.node.writer.Publish(t.Context(), writer.Request{Stream: "s", Branch: "main", Format: writer.JSON, Body: []byte(`{"k":"a","n":1}`)})
			published <- err
		}
		go publish()
		<-b.begun
		changed := make(chan error, 1)
		go func() {
			var err error
			switch kind {
			case "reset":
				_, err = w.node.directory.Reset(t.Context(), "s", "main", nil, same)
			case "delete":
				err = w.node.directory.Delete(t.Context(), "s")
			case "evolve":
				_, err = w.node.directory.Evolve(t.Context(), "s", "main", mustParse(t, `{"fields":[{"name":"k","type":"STRING","nullable":false}]}`))
			}
			changed <- err
		}()
		select {
		case err := <-changed:
			t.Errorf("%s did not wait: %v", kind, err)
			changed <- err
		case <-time.After(50 * time.Millisecond):
		}
		close(b.resume)
		if err := errors.Join(<-published, <-changed); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if kind == "reset" {
			w.archive()
			if got := w.mostRows(1); got != 1 {
				t.Errorf("%d rows of the old view, want 1", got)
			}
		}
	}
}

// slowBuffer holds the first append until resume is closed.
type slowBuffer struct {
	hotbuffer.Buffer
	once   sync.Once
	begun  chan struct{}
	resume chan struct{}
}

func (b *slowBuffer) Append(ctx context.Context, v record.ViewID, a hotbuffer.Append) (hotbuffer.Appended, error) {
	b.once.Do(func() { close(b.begun) })
	<-b.resume
	return b.Buffer.Append(ctx, v, a)
}

// rowsOf returns n of every row in a version of the dataset.
func (w *world) rowsOf(snapshot int64) (all []int64, err error) {
	for b, err := range w.table().Scan(w.t.Context(), dataset.ScanOptions{SnapshotID: snapshot, Schema: w.state().Schema.WithSystem()}) {
		if err != nil {
			return nil, err
		}
		for _, r := range rowsOf(reader.Batch{Rows: b}) {
			all = append(all, r.n)
		}
	}
	return all, nil
}

// consistent checks that catalog, directory, hot buffer and dataset agree, now
// and after a restart, and that the stream can be used.
func (w *world) consistent() {
	w.t.Helper()
	for range 2 {
		page, err := w.node.catalog.ListStreams(w.t.Context(), catalog.StreamQuery{})
		if err != nil {
			w.t.Fatal(err)
		}
		states := w.node.directory.All()
		known := 0
		for _, s := range page.Streams {
			list, err := w.node.catalog.Branches(w.t.Context(), s.ID, 0, catalog.MaxPage)
			if err != nil {
				w.t.Fatal(err)
			}
			known += len(list)
		}
		if known != len(states) {
			w.t.Fatalf("the catalog has %d branches, the directory %d", known, len(states))
		}
		views := map[record.ViewID]bool{}
		for _, v := range w.node.directory.Views() {
			views[v] = true
		}
		foreign := func() bool {
			return slices.ContainsFunc(w.node.log.Views(), func(v record.ViewID) bool { return !views[v] })
		}
		if foreign() { // dropping it may have failed; then it is tried again
			ctx, cancel := context.WithCancel(w.t.Context())
			done := make(chan error)
			go func() { done <- w.node.directory.Run(ctx) }()
			eventually(w.t, "the drop of views that no branch has", func() bool { return !foreign() })
			cancel()
			if err := <-done; err != nil {
				w.t.Error(err)
			}
		}
		for _, st := range states {
			b, err := w.node.catalog.BranchByID(w.t.Context(), st.Branch.ID)
			if err != nil || b.Version != st.Branch.Version || b.View != st.Branch.View || b.SchemaID != st.Schema.ID {
				w.t.Fatalf("the catalog says %+v (%v), the directory %+v", b, err, st.Branch)
			}
			if _, err := w.node.datasets.Load(w.t.Context(), b.TableUUID); err != nil {
				w.t.Fatal(err)
			}
			if ends, err := w.node.log.Ends(b.View.ID); err != nil || len(ends.End) != b.View.Partitions {
				w.t.Fatalf("the hot buffer has %d partitions of %d, %v", len(ends.End), b.View.Partitions, err)
			}
		}
		w.restart()
	}
}

// Whatever fails behind or in a change of a branch: the directory does not go on
// with a state that has passed, publishing works, and so does the change when
// it is asked for again.
func TestChangesSurviveEveryFault(t *testing.T) {
	t.Parallel()
	changes := map[string]func(w *world, i int) error{
		"create": func(w *world, i int) error {
			_, err := w.node.directory.Create(w.t.Context(), fmt.Sprintf("t%d", i), mustParse(w.t, worldSchema), catalog.Settings{})
			return err
		},
		"settings": func(w *world, i int) error {
			_, err := w.node.directory.UpdateSettings(w.t.Context(), "s", "main", func(s catalog.Settings) catalog.Settings {
				s.Partitions = i + 1
				return s
			})
			return err
		},
		"evolve": func(w *world, i int) error {
			st := w.state()
			wide := st.Schema.Clone()
			wide.Fields = append(wide.Fields[:2:2], schema.Field{Name: fmt.Sprintf("x%d", i), Type: schema.Type{Kind: schema.Long}, Nullable: true})
			_, err := w.node.directory.Evolve(w.t.Context(), "s", "main", wide)
			return err
		},
		"reset": func(w *world, _ int) error {
			_, err := w.node.directory.Reset(w.t.Context(), "s", "main", nil, same)
			return err
		},
		"delete": func(w *world, i int) error {
			name := fmt.Sprintf("d%d", i)
			if _, err := w.node.directory.Resolve(name, "main"); errors.Is(err, record.ErrNotFound) {
				return nil
			}
			return w.node.directory.Delete(w.t.Context(), name)
		},
		"fork": func(w *world, i int) error {
			_, err := w.node.directory.CreateBranch(w.t.Context(), "s", branch.NewBranch{Name: fmt.Sprintf("b%d", i)})
			return err
		},
		"delete branch": func(w *world, i int) error {
			err := w.node.directory.DeleteBranch(w.t.Context(), "s", fmt.Sprintf("b%d", i), branch.DeleteBranch{})
			if errors.Is(err, record.ErrNotFound) && !errors.Is(err, errInjected) {
				return nil
			}
			return err
		},
		"policy": func(w *world, i int) error {
			_, err := w.node.directory.SetPolicy(w.t.Context(), "s", "main", func(p catalog.Policy) catalog.Policy {
				p.MinSnapshots = i
				return p
			})
			return err
		},
		"tag": func(w *world, i int) error {
			_, err := w.node.directory.CreateTag(w.t.Context(), "s", "main", fmt.Sprintf("t%d", i), 0)
			return err
		},
	}
	for name, change := range changes {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, lost %v", name, lost), func(t *testing.T) {
				t.Parallel()
				f := &faults{}
				w := newWorldWith(t, catalog.Settings{}, Options{seams: f.withCatalog()})
				for at := 1; ; at += stride {
					if name == "delete branch" {
						w.fork(fmt.Sprintf("b%d", at), branch.From{})
					}
					if name == "delete" {
						if _, err := w.node.directory.Create(t.Context(), fmt.Sprintf("d%d", at), mustParse(t, worldSchema), catalog.Settings{}); err != nil {
							t.Fatal(err)
						}
					}
					f.arm(at, lost, "")
					err := change(w, at)
					call := f.disarm()
					if call == "" {
						if err != nil {
							t.Fatal(err)
						}
						if at == 1 {
							t.Fatal("no call to fail")
						}
						break
					}
					if err != nil && !errors.Is(err, errInjected) {
						t.Fatalf("call %d, %s: %v", at, call, err)
					}
					w.publishBody(`{"k":"a","n":1}`)
					if err != nil {
						again := change(w, at)
						done := (name == "create" || name == "fork") && errors.Is(again, record.ErrExists) || name == "delete" && errors.Is(again, record.ErrNotFound)
						if again != nil && !done {
							t.Fatalf("call %d, %s, asked again: %v", at, call, again)
						}
					}
					if name == "reset" {
						w.archive()
					}
					w.consistent()
					w.publishBody(`{"k":"a","n":2}`)
					if name == "fork" { // or each round is dearer than the one before
						if err := w.node.directory.DeleteBranch(t.Context(), "s", fmt.Sprintf("b%d", at), branch.DeleteBranch{}); err != nil && !errors.Is(err, record.ErrNotFound) {
							t.Fatal(err)
						}
					}
				}
				w.archive()
				w.audit()
			})
		}
	}
}

// Clients that go away in the middle of a change, at any moment, leave nothing
// that does not fit together.
func TestChangesSurviveImpatience(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	noise := rand.New(rand.NewPCG(3, 4))
	made, gone := 0, 0
	for i := range 120 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(noise.IntN(4000))*time.Microsecond)
		var err error
		switch i % 4 {
		case 0:
			_, err = w.node.directory.Reset(ctx, "s", "main", nil, same)
		case 1:
			_, err = w.node.directory.UpdateSettings(ctx, "s", "main", func(s catalog.Settings) catalog.Settings { s.Partitions++; return s })
		case 2:
			_, err = w.node.directory.Create(ctx, fmt.Sprintf("t%d", i), mustParse(t, worldSchema), catalog.Settings{})
		case 3:
			if err = w.node.directory.Delete(ctx, fmt.Sprintf("t%d", i-1)); errors.Is(err, record.ErrNotFound) {
				err = nil
			}
		}
		cancel()
		if err == nil {
			made++
		} else if gone++; !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		w.publishBody(`{"k":"a","n":1}`)
		if i%20 == 19 {
			w.archive()
			w.consistent()
		}
	}
	if made == 0 || gone == 0 {
		t.Errorf("%d changes were made, %d were not", made, gone)
	}
}

// A branch that was changed behind the directory's back is read anew: the first
// change is refused, the next one works.
func TestConflictsAreReadAnew(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	w.publish(1)
	b := w.state().Branch
	b, err := w.node.catalog.ResetBranch(t.Context(), b.ID, b.Version, catalog.Reset{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.node.directory.Reset(t.Context(), "s", "main", nil, same)
	if !errors.Is(err, record.ErrConflict) {
		t.Fatalf("%v, want ErrConflict", err)
	}
	st := w.state()
	if st.Branch.View.ID != b.View.ID || len(st.Draining) != 1 {
		t.Fatalf("the directory has %+v, draining %v", st.Branch, st.Draining)
	}
	w.next = 0
	w.publish(5)
	w.archived()
	if _, err := w.node.directory.Reset(t.Context(), "s", "main", nil, same); err != nil {
		t.Fatal(err)
	}
}

// While a reset that was made could not be followed, nothing is published into
// the old view; as soon as it can be, all goes on by itself.
func TestHalfAResetTakesNoRows(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	w := newWorldWith(t, catalog.Settings{}, Options{seams: seams{buffer: func(b hotbuffer.Buffer) hotbuffer.Buffer { return unopenable{b, &broken} }}})
	w.publish(5)
	broken.Store(true)
	if _, err := w.node.directory.Reset(t.Context(), "s", "main", nil, same); !errors.Is(err, errInjected) {
		t.Fatalf("%v", err)
	}
	if _, err := w.node.writer.Publish(t.Context(), writer.Request{Stream: "s", Branch: "main", Format: writer.JSON, Body: []byte(`{"k":"a","n":9}`)}); !errors.Is(err, errInjected) {
		t.Fatalf("a publish meanwhile: %v", err)
	}
	broken.Store(false)
	w.next = 0
	w.publish(3)
	w.archived()
	if got := w.mostRows(1); got != 5 {
		t.Errorf("%d rows of the old view, want 5", got)
	}

	// Without anybody asking, too.
	broken.Store(true)
	if _, err := w.node.directory.Reset(t.Context(), "s", "main", nil, same); !errors.Is(err, errInjected) {
		t.Fatalf("%v", err)
	}
	broken.Store(false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.node.directory.Run(ctx) }()
	eventually(t, "the reset", func() bool { return w.state().Branch.View.Number == 3 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// unopenable opens no view while it is broken.
type unopenable struct {
	hotbuffer.Buffer
	broken *atomic.Bool
}

func (b unopenable) Open(ctx context.Context, v record.ViewID, s hotbuffer.Settings) error {
	if b.broken.Load() {
		return errInjected
	}
	return b.Buffer.Open(ctx, v, s)
}

// Settings reach the hot buffer at once.
func TestSettingsApply(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	w.publish(10)
	stats := func() hotbuffer.Stats {
		s, err := w.node.log.Stats(w.view())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := stats(); sum(s.LingerSeconds.Counts) != 0 {
		t.Errorf("%d lingered at low latency", sum(s.LingerSeconds.Counts))
	}
	yes, partitions, kind, keys := true, 4, hotbuffer.HighThroughput, []string{"k"}
	got, err := w.b.Streams.UpdateSettings(t.Context(), "s", "main", api.SettingsPatch{Compressed: &yes, Partitions: &partitions, Type: &kind, KeyFields: &keys})
	if err != nil {
		t.Fatal(err)
	}
	if !got.Compressed || got.Partitions != 4 || got.Type != kind || len(got.KeyFields) != 1 {
		t.Errorf("%+v", got)
	}
	before := stats()
	w.publish(2000)
	after := stats()
	if sum(after.LingerSeconds.Counts) == 0 {
		t.Error("nothing lingered at high throughput")
	}
	if stored, raw := after.StoredBytes-before.StoredBytes, after.Bytes-before.Bytes; stored > raw*3/4 {
		t.Errorf("%d bytes are stored in %d", raw, stored)
	}
	ends, err := w.node.log.Ends(w.view())
	if err != nil || len(ends.End) != 4 || ends.End.At(1)+ends.End.At(2)+ends.End.At(3) == 0 {
		t.Errorf("ends %+v, %v", ends, err)
	}
	w.restart()
	w.archived()
	if s := w.state().Branch.Settings; s.Partitions != 4 || !s.Compressed {
		t.Errorf("after a restart: %+v", s)
	}
}

func sum(counts []uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// What cannot be is refused, named, and changes nothing.
func TestBadChangesAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{Partitions: 3, KeyFields: []string{"k"}}, Options{})
	ctx := t.Context()
	update := func(edit func(*catalog.Settings)) func() error {
		return func() error {
			_, err := w.node.directory.UpdateSettings(ctx, "s", "main", func(s catalog.Settings) catalog.Settings { edit(&s); return s })
			return err
		}
	}
	create := func(name, text string, s catalog.Settings) func() error {
		return func() error {
			sc, err := schema.Parse([]byte(text))
			if err == nil {
				_, err = w.node.directory.Create(ctx, name, sc, s)
			}
			return err
		}
	}
	const list = `{"fields":[{"name":"l","type":"ARRAY","element":{"type":"LONG"}}]}`
	for what, c := range map[string]struct {
		do   func() error
		want error
		says string
	}{
		"fewer partitions":      {update(func(s *catalog.Settings) { s.Partitions = 2 }), record.ErrInvalid, "reset"},
		"too many partitions":   {update(func(s *catalog.Settings) { s.Partitions = 100_000 }), record.ErrInvalid, "partitions"},
		"an unknown key field":  {update(func(s *catalog.Settings) { s.KeyFields = []string{"nope"} }), record.ErrInvalid, "nope"},
		"a key that is a list":  {create("x", list, catalog.Settings{KeyFields: []string{"l"}}), record.ErrInvalid, "l"},
		"an interval too short": {update(func(s *catalog.Settings) { s.ArchiveInterval = time.Millisecond }), record.ErrInvalid, "archiveInterval"},
		"a bad format":          {update(func(s *catalog.Settings) { s.DatasetFormat = "ORC" }), record.ErrInvalid, "ORC"},
		"a bad type":            {update(func(s *catalog.Settings) { s.Type = "FAST" }), record.ErrInvalid, "FAST"},
		"a bad name":            {create("a b", worldSchema, catalog.Settings{}), record.ErrInvalid, "a b"},
		"a bad namespace":       {create("a.b.c", worldSchema, catalog.Settings{}), record.ErrInvalid, ""},
		"a name that is taken":  {create("s", worldSchema, catalog.Settings{}), record.ErrExists, "default.s"},
		"an empty name":         {create("", worldSchema, catalog.Settings{}), record.ErrInvalid, ""},
		"no schema":             {func() error { _, err := w.node.directory.Create(ctx, "x", nil, catalog.Settings{}); return err }, record.ErrInvalid, "schema"},
		"a key field dropped": {func() error {
			_, err := w.node.directory.Evolve(ctx, "s", "main", mustParse(t, `{"fields":[{"name":"n","type":"LONG","nullable":false}]}`))
			return err
		}, record.ErrInvalid, "keyFields"},
		"a type changed": {func() error {
			_, err := w.node.directory.Evolve(ctx, "s", "main", mustParse(t, `{"fields":[{"name":"k","type":"LONG"}]}`))
			return err
		}, record.ErrInvalid, "reset"},
		"a reset without the key": {func() error {
			_, err := w.node.directory.Reset(ctx, "s", "main", mustParse(t, `{"fields":[{"name":"z","type":"LONG"}]}`), same)
			return err
		}, record.ErrInvalid, "k"},
		"an unknown stream": {func() error { return w.node.directory.Delete(ctx, "nope") }, record.ErrNotFound, "nope"},
		"an unknown branch": {func() error {
			_, err := w.node.directory.Evolve(ctx, "s", "exp", mustParse(t, worldSchema))
			return err
		}, record.ErrNotFound, "exp"},
	} {
		before := w.state()
		err := c.do()
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %v and %q in it", what, err, c.want, c.says)
		}
		if w.state().Branch.Version != before.Branch.Version {
			t.Errorf("%s changed the branch", what)
		}
	}
	// A reset may have fewer.
	if _, err := w.node.directory.Reset(ctx, "s", "main", nil, func(s catalog.Settings) catalog.Settings { s.Partitions = 1; return s }); err != nil {
		t.Error(err)
	}
	w.consistent()
}

// Resets that nobody archives are bounded.
func TestDrainingViewsAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	w.publish(1)
	var err error
	resets := 0
	for ; err == nil && resets < 1000; resets++ {
		_, err = w.node.directory.Reset(t.Context(), "s", "main", nil, same)
	}
	if !errors.Is(err, record.ErrBusy) {
		t.Fatalf("after %d resets: %v, want ErrBusy", resets, err)
	}
	w.next = 0
	w.publish(4)
	w.archived()
	if v := w.node.log.Views(); len(v) != 1 {
		t.Errorf("the hot buffer holds %d views", len(v))
	}
	w.reset()
}

// Files of a deleted stream go after their grace, a live one's never, and one
// table that cannot be deleted does not keep the others.
func TestTrash(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	var held atomic.Value
	held.Store("")
	o := Options{seams: seams{branch: func(o *branch.Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		o.TrashGrace = time.Hour
		o.Files = heldFiles{o.Files, &held}
	}}}
	w := newWorldWith(t, catalog.Settings{}, o)
	w.publish(10)
	w.archive()
	deleted := []string{w.state().Branch.TableUUID}
	w.recreate(catalog.Settings{})
	w.publish(10)
	w.archive()
	deleted = append(deleted, w.state().Branch.TableUUID)
	held.Store(deleted[0])
	w.recreate(catalog.Settings{})
	w.publish(10)
	w.archive()
	files := func(table string) (n int) {
		for _, err := range w.store().List(t.Context(), table+"/") {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	run := func(until func() bool) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.node.directory.Run(ctx) }()
		eventually(t, "the trash to be looked at", until)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	looked := func() bool {
		due, err := w.node.catalog.TrashDue(t.Context(), time.Now(), 10)
		return err == nil && len(due) == 0
	}
	run(looked)
	for _, table := range deleted {
		if files(table) == 0 {
			t.Error("files went before their grace was over")
		}
	}
	ahead.Store(int64(2 * time.Hour))
	run(func() bool { return files(deleted[1]) == 0 })
	if files(deleted[0]) == 0 {
		t.Error("the table that was held is gone")
	}
	held.Store("")
	run(func() bool {
		due, err := w.node.catalog.TrashDue(t.Context(), time.Now().Add(24*time.Hour), 10)
		return err == nil && len(due) == 0
	})
	if files(deleted[0]) != 0 {
		t.Error("files of the deleted table are left")
	}
	live := w.state().Branch.TableUUID
	if _, err := w.node.datasets.Purge(t.Context(), live, time.Hour); !errors.Is(err, record.ErrConflict) {
		t.Errorf("purge of a live table: %v", err)
	}
	w.whole()
}

type heldFiles struct {
	branch.Files
	held *atomic.Value
}

func (f heldFiles) Purge(ctx context.Context, table string, grace time.Duration) (int, error) {
	if table == f.held.Load() {
		return 0, errInjected
	}
	return f.Files.Purge(ctx, table, grace)
}
