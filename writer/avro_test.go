package writer_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/avro"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/ocf"
	"github.com/thermocline/thermocline/writer"
)

// one is a record with the one field x.
func one(avroType string) string {
	return `{"type":"record","name":"theirs","fields":[{"name":"x","type":` + avroType + `}]}`
}

func encode(t testing.TB, avsc string, values ...any) [][]byte {
	t.Helper()
	s := avro.MustParse(avsc)
	var data [][]byte
	for _, v := range values {
		b, err := s.Encode(map[string]any{"x": v})
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, b)
	}
	return data
}

// Schemas of clients, whose data another library wrote: what is taken, as what,
// and what is refused, and where it says so.
func TestForeignAvro(t *testing.T) {
	t.Parallel()
	at := time.Date(2020, 1, 31, 12, 0, 0, 123_000_000, time.UTC)
	for _, c := range []struct {
		avro   string
		values []any
		ours   string
		want   string // the rows' x or their errors' codes; or text of the request's error
	}{
		{`["string","null"]`, []any{"a", nil}, `"type":"STRING"`, `"a" null`},
		{`["null","string"]`, []any{"a", nil}, `"type":"STRING","nullable":false`, `"a" null!`},
		{`["string"]`, []any{"a"}, `"type":"STRING","nullable":false`, `"a"`},
		{`"string"`, []any{"\xff"}, `"type":"STRING"`, `wrong_type!`},
		{`{"type":"string","logicalType":"uuid"}`, []any{"2c1b7a30-2f2e-4d3e-9f0e-7b6d8e9f0a1b"}, `"type":"STRING"`, `"2c1b7a30-2f2e-4d3e-9f0e-7b6d8e9f0a1b"`},
		{`{"type":"enum","name":"e","symbols":["A","B"]}`, []any{"B", "A"}, `"type":"STRING","nullable":false`, `"B" "A"`},
		{`{"type":"fixed","name":"f","size":2}`, []any{[2]byte{1, 2}}, `"type":"BINARY"`, `"AQI="`},
		{`"int"`, []any{int32(math.MaxInt32), int32(-1)}, `"type":"LONG"`, `2147483647 -1`},
		{`"long"`, []any{int64(127), int64(128)}, `"type":"BYTE"`, `127 out_of_range!`},
		{`"int"`, []any{int32(3)}, `"type":"DOUBLE"`, `3`},
		{`"long"`, []any{int64(1) << 53, int64(1)<<53 + 1}, `"type":"DOUBLE"`, `9007199254740992 lossy!`},
		{`"float"`, []any{float32(0.5), float32(math.NaN()), float32(math.Inf(1))}, `"type":"DOUBLE"`, `0.5 out_of_range! out_of_range!`},
		{`"double"`, []any{0.5, 0.1, 1e300}, `"type":"FLOAT"`, `0.5 lossy! out_of_range!`},
		{`{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}`, []any{big.NewRat(-12345, 100)}, `"type":"DECIMAL","precision":9,"scale":2`, `-123.45`},
		{`{"type":"fixed","name":"d","size":6,"logicalType":"decimal","precision":9,"scale":2}`, []any{big.NewRat(-12345, 100), big.NewRat(99999, 1)}, `"type":"DECIMAL","precision":6,"scale":2`, `-123.45 out_of_range!`},
		{`{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}`, []any{big.NewRat(150, 100), big.NewRat(151, 100)}, `"type":"DECIMAL","precision":9,"scale":1`, `1.5 lossy!`},
		{`{"type":"long","logicalType":"timestamp-millis"}`, []any{at}, `"type":"TIMESTAMP"`, `"2020-01-31T12:00:00.123Z"`},
		{`{"type":"long","logicalType":"timestamp-nanos"}`, []any{at, at.Add(1)}, `"type":"TIMESTAMP"`, `"2020-01-31T12:00:00.123Z" lossy!`},
		{`{"type":"int","logicalType":"date"}`, []any{at}, `"type":"DATE"`, `"2020-01-31"`},
		{`{"type":"array","items":["int","null"]}`, []any{[]any{int32(1), nil}, []any{}}, `"type":"ARRAY","element":{"type":"LONG"}`, `[1,null] []`},
		{`{"type":"array","items":["int","null"]}`, []any{[]any{int32(1), nil}}, `"type":"ARRAY","element":{"type":"LONG","nullable":false}`, `null!`},
		{`{"type":"map","values":"long"}`, []any{map[string]any{"a": int64(1)}}, `"type":"MAP","value":{"type":"LONG"}`, `{"a":1}`},
		{`{"type":"record","name":"r","fields":[{"name":"b","type":"int"},{"name":"a","type":"string"}]}`, []any{map[string]any{"a": "x", "b": int32(1)}},
			`"type":"STRUCT","fields":[{"name":"a","type":"STRING"},{"name":"b","type":"LONG"},{"name":"c","type":"LONG","default":4}]`, `{"a":"x","b":1,"c":4}`},
		{`{"type":"record","name":"r","fields":[{"name":"b","type":"int"}]}`, nil, `"type":"STRUCT","fields":[{"name":"a","type":"STRING"}]`, `"x.b" is not in the schema`},
		{`{"type":"record","name":"r","fields":[{"name":"b","type":"int"}]}`, nil, `"type":"STRUCT","fields":[{"name":"b","type":"LONG"},{"name":"a","type":"STRING","nullable":false}]`, `"x.a" is required, has no default`},
		{`"string"`, nil, `"type":"LONG"`, `"x" is utf8, which does not fit LONG`},
		{`"int"`, nil, `"type":"DATE"`, `does not fit DATE`},
		{`["int","string"]`, nil, `"type":"LONG"`, `union of int and string`},
		{`{"type":"long","logicalType":"local-timestamp-micros"}`, nil, `"type":"TIMESTAMP"`, `no time zone`},
		{`{"type":"array","items":"theirs"}`, nil, `"type":"LONG"`, `recursive`},
	} {
		e := newEnv(t, parse(t, `{"fields":[{"name":"x",`+c.ours+`}]}`), 1)
		avsc := one(c.avro)
		codec := []ocf.Codec{ocf.Null, ocf.Deflate, ocf.Snappy, ocf.Zstd}[len(c.avro)%4]
		q := writer.Request{Format: writer.Avro, SkipInvalid: true, Body: container(t, avsc, codec, encode(t, avsc, c.values...)...)}
		for range 2 { // the second one finds the schema compiled
			out, err := e.publish(q)
			if c.values == nil {
				if !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s to %s: %v, want %q", c.avro, c.ours, err, c.want)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s to %s: %v", c.avro, c.ours, err)
				continue
			}
			rows := e.texts()
			rows = rows[len(rows)-int(out.Rows):]
			var got []string
			for i := range c.values {
				if len(out.Rejected) > 0 && out.Rejected[0].Row == i {
					r := out.Rejected[0]
					out.Rejected = out.Rejected[1:]
					got = append(got, r.Code+"!")
					if !strings.HasPrefix(r.Path, "x") || r.Expected == "" || r.Got == "" {
						t.Errorf("%s to %s: %+v", c.avro, c.ours, r)
					}
					continue
				}
				got = append(got, strings.TrimSuffix(strings.TrimPrefix(rows[0], `{"x":`), "}"))
				rows = rows[1:]
			}
			if diff := cmp.Diff(c.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("%s to %s: %s", c.avro, c.ours, diff)
			}
		}
	}
}

