package writer_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/ocf"
	"github.com/thermocline/thermocline/writer"
)

const fuzzSchema = `{"fields":[
	{"name":"k","type":"STRING","nullable":false},{"name":"n","type":"LONG"},{"name":"b","type":"BYTE","default":3},
	{"name":"d","type":"DECIMAL","precision":9,"scale":2},{"name":"t","type":"TIMESTAMP"},{"name":"f","type":"FLOAT"},
	{"name":"l","type":"ARRAY","element":{"type":"STRUCT","fields":[{"name":"x","type":"DATE"},{"name":"y","type":"BINARY"}]}},
	{"name":"m","type":"MAP","value":{"type":"BOOLEAN"}}]}`

const fuzzRows = `{"k":"a","n":-1,"b":127,"d":-12.34,"t":"2020-01-31T12:00:00.5Z","f":0.5,"l":[{"x":"2020-01-31","y":"AQI="},null],"m":{"a":true,"b":null}}
{"k":"","n":null}
{"k":"ä","l":[],"m":{}}
`

// fuzz publishes any body in a format. Whatever it is: no panic, errors of the
// body's fault only, and rows that hold by the schema's rules, as many as are
// said to have been appended.
func fuzz(f *testing.F, format writer.Format, seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s, true, false)
		f.Add(s, false, true)
		f.Add(s[:len(s)/2], true, true)
	}
	s := parse(f, fuzzSchema)
	text, err := schema.CompileAvroToJSON(s, s, schema.JSONOutOptions{})
	if err != nil {
		f.Fatal(err)
	}
	again, err := schema.CompileJSONToAvro(s, schema.JSONOptions{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, skip, ignore bool) {
		b := &kept{}
		w := writer.New(&branches{target: writer.Target{View: view, Schema: s, Partitions: 3, KeyFields: []string{"k"}, Version: 1}}, b)
		out, err := w.Publish(t.Context(), writer.Request{Stream: "s", Format: format, Body: body, SkipInvalid: skip, IgnoreUnknown: ignore})
		rows := b.take()
		if err != nil {
			if !errors.Is(err, record.ErrInvalid) && !errors.Is(err, record.ErrTooLarge) {
				t.Fatalf("not the body's fault: %v", err)
			}
			if len(rows) > 0 {
				t.Fatalf("%d rows were appended by a request that failed: %v", len(rows), err)
			}
			return
		}
		if int(out.Rows) != len(rows) || !skip && out.RejectedRows > 0 {
			t.Fatalf("%d rows of %d, %d rejected", len(rows), out.Rows, out.RejectedRows)
		}
		for _, r := range rows {
			_, datum, err := schema.SplitHeader([]byte(r[1]))
			if err != nil {
				t.Fatal(err)
			}
			row, err := text.Row(nil, datum)
			if err != nil {
				t.Fatalf("% x: %v", datum, err)
			}
			// As JSON it is a good row, and the same one.
			same, err := again.Row(nil, row)
			if err != nil || !bytes.Equal(same, datum) {
				t.Fatalf("%s: % x became % x: %v", row, datum, same, err)
			}
		}
	})
}

func FuzzJSON(f *testing.F) {
	lines := strings.Split(strings.TrimSpace(fuzzRows), "\n")
	fuzz(f, writer.JSON, []byte(fuzzRows), []byte("["+strings.Join(lines, ",")+"]"), []byte(`{"rows":[`+strings.Join(lines, ",")+"]}"), []byte(`{"k":1,"u":{}}`))
}

func FuzzAvro(f *testing.F) {
	s := parse(f, fuzzSchema)
	own := avroBody(f, s, []byte(fuzzRows))
	avsc := `{"type":"record","name":"r","fields":[{"name":"k","type":{"type":"enum","name":"e","symbols":["A","B"]}},
		{"name":"t","type":[{"type":"long","logicalType":"timestamp-nanos"},"null"]},{"name":"d","type":{"type":"fixed","name":"f","size":4,"logicalType":"decimal","precision":9,"scale":2}},
		{"name":"u","type":"int"},{"name":"f","type":["double"]}]}`
	datum := append(append([]byte{2, 2}, 0, 0, 1, 2, 14), make([]byte, 8)...)
	fuzz(f, writer.Avro, own, container(f, avsc, ocf.Null, datum, datum), container(f, avsc, ocf.Deflate, datum))
}

func FuzzArrow(f *testing.F) {
	s := parse(f, fuzzSchema)
	rec := arrowRecord(f, s, []byte(fuzzRows))
	defer rec.Release()
	fuzz(f, writer.Arrow, stream(f, []arrow.RecordBatch{rec}), stream(f, []arrow.RecordBatch{rec}, ipc.WithZstd()), stream(f, []arrow.RecordBatch{rec}, ipc.WithLZ4()),
		stream(f, []arrow.RecordBatch{stringsRecord(f, "a", "b")}))
}
