package test

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestSparkWrites has Spark insert, update, delete and merge on branches, by
// copying files and by deletes beside them, and call its maintenance
// procedures on them and on main, while rows are published to all of them and
// archived. In the end each branch has what a model has, and the check of all
// that is stored finds nothing.
func TestSparkWrites(t *testing.T) {
	s := startServer(t, release)
	sp := startSpark(t, s)
	main := s.create(t, "events", eventsSchema, `{"partitions":2,"archiveInterval":"1s","hotRetention":"0s"}`)

	const inherited = 1000
	want := make(map[int64]event)
	var lines strings.Builder
	for id := range int64(inherited) {
		want[id] = publishedEvent(id)
		fmt.Fprintln(&lines, want[id])
	}
	main.publish(t, lines.String())
	branches := map[string]*stream{"main": main, "exp": main.branchOf(t, "exp"), "mor": main.branchOf(t, "mor")}
	sp.tables = []string{"c.default.events", "exp.default.events", "mor.default.events", "c.default.`events@exp`"}
	beginning := sp.value(t, "select snapshot_id from exp.default.events.refs where name = 'main'")
	model := map[string]map[int64]event{"main": want, "exp": maps.Clone(want), "mor": maps.Clone(want)}
	published := make(map[string]map[int64]event)
	publishing, stop := context.WithCancel(t.Context())
	defer stop()
	var publishers sync.WaitGroup
	for name, b := range branches {
		rows := make(map[int64]event)
		published[name] = rows
		publishers.Go(func() { b.publishEvents(publishing, t, 1_000_000, rows) })
	}

	t.Run("copy on write", func(t *testing.T) { changeWithSpark(t, sp, "exp.default.events", model["exp"]) })
	t.Run("merge on read", func(t *testing.T) {
		for _, kind := range []string{"delete", "update", "merge"} {
			sp.sql(t, "alter table mor.default.events set tblproperties ('write."+kind+".mode'='merge-on-read')")
		}
		changeWithSpark(t, sp, "mor.default.events", model["mor"])
		if got := sp.value(t, "select count(*) > 0 from mor.default.events.delete_files"); got != "true" {
			t.Error("Spark wrote no file of deletes")
		}
	})
	// The first rows of main are its own: rewritten, they keep their places.
	t.Run("copy on write on main", func(t *testing.T) { changeWithSpark(t, sp, "c.default.events", model["main"]) })
	t.Run("table@branch", func(t *testing.T) {
		sp.sql(t, "insert into c.default.`events@exp` (id, region, magnitude, at, reviewed, "+systemColumns+") values (2000, 'west', null, null, null, "+noIdentity+")")
		west := "west"
		model["exp"][2000] = event{ID: 2000, Region: &west}
		if got := sp.value(t, "select count(*) from exp.default.events where region = 'west' and id = 2000"); got != "1" {
			t.Errorf("branch exp has %s such rows, want 1", got)
		}
		if got := sp.value(t, "select count(*) from c.default.events where id = 2000"); got != "0" {
			t.Errorf("main has %s rows of branch exp", got)
		}
	})
	t.Run("time travel on a branch", func(t *testing.T) {
		if got := sp.value(t, "select count(*) from exp.default.events version as of "+beginning); got != fmt.Sprint(inherited) {
			t.Errorf("the branch began with %s rows, want %d", got, inherited)
		}
	})
	t.Run("maintenance", func(t *testing.T) {
		for catalog := range branches {
			maintainWithSpark(t, sp, strings.Replace(catalog, "main", "c", 1))
		}
	})

	stop()
	publishers.Wait()
	// What was published to the branches is rows like all others.
	sp.sql(t, "call exp.system.rewrite_data_files(table => 'default.events', options => map('rewrite-all', 'true'))")
	for name, b := range branches {
		maps.Copy(model[name], published[name])
		b.archive(t)
		compareEvents(t, "branch "+name, b.events(t), model[name])
		catalog := strings.Replace(name, "main", "c", 1)
		if got := sp.value(t, "select count(*) from "+catalog+".default.events"); got != fmt.Sprint(len(model[name])) {
			t.Errorf("Spark reads %s rows of branch %s, want %d", got, name, len(model[name]))
		}
		t.Logf("branch %s: %d rows, %d of them published while Spark worked", name, len(model[name]), len(published[name]))
	}
	// The server's own upkeep goes on upon what Spark left.
	for name, b := range branches {
		s.run(t, "dataset", "compact", "events", "--branch", name)
		compareEvents(t, "branch "+name+", compacted", b.events(t), model[name])
	}
	s.run(t, "verify", "--all")
	s.stop(t)
	s.run(t, "verify", "--all", "--data", filepath.Join(s.dir, "data"))
}