func TestAvroFieldsThatAreNotOurs(t *testing.T) {
	t.Parallel()
	s := parse(t, `{"fields":[{"name":"k","type":"STRING","nullable":false},{"name":"n","type":"LONG"},{"name":"d","type":"LONG","default":5,"nullable":false}]}`)
	avsc := `{"type":"record","name":"r","fields":[{"name":"extra","type":{"type":"array","items":"string"}},{"name":"k","type":"string"}]}`
	theirs := avro.MustParse(avsc)
	datum, err := theirs.Encode(map[string]any{"extra": []any{"a", "b"}, "k": "key"})
	if err != nil {
		t.Fatal(err)
	}
	e := newEnv(t, s, 1)
	q := writer.Request{Format: writer.Avro, Body: container(t, avsc, ocf.Null, datum, datum)}
	for range 2 {
		_, err := e.publish(q)
		if !errors.Is(err, record.ErrInvalid) {
			t.Fatalf("got %v, want ErrInvalid", err)
		}
		for _, w := range []string{"publish to s", `"extra"`, "ignored", "container's schema"} {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v does not say %q", err, w)
			}
		}
		q.IgnoreUnknown = true
		e.must(q)
		q.IgnoreUnknown = false
	}
	for _, row := range e.texts() {
		if row != `{"k":"key","n":null,"d":5}` {
			t.Errorf("got %s", row)
		}
	}
}

