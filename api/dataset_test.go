package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/api"
)

type dataset struct {
	Name, Kind, TableUUID, MetadataLocation, SnapshotID string
	TotalRows, TotalFiles                               int64
	Columns                                             []struct {
		Name, Type string
		Required   bool
	}
}

type transaction struct {
	ID, Type, State, Where, SnapshotID string
	Files, Rows, Bytes                 int64
}

const stationSchema = `{"fields":[{"name":"code","type":"STRING","nullable":false},{"name":"n","type":"LONG"}]}`

var parquetType = header{"Content-Type", "application/vnd.apache.parquet"}

// dataset makes one and returns the path of its branch main.
func (s *server) dataset(name string) string {
	s.t.Helper()
	s.do("POST", "/v1/datasets", `{"name":"`+name+`","schema":`+stationSchema+`}`).want(s.t, 201, nil)
	return "/v1/datasets/" + name + "/branches/main"
}

func (s *server) totals(name string) (rows, files int64) {
	s.t.Helper()
	var d dataset
	s.do("GET", "/v1/datasets/"+name, nil).want(s.t, 200, &d)
	return d.TotalRows, d.TotalFiles
}

func stationParquet(t *testing.T, rows string) []byte {
	t.Helper()
	s := arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.PrimitiveTypes.Int64, Nullable: true}, {Name: "code", Type: arrow.BinaryTypes.String}}, nil)
	rec, _, err := array.RecordFromJSON(memory.DefaultAllocator, s, strings.NewReader(rows))
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Release()
	var buf bytes.Buffer
	w, err := pqarrow.NewFileWriter(s, &buf, parquet.NewWriterProperties(), pqarrow.DefaultWriterProps())
	if err == nil {
		err = w.Write(rec)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestDatasetLife(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	var made, got dataset
	a := s.do("POST", "/v1/datasets", `{"name":"lake.stations","schema":`+stationSchema+`}`)
	a.want(t, 201, &made)
	if made.Name != "lake.stations" || made.Kind != "DATASET" || a.Header.Get("Location") != "/v1/datasets/lake.stations" || len(made.Columns) != 2 || !made.Columns[0].Required || made.Columns[1].Type != "long" {
		t.Errorf("made %+v at %q", made, a.Header.Get("Location"))
	}
	s.do("GET", "/v1/datasets/lake.stations", nil).want(t, 200, &got)
	if d := cmp.Diff(made, got); d != "" {
		t.Errorf("show (-made +shown):\n%s", d)
	}
	s.do("POST", "/v1/datasets", `{"name":"lake.stations","schema":`+stationSchema+`}`).wantProblem(t, 409, "ALREADY_EXISTS", "lake.stations")
	s.do("POST", "/v1/streams", `{"name":"lake.stations","schema":`+stationSchema+`}`).wantProblem(t, 409, "ALREADY_EXISTS", "lake.stations")
	s.do("POST", "/v1/datasets", `{"name":"lake.d","schema":{"fields":[{"name":"a","type":"LONG","nullable":false,"default":1}]}}`).wantProblem(t, 400, "INVALID_REQUEST", `"a"`)
	s.do("POST", "/v1/datasets", `{"name":"lake.d"}`).wantProblem(t, 400, "INVALID_REQUEST", "schema or sample")
	s.do("GET", "/v1/datasets/lake.none", nil).wantProblem(t, 404, "NOT_FOUND", "lake.none")
	// It is no stream, and streams are not listed with it.
	s.do("GET", "/v1/streams/lake.stations", nil).wantProblem(t, 404, "NOT_FOUND", "lake.stations")
	s.do("POST", "/v1/streams/lake.stations/branches/main/rows", `[]`).wantProblem(t, 404, "NOT_FOUND", "lake.stations")
	var list struct{ Datasets []struct{ Name string } }
	s.do("GET", "/v1/datasets?limit=1000", nil).want(t, 200, &list)
	found := false
	for _, d := range list.Datasets {
		found = found || d.Name == "lake.stations"
	}
	if !found {
		t.Errorf("not listed: %+v", list)
	}
	var sch struct {
		Iceberg struct{ Fields []struct{ Name string } }
		Schema  struct{ Fields []struct{ Name, Type string } }
	}
	s.do("GET", "/v1/datasets/lake.stations/branches/main/schema", nil).want(t, 200, &sch)
	if len(sch.Iceberg.Fields) != 2 || len(sch.Schema.Fields) != 2 || sch.Schema.Fields[1].Type != "LONG" {
		t.Errorf("schema %+v", sch)
	}
	stream := s.stream(nil)
	s.do("DELETE", "/v1/datasets/"+stream, nil).wantProblem(t, 400, "INVALID_REQUEST", "stream")
	s.do("GET", "/v1/datasets/"+stream, nil).want(t, 200, &got)
	if got.Kind != "STREAM" {
		t.Errorf("dataset of a stream: %+v", got)
	}
	s.do("DELETE", "/v1/datasets/lake.stations", nil).want(t, 204, nil)
	s.do("GET", "/v1/datasets/lake.stations", nil).wantProblem(t, 404, "NOT_FOUND", "lake.stations")
}

// TestUploadFormats: rows come in every form that publishing takes, and as Parquet.
func TestUploadFormats(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	s.do("POST", "/v1/datasets", `{"name":"lake.formats","schema":{"fields":[{"name":"id","type":"STRING"},{"name":"seq","type":"LONG"}]}}`).want(t, 201, nil)
	path := "/v1/datasets/lake.formats/branches/main/upload"
	lines := []byte("{\"id\":\"r0\",\"seq\":0}\n\n{\"id\":\"r1\",\"seq\":1}")
	want := int64(0)
	for name, c := range map[string]struct {
		body    any
		headers []header
	}{
		"array":       {[]byte(`[{"id":"r0","seq":0},{"id":"r1","seq":1}]`), nil},
		"ndjson gzip": {gzipped(lines), []header{ndjson, {"Content-Encoding", "gzip"}}},
		"avro":        {avroFile(t), []header{{"Content-Type", "application/avro"}}},
		"arrow":       {arrowStream(t), []header{{"Content-Type", "application/vnd.apache.arrow.stream"}}},
		"chunked":     {io.MultiReader(bytes.NewReader(lines)), []header{ndjson}},
	} {
		var tr transaction
		s.do("POST", path, c.body, c.headers...).want(t, 200, &tr)
		want += 2
		if rows, _ := s.totals("lake.formats"); rows != want || tr.State != "COMMITTED" || tr.Rows != 2 || tr.SnapshotID == "" {
			t.Errorf("%s: %d rows, want %d; %+v", name, rows, want, tr)
		}
	}
	p := s.do("POST", path, `[{"id":"a"},{"id":7},{"id":"c","zzz":1}]`).wantProblem(t, 422, "ROWS_REJECTED", "2 of 3")
	if len(p.Errors) != 2 || p.Errors[0].Row != 1 || p.Errors[0].Path != "id" {
		t.Errorf("errors %+v", p.Errors)
	}
	s.do("POST", path+"?unknownFields=ignore", `[{"id":"c","zzz":1}]`).want(t, 200, nil)
	s.do("POST", path, `x`, header{"Content-Type", "text/plain"}).wantProblem(t, 415, "UNSUPPORTED_MEDIA_TYPE", "text/plain")
	s.do("POST", path, []byte("PAR1 no"), parquetType).wantProblem(t, 400, "INVALID_REQUEST", "Parquet")
	s.do("POST", path, `[]`, parquetType, header{"Content-Encoding", "gzip"}).wantProblem(t, 415, "UNSUPPORTED_MEDIA_TYPE", "gzip")
	s.do("POST", path+"?type=DELETE", `[]`).wantProblem(t, 400, "INVALID_REQUEST", "DELETE")
	var tr transaction
	s.do("POST", path, `[]`).want(t, 200, &tr)
	if rows, _ := s.totals("lake.formats"); rows != want+1 || tr.SnapshotID != "" || tr.State != "COMMITTED" {
		t.Errorf("%d rows; an empty upload: %+v", rows, tr)
	}
	s.do("POST", path+"?type=SNAPSHOT", lines, ndjson).want(t, 200, nil)
	if rows, files := s.totals("lake.formats"); rows != 2 || files != 1 {
		t.Errorf("after a SNAPSHOT: %d rows, %d files", rows, files)
	}
	var list struct{ Transactions []transaction }
	s.do("GET", "/v1/datasets/lake.formats/branches/main/transactions?state=OPEN", nil).want(t, 200, &list)
	if len(list.Transactions) != 0 {
		t.Errorf("left open: %+v", list)
	}
}

func TestTransaction(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	main := s.dataset("lake.tx")
	key := header{"Idempotency-Key", "k1"}
	var tr, again transaction
	s.do("POST", main+"/transactions", `{"type":"APPEND"}`, key).want(t, 201, &tr)
	s.do("POST", main+"/transactions", `{"type":"APPEND"}`, key).want(t, 201, &again)
	if tr.State != "OPEN" || again.ID != tr.ID {
		t.Errorf("begun %+v, again %+v", tr, again)
	}
	s.do("POST", main+"/transactions", `{"type":"APPEND"}`).wantProblem(t, 409, "CONFLICT", tr.ID)
	s.do("POST", main+"/upload", `[{"code":"x"}]`).wantProblem(t, 409, "CONFLICT", tr.ID)
	at := main + "/transactions/" + tr.ID
	var file struct {
		Name        string
		Rows, Bytes int64
		Duplicate   bool
	}
	s.do("POST", at+"/files?name=a", `[{"code":"a","n":1},{"code":"b"}]`).want(t, 200, &file)
	if file.Name != "a" || file.Rows != 2 || file.Duplicate {
		t.Errorf("%+v", file)
	}
	s.do("POST", at+"/files?name=a", `[{"code":"z"}]`).want(t, 200, &file)
	if file.Rows != 2 || !file.Duplicate {
		t.Errorf("again: %+v", file)
	}
	s.do("POST", at+"/files", stationParquet(t, `[{"code":"c","n":3}]`), parquetType).want(t, 200, &file)
	s.do("POST", at+"/files", `[{"n":1}]`).wantProblem(t, 422, "ROWS_REJECTED", "code")
	s.do("POST", at+"/files?name=a%20b", `[]`).wantProblem(t, 400, "INVALID_REQUEST", "file name")
	s.do("POST", at+"/remove", `{"paths":["x"]}`).wantProblem(t, 400, "INVALID_REQUEST", "DELETE")
	if rows, _ := s.totals("lake.tx"); rows != 0 {
		t.Errorf("%d rows before the commit", rows)
	}
	s.do("POST", "/v1/datasets/lake.tx/stream", nil).wantProblem(t, 409, "CONFLICT", "transaction")
	s.do("POST", at+"/commit", nil).want(t, 200, &tr)
	s.do("POST", at+"/commit", nil).want(t, 200, &again)
	if d := cmp.Diff(tr, again); d != "" || tr.State != "COMMITTED" || tr.Rows != 3 || tr.Files != 2 {
		t.Errorf("committed %+v, again %s", tr, d)
	}
	if rows, files := s.totals("lake.tx"); rows != 3 || files != 2 {
		t.Errorf("%d rows, %d files", rows, files)
	}
	s.do("POST", at+"/abort", nil).wantProblem(t, 409, "CONFLICT", "committed")
	s.do("POST", at+"/files", `[{"code":"z"}]`).wantProblem(t, 409, "CONFLICT", "COMMITTED")
	s.do("POST", main+"/transactions", `{"type":"APPEND"}`, key).want(t, 201, &again)
	if again.State != "COMMITTED" {
		t.Errorf("the key's: %+v", again)
	}

	// An aborted one leaves nothing, and lets others begin.
	s.do("POST", main+"/transactions", `{"type":"SNAPSHOT"}`).want(t, 201, &tr)
	at = main + "/transactions/" + tr.ID
	s.do("POST", at+"/files", `[{"code":"z"}]`).want(t, 200, nil)
	s.do("POST", at+"/abort", nil).want(t, 200, &again)
	s.do("POST", at+"/abort", nil).want(t, 200, &again)
	if again.State != "ABORTED" {
		t.Errorf("%+v", again)
	}
	s.do("POST", at+"/commit", nil).wantProblem(t, 409, "CONFLICT", "ABORTED")
	if rows, _ := s.totals("lake.tx"); rows != 3 {
		t.Errorf("%d rows after the abort", rows)
	}
	var one transaction
	s.do("POST", main+"/upload", `[{"code":"d"}]`, header{"Idempotency-Key", "u"}).want(t, 200, &one)
	s.do("POST", main+"/upload", `[{"code":"d"}]`, header{"Idempotency-Key", "u"}).want(t, 200, &again)
	if rows, _ := s.totals("lake.tx"); rows != 4 || again.ID != one.ID {
		t.Errorf("%d rows after a repeated upload", rows)
	}

	var page struct {
		Transactions  []transaction
		NextPageToken string
	}
	var states []string
	for token := ""; ; token = "&pageToken=" + page.NextPageToken {
		page.NextPageToken = ""
		s.do("GET", main+"/transactions?limit=1"+token, nil).want(t, 200, &page)
		for _, tr := range page.Transactions {
			states = append(states, tr.Type+" "+tr.State)
		}
		if page.NextPageToken == "" {
			break
		}
	}
	if len(states) != 3 || strings.Count(fmt.Sprint(states), "COMMITTED") != 2 {
		t.Errorf("transactions %q", states)
	}
	s.do("GET", main+"/transactions/"+strings.Repeat("x", 36), nil).wantProblem(t, 400, "INVALID_REQUEST", "transaction")
	s.do("GET", main+"/transactions/00000000-0000-4000-8000-000000000000", nil).wantProblem(t, 404, "NOT_FOUND", "")
	stream := s.stream(nil)
	s.do("POST", "/v1/datasets/"+stream+"/branches/main/transactions", `{"type":"APPEND"}`).wantProblem(t, 400, "INVALID_REQUEST", "publish")
}

// TestDeleteFiles: a DELETE takes whole files, by name or by what their rows say,
// and nothing of one that matches in part.
func TestDeleteFiles(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	main := s.dataset("lake.del")
	for i := range 3 {
		s.do("POST", main+"/upload", fmt.Sprintf(`[{"code":"a","n":%d},{"code":"b","n":%d}]`, i*10, i*10+1)).want(t, 200, nil)
	}
	var list struct{ Files []struct{ Path string } }
	s.do("GET", main+"/files", nil).want(t, 200, &list)
	remove := func(where string) (transaction, answer) {
		var tr transaction
		body, _ := json.Marshal(map[string]string{"type": "DELETE", "where": where})
		s.do("POST", main+"/transactions", body, header{"Content-Type", "application/json"}).want(t, 201, &tr)
		return tr, s.do("POST", main+"/transactions/"+tr.ID+"/commit", nil)
	}
	tr, a := remove("n >= 1 and n < 20")
	a.wantProblem(t, 400, "INVALID_REQUEST", "1 of 2 rows")
	s.do("POST", main+"/transactions/"+tr.ID+"/files", `[{"code":"z"}]`).wantProblem(t, 400, "INVALID_REQUEST", "DELETE")
	s.do("POST", main+"/transactions/"+tr.ID+"/abort", nil).want(t, 200, nil)
	if rows, _ := s.totals("lake.del"); rows != 6 {
		t.Errorf("%d rows after a refused DELETE", rows)
	}
	if _, a = remove("n > 9 and n < 20"); a.StatusCode != 200 {
		t.Fatalf("%s", a.body)
	}
	if rows, files := s.totals("lake.del"); rows != 4 || files != 2 {
		t.Errorf("%d rows, %d files", rows, files)
	}
	_, a = remove("n > 1000")
	if a.want(t, 200, &tr); tr.State != "COMMITTED" || tr.SnapshotID != "" {
		t.Errorf("nothing to delete: %+v", tr)
	}
	s.do("POST", main+"/transactions", `{"type":"DELETE","where":"nosuch = 1"}`).wantProblem(t, 400, "INVALID_REQUEST", "nosuch")
	s.do("POST", main+"/transactions", `{"type":"APPEND","where":"n = 1"}`).wantProblem(t, 400, "INVALID_REQUEST", "filter")

	s.do("POST", main+"/transactions", `{"type":"DELETE"}`).want(t, 201, &tr)
	at := main + "/transactions/" + tr.ID
	s.do("POST", at+"/remove", map[string]any{"paths": []string{"nosuch"}}).wantProblem(t, 404, "NOT_FOUND", "nosuch")
	s.do("POST", at+"/remove", map[string]any{"paths": []string{list.Files[0].Path}}).want(t, 200, &tr)
	if tr.Files != 1 || tr.Rows != 2 {
		t.Errorf("%+v", tr)
	}
	s.do("POST", at+"/commit", nil).want(t, 200, nil)
	if rows, files := s.totals("lake.del"); rows != 2 || files != 1 {
		t.Errorf("%d rows, %d files", rows, files)
	}
}

func TestRollbackDataset(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	main := s.dataset("lake.roll")
	var snapshots []string
	for i := range 3 {
		var tr transaction
		s.do("POST", main+"/upload", fmt.Sprintf(`[{"code":"a","n":%d}]`, i)).want(t, 200, &tr)
		snapshots = append(snapshots, tr.SnapshotID)
	}
	var change struct {
		SnapshotID string
		TotalRows  int64
	}
	choose := func(id string) string { return `{"snapshotId":"` + id + `"}` }
	s.do("POST", main+"/rollback", choose(snapshots[0])).want(t, 200, &change)
	if rows, _ := s.totals("lake.roll"); change.SnapshotID != snapshots[0] || change.TotalRows != 1 || rows != 1 {
		t.Errorf("%+v, %d rows", change, rows)
	}
	s.do("POST", main+"/rollback", choose(snapshots[1])).wantProblem(t, 400, "INVALID_REQUEST", "cherry-pick")
	s.do("POST", main+"/rollback", choose("123")).wantProblem(t, 404, "NOT_FOUND", "123")
	s.do("POST", main+"/rollback", choose("x")).wantProblem(t, 400, "INVALID_REQUEST", "snapshotId")
	s.do("POST", main+"/cherry-pick", choose(snapshots[2])).want(t, 200, &change)
	if rows, _ := s.totals("lake.roll"); change.TotalRows != 2 || rows != 2 {
		t.Errorf("%+v, %d rows", change, rows)
	}
	s.do("POST", main+"/cherry-pick", choose(snapshots[2])).wantProblem(t, 409, "ALREADY_EXISTS", snapshots[2])
	stream := s.stream(nil)
	s.do("POST", "/v1/datasets/"+stream+"/branches/main/rollback", choose(snapshots[0])).wantProblem(t, 400, "INVALID_REQUEST", "stream")
	s.do("POST", "/v1/datasets/"+stream+"/branches/main/cherry-pick", choose(snapshots[0])).wantProblem(t, 400, "INVALID_REQUEST", "stream")
}

// TestStreamFromDataset: a stream begins where its dataset is.
func TestStreamFromDataset(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	main := s.dataset("lake.backfill")
	s.do("POST", main+"/upload", `[{"code":"a","n":1},{"code":"b","n":2}]`).want(t, 200, nil)
	s.do("POST", "/v1/datasets/lake.backfill/stream", `{"settings":{"keyFields":["nosuch"]}}`).wantProblem(t, 400, "INVALID_REQUEST", "nosuch")
	a := s.do("POST", "/v1/datasets/lake.backfill/stream", `{"settings":{"keyFields":["code"],"partitions":2}}`)
	var made struct {
		Name string
		Main struct{ Settings struct{ Partitions int } }
	}
	a.want(t, 201, &made)
	if made.Name != "lake.backfill" || made.Main.Settings.Partitions != 2 || a.Header.Get("Location") != "/v1/streams/lake.backfill" {
		t.Errorf("%+v at %q", made, a.Header.Get("Location"))
	}
	s.do("POST", "/v1/datasets/lake.backfill/stream", nil).wantProblem(t, 409, "ALREADY_EXISTS", "lake.backfill")
	s.do("POST", branchPath("lake.backfill", "rows"), `[{"code":"c","n":3}]`).want(t, 200, nil)
	want := "{\"code\":\"a\",\"n\":1}\n{\"code\":\"b\",\"n\":2}\n{\"code\":\"c\",\"n\":3}\n"
	for range 2 { // hot, then archived
		a := s.do("GET", branchPath("lake.backfill", "rows"), nil)
		a.want(t, 200, nil)
		if got := string(a.body); got != want {
			t.Errorf("rows %s", got)
		}
		s.do("POST", branchPath("lake.backfill", "archive"), nil).want(t, 200, nil)
	}
	if rows, _ := s.totals("lake.backfill"); rows != 3 {
		t.Errorf("%d rows archived", rows)
	}
}
