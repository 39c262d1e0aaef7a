package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/thermocline/thermocline/record"
)

// intake bounds the memory of the publish bodies under way, in all and for each
// stream (slots.go says why). It never waits: who does not fit is told to come
// again.
type intake struct {
	maxBytes int64
	maxBody  int       // MaxRequestBytes; less in tests
	buffers  sync.Pool // of *[]byte

	mu    sync.Mutex
	bytes int64
	by    map[string]int64 // by stream, of those that have any
}

func (in *intake) take(stream string, n int64) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.bytes+n > in.maxBytes:
		return fmt.Errorf("publish to %s: the bodies under way fill the %d bytes there are for them; try again after a pause: %w", stream, in.maxBytes, record.ErrBusy)
	case in.by[stream]+n > share(in.maxBytes):
		return fmt.Errorf("publish to %s: the stream's bodies under way fill the %d bytes there are for one stream; try again after a pause: %w", stream, share(in.maxBytes), record.ErrBusy)
	}
	in.bytes += n
	in.by[stream] += n
	return nil
}

func (in *intake) give(stream string, n int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.bytes -= n
	if in.by[stream] -= n; in.by[stream] == 0 {
		delete(in.by, stream)
	}
}

const (
	firstBuffer = 64 << 10
	// trusted is how much of a declared length gets memory before its bytes are
	// there. Beyond it memory follows what has come: lengths that a few clients
	// declare must not keep all others out.
	trusted    = firstBuffer
	keepBuffer = 4 << 20 // larger buffers are not kept for the next request
)

// body is a request's body, whole and decompressed.
type body struct {
	in     *intake
	stream string
	buf    []byte
	held   int64
}

// release gives the memory back; the bytes must not be used any more.
func (b *body) release() {
	b.in.give(b.stream, b.held)
	if buf := b.buf[:0]; cap(buf) > 0 && cap(buf) <= keepBuffer {
		b.in.buffers.Put(&buf)
	}
	b.buf = nil
}

// grow makes room for n bytes in all, which are at most most, and counts them
// before they exist.
func (b *body) grow(n, most int) error {
	if n <= cap(b.buf) {
		return nil
	}
	if n = max(n, 2*cap(b.buf)); n > most-most/4 {
		n = most // not one more time for the rest
	}
	if err := b.in.take(b.stream, int64(n)); err != nil {
		return err
	}
	next := make([]byte, len(b.buf), n)
	copy(next, b.buf)
	old := int64(cap(b.buf))
	b.buf = next
	b.in.give(b.stream, old)
	b.held += int64(n) - old
	return nil
}

// readBody reads and decompresses the body of a publish request. The caller
// releases it.
func (a *API) readBody(c *gin.Context, stream string) (_ *body, err error) {
	r := c.Request
	if r.ContentLength > int64(a.intake.maxBody) {
		return nil, bodyTooLarge()
	}
	b := &body{in: &a.intake, stream: stream}
	defer func() {
		if err != nil {
			b.release()
		}
	}()
	if p, ok := a.intake.buffers.Get().(*[]byte); ok {
		if err := a.intake.take(stream, int64(cap(*p))); err != nil {
			return nil, err
		}
		b.buf, b.held = *p, int64(cap(*p))
	}
	first, most := firstBuffer, a.intake.maxBody+1
	raw := a.timedBody(c)
	defer raw.done()
	src, finish, err := b.decompress(r.Header.Get("Content-Encoding"), raw)
	if err != nil {
		return nil, err
	}
	defer finish()
	if src == io.Reader(raw) && r.ContentLength >= 0 {
		most = int(r.ContentLength) + 1 // so that the end is seen without growing
		first = min(most, trusted)
	}
	for err := b.grow(first, most); ; err = b.grow(len(b.buf)+1, most) {
		if err != nil {
			return nil, err
		}
		n, err := src.Read(b.buf[len(b.buf):cap(b.buf)])
		b.buf = b.buf[:len(b.buf)+n]
		switch {
		case len(b.buf) > a.intake.maxBody:
			return nil, bodyTooLarge()
		case err == io.EOF:
			return b, nil
		case err != nil:
			return nil, bodyError(err)
		}
	}
}

func bodyTooLarge() error {
	return fmt.Errorf("the request's body is larger than %d bytes, decompressed or not; send several requests: %w", MaxRequestBytes, record.ErrTooLarge)
}

// bodyError says what a failed read of a body means.
func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return bodyTooLarge()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &problemError{http.StatusRequestTimeout, "REQUEST_TIMEOUT", "the request's body came too slowly; nothing was done; send smaller requests"}
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return invalid("the request's zstd body needs more than %d bytes of memory; compress without --long: %v", maxWindow, err)
	}
	return invalid("read the request's body: %v", err)
}

