package iceberg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/record"
)

// A request that carries an idempotency key is carried out once. Its answer is
// remembered, and given again to whoever sends the request again, for a day at least.
// Where the process ended before the answer was known, the request is carried out
// again: a change of a table is recognised by the key that it left there (see
// Key), and a drop of what is gone has been done.
const idempotencyHeader = "Idempotency-Key"

// Answer is what a request was told; Status 0: it is under way, or its process ended.
type Answer struct {
	Status int
	Body   string
}

// Answers remembers answers durably. Safe for concurrent use.
type Answers interface {
	// BeginAnswer notes that a request is under way. known: it came before.
	// record.ErrConflict if the key came with another request.
	BeginAnswer(ctx context.Context, key, fingerprint string) (a Answer, known bool, err error)
	EndAnswer(ctx context.Context, key string, a Answer) error
	ForgetAnswer(ctx context.Context, key string) error
}

type keyContext struct{}

// Key is the idempotency key of the request that ctx belongs to, "" if it has none.
// A table that a request changes keeps it, so that the change is found again.
func Key(ctx context.Context) string {
	key, _ := ctx.Value(keyContext{}).(string)
	return key
}

// Where a request keeps its body, its answer, and that it may have been carried out.
const (
	bodyKey   = "iceberg-body"
	answerKey = "iceberg-answer"
	tableKey  = "iceberg-table"
	againKey  = "iceberg-again"
)

// running are the requests under way, by their keys.
type running struct {
	mu sync.Mutex
	by map[string]chan struct{} // closed at the end
}

// enter makes the caller the one that carries the request out, or waits until the
// one that does has ended.
func (r *running) enter(ctx context.Context, key string) (leave func(), err error) {
	for {
		r.mu.Lock()
		ended, taken := r.by[key]
		if !taken {
			done := make(chan struct{})
			r.by[key] = done
			r.mu.Unlock()
			return func() {
				r.mu.Lock()
				delete(r.by, key)
				r.mu.Unlock()
				close(done)
			}, nil
		}
		r.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// once carries out a request with a key once.
func (h *handlers) once(next gin.HandlerFunc) gin.HandlerFunc {
	return func(c *gin.Context) {
		key := c.GetHeader(idempotencyHeader)
		if key == "" {
			next(c)
			return
		}
		if err := h.onceFor(c, key, next); err != nil {
			h.fail(c, aboutCommit, err)
		}
	}
}

// onceFor returns an error if nothing was answered; nothing was done then.
func (h *handlers) onceFor(c *gin.Context, key string, next gin.HandlerFunc) error {
	id, err := uuid.Parse(key)
	if err != nil || len(key) != 36 {
		return fmt.Errorf("%s %.40q; it is a UUID: %w", idempotencyHeader, key, record.ErrInvalid)
	}
	key = id.String()
	body, err := h.o.Body(c, maxBody)
	if err != nil {
		return err
	}
	c.Set(bodyKey, body)
	ctx := c.Request.Context()
	leave, err := h.running.enter(ctx, key)
	if err != nil {
		return err
	}
	defer leave()
	known, answered, err := h.replay(c, key, fingerprint(c, body))
	if err != nil || answered {
		return err
	}
	// Whoever began it has ended, or its process has.
	c.Set(againKey, known)
	c.Request = c.Request.WithContext(context.WithValue(ctx, keyContext{}, key))
	next(c)
	h.remember(c, key)
	return nil
}

// replay answers with what is remembered.
func (h *handlers) replay(c *gin.Context, key, print string) (known, answered bool, err error) {
	a, known, err := h.o.Answers.BeginAnswer(c.Request.Context(), key, print)
	switch {
	case errors.Is(err, record.ErrConflict):
		return known, false, &httpError{"the idempotency key came with another request before; use a new one", "UnprocessableEntityException", http.StatusUnprocessableEntity}
	case err != nil:
		return known, false, err
	case a.Status == 0:
		return known, false, nil
	}
	var r Ref
	if a.Status == http.StatusOK && json.Unmarshal([]byte(a.Body), &r) == nil && r.Name != "" {
		// A table; it is told as it is now.
		t, err := h.catalog.Table(c.Request.Context(), r, false)
		if err != nil {
			return known, false, fmt.Errorf("the request was carried out before, but now: %w", err)
		}
		h.writeTable(c, t, false)
		return known, true, nil
	}
	h.writeBytes(c, a.Status, []byte(a.Body))
	return known, true, nil
}

// fingerprint tells requests apart.
func fingerprint(c *gin.Context, body []byte) string {
	sum := sha256.New()
	for _, s := range []string{c.Request.Method, c.Request.URL.EscapedPath(), c.Request.URL.RawQuery, c.GetHeader(branchHeader)} {
		fmt.Fprintf(sum, "%d:%s\n", len(s), s)
	}
	sum.Write(body)
	return hex.EncodeToString(sum.Sum(nil))
}

// rememberTime bounds how long an answer may take to be remembered.
const rememberTime = 10 * time.Second

// remember keeps the answer that was given, if a repetition would be told the same.
func (h *handlers) remember(c *gin.Context, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request.Context()), rememberTime)
	defer cancel()
	a, _ := c.MustGet(answerKey).(Answer)
	if r, ok := c.Get(tableKey); ok && a.Status == http.StatusOK {
		b, err := json.Marshal(r)
		if err != nil {
			_ = c.Error(err)
			return
		}
		a.Body = string(b)
	}
	var err error
	switch {
	case a.Status >= 500, a.Status == http.StatusTooManyRequests, a.Status == http.StatusRequestTimeout:
		// It may be told otherwise next time.
		err = h.o.Answers.ForgetAnswer(ctx, key)
	default:
		err = h.o.Answers.EndAnswer(ctx, key, a)
	}
	if err != nil {
		_ = c.Error(err) // the client has its answer; a repetition is carried out again
	}
}

// again tells whether the request may have been carried out before, by a process that
// ended.
func again(c *gin.Context) bool { return c.GetBool(againKey) }
