package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/writer"
)

// forest is a stream with branches, and a model of what each of them holds. The
// node is a machine's: it can crash, and its clock is the model's.
type forest struct {
	*machine
	lines map[string]*line // by branch
	past  []version
	gone  []string // tables of deleted branches that have files left
	// note adds to the log what an operation is about.
	note func(format string, args ...any)
}

// line is the model of a branch: which rows it has, and which columns.
type line struct {
	rows    map[int64]*leaf
	columns map[string]bool
}

// leaf is a row, as it was published: with those columns that its branch had.
type leaf struct {
	n       int64
	columns map[string]bool
}

func (l *line) clone() *line { return &line{maps.Clone(l.rows), maps.Clone(l.columns)} }

// version is a tagged snapshot of a branch, and what it must hold for as long as
// the branch is there.
type version struct {
	branch, tag string
	snapshot    int64
	line        *line
}

// value is what row n has in a column.
func value(column string, n int64) int64 {
	c, _ := strconv.ParseInt(column[1:], 10, 64)
	return n*1000 + c
}

var forestOperations = []struct {
	name   string
	weight int
	run    func(*forest, *rand.Rand) bool
}{
	{"publish", 20, (*forest).opPublish},
	{"create branch", 6, (*forest).opCreateBranch},
	{"create branch from a version", 4, (*forest).opCreateFromVersion},
	{"delete branch", 4, (*forest).opDeleteBranch},
	{"evolve", 5, (*forest).opEvolve},
	{"archive", 12, (*forest).opArchive},
	{"tag", 4, (*forest).opTag},
	{"compact", 6, (*forest).opCompact},
	{"expire", 5, (*forest).opExpire},
	{"collect", 6, (*forest).opCollect},
	{"merge", 10, (*forest).opMerge},
	{"merge again", 3, (*forest).opMergeAgain},
	{"merge dry", 3, (*forest).opMergeDry},
	{"time travel", 4, (*forest).opTravel},
	{"restart", 2, (*forest).opRestart},
	{"crash", 3, (*forest).opCrash},
}

// TestBranchesModel runs random operations over the branches of a stream against
// a model of what each must hold. No file that a branch, a tag or a version leads
// to is ever collected, and when only main is left, nothing else is.
//
//	THERMOCLINE_MODEL_SEED=7          only the sequence with this seed
//	THERMOCLINE_TORTURE=10m           new sequences for so long
func TestBranchesModel(t *testing.T) {
	t.Parallel()
	const length = 120
	first, last, until := uint64(1), uint64(24), time.Time{}
	if raceEnabled {
		last = 8
	}
	if text := os.Getenv("THERMOCLINE_MODEL_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, last = seed, seed
	} else if text := os.Getenv("THERMOCLINE_TORTURE"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		first, last, until = uint64(time.Now().UnixNano()), ^uint64(0), time.Now().Add(d)
	}
	done, sum := map[string]int{}, 0
	var mu sync.Mutex
	var workers sync.WaitGroup
	seeds := make(chan uint64)
	for range 2 {
		workers.Go(func() {
			for seed := range seeds {
				got, log, err := growForest(t, seed, length)
				mu.Lock()
				for name, n := range got {
					done[name] += n
				}
				mu.Unlock()
				if err != nil {
					t.Errorf("seed %d: %v\n%s\nTHERMOCLINE_MODEL_SEED=%d", seed, err, strings.Join(log[max(0, len(log)-200):], "\n"), seed)
				}
			}
		})
	}
	for seed := first; seed <= last && !t.Failed() && (until.IsZero() || time.Now().Before(until)); seed++ {
		seeds <- seed
	}
	close(seeds)
	workers.Wait()
	if t.Failed() || first == last {
		return
	}
	for _, o := range forestOperations {
		sum += done[o.name]
		if done[o.name] == 0 {
			t.Errorf("%q was never done", o.name)
		}
	}
	for _, name := range []string{"files collected", "files compacted", "snapshots expired", "merged fast-forward", "merged replay", "merged rows", "read a version"} {
		if done[name] == 0 {
			t.Errorf("%q never happened", name)
		}
	}
	if merges := done["merge"] + done["merge again"]; done["merges refused"] > merges/4 {
		t.Errorf("%d merges were refused, %d were not", done["merges refused"], merges)
	}
	for _, name := range slices.Sorted(maps.Keys(done)) {
		t.Logf("%6d %s", done[name], name)
	}
	t.Logf("%6d operations", sum)
}

