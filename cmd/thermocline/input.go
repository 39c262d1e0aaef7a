package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// The formats of rows that can be ingested.
const (
	formatNDJSON  = "ndjson"
	formatCSV     = "csv"
	formatParquet = "parquet"
	formatAvro    = "avro"
)

// input is a file, or standard input, with rows: decompressed, and of a known
// format.
type input struct {
	name   string
	format string
	comma  byte // CSV
	r      *bufio.Reader
	size   int64        // bytes of the file as it is stored; -1: unknown
	taken  atomic.Int64 // of them, how many have been read
	file   *os.File     // set if r is the file itself, neither compressed nor a pipe
	close  []func() error
}

func (in *input) Close() error {
	var errs []error
	for i := len(in.close) - 1; i >= 0; i-- {
		errs = append(errs, in.close[i]())
	}
	in.close = nil
	return errors.Join(errs...)
}

// countingReader counts what is read, for the progress bar.
type countingReader struct {
	r io.Reader
	n *atomic.Int64
}

func (c countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// peekBytes is how much of the input is looked at before it is read.
const peekBytes = 64 << 10

// openInput opens name (- is standard input), undoes gzip or zstd, and finds
// the format by content and by name, unless format says it.
func (a *app) openInput(name, format string) (_ *input, err error) {
	in := &input{name: name, size: -1, comma: ','}
	defer func() {
		if err != nil {
			_ = in.Close()
		}
	}()
	raw := a.in
	if name == "-" {
		in.name = "standard input"
	} else {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		in.close = append(in.close, f.Close)
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			in.size, in.file = info.Size(), f
		}
		raw = f
	}
	in.r = bufio.NewReaderSize(countingReader{raw, &in.taken}, peekBytes)
	ext := strings.ToLower(name)
	if inner, err := in.decompress(); err != nil {
		return nil, fmt.Errorf("decompress %s: %w", in.name, err)
	} else if inner != nil {
		in.file = nil
		in.r = bufio.NewReaderSize(inner, peekBytes)
		for _, s := range []string{".gz", ".gzip", ".zst", ".zstd"} {
			ext = strings.TrimSuffix(ext, s)
		}
	}
	ext = filepath.Ext(ext)
	if ext == ".tsv" {
		in.comma = '\t'
	}
	in.format = format
	if format == "" {
		in.format, err = in.detect(ext)
	}
	return in, err
}

// decompress returns nil for input that is not compressed.
func (in *input) decompress() (io.Reader, error) {
	head, err := in.r.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(in.r)
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(in.r, zstd.WithDecoderMaxWindow(1<<30))
		if err == nil {
			in.close = append(in.close, func() error { z.Close(); return nil })
		}
		return z, err
	}
	return nil, nil
}

func (in *input) detect(ext string) (string, error) {
	head, err := in.r.Peek(512)
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read %s: %w", in.name, err)
	}
	text := bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\uFEFF")), " \t\r\n")
	switch {
	case bytes.HasPrefix(head, []byte("PAR1")):
		return formatParquet, nil
	case bytes.HasPrefix(head, []byte("Obj\x01")):
		return formatAvro, nil
	case ext == ".csv" || ext == ".tsv":
		return formatCSV, nil
	case len(text) == 0 || text[0] == '{':
		return formatNDJSON, nil
	case text[0] == '[':
		return "", fmt.Errorf("%s looks like a JSON array; make it one object a line first: jq -c '.[]'", in.name)
	}
	return "", fmt.Errorf("%s: its format cannot be told from its content; say --format ndjson, csv, parquet or avro", in.name)
}

// identity stands for the content: a hash of its beginning and of what decides
// how it is cut into batches.
func (in *input) identity() (string, error) {
	head, err := in.r.Peek(peekBytes)
	if err != nil && err != io.EOF && !errors.Is(err, bufio.ErrBufferFull) {
		return "", fmt.Errorf("read %s: %w", in.name, err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "batches 1, %s, %d rows, %d bytes\n", in.format, batchRows, batchBytes)
	h.Write(head)
	return hex.EncodeToString(h.Sum(nil)[:6]), nil
}

// randomAccess returns the content as a file, which Parquet needs: the file
// itself, or a copy that goes with Close.
func (in *input) randomAccess() (*os.File, error) {
	if in.file != nil {
		return in.file, nil
	}
	f, err := os.CreateTemp("", "thermocline-*.parquet")
	if err != nil {
		return nil, err
	}
	in.close = append(in.close, f.Close, func() error { return os.Remove(f.Name()) })
	if _, err := io.Copy(f, in.r); err != nil {
		return nil, fmt.Errorf("copy %s to %s, for Parquet cannot be read from a stream: %w", in.name, f.Name(), err)
	}
	return f, nil
}
