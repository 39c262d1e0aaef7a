package dataset_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/apache/iceberg-go"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

func (e *env) compact(o dataset.CompactOptions) dataset.Compaction {
	e.t.Helper()
	c, err := e.d.Compact(e.t.Context(), e.id, o)
	if err != nil {
		e.t.Fatal(err)
	}
	return c
}

// compactAll compacts until nothing is left to do.
func (e *env) compactAll(o dataset.CompactOptions) (replaced int) {
	e.t.Helper()
	for range 100 {
		c := e.compact(o)
		if c.Files == 0 {
			return replaced
		}
		replaced += c.Files
	}
	e.t.Fatal("compaction does not end")
	return 0
}

func (e *env) files(t *dataset.Table) []dataset.FileInfo {
	e.t.Helper()
	var out []dataset.FileInfo
	for f, err := range t.Files(e.t.Context(), 0) {
		if err != nil {
			e.t.Fatal(err)
		}
		out = append(out, f)
	}
	return out
}

// TestCompactKeepsEverything: rows of all types, their order, the system
// columns and the marker are the same before and after, also in the formats'
// mix and with rows of many partitions; older snapshots stay readable.
func TestCompactKeepsEverything(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			e := newMemEnv(t)
			s := allTypes()
			table := e.create(s)
			r := rand.New(rand.NewPCG(seed, 7))
			at := 0
			flush := func() {
				var files []dataset.DataFile
				for range 1 + r.IntN(2) {
					n := 1 + r.IntN(20)
					b := randomBatch(r, s, at, n)
					name := fileName(0, record.Offset(at), record.Offset(at+n))
					if seed == 1 { // more partitions than a name lists
						for p := range record.Partition(9) {
							name.Ranges = append(name.Ranges, dataset.PartRange{Partition: p + 1, Range: record.Range{Start: record.Offset(at), End: record.Offset(at + n)}})
						}
					}
					format := []dataset.Format{dataset.Parquet, dataset.Avro}[r.IntN(2)]
					files = append(files, e.fileAs(format, table, s, name, b))
					b.Release()
					at += n
				}
				e.commit(dataset.Commit{Add: files, Marker: marker(record.Offset(at))})
			}
			for range 20 {
				flush()
			}
			old := e.load()
			want, wantFiles := e.rows(old, dataset.ScanOptions{}), len(e.files(old))
			format := []dataset.Format{dataset.Parquet, dataset.Avro, dataset.Parquet}[seed]
			if n := e.compactAll(dataset.CompactOptions{Schema: s, Format: format}); n < wantFiles {
				t.Errorf("%d files were replaced, want %d", n, wantFiles)
			}
			now := e.load()
			wantRows(t, e.rows(now, dataset.ScanOptions{}), want)
			files := e.files(now)
			if len(files) != 1 || files[0].View != 2 || files[0].Rows != int64(at) {
				t.Errorf("%d files: %+v", len(files), files)
			}
			if seed != 1 && (len(files[0].Ranges) != 1 || files[0].Ranges[0].Range != (record.Range{Start: 0, End: record.Offset(at)})) {
				t.Errorf("ranges %v", files[0].Ranges)
			}
			head, _ := now.Head()
			if head.Operation != "replace" || head.TotalRows != int64(at) || head.TotalFiles != 1 || head.AddedRows != int64(at) || head.RemovedRows != int64(at) {
				t.Errorf("snapshot %+v", head)
			}
			before, err1 := old.Marker()
			after, err2 := now.Marker()
			if err1 != nil || err2 != nil || !after.Offsets.Equal(before.Offsets) || after.View != before.View || after.Epoch != before.Epoch ||
				after.ValidThroughMs != before.ValidThroughMs || after.Cluster != before.Cluster {
				t.Fatalf("marker %+v (%v), before %+v (%v)", after, err2, before, err1)
			}
			if after.SnapshotID != head.ID {
				t.Error("the marker was not carried on")
			}
			if err := now.CheckFile(t.Context(), files[0]); err != nil {
				t.Error(err)
			}
			// The versions before are still there.
			was, _ := old.Head()
			wantRows(t, e.rows(now, dataset.ScanOptions{SnapshotID: was.ID}), want)
			// And the next archive goes on.
			flush()
			rows := e.rows(e.load(), dataset.ScanOptions{})
			wantRows(t, rows[:len(want)], want)
			if len(rows) != at {
				t.Errorf("%d rows, want %d", len(rows), at)
			}
		})
	}
}

