package interop

import (
	"bytes"
	"io"
	"testing"

	"github.com/hamba/avro/v2/ocf"
)

// containerOf writes rows as an Avro object container file, the way a client
// with hamba/avro does.
func containerOf(t *testing.T, avsc string, codec ocf.CodecName, rows []row) []byte {
	t.Helper()
	var out bytes.Buffer
	enc, err := ocf.NewEncoder(avsc, &out, ocf.WithCodec(codec), ocf.WithBlockLength(64))
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if err := enc.Encode(rows[i]); err != nil {
			t.Fatalf("row %d: %v", rows[i].Number, err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func rowsOfContainer(t *testing.T, r io.Reader) []row {
	t.Helper()
	dec, err := ocf.NewDecoder(r)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	var rows []row
	for dec.HasNext() {
		var v row
		if err := dec.Decode(&v); err != nil {
			t.Fatalf("row %d: %v", len(rows), err)
		}
		rows = append(rows, v)
	}
	if err := dec.Error(); err != nil {
		t.Fatal(err)
	}
	return rows
}

// avsc is what the Avro schema of row looks like when someone writes it by
// hand; the server's own comes from its schema endpoint.
const avsc = `{"type":"record","name":"sample","fields":[
	{"name":"number","type":"long"},
	{"name":"boolean","type":["null","boolean"]},
	{"name":"byte","type":["null","int"]},
	{"name":"short","type":["null","int"]},
	{"name":"integer","type":["null","int"]},
	{"name":"long","type":["null","long"]},
	{"name":"float","type":["null","float"]},
	{"name":"double","type":["null","double"]},
	{"name":"decimal","type":["null",{"type":"bytes","logicalType":"decimal","precision":38,"scale":9}]},
	{"name":"string","type":["null","string"]},
	{"name":"binary","type":["null","bytes"]},
	{"name":"date","type":["null",{"type":"int","logicalType":"date"}]},
	{"name":"timestamp","type":["null",{"type":"long","logicalType":"timestamp-micros"}]},
	{"name":"array","type":["null",{"type":"array","items":["null","string"]}]},
	{"name":"map","type":["null",{"type":"map","values":["null","long"]}]},
	{"name":"struct","type":["null",{"type":"record","name":"nest","fields":[
		{"name":"label","type":"string"},
		{"name":"points","type":{"type":"array","items":{"type":"record","name":"point","fields":[
			{"name":"x","type":"double"},
			{"name":"day","type":["null",{"type":"int","logicalType":"date"}]}]}}}]}]}
]}`

var codecs = []ocf.CodecName{ocf.Null, ocf.Deflate, ocf.Snappy, ocf.ZStandard}

func TestRowsThroughAvro(t *testing.T) {
	t.Parallel()
	rows := sampleRows(0, 500)
	for _, codec := range codecs {
		compareRows(t, rows, rowsOfContainer(t, bytes.NewReader(containerOf(t, avsc, codec, rows))))
	}
}
