package dataset_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// clock is set by tests.
type clock struct{ ms int64 }

func (c *clock) now() time.Time       { return time.UnixMilli(c.ms) }
func (c *clock) pass(d time.Duration) { c.ms += d.Milliseconds() }
func (e *env) on(c *clock) *dataset.Datasets {
	return dataset.New(e.store, e.pointers, dataset.Options{Now: c.now})
}

// unit is the time between commits. The library stamps metadata without a
// snapshot with its own clock and lets commits be a minute ahead of it, no more.
const unit = 5 * time.Second

// timed is an env whose commits are a unit apart.
func timed(t *testing.T, commits int) (*env, *clock) {
	t.Helper()
	e, c := newMemEnv(t), &clock{ms: time.Now().UnixMilli()}
	e.d = e.on(c)
	e.create(numbers())
	for o := range record.Offset(commits) {
		c.pass(unit)
		e.addNumbers(o*10, o*10+10)
	}
	return e, c
}

func (e *env) expire(o dataset.ExpireOptions) dataset.Expiry {
	e.t.Helper()
	x, err := e.d.Expire(e.t.Context(), e.id, o)
	if err != nil {
		e.t.Fatal(err)
	}
	return x
}

func (e *env) collect(o dataset.CollectOptions) dataset.Collection {
	e.t.Helper()
	c, err := e.d.Collect(e.t.Context(), e.id, o)
	if err != nil {
		e.t.Fatal(err)
	}
	return c
}

func TestExpireByAgeAndCount(t *testing.T) {
	t.Parallel()
	e, c := timed(t, 10)
	c.pass(unit / 2)
	ids := func() (out []int64) {
		for _, s := range e.load().Snapshots() {
			out = append(out, s.ID)
		}
		return out
	}
	all := ids()
	// The versions ceased to be the head 8½, 7½, …, ½ units ago.
	if x := e.expire(dataset.ExpireOptions{MaxAge: 3 * unit, DryRun: true}); !slices.Equal(x.Expired, all[:6]) || x.Kept != 4 {
		t.Errorf("a dry run: %+v", x)
	}
	if x := e.expire(dataset.ExpireOptions{}); len(x.Expired) != 0 {
		t.Errorf("younger than the default: %+v", x)
	}
	if x := e.expire(dataset.ExpireOptions{MaxAge: 3 * unit, KeepLast: 8}); !slices.Equal(x.Expired, all[:2]) || x.Kept != 8 {
		t.Errorf("by count: %+v", x)
	}
	if x := e.expire(dataset.ExpireOptions{MaxAge: 3 * unit}); !slices.Equal(x.Expired, all[2:6]) {
		t.Errorf("by age: %+v", x)
	}
	if got := ids(); !slices.Equal(got, all[6:]) {
		t.Errorf("%d snapshots are left", len(got))
	}
	_, err := scanRows(t.Context(), e.load(), dataset.ScanOptions{SnapshotID: all[0]})
	wantIs(t, err, record.ErrNotFound)
	// The head stays, whatever is asked for, with all rows and the marker.
	if x := e.expire(dataset.ExpireOptions{MaxAge: 1}); x.Kept != 1 {
		t.Errorf("all: %+v", x)
	}
	e.wantOffsets(e.load(), 100)
	e.addNumbers(100, 110)
	e.wantOffsets(e.load(), 110)
	_, err = e.d.Expire(t.Context(), e.id, dataset.ExpireOptions{MaxAge: -1})
	wantIs(t, err, record.ErrInvalid)
}

// Tags, and the newest marker below other engines' commits, stay.
func TestExpireKeepsRefsAndTheMarker(t *testing.T) {
	t.Parallel()
	e, c := timed(t, 5)
	tagged := e.load().Snapshots()[1].ID
	tag := table.NewSetSnapshotRefUpdate("release", tagged, table.TagRef, 0, 0, 0)
	if _, _, err := (foreign{e}).CommitTable(t.Context(), nil, nil, []table.Update{tag}); err != nil {
		t.Fatal(err)
	}
	for i := range int64(3) {
		foreign{e}.append(-i)
	}
	c.ms = time.Now().Add(time.Hour).UnixMilli()
	x := e.expire(dataset.ExpireOptions{MaxAge: 1})
	if x.Kept != 3 {
		t.Errorf("%+v, want the head, the tag and the marker to be kept", x)
	}
	now := e.load()
	if m, err := now.Marker(); err != nil || !m.Offsets.Equal(record.Offsets{50}) {
		t.Errorf("marker %+v, %v", m, err)
	}
	if n := len(e.rows(now, dataset.ScanOptions{SnapshotID: tagged})); n != 20 {
		t.Errorf("the tagged version has %d rows", n)
	}
	if _, ok := now.Snapshot(tagged); !ok {
		t.Error("the tagged version is gone")
	}
}

