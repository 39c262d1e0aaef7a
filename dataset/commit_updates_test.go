package dataset_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// engine is another engine that has loaded the table at one time, and commits
// through CommitUpdates, in JSON, what iceberg-go made of it.
type engine struct {
	e    *env
	base *dataset.Table
	o    dataset.UpdateOptions
	// last is the last commit, to be sent again.
	requirements, updates []byte
}

// engine loads the table, whose stream's view is number 2.
func (e *env) engine() *engine {
	return &engine{e: e, base: e.load(), o: dataset.UpdateOptions{View: 2}}
}

func (g *engine) LoadTable(context.Context, table.Identifier) (*table.Table, error) {
	open := func(ctx context.Context) (iceio.IO, error) { return dataset.IO(ctx, g.e.store), nil }
	return table.New(table.Identifier{"t"}, g.base.Metadata(), g.base.MetadataLocation(), open, g), nil
}

func (g *engine) CommitTable(ctx context.Context, _ table.Identifier, reqs []table.Requirement, updates []table.Update) (table.Metadata, string, error) {
	var err error
	if g.requirements, err = json.Marshal(reqs); err != nil {
		return nil, "", err
	}
	if g.updates, err = json.Marshal(updates); err != nil {
		return nil, "", err
	}
	t, err := g.send(ctx)
	if err != nil {
		return nil, "", err
	}
	return t.Metadata(), t.MetadataLocation(), nil
}

// send sends the last commit, perhaps again.
func (g *engine) send(ctx context.Context) (*dataset.Table, error) {
	u, err := dataset.ParseUpdates(g.requirements, g.updates)
	if err != nil {
		return nil, err
	}
	return g.e.other().CommitUpdates(ctx, g.e.id, u, g.o)
}

func (g *engine) tx() *table.Transaction {
	t, _ := g.LoadTable(g.e.t.Context(), nil)
	return t.NewTransaction()
}

func (g *engine) commit(tx *table.Transaction) error {
	_, err := tx.Commit(g.e.t.Context())
	return err
}

// plainRows have the column n only.
func plainRows(values ...int64) arrow.Table {
	s := arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.PrimitiveTypes.Int64}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	defer b.Release()
	b.Field(0).(*array.Int64Builder).AppendValues(values, nil)
	return array.NewTableFromRecords(s, []arrow.RecordBatch{b.NewRecordBatch()})
}

func (g *engine) append(values ...int64) error {
	tx := g.tx()
	if err := tx.AppendTable(g.e.t.Context(), plainRows(values...), 1000, nil); err != nil {
		return err
	}
	return g.commit(tx)
}

func (g *engine) delete(filter iceberg.BooleanExpression) error {
	tx := g.tx()
	if err := tx.Delete(g.e.t.Context(), filter, nil); err != nil {
		return err
	}
	return g.commit(tx)
}

// numbersOf are the values of n, sorted.
func (e *env) numbersOf(t *dataset.Table) []int64 {
	e.t.Helper()
	out := []int64{}
	for b, err := range t.Scan(e.t.Context(), dataset.ScanOptions{Schema: numbers()}) {
		if err != nil {
			e.t.Fatal(err)
		}
		out = append(out, b.Column(0).(*array.Int64).Int64Values()...)
	}
	slices.Sort(out)
	return out
}

// wantNumbers: n of the offsets in [0, to) but for those in without, and more.
func (e *env) wantNumbers(to int64, without, more []int64) *dataset.Table {
	e.t.Helper()
	want := slices.Clone(more)
	for o := range to {
		if !slices.Contains(without, o*10) {
			want = append(want, o*10)
		}
	}
	slices.Sort(want)
	t := e.load()
	if got := e.numbersOf(t); !slices.Equal(got, want) {
		e.t.Fatalf("%d rows %s, want %d %s", len(got), brief(got), len(want), brief(want))
	}
	e.wantSound(t, to)
	return t
}

// wantSound: the marker is at the offset, the totals are right, and sequence
// numbers are those of the files' commits.
func (e *env) wantSound(t *dataset.Table, to int64) {
	e.t.Helper()
	m, err := t.Marker()
	if err != nil || m == nil || !m.Offsets.Equal(record.Offsets{record.Offset(to)}) {
		e.t.Fatalf("marker %+v, %v; want offset %d", m, err, to)
	}
	head, _ := t.Head()
	rows, files := int64(0), int64(0)
	for _, f := range e.files(t) {
		rows += f.Rows
		files++
		s, ok := t.Snapshot(f.Snapshot)
		if ok && s.Operation == "append" && s.Sequence != f.Sequence {
			e.t.Errorf("%s has the sequence number %d, its snapshot %d", f.Path, f.Sequence, s.Sequence)
		}
	}
	if head.TotalRows != rows || head.TotalFiles != files {
		e.t.Errorf("the head says %d rows in %d files, there are %d in %d", head.TotalRows, head.TotalFiles, rows, files)
	}
}

