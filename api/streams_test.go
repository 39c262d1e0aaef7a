package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/api"
)

func TestStreamLife(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	type field struct {
		ID         int
		Name, Type string
	}
	type stream struct {
		Name string
		Main struct {
			View   int
			Schema struct {
				ID, Version int
				Schema      struct{ Fields []field }
				Avro        string
			}
			Settings map[string]any
		}
	}
	var made, got stream
	a := s.do("POST", "/v1/streams", `{"name":"life.quakes","schema":`+quakeSchema+`,"settings":{"keyFields":["id"],"partitions":2,"archiveInterval":"5m","partitioning":["bucket[4](id)"],"sortOrder":["id desc"],"bloomFilters":null}}`)
	a.want(t, 201, &made)
	if made.Name != "life.quakes" || a.Header.Get("Location") != "/v1/streams/life.quakes" {
		t.Errorf("made %q at %q", made.Name, a.Header.Get("Location"))
	}
	want := map[string]any{
		"type": "LOW_LATENCY", "compressed": false, "partitions": 2.0, "keyFields": []any{"id"}, "archiveInterval": "5m",
		"hotRetention": "0s", "datasetFormat": "PARQUET", "consistency": "AT_LEAST_ONCE",
		"partitioning": []any{"bucket[4](id)"}, "sortOrder": []any{"id desc"}, "bloomFilters": []any{},
	}
	if d := cmp.Diff(want, made.Main.Settings); d != "" {
		t.Errorf("settings (-want +got):\n%s", d)
	}
	if f := made.Main.Schema.Schema.Fields; len(f) != 7 || f[0] != (field{1, "id", "STRING"}) {
		t.Errorf("fields: %+v", f)
	}
	if !json.Valid([]byte(made.Main.Schema.Avro)) || !strings.Contains(made.Main.Schema.Avro, `"record"`) {
		t.Errorf("avro: %s", made.Main.Schema.Avro)
	}
	s.do("GET", "/v1/streams/life.quakes", nil).want(t, 200, &got)
	if d := cmp.Diff(made, got); d != "" {
		t.Errorf("show (-made +shown):\n%s", d)
	}
	s.do("POST", "/v1/streams", `{"name":"life.quakes","schema":`+quakeSchema+`}`).wantProblem(t, 409, "ALREADY_EXISTS", "life.quakes")

	path := "/v1/streams/life.quakes/branches/main/"
	var settings map[string]any
	s.do("PATCH", path+"settings", `{"type":"HIGH_THROUGHPUT","hotRetention":"90s","keyFields":[],"partitioning":null,"sortOrder":[],"bloomFilters":[]}`).want(t, 200, &settings)
	want["type"], want["hotRetention"], want["keyFields"] = "HIGH_THROUGHPUT", "1m30s", []any{}
	want["partitioning"], want["sortOrder"], want["bloomFilters"] = []any{}, []any{}, []any{}
	if d := cmp.Diff(want, settings); d != "" {
		t.Errorf("after the patch (-want +got):\n%s", d)
	}
	s.do("GET", path+"settings", nil).want(t, 200, &settings)
	if d := cmp.Diff(want, settings); d != "" {
		t.Errorf("settings (-want +got):\n%s", d)
	}

	var v struct {
		Version int
		Schema  struct{ Fields []field }
	}
	s.do("PUT", path+"schema", `{"fields":[{"name":"name","id":1,"type":"STRING"},{"name":"depth","type":"DOUBLE","nullable":true}]}`).want(t, 200, &v)
	if v.Version != 2 || len(v.Schema.Fields) != 2 || v.Schema.Fields[0] != (field{1, "name", "STRING"}) || v.Schema.Fields[1].ID <= 8 {
		t.Errorf("evolved: %+v", v)
	}
	s.do("PUT", path+"schema", `{"fields":[{"name":"name","type":"LONG"}]}`).wantProblem(t, 400, "INVALID_REQUEST", "name")
	s.do("GET", path+"schema", nil).want(t, 200, &v)
	if v.Version != 2 {
		t.Errorf("current: %+v", v)
	}
	var versions struct {
		Versions      []struct{ Version int }
		NextPageToken string
	}
	s.do("GET", path+"schema/versions?limit=1", nil).want(t, 200, &versions)
	if len(versions.Versions) != 1 || versions.Versions[0].Version != 2 || versions.NextPageToken == "" {
		t.Errorf("first page: %+v", versions)
	}
	token := versions.NextPageToken
	versions.NextPageToken = ""
	s.do("GET", path+"schema/versions?limit=1&pageToken="+token, nil).want(t, 200, &versions)
	if len(versions.Versions) != 1 || versions.Versions[0].Version != 1 || versions.NextPageToken != "" {
		t.Errorf("second page: %+v", versions)
	}

	var branch struct {
		View   int
		Schema struct {
			Schema struct{ Fields []field }
		}
		Settings map[string]any
	}
	s.do("POST", path+"reset", `{"schema":{"fields":[{"name":"name","type":"LONG"}]},"settings":{"partitions":1}}`).want(t, 200, &branch)
	if branch.View != 2 || branch.Settings["partitions"] != 1.0 || branch.Schema.Schema.Fields[0].Type != "LONG" {
		t.Errorf("reset: %+v", branch)
	}

	s.do("DELETE", "/v1/streams/life.quakes", nil).want(t, 204, nil)
	s.do("DELETE", "/v1/streams/life.quakes", nil).wantProblem(t, 404, "NOT_FOUND", "life.quakes")
	s.do("GET", path+"settings", nil).wantProblem(t, 404, "NOT_FOUND", "life.quakes")
}

