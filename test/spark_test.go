package test

import "testing"

func TestSparkRef(t *testing.T) {
	s := startServer(t, release)
	st := s.create(t, "all_types", allTypesSchema, `{"partitions":2,"archiveInterval":"1h"}`)
	rows := allTypesRows(t, 600)
	st.publishAndArchive(t, rows, 5)
	real := s.address
	s.address = "localhost:18181"
	sp := startSpark(t, s)
	s.address = real
	sp.sql(t, "create namespace if not exists c.default")
	sp.sql(t, "drop table if exists c.default.all_types")
	sp.sql(t, "call c.system.register_table('default.all_types', '"+st.metadata(t)+"')")
	sp.compare(t, "c.default.all_types", st)
	t.Log(sp.sql(t, "select _view, _partition_id, _offset, _timestamp from c.default.all_types limit 3"))
}