// Rows that the straight way leaves to the long one keep their place, few or many.
func TestAvroDetours(t *testing.T) {
	t.Parallel()
	s := parse(t, `{"fields":[{"name":"x","type":"BYTE"}]}`)
	for _, every := range []int{1, 2, 3, 10, 300, 1023, 1024} {
		const rows = 4000
		var data [][]byte
		for i := range rows {
			v := int64(i % 100)
			if i%every == every-1 {
				v += 1000
			}
			data = append(data, varint(v))
		}
		e := newEnv(t, s, 1)
		out := e.must(writer.Request{Format: writer.Avro, SkipInvalid: true, Body: container(t, one(`"long"`), ocf.Null, data...)})
		if want := int64(rows / every); out.RejectedRows != want || out.Rows != rows-want {
			t.Fatalf("one of %d: %d rejected, %d appended", every, out.RejectedRows, out.Rows)
		}
		for i, r := range out.Rejected {
			if r.Row != (i+1)*every-1 || r.Code != schema.CodeOutOfRange {
				t.Fatalf("one of %d: %+v", every, r)
			}
		}
		texts := e.texts()
		for i := range rows {
			if i%every == every-1 {
				continue
			}
			if want := fmt.Sprintf(`{"x":%d}`, i%100); texts[0] != want {
				t.Fatalf("one of %d: row %d is %s", every, i, texts[0])
			}
			texts = texts[1:]
		}
	}
}

// A container that is cut or changed anywhere is refused whole, or its rows are
// those that it had.
func TestDamagedContainers(t *testing.T) {
	t.Parallel()
	s := parse(t, flat)
	ndjson := []byte(`{"k":"first","n":1}` + "\n" + `{"k":"second","n":null}`)
	e := newEnv(t, s, 1)
	b := &kept{}
	w := writer.New(e.branches, b)
	for _, codec := range []ocf.Codec{ocf.Null, ocf.Snappy} {
		var data [][]byte
		p, err := schema.CompileJSONToAvro(s, schema.JSONOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range bytes.Split(ndjson, []byte("\n")) {
			d, err := p.Row(nil, row)
			if err != nil {
				t.Fatal(err)
			}
			data = append(data, d)
		}
		body := container(t, s.Avro(), codec, data...)
		for cut := range body {
			if _, err := w.Publish(t.Context(), writer.Request{Stream: "s", Format: writer.Avro, Body: body[:cut]}); err == nil {
				if len(b.take()) > 0 {
					t.Fatalf("%s cut to %d of %d bytes gave rows", codec, cut, len(body))
				}
			} else if !errors.Is(err, record.ErrInvalid) {
				t.Fatalf("%s cut to %d: %v", codec, cut, err)
			}
		}
		for at := range body {
			bad := bytes.Clone(body)
			bad[at] ^= 0x81
			_, err := w.Publish(t.Context(), writer.Request{Stream: "s", Format: writer.Avro, Body: bad})
			if err != nil && !errors.Is(err, record.ErrInvalid) && !errors.Is(err, record.ErrTooLarge) {
				t.Fatalf("%s, byte %d changed: %v", codec, at, err)
			}
			if rows := b.take(); codec == ocf.Snappy && len(rows) > 0 && len(rows) != 2 {
				t.Fatalf("%s, byte %d changed: %d rows", codec, at, len(rows))
			}
		}
	}
	// Counts that do not fit their block.
	for _, count := range []int64{0, 1, 3, 1 << 20} {
		body := container(t, one(`"long"`), ocf.Null, varint(1), varint(2))
		at := bytes.LastIndex(body, []byte{4, 4, 2, 4}) // count 2, size 2, the data
		bad := append(append(bytes.Clone(body[:at]), varint(count)...), body[at+1:]...)
		x := newEnv(t, parse(t, `{"fields":[{"name":"x","type":"LONG"}]}`), 1)
		_, err := x.publish(writer.Request{Format: writer.Avro, Body: bad})
		if !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), "block") {
			t.Errorf("%d rows claimed of 2: %v", count, err)
		}
		if got := x.rows(); len(got) != 0 {
			t.Errorf("%d rows claimed of 2: %d were appended", count, len(got))
		}
	}
}

