package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/verify"
)

// verifyLines holds the lines of a check against the contract.
func verifyLines(t *testing.T, body []byte) (lines []map[string]any) {
	t.Helper()
	event := contract().Components.Schemas["VerifyEvent"].Value
	for line := range bytes.Lines(body) {
		var v map[string]any
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if err := event.VisitJSON(v); err != nil {
			t.Errorf("the line breaks the contract: %v: %s", err, line)
		}
		lines = append(lines, v)
	}
	return lines
}

func TestVerify(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	name := s.stream(map[string]any{"hotRetention": "1h"})
	s.publish(name, 0, 10)
	s.do("POST", branchPath(name, "archive"), nil).want(t, 200, nil)
	s.publish(name, 10, 5)
	a := s.do("GET", branchPath(name, "verify"), nil)
	a.want(t, 200, nil)
	lines := verifyLines(t, a.body)
	summary, _ := lines[len(lines)-1]["summary"].(map[string]any)
	if len(lines) != 1 || summary["coldRows"] != 10.0 || summary["hotRows"] != 15.0 || summary["comparedRows"] != 10.0 || summary["failures"] != 0.0 {
		t.Errorf("sound: %s", a.body)
	}
	// One producer per row, and so no two sequences of one.
	a = s.do("GET", branchPath(name, "verify")+"?producerColumn=id&sequenceColumn=seq&graceSeconds=60", nil)
	a.want(t, 200, nil)
	if !bytes.Contains(a.body, []byte(`"producers":15`)) {
		t.Errorf("producers: %s", a.body)
	}
	a = s.do("GET", branchPath(name, "verify")+"?producerColumn=small&sequenceColumn=seq", nil)
	a.want(t, 200, nil)
	s.do("GET", branchPath(name, "verify")+"?producerColumn=mag&sequenceColumn=seq", nil).wantProblem(t, 400, "INVALID_REQUEST", `"mag"`)
	s.do("GET", branchPath(name, "verify")+"?producerColumn=id", nil).wantProblem(t, 400, "INVALID_REQUEST", "or neither")
	s.do("GET", branchPath(name, "verify")+"?graceSeconds=0", nil).wantProblem(t, 400, "INVALID_REQUEST", "graceSeconds")
	s.do("GET", branchPath("nosuch", "verify"), nil).wantProblem(t, 404, "NOT_FOUND", "nosuch")
	all := s.do("GET", "/v1/verify", nil)
	all.want(t, 200, nil)
	if lines = verifyLines(t, all.body); len(lines) < 2 || lines[len(lines)-1]["stream"] != "" {
		t.Errorf("all: %s", all.body)
	}
}

// checker is a Verifier that does what a test says.
type checker func(ctx context.Context, emit func(verify.Event) error) error

func (c checker) Branch(ctx context.Context, _, _ string, _ verify.Request, emit func(verify.Event) error) error {
	return c(ctx, emit)
}

func (c checker) All(ctx context.Context, _ verify.Request, emit func(verify.Event) error) error {
	return c(ctx, emit)
}

func finding() verify.Event {
	p := record.Partition(2)
	return verify.Event{Stream: "default.s", Branch: "main", Finding: &verify.Finding{
		Code: verify.Gap, Severity: verify.Failure, Place: "file:///x", View: 1, Partition: &p, Offsets: &record.Range{Start: 3, End: 5}, Detail: "d", Remedy: "r",
	}}
}

// A check that fails behind its first line ends with a problem, and without a
// summary.
func TestVerifyThatFails(t *testing.T) {
	t.Parallel()
	b := shared
	b.Verifier = checker(func(_ context.Context, emit func(verify.Event) error) error {
		if err := emit(verify.Event{Stream: "default.s", Branch: "main", Progress: &verify.Progress{Phase: "cold"}}); err != nil {
			return err
		}
		if err := emit(finding()); err != nil {
			return err
		}
		return fmt.Errorf("read the store: %w", record.ErrClosed)
	})
	s := serve(t, b, api.Options{})
	a := s.do("GET", branchPath("s", "verify"), nil)
	a.want(t, 200, nil)
	lines := verifyLines(t, a.body)
	if len(lines) != 3 || lines[1]["finding"] == nil || lines[2]["problem"].(map[string]any)["code"] != "UNAVAILABLE" {
		t.Errorf("%s", a.body)
	}
	b.Verifier = checker(func(context.Context, func(verify.Event) error) error {
		return fmt.Errorf("no such: %w", record.ErrNotFound)
	})
	s = serve(t, b, api.Options{})
	s.do("GET", "/v1/verify", nil).wantProblem(t, 404, "NOT_FOUND", "no such")
}

// A check ends with its client and with the server, and there are never more than
// two.
func TestVerifyEnds(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 3)
	b := shared
	b.Verifier = checker(func(ctx context.Context, emit func(verify.Event) error) error {
		if err := emit(finding()); err != nil {
			return err
		}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return ctx.Err()
	})
	s := serve(t, b, api.Options{})
	open := func(ctx context.Context) io.ReadCloser {
		req := s.request("GET", branchPath("s", "verify"), nil).WithContext(ctx)
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := resp.Body.Read(make([]byte, 10)); err != nil { // it has begun
			t.Fatal(err)
		}
		return resp.Body
	}
	ctx, leave := context.WithCancel(t.Context())
	first, second := open(ctx), open(t.Context())
	defer first.Close()
	defer second.Close()
	s.do("GET", "/v1/verify", nil).wantProblem(t, 429, "BUSY", "2 checks are under way")
	leave()
	<-ended
	s.api.Drain()
	if err := <-ended; !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("drained: %v", err)
	}
	rest, err := io.ReadAll(second)
	if err != nil || !bytes.Contains(rest, []byte(`"code":"UNAVAILABLE"`)) {
		t.Errorf("the last line: %v, %s", err, rest)
	}
}
