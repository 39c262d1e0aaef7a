package api

import (
	"bufio"
	"net/http"
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
	buf   *bufio.Writer
}

func (a *API) streamWriter(c *gin.Context) *streamWriter {
	s := &streamWriter{w: c.Writer, rc: http.NewResponseController(c.Writer), stall: a.o.StallTimeout}
	s.buf = bufio.NewWriterSize(connWriter{s}, 64<<10)
	return s
}

// connWriter is the way from the buffer to the connection.
type connWriter struct{ s *streamWriter }

func (c connWriter) Write(p []byte) (int, error) {
	_ = c.s.rc.SetWriteDeadline(time.Now().Add(c.s.stall)) // not supported: not a connection
	return c.s.w.Write(p)
}

func (s *streamWriter) Write(p []byte) (int, error) { return s.buf.Write(p) }

// begun tells whether something was sent.
func (s *streamWriter) begun() bool { return s.w.Written() }

// flush sends all that was written, and the header if nothing was.
func (s *streamWriter) flush() error {
	if err := s.buf.Flush(); err != nil {
		return err
	}
	_ = s.rc.SetWriteDeadline(time.Now().Add(s.stall))
	return s.rc.Flush()
}

// finish passes on what is buffered and leaves the end to net/http.
func (s *streamWriter) finish() error { return s.buf.Flush() }

// cut ends the answer in a way that no HTTP client takes for its end.
func cut() { panic(http.ErrAbortHandler) }