// TestUpdatesOnAnOlderHead: what an engine made of a head that is no longer the
// head lands, and nothing that the archiver brought meanwhile is lost.
func TestUpdatesOnAnOlderHead(t *testing.T) {
	t.Parallel()
	// 40 archives merge manifests, so that those the engine knew are gone.
	for _, archives := range []int64{1, 40} {
		for _, c := range []struct {
			name   string
			change func(*engine) error
			gone   []int64
			more   []int64
		}{
			{"append", func(g *engine) error { return g.append(-1, -2) }, nil, []int64{-1, -2}},
			{"delete rows", func(g *engine) error { return g.delete(iceberg.EqualTo(iceberg.Reference("n"), int64(30))) }, []int64{30}, nil},
			{"delete a file", func(g *engine) error { return g.delete(iceberg.LessThan(iceberg.Reference("n"), int64(100))) }, []int64{0, 10, 20, 30, 40, 50, 60, 70, 80, 90}, nil},
			{"two snapshots", func(g *engine) error {
				tx := g.tx()
				if err := tx.Delete(g.e.t.Context(), iceberg.EqualTo(iceberg.Reference("n"), int64(30)), nil); err != nil {
					return err
				}
				if err := tx.AppendTable(g.e.t.Context(), plainRows(-1), 1000, nil); err != nil {
					return err
				}
				return g.commit(tx)
			}, []int64{30}, []int64{-1}},
		} {
			t.Run(fmt.Sprintf("%s, %d archives", c.name, archives), func(t *testing.T) {
				t.Parallel()
				e := newMemEnv(t)
				e.create(numbers())
				e.addNumbers(0, 10)
				e.addNumbers(10, 20)
				g := e.engine()
				to := record.Offset(20)
				for range archives {
					e.addNumbers(to, to+1)
					to++
				}
				before := e.load()
				if err := c.change(g); err != nil {
					t.Fatal(err)
				}
				after := e.wantNumbers(int64(to), c.gone, c.more)
				old, _ := before.Head()
				if s, ok := after.Snapshot(old.ID); !ok || !after.Descends(s.ID) {
					t.Error("the head before is not in the history")
				}
				// Sent again, as after a lost answer, it changes nothing.
				again, err := g.send(t.Context())
				if err != nil || again.MetadataLocation() != after.MetadataLocation() {
					t.Errorf("sent again: %v, %v", again, err)
				}
				// And the archiver goes on.
				e.addNumbers(to, to+5)
				e.wantNumbers(int64(to)+5, c.gone, c.more)
			})
		}
	}
}

// TestUpdatesThatConflict: changes of the same files are refused, whole.
func TestUpdatesThatConflict(t *testing.T) {
	t.Parallel()
	drop30 := func(g *engine) error { return g.delete(iceberg.EqualTo(iceberg.Reference("n"), int64(30))) }
	for _, c := range []struct {
		name    string
		prepare func(*env)
		between func(*env)
		change  func(*engine) error
	}{
		{"the file was rewritten", nil, func(e *env) {
			if err := e.engine().delete(iceberg.EqualTo(iceberg.Reference("n"), int64(20))); err != nil {
				e.t.Fatal(err)
			}
		}, drop30},
		{"the file was compacted", nil, compactMore, drop30},
		{"rows of the file were deleted", mergeOnRead, func(e *env) {
			if err := e.engine().delete(iceberg.EqualTo(iceberg.Reference("n"), int64(20))); err != nil {
				e.t.Fatal(err)
			}
		}, func(g *engine) error { return g.delete(iceberg.LessThan(iceberg.Reference("n"), int64(100))) }},
		{"deletes of a file that was compacted", mergeOnRead, compactMore, drop30},
		{"serializable", func(e *env) { e.setProperties("write.delete.isolation-level", "serializable") }, func(e *env) { e.addNumbers(20, 21) }, drop30},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := newMemEnv(t)
			e.create(numbers())
			if c.prepare != nil {
				c.prepare(e)
			}
			e.addNumbers(0, 10)
			e.addNumbers(10, 20)
			g := e.engine()
			c.between(e)
			before := e.load()
			err := c.change(g)
			var unmet *dataset.RequirementError
			if !errors.As(err, &unmet) {
				t.Fatalf("error %v, want a requirement's", err)
			}
			if now := e.load(); now.MetadataLocation() != before.MetadataLocation() {
				t.Error("the table has changed")
			}
		})
	}
}

