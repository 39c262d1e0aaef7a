package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/subscriber"
	"github.com/thermocline/thermocline/writer"
)

// problemError is an error of the HTTP layer itself, which knows its status.
type problemError struct {
	status int
	code   string
	detail string
}

func (e *problemError) Error() string { return e.detail }

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w", &problemError{http.StatusBadRequest, "INVALID_REQUEST", fmt.Sprintf(format, args...)})
}

// statuses maps the sentinels; the first that matches counts.
var statuses = []struct {
	err        error
	status     int
	code       string
	retryAfter int // seconds; 0: no header
}{
	{reader.ErrOtherView, http.StatusGone, "CURSOR_OF_OTHER_VIEW", 0},
	{dataset.ErrExpired, http.StatusGone, "VERSION_EXPIRED", 0},
	{record.ErrOutOfRange, http.StatusGone, "CURSOR_OUT_OF_RANGE", 0},
	{record.ErrTooLarge, http.StatusRequestEntityTooLarge, "TOO_LARGE", 0},
	{subscriber.ErrSessionFenced, http.StatusConflict, "SUBSCRIBER_FENCED", 0},
	{record.ErrFenced, http.StatusConflict, "PRODUCER_FENCED", 0},
	{record.ErrOutOfSequence, http.StatusConflict, "PRODUCER_OUT_OF_SEQUENCE", 0},
	{record.ErrExists, http.StatusConflict, "ALREADY_EXISTS", 0},
	{record.ErrNotFound, http.StatusNotFound, "NOT_FOUND", 0},
	{record.ErrInvalid, http.StatusBadRequest, "INVALID_REQUEST", 0},
	{record.ErrConflict, http.StatusConflict, "CONFLICT", 0},
	{record.ErrFull, http.StatusInsufficientStorage, "BUFFER_FULL", 5},
	{record.ErrBusy, http.StatusTooManyRequests, "BUSY", 1},
	{record.ErrCorrupt, http.StatusInternalServerError, "CORRUPT", 0},
	{record.ErrClosed, http.StatusServiceUnavailable, "UNAVAILABLE", 2},
	{context.DeadlineExceeded, http.StatusGatewayTimeout, "TIMEOUT", 0},
}

// statusClientGone is what the log shows for a request whose client went
// before the answer; nobody receives it.
const statusClientGone = 499

// problemOf says what a client is told about err. Errors without a sentinel
// are told in the log only.
func problemOf(err error, requestID string) (p rest.Problem, retryAfter int) {
	p = rest.Problem{
		Type: "about:blank", Status: http.StatusInternalServerError, Code: "INTERNAL", RequestID: requestID,
		Detail: "an internal error; the server's log tells it under this request id",
	}
	var own *problemError
	var rejected *writer.RejectedError
	var conflicts *dataset.Conflicts
	switch {
	case errors.As(err, &own):
		p.Status, p.Code, p.Detail = own.status, own.code, err.Error()
	case errors.As(err, &rejected):
		p.Status, p.Code, p.Detail = http.StatusUnprocessableEntity, "ROWS_REJECTED", err.Error()
		rows := rowErrors(rejected.Rows)
		p.Errors, p.ErrorCount = &rows, &rejected.Total
	case errors.As(err, &conflicts):
		p.Status, p.Code, p.Detail = http.StatusConflict, "MERGE_CONFLICT", err.Error()
		list := toConflicts(conflicts.List)
		p.Conflicts, p.ConflictCount = &list, &conflicts.Count
	case errors.Is(err, context.Canceled):
		p.Status, p.Code, p.Detail = statusClientGone, "CLIENT_GONE", "the client went before the answer"
	default:
		for _, s := range statuses {
			if errors.Is(err, s.err) {
				p.Status, p.Code, p.Detail, retryAfter = s.status, s.code, err.Error(), s.retryAfter
				break
			}
		}
	}
	if p.Title = http.StatusText(p.Status); p.Title == "" {
		p.Title = p.Code
	}
	if own != nil && own.status == http.StatusTooManyRequests {
		retryAfter = 1
	}
	return p, retryAfter
}

// fail answers with the problem that err is. After the header went out it is
// too late for that: then only the log is told.
func (a *API) fail(c *gin.Context, err error) {
	_ = c.Error(err) // for the access log
	c.Abort()
	if c.Writer.Written() {
		return
	}
	p, retryAfter := problemOf(err, requestID(c))
	h := c.Writer.Header()
	h.Del("Trailer")
	if retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	writeAs(c, p.Status, "application/problem+json", p)
}

// answerTimeout is how long a client may take to receive an answer that is
// written at once.
const answerTimeout = time.Minute

func writeJSON(c *gin.Context, status int, v any) { writeAs(c, status, "application/json", v) }

func writeAs(c *gin.Context, status int, contentType string, v any) {
	b, err := json.Marshal(v)
	if err != nil { // only a schema or summary that is not JSON could do this
		_ = c.Error(err)
		status, contentType = http.StatusInternalServerError, "application/problem+json"
		p, _ := problemOf(err, requestID(c))
		b, _ = json.Marshal(p)
	}
	// Work may have taken longer than the server's WriteTimeout.
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Now().Add(answerTimeout))
	h := c.Writer.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	c.Writer.WriteHeader(status)
	if _, err := c.Writer.Write(b); err != nil {
		_ = c.Error(err)
	}
}

func rowErrors(in []*schema.RowError) []rest.RowError {
	out := make([]rest.RowError, len(in))
	for i, e := range in {
		out[i] = rest.RowError{Row: int64(e.Row), Path: e.Path, Code: e.Code, Expected: e.Expected, Got: e.Got}
	}
	return out
}