// growForest runs one sequence; log tells what was done.
func growForest(t *testing.T, seed uint64, length int) (done map[string]int, log []string, err error) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := rand.New(rand.NewPCG(seed, 7))
	f := &forest{machine: newMachine(ctx, t, modelDir(t), r), lines: map[string]*line{}, note: func(string, ...any) {}}
	f.quiet = true
	defer func() {
		if p := recover(); p != nil {
			failure, ok := p.(modelFailure)
			if !ok {
				failure = modelFailure{fmt.Errorf("panic: %v\n%s", p, debug.Stack())}
			}
			done, err = f.done, failure.error
		}
		f.end()
	}()
	f.open()
	f.plant(r)
	total := 0
	for _, o := range forestOperations {
		total += o.weight
	}
	for i := range length {
		w := r.IntN(total)
		for _, o := range forestOperations {
			if w -= o.weight; w < 0 {
				log = append(log, fmt.Sprintf("%4d %s", i, o.name))
				f.note = func(format string, args ...any) { log[len(log)-1] += " " + fmt.Sprintf(format, args...) }
				if o.run(f, r) {
					f.count(o.name)
				}
				break
			}
		}
	}
	log = append(log, "     at the end")
	f.fell(r)
	return f.done, log, nil
}

// plant makes the stream.
func (f *forest) plant(r *rand.Rand) {
	s, err := schema.Parse([]byte(worldSchema))
	f.must("parse the schema", err)
	settings := catalog.Settings{ArchiveInterval: catalog.MaxArchiveInterval, Partitions: 1 + r.IntN(3), KeyFields: []string{"k"}}
	_, err = f.node.directory.Create(f.ctx, "s", s, settings)
	f.must("create the stream", err)
	f.lines[catalog.MainBranch] = &line{map[int64]*leaf{}, map[string]bool{}}
}

// any picks a branch, other than those given.
func (f *forest) any(r *rand.Rand, not ...string) (string, *line) {
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(f.lines)), func(n string) bool { return slices.Contains(not, n) })
	if len(names) == 0 {
		return "", nil
	}
	name := names[r.IntN(len(names))]
	return name, f.lines[name]
}

func (f *forest) opPublish(r *rand.Rand) bool {
	name, l := f.any(r)
	var body strings.Builder
	for range 1 + r.IntN(12) {
		f.nextN++
		row := &leaf{f.nextN, maps.Clone(l.columns)}
		fmt.Fprintf(&body, `{"k":"key-%d","n":%d`, row.n%7, row.n)
		for c := range l.columns {
			fmt.Fprintf(&body, `,%q:%d`, c, value(c, row.n))
		}
		body.WriteString("}\n")
		l.rows[row.n] = row
	}
	_, err := f.node.writer.Publish(f.ctx, writer.Request{Stream: "s", Branch: name, Format: writer.JSON, Body: []byte(body.String())})
	f.must("publish to "+name, err)
	f.note("%s up to %d", name, f.nextN)
	return true
}

func (f *forest) opCreateBranch(r *rand.Rand) bool {
	from, l := f.any(r)
	if len(f.lines) >= 6 {
		return false
	}
	f.branch(r, branch.From{Branch: from}, l.clone())
	return true
}

func (f *forest) opCreateFromVersion(r *rand.Rand) bool {
	v := f.version(r)
	if v == nil || len(f.lines) >= 6 {
		return false
	}
	from := branch.From{Branch: v.branch, Tag: v.tag}
	if r.IntN(2) == 0 {
		from = branch.From{Branch: v.branch, Snapshot: v.snapshot}
	}
	f.branch(r, from, v.line.clone())
	return true
}

func (f *forest) branch(r *rand.Rand, from branch.From, l *line) {
	f.names++
	name := fmt.Sprintf("b%d", f.names)
	_, err := f.node.directory.CreateBranch(f.ctx, "s", branch.NewBranch{Name: name, From: from, Settings: func(s catalog.Settings) catalog.Settings {
		s.Partitions = 1 + r.IntN(3)
		return s
	}})
	f.must("create branch "+name, err)
	f.note("%s (%s) from %+v", name, f.at(name).Branch.TableUUID[:8], from)
	f.lines[name] = l
	f.audit(name)
}

func (f *forest) opDeleteBranch(r *rand.Rand) bool {
	name, l := f.any(r, catalog.MainBranch)
	if l == nil {
		return false
	}
	f.drop(name)
	return true
}

