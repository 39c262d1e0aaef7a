package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// event is a server-sent event. An empty one is a heartbeat.
type event struct {
	name, id string
	data     []byte // lines, each with its end
	lines    int
}

// maxEvent bounds an event that is read: a batch of rows.
const maxEvent = 256 << 20

// readEvents calls handle for each whole event of a stream and each comment.
// It returns handle's error, or errEnded: an event that is cut is as if it had
// not been sent.
func readEvents(r io.Reader, handle func(event) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var e event
	for {
		line, err := readLine(in)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return errEnded
			}
			return fmt.Errorf("%w: %w", errEnded, err)
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "event":
			e.name = string(value)
		case "id":
			e.id = string(value)
		case "data":
			if len(e.data)+len(value) > maxEvent {
				return fmt.Errorf("an event of the server is larger than %d bytes", maxEvent)
			}
			e.data = append(append(e.data, value...), '\n')
			e.lines++
		case "":
			if len(line) > 0 { // a comment
				if err := handle(event{}); err != nil {
					return err
				}
				continue
			}
			if err := handle(e); err != nil {
				return err
			}
			e = event{data: e.data[:0]}
		}
	}
}

// readLine reads one line without its end. The line is valid until the next.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if err == nil {
		return line[:len(line)-1], nil
	}
	if !errors.Is(err, bufio.ErrBufferFull) {
		return nil, err
	}
	long := bytes.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) {
		if len(long) > maxEvent {
			return nil, fmt.Errorf("a line of the server is longer than %d bytes", maxEvent)
		}
		line, err = in.ReadSlice('\n')
		long = append(long, line...)
	}
	if err != nil {
		return nil, err
	}
	return long[:len(long)-1], nil
}

// lineEnd is the length of the first line with its end.
func lineEnd(b []byte) int {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return i + 1
	}
	return len(b)
}
