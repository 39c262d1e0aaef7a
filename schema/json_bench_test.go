package schema

import (
	"bytes"
	"os"
	"testing"
)

const quakeSchema = `{"fields":[
 {"name":"id","type":"STRING","nullable":false},{"name":"time","type":"TIMESTAMP","nullable":false},
 {"name":"updated","type":"TIMESTAMP"},{"name":"magnitude","type":"DOUBLE"},{"name":"magnitude_type","type":"STRING"},
 {"name":"place","type":"STRING"},{"name":"kind","type":"STRING"},{"name":"status","type":"STRING"},
 {"name":"tsunami","type":"BOOLEAN"},{"name":"significance","type":"INTEGER"},{"name":"network","type":"STRING"},
 {"name":"location","type":"STRUCT","fields":[{"name":"longitude","type":"DOUBLE"},{"name":"latitude","type":"DOUBLE"},{"name":"depth_km","type":"DOUBLE"}]},
 {"name":"stations","type":"INTEGER"},{"name":"rms","type":"DOUBLE"},{"name":"gap_deg","type":"DOUBLE"},{"name":"felt","type":"INTEGER"},
 {"name":"sources","type":"ARRAY","element":{"type":"STRING","nullable":false}}]}`

const flightSchema = `{"fields":[{"name":"date","type":"TIMESTAMP","nullable":false},{"name":"delay","type":"INTEGER"},
 {"name":"distance","type":"INTEGER"},{"name":"origin","type":"STRING"},{"name":"destination","type":"STRING"}]}`

const flightRow = `{"date":"2001-01-01T00:01:00Z","delay":33,"distance":2176,"origin":"LAS","destination":"PHL"}`

func quakes(t testing.TB) [][]byte {
	t.Helper()
	b, err := os.ReadFile("../testdata/earthquakes.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(bytes.TrimSpace(b), []byte("\n"))
}

func benchRows(b *testing.B, schema string, rows [][]byte, convert func(c *JSONToAvro, dst, row []byte) ([]byte, error)) {
	c, err := CompileJSONToAvro(mustParse(b, schema), JSONOptions{})
	if err != nil {
		b.Fatal(err)
	}
	var dst []byte
	size := 0
	for _, r := range rows {
		size += len(r)
	}
	b.SetBytes(int64(size / len(rows)))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if dst, err = convert(c, dst[:0], rows[i%len(rows)]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

// slowRow converts without the scanner.
func (c *JSONToAvro) slowRow(dst, src []byte) ([]byte, error) {
	r := c.pool.Get().(*jsonRow)
	defer c.pool.Put(r)
	r.begin(dst, c.options.MaxRowBytes)
	err := r.reference.row(&r.rowWriter, c.root, src, c.options.UnknownFields == Ignore)
	return r.take(), err
}

func BenchmarkJSONToAvro(b *testing.B) {
	flights := [][]byte{[]byte(flightRow)}
	b.Run("quakes", func(b *testing.B) { benchRows(b, quakeSchema, quakes(b), (*JSONToAvro).Row) })
	b.Run("quakes/reference", func(b *testing.B) { benchRows(b, quakeSchema, quakes(b), (*JSONToAvro).slowRow) })
	b.Run("flights", func(b *testing.B) { benchRows(b, flightSchema, flights, (*JSONToAvro).Row) })
	b.Run("flights/reference", func(b *testing.B) { benchRows(b, flightSchema, flights, (*JSONToAvro).slowRow) })
}

func BenchmarkSplitJSON(b *testing.B) {
	rows := quakes(b)
	for name, body := range map[string][]byte{
		"ndjson": bytes.Join(rows, []byte("\n")),
		"array":  append(append([]byte("["), bytes.Join(rows, []byte(","))...), ']'),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for range b.N {
				n := 0
				if err := SplitJSON(body, func(int, []byte) error { n++; return nil }); err != nil || n != len(rows) {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64(b.N*len(rows))/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