// Rows of the stream's view keep their order across the commits of other engines,
// whose rows keep their place between the commits; their files are left alone.
func TestCompactAmongForeignCommits(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(numbers())
	o := record.Offset(0)
	flush := func(n int) {
		for range n {
			e.addNumbers(o, o+10)
			o += 10
		}
	}
	flush(5)
	foreign{e}.append(-1, -2)
	flush(6)
	foreign{e}.append(-3)
	flush(3)
	places := func() (own, guests []string) {
		files, err := e.load().FileRows(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := range files.Len() {
			for b, err := range files.Rows(t.Context(), i, dataset.ScanOptions{}) {
				if err != nil {
					t.Fatal(err)
				}
				if files.File(i).View == 2 {
					own = append(own, render(b)...)
				} else {
					guests = append(guests, fmt.Sprintf("%d %v", files.File(i).Sequence, render(b)))
				}
			}
		}
		return own, guests
	}
	wantOwn, wantGuests := places()
	want := e.rows(e.load(), dataset.ScanOptions{})
	if n := e.compactAll(dataset.CompactOptions{}); n != 14 {
		t.Errorf("%d files were replaced, want 14", n)
	}
	own, guests := places()
	wantRows(t, own, wantOwn)
	wantRows(t, guests, wantGuests)
	if n := len(e.files(e.load())); n != 3 {
		t.Errorf("%d files are left, want 1 and two foreign ones", n)
	}
	// Another engine sees the same rows.
	rows, err := foreign{e}.table().Scan().ToArrowTable(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Release()
	if int(rows.NumRows()) != len(want) {
		t.Errorf("another engine reads %d rows, want %d", rows.NumRows(), len(want))
	}
}

// Rows that another engine deleted stay deleted.
func TestCompactAppliesDeletes(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	if _, err := e.d.Create(t.Context(), e.id, numbers(), map[string]string{"write.delete.mode": "merge-on-read"}); err != nil {
		t.Fatal(err)
	}
	for o := record.Offset(0); o < 100; o += 10 {
		e.addNumbers(o, o+10)
	}
	txn := foreign{e}.table().NewTransaction()
	if err := txn.Delete(t.Context(), iceberg.LessThan(iceberg.Reference("n"), int64(250)), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.addNumbers(100, 110)
	want := e.rows(e.load(), dataset.ScanOptions{})
	if len(want) != 85 {
		t.Fatalf("%d rows", len(want))
	}
	e.compactAll(dataset.CompactOptions{})
	wantRows(t, e.rows(e.load(), dataset.ScanOptions{}), want)
	if n := len(e.files(e.load())); n != 1 {
		t.Errorf("%d files", n)
	}
}

// Old rows get the defaults that they are read with.
func TestCompactFillsDefaults(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(numbers())
	for o := record.Offset(0); o < 50; o += 10 {
		e.addNumbers(o, o+10)
	}
	s := &schema.Schema{Fields: []schema.Field{withDefault(field(6, "kind", schema.String), `"quake"`), numbers().Fields[0]}}
	_, err := e.d.Compact(t.Context(), e.id, dataset.CompactOptions{Schema: s})
	wantIs(t, err, record.ErrConflict)
	if _, err := e.d.SetSchema(t.Context(), e.id, s); err != nil {
		t.Fatal(err)
	}
	want := e.rows(e.load(), dataset.ScanOptions{Schema: s.WithSystem()})
	if c := e.compact(dataset.CompactOptions{Schema: s}); c.Files != 5 || c.Rows != 50 {
		t.Errorf("%+v", c)
	}
	wantRows(t, e.rows(e.load(), dataset.ScanOptions{Schema: s.WithSystem()}), want)
	_, err = e.d.Compact(t.Context(), e.id, dataset.CompactOptions{TargetBytes: 1 << 20})
	wantIs(t, err, record.ErrInvalid)
}

// A flush that lands while a compaction commits, and the other way round: both
// are in the table after one more attempt.
func TestCompactBesideFlush(t *testing.T) {
	t.Parallel()
	for _, order := range []string{"flush first", "compaction first"} {
		e := newMemEnv(t)
		e.create(numbers())
		for o := record.Offset(0); o < 50; o += 10 {
			e.addNumbers(o, o+10)
		}
		first, swaps := firstTime(), 0
		e.pointers.beforeSwap = func(_, _, _ string) error {
			swaps++
			if !first() {
				return nil
			}
			if order == "flush first" {
				return round(&env{t: t, store: e.store, pointers: e.pointers, d: e.other(), id: e.id}, 50, 60)
			}
			_, err := e.other().Compact(t.Context(), e.id, dataset.CompactOptions{})
			return err
		}
		if order == "flush first" {
			e.compact(dataset.CompactOptions{})
		} else if err := round(e, 50, 60); err != nil {
			t.Fatal(err)
		}
		if swaps != 3 {
			t.Errorf("%s: %d swaps, want 3: one of each, and one again", order, swaps)
		}
		e.wantOffsets(e.load(), 60)
		if n := len(e.files(e.load())); n != 2 {
			t.Errorf("%s: %d files, want 2", order, n)
		}
		if m, err := e.load().Marker(); err != nil || !m.Offsets.Equal(record.Offsets{60}) {
			t.Errorf("%s: marker %+v, %v", order, m, err)
		}
	}
}

// Files that are replaced meanwhile: the compaction gives up and leaves nothing.
func TestCompactGivesUp(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"reset", "compaction", "deletes"} {
		e := newEnv(t)
		if _, err := e.d.Create(t.Context(), e.id, numbers(), map[string]string{"write.delete.mode": "merge-on-read"}); err != nil {
			t.Fatal(err)
		}
		for o := record.Offset(0); o < 50; o += 10 {
			e.addNumbers(o, o+10)
		}
		first := firstTime()
		e.pointers.beforeSwap = func(_, _, _ string) (err error) {
			if !first() {
				return nil
			}
			switch by {
			case "reset":
				_, err = e.other().Commit(t.Context(), e.id, dataset.Commit{RemoveAll: true})
			case "compaction":
				_, err = e.other().Compact(t.Context(), e.id, dataset.CompactOptions{})
			case "deletes":
				txn := foreign{e}.table().NewTransaction()
				// One row of a file, so that all files stay.
				if err = txn.Delete(t.Context(), iceberg.EqualTo(iceberg.Reference("n"), int64(250)), nil); err == nil {
					_, err = txn.Commit(t.Context())
				}
			}
			return err
		}
		_, err := e.d.Compact(t.Context(), e.id, dataset.CompactOptions{})
		wantIs(t, err, record.ErrConflict)
		files := map[string]bool{}
		for o, err := range e.store.List(t.Context(), e.id+"/data/v") {
			if err != nil {
				t.Fatal(err)
			}
			files[o.Key] = true
		}
		want := 5
		if by == "compaction" {
			want = 6
		}
		if len(files) != want {
			t.Errorf("%s: %d data files, want %d", by, len(files), want)
		}
		rows := map[string]int{"reset": 0, "compaction": 50, "deletes": 49}[by]
		if got := len(e.rows(e.load(), dataset.ScanOptions{})); got != rows {
			t.Errorf("%s: %d rows, want %d", by, got, rows)
		}
	}
}

// A damaged file is not compacted away.
func TestCompactRefusesDamage(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(numbers())
	for o := record.Offset(0); o < 50; o += 10 {
		e.addNumbers(o, o+10)
	}
	f := e.files(e.load())[3]
	key, good := e.object(f.Path)
	bad := slices.Clone(good)
	bad[20] ^= 4
	e.replace(key, bad)
	_, err := e.d.Compact(t.Context(), e.id, dataset.CompactOptions{})
	wantIs(t, err, record.ErrCorrupt)
	e.replace(key, good)
	e.wantOffsets(e.load(), 50)
}

// crashBase is a table of small files to start each point of a sweep with.
type crashBase struct {
	mem *vfs.MemFS
	at  map[string]string
	id  string
}

func newCrashBase(t *testing.T, files int) crashBase {
	t.Helper()
	b := crashBase{mem: vfs.NewCrashableMem(), id: uuid.NewString()}
	e := b.env(t, b.mem, newPointers())
	e.create(numbers())
	for i := range record.Offset(files) {
		e.addNumbers(10*i, 10*i+10)
	}
	b.at = e.pointers.at
	return b
}

func (b crashBase) env(t *testing.T, fs vfs.FS, p *pointers) *env {
	t.Helper()
	store, err := objstore.NewFSOn(fs, "/store")
	if err != nil {
		t.Fatal(err)
	}
	return &env{t: t, store: store, pointers: p, id: b.id, d: dataset.New(store, p, dataset.Options{})}
}

// point runs do on a copy of the base, where the file operation at fails, and
// returns the table as it is then, and as it is when the power is cut at that
// moment. failed is false when there are fewer operations.
func (b crashBase) point(t *testing.T, at int, do func(e *env) error) (e, crashed *env, failed bool) {
	t.Helper()
	mem := b.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	inject := &failAt{}
	e = b.env(t, errorfs.Wrap(mem, inject), &pointers{at: maps.Clone(b.at)})
	inject.at = at
	err := do(e)
	failed = inject.n >= at
	inject.at = 0
	if !failed && err != nil {
		t.Fatal(err)
	}
	clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(1, uint64(at)))})
	return e, b.env(t, clone, e.pointers), failed
}

