package api_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/thermocline/thermocline/api"
)

type branchAnswer struct {
	Name, Table string
	View        int
	CreatedAt   time.Time
	Origin      *struct{ Branch, Snapshot string }
	Policy      struct {
		Protected                   bool
		MaxSnapshotAge, ExpireAfter string
		MinSnapshots                int
	}
	Schema   *struct{ ID, Version int }
	Settings *struct {
		Partitions int
		KeyFields  []string
	}
}

// TestBranches: the life of a branch over REST.
func TestBranches(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	name := s.stream(map[string]any{"partitions": 2})
	s.publish(name, 0, 10)
	path := "/v1/streams/" + name + "/branches"
	var b branchAnswer
	a := s.do("POST", path, `{"name":"exp","settings":{"partitions":4,"keyFields":["id"]},"policy":{"maxSnapshotAge":"720h","minSnapshots":3}}`)
	a.want(t, 201, &b)
	if b.Name != "exp" || b.View != 2 || b.Origin == nil || b.Origin.Branch != "main" || b.Origin.Snapshot == "" ||
		b.Settings.Partitions != 4 || len(b.Settings.KeyFields) != 1 || b.Schema.Version != 1 || b.Policy.MaxSnapshotAge != "720h" || b.Policy.MinSnapshots != 3 || b.Policy.ExpireAfter != "" {
		t.Errorf("branch %+v", b)
	}
	if at := a.Header.Get("Location"); at != "/v1/streams/default."+name+"/branches/exp" {
		t.Errorf("Location %q", at)
	}
	var again branchAnswer
	s.do("GET", a.Header.Get("Location"), nil).want(t, 200, &again)
	if fmt.Sprint(again.Origin, again.Policy, again.Table) != fmt.Sprint(b.Origin, b.Policy, b.Table) {
		t.Errorf("shown as %+v, was %+v", again, b)
	}
	s.do("POST", path, `{"name":"exp"}`).wantProblem(t, 409, "ALREADY_EXISTS", "exp")
	s.do("POST", path, `{"name":"second","from":{"branch":"exp","time":"`+time.Now().UTC().Format(time.RFC3339Nano)+`"}}`).want(t, 201, nil)
	s.do("POST", path, `{"name":"third","from":{"snapshot":"`+b.Origin.Snapshot+`"}}`).want(t, 201, nil)
	cursor := s.do("GET", branchPath(name, "rows")+"?end=line", nil)
	var end struct{ Cursor string }
	lines := strings.Split(strings.TrimSpace(string(cursor.body)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &end); err != nil {
		t.Fatal(err)
	}
	s.do("POST", path, `{"name":"fourth","from":{"cursor":"`+end.Cursor+`"}}`).want(t, 201, nil)

	var list struct {
		Branches      []branchAnswer
		NextPageToken string
	}
	var names []string
	for token := ""; ; token = "&pageToken=" + list.NextPageToken {
		list.NextPageToken = ""
		s.do("GET", path+"?limit=2"+token, nil).want(t, 200, &list)
		for _, b := range list.Branches {
			names = append(names, b.Name)
		}
		if list.NextPageToken == "" {
			break
		}
	}
	if strings.Join(names, " ") != "main exp second third fourth" {
		t.Errorf("listed: %v", names)
	}

	s.do("PATCH", path+"/exp", `{"protected":true,"maxSnapshotAge":"0s","expireAfter":"72h"}`).want(t, 200, &b)
	if !b.Policy.Protected || b.Policy.ExpireAfter != "72h" || b.Policy.MinSnapshots != 3 {
		t.Errorf("policy %+v", b.Policy)
	}
	s.do("DELETE", path+"/exp", nil).wantProblem(t, 409, "CONFLICT", "protected")
	s.do("DELETE", "/v1/streams/"+name, nil).wantProblem(t, 409, "CONFLICT", "protected")
	s.do("PATCH", path+"/exp", `{"protected":false}`).want(t, 200, nil)
	s.do("POST", path+"/exp/subscribers", `{"id":"g","start":{"type":"earliest"}}`).want(t, 201, nil)
	s.do("DELETE", path+"/exp", nil).wantProblem(t, 409, "CONFLICT", "subscribers")
	s.do("DELETE", path+"/exp?deleteSubscribers=true", nil).want(t, 204, nil)
	s.do("GET", path+"/exp", nil).wantProblem(t, 404, "NOT_FOUND", "exp")
	s.do("DELETE", path+"/exp", nil).wantProblem(t, 404, "NOT_FOUND", "exp")
	s.do("DELETE", path+"/main", nil).wantProblem(t, 400, "INVALID_REQUEST", "main")

	for body, text := range map[string]string{
		`{"name":"a b"}`:                                      "branch name",
		`{"name":"z","from":{"branch":"x/y"}}`:                "branch name",
		`{"name":"z","from":{"snapshot":"abc"}}`:              "abc",
		`{"name":"z","from":{"cursor":"abc"}}`:                "cursor",
		`{"name":"z","from":{"snapshot":"5","tag":"t"}}`:      "2 places",
		`{"name":"z","from":{"time":"2999-01-01T00:00:00Z"}}`: "yet to come",
		`{"name":"z","policy":{"maxSnapshotAge":"1s"}}`:       "maxSnapshotAge",
		`{"name":"z","policy":{"expireAfter":"soon"}}`:        "expireAfter",
		`{"name":"z","settings":{"partitions":0}}`:            "partitions",
		`{"name":"z","form":{}}`:                              "form",
	} {
		s.do("POST", path, body).wantProblem(t, 400, "INVALID_REQUEST", text)
	}
	s.do("POST", path, `{"name":"z","from":{"branch":"none"}}`).wantProblem(t, 404, "NOT_FOUND", "none")
	s.do("POST", path, `{"name":"z","from":{"tag":"none"}}`).wantProblem(t, 404, "NOT_FOUND", "none")
	s.do("PATCH", path+"/main", `{"expireAfter":"72h"}`).wantProblem(t, 400, "INVALID_REQUEST", "main")
	s.do("POST", "/v1/streams/nosuch/branches", `{"name":"z"}`).wantProblem(t, 404, "NOT_FOUND", "nosuch")
	s.do("GET", "/v1/streams/nosuch/branches", nil).wantProblem(t, 404, "NOT_FOUND", "nosuch")
}

// TestTags: a tag names a snapshot, and keeps it.
func TestTags(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	name := s.stream(nil)
	s.publish(name, 0, 10)
	path := branchPath(name, "tags")
	var tag, other struct {
		Name, Snapshot string
		SequenceNumber int64
		CommittedAt    time.Time
	}
	s.do("POST", path, `{"name":"v1.0"}`).want(t, 201, &tag)
	if tag.Name != "v1.0" || tag.Snapshot == "" || tag.CommittedAt.IsZero() {
		t.Errorf("tag %+v", tag)
	}
	s.publish(name, 10, 10)
	s.do("POST", branchPath(name, "archive"), nil).want(t, 200, nil)
	s.do("POST", datasetPath(name, "expire"), `{"olderThan":"0s"}`).want(t, 200, nil)
	s.do("GET", datasetPath(name, "files")+"?snapshot="+tag.Snapshot, nil).want(t, 200, nil)
	s.do("GET", path+"/v1.0", nil).want(t, 200, &other)
	if other != tag {
		t.Errorf("shown as %+v, was %+v", other, tag)
	}
	s.do("POST", path, `{"name":"v1.0","snapshot":"`+tag.Snapshot+`"}`).want(t, 201, nil)
	s.do("POST", path, `{"name":"v1.0"}`).wantProblem(t, 409, "ALREADY_EXISTS", "v1.0")
	s.do("POST", path, `{"name":"a-second"}`).want(t, 201, nil)
	var list struct{ Tags []struct{ Name string } }
	s.do("GET", path, nil).want(t, 200, &list)
	if fmt.Sprint(list.Tags) != "[{a-second} {v1.0}]" {
		t.Errorf("listed: %v", list.Tags)
	}
	s.do("DELETE", path+"/v1.0", nil).want(t, 204, nil)
	s.do("DELETE", path+"/v1.0", nil).wantProblem(t, 404, "NOT_FOUND", "v1.0")
	s.do("GET", path+"/v1.0", nil).wantProblem(t, 404, "NOT_FOUND", "v1.0")
	s.do("POST", datasetPath(name, "expire"), `{"olderThan":"0s"}`).want(t, 200, nil)
	s.do("GET", datasetPath(name, "files")+"?snapshot="+tag.Snapshot, nil).wantProblem(t, 404, "NOT_FOUND", tag.Snapshot)
	for _, bad := range []string{"123", "", "a b", "main", "thermocline-marker", "é"} {
		s.do("POST", path, map[string]string{"name": bad}).wantProblem(t, 400, "INVALID_REQUEST", "")
	}
	s.do("DELETE", path+"/thermocline-marker", nil).wantProblem(t, 404, "NOT_FOUND", "thermocline-marker")
	s.do("POST", path, `{"name":"z","snapshot":"77"}`).wantProblem(t, 404, "NOT_FOUND", "77")
	s.do("POST", path, `{"name":"z","snapshot":"x"}`).wantProblem(t, 400, "INVALID_REQUEST", "snapshot")
}

// TestFallback: a read of a branch that is not there takes the next one of the
// chain, and says so.
func TestFallback(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	name := s.stream(nil)
	s.publish(name, 0, 3)
	rows := func(branch string) string { return "/v1/streams/" + name + "/branches/" + branch + "/rows" }
	read := func(path, branch string, want int) {
		t.Helper()
		a := s.do("GET", path, nil)
		a.want(t, 200, nil)
		if got := a.Header.Get("Thermocline-Branch"); got != branch {
			t.Errorf("%s: branch %q, want %q", path, got, branch)
		}
		if n := strings.Count(string(a.body), "\n"); n != want {
			t.Errorf("%s: %d rows, want %d", path, n, want)
		}
	}
	read(rows("main"), "main", 3)
	read(rows("exp")+"?fallback=develop,main", "main", 3)
	s.do("GET", rows("exp"), nil).wantProblem(t, 404, "NOT_FOUND", "exp")
	s.do("GET", rows("exp")+"?fallback=develop", nil).wantProblem(t, 404, "NOT_FOUND", "develop")
	s.do("GET", rows("exp")+"?fallback=a,,b", nil).wantProblem(t, 400, "INVALID_REQUEST", "empty")
	s.do("GET", rows("exp")+"?fallback="+strings.Repeat("a,", 16)+"a", nil).wantProblem(t, 400, "INVALID_REQUEST", "16")
	s.do("GET", "/v1/streams/nosuch/branches/exp/rows?fallback=main", nil).wantProblem(t, 404, "NOT_FOUND", "nosuch")
	s.do("POST", "/v1/streams/"+name+"/branches", `{"name":"develop"}`).want(t, 201, nil)
	a := s.do("GET", rows("exp")+"?fallback=develop,main", nil)
	if a.want(t, 200, nil); a.Header.Get("Thermocline-Branch") != "develop" {
		t.Errorf("branch %q", a.Header.Get("Thermocline-Branch"))
	}
}
