package iceberg

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// failure is an error in Iceberg's model.
type failure struct {
	Message string `json:"message"`
	Type    string `json:"type"`
	Code    int    `json:"code"`
}

// kind is what a request is about; it decides what an error is called.
type kind int

const (
	aboutNamespace kind = iota
	aboutTable
	aboutCommit // of a table
)

// httpError is an error of the HTTP layer itself.
type httpError failure

func (e *httpError) Error() string { return e.Message }

// failureOf says what a client is told about err. Clients take a status of 500 and
// above, in answer to a commit, to mean that it may have happened, and so no error
// of which it is known that nothing happened is told with one.
// subject is the namespace or table that the request is about.
func failureOf(k kind, subject string, err error) failure {
	var own *httpError
	var missing *MissingNamespaceError
	var gone *MissingMetadataError
	var unmet *dataset.RequirementError
	switch {
	case errors.As(err, &own):
		return failure(*own)
	case errors.Is(err, dataset.ErrOutcomeUnknown):
		return failure{err.Error(), "CommitStateUnknownException", http.StatusInternalServerError}
	case errors.As(err, &unmet):
		return failure{unmet.Error(), "CommitFailedException", http.StatusConflict}
	case errors.Is(err, record.ErrInvalid):
		return failure{err.Error(), "BadRequestException", http.StatusBadRequest}
	case errors.Is(err, record.ErrTooLarge):
		return failure{err.Error(), "BadRequestException", http.StatusRequestEntityTooLarge}
	case errors.As(err, &gone):
		return failure{"Failed to open input stream for file: " + gone.Location, "NotFoundException", http.StatusNotFound}
	case errors.As(err, &missing):
		return failure{"Namespace does not exist: " + missing.Name, "NoSuchNamespaceException", http.StatusNotFound}
	case errors.Is(err, record.ErrNotFound) && k == aboutNamespace:
		return failure{"Namespace does not exist: " + subject, "NoSuchNamespaceException", http.StatusNotFound}
	case errors.Is(err, record.ErrNotFound):
		return failure{"Table does not exist: " + subject, "NoSuchTableException", http.StatusNotFound}
	case errors.Is(err, record.ErrExists) && k == aboutNamespace:
		return failure{"Namespace already exists: " + subject, "AlreadyExistsException", http.StatusConflict}
	case errors.Is(err, record.ErrExists) && k == aboutCommit:
		return failure{"Requirement failed: table already exists: " + subject, "AlreadyExistsException", http.StatusConflict}
	case errors.Is(err, record.ErrExists):
		return failure{"Table already exists: " + subject, "AlreadyExistsException", http.StatusConflict}
	case errors.Is(err, record.ErrConflict) && k == aboutNamespace:
		return failure{"Namespace " + subject + " is not empty: " + err.Error(), "NamespaceNotEmptyException", http.StatusConflict}
	case errors.Is(err, record.ErrBusy):
		return failure{err.Error(), "TooManyRequestsException", http.StatusTooManyRequests}
	case errors.Is(err, record.ErrConflict), k == aboutCommit:
		return failure{"Nothing was committed: " + err.Error(), "CommitFailedException", http.StatusConflict}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, record.ErrClosed):
		return failure{err.Error(), "ServiceUnavailableException", http.StatusServiceUnavailable}
	}
	return failure{"an internal error; the server's log tells it", "InternalServerError", http.StatusInternalServerError}
}

// subjectKey is where a request keeps what it is about.
const subjectKey = "iceberg-subject"

// about notes what a request is about.
func about(c *gin.Context, subject string) { c.Set(subjectKey, subject) }

// fail answers with err.
func (h *handlers) fail(c *gin.Context, k kind, err error) {
	_ = c.Error(err) // for the access log
	f := failureOf(k, c.GetString(subjectKey), err)
	if f.Code == http.StatusTooManyRequests {
		c.Header("Retry-After", "1")
	}
	h.write(c, f.Code, map[string]failure{"error": f})
}

// answerTimeout is how long a client may take to receive an answer.
const answerTimeout = time.Minute

func (h *handlers) write(c *gin.Context, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		_ = c.Error(err)
		status, b = http.StatusInternalServerError, []byte(`{"error":{"message":"an internal error","type":"InternalServerError","code":500}}`)
	}
	h.writeBytes(c, status, b)
}

func (h *handlers) writeBytes(c *gin.Context, status int, b []byte) {
	kept := b
	if _, table := c.Get(tableKey); table && status == http.StatusOK {
		kept = nil // it is told anew
	}
	c.Set(answerKey, Answer{status, string(kept)})
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Now().Add(answerTimeout))
	header := c.Writer.Header()
	if len(b) > 0 {
		header.Set("Content-Type", "application/json")
		header.Set("Content-Length", strconv.Itoa(len(b)))
	}
	c.Writer.WriteHeader(status)
	c.Writer.WriteHeaderNow()
	if c.Request.Method == http.MethodHead || len(b) == 0 {
		return
	}
	if _, err := c.Writer.Write(b); err != nil {
		_ = c.Error(err)
	}
}

// NoRoute answers for a path that is not served.
func NoRoute(c *gin.Context) {
	f := failure{"no such path: " + c.Request.Method + " " + c.Request.URL.Path + "; /v1/config lists the endpoints", "NotFoundException", http.StatusNotFound}
	(&handlers{}).write(c, f.Code, map[string]failure{"error": f})
}

// limited keeps the number of requests under way bounded.
func (h *handlers) limited(next gin.HandlerFunc) gin.HandlerFunc {
	return func(c *gin.Context) {
		select {
		case h.slots <- struct{}{}:
			defer func() { <-h.slots }()
			next(c)
		default:
			f := failure{"too many catalog requests are under way; try again after a pause", "TooManyRequestsException", http.StatusTooManyRequests}
			c.Header("Retry-After", "1")
			h.write(c, f.Code, map[string]failure{"error": f})
		}
	}
}

// maxBody bounds the body of a request: a commit names a schema at most, and
// snapshots, but no files.
const maxBody = 16 << 20

// read reads the body into v.
func (h *handlers) read(c *gin.Context, v any) error {
	b, err := h.body(c)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return &httpError{"the request's body: " + err.Error(), "BadRequestException", http.StatusBadRequest}
	}
	return nil
}

// body is the request's body, which may have been read already.
func (h *handlers) body(c *gin.Context) ([]byte, error) {
	if b, ok := c.Get(bodyKey); ok {
		return b.([]byte), nil
	}
	return h.o.Body(c, maxBody)
}
