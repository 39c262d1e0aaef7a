package api

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
)

const requestIDKey = "request-id"

func requestID(c *gin.Context) string { return c.GetString(requestIDKey) }

// observe gives each request its id, turns a panic into a problem, and writes
// one log line and the metrics when it is over. The log has the path without
// its query (predicates may hold what is private) and no headers.
func (a *API) observe(c *gin.Context) {
	begin := time.Now()
	id := c.GetHeader("Request-Id")
	if !sound(id) {
		id = rand.Text()[:16]
	}
	c.Set(requestIDKey, id)
	c.Header("Request-Id", id)
	c.Header("X-Content-Type-Options", "nosniff")
	a.http.inFlight.Inc()
	defer func() {
		cut := false
		switch p := recover(); {
		case p == nil:
		case isAbort(p):
			cut = true
		default:
			a.log.ErrorContext(c.Request.Context(), "panic in a handler", "request", id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			cut = c.Writer.Written() // an answer that began must not look whole
			a.fail(c, fmt.Errorf("panic: %v", p))
		}
		a.http.inFlight.Dec()
		a.logRequest(c, id, begin, cut)
		if cut {
			panic(http.ErrAbortHandler) // net/http closes the connection, silently
		}
	}()
	c.Next()
}

func isAbort(p any) bool {
	err, ok := p.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}

func (a *API) logRequest(c *gin.Context, id string, begin time.Time, cut bool) {
	took, status := time.Since(begin), c.Writer.Status()
	route := c.FullPath()
	if route == "" {
		route = "none"
	}
	a.http.seen(c.Request.Method, route, status, took)
	level := slog.LevelDebug
	switch {
	case status >= 500 || cut:
		level = slog.LevelError
	case status >= 400:
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{
		slog.String("request", id), slog.String("method", c.Request.Method), slog.String("path", c.Request.URL.Path),
		slog.Int("status", status), slog.Int("bytes", max(c.Writer.Size(), 0)), slog.Duration("took", took),
		slog.String("remote", c.Request.RemoteAddr),
	}
	if cut {
		attrs = append(attrs, slog.Bool("cut", true))
	}
	if err := c.Errors.Last(); err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	a.log.LogAttrs(c.Request.Context(), level, "request", attrs...)
}

// sound tells whether a client's request id may stand in a log.
func sound(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for _, r := range id {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.' {
			return false
		}
	}
	return true
}

// queries holds the query parameters of each operation that has any. An
// unknown one is an error: a misspelt "where" must not return every row.
var queries = map[string][]string{
	"GET /v1/streams":                                                       {"limit", "pageToken"},
	"GET /v1/streams/:stream/branches":                                      {"limit", "pageToken"},
	"DELETE /v1/streams/:stream/branches/:branch":                           {"deleteSubscribers"},
	"GET /v1/streams/:stream/branches/:branch/compare/:other":               {"sample", "archive"},
	"GET /v1/streams/:stream/branches/:branch/schema/versions":              {"limit", "pageToken"},
	"POST /v1/streams/:stream/branches/:branch/rows":                        {"onError", "unknownFields"},
	"GET /v1/streams/:stream/branches/:branch/rows":                         {"format", "columns", "where", "from", "limit", "snapshot", "tag", "asOf", "until", "schema", "consistency", "system", "fallback", "numbers", "end"},
	"GET /v1/streams/:stream/branches/:branch/tail":                         {"format", "from", "columns", "where", "consistency", "system", "fallback", "numbers", "cursors"},
	"GET /v1/streams/:stream/branches/:branch/subscribers":                  {"limit", "pageToken"},
	"GET /v1/streams/:stream/branches/:branch/subscribers/:subscriber/rows": {"member", "resume", "format", "columns", "where", "system", "numbers"},
	"GET /v1/streams/:stream/branches/:branch/verify":                       {"producerColumn", "sequenceColumn", "graceSeconds"},
	"GET /v1/verify": {"producerColumn", "sequenceColumn", "graceSeconds"},
	"GET /v1/datasets/:stream/branches/:branch/snapshots": {"limit", "pageToken"},
	"GET /v1/datasets/:stream/branches/:branch/files":     {"snapshot", "limit", "pageToken"},
	"GET /v1/datasets": {"limit", "pageToken"},
	"POST /v1/datasets/:stream/branches/:branch/upload":                          {"type", "unknownFields"},
	"GET /v1/datasets/:stream/branches/:branch/transactions":                     {"state", "limit", "pageToken"},
	"POST /v1/datasets/:stream/branches/:branch/transactions/:transaction/files": {"name", "unknownFields"},
}

func (a *API) checkQuery(c *gin.Context) {
	known := queries[c.Request.Method+" "+c.FullPath()]
next:
	for name := range c.Request.URL.Query() {
		for _, k := range known {
			if k == name {
				continue next
			}
		}
		detail := "this call has none"
		if len(known) > 0 {
			detail = "known here: " + strings.Join(known, ", ")
		}
		a.fail(c, invalid("unknown query parameter %.80q; %s", name, detail))
		return
	}
}
