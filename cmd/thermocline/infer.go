package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/thermocline/thermocline/api/client"
	"github.com/thermocline/thermocline/schema"
)

// The part of a file that a schema is inferred from.
const (
	sampleRows  = 50_000
	sampleBytes = 8 << 20
)

// inferFrom returns the schema that the file declares (Avro, Parquet), or else
// rows for the server to infer one from.
func inferFrom(_ context.Context, in *input) (client.Schema, []client.Row, error) {
	switch in.format {
	case formatAvro:
		s, err := newAvroSource(in)
		if err != nil {
			return nil, nil, err
		}
		return s.schema, nil, nil
	case formatParquet:
		f, err := openParquet(in)
		if err != nil {
			return nil, nil, err
		}
		columns, err := f.Schema()
		if err != nil {
			return nil, nil, err
		}
		s, err := schema.FromArrow(columns)
		if err != nil {
			return nil, nil, err
		}
		form, err := json.Marshal(s)
		return form, nil, err
	case formatCSV:
		rows, err := sampleCSV(in)
		return nil, rows, err
	}
	rows, err := sampleJSON(in)
	return nil, rows, err
}

func sampleJSON(in *input) ([]client.Row, error) {
	var rows []client.Row
	for size := 0; len(rows) < sampleRows && size < sampleBytes; {
		line, err := appendLine(nil, in.r)
		if err != nil && err != io.EOF {
			return nil, err
		}
		if !blank(line) {
			line = bytes.TrimPrefix(line, []byte("\uFEFF"))
			if !json.Valid(line) {
				return nil, fmt.Errorf("row %d is not JSON: %.80q", len(rows)+1, line)
			}
			rows = append(rows, line)
			size += len(line)
		}
		if err == io.EOF {
			break
		}
	}
	if len(rows) == 0 {
		return nil, errNoRows
	}
	return rows, nil
}

// sampleCSV makes JSON rows of text whose types are not known yet: what has the
// form of a number or a boolean in JSON is one.
func sampleCSV(in *input) ([]client.Row, error) {
	r := csvReader{r: in.r, comma: in.comma}
	names, err := r.header()
	if err != nil {
		return nil, err
	}
	var rows []client.Row
	for size := 0; len(rows) < sampleRows && size < sampleBytes; {
		cells, err := r.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if len(cells) != len(names) {
			return nil, fmt.Errorf("line %d: %d values, the header has %d names", r.line, len(cells), len(names))
		}
		row := []byte{'{'}
		for i, v := range cells {
			if i > 0 {
				row = append(row, ',')
			}
			row = append(appendText(row, []byte(names[i])), ':')
			row = appendGuess(row, v)
		}
		row = append(row, '}')
		rows = append(rows, row)
		size += len(row)
	}
	if len(rows) == 0 {
		return nil, errNoRows
	}
	return rows, nil
}

func appendGuess(dst []byte, v cell) []byte {
	switch {
	case len(v.text) == 0 && !v.quoted:
		return append(dst, "null"...)
	case v.quoted && len(v.text) > 0 && (v.text[0] == '{' || v.text[0] == '[') && jsontext.Value(v.text).IsValid():
		return appendOneLine(dst, v.text)
	case isNumber(v.text), string(v.text) == "true", string(v.text) == "false":
		return append(dst, v.text...)
	}
	return appendText(dst, v.text)
}
