package dataset_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	pqschema "github.com/apache/arrow-go/v18/parquet/schema"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/predicate"
)

func TestAllTypesRoundTrip(t *testing.T) {
	t.Parallel()
	for _, format := range []dataset.Format{dataset.Parquet, dataset.Avro} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.d.SetRowGroupRows(70)
			s := allTypes()
			table := e.create(s)
			r := rand.New(rand.NewPCG(1, 2))
			var want []string
			var batches []arrow.RecordBatch
			for i := range 3 {
				b := randomBatch(r, s, i*50, 50)
				defer b.Release()
				want = append(want, render(b)...)
				batches = append(batches, b)
			}
			f := e.fileAs(format, table, s, fileName(0, 0, 150), batches...)
			if f.Rows() != 150 || f.Bytes() == 0 {
				t.Errorf("file of %d rows, %d bytes", f.Rows(), f.Bytes())
			}
			e.commit(dataset.Commit{Add: []dataset.DataFile{f}})
			for _, rows := range []int{0, 1, 7, 70} {
				var got []string
				for b, err := range e.load().Scan(t.Context(), dataset.ScanOptions{Schema: s.WithSystem(), BatchRows: rows}) {
					if err != nil {
						t.Fatal(err)
					}
					if !b.Schema().Equal(s.WithSystem().Arrow()) {
						t.Fatalf("schema %s", b.Schema())
					}
					if rows > 0 && b.NumRows() > int64(rows) {
						t.Errorf("a batch of %d rows, at most %d were asked for", b.NumRows(), rows)
					}
					got = append(got, render(b)...)
				}
				wantRows(t, got, want)
			}
		})
	}
}

func wantRows(t *testing.T, got, want []string) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("row %d is\n%s\nwant\n%s", i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d rows, want %d", len(got), len(want))
	}
}

// TestPruningKeepsEveryMatch compares scans with and without pruning, for
// predicates on values that occur, among them every column's exact minimum and
// maximum.
func TestPruningKeepsEveryMatch(t *testing.T) {
	t.Parallel()
	for _, format := range []dataset.Format{dataset.Parquet, dataset.Avro} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			seeds := uint64(2)
			if raced || format == dataset.Avro {
				seeds = 1
			}
			for seed := range seeds {
				pruningKeepsEveryMatch(t, format, seed)
			}
		})
	}
}

func pruningKeepsEveryMatch(t *testing.T, format dataset.Format, seed uint64) {
	e := newMemEnv(t)
	e.d.SetRowGroupRows(8)
	s := allTypes()
	table := e.create(s)
	r := rand.New(rand.NewPCG(seed, 1))
	var batches []arrow.RecordBatch
	var files []dataset.DataFile
	for i := range 4 {
		b := randomBatch(r, s, i*12, 12)
		defer b.Release()
		batches = append(batches, b)
		files = append(files, e.fileAs(format, table, s, fileName(0, record.Offset(i*12), record.Offset(i*12+12)), b))
	}
	table = e.commit(dataset.Commit{Add: files})
	pruned := dataset.ScanStats{}
	for c, f := range s.Fields {
		if f.Type.Kind.Nested() {
			continue
		}
		// Every value of one file, its exact minimum and maximum among them.
		b := batches[r.IntN(len(batches))]
		for i := range int(b.NumRows()) {
			if lit, ok := literal(f.Type.Kind, b.Column(c), i); ok && len(lit) < 1000 {
				checkPruning(t, table, s, f.Name, batches, f.Name+" = "+lit, &pruned)
			}
		}
		for _, op := range []string{"!=", "<", "<=", ">", ">=", "IN"} {
			if f.Type.Kind == schema.Boolean && strings.ContainsAny(op, "<>") {
				continue
			}
			if raced && r.IntN(4) > 0 {
				continue
			}
			for range 2 {
				b := batches[r.IntN(len(batches))]
				lit, ok := literal(f.Type.Kind, b.Column(c), r.IntN(12))
				if !ok || len(lit) > 1000 {
					continue
				}
				where := fmt.Sprintf("%s %s %s", f.Name, op, lit)
				if op == "IN" {
					where = fmt.Sprintf("%s IN (%s)", f.Name, lit)
				}
				checkPruning(t, table, s, f.Name, batches, where, &pruned)
			}
		}
		checkPruning(t, table, s, f.Name, batches, f.Name+" IS NULL", &pruned)
		checkPruning(t, table, s, f.Name, batches, f.Name+" IS NOT NULL", &pruned)
	}
	checkPruning(t, table, s, "struct", batches, "struct.a = 0", &pruned)
	checkPruning(t, table, s, "struct", batches, "struct.deep.s = 'a' OR struct IS NULL", &pruned)
	if pruned.FilesSkipped == 0 && format == dataset.Parquet {
		t.Error("no file was ever skipped")
	}
	if pruned.RowGroupsSkipped == 0 && format == dataset.Parquet {
		t.Error("no row group was ever skipped")
	}
}

