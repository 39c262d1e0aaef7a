package writer_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/writer"
)

// batch builds a batch of one column x from JSON.
func batch(t testing.TB, dt arrow.DataType, values string) arrow.RecordBatch {
	t.Helper()
	a, _, err := array.FromJSON(memory.DefaultAllocator, dt, strings.NewReader(values))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Release()
	return array.NewRecordBatch(arrow.NewSchema([]arrow.Field{{Name: "x", Type: dt, Nullable: true}}, nil), []arrow.Array{a}, int64(a.Len()))
}

func TestClientColumns(t *testing.T) {
	t.Parallel()
	dict := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}
	for _, c := range []struct {
		dt           arrow.DataType
		values, ours string
		want         string
		bad          map[int]string
	}{
		{dict, `["a",null,"b","a"]`, `"type":"STRING"`, `"a" null "b" "a"`, nil},
		{dict, `["a",null,"b"]`, `"type":"STRING","nullable":false`, `"a" "b"`, map[int]string{1: schema.CodeNull}},
		{arrow.PrimitiveTypes.Int64, `[1,300,-128]`, `"type":"BYTE"`, `1 -128`, map[int]string{1: schema.CodeOutOfRange}},
		{arrow.PrimitiveTypes.Uint8, `[255]`, `"type":"LONG"`, `255`, nil},
		{arrow.BinaryTypes.LargeString, `["ä"]`, `"type":"STRING"`, `"ä"`, nil},
		{arrow.FixedWidthTypes.Timestamp_ms, `[1580472000500]`, `"type":"TIMESTAMP"`, `"2020-01-31T12:00:00.500Z"`, nil},
		{arrow.ListOf(arrow.PrimitiveTypes.Int8), `[[1,null],null]`, `"type":"ARRAY","element":{"type":"INTEGER"}`, `[1,null] null`, nil},
	} {
		e := newEnv(t, parse(t, `{"fields":[{"name":"x",`+c.ours+`}]}`), 1)
		rec := batch(t, c.dt, c.values)
		for _, o := range [][]ipc.Option{nil, {ipc.WithZstd()}, {ipc.WithLZ4()}} {
			out := e.must(writer.Request{Format: writer.Arrow, SkipInvalid: true, Body: stream(t, []arrow.RecordBatch{rec, rec}, o...)})
			texts := e.texts()
			texts = texts[len(texts)-int(out.Rows):]
			want := strings.Fields(c.want + " " + c.want)
			for i, text := range texts {
				if text != `{"x":`+want[i]+`}` {
					t.Errorf("%s: row %d is %s", c.dt, i, text)
				}
			}
			if int(out.RejectedRows) != 2*len(c.bad) || len(texts) != len(want) {
				t.Errorf("%s: %d rows, %d rejected", c.dt, len(texts), out.RejectedRows)
			}
			for _, r := range out.Rejected {
				if c.bad[r.Row%int(rec.NumRows())] != r.Code || r.Path != "x" {
					t.Errorf("%s: %+v", c.dt, r)
				}
			}
		}
		rec.Release()
	}
}

func TestClientColumnsThatDoNotFit(t *testing.T) {
	t.Parallel()
	rec := batch(t, arrow.PrimitiveTypes.Float64, `[1.5]`)
	defer rec.Release()
	body := stream(t, []arrow.RecordBatch{rec})
	for fields, words := range map[string][]string{
		`{"name":"x","type":"LONG"}`: {`"x"`, "float64", "LONG", "cast"},
		`{"name":"y","type":"LONG"}`: {`"x"`, "not in the schema"},
		`{"name":"x","type":"DOUBLE"},{"name":"z","type":"LONG","nullable":false}`: {`"z"`, "required"},
	} {
		e := newEnv(t, parse(t, `{"fields":[`+fields+`]}`), 1)
		_, err := e.publish(writer.Request{Format: writer.Arrow, Body: body})
		if !errors.Is(err, record.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", fields, err)
		}
		for _, w := range append(words, "publish to s") {
			if !strings.Contains(fmt.Sprint(err), w) {
				t.Errorf("%s: %v does not say %q", fields, err, w)
			}
		}
	}
	e := newEnv(t, parse(t, `{"fields":[{"name":"y","type":"LONG"}]}`), 1)
	if out := e.must(writer.Request{Format: writer.Arrow, Body: body, IgnoreUnknown: true}); out.Rows != 1 || e.texts()[0] != `{"y":null}` {
		t.Errorf("ignored: %+v", out)
	}
}

// A stream that is cut within a message, or has more behind its end, is refused
// whole. (Cut between messages it is a stream by Arrow's rules.)
func TestDamagedStreams(t *testing.T) {
	t.Parallel()
	s := parse(t, flat)
	rec := arrowRecord(t, s, []byte(`{"k":"first","n":1}`+"\n"+`{"k":"second","n":null}`))
	defer rec.Release()
	body := stream(t, []arrow.RecordBatch{rec, rec})
	b := &kept{}
	w := writer.New(&branches{target: writer.Target{View: view, Schema: s, Partitions: 1, Version: 1}}, b)
	publish := func(body []byte) error {
		_, err := w.Publish(t.Context(), writer.Request{Stream: "s", Format: writer.Arrow, Body: body})
		return err
	}
	whole := 0
	for cut := range body {
		err := publish(body[:cut])
		rows := b.take()
		if err == nil {
			whole++
			if len(rows)%2 != 0 {
				t.Fatalf("cut to %d of %d bytes: %d rows", cut, len(body), len(rows))
			}
		} else if !errors.Is(err, record.ErrInvalid) || len(rows) > 0 {
			t.Fatalf("cut to %d: %v, %d rows", cut, err, len(rows))
		}
	}
	if whole > 6 {
		t.Errorf("%d cuts were accepted, more than there are messages", whole)
	}
	for at := range body {
		for _, flip := range []byte{0x01, 0x80, 0xff} {
			bad := bytes.Clone(body)
			bad[at] ^= flip
			if err := publish(bad); err != nil && !errors.Is(err, record.ErrInvalid) && !errors.Is(err, record.ErrTooLarge) {
				t.Fatalf("byte %d changed: %v", at, err)
			}
		}
	}
	b.take()
	for name, more := range map[string][]byte{"a byte": {0}, "another stream": body} {
		if err := publish(append(bytes.Clone(body), more...)); !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), "one stream") {
			t.Errorf("%s behind the end: %v", name, err)
		}
	}
	var file bytes.Buffer
	fw, err := ipc.NewFileWriter(&nopSeeker{&file}, ipc.WithSchema(rec.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fw.Write(rec), fw.Close()); err != nil {
		t.Fatal(err)
	}
	if err := publish(file.Bytes()); !errors.Is(err, record.ErrInvalid) || !strings.Contains(err.Error(), "streaming format") {
		t.Errorf("an Arrow file: %v", err)
	}
	if err := publish([]byte("hello, this is no Arrow")); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("text: %v", err)
	}
	if got := b.take(); len(got) != 0 {
		t.Errorf("%d rows were appended", len(got))
	}
}

type nopSeeker struct{ *bytes.Buffer }

func (n *nopSeeker) Seek(int64, int) (int64, error) { return int64(n.Len()), nil }