// compactMore makes one file of those that are there and more.
func compactMore(e *env) {
	e.t.Helper()
	for o := record.Offset(20); o < 36; o++ {
		e.addNumbers(o, o+1)
	}
	if e.compactAll(dataset.CompactOptions{}) == 0 {
		e.t.Fatal("nothing was compacted")
	}
}

// numbersFile writes a file with the column n only, and returns its place.
func (e *env) numbersFile(values ...int64) string { return e.parquetFile(plainRows(values...)) }

// parquetFile writes a file as another engine would, and releases rows.
func (e *env) parquetFile(rows arrow.Table) string {
	e.t.Helper()
	defer rows.Release()
	var buf bytes.Buffer
	if err := pqarrow.WriteTable(rows, &buf, 1000, nil, pqarrow.DefaultWriterProps()); err != nil {
		e.t.Fatal(err)
	}
	key := e.id + "/data/" + uuid.NewString() + ".parquet"
	if err := objstore.Put(e.t.Context(), e.store, key, buf.Bytes()); err != nil {
		e.t.Fatal(err)
	}
	return objstore.URI(e.store, key)
}

func mergeOnRead(e *env) { e.setProperties("write.delete.mode", "merge-on-read") }

func (e *env) setProperties(key, value string) {
	e.t.Helper()
	tx := e.engine().tx()
	if err := tx.SetProperties(iceberg.Properties{key: value}); err != nil {
		e.t.Fatal(err)
	}
	if _, err := tx.Commit(e.t.Context()); err != nil {
		e.t.Fatal(err)
	}
}

// TestUpdatesMergeOnRead: deletes that name rows by position find them, also on a
// newer head.
func TestUpdatesMergeOnRead(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(numbers())
	mergeOnRead(e)
	e.addNumbers(0, 10)
	g := e.engine()
	e.addNumbers(10, 20)
	if err := g.delete(iceberg.EqualTo(iceberg.Reference("n"), int64(30))); err != nil {
		t.Fatal(err)
	}
	want := []int64{0, 10, 20, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140, 150, 160, 170, 180, 190}
	if got := e.numbersOf(e.load()); !slices.Equal(got, want) {
		t.Errorf("rows %v, want %v", got, want)
	}
}

