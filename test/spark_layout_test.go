package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestSparkLayouts has Spark read and change a stream whose files are
// partitioned, sorted and in both formats, one layout after the other.
func TestSparkLayouts(t *testing.T) {
	s := startServer(t, release)
	sp := startSpark(t, s)
	st := s.create(t, "events", eventsSchema, `{"partitions":2,"archiveInterval":"1h","partitioning":["region","bucket[4](id)"],"sortOrder":["magnitude desc"],"bloomFilters":["id"]}`)
	const table = "c.default.events"
	model := make(map[int64]event)
	for part, settings := range []string{
		`{}`,
		`{"partitioning":["day(at)","truncate[2](region)"],"sortOrder":["region","id desc nulls last"]}`,
		`{"datasetFormat":"AVRO"}`,
		`{"partitioning":["hour(at)"],"sortOrder":[],"datasetFormat":"PARQUET"}`,
		`{"partitioning":[]}`,
	} {
		st.want(t, http.MethodPatch, st.path+"/settings", []byte(settings), nil)
		var lines strings.Builder
		for id := int64(part * 250); id < int64(part*250+250); id++ {
			model[id] = publishedEvent(id)
			fmt.Fprintln(&lines, model[id])
		}
		st.publish(t, lines.String())
		st.archive(t)
	}
	sp.tables = []string{table}
	specs := sp.value(t, "select count(distinct spec_id) from "+table+".files")
	if specs == "1" {
		t.Errorf("all files have one partition spec")
	}
	for where, holds := range map[string]func(e event) bool{
		"true":                                   func(event) bool { return true },
		"region = 'north'":                       func(e event) bool { return *e.Region == "north" },
		"region >= 'north'":                      func(e event) bool { return *e.Region >= "north" },
		"id = 1234":                              func(e event) bool { return e.ID == 1234 },
		"id in (0, 399, 400, 1249)":              func(e event) bool { return e.ID == 0 || e.ID == 399 || e.ID == 400 || e.ID == 1249 },
		"magnitude = 24":                         func(e event) bool { return *e.Magnitude == 24 },
		"at >= timestamp '1970-01-01 00:20:00Z'": func(e event) bool { return e.ID >= 1200 },
		"at = timestamp '1970-01-01 00:13:20Z'":  func(e event) bool { return e.ID == 800 },
	} {
		want := 0
		for _, e := range model {
			if holds(e) {
				want++
			}
		}
		if got := sp.value(t, "select count(*) from "+table+" where "+where); got != fmt.Sprint(want) {
			t.Errorf("Spark finds %s rows where %s, want %d", got, where, want)
		}
	}
	got := make(map[int64]event)
	for _, row := range sp.sql(t, "select to_json(struct(id, region, magnitude, date_format(at, \"yyyy-MM-dd'T'HH:mm:ssXXX\") as at)) from "+table) {
		var e event
		if err := json.Unmarshal([]byte(row[0].(string)), &e); err != nil {
			t.Fatal(err)
		}
		got[e.ID] = e
	}
	compareEvents(t, "Spark", got, model)

	changeWithSpark(t, sp, table, model)
	compareEvents(t, "after Spark", st.events(t), model)
	sp.sql(t, "call c.system.rewrite_data_files(table => 'default.events', options => map('rewrite-all', 'true'))")
	compareEvents(t, "after Spark's compaction", st.events(t), model)
	s.run(t, "dataset", "compact", "events")
	compareEvents(t, "after a compaction", st.events(t), model)
	s.run(t, "verify", "--all")
}