func checkPruning(t *testing.T, table *dataset.Table, s *schema.Schema, name string, batches []arrow.RecordBatch, where string, total *dataset.ScanStats) {
	t.Helper()
	expr, err := predicate.Parse(where)
	if err != nil {
		t.Fatal(err)
	}
	filter, err := expr.Bind(s)
	if err != nil {
		t.Fatal(err)
	}
	column, err := s.Project([]string{name})
	if err != nil {
		t.Fatal(err)
	}
	offsets := func(b arrow.RecordBatch) []int64 {
		var sel predicate.Selection
		if err := filter.Filter(b, &sel); err != nil {
			t.Fatal(err)
		}
		var out []int64
		column := b.Column(int(b.NumCols()) - 2).(*array.Int64)
		for i := sel.Next(0); i >= 0; i = sel.Next(i + 1) {
			out = append(out, column.Value(i))
		}
		return out
	}
	var want, got []int64
	for _, b := range batches {
		want = append(want, offsets(b)...)
	}
	var stats dataset.ScanStats
	for b, err := range table.Scan(t.Context(), dataset.ScanOptions{Schema: column.WithSystem(), Filter: filter, Stats: &stats}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, offsets(b)...)
	}
	total.FilesSkipped += stats.FilesSkipped
	total.RowGroupsSkipped += stats.RowGroupsSkipped
	if !slices.Equal(got, want) {
		t.Fatalf("where %.200s: offsets %v, want %v", where, got, want)
	}
}

func TestPushdownSkipsRowGroups(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.d.SetRowGroupRows(100)
	e.create(numbers())
	e.addNumbers(0, 1000)
	e.addNumbers(1000, 2000)
	filter := bind(t, "n >= 14990 AND n <= 15010") // offsets 1499 to 1501
	var stats dataset.ScanStats
	rows := e.rows(e.load(), dataset.ScanOptions{Filter: filter, Stats: &stats})
	if stats.FilesSkipped != 1 || stats.RowGroups != 10 || stats.RowGroupsSkipped != 8 || len(rows) != 200 {
		t.Errorf("%d rows, %+v", len(rows), stats)
	}

	stats = dataset.ScanStats{}
	rows = e.rows(e.load(), dataset.ScanOptions{View: 2, From: record.Offsets{950}, To: record.Offsets{1050}, Stats: &stats})
	if stats.FilesSkipped != 0 || stats.RowGroupsSkipped != 18 || len(rows) != 200 {
		t.Errorf("by offsets: %d rows, %+v", len(rows), stats)
	}
	stats = dataset.ScanStats{}
	rows = e.rows(e.load(), dataset.ScanOptions{View: 2, From: record.Offsets{2000}, Stats: &stats})
	if stats.FilesSkipped != 2 || len(rows) != 0 {
		t.Errorf("from the end: %d rows, %+v", len(rows), stats)
	}
	stats = dataset.ScanStats{}
	rows = e.rows(e.load(), dataset.ScanOptions{View: 3, Stats: &stats})
	if stats.FilesSkipped != 2 || len(rows) != 0 {
		t.Errorf("of another view: %d rows, %+v", len(rows), stats)
	}
}