// TestCompactCrashAtEveryStep fails each file operation of a compaction in turn
// and cuts the power at that moment: the rows are the same ever after.
func TestCompactCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	base := newCrashBase(t, 5)
	stride := 1
	if raced {
		stride = 4 // TestCollectCrashAtEveryStep visits all of them
	}
	for at := 1; ; at += stride {
		e, crashed, failed := base.point(t, at, func(e *env) error {
			_, err := e.d.Compact(t.Context(), e.id, dataset.CompactOptions{})
			return err
		})
		e.wantOffsets(e.load(), 50)
		crashed.wantOffsets(crashed.load(), 50)
		crashed.compactAll(dataset.CompactOptions{})
		crashed.addNumbers(50, 60)
		crashed.wantOffsets(crashed.load(), 60)
		if n := len(crashed.files(crashed.load())); n != 2 {
			t.Fatalf("operation %d: %d files, want 2", at, n)
		}
		if !failed {
			t.Logf("%d operations", at-1)
			if at < 20 {
				t.Fatalf("only %d operations; the sweep misses steps", at)
			}
			t.Logf("sweep: %s: %d crashes at a file operation of a compaction", t.Name(), at-1)
			return
		}
	}
}

// Swaps without an answer: the compaction landed or not, the rows are the same.
func TestCompactOutcomeUnknown(t *testing.T) {
	t.Parallel()
	lost := errors.New("connection lost")
	for _, landed := range []bool{true, false} {
		e := newMemEnv(t)
		e.create(numbers())
		for o := record.Offset(0); o < 50; o += 10 {
			e.addNumbers(o, o+10)
		}
		if landed {
			e.pointers.afterSwap = onceErr(lost)
			e.compact(dataset.CompactOptions{})
		} else {
			e.pointers.beforeSwap = func(_, _, _ string) error { return lost }
			_, err := e.d.Compact(t.Context(), e.id, dataset.CompactOptions{})
			wantIs(t, err, dataset.ErrOutcomeUnknown)
			e.pointers.beforeSwap = nil
			n := 0
			for range e.store.List(t.Context(), e.id+"/data/") {
				n++
			}
			if n != 6 {
				t.Errorf("%d data files, want the new one to stay", n)
			}
		}
		e.wantOffsets(e.load(), 50)
		e.compactAll(dataset.CompactOptions{})
		e.wantOffsets(e.load(), 50)
	}
}

