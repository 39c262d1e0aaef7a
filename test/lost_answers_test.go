package test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// TestIngestLosesNoAnswer puts a proxy before the server that cuts many
// connections: some before the request arrives, some after the server has
// appended its rows and before the answer is back, which is where a retry
// doubles rows if nothing prevents it. Each row must be there once.
func TestIngestLosesNoAnswer(t *testing.T) {
	t.Parallel()
	all := makeFlights(t, 100_000)
	s := startServer(t, release)
	st := s.create(t, "flights", flightSchema, `{"partitions":3,"archiveInterval":"1h"}`)

	var requests, answers atomic.Int64 // that publish rows
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: s.address})
	forward.ErrorLog = nil
	forward.ModifyResponse = func(answer *http.Response) error {
		if publishes(answer.Request) && answers.Add(1)%3 == 0 {
			panic(http.ErrAbortHandler)
		}
		return nil
	}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if publishes(r) && requests.Add(1)%5 == 0 {
			panic(http.ErrAbortHandler)
		}
		forward.ServeHTTP(w, r)
	}))
	defer proxy.Close()

	ingest := s.command(t, "ingest", "flights", all.file, "--server", proxy.URL)
	if out, err := ingest.CombinedOutput(); err != nil {
		t.Fatalf("ingest: %v\n%s", err, out)
	}
	if answers.Load() < 10 {
		t.Errorf("only %d answers, too few to be a test", answers.Load())
	}
	all.want(t, st)
	s.stop(t)
}

func publishes(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/rows")
}