// TestUpdatesThatHarmAStream are refused with a reason, and change nothing.
func TestUpdatesThatHarmAStream(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(numbers())
	first, _ := e.addNumbers(0, 10).Head()
	second, _ := e.addNumbers(10, 20).Head()
	before := e.load()
	send := func(requirements string, updates ...string) error {
		g := e.engine()
		g.requirements, g.updates = []byte(requirements), []byte("["+strings.Join(updates, ",")+"]")
		_, err := g.send(t.Context())
		return err
	}
	withoutOffset := before.Schema()
	fields := slices.DeleteFunc(slices.Clone(withoutOffset.Fields()), func(f iceberg.NestedField) bool { return f.ID == schema.OffsetID })
	cut, err := json.Marshal(iceberg.NewSchema(9, fields...))
	if err != nil {
		t.Fatal(err)
	}
	narrow, err := json.Marshal(iceberg.NewSchema(9, append([]iceberg.NestedField{{ID: 5, Name: "n", Type: iceberg.PrimitiveTypes.String}}, withoutOffset.Fields()[1:]...)...))
	if err != nil {
		t.Fatal(err)
	}
	snapshot := func(parent string, sequence int64, more string) string {
		return fmt.Sprintf(`{"action":"add-snapshot","snapshot":{"snapshot-id":77,%s"sequence-number":%d,"timestamp-ms":%d,"manifest-list":%q,"summary":{"operation":"append"%s},"schema-id":0}}`,
			parent, sequence, second.Time.UnixMilli(), before.Metadata().CurrentSnapshot().ManifestList, more)
	}
	main77 := `{"action":"set-snapshot-ref","ref-name":"main","type":"branch","snapshot-id":77}`
	for name, err := range map[string]error{
		"roll back":            send("", fmt.Sprintf(`{"action":"set-snapshot-ref","ref-name":"main","type":"branch","snapshot-id":%d}`, first.ID)),
		"remove main":          send("", `{"action":"remove-snapshot-ref","ref-name":"main"}`),
		"remove the tag":       send("", `{"action":"remove-snapshot-ref","ref-name":"thermocline-marker"}`),
		"move the tag":         send("", fmt.Sprintf(`{"action":"set-snapshot-ref","ref-name":"thermocline-marker","type":"tag","snapshot-id":%d}`, first.ID)),
		"drop a system column": send("", `{"action":"add-schema","schema":`+string(cut)+`}`, `{"action":"set-current-schema","schema-id":-1}`),
		"change a type":        send("", `{"action":"add-schema","schema":`+string(narrow)+`}`, `{"action":"set-current-schema","schema-id":-1}`),
		"another uuid":         send("", `{"action":"assign-uuid","uuid":"9f4f1f9e-1111-4222-8333-444455556666"}`),
		"another place":        send("", `{"action":"set-location","location":"file:///elsewhere"}`),
		"another format":       send("", `{"action":"upgrade-format-version","format-version":3}`),
		"own properties":       send("", `{"action":"set-properties","updates":{"thermocline.stream":"x"}}`),
		"own keys":             send("", snapshot(fmt.Sprintf(`"parent-snapshot-id":%d,`, second.ID), 3, `,"thermocline.offsets":"{\"0\":99}"`), main77),
		"no parent":            send("", snapshot("", 3, ""), main77),
		"a branch of nothing":  send(`[{"type":"assert-ref-snapshot-id","ref":"x","snapshot-id":null}]`, snapshot("", 3, ""), `{"action":"set-snapshot-ref","ref-name":"x","type":"branch","snapshot-id":77}`),
		"unknown update":       send("", `{"action":"paint-it-black"}`),
		"unknown requirement":  send(`[{"type":"assert-full-moon"}]`),
	} {
		if !errors.Is(err, record.ErrInvalid) {
			t.Errorf("%s: error %v, want invalid", name, err)
		}
	}
	if now := e.load(); now.MetadataLocation() != before.MetadataLocation() {
		t.Error("the table has changed")
	}
	// Rows that say they are the stream's, and files that nobody else could read.
	g := e.engine()
	tx := g.tx()
	twice := numberBatch(numbers(), 0, 3, 5)
	defer twice.Release()
	if err := tx.AppendTable(t.Context(), array.NewTableFromRecords(twice.Schema(), []arrow.RecordBatch{twice}), 1000, nil); err != nil {
		t.Fatal(err)
	}
	if err := g.commit(tx); !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), "_view 2") {
		t.Errorf("rows with the identity of others: %v", err)
	}
	// A rewrite that forgets who the rows are.
	g = e.engine()
	tx = g.tx()
	old := e.files(e.load())[0].Path
	if err := tx.ReplaceDataFiles(t.Context(), []string{old}, []string{e.numbersFile(1, 2, 3)}, nil); err != nil {
		t.Fatal(err)
	}
	if err := g.commit(tx); !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), "no longer be known") {
		t.Errorf("rows without identity in the place of others: %v", err)
	}
	e.wantNumbers(20, nil, nil)
}

// TestUpdatesOfSeveralViews: an engine may join rows of several views in one file,
// which then does not tell how many are the stream's; but it may not double them.
func TestUpdatesOfSeveralViews(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(numbers())
	e.addNumbers(0, 10)
	rowsOf := func(views ...record.ViewNumber) arrow.Table {
		b := array.NewRecordBuilder(memory.DefaultAllocator, numbers().WithSystem().Arrow())
		defer b.Release()
		for _, v := range views {
			for o := range record.Offset(10) {
				b.Field(0).(*array.Int64Builder).Append(int64(o)*10 + 1000*int64(2-v))
				appendSystem(b, 1, v, 0, o)
			}
		}
		batch := b.NewRecordBatch()
		return array.NewTableFromRecords(batch.Schema(), []arrow.RecordBatch{batch})
	}
	g := e.engine()
	tx := g.tx()
	if err := tx.AppendTable(t.Context(), rowsOf(1), 1000, nil); err != nil {
		t.Fatal(err)
	}
	if err := g.commit(tx); err != nil {
		t.Fatalf("rows of another view: %v", err)
	}
	g = e.engine()
	tx = g.tx()
	if err := tx.AppendTable(t.Context(), rowsOf(1, 2), 1000, nil); err != nil {
		t.Fatal(err)
	}
	if err := g.commit(tx); !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), "_view 2") {
		t.Errorf("copies of rows, with others: %v", err)
	}
	var old []string
	for _, f := range e.files(e.load()) {
		old = append(old, f.Path)
	}
	g = e.engine()
	tx = g.tx()
	if err := tx.ReplaceDataFiles(t.Context(), old, []string{e.parquetFile(rowsOf(1, 2))}, nil); err != nil {
		t.Fatal(err)
	}
	if err := g.commit(tx); err != nil {
		t.Fatalf("a rewrite of both: %v", err)
	}
	var guests []int64
	for o := range int64(10) {
		guests = append(guests, 1000+o*10)
	}
	e.wantNumbers(10, nil, guests)
}

