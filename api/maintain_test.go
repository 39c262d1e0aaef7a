package api_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/record"
)

func datasetPath(stream, what string) string {
	return "/v1/datasets/" + stream + "/branches/main/" + what
}

func TestMaintain(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	name := s.stream(nil)
	for i := range 5 {
		s.publish(name, 10*i, 10)
		s.do("POST", branchPath(name, "archive"), nil).want(t, 200, nil)
	}
	before := string(s.do("GET", branchPath(name, "rows"), nil).body)

	var compact struct {
		ReplacedFiles, WrittenFiles, Rows, BytesBefore, BytesAfter int64
		SnapshotID                                                 string `json:"snapshotId"`
	}
	s.do("POST", datasetPath(name, "compact"), nil).want(t, 200, &compact)
	if compact.ReplacedFiles != 5 || compact.WrittenFiles != 1 || compact.Rows != 50 || compact.BytesAfter == 0 || compact.BytesAfter >= compact.BytesBefore || compact.SnapshotID == "" {
		t.Errorf("compact: %+v", compact)
	}
	compact.SnapshotID = ""
	s.do("POST", datasetPath(name, "compact"), nil).want(t, 200, &compact)
	if compact.ReplacedFiles != 0 || compact.SnapshotID != "" {
		t.Errorf("once more: %+v", compact)
	}

	var expire struct {
		DryRun        bool
		Expired, Kept int
		SnapshotIDs   []string `json:"snapshotIds"`
	}
	s.do("POST", datasetPath(name, "expire"), nil).want(t, 200, &expire)
	if expire.Expired != 0 || expire.Kept < 6 {
		t.Errorf("expire by default: %+v", expire)
	}
	all := expire.Kept
	s.do("POST", datasetPath(name, "expire"), `{"olderThan":"0s","keepLast":3,"dryRun":true}`).want(t, 200, &expire)
	if !expire.DryRun || expire.Expired != all-3 || len(expire.SnapshotIDs) != all-3 {
		t.Errorf("dry run: %+v of %d", expire, all)
	}
	s.do("POST", datasetPath(name, "expire"), `{"olderThan":"0s","keepLast":3}`).want(t, 200, &expire)
	if expire.DryRun || expire.Expired != all-3 || expire.Kept != 3 {
		t.Errorf("expire: %+v of %d", expire, all)
	}
	s.do("GET", datasetPath(name, "files")+"?snapshot="+expire.SnapshotIDs[0], nil).wantProblem(t, 404, "NOT_FOUND", expire.SnapshotIDs[0])

	var gc struct {
		DryRun                                  bool
		ListedFiles, DeletedFiles, WaitingFiles int
		WaitingBytes                            int64
		NextDueAt                               time.Time
		Files                                   []struct{ Key string }
	}
	s.do("POST", datasetPath(name, "gc"), `{"dryRun":true}`).want(t, 200, &gc)
	if !gc.DryRun || gc.WaitingFiles == 0 || gc.DeletedFiles != 0 {
		t.Errorf("dry run: %+v", gc)
	}
	begin := time.Now()
	s.do("POST", datasetPath(name, "gc"), `{"grace":"2h"}`).want(t, 200, &gc)
	if gc.DryRun || gc.DeletedFiles != 0 || gc.WaitingFiles == 0 || gc.WaitingBytes == 0 || len(gc.Files) != gc.WaitingFiles || gc.ListedFiles <= gc.WaitingFiles {
		t.Errorf("gc: %+v", gc)
	}
	if wait := gc.NextDueAt.Sub(begin); wait < 2*time.Hour-time.Minute || wait > 2*time.Hour+time.Minute {
		t.Errorf("the first is due in %v", wait)
	}
	if after := string(s.do("GET", branchPath(name, "rows"), nil).body); after != before {
		t.Errorf("the rows are others now:\n%s\nwere\n%s", after, before)
	}
}

func TestMaintainRefusals(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	name := s.stream(nil)
	for _, c := range []struct{ what, body, text string }{
		{"expire", `{"olderThan":"soon"}`, "olderThan"},
		{"expire", `{"olderThan":"-1h"}`, "olderThan"},
		{"expire", `{"keepLast":0}`, "keepLast"},
		{"expire", `{"nosuch":1}`, "nosuch"},
		{"gc", `{"grace":"59m"}`, "at least 1h"},
		{"gc", `{"grace":"x"}`, "grace"},
		{"gc", `{"olderThan":"1h"}`, "olderThan"},
	} {
		s.do("POST", datasetPath(name, c.what), c.body).wantProblem(t, 400, "INVALID_REQUEST", c.text)
	}
	for _, what := range []string{"compact", "expire", "gc"} {
		s.do("POST", datasetPath("nosuch", what), nil).wantProblem(t, 404, "NOT_FOUND", "nosuch")
		s.do("POST", "/v1/datasets/"+name+"/branches/nosuch/"+what, nil).wantProblem(t, 404, "NOT_FOUND", "nosuch")
	}
	s.do("POST", datasetPath(name, "gc"), "<x/>", header{"Content-Type", "text/xml"}).wantProblem(t, 415, "UNSUPPORTED_MEDIA_TYPE", "")
}

