package api

import (
	"encoding/json"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/schema"
)

// pushForm writes the pieces of a push read in one format; an empty piece is a
// heartbeat. Not safe for concurrent use.
type pushForm interface {
	write(p pushed) error
	// close writes what ends the format.
	close() error
}

func newPushForm(format string, w io.Writer, s *schema.Schema, asText bool) (pushForm, error) {
	if format == formatArrow {
		return newPushArrow(w, s), nil
	}
	rows, err := newJSONRows(s, asText)
	if format == formatSSE {
		return &pushSSE{rows, w}, err
	}
	return &pushNDJSON{rows, w}, err
}

// pushNDJSON: rows and marks, one a line; a blank line is a heartbeat.
type pushNDJSON struct {
	rows *jsonRows
	w    io.Writer
}

func (f *pushNDJSON) write(p pushed) error {
	if p == (pushed{}) {
		_, err := f.w.Write([]byte("\n"))
		return err
	}
	if p.rows != nil {
		err := f.rows.each(p.rows, func(row []byte) error {
			_, err := f.w.Write(append(row, '\n'))
			return err
		})
		if err != nil {
			return err
		}
	}
	if p.mark == nil {
		return nil
	}
	text, err := json.Marshal(p.mark)
	if err != nil {
		return err
	}
	_, err = f.w.Write(append(text, '\n'))
	return err
}

func (f *pushNDJSON) close() error { return nil }

// pushSSE: server-sent events, named for the marks; rows have a cursor as their
// id instead of a mark behind them. A comment is a heartbeat.
type pushSSE struct {
	rows *jsonRows
	w    io.Writer
}

var ssePrefix = []byte("data: ")

func (f *pushSSE) write(p pushed) error {
	if p == (pushed{}) {
		return f.text(": heartbeat\n\n")
	}
	if p.rows != nil {
		head := "event: rows\n"
		if p.mark != nil && p.mark.Kind == markCursor {
			head += "id: " + p.mark.Cursor + "\n"
			p.mark = nil
		}
		if err := f.text(head); err != nil {
			return err
		}
		err := f.rows.each(p.rows, func(row []byte) error {
			if _, err := f.w.Write(ssePrefix); err != nil {
				return err
			}
			_, err := f.w.Write(append(row, '\n'))
			return err
		})
		if err == nil {
			err = f.text("\n")
		}
		if err != nil {
			return err
		}
	}
	if p.mark == nil {
		return nil
	}
	return f.event(*p.mark)
}

func (f *pushSSE) event(m mark) error {
	var data any = &m
	name, id := m.Kind, ""
	switch m.Kind {
	case markError:
		name, data = "problem", m.Problem
	case markCursor, markCheckpoint:
		id = "id: " + m.Cursor + "\n" // a position to resume from
	}
	m.Kind = "" // it is the event's name
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return f.text("event: " + name + "\n" + id + "data: " + string(text) + "\n\n")
}

func (f *pushSSE) text(s string) error {
	_, err := io.WriteString(f.w, s)
	return err
}

func (f *pushSSE) close() error { return nil }

// markKey is where a record batch message of an Arrow IPC stream has its mark.
const markKey = "thermocline.mark"

// pushArrow: an IPC stream. A mark is custom metadata of a batch and counts
// behind its rows. A batch without rows and mark is a heartbeat.
type pushArrow struct {
	x     *schema.External
	w     *ipc.Writer
	empty []arrow.Array // columns of a batch without rows
}

func newPushArrow(w io.Writer, s *schema.Schema) *pushArrow {
	x := schema.NewExternal(s)
	none := array.NewRecordBuilder(memory.DefaultAllocator, x.Schema())
	defer none.Release()
	return &pushArrow{x: x, w: ipc.NewWriter(w, ipc.WithSchema(x.Schema())), empty: none.NewRecordBatch().Columns()}
}

func (f *pushArrow) write(p pushed) error {
	columns, n := f.empty, int64(0)
	if p.rows != nil {
		rows, err := f.x.Convert(p.rows)
		if err != nil {
			return err
		}
		defer rows.Release()
		columns, n = rows.Columns(), rows.NumRows()
	}
	var meta arrow.Metadata
	if p.mark != nil {
		text, err := json.Marshal(p.mark)
		if err != nil {
			return err
		}
		meta = arrow.NewMetadata([]string{markKey}, []string{string(text)})
	}
	b := array.NewRecordBatchWithMetadata(f.x.Schema(), columns, n, meta)
	defer b.Release()
	return f.w.Write(b)
}

func (f *pushArrow) close() error { return f.w.Close() }