// TestRewrittenRowsKeepTheirOrder: an engine that compacts cares for no order within
// its files; the stream's rows are read in theirs all the same.
func TestRewrittenRowsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(numbers())
	e.addNumbers(0, 10)
	e.addNumbers(10, 20)
	var old []string
	for _, f := range e.files(e.load()) {
		old = append(old, f.Path)
	}
	b := array.NewRecordBuilder(memory.DefaultAllocator, numbers().WithSystem().Arrow())
	defer b.Release()
	for i := range record.Offset(20) {
		o := (i*7 + 3) % 20
		b.Field(0).(*array.Int64Builder).Append(int64(o) * 10)
		appendSystem(b, 1, 2, 0, o)
	}
	batch := b.NewRecordBatch()
	g := e.engine()
	tx := g.tx()
	if err := tx.ReplaceDataFiles(t.Context(), old, []string{e.parquetFile(array.NewTableFromRecords(batch.Schema(), []arrow.RecordBatch{batch}))}, nil); err != nil {
		t.Fatal(err)
	}
	if err := g.commit(tx); err != nil {
		t.Fatal(err)
	}
	e.addNumbers(20, 25)
	var got []int64
	for p, err := range e.load().Ordered(t.Context(), dataset.OrderedOptions{ScanOptions: dataset.ScanOptions{Schema: numbers().WithSystem(), View: 2}}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p.Rows.Column(0).(*array.Int64).Int64Values()...)
	}
	if len(got) != 25 || !slices.IsSorted(got) {
		t.Errorf("rows are read in the order %v", got)
	}
}

// TestUpdatesOutcomes: a swap whose answer is lost, or that is lost itself, ends in
// one commit.
func TestUpdatesOutcomes(t *testing.T) {
	t.Parallel()
	lost := errors.New("lost")
	for _, c := range []struct {
		name          string
		before, after func(n *int) error
		unknown       bool
	}{
		{"answer lost", nil, func(n *int) error { return once(n, lost) }, false},
		{"request lost", func(n *int) error { return once(n, lost) }, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := newMemEnv(t)
			e.create(numbers())
			e.addNumbers(0, 10)
			g := e.engine()
			e.addNumbers(10, 20)
			n := 0
			if c.before != nil {
				e.pointers.beforeSwap = func(string, string, string) error { return c.before(&n) }
			}
			if c.after != nil {
				e.pointers.afterSwap = func(err error) error { return errors.Join(err, c.after(&n)) }
			}
			if err := g.append(-1); err != nil {
				t.Fatal(err)
			}
			e.pointers.beforeSwap, e.pointers.afterSwap = nil, nil
			e.wantNumbers(20, nil, []int64{-1})
		})
	}
}

func once(n *int, err error) error {
	if *n++; *n == 1 {
		return err
	}
	return nil
}

// TestUpdatesBesideArchives: engines append and delete while the archiver commits;
// each commit is there once.
func TestUpdatesBesideArchives(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(numbers())
	e.addNumbers(0, 10)
	const engines, rounds, archives = 3, 6, 25
	var wg sync.WaitGroup
	more := make(chan int64, engines*rounds)
	for i := range engines {
		wg.Go(func() {
			for r := range rounds {
				v := int64(-1 - i*rounds - r)
				for try := 0; ; try++ {
					err := e.engine().append(v)
					if err == nil {
						more <- v
						break
					}
					if !errors.Is(err, record.ErrConflict) || try > 50 {
						t.Errorf("append %d: %v", v, err)
						return
					}
				}
			}
		})
	}
	wg.Go(func() {
		for try := 0; ; try++ {
			err := e.engine().delete(iceberg.EqualTo(iceberg.Reference("n"), int64(30)))
			if err == nil {
				return
			}
			if !errors.Is(err, record.ErrConflict) || try > 50 {
				t.Errorf("delete: %v", err)
				return
			}
		}
	})
	for o := record.Offset(10); o < 10+archives; o++ {
		e.addNumbers(o, o+1)
	}
	wg.Wait()
	close(more)
	var all []int64
	for v := range more {
		all = append(all, v)
	}
	e.wantNumbers(10+archives, []int64{30}, all)
}