// A flush and an expiry at the same time: both land.
func TestExpireBesideFlush(t *testing.T) {
	t.Parallel()
	e, c := timed(t, 5)
	c.pass(unit)
	first := firstTime()
	e.pointers.beforeSwap = func(_, _, _ string) error {
		if !first() {
			return nil
		}
		return round(&env{t: t, store: e.store, pointers: e.pointers, d: e.on(c), id: e.id}, 50, 60)
	}
	e.expire(dataset.ExpireOptions{MaxAge: unit})
	e.wantOffsets(e.load(), 60)
	if n := len(e.load().Snapshots()); n != 2 {
		t.Errorf("%d snapshots, want the head and the one that it replaced just now", n)
	}
}

// TestCollect: what nothing reaches goes after the grace and not before, all
// else stays; older versions are readable until they expire.
func TestCollect(t *testing.T) {
	t.Parallel()
	e, c := timed(t, 8)
	want := e.rows(e.load(), dataset.ScanOptions{})
	orphan := e.file(e.load(), numbers(), fileName(0, 80, 90), numberBatch(numbers(), 0, 80, 90)) // of a failed commit
	if err := objstore.Put(t.Context(), e.store, e.id+"/metadata/lost-m0.avro", []byte("lost")); err != nil {
		t.Fatal(err)
	}
	c.pass(unit)
	x := e.collect(dataset.CollectOptions{DryRun: true})
	if len(x.Orphans) != 2 || x.Deleted != 0 || !strings.HasSuffix(orphan.Path(), x.Orphans[0].Key) {
		t.Errorf("a dry run: %+v", x)
	}
	for range 3 { // dry runs remember nothing, and the first one only notes
		x = e.collect(dataset.CollectOptions{Grace: unit})
		if x.Deleted != 0 || len(x.Orphans) != 2 {
			t.Fatalf("before the grace: %+v", x)
		}
	}
	e.compactAll(dataset.CompactOptions{})
	if x = e.collect(dataset.CollectOptions{Grace: unit}); len(x.Orphans) != 2 {
		t.Errorf("compacted files are collected before their snapshots expire: %+v", x)
	}
	c.pass(unit / 2)
	reader := e.load() // at work on the versions before
	old := reader.Snapshots()[7].ID
	e.expire(dataset.ExpireOptions{MaxAge: 1})
	x = e.collect(dataset.CollectOptions{Grace: unit})
	if x.Deleted != 0 || len(x.Orphans) < 2+8+8 {
		t.Errorf("after the expiry: %d orphans, %d deleted", len(x.Orphans), x.Deleted)
	}
	c.pass(unit / 2)
	x = e.collect(dataset.CollectOptions{Grace: unit})
	if x.Deleted != 2 || x.DeletedBytes != orphan.Bytes()+4 {
		t.Errorf("the first two are due: %d deleted, %d bytes", x.Deleted, x.DeletedBytes)
	}
	wantRows(t, e.rows(reader, dataset.ScanOptions{SnapshotID: old}), want)
	c.pass(unit / 2)
	dry := e.collect(dataset.CollectOptions{Grace: unit, DryRun: true})
	x = e.collect(dataset.CollectOptions{Grace: unit})
	if x.Deleted < 8+8 || x.Deleted != dry.Deleted || x.DeletedBytes != dry.DeletedBytes {
		t.Errorf("after the grace: %d deleted, a dry run said %d", x.Deleted, dry.Deleted)
	}
	wantRows(t, e.rows(e.load(), dataset.ScanOptions{}), want)
	if x = e.collect(dataset.CollectOptions{}); len(x.Orphans) != 0 {
		t.Errorf("still there: %+v", x.Orphans)
	}
	for o := range e.store.List(t.Context(), "gc/") {
		t.Errorf("a ledger of nothing: %s", o.Key)
	}
	data := 0
	for range e.store.List(t.Context(), e.id+"/data/") {
		data++
	}
	if data != 1 {
		t.Errorf("%d data files, want 1", data)
	}
}