func TestCreateStreamFromSample(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	var made struct {
		Main struct {
			Schema struct{ Schema json.RawMessage }
		}
	}
	s.do("POST", "/v1/streams", `{"name":"sampled","sample":[{"id":"a","n":1},{"id":"b","n":9007199254740993}]}`).want(t, 201, &made)
	if !bytes.Contains(made.Main.Schema.Schema, []byte(`"LONG"`)) {
		t.Errorf("schema: %s", made.Main.Schema.Schema)
	}
	s.do("POST", "/v1/streams", `{"name":"avro1","schema":{"type":"record","name":"r","fields":[{"name":"id","type":"string"}]}}`).want(t, 201, nil)
}

func TestCreateStreamBadRequests(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	for body, text := range map[string]string{
		``:                             "empty",
		`{`:                            "",
		`{"name":"x"}`:                 "either schema or sample",
		`{"name":"a b","sample":[{}]}`: "a b",
		`{"name":"x","sample":[{"a":1}],"schema":{"fields":[]}}`:                 "either schema or sample",
		`{"name":"x","schema":{"fields":[{"name":"a","type":"INT128"}]}}`:        "INT128",
		`{"name":"x","sample":[{"a":1}],"nosuch":1}`:                             "nosuch",
		`{"name":"x","sample":[{"a":1}],"settings":{"nosuch":1}}`:                "nosuch",
		`{"name":"x","sample":[{"a":1}],"settings":{"partitions":"many"}}`:       "settings.partitions",
		`{"name":"x","sample":[{"a":1}],"settings":{"partitions":0}}`:            "partitions",
		`{"name":"x","sample":[{"a":1}],"settings":{"partitions":1025}}`:         "partitions",
		`{"name":"x","sample":[{"a":1}],"settings":{"type":"FAST"}}`:             "FAST",
		`{"name":"x","sample":[{"a":1}],"settings":{"archiveInterval":"soon"}}`:  "archiveInterval",
		`{"name":"x","sample":[{"a":1}],"settings":{"keyFields":["nosuch"]}}`:    "nosuch",
		`{"name":"x","sample":[{"a":1}],"settings":{"partitioning":["day(a)"]}}`: "day does not take LONG",
		`{"name":"x","sample":[{"a":1}],"settings":{"sortOrder":"a"}}`:           "list of texts",
		`{"name":"x","sample":[{"a":1}]} {}`:                                     "goes on",
		`{"name":"x","sample":[]}`:                                               "",
	} {
		s.do("POST", "/v1/streams", body).wantProblem(t, 400, "INVALID_REQUEST", text)
	}
	s.do("POST", "/v1/streams", `x`, header{"Content-Type", "text/plain"}).wantProblem(t, 415, "UNSUPPORTED_MEDIA_TYPE", "text/plain")
	s.do("POST", "/v1/streams", bytes.Repeat([]byte(" "), 17<<20)).wantProblem(t, 413, "TOO_LARGE", "")
}

