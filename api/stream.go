package api

import (
	"bufio"
	"net/http"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
)

// streamWriter writes a streamed answer: buffered, and with a deadline on each
// write, so that a client which stops reading is cut and holds nothing for
// longer. Until the buffer first runs over, nothing has been sent and the
// answer can still become a problem. Not safe for concurrent use.
type streamWriter struct {
	w     gin.ResponseWriter
	rc    *http.ResponseController
	stall time.Duration
	buf   *bufio.Writer // nil while nothing is buffered: a thousand silent tails have none
}

var streamBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 64<<10) }}

func (a *API) streamWriter(c *gin.Context) *streamWriter {
	return &streamWriter{w: c.Writer, rc: http.NewResponseController(c.Writer), stall: a.o.StallTimeout}
}

// connWriter is the way from the buffer to the connection.
type connWriter struct{ s *streamWriter }

func (c connWriter) Write(p []byte) (int, error) {
	_ = c.s.rc.SetWriteDeadline(time.Now().Add(c.s.stall)) // not supported: not a connection
	return c.s.w.Write(p)
}

func (s *streamWriter) Write(p []byte) (int, error) {
	if s.buf == nil {
		s.buf = streamBuffers.Get().(*bufio.Writer)
		s.buf.Reset(connWriter{s})
	}
	return s.buf.Write(p)
}

// begun tells whether something was sent.
func (s *streamWriter) begun() bool { return s.w.Written() }

// flush sends all that was written, and the header if nothing was.
func (s *streamWriter) flush() error {
	if err := s.finish(); err != nil {
		return err
	}
	_ = s.rc.SetWriteDeadline(time.Now().Add(s.stall))
	return s.rc.Flush()
}

// finish passes on what is buffered and leaves the end to net/http.
func (s *streamWriter) finish() error {
	if s.buf == nil {
		return nil
	}
	if err := s.buf.Flush(); err != nil {
		return err // and so will every later call
	}
	s.buf.Reset(nil)
	streamBuffers.Put(s.buf)
	s.buf = nil
	return nil
}

// cut ends the answer in a way that no HTTP client takes for its end.
func cut() { panic(http.ErrAbortHandler) }