func bind(t *testing.T, where string) *predicate.Bound {
	t.Helper()
	expr, err := predicate.Parse(where)
	if err != nil {
		t.Fatal(err)
	}
	b, err := expr.Bind(numbers())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestParquetLayout looks at what other engines rely on.
func TestParquetLayout(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s := allTypes()
	table := e.create(s)
	b := randomBatch(rand.New(rand.NewPCG(3, 4)), s, 0, 500)
	defer b.Release()
	f := e.file(table, s, fileName(0, 0, 500), b)
	r, err := os.Open(strings.TrimPrefix(f.Path(), "file://"))
	if err != nil {
		t.Fatal(err)
	}
	pf, err := file.NewParquetReader(r)
	if err != nil {
		t.Fatal(err)
	}
	defer pf.Close()
	root := pf.MetaData().Schema
	physical := map[string]parquet.Type{
		"decimal5": parquet.Types.Int32, "decimal9": parquet.Types.Int32, "decimal12": parquet.Types.Int64,
		"decimal18": parquet.Types.Int64, "decimal24": parquet.Types.FixedLenByteArray, "decimal38": parquet.Types.FixedLenByteArray,
		"timestamp": parquet.Types.Int64, "byte": parquet.Types.Int32, "date": parquet.Types.Int32,
	}
	ids := map[int32]bool{}
	for i := range root.NumColumns() {
		c := root.Column(i)
		id := c.SchemaNode().FieldID()
		if id <= 0 || ids[id] {
			t.Errorf("column %s has the field id %d", c.Path(), id)
		}
		ids[id] = true
		if want, ok := physical[c.Path()]; ok && c.PhysicalType() != want {
			t.Errorf("column %s is %s, want %s", c.Path(), c.PhysicalType(), want)
		}
		chunk, err := pf.MetaData().RowGroup(0).ColumnChunk(i)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(c.Path(), "list") && !strings.Contains(c.Path(), "map") {
			if st, err := chunk.Statistics(); err != nil || st == nil || !st.HasNullCount() {
				t.Errorf("column %s has no statistics", c.Path())
			}
		}
		if c.Name() == schema.OffsetColumn || c.Name() == schema.TimestampColumn {
			if !slices.Contains(chunk.Encodings(), parquet.Encodings.DeltaBinaryPacked) || chunk.HasDictionaryPage() {
				t.Errorf("column %s has the encodings %v", c.Path(), chunk.Encodings())
			}
		}
		if chunk.Compression().String() != "ZSTD" {
			t.Errorf("column %s is compressed by %s", c.Path(), chunk.Compression())
		}
	}
	ts := root.Column(root.ColumnIndexByName("timestamp")).LogicalType().(pqschema.TimestampLogicalType)
	if !ts.IsAdjustedToUTC() || ts.TimeUnit() != pqschema.TimeUnitMicros {
		t.Errorf("timestamps are %s", ts)
	}
	kv := pf.MetaData().KeyValueMetadata()
	if v := kv.FindValue("thermocline.view"); v == nil || *v != "2" {
		t.Errorf("thermocline.view is %v", v)
	}
	if v := kv.FindValue("thermocline.ranges"); v == nil || *v != `[{"partition":0,"start":0,"end":500}]` {
		t.Errorf("thermocline.ranges is %v", *v)
	}
}

func TestWriterRefusesBadBatches(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	table := e.create(numbers())
	for _, format := range []dataset.Format{dataset.Parquet, dataset.Avro} {
		w, err := table.NewFileWriter(t.Context(), fileName(0, 0, 1), numbers(), format)
		if err != nil {
			t.Fatal(err)
		}
		s := allTypes()
		b := randomBatch(rand.New(rand.NewPCG(3, 4)), s, 0, 1)
		wantIs(t, w.Write(b), record.ErrInvalid)
		b.Release()
		w.Abort()
		wantIs(t, w.Write(b), record.ErrClosed)
		_, err = w.Close()
		wantIs(t, err, record.ErrClosed)
	}
	_, err := table.NewFileWriter(t.Context(), fileName(0, 0, 1), numbers(), "ORC")
	wantIs(t, err, record.ErrInvalid)
	for info, err := range e.store.List(t.Context(), e.id+"/data/") {
		t.Errorf("aborted files left %v, %v", info, err)
	}
}

// A file whose dictionary holds a large value once becomes batches of bounded
// size all the same.
func TestScanBoundsBatchesOfRepeatedValues(t *testing.T) {
	t.Parallel()
	for _, format := range []dataset.Format{dataset.Parquet, dataset.Avro} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			s := &schema.Schema{Fields: []schema.Field{{ID: 5, Name: "text", Type: schema.Type{Kind: schema.String}}}}
			table := e.create(s)
			large := strings.Repeat("x", 50_000)
			b := array.NewRecordBuilder(memory.DefaultAllocator, s.WithSystem().Arrow())
			defer b.Release()
			for o := range record.Offset(400) {
				b.Field(0).(*array.StringBuilder).Append(large)
				appendSystem(b, 1, 2, 0, o)
			}
			batch := b.NewRecordBatch()
			defer batch.Release()
			f := e.fileAs(format, table, s, fileName(0, 0, 400), batch)
			if f.Bytes() > 1<<20 {
				t.Fatalf("the file has %d bytes, too many to be a test", f.Bytes())
			}
			e.commit(dataset.Commit{Add: []dataset.DataFile{f}})
			rows := int64(0)
			for b, err := range e.load().Scan(t.Context(), dataset.ScanOptions{BatchBytes: 1 << 20}) {
				if err != nil {
					t.Fatal(err)
				}
				if b.NumRows() > 64 {
					t.Errorf("a batch of %d rows of %d bytes", b.NumRows(), len(large))
				}
				rows += b.NumRows()
			}
			if rows != 400 {
				t.Errorf("%d rows, want 400", rows)
			}
		})
	}
}