func (f *forest) drop(name string) {
	f.note("%s", name)
	f.gone = append(f.gone, f.at(name).Branch.TableUUID)
	f.must("delete branch "+name, f.node.directory.DeleteBranch(f.ctx, "s", name, branch.DeleteBranch{}))
	delete(f.lines, name)
	f.past = slices.DeleteFunc(f.past, func(v version) bool { return v.branch == name })
}

// opEvolve adds a column that no other branch has added.
func (f *forest) opEvolve(r *rand.Rand) bool {
	name, l := f.any(r)
	if len(l.columns) >= 5 {
		return false
	}
	st := f.at(name)
	f.names++
	column := fmt.Sprintf("c%d", f.names)
	proposed := st.Schema.Clone()
	proposed.Fields = append(proposed.Fields, schema.Field{Name: column, Type: schema.Type{Kind: schema.Long}, Nullable: true})
	_, err := f.node.directory.Evolve(f.ctx, "s", name, proposed)
	f.must("evolve "+name, err)
	f.note("%s by %s", name, column)
	l.columns[column] = true
	return true
}

func (f *forest) at(name string) *branch.State {
	st, err := f.node.directory.Resolve("s", name)
	f.must("resolve "+name, err)
	return st
}

func (f *forest) archiveLine(name string) {
	_, err := f.b.Archiver.ArchiveNow(f.ctx, "s", name)
	f.must("archive "+name, err)
	f.note("(archive %s)", name)
}

func (f *forest) opArchive(r *rand.Rand) bool {
	name, _ := f.any(r)
	f.archiveLine(name)
	f.audit(name)
	return true
}

// opTag pins what a branch holds now.
func (f *forest) opTag(r *rand.Rand) bool {
	name, l := f.any(r)
	if len(f.past) >= 8 {
		return false
	}
	f.archiveLine(name)
	table, err := f.node.datasets.Load(f.ctx, f.at(name).Branch.TableUUID)
	f.must("load the table of "+name, err)
	head, ok := table.Head()
	if !ok {
		return false
	}
	f.names++
	tag := fmt.Sprintf("t%d", f.names)
	_, err = f.node.directory.CreateTag(f.ctx, "s", name, tag, head.ID)
	f.must("tag "+name, err)
	f.note("%s as %s, %d", name, tag, head.ID)
	// A column that came without rows is in no snapshot yet.
	past := l.clone()
	for c := range l.columns {
		if _, ok := table.SchemaAt(head.ID).FindFieldByName(c); !ok {
			delete(past.columns, c)
		}
	}
	f.past = append(f.past, version{name, tag, head.ID, past})
	return true
}

func (f *forest) version(r *rand.Rand) *version {
	if len(f.past) == 0 {
		return nil
	}
	return &f.past[r.IntN(len(f.past))]
}

func (f *forest) opCompact(r *rand.Rand) bool {
	name, _ := f.any(r)
	for range r.IntN(6) { // files that are worth it
		f.opPublish(r)
		f.archiveLine(name)
	}
	out, err := f.node.archiver.Compact(f.ctx, f.at(name).Branch.ID, nil)
	f.must("compact "+name, err)
	f.note("%s: %d files", name, out.Replaced)
	if out.Replaced > 0 {
		f.count("files compacted")
	}
	f.audit(name)
	return true
}

func (f *forest) opExpire(r *rand.Rand) bool {
	name, _ := f.any(r)
	time.Sleep(2 * time.Millisecond) // ages are in milliseconds
	out, err := f.node.datasets.Expire(f.ctx, f.at(name).Branch.TableUUID, dataset.ExpireOptions{MaxAge: time.Millisecond, KeepLast: 1 + r.IntN(3)})
	f.must("expire "+name, err)
	f.note("%s: %d", name, len(out.Expired))
	if len(out.Expired) > 0 {
		f.count("snapshots expired")
	}
	f.audit(name)
	return true
}

// opCollect deletes what nothing leads to, and looks at everything that is left.
func (f *forest) opCollect(r *rand.Rand) bool {
	f.collect()
	for name := range f.lines {
		f.audit(name)
	}
	for i := range f.past {
		f.travel(&f.past[i])
	}
	return true
}