// tender is a Maintainer that does what a test says.
type tender struct {
	api.Maintainer
	compact func(context.Context) (api.Compaction, error)
	collect func(api.CollectFiles) (api.Collection, error)
	expire  func(api.ExpireSnapshots) (api.Expiry, error)
}

func (m tender) Compact(ctx context.Context, _, _ string, _ bool) (api.Compaction, error) {
	return m.compact(ctx)
}

func (m tender) Expire(_ context.Context, _, _ string, q api.ExpireSnapshots) (api.Expiry, error) {
	return m.expire(q)
}

func (m tender) Collect(_ context.Context, _, _ string, q api.CollectFiles) (api.Collection, error) {
	return m.collect(q)
}

// Answers name a bounded number of snapshots and files, and count all.
func TestMaintainAnswersAreBounded(t *testing.T) {
	t.Parallel()
	b := shared
	since := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b.Maintainer = tender{
		expire: func(q api.ExpireSnapshots) (api.Expiry, error) {
			if q.OlderThan == nil || *q.OlderThan != time.Hour || q.KeepLast != 7 || !q.DryRun {
				t.Errorf("asked for %+v", q)
			}
			return api.Expiry{Expired: make([]int64, 2500), Kept: 7}, nil
		},
		collect: func(q api.CollectFiles) (api.Collection, error) {
			if q.Grace != 90*time.Minute || q.DryRun {
				t.Errorf("asked for %+v", q)
			}
			c := api.Collection{Listed: 9000, Grace: q.Grace}
			for i := range 2500 {
				c.Unreached = append(c.Unreached, api.UnreachedFile{Key: "k", Bytes: 2, Since: since.Add(time.Duration(-i) * time.Minute), Deleted: i >= 1500})
			}
			return c, nil
		},
	}
	s := serve(t, b, api.Options{})
	var expire struct {
		Expired     int
		SnapshotIDs []string `json:"snapshotIds"`
	}
	s.do("POST", datasetPath("s", "expire"), `{"olderThan":"1h","keepLast":7,"dryRun":true}`).want(t, 200, &expire)
	if expire.Expired != 2500 || len(expire.SnapshotIDs) != 1000 {
		t.Errorf("%d expired, %d named", expire.Expired, len(expire.SnapshotIDs))
	}
	var gc struct {
		DeletedFiles, WaitingFiles int
		DeletedBytes, WaitingBytes int64
		NextDueAt                  time.Time
		Files                      []any
	}
	s.do("POST", datasetPath("s", "gc"), `{"grace":"90m"}`).want(t, 200, &gc)
	if gc.DeletedFiles != 1000 || gc.DeletedBytes != 2000 || gc.WaitingFiles != 1500 || gc.WaitingBytes != 3000 || len(gc.Files) != 1000 {
		t.Errorf("%d deleted, %d wait, %d named", gc.DeletedFiles, gc.WaitingFiles, len(gc.Files))
	}
	if want := since.Add(-1499*time.Minute + 90*time.Minute); !gc.NextDueAt.Equal(want) {
		t.Errorf("next due at %v, want %v", gc.NextDueAt, want)
	}
}

// Work ends with its client and with the server, there are never more than two
// at a time, and errors have the codes that they have elsewhere.
func TestMaintainEnds(t *testing.T) {
	t.Parallel()
	begun, ended := make(chan struct{}, 3), make(chan error, 3)
	b := shared
	b.Maintainer = tender{
		compact: func(ctx context.Context) (api.Compaction, error) {
			begun <- struct{}{}
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return api.Compaction{}, ctx.Err()
		},
		expire: func(api.ExpireSnapshots) (api.Expiry, error) {
			return api.Expiry{}, fmt.Errorf("others committed first: %w", record.ErrConflict)
		},
		collect: func(api.CollectFiles) (api.Collection, error) { return api.Collection{}, errors.New("secret") },
	}
	s := serve(t, b, api.Options{})
	s.do("POST", datasetPath("s", "expire"), nil).wantProblem(t, 409, "CONFLICT", "others committed first")
	if p := s.do("POST", datasetPath("s", "gc"), nil).wantProblem(t, 500, "INTERNAL", ""); strings.Contains(p.Detail, "secret") {
		t.Errorf("an internal error is told: %s", p.Detail)
	}
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	first := make(chan error, 1)
	req := s.request("POST", datasetPath("s", "compact"), nil).WithContext(ctx)
	go func() {
		resp, err := s.Client().Do(req)
		if err == nil {
			resp.Body.Close()
		}
		first <- err
	}()
	second := make(chan answer, 1)
	go func() { second <- s.do("POST", datasetPath("s", "compact"), nil) }()
	<-begun
	<-begun
	s.do("POST", datasetPath("s", "gc"), nil).wantProblem(t, 429, "BUSY", "2 requests")
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-ended
	s.api.Drain()
	(<-second).wantProblem(t, 503, "UNAVAILABLE", "shutting down")
	<-ended
}