// Spark wants a value for each column. Rows that it adds are none of the stream's
// own, and so have no place in it.
const (
	systemColumns = "_view, _partition_id, _offset, _timestamp"
	noIdentity    = "null, null, null, null"
)

// changeWithSpark changes a table, and the model in the same way.
func changeWithSpark(t *testing.T, sp *spark, table string, model map[int64]event) {
	t.Helper()
	change := func(statement string, of func(e event) (event, bool)) {
		t.Helper()
		sp.sql(t, statement)
		for id, e := range model {
			if next, kept := of(e); kept {
				model[id] = next
			} else {
				delete(model, id)
			}
		}
	}
	sp.sql(t, "insert into "+table+" (id, region, magnitude, at, "+systemColumns+") select id + 1500, region, magnitude, at, "+noIdentity+" from "+table+" where id < 20")
	for id := range int64(20) {
		e := model[id]
		e.ID += 1500
		model[e.ID] = e
	}
	change("update "+table+" set magnitude = magnitude + 0.5 where id < 100", func(e event) (event, bool) {
		if e.ID < 100 {
			magnitude := *e.Magnitude + 0.5
			e.Magnitude = &magnitude
		}
		return e, true
	})
	change("delete from "+table+" where id between 200 and 249", func(e event) (event, bool) {
		return e, e.ID < 200 || e.ID > 249
	})
	sp.sql(t, "alter table "+table+" add column reviewed boolean")
	no := false
	for id, e := range model {
		if id < 300 || id >= 1500 {
			e.Reviewed = &no
			model[id] = e
		}
	}
	sp.sql(t, "update "+table+" set reviewed = false where id < 300 or id between 1500 and 1999")
	// Rows that are there get another magnitude, and others are added.
	sp.sql(t, "merge into "+table+` t using (select id, cast(id as double) as m from range(290, 310) union all select id, 0.25d from range(1600, 1605)) s
		on t.id = s.id
		when matched and t.id = 309 then delete
		when matched then update set t.magnitude = s.m, t.reviewed = true
		when not matched then insert (id, magnitude, reviewed) values (s.id, s.m, true)`)
	yes := true
	for id := int64(290); id < 309; id++ {
		e, magnitude := model[id], float64(id)
		e.Magnitude, e.Reviewed = &magnitude, &yes
		model[id] = e
	}
	delete(model, 309)
	for id := int64(1600); id < 1605; id++ {
		magnitude := 0.25
		model[id] = event{ID: id, Magnitude: &magnitude, Reviewed: &yes}
	}
}

// maintainWithSpark calls Spark's procedures on a table. Those that would
// delete files are refused: other branches may have the same files.
func maintainWithSpark(t *testing.T, sp *spark, catalog string) {
	t.Helper()
	call := func(procedure, arguments string) string {
		return "call " + catalog + ".system." + procedure + "(table => 'default.events'" + arguments + ")"
	}
	sp.sql(t, call("rewrite_data_files", ", options => map('rewrite-all', 'true')"))
	sp.sql(t, call("rewrite_position_delete_files", ""))
	sp.sql(t, call("rewrite_manifests", ""), "could not be found in the latest snapshot") // an archive merged them first
	const disabled = "GC is disabled"
	sp.refuses(t, call("expire_snapshots", ", older_than => timestamp '2100-01-01 00:00:00', retain_last => 1"), disabled)
	sp.refuses(t, call("remove_orphan_files", ""), disabled)
	sp.refuses(t, "drop table "+catalog+".default.events purge", disabled)
	sp.refuses(t, "drop table "+catalog+".default.events", "")
	sp.refuses(t, "alter table "+catalog+".default.events set tblproperties ('gc.enabled'='true')", "")
}