// Whatever the files: a run is in one view, below the target, holds whole
// commits, and repeated compaction ends and rewrites each byte a logarithmic
// number of times.
func TestChooseRun(t *testing.T) {
	t.Parallel()
	const target = 1000
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 3))
		var files []dataset.Candidate
		rewritten, written := int64(0), int64(0)
		for i := range 400 {
			for range 1 + r.IntN(3) {
				f := dataset.Candidate{View: 1, Bytes: 1 + r.Int64N(20), Sequence: int64(i)}
				if r.IntN(50) == 0 {
					f.View = 0
				}
				if r.IntN(60) == 0 {
					f.View, f.Bytes = 0, target
				}
				written += f.Bytes
				files = append(files, f)
			}
			for {
				from, to := dataset.ChooseRun(files, target)
				if from == to {
					break
				}
				total, largest := int64(0), int64(0)
				for _, f := range files[from:to] {
					if f.View != 1 {
						t.Fatal("a file that must stay is in a run")
					}
					total, largest = total+f.Bytes, max(largest, f.Bytes)
				}
				last := files[to-1].Sequence
				closed := to < len(files) // no file will be added to it
				if to-from < 2 || !closed && (to-from < 4 || largest > total-largest) || total > target ||
					to < len(files) && files[to].Sequence == last || from > 0 && files[from-1].Sequence == last {
					t.Fatalf("seed %d: a bad run [%d,%d) of %v", seed, from, to, files)
				}
				rewritten += total
				one := dataset.Candidate{View: 1, Bytes: total, Sequence: last}
				if total >= target/2 {
					one.View = 0
				}
				files = slices.Replace(files, from, to, one)
			}
		}
		if rewritten > 8*written {
			t.Errorf("seed %d: %d bytes were rewritten for %d written", seed, rewritten, written)
		}
		// What stands before the end, between files that must stay, is together.
		for i := 1; i < len(files)-minOpen(files, target); i++ {
			a, b := files[i-1], files[i]
			if a.View == 1 && b.View == 1 && a.Bytes+b.Bytes <= target && b.Sequence != files[i+1].Sequence && (i < 2 || b.Sequence != files[i-2].Sequence) {
				t.Errorf("seed %d: files %d and %d of %d stay apart: %+v %+v", seed, i-1, i, len(files), a, b)
			}
		}
	}
}

