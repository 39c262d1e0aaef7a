package dataset_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// parquetOf writes rows as another engine would, under names alone unless the
// Arrow schema has field ids.
func parquetOf(t testing.TB, s *arrow.Schema, rows string, o ...parquet.WriterProperty) []byte {
	t.Helper()
	rec, _, err := array.RecordFromJSON(memory.DefaultAllocator, s, strings.NewReader(rows))
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Release()
	var buf bytes.Buffer
	w, err := pqarrow.NewFileWriter(s, &buf, parquet.NewWriterProperties(o...), pqarrow.DefaultWriterProps())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(rec); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// imported is a schema with every form of column.
func imported() *schema.Schema {
	required := field(5, "n", schema.Long)
	required.Nullable = false
	name := field(6, "name", schema.String)
	name.Nullable = true
	place := structOf(7, "place", field(8, "lat", schema.Double))
	place.Nullable, place.Type.Fields[0].Nullable = true, true
	points := listOf(9, "points", field(10, "", schema.Integer))
	points.Nullable, points.Type.Element.Nullable = true, true
	tags := mapOf(11, "tags", 12, field(13, "", schema.String))
	tags.Nullable, tags.Type.Value.Nullable = true, true
	at := field(14, "at", schema.Timestamp)
	at.Nullable = true
	return &schema.Schema{Fields: []schema.Field{required, name, place, points, tags, at}}
}

const importedRows = `[
	{"n":3,"name":"a","place":{"lat":1.5},"points":[1,2],"tags":[{"key":"k","value":"v"}],"at":"2020-01-01 00:00:00Z"},
	{"n":-7,"name":null,"place":null,"points":[],"tags":[],"at":null}]`

func anonymous(s *arrow.Schema) *arrow.Schema {
	var plain func(f arrow.Field) arrow.Field
	plain = func(f arrow.Field) arrow.Field {
		f.Metadata = arrow.Metadata{}
		switch t := f.Type.(type) {
		case *arrow.StructType:
			parts := make([]arrow.Field, t.NumFields())
			for i := range parts {
				parts[i] = plain(t.Field(i))
			}
			f.Type = arrow.StructOf(parts...)
		case *arrow.ListType:
			f.Type = arrow.ListOfField(plain(t.ElemField()))
		case *arrow.MapType:
			f.Type = arrow.MapOfFields(plain(t.KeyField()), plain(t.ItemField()))
		}
		return f
	}
	out := make([]arrow.Field, s.NumFields())
	for i := range out {
		out[i] = plain(s.Field(i))
	}
	return arrow.NewSchema(out, nil)
}

// TestImportParquet: a foreign file becomes a data file of ours, with checksums and
// statistics, whether its columns are known by id or by name, in any order.
func TestImportParquet(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	s := imported()
	table := e.createPlain(s)
	byID := parquetOf(t, s.Arrow(), importedRows)
	named := anonymous(s.Arrow())
	turned := arrow.NewSchema([]arrow.Field{named.Field(4), named.Field(1), named.Field(0)}, nil)
	var files []dataset.DataFile
	for _, file := range [][]byte{byID, parquetOf(t, named, importedRows), parquetOf(t, turned, `[{"n":4,"name":"x","tags":null}]`)} {
		f, err := table.ImportParquet(t.Context(), iotest.HalfReader(bytes.NewReader(file)))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	table = e.commit(dataset.Commit{Add: files})
	var got []string
	for b, err := range table.Scan(t.Context(), dataset.ScanOptions{Schema: s}) {
		if err != nil {
			t.Fatal(err)
		}
		text, err := b.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimSpace(string(text)))
	}
	two := `[{"at":"2020-01-01T00:00:00Z","n":3,"name":"a","place":{"lat":1.5},"points":[1,2],"tags":[{"key":"k","value":"v"}]}
,{"at":null,"n":-7,"name":null,"place":null,"points":[],"tags":[]}
]`
	if strings.Join(got, "") != two+two+`[{"at":null,"n":4,"name":"x","place":null,"points":null,"tags":null}
]` {
		t.Errorf("rows %q", got)
	}
	for i := range files[:2] {
		info := files[i].Info()
		if !info.HasChecksums() || info.Rows != 2 || info.Nulls[6] != 1 || string(info.Upper[6]) != "a" || len(info.Lower[5]) != 8 || info.Lower[10] != nil {
			t.Errorf("file %+v", info)
		}
		if err := table.CheckFile(t.Context(), info); err != nil {
			t.Error(err)
		}
	}
	// Another reader passes over the checksums.
	key, _ := objstore.Key(e.store, files[0].Path())
	stored, err := objstore.Get(t.Context(), e.store, key, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	mem := memory.DefaultAllocator
	tab, err := pqarrow.ReadTable(t.Context(), bytes.NewReader(stored), parquet.NewReaderProperties(mem), pqarrow.ArrowReadProperties{}, mem)
	if err != nil || tab.NumRows() != 2 {
		t.Errorf("read elsewhere: %v", err)
	}
	if err == nil {
		tab.Release()
	}
	if len(stored) <= len(byID) {
		t.Errorf("%d bytes stored of %d", len(stored), len(byID))
	}
}

// TestImportedNames: a file without field ids is read by the names that its columns
// had, also after a rename, and gives a table without a name mapping one.
func TestImportedNames(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	table := e.createPlain(numbers())
	file := parquetOf(t, arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.PrimitiveTypes.Int64}}, nil), `[{"n":7}]`)
	f, err := table.ImportParquet(t.Context(), bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	e.commit(dataset.Commit{Add: []dataset.DataFile{f}})
	for _, name := range []string{"m", "k"} {
		s := numbers()
		s.Fields[0].Name = name
		now := e.commit(dataset.Commit{Schema: s})
		if rows := e.rows(now, dataset.ScanOptions{Schema: s}); len(rows) != 1 || rows[0] != name+"=7" {
			t.Errorf("renamed to %s: %q", name, rows)
		}
	}
	// The old name belongs to a new column now, and with it what the file has there.
	s := numbers()
	s.Fields[0].Name = "k"
	s.Fields = append(s.Fields, field(6, "n", schema.Long))
	s.Fields[1].Nullable = true
	now := e.commit(dataset.Commit{Schema: s})
	if names := now.Property("schema.name-mapping.default"); strings.Count(names, `"n"`) != 1 || !strings.Contains(names, `"m"`) {
		t.Errorf("names %s", names)
	}
}