// timedBody is the raw body with its limit of bytes and its deadlines: one for
// the whole, and one for each pace bytes, for whoever sends a byte a second.
type timedBody struct {
	r     io.Reader
	rc    *http.ResponseController
	whole time.Time
	pause time.Duration // for pace bytes
	left  int           // of them
}

// pace is how many bytes must come within Options.BodyPause.
const pace = 8 << 10

func (a *API) timedBody(c *gin.Context) *timedBody {
	return a.timedReader(c, int64(a.intake.maxBody), a.o.BodyTimeout)
}

func (a *API) timedReader(c *gin.Context, limit int64, timeout time.Duration) *timedBody {
	b := &timedBody{
		r:  http.MaxBytesReader(c.Writer, c.Request.Body, limit),
		rc: http.NewResponseController(c.Writer), whole: time.Now().Add(timeout), pause: a.o.BodyPause,
	}
	b.moveDeadline()
	return b
}

func (b *timedBody) moveDeadline() {
	b.left = pace
	next := time.Now().Add(b.pause)
	if next.After(b.whole) {
		next = b.whole
	}
	_ = b.rc.SetReadDeadline(next) // not supported: then there is no connection to guard
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= n; b.left <= 0 && err == nil {
		b.moveDeadline()
	}
	return n, err
}

// done lifts the deadline: net/http goes on reading to notice a client that
// leaves, and would take a deadline that passes for one, while the request is
// at work.
func (b *timedBody) done() { _ = b.rc.SetReadDeadline(time.Time{}) }

// maxWindow bounds the memory of one zstd decoder.
const maxWindow = 8 << 20

var (
	gzipReaders sync.Pool
	zstdReaders sync.Pool
)

func (b *body) decompress(encoding string, raw *timedBody) (r io.Reader, finish func(), err error) {
	switch encoding = strings.ToLower(strings.TrimSpace(encoding)); encoding {
	case "", "identity":
		return raw, func() {}, nil
	case "gzip":
		z, ok := gzipReaders.Get().(*gzip.Reader)
		if ok {
			err = z.Reset(raw)
		} else {
			z, err = gzip.NewReader(raw)
		}
		if err != nil {
			return nil, nil, bodyError(err)
		}
		return z, func() { gzipReaders.Put(z) }, nil
	case "zstd":
		if err := b.in.take(b.stream, maxWindow); err != nil {
			return nil, nil, err
		}
		b.held += maxWindow
		z, ok := zstdReaders.Get().(*zstd.Decoder)
		if !ok {
			z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		}
		if err == nil {
			err = z.Reset(raw)
		}
		if err != nil {
			return nil, nil, bodyError(err)
		}
		return z, func() {
			_ = z.Reset(nil) // lets go of the request
			zstdReaders.Put(z)
		}, nil
	}
	return nil, nil, &problemError{http.StatusUnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE", fmt.Sprintf("Content-Encoding %.80q is not served; send gzip, zstd or none", encoding)}
}

// mediaType is the request's Content-Type without parameters.
func mediaType(c *gin.Context) string {
	t, _, err := mime.ParseMediaType(c.GetHeader("Content-Type"))
	if err != nil {
		return c.GetHeader("Content-Type")
	}
	return t
}

// maxControlBody bounds the JSON bodies of all calls but publish.
const maxControlBody = 16 << 20

// readJSON reads a control call's body into v, strictly. An empty body is an
// error unless it is optional.
func (a *API) readJSON(c *gin.Context, v any, optional bool) error {
	if t := mediaType(c); t != "application/json" && (t != "" || c.Request.ContentLength > 0) {
		return &problemError{http.StatusUnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE", fmt.Sprintf("Content-Type %.80q is not served here; send application/json", t)}
	}
	text, err := a.readBounded(c, maxControlBody)
	if err != nil {
		return err
	}
	if optional && len(bytes.TrimSpace(text)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return jsonError(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return invalid("the request's body goes on behind its JSON value; send one object")
	}
	return nil
}

// readBounded reads a body of at most limit bytes, as it is sent.
func (a *API) readBounded(c *gin.Context, limit int64) ([]byte, error) {
	raw := a.timedBody(c)
	defer raw.done()
	text, err := io.ReadAll(io.LimitReader(raw, limit+1))
	if err != nil {
		return nil, bodyError(err)
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("the request's body is larger than %d bytes: %w", limit, record.ErrTooLarge)
	}
	return text, nil
}

func jsonError(err error) error {
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && wrong.Field != "":
		return invalid("the request's body: %s: want %s, got %s", wrong.Field, wrong.Type, wrong.Value)
	case errors.Is(err, io.EOF):
		return invalid("the request's body is empty; send a JSON object")
	}
	return invalid("the request's body: %s", strings.TrimPrefix(err.Error(), "json: "))
}