// opMerge makes what one branch has a part of another. All its rows are new to
// that one or known by their identity, and none was ever taken away.
func (f *forest) opMerge(r *rand.Rand) bool {
	from, l := f.any(r)
	into, onto := f.any(r, from)
	if onto == nil {
		return false
	}
	out, done := f.merge(from, into, false)
	if !done {
		return false
	}
	if out.AddedRows > 0 {
		f.count("merged rows")
	}
	f.count("merged " + string(out.Strategy))
	f.joined(l, onto)
	f.audit(from)
	f.audit(into)
	return true
}

// joined is the model of a merge.
func (f *forest) joined(from, into *line) {
	maps.Copy(into.rows, from.rows)
	maps.Copy(into.columns, from.columns)
}

// opMergeAgain: a second merge finds nothing new.
func (f *forest) opMergeAgain(r *rand.Rand) bool {
	from, l := f.any(r)
	into, onto := f.any(r, from)
	if onto == nil {
		return false
	}
	if _, done := f.merge(from, into, false); !done {
		return false
	}
	if r.IntN(2) == 0 { // other files, the same rows
		_, err := f.node.archiver.Compact(f.ctx, f.at([]string{from, into}[r.IntN(2)]).Branch.ID, nil)
		f.must("compact", err)
	}
	if out, done := f.merge(from, into, false); !done || out.AddedRows != 0 {
		f.fail("the second merge of %s into %s brought %d rows", from, into, out.AddedRows)
	}
	f.joined(l, onto)
	f.audit(into)
	return true
}

func (f *forest) opMergeDry(r *rand.Rand) bool {
	from, _ := f.any(r)
	into, onto := f.any(r, from)
	if onto == nil {
		return false
	}
	f.merge(from, into, true)
	f.audit(into)
	return true
}

func (f *forest) opTravel(r *rand.Rand) bool {
	v := f.version(r)
	if v == nil {
		return false
	}
	f.travel(v)
	f.count("read a version")
	return true
}

func (f *forest) opRestart(r *rand.Rand) bool { f.again(r, false); return true }
func (f *forest) opCrash(r *rand.Rand) bool   { f.again(r, true); return true }

func (f *forest) again(r *rand.Rand, crash bool) {
	f.reopen(r, crash)
	for _, name := range slices.Sorted(maps.Keys(f.lines)) {
		f.audit(name)
	}
}

// fell drops all branches but main, after which only main's files are left.
func (f *forest) fell(r *rand.Rand) {
	names := slices.Sorted(maps.Keys(f.lines))
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		if name == catalog.MainBranch {
			continue
		}
		f.drop(name)
		f.collect()
		for other := range f.lines {
			f.audit(other)
		}
	}
	f.again(r, false)
	f.onlyMain()
}

// audit reads a branch and compares it with the model.
func (f *forest) audit(name string) {
	f.compare("branch "+name, f.lines[name], name, reader.Request{System: true})
}

func (f *forest) compare(what string, l *line, name string, q reader.Request) {
	res, err := f.b.Reader.Read(f.ctx, "s", name, q)
	f.must("read "+what, err)
	columns := map[string]bool{}
	for _, field := range res.Schema.Fields {
		if field.Name[0] == 'c' {
			columns[field.Name] = true
		}
	}
	if !maps.Equal(columns, l.columns) {
		f.fail("%s has the columns %v, want %v", what, slices.Sorted(maps.Keys(columns)), slices.Sorted(maps.Keys(l.columns)))
	}
	seen := map[int64]bool{}
	places := map[[3]int64]bool{}
	for b, err := range res.Batches {
		f.must("read "+what, err)
		for _, row := range rowsOf(b) {
			want := l.rows[row.n]
			if want == nil || seen[row.n] {
				f.fail("%s: row %d (partition %d, offset %d) should not be there, or not twice", what, row.n, row.part, row.offset)
			}
			seen[row.n] = true
		}
		f.columns(what, l, b, places)
	}
	if len(seen) != len(l.rows) {
		var missing []int64
		for n := range l.rows {
			if !seen[n] {
				missing = append(missing, n)
			}
		}
		slices.Sort(missing)
		f.fail("%s has %d rows, want %d; it lacks %v", what, len(seen), len(l.rows), missing[:min(10, len(missing))])
	}
}