// TestUpdatesOnAnotherRef: commits on other refs of the table do not meet those of
// the archiver either, though they share its sequence numbers.
func TestUpdatesOnAnotherRef(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(numbers())
	e.addNumbers(0, 10)
	g := e.engine()
	head, _ := g.base.Head()
	g.requirements, g.updates = nil, fmt.Appendf(nil, `[{"action":"set-snapshot-ref","ref-name":"audit","type":"branch","snapshot-id":%d}]`, head.ID)
	if _, err := g.send(t.Context()); err != nil {
		t.Fatal(err)
	}
	g = e.engine()
	e.addNumbers(10, 20)
	opened, _ := g.LoadTable(t.Context(), nil)
	tx := opened.NewTransactionOnBranch("audit")
	if err := tx.AppendTable(t.Context(), plainRows(-1), 1000, nil); err != nil {
		t.Fatal(err)
	}
	if err := g.commit(tx); err != nil {
		t.Fatal(err)
	}
	now := e.wantNumbers(20, nil, nil) // main has none of it
	tip := now.Metadata().SnapshotByName("audit")
	if tip == nil || tip.ParentSnapshotID == nil || *tip.ParentSnapshotID != head.ID || tip.SequenceNumber != 3 {
		t.Fatalf("audit is %+v", tip)
	}
	// Publishing it would leave the newest marker behind.
	g = e.engine()
	g.requirements, g.updates = nil, fmt.Appendf(nil, `[{"action":"set-snapshot-ref","ref-name":"main","type":"branch","snapshot-id":%d}]`, tip.SnapshotID)
	if _, err := g.send(t.Context()); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("main moved to audit: %v", err)
	}
}

// TestEngineRemoved: the stream's rows that engines remove are counted, and rewrites
// that keep them are not.
func TestEngineRemoved(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(numbers())
	e.addNumbers(0, 10)
	e.addNumbers(10, 20)
	want := func(rows int64) {
		t.Helper()
		if n, unknown := e.load().EngineRemoved(2); n != rows || unknown {
			t.Fatalf("%d rows removed, unknown: %v; want %d", n, unknown, rows)
		}
	}
	if err := e.engine().append(-1, -2); err != nil {
		t.Fatal(err)
	}
	want(0)
	if err := e.engine().delete(iceberg.EqualTo(iceberg.Reference("n"), int64(30))); err != nil {
		t.Fatal(err)
	}
	want(1)
	if err := e.engine().delete(iceberg.LessThan(iceberg.Reference("n"), int64(0))); err != nil {
		t.Fatal(err)
	}
	want(1) // those had no identity
	if err := e.engine().delete(iceberg.GreaterThanEqual(iceberg.Reference("n"), int64(100))); err != nil {
		t.Fatal(err)
	}
	want(11)
	mergeOnRead(e)
	if err := e.engine().delete(iceberg.EqualTo(iceberg.Reference("n"), int64(50))); err != nil {
		t.Fatal(err)
	}
	want(12)
	if n, _ := e.load().EngineRemoved(3); n != 0 {
		t.Errorf("%d rows of another view", n)
	}
}

// TestRefsKeepRetention: clients that move a ref leave its retention out.
func TestRefsKeepRetention(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(numbers())
	e.addNumbers(0, 10)
	g := e.engine()
	head, _ := g.base.Head()
	set := func(more string) *dataset.Table {
		t.Helper()
		g.requirements, g.updates = nil, fmt.Appendf(nil, `[{"action":"set-snapshot-ref","ref-name":"b","type":"branch","snapshot-id":%d%s}]`, head.ID, more)
		next, err := g.send(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	set(`,"min-snapshots-to-keep":7`)
	e.addNumbers(10, 20)
	head, _ = e.load().Head()
	for name, ref := range set("").Metadata().Refs() {
		if name == "b" && (ref.SnapshotID != head.ID || ref.MinSnapshotsToKeep == nil || *ref.MinSnapshotsToKeep != 7) {
			t.Errorf("ref %+v", ref)
		}
	}
}
