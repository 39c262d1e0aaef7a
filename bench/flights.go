package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/ocf"
)

const flightSchema = `{"fields":[
	{"name":"date","type":"TIMESTAMP","nullable":false},
	{"name":"delay","type":"INTEGER"},
	{"name":"distance","type":"INTEGER"},
	{"name":"origin","type":"STRING"},
	{"name":"destination","type":"STRING"}]}`

// flights are the rows of a phase, cut into the bodies of publish requests.
type flights struct {
	schema              *schema.Schema
	rows                int
	ndjson, avro, arrow []body
	single              [][]byte // some rows one by one
}

type body struct {
	bytes []byte
	rows  int
}

func loadFlights(o options) (*flights, error) {
	lines, err := flightLines(o)
	if err != nil {
		return nil, err
	}
	s, err := schema.Parse([]byte(flightSchema))
	if err != nil {
		return nil, err
	}
	s, _ = s.AssignIDs(schema.FirstUserID)
	f := &flights{schema: s, rows: len(lines), single: lines[:min(len(lines), 20_000)]}
	program, err := schema.CompileJSONToAvro(s, schema.JSONOptions{})
	if err != nil {
		return nil, err
	}
	toArrow, err := schema.CompileAvroToArrow(s, s)
	if err != nil {
		return nil, err
	}
	build := schema.NewBuilder(s, memory.DefaultAllocator)
	defer build.Release()
	var datum []byte
	for len(lines) > 0 {
		n := min(o.batch, len(lines))
		var nd, av bytes.Buffer
		w, err := ocf.NewWriter(&av, s.Avro(), ocf.Null, nil)
		if err != nil {
			return nil, err
		}
		for _, l := range lines[:n] {
			nd.Write(l)
			nd.WriteByte('\n')
			if datum, err = program.Row(datum[:0], l); err != nil {
				return nil, err
			}
			if err := w.Append(datum); err != nil {
				return nil, err
			}
			if err := toArrow.Append(build, datum); err != nil {
				return nil, err
			}
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		ar, err := ipcStream(build.NewBatch())
		if err != nil {
			return nil, err
		}
		f.ndjson = append(f.ndjson, body{nd.Bytes(), n})
		f.avro = append(f.avro, body{av.Bytes(), n})
		f.arrow = append(f.arrow, body{ar, n})
		lines = lines[n:]
	}
	return f, nil
}

func ipcStream(rec arrow.RecordBatch) ([]byte, error) {
	defer rec.Release()
	var buf bytes.Buffer
	plain := arrow.NewSchema(plainFields(rec.Schema()), nil)
	w := ipc.NewWriter(&buf, ipc.WithSchema(plain))
	out := array.NewRecordBatch(plain, rec.Columns(), rec.NumRows())
	defer out.Release()
	if err := w.Write(out); err != nil {
		return nil, err
	}
	return buf.Bytes(), w.Close()
}

// plainFields drops the metadata, as a client's stream has none of ours.
func plainFields(s *arrow.Schema) []arrow.Field {
	fields := s.Fields()
	for i := range fields {
		fields[i].Metadata = arrow.Metadata{}
	}
	return fields
}

func flightLines(o options) ([][]byte, error) {
	lines := make([][]byte, 0, o.rows)
	if o.file == "" {
		r := rand.New(rand.NewPCG(1, 2))
		airports := make([]string, 250)
		for i := range airports {
			airports[i] = string([]byte{byte('A' + r.IntN(26)), byte('A' + r.IntN(26)), byte('A' + r.IntN(26))})
		}
		at := time.Date(2001, 1, 1, 0, 1, 0, 0, time.UTC)
		for range o.rows {
			at = at.Add(time.Duration(r.IntN(20)) * time.Second)
			lines = append(lines, fmt.Appendf(nil, `{"date":%q,"delay":%d,"distance":%d,"origin":%q,"destination":%q}`,
				at.Format(time.RFC3339), int(r.NormFloat64()*30+8), 50+r.IntN(2500), airports[r.IntN(250)], airports[r.IntN(250)]))
		}
		return lines, nil
	}
	f, err := os.Open(o.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	in := bufio.NewReader(z)
	for len(lines) < o.rows {
		l, err := in.ReadBytes('\n')
		if len(l) > 0 {
			lines = append(lines, bytes.TrimSpace(l))
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return lines, nil
}
