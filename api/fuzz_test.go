package api_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/writer"
)

// told keeps the last request.
type told struct{ q *writer.Request }

func (p told) Publish(_ context.Context, q writer.Request) (writer.Result, error) {
	*p.q = q
	return writer.Result{}, nil
}

// FuzzProducerHeaders: whatever stands in the headers that make a request safe
// to repeat, it comes to the writer as it was sent, or is refused: a producer
// must not be taken for another one, nor for none.
func FuzzProducerHeaders(f *testing.F) {
	f.Add("p", "7", "1", "", true, true, true, false)
	f.Add("p", "+7", "", "", true, true, false, false)
	f.Add("", "", "", "key", false, false, false, true)
	f.Add("p", "9223372036854775808", "2147483648", "", true, true, true, false)
	f.Add("\xff\x00", "0x1", "1e3", " ", true, true, true, true)
	var got writer.Request
	b := shared
	b.Publisher = told{&got}
	s := serve(f, b, api.Options{})
	f.Fuzz(func(t *testing.T, id, sequence, epoch, key string, hasID, hasSequence, hasEpoch, hasKey bool) {
		req := httptest.NewRequest(http.MethodPost, branchPath("x", "rows"), strings.NewReader("[]"))
		req.Header.Set("Content-Type", "application/json")
		for _, h := range []struct {
			name, value string
			there       bool
		}{{"Producer-Id", id, hasID}, {"Producer-Sequence", sequence, hasSequence}, {"Producer-Epoch", epoch, hasEpoch}, {"Idempotency-Key", key, hasKey}} {
			if h.there {
				req.Header.Set(h.name, h.value)
			}
		}
		got = writer.Request{}
		rec := httptest.NewRecorder()
		s.api.ServeHTTP(rec, req)
		if rec.Code != http.StatusOK {
			if rec.Code != http.StatusBadRequest {
				t.Fatalf("status %d: %s", rec.Code, rec.Body)
			}
			return
		}
		if (got.Producer != nil) != hasID || hasID != hasSequence || hasEpoch && !hasID || hasID && hasKey || (got.IdempotencyKey != "") != hasKey {
			t.Fatalf("headers %v became %+v", req.Header, got)
		}
		if p := got.Producer; p != nil {
			n, err := strconv.ParseInt(sequence, 10, 64)
			if err != nil || n != p.Sequence || p.Name != id || len(id) == 0 {
				t.Fatalf("headers %v became %+v", req.Header, p)
			}
			if e, err := strconv.ParseInt(epoch, 10, 32); hasEpoch && (err != nil || int32(e) != p.Epoch) || !hasEpoch && p.Epoch != 0 {
				t.Fatalf("headers %v became %+v", req.Header, p)
			}
		}
		if got.IdempotencyKey != "" && got.IdempotencyKey != key {
			t.Fatalf("the key %q became %q", key, got.IdempotencyKey)
		}
	})
}
