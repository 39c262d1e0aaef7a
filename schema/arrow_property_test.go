package schema_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	pqschema "github.com/apache/arrow-go/v18/parquet/schema"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/schematest"
)

// TestArrowLosesNothing takes random rows of random schemas along
// JSON → Avro → Arrow → Parquet → Arrow → Avro → JSON, and along
// Arrow → external form → IPC → Avro → JSON.
func TestArrowLosesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		s := schematest.Schema(4).Draw(r, "schema")
		rows := rapid.SliceOfN(schematest.Rows(s), 0, 6).Draw(r, "rows")
		mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
		defer mem.AssertSize(r, 0)

		stored := buildBatch(r, s, rows, mem)
		defer stored.Release()
		if err := array.ValidateRecordFull(stored); err != nil {
			r.Fatal(err)
		}
		if n := len(rows); n > 0 {
			at := len(s.Fields)
			if o := stored.Column(at + 2).(*array.Int64).Value(n - 1); o != int64(100+n-1) {
				r.Fatalf("offset %d", o)
			}
			if ts := stored.Column(at + 3).(*array.Timestamp).Value(0); ts != 1_517_363_399_650_000 {
				r.Fatalf("append time %d", ts)
			}
		}

		text := writeParquet(r, stored)
		checkFieldIDs(r, text, s.WithSystem())
		back := readParquet(t.Context(), r, text, stored.Schema())
		defer back.Release()
		equalJSON(r, "through Parquet", rows, toJSON(r, s, back, schema.ArrowOptions{ByID: true}))

		user := userColumns(s, stored)
		defer user.Release()
		x := schema.NewExternal(s)
		ext, err := x.Convert(user)
		if err != nil {
			r.Fatal(err)
		}
		defer ext.Release()
		stream := writeIPC(r, ext)
		if err := schema.CheckArrowStream(stream); err != nil {
			r.Fatal(err)
		}
		rd, err := ipc.NewReader(bytes.NewReader(stream))
		if err != nil {
			r.Fatal(err)
		}
		defer rd.Release()
		if !rd.Next() {
			r.Fatal(rd.Err())
		}
		equalJSON(r, "through IPC", rows, toJSON(r, s, rd.RecordBatch(), schema.ArrowOptions{}))
		inferred, err := schema.FromArrow(rd.Schema())
		if err != nil {
			r.Fatal(err)
		}
		if !inferred.Equal(s) {
			r.Fatal(cmp.Diff(s, inferred))
		}
	})
}

