package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestSparkReads has Spark read a table with each field type through the
// catalog: every value, predicates on exact minima and maxima, older versions,
// and files of both formats beside each other.
func TestSparkReads(t *testing.T) {
	s := startServer(t, release)
	sp := startSpark(t, s)
	sp.tables = []string{"c.default.all_types", "fresh.default.all_types"}
	st := s.create(t, "all_types", allTypesSchema, `{"partitions":2,"archiveInterval":"1h"}`)
	rows := allTypesRows(t, 600)
	versions := make(map[string]int) // rows by snapshot
	var half time.Time               // when half of the rows were there
	for part := range 6 {
		if part == 4 {
			// From here on in Avro files.
			st.want(t, http.MethodPatch, st.path+"/settings", []byte(`{"datasetFormat":"AVRO"}`), nil)
		}
		st.publish(t, strings.Join(rows[part*100:part*100+100], ""))
		versions[st.archive(t).SnapshotID] = part*100 + 100
		if part == 2 {
			time.Sleep(10 * time.Millisecond)
			half = time.Now().UTC()
			time.Sleep(10 * time.Millisecond)
		}
	}
	const table = "c.default.all_types"

	t.Run("values and predicates", func(t *testing.T) { sp.compare(t, table, st) })

	t.Run("files of two formats", func(t *testing.T) {
		got := fmt.Sprint(sp.sql(t, "select lower(file_format), sum(record_count) from "+table+".files group by 1 order by 1"))
		if want := "[[avro 200] [parquet 400]]"; got != want {
			t.Errorf("rows by format: %s, want %s", got, want)
		}
	})

	t.Run("time travel", func(t *testing.T) {
		for snapshot, want := range versions {
			if got := sp.value(t, "select count(*) from "+table+" version as of "+snapshot); got != fmt.Sprint(want) {
				t.Errorf("version %s has %s rows, want %d", snapshot, got, want)
			}
		}
		at := half.Format("2006-01-02 15:04:05.000")
		if got := sp.value(t, "select count(*) from "+table+" timestamp as of '"+at+"'"); got != "300" {
			t.Errorf("at %s there were %s rows, want 300", at, got)
		}
	})

	t.Run("an added column", func(t *testing.T) {
		wider := strings.TrimSuffix(allTypesSchema, "\n]}") + `,{"name":"note","type":"STRING","nullable":true}]}`
		st.want(t, http.MethodPut, st.path+"/schema", []byte(wider), nil)
		var row map[string]any
		if err := json.Unmarshal([]byte(rows[0]), &row); err != nil {
			t.Fatal(err)
		}
		row["number"], row["note"] = 600, "new"
		line, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		st.publish(t, string(line)+"\n")
		st.archive(t)
		if got := fmt.Sprint(sp.sql(t, "select number, note from "+table+" where note is not null")); got != "[[600 new]]" {
			t.Errorf("rows with a note: %s", got)
		}
	})

	t.Run("fresh", func(t *testing.T) {
		st.publish(t, strings.Replace(rows[1], `"number":1`, `"number":601`, 1))
		if got := sp.value(t, "select count(*) from fresh.default.all_types"); got != "602" {
			t.Errorf("a fresh table has %s rows, want 602", got)
		}
	})
	s.run(t, "verify", "--all")
}
