package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// avroSource cuts an Avro object container file between its blocks and sends
// them under the file's own header, as they are: no row is decoded here.
type avroSource struct {
	r      *bufio.Reader
	header []byte // magic, metadata, sync marker
	schema []byte // avro.schema of the metadata
	rows   int64
	block  int
}

const (
	avroSync       = 16
	maxAvroHeader  = 16 << 20
	maxAvroBlock   = 48 << 20 // a request ends at 64 MB
	avroSchemaName = "avro.schema"
)

func newAvroSource(in *input) (*avroSource, error) {
	s := &avroSource{r: in.r}
	if err := s.readHeader(); err != nil {
		return nil, fmt.Errorf("read the Avro header of %s: %w", in.name, cutShort(err))
	}
	return s, nil
}

// cutShort says what an end in the middle is.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the file ends in the middle; is it whole?")
	}
	return err
}

// readHeader reads the header and keeps its bytes.
func (s *avroSource) readHeader() error {
	if err := s.keep(4); err != nil {
		return err
	}
	if !bytes.Equal(s.header, []byte("Obj\x01")) {
		return errors.New("this is no Avro object container file")
	}
	for {
		n, err := s.keepVarint()
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if n < 0 { // then the block's size in bytes follows
			n = -n
			if _, err := s.keepVarint(); err != nil {
				return err
			}
		}
		for ; n > 0; n-- {
			key, err := s.keepBytes()
			if err != nil {
				return err
			}
			name := string(key)
			value, err := s.keepBytes()
			if err != nil {
				return err
			}
			if name == avroSchemaName {
				s.schema = bytes.Clone(value)
			}
		}
	}
	if err := s.keep(avroSync); err != nil {
		return err
	}
	s.header = slices.Clip(s.header)
	return nil
}

func (s *avroSource) keep(n int) error {
	if n < 0 || len(s.header)+n > maxAvroHeader {
		return fmt.Errorf("the header is longer than %d bytes", maxAvroHeader)
	}
	at := len(s.header)
	s.header = append(s.header, make([]byte, n)...)
	_, err := io.ReadFull(s.r, s.header[at:])
	return err
}

func (s *avroSource) keepVarint() (int64, error) {
	v, err := binary.ReadVarint(s.r)
	if err == nil {
		s.header = binary.AppendVarint(s.header, v)
	}
	return v, err
}

func (s *avroSource) keepBytes() ([]byte, error) {
	n, err := s.keepVarint()
	if err != nil {
		return nil, err
	}
	if n < 0 || n > maxAvroHeader {
		return nil, fmt.Errorf("a metadata value of %d bytes", n)
	}
	at := len(s.header)
	err = s.keep(int(n))
	return s.header[at:], err
}

func (s *avroSource) next(context.Context) (batch, error) {
	b := batch{contentType: "application/avro", first: s.rows, body: bytes.Clone(s.header)}
	for b.rows < batchRows && len(b.body)-len(s.header) < batchBytes {
		rows, err := s.appendBlock(&b.body)
		if err == io.EOF {
			break
		}
		if err != nil {
			return batch{}, fmt.Errorf("block %d (from row %d): %w", s.block, s.rows+b.rows+1, cutShort(err))
		}
		s.block++
		b.rows += rows
	}
	if b.rows == 0 {
		return batch{}, io.EOF
	}
	s.rows += b.rows
	return b, nil
}

// appendBlock copies one block; io.EOF where the file ends between two.
func (s *avroSource) appendBlock(dst *[]byte) (rows int64, err error) {
	if _, err := s.r.Peek(1); err != nil {
		return 0, err
	}
	if rows, err = binary.ReadVarint(s.r); err != nil {
		return 0, io.ErrUnexpectedEOF
	}
	size, err := binary.ReadVarint(s.r)
	if err != nil {
		return 0, io.ErrUnexpectedEOF
	}
	if rows < 0 || size < 0 || size > maxAvroBlock {
		return 0, fmt.Errorf("%d rows in %d bytes; blocks of up to %d bytes can be sent, write the file with smaller ones", rows, size, maxAvroBlock)
	}
	b := binary.AppendVarint(binary.AppendVarint(*dst, rows), size)
	at := len(b)
	b = append(b, make([]byte, int(size)+avroSync)...)
	if _, err := io.ReadFull(s.r, b[at:]); err != nil {
		return 0, io.ErrUnexpectedEOF
	}
	if !bytes.Equal(b[len(b)-avroSync:], s.header[len(s.header)-avroSync:]) {
		return 0, errors.New("the sync marker does not match; the file is damaged")
	}
	*dst = b
	return rows, nil
}
