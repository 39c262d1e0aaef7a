package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestReadCommand(t *testing.T) {
	t.Parallel()
	s := stream(t)
	do(t, "ingest", s, temp(t, "n.ndjson", numbers(0, 100)))
	if out := do(t, "read", s, "--where", "n >= 98", "--columns", "text,n"); out != "{\"text\":\"row 98\",\"n\":98}\n{\"text\":\"row 99\",\"n\":99}\n" {
		t.Errorf("where: %s", out)
	}
	if out := do(t, "read", s, "--format", "csv", "--limit", "1"); out != "n,text\n0,row 0\n" {
		t.Errorf("csv: %q", out)
	}
	r := cli(t.Context(), shared.address, nil, "read", s, "--limit", "60", "--cursor")
	rest := do(t, "read", s, "--from", strings.TrimSpace(r.err))
	checkNumbers(t, r.out+rest, 100)
	r = cli(t.Context(), shared.address, nil, "read", s, "--where", "nosuch = 1")
	if r.code != exitFail || !strings.Contains(r.err, "nosuch") || r.out != "" {
		t.Errorf("%+v", r)
	}
}

// Whatever cuts an answer, the exit code says that it is not complete.
func TestReadThatIsCut(t *testing.T) {
	t.Parallel()
	s := stream(t)
	do(t, "ingest", s, temp(t, "n.ndjson", numbers(0, 20_000)))
	for _, cut := range []int64{0, 100, 5000, 400_000} {
		c := cutting(t, cut)
		if r := cli(t.Context(), c.address(), nil, "read", s); r.code != exitFail {
			t.Errorf("cut after %d bytes: %d bytes of output, %s", cut, len(r.out), r.err)
		}
	}
	// A proxy that drops the trailers.
	address := front(t, func(w http.ResponseWriter, r *http.Request) bool {
		fmt.Fprint(w, "{\"n\":0}\n")
		return true
	})
	if r := cli(t.Context(), address, nil, "read", s); r.code != exitFail || !strings.Contains(r.err, "trailers") {
		t.Errorf("without trailers: %+v", r)
	}
	// A server that fails in the middle and says why.
	address = front(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Te") != "trailers" {
			t.Errorf("TE: %q", r.Header.Get("Te"))
		}
		w.Header().Set("Trailer", "Thermocline-Error")
		fmt.Fprint(w, "{\"n\":0}\n")
		w.Header().Set("Thermocline-Error", `{"code":"CORRUPT","detail":"segment 7 is damaged","requestId":"r"}`)
		return true
	})
	if r := cli(t.Context(), address, nil, "read", s); r.code != exitFail || !strings.Contains(r.err, "segment 7 is damaged") || !strings.Contains(r.err, "not complete") {
		t.Errorf("with an error: %+v", r)
	}
}

// A tail goes on behind the last row that it printed, however its connections
// break.
func TestTailThroughBrokenConnections(t *testing.T) {
	t.Parallel()
	for _, consistency := range []string{"AT_LEAST_ONCE", "EXACTLY_ONCE"} {
		const n = 3000
		s := stream(t)
		do(t, "ingest", s, temp(t, "n.ndjson", numbers(0, n/2)))
		c := cutting(t, 0, 700, 20_000, 1000, 60_000, 5000)
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		var out, errs buffer
		done := make(chan result, 1)
		go func() {
			code := run(ctx, terminal{nil, &out, &errs}, []string{"tail", s, "--from", "earliest", "--columns", "n", "--consistency", consistency, "--server", c.address()})
			done <- result{code: code}
		}()
		eventually(t, "the first rows", func() bool { return strings.Count(out.String(), "\n") >= n/2 })
		do(t, "ingest", s, temp(t, "m.ndjson", numbers(n/2, n/2)))
		eventually(t, "all rows", func() bool { return strings.Count(out.String(), "\n") >= n })
		interrupt()
		if r := ended(t, done); r.code != exitOK {
			t.Errorf("%s: exit code %d: %s", consistency, r.code, errs.String())
		}
		checkNumbers(t, out.String(), n)
		if c.conns.Load() < 5 {
			t.Errorf("%s: %d connections only", consistency, c.conns.Load())
		}
	}
}

// An epoch that a connection cut comes again from its start; what was printed of
// it is passed over.
func TestTailCutWithinAnEpoch(t *testing.T) {
	t.Parallel()
	rows := func(from, to int) string {
		var b strings.Builder
		b.WriteString("event: rows\n")
		for i := from; i < to; i++ {
			fmt.Fprintf(&b, "data: {\"n\":%d}\n", i)
		}
		return b.String() + "\n"
	}
	const end = "event: checkpoint\nid: C%d\ndata: {}\n\n"
	answers := []struct{ from, text string }{
		{"earliest", rows(0, 2) + rows(2, 5)},                                       // cut within the first epoch
		{"earliest", rows(0, 3)},                                                    // cut earlier still, with other events
		{"earliest", rows(0, 4) + rows(4, 7) + fmt.Sprintf(end, 1) + rows(7, 8)},    // complete, cut in the second
		{"C1", rows(7, 9) + fmt.Sprintf(end, 2) + "event: rows\ndata: {\"n\":9}\n"}, // the last event is not whole
		{"C2", rows(9, 10) + "event: problem\ndata: {\"code\":\"NOT_FOUND\",\"status\":404,\"detail\":\"gone\"}\n\n"},
	}
	i := 0
	address := front(t, func(w http.ResponseWriter, r *http.Request) bool {
		a := answers[i]
		i++
		if got := r.URL.Query().Get("from"); got != a.from {
			t.Errorf("connection %d is from %q, want %q", i, got, a.from)
		}
		fmt.Fprint(w, a.text)
		return true
	})
	r := cli(t.Context(), address, nil, "tail", "x", "--from", "earliest")
	if r.code != exitFail || !strings.Contains(r.err, "gone") {
		t.Errorf("%+v", r)
	}
	checkNumbers(t, r.out, 10)
}

func TestVersionCommand(t *testing.T) {
	t.Parallel()
	var v map[string]string
	if err := json.Unmarshal([]byte(do(t, "version", "--output", "json")), &v); err != nil || v["version"] == "" {
		t.Errorf("%v, %v", v, err)
	}
}

func TestReadEvents(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("y", 200_000)
	var got []string
	err := readEvents(strings.NewReader(": beat\n\nevent: a\nid:1\ndata: x\ndata: "+long+"\n\ndata:z\n\ndata: cut\n"), func(e event) error {
		if e.lines > 0 {
			got = append(got, fmt.Sprintf("%s %s %d %d", e.name, e.id, e.lines, len(e.data)))
		}
		return nil
	})
	if err == nil || fmt.Sprint(got) != fmt.Sprint([]string{"a 1 2 200003", "  1 2"}) {
		t.Errorf("%v, %v", got, err)
	}
	if !bytes.Equal([]byte("a\n"), []byte("a\nb\n")[:lineEnd([]byte("a\nb\n"))]) {
		t.Error("lineEnd")
	}
}