// A branch is another pointer over the same files: what it reaches stays, also
// when the table that wrote it has moved on.
func TestCollectKeepsBranches(t *testing.T) {
	t.Parallel()
	e, c := timed(t, 6)
	branch := uuid.NewString()
	if err := e.pointers.CreateTablePointer(t.Context(), branch, e.load().MetadataLocation()); err != nil {
		t.Fatal(err)
	}
	e.compactAll(dataset.CompactOptions{})
	c.pass(unit)
	e.commit(dataset.Commit{RemoveAll: true})
	c.pass(unit)
	e.expire(dataset.ExpireOptions{MaxAge: 1})
	for range 4 {
		e.collect(dataset.CollectOptions{Grace: unit / 2})
		c.pass(unit)
	}
	e.wantOffsets(e.load(), 0)
	other, err := e.other().Load(t.Context(), branch)
	if err != nil {
		t.Fatal(err)
	}
	e.wantOffsets(other, 60)
	// Damage to the branch's metadata stops the collection.
	junk := e.id + "/data/junk.parquet"
	if err := objstore.Put(t.Context(), e.store, junk, []byte("junk")); err != nil {
		t.Fatal(err)
	}
	e.collect(dataset.CollectOptions{Grace: unit / 2})
	c.pass(unit)
	e.d = e.on(c) // nothing cached
	key, good := e.object(other.MetadataLocation())
	e.replace(key, good[1:])
	_, err = e.d.Collect(t.Context(), e.id, dataset.CollectOptions{Grace: unit / 2})
	wantIs(t, err, record.ErrCorrupt)
	e.replace(key, good)
	if x := e.collect(dataset.CollectOptions{Grace: unit / 2}); x.Deleted != 1 {
		t.Errorf("%+v", x)
	}
	// Without a pointer nothing is an orphan.
	_, err = e.d.Collect(t.Context(), uuid.NewString(), dataset.CollectOptions{})
	wantIs(t, err, record.ErrNotFound)
}

// A damaged ledger only delays.
func TestDamagedLedger(t *testing.T) {
	t.Parallel()
	e, c := timed(t, 2)
	if err := objstore.Put(t.Context(), e.store, e.id+"/data/junk.parquet", []byte("junk")); err != nil {
		t.Fatal(err)
	}
	e.collect(dataset.CollectOptions{})
	var ledger string
	for o := range e.store.List(t.Context(), "gc/"+e.id+"/") {
		ledger = o.Key
	}
	data, err := objstore.Get(t.Context(), e.store, ledger, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	e.replace(ledger, []byte(strings.Replace(string(data), `:1`, `:0`, 1)))
	c.pass(30 * time.Hour)
	if x := e.collect(dataset.CollectOptions{}); x.Deleted != 0 {
		t.Errorf("believed a damaged ledger: %+v", x)
	}
	c.pass(25 * time.Hour)
	if x := e.collect(dataset.CollectOptions{}); x.Deleted != 1 {
		t.Errorf("%+v", x)
	}
}

// TestCollectCrashAtEveryStep fails each file operation of compaction, expiry
// and collection in turn and cuts the power there: no row is lost, and what
// was garbage is collected in the end.
func TestCollectCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	base := newCrashBase(t, 4)
	c := &clock{}
	tend := func(e *env) error {
		_, err1 := e.d.Compact(t.Context(), e.id, dataset.CompactOptions{})
		late := e.on(c)
		_, err2 := late.Expire(t.Context(), e.id, dataset.ExpireOptions{MaxAge: 1})
		_, err3 := late.Collect(t.Context(), e.id, dataset.CollectOptions{Grace: time.Minute})
		c.pass(time.Hour)
		_, err4 := late.Collect(t.Context(), e.id, dataset.CollectOptions{Grace: time.Minute})
		return errors.Join(err1, err2, err3, err4)
	}
	for at := 1; ; at++ {
		c.ms = time.Now().Add(time.Hour).UnixMilli()
		e, crashed, failed := base.point(t, at, tend)
		e.wantOffsets(e.load(), 40)
		crashed.wantOffsets(crashed.load(), 40)
		if err := tend(crashed); err != nil {
			t.Fatalf("operation %d, after the restart: %v", at, err)
		}
		crashed.wantOffsets(crashed.load(), 40)
		left := []string{}
		for o := range crashed.store.List(t.Context(), "") {
			if strings.Contains(o.Key, "/data/") || strings.HasPrefix(o.Key, "gc/") {
				left = append(left, o.Key)
			}
		}
		if len(left) != 1 {
			t.Fatalf("operation %d: %v are left, want one data file", at, left)
		}
		if !failed {
			t.Logf("%d operations", at-1)
			if at < 40 {
				t.Fatalf("only %d operations; the sweep misses steps", at)
			}
			t.Logf("sweep: %s: %d crashes at a file operation of compaction, expiry and collection", t.Name(), at-1)
			return
		}
	}
}