// columns holds a batch's added columns, and that no two rows have one place.
func (f *forest) columns(what string, l *line, b reader.Batch, places map[[3]int64]bool) {
	if b.Rows == nil {
		return
	}
	at := func(name string) int { return b.Rows.Schema().FieldIndices(name)[0] }
	numbers := b.Rows.Column(at("n")).(*array.Int64)
	views := b.Rows.Column(at(schema.ViewColumn)).(*array.Int32)
	parts := b.Rows.Column(at(schema.PartitionColumn)).(*array.Int32)
	offsets := b.Rows.Column(at(schema.OffsetColumn)).(*array.Int64)
	for i := range numbers.Len() {
		place := [3]int64{int64(views.Value(i)), int64(parts.Value(i)), offsets.Value(i)}
		if places[place] {
			f.fail("%s: two rows at view %d, partition %d, offset %d", what, place[0], place[1], place[2])
		}
		places[place] = true
	}
	for c := range l.columns {
		column := b.Rows.Column(at(c)).(*array.Int64)
		for i := range numbers.Len() {
			n := numbers.Value(i)
			if has := l.rows[n].columns[c]; column.IsNull(i) == has || has && column.Value(i) != value(c, n) {
				f.fail("%s: row %d has %s = %v", what, n, c, column.ValueStr(i))
			}
		}
	}
}

// collect deletes what nothing leads to, of branches and of those that were.
func (f *forest) collect() {
	for range 2 {
		for name := range f.lines {
			out, err := f.node.datasets.Collect(f.ctx, f.at(name).Branch.TableUUID, dataset.CollectOptions{Grace: time.Millisecond})
			f.must("collect files of "+name, err)
			if out.Deleted > 0 {
				f.count("files collected")
			}
		}
		f.gone = slices.DeleteFunc(f.gone, func(table string) bool {
			left, err := f.node.datasets.Purge(f.ctx, table, time.Millisecond)
			f.must("purge the table of a deleted branch", err)
			return left == 0
		})
		time.Sleep(2 * time.Millisecond) // the grace
	}
}

// onlyMain: with one branch, whose history is forgotten, every file in the
// warehouse is one that it leads to.
func (f *forest) onlyMain() {
	table := f.at(catalog.MainBranch).Branch.TableUUID
	time.Sleep(2 * time.Millisecond)
	_, err := f.node.datasets.Expire(f.ctx, table, dataset.ExpireOptions{MaxAge: time.Millisecond, KeepLast: 1})
	f.must("expire main", err)
	f.collect()
	main, err := f.node.datasets.Load(f.ctx, table)
	f.must("load main", err)
	reached := map[string]bool{}
	for x := range main.Reach(f.ctx) {
		if x.Former && x.Err != nil {
			continue // of an older metadata file, whose snapshots have expired since
		}
		f.must("reach "+x.Location, x.Err)
		key, err := objstore.Key(f.files, x.Location)
		f.must("key of "+x.Location, err)
		reached[key] = true
	}
	for o, err := range f.files.List(f.ctx, "") {
		f.must("list the warehouse", err)
		if !reached[o.Key] && !strings.HasPrefix(o.Key, "gc/") {
			f.fail("with main alone %s is left, which nothing leads to", o.Key)
		}
		delete(reached, o.Key)
	}
}

// merge merges, or tells that it was refused: where merges crossed, files do not
// always tell what to do. Then nothing is changed.
func (f *forest) merge(from, into string, dry bool) (out dataset.Merged, done bool) {
	before, err := f.node.datasets.Load(f.ctx, f.at(into).Branch.TableUUID)
	f.must("load "+into, err)
	out, err = f.node.directory.Merge(f.ctx, "s", from, branch.Merge{Into: into, DryRun: dry})
	var conflicts *dataset.Conflicts
	refused := errors.As(err, &conflicts) || err == nil && out.Conflicts.Count > 0
	if !refused {
		f.must(fmt.Sprintf("merge %s into %s", from, into), err)
	}
	f.note("%s into %s: %s, %d rows, refused %t", from, into, out.Strategy, out.AddedRows, refused)
	if dry || refused {
		after, err := f.node.datasets.Load(f.ctx, f.at(into).Branch.TableUUID)
		f.must("load "+into, err)
		if after.MetadataLocation() != before.MetadataLocation() {
			f.fail("a merge into %s that was not done changed it", into)
		}
	}
	if refused {
		f.count("merges refused")
		f.audit(into)
	}
	return out, !refused
}

// travel reads a version that a tag keeps.
func (f *forest) travel(v *version) {
	q := reader.Request{System: true, Version: &reader.Version{Tag: v.tag}}
	f.compare("tag "+v.tag, v.line, v.branch, q)
}