func withID(f arrow.Field, id string) arrow.Field {
	f.Metadata = arrow.NewMetadata([]string{schema.FieldIDKey}, []string{id})
	return f
}

// TestImportRefuses: what could not be read back, or not as the table promises,
// leaves nothing behind.
func TestImportRefuses(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	table := e.createPlain(imported())
	long, text := arrow.PrimitiveTypes.Int64, arrow.BinaryTypes.String
	one := func(name string, typ arrow.DataType, nullable bool) arrow.Field {
		return arrow.Field{Name: name, Type: typ, Nullable: nullable}
	}
	n := one("n", long, false)
	file := func(rows string, fields ...arrow.Field) []byte {
		return parquetOf(t, arrow.NewSchema(fields, nil), rows)
	}
	good := file(`[{"n":1}]`, n)
	torn := bytes.Clone(good)
	torn[4] ^= 0xff // the head of its first page
	hollow := append(bytes.Clone(good[:4]), good[len(good)/2:]...)
	for what, try := range map[string]struct {
		file []byte
		text string
		want error
	}{
		"empty":            {nil, "no whole Parquet", record.ErrInvalid},
		"text":             {[]byte("n\n1\n2\n3\n4\n5"), "PAR1", record.ErrInvalid},
		"cut":              {good[:len(good)-5], "PAR1", record.ErrInvalid},
		"damaged":          {torn, "", record.ErrInvalid},
		"without its rows": {hollow, "", record.ErrInvalid},
		"footer":           {append([]byte("PAR1xxxx\xff\xff\xff\x7f"), "PAR1"...), "footer", record.ErrInvalid},
		"unknown column":   {file(`[{"n":1,"zzz":1}]`, n, one("zzz", long, true)), `"zzz"`, record.ErrInvalid},
		"required absent":  {file(`[{"name":"a"}]`, one("name", text, true)), `"n" is required`, record.ErrInvalid},
		"required null":    {file(`[{"n":null},{"n":1}]`, one("n", long, true)), "1 nulls", record.ErrInvalid},
		"no statistics": {parquetOf(t, arrow.NewSchema([]arrow.Field{one("n", long, true)}, nil), `[{"n":1}]`, parquet.WithStats(false)),
			"does not tell", record.ErrInvalid},
		"type":        {file(`[{"n":"1"}]`, one("n", text, false)), `"n"`, record.ErrInvalid},
		"nanoseconds": {file(`[{"n":1,"at":1}]`, n, one("at", &arrow.TimestampType{Unit: arrow.Nanosecond, TimeZone: "UTC"}, true)), `"at"`, record.ErrInvalid},
		"no zone":     {file(`[{"n":1,"at":1}]`, n, one("at", &arrow.TimestampType{Unit: arrow.Microsecond}, true)), `"at"`, record.ErrInvalid},
		"twice":       {file(`[{"n":1,"m":2}]`, withID(n, "5"), withID(one("m", long, false), "5")), "twice", record.ErrInvalid},
		"unknown part": {file(`[{"n":1,"place":{"lat":1,"lon":2}}]`, n,
			one("place", arrow.StructOf(one("lat", arrow.PrimitiveTypes.Float64, true), one("lon", arrow.PrimitiveTypes.Float64, true)), true)),
			`"place.lon"`, record.ErrInvalid},
	} {
		_, err := table.ImportParquet(t.Context(), bytes.NewReader(try.file))
		if !errors.Is(err, try.want) || errors.Is(err, record.ErrCorrupt) || !strings.Contains(err.Error(), try.text) {
			t.Errorf("%s: %v, want %q", what, err, try.text)
		}
	}
	_, err := table.ImportParquet(t.Context(), io.MultiReader(bytes.NewReader(good), iotest.ErrReader(errors.New("gone"))))
	if err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("a sender that left: %v", err)
	}
	// A null where the file may hold some, but does not.
	if _, err := table.ImportParquet(t.Context(), bytes.NewReader(file(`[{"n":1}]`, one("n", long, true)))); err != nil {
		t.Error(err)
	}
	left := 0
	for o, err := range e.d.List(t.Context(), e.id) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(o.Key, ".parquet") {
			left++
		}
	}
	if left != 1 {
		t.Errorf("%d files, want the good one", left)
	}
}