// minOpen counts the files at the end that may still be joined with later ones.
func minOpen(files []dataset.Candidate, target int64) (n int) {
	total := int64(0)
	for i := len(files) - 1; i >= 0 && files[i].View == 1 && total+files[i].Bytes <= target; i-- {
		total += files[i].Bytes
		n++
	}
	return n + 1
}

// Decimals that old files lack, below structs that are null in some rows: the
// Parquet library must not write them in the wrong rows.
func TestCompactFillsDecimalsBelowNulls(t *testing.T) {
	t.Parallel()
	for _, format := range []dataset.Format{dataset.Parquet, dataset.Avro} {
		e := newMemEnv(t)
		old := &schema.Schema{Fields: []schema.Field{
			structOf(5, "place", field(6, "lat", schema.Float), structOf(12, "inner", field(13, "x", schema.Long))),
			listOf(8, "points", structOf(9, "", field(10, "x", schema.Integer))),
		}}
		table := e.create(old)
		for i := range record.Offset(5) {
			b := jsonBatch(t, old, fmt.Sprintf(`[
				{"place":null,"points":[null,{"x":1}],"_view":2,"_partition_id":0,"_offset":%d,"_timestamp":"1970-01-01T00:00:00Z"},
				{"place":{"lat":1.5,"inner":null},"points":null,"_view":2,"_partition_id":0,"_offset":%d,"_timestamp":"1970-01-01T00:00:00Z"},
				{"place":null,"points":[{"x":2},null,{"x":3}],"_view":2,"_partition_id":0,"_offset":%d,"_timestamp":"1970-01-01T00:00:00Z"},
				{"place":{"lat":2.5,"inner":{"x":4}},"points":[],"_view":2,"_partition_id":0,"_offset":%d,"_timestamp":"1970-01-01T00:00:00Z"}]`, 4*i, 4*i+1, 4*i+2, 4*i+3))
			e.commit(dataset.Commit{Add: []dataset.DataFile{e.fileAs(format, table, old, fileName(0, 4*i, 4*i+4), b)}, Marker: marker(4*i + 4)})
			b.Release()
		}
		s := &schema.Schema{Fields: []schema.Field{
			structOf(5, "place", withDefault(decimal(7, "price", 30), `"12345678901234567890.25"`), field(6, "lat", schema.Float),
				structOf(12, "inner", withDefault(decimal(14, "deep", 38), `"1.50"`), withDefault(decimal(15, "short", 9), `"2.50"`), field(13, "x", schema.Long))),
			listOf(8, "points", structOf(9, "", field(10, "x", schema.Integer), withDefault(decimal(11, "d", 25), `"7.00"`))),
		}}
		if _, err := e.d.SetSchema(t.Context(), e.id, s); err != nil {
			t.Fatal(err)
		}
		want := e.rows(e.load(), dataset.ScanOptions{Schema: s.WithSystem()})
		if c := e.compact(dataset.CompactOptions{Schema: s}); c.Files != 5 {
			t.Fatalf("%+v", c)
		}
		wantRows(t, e.rows(e.load(), dataset.ScanOptions{Schema: s.WithSystem()}), want)
	}
}

