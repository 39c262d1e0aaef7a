package main

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"github.com/thermocline/thermocline/schema"
)

// batch is the body of one publish request.
type batch struct {
	contentType string
	body        []byte
	rows        int64
	first       int64 // index of its first row in the input
}

// A batch ends behind whichever comes first. The cut depends on the input
// alone, so that a second run of the same ingest makes the same batches.
const (
	batchRows  = 5000
	batchBytes = 1 << 20
)

// source cuts an input into batches, each in memory of its own. next returns
// io.EOF behind the last.
type source interface {
	next(ctx context.Context) (batch, error)
}

// openSource returns the source of an input; s is the stream's schema.
func openSource(in *input, s *schema.Schema) (source, error) {
	switch in.format {
	case formatNDJSON:
		return &ndjsonSource{r: in.r}, nil
	case formatCSV:
		return newCSVSource(in, s)
	case formatParquet:
		return newParquetSource(in)
	case formatAvro:
		return newAvroSource(in)
	}
	return nil, usage("--format %q: use ndjson, csv, parquet or avro", in.format)
}

// maxLine bounds a line of the input. The server takes rows of up to 1 MB; it
// refuses those beyond with their number, which needs them to be sent.
const maxLine = 8 << 20

// ndjsonSource sends lines as they are; blank ones are left out.
type ndjsonSource struct {
	r    *bufio.Reader
	rows int64
	done bool
}

func (s *ndjsonSource) next(context.Context) (batch, error) {
	b := batch{contentType: "application/x-ndjson", first: s.rows, body: make([]byte, 0, batchBytes+4096)}
	for !s.done && b.rows < batchRows && len(b.body) < batchBytes {
		start := len(b.body)
		var err error
		if b.body, err = appendLine(b.body, s.r); err == io.EOF {
			s.done = true
		} else if err != nil {
			return batch{}, fmt.Errorf("row %d: %w", s.rows+1, err)
		}
		if blank(b.body[start:]) {
			b.body = b.body[:start]
			continue
		}
		b.rows++
		s.rows++
	}
	if b.rows == 0 {
		return batch{}, io.EOF
	}
	return b, nil
}

// appendLine appends a line with its end to dst. The last line may lack it;
// then, and when there is none left, the error is io.EOF.
func appendLine(dst []byte, r *bufio.Reader) ([]byte, error) {
	start := len(dst)
	for {
		part, err := r.ReadSlice('\n')
		dst = append(dst, part...)
		if err == bufio.ErrBufferFull {
			if len(dst)-start > maxLine {
				return dst, fmt.Errorf("a line is longer than %d bytes; rows end at 1 MB", maxLine)
			}
			continue
		}
		return dst, err
	}
}

func blank(line []byte) bool {
	for _, c := range line {
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return false
		}
	}
	return true
}