// TestParquetDecimalBelowNull has required decimals below structs that are
// null: the case in which arrow-go mixes up rows, see Builder.appendEmpty.
func TestParquetDecimalBelowNull(t *testing.T) {
	t.Parallel()
	s, err := schema.Parse([]byte(`{"fields":[{"name":"p","type":"STRUCT","id":5,"fields":[
		{"name":"wide","type":"DECIMAL","precision":38,"scale":2,"nullable":false,"id":6},
		{"name":"deep","type":"STRUCT","id":7,"nullable":false,"fields":[{"name":"narrow","type":"DECIMAL","precision":9,"scale":2,"nullable":false,"id":8}]}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	in, err := schema.CompileJSONToAvro(s, schema.JSONOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := schema.CompileAvroToArrow(s, s)
	if err != nil {
		t.Fatal(err)
	}
	b := schema.NewBuilder(s, nil)
	rows := []schematest.Row{{JSON: []byte(`{"p":null}`)}, {JSON: []byte(`{"p":{"wide":1.25,"deep":{"narrow":2.50}}}`)},
		{JSON: []byte(`{"p":null}`)}, {JSON: []byte(`{"p":{"wide":-3.75,"deep":{"narrow":4.00}}}`)}}
	for _, row := range rows {
		datum, err := in.Row(nil, row.JSON)
		if err == nil {
			err = p.Append(b, datum)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	rec := b.NewBatch()
	back := readParquet(t.Context(), t, writeParquet(t, rec), rec.Schema())
	equalJSON(t, "through Parquet", rows, toJSON(t, s, back, schema.ArrowOptions{ByID: true}))
}

// buildBatch turns rows as clients send them into a batch with system columns,
// through a builder that has been used before and has seen damaged rows.
func buildBatch(r *rapid.T, s *schema.Schema, rows []schematest.Row, mem memory.Allocator) arrow.RecordBatch {
	in, err := schema.CompileJSONToAvro(s, schema.JSONOptions{})
	if err != nil {
		r.Fatal(err)
	}
	reader := s.WithSystem()
	p, err := schema.CompileAvroToArrow(s, reader)
	if err != nil {
		r.Fatal(err)
	}
	b := schema.NewBuilder(reader, mem)
	defer b.Release()
	var rec arrow.RecordBatch
	for range 2 {
		if rec != nil {
			rec.Release()
		}
		for i, row := range rows {
			datum, err := in.Row(nil, row.Loose)
			if err != nil {
				r.Fatal(err)
			}
			cut := rapid.IntRange(0, len(datum)).Draw(r, "cut")
			if cut < len(datum) && p.Append(b, datum[:cut]) == nil {
				r.Fatalf("a row cut at %d of %d was taken", cut, len(datum))
			}
			if err := p.Append(b, datum); err != nil {
				r.Fatal(err)
			}
			b.AppendSystem(3, 1, record.Offset(100+i), 1_517_363_399_650)
		}
		rec = b.NewBatch()
	}
	return rec
}

func userColumns(s *schema.Schema, rec arrow.RecordBatch) arrow.RecordBatch {
	return array.NewRecordBatch(s.Arrow(), rec.Columns()[:len(s.Fields)], rec.NumRows())
}

func toJSON(r rapid.TB, s *schema.Schema, rec arrow.RecordBatch, o schema.ArrowOptions) []string {
	p, err := schema.CompileArrowToAvro(rec.Schema(), s, o)
	if err != nil {
		r.Fatal(err)
	}
	j, err := schema.CompileAvroToJSON(s, s, schema.JSONOutOptions{})
	if err != nil {
		r.Fatal(err)
	}
	rows, err := p.Bind(rec)
	if err != nil {
		r.Fatal(err)
	}
	var out []string
	for i := range rows.Len() {
		datum, err := rows.Row(nil, i)
		if err != nil {
			r.Fatal(err)
		}
		text, err := j.Row(nil, datum)
		if err != nil {
			r.Fatal(err)
		}
		out = append(out, string(text))
	}
	return out
}

func equalJSON(r rapid.TB, how string, want []schematest.Row, got []string) {
	var texts []string
	for _, w := range want {
		texts = append(texts, string(w.JSON))
	}
	if diff := cmp.Diff(texts, got); diff != "" {
		r.Fatalf("%s: %s", how, diff)
	}
}

func writeParquet(r rapid.TB, rec arrow.RecordBatch) []byte {
	var b bytes.Buffer
	w, err := pqarrow.NewFileWriter(rec.Schema(), &b, parquet.NewWriterProperties(
		parquet.WithCompression(compress.Codecs.Zstd), parquet.WithCompressionLevel(1), parquet.WithStoreDecimalAsInteger(true)),
		pqarrow.DefaultWriterProps())
	if err == nil {
		err = w.Write(rec)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		r.Fatal(err)
	}
	return b.Bytes()
}

func readParquet(ctx context.Context, r rapid.TB, text []byte, as *arrow.Schema) arrow.RecordBatch {
	tbl, err := pqarrow.ReadTable(ctx, bytes.NewReader(text), nil, pqarrow.ArrowReadProperties{}, memory.DefaultAllocator)
	if err != nil {
		r.Fatal(err)
	}
	defer tbl.Release()
	if !tbl.Schema().Equal(as) {
		r.Fatalf("read back as %v\nwritten as %v", tbl.Schema(), as)
	}
	tr := array.NewTableReader(tbl, -1)
	defer tr.Release()
	if !tr.Next() {
		return array.NewRecordBatch(tbl.Schema(), emptyColumns(tbl.Schema()), 0)
	}
	rec := tr.RecordBatch()
	if rec.NumRows() != tbl.NumRows() {
		r.Fatalf("%d rows of %d in the first batch", rec.NumRows(), tbl.NumRows())
	}
	rec.Retain()
	return rec
}

func emptyColumns(s *arrow.Schema) []arrow.Array {
	var out []arrow.Array
	for _, f := range s.Fields() {
		out = append(out, array.MakeArrayOfNull(memory.DefaultAllocator, f.Type, 0))
	}
	return out
}

// checkFieldIDs compares the field ids at every level of a Parquet file with
// those of its schema.
func checkFieldIDs(r rapid.TB, text []byte, s *schema.Schema) {
	f, err := file.NewParquetReader(bytes.NewReader(text))
	if err != nil {
		r.Fatal(err)
	}
	defer f.Close()
	var have, want []string
	var walk func(path string, n pqschema.Node)
	walk = func(path string, n pqschema.Node) {
		if n.FieldID() > 0 {
			have = append(have, path+" "+strconv.Itoa(int(n.FieldID())))
		}
		if g, ok := n.(*pqschema.GroupNode); ok {
			for i := range g.NumFields() {
				walk(path+"/"+g.Field(i).Name(), g.Field(i))
			}
		}
	}
	walk("", f.MetaData().Schema.Root())
	var wanted func(path string, f *schema.Field)
	wanted = func(path string, f *schema.Field) {
		want = append(want, path+" "+strconv.Itoa(f.ID))
		switch f.Type.Kind {
		case schema.Array:
			wanted(path+"/list/element", f.Type.Element)
		case schema.Map:
			want = append(want, path+"/key_value/key "+strconv.Itoa(f.Type.KeyID))
			wanted(path+"/key_value/value", f.Type.Value)
		case schema.Struct:
			for i := range f.Type.Fields {
				wanted(path+"/"+f.Type.Fields[i].Name, &f.Type.Fields[i])
			}
		}
	}
	for i := range s.Fields {
		wanted("/"+s.Fields[i].Name, &s.Fields[i])
	}
	if diff := cmp.Diff(want, have); diff != "" {
		r.Fatalf("field ids: %s", diff)
	}
}

func writeIPC(r rapid.TB, rec arrow.RecordBatch) []byte {
	var b bytes.Buffer
	w := ipc.NewWriter(&b, ipc.WithSchema(rec.Schema()))
	err := w.Write(rec)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		r.Fatal(err)
	}
	return b.Bytes()
}

// TestArrowOfOlderRows reads rows under a later schema as columns, and compares
// with what Avro → JSON makes of them.
func TestArrowOfOlderRows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		writer := schematest.Schema(3).Draw(r, "writer")
		added := schematest.Schema(2).Draw(r, "added")
		proposed := &schema.Schema{Fields: evolved(r, writer.Clone().Fields, added.Clone().Fields)}
		reader, _, err := schema.Evolve(writer, proposed, writer.MaxID()+1)
		if err != nil {
			r.Skip(err) // a name that is taken, say
		}
		rows := rapid.SliceOfN(schematest.Rows(writer), 1, 4).Draw(r, "rows")
		p, err := schema.CompileAvroToArrow(writer, reader)
		if err != nil {
			r.Fatal(err)
		}
		j, err := schema.CompileAvroToJSON(writer, reader, schema.JSONOutOptions{})
		if err != nil {
			r.Fatal(err)
		}
		b := schema.NewBuilder(reader, nil)
		var want []schematest.Row
		for _, row := range rows {
			if err := p.Append(b, row.Avro); err != nil {
				r.Fatal(err)
			}
			text, err := j.Row(nil, row.Avro)
			if err != nil {
				r.Fatal(err)
			}
			want = append(want, schematest.Row{JSON: text})
		}
		rec := b.NewBatch()
		defer rec.Release()
		if err := array.ValidateRecordFull(rec); err != nil {
			r.Fatal(err)
		}
		equalJSON(r, "as columns", want, toJSON(r, reader, rec, schema.ArrowOptions{ByID: true}))
	})
}

// evolved drops, renames, reorders, widens and adds fields at every depth.
func evolved(r *rapid.T, fields, added []schema.Field) []schema.Field {
	var out []schema.Field
	for i := range fields {
		f := fields[i]
		if len(fields) > 1 && rapid.IntRange(0, 5).Draw(r, "drop") == 0 {
			continue
		}
		if rapid.IntRange(0, 5).Draw(r, "rename") == 0 {
			f.Name = fmt.Sprintf("renamed%d", i)
		}
		evolveField(r, &f, added)
		out = append(out, f)
	}
	for i := range added {
		f := added[i]
		if f.Default == nil {
			f.Nullable = true
		}
		f.Name = fmt.Sprintf("added%d", i)
		clearIDs(&f)
		out = append(out, f)
	}
	if rapid.Bool().Draw(r, "reorder") {
		slices.Reverse(out)
	}
	return out
}

func evolveField(r *rapid.T, f *schema.Field, added []schema.Field) {
	f.Nullable = f.Nullable || rapid.IntRange(0, 3).Draw(r, "relax") == 0
	t := &f.Type
	widen := rapid.Bool().Draw(r, "widen")
	switch {
	case t.Kind == schema.Array:
		evolveField(r, t.Element, nil)
	case t.Kind == schema.Map:
		evolveField(r, t.Value, nil)
	case t.Kind == schema.Struct:
		f.Default = nil
		t.Fields = evolved(r, t.Fields, added[:min(len(added), 1)])
	case !widen:
	case t.Kind >= schema.Byte && t.Kind < schema.Long:
		t.Kind = schema.Kind(rapid.IntRange(int(t.Kind), int(schema.Long)).Draw(r, "to"))
	case t.Kind == schema.Float:
		t.Kind = schema.Double
	case t.Kind == schema.Decimal:
		t.Precision = rapid.IntRange(t.Precision, schema.MaxPrecision).Draw(r, "precision")
	}
}

func clearIDs(f *schema.Field) {
	f.ID = 0
	switch t := &f.Type; t.Kind {
	case schema.Array:
		clearIDs(t.Element)
	case schema.Map:
		t.KeyID = 0
		clearIDs(t.Value)
	case schema.Struct:
		for i := range t.Fields {
			clearIDs(&t.Fields[i])
		}
	}
}