func TestListStreamsByPages(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	for i := range 5 {
		s.do("POST", "/v1/streams", fmt.Sprintf(`{"name":"listed.s%d","sample":[{"a":1}]}`, i)).want(t, 201, nil)
	}
	var names []string
	for token := ""; ; {
		var page struct {
			Streams       []struct{ Name string }
			NextPageToken string
		}
		path := "/v1/streams?limit=2"
		if token != "" {
			path += "&pageToken=" + token
		}
		s.do("GET", path, nil).want(t, 200, &page)
		if len(page.Streams) > 2 {
			t.Fatalf("a page of %d", len(page.Streams))
		}
		for _, e := range page.Streams {
			if strings.HasPrefix(e.Name, "listed.") {
				names = append(names, e.Name)
			}
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if d := cmp.Diff([]string{"listed.s0", "listed.s1", "listed.s2", "listed.s3", "listed.s4"}, names); d != "" {
		t.Error(d)
	}
	for _, q := range []string{"limit=0", "limit=1001", "limit=x", "pageToken=%21%21"} {
		s.do("GET", "/v1/streams?"+q, nil).wantProblem(t, 400, "INVALID_REQUEST", "")
	}
}

func TestArchiveAndDataset(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(nil)
	data := "/v1/datasets/" + stream + "/branches/main/"
	var files struct {
		SnapshotID string `json:"snapshotId"`
		Files      []struct {
			Path, Format string
			Rows, Bytes  int64
		}
	}
	s.do("GET", data+"files", nil).want(t, 200, &files)
	if len(files.Files) != 0 {
		t.Errorf("a new stream has files: %+v", files)
	}
	s.publish(stream, 0, 10)
	type offsets struct {
		View       int
		Partitions []struct{ Start, Archived, End int64 }
		LagRows    int64
	}
	var before, after offsets
	s.do("GET", branchPath(stream, "offsets"), nil).want(t, 200, &before)
	if len(before.Partitions) != 1 || before.Partitions[0].End != 10 || before.Partitions[0].Archived != 0 || before.LagRows != 10 || before.View != 1 {
		t.Errorf("before: %+v", before)
	}
	var done struct {
		SnapshotID string `json:"snapshotId"`
		Rows       int64
		Files      int
		Offsets    map[string]int64
		Metadata   string `json:"metadataLocation"`
	}
	s.do("POST", branchPath(stream, "archive"), nil).want(t, 200, &done)
	if done.Rows != 10 || done.Files != 1 || done.SnapshotID == "" || done.Offsets["0"] != 10 {
		t.Errorf("archived: %+v", done)
	}
	s.do("GET", branchPath(stream, "offsets"), nil).want(t, 200, &after)
	if after.Partitions[0].Archived != 10 || after.LagRows != 0 {
		t.Errorf("after: %+v", after)
	}
	var history struct {
		Snapshots []struct {
			ID        string
			AddedRows int64
			TotalRows int64
			Summary   map[string]string
		}
		NextPageToken string
		Metadata      string `json:"metadataLocation"`
	}
	s.do("GET", data+"snapshots?limit=1", nil).want(t, 200, &history)
	if len(history.Snapshots) != 1 || history.Snapshots[0].ID != done.SnapshotID || history.Snapshots[0].TotalRows != 10 || history.Snapshots[0].Summary["thermocline.offsets"] != `{"0":10}` {
		t.Errorf("history: %+v", history)
	}
	if u, err := url.Parse(done.Metadata); err != nil || history.Metadata != done.Metadata || !strings.HasSuffix(u.Path, ".metadata.json") {
		t.Errorf("metadata: archive says %q, history %q, %v", done.Metadata, history.Metadata, err)
	} else if text, err := os.ReadFile(u.Path); err != nil || !strings.Contains(string(text), done.SnapshotID) {
		t.Errorf("the metadata file does not name the snapshot %s: %v", done.SnapshotID, err)
	}
	s.do("GET", data+"files?snapshot="+done.SnapshotID, nil).want(t, 200, &files)
	if len(files.Files) != 1 || files.Files[0].Rows != 10 || files.Files[0].Format != "PARQUET" || files.SnapshotID != done.SnapshotID {
		t.Errorf("files: %+v", files)
	}
	s.do("GET", data+"files?snapshot=abc", nil).wantProblem(t, 400, "INVALID_REQUEST", "snapshot")
	s.do("GET", data+"files?snapshot=12345", nil).wantProblem(t, 404, "NOT_FOUND", "12345")
	s.do("GET", "/v1/datasets/nosuch/branches/main/snapshots", nil).wantProblem(t, 404, "NOT_FOUND", "nosuch")
}