// Required parts of a required struct below a null one: nothing is missing
// there, and decimals stay in their rows.
func TestRequiredBelowNulls(t *testing.T) {
	t.Parallel()
	required := func(f schema.Field) schema.Field {
		f.Nullable = false
		return f
	}
	for _, format := range []dataset.Format{dataset.Parquet, dataset.Avro} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			e := newMemEnv(t)
			s := &schema.Schema{Fields: []schema.Field{
				structOf(5, "outer",
					required(decimal(6, "e", 30)),
					required(structOf(7, "inner", required(decimal(8, "d", 30)), required(field(9, "n", schema.Long)), required(field(10, "s", schema.String))))),
			}}
			table := e.create(s)
			var want []string
			for i := range record.Offset(5) {
				b := jsonBatch(t, s, fmt.Sprintf(`[
				{"outer":null,"_view":2,"_partition_id":0,"_offset":%d,"_timestamp":"1970-01-01T00:00:00Z"},
				{"outer":{"e":"1.00","inner":{"d":"2.00","n":3,"s":"a"}},"_view":2,"_partition_id":0,"_offset":%d,"_timestamp":"1970-01-01T00:00:00Z"},
				{"outer":null,"_view":2,"_partition_id":0,"_offset":%d,"_timestamp":"1970-01-01T00:00:00Z"},
				{"outer":{"e":"4.00","inner":{"d":"5.00","n":6,"s":"b"}},"_view":2,"_partition_id":0,"_offset":%d,"_timestamp":"1970-01-01T00:00:00Z"}]`, 4*i, 4*i+1, 4*i+2, 4*i+3))
				want = append(want, render(b)...)
				e.commit(dataset.Commit{Add: []dataset.DataFile{e.fileAs(format, table, s, fileName(0, 4*i, 4*i+4), b)}})
				b.Release()
			}
			wantRows(t, e.rows(e.load(), dataset.ScanOptions{Schema: s.WithSystem()}), want)
			// Wider, with a part that the files lack.
			s = &schema.Schema{Fields: []schema.Field{
				structOf(5, "outer",
					required(decimal(6, "e", 35)),
					required(structOf(7, "inner", required(decimal(8, "d", 35)), withDefault(decimal(11, "f", 35), `"9.00"`), required(field(9, "n", schema.Long)), required(field(10, "s", schema.String))))),
			}}
			if _, err := e.d.SetSchema(t.Context(), e.id, s); err != nil {
				t.Fatal(err)
			}
			want = e.rows(e.load(), dataset.ScanOptions{Schema: s.WithSystem()})
			if !strings.Contains(want[1], `"d":"2"`) || !strings.Contains(want[1], `"f":"9"`) {
				t.Errorf("row 1 is %s", want[1])
			}
			e.compact(dataset.CompactOptions{Schema: s})
			wantRows(t, e.rows(e.load(), dataset.ScanOptions{Schema: s.WithSystem()}), want)
		})
	}
}