// What a small body may become is bounded.
func TestAvroBombs(t *testing.T) {
	t.Parallel()
	t.Run("blocks", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t, parse(t, `{"fields":[{"name":"x","type":"BINARY"}]}`), 1)
		d := append(varint(65<<20), make([]byte, 65<<20)...)
		_, err := e.publish(writer.Request{Format: writer.Avro, Body: container(t, one(`"bytes"`), ocf.Zstd, d)})
		if !errors.Is(err, record.ErrTooLarge) && !errors.Is(err, record.ErrInvalid) {
			t.Errorf("a block of 65 MB: %v", err)
		}
	})
	t.Run("rows", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t, parse(t, `{"fields":[{"name":"x","type":"BINARY"}]}`), 1)
		d := append(varint(1<<19), make([]byte, 1<<19)...)
		var data [][]byte
		for range 250 {
			data = append(data, d)
		}
		_, err := e.publish(writer.Request{Format: writer.Avro, Body: container(t, one(`"bytes"`), ocf.Zstd, data...)})
		if !errors.Is(err, record.ErrTooLarge) || !strings.Contains(err.Error(), "fewer") {
			t.Errorf("got %v, want ErrTooLarge", err)
		}
	})
	t.Run("large row", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t, parse(t, `{"fields":[{"name":"x","type":"BINARY"}]}`), 1)
		d := append(varint(2<<20), make([]byte, 2<<20)...)
		out := e.must(writer.Request{Format: writer.Avro, SkipInvalid: true, Body: container(t, one(`"bytes"`), ocf.Zstd, varint(0), d, varint(0))})
		if out.Rows != 2 || out.RejectedRows != 1 || out.Rejected[0].Row != 1 || out.Rejected[0].Code != schema.CodeTooLarge {
			t.Errorf("got %+v", out)
		}
	})
	t.Run("large row that is mostly ignored", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t, parse(t, `{"fields":[{"name":"y","type":"LONG"}]}`), 1)
		d := append(varint(2<<20), make([]byte, 2<<20)...)
		out := e.must(writer.Request{Format: writer.Avro, SkipInvalid: true, IgnoreUnknown: true, Body: container(t, one(`"bytes"`), ocf.Zstd, varint(0), d)})
		if out.Rows != 1 || out.RejectedRows != 1 || out.Rejected[0].Row != 1 || out.Rejected[0].Code != schema.CodeTooLarge {
			t.Errorf("got %+v", out)
		}
	})
	t.Run("nulls that are wide as columns", func(t *testing.T) {
		t.Parallel()
		var theirs, ours []string
		for i := range 600 {
			theirs = append(theirs, fmt.Sprintf(`{"name":"f%d","type":"int"}`, i))
			ours = append(ours, fmt.Sprintf(`{"name":"f%d","type":"DOUBLE"}`, i)) // int to DOUBLE is no straight way
		}
		avsc := one(`{"type":"array","items":["null",{"type":"record","name":"r","fields":[` + strings.Join(theirs, ",") + `]}]}`)
		e := newEnv(t, parse(t, `{"fields":[{"name":"x","type":"ARRAY","element":{"type":"STRUCT","fields":[`+strings.Join(ours, ",")+`]}}]}`), 1)
		d := append(append(varint(1_000_000), make([]byte, 1_000_000)...), 0)
		good := append(append(varint(1), 0), 0)
		for range 2 {
			_, err := e.publish(writer.Request{Format: writer.Avro, Body: container(t, avsc, ocf.Zstd, d)})
			if !errors.Is(err, record.ErrTooLarge) || !strings.Contains(err.Error(), "smaller batches") {
				t.Errorf("got %v, want ErrTooLarge", err)
			}
			if out := e.must(writer.Request{Format: writer.Avro, Body: container(t, avsc, ocf.Zstd, good)}); out.Rows != 1 {
				t.Errorf("afterwards: %+v", out)
			}
		}
	})
	t.Run("rows of no bytes", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t, parse(t, `{"fields":[{"name":"x","type":"BINARY"}]}`), 1)
		avsc := one(`{"type":"fixed","name":"f","size":0}`)
		body := container(t, avsc, ocf.Null, nil)
		at := bytes.LastIndex(body, []byte{2, 0}) // count 1, size 0
		if at < 0 {
			t.Fatal("there is no block of one row and no bytes")
		}
		bad := append(append(bytes.Clone(body[:at]), varint(60<<20)...), body[at+1:]...)
		_, err := e.publish(writer.Request{Format: writer.Avro, Body: bad})
		if !errors.Is(err, record.ErrTooLarge) && !errors.Is(err, record.ErrInvalid) {
			t.Errorf("60 million rows of no bytes: %v", err)
		}
	})
}

// Many client schemas take turns without being mixed up.
func TestManyClientSchemas(t *testing.T) {
	t.Parallel()
	e := newEnv(t, parse(t, `{"fields":[{"name":"x","type":"STRING","nullable":false}]}`), 1)
	var want []string
	for i := range 60 {
		symbol := fmt.Sprintf("S%d", i%11)
		avsc := one(`{"type":"enum","name":"e","symbols":["` + symbol + `"]}`)
		e.must(writer.Request{Format: writer.Avro, Body: container(t, avsc, ocf.Null, varint(0))})
		want = append(want, fmt.Sprintf(`{"x":%q}`, symbol))
	}
	if diff := cmp.Diff(want, e.texts()); diff != "" {
		t.Error(diff)
	}
}
